import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessorPil

from blip_openvino.runtime.processor import OVBlipProcessor, preprocess_image

BLIP_BASE = BlipImageProcessorPil(size={"height": 384, "width": 384})


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels_apart(image: Image.Image, processor=BLIP_BASE) -> float:
    """The largest difference from the processor's own pixels, in levels of 0 to 255."""
    expected = processor(image, return_tensors="np")["pixel_values"]
    found = preprocess_image(processor, image)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    return float(np.abs((found - expected) * np.reshape(processor.image_std, (3, 1, 1)) * 255).max())


@pytest.mark.parametrize("size", [(384, 384), (1024, 768), (385, 2000), (4000, 400), (800, 385)])
def test_shrunken_pixels_are_the_processors_to_within_one_level(size):
    for seed in range(4):
        assert levels_apart(noise(*size, seed)) <= 1.001


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (1, 5000), (5000, 1), (383, 1000), (300, 200)])
def test_grown_pixels_are_the_processors_to_within_one_level(size):
    assert levels_apart(noise(*size)) <= 1.001


def test_an_image_of_the_right_size_keeps_its_pixels(processor):
    assert levels_apart(noise(64, 64), processor.image_processor) < 0.001


def test_answers_and_captions_are_unchanged_on_enlarged_test_images(easy_vqa, processor, f32_model):
    """The test split's images at five times their size, as another camera would have taken them."""
    chosen = range(0, len(easy_vqa.paths), 8)
    images = [Image.open(easy_vqa.paths[row]).convert("RGB").resize((320, 300)) for row in chosen]
    expected = processor.image_processor(images, return_tensors="np")["pixel_values"]
    found = np.concatenate([preprocess_image(processor.image_processor, image) for image in images])
    assert not np.array_equal(found, expected)
    assert np.array_equal(f32_model.generate_caption(found), f32_model.generate_caption(expected))
    question = dict(processor(text="what color is the shape?", return_tensors="np"))
    for row in range(len(images)):
        answers = [f32_model.generate_answer(pixels[row : row + 1], **question) for pixels in (found, expected)]
        assert np.array_equal(*answers)


def test_other_modes_and_other_settings_are_refused():
    with pytest.raises(ValueError, match="mode is L, not RGB"):
        preprocess_image(BLIP_BASE, Image.new("L", (9, 9)))
    nearest = copy.deepcopy(BLIP_BASE)
    nearest.resample = 0
    with pytest.raises(ValueError, match="resample=0"):
        preprocess_image(nearest, noise(9, 9))


@pytest.fixture(scope="module")
def ours(converted) -> OVBlipProcessor:
    return OVBlipProcessor.from_pretrained(converted)


def test_inputs_and_texts_are_those_of_transformers(ours, processor, easy_vqa):
    texts = [question.question for question in easy_vqa.questions]
    texts += ["", "Ünïcode?!", "two  spaces", "[MASK] and [SEP]", "數字 7", "a" * 300, "what color\nis it"]
    expected = processor(text=texts, padding=True, return_tensors="np")
    found = ours(text=texts)
    for name in ("input_ids", "attention_mask"):
        assert found[name].dtype == np.int64
        assert np.array_equal(found[name], expected[name])
    for row in found["input_ids"][-40:]:
        assert ours.decode(row) == processor.decode(row, skip_special_tokens=True)
        assert ours.decode(torch.from_numpy(row)) == ours.decode(row.tolist())
    one = ours(easy_vqa.paths[0], texts[0])
    both = processor(Image.open(easy_vqa.paths[0]).convert("RGB"), texts[0], return_tensors="np")
    assert one.keys() == {"pixel_values", "input_ids", "attention_mask"}
    for name, array in one.items():
        np.testing.assert_allclose(array, both[name], atol=1e-6)


def test_several_images_are_one_batch(ours, easy_vqa):
    pixels = ours([Path(path) for path in easy_vqa.paths[:3]])["pixel_values"]
    np.testing.assert_allclose(pixels, easy_vqa.pixel_values[:3].numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "neither an image nor a text"),
        ({"text": []}, r"text is \[\]"),
        ({"images": []}, r"images is \[\]; it takes an image or several"),
        ({"text": ["a", None]}, "it takes a string or several"),
        ({"text": 7}, "text is 7"),
        ({"images": "nothing.png"}, "nothing.png"),
    ],
)
def test_what_is_no_image_or_text_is_refused(ours, given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ours(**given)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_a_damaged_or_missing_file_is_named(converted, tmp_path, name):
    folder = shutil.copytree(converted, tmp_path / "copy")
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=f"{name} is missing or not as it was saved"):
        OVBlipProcessor.from_pretrained(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing or not as it was saved"):
        OVBlipProcessor.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match=r"make one with blip_convert\.py"):
        OVBlipProcessor.from_pretrained(tmp_path)
