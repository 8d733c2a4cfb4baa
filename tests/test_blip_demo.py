import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from conftest import EMBEDDED
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from transformers import AutoTokenizer

from blip_openvino.apps import demo as blip_demo
from blip_openvino.apps.demo import DEMO_PHOTO, WORDINGS, build_demo, example_inputs, launch_demo
from blip_openvino.apps.page import model_note, question_forms, stage_line
from blip_openvino.apps.session import ModelFolder, Options, Reply, ask
from blip_openvino.ir.easy_vqa import ANSWERS, load_captions

QUESTIONS = ("", "what color is the shape?", "what shape is in the image?", "is there a circle?")


@pytest.fixture(scope="module")
def examples():
    return example_inputs(EMBEDDED)


@pytest.fixture(scope="module")
def address(converted, examples):
    demo = build_demo(converted, examples, "CPU")
    yield launch_demo(demo, prevent_thread_lock=True, inline=False)
    demo.close()


@pytest.fixture(scope="module")
def client(address):
    return Client(address, verbose=False)


def test_api_answers_and_names_the_time_of_each_stage(client, examples):
    path, question = examples[0]
    answer, milliseconds = client.predict(handle_file(path), question, api_name="/answer")
    assert answer == load_captions("test")[path].split()[1]
    assert {"preprocess", "text encoder", "decoder", "image reused"} <= set(milliseconds)
    again = client.predict(handle_file(path), question, api_name="/answer")
    assert again[0] == answer
    assert again[1]["image reused"] is True
    assert "vision" not in again[1]


@pytest.mark.parametrize("question", [(), ("",), ("   ",), (None,)])
def test_api_captions_without_a_question(client, examples, question):
    path = examples[0][0]
    assert client.predict(handle_file(path), *question, api_name="/answer")[0] == load_captions("test")[path]


def test_api_streams_word_by_word(client, examples):
    path = examples[0][0]
    job = client.submit(handle_file(path), api_name="/answer")
    caption = job.result()[0]
    words = caption.split()
    assert list(dict.fromkeys(text for text, _ in job.outputs())) == [
        " ".join(words[:count]) for count in range(len(words) + 1)
    ]


def test_api_takes_every_option_by_name(client, converted, examples):
    path = examples[0][0]
    options = {"max_new_tokens": 2, "num_beams": 3}
    *_, expected = ask(ModelFolder(converted), Path(path).read_bytes(), options=Options(**options))
    given = {"question": "", "device": "AUTO", "precision": "FP16", "temperature": 0, "top_p": 1}
    assert client.predict(handle_file(path), **given, **options, api_name="/answer")[0] == expected.text


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
        ({"question": "is there a circle? " * 200}, "tokens long; the model takes 512"),
        ({"device": "TPU"}, "TPU is not in the list of choices"),
        ({"precision": "INT8"}, "INT8 is not in the list of choices"),
        ({"device": None}, "there is no device None here; choose one of CPU, AUTO"),
        ({"num_beams": 0}, "less than minimum value 1"),
        ({"max_new_tokens": 1000}, "greater than maximum value 100"),
        ({"top_p": 0}, r"less than minimum value 0\.05"),
    ],
)
def test_api_says_what_is_wrong_and_answers_right_after_it(client, examples, given, message):
    path, question = examples[0]
    good = {"image": handle_file(path), "question": question}
    with pytest.raises(AppError, match=message):
        client.predict(**good | given, api_name="/answer")
    assert client.predict(**good, api_name="/answer")[0] == load_captions("test")[path].split()[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [("text.png", b"this is text"), ("empty.png", b""), ("cut.jpg", None), ("drawing.svg", b"<svg></svg>")],
)
def test_api_says_that_a_file_is_no_image(client, examples, tmp_path, name, content):
    path, file = examples[0][0], tmp_path / name
    if content is None:
        Image.effect_noise((200, 200), 50).convert("RGB").save(file)
        content = file.read_bytes()[:1000]
    file.write_bytes(content)
    with pytest.raises(AppError, match=r"not an image|cannot be read|damaged"):
        client.predict(handle_file(file), api_name="/answer")
    assert client.predict(handle_file(path), api_name="/answer")[0] == load_captions("test")[path]


def test_api_reads_no_file_that_was_not_uploaded(client):
    secret = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(AppError):
        client.predict(secret, api_name="/answer")


def test_page_refuses_a_file_over_the_limit(client, tmp_path):
    file = tmp_path / "large.png"
    with file.open("wb") as large:
        large.truncate(51 * 1024 * 1024)
    with pytest.raises(Exception, match=r"413|exceed"):
        client.predict(handle_file(file), api_name="/answer")


