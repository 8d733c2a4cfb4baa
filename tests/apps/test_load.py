"""`blip_openvino.load` and the object it gives: any kind of image in, what PyTorch says out."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EMBEDDED
from PIL import Image

import blip_openvino
from blip_openvino.apps import load as load_module
from blip_openvino.apps.blip import Answer, Blip
from blip_openvino.apps.load import load
from blip_openvino.runtime.processor import OVBlipProcessor

QUESTION = "what color is the shape?"
SEVERAL = range(20)
"""More than are read at once, and no multiple of that."""


@pytest.fixture(scope="module")
def blip(fp16_model, converted) -> Blip:
    return Blip(fp16_model, OVBlipProcessor.from_pretrained(converted))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "blip-openvino"


@pytest.fixture
def conversions(monkeypatch, converted) -> list[Path]:
    """The folders that a checkpoint is converted into, which here takes no time."""
    folders = []

    def convert(model: str | Path, folder: Path) -> None:
        folders.append(folder)
        shutil.copytree(converted, folder, dirs_exist_ok=True)

    monkeypatch.setattr(load_module, "convert_checkpoint", convert)
    return folders


def image_of(easy_vqa, index: int) -> str:
    return easy_vqa.paths[easy_vqa.image_row[index]]


def texts_of(processor, ids) -> list[str]:
    return processor.batch_decode(ids, skip_special_tokens=True)


def test_a_converted_folder_answers_with_default_settings(converted, easy_vqa):
    question = easy_vqa.questions[0]
    answer = blip_openvino.load(converted).ask(question.image_path, question.question)
    assert answer == Answer(question.answer, question.image_path, question.question)
    assert str(answer) == question.answer
    assert answer.image == question.image_path


@pytest.mark.parametrize(
    "read", [str, Path, Image.open, lambda path: np.asarray(Image.open(path)), lambda path: Path(path).read_bytes()]
)
def test_every_kind_of_image_gives_one_answer(blip, easy_vqa, read):
    question = easy_vqa.questions[0]
    assert blip.ask(read(question.image_path), question.question).text == question.answer


def test_lists_of_images_and_questions_give_what_pytorch_says(blip, easy_vqa, checkpoint, processor):
    images = [image_of(easy_vqa, index) for index in SEVERAL]
    questions = [easy_vqa.questions[index].question for index in SEVERAL]
    answers = blip.ask(images, questions)
    assert [answer.text for answer in answers] == texts_of(processor, easy_vqa.torch_answers(checkpoint, SEVERAL))
    assert [answer.image for answer in answers] == images
    assert [answer.question for answer in answers] == questions


def test_one_image_with_many_questions_is_encoded_once(blip, easy_vqa, checkpoint, processor):
    row = easy_vqa.image_row[0]
    indices = [index for index, own in enumerate(easy_vqa.image_row) if own == row] * 3
    calls = []

    def record(**inputs):
        calls.append(inputs)
        return blip.processor(**inputs)

    record.decode = blip.processor.decode
    answers = Blip(blip.model, record).ask(
        easy_vqa.paths[row], [easy_vqa.questions[index].question for index in indices]
    )
    assert [answer.text for answer in answers] == texts_of(processor, easy_vqa.torch_answers(checkpoint, indices))
    assert sum("images" in inputs for inputs in calls) == 1


def test_many_images_share_one_question_and_are_read_in_pieces(blip, easy_vqa):
    sizes = []

    def record(images=None, text=None):
        sizes.append(len(images or ()))
        return blip.processor(images, text)

    record.decode = blip.processor.decode
    images = easy_vqa.paths[:20]
    answers = Blip(blip.model, record).ask(images, QUESTION)
    assert [answer.text for answer in answers] == [blip.ask(image, QUESTION).text for image in images]
    assert sum(sizes) == 20
    assert max(sizes) == 8


def test_captions_are_those_of_pytorch(blip, easy_vqa, torch_captions, processor):
    captions = blip.caption(easy_vqa.paths[:10])
    assert [caption.text for caption in captions] == texts_of(processor, torch_captions[:10])
    assert blip.caption(easy_vqa.paths[0]) == captions[0]
    assert captions[0].question is None


def test_a_caption_goes_on_from_its_prompt_with_the_arguments_of_generate(blip, easy_vqa):
    first, second = blip.caption(easy_vqa.paths[:2], "a red", num_beams=2, max_new_tokens=1)
    assert first.text.startswith("a red")
    assert len(second.text.split()) <= 3


def test_probabilities_of_texts_are_those_of_pytorch(retrieval_checkpoint, retrieval_folder, processor, easy_vqa):
    texts = ["a red circle", "a blue triangle"]
    inputs = processor(text=texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        scores = retrieval_checkpoint(pixel_values=easy_vqa.pixel_values[[0, 0]], **inputs).itm_score
    blip = load(retrieval_folder, "CPU")
    found = blip.match(easy_vqa.paths[0], texts)
    np.testing.assert_allclose(found, scores.softmax(dim=1)[:, 1], atol=0.03)
    assert blip.match(easy_vqa.paths[0], texts[0]) == pytest.approx(found[0], abs=1e-3)


def test_nothing_in_gives_nothing_out(blip, easy_vqa):
    assert blip.ask([], QUESTION) == []
    assert blip.ask(easy_vqa.paths[0], []) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": ["a.png"] * 2, "question": ["?"] * 3}, "2 images do not go with 3 texts"),
    ],
)
def test_what_does_not_go_together_is_refused(blip, arguments, message):
    with pytest.raises(ValueError, match=message):
        blip.ask(**arguments)


def test_a_checkpoint_is_converted_once_into_the_cache(cache, conversions, easy_vqa, caplog):
    question = easy_vqa.questions[0]
    for _ in range(2):
        assert load(EMBEDDED, "CPU").ask(question.image_path, question.question).text == question.answer
    (folder,) = conversions
    assert cache in folder.parents
    assert str(folder) in caplog.text


def test_a_checkpoint_that_has_changed_is_converted_anew(cache, conversions, tmp_path):
    checkpoint = shutil.copytree(EMBEDDED, tmp_path / "mine")
    first = load_module.converted_folder(checkpoint)
    os.utime(checkpoint / "model.safetensors", (1, 1))
    assert load_module.converted_folder(checkpoint) != first


def test_an_interrupted_conversion_is_finished(cache, conversions):
    folder = load_module.converted_folder(EMBEDDED)
    (folder / "blip_text_encoder.xml").unlink()
    load(EMBEDDED, "CPU")
    assert conversions == [folder, folder]


@pytest.mark.slow
def test_precision_int8_quantizes_in_the_cache_once(cache, conversions, monkeypatch, easy_vqa):
    made, quantize = [], load_module.quantize_folder
    monkeypatch.setattr(
        load_module, "quantize_folder", lambda folder, weights: made.append(weights) or quantize(folder, weights, 8)
    )
    for _ in range(2):
        load(EMBEDDED, "CPU", "INT8").ask(easy_vqa.paths[0], QUESTION)
    assert made == ["int8"]


def test_a_name_of_the_hub_has_its_own_place_in_the_cache(cache):
    assert load_module.cache_folder("Salesforce/blip-vqa-base") == cache / "Salesforce" / "blip-vqa-base"


@pytest.mark.parametrize("path", ["/nowhere/at/all", "../nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_named(cache, path):
    with pytest.raises(FileNotFoundError, match=path):
        load(path)


def test_an_unknown_precision_is_refused_before_anything_is_converted(cache, conversions):
    with pytest.raises(ValueError, match="INT9"):
        load(EMBEDDED, precision="INT9")
    assert not conversions


@pytest.mark.parametrize("package", ["transformers", "blip_openvino.ir.convert"])
def test_without_pytorch_the_extra_is_named(cache, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r'pip install "blip-openvino\[convert\]"'):
        load(EMBEDDED)
