import gzip
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from conftest import ROOT
from IPython.core.interactiveshell import InteractiveShell

import notebook_utils
from notebook_utils import (
    DownloadError,
    device_widget,
    download_file,
    model_widget,
    quantization_widget,
    register_skip,
    show_source,
)

BODY = os.urandom(700_001)
HUB_MODEL = "Salesforce/blip-vqa-base"


class Handler(BaseHTTPRequestHandler):
    """What a server may do to a download, by the first part of the path."""

    def do_GET(self):
        self.server.requests.append((self.command, self.path, self.headers))
        getattr(self, f"answer_{self.path.split('/')[1]}".lower())()

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *args):
        pass

    def reply(self, status=200, body=BODY, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def answer_ok(self):
        self.reply()

    def answer_empty(self):
        self.reply(body=b"")

    def answer_missing(self):
        self.reply(404, b"no such thing")

    def answer_broken(self):
        self.reply(500, b"sorry")

    def answer_nothing(self):
        self.send_response(204)
        self.end_headers()

    def answer_loop(self):
        self.reply(302, b"", Location=self.path)

    def answer_moved(self):
        self.reply(302, b"", Location="/ok/elsewhere.bin")

    def answer_away(self):
        self.reply(302, b"", Location="file:///etc/hostname")

    def answer_cut(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[: len(BODY) // 2])

    def answer_chunked(self, end=b"0\r\n\r\n"):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(BODY), 100_000):
            chunk = BODY[start : start + 100_000]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        self.wfile.write(end)

    def answer_endless(self):
        """Chunks without the last one, which says that the file is whole."""
        self.answer_chunked(end=b"")

    def answer_reset(self):
        self.answer_cut()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def answer_gzipped(self):
        self.reply(body=gzip.compress(BODY), Content_Encoding="gzip")

    def answer_unsized(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(BODY)

    def answer_silence(self):
        self.server.closing.wait()

    def answer_stall(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(b"start")
        self.server.closing.wait()

    def answer_drip(self):
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        while not self.server.closing.wait(0.005):
            try:
                self.wfile.write(b"x")
            except OSError:
                return

    def answer_salesforce(self):
        """The Hub has moved a model's files to other addresses since: a redirect is an answer too."""
        self.reply(307, b"", Location="/missing")

    def answer_private(self):
        self.reply(401, b"")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests = []
        server.closing = threading.Event()
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.closing.set()
        server.shutdown()
        thread.join()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_download_gives_the_file_under_the_name_of_its_address(server, tmp_path):
    path = download_file(f"{server.url}/ok/some%20picture.jpg?size=large/x", directory=tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "some picture.jpg"
    assert path.read_bytes() == BODY
    assert files(path.parent) == ["some picture.jpg"]


def test_download_gives_a_relative_path_when_asked_for_one(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert download_file(f"{server.url}/ok/a.bin") == Path("a.bin")
    assert download_file(f"{server.url}/ok/a.bin", "b.bin", "data") == Path("data/b.bin")


@pytest.mark.parametrize(
    ("path", "body"),
    [("moved/a.bin", BODY), ("unsized/a.bin", BODY), ("chunked/a.bin", BODY), ("empty/a.bin", b"")],
)
def test_download_handles_a_redirect_an_unknown_length_chunks_and_an_empty_file(server, tmp_path, path, body):
    assert download_file(f"{server.url}/{path}", directory=tmp_path).read_bytes() == body


def test_download_asks_for_no_compression(server, tmp_path):
    download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert [headers["Accept-Encoding"] for _, _, headers in server.requests] == ["identity"]


def test_downloaded_file_has_the_permissions_of_any_new_file(server, tmp_path):
    (tmp_path / "plain").touch()
    path = download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_existing_file_is_kept_without_a_request_and_said(server, tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(b"mine")
    path = download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert path.read_bytes() == b"mine"
    assert server.requests == []
    assert "a.bin' already exists." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("missing/a.bin", "404 Not Found"),
        ("broken/a.bin", "500 Internal Server Error"),
        ("nothing/a.bin", "204"),
        ("loop/a.bin", "redirects"),
        ("away/a.bin", "file:///etc/hostname"),
        ("cut/a.bin", f"{len(BODY) // 2} bytes"),
        ("endless/a.bin", "IncompleteRead"),
        ("reset/a.bin", "reset by peer"),
        ("gzipped/a.bin", "gzip"),
    ],
)
def test_failed_download_names_the_address_and_the_reason_and_leaves_nothing(server, tmp_path, path, reason):
    with pytest.raises(DownloadError) as error:
        download_file(f"{server.url}/{path}", directory=tmp_path)
    assert f"{server.url}/{path}" in str(error.value)
    assert reason in str(error.value)
    assert files(tmp_path) == []


def test_wrong_length_is_noticed_also_when_the_transport_does_not(server, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_utils, "_copy", lambda *args: len(BODY) - 1)
    with pytest.raises(DownloadError, match=f"{len(BODY) - 1} bytes arrived of {len(BODY)}"):
        download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert files(tmp_path) == []


def test_redirects_are_bounded(server, tmp_path):
    with pytest.raises(DownloadError):
        download_file(f"{server.url}/loop/a.bin", directory=tmp_path)
    assert len(server.requests) == notebook_utils.MAX_REDIRECTS + 1


@pytest.mark.parametrize(("path", "reason"), [("silence/a.bin", "timeout=0.05"), ("stall/a.bin", "timed out")])
def test_server_that_falls_silent_is_given_up(server, tmp_path, monkeypatch, path, reason):
    monkeypatch.setattr(notebook_utils, "READ_TIMEOUT", 0.05)
    with pytest.raises(DownloadError, match=reason):
        download_file(f"{server.url}/{path}", directory=tmp_path)
    assert files(tmp_path) == []


def test_server_that_drips_is_given_up_though_it_never_falls_silent(server, tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_utils, "STALL_SECONDS", 0.02)
    with pytest.raises(DownloadError, match="stalled") as error:
        download_file(f"{server.url}/drip/a.bin", directory=tmp_path)
    arrived = int(re.search(r"(\d+) bytes", str(error.value))[1])
    assert arrived < 1000, "it was noticed only after the whole file"
    assert files(tmp_path) == []


def test_unreachable_server_is_a_download_error(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/a.bin"
        with pytest.raises(DownloadError, match=url):
            download_file(url, directory=tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")])
def test_interrupted_download_leaves_nothing_and_can_be_repeated(server, tmp_path, monkeypatch, error):
    def interrupted(url, response, file, bar):
        file.write(response.raw.read1(10))
        assert len(files(tmp_path)) == 1
        assert files(tmp_path) != ["a.bin"]
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(notebook_utils, "_copy", interrupted)
        with pytest.raises(type(error) if isinstance(error, OSError) else error):
            download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert files(tmp_path) == []
    assert download_file(f"{server.url}/ok/a.bin", directory=tmp_path).read_bytes() == BODY


def test_killed_download_leaves_nothing_under_its_name_and_can_be_repeated(server, tmp_path):
    call = f"download_file({server.url + '/stall/a.bin'!r}, directory={str(tmp_path)!r})"
    script = f"from notebook_utils import download_file; {call}"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    while not files(tmp_path):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert "a.bin" not in files(tmp_path)
    assert download_file(f"{server.url}/ok/a.bin", directory=tmp_path).read_bytes() == BODY


def test_concurrent_downloads_of_one_file_all_succeed(server, tmp_path, monkeypatch):
    together = threading.Barrier(4)
    copy = notebook_utils._copy

    def all_at_once(*args):
        together.wait(timeout=30)
        return copy(*args)

    monkeypatch.setattr(notebook_utils, "_copy", all_at_once)
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: download_file(f"{server.url}/ok/a.bin", directory=tmp_path), range(4)))
    assert set(paths) == {tmp_path / "a.bin"}
    assert paths[0].read_bytes() == BODY
    assert files(tmp_path) == ["a.bin"]


HOSTILE = ["../x", "/etc/x", "..\\x", "C:\\x", "C:x", "a/b", "a/", "x\0y", "x\ny", "", ".", "..", "  ", "n" * 256]


@pytest.mark.parametrize("name", HOSTILE)
def test_name_that_is_not_a_plain_one_is_refused_before_any_request(server, tmp_path, name):
    with pytest.raises(ValueError, match="filename"):
        download_file(f"{server.url}/ok/a.bin", name, tmp_path)
    with pytest.raises(ValueError, match="filename"):
        download_file(f"{server.url}/ok/{quote(name, safe='')}", directory=tmp_path)
    assert server.requests == []
    assert files(tmp_path) == []


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "a.bin", "http:///a.bin", "data:,a", ""])
def test_address_that_is_not_http_is_refused(url, tmp_path):
    with pytest.raises(ValueError, match="http://"):
        download_file(url, "a.bin", tmp_path)


def test_folder_in_the_place_of_the_file_is_refused(server, tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(ValueError, match="not a file"):
        download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert server.requests == []


@pytest.mark.parametrize(
    ("readable", "wanted", "shown"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_progress_is_shown_where_it_can_be_read(server, tmp_path, monkeypatch, capsys, readable, wanted, shown):
    monkeypatch.setattr(notebook_utils, "_progress_is_readable", lambda: readable)
    download_file(f"{server.url}/ok/a.bin", directory=tmp_path, show_progress=wanted)
    assert ("a.bin" in capsys.readouterr().err) is shown


def test_progress_is_not_written_to_a_log(server, tmp_path, capsys):
    download_file(f"{server.url}/ok/a.bin", directory=tmp_path)
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def three_devices(monkeypatch):
    class Core:
        available_devices = ("CPU", "GPU", "NPU")

    monkeypatch.setattr(notebook_utils.ov, "Core", Core)


def test_device_widget_offers_the_devices_of_this_machine():
    assert {"CPU", "AUTO"} <= set(device_widget().options)
    assert device_widget().value == "AUTO"


def test_device_widget_adds_and_excludes(three_devices):
    assert device_widget().options == ("CPU", "GPU", "NPU", "AUTO")
    assert device_widget("CPU", exclude=["NPU"], added=["HETERO:GPU,CPU", "CPU"]).options == (
        *("CPU", "GPU", "AUTO"),
        "HETERO:GPU,CPU",
    )


@pytest.mark.parametrize(("default", "exclude"), [("TPU", None), ("AUTO", ["AUTO"])])
def test_device_that_is_not_offered_cannot_be_the_default(three_devices, default, exclude):
    with pytest.raises(ValueError, match=rf"'{default}' is not available.*GPU"):
        device_widget(default, exclude)


@pytest.mark.parametrize("default", [True, False])
def test_quantization_widget_holds_its_default(default):
    assert quantization_widget(default).value is default


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


def cache(folder: Path, *names: str) -> None:
    """Lay files out as the Hub's client does."""
    repository = folder / "cache" / f"models--{HUB_MODEL.replace('/', '--')}"
    for path in [repository / "refs/main", *(repository / "snapshots/abc" / name for name in names)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("abc")


def choose(models=(HUB_MODEL, "Salesforce/blip-vqa-capfilt-large")):
    return model_widget(models, Path("models/small"))


def test_model_widget_prefers_the_hub_when_it_answers(hub, capsys):
    widget = choose()
    assert widget.value == HUB_MODEL
    assert widget.options == (HUB_MODEL, "Salesforce/blip-vqa-capfilt-large", "models/small")
    assert [request[:2] for request in hub.requests] == [("HEAD", f"/{HUB_MODEL}/resolve/main/config.json")]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("offline", [False, True])
def test_cached_model_is_chosen_without_asking_the_hub(hub, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(notebook_utils.constants, "HF_HUB_OFFLINE", offline)
    cache(tmp_path, "config.json", "model.safetensors")
    assert choose().value == HUB_MODEL
    assert hub.requests == []


@pytest.mark.parametrize("names", [[], ["config.json"], ["model.safetensors"]])
def test_half_cached_model_does_not_count_and_offline_mode_asks_nobody(hub, tmp_path, monkeypatch, capsys, names):
    monkeypatch.setattr(notebook_utils.constants, "HF_HUB_OFFLINE", True)
    cache(tmp_path, *names)
    assert choose().value == "models/small"
    assert hub.requests == []
    assert "HF_HUB_OFFLINE" in capsys.readouterr().out


def test_unreachable_hub_gives_the_embedded_model_and_says_what_to_do(hub, monkeypatch, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(notebook_utils.constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        assert choose().value == "models/small"
    out = capsys.readouterr().out
    for part in (HUB_MODEL, "could not be reached", "embedded model models/small", "BLIP_MODEL", "list"):
        assert part in out
    assert os.getcwd() not in out


@pytest.mark.parametrize(("model", "status"), [("missing/model", 404), ("broken/model", 500), ("private/model", 401)])
def test_hub_without_the_model_gives_the_embedded_one_and_the_status(hub, capsys, model, status):
    assert choose([model]).value == "models/small"
    assert f"answered {status}" in capsys.readouterr().out


def test_silent_hub_holds_nobody_up(hub, monkeypatch, capsys):
    monkeypatch.setattr(notebook_utils, "HUB_TIMEOUT", 0.05)
    assert choose(["silence/model"]).value == "models/small"
    assert "no answer within 0.05 seconds" in capsys.readouterr().out


def test_hub_is_given_up_also_when_name_resolution_hangs(hub, monkeypatch, capsys):
    resolved = threading.Event()

    def hang(*args, **kwargs):
        resolved.wait(60)
        raise requests.ConnectionError("no such host")

    monkeypatch.setattr(notebook_utils, "HUB_TIMEOUT", 0.05)
    monkeypatch.setattr(requests, "head", hang)
    assert choose().value == "models/small"
    assert not resolved.is_set()
    resolved.set()
    assert "no answer" in capsys.readouterr().out


@pytest.mark.parametrize("model", ["Salesforce/blip-itm-base-coco", HUB_MODEL, "models/small"])
def test_environment_variable_decides_alone_and_is_named(hub, monkeypatch, capsys, model):
    monkeypatch.setenv("BLIP_MODEL", model)
    widget = choose()
    assert widget.value == model
    assert widget.options.count(model) == 1
    assert set(widget.options) >= {HUB_MODEL, "models/small"}
    assert hub.requests == []
    assert f"Model {model}: chosen by the environment variable BLIP_MODEL." in capsys.readouterr().out


def test_empty_environment_variable_counts_as_unset(hub, monkeypatch, capsys):
    monkeypatch.setenv("BLIP_MODEL", " ")
    assert choose().value == HUB_MODEL
    assert capsys.readouterr().out == ""


def test_missing_embedded_model_is_an_error_only_when_needed(hub, capsys):
    assert model_widget([HUB_MODEL], "models/none").value == HUB_MODEL
    with pytest.raises(FileNotFoundError, match=r"missing/model.*404.*models/none"):
        model_widget(["missing/model"], "models/none")


def test_model_widget_needs_a_model():
    with pytest.raises(ValueError, match="models is empty"):
        model_widget([], "models/small")


def test_source_is_shown_as_python_with_every_object():
    shown = show_source(device_widget, quantization_widget)
    assert shown.data.startswith("def device_widget(")
    assert "\n\ndef quantization_widget(" in shown.data
    assert "highlight" in shown._repr_html_()


def test_skip_magic_runs_a_cell_only_where_its_condition_is_false_and_lets_errors_through(capsys):
    shell = InteractiveShell.instance()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(notebook_utils, "get_ipython", lambda: shell)
            register_skip()
        shell.user_ns["off"] = True
        shell.run_cell_magic("skip", "off", "seen = 1")
        assert "seen" not in shell.user_ns
        assert capsys.readouterr().out == "Skipped, as off.\n"
        shell.run_cell_magic("skip", "not off", "seen = 2")
        assert shell.user_ns["seen"] == 2
        with pytest.raises(ZeroDivisionError):
            shell.run_cell_magic("skip", "not off", "1 / 0")
    finally:
        InteractiveShell.clear_instance()
