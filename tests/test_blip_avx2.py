"""Models as they are rewritten for AVX2; on other processors they give the same, a little slower."""

import re
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from openvino import opset13 as opset
from test_blip_device import NO_INT8
from torch.nn.functional import scaled_dot_product_attention

from blip_model import OVBlipModel
from blip_openvino.evaluate.accuracy import answer_questions, exact_match
from blip_openvino.ir.easy_vqa import load_questions
from blip_openvino.ir.files import TEXT_DECODER, TEXT_ENCODER, VISION_MODEL, quantized_name
from blip_openvino.ir.optimize import easy_vqa_calibration, optimize
from blip_openvino.runtime import device as blip_device
from blip_openvino.runtime.avx2 import int8_products, products_as_convolutions, products_by_mlas
from blip_openvino.runtime.device import cpu_features
from blip_openvino.runtime.processor import OVBlipProcessor
from blip_openvino.runtime.split import kept_projections

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.fixture(scope="module")
def quantized(converted, tmp_path_factory):
    folder = shutil.copytree(converted, tmp_path_factory.mktemp("avx2") / "blip-easy-vqa")
    return optimize(folder, easy_vqa_calibration(50))


def int8_product(weights: np.ndarray, highest: float) -> ov.Model:
    """Tokens [B, T, in], quantized to 0 ... `highest`, by weights [out, in] of a scale of 0.5."""
    tokens = opset.parameter([-1, -1, weights.shape[1]], ov.Type.f32)
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


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 2, 3, 1]])
def test_bias_and_heads_are_those_of_the_product(order):
    draw = np.random.default_rng(1)
    weights, bias = 2 * draw.integers(-60, 61, (24, 48), dtype=np.int8), draw.normal(size=(1, 1, 24)).astype(np.float16)
    tokens = draw.integers(0, 256, (2, 7, 48)).astype(np.float32)
    model = int8_product(weights, 255)
    [result] = model.get_results()
    biased = opset.add(result.input_value(0), opset.convert(opset.constant(bias), "f32"))
    heads = opset.reshape(biased, opset.constant([0, 0, 3, 8]), special_zero=True)
    result.input(0).replace_source_output(opset.transpose(heads, opset.constant(order)).output(0))
    products_as_convolutions(model)
    [divided] = ov.Core().compile_model(model, "CPU", F32)(tokens).values()
    expected = (tokens @ weights.T * 0.5 + bias.astype(np.float32)).reshape(2, 7, 3, 8).transpose(order)
    np.testing.assert_allclose(divided, expected, rtol=1e-5, atol=1e-3)
    assert types_above(result) == ["Transpose", "Reshape", "Add", "Convolution"]


def types_above(node: ov.Node) -> list[str]:
    """The types of what `node` gets its input from, up to a convolution."""
    types: list[str] = []
    while types[-1:] != ["Convolution"]:
        node = node.input_value(0).get_node()
        types.append(node.get_type_name())
    return types


@pytest.mark.parametrize("length", [-1, 7])
def test_queries_keys_and_values_by_three_convolutions_are_those_of_one_product(length):
    draw = np.random.default_rng(2)
    weights, bias = 2 * draw.integers(-1, 2, (24, 16), dtype=np.int8), draw.normal(size=(1, 1, 24)).astype(np.float16)
    tokens = draw.integers(0, 256, (1, 7, 16)).astype(np.float32) / 255
    model = int8_product(weights, 1)
    model.reshape([1, length, 16])
    [result] = model.get_results()
    biased = opset.add(result.input_value(0), opset.convert(opset.constant(bias), "f32"))
    shaped = opset.reshape(biased, opset.constant([1, length, 3, 2, 4]), special_zero=False)
    turned = opset.transpose(shaped, opset.constant([2, 0, 3, 1, 4]))
    parts = [opset.gather(turned, opset.constant(index), opset.constant(0)) for index in range(3)]
    attention = opset.scaled_dot_product_attention(*parts, None, None, False)
    result.input(0).replace_source_output(attention.output(0))
    products_as_convolutions(model)
    types = [node.get_type_name() for node in model.get_ordered_ops()]
    assert (types.count("Convolution"), types.count("Gather")) == (3, 0)
    [found] = ov.Core().compile_model(model, "CPU", F32)(tokens).values()
    projected = torch.tensor(tokens @ weights.T * 0.5 + bias.astype(np.float32))
    expected = scaled_dot_product_attention(*projected.view(1, 7, 3, 2, 4).permute(2, 0, 3, 1, 4))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("part", [VISION_MODEL, TEXT_ENCODER, TEXT_DECODER])
