import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BlipImageProcessorPil

from blip_preprocess import preprocess_image

BLIP_BASE = BlipImageProcessorPil(size={"height": 384, "width": 384})


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def levels_apart(image: Image.Image, processor=BLIP_BASE) -> float:
    """The largest difference from the processor's own pixels, in levels of 0 to 255."""
    expected = processor(image, return_tensors="pt")["pixel_values"]
    found = preprocess_image(processor, image)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    std = torch.tensor(processor.image_std).view(3, 1, 1)
    return float(((found - expected) * std * 255).abs().max())


@pytest.mark.parametrize("size", [(384, 384), (1024, 768), (385, 2000), (4000, 400), (800, 385)])
def test_shrunken_pixels_are_the_processors_to_within_one_level(size):
    for seed in range(4):
        assert levels_apart(noise(*size, seed)) <= 1.001


@pytest.mark.parametrize("size", [(64, 64), (1, 1), (1, 5000), (5000, 1), (383, 1000), (300, 200)])
def test_grown_pixels_are_the_processors(size):
    assert levels_apart(noise(*size)) < 0.001


def test_an_image_of_the_right_size_keeps_its_pixels(processor):
    assert levels_apart(noise(64, 64), processor.image_processor) < 0.001


def test_answers_and_captions_are_unchanged_on_enlarged_test_images(easy_vqa, processor, f32_model):
    """The test split's images at five times their size, as another camera would have taken them."""
    chosen = range(0, len(easy_vqa.paths), 8)
    images = [Image.open(easy_vqa.paths[row]).convert("RGB").resize((320, 300)) for row in chosen]
    expected = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    found = torch.cat([preprocess_image(processor.image_processor, image) for image in images])
    assert not torch.equal(found, expected)
    assert torch.equal(f32_model.generate_caption(found), f32_model.generate_caption(expected))
    question = processor(text="what color is the shape?", return_tensors="pt")
    for row in range(len(images)):
        answers = [f32_model.generate_answer(pixels[row : row + 1], **question) for pixels in (found, expected)]
        assert torch.equal(*answers)


def test_other_modes_and_other_settings_are_refused():
    with pytest.raises(ValueError, match="mode is L, not RGB"):
        preprocess_image(BLIP_BASE, Image.new("L", (9, 9)))
    nearest = copy.deepcopy(BLIP_BASE)
    nearest.resample = 0
    with pytest.raises(ValueError, match="resample=0"):
        preprocess_image(nearest, noise(9, 9))
