"""`generate` of transformers around the compiled text decoder: beams, sampling, constraints, stopping criteria."""

from collections.abc import Mapping

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from transformers import BlipTextConfig, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions
from transformers.utils import ModelOutput

from blip_openvino.runtime.decoder import DecoderState


def text_decoder_forward(
    ov_text_decoder_with_past: ov.CompiledModel,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    past_key_values: DecoderState | None = None,
    encoder_hidden_states: Tensor | None = None,
    encoder_attention_mask: Tensor | None = None,
    use_cache: bool = True,
    **kwargs,
) -> CausalLMOutputWithCrossAttentions:
    """One generation step; after the compiled decoder, the arguments are those of the PyTorch text decoder's `forward`.

    Args:
        ov_text_decoder_with_past: the compiled stateful decoder.
        input_ids: [rows, T] int64; all tokens at the first step, the new ones after it.
        attention_mask: [rows, past + T] int64; None is all ones.
        past_key_values: what the previous step returned; anything else begins a new generation.
        encoder_hidden_states: [E, N, width] float32, the image's or the question's tokens. E divides rows.
        encoder_attention_mask: [E, N] int64; None is all ones.
        use_cache: False forgets every step, so that `input_ids` must hold all tokens each time.
        kwargs: what else `forward` takes (`return_dict`, `output_attentions`, ...) and a generation does not need.

    Returns:
        `logits` [rows, 1, vocabulary] float32 of the last position, and `past_key_values`, None without `use_cache`.
    """
    state = past_key_values
    if not isinstance(state, DecoderState):
        if encoder_hidden_states is None:
            raise ValueError("a generation's first step needs encoder_hidden_states, the image's or question's tokens")
        mask = None if encoder_attention_mask is None else encoder_attention_mask.numpy()
        state = DecoderState(ov_text_decoder_with_past, encoder_hidden_states.numpy(), mask)
    logits = state.step(
        input_ids.contiguous().numpy(), None if attention_mask is None else attention_mask.to(torch.int64).numpy()
    )
    return CausalLMOutputWithCrossAttentions(
        logits=torch.from_numpy(logits), past_key_values=state if use_cache else None
    )


class GenerateDriver(PreTrainedModel, GenerationMixin):
    """The compiled text decoder as a model that transformers' `generate` can drive; it has no PyTorch weights."""

    config_class = BlipTextConfig
    main_input_name = "input_ids"

    def __init__(self, config: BlipTextConfig, text_decoder: ov.CompiledModel):
        super().__init__(config)
        self.text_decoder = text_decoder

    @classmethod
    def of(cls, config: object, text_decoder: ov.CompiledModel) -> "GenerateDriver":
        """For a configuration as transformers has it, or with the same names."""
        return cls(config if isinstance(config, BlipTextConfig) else BlipTextConfig(**vars(config)), text_decoder)

    def generate_from(
        self,
        input_ids: np.ndarray,
        encoder_hidden_states: np.ndarray,
        encoder_attention_mask: np.ndarray,
        generation_config: Mapping[str, object],
        generate_kwargs: Mapping[str, object],
    ) -> Tensor | ModelOutput:
        """`generate` on arrays; `generation_config` holds where `generate_kwargs` say nothing."""
        self.generation_config = GenerationConfig.from_dict(dict(generation_config))
        return self.generate(
            input_ids=torch.from_numpy(input_ids),
            encoder_hidden_states=torch.from_numpy(encoder_hidden_states),
            encoder_attention_mask=torch.from_numpy(encoder_attention_mask),
            **generate_kwargs,
        )

    @property
    def device(self) -> torch.device:
        """Where tensors go in and come out; OpenVINO moves them to its own device."""
        return torch.device("cpu")

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: DecoderState | None = None,
        encoder_hidden_states: Tensor | None = None,
        encoder_attention_mask: Tensor | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
    ) -> CausalLMOutputWithCrossAttentions:
        """See `text_decoder_forward`."""
        return text_decoder_forward(
            self.text_decoder,
            input_ids,
            attention_mask,
            past_key_values,
            encoder_hidden_states,
            encoder_attention_mask,
            use_cache,
        )

    def _prepare_cache_for_generation(self, *args, **kwargs) -> None:
        """The cache is the infer request's state: nothing to allocate."""

    def _expand_inputs_for_generation(self, *args, **kwargs):
        """Repeat the text for every beam, but not the encoder's tokens: the decoder lets beams share them."""
        shared = {name: kwargs.pop(name) for name in tuple(kwargs) if name.startswith("encoder_")}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(*args, **kwargs)
        return input_ids, model_kwargs | shared
