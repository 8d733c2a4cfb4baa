"""Parts of BLIP as modules of flat tensors, as a tracer or an exporter wants them: for the sides that are not ours."""

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
    """The question's tokens, grounded in the image: [B, T, hidden].

    There is no mask for the image's tokens: all of them count, and BLIP in transformers reads no such mask anyway.
    """

    def __init__(self, model: BlipForQuestionAnswering):
        super().__init__()
        self.text_encoder = model.text_encoder

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64
        attention_mask: Tensor,  # [B, T] int64
        encoder_hidden_states: Tensor,  # [B, N, width]
    ) -> Tensor:
        return self.text_encoder(
            input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=encoder_hidden_states
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
        *past: Tensor,  # 2 per layer, each [B, heads, past, head size]
    ) -> tuple[Tensor, ...]:
        cache = EncoderDecoderCache(filled(past), ProjectAnew())
        logits = self.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=encoder_hidden_states,
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
        batch, length = encoder_hidden_states.shape[:2]
        return tuple(
            projection(encoder_hidden_states)
            .view(batch, length, attention.num_attention_heads, attention.attention_head_size)
            .transpose(1, 2)
            for attention in self.attentions
            for projection in (attention.key, attention.value)
        )


class DecoderStep(nn.Module):
    """A step over what `Projections` gave: past and cross-attention's keys and values are inputs."""

    def __init__(self, text_decoder: PreTrainedModel):
        super().__init__()
        self.text_decoder = text_decoder

    def forward(
        self,
        input_ids: Tensor,  # [B, T] int64, the new tokens
        attention_mask: Tensor,  # [B, past + T] int64
        *past_and_cross: Tensor,  # 2 per layer of the past, then 2 per layer of the encoder's tokens
    ) -> tuple[Tensor, ...]:
        past, cross = past_and_cross[: len(past_and_cross) // 2], past_and_cross[len(past_and_cross) // 2 :]
        cache = EncoderDecoderCache(filled(past), filled(cross))
        cache.is_updated = dict.fromkeys(range(len(cross) // 2), True)
        logits = self.text_decoder(
            input_ids=input_ids,
            attention_mask=attention_mask,
            encoder_hidden_states=cross[0],  # asks for cross-attention; what is attended to is in the cache
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *flat(cache.self_attention_cache)
