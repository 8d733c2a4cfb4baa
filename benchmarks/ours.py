"""This project's model, through its public functions only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.sides import Laps, Side, generation
from blip_model import EncodedImages, OVBlipModel
from blip_openvino.runtime.processor import OVBlipProcessor

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature


def load_ours(folder: Path, precision: str, properties: Mapping[str, object]) -> Ours:
    """The converted folder at "FP16", "INT8" or "INT4", with more OpenVINO `properties`."""
    model = OVBlipModel.from_pretrained(folder, "CPU", precision, properties)
    return Ours(model, OVBlipProcessor.from_pretrained(folder))


class Ours(Side):
    """An image stays encoded, and its keys and values stay in the text encoder, for the next question about it."""

    def __init__(self, model: OVBlipModel, processor: OVBlipProcessor):
        super().__init__(processor)
        self.model = model

    def keep(self, pixel_values: Tensor, question: BatchFeature) -> EncodedImages:
        images = self.model.encode_images(pixel_values)
        self.model.generate_answer(images, **question, max_new_tokens=1)
        return images

    def answer(self, image: Tensor | EncodedImages, question: BatchFeature, new_tokens: int, laps: Laps) -> Tensor:
        images = self.model.encode_images(image)
        laps.lap()
        return self.model.generate_answer(images, **question, **generation(new_tokens, laps))

    def caption(self, pixel_values: Tensor, new_tokens: int, laps: Laps, num_beams: int = 1) -> Tensor:
        images = self.model.encode_images(pixel_values)
        laps.lap()
        return self.model.generate_caption(images, **generation(new_tokens, laps, num_beams))

    def preprocess(self, jpeg: bytes) -> np.ndarray:
        return self.processor(jpeg)["pixel_values"]

    def end_to_end(self, jpeg: bytes, question: str, new_tokens: int) -> str:
        ids = self.answer(self.preprocess(jpeg), self.processor(text=question), new_tokens, Laps())
        return self.processor.decode(ids[0])
