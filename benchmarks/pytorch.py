"""BLIP as `transformers` runs it, in float32 or bfloat16."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import BatchFeature, BlipForQuestionAnswering, BlipProcessor

from benchmarks.sides import Laps, Side, generation
from blip_openvino.ir.checkpoint import generate_caption

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_pytorch(checkpoint: Path, precision: str) -> "PyTorch":
    """The checkpoint at "fp32" or "bf16"."""
    model = BlipForQuestionAnswering.from_pretrained(checkpoint, dtype=DTYPES[precision]).eval()
    return PyTorch(model, BlipProcessor.from_pretrained(checkpoint))


class PyTorch(Side):
    """Every question starts anew: `generate` takes pixels and keeps nothing."""

    def __init__(self, model: BlipForQuestionAnswering, processor: BlipProcessor):
        super().__init__(processor)
        self.model = model

    @torch.inference_mode()
    def answer(self, image: Tensor, question: BatchFeature, new_tokens: int, laps: Laps) -> Tensor:
        with self._vision_lap(laps):
            return self.model.generate(
                pixel_values=image.to(self.model.dtype), **question, **generation(new_tokens, laps)
            )

    def caption(self, pixel_values: Tensor, new_tokens: int, laps: Laps, num_beams: int = 1) -> Tensor:
        with self._vision_lap(laps):
            return generate_caption(
                self.model, pixel_values.to(self.model.dtype), **generation(new_tokens, laps, num_beams)
            )

    def _vision_lap(self, laps: Laps) -> torch.utils.hooks.RemovableHandle:
        return self.model.vision_model.register_forward_hook(lambda *_: laps.lap())
