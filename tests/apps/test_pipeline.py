"""Collections worked off: texts as the library gives them, of every kind of input, and what is refused."""

import csv
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import fsspec
import numpy as np
import openvino as ov
import pytest
import requests
from collection_outputs import rows_of, run, texts_of
from conftest import F32
from PIL import Image

from blip_model import OVBlipModel
from blip_openvino.apps.blip import IMAGES_AT_ONCE, Blip
from blip_openvino.apps.collections import pipeline
from blip_openvino.apps.collections.pipeline import Run, run_collection
from blip_openvino.apps.collections.sinks import open_output
from blip_openvino.apps.collections.sources import Item, find_items

QUESTIONS = ("what color is the shape?", "is there a circle?")


@pytest.fixture(scope="module")
def blip(converted, ours) -> Blip:
    """In float32, where a batch changes no text."""
    return Blip(OVBlipModel.from_pretrained(converted, "CPU", ov_config=F32), ours)


@pytest.mark.parametrize("output", ["captions.jsonl", "captions.csv", "captions"])
def test_captions_of_a_folder_are_those_of_pytorch_with_all_that_is_to_say_of_them(photos, converted, output):
    result = run("caption", "photos", "--output", output)
    assert (result.exit_code, result.stdout[:10]) == (0, "20 done in"), result.output
    assert texts_of(output) == photos
    row = rows_of(output)[0]
    assert {name: row.get(name) for name in ("model", "precision")} == {"model": str(converted), "precision": "FP16"}
    assert [int(row[name]) for name in ("width", "height")] == [64, 64]
    assert float(row["score"]) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(("batch", "at_once"), [([], IMAGES_AT_ONCE), (["--batch", "3"], 3)], ids=str)
def test_a_collection_is_encoded_several_images_at_once(photos, loaded, batch, at_once):
    result = run("caption", "photos", "--output", "captions.jsonl", "--inference-precision", "f32", *batch)
    assert result.exit_code == 0, result.output
    vision_model, text_decoder = loaded[0].model.vision_model, loaded[0].model.text_decoder.steps
    assert vision_model.get_property("PERFORMANCE_HINT") == "THROUGHPUT"
    assert vision_model.get_property("PERFORMANCE_HINT_NUM_REQUESTS") == str(at_once)
    assert text_decoder.get_property("PERFORMANCE_HINT") == "LATENCY"
    assert vision_model.get_property("INFERENCE_PRECISION_HINT") == ov.Type.f32


def test_every_question_is_answered_about_every_image_which_is_encoded_once(photos, blip, monkeypatch):
    encoded, encode = [], blip.model.encode_images

    def counting(pixels, reused=True):
        encoded.append(isinstance(pixels, np.ndarray))
        return encode(pixels, reused)

    monkeypatch.setattr(blip.model, "encode_images", counting)
    asked = Run(blip, "ask", QUESTIONS)
    encoded.clear()
    with open_output("answers.jsonl", asked.identity()) as sink:
        run_collection(asked, find_items(["photos"]), sink, batch=5)
    assert sum(encoded) == 4
    expected = [
        (path, question, answer.text)
        for path in photos
        for question, answer in zip(QUESTIONS, blip.ask(path, QUESTIONS), strict=True)
    ]
    assert [(row["path"], row["question"], row["text"]) for row in rows_of("answers.jsonl")] == expected


def test_questions_of_a_table_are_answered_in_float32_the_same_whatever_the_batch(photos, blip, easy_vqa):
    asked = easy_vqa.questions[:300:7]  # of many lengths; images in no order, some several times
    with open("questions.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image", "question"), *((each.image_path, each.question) for each in asked)])
    options = ("--table", "questions.csv", "--question-column", "question", "--inference-precision", "f32")
    for batch in (1, 7):
        assert run("ask", *options, "--batch", batch, "--output", f"{batch}.jsonl").exit_code == 0
    by_one, by_seven = ([(row["path"], row["question"], row["text"]) for row in rows_of(f"{n}.jsonl")] for n in (1, 7))
    pairs = dict.fromkeys((each.image_path, each.question) for each in asked)
    assert by_one == by_seven == [(*pair, blip.ask(*pair).text) for pair in pairs]


def test_prompts_of_a_table_begin_captions_and_a_row_without_one_has_none(photos):
    first, second = list(photos)[:2]
    rows = [{"image": first, "start": "a red"}, {"image": second}]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("caption", "--table", "prompts.jsonl", "--prompt-column", "start", "--output", "out.csv").exit_code == 0
    texts = texts_of("out.csv")
    assert texts[first].startswith("a red ")
    assert texts[second] == photos[second]


