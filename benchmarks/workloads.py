"""The tasks that are timed, the same for every side: inputs, numbers of tokens, and what is told of the output."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from benchmarks.sides import Laps, Side, Text

QUESTION = "how many dogs are in the picture ?"
OTHER_QUESTION = "what color is shape in the picture ?"
ANSWER_TOKENS, CAPTION_TOKENS, BEAMS, MOST_IMAGES = 3, 12, 3, 32
COMPARED = 300
"""At least so many of the logits or pixels are compared, if there are that many."""


@cache
def photo() -> bytes:
    """A JPEG of 1024x768 pixels: soft shapes with some grain, as a photograph's file is."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC))
    grainy = np.clip(soft + draw.normal(0, 8, (768, 1024, 1)), 0, 255).astype(np.uint8)
    file = BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=90)
    return file.getvalue()


class Inputs:
    """What a side is given, as it reads it itself."""

    def __init__(self, side: Side, batch: int):
        self.pixel_values = side.preprocess(photo())  # [1, 3, H, W] float32
        self.images = np.concatenate([np.roll(self.pixel_values, 7 * index, axis=3) for index in range(batch)])
        self.question, self.other_question = side.tokenize(QUESTION), side.tokenize(OTHER_QUESTION)  # of ten tokens
        self.kept = side.keep(self.pixel_values, self.question)

    def questions(self, count: int) -> Text:
        """The two in turns, so many in all: [count, T]."""
        pairs = {name: np.concatenate([ids, self.other_question[name]]) for name, ids in self.question.items()}
        return {name: np.resize(pair, (count, pair.shape[1])) for name, pair in pairs.items()}


@dataclass(frozen=True)
class Task:
    """A side does it by `run`, with some settings of `generate`."""

    run: Callable[[Side, Inputs, Laps, dict[str, object]], object]
    new_tokens: int | None = None
    """How many each row that `run` gives has; None where it gives something else."""
    num_beams: int = 1
    rows: int | None = None
    """How many rows `run` gives, where that is checked."""
    in_pieces: bool = False
    """Whether ours works off the rows piece by piece, which neither logits nor a streamer go with."""

    def settings(self, laps: Laps, checked: bool) -> dict[str, object]:
        """Arguments of `generate` for exactly so many tokens; to be checked, with logits."""
        settings = {"min_new_tokens": self.new_tokens, "max_new_tokens": self.new_tokens, "num_beams": self.num_beams}
        if self.in_pieces:
            return settings
        if checked:
            return settings | {"return_dict_in_generate": True, "output_logits": True}
        # transformers' beam search streams nothing.
        return settings | ({"streamer": laps} if self.num_beams == 1 else {})


def end_to_end(side: Side, inputs: Inputs | None, laps: Laps, settings: dict[str, object]) -> object:
    """From an image file's bytes and a text to a text; needs no `inputs`."""
    output = side.answer(side.preprocess(photo()), side.tokenize(QUESTION), laps, **settings)
    side.decode(getattr(output, "sequences", output)[0])
    return output


def caption(side: Side, inputs: Inputs, laps: Laps, settings: dict[str, object]) -> object:
    return side.caption(inputs.pixel_values, laps, **settings)


TASKS = {
    "answer": Task(
        lambda side, inputs, laps, settings: side.answer(inputs.pixel_values, inputs.question, laps, **settings),
        ANSWER_TOKENS,
    ),
    "answer again": Task(
        lambda side, inputs, laps, settings: side.answer(inputs.kept, inputs.other_question, laps, **settings),
        ANSWER_TOKENS,
    ),
    "caption": Task(caption, CAPTION_TOKENS),
    f"caption, {BEAMS} beams": Task(caption, CAPTION_TOKENS, BEAMS),
    "batch": Task(lambda side, inputs, laps, settings: side.caption(inputs.images, laps, **settings), CAPTION_TOKENS),
    "preprocessing": Task(lambda side, *_: side.preprocess(photo())),
    "end to end": Task(end_to_end, ANSWER_TOKENS),
}


def captions(images: int) -> Task:
    return Task(
        lambda side, inputs, laps, settings: side.caption(inputs.images[:images], laps, **settings),
        CAPTION_TOKENS,
        rows=images,
        in_pieces=images == MOST_IMAGES,
    )


def answers(questions: int) -> Task:
    """About one image, in one call."""
    return Task(
        lambda side, inputs, laps, settings: side.answer(
            inputs.pixel_values, inputs.questions(questions), laps, **settings
        ),
        ANSWER_TOKENS,
        rows=questions,
    )


CURVES = {
    "images in a batch": {count: captions(count) for count in (1, 2, 4, 8, 16, MOST_IMAGES)},
    "beams": {count: Task(caption, CAPTION_TOKENS, count) for count in (1, 2, 3, 4, 6, 8)},
    "new tokens": {count: Task(caption, count) for count in (1, 10, 25, 50, 100)},
    "questions about one image": {count: answers(count) for count in (1, 2, 4, 8, 16, 32, 64)},
}
"""The tasks whose work grows: by what, and how much of it, the least first."""
ALL_TASKS = TASKS | {f"{count} {curve}": task for curve, points in CURVES.items() for count, task in points.items()}


def run(side: Side, inputs: Inputs | None, name: str, checked: bool = False) -> dict[str, object]:
    """`seconds`, `laps`, `tokens` [B, T] or None, and some `values`: of pixels, or of logits if `checked`."""
    task, laps = ALL_TASKS[name], Laps()
    output = task.run(side, inputs, laps, task.settings(laps, checked))
    seconds = time.perf_counter() - laps.start
    logits = getattr(output, "logits", None)
    tokens = np.asarray(getattr(output, "sequences", output)).tolist() if task.new_tokens else None
    values = np.asarray(logits[0][0] if logits else [] if task.new_tokens else output).ravel()
    values = values[:: max(1, len(values) // COMPARED)].tolist()
    return {"seconds": seconds, "laps": laps.seconds, "tokens": tokens, "values": values}


PARTS = {
    "vision model": ("caption", lambda laps: laps[0]),
    "text encoder, first question": ("answer", lambda laps: laps[1] - laps[0]),
    "text encoder, another question": ("answer again", lambda laps: laps[1] - laps[0]),
    "decoder, first step over the image": ("caption", lambda laps: laps[2] - laps[0]),
    "decoder, later step over the image": ("caption", lambda laps: float(np.median(np.diff(laps[2:])))),
}
"""The task whose laps each part is read from, and how.

Laps are: image encoded, prompt handed over (for a question: text encoder done), first token, second, ...
"""
