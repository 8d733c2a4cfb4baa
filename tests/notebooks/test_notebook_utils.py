"""Downloads from a server that misbehaves, examples, and the widgets with and without the Hub."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

import notebook_utils
from blip_model import OVBlipModel
from blip_openvino.data.scene_questions import KINDS, scene_questions
from blip_openvino.data.scenes import draw_scene, make_scenes
from notebook_utils import (
    SCENE_EXAMPLES,
    device_widget,
    download_file,
    example_inputs,
    model_widget,
    quantization_widget,
    register_skip,
    show_source,
)

BODY = os.urandom(700_001)
HUB_MODEL = "Salesforce/blip-vqa-base"
HUB_MODELS = (HUB_MODEL, "Salesforce/blip-vqa-capfilt-large")


class Handler(BaseHTTPRequestHandler):
    """What a server may do to a download, by the first part of the path."""

    def do_GET(self):
        self.server.requests.append(f"{self.command} {self.path}")
        kind = self.path.split("/")[1]
        self.send_response({"missing": 404, "private": 401, "moved": 302, "Salesforce": 307}.get(kind, 200))
        self.send_header("Location", "/ok/elsewhere.bin")
        if kind != "unsized":
            self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(BODY[:1000] if kind in ("cut", "stalled") else BODY)
            if kind == "stalled":
                self.server.closing.wait()

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.closing = [], threading.Event()
        server.handle_error = lambda *args: None  # a client that goes away is what some tests are about
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.mark.parametrize("kind", ["ok", "moved", "unsized"])
def test_download_gives_the_file_under_the_name_of_its_address(server, tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    assert download_file(f"{server.url}/{kind}/some%20picture.jpg?size=large/x") == Path("some picture.jpg")
    assert download_file(f"{server.url}/{kind}/a.bin", "b.bin", "new/folder") == Path("new/folder/b.bin")
    assert {path.read_bytes() for path in tmp_path.rglob("*.*")} == {BODY}


def test_existing_file_is_kept_without_a_request_and_said(server, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(b"mine")
    assert download_file(f"{server.url}/ok/a.bin", directory=tmp_path).read_bytes() == b"mine"
    assert server.requests == []
    assert "a.bin' already exists." in capsys.readouterr().out


@pytest.mark.parametrize(("kind", "reason"), [("missing", "404"), ("cut", "IncompleteRead"), ("stalled", "timed out")])
def test_failed_download_says_why_leaves_nothing_and_can_be_repeated(server, tmp_path, monkeypatch, kind, reason):
    monkeypatch.setattr(notebook_utils, "TIMEOUT", (10, 0.2 if kind == "stalled" else 30))
    with pytest.raises(requests.RequestException, match=reason):
        download_file(f"{server.url}/{kind}/a.bin", directory=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert download_file(f"{server.url}/ok/a.bin", directory=tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".."])
def test_name_that_is_a_path_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=f"filename '{name}' is not a plain file name"):
        download_file("http://localhost/a", name, tmp_path)


def test_widgets_hold_their_defaults_and_the_devices_of_this_machine():
    assert device_widget().value == "AUTO"
    assert [quantization_widget(default).value for default in (True, False)] == [True, False]
    assert {"CPU", "AUTO"} <= set(device_widget().options)
    assert device_widget("HETERO:GPU,CPU", exclude=["AUTO"], added=["HETERO:GPU,CPU"]).options[-1] == "HETERO:GPU,CPU"
    for arguments in (("TPU",), ("AUTO", ["AUTO"])):
        with pytest.raises(ValueError, match=rf"'{arguments[0]}' is not available.*CPU"):
            device_widget(*arguments)


def test_examples_are_scenes_with_a_question_of_each_kind_for_models_of_scenes(tmp_path):
    (tmp_path / "config.json").write_text('{"trained_on": "scenes"}')
    found = example_inputs(tmp_path, tmp_path / "new")
    assert SCENE_EXAMPLES.keys() == KINDS.keys()
    assert found[0] == (str(tmp_path / "new" / "scene-41.png"), "how many dogs are in the picture?")
    for (path, question), (kind, (index, _)) in zip(found, SCENE_EXAMPLES.items(), strict=True):
        scene = make_scenes(index + 1)[index]  # one of those that measure, none of which is trained on
        assert Image.open(path).tobytes() == draw_scene(scene).tobytes()
        assert question in [each.question for each in scene_questions(scene, 100) if each.kind == kind]


@pytest.mark.parametrize("is_folder", [True, False])
def test_examples_are_a_photo_for_other_models(tmp_path, is_folder):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "demo.jpg").write_bytes(b"downloaded before")
    (photo, question), _ = example_inputs(tmp_path if is_folder else HUB_MODEL, tmp_path)
    assert (photo, question) == (str(tmp_path / "demo.jpg"), "how many dogs are in the picture?")


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An empty cache, a Hub that can be pointed elsewhere, and a folder with the embedded model."""
    monkeypatch.delenv("BLIP_MODEL", raising=False)
    monkeypatch.setattr(notebook_utils.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(notebook_utils.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(notebook_utils.constants, "ENDPOINT", server.url)
    # A busy machine may take long to answer itself; what must give up sooner says so.
    monkeypatch.setattr(notebook_utils, "HUB_TIMEOUT", 60)
    monkeypatch.chdir(tmp_path)
    Path("models/small").mkdir(parents=True)
    return server


def test_model_widget_prefers_the_hub_when_it_answers(hub, capsys):
    widget = model_widget(HUB_MODELS, Path("models/small"))
    assert widget.value == HUB_MODEL
    assert widget.options == (*HUB_MODELS, "models/small")
    assert hub.requests == [f"HEAD /{HUB_MODEL}/resolve/main/config.json"]  # a redirect is an answer
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "value"),
    [(["config.json", "model.safetensors"], HUB_MODEL), (["config.json"], "models/small"), ([], "models/small")],
)
def test_offline_only_a_wholly_cached_model_is_chosen_and_nobody_asked(hub, monkeypatch, capsys, names, value):
    monkeypatch.setattr(notebook_utils.constants, "HF_HUB_OFFLINE", True)
    repository = Path("cache") / f"models--{HUB_MODEL.replace('/', '--')}"
    for path in [repository / "refs/main", *(repository / "snapshots/abc" / name for name in names)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("abc")
    assert model_widget(HUB_MODELS, "models/small").value == value
    assert hub.requests == []
    assert ("HF_HUB_OFFLINE" in capsys.readouterr().out) is (value == "models/small")


@pytest.mark.parametrize(
    ("model", "reason"), [("missing/model", "answered 404"), ("private/model", "answered 401"), (HUB_MODEL, "reached")]
)
def test_hub_without_an_answer_gives_the_embedded_model_and_says_what_to_do(hub, monkeypatch, capsys, model, reason):
    if reason == "reached":
        monkeypatch.setattr(notebook_utils.constants, "ENDPOINT", "http://127.0.0.1:1")  # where nobody listens
    assert model_widget([model], "models/small").value == "models/small"
    out = capsys.readouterr().out
    assert all(part in out for part in (model, reason, "embedded model models/small", "BLIP_MODEL", "from the list"))
    with pytest.raises(FileNotFoundError, match=rf"{model}.*{reason}.*models/none"):
        model_widget([model], "models/none")


def test_hub_is_given_up_also_when_name_resolution_hangs(hub, monkeypatch, capsys):
    def hang(*args, **kwargs):
        hub.closing.wait()
        raise requests.ConnectionError

    monkeypatch.setattr(notebook_utils, "HUB_TIMEOUT", 0.05)
    monkeypatch.setattr(requests, "head", hang)
    assert model_widget(HUB_MODELS, "models/small").value == "models/small"
    assert "no answer within 0.05 seconds" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["Salesforce/blip-itm-base-coco", "models/small"])
