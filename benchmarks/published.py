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
from transformers import BlipForQuestionAnswering

from benchmarks.driver import Past, begin, drive
from benchmarks.sides import Generated, Laps, Side, Text

PARTS = ("vision_model", "text_encoder", "text_decoder")


class Published(Side):
    """Every question starts anew, as the notebook's `generate_answer` does."""

    def __init__(self, folder: Path, variant: str, properties: dict[str, object]):
        super().__init__(folder, variant, properties)
        core, files = ov.Core(), folder / "published" / variant
        self.vision_model, self.text_encoder, self.text_decoder = (
            core.compile_model(files / f"{part}.xml", "CPU", properties) for part in PARTS
        )
        self.driver = drive(BlipForQuestionAnswering.from_pretrained(folder / "pytorch").text_decoder, self._step)

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
