import platform
from types import SimpleNamespace

import openvino as ov
import pytest
import torch

from blip_openvino.ir.files import TEXT_DECODER, TEXT_ENCODER, VISION_MODEL
from blip_openvino.runtime import device as blip_device
from blip_openvino.runtime.device import compile_part, compile_properties, has_int8_products

GROUP = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64}
FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}
NO_INT8 = {"architecture": "x86_64", "avx_vnni": False, "avx512_vnni": False, "amx_int8": False, "avx512_f": False}


def fake_core(capabilities=("FP32",), devices=("CPU",)) -> SimpleNamespace:
    return SimpleNamespace(get_property=lambda *names: list(capabilities), available_devices=list(devices))


@pytest.mark.parametrize(
    ("device", "part", "quantized", "capabilities", "expected"),
    [
        ("CPU", TEXT_DECODER, True, ["FP32", "INT8", "BF16"], GROUP | FLOAT32),
        ("CPU", TEXT_DECODER, True, ["FP32", "INT8"], GROUP),
        ("CPU", TEXT_DECODER, False, ["FP32", "BF16"], {}),
        ("CPU", VISION_MODEL, True, ["FP32", "INT8", "BF16"], {}),
        ("AUTO", TEXT_DECODER, True, ["FP32", "INT8", "BF16"], GROUP | FLOAT32),
        ("GPU", TEXT_DECODER, True, ["FP32", "BF16"], {}),
    ],
)
def test_compressed_decoder_gets_wide_groups_and_float32_where_the_cpu_would_take_bf16(
    device, part, quantized, capabilities, expected
):
    assert compile_properties(fake_core(capabilities), device, part, quantized, {}) == expected


def test_auto_is_left_to_choose_where_it_has_a_choice():
    core = fake_core(["BF16"], ["CPU", "GPU"])
    assert compile_properties(core, "AUTO", TEXT_DECODER, True, {}) == {}


def test_the_callers_wishes_come_first():
    wishes = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0, "INFERENCE_PRECISION_HINT": "bf16", "CACHE_DIR": "x"}
    assert compile_properties(fake_core(["BF16"]), "CPU", TEXT_DECODER, True, wishes) == wishes


@pytest.mark.parametrize("hint", ["THROUGHPUT", ov.properties.hint.PerformanceMode.THROUGHPUT])
def test_throughput_is_for_the_vision_model_only(hint):
    wishes = {"PERFORMANCE_HINT": hint}
    assert compile_properties(fake_core(), "CPU", VISION_MODEL, False, wishes) == wishes
    assert compile_properties(fake_core(), "CPU", TEXT_ENCODER, False, wishes) == {}
    latency = {"PERFORMANCE_HINT": "LATENCY"}
    assert compile_properties(fake_core(), "CPU", TEXT_ENCODER, False, latency) == latency


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (NO_INT8, False),
        (NO_INT8 | {"avx512_f": True}, False),
        (NO_INT8 | {"avx_vnni": True}, True),
        (NO_INT8 | {"avx512_vnni": True}, True),
        (NO_INT8 | {"amx_int8": True}, True),
        ({"architecture": "aarch64"}, True),
    ],
)
def test_int8_products_are_looked_for_among_the_features(features, expected):
    assert has_int8_products(features) == expected


def test_the_features_of_this_processor_are_those_that_pytorch_reports(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    expected = torch.cpu.get_capabilities()
    for name, found in blip_device.cpu_features().items():
        assert found == expected[name]


@pytest.mark.parametrize(
    ("machine", "flags", "limit", "expected"),
    [
        ("x86_64", "fpu avx2", "", NO_INT8),
        (
            "x86_64",
            "avx2 avx512f avx512_vnni amx_int8",
            "",
            NO_INT8 | dict.fromkeys(("avx512_f", "avx512_vnni", "amx_int8"), True),
        ),
        ("x86_64", "avx2 avx512f avx512_vnni amx_int8", "AVX2", NO_INT8),
        ("x86_64", "avx2 avx512f avx512_vnni amx_int8", "avx512_core", NO_INT8 | {"avx512_f": True}),
        ("x86_64", "avx2 avx512f avx512_vnni", "AVX512_CORE_VNNI", NO_INT8 | {"avx512_f": True, "avx512_vnni": True}),
        ("aarch64", "fp asimd", "", {"architecture": "aarch64"}),
    ],
)
def test_features_are_the_kernels_within_what_openvino_may_use(monkeypatch, tmp_path, machine, flags, limit, expected):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\nbogomips\t: 1\n")
    monkeypatch.setattr(blip_device, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert blip_device.cpu_features() == expected


def test_pytorch_is_asked_where_there_is_no_cpuinfo(monkeypatch, tmp_path):
    monkeypatch.setattr(blip_device, "CPUINFO", tmp_path / "none")
    assert blip_device.cpu_features() == torch.cpu.get_capabilities()


@pytest.mark.parametrize("part", [VISION_MODEL, TEXT_ENCODER, TEXT_DECODER])
@pytest.mark.parametrize("wide", [True, False])
def test_float_models_are_rewritten_only_without_avx512(monkeypatch, converted, part, wide):
    monkeypatch.setattr(blip_device, "cpu_features", lambda: NO_INT8 | {"avx512_f": wide})
    rewritten = []
    monkeypatch.setattr(blip_device, "products_by_mlas", rewritten.append)
    core = ov.Core()
    model = core.read_model(converted / part)
    compile_part(core, model, "CPU", part, False, {})
    assert rewritten == ([] if wide else [model])
