"""Files that are damaged, half written, of others or cannot be written: never a wrong answer, and a rerun repairs."""

import os
import shutil
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import openvino as ov
import pytest
from conftest import ROOT
from tiny import convert_random

from blip_model import OVBlipModel
from blip_openvino.ir.calibration import scene_texts
from blip_openvino.ir.files import Part, load_config, read_best, read_ir, read_stamp, save_ir, seal, staging, writing
from blip_openvino.ir.optimize import optimize

VISION, ENCODER, DECODER = (part.file() for part in Part)
INT8 = [part.file("INT8") for part in Part]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict[int, Path]:
    """Converted folders of two random models, by their seed, the first one with quantized files."""
    folders = {seed: convert_random(seed, tmp_path_factory.mktemp(f"tiny-{seed}")) for seed in (1, 2)}
    optimize(folders[1], scene_texts(True, 4))
    return folders


@pytest.fixture
def folder(tiny, tmp_path) -> Path:
    return shutil.copytree(tiny[1], tmp_path / "copy")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("[!.]*")}


def flipped(content: bytes) -> bytes:
    """`content` with one bit changed in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (VISION, flipped),
        (ENCODER, lambda content: content[: len(content) // 2]),
        (DECODER.replace(".xml", ".bin"), flipped),
        (INT8[0].replace(".xml", ".bin"), lambda content: content[:-1]),
        (INT8[2], lambda content: b""),
        ("config.json", flipped),
        ("generation_config.json", lambda content: content + b"\n"),
        ("tokenizer.json", lambda content: None),
        ("reference.npz", flipped),
        ("checksums.sha256", lambda content: b""),
    ],
)
def test_damaged_file_is_refused_with_the_way_out(folder, name, damage):
    content = damage((folder / name).read_bytes())
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    command = f"blip-ov optimize {folder}" if "_int8" in name else f"blip-ov convert CHECKPOINT --output {folder}"
    with pytest.raises(ValueError, match=rf"{folder}.*: run {command}"):
        OVBlipModel.from_pretrained(folder, "CPU", "INT8" if "_int8" in name else "FP16")


@pytest.mark.parametrize(
    ("seed", "name", "suffixes", "message"),
    [
        (1, ENCODER, [".bin"], f"{DECODER} or its .bin is damaged, renamed or of another IR"),
        (1, ENCODER, [".xml", ".bin"], f"{DECODER} or its .bin is damaged, renamed or of another IR"),
        (2, DECODER, [".xml", ".bin"], f"{DECODER} was made from checkpoint .*: run blip-ov convert"),
    ],
    ids=["weights of another part", "another part", "another checkpoint"],
)
def test_files_of_another_part_or_checkpoint_are_refused(tiny, folder, seed, name, suffixes, message):
    for suffix in suffixes:
        shutil.copy((tiny[seed] / name).with_suffix(suffix), (folder / DECODER).with_suffix(suffix))
    with pytest.raises(ValueError, match=message):
        OVBlipModel.from_pretrained(folder, "CPU", "FP16")


def test_ir_that_is_replaced_while_it_is_read_is_refused(tiny, folder, monkeypatch):
    read = ov.Core.read_model

    def replaced_after(self, path):
        model = read(self, path)
        shutil.copy(tiny[2] / path.name, folder / "new")
        (folder / "new").replace(path)
        return model

    monkeypatch.setattr(ov.Core, "read_model", replaced_after)
    with pytest.raises(ValueError, match=f"{VISION} was replaced while it was read"):
        read_ir(ov.Core(), folder / VISION)


def test_ir_that_this_openvino_cannot_read_is_refused_with_its_version(folder):
    xml = b"<net><of/><the/><future/></net>\n"
    (folder / VISION).write_bytes(xml + seal(folder / VISION, xml))
    with pytest.raises(ValueError, match=r"cannot be read by OpenVINO 20\d\d.*run blip-ov convert"):
        OVBlipModel.from_pretrained(folder, "CPU", "FP16")


def default(folder: Path) -> str:
    """The precision that is loaded where nobody names one."""
    return OVBlipModel.from_pretrained(folder, "CPU").precision


def test_int8_is_the_default_where_it_is_whole(tiny, caplog):
    assert [default(folder) for folder in tiny.values()] == ["INT8", "FP16"]
    assert not caplog.text


def stamped(path: Path, key: str) -> None:
    """Save an IR as one of another checkpoint or optimizer version."""
    model = read_ir(ov.Core(), path)
    save_ir(model, path, read_stamp(model) | {key: "another"})


@pytest.mark.parametrize(
    "spoil",
    [
        Path.unlink,
        lambda path: path.write_bytes(flipped(path.read_bytes())),
        partial(stamped, key="optimizer"),
        partial(stamped, key="checkpoint"),
    ],
    ids=["missing", "damaged", "optimizer version", "conversion"],
)
def test_unusable_int8_is_named_in_a_warning_and_fp16_loaded(folder, caplog, spoil):
    spoil(folder / INT8[1])
    assert default(folder) == "FP16"
    for said in ("FP16 is loaded, since INT8 cannot be used", INT8[1], f"run blip-ov optimize {folder}"):
        assert said in caplog.text


def test_rerun_repairs_every_damage(tiny, folder):
    for name, content in contents(folder).items():
        (folder / name).write_bytes(flipped(content))
    convert_random(1, folder)
    optimize(folder, scene_texts(True, 4))
    repaired = contents(folder)
    assert {*repaired} == {*contents(tiny[1])}
    weights = [name for name in repaired if name.endswith(".bin")]
    assert all(repaired[name] == contents(tiny[1])[name] for name in weights)
    assert default(folder) == "INT8"


KILLED = """
import os, signal, shutil, sys
from functools import partial
from conftest import random_model
from tiny import convert_random
from blip_openvino.ir import convert as module
model, left = random_model(1), 0
made = {"vision": module.convert_vision_model(model.vision_model),
        "encoder": module.convert_text_encoder(model.text_encoder),
        "decoder": module.convert_text_decoder(model.text_decoder)}
