"""What is compared: the sides' names, what each of them can do, and how to load one from its files."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature, BlipProcessor

PYTORCH, BASELINE = ("PyTorch fp32", "PyTorch bf16"), "PyTorch fp32"
PUBLISHED = ("published FP16", "published INT8")
ONNX = ("ONNX Runtime fp32", "ONNX Runtime INT8")
OURS = ("ours FP16", "ours INT8", "ours INT4")
SIDES = (*PYTORCH, *PUBLISHED, *ONNX, *OURS)
EXACT = ("PyTorch fp32", "ONNX Runtime fp32")
"""Sides that compute in float32 with float32 weights, and so must give the same tokens."""
CACHING = (*PUBLISHED, *OURS)
"""Sides whose compiled models OpenVINO can keep on disk."""


class Laps:
    """Seconds since the start at which an image was encoded, and then the prompt and each new token handed over.

    It is the `streamer` of a generation, which gets the prompt before the first step and a token after every one.
    """

    def __init__(self) -> None:
        self.start, self.seconds = time.perf_counter(), []

    def lap(self) -> None:
        self.seconds.append(time.perf_counter() - self.start)

    def put(self, tokens: Tensor) -> None:
        self.lap()

    def end(self) -> None:
        """Nothing is left to note when a generation has ended."""


def generation(new_tokens: int, laps: Laps, num_beams: int = 1) -> dict[str, object]:
    """Arguments of `generate` for exactly so many tokens. Beam search hands over no tokens until its end."""
    settings = {"min_new_tokens": new_tokens, "max_new_tokens": new_tokens, "num_beams": num_beams}
    return settings | ({"streamer": laps} if num_beams == 1 else {})


class Side(ABC):
    """One way to run BLIP. Each method leaves a lap when the image is encoded.

    `image` is `pixel_values` [B, 3, H, W] float32, or what `keep` made of it; `question` holds `input_ids` and
    `attention_mask`, each [B, T] int64. Token ids come back as transformers' `generate` gives them.
    """

    def __init__(self, processor: BlipProcessor):
        self.processor = processor

    @abstractmethod
    def answer(self, image: object, question: BatchFeature, new_tokens: int, laps: Laps) -> Tensor:
        """Token ids [B, 1 + new_tokens]."""

    @abstractmethod
    def caption(self, pixel_values: Tensor, new_tokens: int, laps: Laps, num_beams: int = 1) -> Tensor:
        """Token ids [B, 1 + new_tokens]."""

    def keep(self, pixel_values: Tensor, question: BatchFeature) -> object:
        """What there is to keep of an image, having answered a question, for the next one about it: here nothing."""
        return pixel_values

    def preprocess(self, jpeg: bytes) -> Tensor:
        """`pixel_values` [1, 3, H, W] of an image file."""
        return self.processor(images=Image.open(BytesIO(jpeg)).convert("RGB"), return_tensors="pt")["pixel_values"]

    def end_to_end(self, jpeg: bytes, question: str, new_tokens: int) -> str:
        """The answer to a question about an image file, all from bytes and text to text."""
        text = self.processor(text=question, return_tensors="pt")
        ids = self.answer(self.preprocess(jpeg), text, new_tokens, Laps())
        return self.processor.decode(ids[0], skip_special_tokens=True)


def load_side(name: str, folder: Path, cache: Path | None = None) -> Side:
    """The side of that name over the files that `prepare` made in `folder`.

    Imports are inside, so that a fresh process pays for those of its own side only.

    Args:
        cache: where OpenVINO keeps compiled models; only sides that are in `CACHING` have a use for it.

    Raises:
        ValueError: there is no such side.
    """
    properties = {} if cache is None else {"CACHE_DIR": str(cache)}
    precision = name.split()[-1]
    if name in PYTORCH:
        from benchmarks.pytorch import load_pytorch

        return load_pytorch(folder / "pytorch", precision)
    if name in PUBLISHED:
        from benchmarks.published import load_published

        return load_published(folder / "pytorch", folder / "published" / precision, properties)
    if name in ONNX:
        from benchmarks.onnx_runtime import load_onnx

        return load_onnx(folder / "pytorch", folder / "onnx" / precision)
    if name in OURS:
        from benchmarks.ours import load_ours

        return load_ours(folder, precision, properties)
    raise ValueError(f"there is no side {name!r}; choose one of {', '.join(SIDES)}")
