"""Convert a BLIP checkpoint from PyTorch to OpenVINO IR: vision model, text encoder and text decoder.

Each `convert_*` function takes a PyTorch module of `transformers` and gives a plain `ov.Model`, which any OpenVINO
program can run; `convert` writes all parts into a folder that `blip_model.OVBlipModel.from_pretrained` loads.
"""

import copy
from functools import partial
from pathlib import Path

import openvino as ov
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import BlipProcessor, PreTrainedModel

from blip_openvino.ir.checkpoint import checkpoint_digest
from blip_openvino.ir.files import (
    CHECKSUMS,
    CONVERTER_VERSION,
    REFERENCE,
    Part,
    cache_names,
    checksum_line,
    ensure_ir,
    remove_quantized,
    staging,
    writing,
)
from blip_openvino.ir.reference import ensure_reference

MASKED = torch.finfo(torch.float16).min
"""What attention adds to the scores of hidden tokens: finite in FP16, and in bf16, where float32's own lowest number
would round to -inf and a row of hidden tokens would come to NaN."""


class VisionModel(nn.Module):
    """The image's tokens. BLIP's pooled output, made of the first one, is left out: nothing downstream asks for it."""

    def __init__(self, vision_model: nn.Module):
        super().__init__()
        self.embeddings, self.layers = vision_model.embeddings, vision_model.encoder.layers
        self.post_layernorm = vision_model.post_layernorm

    def forward(self, pixel_values: Tensor) -> Tensor:  # [1, 3, H, W] -> [1, image tokens, hidden]
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return self.post_layernorm(hidden_states)


def additive_mask(allowed: Tensor) -> Tensor:
    """0 where `allowed`, a large negative number elsewhere: what attention adds to its scores."""
    return torch.where(allowed, 0.0, MASKED)


def split_heads(hidden_states: Tensor, attention: nn.Module) -> Tensor:
    """[B, T, hidden] -> [B, heads, T, head size]."""
    batch, length = hidden_states.shape[:2]
    heads, head_size = attention.num_attention_heads, attention.attention_head_size
    return hidden_states.view(batch, length, heads, head_size).transpose(1, 2)


def merge_heads(context: Tensor) -> Tensor:
    """[B, heads, T, head size] -> [B, T, hidden]."""
    return context.transpose(1, 2).flatten(2)


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
    query, key, value = (
        split_heads(projection(hidden_states), attention)
        for projection in (attention.query, attention.key, attention.value)
    )
    if past is not None:
        key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
    context = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    return layer.attention.output(merge_heads(context), hidden_states), key, value


def cross_attention(layer: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, mask: Tensor):
    """One layer's attention to the encoder's tokens: the image's, or the analysed question's.

    Rows of text that share their encoder row (the beams of a caption, the questions about one image) are laid out as
    more queries of that row, so `hidden_states` may hold k·E rows for E encoder rows, k consecutive ones each, and
    keys and values are projected E times, not k·E times.

    Args:
        hidden_states: [k·E, T, hidden].
        encoder_hidden_states: [E, N, encoder hidden].
        mask: additive, [E, 1, 1, N].

    Returns:
        The new hidden states [k·E, T, hidden], the encoder's keys and values, each [E, heads, N, head size].
    """
    attention = layer.crossattention.self
    key = split_heads(attention.key(encoder_hidden_states), attention)
    value = split_heads(attention.value(encoder_hidden_states), attention)
    query = attention.query(hidden_states).reshape(key.shape[0], -1, attention.all_head_size)
    scores = split_heads(query * attention.attention_head_size**-0.5, attention) @ key.transpose(2, 3) + mask
    context = merge_heads(scores.softmax(dim=-1) @ value).reshape(hidden_states.shape)
    return layer.crossattention.output(context, hidden_states), key, value