module.convert_vision_model = lambda *modules: made["vision"]
module.convert_text_encoder = lambda *modules: made["encoder"]
module.convert_text_decoder = lambda *modules: made["decoder"]
module.ensure_reference.__globals__["make_reference"] = lambda *arguments: {"silent": ""}

def count(event, arguments):
    global left
    if left and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        if str(arguments[0]).startswith(sys.argv[2]):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(count)
for step in range(1, 1000, 3):
    folder = f"{sys.argv[2]}/{step}"
    shutil.copytree(sys.argv[1], folder)
    child = os.fork()
    if not child:
        left = step
        convert_random(1, folder)
        os._exit(0)
    if not os.waitpid(child, 0)[1]:
        break
"""


def test_conversion_killed_at_any_step_leaves_one_model_or_an_error_and_a_rerun_repairs_it(tiny, tmp_path):
    """Before each third operation on a file that Python does, while another model is in the folder."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [ROOT, ROOT / "tests", ROOT / "tests" / "ir"]))}
    command = [sys.executable, "-c", KILLED, tiny[2], tmp_path]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    weights = {contents(folder)[VISION.replace(".xml", ".bin")]: seed for seed, folder in tiny.items()}

    def outcome(folder: Path) -> int | str:
        try:
            read_best(ov.Core(), folder, load_config(folder))
        except (FileNotFoundError, ValueError) as error:
            return str(error).replace(str(folder), "FOLDER")
        return weights[contents(folder)[VISION.replace(".xml", ".bin")]]

    outcomes = [outcome(folder) for folder in tmp_path.iterdir()]
    errors = [found for found in outcomes if found not in weights.values()]
    assert all("run blip-ov convert CHECKPOINT --output FOLDER" in error for error in errors)
    assert len(outcomes) > 10
    assert {1, 2} < {*outcomes}
    folder = max(tmp_path.iterdir())
    convert_random(1, folder)
    assert not list(folder.glob(".unfinished-*"))
    assert default(folder) == "FP16"


@pytest.mark.parametrize(("free_meanwhile", "error"), [(4096, OSError), (10**9, RuntimeError)])
def test_full_disk_is_said_and_any_other_error_stays_what_it_is(tmp_path, monkeypatch, free_meanwhile, error):
    """What is free counts before the unfinished file is removed, which may be most of the disk."""

    def free(path: Path) -> SimpleNamespace:
        return SimpleNamespace(free=free_meanwhile if list(path.glob(".unfinished-*")) else 10**9)

    monkeypatch.setattr("shutil.disk_usage", free)
    said = r"cannot save in .*4096 bytes are free" if error is OSError else "^iostream error$"
    with pytest.raises(error, match=said), staging(tmp_path):
        raise RuntimeError("iostream error")
    assert not list(tmp_path.iterdir())


def test_second_writer_waits_for_the_first_and_says_so(tmp_path, caplog):
    def write() -> None:
        with writing(tmp_path):
            (tmp_path / "second").touch()

    second = threading.Thread(target=write)
    with writing(tmp_path):
        second.start()
        while "another process is writing there" not in caplog.text:
            second.join(0.01)
        assert not (tmp_path / "second").exists()
    second.join()
    assert (tmp_path / "second").exists()
