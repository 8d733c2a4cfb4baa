"""The notebooks run for real: on the embedded model, and on a checkpoint of BLIP-base geometry in a local Hub cache."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import EMBEDDED, ROOT
from nbclient.exceptions import CellExecutionError
from PIL import Image
from run_notebooks import results, run_notebook

from benchmarks.checkpoint import blip_base, blip_processor
from blip_model import OVBlipModel
from blip_openvino.evaluate.accuracy import answer_questions, caption_images, exact_match, score_answers
from blip_openvino.ir.convert import default_folder
from blip_openvino.ir.easy_vqa import load_captions, load_questions
from blip_openvino.ir.files import weight_sizes
from blip_openvino.runtime.processor import OVBlipProcessor
from notebook_utils import example_inputs

CONVERT = "233-blip-convert.ipynb"
OPTIMIZE = "233-blip-optimize.ipynb"
NOTEBOOKS = [CONVERT, OPTIMIZE]
MODEL = str(EMBEDDED.relative_to(ROOT))


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


@pytest.fixture(scope="module")
def convert_notebook(tmp_path_factory):
    """The convert notebook, executed on the embedded model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP_MODEL", MODEL)
        return run_notebook(ROOT / CONVERT, tmp_path_factory.mktemp("executed") / CONVERT)


def test_convert_notebook_captions_and_answers_rightly(convert_notebook):
    found = results(convert_notebook)
    image_path = example_inputs(EMBEDDED)[0][0]
    _, colour, shape = load_captions("test")[image_path].split()
    assert f"caption: a {colour} {shape}\n" in found
    assert dict(re.findall(r"question: (.*)\nanswer: (.*)", found)) == {
        "what color is the shape?": colour,
        "what shape is in the image?": shape,
        "is there a circle?": "yes" if shape == "circle" else "no",
    }


def test_convert_notebook_writes_what_pytorch_writes(convert_notebook):
    found = results(convert_notebook)
    assert "caption, token for token the same: True" in found
    assert "answer, token for token the same: True" in found


def test_convert_notebook_serves_its_demo_on_this_machine_only(convert_notebook):
    assert re.search(r"^http://127\.0\.0\.1:\d+", printed(convert_notebook), re.MULTILINE)


