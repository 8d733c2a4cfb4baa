"""What the page does and its API, without a browser."""

import itertools
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
import requests
import torch
from conftest import EMBEDDED, ROOT, check_report
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers import BlipConfig, BlipForConditionalGeneration

from blip_model import OVBlipModel
from blip_openvino.apps import ask as ask_module
from blip_openvino.apps import page as page_module
from blip_openvino.apps.ask import IMAGES_KEPT, MODELS_KEPT, ModelFolder
from blip_openvino.apps.collections.index import ImageIndex
from blip_openvino.apps.collections.sources import find_items
from blip_openvino.apps.load import load
from blip_openvino.apps.page import build_demo, launch_demo
from blip_openvino.data.easy_vqa import load_captions
from blip_openvino.ir.convert import convert

PATHS = list(load_captions("test"))[:8]
PATH = PATHS[0]
QUESTION = "what color is the shape?"


@pytest.fixture(scope="module")
def folder(converted):
    return ModelFolder(converted)


@pytest.fixture
def caption(captions) -> str:
    """PyTorch's, of `PATH`."""
    return captions[PATH]


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def asked(folder, path=PATH, text="", device="CPU", **kwargs):
    return list(folder.ask(path, text, device, "FP16", **kwargs))[-1]


def test_api_answers_names_the_time_of_each_stage_and_reuses_the_image(client, caption, tmp_path):
    file = tmp_path / "new.png"
    Image.open(PATH).save(file, comment="with other bytes")
    replies = [client.predict(handle_file(file), QUESTION, api_name="/answer") for _ in range(2)]
    (answer, first), (again, second) = replies
    assert answer == again == caption.split()[1]
    assert list(first) == ["preprocess", "vision", "image reused", "answer", "log-probability"]
    assert list(second) == ["image reused", "answer", "log-probability"]
    assert (first["image reused"], second["image reused"]) == (False, True)
    assert first["log-probability"] == pytest.approx(0, abs=0.01)
    assert all(first[stage] > 0 for stage in ("preprocess", "vision", "answer"))


@pytest.mark.parametrize("question", [(), ("   ",), (None,)])
def test_api_captions_without_a_question(client, caption, question):
    assert client.predict(handle_file(PATH), *question, api_name="/answer")[0] == caption


def test_api_streams_word_by_word(client):
    job = client.submit(handle_file(PATH), api_name="/answer")
    words = job.result()[0].split()
    texts = [text for text, _ in job.outputs()]
    assert list(dict.fromkeys(texts)) == [" ".join(words[:count]) for count in range(len(words) + 1)]


@pytest.mark.parametrize("arguments", [{}, {"do_sample": True, "temperature": 0.001}], ids=["beams", "sampled beams"])
def test_beams_come_at_once_and_give_what_generate_gives(folder, arguments):
    *growing, final = [text for text, _ in folder.ask(PATH, "", "CPU", "FP16", num_beams=3, **arguments)]
    assert growing[: len(final.split())] == [""] * len(final.split())
    blip, _ = folder.load("CPU", "FP16", {})
    assert final == blip.caption(PATH, num_beams=3).text


def test_options_reach_the_model(client, caption, monkeypatch):
    seen, generate = [], OVBlipModel.generate_caption
    monkeypatch.setattr(OVBlipModel, "generate_caption", lambda *a, **k: seen.append(k) or generate(*a, **k))
    short = client.predict(handle_file(PATH), max_new_tokens=2, num_beams=3, api_name="/answer")[0]
    assert short == " ".join(caption.split()[:2])
    client.predict(handle_file(PATH), temperature=0.7, top_p=0.9, api_name="/answer")
    beams, sampled = seen
    assert beams.items() >= {"max_new_tokens": 2, "num_beams": 3}.items()
    assert sampled.items() >= {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 0}.items()


def test_api_has_one_endpoint_whose_arguments_stay(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/answer"]
    parameters = endpoints["/answer"]["parameters"]
    assert [each["parameter_name"] for each in parameters] == [
        *("image", "question", "device", "precision"),
        *("max_new_tokens", "num_beams", "temperature", "top_p"),
    ]
    assert [each["parameter_has_default"] for each in parameters] == [False] + [True] * 7


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": None}, "There is no image: upload one or click an example"),
        ({"image": handle_file(ROOT / "LICENSE")}, "is not an image"),
        ({"question": "is there a circle? " * 200}, "tokens long"),
        ({"device": "TPU"}, "TPU is not in the list of choices"),
        ({"precision": "INT8"}, "INT8 is not in the list of choices"),
        ({"num_beams": 0}, "less than minimum value 1"),
        ({"max_new_tokens": 1000}, "greater than maximum value 100"),
    ],
)
def test_api_says_what_is_wrong(client, given, message):
    with pytest.raises(AppError, match=message):
        client.predict(**{"image": handle_file(PATH)} | given, api_name="/answer")


