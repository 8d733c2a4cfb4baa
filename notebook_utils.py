"""What a notebook's reader touches: downloading a file, and choosing a device, a precision and a model."""

from __future__ import annotations

import inspect
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath
from threading import Thread
from urllib.parse import unquote, urlsplit

import ipywidgets as widgets
import openvino as ov
import requests
import urllib3
from huggingface_hub import constants, try_to_load_from_cache
from IPython import get_ipython
from IPython.display import Code
from tqdm.auto import tqdm

from blip_openvino.ir.easy_vqa import load_questions

CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds to connect, and between two arrivals of bytes
STALL_SECONDS, STALL_BYTES = 30.0, 30 * 1024  # a server that sends less than this in that time has stalled
MAX_REDIRECTS = 5
CHUNK_SIZE = 256 * 1024  # bytes
HUB_TIMEOUT = 3.0  # seconds in all, name resolution included
HUB_FILES = ("config.json", "model.safetensors")  # an interrupted download leaves only the first


class DownloadError(OSError):
    """A file could not be downloaded: nothing was left on disk, and the same call may be repeated."""


def download_file(
    url: str, filename: str | None = None, directory: str | Path | None = None, show_progress: bool = True
) -> Path:
    """Download a file over http or https and return its path, `directory / filename`.

    filename: a plain name; by default the last part of the URL's path. directory: made when missing, by default the
    current one. A file that is already there is not downloaded again, and a printed line says so. The file appears
    under its name only when complete, also when interrupted or when several processes download it at once.
    Raises ValueError for another scheme and for a name that is not a plain one, DownloadError (an OSError) when the
    server fails, redirects too often, stalls or sends another number of bytes than it announced.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"cannot download {url!r}: expected an http:// or https:// address")
    target = Path(directory or ".") / _plain_name(
        unquote(parts.path.rpartition("/")[2]) if filename is None else filename
    )
    if target.is_file():
        print(f"'{target}' already exists.")
        return target
    if target.exists():
        raise ValueError(f"cannot download {url!r} to '{target}': that is not a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        _fetch(url, partial, target.name, show_progress and _progress_is_readable())
        os.replace(partial, target)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise DownloadError(f"cannot download {url}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _plain_name(name: str) -> str:
    """The name itself, unless it could write anywhere but into the directory that was asked for, on any system."""
    # Windows takes both slashes and drives for a path, so its rules cover the other systems'.
    is_path = name in ("", ".", "..") or PureWindowsPath(name).name != name
    if is_path or not name.isprintable() or not name.strip() or len(os.fsencode(name)) > 255:
        raise ValueError(f"filename {name!r} is not a plain file name; give one without a path, like 'image.jpg'")
    return name


def _progress_is_readable() -> bool:
    """A progress bar suits a notebook and a terminal; in a log it is noise."""
    return hasattr(get_ipython(), "kernel") or sys.stderr.isatty()


def _fetch(url: str, path: Path, name: str, show_progress: bool) -> None:
    """Write what `url` holds to `path`, or raise."""
    with requests.Session() as session:
        session.max_redirects = MAX_REDIRECTS
        # Compressed on the way, a file would arrive with another length than announced.
        headers = {"Accept-Encoding": "identity"}
        response = session.get(url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT))
        with response:
            if response.status_code != requests.codes.ok:
                raise DownloadError(
                    f"cannot download {url}: the server answered {response.status_code} {response.reason}"
                )
            if response.headers.get("Content-Encoding", "identity") != "identity":
                encoding = response.headers["Content-Encoding"]
                raise DownloadError(f"cannot download {url}: the server compressed it ({encoding}) against the request")
            length = response.headers.get("Content-Length", "")
            expected = int(length) if length.isdigit() else None
            bar = tqdm(total=expected, desc=name, unit="B", unit_scale=True, disable=not show_progress)
            with path.open("xb") as file, bar:
                received = _copy(url, response, file, bar)
    if expected is not None and received != expected:
        raise DownloadError(f"cannot download {url}: {received} bytes arrived of {expected}")


def _copy(url: str, response: requests.Response, file, bar: tqdm) -> int:
    """Copy the body as it arrives and return its number of bytes."""
    received = window_bytes = 0
    window_start = time.monotonic()
    # Not iter_content: it waits for a full chunk, through which a server may drip for hours unseen.
    while chunk := response.raw.read1(CHUNK_SIZE):
        file.write(chunk)
        bar.update(len(chunk))
        received += len(chunk)
        window_bytes += len(chunk)
        elapsed = time.monotonic() - window_start
        if elapsed >= STALL_SECONDS:
            if window_bytes < STALL_BYTES:
                raise DownloadError(f"cannot download {url}: stalled, {window_bytes} bytes in {elapsed:.0f} seconds")
            window_start, window_bytes = time.monotonic(), 0
    return received


def show_source(*objects: type | Callable) -> Code:
    """The source of functions and classes, highlighted: a notebook shows what it imports."""
    return Code("\n\n".join(inspect.getsource(each).strip() for each in objects), language="python")


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


def quantization_widget(default: bool = True) -> widgets.Checkbox:
    """A checkbox whose value says whether the notebook quantizes the model."""
    return widgets.Checkbox(value=default, description="Quantization")


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
    Raises ValueError for no models, and FileNotFoundError when it must fall back on a folder that is not there.
    """
    if not models:
        raise ValueError("models is empty: expected at least one Hugging Face Hub id")
    embedded = Path(embedded).as_posix()
    options = list(dict.fromkeys([*models, embedded]))
    chosen = os.environ.get(env, "").strip()
    if chosen:
        print(f"Model {chosen}: chosen by the environment variable {env}.")
        options = options if chosen in options else [chosen, *options]
        return _model_dropdown(options, chosen)
    if _is_cached(models[0]):
        return _model_dropdown(options, models[0])
    problem = _hub_problem(models[0])
    if problem is None:
        return _model_dropdown(options, models[0])
    if not Path(embedded).is_dir():
        raise FileNotFoundError(f"{models[0]} is not available ({problem}), and there is no folder {embedded}")
    print(
        f"{models[0]} is not available: {problem}. Using the embedded model {embedded} instead.\n"
        f"To use another, pick it from the list or set the environment variable {env}."
    )
    return _model_dropdown(options, embedded)


