"""The text encoder gives without keys and values what it gives with them, and does without where that costs less."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, in_openvino, random_model
from transformers import BlipConfig, BlipForImageTextRetrieval

from blip_model import OVBlipModel
from blip_openvino.apps.blip import Blip
from blip_openvino.apps.collections.pipeline import Run, rows_of
from blip_openvino.apps.collections.sources import Item
from blip_openvino.evaluate.check import TOLERANCES, check_model, largest_error
from blip_openvino.ir.convert import convert_text_encoder, convert_vision_model
from blip_openvino.ir.files import Part
from blip_openvino.runtime.device import compile_parts
from blip_openvino.runtime.encoded import TOKENS, UNPROJECTED_TOKENS, EncodedImages, EncoderTokens, TextModel
from blip_openvino.runtime.split import keys_and_values
from blip_openvino.runtime.unprojected import attend_unprojected


def texts(images: int, about_each: int, length: int, vocabulary: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Drawn texts of different lengths, padded at their ends: ids and mask [images · about_each, length]."""
    draw = np.random.default_rng(length)
    mask = np.arange(length) < draw.integers(1, length + 1, (images * about_each, 1))
    return draw.integers(5, vocabulary, mask.shape) * mask, mask.astype(np.int64)


def test_both_ways_are_one_in_float32(projected):
    model, draw, images = in_openvino(random_model(1)), np.random.default_rng(1), 3
    projected.clear()
    tokens = draw.standard_normal((images, 7, model.config.vision_config.hidden_size))
    given = texts(images, 2, 5)
    hidden = draw.random((images, 7)) < 0.3
    hidden[:, 0] = False
    looked, kept = (EncoderTokens(tokens, ~hidden, reused) for reused in (False, True))
    found = model.read_texts(looked, *given)["last_hidden_state"]
    assert projected == []
    expected = model.read_texts(kept, *given)["last_hidden_state"]
    assert projected == [(model.text_encoder, images)]
    np.testing.assert_allclose(found[given[1] > 0], expected[given[1] > 0], atol=2e-5)


def test_both_ways_are_as_near_as_the_precision(model, easy_vqa):
    pixel_values, batch = easy_vqa.images(easy_vqa.sample[:20]), easy_vqa.batch(easy_vqa.sample[:20])
    ids, mask = batch["input_ids"].numpy(), batch["attention_mask"].numpy()
    found, expected = (
        model.read_texts(model.encode_images(pixel_values, reused), ids, mask)["last_hidden_state"]
        for reused in (False, True)
    )
    assert not np.array_equal(found, expected)  # two ways
    assert largest_error(found[mask > 0], expected[mask > 0]) < TOLERANCES[model.precision]


@pytest.mark.parametrize("element_type", [ov.Type.f32, ov.Type.bf16], ids=str)
def test_matrices_are_held_once_more_in_the_type_that_is_multiplied_in(converted, element_type):
    model = ov.Core().read_model(converted / Part.TEXT_ENCODER.file())
    before = {node.get_friendly_name() for node in model.get_ordered_ops()}
    attend_unprojected(model, element_type)
    added = [node for node in model.get_ordered_ops() if node.get_friendly_name() not in before]
    matrices = [node for node in added if node.get_type_name() == "Constant" and node.data.size > 1000]
    assert len(matrices) == 2 * len(keys_and_values(model))
    assert {node.get_output_element_type(0) for node in matrices} == {element_type}


def test_matching_is_exact_with_an_image_wider_than_the_text(tmp_path, projected):
    torch.manual_seed(0)
    vision = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 3}
    text = {"hidden_size": 32, "encoder_hidden_size": 48, "intermediate_size": 64, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 2, "vocab_size": 90, "initializer_range": 0.3}
    config = BlipConfig(vision_config=vision | {"image_size": 32, "patch_size": 8}, text_config=text)
    checkpoint = BlipForImageTextRetrieval(config).eval()  # with biases of 0, which conversion leaves out
    parts = {
        Part.VISION_MODEL: convert_vision_model(checkpoint.vision_model, checkpoint.vision_proj),
        Part.TEXT_ENCODER: convert_text_encoder(checkpoint.text_encoder, checkpoint),
    }
    compiled = compile_parts(ov.Core(), parts, "CPU", "FP16", F32)
    model = OVBlipModel(config, 0, *compiled.values(), None)
    pixels, (ids, mask) = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32), texts(4, 1, 6)
    projected.clear()
    found = model.match(pixels, ids, mask)
    assert projected == []
    np.testing.assert_allclose(found, model.match(model.encode_images(pixels), ids, mask), atol=2e-5)
    assert projected == [(model.text_encoder, 4)]
    assert np.ptp(found) > 0.01


