"""One generation over the compiled text decoder, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from blip_openvino.runtime.encoded import EncoderTokens, TextModel

if TYPE_CHECKING:
    from torch import Tensor


class DecoderState:
    """One generation in progress: an infer request, whose state is self-attention's cache, and which tokens it sees.

    It is what `generate` of transformers keeps as its `cache`. Any number of generations may take their steps in
    any order, from any threads.
    """

    is_compileable = False

    def __init__(self, text_decoder: TextModel, tokens: EncoderTokens):
        self.tokens = tokens  # their memory is the request's input
        self.request = tokens.request(text_decoder)
        self.attention_mask: np.ndarray | None = None
        self.beam_idx: np.ndarray | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens the cache holds."""
        return 0 if self.attention_mask is None else self.attention_mask.shape[1]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from row `beam_idx` [rows] of the cache; the model gathers them at its next step."""
        self.beam_idx = np.asarray(beam_idx, np.int32)

    def step(self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None) -> np.ndarray:
        """Feed new tokens [rows, T] int64 and their mask (None: all are seen); the mask of earlier ones is kept.

        Returns:
            The logits [rows, vocabulary] float32 of the last position.
        """
        return self.read(input_ids, attention_mask, 1)[:, 0]

    def read(self, input_ids: np.ndarray, attention_mask: np.ndarray | None, logits_to_keep: int) -> np.ndarray:
        """The same, with the logits [rows, logits_to_keep, vocabulary] of the last few positions."""
        beam_idx = np.arange(len(input_ids), dtype=np.int32) if self.beam_idx is None else self.beam_idx
        if attention_mask is None:
            attention_mask = np.ones_like(input_ids)
        if self.attention_mask is not None:
            attention_mask = np.concatenate([self.attention_mask[beam_idx], attention_mask], axis=1)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "beam_idx": beam_idx}
        inputs["logits_to_keep"] = np.array([logits_to_keep])
        logits = self.request.infer(inputs, share_inputs=True)["logits"]
        self.attention_mask, self.beam_idx = attention_mask, None
        return logits
