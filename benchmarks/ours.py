"""This project's model, through its public functions only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.sides import Generated, Laps, Side, Text
from blip_model import OVBlipModel
from blip_openvino.runtime.processor import OVBlipProcessor

if TYPE_CHECKING:
    import numpy as np

    from blip_model import EncodedImages


class Ours(Side):
    """An image stays encoded, and so do its keys and values, for the next question about it."""

    def __init__(self, folder: Path, variant: str, properties: dict[str, object]):
        self.model = OVBlipModel.from_pretrained(folder, "CPU", variant, properties)
        self.processor = OVBlipProcessor.from_pretrained(folder)

    def keep(self, pixel_values: np.ndarray, question: Text) -> EncodedImages:
        images = self.model.encode_images(pixel_values)
        self.model.generate_answer(images, **question, max_new_tokens=1)
        return images

    def answer(self, image: np.ndarray | EncodedImages, question: Text, laps: Laps, **settings) -> Generated:
        images = self.model.encode_images(image, reused=False)
        laps.lap()
        return self.model.generate_answer(images, **question, **settings)

    def caption(self, pixel_values: np.ndarray, laps: Laps, **settings) -> Generated:
        images = self.model.encode_images(pixel_values)
        laps.lap()
        return self.model.generate_caption(images, **settings)

    def preprocess(self, jpeg: bytes) -> np.ndarray:
        return self.processor(jpeg)["pixel_values"]

    def tokenize(self, question: str) -> Text:
        return self.processor(text=question)

    def decode(self, ids: np.ndarray) -> str:
        return self.processor.decode(ids)
