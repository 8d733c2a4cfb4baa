"""BLIP as `transformers` runs it, in float32 or bfloat16, as it is or through `torch.compile`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BlipForQuestionAnswering, BlipProcessor

from benchmarks.sides import Generated, Laps, Side, Text
from benchmarks.worker import serve
from blip_openvino.ir.checkpoint import generate_caption

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def load_pytorch(folder: Path, variant: str, properties: dict[str, object]) -> "PyTorch":
    """The checkpoint in `folder` at "fp32" or "bf16", or at "compiled fp32" or "compiled bf16"."""
    *compiled, precision = variant.split()
    model = BlipForQuestionAnswering.from_pretrained(folder / "pytorch", dtype=DTYPES[precision]).eval()
    if compiled:
        torch._inductor.config.force_disable_caches = True  # so that loading is a first user's every time
        model.vision_model.forward = torch.compile(model.vision_model.forward)
        for part in (model.text_encoder, model.text_decoder):
            part.forward = torch.compile(part.forward, dynamic=True)
    return PyTorch(model, BlipProcessor.from_pretrained(folder / "pytorch"))


class PyTorch(Side):
    """Every question starts anew: `generate` takes pixels and keeps nothing."""

    def __init__(self, model: BlipForQuestionAnswering, processor: BlipProcessor):
        super().__init__(processor)
        self.model = model

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


if __name__ == "__main__":
    serve(load_pytorch)
