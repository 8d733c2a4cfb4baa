"""What quantization makes: smaller files, weights that do not overflow, the same each time."""

import logging
import shutil

import numpy as np
import openvino as ov
import pytest

from blip_openvino.ir.calibration import calibration_dataset, scene_texts
from blip_openvino.ir.files import Part, load_config, read_parts, weight_sizes
from blip_openvino.ir.optimize import calibration_inputs, compress_weights, optimize
from blip_openvino.runtime.products import is_int8_product


@pytest.mark.parametrize("part", Part)
def test_int8_weights_that_meet_int8_activations_have_7_bits(quantized, part):
    """Products of 8 bits overflow where the processor has no VNNI; the decoder has such products in its projections."""
    nodes = ov.Core().read_model(quantized / part.file("INT8")).get_ordered_ops()
    products = [node for node in nodes if is_int8_product(node)]
    config = load_config(quantized)
    config = config.vision_config if part is Part.VISION_MODEL else config.text_config
    of_a_layer = {Part.VISION_MODEL: 4, Part.TEXT_ENCODER: 7, Part.TEXT_DECODER: 1}
    assert len(products) == of_a_layer[part] * config.num_hidden_layers
    for product in products:
        converted = product.input_value(1).get_node().input_value(0).get_node()
        assert np.abs(converted.input_value(0).get_node().data.astype(int)).max() <= 64


def test_every_part_is_smaller_than_in_fp16(quantized):
    sizes = weight_sizes(quantized, ["FP16", "INT8", "INT4"])
    assert all(1.8 < part["FP16"] / part["INT8"] <= 2 for part in sizes.values())  # 2 bytes a weight, and 1
    assert sizes["text decoder"]["FP16"] / sizes["text decoder"]["INT4"] > 2.5


def test_same_calibration_data_reuses_everything_and_other_data_quantizes_anew(quantized, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = shutil.copytree(quantized, tmp_path / "copy")
    optimize(folder, calibration_dataset(folder))
    assert caplog.text.count("reused") == 3
    optimize(folder, scene_texts(True, 4))
    assert caplog.text.count("making it, the one there has calibration") == 3


def test_an_empty_calibration_set_is_refused(converted, processor):
    parts = read_parts(ov.Core(), converted, load_config(converted), "FP16")
    with pytest.raises(ValueError, match="the calibration dataset is empty"):
        calibration_inputs(scene_texts(True, 0), processor, parts)


def test_unknown_weights_are_refused(converted):
    parts = read_parts(ov.Core(), converted, load_config(converted), "FP16")
    with pytest.raises(ValueError, match="weights is 'int3'; it takes 'int8' or 'int4'"):
        compress_weights(parts[Part.TEXT_DECODER], "int3")


def test_unknown_weights_are_refused_before_anything_is_written(converted, tmp_path):
    folder = shutil.copytree(converted, tmp_path / "copy")
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(ValueError, match="weights is 'fp16'; it takes 'int8' or 'int4'"):
        optimize(folder, scene_texts(True, 1), "fp16")
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_attention_of_the_text_encoder_is_not_quantized(quantized):
    nodes = ov.Core().read_model(quantized / Part.TEXT_ENCODER.file("INT8")).get_ordered_ops()
    attentions = [node for node in nodes if node.get_type_name() == "ScaledDotProductAttention"]
    config = load_config(quantized).text_config
    assert len(attentions) == 2 * config.num_hidden_layers  # to the text and to the image
    above = [node.input_value(port).get_node() for node in attentions for port in range(3)]
    while above:  # up to the products with weights, whose own tokens are quantized
        node = above.pop()
        assert node.get_type_name() != "FakeQuantize"
        above += [port.get_node() for port in node.input_values() if node.get_type_name() != "MatMul"]
