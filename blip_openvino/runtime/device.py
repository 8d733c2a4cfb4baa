"""What depends on the processor: every such choice is made here, from what OpenVINO and the system report of it.

Figures are of BLIP base; a processor that none of the rules names gets OpenVINO's own choices.
"""

import os
import platform
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from itertools import dropwhile
from pathlib import Path
from threading import Lock
from types import SimpleNamespace

import numpy as np
import openvino as ov
from openvino.properties.hint import PerformanceMode

from blip_openvino.ir.files import Part, load_config, read_best, read_parts
from blip_openvino.runtime.encoded import TextModel
from blip_openvino.runtime.inputs import check_device
from blip_openvino.runtime.memory import release_pages
from blip_openvino.runtime.products import (
    products_as_convolutions,
    products_by_mlas,
    quantize_products_only,
    without_zero_points,
)
from blip_openvino.runtime.split import dequantize_looked_up, keep_cache, keep_some_logits, split_projections
from blip_openvino.runtime.unprojected import attend_unprojected

CPUINFO = Path("/proc/cpuinfo")
INT8_INSTRUCTIONS = ("avx_vnni", "avx512_vnni", "amx_int8")
"""Where an x86 processor has any of them, it multiplies 8-bit numbers several times faster than float32."""
NEWER_INSTRUCTIONS = (
    ("SSE41", set()),
    ("AVX", set()),
    ("AVX2", {"avx512f"}),
    ("AVX512_CORE", {"avx_vnni", "avx512_vnni"}),
    ("AVX512_CORE_VNNI", {"avx512_bf16"}),
    ("AVX512_CORE_BF16", {"amx_int8"}),
)
"""Values of `ONEDNN_MAX_CPU_ISA`, to which OpenVINO's kernels keep, with what the processors after each one have."""
THROUGHPUT = ("THROUGHPUT", PerformanceMode.THROUGHPUT)
CACHE_LOCK = Lock()
"""With a model cache OpenVINO sets the locale of the process to "C" for a while, and two threads that do so at once
leave it there: Python then takes files for ASCII (2026.4.1)."""

# Two threads that are the first to see an array of OpenVINO's Python package can wait for each other for ever
# (2026.4.1, docs/openvino/first_arrays.py). A module is imported by one thread, so here is one before any of theirs.
ov.Tensor(np.zeros(1))


def cpu_flags() -> set[str]:
    """The instruction sets of an x86 processor as Linux names them, such as `avx512_vnni`; elsewhere empty.

    `ONEDNN_MAX_CPU_ISA`, which keeps OpenVINO's kernels from using some, is heeded as far as it matters here.
    """
    if platform.machine() != "x86_64" or not CPUINFO.exists():
        return set()
    line = next((line for line in CPUINFO.read_text().splitlines() if line.startswith("flags")), "")
    flags, limit = set(line.partition(":")[2].split()), os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    for _, newer in dropwhile(lambda each: each[0] != limit, NEWER_INSTRUCTIONS):
        flags -= newer
    return flags


def lacks(*instructions: str) -> bool:
    """Whether this is an x86 processor that has none of `instructions`, or may not use them."""
    flags = cpu_flags()
    return bool(flags) and not flags.intersection(instructions)


def has_bf16_alone() -> bool:
    """Whether this is an x86 processor with AVX512-BF16 and without AMX (Zen 4, 5), or may use no more than that."""
    return {"avx512_bf16", "amx_int8"} & cpu_flags() == {"avx512_bf16"}


def inference_type(core: ov.Core, device: str, properties: Mapping[str, object]) -> ov.Type:
    """What a CPU computes in with these properties: bf16 where it has it and nothing else is asked for, or float32.

    Keys and values are kept in it, so that nothing is converted at each step. Other devices convert as they like.
    """
    hint = properties.get("INFERENCE_PRECISION_HINT", properties.get("EXECUTION_MODE_HINT"))
    if device != "CPU" or hint not in (None, "bf16", ov.Type.bf16):
        return ov.Type.f32
    return core.get_property("CPU", "INFERENCE_PRECISION_HINT") if hint is None else ov.Type.bf16


