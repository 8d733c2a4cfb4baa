"""PLACEHOLDER, to be replaced: the check of a converted folder against its PyTorch reference. This one checks nothing.

It holds the signature that the command line and `blip_openvino.load` call.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckReport:
    """What a check found; printed it is a table."""

    passed: bool

    def __str__(self) -> str:
        return "| part | error | tolerance | verdict |\n|---|---|---|---|"


def check_folder(folder: str | Path, device: str = "AUTO", precision: str | None = None) -> CheckReport:
    """PLACEHOLDER: see the module."""
    return CheckReport(passed=True)