@pytest.fixture(scope="module")
def optimize_notebook(convert_notebook, tmp_path_factory):
    """The optimize notebook, executed on the embedded model after the convert notebook."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP_MODEL", MODEL)
        return run_notebook(ROOT / OPTIMIZE, tmp_path_factory.mktemp("executed") / OPTIMIZE)


def table(notebook: nbformat.NotebookNode, first_header: str) -> dict[str, dict[str, str]]:
    """The Markdown table in the notebook's outputs whose header starts so: row -> column -> text."""
    for output in outputs(notebook):
        lines = output.get("data", {}).get("text/markdown", "").splitlines()
        if lines and lines[0].startswith(f"| {first_header} |"):
            header, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines)
            return {" ".join(row[: -len(header) + 1]): dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    raise AssertionError(f"no table starts with {first_header!r}")


def test_optimize_notebook_shows_the_sizes_of_the_files(optimize_notebook):
    rows = table(optimize_notebook, "part")
    for label, sizes in weight_sizes(ROOT / default_folder(MODEL), ["FP16", "INT8", "INT4"]).items():
        for precision, size in sizes.items():
            assert float(rows[label][f"{precision}, MB"]) == pytest.approx(size / 1e6, rel=0.05)
        assert float(rows[label]["FP16 / INT8"].rstrip("x")) == pytest.approx(sizes["FP16"] / sizes["INT8"], abs=0.01)


def test_optimize_notebook_shows_the_accuracy_that_a_recount_gives(optimize_notebook):
    rows, questions, captions = table(optimize_notebook, "accuracy"), load_questions("test"), load_captions("test")
    folder = ROOT / default_folder(MODEL)
    model, processor = OVBlipModel.from_pretrained(folder, "AUTO", "INT8"), OVBlipProcessor.from_pretrained(folder)
    answers = answer_questions(model, processor, questions)
    for kind, score in score_answers(answers, questions).items():
        assert rows[f"answers, {kind}"]["INT8"] == str(score)
    said = caption_images(model, processor, list(captions))
    assert rows["captions"]["INT8"] == str(exact_match(said, list(captions.values())))
    assert rows["agreement with FP16, answers"]["FP16"].startswith("100.00 %")


def test_optimize_notebook_times_every_side_and_sums_up(optimize_notebook):
    found = results(optimize_notebook)
    for task in ("caption", "answer"):
        for side in ("PyTorch", "FP16", "INT8", "INT4"):
            low, high = re.search(rf"\| {task} \| {side} \| [\d.]+ \| ([\d.]+) - ([\d.]+) \|", found).groups()
            assert 0 < float(low) <= float(high)
    assert len(re.findall(rf"^\| {MODEL} \| (?:FP16|INT8|INT4) \| 9\d\.\d+ %", found, re.MULTILINE)) == 3


def test_optimize_notebook_skips_quantization_cleanly_when_the_box_is_off(optimize_notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP_MODEL", MODEL)
    notebook = nbformat.read(ROOT / OPTIMIZE, as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace("quantization_widget()", "quantization_widget(False)")
    copy = ROOT / "build" / "unticked.ipynb"
    nbformat.write(notebook, copy)
    done = run_notebook(copy, tmp_path / "done.ipynb", ROOT)
    skipping = [cell for cell in done.cells if cell.source.startswith("%%skip")]
    assert len(skipping) >= 8
    assert all(cell.outputs[0].text.startswith("Skipped") for cell in skipping)
    assert re.search(r"^http://127\.0\.0\.1:\d+", printed(done), re.MULTILINE)


def test_optimize_notebook_says_what_to_run_first(tmp_path, monkeypatch):
    monkeypatch.setenv("BLIP_MODEL", "models/never-converted")
    with pytest.raises(CellExecutionError, match=r"run 233-blip-convert\.ipynb with models/never-converted first"):
        run_notebook(ROOT / OPTIMIZE, tmp_path / OPTIMIZE)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_was_run_top_to_bottom_and_is_clean(name):
    text = (ROOT / name).read_text()
    notebook = nbformat.reads(text, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert len(text) < 1_000_000
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    assert not [output for output in outputs(notebook) if output.get("name") == "stderr"]
    assert "Warning" not in json.dumps(outputs(notebook))
    assert not re.search(r"/home/|/root/|/tmp/|/Users/|site-packages|[A-Z]:\\\\", json.dumps(outputs(notebook)))
    assert all(len(cell.source.splitlines()) <= 25 for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_heading_is_in_the_table_of_contents_and_every_file_it_names_exists(name):
    source = [cell.source for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "markdown"]
    text = "\n".join(source)
    headings = [line for cell in source for line in cell.splitlines() if re.match(r"##+ ", line)]
    assert headings[0] == "## Table of contents"
    for heading in headings[1:]:
        title = re.fullmatch(r"##+ (.*) \[⇑\]\(#Table-of-contents\)", heading).group(1)
        assert f"[{title}](#{title.replace(' ', '-')})" in text
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (ROOT / target).exists(), target


@pytest.fixture(scope="module")
def hub_cache(tmp_path_factory) -> Path:
    """A Hugging Face home whose cache has `Salesforce/blip-vqa-base`: its geometry, with random weights."""
    home = tmp_path_factory.mktemp("hf")
    repository = home / "hub" / "models--Salesforce--blip-vqa-base"
    snapshot = repository / "snapshots" / ("0" * 40)
    blip_base().save_pretrained(snapshot)
    blip_processor().save_pretrained(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    return home


def test_convert_notebook_runs_the_hub_model_unchanged(hub_cache, tmp_path):
    """Nothing chooses the model: it is in the cache, so the notebook takes it, and the Hub is not asked."""
    for path in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if Path(path).suffix in {".py", ".ipynb", ".txt"} and "/" not in path:
            shutil.copy(ROOT / path, tmp_path)
    (tmp_path / "build").mkdir()
    Image.effect_noise((1024, 768), 80).convert("RGB").save(tmp_path / "build" / "demo.jpg")
    environment = {name: value for name, value in os.environ.items() if name != "BLIP_MODEL"}
    environment |= {"HF_HOME": str(hub_cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "tests" / "run_notebooks.py"), CONVERT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(tmp_path / "build" / CONVERT, as_version=4)
    assert "BlipForQuestionAnswering: 361.2 million parameters, 384 pixels" in printed(notebook)
    assert "question: how many dogs are in the picture?" in done.stdout
    assert (tmp_path / "build" / "blip-vqa-base" / "blip_vision_model.xml").exists()