def compile_properties(
    core: ov.Core, device: str, part: Part, precision: str, wishes: Mapping[str, object]
) -> dict[str, object]:
    """What a part is compiled with: the caller's `wishes`, and what suits the processor where they leave it open.

    Quantized decoder: a CPU quantizes activations on the fly, in groups of 64 rather than its 32: the first step of a
    caption took 59 ms instead of 67 (AVX-512 VNNI), with the same error. Without INT8 instructions it is not to: where
    `ONEDNN_MAX_CPU_ISA` says AVX2 to a processor that has them, OpenVINO 2026.4 finds no kernel for it.

    CPUs with AMX compute in bf16 by default in every part; here reading weights is most of a step, and float32 took
    12 ms where bf16 took 16. With AVX512-BF16 alone it is bf16, in groups of 256, that is quicker: a step of one row
    took 11 ms instead of 13, of eight rows of eight images 21 instead of 28 (Zen 4), with the same error. INT4 weights
    have a scale for each 64, and OpenVINO quantizes no activations in groups larger than that: with 64, one row took
    7.4 ms instead of 8.4, eight rows 16 instead of 22.

    Throughput as a wish is for the vision model, which takes one image at a time: the text models take a whole batch in
    one request, for which all cores are wanted.
    """
    chosen = dict(wishes)
    if part is not Part.VISION_MODEL and chosen.get("PERFORMANCE_HINT") in THROUGHPUT:
        del chosen["PERFORMANCE_HINT"]
        chosen.pop("PERFORMANCE_HINT_NUM_REQUESTS", None)
    if part is Part.TEXT_DECODER and precision != "FP16" and device == "CPU":
        has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        steps_in_bf16 = has_bf16 and has_bf16_alone()
        group_size = 256 if steps_in_bf16 and precision == "INT8" else 64
        chosen.setdefault("DYNAMIC_QUANTIZATION_GROUP_SIZE", 0 if lacks(*INT8_INSTRUCTIONS) else group_size)
        if has_bf16 and not steps_in_bf16:
            chosen.setdefault("INFERENCE_PRECISION_HINT", "f32")
    return chosen


def compile_parts(
    core: ov.Core,
    models: Mapping[Part, ov.Model],
    device: str,
    precision: str,
    wishes: Mapping[str, object],
    folders: Collection[Path] = (),
) -> dict[Part, ov.CompiledModel | TextModel]:
    """Compile parts in the way that suits the processor.

    Args:
        models: plain IRs, which are changed; text models are split in two.
        precision: of all of them.
        wishes: the caller's OpenVINO properties.
        folders: mapped files in these are taken out of memory when a part is compiled.

    Raises:
        ValueError: the device cannot compile one.
    """
    if device == "AUTO" and core.available_devices == ["CPU"]:
        device = "CPU"  # what AUTO would choose, with the properties that only the CPU knows
    compiled = {}
    # Most of compiling a model is work for one core; three at once would take no less time and more memory.
    with ThreadPoolExecutor(2) as pool:
        jobs = {}
        for part, model in models.items():
            properties = compile_properties(core, device, part, precision, wishes)
            halves = [model]
            if part is not Part.VISION_MODEL:
                takes_tokens = part is Part.TEXT_ENCODER and device == "CPU"  # other devices were not tried
                element_type = inference_type(core, device, properties)
                if takes_tokens:
                    attend_unprojected(model, element_type)
                halves += [split_projections(model, element_type, takes_tokens)]
                dequantize_looked_up(model)
            if part is Part.TEXT_DECODER:
                keep_cache(model)
                keep_some_logits(model)
            jobs[part] = [
                pool.submit(compile_model, core, half, device, part, precision, properties) for half in halves
            ]
        for part, halves in jobs.items():
            compiled[part], *projections = (half.result() for half in halves)
            if projections:
                compiled[part] = TextModel(compiled[part], *projections)
                compiled[part].warm_up()  # its shapes are dynamic: OpenVINO packs its weights when it is first called
            release_pages(folders)
    return compiled


def compile_model(
    core: ov.Core, model: ov.Model, device: str, part: Part, precision: str, properties: Mapping[str, object]
) -> ov.CompiledModel:
    """Compile a part, or half of one, with its products rewritten, in place, where the processor has faster ones.

    Raises:
        ValueError: the device cannot compile it.
    """
    has_image_tokens = part is Part.VISION_MODEL or not any("input_ids" in port.names for port in model.inputs)
    if device == "CPU" and precision != "FP16":
        without_zero_points(model)
        if lacks(*INT8_INSTRUCTIONS):
            quantize_products_only(model)
            products_as_convolutions(model)
        elif part is Part.VISION_MODEL and has_bf16_alone():
            products_as_convolutions(model)
    elif device == "CPU" and has_image_tokens and lacks("avx512f"):
        products_by_mlas(model)
    elif part is Part.VISION_MODEL and has_bf16_alone() and inference_type(core, device, properties) == ov.Type.bf16:
        products_as_convolutions(model, precision)
    try:
        with CACHE_LOCK if "CACHE_DIR" in properties else nullcontext():
            return core.compile_model(model, device, properties)
    except RuntimeError as error:
        raise ValueError(
            f"{device} cannot run the {part.label} at {precision}, says OpenVINO: {str(error).strip()[-300:]}; "
            "choose another device or precision"
        ) from error


def load_parts(
    folder: Path, device: str, precision: str | None, wishes: Mapping[str, object]
) -> tuple[SimpleNamespace, str, dict[Part, ov.CompiledModel | TextModel]]:
    """Read and compile a converted folder: its configuration, the precision that was loaded, and its parts.

    Takes and raises what `OVBlipModel.from_pretrained` does.
    """
    core = ov.Core()
    check_device(core, device)
    config = load_config(folder)
    if precision is None:
        precision, models = read_best(core, folder, config)
    else:
        models = read_parts(core, folder, config, precision)
    folders = {folder, Path(wishes.get("CACHE_DIR") or folder)}
    return config, precision, compile_parts(core, models, device, precision, wishes, folders)
