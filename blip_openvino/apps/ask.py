"""What the page does, without the page: models loaded and checked once, images encoded once, text as it is written.

folder = ModelFolder("build/blip-vqa-base")
for text, milliseconds in folder.ask("photo.jpg", "how many dogs are there?", "CPU", "FP16"):
    print(text, milliseconds)
"""

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from blip_model import OVBlipModel
from blip_openvino.apps.blip import Answer, Blip, Match
from blip_openvino.evaluate.check import CheckReport, check_model
from blip_openvino.ir.files import PRECISIONS, architecture, load_config
from blip_openvino.runtime.processor import OVBlipProcessor

if TYPE_CHECKING:
    from blip_openvino.apps.collections.index import Found, ImageIndex

MODELS_KEPT = 2
SCORES = ("log-probability", "similarity")
"""What is no time in what `ModelFolder.ask` says of a reply."""
IMAGES_KEPT = 3  # of each model; with its keys and values one takes some 90 MB at the size of BLIP base


class ModelFolder:
    """A converted folder, on every device and in every precision that is asked for. Any thread may ask."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = load_config(self.folder)
        self.architecture: str = self.config.architectures[0]
        self.processor = OVBlipProcessor.from_pretrained(self.folder)
        self._models = Recent(MODELS_KEPT)
        self._reports: dict[tuple[str, str], CheckReport] = {}  # a report stays when its model has gone

    def precisions(self) -> list[str]:
        """Those of which all files are there; without a decoder INT4 is INT8, and left out."""
        parts, found = architecture(self.config).parts, {}
        for precision in PRECISIONS:
            files = [self.folder / part.file(precision) for part in parts]
            if all(file.exists() for file in files) and files not in found.values():
                found[precision] = files
        return list(found)

    def load(self, device: str, precision: str, milliseconds: dict[str, float]) -> tuple[OVBlipModel, "Recent"]:
        """A model and the images that it has encoded last; ValueError where the device and precision fail the check."""

        def make() -> tuple[OVBlipModel, Recent]:
            report = self._reports.get((device, precision))
            if report is None or report.passed:
                with timed(milliseconds, "load model"):
                    model = OVBlipModel.from_pretrained(self.folder, device, precision)
            if report is None:
                with timed(milliseconds, "check"):
                    report = self._reports[device, precision] = check_model(model, self.folder, device)
            if not report.passed:
                raise ValueError(f"{device} {precision} gives wrong results, choose another one:\n{report}")
            return model, Recent(IMAGES_KEPT)

        return self._models.get((device, precision), make)

    def ask(
        self, image: str | Path, text: str, device: str, precision: str, **generate_kwargs
    ) -> Iterator[tuple[str, dict[str, float | bool]]]:
        """Ask about an image and follow the reply as it grows; closing the iterator ends it within a step.

        `image` is a file, and not encoded again while its bytes are those of one of the last few. `text` is a question
        (blank: a caption), of a captioning model the caption's beginning, of a retrieval model the text to match.

        Yields:
            The text so far (the probability, where texts are matched), and the milliseconds of each stage that has run,
            with them whether the image was reused, and in the end the text's log-probability (contrast's similarity).
            Beams come all at once.

        Raises:
            ValueError, OSError: an input is wrong or a file unreadable; the message names the way out.
        """
        text, milliseconds = text.strip(), {}
        model, images = self.load(device, precision, milliseconds)
        blip = Blip(model, self.processor)
        if not text and model.text_decoder is None:
            raise ValueError("there is no text: this model says how well one fits the image, so write one")
        with timed(milliseconds, "preprocess"):
            content = Path(image).read_bytes()

        def encode():
            with timed(milliseconds, "preprocess"):
                pixel_values = self.processor(content)["pixel_values"]
            with timed(milliseconds, "vision"):
                return model.encode_images(pixel_values)

        encoded = images.get(hashlib.blake2b(content).digest(), encode)
        milliseconds["image reused"] = "vision" not in milliseconds
        yield "", dict(milliseconds)
        if model.text_decoder is None:
            with timed(milliseconds, "answer"):
                probability, similarity = blip.match(encoded, text), blip.similarity(encoded, [text]).item()
            yield f"{probability:.1%}", milliseconds | {"similarity": similarity}
            return
        answers = text and model.text_encoder is not None
        write = partial(blip.ask if answers else blip.caption, encoded, text or None)

        def generate(**kwargs) -> Answer:
            with timed(milliseconds, "answer"):
                return write(**kwargs)

        with closing(stream_tokens(generate, **generate_kwargs)) as steps:
            for step in steps:
                if isinstance(step, Answer):
                    yield step.text, milliseconds | {"log-probability": step.score}
                else:
                    yield self.processor.decode(step), dict(milliseconds)

    def search(self, images: Sequence[str | Path], text: str, device: str, precision: str, top: int) -> list[Match]:
        """The images that a text describes best, see `Blip.find_images`; all are encoded once while they are the same.

        Raises:
            ValueError, OSError: an input is wrong or a file unreadable; the message names the way out.
        """
        if not images or not text.strip():
            raise ValueError("Search needs images to look through and a text that describes one: give both.")
        model, recent = self.load(device, precision, {})
        blip, contents = Blip(model, self.processor), [Path(image).read_bytes() for image in images]
        digest = hashlib.blake2b(b"".join(hashlib.blake2b(each).digest() for each in contents)).digest()
        return blip.find_images(text.strip(), recent.get(digest, lambda: blip.encode_images(contents)), top)

    def search_index(self, index: "ImageIndex", text: str, device: str, precision: str, top: int) -> "list[Found]":
        """The images of an index that a text describes best; raises what `search` does."""
        if not text.strip():
            raise ValueError("Search needs a text that describes an image.")
        return index.search(Blip(self.load(device, precision, {})[0], self.processor), text.strip(), top=top)


class Recent:
    """The last `size` things made, by key. Each is made once: who asks for the same one meanwhile waits."""

    def __init__(self, size: int):
        self.size, self.slots, self.lock = size, {}, Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self.lock:
            slot = self.slots.setdefault(key, Slot())
        try:
            with slot.lock:
                if slot.thing is None:
                    slot.thing = make()
        finally:
            with self.lock:
                self.slots.pop(key, None)
                if slot.thing is not None:  # else what was kept stays
                    self.slots[key] = slot  # the newest is last
                    made = [each for each, other in self.slots.items() if other.thing is not None]
                    for oldest in made[: -self.size]:
                        del self.slots[oldest]
        return slot.thing


@dataclass
class Slot:
    """A thing that is made by one thread while others may wait for it."""

    thing: Any = None
    lock: Lock = field(default_factory=Lock)


@contextmanager
def timed(milliseconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the block took to that of its stage."""
    start = time.perf_counter()
    yield
    milliseconds[stage] = milliseconds.get(stage, 0) + (time.perf_counter() - start) * 1000


