"""BLIP on ONNX Runtime's CPU provider: float32 as `torch.onnx` exports it, or with its dynamic INT8 quantization.

Built with care, so that the comparison is worth something: the image's keys and values are projected once for each
generation, and an image stays encoded for the next question. `generate` of transformers drives it, without weights.
"""

import os
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import BlipConfig
from transformers.models.blip.modeling_blip_text import BlipTextLMHeadModel

from benchmarks.driver import Past, begin, drive
from benchmarks.sides import Generated, Laps, Side, Text

PARTS = ("vision_model", "text_encoder", "projections", "decoder_step")


class WeightlessDecoder(BlipTextLMHeadModel):
    """BLIP's text decoder for its `generate` alone: made on PyTorch's meta device, it takes no memory."""

    device = torch.device("cpu")


class OnnxRuntime(Side):
    """Vision model, text encoder, the cross-attention's projections, and a decoder step that takes these."""

    def __init__(self, folder: Path, variant: str, properties: dict[str, object]):
        super().__init__(folder, variant, properties)
        options = onnxruntime.SessionOptions()
        # Its threads would go on spinning after a run, at the cost of whoever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        cores = len(os.sched_getaffinity(0))
        if cores < os.cpu_count():  # of itself it takes all there are, and leaves those it was held to
            options.intra_op_num_threads = cores
        self.vision_model, self.text_encoder, self.projections, self.decoder_step = (
            onnxruntime.InferenceSession(
                folder / "onnx" / variant / f"{part}.onnx", options, providers=["CPUExecutionProvider"]
            )
            for part in PARTS
        )
        text = BlipConfig.from_pretrained(folder / "pytorch").text_config
        self.no_past = (text.num_attention_heads, 0, text.hidden_size // text.num_attention_heads)
        with torch.device("meta"):
            self.driver = drive(WeightlessDecoder(text), self._step)

    def keep(self, pixel_values: np.ndarray, question: Text) -> np.ndarray:
        return self._encode(pixel_values)

    def answer(self, image: np.ndarray, question: Text, laps: Laps, **settings) -> Generated:
        """`image` is pixels [B, 3, H, W] or what `keep` made of them, [B, N, width]."""
        embeds = self._encode(image) if image.ndim == 4 else image
        laps.lap()
        [question_embeds] = run(self.text_encoder, [question["input_ids"], question["attention_mask"], embeds])
        return begin(self.driver, question_embeds, **settings)

    def caption(self, pixel_values: np.ndarray, laps: Laps, **settings) -> Generated:
        embeds = self._encode(pixel_values)
        laps.lap()
        return begin(self.driver, embeds, **settings)

    def _encode(self, pixel_values: np.ndarray) -> np.ndarray:
        return run(self.vision_model, [pixel_values])[0]

    def _step(
        self, past: Past, input_ids: np.ndarray, attention_mask: np.ndarray, encoder_hidden_states: np.ndarray
    ) -> np.ndarray:
        if not past.cross:
            past.cross = run(self.projections, [encoder_hidden_states])
            past.arrays = [np.zeros((len(input_ids), *self.no_past), np.float32) for _ in past.cross]
        logits, *past.arrays = run(self.decoder_step, [input_ids, attention_mask, *past.arrays, *past.cross])
        return logits


def run(session: onnxruntime.InferenceSession, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """All outputs for inputs given in order."""
    return session.run(None, {port.name: array for port, array in zip(session.get_inputs(), arrays, strict=True)})