class TextEncoder(nn.Module):
    """BLIP's image-grounded text encoder: the question's tokens, having looked at each other and at the image.

    With an `itm_head` (image-text matching checkpoints) it also scores whether the text describes the image.
    """

    def __init__(self, text_encoder: nn.Module, itm_head: nn.Module | None = None):
        super().__init__()
        self.embeddings, self.layers, self.itm_head = text_encoder.embeddings, text_encoder.encoder.layer, itm_head

    def forward(
        self,
        input_ids: Tensor,  # [k·E, T] int64
        attention_mask: Tensor,  # [k·E, T] int64
        encoder_hidden_states: Tensor,  # [E, N, vision hidden]
        encoder_attention_mask: Tensor,  # [E, N] int64
    ):
        mask = additive_mask(attention_mask[:, None, None, :] > 0)
        encoder_mask = additive_mask(encoder_attention_mask[:, None, None, :] > 0)
        hidden_states = self.embeddings(input_ids)
        cross = []
        for layer in self.layers:
            hidden_states, _, _ = self_attention(layer, hidden_states, mask, past=None)
            hidden_states, *keys_and_values = cross_attention(layer, hidden_states, encoder_hidden_states, encoder_mask)
            cross += keys_and_values
            hidden_states = layer.feed_forward_chunk(hidden_states)
        if self.itm_head is None:
            return hidden_states, *cross
        return hidden_states, self.itm_head(hidden_states[:, 0]), *cross


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
            hidden_states, *new = cross_attention(layer, hidden_states, encoder_hidden_states, encoder_mask)
            cross += new
            hidden_states = layer.feed_forward_chunk(hidden_states)
        return self.cls(hidden_states), *present, hidden_states, *cross


def name_ports(model: ov.Model, inputs: list[str], outputs: list[str], inner: list[str]) -> None:
    """Name the inputs, the outputs, and tensors inside the graph, in place.

    `inner` are the model's last outputs, which stay tensors of that name and are outputs no more: `runtime.split` cuts
    the model there when it is loaded.
    """
    for port, name in zip(model.inputs, inputs, strict=True):
        port.get_node().set_friendly_name(name)
        port.set_names({name})
    for port, name in zip(model.outputs, [*outputs, *inner], strict=True):
        port.get_node().input_value(0).set_names({name})
    for result in model.get_results()[len(outputs) :]:
        model.remove_result(result)


def convert_vision_model(vision_model: nn.Module) -> ov.Model:
    """The vision transformer: `pixel_values` [1, 3, H, W] -> `last_hidden_state` [1, image tokens, hidden].

    The shape is static: INT8 kernels for AMX need fixed sizes to be fast, and an image has one size anyway.
    """
    size = vision_model.config.image_size
    model = ov.convert_model(
        VisionModel(vision_model), example_input=torch.zeros(1, 3, size, size), input=[1, 3, size, size]
    )
    name_ports(model, ["pixel_values"], ["last_hidden_state"], [])
    return model


def convert_text_encoder(text_encoder: nn.Module, itm_head: nn.Module | None = None) -> ov.Model:
    """The question's tokens, grounded in the image.

    `input_ids`, `attention_mask` [k·E, T] int64, `encoder_hidden_states` [E, N, vision hidden],
    `encoder_attention_mask` [E, N] int64 -> `last_hidden_state` [k·E, T, hidden] and, with an `itm_head`,
    `itm_logits` [k·E, 2]. Row r of the text attends to encoder row r // k.
    """
    width = text_encoder.config.encoder_hidden_size
    example = {
        "input_ids": torch.ones(4, 5, dtype=torch.int64),
        "attention_mask": torch.ones(4, 5, dtype=torch.int64),
        "encoder_hidden_states": torch.zeros(2, 7, width),
        "encoder_attention_mask": torch.ones(2, 7, dtype=torch.int64),
    }
    model = ov.convert_model(
        TextEncoder(text_encoder, itm_head),
        example_input=example,
        input=[[-1, -1], [-1, -1], [-1, -1, width], [-1, -1]],
    )
    outputs = ["last_hidden_state"] if itm_head is None else ["last_hidden_state", "itm_logits"]
    name_ports(model, list(example), outputs, cache_names("cross", text_encoder.config.num_hidden_layers))
    return model


