"""The tasks that are timed, the same for every side: inputs, numbers of tokens, and checks on what comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from benchmarks.sides import Laps, Side

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature, BlipProcessor

QUESTION = "how many dogs are in the picture ?"
OTHER_QUESTION = "what color is shape in the picture ?"
ANSWER_TOKENS, CAPTION_TOKENS, BEAMS = 3, 12, 3
MOST_ROUNDS = 30


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
    """What every side is given."""

    jpeg: bytes
    pixel_values: Tensor  # [1, 3, H, W] float32
    question: BatchFeature  # of ten tokens at BLIP base
    other_question: BatchFeature

    @classmethod
    def make(cls, processor: BlipProcessor) -> Inputs:
        jpeg = photo()
        pixel_values = processor(images=Image.open(BytesIO(jpeg)), return_tensors="pt")["pixel_values"]
        texts = (processor(text=text, return_tensors="pt") for text in (QUESTION, OTHER_QUESTION))
        return cls(jpeg, pixel_values, *texts)

    def batch(self, images: int) -> Tensor:
        """[images, 3, H, W]: the picture, shifted further and further to the side."""
        import torch  # not for a fresh process of a side that does without

        return torch.cat([self.pixel_values.roll(7 * index, dims=3) for index in range(images)])


@dataclass(frozen=True)
class Workload:
    """One task: what `run` does for a side and the thing that `start` made for it beforehand, which is not timed."""

    run: Callable[[Side, object, Laps], object]
    start: Callable[[Side], object] = lambda side: None
    new_tokens: int | None = None
    """How many new tokens each of the rows that `run` gives has; None where it gives something else."""


def workloads(inputs: Inputs, batch: int) -> dict[str, Workload]:
    """Every task by name."""
    pixels, question, other, images = inputs.pixel_values, inputs.question, inputs.other_question, inputs.batch(batch)
    return {
        "answer": Workload(
            lambda side, _, laps: side.answer(pixels, question, ANSWER_TOKENS, laps), new_tokens=ANSWER_TOKENS
        ),
        "answer again": Workload(
            lambda side, kept, laps: side.answer(kept, other, ANSWER_TOKENS, laps),
            lambda side: side.keep(pixels, question),
            ANSWER_TOKENS,
        ),
        "caption": Workload(
            lambda side, _, laps: side.caption(pixels, CAPTION_TOKENS, laps), new_tokens=CAPTION_TOKENS
        ),
        f"caption, {BEAMS} beams": Workload(
            lambda side, _, laps: side.caption(pixels, CAPTION_TOKENS, laps, BEAMS), new_tokens=CAPTION_TOKENS
        ),
        "batch": Workload(lambda side, _, laps: side.caption(images, CAPTION_TOKENS, laps), new_tokens=CAPTION_TOKENS),
        "preprocessing": Workload(lambda side, _, laps: side.preprocess(inputs.jpeg)),
        "end to end": Workload(lambda side, _, laps: side.end_to_end(inputs.jpeg, QUESTION, ANSWER_TOKENS)),
    }


class Timed:
    """A workload on a side, ready to be called again and again; notes each call's seconds and laps, and its output."""

    def __init__(self, name: str, workload: Workload, side: Side):
        self.name, self.workload, self.side = name, workload, side
        self.kept = workload.start(side)
        self.seconds: list[float] = []
        self.laps: list[list[float]] = []
        self.output: object = None

    def __call__(self) -> None:
        laps = Laps()
        self.output = self.workload.run(self.side, self.kept, laps)
        self.seconds.append(time.perf_counter() - laps.start)
        self.laps.append(laps.seconds)

    def check(self) -> None:
        """Raise RuntimeError where the output is not of the length that was asked for."""
        new_tokens = self.workload.new_tokens
        if new_tokens is not None and self.output.shape[1] != 1 + new_tokens:
            raise RuntimeError(
                f"{self.name}: {self.output.shape[1] - 1} new tokens on {type(self.side).__name__}, not {new_tokens}"
            )


def take_turns(timed: Mapping[str, Timed], least: int, seconds: float) -> None:
    """At least so many rounds over all sides, and more of them while another one fits into `seconds`.

    Turn by turn, so that a busy moment of the machine hits all sides alike.
    """
    start, rounds = time.perf_counter(), 0
    while rounds < least or (rounds < MOST_ROUNDS and (time.perf_counter() - start) * (rounds + 1) / rounds < seconds):
        for each in timed.values():
            each()
        rounds += 1


def part_seconds(timed: Mapping[str, Timed]) -> dict[str, list[float]]:
    """What one side's parts took in each run of "answer", "answer again" and "caption".

    Laps are: image encoded, prompt handed over (for a question: text encoder done), first token, second, ...
    """
    answer, again, caption = (timed[name].laps for name in ("answer", "answer again", "caption"))
    return {
        "vision model": [laps[0] for laps in caption],
        "text encoder, first question": [laps[1] - laps[0] for laps in answer],
        "text encoder, another question": [laps[1] - laps[0] for laps in again],
        "decoder, first step over the image": [laps[2] - laps[1] for laps in caption],
        "decoder, later step over the image": [float(np.median(np.diff(laps[2:]))) for laps in caption],
    }
