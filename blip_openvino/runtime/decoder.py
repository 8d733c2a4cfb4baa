"""The text decoder at run time: one step over the compiled stateful model, greedy search, and the way to everything
else that `generate` of transformers can do.

Neither PyTorch nor transformers is imported until a generation needs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from numbers import Integral
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BlipTextConfig
    from transformers.utils import ModelOutput

    from blip_openvino.runtime.arrays import Streamer
    from blip_openvino.runtime.generate import GenerateDriver

GREEDY = {"num_beams": 1, "do_sample": False}
"""Arguments of `generate` that ask for greedy search and nothing else."""
GREEDY_ARGUMENTS = {"max_new_tokens", "min_new_tokens", "eos_token_id", "pad_token_id", "streamer"}
"""The arguments of `generate` that `greedy_search` knows."""
HARMLESS_SETTINGS = {
    *("bos_token_id", "eos_token_id", "pad_token_id"),
    *("use_cache", "output_attentions", "output_hidden_states"),
    *("transformers_version", "_from_model_config"),
}
"""What a generation configuration may hold for `greedy_search` to apply: nothing here changes the tokens it takes."""


class DecoderState:
    """One generation in progress: an infer request, whose state holds the KV cache, and how far it has come.

    It is what `generate` keeps as `past_key_values`. Steps of two generations of one model must not alternate (see
    `OVTextDecoder`).
    """

    is_compileable = False

    def __init__(
        self,
        text_decoder: ov.CompiledModel,
        encoder_hidden_states: np.ndarray,
        encoder_attention_mask: np.ndarray | None,
    ):
        embeds = np.ascontiguousarray(encoder_hidden_states, np.float32)
        if encoder_attention_mask is None:
            encoder_attention_mask = np.ones(embeds.shape[:2])
        mask = np.ascontiguousarray(encoder_attention_mask, np.int64)
        self.request = text_decoder.create_infer_request()
        self.request.set_tensor("encoder_hidden_states", ov.Tensor(embeds, shared_memory=True))
        self.request.set_tensor("encoder_attention_mask", ov.Tensor(mask, shared_memory=True))
        self.encoder_tensors = embeds, mask  # the request does not keep them alive
        self.length = 0
        self.beam_idx: np.ndarray | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens the cache holds."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from row `beam_idx` [rows] of the cache; the model gathers them at its next step."""
        self.beam_idx = beam_idx.numpy().astype(np.int32)

    def step(self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None) -> np.ndarray:
        """Feed the new tokens [rows, T] int64; the logits [rows, 1, vocabulary] of the last one come back.

        `attention_mask` [rows, past + T] int64; None is all ones.
        """
        rows, length = input_ids.shape
        self.length += length
        outputs = self.request.infer(
            {
                "input_ids": input_ids,
                "attention_mask": np.ones((rows, self.length), np.int64) if attention_mask is None else attention_mask,
                "beam_idx": np.arange(rows, dtype=np.int32) if self.beam_idx is None else self.beam_idx,
            },
            share_inputs=True,
        )
        self.beam_idx = None
        return outputs["logits"]


def greedy_search(
    state: DecoderState,
    input_ids: np.ndarray,
    *,
    eos_token_id: int,
    pad_token_id: int,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    streamer: Streamer | None = None,
) -> np.ndarray:
    """Take the likeliest token until every row has ended, as `generate` of transformers does without further wishes.

    Args:
        state: a new generation.
        input_ids: [rows, T] int64, what every row begins with.

    Returns:
        [rows, T + new tokens] int64; a row that ends early is filled with `pad_token_id`.
    """
    tokens, ended = [input_ids], np.zeros(len(input_ids), bool)
    if streamer is not None:
        streamer.put(input_ids)
    for step in range(max_new_tokens):
        logits = state.step(tokens[-1])[:, 0]
        if step < min_new_tokens:
            logits[:, eos_token_id] = -np.inf
        chosen = np.where(ended, pad_token_id, logits.argmax(axis=1))
        tokens.append(chosen[:, None])
        if streamer is not None:
            streamer.put(chosen)
        ended |= chosen == eos_token_id
        if ended.all():
            break
    if streamer is not None:
        streamer.end()
    return np.concatenate(tokens, axis=1)


class OVTextDecoder:
    """The compiled text decoder with a `generate` that does what transformers' does: greedy search here, in a bare loop
    that gives the same tokens in less time, and all else by transformers itself.

    Args:
        config: the decoder's configuration.
        text_decoder: the compiled stateful model.
        generation_config: settings of `generate` that hold where its arguments say nothing.
    """

    def __init__(
        self,
        config: BlipTextConfig,
        text_decoder: ov.CompiledModel,
        generation_config: Mapping[str, object] | None = None,
    ):
        self.config, self.text_decoder = config, text_decoder
        self.generation_config = dict(generation_config or {})
        self._turn, self._generating = Lock(), None

    def generate(
        self,
        input_ids: np.ndarray,
        encoder_hidden_states: np.ndarray,
        encoder_attention_mask: np.ndarray,
        **generate_kwargs,
    ) -> np.ndarray | Tensor | ModelOutput:
        """Continue `input_ids` [rows, T] int64, looking at [E, N, width] float32 with its mask [E, N] int64.

        Greedy search gives an array [rows, T + new tokens] int64; what transformers does, it also gives.
        """
        settings = {
            name: value
            for name, value in generate_kwargs.items()
            if value is not None and not (name in GREEDY and value == GREEDY[name])
        }
        plain = (
            {"max_new_tokens", "eos_token_id", "pad_token_id"} <= settings.keys() <= GREEDY_ARGUMENTS
            and all(isinstance(settings.get(name, 1), Integral) for name in GREEDY_ARGUMENTS - {"streamer"})
            and settings["max_new_tokens"] > 0
            and self.generation_config.keys() <= HARMLESS_SETTINGS
            and not (input_ids == settings["pad_token_id"]).any()
        )
        with self._take_turn():
            if plain:
                state = DecoderState(self.text_decoder, encoder_hidden_states, encoder_attention_mask)
                return greedy_search(state, input_ids, **settings)
            return self._driver.generate_from(
                input_ids, encoder_hidden_states, encoder_attention_mask, self.generation_config, generate_kwargs
            )

    @cached_property
    def _driver(self) -> GenerateDriver:
        from blip_openvino.runtime.generate import GenerateDriver

        return GenerateDriver.of(self.config, self.text_decoder)

    @contextmanager
    def _take_turn(self) -> Iterator[None]:
        """Let one generation run at a time: OpenVINO's CPU plugin (2026.4) mixes up the states of requests of one model
        whose texts, images or rows differ in number when their steps alternate, with wrong results or a crash.
        """
        # Both, since an interrupt may free the lock before it comes to the name of its holder.
        if self._turn.locked() and self._generating == get_ident():
            raise RuntimeError("a streamer or criterion called generate of the model that called it: wait for the end")
        with self._turn:
            self._generating = get_ident()
            try:
                yield
            finally:
                self._generating = None
