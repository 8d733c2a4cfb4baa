"""What is quantized, and how: told by the types of weights and by what stands before a product."""

import logging
import shutil

import datasets
import numpy as np
import openvino as ov
import pytest

from blip_openvino.ir.calibration import easy_vqa_questions
from blip_openvino.ir.easy_vqa import load_questions
from blip_openvino.ir.files import Part, load_config, read_parts, weight_sizes
from blip_openvino.ir.optimize import calibration_inputs, compress_weights, cross_attention, optimize
from blip_openvino.runtime.split import named_outputs

LAYERS = 3
PROJECTIONS = 2 * LAYERS
PRODUCTS = 10 * LAYERS + 2
"""The text decoder's, with its two products before the vocabulary's logits."""


def weights_of(product: ov.Node) -> ov.Node | None:
    """The integers that a product multiplies by, before they are scaled; None where it has no such weights."""
    node = product.input_value(1).get_node()
    while node.get_type_name() in ("Convert", "Multiply", "Reshape"):
        node = node.input_value(0).get_node()
    is_integer = node.get_type_name() == "Constant" and node.get_element_type().is_integral()
    return node if is_integer else None


def fits_7_bits(product: ov.Node) -> bool:
    weights = weights_of(product)
    return weights.get_element_type() == ov.Type.i8 and np.abs(weights.data.astype(int)).max() <= 64


def quantized_inputs(product: ov.Node) -> list[bool]:
    """Which of a product's inputs are activations in INT8."""
    return [value.get_node().get_type_name() == "FakeQuantize" for value in product.input_values()]


def products(folder, part: Part, precision: str) -> list[ov.Node]:
    nodes = ov.Core().read_model(folder / part.file(precision)).get_ordered_ops()
    return [node for node in nodes if node.get_type_name() == "MatMul"]


@pytest.mark.parametrize(("part", "count"), [(Part.VISION_MODEL, 16), (Part.TEXT_ENCODER, 10 * LAYERS)])
def test_image_and_question_are_read_with_int8_activations_and_weights_of_7_bits(quantized, part, count):
    found = [product for product in products(quantized, part, "INT8") if weights_of(product) is not None]
    assert len(found) == count
    for product in found:
        assert quantized_inputs(product)[0]
        assert fits_7_bits(product)


@pytest.mark.parametrize("precision", ["INT8", "INT4"])
def test_decoder_projects_with_int8_activations_and_compresses_the_weights_of_all_else(quantized, precision):
    found = products(quantized, Part.TEXT_DECODER, precision)
    projections = [product for product in found if quantized_inputs(product)[0]]
    steps = [product for product in found if weights_of(product) is not None and product not in projections]
    assert len(projections) == PROJECTIONS
    assert all(map(fits_7_bits, projections))
    assert len(steps) == PRODUCTS - PROJECTIONS
    types = [weights_of(product).get_element_type().get_type_name() for product in steps]
    assert {*types[:-1]} == {"i8" if precision == "INT8" else "i4"}
    assert types[-1] == "i8"  # of the vocabulary


@pytest.mark.parametrize("part", [Part.TEXT_ENCODER, Part.TEXT_DECODER])
def test_cross_attention_reads_keys_and_values_as_they_are(quantized, part):
    model = ov.Core().read_model(quantized / part.file("INT8"))
    cross = [output for name, output in named_outputs(model).items() if name.startswith("cross.")]
    readers = [reader.get_node() for output in cross for reader in output.get_target_inputs()]
    readers = [reader for reader in readers if reader.get_type_name() != "ShapeOf"]
    assert len(readers) == PROJECTIONS
    assert not any(any(quantized_inputs(reader)) for reader in readers)
    assert {name for names in cross_attention(model).values() for name in names} == {
        reader.get_friendly_name() for reader in readers
    }


def test_every_part_is_smaller_than_in_fp16(quantized):
    sizes = weight_sizes(quantized, ["FP16", "INT8", "INT4"])
    assert all(part["FP16"] / part["INT8"] > 1.8 for part in sizes.values())
    assert sizes["text decoder"]["FP16"] / sizes["text decoder"]["INT4"] > 2.5


def test_same_calibration_data_reuses_everything_and_other_data_quantizes_anew(quantized, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = shutil.copytree(quantized, tmp_path / "copy")
    optimize(folder, easy_vqa_questions())
    assert caplog.text.count("reused") == 3
    optimize(folder, easy_vqa_questions(4))
    assert caplog.text.count("making it, the one there has calibration") == 3


def test_calibration_pairs_are_of_the_training_split_and_the_same_every_time():
    dataset = easy_vqa_questions(50)
    assert {*dataset["text"]} <= {question.question for question in load_questions("train")}
    assert dataset["text"] == easy_vqa_questions(50)["text"]


def test_calibration_runs_each_image_once_and_the_decoder_looks_at_images_and_questions(converted, processor):
    pairs = easy_vqa_questions(4).to_dict()
    twice = datasets.Dataset.from_dict({name: column * 2 for name, column in pairs.items()})
    parts = read_parts(ov.Core(), converted, load_config(converted), "FP16")
    inputs = calibration_inputs(twice.cast_column("image", datasets.Image()), processor, parts)
    images = len({*pairs["image_id"]})
    assert len(inputs.vision_model) == images
    assert len(inputs.text_encoder) == 8
    assert inputs.text_encoder[0]["encoder_hidden_states"] is inputs.text_encoder[4]["encoder_hidden_states"]
    assert len(inputs.text_decoder) == images + 8
    read = ov.Core().compile_model(parts[Part.TEXT_ENCODER], "CPU")(inputs.text_encoder[0])["last_hidden_state"]
    np.testing.assert_allclose(inputs.text_decoder[images]["encoder_hidden_states"], read, atol=1e-3)


def test_empty_calibration_set_and_unknown_weights_are_refused(converted, processor):
    parts = read_parts(ov.Core(), converted, load_config(converted), "FP16")
    with pytest.raises(ValueError, match="the calibration dataset is empty"):
        calibration_inputs(easy_vqa_questions(0), processor, parts)
    with pytest.raises(ValueError, match="weights is 'int3'; it takes 'int8' or 'int4'"):
        compress_weights(parts[Part.TEXT_DECODER], "int3")
