"""`generate` of transformers around the compiled text decoder: sampling, constraints, stopping criteria.

Importing it imports PyTorch and transformers, which greedy and beam search do without.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from transformers import BlipTextConfig, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.utils import ModelOutput

from blip_openvino.runtime.arguments import GenerationSettings
from blip_openvino.runtime.beams import NO_TOKENS, hand_over
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncoderTokens, TextModel


class GenerateDriver(PreTrainedModel, GenerationMixin):
    """The compiled text decoder as a model that transformers' `generate` can drive; it has no PyTorch weights."""

    config_class = BlipTextConfig
    main_input_name = "input_ids"

    def __init__(self, config: BlipTextConfig, text_decoder: TextModel, tokens: EncoderTokens):
        super().__init__(config)
        self.text_decoder, self.tokens = text_decoder, tokens
        self.generation_config = GenerationConfig()

    @property
    def device(self) -> torch.device:
        """Where tensors go in and come out; OpenVINO moves them to its own device."""
        return torch.device("cpu")

    def forward(
        self,
        input_ids: Tensor,  # [rows, T] int64; all tokens at the first step, the new ones after it
        attention_mask: Tensor | None = None,  # [rows, past + T] int64
        cache: DecoderState | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> CausalLMOutputWithCrossAttentions:
        """One generation step: `logits` [rows, 1, vocabulary] float32 of the last position, and the state after it."""
        state = cache if isinstance(cache, DecoderState) else DecoderState(self.text_decoder, self.tokens)
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].contiguous().numpy()
        logits = state.step(input_ids.contiguous().numpy(), mask)
        return CausalLMOutputWithCrossAttentions(
            logits=torch.from_numpy(logits)[:, None], cache=state if use_cache else None
        )

    def _prepare_cache_for_generation(self, *args, **kwargs) -> None:
        """The cache is the infer request's state: nothing to allocate."""


def generate(
    config: SimpleNamespace | BlipTextConfig,
    text_decoder: TextModel | PreTrainedModel,
    tokens: EncoderTokens,
    input_ids: np.ndarray,
    attention_mask: np.ndarray,
    settings: GenerationSettings,
) -> np.ndarray | ModelOutput:
    """What `generate` of transformers makes of `input_ids` [rows, T] int64, padded on the left, looking at `tokens`.

    `text_decoder` may be PyTorch's own, around `text_decoder_forward`.

    Returns:
        Token ids [rows, T + new tokens] int64, or with `return_dict_in_generate` what it gives then, which has tensors.
    """
    arrays = {"input_ids": input_ids, "attention_mask": attention_mask}
    if isinstance(text_decoder, TextModel):
        config = config if isinstance(config, BlipTextConfig) else BlipTextConfig(**vars(config))
        text_decoder = GenerateDriver(config, text_decoder, tokens)
    else:
        arrays |= {"encoder_hidden_states": tokens.hidden_states, "encoder_attention_mask": tokens.attention_mask}
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    arguments, streamer = settings.generate_kwargs(), settings.streamer
    if streamer is None or settings.num_beams == 1:
        found = text_decoder.generate(**inputs, **arguments)
    else:
        # transformers has no streamer follow beams.
        def follow(*args, **kwargs) -> bool:
            streamer.put(NO_TOKENS)
            return False

        streamer.put(np.repeat(input_ids, settings.num_return_sequences, axis=0))
        criteria = [*arguments.get("stopping_criteria", ()), follow]
        found = text_decoder.generate(**inputs, **arguments | {"streamer": None, "stopping_criteria": criteria})
        hand_over(getattr(found, "sequences", found)[:, input_ids.shape[1] :].numpy(), streamer)
    return found.numpy() if isinstance(found, Tensor) else found


def text_decoder_forward(
    ov_text_decoder_with_past: ov.CompiledModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    cache: PlainCache | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    **kwargs,
) -> CausalLMOutputWithCrossAttentions:
    """The published notebook's `forward`: one step of the plain decoder, which projects the encoder's tokens anew.

    `text_decoder.forward = partial(text_decoder_forward, ov_text_decoder_with_past=compiled)` makes a PyTorch text
    decoder of transformers run it. All other arguments are those of its `forward`.
    """
    past = cache if isinstance(cache, PlainCache) else PlainCache()
    rows, encoder_rows = len(input_ids), encoder_hidden_states.shape[:2]
    if attention_mask is None:
        attention_mask = torch.ones(rows, past.get_seq_length() + input_ids.shape[1], dtype=torch.int64)
    if encoder_attention_mask is None:
        encoder_attention_mask = torch.ones(encoder_rows, dtype=torch.int64)
    inputs = [input_ids, attention_mask.long(), encoder_hidden_states, encoder_attention_mask.long()]
    ports = ov_text_decoder_with_past.inputs[len(inputs) :]
    outputs = ov_text_decoder_with_past([*(each.contiguous().numpy() for each in inputs), *past.arrays(rows, ports)])
    past.present = list(outputs.values())[1:]
    return CausalLMOutputWithCrossAttentions(logits=torch.from_numpy(outputs["logits"]), cache=past)


class PlainCache:
    """The past keys and values that `text_decoder_forward` hands from step to step, each [rows, heads, past, size]."""

    is_compileable = False

    def __init__(self):
        self.present: list[np.ndarray] = []

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many tokens it holds."""
        return self.present[0].shape[2] if self.present else 0

    def arrays(self, rows: int, ports: list[ov.ConstOutput]) -> list[np.ndarray]:
        """The decoder's inputs `ports`; before the first step they hold no tokens."""
        shapes = [port.get_partial_shape() for port in ports]
        return self.present or [
            np.zeros((rows, shape[1].get_length(), 0, shape[3].get_length()), np.float32) for shape in shapes
        ]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let each row go on from row `beam_idx` [rows]."""
        self.present = [each[beam_idx.numpy()] for each in self.present]
