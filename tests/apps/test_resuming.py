"""A collection that was stopped: the next run does what is missing, each input once, and never mixes two runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from collection_outputs import run, texts_of
from conftest import ROOT

from blip_openvino.apps.collections import sinks

KILLED = """
import os, signal, sys
from pathlib import Path
from blip_openvino.apps.collections import sinks
from blip_openvino.apps.cli import main

left, fsync, sinks.PART_ROWS = int(sys.argv.pop(1)), os.fsync, 4

def die(fd):
    global left
    left -= 1
    if not left:  # as if the last of what was written had not reached the disk
        os.truncate(fd, max(0, os.fstat(fd).st_size - 9))
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)

os.fsync = die
main()
"""
"""The command in a process that dies in the middle of its nth write."""


def test_a_second_run_does_what_is_missing_and_says_what_it_found(photos):
    assert run("caption", "photos", "--output", "out.jsonl", "--limit", 5).exit_code == 0
    assert list(texts_of("out.jsonl").items()) == list(photos.items())[:5]
    result = run("caption", "photos/*.png", "photos", "--output", "out.jsonl")
    assert result.stderr == "5 found done, errors among them: 0\n"
    assert result.stdout.startswith("15 done in")
    assert "5 found done, errors: 0" in result.stdout
    assert texts_of("out.jsonl") == photos


@pytest.mark.parametrize(
    ("options", "deaths", "result"),
    [
        (("--output", "out.jsonl"), (4,), "out.jsonl"),
        (("--output", "out"), (4,), "out"),
        (("--sidecar", ".txt"), (4, 3), "photos/.blip-ov.jsonl"),  # in a sidecar, then in a line
    ],
    ids=str,
)
def test_a_run_that_is_killed_again_and_again_ends_with_every_input_once(photos, options, deaths, result):
    command = ("caption", "photos", "--batch", "3", *options)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for death in deaths:
        done = subprocess.run([sys.executable, "-c", KILLED, str(death), *command], env=environment, timeout=300)
        assert done.returncode == -signal.SIGKILL
    assert run(*command).exit_code == 0
    if "--sidecar" in options:
        assert {str(path.with_suffix(".png")): path.read_text() for path in Path("photos").rglob("*.txt")} == {
            path: f"{text}\n" for path, text in photos.items()
        }
        photos = {path.removeprefix("photos/"): text for path, text in photos.items()}
    assert texts_of(result) == photos


def test_ctrl_c_keeps_what_was_done(photos, monkeypatch):
    class Impatient(sinks.Parts):
        def write(self, rows):
            super().write(rows)
            raise KeyboardInterrupt

    monkeypatch.setattr(sinks, "Parts", Impatient)
    result = run("caption", "photos", "--output", "out", "--batch", 2)
    assert (result.exit_code, "the same command goes on" in result.stderr) == (130, True)
    assert list(texts_of("out").items()) == list(photos.items())[:2]


def test_another_option_is_another_run(photos):
    command = ("caption", "photos", "--output", "out.jsonl", "--limit", 1)
    assert run(*command).exit_code == 0
    for option in (("--prompt", "a red"), ("--num-beams", 2), ("--max-new-tokens", 2)):
        result = run(*command, *option)
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "give another --output, or --overwrite" in result.stderr
    assert run(*command, "--max-new-tokens", 2, "--overwrite").exit_code == 0
    assert len(texts_of("out.jsonl")[next(iter(photos))].split()) <= 2
