"""The tasks that are timed, the same for every side: inputs, numbers of tokens, and what is told of the output."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.sides import Laps, Side

QUESTION = "how many dogs are in the picture ?"
OTHER_QUESTION = "what color is shape in the picture ?"
ANSWER_TOKENS, CAPTION_TOKENS, BEAMS = 3, 12, 3
EVERY = 97
"""One in so many of the logits or pixels is compared."""


def photo() -> bytes:
    """A JPEG of 1024x768 pixels: soft shapes with some grain, as a photograph's file is."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC))
    grainy = np.clip(soft + draw.normal(0, 8, (768, 1024, 1)), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=90)
    return file.getvalue()


@dataclass(frozen=True)
class Inputs:
    """What a side is given, as it reads it itself."""

    jpeg: bytes
    pixel_values: np.ndarray  # [1, 3, H, W] float32
    images: np.ndarray  # [batch, 3, H, W]: the picture, shifted further and further to the side
    question: dict[str, np.ndarray]  # of ten tokens at BLIP base
    other_question: dict[str, np.ndarray]

    @classmethod
    def make(cls, side: Side, batch: int) -> Inputs:
        jpeg = photo()
        pixels = side.preprocess(jpeg)
        images = np.concatenate([np.roll(pixels, 7 * index, axis=3) for index in range(batch)])
        return cls(jpeg, pixels, images, side.tokenize(QUESTION), side.tokenize(OTHER_QUESTION))


@dataclass(frozen=True)
class Task:
    """What `run` does for a side and the thing that `start` made for it beforehand, which is not timed."""

    run: Callable[[Side, Inputs, object, Laps, dict[str, object]], object]
    new_tokens: int | None = None
    """How many each row that `run` gives has; None where it gives something else."""
    num_beams: int = 1
    start: Callable[[Side, Inputs], object] = lambda side, inputs: None

    def settings(self, laps: Laps, checked: bool) -> dict[str, object]:
        """Arguments of `generate` for exactly so many tokens; to be checked, with logits."""
        settings = {"min_new_tokens": self.new_tokens, "max_new_tokens": self.new_tokens, "num_beams": self.num_beams}
        if checked:
            return settings | {"return_dict_in_generate": True, "output_logits": True}
        return settings | ({"streamer": laps} if self.num_beams == 1 else {})  # beam search streams nothing


def end_to_end(side: Side, jpeg: bytes, laps: Laps, settings: dict[str, object]) -> object:
    """From an image file's bytes and a text to a text."""
    output = side.answer(side.preprocess(jpeg), side.tokenize(QUESTION), laps, **settings)
    side.decode(getattr(output, "sequences", output)[0])
    return output


TASKS = {
    "answer": Task(
        lambda side, inputs, _, laps, settings: side.answer(inputs.pixel_values, inputs.question, laps, **settings),
        ANSWER_TOKENS,
    ),
    "answer again": Task(
        lambda side, inputs, kept, laps, settings: side.answer(kept, inputs.other_question, laps, **settings),
        ANSWER_TOKENS,
        start=lambda side, inputs: side.keep(inputs.pixel_values, inputs.question),
    ),
    "caption": Task(
        lambda side, inputs, _, laps, settings: side.caption(inputs.pixel_values, laps, **settings), CAPTION_TOKENS
    ),
    f"caption, {BEAMS} beams": Task(
        lambda side, inputs, _, laps, settings: side.caption(inputs.pixel_values, laps, **settings),
        CAPTION_TOKENS,
        BEAMS,
    ),
    "batch": Task(
        lambda side, inputs, _, laps, settings: side.caption(inputs.images, laps, **settings), CAPTION_TOKENS
    ),
    "preprocessing": Task(lambda side, inputs, *_: side.preprocess(inputs.jpeg)),
    "end to end": Task(
        lambda side, inputs, _, laps, settings: end_to_end(side, inputs.jpeg, laps, settings), ANSWER_TOKENS
    ),
}


def peak_memory() -> int:
    """The most memory in bytes that this process has had resident, mapped files included.

    From /proc, because `ru_maxrss` may begin with what the parent process had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


class Runner:
    """Runs tasks on a side, again and again."""

    def __init__(self, make: Callable[[], Side], batch: int):
        self.make, self.batch = make, batch
        self.kept: dict[str, object] = {}

    def load(self) -> dict[str, object]:
        """Make the side and have it answer once: the `peak_memory` of that in bytes."""
        self.side = self.make()
        laps = Laps()
        end_to_end(self.side, photo(), laps, TASKS["end to end"].settings(laps, checked=False))
        return {"peak_memory": peak_memory()}

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs.make(self.side, self.batch)

    def run(self, name: str, checked: bool = False) -> dict[str, object]:
        """`seconds`, `laps`, `tokens` [B, T] or None, and some `values`: of pixels, or of logits if `checked`."""
        task = TASKS[name]
        if name not in self.kept:
            self.kept[name] = task.start(self.side, self.inputs)
        laps = Laps()
        output = task.run(self.side, self.inputs, self.kept[name], laps, task.settings(laps, checked))
        seconds = time.perf_counter() - laps.start
        logits = getattr(output, "logits", None)
        tokens = np.asarray(getattr(output, "sequences", output)).tolist() if task.new_tokens else None
        values = np.asarray(logits[0][0] if logits else [] if task.new_tokens else output).ravel()[::EVERY]
        return {"seconds": seconds, "laps": laps.seconds, "tokens": tokens, "values": values.tolist()}


def part_seconds(laps: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    """What one side's parts took in each run of "answer", "answer again" and "caption", as far as it has them.

    Laps are: image encoded, prompt handed over (for a question: text encoder done), first token, second, ...
    """
    answer, again, caption = (laps.get(name, []) for name in ("answer", "answer again", "caption"))
    return {
        "vision model": [run[0] for run in caption],
        "text encoder, first question": [run[1] - run[0] for run in answer],
        "text encoder, another question": [run[1] - run[0] for run in again],
        "decoder, first step over the image": [run[2] - run[0] for run in caption],
        "decoder, later step over the image": [float(np.median(np.diff(run[2:]))) for run in caption],
    }
