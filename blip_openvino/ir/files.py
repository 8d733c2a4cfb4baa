"""The files of a converted model: their names and stamps, saved so that none is ever half there, read with care.

A converted folder holds `config.json`, `generation_config.json`, the processor's files, `reference.npz` and the IRs.
Every IR carries the digest of the checkpoint it came from and the version of the converter that made it. What is read
is checked first, so that a damaged file gives an error and never a wrong answer: an IR against its seal, everything
else against `checksums.sha256`.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace

import openvino as ov
from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

CONVERTER_VERSION = "8"
"""Goes into every IR. Raise it whenever the graphs of `ir.convert` change, so that IRs of the old shape are made anew
and not run."""
OPTIMIZER_VERSION = "7"
"""Goes into every quantized IR. Raise it whenever the functions of `ir.optimize` change what they make."""

CALIBRATION_SAMPLES = 300
"""Pairs of images and texts that quantization sees, unless a caller says otherwise."""

CHECKSUMS = "checksums.sha256"
"""Of the files beside the IRs. `sha256sum --check` reads it too."""
REFERENCE = "reference.npz"
"""What the PyTorch model gave for a few probes: `evaluate.check` compares with it."""
PRECISIONS = ("FP16", "INT8", "INT4")
"""FP16: all weights. INT8: vision model and text encoder, and the decoder's weights. INT4: the decoder's weights only,
the rest is INT8's."""

CROSS = "cross."
"""The names of a layer's keys and values of the encoder's tokens begin so: `cross.0`, `cross.1`, ... They are tensors
inside a text model, and ports of its halves."""


class Part(Enum):
    """A part of BLIP that is a model of its own; the value is its file's name at FP16."""

    VISION_MODEL = "blip_vision_model"
    TEXT_ENCODER = "blip_text_encoder"
    TEXT_DECODER = "blip_text_decoder_with_past"

    @property
    def label(self) -> str:
        """Its name for people: `text decoder`."""
        return self.name.lower().replace("_", " ")

    def file(self, precision: str = "FP16") -> str:
        """The file that holds it at a precision: `blip_vision_model_int8.xml`.

        Raises:
            ValueError: there is no such precision.
        """
        check_precision(precision)
        if precision == "INT4" and self is not Part.TEXT_DECODER:
            precision = "INT8"
        return f"{self.value}.xml" if precision == "FP16" else f"{self.value}_{precision.lower()}.xml"


