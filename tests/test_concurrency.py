"""Many requests at one model: from several threads at once, thousands in a row, and some that are broken off."""

import gc
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from blip_model import OVBlipModel

THREADS, REQUESTS = 8, 50
QUESTIONS = ["what color is the shape?", "is there a circle?", "does the image not contain a red shape?", "red?"]


class Requests:
    """Numbered requests of all kinds: answers and captions, one image or three, beams, images shared and own."""

    def __init__(self, model: OVBlipModel, pixel_values: torch.Tensor, processor):
        self.model, self.pixel_values = model, pixel_values
        self.texts = [dict(processor(text=question, return_tensors="pt")) for question in QUESTIONS]
        self.several = dict(processor(text=QUESTIONS[:3], padding=True, return_tensors="pt"))
        self.shared = [model.encode_images(pixel_values[:1]), model.encode_images(pixel_values[1:4])]

    def __call__(self, number: int) -> torch.Tensor:
        beams, text = {"num_beams": 1 + number % 3}, self.texts[number % len(self.texts)]
        row = number % (len(self.pixel_values) - 3)
        kinds = (
            lambda: self.model.generate_answer(self.pixel_values[row : row + 1], **text),
            lambda: self.model.generate_answer(self.shared[0], **text, **beams),
            lambda: self.model.generate_answer(self.shared[1], **self.several),
            lambda: self.model.generate_caption(self.pixel_values[row : row + 1 + number % 3], **beams),
            lambda: self.model.generate_caption(self.shared[1]),
        )
        return kinds[number % len(kinds)]()


@pytest.fixture(scope="module")
def requests(fp16_model, easy_vqa, processor) -> Requests:
    return Requests(fp16_model, easy_vqa.pixel_values[:64], processor)


def test_eight_threads_get_what_each_would_get_alone(requests):
    numbers = range(THREADS * REQUESTS)
    alone = [requests(number) for number in numbers]
    start = threading.Barrier(THREADS)

    def many(thread: int) -> list[torch.Tensor]:
        start.wait()
        return [requests(number) for number in numbers[thread::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        for thread, found in enumerate(pool.map(many, range(THREADS))):
            for number, ids in zip(numbers[thread::THREADS], found, strict=True):
                assert torch.equal(ids, alone[number]), number


def resident() -> int:
    """Pages of memory that this process has."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1])


def test_three_thousand_requests_leave_nothing_behind(requests):
    def thousand() -> None:
        for number in range(1000):
            requests(number)

    thousand()
    memory, threads, files = resident(), threading.active_count(), len(os.listdir("/proc/self/fd"))
    thousand()
    thousand()
    assert resident() <= 1.03 * memory
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


class Interrupting(BaseStreamer, StoppingCriteria):
    """Raises at its third token, as Ctrl+C or a client that is gone would."""

    def __init__(self, error: type[BaseException]):
        self.error, self.calls = error, 0

    def put(self, value: torch.Tensor) -> None:
        self.calls += 1
        if self.calls == 3:
            raise self.error

    def end(self) -> None:
        raise AssertionError("the generation went on to its end")

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        self.put(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
@pytest.mark.parametrize("beams", [1, 3])
def test_an_interrupted_generation_leaves_the_next_one_right(requests, error, beams):
    model, images = requests.model, requests.shared[1]
    expected = [requests(number) for number in range(10)]
    interrupting = Interrupting(error)
    follow = {"streamer": interrupting} if beams == 1 else {"stopping_criteria": StoppingCriteriaList([interrupting])}
    if beams == 1:
        images = requests.shared[0]
    with pytest.raises(error):
        model.generate_caption(images, num_beams=beams, max_new_tokens=10, **follow)
    for number, ids in enumerate(expected):
        assert torch.equal(requests(number), ids)


def test_interrupts_at_any_moment_leave_every_next_request_right(converted):
    """In a process of its own, since the signal goes to the main thread, whatever that does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "tests" / "interrupts.py", converted]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == []
    assert found["interrupted"] > 100


def test_a_generation_inside_a_generation_is_refused_and_both_models_go_on(requests):
    class Asking(BaseStreamer):
        def put(self, value: torch.Tensor) -> None:
            requests(0)

        def end(self) -> None:
            pass

    expected = requests(0)
    with pytest.raises(RuntimeError, match="wait for the end"):
        requests.model.generate_caption(requests.shared[0], streamer=Asking())
    assert torch.equal(requests(0), expected)
