"""What depends on the processor: every such choice is made here, from what OpenVINO and the system report of it.

Figures are of BLIP base; a processor that none of the rules names gets OpenVINO's own choices.
"""

import os
import platform
from collections.abc import Mapping
from pathlib import Path

import openvino as ov
from openvino.properties.hint import PerformanceMode

from blip_openvino.ir.files import TEXT_DECODER, VISION_MODEL
from blip_openvino.runtime.avx2 import products_as_convolutions, products_by_mlas

CPUINFO = Path("/proc/cpuinfo")
INT8_INSTRUCTIONS = ("avx_vnni", "avx512_vnni", "amx_int8")
"""Where an x86 processor has any of them, it multiplies 8-bit numbers several times faster than float32."""
ISA_WITHOUT_INT8 = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
"""Values of `ONEDNN_MAX_CPU_ISA`, to which OpenVINO's kernels keep, that leave no such instructions."""
THROUGHPUT = ("THROUGHPUT", PerformanceMode.THROUGHPUT)


def runs_on_cpu(core: ov.Core, device: str) -> bool:
    """Whether `device` is the CPU, also by way of AUTO where there is nothing else to choose."""
    return device == "CPU" or (device == "AUTO" and core.available_devices == ["CPU"])


def cpu_features() -> Mapping[str, object]:
    """What the processor has, such as `{"architecture": "x86_64", "avx512_f": True, "avx512_vnni": False, ...}`.

    On Linux as the kernel lists it, less what `ONEDNN_MAX_CPU_ISA` keeps OpenVINO from using; elsewhere PyTorch is
    asked, which takes seconds to import.
    """
    if not CPUINFO.exists():
        import torch

        return torch.cpu.get_capabilities()
    architecture = platform.machine()
    if architecture != "x86_64":
        return {"architecture": architecture}
    line = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "")
    flags, limit = set(line.split()), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    if limit in ISA_WITHOUT_INT8:
        flags -= {*INT8_INSTRUCTIONS, *(() if limit.startswith("AVX512") else ("avx512f",))}
    found = {"avx512_f": "avx512f" in flags} | {name: name in flags for name in INT8_INSTRUCTIONS}
    return {"architecture": architecture} | found


def has_int8_products(features: Mapping[str, object]) -> bool:
    """Whether the processor has instructions for products of 8-bit numbers: VNNI, AMX, or anything but x86."""
    return features["architecture"] != "x86_64" or any(features[name] for name in INT8_INSTRUCTIONS)


def compile_part(
    core: ov.Core, model: ov.Model, device: str, part: str, quantized: bool, wishes: Mapping[str, object]
) -> ov.CompiledModel:
    """Compile a part in the way that suits the processor; `wishes` are the caller's OpenVINO properties.

    `model` is changed where that takes another graph.
    """
    if runs_on_cpu(core, device):
        features = cpu_features()
        if quantized and not has_int8_products(features):
            products_as_convolutions(model)
        elif not quantized and not features.get("avx512_f", True):
            products_by_mlas(model)
    return core.compile_model(model, device, compile_properties(core, device, part, quantized, wishes))


def compile_properties(
    core: ov.Core, device: str, part: str, quantized: bool, wishes: Mapping[str, object]
) -> dict[str, object]:
    """What a part is compiled with: the caller's `wishes`, and what suits the processor where they leave it open.

    Quantized decoder: a CPU quantizes activations on the fly, in groups of 64 rather than its 32: the first step of a
    caption took 59 ms instead of 67 (AVX-512 VNNI), with the same error. CPUs that compute in bf16 by default (AMX) do
    so in every other part; here reading weights is most of a step, and float32 took 12 ms where bf16 took 16.

    Throughput as a wish is for the vision model, which takes one image at a time: the text models take a whole batch in
    one request, for which all cores are wanted.
    """
    chosen = dict(wishes)
    if part != VISION_MODEL and chosen.get("PERFORMANCE_HINT") in THROUGHPUT:
        del chosen["PERFORMANCE_HINT"]
    if part == TEXT_DECODER and quantized and runs_on_cpu(core, device):
        chosen.setdefault("DYNAMIC_QUANTIZATION_GROUP_SIZE", 64)
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            chosen.setdefault("INFERENCE_PRECISION_HINT", "f32")
    return chosen
