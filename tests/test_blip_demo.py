import re
import socket

import gradio as gr
import pytest
from conftest import EMBEDDED
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import blip_demo
from blip_demo import DEMO_PHOTO, answer_or_caption, build_demo, example_inputs, launch_demo
from easy_vqa_data import load_captions


@pytest.fixture(scope="module")
def examples():
    return example_inputs(EMBEDDED)


@pytest.fixture(scope="module")
def address(fp16_model, processor, examples):
    demo = build_demo(fp16_model, processor, examples)
    yield launch_demo(demo, prevent_thread_lock=True, inline=False)
    demo.close()


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_page_answers_and_says_how_long_it_took(client, examples):
    path, question = examples[0]
    answer, took = client.predict(handle_file(path), question, api_name="/answer")
    assert answer == load_captions("test")[path].split()[1]
    assert re.fullmatch(r"\d+\.\d ms", took)


@pytest.mark.parametrize("question", ["", "   ", None])
def test_page_captions_without_a_question(client, examples, question):
    path = examples[0][0]
    assert client.predict(handle_file(path), question, api_name="/answer")[0] == load_captions("test")[path]


def test_page_says_that_an_image_is_missing(client):
    with pytest.raises(AppError, match="There is no image: upload one or click an example"):
        client.predict(None, "what color is the shape?", api_name="/answer")


def test_page_shows_the_models_error_and_answers_right_after_it(client, examples):
    path, question = examples[0]
    with pytest.raises(AppError, match="tokens long; the model takes 512"):
        client.predict(handle_file(path), "is there a circle? " * 200, api_name="/answer")
    assert client.predict(handle_file(path), question, api_name="/answer")[0] == load_captions("test")[path].split()[1]


def test_page_is_served_on_this_machine_only(address, monkeypatch):
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)/", address).groups()
    assert host == "127.0.0.1"
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.2", int(port))) != 0
    seen = {}
    monkeypatch.setattr(gr.Interface, "launch", lambda self, **options: seen.update(options) or (None, address, None))
    launch_demo(gr.Interface(lambda text: text, "text", "text"))
    assert seen["share"] is False
    assert seen["server_name"] == "127.0.0.1"


def test_examples_of_the_embedded_model_are_images_whose_caption_is_known(examples):
    captions = load_captions("test")
    assert len(examples) == 3
    assert all(path in captions for path, _ in examples)


def test_hub_models_get_the_published_photo(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(blip_demo, "download_file", lambda *arguments: asked.append(arguments) or tmp_path / "demo.jpg")
    pairs = example_inputs("Salesforce/blip-vqa-base", tmp_path)
    assert asked == [(DEMO_PHOTO, "demo.jpg", tmp_path)]
    assert pairs[0] == (str(tmp_path / "demo.jpg"), "how many dogs are in the picture?")


def test_images_of_any_mode_are_answered(fp16_model, processor, examples):
    path, question = examples[0]
    image = Image.open(path)
    expected = answer_or_caption(fp16_model, processor, image.convert("RGB"), question)
    assert answer_or_caption(fp16_model, processor, image.convert("RGBA"), question) == expected
    assert answer_or_caption(fp16_model, processor, image.convert("CMYK"), question) == expected