def test_a_bad_image_or_question_is_a_row_with_its_error_and_the_exit_code_says_so(photos, monkeypatch, easy_vqa):
    good = next(iter(photos))
    Image.new("1", (3000, 3000)).save("large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000_000)
    Path("broken.png").write_bytes(b"no image")
    rows = [(good, QUESTIONS[0]), ("gone.png", QUESTIONS[0]), ("broken.png", QUESTIONS[0]), ("large.png", QUESTIONS[0])]
    rows += [(good, "what? " * 600), (good, QUESTIONS[1])]
    lines = [json.dumps({"image": image, "question": question}) + "\n" for image, question in rows]
    Path("table.jsonl").write_text("".join(lines))
    command = ("ask", "--table", "table.jsonl", "--question-column", "question", "--output", "out.jsonl")
    result = run(*command)
    assert (result.exit_code, "errors: 4" in result.stdout) == (1, True)
    answer, *errors, other = rows_of("out.jsonl")
    assert answer["text"]
    assert other["text"] in ("yes", "no")
    expected = ("No such file", "is not an image", "too many pixels", "tokens long")
    assert all(said in row["error"] for said, row in zip(expected, errors, strict=True)), errors
    result = run(*command)
    assert (result.exit_code, result.stdout[:6]) == (1, "0 done")


def test_a_folder_with_sidecars_and_metadata_is_what_datasets_loads(photos, tmp_path):
    Path("photos/broken.png").write_bytes(b"no image")
    assert run("caption", "photos", "--sidecar", ".txt", "--metadata").exit_code == 1
    Path("photos/broken.png").unlink()
    loaded = datasets.load_dataset("imagefolder", data_dir="photos", cache_dir=tmp_path / "cache")["train"]
    assert sorted(loaded["text"]) == sorted(photos.values())
    for row in loaded:
        path = next(path for path in photos if np.array_equal(np.asarray(Image.open(path)), np.asarray(row["image"])))
        assert row["text"] == Path(path).with_suffix(".txt").read_text().strip() == photos[path]


def test_several_texts_for_each_image(photos):
    options = ("--num-beams", 3, "--num-texts", 2)
    assert run("caption", "photos", *options, "--output", "out.jsonl", "--limit", 4).exit_code == 0
    assert run("caption", "photos", *options, "--output", "out.jsonl", "--limit", 8).exit_code == 0
    rows = rows_of("out.jsonl")
    assert [row["path"] for row in rows] == [path for path in list(photos)[:8] for _ in range(2)]
    assert [row["text"] for row in rows[::2]] == list(photos.values())[:8]
    printed = run("caption", next(iter(photos)), *options).stdout.splitlines()
    assert printed == [row["text"] for row in rows[:2]]


def test_few_images_are_in_memory_however_many_there_are(photos, blip):
    read, written, most, batch = [], [], 0, 3
    content = Path(next(iter(photos))).read_bytes()

    def items():
        for number in range(60):
            yield Item(f"{number}.png", lambda: read.append(1) or content)

    class Counting:
        done = failed = frozenset()

        def write(self, rows):
            nonlocal most
            most = max(most, len(read) - len(written))
            written.extend(rows)

    summary = run_collection(Run(blip, "caption"), items(), Counting(), batch)
    assert (summary.written, len(written)) == (60, 60)
    assert batch <= most <= (pipeline.BATCHES_AHEAD + 2) * batch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("caption",), "Missing argument 'IMAGE...'"),
        (("caption", "photos"), "photos is no single file: say with --output or --sidecar"),
        (("caption", "a.png", "--limit", 3), "--limit is for texts that go to files: add --output or --sidecar"),
        (("caption", "photos", "--output", "a.csv", "--sidecar", ".txt"), "--output does not go with --sidecar"),
        (("caption", "photos", "--output", "a.csv", "--json"), "does not go with --json"),
        (("caption", "photos", "--table", "t.csv", "--output", "a.csv"), "--table does not go with IMAGE or --list"),
        (("caption", "photos", "--image-column", "x", "--output", "a.csv"), "add --table"),
        (("ask", "photos", "--output", "a.csv"), "--question-column of a --table"),
    ],
)
def test_options_that_contradict_each_other_are_named(photos, arguments, message):
    result = run(*arguments)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("photos", "--output", "a.xlsx"), "a.xlsx ends in .xlsx: give .jsonl or .csv"),
        (("photos/*.gif", "--output", "a.csv"), "photos/*.gif has no images"),
        (("-", "--output", "a.csv"), "there is no -: give an image"),
        (("photos", "--output", "a.csv", "--num-texts", 2), "num_return_sequences is 2 but num_beams is 1"),
        (("photos", "--output", "a.csv", "--prompt", "a " * 600), "the text is 602 tokens long; the model takes 512"),
    ],
)
def test_what_is_wrong_for_all_images_ends_in_one_line_before_anything_is_written(photos, arguments, message):
    result = run("caption", *arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert message in result.stderr
    assert not list(Path().glob("a.*"))


@pytest.fixture
def s3(monkeypatch) -> Iterator[None]:
    """An S3 server in a process of its own, which the environment names."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(120):
                try:
                    requests.get(address, timeout=60)
                    break
                except requests.ConnectionError:
                    time.sleep(0.5)
            else:
                pytest.skip("moto's server cannot be reached on this machine")
            yield
        finally:
            server.kill()


def test_images_of_a_bucket_are_captioned(photos, s3):
    fs = fsspec.filesystem("s3", skip_instance_cache=True)
    fs.mkdir("bucket")
    fs.put("photos", "bucket/photos", recursive=True)
    assert run("caption", "s3://bucket/photos", "s3://bucket/gone.png", "--output", "out.jsonl").exit_code == 1
    found = texts_of("out.jsonl")
    assert found.pop("s3://bucket/gone.png") is None
    assert found == {f"s3://bucket/{path}": text for path, text in photos.items()}
    assert run("caption", "s3://bucket/photos/sub/*.png", "--sidecar", ".txt", "--sidecar-folder", "t").exit_code == 0
    assert Path("t/00.txt").read_text() == f"{photos['photos/sub/00.png']}\n"
