"""What is chosen for a device: properties, rewritings, and clear errors where it cannot run the model."""

import platform
import re
import shutil
from types import SimpleNamespace

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32
from openvino import opset13 as opset
from openvino.properties.hint import PerformanceMode

from blip_model import OVBlipModel
from blip_openvino.ir.files import Part
from blip_openvino.runtime import device as devices
from blip_openvino.runtime.device import compile_properties, cpu_flags, inference_type
from blip_openvino.runtime.products import (
    products_as_convolutions,
    products_by_mlas,
    rounded_to_bf16,
    without_zero_points,
)

GROUP = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}
VISION, TEXT_ENCODER, TEXT_DECODER = Part


def fake_core(capabilities=("FP32",), hint=ov.Type.bf16) -> SimpleNamespace:
    return SimpleNamespace(get_property=lambda _, name: hint if name.endswith("HINT") else list(capabilities))


@pytest.mark.parametrize(
    ("device", "part", "precision", "wishes", "expected"),
    [
        ("CPU", TEXT_DECODER, "INT8", {}, GROUP | F32),
        (
            "CPU",
            TEXT_DECODER,
            "INT4",
            {"INFERENCE_PRECISION_HINT": "bf16"},
            GROUP | {"INFERENCE_PRECISION_HINT": "bf16"},
        ),
        ("CPU", TEXT_DECODER, "FP16", {}, {}),
        ("CPU", VISION, "INT8", {}, {}),
        ("GPU", TEXT_DECODER, "INT8", {}, {}),
        ("CPU", VISION, "FP16", {"PERFORMANCE_HINT": "THROUGHPUT"}, {"PERFORMANCE_HINT": "THROUGHPUT"}),
        ("CPU", TEXT_ENCODER, "FP16", {"PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": 8}, {}),
        ("CPU", TEXT_ENCODER, "FP16", {"PERFORMANCE_HINT": PerformanceMode.THROUGHPUT}, {}),
        ("CPU", TEXT_ENCODER, "FP16", {"PERFORMANCE_HINT": "LATENCY"}, {"PERFORMANCE_HINT": "LATENCY"}),
    ],
)
def test_properties_suit_the_part_and_the_callers_wishes_come_first(
    monkeypatch, device, part, precision, wishes, expected
):
    monkeypatch.setattr(devices, "cpu_flags", lambda: {"avx512_vnni", "avx512_bf16", "amx_int8"})
    assert compile_properties(fake_core(["FP32", "BF16"]), device, part, precision, wishes) == expected


@pytest.mark.parametrize(("flags", "size"), [({"avx_vnni"}, 64), (set(), 64), ({"avx512f"}, 0)])
def test_a_cpu_without_bf16_or_int8_instructions_is_asked_for_neither(monkeypatch, flags, size):
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    found = compile_properties(fake_core(["FP32", "INT8"]), "CPU", TEXT_DECODER, "INT8", {})
    assert found == {"DYNAMIC_QUANTIZATION_GROUP_SIZE": size}


@pytest.mark.parametrize(
    ("flags", "precision", "expected"),
    [
        ({"avx512_vnni", "avx512_bf16"}, "INT8", {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 256}),
        ({"avx512_vnni", "avx512_bf16"}, "INT4", GROUP),
        ({"avx512_vnni", "avx512_bf16", "amx_int8"}, "INT8", GROUP | F32),
        ({"avx512_vnni"}, "INT8", GROUP | F32),
        (set(), "INT8", GROUP | F32),  # ARM
    ],
)
def test_the_quantized_decoder_computes_in_bf16_where_that_is_quicker(monkeypatch, flags, precision, expected):
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    assert compile_properties(fake_core(["FP32", "BF16"]), "CPU", TEXT_DECODER, precision, {}) == expected


@pytest.mark.parametrize(
    ("device", "properties", "expected"),
    [
        ("CPU", {}, ov.Type.bf16),
        ("CPU", F32, ov.Type.f32),
        ("CPU", {"INFERENCE_PRECISION_HINT": ov.Type.bf16}, ov.Type.bf16),
        ("CPU", {"EXECUTION_MODE_HINT": "ACCURACY"}, ov.Type.f32),
        ("GPU", {}, ov.Type.f32),
    ],
)
def test_keys_and_values_are_kept_in_what_the_cpu_computes_in(device, properties, expected):
    assert inference_type(fake_core(), device, properties) == expected


