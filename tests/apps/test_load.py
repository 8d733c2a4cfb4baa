"""`blip_openvino.load` and the object it gives: any kind of image in, what PyTorch says out."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import EMBEDDED, check_report
from PIL import Image

import blip_openvino
from blip_openvino.apps import load as load_module
from blip_openvino.apps.blip import Answer, Blip
from blip_openvino.apps.load import converted_folder, load

QUESTION = "what color is the shape?"


@pytest.fixture(scope="module")
def blip(fp16_model, ours) -> Blip:
    return Blip(fp16_model, ours)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blip-openvino"


@pytest.fixture
def conversions(cache, monkeypatch, converted) -> list[Path]:
    """The folders that a checkpoint is converted into, which here takes no time, with a check that does not pass."""
    folders = []

    def convert(model: str | Path, folder: Path) -> None:
        folders.append(folder)
        shutil.copytree(converted, folder, dirs_exist_ok=True)

    monkeypatch.setattr(load_module, "convert_checkpoint", convert)
    monkeypatch.setattr(load_module, "check_folder", lambda folder, precision: check_report(passed=False))
    return folders


@pytest.fixture
def encoded(monkeypatch, fp16_model) -> list[int]:
    """How many images each call has encoded."""
    counts, encode_images = [], fp16_model.encode_images

    def counting(pixel_values, reused=True):
        if isinstance(pixel_values, np.ndarray):
            counts.append(len(pixel_values))
        return encode_images(pixel_values, reused)

    monkeypatch.setattr(fp16_model, "encode_images", counting)
    return counts


def test_a_converted_folder_answers_with_default_settings(converted, easy_vqa):
    question = easy_vqa.questions[0]
    answer = blip_openvino.load(converted).ask(question.image_path, question.question)
    assert answer == Answer(question.answer, question.image_path, question.question)
    assert str(answer) == question.answer


@pytest.mark.parametrize(
    "read", [str, Path, Image.open, lambda path: np.asarray(Image.open(path)), lambda path: Path(path).read_bytes()]
)
def test_every_kind_of_image_gives_one_answer(blip, easy_vqa, read):
    question = easy_vqa.questions[0]
    assert blip.ask(read(question.image_path), question.question).text == question.answer


def test_lists_of_images_and_questions_give_what_pytorch_says(blip, easy_vqa, checkpoint):
    asked = easy_vqa.questions[:20]
    images, questions = [each.image_path for each in asked], [each.question for each in asked]
    answers = blip.ask(images, questions)
    assert [answer.text for answer in answers] == easy_vqa.texts(easy_vqa.torch_answers(checkpoint, range(20)))
    assert [answer.image for answer in answers] == images
    assert [answer.question for answer in answers] == questions


def test_one_image_with_many_questions_is_encoded_once(blip, easy_vqa, checkpoint, encoded):
    row = easy_vqa.image_row[0]
    indices = [index for index, own in enumerate(easy_vqa.image_row) if own == row] * 3
    answers = blip.ask(easy_vqa.paths[row], [easy_vqa.questions[index].question for index in indices])
    assert [answer.text for answer in answers] == easy_vqa.texts(easy_vqa.torch_answers(checkpoint, indices))
    assert encoded == [1]


def test_many_images_share_one_question_and_are_read_in_pieces(blip, easy_vqa, encoded):
    images = easy_vqa.paths[:20]  # more than are read at once, and no multiple of that
    answers = blip.ask(images, QUESTION)
    assert encoded == [8, 8, 4]
    assert [answer.text for answer in answers] == [blip.ask(image, QUESTION).text for image in images]


def test_images_encoded_together_are_asked_as_they_were_one_by_one(blip, easy_vqa, encoded):
    paths = easy_vqa.paths[:10]  # more than are worked off at once
    questions = ["is there a circle?", QUESTION] * 5
    expected = blip.ask(paths, questions), blip.caption(paths)
    images = blip.encode_images(paths)
    encoded.clear()
    assert (blip.ask(images, questions), blip.caption(images)) == expected
    assert [answer.text for answer in blip.ask(images[:3], QUESTION)] == [
        blip.ask(path, QUESTION).text for path in paths[:3]
    ]
    assert encoded == [1, 1, 1]


def test_captions_are_those_of_pytorch(blip, captions):
    found = blip.caption([*captions])
    assert [each.text for each in found] == [*captions.values()]
    assert blip.caption(next(iter(captions))) == found[0]


def test_probabilities_are_those_of_the_model(retrieval_folder, easy_vqa):
    blip, path, texts = load(retrieval_folder, "CPU"), easy_vqa.paths[0], ["a red circle", "a blue triangle"]
    found = blip.match(path, texts)
    assert found == pytest.approx(blip.model.match(**blip.processor([path] * 2, texts)), abs=1e-3)
    assert blip.match(path, texts[0]) == pytest.approx(found[0], abs=1e-3)


def test_nothing_in_gives_nothing_out(blip, easy_vqa):
    assert blip.ask([], QUESTION) == []
    assert blip.ask(easy_vqa.paths[0], []) == []


def test_what_does_not_go_together_is_refused(blip):
    with pytest.raises(ValueError, match="2 images do not go with 3 texts"):
        blip.ask(["a.png"] * 2, ["?"] * 3)


def test_a_checkpoint_is_converted_once_into_the_cache_which_is_said(cache, conversions, easy_vqa, caplog):
    question = easy_vqa.questions[0]
    for _ in range(2):
        assert load(EMBEDDED, "CPU").ask(question.image_path, question.question).text == question.answer
    (folder,) = conversions
    assert cache in folder.parents
    assert f"{EMBEDDED} is converted once into {folder}" in caplog.text
    assert f"{folder} at FP16 does not say what PyTorch says" in caplog.text


def test_a_checkpoint_that_has_changed_is_converted_anew(conversions, tmp_path):
    checkpoint = shutil.copytree(EMBEDDED, tmp_path / "mine")
    first = converted_folder(checkpoint)
    os.utime(checkpoint / "model.safetensors", (1, 1))
    assert converted_folder(checkpoint) != first


def test_an_interrupted_conversion_is_finished(conversions):
    folder = converted_folder(EMBEDDED)
    (folder / "blip_text_encoder.xml").unlink()
    assert converted_folder(EMBEDDED) == folder
    assert conversions == [folder, folder]


def test_precision_int8_quantizes_in_the_cache_once(conversions, monkeypatch, quantized, caplog):
    made = []

    def quantize(folder: Path, weights: str) -> None:
        made.append(weights)
        shutil.copytree(quantized, folder, dirs_exist_ok=True)

    monkeypatch.setattr(load_module, "quantize_folder", quantize)
    for _ in range(2):
        assert load(EMBEDDED, "CPU", "INT8").model.precision == "INT8"
    assert made == ["int8"]
    assert "at INT8 does not say what PyTorch says" in caplog.text


@pytest.mark.parametrize("path", ["/nowhere/at/all", "../nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(path):
    with pytest.raises(FileNotFoundError, match=path):
        load(path)


def test_an_unknown_precision_is_refused_before_anything_is_converted(conversions):
    with pytest.raises(ValueError, match="INT9"):
        load(EMBEDDED, precision="INT9")
    assert not conversions
