"""BLIP on OpenVINO: `blip_openvino.load("Salesforce/blip-vqa-base").ask("photo.jpg", "how many dogs are there?")`."""

from importlib import import_module

# Before openvino, whose telemetry (2026.4) forks while it is imported: filelock (4.2) half imported then prints
# "Exception ignored in: <function _resume_parent_after_fork>". Seen in 1 of 6 runs of `blip-ov info`.
import filelock  # noqa: F401

__all__ = ["Answer", "Blip", "load"]


def __getattr__(name: str) -> object:
    """What `apps.load` has, imported when first asked for: it stands on all other modules of this package."""
    if name not in __all__:
        raise AttributeError(f"module 'blip_openvino' has no attribute {name!r}")
    return getattr(import_module("blip_openvino.apps.load"), name)
