"""Many threads on one model, thousands of requests one after the other, and requests that end half-way."""

import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from conftest import ROOT
from strange_arguments import Collector
from transformers import StoppingCriteriaList

from blip_model import EncodedImages, OVBlipModel

THREADS, REQUESTS_PER_THREAD = 8, 50


@pytest.fixture(scope="module")
def requests(easy_vqa):
    """What is asked, drawn once: a kind of request, the rows of images, the indices of questions."""
    draw = random.Random(5)
    kinds = ["answer", "answer with beams", "caption", "captions of a batch", "caption with beams", "streamed answer"]
    return [
        (draw.choice(kinds), draw.choice(["own", "shared"]), draw.randrange(4), draw.randrange(len(easy_vqa.questions)))
        for _ in range(THREADS * REQUESTS_PER_THREAD)
    ]


def perform(model: OVBlipModel, easy_vqa, shared: list[EncodedImages], request) -> torch.Tensor:
    kind, whose, row, index = request
    images = shared[row] if whose == "shared" else easy_vqa.pixel_values[row : row + 1]
    input_ids = easy_vqa.input_ids[index][None]
    match kind:
        case "answer":
            return model.generate_answer(images, input_ids)
        case "answer with beams":
            return model.generate_answer(images, input_ids, num_beams=3)
        case "caption":
            return model.generate_caption(images)
        case "captions of a batch":
            return model.generate_caption(easy_vqa.pixel_values[index % 900 :][:3])
        case "caption with beams":
            return model.generate_caption(images, num_beams=4, num_return_sequences=2)
        case "streamed answer":
            streamer = Collector()
            model.generate_answer(images, input_ids, streamer=streamer)
            return torch.cat([value.flatten() for value in streamer.values[:-1]])


def test_every_thread_gets_what_it_would_get_alone(fp16_model, easy_vqa, requests):
    def encode() -> list[EncodedImages]:
        return [fp16_model.encode_images(easy_vqa.pixel_values[row : row + 1]) for row in range(4)]

    shared = encode()
    alone = [perform(fp16_model, easy_vqa, shared, request) for request in requests]
    shared, start = encode(), Barrier(THREADS)  # encoded anew: the threads race for their first question too

    def work(thread: int) -> list[torch.Tensor]:
        start.wait()
        return [perform(fp16_model, easy_vqa, shared, request) for request in requests[thread::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        for thread, found in enumerate(pool.map(work, range(THREADS))):
            assert len(found) == REQUESTS_PER_THREAD
            for tokens, expected, request in zip(found, alone[thread::THREADS], requests[thread::THREADS], strict=True):
                assert torch.equal(tokens, expected), request


class Interrupting(Collector):
    """Somebody presses Ctrl+C, or goes away, at the token after `steps` others; as a criterion, at that step."""

    def __init__(self, steps: int, error: type[BaseException]):
        super().__init__()
        self.steps, self.error = steps, error

    def put(self, value):
        if self.steps == 0:
            raise self.error
        self.steps -= 1

    def __call__(self, input_ids, scores, **kwargs):
        self.put(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ConnectionError])
@pytest.mark.parametrize("steps", [0, 1, 2])
@pytest.mark.parametrize("way", ["streamer", "streamer of sampling", "criterion", "criterion of beams"])
def test_interrupted_generation_leaves_the_next_right(fp16_model, easy_vqa, error, steps, way):
    images, question = fp16_model.encode_images(easy_vqa.pixel_values[:1]), easy_vqa.input_ids[0][None]
    expected = fp16_model.generate_answer(easy_vqa.pixel_values[:1], question), fp16_model.generate_caption(images)
    interrupting = Interrupting(steps, error)
    arguments = {"stopping_criteria": StoppingCriteriaList([interrupting])}
    if way.startswith("streamer"):
        arguments = {"streamer": interrupting, "do_sample": way == "streamer of sampling"}
    if way == "criterion of beams":
        arguments |= {"num_beams": 3}
    with pytest.raises(error):
        fp16_model.generate_caption(images, min_new_tokens=5, **arguments)
    with pytest.raises(error):
        fp16_model.generate_answer(images, question, min_new_tokens=5, **arguments)
    assert torch.equal(fp16_model.generate_answer(images, question), expected[0])
    assert torch.equal(fp16_model.generate_caption(images), expected[1])


def test_thousands_of_requests_leave_no_memory_file_or_thread_behind_and_interrupts_no_wrong_answer(converted):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "soak.py", converted], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    first, _, last = found["history"]
    assert found["wrong"] == []
    assert last["rss"] <= 1.03 * first["rss"], found
    assert last["threads"] == first["threads"], found
    assert last["files"] == first["files"], found
    assert found["interrupted"] > 50, found
    assert found["end"]["files"] == first["files"], found
    assert found["end"]["threads"] <= first["threads"], found
