"""The public OpenVINO notebook's BLIP (docs.openvino.ai, "Visual Question Answering and Image Captioning using BLIP").

As anyone would build it from there, mended only where today's releases no longer run it: the whole vision model with
dynamic shapes; the text encoder; a decoder whose past keys and values are inputs and outputs and which projects the
image's keys and values anew at every step; and the PyTorch text decoder, weights and all, whose `forward` is replaced,
so that `generate` drives it. INT8 is `nncf.quantize` of vision model and text encoder, and `nncf.compress_weights` of
the decoder (`prepare.py`).
"""

from pathlib import Path

import numpy as np
import openvino as ov
from transformers import BlipForQuestionAnswering, BlipProcessor, PreTrainedModel

from benchmarks.driver import Past, begin, drive
from benchmarks.sides import Generated, Laps, Side, Text
from benchmarks.worker import serve

PARTS = ("vision_model", "text_encoder", "text_decoder")


def load_published(folder: Path, variant: str, properties: dict[str, object]) -> "Published":
    """The IRs in `folder` at "FP16" or "INT8", with OpenVINO `properties`, driven by PyTorch's text decoder."""
    core, checkpoint = ov.Core(), folder / "pytorch"
    compiled = [core.compile_model(folder / "published" / variant / f"{part}.xml", "CPU", properties) for part in PARTS]
    text_decoder = BlipForQuestionAnswering.from_pretrained(checkpoint).text_decoder
    return Published(*compiled, text_decoder, BlipProcessor.from_pretrained(checkpoint))


class Published(Side):
    """Every question starts anew, as the notebook's `generate_answer` does."""

    def __init__(
        self,
        vision_model: ov.CompiledModel,
        text_encoder: ov.CompiledModel,
        text_decoder: ov.CompiledModel,
        torch_text_decoder: PreTrainedModel,
        processor: BlipProcessor,
    ):
        super().__init__(processor)
        self.vision_model, self.text_encoder, self.text_decoder = vision_model, text_encoder, text_decoder
        self.driver = drive(torch_text_decoder, self._step)

    def answer(self, image: np.ndarray, question: Text, laps: Laps, **settings) -> Generated:
        text = [question["input_ids"], question["attention_mask"]]
        return begin(self.driver, self.text_encoder([*text, self._encode(image, laps)])[0], **settings)

    def caption(self, pixel_values: np.ndarray, laps: Laps, **settings) -> Generated:
        return begin(self.driver, self._encode(pixel_values, laps), **settings)

    def _encode(self, pixel_values: np.ndarray, laps: Laps) -> np.ndarray:
        embeds = self.vision_model(pixel_values)[0]
        laps.lap()
        return embeds

    def _step(self, past: Past, *inputs: np.ndarray) -> np.ndarray:
        outputs = self.text_decoder([*inputs, *(past.arrays or self._no_past(len(inputs[0])))])
        logits, *past.arrays = (outputs[port] for port in self.text_decoder.outputs)
        return logits

    def _no_past(self, rows: int) -> list[np.ndarray]:
        shapes = [port.get_partial_shape() for port in self.text_decoder.inputs[3:]]
        return [np.zeros((rows, shape[1].get_length(), 0, shape[3].get_length()), np.float32) for shape in shapes]


if __name__ == "__main__":
    serve(load_published)
