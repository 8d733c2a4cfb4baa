"""A collection of any size captioned or asked: read, decoded, encoded and written at once, little of it in memory.

run = Run(blip_openvino.load("Salesforce/blip-vqa-base"), "caption")
with open_output("captions.jsonl", run.identity()) as sink:
    print(run_collection(run, find_items(["photos"]), sink))
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby, islice
from typing import Any, Literal, TypeVar

import numpy as np
from PIL import Image

from blip_openvino.apps.blip import IMAGES_AT_ONCE, Answer, Blip
from blip_openvino.apps.collections.sinks import COLUMNS, Row, Sink, clean, key_of
from blip_openvino.apps.collections.sources import Item
from blip_openvino.apps.errors import one_line, rounded
from blip_openvino.runtime.encoded import EncodedImages
from blip_openvino.runtime.images import load_image

READERS = 4
"""How many images are read and decoded at once."""
BATCHES_AHEAD = 2
"""How many batches of images are held decoded, beside the one that is encoded and the one whose texts are written."""

Given = TypeVar("Given")
Made = TypeVar("Made")
Written = tuple[str | None, float | None, str | None]
"""A text and its log-probability, or in their place an error."""


@dataclass(frozen=True)
class Run:
    """What is asked of each image of a collection, by which model and how.

    Raises:
        ValueError: the model cannot do it, or a text or an argument is wrong; one grey image is tried for that.
        ImportError: an argument needs PyTorch and transformers, and they are not installed.
    """

    blip: Blip
    task: Literal["ask", "caption"]
    texts: Sequence[str] = ()
    """Questions, or a prompt; with none each item has its own."""
    generate: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `Blip.ask` and `Blip.caption`."""
    model: str = ""
    """How rows name the model; its class where nothing is given."""

    def __post_init__(self):
        for text in self.texts or ["what is it?" if self.task == "ask" else ""]:
            self._write(Image.new("RGB", (8, 8), "grey"), [text])

    def identity(self) -> dict[str, Any]:
        """What texts depend on, for a sink to keep: two runs of one identity write the same."""
        model, key = self.blip.model, "INFERENCE_PRECISION_HINT"
        has_key = key in model.vision_model.get_property("SUPPORTED_PROPERTIES")
        return {
            "model": self.name,
            "checkpoint": getattr(model.config, "openvino_checkpoint", None),
            "precision": model.precision,
            "computes in": model.vision_model.get_property(key).to_string() if has_key else None,
            "task": self.task,
            "texts": list(self.texts),
            **self.generate,
        }

    @property
    def name(self) -> str:
        """How rows name the model."""
        return self.model or self.blip.model.config.architectures[0]

    def answer(self, images: EncodedImages, texts: Sequence[str | None]) -> list[list[Written]]:
        """What is written about each image, or the error that its question gives."""
        try:
            found = self._write(images, [text or "" for text in texts] if self.task == "caption" else texts)
            return [[(clean(each.text), rounded(each.score), None) for each in answers] for answers in found]
        except ValueError as error:
            if len(texts) == 1:
                return [failed(error)]
        return [each for row, text in enumerate(texts) for each in self.answer(images[row : row + 1], [text])]

    def _write(self, images: EncodedImages | Image.Image, texts: Sequence[str | None]) -> list[list[Answer]]:
        write = self.blip.ask if self.task == "ask" else self.blip.caption
        found = write(images, list(texts), **self.generate)
        return [each if isinstance(each, list) else [each] for each in found]


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    written: int
    """Images, or pairs of an image and a question, that it worked off."""
    found: int
    """Those that were there before."""
    errors: int
    """Of both."""
    seconds: float

    @property
    def rate(self) -> float:
        """How many it works off in a second."""
        return self.written / self.seconds if self.seconds else 0

    def __str__(self) -> str:
        return (
            f"{self.written} done in {self.seconds:.0f} s ({self.rate:.1f} a second), {self.found} found done, "
            f"errors: {self.errors}"
        )


@dataclass
class Picture:
    """An image as it goes through: what is asked about it, its size and pixels, and for each item what is written."""

    items: list[Item]
    size: tuple[int | None, int | None] = (None, None)
    pixel_values: np.ndarray | None = None  # [1, 3, H, W] float32
    answers: list[list[Written]] = field(default_factory=list)


