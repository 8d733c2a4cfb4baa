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
import torch
from conftest import EMBEDDED, ROOT
from PIL import Image
from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipImageProcessor, BlipProcessor

from blip_demo import example_inputs
from easy_vqa_data import load_captions
from run_notebooks import results, run_notebook

CONVERT = "233-blip-convert.ipynb"
NOTEBOOKS = [CONVERT]


def outputs(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(notebook: nbformat.NotebookNode) -> str:
    return "".join(output.text for output in outputs(notebook) if output.output_type == "stream")


@pytest.fixture(scope="module")
def convert_notebook(tmp_path_factory):
    """The convert notebook, executed on the embedded model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BLIP_MODEL", str(EMBEDDED.relative_to(ROOT)))
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
    text = {
        "vocab_size": 30524,
        "num_attention_heads": 12,
        "encoder_hidden_size": 768,
        "bos_token_id": 30522,
        "sep_token_id": 102,
    }
    torch.manual_seed(0)
    vision = {"image_size": 384, "initializer_range": 0.02}
    BlipForQuestionAnswering(BlipConfig(vision_config=vision, text_config=text)).save_pretrained(snapshot)
    words = [f"[unused{index}]" for index in range(30522)]
    words[0], words[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words[2000:2009] = ["how", "many", "dogs", "are", "in", "the", "picture", "?", "where"]
    tokenizer = BertTokenizerFast(
        vocab={word: index for index, word in enumerate([*words, "[DEC]", "[ENC]"])},
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=512,
    )
    size = {"height": 384, "width": 384}
    BlipProcessor(BlipImageProcessor(size=size), tokenizer).save_pretrained(snapshot)
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
    command = [sys.executable, "run_notebooks.py", CONVERT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    notebook = nbformat.read(tmp_path / "build" / CONVERT, as_version=4)
    assert "BlipForQuestionAnswering: 361.2 million parameters, 384 pixels" in printed(notebook)
    assert "question: how many dogs are in the picture?" in done.stdout
    assert (tmp_path / "build" / "blip-vqa-base" / "blip_vision_model.xml").exists()
