"""BLIP as `transformers` runs it, in float32 or bfloat16, as it is or through `torch.compile`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BlipForQuestionAnswering

from benchmarks.sides import Generated, Laps, Side, Text
from blip_openvino.ir.checkpoint import generate_caption

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class PyTorch(Side):
    """Every question starts anew: `generate` takes pixels and keeps nothing."""

    def __init__(self, folder: Path, variant: str, properties: dict[str, object]):
        super().__init__(folder, variant, properties)
        *compiled, precision = variant.split()
        self.model = BlipForQuestionAnswering.from_pretrained(folder / "pytorch", dtype=DTYPES[precision]).eval()
        if compiled:
            torch._inductor.config.force_disable_caches = True  # so that loading is a first user's every time
            for part in (self.model.vision_model, self.model.text_encoder, self.model.text_decoder):
                part.forward = torch.compile(part.forward, dynamic=part is not self.model.vision_model)

    @torch.inference_mode()
    def answer(self, image: np.ndarray, question: Text, laps: Laps, **settings) -> Generated:
        text = {name: torch.from_numpy(array) for name, array in question.items()}
        with self._vision_lap(laps):
            return self.model.generate(pixel_values=self._pixels(image), **text, **settings)

    def caption(self, pixel_values: np.ndarray, laps: Laps, **settings) -> Generated:
        with self._vision_lap(laps):
            return generate_caption(self.model, self._pixels(pixel_values), **settings)

    def _pixels(self, pixel_values: np.ndarray) -> Tensor:
        return torch.from_numpy(pixel_values).to(self.model.dtype)

    def _vision_lap(self, laps: Laps) -> torch.utils.hooks.RemovableHandle:
        return self.model.vision_model.register_forward_hook(lambda *_: laps.lap())