def run_collection(
    run: Run,
    items: Iterable[Item],
    sink: Sink,
    batch: int = IMAGES_AT_ONCE,
    progress: Callable[[Summary], None] = lambda so_far: None,
) -> Summary:
    """Ask about every image that `sink` has no row of yet, each once, in their order; a bad image is a row too.

    Args:
        run: what is asked, and of which model.
        items: of any number, read as they are needed. Those in a row that are of one path share the image.
        sink: opened for `run.identity()`; not closed.
        batch: how many images are encoded and written about together; in float32 the texts do not depend on it.
        progress: called with what was done so far.

    Raises:
        OSError: the sink cannot be written.
    """
    started, written, found, errors = time.monotonic(), 0, 0, 0
    seen = set()

    def so_far() -> Summary:
        return Summary(written, found, errors, time.monotonic() - started)

    def missing() -> Iterator[Item]:
        nonlocal found, errors
        for item in items:
            for text in run.texts or [item.text]:
                key = key_of(item.path, text)
                if key in seen:
                    continue
                seen.add(key)
                if key in sink.done:
                    found, errors = found + 1, errors + (key in sink.failed)
                    progress(so_far())
                else:
                    yield replace(item, text=text)

    for rows in rows_of(run, missing(), batch):
        sink.write(rows)
        written += len({(row["path"], row[COLUMNS[run.task][1]]) for row in rows})
        errors += sum(bool(row["error"]) for row in rows)
        progress(so_far())
    return so_far()


def rows_of(run: Run, items: Iterable[Item], batch: int) -> Iterator[list[Row]]:
    """The rows of all items, `batch` images at a time: while some are written about, others are read and encoded."""

    def read(items: list[Item]) -> Picture:
        try:
            image = load_image(items[0].read())
            return Picture(items, image.size, run.blip.processor(images=image)["pixel_values"])
        except (ValueError, OSError) as error:
            return Picture(items, answers=[failed(error)] * len(items))

    def encode(pictures: list[Picture]) -> tuple[list[Picture], EncodedImages | None]:
        good = [each for each in pictures if each.pixel_values is not None]
        if not good:
            return pictures, None
        # Keys and values pay from the third question on that is about all of them.
        reused = min(len(each.items) for each in good) > 2
        pixels = np.concatenate([each.pixel_values for each in good])
        return pictures, run.blip.model.encode_images(pixels, reused)

    groups = (list(group) for _, group in groupby(items, key=lambda item: item.path))
    with ThreadPoolExecutor(READERS) as reading, ThreadPoolExecutor(1) as vision:
        pictures = ahead(reading, read, groups, BATCHES_AHEAD * batch)
        for some, encoded in ahead(vision, encode, batched(pictures, batch), 1):
            write_about(run, some, encoded)
            yield [row for picture in some for row in picture_rows(run, picture)]


def write_about(run: Run, pictures: Sequence[Picture], encoded: EncodedImages | None) -> None:
    """Set the answers of some images, of which those that have pixels are encoded."""
    good = [each for each in pictures if each.pixel_values is not None]
    for turn in range(max((len(each.items) for each in good), default=0)):  # each image's first question, second, ...
        asked = [row for row, each in enumerate(good) if len(each.items) > turn]
        images = encoded if len(asked) == len(good) else encoded[np.array(asked)]
        answers = run.answer(images, [good[row].items[turn].text for row in asked])
        for row, answer in zip(asked, answers, strict=True):
            good[row].answers.append(answer)


def picture_rows(run: Run, picture: Picture) -> Iterator[Row]:
    """The rows of an image: for each item as many as there are texts."""
    about = *picture.size, run.name, run.blip.model.precision
    for item, answers in zip(picture.items, picture.answers, strict=True):
        asked = item.text and clean(item.text)
        for text, score, error in answers:
            values = clean(item.path), asked, text, score, *about, error
            yield dict(zip(COLUMNS[run.task], values, strict=True))


def failed(error: Exception) -> list[Written]:
    """The error in place of texts."""
    return [(None, None, one_line(error))]


def ahead(pool: Executor, make: Callable[[Given], Made], things: Iterable[Given], most: int) -> Iterator[Made]:
    """What `make` makes of each thing, in their order, by the pool's threads: at most `most` beside the one in use."""
    waiting = deque()
    for thing in things:
        waiting.append(pool.submit(make, thing))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def batched(things: Iterable[Given], size: int) -> Iterator[list[Given]]:
    """Lists of `size` things, the last of what is left."""
    things = iter(things)
    while some := list(islice(things, size)):
        yield some
