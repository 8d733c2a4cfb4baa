"""The command `blip-ov`: what it prints, where, and its exit codes."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from conftest import EMBEDDED
from PIL import Image

from blip_openvino.apps import cli
from blip_openvino.evaluate import accuracy
from blip_openvino.evaluate.check import CheckReport

COMMANDS = ["ask", "caption", "check", "convert", "demo", "evaluate", "info", "match", "optimize"]


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli.main, [str(each) for each in arguments], input=stdin)


@pytest.fixture
def asked(converted, monkeypatch, easy_vqa):
    """A question of easy-VQA; the converted folder is the model of commands that name none."""
    monkeypatch.setenv("BLIP_MODEL", str(converted))
    return easy_vqa.questions[0]


@pytest.fixture
def own_folder(converted, tmp_path) -> Path:
    """A converted folder that a command may write to."""
    return shutil.copytree(converted, tmp_path / converted.name)


@pytest.fixture
def failing_check(monkeypatch):
    class Failed(CheckReport):
        passed = False

        def __init__(self):
            pass

        def __str__(self) -> str:
            return "the table"

    monkeypatch.setattr(cli, "check_folder", lambda *arguments: Failed())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"Example: blip-ov {command}" in result.stdout


def test_help_names_every_command():
    assert sorted(cli.main.commands) == COMMANDS


def test_one_question_about_one_image_prints_the_answer_alone(asked):
    result = run("ask", asked.image_path, "-q", asked.question)
    assert (result.exit_code, result.stdout) == (0, f"{asked.answer}\n")


def test_an_image_is_read_from_standard_input(asked):
    result = run("ask", "-", "-q", asked.question, stdin=Path(asked.image_path).read_bytes())
    assert (result.exit_code, result.stdout) == (0, f"{asked.answer}\n")


def test_several_images_and_questions_are_told_apart(asked):
    path = asked.image_path
    lines = run("ask", path, path, "-q", asked.question, "-q", "is there a circle?").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0] == lines[2] == f"{path}: {asked.question}: {asked.answer}"
    assert lines[1].startswith(f"{path}: is there a circle?: ")


def test_json_has_one_object_a_line(asked):
    path = asked.image_path
    lines = run("ask", path, "-q", asked.question, "-q", asked.question, "--json").stdout.splitlines()
    sure = {"score": pytest.approx(0, abs=0.01)}
    assert [json.loads(line) for line in lines] == [
        {"path": path, "question": asked.question, "answer": asked.answer} | sure
    ] * 2


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bad_image_says_so_and_the_others_go_on(asked, tmp_path, as_json):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    result = run("ask", bad, "nowhere.png", asked.image_path, "-q", asked.question, *["--json"] * as_json)
    assert result.exit_code == 1
    if as_json:
        first, second, third = (json.loads(line) for line in result.stdout.splitlines())
        assert first.keys() == second.keys() == {"path", "error"}
        assert "is not an image" in first["error"]
        assert third["answer"] == asked.answer
    else:
        assert result.stdout == f"{asked.image_path}: {asked.answer}\n"
        assert len(result.stderr.splitlines()) == 2
        assert result.stderr.startswith(f"{bad}: ")


def test_captions_are_those_of_the_library(asked, converted):
    expected = cli.load(converted).caption(asked.image_path)
    assert run("caption", asked.image_path).stdout == f"{expected}\n"
    assert json.loads(run("caption", asked.image_path, "--json").stdout) == {
        "path": asked.image_path,
        "caption": expected.text,
        "score": pytest.approx(expected.score, abs=1e-4),
    }


def test_sampling_as_cold_as_this_is_greedy(asked):
    greedy = run("caption", asked.image_path)
    assert run("caption", asked.image_path, "--temperature", "0.001").stdout == greedy.stdout


def test_caption_goes_on_from_a_prompt_with_beams_up_to_a_length(asked):
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


def test_what_the_model_cannot_do_is_one_line(asked):
    result = run("match", asked.image_path, "--text", "a circle")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: BlipForQuestionAnswering cannot match texts")
    assert result.stderr.count("\n") == 1


def test_an_error_of_several_lines_becomes_one(asked, monkeypatch):
    def fail(*arguments):
        raise OSError("no connection\n  try again")

    monkeypatch.setattr(cli, "load", fail)
    result = run("ask", asked.image_path, "-q", "?")
    assert (result.exit_code, result.stderr) == (1, "Error: no connection try again\n")


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


def test_without_pytorch_sampling_names_the_extra(asked, monkeypatch):
    class NoTorch(cli.Blip):
        def caption(self, *arguments, **generate):
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(cli, "load", lambda *arguments: NoTorch(None, None))
    result = run("caption", asked.image_path, "--temperature", "1")
    assert result.exit_code == 1
    assert 'pip install "blip-openvino[convert]"' in result.stderr


def test_convert_ends_with_the_check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("convert", EMBEDDED)
    assert result.exit_code == 0, result.output
    assert f"{Path('build') / 'blip-easy-vqa'} is ready" in result.stdout
    assert (tmp_path / "build" / "blip-easy-vqa" / "blip_vision_model.xml").exists()


def test_a_check_that_does_not_pass_ends_commands_with_1(failing_check, monkeypatch):
    monkeypatch.setattr(cli, "convert_checkpoint", lambda model, folder: folder)
    monkeypatch.setattr(cli, "quantize_folder", lambda folder, *arguments: folder)
    for arguments in (("check", "folder"), ("convert", EMBEDDED), ("optimize", "folder")):
        result = run(*arguments)
        assert result.exit_code == 1
        assert result.stdout.endswith("the table\n")


def test_check_hands_device_and_precisions_on(monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "check_folder", lambda *arguments: calls.append(arguments) or CheckReport)
    run("check", "folder", "--device", "CPU", "--precision", "int8", "--inference-precision", "f32")
    assert calls == [(Path("folder"), "CPU", "INT8", {"INFERENCE_PRECISION_HINT": "f32"})]


@pytest.mark.slow
def test_optimize_calibrates_on_ones_own_pictures(own_folder, tmp_path, easy_vqa):
    photos, lines = tmp_path / "photos", []
    photos.mkdir()
    for index, path in enumerate(easy_vqa.paths[:60]):
        Image.open(path).save(photos / f"{index}.png")
        question = next(each.question for each in easy_vqa.questions if each.image_path == path)
        lines.append(json.dumps({"file_name": f"{index}.png", "text": question}))
    result = run("optimize", own_folder, "--data", photos)
    assert result.exit_code == 1
    assert "has no texts" in result.stderr
    (photos / "metadata.jsonl").write_text("\n".join(lines))
    result = run("optimize", own_folder, "--data", photos)
    assert result.exit_code == 0, result.output
    question = easy_vqa.questions[0]
    result = run("ask", question.image_path, "-q", question.question, "--model", own_folder, "--precision", "int8")
    assert result.stdout == f"{question.answer}\n"


def test_optimize_of_no_converted_folder_is_one_line(tmp_path):
    result = run("optimize", tmp_path)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {tmp_path} is no converted BLIP model")
    assert result.stderr.count("\n") == 1


def test_evaluate_prints_a_column_for_each_precision(own_folder, monkeypatch):
    monkeypatch.setattr(
        accuracy, "measure_accuracy", lambda models, *arguments: {"answers": dict.fromkeys(models, "99 %")}
    )
    result = run("evaluate", own_folder, "--precision", "FP16")
    assert result.exit_code == 0, result.output
    assert "FP16" in result.stdout
    assert "99 %" in result.stdout


def test_demo_serves_the_page_of_a_folder(asked, converted, monkeypatch):
    calls = []
    page = types.SimpleNamespace(
        build_demo=lambda *arguments: calls.append(arguments) or types.SimpleNamespace(block_thread=lambda: None),
        launch_demo=lambda demo, **options: "http://127.0.0.1:7860",
    )
    monkeypatch.setitem(sys.modules, "blip_openvino.apps.page", page)
    result = run("demo", "--device", "CPU")
    assert "http://127.0.0.1:7860" in result.stdout
    assert calls == [(converted, (), "CPU", None)]


def test_demo_without_gradio_names_the_extra(asked, monkeypatch):
    monkeypatch.setitem(sys.modules, "blip_openvino.apps.page", None)
    result = run("demo")
    assert result.exit_code == 1
    assert 'pip install "blip-openvino[demo]"' in result.stderr


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