def test_environment_variable_decides_alone_and_is_named(hub, monkeypatch, capsys, model):
    monkeypatch.setenv("BLIP_MODEL", model)
    widget = model_widget(HUB_MODELS, "models/small")
    assert (widget.value, widget.options.count(model)) == (model, 1)
    assert hub.requests == []
    assert f"Model {model}: chosen by the environment variable BLIP_MODEL." in capsys.readouterr().out


def test_source_is_shown_as_python_with_every_object():
    shown = show_source(device_widget, OVBlipModel.generate_answer)
    assert shown.data.startswith("```python\ndef device_widget(")
    assert "\n\ndef generate_answer(\n    self,\n" in shown.data


def test_skip_magic_runs_a_cell_only_where_its_condition_is_false_and_lets_errors_through(monkeypatch, capsys):
    shell = InteractiveShell()
    monkeypatch.setattr(notebook_utils, "get_ipython", lambda: shell)
    register_skip()
    shell.user_ns["off"] = True
    shell.run_cell_magic("skip", "off", "seen = 1")
    assert "seen" not in shell.user_ns
    assert capsys.readouterr().out == "Skipped, as off.\n"
    shell.run_cell_magic("skip", "not off", "seen = 2")
    assert shell.user_ns["seen"] == 2
    with pytest.raises(ZeroDivisionError):
        shell.run_cell_magic("skip", "not off", "1 / 0")