@pytest.mark.parametrize(
    ("machine", "limit", "expected"),
    [
        ("x86_64", "", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"}),
        ("x86_64", "SSE41", {"avx2"}),
        ("x86_64", "AVX2", {"avx2"}),
        ("x86_64", "avx512_core", {"avx2", "avx512f"}),
        ("x86_64", "AVX512_CORE_VNNI", {"avx2", "avx512f", "avx512_vnni"}),
        ("x86_64", "AVX512_CORE_BF16", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}),
        ("x86_64", "AVX512_CORE_AMX", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"}),
        ("aarch64", "", set()),
    ],
)
def test_instructions_are_the_processors_within_what_openvino_may_use(monkeypatch, tmp_path, machine, limit, expected):
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16 amx_int8\nbogomips\t: 1\n"
    )
    monkeypatch.setattr(devices, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert cpu_flags() == expected


@pytest.mark.parametrize(
    ("flags", "precision", "rewritten"),
    [
        ({"avx2"}, "FP16", {products_by_mlas: 3}),  # vision model and both projections
        ({"avx2", "avx512f"}, "FP16", {}),
        ({"avx2"}, "INT8", {without_zero_points: 5, products_as_convolutions: 5}),
        ({"avx2", "avx512f"}, "INT8", {without_zero_points: 5, products_as_convolutions: 5}),
        ({"avx2", "avx_vnni"}, "INT8", {without_zero_points: 5}),
        # The vision model alone.
        ({"avx512_vnni", "avx512_bf16"}, "INT8", {without_zero_points: 5, products_as_convolutions: 1}),
        ({"avx512f", "avx512_bf16"}, "FP16", {products_as_convolutions: 1}),
        ({"avx512f", "avx512_bf16", "amx_int8"}, "FP16", {}),
        ({"avx512_vnni", "avx512_bf16", "amx_int8"}, "INT8", {without_zero_points: 5}),
        (set(), "INT8", {without_zero_points: 5}),
    ],
)
def test_models_are_rewritten_where_another_kernel_is_faster(monkeypatch, quantized, flags, precision, rewritten):
    called = []
    for rewrite in (products_by_mlas, products_as_convolutions, without_zero_points):
        monkeypatch.setattr(devices, rewrite.__name__, lambda *args, rewrite=rewrite: called.append(rewrite))
    monkeypatch.setattr(devices, "cpu_flags", lambda: flags)
    monkeypatch.setattr(devices, "inference_type", lambda *args: ov.Type.bf16)
    OVBlipModel.from_pretrained(quantized, "CPU", precision)
    assert {rewrite: called.count(rewrite) for rewrite in called} == rewritten


def test_a_convolution_gives_what_the_product_of_seven_bits_does():
    draw = np.random.default_rng(0)
    weights, tokens = draw.integers(-63, 64, (24, 48), np.int8), draw.integers(0, 256, (1, 7, 48)).astype(np.float32)
    tokens[0, 0], weights[:8] = 255, 63  # the largest numbers: AVX2 adds pairs of products in 16 bits
    inputs = opset.parameter([-1, -1, 48], ov.Type.f32)
    limits = [opset.constant(np.float32(each)) for each in (0, 255, 0, 255)]
    scale = opset.constant(np.full((24, 1), 0.5, np.float32))
    scaled = opset.multiply(opset.convert(opset.constant(weights), "f32"), scale)
    product = opset.matmul(opset.fake_quantize(inputs, *limits, 256), scaled, False, True)
    model = ov.Model([product], [inputs])
    products_as_convolutions(model)
    assert [node.get_type_name() for node in model.get_ops()].count("Convolution") == 1
    [found] = ov.Core().compile_model(model, "CPU", F32)(tokens).values()
    np.testing.assert_allclose(found, tokens @ weights.T * 0.5, rtol=1e-5, atol=1e-3)


def feed_forward_pair(precision: str) -> ov.Model:
    """A feed-forward pair over tokens [B, T, 32], at INT8 as NNCF quantizes it; 0 is one of its 256 steps."""
    draw = np.random.default_rng(0)

    def normal(*shape: int) -> ov.Node:
        return opset.constant(draw.normal(size=shape).astype(np.float32))

    def product(tokens: ov.Node, out: int, size: int) -> ov.Node:
        if precision == "FP16":
            weights = draw.normal(size=(out, size)).astype(np.float16)
            return opset.matmul(tokens, opset.convert(opset.constant(weights), "f32"), False, True)
        limits = [opset.constant(np.float32(each)) for each in (-3, 3.375, -3, 3.375)]
        weights = opset.convert(opset.constant(draw.integers(-63, 64, (out, size), np.int8)), "f32")
        scaled = opset.multiply(weights, opset.constant(np.full((out, 1), 0.01, np.float32)))
        return opset.matmul(opset.fake_quantize(tokens, *limits, 256), scaled, False, True)

    tokens = opset.parameter([-1, -1, 32], ov.Type.f32)
    inner = opset.gelu(opset.add(normal(1, 1, 64), product(tokens, 64, 32)), "erf")
    output = opset.add(product(opset.multiply(inner, normal(64)), 32, 64), normal(1, 1, 32))
    return ov.Model([opset.add(output, tokens)], [tokens])


@pytest.mark.parametrize(
    ("precision", "rewritings"),
    [
        ("FP16", [products_as_convolutions]),
        ("INT8", [products_as_convolutions]),
        ("INT8", [without_zero_points]),
        ("INT8", [without_zero_points, products_as_convolutions]),
    ],
)
def test_a_feed_forward_pair_gives_the_same_when_it_is_rewritten(precision, rewritings):
    model = feed_forward_pair(precision)
    inputs = np.random.default_rng(1).normal(size=(2, 7, 32)).astype(np.float32)
    [expected] = ov.Core().compile_model(model, "CPU", F32)(inputs).values()
    for rewrite in rewritings:
        rewrite(model, precision) if rewrite is products_as_convolutions else rewrite(model)
    nodes = model.get_ordered_ops()
    types = [node.get_type_name() for node in nodes]
    if products_as_convolutions in rewritings:  # what is between them is merged into them
        assert "Transpose" not in types[types.index("Convolution") : len(types) - types[::-1].index("Convolution")]
        assert "MatMul" not in types
    if without_zero_points in rewritings:
        lows = [node.input_value(3).get_node().data for node in nodes if node.get_type_name() == "FakeQuantize"]
        assert lows == [0, 0]
    [found] = ov.Core().compile_model(model, "CPU", F32)(inputs).values()
    of_range = 0.01 if precision == "FP16" else 1e-6  # FP16's convolutions are in bf16
    np.testing.assert_allclose(found, expected, rtol=0, atol=of_range * np.ptp(expected))


def test_weights_become_the_nearest_bf16():
    weights = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float16).astype(np.float32)
    model = ov.Model([opset.convert(rounded_to_bf16(weights), "f32")], [])
    [found] = ov.Core().compile_model(model, "CPU", F32)([]).values()
    nearest = torch.from_numpy(weights).bfloat16().float().numpy()
    np.testing.assert_array_equal(found, nearest)


