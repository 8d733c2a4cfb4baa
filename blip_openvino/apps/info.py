"""What a bug report needs to say of a machine and of what is installed on it."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import openvino as ov

from blip_openvino.apps.load import cache_root

PACKAGES = ("openvino", "numpy", "pillow", "tokenizers", "torch", "transformers", "nncf", "datasets", "gradio")
CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx", "amx", "fma", "asimd", "bf16", "i8mm", "sve")
"""Beginnings of the instruction sets that decide what OpenVINO computes in."""


def bug_report() -> dict[str, str]:
    """Versions, system, processor, and each device with what it computes in, by name."""
    core = ov.Core()
    report = {
        "blip-openvino": installed_version("blip-openvino"),
        "Python": platform.python_version(),
        **{name: installed_version(name) for name in PACKAGES},
        "system": platform.platform(),
        "instruction sets": instruction_sets(),
        "ONEDNN_MAX_CPU_ISA": os.environ.get("ONEDNN_MAX_CPU_ISA", "not set"),
        "converted models": str(cache_root()),
    }
    for device in core.available_devices:
        name, able = (core.get_property(device, key) for key in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES"))
        report[f"device {device}"] = f"{name}, computes in {', '.join(able)}"
    return report


def installed_version(package: str) -> str:
    """A package's version, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def instruction_sets() -> str:
    """The processor's, as Linux lists them; other systems do not say."""
    if not CPUINFO.exists():
        return f"unknown on {platform.system()}"
    line = next((line for line in CPUINFO.read_text().splitlines() if line.startswith(("flags", "Features"))), "")
    return " ".join(sorted(flag for flag in set(line.split()) if flag.startswith(FLAGS))) or "none listed"
