"""Convert a BLIP checkpoint from PyTorch to OpenVINO IR: vision model, text encoder and text decoder.

Each `convert_*` function takes a PyTorch module of `transformers` and gives a plain `ov.Model`, which any OpenVINO
program can run; `convert` writes all parts into a folder that `blip_model.OVBlipModel.from_pretrained` loads.
"""

import copy
from functools import partial
from pathlib import Path

import openvino as ov
import torch
from torch import nn
from transformers import BlipForImageTextRetrieval, BlipProcessor, PreTrainedModel

from blip_openvino.ir.checkpoint import checkpoint_digest
from blip_openvino.ir.files import (
    CHECKSUMS,
    CONVERTER_VERSION,
    REFERENCE,
    Part,
    cache_names,
    checksum_line,
    cross_names,
    ensure_ir,
    remove_quantized,
    staging,
    writing,
)
from blip_openvino.ir.modules import TextDecoder, TextEncoder, VisionModel
from blip_openvino.ir.reference import ensure_reference


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


def convert_vision_model(vision_model: nn.Module, vision_proj: nn.Module | None = None) -> ov.Model:
    """The vision transformer: `pixel_values` [1, 3, H, W] -> `last_hidden_state` [1, image tokens, hidden] and, with a
    `vision_proj`, `image_features` [1, projection], of length 1.

    The shape is static: INT8 kernels for AMX need fixed sizes to be fast, and an image has one size anyway.
    """
    size = vision_model.config.image_size
    model = ov.convert_model(
        VisionModel(vision_model, vision_proj), example_input=torch.zeros(1, 3, size, size), input=[1, 3, size, size]
    )
    outputs = ["last_hidden_state"] if vision_proj is None else ["last_hidden_state", "image_features"]
    name_ports(model, ["pixel_values"], outputs, [])
    return model


def convert_text_encoder(text_encoder: nn.Module, retrieval: BlipForImageTextRetrieval | None = None) -> ov.Model:
    """The question's tokens, grounded in the image.

    `input_ids`, `attention_mask` [k·E, T] int64, `encoder_hidden_states` [E, N, vision hidden],
    `encoder_attention_mask` [E, N] int64 -> `last_hidden_state` [k·E, T, hidden]. Row r of the text attends to encoder
    row r // k. With the heads of a `retrieval` checkpoint also `itm_logits` [k·E, 2] and `text_features`
    [k·E, projection], of length 1, which mean something where the encoder's tokens are all hidden.
    """
    width = text_encoder.config.encoder_hidden_size
    example = {
        "input_ids": torch.ones(4, 5, dtype=torch.int64),
        "attention_mask": torch.ones(4, 5, dtype=torch.int64),
        "encoder_hidden_states": torch.zeros(2, 7, width),
        "encoder_attention_mask": torch.ones(2, 7, dtype=torch.int64),
    }
    model = ov.convert_model(
        TextEncoder(text_encoder, retrieval),
        example_input=example,
        input=[[-1, -1], [-1, -1], [-1, -1, width], [-1, -1]],
    )
    outputs = ["last_hidden_state"] if retrieval is None else ["last_hidden_state", "itm_logits", "text_features"]
    name_ports(model, list(example), outputs, cross_names(text_encoder.config.num_hidden_layers))
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
    past, present = (cache_names(kind, layers) for kind in ("past", "present"))
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
    name_ports(model, inputs, ["logits", *present], ["decoder_hidden_states", *cross_names(layers)])
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
        retrieval = model if isinstance(model, BlipForImageTextRetrieval) else None
        vision_model = partial(convert_vision_model, model.vision_model, retrieval and retrieval.vision_proj)
        ensure_ir(folder / Part.VISION_MODEL.file(), stamp, vision_model)
        if hasattr(model, "text_encoder"):
            text_encoder = partial(convert_text_encoder, model.text_encoder, retrieval)
            ensure_ir(folder / Part.TEXT_ENCODER.file(), stamp, text_encoder)
        if hasattr(model, "text_decoder"):
            ensure_ir(folder / Part.TEXT_DECODER.file(), stamp, lambda: convert_text_decoder(model.text_decoder))
        remove_quantized(folder, stamp)
    return folder


def default_folder(model_id: str | Path) -> Path:
    """Where the notebooks keep a model's IRs: `build/` and the last part of its name."""
    return Path("build") / Path(model_id).name