def _model_dropdown(options: list[str], value: str) -> widgets.Dropdown:
    return widgets.Dropdown(options=options, value=value, description="Model:", layout={"width": "30em"})


def _is_cached(model: str) -> bool:
    """Whether the local Hub cache holds the model's configuration and its weights."""
    return all(isinstance(try_to_load_from_cache(model, name, constants.HF_HUB_CACHE), str) for name in HUB_FILES)


def _hub_problem(model: str) -> str | None:
    """Why the Hub cannot provide the model, or None when it can."""
    if constants.HF_HUB_OFFLINE:
        return "it is not in the local cache, and HF_HUB_OFFLINE forbids asking the Hugging Face Hub"
    url = f"{constants.ENDPOINT}/{model}/resolve/main/config.json"
    silence = f"the Hugging Face Hub could not be reached (no answer within {HUB_TIMEOUT:g} seconds)"
    problem = [silence]

    def ask() -> None:
        try:
            status = requests.head(url, timeout=HUB_TIMEOUT, allow_redirects=False).status_code
            problem[0] = None if status < 400 else f"the Hugging Face Hub answered {status}"
        except requests.Timeout:
            problem[0] = silence
        except requests.RequestException as error:
            problem[0] = f"the Hugging Face Hub could not be reached ({type(error).__name__})"

    # A thread, for the timeout of requests covers neither name resolution nor headers that arrive drop by drop.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_TIMEOUT)
    return problem[0]


DEMO_PHOTO = "https://storage.googleapis.com/sfr-vision-language-research/BLIP/demo.jpg"


def example_inputs(model_id: str | Path, directory: str | Path = "build") -> list[tuple[str, str]]:
    """Images and questions that suit a model, as (path, question) pairs.

    model_id: a checkpoint's folder or a converted one, whose `config.json` says if it knows easy-VQA alone: then they
    are of its test split. Every other model gets the photo of the BLIP authors' demo, downloaded into `directory`.
    Raises DownloadError when the photo cannot be downloaded.
    """
    config_file = Path(model_id) / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8")) if config_file.is_file() else {}
    if config.get("trained_on") == "easy-vqa":
        paths = {question.image_id: question.image_path for question in load_questions("test")}
        asked = {0: "what color is the shape?", 6: "is there a circle?", 11: "what shape is in the image?"}
        return [(paths[image_id], question) for image_id, question in asked.items()]
    photo = str(download_file(DEMO_PHOTO, "demo.jpg", directory))
    return [(photo, "how many dogs are in the picture?"), (photo, "where is the woman sitting?")]
