"""Parts of BLIP as functions of flat tensors, as a tracer or an exporter wants them: for sides that are not ours."""

from collections.abc import Callable

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache


class Part(nn.Module):
    """A module that runs `function` of `module` and tensors."""

    def __init__(self, module: nn.Module, function: Callable[..., Tensor | tuple[Tensor, ...]]):
        super().__init__()
        self.module, self.function = module, function

    def forward(self, *tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.function(self.module, *tensors)


def encode_image(vision_model: PreTrainedModel, pixel_values: Tensor) -> Tensor:
    """[B, 3, H, W] -> image tokens [B, N, width]."""
    return vision_model(pixel_values).last_hidden_state


def encode_question(
    text_encoder: PreTrainedModel,
    input_ids: Tensor,  # [B, T] int64
    attention_mask: Tensor,  # [B, T] int64
    encoder_hidden_states: Tensor,  # [B, N, width]
) -> Tensor:
    """The question's tokens, grounded in the image: [B, T, hidden].

    There is no mask for the image's tokens: all of them count, and BLIP in transformers reads no such mask anyway.
    """
    return text_encoder(
        input_ids=input_ids, attention_mask=attention_mask, encoder_hidden_states=encoder_hidden_states
    ).last_hidden_state


def step(
    text_decoder: PreTrainedModel,
    input_ids: Tensor,  # [B, T] int64, the new tokens
    attention_mask: Tensor,  # [B, past + T] int64
    encoder_hidden_states: Tensor,  # [B, N, width]
    past: tuple[Tensor, ...],  # 2 per layer, each [B, heads, past, head size]
    cross: Cache,
) -> tuple[Tensor, ...]:
    """Logits, and keys and values of the text so far."""
    cache = EncoderDecoderCache(filled(past), cross)  # which knows the layers of `cross` that are filled
    logits = text_decoder(
        input_ids=input_ids,
        attention_mask=attention_mask,
        encoder_hidden_states=encoder_hidden_states,
        cache=cache,
        use_cache=True,
    ).logits
    return logits, *(tensor for layer in cache.self_attention_cache.layers for tensor in (layer.keys, layer.values))


def filled(tensors: tuple[Tensor, ...]) -> DynamicCache:
    """A cache that holds keys and values, two tensors for each layer."""
    cache = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)
    return cache


class ProjectAnew(DynamicCache):
    """A cross-attention cache that keeps nothing: what is projected at each step is what is attended to."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        return key_states, value_states


def published_step(
    text_decoder: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor,
    encoder_hidden_states: Tensor,
    *past: Tensor,
) -> tuple[Tensor, ...]:
    """A step of the published recipe: past keys and values in and out, the encoder's projected anew each time."""
    return step(text_decoder, input_ids, attention_mask, encoder_hidden_states, past, ProjectAnew())


def project(text_decoder: PreTrainedModel, encoder_hidden_states: Tensor) -> tuple[Tensor, ...]:
    """The encoder's tokens [B, N, width] as each layer's keys and values, each [B, heads, N, head size]."""
    batch, length = encoder_hidden_states.shape[:2]
    attentions = [layer.crossattention.self for layer in text_decoder.bert.encoder.layer]
    return tuple(
        projection(encoder_hidden_states)
        .view(batch, length, attention.num_attention_heads, attention.attention_head_size)
        .transpose(1, 2)
        for attention in attentions
        for projection in (attention.key, attention.value)
    )


def projected_step(
    text_decoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, *past_and_cross: Tensor
) -> tuple[Tensor, ...]:
    """A step over what `project` gave: 2 tensors per layer of the past, then 2 per layer of the encoder's tokens."""
    past, cross = past_and_cross[: len(past_and_cross) // 2], past_and_cross[len(past_and_cross) // 2 :]
    # Encoder states ask for cross-attention; what is attended to is in the cache.
    return step(text_decoder, input_ids, attention_mask, cross[0], past, filled(cross))
