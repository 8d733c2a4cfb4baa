"""What is compared: the sides by name, and the interface that all of them have.

A side runs in a process of its own (`worker.py`) that imports nothing for others, so the classes have only names here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils import ModelOutput

Text = dict[str, np.ndarray]
Generated: TypeAlias = "np.ndarray | Tensor | ModelOutput"

CLASSES = {
    "PyTorch": "benchmarks.pytorch:PyTorch",
    "published": "benchmarks.published:Published",
    "ONNX Runtime": "benchmarks.onnx_runtime:OnnxRuntime",
    "ours": "benchmarks.ours:Ours",
}
TOLERANCES = {"fp32": 0.002, "bf16": 0.03, "FP16": 0.03, "INT8": 0.08, "INT4": 0.2}
"""How far logits may be from PyTorch's in float32, as a share of the range of these.

Right runs at BLIP base's widths and a third of its depth: bf16 and FP16 0.7 %, INT8 2 %, INT4 10 % (of random weights).
"""


@dataclass(frozen=True)
class Spec:
    """A side: whose it is, in which variant, its tasks where these are not all, and its cores likewise."""

    family: str
    variant: str
    tasks: tuple[str, ...] | None = None
    cores: int | None = None

    @property
    def precision(self) -> str:
        return self.variant.split()[-1]


FEW = ("answer", "caption")
BASELINE = "PyTorch fp32"
SIDES = {
    BASELINE: Spec("PyTorch", "fp32"),
    "PyTorch bf16": Spec("PyTorch", "bf16"),
    "torch.compile fp32": Spec("PyTorch", "compiled fp32", FEW),
    "torch.compile bf16": Spec("PyTorch", "compiled bf16", FEW),
    "published FP16": Spec("published", "FP16"),
    "published INT8": Spec("published", "INT8"),
    "ONNX Runtime fp32": Spec("ONNX Runtime", "fp32"),
    "ONNX Runtime INT8": Spec("ONNX Runtime", "INT8"),
    "ours FP16": Spec("ours", "FP16"),
    "ours INT8": Spec("ours", "INT8"),
    "ours INT4": Spec("ours", "INT4"),
}
CACHING = ("published", "ours")
"""Families whose compiled models OpenVINO can keep on disk."""


class Laps:
    """Seconds since the start at which an image was encoded, and then the prompt and each new token handed over.

    It is the `streamer` of a generation, which gets the prompt before the first step and a token after every one.
    """

    def __init__(self) -> None:
        self.start, self.seconds = time.perf_counter(), []

    def lap(self) -> None:
        self.seconds.append(time.perf_counter() - self.start)

    def put(self, tokens: object) -> None:
        self.lap()

    def end(self) -> None:
        """Nothing is left to note when a generation has ended."""


class Side(ABC):
    """One way to run BLIP, NumPy in; `settings` and what comes back are those of transformers' `generate`.

    `image` is `pixel_values` [B, 3, H, W] float32, or what `keep` made of it; `question` holds `input_ids` and
    `attention_mask`, each [B, T] int64.

    Args:
        folder: what `prepare` made.
        variant: as in `SIDES`.
        properties: of OpenVINO, where that is used.
    """

    def __init__(self, folder: Path, variant: str, properties: dict[str, object]):
        from transformers import BlipProcessor  # ours does without

        self.processor = BlipProcessor.from_pretrained(folder / "pytorch")

    @abstractmethod
    def answer(self, image: object, question: Text, laps: Laps, **settings) -> Generated:
        """Answer, with a lap when the image is encoded."""

    @abstractmethod
    def caption(self, pixel_values: np.ndarray, laps: Laps, **settings) -> Generated:
        """Caption, with a lap when the images are encoded."""

    def keep(self, pixel_values: np.ndarray, question: Text) -> object:
        """What there is to keep of an image, having answered a question, for the next one about it: here nothing."""
        return pixel_values

    def preprocess(self, jpeg: bytes) -> np.ndarray:
        """`pixel_values` [1, 3, H, W] of an image file."""
        return self.processor(images=Image.open(BytesIO(jpeg)).convert("RGB"), return_tensors="np")["pixel_values"]

    def tokenize(self, question: str) -> Text:
        return dict(self.processor(text=question, return_tensors="np"))

    def decode(self, ids: np.ndarray | Tensor) -> str:
        return self.processor.decode(ids, skip_special_tokens=True)
