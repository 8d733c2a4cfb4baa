"""Where tests run the notebooks: a copy of the repository as a reader has it, whose `build` is empty."""

import shutil
import subprocess
from pathlib import Path

import nbformat
from conftest import ROOT

from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import TEST_SEED, Scene, make_scene
from notebook_utils import SCENE_EXAMPLES

CONVERT = "233-blip-convert.ipynb"
OPTIMIZE = "233-blip-optimize.ipynb"
NOTEBOOKS = [CONVERT, OPTIMIZE]
EXAMPLES = list(SCENE_EXAMPLES.values())
MODEL = "models/blip-scenes"
FEW = """
import blip_openvino.evaluate.accuracy as accuracy
accuracy.make_scenes = lambda count, first_seed, make=accuracy.make_scenes: make(15, first_seed)
"""
"""A cell that has accuracy measured on a few scenes."""


def right_answers() -> dict[str, str]:
    """What is asked in the examples, with the right answers."""
    return {question: answer_about(make_scene(TEST_SEED + index), question) for index, question in EXAMPLES}


def answer_about(scene: Scene, question: str) -> str:
    """The right answer to one of a scene's questions."""
    return next(each.answer for each in scene_questions(scene, per_kind=100) if each.question == question)


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
    """Write a copy of a notebook that begins with another cell, has texts replaced and no outputs; its name.

    It installs nothing: pip looks through all that is installed, 5 s each time.
    """
    notebook = nbformat.read(workplace / name, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        for old, new in [("%pip install", "# %pip install"), *replaced]:
            cell.source = cell.source.replace(old, new)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(first_cell))
    changed = f"changed-{name}"
    nbformat.write(notebook, workplace / changed)
    return changed
