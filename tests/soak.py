"""Thousands of mixed requests in a process of their own; prints as JSON what they cost and how many were wrong.

python tests/soak.py FOLDER
"""

import io
import json
import random
import signal
import sys
from pathlib import Path

import psutil
import torch
from strange_arguments import Collector
from strange_images import encoded, picture
from strange_texts import CONTROL_QUESTION
from transformers import BlipProcessor, logging

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blip_inputs import load_image
from blip_model import OVBlipModel

REQUESTS, INTERRUPTS = 3000, 300


class Requests:
    """Calls of every kind by name; each returns what is to be the same every time, or None where it is drawn."""

    def __init__(self, folder: Path):
        self.model = OVBlipModel.from_pretrained(folder, "CPU", ov_config={"INFERENCE_PRECISION_HINT": "f32"})
        self.processor = BlipProcessor.from_pretrained(folder)
        self.file = encoded(picture())
        self.inputs = dict(self.processor(picture(), CONTROL_QUESTION, return_tensors="pt"))
        self.pixel_values = self.inputs["pixel_values"]
        self.images = self.model.encode_images(self.pixel_values)
        texts = ["is there a circle?", CONTROL_QUESTION, "what shape is in the image?"]
        self.batch = dict(self.processor(text=texts, padding=True, return_tensors="pt"))

    def answer(self):
        return self.model.generate_answer(**self.inputs)

    def answer_again(self):
        return self.model.generate_answer(self.images, **self.batch)

    def caption(self):
        return self.model.generate_caption(self.pixel_values.expand(3, -1, -1, -1))

    def beams(self):
        return self.model.generate_caption(self.images, num_beams=3, num_return_sequences=2)

    def prompts(self):
        return self.model.generate_caption(self.images, **self.batch)

    def streamed(self):
        streamer = Collector()
        self.model.generate_answer(**self.inputs, streamer=streamer)
        return torch.cat([value.flatten() for value in streamer.values[:-1]])

    def sampled(self):
        self.model.generate_caption(self.images, do_sample=True, temperature=2.0)

    def from_file(self):
        pixel_values = self.processor(images=load_image(io.BytesIO(self.file)), return_tensors="pt")["pixel_values"]
        return self.model.encode_images(pixel_values).image_embeds

    def refused(self):
        for call in (
            lambda: load_image(self.file[:200]),
            lambda: self.model.generate_answer(self.pixel_values[0], **self.batch),
            lambda: self.model.generate_caption(self.images, num_beam=3),
        ):
            try:
                call()
            except ValueError:
                continue
            raise AssertionError("wrong input was taken")


KINDS = [name for name in vars(Requests) if not name.startswith("_")]


def same(found, expected) -> bool:
    return (found is None and expected is None) or torch.equal(torch.as_tensor(found), torch.as_tensor(expected))


def costs() -> dict[str, int]:
    process = psutil.Process()
    return {"rss": process.memory_info().rss, "threads": process.num_threads(), "files": process.num_fds()}


def interrupt(call, seconds: float) -> bool:
    """Whether a KeyboardInterrupt after so many seconds came before `call` had ended."""
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    return False


def main() -> None:
    logging.set_verbosity_error()
    requests, draw = Requests(Path(sys.argv[1])), random.Random(0)
    expected = {kind: getattr(requests, kind)() for kind in KINDS}
    wrong, interrupted, history = [], 0, []
    for count in range(1, REQUESTS + 1):
        kind = draw.choice(KINDS)
        if not same(getattr(requests, kind)(), expected[kind]):
            wrong.append(kind)
        if count % 1000 == 0:
            history.append(costs())
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(INTERRUPTS):
        kind, images = draw.choice(KINDS), requests.images
        if draw.random() < 0.5:  # an image nobody has asked about yet
            requests.images = requests.model.encode_images(requests.pixel_values)
        interrupted += interrupt(getattr(requests, kind), draw.uniform(1e-4, 8e-3))
        wrong += [
            kind for kind in ("answer", "answer_again", "beams") if not same(getattr(requests, kind)(), expected[kind])
        ]
        requests.images = images
    print(json.dumps({"history": history, "wrong": wrong, "interrupted": interrupted, "end": costs()}))


if __name__ == "__main__":
    main()
