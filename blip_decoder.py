"""The text decoder at run time: one step over the compiled stateful model, and `generate` of transformers around it."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from transformers import BlipTextConfig, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

ENCODER_TENSORS = ("encoder_hidden_states", "encoder_attention_mask")
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
        self, text_decoder: ov.CompiledModel, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor | None
    ):
        embeds = np.ascontiguousarray(encoder_hidden_states.numpy(), np.float32)
        if encoder_attention_mask is None:
            encoder_attention_mask = torch.ones(embeds.shape[:2])
        mask = np.ascontiguousarray(encoder_attention_mask.numpy(), np.int64)
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
        state = DecoderState(ov_text_decoder_with_past, encoder_hidden_states, encoder_attention_mask)
    logits = state.step(
        input_ids.contiguous().numpy(), None if attention_mask is None else attention_mask.to(torch.int64).numpy()
    )
    return CausalLMOutputWithCrossAttentions(
        logits=torch.from_numpy(logits), past_key_values=state if use_cache else None
    )


def greedy_search(
    state: DecoderState,
    input_ids: np.ndarray,
    *,
    eos_token_id: int,
    pad_token_id: int,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    streamer: BaseStreamer | None = None,
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
        streamer.put(torch.from_numpy(input_ids))
    for step in range(max_new_tokens):
        logits = state.step(tokens[-1])[:, 0]
        if step < min_new_tokens:
            logits[:, eos_token_id] = -np.inf
        chosen = np.where(ended, pad_token_id, logits.argmax(axis=1))
        tokens.append(chosen[:, None])
        if streamer is not None:
            streamer.put(torch.from_numpy(chosen))
        ended |= chosen == eos_token_id
        if ended.all():
            break
    if streamer is not None:
        streamer.end()
    return np.concatenate(tokens, axis=1)


class OVTextDecoder(PreTrainedModel, GenerationMixin):
    """The compiled text decoder as a model that transformers' `generate` can drive; it has no PyTorch weights."""

    config_class = BlipTextConfig
    main_input_name = "input_ids"

    def __init__(
        self,
        config: BlipTextConfig,
        text_decoder: ov.CompiledModel,
        generation_config: GenerationConfig | None = None,
    ):
        super().__init__(config)
        self.text_decoder = text_decoder
        self._turn, self._generating = Lock(), None
        if generation_config is not None:
            self.generation_config = generation_config

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

    def generate(self, input_ids: Tensor, **generate_kwargs) -> Tensor:
        """Transformers' `generate`; plain greedy search takes a bare loop, which gives the same tokens in less time."""
        settings = {
            name: value
            for name, value in generate_kwargs.items()
            if name not in ENCODER_TENSORS and value is not None and GREEDY.get(name) != value
        }
        plain = (
            {"max_new_tokens", "eos_token_id", "pad_token_id"} <= settings.keys() <= GREEDY_ARGUMENTS
            and all(isinstance(settings.get(name, 1), int) for name in GREEDY_ARGUMENTS - {"streamer"})
            and min(settings["max_new_tokens"], settings.get("min_new_tokens", 1)) > 0
            and self.generation_config.to_diff_dict().keys() <= HARMLESS_SETTINGS
            and not (input_ids == settings["pad_token_id"]).any()
        )
        with self._take_turn():
            if not plain:
                return super().generate(input_ids=input_ids, **generate_kwargs)
            state = DecoderState(self.text_decoder, *(generate_kwargs[name] for name in ENCODER_TENSORS))
            return torch.from_numpy(greedy_search(state, input_ids.numpy(), **settings))

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

    def _prepare_cache_for_generation(self, *args, **kwargs) -> None:
        """The cache is the infer request's state: nothing to allocate."""

    def _expand_inputs_for_generation(self, *args, **kwargs):
        """Repeat the text for every beam, but not the encoder's tokens: the decoder lets beams share them."""
        shared = {name: kwargs.pop(name) for name in tuple(kwargs) if name.startswith("encoder_")}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(*args, **kwargs)
        return input_ids, model_kwargs | shared
