"""What a loaded model keeps in memory: weights once, and nothing expanded that need not be."""

import locale
import shutil
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from conftest import F32
from openvino import opset13 as opset

from blip_model import OVBlipModel
from blip_openvino.runtime import memory
from blip_openvino.runtime.memory import release_pages
from blip_openvino.runtime.split import dequantize_looked_up

pytestmark = pytest.mark.skipif(not memory.MAPS.exists(), reason="memory is read from Linux's /proc")


def resident(folder: Path) -> int:
    """How many bytes of mapped files in `folder` are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            inside = str(folder) in line
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def status(name: str) -> int:
    """A figure of this process in bytes: `VmRSS`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


@pytest.mark.parametrize("precision", ["FP16", "INT8"])
def test_weights_files_leave_memory_when_they_are_packed(quantized, tmp_path, monkeypatch, precision):
    folder = shutil.copytree(quantized, tmp_path / "copy")
    size = sum(path.stat().st_size for path in folder.glob("*.bin")) / 3  # of each precision
    with monkeypatch.context() as context:
        context.setattr(memory, "MAPS", tmp_path / "no such file")
        kept = OVBlipModel.from_pretrained(folder, "CPU", precision)
    assert resident(folder) > size / 2
    del kept
    model = OVBlipModel.from_pretrained(folder, "CPU", precision)
    assert resident(folder) < size / 20
    expected = OVBlipModel.from_pretrained(quantized, "CPU", precision)
    side = model.config.vision_config.image_size
    pixels = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    answers = [each.generate_answer(pixels, np.full((2, 5), 7), max_new_tokens=5) for each in (model, expected)]
    np.testing.assert_array_equal(*answers)


def test_a_model_cache_leaves_memory_too(quantized, tmp_path):
    before = locale.setlocale(locale.LC_ALL)
    cached = [OVBlipModel.from_pretrained(quantized, "CPU", ov_config={"CACHE_DIR": tmp_path}) for _ in range(5)]
    assert locale.setlocale(locale.LC_ALL) == before  # else Python would take files for ASCII from now on
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert str(tmp_path) in memory.MAPS.read_text()
    assert resident(tmp_path) < size / 20
    side = cached[0].config.vision_config.image_size
    pixels = np.random.default_rng(0).normal(size=(2, 3, side, side)).astype(np.float32)
    answers = [each.generate_answer(pixels, np.full((2, 5), 7), max_new_tokens=5) for each in cached[:2]]
    np.testing.assert_array_equal(*answers)


def test_only_pages_that_a_file_still_has_are_released(tmp_path):
    folders = tmp_path / "released", tmp_path / "released not"
    for folder in folders:
        folder.mkdir()
        (folder / "file").write_bytes(bytes(10**6))
    released, kept = (np.memmap(folder / "file", mode="r") for folder in folders)
    changed = np.memmap(folders[0] / "file", mode="c")
    changed[:] = 7  # in memory alone
    assert not released.any()
    assert not kept.any()
    release_pages([folders[0]])
    assert resident(folders[1]) > 9 * 10**5
    assert (changed == 7).all()
    assert not released.any()


def test_an_embedding_table_stays_in_eight_bits_beside_quantized_activations():
    draw = np.random.default_rng(0)
    table, scale = draw.integers(-127, 128, (200_000, 256), np.int8), draw.random((200_000, 1), np.float32)
    ids = opset.parameter([-1, -1], ov.Type.i64)
    embeddings = opset.multiply(opset.convert(opset.constant(table), "f32"), opset.constant(scale))
    tokens = opset.gather(embeddings, ids, opset.constant(0))
    limits = [opset.constant(np.float32(each)) for each in (-127, 127, -127, 127)]
    identity = opset.constant(np.eye(256, dtype=np.float32))
    model = ov.Model([tokens, opset.matmul(opset.fake_quantize(tokens, *limits, 255), identity, False, True)], [ids])
    dequantize_looked_up(model)
    before = status("VmRSS")
    compiled = ov.Core().compile_model(model, "CPU", F32)
    assert status("VmRSS") - before < 2 * table.nbytes
    chosen = draw.integers(0, len(table), (3, 5))
    np.testing.assert_allclose(compiled(chosen)[0], table[chosen] * scale[chosen], rtol=1e-6)