def test_api_reads_no_file_that_was_not_uploaded(address):
    """Not by `Client`, which uploads a path that it is given."""
    image = {"path": PATH, "meta": {"_type": "gradio.FileData"}}
    call = f"{address}gradio_api/call/answer"
    event = requests.post(call, json={"data": [image, "", "CPU", "FP16", 20, 1, 0, 1]}).json()["event_id"]
    assert "event: error" in requests.get(f"{call}/{event}").text


def test_each_process_keeps_uploads_in_a_folder_of_its_own_and_removes_it(address):
    """Else of two pages that were given one photo, the one that ends first takes it from the other."""
    code = "from blip_openvino.apps import page; print(page.gr.utils.get_upload_folder())"
    other = Path(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
    with open(PATH, "rb") as file:
        (uploaded,) = requests.post(f"{address}gradio_api/upload", files={"files": file}).json()
    folder = Path(page_module.UPLOADS.name)
    assert folder in Path(uploaded).parents
    assert "blip-ov-page-" in other.name
    assert other != folder
    assert not other.exists()


def test_a_file_over_the_limit_is_refused(client, tmp_path):
    with (tmp_path / "large.png").open("wb") as large:
        large.truncate(51 * 1024 * 1024)
    with pytest.raises(Exception, match=r"413|exceed"):
        client.predict(handle_file(tmp_path / "large.png"), api_name="/answer")


def test_clients_at_once_get_what_each_would_get_alone(address, folder):
    requests = [(path, text) for path in PATHS[:4] for text in ("", QUESTION, "is there a circle?")]
    expected = [asked(folder, path, text)[0] for path, text in requests]

    def ask_all(client: Client) -> list[str]:
        return [client.predict(handle_file(path), text, api_name="/answer")[0] for path, text in requests]

    clients = [Client(address, verbose=False) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask_all, clients)) == [expected] * 4


def test_closing_the_reply_ends_the_generation(folder, monkeypatch):
    unread = []

    def generate(self, images, *, streamer, **kwargs):
        for _ in range(5000):
            streamer.put(np.array([5]))
            time.sleep(0.001)
        unread.append("to the end")

    monkeypatch.setattr(OVBlipModel, "generate_caption", generate)
    running = folder.ask(PATH, "", "CPU", "FP16")
    assert len(list(itertools.islice(running, 3))) == 3
    running.close()
    assert not unread


def test_a_model_is_loaded_and_an_image_encoded_once_for_all_who_ask_at_once(converted, caption, monkeypatch):
    loaded, encoded = [], []
    load, encode = OVBlipModel.from_pretrained, OVBlipModel.encode_images
    folder = ModelFolder(converted)
    monkeypatch.setattr(ask_module, "check_model", lambda *a: check_report(passed=True))
    monkeypatch.setattr(OVBlipModel, "from_pretrained", lambda *a: loaded.append(a) or load(*a))
    monkeypatch.setattr(OVBlipModel, "encode_images", lambda *a, **k: encoded.append(a) or encode(*a, **k))
    with ThreadPoolExecutor(4) as pool:
        assert {text for text, _ in pool.map(lambda _: asked(folder), range(4))} == {caption}
    assert len(loaded) == 1
    assert len([pixels for _, pixels in encoded if isinstance(pixels, np.ndarray)]) == 1


def test_only_the_last_images_and_models_are_kept(converted, monkeypatch):
    monkeypatch.setattr(ask_module, "check_model", lambda *a: check_report(passed=True))
    folder = ModelFolder(converted)
    for path in PATHS[: IMAGES_KEPT + 1]:
        assert asked(folder, path)[1]["image reused"] is False
    again = [asked(folder, PATHS[index])[1]["image reused"] for index in (1, 0, 1)]
    assert again == [True, False, True]
    for device in ("AUTO", "AUTO:CPU", "CPU")[: MODELS_KEPT + 1]:
        _, milliseconds = asked(folder, device=device)
    assert "load model" in milliseconds


def test_a_device_that_fails_the_check_is_refused_and_checked_once(converted, caption, monkeypatch):
    checked = []

    def check(model, folder, device):
        checked.append((folder, device, model.precision))
        return check_report(passed=device == "CPU")

    monkeypatch.setattr(ask_module, "check_model", check)
    folder = ModelFolder(converted)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"(?s)AUTO FP16 gives wrong results, choose another one:\n.*WRONG"):
            asked(folder, device="AUTO")
        assert asked(folder)[0] == caption
    assert checked == [(converted, "AUTO", "FP16"), (converted, "CPU", "FP16")]
    with pytest.raises(ValueError, match="AUTO FP16 gives wrong results"):
        build_demo(converted, device="AUTO")


