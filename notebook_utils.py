"""What a notebook's reader touches: downloading a file, and choosing a device, a precision and a model."""

from __future__ import annotations

import inspect
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import dedent
from threading import Thread
from urllib.parse import unquote, urlsplit

import ipywidgets as widgets
import openvino as ov
import requests
from huggingface_hub import constants, try_to_load_from_cache
from IPython import get_ipython
from IPython.display import Markdown
from tqdm.auto import tqdm

from blip_openvino.data.scenes import TEST_SEED, draw_scene, make_scene

TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two arrivals of bytes
HUB_TIMEOUT = 3.0  # seconds in all, name resolution included
HUB_FILES = ("config.json", "model.safetensors")  # an interrupted download leaves only the first


def download_file(
    url: str, filename: str | None = None, directory: str | Path | None = None, show_progress: bool = True
) -> Path:
    """Download a file over http or https and return its path, `directory / filename`.

    filename: by default the last part of the URL's path. directory: made when missing, by default the current one.
    A file that is already there is not downloaded again, and a printed line says so. The file appears under its name
    only when complete.
    Raises ValueError for a name that is a path, requests.RequestException (an OSError) when the server cannot be
    reached, answers with an error, falls silent or sends less than it announced; the same call may then be repeated.
    """
    name = filename or unquote(urlsplit(url).path.rpartition("/")[2])
    if name in ("", "..") or Path(name).name != name:
        raise ValueError(f"filename {name!r} is not a plain file name; give one without a path, like 'image.jpg'")
    target = Path(directory or ".") / name
    if target.exists():
        print(f"'{target}' already exists.")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT) as response, partial.open("xb") as file:
            response.raise_for_status()
            size = int(response.headers.get("Content-Length", 0)) or None
            with tqdm(total=size, desc=name, unit="B", unit_scale=True, disable=not show_progress) as bar:
                for chunk in response.iter_content(2**18):
                    file.write(chunk)
                    bar.update(len(chunk))
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def show_source(*objects: type | Callable) -> Markdown:
    """The source of functions, methods and classes, highlighted: a notebook shows what it imports."""
    sources = "\n\n\n".join(dedent(inspect.getsource(each)).strip() for each in objects)
    return Markdown(f"```python\n{sources}\n```")


def device_widget(
    default: str = "AUTO", exclude: Sequence[str] | None = None, added: Sequence[str] | None = None
) -> widgets.Dropdown:
    """A dropdown of the devices OpenVINO finds here and "AUTO", plus `added`, less `exclude`.

    Raises ValueError when `default` is not among them.
    """
    names = dict.fromkeys([*ov.Core().available_devices, "AUTO", *(added or ())])
    options = [name for name in names if name not in (exclude or ())]
    if default not in options:
        raise ValueError(f"device {default!r} is not available; choose one of {options}")
    return widgets.Dropdown(options=options, value=default, description="Device:")


def quantization_widget(default: bool = True, description: str = "Quantization") -> widgets.Checkbox:
    """A checkbox whose value says whether the notebook quantizes the model."""
    return widgets.Checkbox(value=default, description=description)


def register_skip() -> None:
    """Give the notebook a cell magic `%%skip CONDITION`: the cell runs only where the Python expression is false."""
    shell = get_ipython()

    def skip(condition: str, cell: str) -> None:
        if eval(condition, shell.user_ns):
            print(f"Skipped, as {condition}.")
        else:
            shell.run_cell(cell).raise_error()

    shell.register_magic_function(skip, magic_kind="cell")


