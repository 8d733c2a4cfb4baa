"""Files that are damaged, half written, of others or cannot be written: never a wrong answer, and a rerun repairs."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, ROOT
from forked_writer import tiny_model

from blip_model import OVBlipModel
from blip_openvino.ir import files as blip_files
from blip_openvino.ir.convert import convert
from blip_openvino.ir.files import (
    CHECKSUMS,
    TEXT_DECODER,
    TEXT_ENCODER,
    VISION_MODEL,
    quantized_name,
    read_ir,
    seal,
    writing,
)
from blip_openvino.ir.optimize import easy_vqa_calibration, optimize

PARTS = [VISION_MODEL, TEXT_ENCODER, TEXT_DECODER]
QUANTIZED = [quantized_name(part) for part in PARTS]
SETTINGS = ["config.json", "generation_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json"]
KILLS = 20


class Writer:
    """A process that converts and quantizes in forked children; see `forked_writer`."""

    def __init__(self):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "forked_writer.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        assert json.loads(self.process.stdout.readline()) == "ready"

    def __call__(self, task: str, folder: Path, **how) -> dict:
        print(json.dumps({"task": task, "folder": str(folder), **how}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def succeeds(self, task: str, folder: Path, **how) -> float:
        """The seconds that it took."""
        ended = self(task, folder, **how)
        assert ended["status"] == 0, ended
        return ended["seconds"]


@pytest.fixture(scope="module")
def writer():
    writer = Writer()
    yield writer
    writer.process.stdin.close()
    writer.process.wait()
    writer.process.stdout.close()


@pytest.fixture(scope="module")
def whole(writer, tmp_path_factory) -> dict[int, Path]:
    """Two tiny models of the same geometry, converted and quantized."""
    folders = {seed: tmp_path_factory.mktemp(f"tiny-{seed}") for seed in (1, 2)}
    for seed, folder in folders.items():
        writer.succeeds("convert", folder, seed=seed)
        writer.succeeds("optimize", folder)
    return folders


def says(folder: Path, precision: str | None) -> list[np.ndarray]:
    """What each part of a folder's model says about two images: their tokens, a text's, and the answers."""
    model = OVBlipModel.from_pretrained(folder, "CPU", precision, ov_config=F32)
    images = model.encode_images(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    ids = torch.arange(5, 13).repeat(2, 1)
    text = images.encode_text(ids, torch.ones_like(ids))[0].copy()
    return [images.image_embeds, text, model.generate_answer(images, ids, max_new_tokens=8).numpy()]


@pytest.fixture(scope="module")
def right(whole) -> dict[tuple[int, str], list[np.ndarray]]:
    """What undamaged models say, by seed and precision."""
    return {(seed, precision): says(whole[seed], precision) for seed in whole for precision in ("FP16", "INT8")}


def equal(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_the_models_of_these_tests_are_told_apart_by_what_they_say(right):
    outputs = list(right.values())
    assert not any(equal(one, other) for index, one in enumerate(outputs) for other in outputs[:index])


def flipped(content: bytes, place: float) -> bytes:
    """`content` with a bit changed at `place`, from 0 for the first byte to 1 for the last."""
    index = round(place * (len(content) - 1))
    return content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :]


DAMAGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte long": lambda content: content + b"\n",
    "empty": lambda content: b"",
    "first byte changed": lambda content: flipped(content, 0),
    "byte in the middle changed": lambda content: flipped(content, 0.5),
    "last byte changed": lambda content: flipped(content, 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".xml", ".bin"])
@pytest.mark.parametrize("part", PARTS + QUANTIZED)
def test_damaged_ir_is_refused_with_the_way_out(whole, tmp_path, part, suffix, damage):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    file = (folder / part).with_suffix(suffix)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    command = "blip_convert.py CHECKPOINT --output" if part in PARTS else "blip_optimize.py"
    with pytest.raises(ValueError, match=rf"{part} or its \.bin is damaged.*run python {command} {folder}"):
        OVBlipModel.from_pretrained(folder, "CPU", "FP16" if part in PARTS else "INT8")


@pytest.mark.parametrize("suffix", [".xml", ".bin"])
def test_no_changed_byte_goes_unseen(whole, tmp_path, suffix):
    core, folder = ov.Core(), shutil.copytree(whole[1], tmp_path / "copy")
    file = (folder / VISION_MODEL).with_suffix(suffix)
    content = file.read_bytes()
    for place in np.random.default_rng(0).random(200):
        file.write_bytes(flipped(content, place))
        with pytest.raises(ValueError, match="is damaged"):
            read_ir(core, folder / VISION_MODEL)
    file.write_bytes(content)
    read_ir(core, folder / VISION_MODEL)


@pytest.mark.parametrize("part", PARTS + QUANTIZED)
def test_weights_of_another_model_of_the_same_size_are_refused(whole, tmp_path, part):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    weights = (folder / part).with_suffix(".bin")
    other = (whole[2] / part).with_suffix(".bin")
    assert other.stat().st_size == weights.stat().st_size
    shutil.copy(other, weights)
    with pytest.raises(ValueError, match=f"{part} or its .bin is damaged, renamed or of another IR"):
        OVBlipModel.from_pretrained(folder, "CPU", "FP16" if part in PARTS else "INT8")


@pytest.mark.parametrize("suffixes", [[".bin"], [".xml"], [".xml", ".bin"]])
def test_files_of_another_part_are_refused(whole, tmp_path, suffixes):
    for index, part in enumerate(PARTS + QUANTIZED):
        folder = shutil.copytree(whole[1], tmp_path / str(index))
        for suffix in suffixes:
            shutil.copy((folder / (QUANTIZED + PARTS)[index]).with_suffix(suffix), (folder / part).with_suffix(suffix))
        with pytest.raises(ValueError, match=f"{part} or its .bin is damaged, renamed or of another IR"):
            OVBlipModel.from_pretrained(folder, "CPU", "FP16" if part in PARTS else "INT8")


def test_ir_that_is_replaced_while_it_is_read_is_refused(whole, tmp_path, monkeypatch):
    folder, read = shutil.copytree(whole[1], tmp_path / "copy"), ov.Core.read_model

    def replaced_meanwhile(self, path):
        for suffix in (".bin", ".xml"):
            shutil.copy((whole[2] / path.name).with_suffix(suffix), tmp_path / "new")
            (tmp_path / "new").replace(path.with_suffix(suffix))
        return read(self, path)

    monkeypatch.setattr(ov.Core, "read_model", replaced_meanwhile)
    with pytest.raises(ValueError, match=f"{VISION_MODEL} was replaced while it was read"):
        read_ir(ov.Core(), folder / VISION_MODEL)


def test_ir_that_this_openvino_cannot_read_is_refused_with_its_version(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    xml = b"<net><of/><the/><future/></net>\n"
    (folder / VISION_MODEL).write_bytes(xml + seal(folder / VISION_MODEL, xml))
    with pytest.raises(ValueError, match=r"cannot be read by OpenVINO 20\d\d.*run python blip_convert\.py"):
        OVBlipModel.from_pretrained(folder, "CPU", "FP16")


@pytest.mark.parametrize("damage", [*DAMAGES, "missing"])
@pytest.mark.parametrize("name", SETTINGS)
def test_damaged_settings_are_refused_with_the_way_out(whole, tmp_path, name, damage):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    if damage == "missing":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(DAMAGES[damage]((folder / name).read_bytes()))
    error = FileNotFoundError if (name, damage) == ("config.json", "missing") else ValueError
    with pytest.raises(error, match=rf"{name}.*blip_convert\.py"):
        OVBlipModel.from_pretrained(folder, "CPU")


@pytest.mark.parametrize("damage", ["cut in half", "empty", *(name for name in DAMAGES if "changed" in name)])
def test_damaged_checksums_are_refused_with_the_way_out(whole, tmp_path, damage):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    (folder / CHECKSUMS).write_bytes(DAMAGES[damage]((folder / CHECKSUMS).read_bytes()))
    with pytest.raises(ValueError, match=rf"{folder}.* run python blip_convert\.py"):
        OVBlipModel.from_pretrained(folder, "CPU")


def test_folder_of_another_converter_version_is_refused(whole, monkeypatch):
    monkeypatch.setattr(blip_files, "CONVERTER_VERSION", "next")
    with pytest.raises(ValueError, match=r"converter version \d+, this is next: run python blip_convert\.py"):
        OVBlipModel.from_pretrained(whole[1], "CPU", "FP16")


def test_models_of_another_optimizer_version_are_refused_and_fp16_runs(whole, right, monkeypatch):
    monkeypatch.setattr(blip_files, "OPTIMIZER_VERSION", "next")
    with pytest.raises(ValueError, match=r"from optimizer \d+, but this is next: run python blip_optimize\.py"):
        OVBlipModel.from_pretrained(whole[1], "CPU", "INT8")
    assert equal(says(whole[1], "FP16"), right[1, "FP16"])


def test_rerun_repairs_every_damage(whole, right, tmp_path, processor, capsys):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    for file, damage in zip(sorted(folder.glob("[!.]*")), 3 * list(DAMAGES.values()), strict=False):
        file.write_bytes(damage(file.read_bytes()))
    convert(tiny_model(1), processor, folder)
    optimize(folder, easy_vqa_calibration(4))
    assert capsys.readouterr().out.count("making it, the one there cannot be read") == 6
    for precision in ("FP16", "INT8"):
        assert equal(says(folder, precision), right[1, precision])


def test_loading_writes_nothing_into_the_folder(whole, tmp_path):
    folder = shutil.copytree(whole[1], tmp_path / "copy")
    os.utime(folder, ns=(0, 0))  # any file made or removed in it changes this
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    folder.chmod(0o555)
    try:
        OVBlipModel.from_pretrained(folder, "CPU")
    finally:
        folder.chmod(0o755)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert folder.stat().st_mtime_ns == 0


def says_right_or_refuses(folder: Path, expected: dict[str | None, list[list[np.ndarray]]]) -> str:
    """Load a folder at each precision: what it says is among the `expected`, or an error tells what to run.

    Returns the name of the error at the last one, or "right".
    """
    for precision, outputs in expected.items():
        try:
            found = says(folder, precision)
        except (FileNotFoundError, ValueError) as error:
            outcome, message = type(error).__name__, str(error)
        else:
            outcome, message = "right", ""
        if outcome == "right":
            assert any(equal(found, output) for output in outputs), precision
        else:
            assert "blip_convert.py" in message or "blip_optimize.py" in message
    return outcome


def is_clean(folder: Path) -> bool:
    """Whether nothing half done is left in a folder."""
    return not list(folder.glob(".unfinished-*"))


def moments(span: float) -> list[float]:
    """`KILLS` random moments in `span` seconds, one in each of as many equal shares of it."""
    draw = random.Random(0)
    return [(share + draw.random()) / KILLS * span for share in range(KILLS)]


def test_conversion_killed_at_any_moment_gives_right_answers_or_an_error_and_a_rerun_repairs_it(
    writer, right, tmp_path
):
    """The folder holds one model and gets another, in turn; every second time it starts empty."""
    folder, killed = tmp_path / "model", 0
    for index, moment in enumerate(moments(writer.succeeds("convert", tmp_path / "timed", seed=1))):
        seed = 1 + index % 2
        if index % 4 < 2:
            shutil.rmtree(folder, ignore_errors=True)
        ended = writer("convert", folder, seed=seed, kill_after=moment)
        assert ended["status"] in (0, -signal.SIGKILL), ended
        killed += ended["status"] != 0
        says_right_or_refuses(folder, {None: [right[1, "FP16"], right[2, "FP16"]]})
        writer.succeeds("convert", folder, seed=seed)
        assert equal(says(folder, None), right[seed, "FP16"])
        assert is_clean(folder)
    assert killed >= KILLS // 2


def test_quantization_killed_at_any_moment_gives_right_answers_or_an_error_and_a_rerun_repairs_it(
    writer, whole, right, tmp_path
):
    shutil.copytree(whole[1], tmp_path / "fp16", ignore=shutil.ignore_patterns("*_int8.*"))
    timed = shutil.copytree(tmp_path / "fp16", tmp_path / "timed")
    killed = 0
    for index, moment in enumerate(moments(writer.succeeds("optimize", timed))):
        folder = shutil.copytree(tmp_path / "fp16", tmp_path / str(index))
        ended = writer("optimize", folder, kill_after=moment)
        assert ended["status"] in (0, -signal.SIGKILL), ended
        killed += ended["status"] != 0
        says_right_or_refuses(folder, {"INT8": [right[1, "INT8"]], None: [right[1, "FP16"], right[1, "INT8"]]})
        assert equal(says(folder, "FP16"), right[1, "FP16"])
        writer.succeeds("optimize", folder)
        assert equal(says(folder, "INT8"), right[1, "INT8"])
        assert is_clean(folder)
    assert killed >= KILLS // 2


def test_conversion_killed_at_every_step_of_saving_gives_right_answers_or_an_error_and_a_rerun_repairs_it(
    writer, whole, right, tmp_path
):
    """Before each operation on a file that Python does: between any two of them the process may end."""
    outcomes, step, status = set(), 0, -signal.SIGKILL
    while status:
        step += 1
        folder = tmp_path / str(step)
        shutil.copytree(whole[2], folder, ignore=shutil.ignore_patterns("*_int8.*"))
        status = writer("save", folder, seed=1, kill_at_step=step)["status"]
        assert status in (0, -signal.SIGKILL)
        outcomes.add(says_right_or_refuses(folder, {None: [right[1, "FP16"], right[2, "FP16"]]}))
        writer.succeeds("save", folder, seed=1)
        assert equal(says(folder, None), right[1, "FP16"])
        assert is_clean(folder)
        shutil.rmtree(folder)
    assert step > 40
    assert outcomes == {"right", "ValueError", "FileNotFoundError"}


@pytest.mark.parametrize("file_size", [1000, 2000, 20_000, 60_000])
def test_no_space_left_is_said_leaves_nothing_half_done_and_is_repaired_with_space(
    writer, whole, right, tmp_path, file_size
):
    """The kernel refuses to let a file grow over `file_size`: a settings file, the tokenizer's, a .bin, a later one."""
    folder = tmp_path / "model"
    shutil.copytree(whole[2], folder, ignore=shutil.ignore_patterns("*_int8.*"))
    ended = writer("save", folder, seed=1, file_size=file_size)
    assert ended["status"] == 1
    assert f"OSError: cannot save in {folder} (" in ended["printed"]
    assert is_clean(folder)
    says_right_or_refuses(folder, {None: [right[1, "FP16"], right[2, "FP16"]]})
    writer.succeeds("save", folder, seed=1)
    assert equal(says(folder, None), right[1, "FP16"])


