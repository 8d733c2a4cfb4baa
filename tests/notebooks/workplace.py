"""Where tests run the notebooks: a copy of the repository as a reader has it, whose `build` is empty."""

import shutil
import subprocess
from pathlib import Path

import nbformat
from conftest import EMBEDDED, ROOT

CONVERT = "233-blip-convert.ipynb"
OPTIMIZE = "233-blip-optimize.ipynb"
NOTEBOOKS = [CONVERT, OPTIMIZE]
MODEL = str(EMBEDDED.relative_to(ROOT))
FEW = """
import blip_openvino.evaluate.accuracy as accuracy
few = accuracy.load_questions("test")[:40], dict(list(accuracy.load_captions("test").items())[:20])
accuracy.load_questions = lambda split, few=few[0]: few
accuracy.load_captions = lambda split, few=few[1]: few
"""
"""A cell that has accuracy measured on a few of easy-VQA's questions and images."""


def make_workplace(folder: Path) -> Path:
    """Copies of the notebooks beside links to all else, so that a run writes into `folder` only."""
    folder.mkdir(exist_ok=True)
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    for name in {file.split("/")[0] for file in files}:
        if name in NOTEBOOKS:
            shutil.copy(ROOT / name, folder)
        else:
            (folder / name).symlink_to(ROOT / name)
    return folder


def change(workplace: Path, name: str, first_cell: str, *replaced: tuple[str, str]) -> str:
    """Write a copy of a notebook that begins with another cell, has texts replaced and no outputs; its name."""
    notebook = nbformat.read(workplace / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for old, new in replaced:
            cell.source = cell.source.replace(old, new)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first_cell))
    changed = f"changed-{name}"
    nbformat.write(notebook, workplace / changed)
    return changed
