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
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np

from blip_openvino.apps.blip import Answer, Blip, Match
from blip_openvino.apps.load import is_converted, load
from blip_openvino.evaluate.check import CheckReport, check_model
from blip_openvino.ir.files import PRECISIONS, Part, architecture, load_config
from blip_openvino.runtime.encoded import EncodedImages

MODELS_KEPT = 2
IMAGES_KEPT = 3  # of each model; with its keys and values one takes some 90 MB at the size of BLIP base


class ModelFolder:
    """A converted folder, on every device and in every precision that is asked for. Any thread may ask."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.config = load_config(self.folder)
        self._models = Recent(MODELS_KEPT)
        self._reports: dict[tuple[str, str], CheckReport] = {}  # a report stays when its model has gone

    def precisions(self) -> list[str]:
        """Those of which all files are there; INT4 is the decoder's, and left out where there is none."""
        has_decoder = Part.TEXT_DECODER in architecture(self.config).parts
        possible = [each for each in PRECISIONS if has_decoder or each != "INT4"]
        return [each for each in possible if is_converted(self.folder, each)]

    def load(self, device: str, precision: str, milliseconds: dict[str, float]) -> tuple[Blip, "Recent"]:
        """A model and the images that it has encoded last; ValueError where the device and precision fail the check."""

        def make() -> tuple[Blip, Recent]:
            with timed(milliseconds, "load model"):
                blip = load(self.folder, device, precision)
            if (device, precision) not in self._reports:
                with timed(milliseconds, "check"):
                    self._reports[device, precision] = check_model(blip.model, self.folder, device)
            report = self._reports[device, precision]
            if not report.passed:
                raise ValueError(f"{device} {precision} gives wrong results, choose another one:\n{report}")
            return blip, Recent(IMAGES_KEPT)

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
        blip, images = self.load(device, precision, milliseconds)
        matches = blip.model.text_decoder is None
        if matches and not text:
            raise ValueError("there is no text: this model says how well one fits the image, so write one")
        content = Path(image).read_bytes()

        def encode() -> EncodedImages:
            with timed(milliseconds, "preprocess"):
                pixel_values = blip.processor(content)["pixel_values"]
            with timed(milliseconds, "vision"):
                return blip.model.encode_images(pixel_values)

        encoded = images.get(hashlib.blake2b(content).digest(), encode)
        milliseconds["image reused"] = "vision" not in milliseconds
        yield "", dict(milliseconds)
        if matches:
            with timed(milliseconds, "answer"):
                probability, similarity = blip.match(encoded, text), blip.similarity(encoded, [text]).item()
            yield f"{probability:.1%}", milliseconds | {"similarity": similarity}
            return
        answers = text and blip.model.text_encoder is not None
        write = partial(blip.ask if answers else blip.caption, encoded, text or None)

        def generate(**kwargs) -> Answer:
            with timed(milliseconds, "answer"):
                return write(**kwargs)

        with closing(stream_tokens(generate, **generate_kwargs)) as steps:
            for step in steps:
                if isinstance(step, Answer):
                    yield step.text, milliseconds | {"log-probability": step.score}
                else:
                    yield blip.processor.decode(step), dict(milliseconds)

    def search(self, images: Sequence[str | Path], text: str, device: str, precision: str, top: int) -> list[Match]:
        """The images that a text describes best, see `Blip.find_images`; all are encoded once while they are the same.

        Raises:
            ValueError, OSError: an input is wrong or a file unreadable; the message names the way out.
        """
        blip, recent = self.load(device, precision, {})
        contents = [Path(image).read_bytes() for image in images]
        digests = tuple(hashlib.blake2b(each).digest() for each in contents)
        return blip.find_images(text, recent.get(digests, lambda: blip.encode_images(contents)), top)


class Recent:
    """The last `size` things made, by key. Each is made once: who asks meanwhile waits."""

    def __init__(self, size: int):
        self.size, self.things, self.lock = size, {}, Lock()

    def get(self, key: Hashable, make: Callable[[], Any]) -> Any:
        with self.lock:
            thing = self.things.pop(key) if key in self.things else make()
            self.things[key] = thing  # the newest is last
            if len(self.things) > self.size:
                del self.things[next(iter(self.things))]
        return thing


@contextmanager
def timed(milliseconds: dict[str, float], stage: str) -> Iterator[None]:
    """Note the time that the block took."""
    start = time.perf_counter()
    yield
    milliseconds[stage] = (time.perf_counter() - start) * 1000


def stream_tokens(generate: Callable[..., Answer], **generate_kwargs) -> Iterator[list[int] | Answer]:
    """Run `generate` in a thread; yield the token ids so far after each step, and in the end what it returns.

    Beams settle their tokens only at the end: until then each step yields the ids so far, unchanged.
    """
    feed, ids = TokenFeed(), []
    with ThreadPoolExecutor(1, "blip-generate") as pool:
        future = pool.submit(generate, streamer=feed, **generate_kwargs)
        future.add_done_callback(lambda _: feed.end())
        try:
            while (tokens := feed.get()) is not None:
                ids = [*ids, *np.ravel(tokens).tolist()]
                yield ids
        finally:
            feed.reader_left = True
        yield future.result()


class TokenFeed(SimpleQueue):
    """A streamer that is a queue to another thread: the prompt [1, T], then each token [1], None after the last."""

    reader_left = False

    def put(self, tokens: Any) -> None:
        if self.reader_left:
            raise CancelledError
        super().put(tokens)

    def end(self) -> None:
        super().put(None)