@pytest.mark.parametrize(
    ("wish", "message"),
    [({"precision": "INT8"}, "(?i)int8"), ({"device": "TPU"}, "TPU"), ({"folder": "nowhere"}, "nowhere")],
)
def test_build_demo_refuses_what_is_not_there(converted, wish, message):
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        build_demo(**{"folder": converted} | wish)


def test_captioning_checkpoint_goes_on_from_a_beginning(processor, tmp_path):
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig.from_pretrained(EMBEDDED)).eval()
    folder = convert(model, processor, tmp_path / "captioning")
    assert asked(ModelFolder(folder), text="a red")[0].startswith("a red")
    page = str(build_demo(folder, [(PATH, QUESTION)], "CPU").get_config_file())
    assert "Beginning of the caption" in page
    assert "a photo" in page
    assert QUESTION not in page


@pytest.fixture(scope="module")
def retrieval(retrieval_folder, tmp_path_factory):
    """A retrieval model, its index of `PATHS`, and a client of the page that searches it."""
    blip = load(retrieval_folder, "CPU", "FP16")
    index = ImageIndex.create(tmp_path_factory.mktemp("index") / "photos.index", blip, str(retrieval_folder))
    index.update(blip, find_items(PATHS))
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Its weights are random, whose similarities bf16 shifts by more than the check tolerates.
        monkeypatch.setattr(ask_module, "check_model", lambda *a: check_report(passed=True))
        demo = build_demo(retrieval_folder, device="CPU", precision="FP16", index=index)
        yield blip, index, Client(launch_demo(demo), verbose=False)
        demo.close()


def test_retrieval_checkpoint_says_how_well_a_text_fits(retrieval):
    blip, _, client = retrieval
    text, milliseconds = client.predict(handle_file(PATH), "a red triangle", api_name="/answer")
    assert text == f"{blip.match(blip.encode_images(PATH), 'a red triangle'):.1%}"
    assert list(milliseconds) == ["preprocess", "vision", "image reused", "answer", "similarity"]
    with pytest.raises(AppError, match="there is no text"):
        client.predict(handle_file(PATH), "  ", api_name="/answer")
    options = next(each["props"] for each in client.config["components"] if each["type"] == "accordion")
    assert (options["label"], options["visible"]) == ("Generation options", False)


def test_retrieval_checkpoint_searches_among_uploaded_images_and_without_any_in_the_index(retrieval):
    blip, index, client = retrieval
    files, text = [handle_file(path) for path in PATHS[:3]], "a red triangle"
    found = blip.find_images(text, PATHS[:3])
    gallery = client.predict(files, text, api_name="/search")
    assert [each["caption"] for each in gallery] == [f"{e.match:.1%} (similarity {e.similarity:.3f})" for e in found]
    for shown, each in zip(gallery, found, strict=True):
        pictures = [np.asarray(Image.open(file).convert("RGB"), int) for file in (shown["image"], PATHS[each.index])]
        assert np.abs(pictures[0] - pictures[1]).mean() < 2
    found = index.search(blip, text, top=5)
    gallery = client.predict([], text, api_name="/search")
    assert [each["caption"] for each in gallery] == [f"{e.match:.1%} (similarity {e.similarity:.3f})" for e in found]
    with pytest.raises(AppError, match="Search needs images to look through and a text"):
        client.predict(files, "  ", api_name="/search")


def test_limits_are_said_of_a_model_that_was_trained_on_scenes(client, retrieval):
    assert ["drawn scenes alone" in str(each.config) for each in (client, retrieval[2])] == [True, False]


def test_page_is_served_on_this_machine_only_and_reports_nothing(address, client):
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)/", address).groups()
    assert host == "127.0.0.1"
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.2", int(port))) != 0
    assert client.config["analytics_enabled"] is False
    assert client.config["run_history"] is False
    with pytest.raises(TypeError, match="share"):
        launch_demo(gr.Blocks(), share=True)


def test_a_notebook_shows_the_page_through_its_proxy_or_says_what_to_do(monkeypatch, capsys):
    with gr.Blocks() as demo:
        gr.Textbox()
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    address = launch_demo(demo)
    assert demo.share is False
    port = demo.server_port
    demo.close()
    assert f"ssh -L {port}:127.0.0.1:{port} THAT_MACHINE and open {address}" in capsys.readouterr().out
    monkeypatch.setattr(page_module, "jupyter_proxy", lambda: "/user/me/proxy/")
    assert launch_demo(demo) == f"/user/me/proxy/{demo.server_port}/"
    assert demo.app.root_path == f"/user/me/proxy/{demo.server_port}"
    demo.close()
