"""From a model's name to answers: `load` finds or converts it, `Blip` asks it about images of any kind.

model = load("Salesforce/blip-vqa-base")
print(model.ask("photo.jpg", "how many dogs are there?"))
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from blip_model import OVBlipModel
from blip_openvino.evaluate.check import check_folder
from blip_openvino.ir.files import CHECKSUMS, Part, architecture, check_precision, load_config
from blip_openvino.runtime.images import ImageSource
from blip_openvino.runtime.processor import OVBlipProcessor

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "Salesforce/blip-vqa-base"
CALIBRATION_SAMPLES = 300
IMAGES_AT_ONCE = 8
"""How many images of a list are held as pixels at a time: at BLIP base 14 MB, and their files decoded one by one."""


@dataclass(frozen=True)
class Answer:
    """What the model says of an image; printed it is its text."""

    text: str
    image: ImageSource = field(repr=False, compare=False)
    """The image as it was given."""
    question: str | None = None
    """The question, or the beginning of the caption; None where there was none."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Blip:
    """A model and its processor: images and texts in, texts out.

    Every method takes one image (a path, bytes, an open file, a PIL image or an array of pixels [H, W, 3]) and one
    text, or lists of them: one image with many texts is encoded once, many images may share one text, and else both
    lists have one length. Of lists the result is a list. Images of a list are read eight at a time.
    `generate` are the arguments of transformers' `generate`, such as `num_beams=3` or `max_new_tokens=40`.

    Raises:
        ValueError: an image, a text or an argument is wrong, or the checkpoint cannot do this; the message names it.
        OSError: an image cannot be read.
    """

    model: OVBlipModel
    processor: OVBlipProcessor

    def ask(
        self, image: ImageSource | Sequence[ImageSource], question: str | Sequence[str], **generate
    ) -> Answer | list[Answer]:
        """Answer questions about images."""
        return self._texts(self.model.generate_answer, image, question, generate)

    def caption(
        self, image: ImageSource | Sequence[ImageSource], prompt: str | Sequence[str] | None = None, **generate
    ) -> Answer | list[Answer]:
        """Caption images, or go on from a prompt, with which the text then begins."""
        return self._texts(self.model.generate_caption, image, prompt, generate)

    def match(self, image: ImageSource | Sequence[ImageSource], text: str | Sequence[str]) -> float | list[float]:
        """How likely each text describes the image, from 0 to 1; needs a checkpoint for retrieval."""
        found = [float(probability) for _, _, probability in self._rows(self.model.match, image, text, {})]
        return found if is_list(image) or is_list(text) else found[0]

    def _texts(self, compute: Callable, images, texts, generate: dict) -> Answer | list[Answer]:
        if generate.get("return_dict_in_generate") or (generate.get("num_return_sequences") or 1) > 1:
            raise ValueError(
                "one text comes back for each image and text: for more call generate_answer or generate_caption of "
                "this object's .model"
            )
        answers = [
            Answer(self.processor.decode(ids), image, text)
            for image, text, ids in self._rows(compute, images, texts, generate)
        ]
        return answers if is_list(images) or is_list(texts) else answers[0]

    def _rows(self, compute: Callable, images, texts, generate: dict) -> Iterator[tuple]:
        """(image, text, what `compute` gives for them), of one pair after the other."""
        images = images if is_list(images) else [images]
        texts = texts if is_list(texts) else [texts]
        if len(images) != len(texts) and 1 not in (len(images), len(texts)):
            raise ValueError(f"{len(images)} images do not go with {len(texts)} texts: give one of either, or as many")
        count = max(len(images), len(texts)) if images and texts else 0
        encoded = None
        for start in range(0, count, IMAGES_AT_ONCE):
            batch = slice(start, min(start + IMAGES_AT_ONCE, count))
            if encoded is None or len(images) > 1:
                encoded = self.model.encode_images(self.processor(images=images[batch])["pixel_values"])
            image_rows, text_rows = (
                each[batch] if len(each) > 1 else each * (batch.stop - start) for each in (list(images), list(texts))
            )
            inputs = {} if list(texts) == [None] else self.processor(text=text_rows)
            yield from zip(image_rows, text_rows, compute(encoded, **inputs, **generate), strict=True)


def is_list(values: object) -> bool:
    """Whether a caller gave several, and so gets several."""
    return isinstance(values, list | tuple)


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


def convert_checkpoint(model: str | Path, folder: Path) -> Path:
    """Convert a name on the Hub or a checkpoint's folder into `folder`. Raises what `load` does."""
    with extra("convert"):
        # PyTorch and transformers, which only converting needs.
        from transformers import BlipProcessor

        from blip_openvino.ir.checkpoint import load_checkpoint
        from blip_openvino.ir.convert import convert
    checkpoint = load_checkpoint(model)
    return convert(checkpoint, BlipProcessor.from_pretrained(model, trust_remote_code=False), folder)


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


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Imports inside that fail name the extra of this package that brings what is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{error.name} is not installed: pip install "blip-openvino[{name}]"') from error
