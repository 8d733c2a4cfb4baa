"""The notebooks run for real on the embedded model: headless, by the command of `make run`, with what may go wrong."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from nbformat import NotebookNode
from PIL import Image
from run_notebooks import results
from workplace import CONVERT, EXAMPLES, FEW, MODEL, NOTEBOOKS, OPTIMIZE, change, make_workplace, right_answers

from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scenes import TEST_SEED, make_scene
from blip_openvino.ir.convert import default_folder
from blip_openvino.ir.files import weight_sizes
from notebook_utils import SCENE_EXAMPLES


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def table(notebook: NotebookNode, first_header: str) -> dict[str, dict[str, str]]:
    """The Markdown table in the notebook's outputs whose header starts so: row -> column -> text."""
    for output in outputs(notebook):
        lines = output.get("data", {}).get("text/markdown", "").splitlines()
        if lines and lines[0].startswith(f"| {first_header} |"):
            header, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
            return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    raise AssertionError(f"no table starts with {first_header!r}")


def command(workplace: Path, name: str, **environment: str) -> subprocess.CompletedProcess:
    """Run one notebook by the command that `make run` uses."""
    variables = os.environ | {"BLIP_MODEL": MODEL} | environment
    line = [sys.executable, "tests/run_notebooks.py", name]
    return subprocess.run(line, cwd=workplace, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    return make_workplace(tmp_path_factory.mktemp("workplace"))


def executed(workplace: Path, name: str) -> NotebookNode:
    """The notebook, run by that command on the embedded model."""
    done = command(workplace, name)
    assert done.returncode == 0, done.stderr
    return nbformat.read(workplace / "build" / name, as_version=4)


def reason(done: subprocess.CompletedProcess) -> str:
    """The last line of a run that failed."""
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def convert_notebook(workplace):
    return executed(workplace, CONVERT)


@pytest.fixture(scope="module")
def optimize_notebook(workplace, convert_notebook):
    """After the convert notebook, whose folder it goes on from."""
    return executed(workplace, OPTIMIZE)


@pytest.mark.slow
def test_convert_notebook_checks_captions_and_answers_rightly(convert_notebook):
    found = results(convert_notebook)
    assert "on AUTO at FP16" in found
    assert "WRONG" not in found
    assert f"caption: {caption(make_scene(TEST_SEED + EXAMPLES[0][0]))}\n" in found
    assert dict(re.findall(r"question: (.*)\nanswer: (.*)", found)) == right_answers()


@pytest.mark.slow
def test_convert_notebook_asks_images_in_turn_and_shows_what_they_keep(convert_notebook):
    found = results(convert_notebook)
    _, question = EXAMPLES[0]
    counts = [str(sum(item.kind == "dog" for item in make_scene(TEST_SEED + i).items)) for i, _ in EXAMPLES[:3]]
    assert f"{question} {[*counts, counts[0]]}" in found
    before, after = (re.findall(r"[\d.]+(?= MB)", re.search(f"{when}: (.*)", found)[1]) for when in ("ed", "about"))
    assert all(float(kept) > float(encoded) > 0 for encoded, kept in zip(before, after, strict=True))


@pytest.mark.slow
def test_convert_notebook_finds_the_scene_that_a_text_describes_and_its_caption(convert_notebook):
    found = results(convert_notebook)
    index = EXAMPLES[0][0]
    ranked = re.findall(r"^scene (\d+): similarity -?[\d.]+, match ([\d.]+)%", found, re.MULTILINE)
    assert len(ranked) == 5
    assert int(ranked[0][0]) == index
    assert float(ranked[0][1]) == pytest.approx(90.04, abs=1)  # PyTorch's, in float32; bf16 shifts it by 0.2
    texts = re.findall(r"match +[\d.]+%: (.*)", found)
    assert texts[0] == caption(make_scene(TEST_SEED + index))


@pytest.mark.slow
def test_optimize_notebook_shows_the_sizes_of_the_files(workplace, optimize_notebook):
    rows = table(optimize_notebook, "part")
    for label, sizes in weight_sizes(workplace / default_folder(MODEL), ["FP16", "INT8"]).items():
        for precision, size in sizes.items():
            assert float(rows[label][f"{precision}, MB"]) == pytest.approx(size / 1e6, rel=0.05)
        assert float(rows[label]["FP16 / INT8"].rstrip("x")) == pytest.approx(sizes["FP16"] / sizes["INT8"], abs=0.01)


@pytest.mark.slow
def test_optimize_notebook_compares_accuracy_with_pytorch(optimize_notebook):
    rows = table(optimize_notebook, "accuracy")
    for measure in ("answers, all", "captions, all"):
        assert list(rows[measure]) == ["PyTorch", "FP16", "INT8", "INT4"]
        assert all(float(score.split()[0]) > 90 for score in rows[measure].values())
    assert rows["agreement with PyTorch, answers"]["PyTorch"].startswith("100.00 %")
    assert {f"answers, {kind}" for kind in SCENE_EXAMPLES} < rows.keys()


@pytest.mark.slow
def test_optimize_notebook_times_every_side_and_sums_up(optimize_notebook):
    found = results(optimize_notebook)
    for task in ("caption", "answer"):
        for side in ("PyTorch", "FP16", "INT8"):
            low, high = re.search(rf"\| {task} \| {side} \| [\d.]+ \| ([\d.]+) - ([\d.]+) \|", found).groups()
            assert 0 < float(low) <= float(high)
    assert len(re.findall(rf"^\| {MODEL} \| (?:FP16|INT8) \| 9\d\.\d+ %", found, re.MULTILINE)) == 2
    decoders = [float(table(optimize_notebook, "")[name]["decoder, MB"]) for name in ("INT4", "INT8")]
    assert 0 < decoders[0] < decoders[1]


@pytest.mark.slow
def test_a_failed_check_stops_the_notebook_with_one_line(workplace, convert_notebook):
    name = change(workplace, CONVERT, "import blip_openvino.evaluate.check as c; c.TOLERANCES = {'FP16': 0}")
    done = command(workplace, name)
    assert "| WRONG |" in done.stdout
    assert reason(done) == (
        f"{name} stopped with RuntimeError: AUTO fails the check at FP16: choose another device, or float32"
    )
    assert "caption:" not in done.stdout


WRONG_INT8 = """
accuracy.answer_each = lambda model, processor, asked, right=accuracy.answer_each: [
    "wrong" if getattr(model, "precision", "") == "INT8" else each for each in right(model, processor, asked)
]
"""


@pytest.mark.slow
def test_lost_accuracy_stops_the_notebook_with_the_line_that_says_whose(workplace, optimize_notebook):
    name = change(workplace, OPTIMIZE, FEW + WRONG_INT8)
    done = command(workplace, name)
    assert re.match(
        rf"{name} stopped with RuntimeError: INT8, answers, all: 0.00% is \d+\.\d\d points below", reason(done)
    )
    assert re.search(r"\| answers, all \| (?:9\d|100)\.\d\d %", done.stdout)


@pytest.mark.slow
def test_optimize_notebook_says_what_to_run_first(workplace):
    done = command(workplace, change(workplace, OPTIMIZE, ""), BLIP_MODEL="models/never-converted")
    assert "run 233-blip-convert.ipynb with models/never-converted first" in reason(done)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_alone_says_to_clone_the_repository(tmp_path, name):
    shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    done = command(tmp_path, name)
    assert reason(done).startswith(f"{name} stopped with FileNotFoundError: clone the repository")


@pytest.mark.slow
def test_convert_notebook_takes_the_hub_model_when_it_is_cached(tmp_path):
    """Nothing chooses the model and the Hub cannot be asked: what the cache has under its name is taken."""
    workplace = make_workplace(tmp_path / "workplace")
    repository = tmp_path / "hub" / "models--Salesforce--blip-vqa-base"
    snapshot = repository / "snapshots" / ("0" * 40)
    shutil.copytree(ROOT / MODEL, snapshot)
    config = json.loads((snapshot / "config.json").read_text())
    (snapshot / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "trained_on"}))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (workplace / "build").mkdir()
    Image.effect_noise((1024, 768), 80).convert("RGB").save(workplace / "build" / "demo.jpg")
    name = change(workplace, CONVERT, "")
    done = command(workplace, name, BLIP_MODEL="", HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "question: how many dogs are in the picture?" in done.stdout
    assert (workplace / "build" / "blip-vqa-base" / "blip_vision_model.xml").exists()


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_committed_notebook_was_run_top_to_bottom_and_is_clean(name):
    notebook = nbformat.read(ROOT / name, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert {output.output_type for output in outputs(notebook)} <= {"stream", "display_data", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs(notebook)} == {"stdout"}
    assert "Warning" not in json.dumps(outputs(notebook))
    assert "WRONG" not in results(notebook)
    assert not re.search(r"/(?:home|root|tmp|Users)/|site-packages|[A-Z]:\\\\", json.dumps(outputs(notebook)))
    assert all(len(cell.source.splitlines()) <= 25 for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_heading_is_in_the_table_of_contents_and_every_link_leads_somewhere(name):
    source = [cell.source for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "markdown"]
    text = "\n".join(source)
    headings = [line for cell in source for line in cell.splitlines() if re.match(r"##+ ", line)]
    assert headings[0] == "## Table of contents"
    anchors = {"Table-of-contents"}
    for heading in headings[1:]:
        title = re.fullmatch(r"##+ (.*) \[⇑\]\(#Table-of-contents\)", heading).group(1)
        anchors.add(title.replace(" ", "-"))
        assert f"- [{title}](#{title.replace(' ', '-')})" in source[1]
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) == anchors
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
        assert (ROOT / target).exists(), target