def test_eight_clients_at_once_lose_nothing_and_get_what_each_would_get_alone(address, converted):
    """With `-s` it also prints how many requests a second that was."""
    paths, folder = list(load_captions("test"))[:4], ModelFolder(converted)
    requests = [(path, question) for path in paths for question in QUESTIONS]
    expected = []
    for path, question in requests:
        *_, final = ask(folder, Path(path).read_bytes(), question, "CPU")
        expected.append(final.text)
    clients = [Client(address, verbose=False) for _ in range(8)]

    def ask_all(client: Client) -> list[str]:
        return [client.predict(handle_file(path), question, api_name="/answer")[0] for path, question in requests]

    start = time.perf_counter()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask_all, clients)) == [expected] * 8
    print(f"{8 * len(requests) / (time.perf_counter() - start):.1f} requests per second with 8 clients")


def test_cancelled_request_leaves_no_generation_and_the_next_answer_right(client, examples):
    path = examples[0][0]
    job = client.submit(handle_file(path), num_beams=10, max_new_tokens=100, temperature=2.0, api_name="/answer")
    while not job.outputs() and not job.done():
        time.sleep(0.001)
    job.cancel()
    assert client.predict(handle_file(path), api_name="/answer")[0] == load_captions("test")[path]
    for thread in [each for each in threading.enumerate() if each.name.startswith("blip-generate")]:
        thread.join(10)
        assert not thread.is_alive()


def test_page_is_served_on_this_machine_only_and_reports_nothing(address, monkeypatch):
    host, port = re.fullmatch(r"http://([\d.]+):(\d+)/", address).groups()
    assert host == "127.0.0.1"
    with socket.socket() as probe:
        probe.settimeout(1)
        assert probe.connect_ex(("127.0.0.2", int(port))) != 0
    seen = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **options: seen.update(options) or (None, address, None))
    with gr.Blocks() as demo:
        gr.Textbox()
    launch_demo(demo)
    assert seen["share"] is False
    assert seen["server_name"] == "127.0.0.1"
    assert seen["run_history"] is False
    assert seen["max_file_size"] == "50mb"
    assert demo.analytics_enabled is False


def test_build_demo_refuses_what_is_not_there(converted, tmp_path):
    with pytest.raises(FileNotFoundError, match="no converted BLIP model"):
        build_demo(tmp_path)
    with pytest.raises(ValueError, match="there is no precision 'INT8' here; choose one of FP16"):
        build_demo(converted, precision="INT8")
    with pytest.raises(ValueError, match="there is no device 'TPU' here"):
        build_demo(converted, device="TPU")


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


def test_hints_are_the_answers_and_question_forms_of_easy_vqa(converted):
    note = model_note(ModelFolder(converted))
    assert "13 answers" in note["limits"]
    assert note["hints"][0] == ["Answers", ", ".join(ANSWERS)]
    forms = question_forms()
    assert {kind: len(questions) for kind, questions in forms.items()} == {"shape": 4, "colour": 4, "yes/no": 16}
    assert all(question.endswith("?") for questions in forms.values() for question in questions)


def test_a_model_with_a_larger_vocabulary_gets_no_hints(converted, monkeypatch):
    folder = ModelFolder(converted)
    vocabulary = AutoTokenizer.from_pretrained(EMBEDDED).get_vocab() | {"dog": 35}
    monkeypatch.setattr(type(folder.processor.tokenizer), "get_vocab", lambda self: vocabulary)
    assert model_note(folder) == {"model": "blip-easy-vqa, BlipForQuestionAnswering", "limits": "", "hints": []}


@pytest.mark.parametrize(("task", "label"), [("caption", "Beginning of the caption"), ("match", "Text")])
def test_page_of_another_kind_of_checkpoint_labels_what_applies(converted, examples, monkeypatch, task, label):
    monkeypatch.setattr(ModelFolder, "task", task)
    config = build_demo(converted, examples).config["components"]
    assert label in [each["props"].get("label") for each in config]
    options = next(each for each in config if each["props"].get("label") == "Generation options")
    assert options["props"]["visible"] is (task == "caption")
    buttons = {each["props"]["value"] for each in config if each["type"] == "button"}
    assert {WORDINGS[task].button, *(text or "(a caption)" for text in WORDINGS[task].example_texts)} <= buttons


def test_stage_line_says_whether_the_image_was_reused():
    times = {"load model": 1000.0, "preprocess": 1.25, "vision": 3.0, "text encoder": 2.0, "decoder": 4.04}
    assert stage_line(Reply("red", times, image_reused=False), "CPU", "INT8") == (
        "CPU INT8: load model 1000.0 ms · preprocess 1.2 ms · vision 3.0 ms (new image) · text encoder 2.0 ms · "
        "decoder 4.0 ms"
    )
    assert stage_line(Reply("", {"preprocess": 0.1}, image_reused=True), "AUTO", "FP16") == (
        "AUTO FP16: preprocess 0.1 ms · vision 0 ms (image reused)"
    )
