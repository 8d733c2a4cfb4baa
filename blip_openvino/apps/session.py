"""Asking a converted model about images, as the demo page does, without the page: streamed text, stage times, reuse.

folder = ModelFolder("build/blip-easy-vqa")
for reply in ask(folder, Path("photo.jpg").read_bytes(), "how many dogs are there?"):
    print(reply.text, reply.milliseconds)
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Generic, Literal, TypeVar

import numpy as np
import openvino as ov
from PIL import Image
from transformers import BlipProcessor

from blip_model import EncodedImages, OVBlipModel
from blip_openvino.apps.streaming import stream_tokens
from blip_openvino.ir.files import PARTS_OF_ARCHITECTURE, TEXT_DECODER, TEXT_ENCODER, load_config, part_files
from blip_openvino.runtime.arguments import DEFAULT_NEW_TOKENS
from blip_openvino.runtime.images import load_image
from blip_openvino.runtime.inputs import check_question
from blip_openvino.runtime.processor import preprocess_image

PRECISIONS = ("FP16", "INT8", "INT4")
MODELS_KEPT = 3
IMAGES_KEPT = 8
"""For each model; at the size of BLIP base an encoded image takes 1.8 MB."""
NEW_TOKENS_LIMIT, BEAMS_LIMIT, TEMPERATURE_LIMIT = 100, 10, 2.0

Task = Literal["answer", "caption", "match"]
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """How text is generated; `temperature` 0 takes the likeliest tokens, above it they are drawn.

    Raises:
        ValueError: a value is out of its range; the message names both.
    """

    max_new_tokens: int = DEFAULT_NEW_TOKENS
    num_beams: int = 1
    temperature: float = 0.0
    top_p: float = 1.0

    def __post_init__(self):
        ranges = {
            "max_new_tokens": (int, 1, NEW_TOKENS_LIMIT),
            "num_beams": (int, 1, BEAMS_LIMIT),
            "temperature": ((int, float), 0, TEMPERATURE_LIMIT),
            "top_p": ((int, float), 0.01, 1),
        }
        for name, (kind, low, high) in ranges.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not low <= value <= high:
                number = "a whole number" if kind is int else "a number"
                raise ValueError(f"{name} is {value!r}; it takes {number} from {low} to {high}")

    def generate_kwargs(self) -> dict[str, int | float | bool]:
        """The same as arguments of transformers' `generate`; top-p is the only cut on what is drawn from."""
        kwargs = {"max_new_tokens": self.max_new_tokens, "num_beams": self.num_beams}
        if self.temperature > 0:
            kwargs |= {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        return kwargs


@dataclass(frozen=True)
class Reply:
    """What is known so far: the text (for a matching model, the probability), the time of each stage that has run."""

    text: str
    milliseconds: dict[str, float]
    image_reused: bool
    is_final: bool = False


class Recent(Generic[T]):
    """The last `size` things made, by key. Each is made once, by who asks first; who asks meanwhile waits for it."""

    def __init__(self, size: int):
        self.size = size
        self._made: OrderedDict[Hashable, Future[T]] = OrderedDict()
        self._lock = Lock()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._made

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under `key`, or what `make` returns; where that raises, so does this, and nothing is kept."""
        with self._lock:
            is_new = key not in self._made
            future = self._made.setdefault(key, Future())
            self._made.move_to_end(key)
            while len(self._made) > self.size:
                self._made.popitem(last=False)
        if is_new:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    if self._made.get(key) is future:
                        del self._made[key]
                future.set_exception(error)
        return future.result()


@dataclass
class LoadedModel:
    """A compiled model and the images it has seen last, encoded, by a digest of their files' bytes.

    Generations of one model take turns anyway; here they wait for theirs, so that the decoder's time is its own.
    """

    model: OVBlipModel
    turn: Lock = field(default_factory=Lock)
    seen_images: Recent[EncodedImages] = field(default_factory=lambda: Recent(IMAGES_KEPT))


class ModelFolder:
    """A folder that `blip_convert` made: what it can do, on which devices and in which precisions it is really there.

    Models are compiled when first asked for, and the last few are kept. Any thread may ask.

    Raises:
        FileNotFoundError: it is no converted folder, or holds no precision whole.
        ValueError: it is a PyTorch checkpoint.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.architecture: str = load_config(self.folder).architectures[0]
        self.processor: BlipProcessor = BlipProcessor.from_pretrained(self.folder)
        self.devices = [*ov.Core().available_devices, "AUTO"]
        self.precisions = self._find_precisions()
        self._models: Recent[LoadedModel] = Recent(MODELS_KEPT)

    def _find_precisions(self) -> list[str]:
        parts, found = PARTS_OF_ARCHITECTURE[self.architecture], {}
        for precision in PRECISIONS:
            files = part_files(self.folder, parts, precision)
            paths = [self.folder / file for file in files.values()]
            is_whole = all(path.exists() and path.with_suffix(".bin").exists() for path in paths)
            # Without a decoder, INT4 is the same files as INT8.
            if is_whole and files not in found.values():
                found[precision] = files
        if not found:
            raise FileNotFoundError(
                f"{self.folder} has no model whole: run python blip_convert.py CHECKPOINT --output {self.folder}"
            )
        return list(found)

    @property
    def default_precision(self) -> str:
        """What `OVBlipModel.from_pretrained` takes: INT8 where it is there."""
        return "INT8" if "INT8" in self.precisions else self.precisions[0]

    @property
    def task(self) -> Task:
        """Answer questions (and caption), caption only, or match texts with images."""
        parts = PARTS_OF_ARCHITECTURE[self.architecture]
        if TEXT_DECODER not in parts:
            return "match"
        return "answer" if TEXT_ENCODER in parts else "caption"

    def is_loaded(self, device: str, precision: str) -> bool:
        """Whether `load` has this model compiled, or is at it."""
        return (device, precision) in self._models

    def load(self, device: str, precision: str) -> LoadedModel:
        """The model on `device` ("CPU", "AUTO", ...) in `precision` ("FP16", "INT8", "INT4").

        Raises:
            ValueError: there is no such device or precision here, or the files cannot be used.
            FileNotFoundError: a file has gone since the folder was opened.
        """
        for kind, name, there in (("device", device, self.devices), ("precision", precision, self.precisions)):
            if name not in there:
                raise ValueError(f"there is no {kind} {name!r} here; choose one of {', '.join(there)}")
        return self._models.get(
            (device, precision), lambda: LoadedModel(OVBlipModel.from_pretrained(self.folder, device, precision))
        )


def ask(
    folder: ModelFolder,
    image_file: bytes,
    text: str = "",
    device: str = "AUTO",
    precision: str | None = None,
    options: Options | None = None,
) -> Iterator[Reply]:
    """Ask about an image and follow the reply as it grows; the last one has `is_final`.

    Greedy search and sampling grow by a token at a time, beams come all at once. Closing the iterator stops the
    generation within a step and leaves no thread behind.

    Args:
        folder: the model.
        image_file: the bytes of an image file; the same bytes again are neither decoded nor encoded again.
        text: a question (blank: a caption), the beginning of a caption, or the text to match, by `folder.task`.
        device, precision: of those that `folder` lists; None is its default precision.
        options: of generation; None is greedy search.

    Raises:
        ValueError: an input is wrong or unreadable; the message names it and the way out.
        FileNotFoundError: a file of the model has gone.
    """
    text, milliseconds, precision = check_question(text), {}, precision or folder.default_precision
    if folder.task == "match" and not text:
        raise ValueError("there is no text: this model says how well one fits the image, so write one")
    reused = False

    def so_far(written: str = "", is_final: bool = False) -> Reply:
        return Reply(written, dict(milliseconds), reused, is_final)

    if not folder.is_loaded(device, precision):
        with timed(milliseconds, "load model"):
            folder.load(device, precision)
        yield so_far()
    loaded = folder.load(device, precision)

    def encode() -> EncodedImages:
        with timed(milliseconds, "preprocess"):
            pixel_values = pixels(folder.processor, load_image(image_file))
        with timed(milliseconds, "vision"):
            return loaded.model.encode_images(pixel_values)

    with timed(milliseconds, "preprocess"):
        digest = hashlib.blake2b(image_file, digest_size=16).digest()
        tokens = folder.processor(text=text, return_tensors="np") if text else {}
    images = TimedImages(loaded.seen_images.get(digest, encode), milliseconds)
    reused = "vision" not in milliseconds
    yield so_far()
    if folder.task == "match":
        probability = loaded.model.match(images, **tokens)
        yield so_far(f"{probability.item():.1%}", is_final=True)
        return
    is_question = folder.task == "answer" and text
    generate = loaded.model.generate_answer if is_question else loaded.model.generate_caption

    def run(**generate_kwargs) -> np.ndarray:
        both = {}
        with loaded.turn, timed(both, "decoder"):
            ids = generate(images, **tokens, **generate_kwargs)[0]
        milliseconds["decoder"] = both["decoder"] - milliseconds.get("text encoder", 0)
        return ids

    with closing(stream_tokens(run, (options or Options()).generate_kwargs())) as steps:
        for ids in steps:
            yield so_far(folder.processor.decode(ids, skip_special_tokens=True))
    yield so_far(folder.processor.decode(ids, skip_special_tokens=True), is_final=True)


def answer_or_caption(
    model: OVBlipModel, processor: BlipProcessor, image: Image.Image, question: str, **generate_kwargs
) -> str:
    """The answer to `question` about `image`, or the image's caption where the question is blank."""
    pixel_values = pixels(processor, load_image(image))
    question = check_question(question)
    if question:
        ids = model.generate_answer(pixel_values, **processor(text=question, return_tensors="np"), **generate_kwargs)
    else:
        ids = model.generate_caption(pixel_values, **generate_kwargs)
    return processor.decode(ids[0], skip_special_tokens=True)


def pixels(processor: BlipProcessor, image: Image.Image) -> np.ndarray:
    """An RGB image as the model takes it, [1, 3, H, W] float32, normalized."""
    return preprocess_image(processor.image_processor, image)


@contextmanager
def timed(milliseconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time that the block took to that of its stage."""
    start = time.perf_counter()
    yield
    milliseconds[stage] = milliseconds.get(stage, 0) + (time.perf_counter() - start) * 1000


class TimedImages(EncodedImages):
    """Encoded images for one request, which notes the time that the text encoder takes on them."""

    def __init__(self, images: EncodedImages, milliseconds: dict[str, float]):
        super().__init__(images.image_embeds, images.vision_model, images.text_encoder, images.from_tensor)
        self.images, self.milliseconds = images, milliseconds

    def encode_text(self, input_ids: np.ndarray, attention_mask: np.ndarray):
        """See `EncodedImages.encode_text`; what that keeps between questions stays with the shared images."""
        with timed(self.milliseconds, "text encoder"):
            return self.images.encode_text(input_ids, attention_mask)
