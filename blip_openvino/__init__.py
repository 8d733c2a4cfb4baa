"""BLIP on OpenVINO: `blip_openvino.load("Salesforce/blip-vqa-base").ask("photo.jpg", "how many dogs are there?")`."""

from importlib import import_module

# Before openvino, whose telemetry (2026.4) forks while it is imported: filelock (4.2) half imported then prints
# "Exception ignored in: <function _resume_parent_after_fork>". Seen in 1 of 6 runs of `blip-ov info`.
import filelock  # noqa: F401

HOMES = {"Answer": "blip", "Blip": "blip", "Match": "blip", "load": "load"}
__all__ = ["Answer", "Blip", "Match", "load"]


def __getattr__(name: str) -> object:
    """What the applications have, imported when first asked for: they stand on all other modules of this package."""
    if name not in HOMES:
        raise AttributeError(f"module 'blip_openvino' has no attribute {name!r}")
    return getattr(import_module(f"blip_openvino.apps.{HOMES[name]}"), name)
