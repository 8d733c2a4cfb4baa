"""Requests that Ctrl+C breaks off at any moment, in a process of their own; prints as JSON what came of it.

python tests/interrupts.py FOLDER
"""

import json
import random
import signal
import sys
from pathlib import Path

import torch
from conftest import picture
from strange_texts import CONTROL_QUESTION
from transformers import BlipProcessor

from blip_model import OVBlipModel

INTERRUPTS = 400


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
    folder, draw = Path(sys.argv[1]), random.Random(0)
    model = OVBlipModel.from_pretrained(folder, "CPU", ov_config={"INFERENCE_PRECISION_HINT": "f32"})
    inputs = dict(BlipProcessor.from_pretrained(folder)(picture(), CONTROL_QUESTION, return_tensors="pt"))
    pixel_values, text = inputs.pop("pixel_values"), inputs
    images = model.encode_images(pixel_values)
    requests = {
        "encode": lambda: model.encode_images(pixel_values.expand(4, -1, -1, -1)).image_embeds[:1],
        "answer": lambda: model.generate_answer(pixel_values, **text),
        "answer again": lambda: model.generate_answer(images, **text),
        "caption": lambda: model.generate_caption(images),
        "beams": lambda: model.generate_caption(images, num_beams=3),
    }
    expected = {name: torch.as_tensor(request()) for name, request in requests.items()}
    wrong, interrupted = [], 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for _ in range(INTERRUPTS):
        if draw.random() < 0.5:  # images that nobody has asked about yet
            images = model.encode_images(pixel_values)
        interrupted += interrupt(requests[draw.choice(list(requests))], draw.uniform(1e-4, 6e-3))
        wrong += [
            name for name, request in requests.items() if not torch.equal(torch.as_tensor(request()), expected[name])
        ]
    print(json.dumps({"interrupted": interrupted, "wrong": wrong}))


if __name__ == "__main__":
    main()
