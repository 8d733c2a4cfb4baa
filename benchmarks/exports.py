"""Parts of BLIP as modules of flat tensors, as a tracer or an exporter wants them: for the sides that are not ours."""

import torch
from torch import Tensor, nn
from transformers import BlipForQuestionAnswering, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache


class VisionModel(nn.Module):
    """`pixel_values` [B, 3, H, W] -> image tokens [B, N, hidden]."""

    def __init__(self, model: BlipForQuestionAnswering):
        super().__init__()
        self.vision_model = model.vision_model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.vision_model(pixel_values).last_hidden_state


class TextEncoder(nn.Module):
    """The question's tokens, grounded in the image: [B, T, hidden]."""

    def __init__(self, model: BlipForQuestionAnswering):
        super().__init__()
        self.text_encoder = model.text_encoder

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64
        attention_mask: Tensor,  # [B, T] int64
        encoder_hidden_states: Tensor,  # [B, N, width]
        encoder_attention_mask: Tensor,  # [B, N] int64
    ) -> Tensor:
        return self.text_encoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
        ).last_hidden_state


class ProjectAnew(DynamicCache):
    """A cross-attention cache that keeps nothing: what is projected at each step is what is attended to."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def filled(tensors: tuple[Tensor, ...]) -> DynamicCache:
    """A cache that holds keys and values, two tensors for each layer."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


def flat(cache: DynamicCache) -> list[Tensor]:
    """Keys and values of every layer, in order."""
    return [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]


class PublishedDecoder(nn.Module):
    """A step of the published recipe: past keys and values in and out, the encoder's projected anew each time."""

    def __init__(self, text_decoder: PreTrainedModel):
        super().__init__()
        self.text_decoder = text_decoder

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64, the new tokens
        attention_mask: Tensor,  # [B, past + T] int64
        encoder_hidden_states: Tensor,  # [B, N, width]
        encoder_attention_mask: Tensor,  # [B, N] int64
        *past: Tensor,  # 2 per layer, each [B, heads, past, head size]
    ) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(filled(past), ProjectAnew())
        logits = self.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *flat(cache.self_attention_cache)


class Projections(nn.Module):
    """The encoder's tokens [B, N, width] as each layer's keys and values, each [B, heads, N, head size]."""

    def __init__(self, text_decoder: PreTrainedModel):
        super().__init__()
        self.attentions = nn.ModuleList(layer.crossattention.self for layer in text_decoder.bert.encoder.layer)

    def forward(self, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            projection(encoder_hidden_states)
            .unflatten(2, (attention.num_attention_heads, attention.attention_head_size))
            .transpose(1, 2)
            for attention in self.attentions
            for projection in (attention.key, attention.value)
        )


class DecoderStep(nn.Module):
    """A step over what `Projections` gave: past and cross-attention's keys and values are inputs."""

    def __init__(self, text_decoder: PreTrainedModel):
        super().__init__()
        self.text_decoder, self.width = text_decoder, text_decoder.config.encoder_hidden_size

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64, the new tokens
        attention_mask: Tensor,  # [B, past + T] int64
        encoder_attention_mask: Tensor,  # [B, N] int64
        *past_and_cross: Tensor,  # 2 per layer of the past, then 2 per layer of the encoder's tokens
    ) -> tuple[Tensor, ...]:
        half = len(past_and_cross) // 2
        cache = EncoderDecoderCache(filled(past_and_cross[:half]), filled(past_and_cross[half:]))
        cache.is_updated = dict.fromkeys(range(half // 2), True)
        logits = self.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            # Only its shape is read: keys and values are in the cache.
            encoder_hidden_states=torch.zeros(*encoder_attention_mask.shape, self.width),
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits[:, -1:], *flat(cache.self_attention_cache)