def model_widget(models: Sequence[str], embedded: str | Path, env: str = "BLIP_MODEL") -> widgets.Dropdown:
    """A dropdown of Hugging Face Hub models and the embedded one; its value is what `from_pretrained` takes.

    models: Hub ids, the preferred one first. embedded: folder of a model that needs no network, better relative, for
    it is displayed. The default is the value of the environment variable `env`; else `models[0]` when it is in the
    local cache or the Hub answers within `HUB_TIMEOUT` seconds; else `embedded`, and a printed line says why.
    Raises FileNotFoundError when it must fall back on a folder that is not there.
    """
    embedded = Path(embedded).as_posix()
    chosen = os.environ.get(env, "").strip()
    if chosen:
        print(f"Model {chosen}: chosen by the environment variable {env}.")
    elif (problem := _hub_problem(models[0])) is None:
        chosen = models[0]
    elif Path(embedded).is_dir():
        chosen = embedded
        print(
            f"{models[0]} is not available: {problem}. Using the embedded model {embedded} instead.\n"
            f"To use another, pick it from the list or set the environment variable {env}."
        )
    else:
        raise FileNotFoundError(f"{models[0]} is not available ({problem}), and there is no folder {embedded}")
    options = list(dict.fromkeys([*models, embedded, chosen]))
    return widgets.Dropdown(options=options, value=chosen, description="Model:", layout={"width": "30em"})


def _hub_problem(model: str) -> str | None:
    """Why the model can come neither from the local cache nor from the Hub; None when it can."""
    if all(isinstance(try_to_load_from_cache(model, name, constants.HF_HUB_CACHE), str) for name in HUB_FILES):
        return None
    if constants.HF_HUB_OFFLINE:
        return "it is not in the local cache, and HF_HUB_OFFLINE forbids asking the Hugging Face Hub"
    problem = f"the Hugging Face Hub gave no answer within {HUB_TIMEOUT:g} seconds"

    def ask() -> None:
        nonlocal problem
        try:
            response = requests.head(f"{constants.ENDPOINT}/{model}/resolve/main/config.json", timeout=HUB_TIMEOUT)
            problem = f"the Hugging Face Hub answered {response.status_code}" if response.status_code >= 400 else None
        except requests.RequestException as error:
            problem = f"the Hugging Face Hub could not be reached ({type(error).__name__})"

    # The timeout of requests does not cover name resolution; a daemon is not waited for when the process ends.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return problem


DEMO_PHOTO = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"


# By kind of question: a scene, counted from the first that measure, and what is asked about it.
SCENE_EXAMPLES = {
    "counting": (41, "how many dogs are in the picture?"),
    "object recognition": (5, "what is at the bottom middle?"),
    "detection": (38, "where is the dog?"),
    "attributes": (21, "what color is the horse?"),
    "scene": (75, "what place is this?"),
    "activity": (90, "what is the person doing?"),
    "spatial relations": (4, "what is between the ball and the bird?"),
    "common sense": (2, "should they take an umbrella?"),
    "knowledge": (77, "which of them can fly?"),
    "reading": (87, "what does the sign say?"),
}


def example_inputs(model_id: str | Path, directory: str | Path = "build") -> list[tuple[str, str]]:
    """Images and questions that suit a model, as (path, question) pairs.

    model_id: a checkpoint's folder or a converted one. Where its `config.json` says that it was trained on drawn
    scenes, the images are ten scenes that it was not trained on, drawn into `directory`, with a question of each kind.
    Every other model gets the photo of the BLIP authors' demo, downloaded into `directory`.
    Raises requests.RequestException when the photo cannot be downloaded.
    """
    config_file = Path(model_id) / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if config.get("trained_on") == "scenes":
        return [(draw_example(index, directory), question) for index, question in SCENE_EXAMPLES.values()]
    photo = str(download_file(DEMO_PHOTO, "demo.jpg", directory))
    return [(photo, "how many dogs are in the picture?"), (photo, "where is the woman sitting?")]


def draw_example(index: int, directory: str | Path) -> str:
    """The path of a scene's picture in `directory`, which is drawn there."""
    path = Path(directory) / f"scene-{index}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_scene(make_scene(TEST_SEED + index)).save(path)
    return str(path)