def test_quantization_without_space_is_said_and_leaves_fp16_running(writer, whole, right, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole[1], folder, ignore=shutil.ignore_patterns("*_int8.*"))
    ended = writer("optimize", folder, file_size=60_000)
    assert ended["status"] == 1
    assert f"OSError: cannot save in {folder} (" in ended["printed"]
    assert is_clean(folder)
    assert equal(says(folder, "FP16"), right[1, "FP16"])


@pytest.mark.parametrize("task", ["save", "optimize"])
def test_folder_that_may_not_be_written_to_is_named_and_stays_as_it_was(writer, whole, right, task):
    """Root may write anywhere, so the writer becomes nobody; pytest's own folders are closed to that one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        shutil.copytree(whole[1], folder, ignore=shutil.ignore_patterns("*_int8.*", ".lock"))
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        ended = writer(task, folder, seed=2, nobody=True)
        folder.chmod(0o755)
        assert ended["status"] == 1
        assert f"PermissionError: [Errno 13] Permission denied: '{folder}" in ended["printed"]
        assert equal(says(folder, None), right[1, "FP16"])


def test_file_in_the_place_of_the_folder_is_named(processor, tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FileExistsError, match=str(tmp_path / "model")):
        convert(tiny_model(1), processor, tmp_path / "model")
    assert (tmp_path / "model").read_text() == "mine"


def test_second_writer_waits_for_the_first_and_says_so(processor, right, tmp_path, monkeypatch):
    said, folder = threading.Event(), tmp_path / "model"
    lines = []

    def note(line: str) -> None:
        lines.append(line)
        said.set()

    monkeypatch.setattr(blip_files, "print", note, raising=False)
    with writing(folder):
        second = threading.Thread(target=convert, args=(tiny_model(1), processor, folder))
        second.start()
        assert said.wait(120)
        assert lines == [f"{folder}: another process is writing there, waiting for it to finish"]
        assert [path.name for path in folder.iterdir()] == [".lock"]
    second.join()
    assert equal(says(folder, None), right[1, "FP16"])