def check_precision(precision: str) -> None:
    """Raise ValueError where there is no such precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"there is no precision {precision!r}; choose one of {', '.join(PRECISIONS)}")


@dataclass(frozen=True)
class Architecture:
    """What a class of checkpoints has and can do."""

    parts: tuple[Part, ...]
    answers: bool = False
    matches: bool = False


ARCHITECTURES = {
    "BlipForQuestionAnswering": Architecture(tuple(Part), answers=True),
    "BlipForConditionalGeneration": Architecture((Part.VISION_MODEL, Part.TEXT_DECODER)),
    "BlipForImageTextRetrieval": Architecture((Part.VISION_MODEL, Part.TEXT_ENCODER), matches=True),
}


def cache_names(kind: str, layers: int) -> list[str]:
    """Names of the decoder's cache, `past` or `present`: each layer's keys and values, in the order of its ports."""
    return [f"{kind}.{layer}.{half}" for layer in range(layers) for half in ("key", "value")]


def cross_names(layers: int) -> list[str]:
    """Names of what each layer's cross-attention reads of the encoder's tokens, its keys and values in one."""
    return [f"{CROSS}{layer}" for layer in range(layers)]


def named_outputs(model: ov.Model) -> dict[str, ov.Output]:
    """Every named tensor of `model`, inner ones too."""
    return {name: output for node in model.get_ordered_ops() for output in node.outputs() for name in output.names}


def architecture(config: SimpleNamespace) -> Architecture:
    """What the checkpoint with this configuration has and can do."""
    return ARCHITECTURES[config.architectures[0]]


def weight_sizes(folder: Path, precisions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes of each part's weights file at each precision: `{"vision model": {"FP16": 172000000, ...}, ...}`.

    Raises:
        OSError: a file is missing.
        ValueError: there is no such precision.
    """
    return {
        part.label: {
            precision: (folder / part.file(precision)).with_suffix(".bin").stat().st_size for precision in precisions
        }
        for part in architecture(load_config(folder)).parts
    }


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder`, which is made when missing; another one is waited for.

    What a killed process left half done there is removed first. The operating system frees a killed process's lock.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.warning("%s: another process is writing there, waiting for it to finish", folder)
        lock.acquire()
    try:
        for leftover in folder.glob(".unfinished-*"):
            shutil.rmtree(leftover)
        yield
    finally:
        lock.release()


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the files it is to replace: what is moved out of it is whole, the rest is removed.

    Raises:
        OSError: something cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        try:
            yield Path(name)
        except Exception as error:  # of a full disk OpenVINO makes a RuntimeError, tokenizers a plain Exception
            free = shutil.disk_usage(folder).free  # while what was written so far still takes its place
            if isinstance(error, OSError) or free > 1 << 20:
                raise
            raise OSError(f"cannot save in {folder}, where {free} bytes are free: {error}") from error


def seal(path: Path, xml: bytes) -> bytes:
    """The last line of the .xml at `path`, an XML comment: a CRC-32 of its name, of `xml` before it and of the .bin.

    One number over all three, so that none of them goes with others. CRC-32 finds every flipped byte and is the
    fastest checksum of the standard library without hardware support: 0.6 s for a GB.
    """
    checksum = zlib.crc32(xml, zlib.crc32(path.name.encode()))
    with path.with_suffix(".bin").open("rb") as weights:
        while chunk := weights.read(1 << 20):
            checksum = zlib.crc32(chunk, checksum)
    return b"<!-- CRC-32 of name, text above and .bin: %08x -->\n" % checksum


def save_ir(model: ov.Model, path: Path, stamp: dict[str, str]) -> None:
    """Save `model` at `path` (.xml, and .bin beside it) with float weights in FP16, a stamp and a seal.

    `stamp` goes into its runtime info. An IR that was there stays whole until the new one is. Its .xml goes first and
    comes back last, so that a process killed in between leaves no .xml beside another model's .bin.

    Raises:
        OSError: it cannot be written; what was there is still there.
    """
    for key, value in stamp.items():
        model.set_rt_info(value, ["blip", key])
    with staging(path.parent) as folder:
        staged = folder / path.name
        ov.save_model(model, staged, compress_to_fp16=True)
        with staged.open("r+b") as file:
            file.write(seal(staged, file.read()))
        path.unlink(missing_ok=True)
        for suffix in (".bin", ".xml"):
            staged.with_suffix(suffix).replace(path.with_suffix(suffix))


def read_ir(core: ov.Core, path: Path) -> ov.Model:
    """Read the IR that `save_ir` saved at `path`.

    Raises:
        OSError: a file is missing or may not be read.
        ValueError: a file is damaged, renamed or of another IR, or was replaced meanwhile.
    """
    before, content = path.stat(), path.read_bytes()
    end = content.rfind(b"\n", 0, -1) + 1
    if content[end:] != seal(path, content[:end]):
        raise ValueError(f"{path} or its .bin is damaged, renamed or of another IR")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read by OpenVINO {ov.__version__}") from error
    if not os.path.samestat(before, path.stat()):  # `save_ir` replaces the .xml whenever it replaces the .bin
        raise ValueError(f"{path} was replaced while it was read")
    return model


def read_stamp(model: ov.Model) -> dict[str, str]:
    """The stamp that `save_ir` gave a model; empty where there is none."""
    return model.get_rt_info(["blip"]).value if model.has_rt_info(["blip"]) else {}


def why_stale(path: Path, stamp: dict[str, str]) -> str | None:
    """Why the IR at `path` is not the one that `stamp` describes; None where it is."""
    if not path.exists():
        return "there is none yet"
    try:
        found = read_stamp(read_ir(ov.Core(), path))
    except (OSError, ValueError) as error:
        return f"the one there cannot be read ({error})"
    differing = [f"{key} {found.get(key, 'unknown')}" for key, value in stamp.items() if found.get(key) != value]
    return f"the one there has {', '.join(differing)}" if differing else None


def ensure_ir(path: Path, stamp: dict[str, str], make_model: Callable[[], ov.Model]) -> None:
    """See to it that the IR at `path` is the one that `stamp` describes: reuse it or make it, and log which."""
    reason = why_stale(path, stamp)
    if reason is None:
        logger.info("%s: reused, it has the same %s", path.name, ", ".join(stamp))
        return
    logger.info("%s: making it, %s", path.name, reason)
    save_ir(make_model(), path, stamp)


def remove_quantized(folder: Path, stamp: dict[str, str]) -> None:
    """Remove the quantized IRs in `folder` that were not made from the conversion that `stamp` describes."""
    for path in sorted(folder.glob("blip_*_int[48].xml")):
        if reason := why_stale(path, stamp):
            logger.info("%s: removed, %s", path.name, reason)
            path.unlink()
            path.with_suffix(".bin").unlink(missing_ok=True)


def checksum_line(path: Path) -> str:
    """A file's SHA-256 and name, as `sha256sum` prints them."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"


def load_config(folder: Path) -> SimpleNamespace:
    """The configuration of a converted folder whose settings are as they were saved, with the names of `BlipConfig`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a PyTorch checkpoint's or another converter version's, or a settings file is damaged.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} is no converted BLIP model (no config.json): make one with blip-ov convert")
    if not (folder / CHECKSUMS).exists():
        raise ValueError(
            f"{folder} is a PyTorch checkpoint or not wholly converted (no {CHECKSUMS}): "
            f"run blip-ov convert {folder} and load what that makes"
        )
    again = f"run blip-ov convert CHECKPOINT --output {folder}"
    for line in (folder / CHECKSUMS).read_text(errors="replace").removesuffix("\n").split("\n"):
        name = line[66:]  # after 64 digits and two spaces
        if not (folder / name).is_file() or checksum_line(folder / name) != line:
            raise ValueError(f"{folder / name} is missing or not as it was saved, going by {CHECKSUMS}: {again}")
    settings = (folder / "config.json").read_text(encoding="utf-8")
    config = json.loads(settings, object_hook=lambda values: SimpleNamespace(**values))
    if config.openvino_converter != CONVERTER_VERSION:
        raise ValueError(
            f"{folder} was made by converter version {config.openvino_converter}, this is {CONVERTER_VERSION}: {again}"
        )
    return config


def load_generation_config(folder: Path) -> dict[str, object]:
    """The settings of `generate` that a converted folder says hold where a caller says nothing."""
    path = folder / "generation_config.json"  # a retrieval checkpoint has none
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def read_parts(core: ov.Core, folder: Path, config: SimpleNamespace, precision: str) -> dict[Part, ov.Model]:
    """Read every part of a converted folder at a precision, made sure to be whole and of the folder's checkpoint.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: one is damaged, or of another checkpoint, converter or optimizer version; or no such precision.
    """
    parts = architecture(config).parts
    with ThreadPoolExecutor(len(parts)) as pool:  # checksums take longer than all else
        models = pool.map(lambda part: _read_part(core, folder / part.file(precision), config), parts)
        return dict(zip(parts, models, strict=True))


def _read_part(core: ov.Core, path: Path, config: SimpleNamespace) -> ov.Model:
    wanted = {"checkpoint": config.openvino_checkpoint, "converter": config.openvino_converter}
    again = f"run blip-ov convert CHECKPOINT --output {path.parent}"
    if path.name not in [part.file() for part in Part]:
        again = f"run blip-ov optimize {path.parent}" + " --weights int4" * path.stem.endswith("_int4")
        wanted["optimizer"] = OPTIMIZER_VERSION
    try:
        model = read_ir(core, path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error.filename} is missing: {again}") from error
    except ValueError as error:
        raise ValueError(f"{error}: {again}") from error
    found = read_stamp(model)
    for key, value in wanted.items():
        if found.get(key) != value:
            where = "this is" if key == "optimizer" else "config.json from"
            raise ValueError(f"{path} was made from {key} {found.get(key)}, but {where} {value}: {again}")
    return model


def read_best(core: ov.Core, folder: Path, config: SimpleNamespace) -> tuple[str, dict[Part, ov.Model]]:
    """The precision that is loaded where nobody names one, and its parts: INT8 where it is whole, else FP16.

    Where INT8 is there but unusable, a warning says why.

    Raises:
        FileNotFoundError, ValueError: FP16 is missing or damaged, as in `read_parts`.
    """
    if any((folder / part.file("INT8")).exists() for part in architecture(config).parts):
        try:
            return "INT8", read_parts(core, folder, config, "INT8")
        except (FileNotFoundError, ValueError) as error:
            logger.warning("FP16 is loaded, since INT8 cannot be used: %s", error)
    return "FP16", read_parts(core, folder, config, "FP16")
