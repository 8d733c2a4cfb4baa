"""The command `blip-ov`: what it prints, where, and its exit codes."""

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result
from conftest import EMBEDDED, check_report

from blip_model import OVBlipModel
from blip_openvino.apps import cli
from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import draw_scene, make_scenes
from blip_openvino.evaluate import accuracy


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.main, [str(each) for each in arguments], input=stdin)


def error_of(*arguments: object) -> str:
    """The one line that a command fails with."""
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    return result.stderr


@pytest.fixture
def asked(converted, monkeypatch, easy_vqa):
    """A question of easy-VQA; the converted folder is the model of commands that name none."""
    monkeypatch.setenv("BLIP_MODEL", str(converted))
    return easy_vqa.questions[0]


@pytest.mark.parametrize("command", cli.main.commands)
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: blip-ov {command}" in result.stdout


@pytest.mark.parametrize("by_standard_input", [False, True])
def test_one_question_about_one_image_prints_the_answer_alone(asked, by_standard_input):
    path, content = ("-", Path(asked.image_path).read_bytes()) if by_standard_input else (asked.image_path, None)
    result = run("ask", path, "-q", asked.question, stdin=content)
    assert (result.exit_code, result.stdout) == (0, f"{asked.answer}\n")


def test_several_images_and_questions_are_told_apart(asked):
    path = asked.image_path
    lines = run("ask", path, path, "-q", asked.question, "-q", "is there a circle?").stdout.splitlines()
    assert lines[0] == lines[2] == f"{path}: {asked.question}: {asked.answer}"
    assert lines[1] == lines[3]
    assert lines[1].startswith(f"{path}: is there a circle?: ")


def test_a_bad_image_says_so_and_the_others_go_on(asked, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    arguments = ("ask", bad, "nowhere.png", asked.image_path, "-q", asked.question)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (1, f"{asked.image_path}: {asked.answer}\n")
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == [str(bad), "nowhere.png"]
    first, second, third = (json.loads(line) for line in run(*arguments, "--json").stdout.splitlines())
    assert first.keys() == second.keys() == {"path", "error"}
    sure = {"score": pytest.approx(0, abs=0.01)}
    assert third == {"path": asked.image_path, "question": asked.question, "answer": asked.answer} | sure


def test_captions_are_those_of_the_library(asked, converted):
    expected = cli.load(converted).caption(asked.image_path)
    assert run("caption", asked.image_path).stdout == f"{expected}\n"
    said = json.loads(run("caption", asked.image_path, "--json").stdout)
    score = pytest.approx(expected.score, abs=1e-4)
    assert said == {"path": asked.image_path, "caption": expected.text, "score": score}


def test_sampling_as_cold_as_this_is_greedy_and_beams_go_on_from_a_prompt_up_to_a_length(asked):
    greedy = run("caption", asked.image_path).stdout
    assert run("caption", asked.image_path, "--temperature", "0.001").stdout == greedy
    options = ("--prompt", "a red", "--num-beams", "2", "--max-new-tokens", "1")
    words = run("caption", asked.image_path, *options).stdout.split()
    assert words[:2] == ["a", "red"]
    assert len(words) <= 3


def test_match_prints_probabilities(asked, retrieval_folder):
    texts = ("--text", "a red circle", "--text", "a blue circle")
    result = run("match", asked.image_path, "--model", retrieval_folder, *texts, "--json")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["text"] for row in rows] == ["a red circle", "a blue circle"]
    assert all(0 < row["match"] < 1 for row in rows)


def test_what_cannot_be_done_is_said(asked, tmp_path):
    error = error_of("match", asked.image_path, "--text", "a circle")
    assert error.startswith("Error: BlipForQuestionAnswering cannot match texts")
    assert error_of("optimize", tmp_path).startswith(f"Error: {tmp_path} is no converted BLIP model")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError("no connection\n  try again"), "no connection try again"),
        (
            ModuleNotFoundError("", name="torch"),
            'torch is not installed: pip install ".[convert]" in a clone of the repository',
        ),
    ],
)
def test_an_error_becomes_one_line_that_names_the_extra_where_one_is_missing(asked, monkeypatch, error, message):
    def fail(*arguments, **generate):
        raise error

    monkeypatch.setattr(OVBlipModel, "generate_caption", fail)
    assert error_of("caption", asked.image_path, "--temperature", "1") == f"Error: {message}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "photo.jpg"),
        ("ask", "-q", "?"),
        ("caption", "photo.jpg", "--precision", "INT9"),
        ("caption", "photo.jpg", "--temperature", "0"),
        ("optimize", "folder", "--samples", "0"),
    ],
)
def test_wrong_usage_exits_with_2(arguments):
    assert run(*arguments).exit_code == 2


