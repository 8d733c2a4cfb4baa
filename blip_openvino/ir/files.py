"""The files of a converted model: their names and stamps, saved so that none is ever half there, read with care.

A converted folder holds `config.json`, `generation_config.json`, the processor's files and the IRs. Every IR carries
the digest of the checkpoint it came from and the version of the converter that made it. What is read is checked first,
so that a damaged file gives an error and never a wrong answer: an IR against its seal, the settings against
`checksums.sha256`.
"""

import hashlib
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import openvino as ov
from filelock import FileLock, Timeout

CONVERTER_VERSION = "3"
"""Goes into every IR. Raise it whenever the graphs of `blip_convert` change, so that IRs of the old shape are made anew
and not run."""

OPTIMIZER_VERSION = "5"
"""Goes into every quantized IR. Raise it whenever the functions of `blip_optimize` change what they make."""

VISION_MODEL = "blip_vision_model.xml"
TEXT_ENCODER = "blip_text_encoder.xml"
TEXT_DECODER = "blip_text_decoder_with_past.xml"

PART_LABELS = {VISION_MODEL: "vision model", TEXT_ENCODER: "text encoder", TEXT_DECODER: "text decoder"}

CHECKSUMS = "checksums.sha256"
"""Of the settings: the files beside the IRs. `sha256sum --check` reads it too."""

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
def writing(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder`, which is made when missing; another one is waited for, and a line says so.

    What a killed process left half done there is removed first. The operating system frees a killed process's lock.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        print(f"{folder}: another process is writing there, waiting for it to finish")
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
    try:
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=folder) as name:
            yield Path(name)
    except Exception as error:  # of a full disk OpenVINO makes a RuntimeError, tokenizers a plain Exception
        free = shutil.disk_usage(folder).free / 1e6
        raise OSError(f"cannot save in {folder} ({free:.0f} MB are free there): {error}") from error


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

    def identities() -> list[tuple[int, int]]:
        stats = (path.stat(), path.with_suffix(".bin").stat())
        return [(stat.st_ino, stat.st_mtime_ns) for stat in stats]

    before, content = identities(), path.read_bytes()
    end = content.rfind(b"\n", 0, -1) + 1
    if content[end:] != seal(path, content[:end]):
        raise ValueError(f"{path} or its .bin is damaged, renamed or of another IR")
    try:
        model = core.read_model(path)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be read by OpenVINO {ov.__version__}") from error
    if identities() != before:
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
    """See to it that the IR at `path` is the one that `stamp` describes: reuse it or make it, and say which."""
    reason = why_stale(path, stamp)
    if reason is None:
        print(f"{path.name}: reused, it has the same {', '.join(stamp)}")
        return
    print(f"{path.name}: making it, {reason}")
    save_ir(make_model(), path, stamp)


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
        raise FileNotFoundError(f"{folder} is no converted BLIP model (no config.json): make one with blip_convert.py")
    if not (folder / CHECKSUMS).exists():
        raise ValueError(
            f"{folder} is a PyTorch checkpoint or not wholly converted (no {CHECKSUMS}): "
            f"run python blip_convert.py CHECKPOINT and load what that makes"
        )
    again = f"run python blip_convert.py CHECKPOINT --output {folder}"
    lines = (folder / CHECKSUMS).read_text(errors="replace").removesuffix("\n").split("\n")
    names = [line[66:] for line in lines]  # after 64 digits and two spaces
    for line, name in zip(lines, names, strict=True):
        if not (folder / name).is_file() or checksum_line(folder / name) != line:
            raise ValueError(f"{folder / name} is missing or not as it was saved, going by {CHECKSUMS}: {again}")
    if "config.json" not in names:
        raise ValueError(f"{folder / CHECKSUMS} is damaged, it lacks config.json: {again}")
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = {part: SimpleNamespace(**settings[part]) for part in ("text_config", "vision_config")}
    config = SimpleNamespace(**settings | parts)
    if config.openvino_converter != CONVERTER_VERSION:
        raise ValueError(
            f"{folder} was made by converter version {config.openvino_converter}, this is {CONVERTER_VERSION}: {again}"
        )
    return config


def read_part(core: ov.Core, path: Path, config: SimpleNamespace) -> ov.Model:
    """Read the IR at `path`, made sure to be whole, of the checkpoint that `config` names and of these versions.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is damaged, or of another checkpoint, converter or optimizer version.
    """
    wanted = {"checkpoint": config.openvino_checkpoint, "converter": config.openvino_converter}
    if path.name in PARTS_OF_ARCHITECTURE["BlipForQuestionAnswering"]:
        again = f"run python blip_convert.py CHECKPOINT --output {path.parent}"
    else:
        again = f"run python blip_optimize.py {path.parent}" + " --weights int4" * path.stem.endswith("_int4")
        wanted["optimizer"] = OPTIMIZER_VERSION
    for file in (path, path.with_suffix(".bin")):
        if not file.exists():
            raise FileNotFoundError(f"{file} is missing: {again}")
    try:
        model = read_ir(core, path)
    except ValueError as error:
        raise ValueError(f"{error}: {again}") from error
    found = read_stamp(model)
    for key, value in wanted.items():
        if found.get(key) != value:
            where = "this is" if key == "optimizer" else "config.json from"
            raise ValueError(f"{path} was made from {key} {found.get(key)}, but {where} {value}: {again}")
    return model