def test_every_int8_product_becomes_a_convolution_and_nothing_else_stays_quantized(quantized, part):
    model = ov.Core().read_model(quantized / quantized_name(part))
    products = len(int8_products(model))
    before = sum(node.get_type_name() == "Convolution" for node in model.get_ordered_ops())
    layers = sum(node.get_type_name() == "ScaledDotProductAttention" for node in model.get_ordered_ops())
    assert products > 3
    products_as_convolutions(model)
    after = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    for node in kept_projections(model).values():  # nothing is transposed but what the state wants in another order
        assert types_above(node) == ["Transpose", "Reshape", "Add", "Convolution"]
    parted = 2 * layers if part == VISION_MODEL else 0  # each layer's queries, keys and values were one product
    assert len(after) == before + products + parted
    for node in model.get_ordered_ops():
        if node.get_type_name() == "MatMul":
            assert "FakeQuantize" not in {port.get_node().get_type_name() for port in node.input_values()}


def test_float_models_stay_as_they_are(converted):
    model = ov.Core().read_model(converted / TEXT_ENCODER)
    before = [node.get_type_name() for node in model.get_ordered_ops()]
    products_as_convolutions(model)
    assert [node.get_type_name() for node in model.get_ordered_ops()] == before


@pytest.mark.parametrize("part", [VISION_MODEL, TEXT_ENCODER, TEXT_DECODER])
def test_products_with_the_tokens_of_images_get_float32_weights_and_no_others(converted, part):
    model = ov.Core().read_model(converted / part)
    products_by_mlas(model)
    found = {node.get_friendly_name(): node.input_value(1).get_node() for node in products_with_weights(model)}
    crossing = re.compile("" if part == VISION_MODEL else r"crossattention.*\.(key|value)/")
    expected = {name for name in found if crossing.search(name)}
    assert len(expected) > 3
    assert {name for name, weights in found.items() if weights.get_type_name() == "Constant"} == expected


def products_with_weights(model: ov.Model) -> list[ov.Node]:
    """All matrix products of a converted part but those of attention, which multiply what was computed before."""
    products = [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]
    return [node for node in products if node.input_value(1).get_node().get_type_name() in ("Constant", "Convert")]


def test_no_gelu_is_merged_into_a_product(converted):
    layers = float_products(converted, "originalLayersNames")
    assert layers
    assert [names for names in layers if "gelu" in names.lower()] == []


@pytest.mark.skipif(cpu_features().get("avx512_f", True), reason="which kernels OpenVINO takes is known for AVX2 only")
def test_float_products_are_computed_by_mlas(converted):
    kernels = float_products(converted, "primitiveType")
    assert kernels
    assert set(kernels) == {"gemm_mlas_f32"}


def float_products(converted: Path, key: str) -> list[str]:
    """What OpenVINO reports under `key` of every product with weights that it runs in the rewritten vision model."""
    core = ov.Core()
    model = core.read_model(converted / VISION_MODEL)
    products_by_mlas(model)
    nodes = core.compile_model(model, "CPU", F32).get_runtime_model().get_ordered_ops()
    infos = [node.get_rt_info() for node in nodes]
    return [info[key].astype(str) for info in infos if info["layerType"].astype(str) == "FullyConnected"]


@pytest.mark.parametrize("part", [VISION_MODEL, TEXT_ENCODER])
def test_float_products_stay_the_same(converted, part):
    core, found = ov.Core(), []
    for rewrite in (lambda model: None, products_by_mlas):
        model = core.read_model(converted / part)
        rewrite(model)
        found.append(core.compile_model(model, "CPU", F32)(random_inputs(model))[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)


def random_inputs(model: ov.Model) -> dict[str, np.ndarray]:
    """Floats of a normal distribution and integers of one: for dynamic sizes one row of five tokens."""
    draw, inputs = np.random.default_rng(3), {}
    for port in model.inputs:
        sizes = [(1, 5)[axis] if size.is_dynamic else size.get_length() for axis, size in enumerate(port.partial_shape)]
        is_float = port.element_type == ov.Type.f32
        inputs[port.any_name] = draw.normal(size=sizes).astype(np.float32) if is_float else np.ones(sizes, np.int64)
    return inputs


@pytest.mark.parametrize(
    ("precision", "other"), [("INT8", {"avx512_vnni": True}), ("FP16", {"avx512_f": True})], ids=["INT8", "FP16"]
)
def test_answers_do_not_depend_on_the_instructions(monkeypatch, quantized, precision, other):
    questions = load_questions("test")[::10]
    answers, processor = [], OVBlipProcessor.from_pretrained(quantized)
    for features in (NO_INT8, NO_INT8 | other):
        monkeypatch.setattr(blip_device, "cpu_features", lambda features=features: features)
        answers.append(answer_questions(OVBlipModel.from_pretrained(quantized, "CPU", precision), processor, questions))
    assert exact_match(*answers).rate >= 0.99