def stream_tokens(
    generate: Callable[..., Answer], num_beams: int = 1, **generate_kwargs
) -> Iterator[list[int] | Answer]:
    """Run `generate` in a thread; yield the token ids so far after each step, and in the end what it returns.

    Beams settle their tokens only at the end: until then their steps yield empty lists.
    """
    feed, ids = TokenFeed(), []
    follow = {"streamer": feed} if num_beams == 1 else {"stopping_criteria": [feed]}
    with ThreadPoolExecutor(1, "blip-generate") as pool:
        future = pool.submit(generate, num_beams=num_beams, **follow, **generate_kwargs)
        future.add_done_callback(lambda _: feed.end())
        try:
            while (tokens := feed.get()) is not None:
                ids = [*ids, *np.ravel(tokens).tolist()]
                yield ids
        finally:
            feed.reader_left = True
        yield future.result()


class TokenFeed(SimpleQueue):
    """A streamer that is a queue to another thread: the prompt [1, T], then each token [1], None after the last.

    With beams it is a stopping criterion that stops nothing: the reader gets no tokens at a step, but can leave there.
    """

    reader_left = False

    def put(self, tokens: Any) -> None:
        if self.reader_left:
            raise CancelledError
        super().put(tokens)

    def end(self) -> None:
        super().put(None)

    def __call__(self, input_ids: Any, scores: Any, **kwargs) -> bool:
        self.put([])
        return False
