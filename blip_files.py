"""The files of a converted model: their names and stamps, saved so that none is ever half there, read with care.

A converted folder holds `config.json`, `generation_config.json`, the processor's files and the IRs. Every IR carries
the digest of the checkpoint it came from and the version of the converter that made it.
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import openvino as ov
from transformers import BlipConfig

VISION_MODEL = "blip_vision_model.xml"
TEXT_ENCODER = "blip_text_encoder.xml"
TEXT_DECODER = "blip_text_decoder_with_past.xml"

PART_LABELS = {VISION_MODEL: "vision model", TEXT_ENCODER: "text encoder", TEXT_DECODER: "text decoder"}

PARTS_OF_ARCHITECTURE = {
    "BlipForQuestionAnswering": (VISION_MODEL, TEXT_ENCODER, TEXT_DECODER),
    "BlipForConditionalGeneration": (VISION_MODEL, TEXT_DECODER),
    "BlipForImageTextRetrieval": (VISION_MODEL, TEXT_ENCODER),
}


def quantized_name(part: str, weights: str = "int8") -> str:
    """The file name of a quantized part: `blip_vision_model.xml` -> `blip_vision_model_int8.xml`."""
    return part.replace(".xml", f"_{weights}.xml")


def part_files(folder: Path, parts: Sequence[str], precision: str | None) -> dict[str, str]:
    """Which file of `folder` holds each part at `precision`; None is INT8 where any of it is there, else FP16.

    Raises:
        ValueError: there is no such precision.
    """
    int8 = {part: quantized_name(part) for part in parts}
    files = {
        "FP16": {part: part for part in parts},
        "INT8": int8,
        "INT4": {part: quantized_name(part, "int4") if part == TEXT_DECODER else int8[part] for part in parts},
    }
    if precision is None:
        precision = "INT8" if any((folder / file).exists() for file in int8.values()) else "FP16"
    if precision not in files:
        raise ValueError(f"there is no precision {precision!r}; choose one of {', '.join(files)}")
    return files[precision]


def weight_sizes(folder: Path, precisions: Sequence[str]) -> dict[str, dict[str, int]]:
    """Bytes of each part's weights file at each precision: `{"vision model": {"FP16": 172000000, ...}, ...}`.

    Raises:
        OSError: a file is missing.
        ValueError: there is no such precision.
    """
    parts = PARTS_OF_ARCHITECTURE[load_config(folder).architectures[0]]
    return {
        PART_LABELS[part]: {
            precision: (folder / part_files(folder, parts, precision)[part]).with_suffix(".bin").stat().st_size
            for precision in precisions
        }
        for part in parts
    }


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the files it is to replace: what is moved out of it is whole, the rest is removed.

    A process that is killed leaves it behind; one from over an hour ago is cleared away here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".unfinished-*"):
        if time.time() - leftover.stat().st_mtime > 3600:
            shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
        yield Path(name)


def save_ir(model: ov.Model, path: Path, stamp: dict[str, str]) -> None:
    """Save `model` at `path` (.xml, and .bin beside it) with float weights in FP16, and `stamp` in its runtime info.

    An IR that was there stays whole until the new one is. Its .xml goes first and comes back last, so that one writer
    at a time never leaves an .xml beside another model's .bin.
    """
    for key, value in stamp.items():
        model.set_rt_info(value, ["blip", key])
    with staging(path.parent) as folder:
        ov.save_model(model, folder / path.name, compress_to_fp16=True)
        path.unlink(missing_ok=True)
        for suffix in (".bin", ".xml"):
            (folder / path.name).with_suffix(suffix).replace(path.with_suffix(suffix))


def read_stamp(model: ov.Model) -> dict[str, str]:
    """The stamp that `save_ir` gave a model; empty where there is none."""
    return model.get_rt_info(["blip"]).value if model.has_rt_info(["blip"]) else {}


def why_stale(path: Path, stamp: dict[str, str]) -> str | None:
    """Why the IR at `path` is not the one that `stamp` describes; None where it is."""
    if not path.exists():
        return "there is none yet"
    try:
        found = read_stamp(ov.Core().read_model(path))
    except RuntimeError:
        return "the one there cannot be read"
    differing = [f"{key} {found.get(key, 'unknown')}" for key, value in stamp.items() if found.get(key) != value]
    return f"the one there has {', '.join(differing)}" if differing else None


def ensure_ir(path: Path, stamp: dict[str, str], make_model: Callable[[], ov.Model]) -> None:
    """See to it that the IR at `path` is the one that `stamp` describes: reuse it or make it, and say which."""
    reason = why_stale(path, stamp)
    if reason is None:
        print(f"{path.name}: reused, it has the same {', '.join(stamp)}")
        return
    print(f"{path.name}: making it, {reason}")
    save_ir(make_model(), path, stamp)


def load_config(folder: Path) -> BlipConfig:
    """The configuration of a converted folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is a PyTorch checkpoint's.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"{folder} is no converted BLIP model (no config.json): make one with blip_convert.py")
    config = BlipConfig.from_pretrained(folder)
    if not hasattr(config, "openvino_checkpoint"):
        raise ValueError(f"{folder} is not converted: run python blip_convert.py {folder} and load what that makes")
    return config


def read_part(core: ov.Core, path: Path, config: BlipConfig) -> ov.Model:
    """Read the IR at `path`, made sure to be of the checkpoint and the converter version that `config` names.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is of another checkpoint or converter version, or cannot be read.
    """
    if path.name in PARTS_OF_ARCHITECTURE["BlipForQuestionAnswering"]:
        again = f"run python blip_convert.py CHECKPOINT --output {path.parent}"
    else:
        again = f"run python blip_optimize.py {path.parent}" + " --weights int4" * path.stem.endswith("_int4")
    for file in (path, path.with_suffix(".bin")):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: {again}")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read: {again}") from error
    found = read_stamp(model)
    for key, wanted in (("checkpoint", config.openvino_checkpoint), ("converter", config.openvino_converter)):
        if found.get(key) != wanted:
            raise ValueError(f"{path} was made from {key} {found.get(key)}, but config.json from {wanted}: {again}")
    return model
