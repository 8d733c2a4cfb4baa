"""Looking at an image's tokens as they are gives what its keys and values give, and is done where it costs less."""

import numpy as np
import openvino as ov
import pytest
from conftest import in_openvino, random_model

from blip_openvino.evaluate.check import TOLERANCES, largest_error
from blip_openvino.runtime.encoded import LOOKING_TOKENS, TOKENS, EncodedImages, TextModel


@pytest.fixture
def projected(monkeypatch) -> list[TextModel]:
    """Which text models have made keys and values."""
    models, project = [], TextModel.project
    monkeypatch.setattr(TextModel, "project", lambda self, states: models.append(self) or project(self, states))
    return models


def texts(images: int, about_each: int, length: int, vocabulary: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Drawn texts of different lengths, padded at their ends: ids and mask [images · about_each, length]."""
    draw = np.random.default_rng(length)
    mask = np.arange(length) < draw.integers(1, length + 1, (images * about_each, 1))
    return draw.integers(5, vocabulary, mask.shape) * mask, mask.astype(np.int64)


@pytest.mark.parametrize("seed", range(8))
def test_looking_is_exact_in_float32(seed, projected):
    model = in_openvino(random_model(seed))  # float32, with heads and widths of its own
    projected.clear()
    draw = np.random.default_rng(seed)
    images, about_each, length = draw.integers(1, 4, 3)
    tokens = draw.standard_normal((images, 7, model.config.vision_config.hidden_size))
    given = texts(images, about_each, length)
    looked, kept = (EncodedImages(model.vision_model, tokens, reused=reused) for reused in (False, True))
    found = model.read_texts(looked, *given)["last_hidden_state"]
    assert projected == []
    expected = model.read_texts(kept, *given)["last_hidden_state"]
    assert projected == [model.text_encoder]
    np.testing.assert_allclose(found[given[1] > 0], expected[given[1] > 0], atol=2e-5)


def test_looking_is_as_near_as_the_precision(model, easy_vqa):
    pixel_values, batch = easy_vqa.images(easy_vqa.sample[:20]), easy_vqa.batch(easy_vqa.sample[:20])
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    found, expected = (
        model.read_texts(model.encode_images(pixel_values, reused), ids, mask)["last_hidden_state"]
        for reused in (False, True)
    )
    assert not np.array_equal(found, expected)  # two ways
    assert largest_error(found[mask > 0], expected[mask > 0]) < TOLERANCES[model.precision]


def test_first_rows_may_look_while_the_others_read_keys_and_values(f32_model, easy_vqa):
    encoder, images = f32_model.text_encoder, f32_model.encode_images(easy_vqa.pixel_values[:5])
    ids, mask = texts(5, 2, 6)
    expected = f32_model.read_texts(images, ids, mask)["last_hidden_state"]
    request = images[2:].request(encoder, text_tokens=LOOKING_TOKENS + 1)
    request.set_tensor(TOKENS, encoder.look(images.hidden_states[:2])[TOKENS])
    request.set_tensor("encoder_attention_mask", ov.Tensor(images.attention_mask))
    found = request.infer({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=2e-5)


def test_an_image_is_projected_for_more_than_few_tokens_or_if_more_is_to_come(fp16_model, easy_vqa, projected):
    pixels = easy_vqa.pixel_values[:2]
    ones = np.ones((1, LOOKING_TOKENS), np.int64)

    def projects(images: EncodedImages, ids: np.ndarray) -> bool:
        projected.clear()
        fp16_model.read_texts(images, ids, np.ones_like(ids))
        return projected == [fp16_model.text_encoder]

    once = fp16_model.encode_images(pixels[:1], reused=False)
    assert not projects(once, ones)
    assert not projects(once, ones)
    assert projects(once, np.ones((1, LOOKING_TOKENS + 1), np.int64))
    assert not projects(once, np.ones((1, LOOKING_TOKENS + 1), np.int64))  # made before
    assert not projects(fp16_model.encode_images(pixels, reused=False), np.repeat(ones, 2, axis=0))
    assert projects(fp16_model.encode_images(pixels[:1], reused=False), np.repeat(ones, 2, axis=0))
    assert projects(fp16_model.encode_images(pixels[:1]), ones[:, :1])
    assert not projects(fp16_model.encode_images(pixels)[1:], ones)


def test_one_short_question_about_pixels_makes_no_keys_and_values_of_them(fp16_model, easy_vqa, projected):
    pixels, batch = easy_vqa.images(easy_vqa.sample[:3]), easy_vqa.batch(easy_vqa.sample[:3])
    fp16_model.generate_answer(pixels, **batch)
    assert projected == [fp16_model.text_decoder]  # of the questions
    projected.clear()
    fp16_model.generate_answer(pixels[:1], **easy_vqa.batch(easy_vqa.sample[:20]))
    assert projected == [fp16_model.text_encoder, fp16_model.text_decoder]