def convert_text_decoder(text_decoder: nn.Module) -> ov.Model:
    """One step of generation, with the keys and values of earlier tokens as inputs and outputs.

    `input_ids` [k·E, T] int64 (the new tokens), `attention_mask` [k·E, past + T] int64, `encoder_hidden_states`
    [E, N, encoder hidden], `encoder_attention_mask` [E, N] int64, and for every layer `past.0.key`, `past.0.value`, ...
    [k·E, heads, past, head size] -> `logits` [k·E, T, vocabulary] and `present.0.key`, `present.0.value`, ...
    """
    config = text_decoder.config
    width, layers, heads = config.encoder_hidden_size, config.num_hidden_layers, config.num_attention_heads
    head_size = config.hidden_size // heads
    past, present, cross = (cache_names(kind, layers) for kind in ("past", "present", "cross"))
    example = (
        torch.ones(4, 2, dtype=torch.int64),
        torch.ones(4, 5, dtype=torch.int64),
        torch.zeros(2, 7, width),
        torch.ones(2, 7, dtype=torch.int64),
        *(torch.zeros(4, heads, 3, head_size) for _ in past),
    )
    model = ov.convert_model(
        TextDecoder(text_decoder),
        example_input=example,
        input=[[-1, -1], [-1, -1], [-1, -1, width], [-1, -1]] + [[-1, heads, -1, head_size]] * len(past),
    )
    inputs = ["input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", *past]
    name_ports(model, inputs, ["logits", *present], ["decoder_hidden_states", *cross])
    return model


def save_settings(model: PreTrainedModel, processor: BlipProcessor, folder: Path, stamp: dict[str, str]) -> None:
    """Save what running needs beside the IRs: configuration with their stamp, generation configuration, processor.

    And the checksums of all these files, and of the reference, which is there already.
    """
    config = copy.deepcopy(model.config)
    config.architectures = [type(model).__name__]
    config.openvino_checkpoint, config.openvino_converter = stamp["checkpoint"], stamp["converter"]
    with staging(folder) as unfinished:
        config.save_pretrained(unfinished)
        if hasattr(model, "text_decoder"):
            model.text_decoder.generation_config.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        files = [*sorted(unfinished.iterdir()), folder / REFERENCE]
        (unfinished / CHECKSUMS).write_text("".join(f"{checksum_line(file)}\n" for file in files))
        for file in unfinished.iterdir():
            file.replace(folder / file.name)


def convert(model: PreTrainedModel, processor: BlipProcessor, folder: str | Path) -> Path:
    """Convert all parts that `model` has into `folder`, with everything else that running needs.

    A captioning checkpoint has no text encoder, a retrieval one no text decoder. IRs that were made from the same
    weights by this converter are reused, quantized ones of other weights are removed. Returns the folder.

    Raises:
        OSError: the folder cannot be written to.
    """
    folder = Path(folder)
    stamp = {"checkpoint": checkpoint_digest(model), "converter": CONVERTER_VERSION}
    with writing(folder):
        ensure_reference(model, processor, folder, stamp)
        save_settings(model, processor, folder, stamp)
        ensure_ir(folder / Part.VISION_MODEL.file(), stamp, lambda: convert_vision_model(model.vision_model))
        if hasattr(model, "text_encoder"):
            itm_head = getattr(model, "itm_head", None)
            text_encoder = partial(convert_text_encoder, model.text_encoder, itm_head)
            ensure_ir(folder / Part.TEXT_ENCODER.file(), stamp, text_encoder)
        if hasattr(model, "text_decoder"):
            ensure_ir(folder / Part.TEXT_DECODER.file(), stamp, lambda: convert_text_decoder(model.text_decoder))
        remove_quantized(folder, stamp)
    return folder


def default_folder(model_id: str | Path) -> Path:
    """Where the notebooks keep a model's IRs: `build/` and the last part of its name."""
    return Path("build") / Path(model_id).name
