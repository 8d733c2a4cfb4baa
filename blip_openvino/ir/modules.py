"""BLIP's three parts as PyTorch modules that can be traced: plain tensors in and out, keys and values in the open.

They hold the layers of a transformers model, and compute what that does.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention
from transformers import BlipForImageTextRetrieval

MASKED = torch.finfo(torch.float16).min
"""What attention adds to the scores of hidden tokens: finite in FP16, and in bf16, where float32's own lowest number
would round to -inf and a row of hidden tokens would come to NaN."""


class VisionModel(nn.Module):
    """The image's tokens. BLIP's pooled output, made of the first one, is left out: nothing downstream asks for it.

    With a `vision_proj` (retrieval checkpoints) it also gives the features that are compared with a text's.
    """

    def __init__(self, vision_model: nn.Module, vision_proj: nn.Module | None = None):
        super().__init__()
        self.embeddings, self.layers = vision_model.embeddings, vision_model.encoder.layers
        self.post_layernorm, self.vision_proj = vision_model.post_layernorm, vision_proj

    def forward(self, pixel_values: Tensor):  # [1, 3, H, W] -> [1, image tokens, hidden] and [1, projection]
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        hidden_states = self.post_layernorm(hidden_states)
        if self.vision_proj is None:
            return hidden_states
        return hidden_states, normalize(self.vision_proj(hidden_states[:, 0]), dim=-1)


def additive_mask(allowed: Tensor) -> Tensor:
    """0 where `allowed`, a large negative number elsewhere: what attention adds to its scores."""
    return torch.where(allowed, 0.0, MASKED)


def in_one_product(hidden_states: Tensor, *projections: nn.Linear) -> Tensor:
    """Several projections of the same tokens, side by side: [B, T, hidden] -> [B, T, sum of their widths]."""
    weight, bias = (torch.cat([getattr(each, name) for each in projections]) for name in ("weight", "bias"))
    return linear(hidden_states, weight, bias)


def self_attention(layer: nn.Module, hidden_states: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None):
    """One layer's self-attention over the past tokens and the new ones.

    Args:
        hidden_states: [B, T, hidden].
        mask: additive, broadcastable to [B, heads, T, past + T].
        past: keys and values of earlier tokens, each [B, heads, past, head size]; None where there is no past.

    Returns:
        The new hidden states [B, T, hidden], and the keys and values of all tokens so far.
    """
    attention = layer.attention.self
    # One product in place of three, as BLIP's vision model has it: a step took 3 to 10 % less (Zen 4).
    products = in_one_product(hidden_states, attention.query, attention.key, attention.value)
    products = products.view(*products.shape[:2], -1, attention.attention_head_size).chunk(3, dim=2)
    query, key, value = (each.transpose(1, 2) for each in products)
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    context = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    context = context.transpose(1, 2).reshape(hidden_states.shape)
    return layer.attention.output(context, hidden_states), key, value


def project(layer: nn.Module, encoder_hidden_states: Tensor) -> Tensor:
    """One layer's keys, and then its values, of the encoder's tokens, the image's or the analysed question's.

    [E, N, encoder hidden] -> [2, E, heads, N, head size], in one tensor: each input costs a step some 20 µs (Zen 5).
    """
    attention = layer.crossattention.self
    products = in_one_product(encoder_hidden_states, attention.key, attention.value)
    products = products.view(*products.shape[:2], 2, attention.num_attention_heads, attention.attention_head_size)
    return products.permute(2, 0, 3, 1, 4)


def cross_attention(layer: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, mask: Tensor):
    """One layer's attention to the encoder's tokens.

    Rows of text that share their encoder row (the beams of a caption, the questions about one image) are laid out as
    more queries of that row, so `hidden_states` may hold k·E rows for E encoder rows, k consecutive ones each, and
    keys and values are projected E times, not k·E times.

    Args:
        hidden_states: [k·E, T, hidden].
        encoder_hidden_states: [E, N, encoder hidden].
        mask: additive, [E, 1, 1, N].

    Returns:
        The new hidden states [k·E, T, hidden], and the encoder's keys and values (see `project`).
    """
    attention = layer.crossattention.self
    keys_and_values = project(layer, encoder_hidden_states)
    key, value = keys_and_values[0], keys_and_values[1]
    heads, head_size = attention.num_attention_heads, attention.attention_head_size
    # Scaled here: where attention itself scales, a step over eight images took OpenVINO 33 ms instead of 13 (Zen 5).
    query = attention.query(hidden_states) * head_size**-0.5
    query = query.reshape(mask.shape[0], -1, heads, head_size).transpose(1, 2)
    scores = query @ key.transpose(2, 3) + mask
    context = (scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(hidden_states.shape)
    return layer.crossattention.output(context, hidden_states), keys_and_values


class TextEncoder(nn.Module):
    """BLIP's image-grounded text encoder: the question's tokens, having looked at each other and at the image.

    With a `retrieval` checkpoint's heads it also scores whether the text describes the image (image-text matching), and
    gives the features that are compared with an image's (image-text contrast). Those are of the text alone: where every
    token of the encoder is hidden, cross-attention is left out. So one graph with one set of weights does both.
    """

    def __init__(self, text_encoder: nn.Module, retrieval: BlipForImageTextRetrieval | None = None):
        super().__init__()
        self.embeddings, self.layers = text_encoder.embeddings, text_encoder.encoder.layer
        self.itm_head = retrieval and retrieval.itm_head
        self.text_proj = retrieval and retrieval.text_proj

    def forward(
        self,
        input_ids: Tensor,  # [k·E, T] int64
        attention_mask: Tensor,  # [k·E, T] int64
        encoder_hidden_states: Tensor,  # [E, N, vision hidden]
        encoder_attention_mask: Tensor,  # [E, N] int64
    ):
        mask = additive_mask(attention_mask[:, None, None, :] > 0)
        encoder_mask = additive_mask(encoder_attention_mask[:, None, None, :] > 0)
        looks = encoder_attention_mask.amax(dim=1)[:, None, None] > 0
        hidden_states = self.embeddings(input_ids)
        cross = []
        for layer in self.layers:
            alone, _, _ = self_attention(layer, hidden_states, mask, past=None)
            hidden_states, keys_and_values = cross_attention(layer, alone, encoder_hidden_states, encoder_mask)
            cross.append(keys_and_values)
            if self.text_proj is not None:
                by_image = (looks.shape[0], -1, alone.shape[-1])
                chosen = torch.where(looks, hidden_states.reshape(by_image), alone.reshape(by_image))
                hidden_states = chosen.reshape(alone.shape)
            hidden_states = layer.feed_forward_chunk(hidden_states)
        if self.text_proj is None:
            return hidden_states, *cross
        first = hidden_states[:, 0]
        return hidden_states, self.itm_head(first), normalize(self.text_proj(first), dim=-1), *cross


class TextDecoder(nn.Module):
    """One step of BLIP's image-grounded text decoder with an explicit KV cache.

    The cache is a flat list, key and value of layer 0, of layer 1 and so on, because a tracer knows tensors and not
    cache objects. A token's position is the number of visible ones before it, so texts may be padded on the left.
    """

    def __init__(self, text_decoder: nn.Module):
        super().__init__()
        bert = text_decoder.bert
        self.embeddings, self.layers, self.cls = bert.embeddings, bert.encoder.layer, text_decoder.cls

    def forward(
        self,
        input_ids: Tensor,  # [k·E, T] int64, the new tokens
        attention_mask: Tensor,  # [k·E, past + T] int64
        encoder_hidden_states: Tensor,  # [E, N, encoder hidden]
        encoder_attention_mask: Tensor,  # [E, N] int64
        *past: Tensor,  # 2 per layer, each [k·E, heads, past, head size]
    ):
        length = attention_mask.shape[1]
        first_new = length - input_ids.shape[1]
        order = torch.arange(length)
        causal = order[None, :] <= order[first_new:, None]
        mask = additive_mask(causal[None, None] & (attention_mask[:, None, None, :] > 0))
        encoder_mask = additive_mask(encoder_attention_mask[:, None, None, :] > 0)
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, first_new:]

        hidden_states = self.embeddings(input_ids, position_ids=positions)
        present, cross = [], []
        for index, layer in enumerate(self.layers):
            hidden_states, *new = self_attention(layer, hidden_states, mask, past[2 * index : 2 * index + 2])
            present += new
            hidden_states, keys_and_values = cross_attention(layer, hidden_states, encoder_hidden_states, encoder_mask)
            cross.append(keys_and_values)
            hidden_states = layer.feed_forward_chunk(hidden_states)
        return self.cls(hidden_states), *present, hidden_states, *cross
