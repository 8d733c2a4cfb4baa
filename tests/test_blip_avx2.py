"""INT8 as CPUs without 8-bit instructions compute it; on others the rewritten graph gives the same, a little slower."""

import shutil

import numpy as np
import openvino as ov
import pytest
from openvino import opset13 as opset
from test_blip_device import NO_INT8

import blip_device
from blip_accuracy import agreement, answer_questions
from blip_avx2 import is_int8_product, products_as_convolutions
from blip_files import TEXT_DECODER, TEXT_ENCODER, VISION_MODEL, quantized_name
from blip_model import OVBlipModel
from blip_optimize import easy_vqa_calibration, optimize
from easy_vqa_data import load_questions

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def quantized(converted, tmp_path_factory):
    folder = shutil.copytree(converted, tmp_path_factory.mktemp("avx2") / "blip-easy-vqa")
    return optimize(folder, easy_vqa_calibration(50))


def int8_product(weights: np.ndarray, highest: float) -> ov.Model:
    """Tokens [1, T, in], quantized to 0 ... `highest`, by weights [out, in] of a scale of 0.5."""
    tokens = opset.parameter([1, -1, weights.shape[1]], ov.Type.f32)
    low, high = opset.constant(np.float32(0)), opset.constant(np.float32(highest))
    scaled = opset.multiply(
        opset.convert(opset.constant(weights), "f32"), opset.constant(np.full((len(weights), 1), 0.5, np.float32))
    )
    quantizer = opset.fake_quantize(tokens, low, high, low, high, 256)
    return ov.Model([opset.matmul(quantizer, scaled, False, True)], [tokens])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_numbers_are_not_cut_off(sign):
    """AVX2 adds pairs of products in 16 bits; a matrix product of these numbers comes out at half its size there."""
    model = int8_product(np.full((8, 64), 127 * sign, np.int8), 255)
    products_as_convolutions(model)
    [product] = ov.Core().compile_model(model, "CPU", F32)(np.full((1, 3, 64), 255, np.float32)).values()
    np.testing.assert_allclose(product, sign * 255 * 128 * 64 / 2, rtol=1e-6)  # 127 has become twice 64


def test_a_convolution_gives_what_the_product_does():
    draw = np.random.default_rng(0)
    weights = 2 * draw.integers(-60, 61, (24, 48), dtype=np.int8)  # even ones lose nothing
    tokens = draw.integers(0, 256, (1, 7, 48)).astype(np.float32)
    model = int8_product(weights, 255)
    products_as_convolutions(model)
    assert [node.get_type_name() for node in model.get_ops()].count("Convolution") == 1
    [product] = ov.Core().compile_model(model, "CPU", F32)(tokens).values()
    np.testing.assert_allclose(product, tokens @ weights.T * 0.5, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("part", [VISION_MODEL, TEXT_ENCODER, TEXT_DECODER])
def test_every_int8_product_becomes_a_convolution_and_nothing_else_stays_quantized(quantized, part):
    model = ov.Core().read_model(quantized / quantized_name(part))
    products = sum(map(is_int8_product, model.get_ordered_ops()))
    before = sum(node.get_type_name() == "Convolution" for node in model.get_ordered_ops())
    assert products > 3
    products_as_convolutions(model)
    after = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    assert len(after) == before + products
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            assert "FakeQuantize" not in {port.get_node().get_type_name() for port in node.input_values()}


def test_float_models_stay_as_they_are(converted):
    model = ov.Core().read_model(converted / TEXT_ENCODER)
    before = [node.get_type_name() for node in model.get_ordered_ops()]
    products_as_convolutions(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == before


def test_answers_do_not_depend_on_the_instructions(monkeypatch, quantized, processor):
    questions = load_questions("test")[::10]
    answers = {}
    for vnni in (False, True):
        features = NO_INT8 | {"avx512_vnni": vnni}
        monkeypatch.setattr(blip_device, "cpu_features", lambda features=features: features)
        answers[vnni] = answer_questions(OVBlipModel.from_pretrained(quantized, "CPU", "INT8"), processor, questions)
    assert agreement(answers[False], answers[True]).rate >= 0.99