def test_unknown_device_is_named_with_the_choices(converted):
    with pytest.raises(ValueError, match=r"there is no device 'TPU' here; choose one of \['CPU'.*'AUTO'\]"):
        OVBlipModel.from_pretrained(converted, "TPU")


def test_a_device_that_cannot_run_the_model_is_a_value_error(converted, monkeypatch):
    def compile_model(*args):
        raise RuntimeError("Exception from src: no kernel")

    monkeypatch.setattr(ov.Core, "compile_model", compile_model)
    with pytest.raises(ValueError, match=r"CPU cannot run the .* at FP16, says OpenVINO: .*no kernel; choose another"):
        OVBlipModel.from_pretrained(converted, "CPU")


def test_auto_is_the_cpu_where_there_is_nothing_else(converted, monkeypatch):
    asked, compile_model = [], ov.Core.compile_model
    monkeypatch.setattr(ov.Core, "compile_model", lambda *args: asked.append(args[2]) or compile_model(*args))
    OVBlipModel.from_pretrained(converted)
    assert set(asked) == {"CPU"} if ov.Core().available_devices == ["CPU"] else {"AUTO"}


@pytest.mark.parametrize(("precision", "command"), [("FP16", "convert"), ("INT4", "optimize")])
@pytest.mark.parametrize("part", Part)
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_a_missing_part_is_named_with_what_makes_it(quantized, tmp_path, part, suffix, precision, command):
    folder = shutil.copytree(quantized, tmp_path / "copy")
    path = (folder / part.file(precision)).with_suffix(suffix)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(path.name)} is missing: run blip-ov {command}"):
        OVBlipModel.from_pretrained(folder, "CPU", precision)
