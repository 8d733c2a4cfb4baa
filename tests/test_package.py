"""What is installed: two packages and six dependencies, which answer a question without PyTorch."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import EMBEDDED, ROOT

BLOCKED = (
    *("torch", "transformers", "nncf", "datasets", "gradio", "easy_vqa", "tqdm", "matplotlib", "fsspec", "pyarrow"),
    "ray",
    *("utils", "notebook_utils"),
)
BLOCKER = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the wheel is installed, without its dependencies."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in ("blip_model.py", "utils.py", "notebook_utils.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("blip_openvino", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True, text=True)
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True, capture_output=True)
    return target


def run_installed(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Run Python in `folder`, where the wheel is installed and none of the extras' packages can be imported."""
    (folder / "sitecustomize.py").write_text(BLOCKER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(installed)])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_the_wheel_holds_blip_model_and_blip_openvino_alone(installed):
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names - {"bin", "__pycache__"} == {"blip_model.py", "blip_openvino"}
    assert any(path.name.startswith("blip-ov") for path in (installed / "bin").iterdir())


def test_the_wheel_answers_where_pytorch_cannot_be_imported(installed, tmp_path, converted, easy_vqa):
    question = easy_vqa.questions[0]
    program = (
        "import blip_model, blip_openvino; print(blip_model.__file__); "
        f"print(blip_openvino.load({str(converted)!r}).ask({question.image_path!r}, {question.question!r}))"
    )
    done = run_installed(installed, tmp_path, "-c", program)
    assert done.stdout.splitlines() == [str(installed / "blip_model.py"), question.answer], done.stderr


def test_the_wheels_command_names_the_extra_that_converting_needs(installed, tmp_path):
    done = run_installed(installed, tmp_path, "-m", "blip_openvino", "convert", str(EMBEDDED))
    assert done.returncode == 1
    assert 'pip install ".[convert]"' in done.stderr


def test_the_wheels_command_captions_a_folder_into_a_file(installed, tmp_path, converted, easy_vqa):
    shutil.copy(easy_vqa.paths[0], tmp_path)
    command = ("-m", "blip_openvino", "caption", ".", "--output", "captions.jsonl", "--model", str(converted))
    done = run_installed(installed, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "captions.jsonl").read_text().count("\n") == 1


def test_requirements_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expected = {*project["dependencies"], *extras["convert"], *extras["demo"], *extras["notebook"]}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert {line for line in lines if line and not line.startswith("#")} == expected