def test_first_rows_may_do_without_while_the_others_read_keys_and_values(f32_model, easy_vqa):
    encoder, images = f32_model.text_encoder, f32_model.encode_images(easy_vqa.pixel_values[:5])
    ids, mask = texts(5, 2, 6)
    expected = f32_model.read_texts(images, ids, mask)["last_hidden_state"]
    request = images[2:].request(encoder, text_tokens=UNPROJECTED_TOKENS + 1)
    request.set_tensor(TOKENS, encoder.token_inputs(images.hidden_states[:2])[TOKENS])
    request.set_tensor("encoder_attention_mask", ov.Tensor(images.attention_mask))
    found = request.infer({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=2e-5)


def test_an_image_is_projected_for_more_than_few_tokens_or_if_more_is_to_come(fp16_model, easy_vqa, projected):
    pixels = easy_vqa.pixel_values[:2]
    ones = np.ones((1, UNPROJECTED_TOKENS), np.int64)

    def projects(images: EncodedImages, ids: np.ndarray) -> bool:
        projected.clear()
        fp16_model.read_texts(images, ids, np.ones_like(ids))
        return projected == [(fp16_model.text_encoder, len(images))]

    once = fp16_model.encode_images(pixels[:1], reused=False)
    assert not projects(once, ones)
    assert not projects(once, ones)
    assert projects(once, np.ones((1, UNPROJECTED_TOKENS + 1), np.int64))
    assert not projects(once, np.ones((1, UNPROJECTED_TOKENS + 1), np.int64))  # made before
    assert not projects(fp16_model.encode_images(pixels, reused=False), np.repeat(ones, 2, axis=0))
    assert projects(fp16_model.encode_images(pixels[:1], reused=False), np.repeat(ones, 2, axis=0))
    assert projects(fp16_model.encode_images(pixels[:1]), ones[:, :1])
    assert not projects(fp16_model.encode_images(pixels)[1:], ones)


def test_one_short_question_about_pixels_makes_no_keys_and_values_of_them(fp16_model, easy_vqa, projected):
    pixels, batch = easy_vqa.images(easy_vqa.sample[:3]), easy_vqa.batch(easy_vqa.sample[:3])
    fp16_model.generate_answer(pixels, **batch)
    assert projected == [(fp16_model.text_decoder, 3)]  # of the questions
    projected.clear()
    fp16_model.generate_answer(pixels[:1], **easy_vqa.batch(easy_vqa.sample[:20]))
    assert projected == [(fp16_model.text_encoder, 1), (fp16_model.text_decoder, 20)]


def test_files_are_read_without_keys_and_values_for_one_question_and_not_for_many(
    fp16_model, ours, easy_vqa, projected
):
    blip, question = Blip(fp16_model, ours), "what color is the shape?"
    blip.ask(easy_vqa.paths[0], question)
    blip.ask(easy_vqa.paths[:3], question)
    assert fp16_model.text_encoder not in dict(projected)
    blip.ask(easy_vqa.paths[0], [question] * 4)
    assert [rows for model, rows in projected if model is fp16_model.text_encoder] == [1]


@pytest.mark.parametrize(("numbers", "expected"), [([1, 1], 0), ([3, 1], 0), ([3, 3], 1)], ids=str)
def test_a_collection_makes_keys_and_values_of_images_that_all_have_many_questions(
    fp16_model, ours, easy_vqa, projected, numbers, expected
):
    items = [
        Item(path, Path(path).read_bytes, f"is there {number} circle?")
        for path, count in zip(easy_vqa.paths, numbers, strict=False)
        for number in range(count)
    ]
    run = Run(Blip(fp16_model, ours), "ask")
    projected.clear()
    assert sum(map(len, rows_of(run, items, batch=2))) == sum(numbers)
    assert [rows for model, rows in projected if model is fp16_model.text_encoder] == [2] * expected


def test_the_check_reads_each_question_once_without_keys_and_values(fp16_model, converted, monkeypatch):
    found, give = [], TextModel.token_inputs
    monkeypatch.setattr(TextModel, "token_inputs", lambda self, states: found.append(len(states)) or give(self, states))
    report = check_model(fp16_model, converted, "CPU")
    assert report.passed
    assert found == [18]  # six images, three questions
    assert [row.part for row in report.rows if row.way == "each question once"] == ["answers"]
