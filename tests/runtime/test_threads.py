"""Many generations of one model at once: bit for bit what each gives alone, and a clean end of the process."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT

from blip_model import OVBlipModel

THREADS, REQUESTS = 8, 15


class Requests:
    """Numbered requests of all kinds: answers and captions, one image or several, beams, images shared and own."""

    def __init__(self, model: OVBlipModel, easy_vqa):
        self.model, self.easy_vqa = model, easy_vqa
        self.shared = [model.encode_images(easy_vqa.pixel_values[:1]), model.encode_images(easy_vqa.pixel_values[1:4])]

    def __call__(self, number: int) -> list[torch.Tensor]:
        """Token ids, and the logits of every step where they are asked for."""
        chosen = self.easy_vqa.sample[4 * number :][: 1 + number % 3]
        images, texts = self.easy_vqa.images(chosen), self.easy_vqa.batch(chosen)
        three = self.easy_vqa.batch(self.easy_vqa.sample[number:][:3])
        beams, logits = {"num_beams": 1 + number % 3}, {"return_dict_in_generate": True, "output_logits": True}
        kinds = (
            lambda: self.model.generate_answer(images, **texts, **logits),
            lambda: self.model.generate_answer(self.shared[0], **texts, **beams),
            lambda: self.model.generate_answer(self.shared[1], **three),
            lambda: self.model.generate_caption(images, **beams, **logits),
            lambda: self.model.generate_caption(self.shared[1], max_new_tokens=1 + number % 9, **logits),
        )
        found = kinds[number % len(kinds)]()
        return [torch.as_tensor(found)] if not hasattr(found, "logits") else [found.sequences, *found.logits]


def test_threads_get_bit_for_bit_what_each_would_get_alone(model, easy_vqa):
    requests, numbers = Requests(model, easy_vqa), range(THREADS * REQUESTS)
    alone = [requests(number) for number in numbers]
    requests = Requests(model, easy_vqa)  # with shared images whose keys and values are still to be made
    start = threading.Barrier(THREADS)

    def many(thread: int) -> list[list[torch.Tensor]]:
        start.wait()
        return [requests(number) for number in numbers[thread::THREADS]]

    with ThreadPoolExecutor(THREADS) as pool:
        for thread, found in enumerate(pool.map(many, range(THREADS))):
            for number, tensors in zip(numbers[thread::THREADS], found, strict=True):
                assert len(tensors) == len(alone[number])
                assert all(map(torch.equal, tensors, alone[number])), number


def test_a_generation_inside_or_after_a_broken_one_is_right(fp16_model, easy_vqa):
    requests, streamer, inner = Requests(fp16_model, easy_vqa), Mock(), []
    expected = [requests(number) for number in range(5)]
    caption = fp16_model.generate_caption(requests.shared[0])

    def ask_others(token: object) -> None:
        if streamer.put.call_count == 3:
            inner.extend(requests(number) for number in range(5))

    streamer.put.side_effect = ask_others
    assert (fp16_model.generate_caption(requests.shared[0], streamer=streamer) == caption).all()
    streamer.put.side_effect = [None, None, KeyboardInterrupt]
    with pytest.raises(KeyboardInterrupt):
        fp16_model.generate_caption(requests.shared[0], streamer=streamer)
    for found in (inner, [requests(number) for number in range(5)]):
        assert all(all(map(torch.equal, *pair)) for pair in zip(found, expected, strict=True))


PROGRAM = """
import sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from blip_model import OVBlipModel
from blip_openvino.runtime.decoder import DecoderState

folder = sys.argv[1]
models = [
    OVBlipModel.from_pretrained(folder, "CPU", precision, wishes)
    for precision, wishes in (("FP16", {}), ("INT8", {"PERFORMANCE_HINT": "THROUGHPUT"}), ("INT4", {}))
]
size = models[0].config.vision_config.image_size
pixels = np.random.default_rng(0).normal(size=(6, 3, size, size)).astype(np.float32)
ids = np.full((6, 5), 7)

def work(model):
    kept = []
    for number in range(20):
        images = model.encode_images(pixels[number % 5:])
        kept = [*kept[-3:], DecoderState(model.text_decoder, images)]
        for state in kept:
            state.step(np.full((len(state.tokens), 1), 7))
        model.generate_answer(images, ids[number % 5:])
    return model.generate_caption(pixels).shape

with ThreadPoolExecutor(4) as pool:
    shapes = list(pool.map(work, models))
del models[::2]
print(len(shapes))
"""


FIRST_ARRAYS = """
import threading
import blip_model
import openvino as ov

constants = [ov.op.Constant(ov.Type.f32, ov.Shape([1]), [1.0]) for _ in range(4)]
begin = threading.Event()

def see(constant):
    while not begin.is_set():
        pass
    constant.data

threads = [threading.Thread(target=see, args=(each,)) for each in constants]
for thread in threads:
    thread.start()
begin.set()
for thread in threads:
    thread.join()
"""


def test_threads_that_are_the_first_to_see_an_array_do_not_wait_for_each_other():
    """Of processes without what `runtime.device` does at import a quarter stood still."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(12):
        subprocess.run([sys.executable, "-c", FIRST_ARRAYS], env=environment, check=True, timeout=60)


def test_models_and_requests_made_dropped_and_replaced_end_cleanly(quantized):
    """Three models, each asked for over 200 steps by a hundred requests, in each of five processes."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, quantized], env=environment, capture_output=True, text=True, timeout=120
        )
        assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
        assert "terminate called" not in done.stderr
        assert "pure virtual" not in done.stderr
