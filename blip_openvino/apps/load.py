"""From a model's name to answers: `load` finds or converts it, `Blip` asks it about images of any kind.

model = load("Salesforce/blip-vqa-base")
print(model.ask("photo.jpg", "how many dogs are there?"))
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from filelock import FileLock

from blip_model import OVBlipModel
from blip_openvino.apps.blip import Blip
from blip_openvino.apps.errors import extra
from blip_openvino.evaluate.check import check_folder
from blip_openvino.ir.files import (
    CALIBRATION_SAMPLES,
    CHECKSUMS,
    Part,
    architecture,
    check_precision,
    load_config,
)
from blip_openvino.runtime.processor import OVBlipProcessor

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "Salesforce/blip-vqa-base"


def for_many_images(at_once: int) -> dict[str, object]:
    """OpenVINO properties for images by the batch: several at once, each on some of the cores, instead of one on all.

    Captions of a collection took 10 to 14 % less time on two Zen 5 cores; one image alone takes longer that way. On a
    GPU OpenVINO would gather requests by itself, and wait for those that a batch lacks.
    """
    return {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "PERFORMANCE_HINT_NUM_REQUESTS": at_once,
        "ALLOW_AUTO_BATCHING": False,
    }


def load(
    model: str | Path = DEFAULT_MODEL,
    device: str = "AUTO",
    precision: str | None = None,
    ov_config: Mapping[str, object] | None = None,
) -> Blip:
    """Load a model by name. What is not converted yet is converted once, into the user's cache directory.

    Args:
        model: a name on the Hugging Face Hub, a checkpoint's folder, or a converted folder.
        device: as OpenVINO names it: `CPU`, `GPU`, `AUTO`, ...
        precision: "FP16", "INT8" or "INT4"; None is INT8 where it is there, else FP16. What is converted here is
            quantized too when "INT8" or "INT4" is asked for.
        ov_config: more OpenVINO properties, such as `{"INFERENCE_PRECISION_HINT": "f32"}`.

    Raises:
        FileNotFoundError, OSError: there is no such model, or it cannot be downloaded or saved.
        ValueError: it is no BLIP, or there is no such device or precision.
        ImportError: it has to be converted, and the extra `convert` is not installed.
    """
    folder = converted_folder(model, precision)
    return Blip(
        OVBlipModel.from_pretrained(folder, device, precision, ov_config), OVBlipProcessor.from_pretrained(folder)
    )


def converted_folder(model: str | Path, precision: str | None = None) -> Path:
    """The converted folder of a model, made in the user's cache directory where `model` is not one itself.

    Takes and raises what `load` does.
    """
    if precision is not None:
        check_precision(precision)
    if (Path(model) / CHECKSUMS).exists():
        return Path(model)
    folder, quantized = cache_folder(model), precision in ("INT8", "INT4")
    if is_converted(folder, "FP16") and (not quantized or is_converted(folder, precision)):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # who waited here finds it made
        if not is_converted(folder, "FP16"):
            logger.warning("%s is converted once into %s; that takes some minutes", model, folder)
            convert_checkpoint(model, folder)
            warn_if_wrong(folder, "FP16")
        if quantized and not is_converted(folder, precision):
            logger.warning("%s is quantized once in %s; that takes some minutes", model, folder)
            quantize_folder(folder, precision.lower())
            warn_if_wrong(folder, precision)
    return folder


def cache_folder(model: str | Path) -> Path:
    """Where a model of the Hub, or a checkpoint's folder as its files are now, is kept converted.

    Raises:
        FileNotFoundError: `model` is a path that is not there.
    """
    base, folder = cache_root(), Path(model)
    if folder.is_dir():
        # Whoever trains on into the same folder gets the new weights' answers.
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
        digest = hashlib.blake2b(repr((folder.resolve(), files)).encode(), digest_size=8).hexdigest()
        return base / f"folder-{digest}" / folder.resolve().name
    if folder.is_absolute() or len(folder.parts) > 2 or ".." in folder.parts or not folder.name:
        raise FileNotFoundError(f"there is no folder {str(model)!r}: give one, or a name on the Hub as {DEFAULT_MODEL}")
    return base / folder


def cache_root() -> Path:
    """The user's cache directory for converted models: `~/.cache/blip-openvino`, or where the system has it."""
    usual = {"win32": Path.home() / "AppData" / "Local", "darwin": Path.home() / "Library" / "Caches"}
    base = os.environ.get("XDG_CACHE_HOME") or usual.get(sys.platform, Path.home() / ".cache")
    return Path(base) / "blip-openvino"


def is_converted(folder: Path, precision: str) -> bool:
    """Whether all of a conversion to `precision` is there, made by this version; its content is checked by loading."""
    try:
        parts = architecture(load_config(folder)).parts
    except (FileNotFoundError, ValueError):
        return False
    return all((folder / part.file(precision)).exists() for part in parts)


def convert_checkpoint(model: str | Path, folder: Path, image_size: int | None = None) -> Path:
    """Convert a name on the Hub or a checkpoint's folder into `folder`. Raises what `load` does.

    `image_size` are the pixels a side of its images, where they are to be others than it was trained on.
    """
    with extra("convert"):
        # PyTorch and transformers, which only converting needs.
        from transformers import BlipProcessor

        from blip_openvino.ir.checkpoint import load_checkpoint, set_image_size
        from blip_openvino.ir.convert import convert
    checkpoint = load_checkpoint(model)
    processor = BlipProcessor.from_pretrained(model, trust_remote_code=False)
    if image_size:
        set_image_size(checkpoint, processor, image_size)
    return convert(checkpoint, processor, folder)


def quantize_folder(
    folder: Path, weights: str = "int8", samples: int = CALIBRATION_SAMPLES, data: str | None = None
) -> Path:
    """Quantize a converted folder, calibrated on data that suits it or on `data`: a folder or a dataset of the Hub."""
    with extra("convert"):
        # NNCF and datasets, which only quantizing needs.
        from blip_openvino.ir.calibration import calibration_dataset, own_data
        from blip_openvino.ir.optimize import optimize
    config = load_config(folder)  # a wrong folder is told before data is downloaded for it
    dataset = own_data(data, samples) if data else calibration_dataset(folder, samples)
    if Part.TEXT_ENCODER in architecture(config).parts and not any(dataset["text"]):
        raise ValueError(f"{data} has no texts to calibrate the text encoder on: name them in its metadata.jsonl")
    return optimize(folder, dataset, weights)


def warn_if_wrong(folder: Path, precision: str) -> None:
    """Log the check of what was just made where it does not pass."""
    report = check_folder(folder, precision=precision)
    if not report.passed:
        logger.warning("%s at %s does not say what PyTorch says:\n%s", folder, precision, report)