def test_convert_ends_with_the_check(converted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "convert_checkpoint", lambda model, folder, image_size: shutil.copytree(converted, folder))
    result = run("convert", EMBEDDED)
    assert result.exit_code == 0, result.output
    assert f"{Path('build') / EMBEDDED.name} is ready" in result.stdout
    assert "compared with PyTorch" in result.stdout


@pytest.mark.parametrize("arguments", [("check", "folder"), ("convert", EMBEDDED), ("optimize", "folder")], ids=str)
def test_a_check_that_does_not_pass_ends_commands_with_1(monkeypatch, arguments):
    monkeypatch.setattr(cli, "check_folder", lambda *arguments: check_report(passed=False))
    monkeypatch.setattr(cli, "convert_checkpoint", lambda model, folder, image_size: folder)
    monkeypatch.setattr(cli, "quantize_folder", lambda folder, *arguments: folder)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout.endswith(f"{check_report(passed=False)}\n")


def test_check_runs_what_its_options_name(converted):
    options = ("--device", "CPU", "--precision", "fp16", "--inference-precision", "f32")
    result = run("check", converted, *options)
    assert (result.exit_code, result.stdout.split(",")[0]) == (0, f"{converted} on CPU at FP16")


@pytest.mark.slow
def test_optimize_calibrates_on_ones_own_pictures(converted, tmp_path, easy_vqa):
    folder = shutil.copytree(converted, tmp_path / converted.name)
    photos, lines = tmp_path / "photos", []
    photos.mkdir()
    for index, scene in enumerate(make_scenes(60)):
        draw_scene(scene).save(photos / f"{index}.png")
        lines.append(json.dumps({"file_name": f"{index}.png", "text": scene_questions(scene)[0].question}))
    assert "has no texts" in error_of("optimize", folder, "--data", photos)
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    result = run("optimize", folder, "--data", photos)
    assert result.exit_code == 0, result.output
    question = easy_vqa.questions[0]
    result = run("ask", question.image_path, "-q", question.question, "--model", folder, "--precision", "int8")
    assert result.stdout == f"{question.answer}\n"


def test_evaluate_measures_converted_folders_and_checkpoints_on_scenes_and_easy_vqa(converted, monkeypatch):
    calls = []

    def measure(models, processor, config, scenes, seed):
        calls.append((config.trained_on, scenes, seed))
        return {"answers": {name: type(model).__name__ for name, model in models.items()}}

    monkeypatch.setattr(accuracy, "measure_accuracy", measure)
    monkeypatch.setattr(accuracy, "easy_vqa_accuracy", lambda models, processor: {"answers": dict.fromkeys(models, 1)})
    result = run("evaluate", EMBEDDED, "--scenes", "30", "--seed", "7")
    assert result.stdout == "answers: PyTorch TorchBlip\neasy-VQA answers: PyTorch 1\n"
    assert calls == [("scenes", 30, 7)]
    result = run("evaluate", converted, "--precision", "FP16")
    assert result.stdout == "answers: FP16 OVBlipModel\neasy-VQA answers: FP16 1\n"
    assert "convert it first" in error_of("evaluate", EMBEDDED, "--precision", "INT8")
    assert "no-such-folder" in error_of("evaluate", "no-such-folder")


def test_demo_serves_the_page_of_a_folder(asked, converted, monkeypatch):
    calls = []
    page = SimpleNamespace(
        build_demo=lambda *arguments: calls.append(arguments) or SimpleNamespace(block_thread=lambda: None),
        launch_demo=lambda demo: "http://127.0.0.1:7860",
    )
    monkeypatch.setitem(sys.modules, "blip_openvino.apps.page", page)
    assert "http://127.0.0.1:7860" in run("demo", "--device", "CPU").stdout
    assert calls == [(converted, (), "CPU", None, None)]


def test_demo_without_gradio_names_the_extra(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "blip_openvino.apps.page", None)
    assert 'pip install ".[demo]"' in error_of("demo")


def test_info_says_what_a_bug_report_needs():
    lines = dict(line.split(": ", 1) for line in run("info").stdout.splitlines())
    assert lines["openvino"].startswith("2026.")
    assert "FP32" in lines["device CPU"]
    assert lines["instruction sets"]


def test_a_conversion_into_the_cache_is_said(tmp_path, monkeypatch, easy_vqa):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    question = easy_vqa.questions[0]
    result = run("ask", question.image_path, "-q", question.question, "--model", EMBEDDED)
    assert result.stdout.splitlines()[-1] == question.answer
    assert f"{EMBEDDED} is converted once into {tmp_path}" in result.stderr
