"""Transformers' `generate` around a decoder whose past keys and values are inputs and outputs."""

import copy
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions


class Past:
    """What `generate` keeps between steps as its `cache`."""

    is_compileable = False

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []
        """Keys and values of the text so far, two for each layer, each [rows, heads, past, head size]."""
        self.cross: list[np.ndarray] = []
        """Of the encoder's tokens likewise, where a side keeps them; the same for all beams of a row."""
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens the cache holds."""
        return self.length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from row `beam_idx` [rows]."""
        self.arrays = [array[beam_idx.numpy()] for array in self.arrays]


Step = Callable[[Past, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Past, `input_ids`, `attention_mask`, `encoder_hidden_states` -> `logits`; renews the past."""


def drive(text_decoder: PreTrainedModel, step: Step) -> PreTrainedModel:
    """`text_decoder` with `step` in place of its own `forward`; the decoder that was given stays as it is."""
    driver = copy.copy(text_decoder)
    driver.forward = partial(_forward, step)
    return driver


def _forward(
    step: Step,
    input_ids: Tensor,
    encoder_hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    cache: object = None,
    **kwargs,
) -> CausalLMOutputWithCrossAttentions:
    """The first step's `cache` is the empty cache that `generate` made: it is of no use here."""
    past = cache if isinstance(cache, Past) else Past()
    past.length += input_ids.shape[1]
    if attention_mask is None:  # of ones, which `generate` may leave out
        attention_mask = torch.ones(len(input_ids), past.length, dtype=torch.int64)
    inputs = (input_ids, attention_mask, encoder_hidden_states)
    logits = step(past, *(np.ascontiguousarray(each.numpy()) for each in inputs))
    return CausalLMOutputWithCrossAttentions(logits=torch.from_numpy(logits), cache=past)


def begin(text_decoder: PreTrainedModel, encoder_hidden_states: np.ndarray, **settings) -> Tensor:
    """Generate from BLIP's start token on, looking at the encoder's tokens [rows, N, width]."""
    config = text_decoder.config
    return text_decoder.generate(
        input_ids=torch.full((len(encoder_hidden_states), 1), config.bos_token_id),
        eos_token_id=config.sep_token_id,
        pad_token_id=config.pad_token_id,
        encoder_hidden_states=torch.from_numpy(encoder_hidden_states),
        **settings,
    )
