"""Make a converted BLIP smaller and faster: INT8 vision model and text encoder, INT8 or INT4 decoder weights.

The FP16 IRs of a folder stay; the quantized ones are written beside them.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import datasets
import nncf
import numpy as np
import openvino as ov
from tqdm.auto import tqdm
from transformers import BlipProcessor

from blip_openvino.ir.files import (
    OPTIMIZER_VERSION,
    Part,
    ensure_ir,
    load_config,
    named_outputs,
    read_parts,
    writing,
)

nncf.set_log_level(logging.ERROR)  # it would list every node that it leaves alone


@dataclass(frozen=True)
class CalibrationInputs:
    """The calibration set as the inputs of each part."""

    vision_model: list[np.ndarray]
    """One [1, 3, H, W] float32 for every different image."""
    text_encoder: list[dict[str, np.ndarray]]
    """One for every pair of an image and a text."""
    text_decoder: list[dict[str, np.ndarray]]
    """A first step over every image's tokens, for its caption, and over every question's, for the answer."""


def calibration_inputs(
    dataset: datasets.Dataset, processor: BlipProcessor, parts: dict[Part, ov.Model]
) -> CalibrationInputs:
    """Run the real vision model over the calibration images, each once however many texts it has, and the text encoder
    over the texts; without one (captioning checkpoints) the decoder looks at images only.

    Args:
        dataset: with `image`, `image_id` and `text`.
        parts: the FP16 IRs.

    Raises:
        ValueError: the dataset is empty.
    """
    if not len(dataset):
        raise ValueError("the calibration dataset is empty: take at least one sample")
    core = ov.Core()
    vision_model = core.compile_model(parts[Part.VISION_MODEL], "CPU")
    pixel_values, image_embeds, pairs = {}, {}, []
    for record in tqdm(dataset, desc="encoding images", unit="sample"):
        image_id = record["image_id"]
        if image_id not in image_embeds:
            pixels = processor(images=record["image"].convert("RGB"), return_tensors="np")["pixel_values"]
            pixel_values[image_id] = pixels.astype(np.float32)
            image_embeds[image_id] = vision_model(pixel_values[image_id])[0]
        text = processor(text=record["text"], return_tensors="np")
        ids = {name: text[name].astype(np.int64) for name in ("input_ids", "attention_mask")}
        pairs.append(ids | looking_at(image_embeds[image_id]))
    looked_at = list(image_embeds.values())
    if Part.TEXT_ENCODER in parts and "text_features" in named_outputs(parts[Part.TEXT_ENCODER]):
        # Contrast looks at the text alone: every token of the image is hidden.
        pairs += [pair | {"encoder_attention_mask": 0 * pair["encoder_attention_mask"]} for pair in pairs]
    if Part.TEXT_ENCODER in parts and Part.TEXT_DECODER in parts:
        text_encoder = core.compile_model(parts[Part.TEXT_ENCODER], "CPU")
        looked_at += [text_encoder(pair)[0] for pair in tqdm(pairs, desc="encoding questions", unit="sample")]
    steps = [first_step(parts[Part.TEXT_DECODER], embeds) for embeds in looked_at if Part.TEXT_DECODER in parts]
    return CalibrationInputs(list(pixel_values.values()), pairs, steps)


def looking_at(embeds: np.ndarray) -> dict[str, np.ndarray]:
    """The encoder inputs of a text model for tokens [1, N, hidden] that are all visible."""
    return {"encoder_hidden_states": embeds, "encoder_attention_mask": np.ones(embeds.shape[:2], np.int64)}


def first_step(text_decoder: ov.Model, embeds: np.ndarray) -> dict[str, np.ndarray]:
    """The decoder's inputs for one token, none before it, that looks at tokens [1, N, hidden]."""
    past = {}
    for port in text_decoder.inputs:
        if port.any_name.startswith("past."):
            _, heads, _, head_size = port.get_partial_shape()
            past[port.any_name] = np.zeros((1, heads.get_length(), 0, head_size.get_length()), np.float32)
    return {name: np.ones((1, 1), np.int64) for name in ("input_ids", "attention_mask")} | looking_at(embeds) | past


def quantize(model: ov.Model, samples: list, ignored: Sequence[str] = ()) -> ov.Model:
    """INT8 weights and activations, with ranges measured on `samples` (inputs of `model`), but for nodes `ignored`.

    Transformers have a few activation channels far larger than the rest. SmoothQuant, which the TRANSFORMER model type
    turns on, divides those channels and multiplies the weights after them, so that both fit eight bits
    (Xiao et al., 2022, arXiv:2211.10438). Weights keep to seven: processors without VNNI or AMX add products of 8-bit
    numbers in 16 bits, and what is too large there is cut off without a word.
    """
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(samples),
        ignored_scope=nncf.IgnoredScope(names=list(ignored), validate=False),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )


def check_weights(weights: str) -> None:
    """Raise ValueError where the decoder has no such weights."""
    if weights not in ("int8", "int4"):
        raise ValueError(f"weights is {weights!r}; it takes 'int8' or 'int4'")


def compress_weights(model: ov.Model, weights: str, ignored: Sequence[str] = ()) -> ov.Model:
    """INT8 or INT4 weights, in place, but for nodes `ignored`: a step multiplies one token, so that reading weights is
    most of its time. No ranges are fixed for activations, which would cost accuracy; a device may still quantize them
    on the fly.

    Raises:
        ValueError: `weights` is neither "int8" nor "int4".
    """
    check_weights(weights)
    scope = nncf.IgnoredScope(names=list(ignored), validate=False)
    if weights == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM, ignored_scope=scope)
    mode, backup = nncf.CompressWeightsMode.INT4_SYM, nncf.BackupMode.INT8_SYM  # of embeddings and last layer
    # Groups of 64, or of 32 where a layer's width is no multiple of 64.
    advanced = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    return nncf.compress_weights(
        model,
        mode=mode,
        group_size=64,
        ratio=1.0,
        backup_mode=backup,
        ignored_scope=scope,
        advanced_parameters=advanced,
    )


def quantize_text_encoder(model: ov.Model, samples: list[dict[str, np.ndarray]]) -> ov.Model:
    """INT8 as `quantize` does it, but for attention's own products: texts are short, and the image's keys and values
    are kept, so that quantizing what is multiplied takes longer than INT8 saves. A question took 6 % less (Zen 5).
    """
    nodes = model.get_ordered_ops()
    attention = [node.get_friendly_name() for node in nodes if node.get_type_name() == "ScaledDotProductAttention"]
    return quantize(model, samples, ignored=attention)


def quantize_decoder(model: ov.Model, samples: list[dict[str, np.ndarray]], weights: str = "int8") -> ov.Model:
    """Compressed weights for the steps, and INT8 activations too for what is not done token by token: the projections
    of the image's or question's tokens, whose arithmetic is most of a generation's first step.

    Weights are compressed first. The other way round, SmoothQuant's multiplications would land in front of products
    that they are not meant for.

    Raises:
        ValueError: `weights` is neither "int8" nor "int4".
    """
    projections = projection_names(model)
    compressed = compress_weights(model, weights, ignored=projections)
    others = [node.get_friendly_name() for node in compressed.get_ordered_ops()]
    return quantize(compressed, samples, ignored=[name for name in others if name not in projections])


def projection_names(model: ov.Model) -> list[str]:
    """The nodes that multiply the encoder's tokens, for keys and values, by weights."""
    readers = model.input("encoder_hidden_states").get_target_inputs()
    return [
        reader.get_node().get_friendly_name() for reader in readers if reader.get_node().get_type_name() == "MatMul"
    ]


def dataset_digest(dataset: datasets.Dataset) -> str:
    """What tells one calibration set from another: a BLAKE2 digest of its image ids and texts."""
    pairs = zip(dataset["image_id"], dataset["text"], strict=True)
    return hashlib.blake2b(repr(list(pairs)).encode(), digest_size=8).hexdigest()


def optimize(folder: str | Path, dataset: datasets.Dataset, weights: str = "int8") -> Path:
    """Write the quantized IRs of a converted folder beside its FP16 ones; those that still fit are reused.

    Args:
        folder: made by `ir.convert.convert`.
        dataset: the calibration set, with `image`, `image_id` and `text`; all of it is used.
        weights: of the decoder, "int8" or "int4".

    Raises:
        FileNotFoundError, ValueError: the folder is not a converted model, or a part of it is missing or damaged; or
            `weights` is something else.
        OSError: the folder cannot be written to.
    """
    check_weights(weights)  # "fp16" would name the files that it is made of
    folder = Path(folder)
    config = load_config(folder)
    stamp = {
        "checkpoint": config.openvino_checkpoint,
        "converter": config.openvino_converter,
        "optimizer": OPTIMIZER_VERSION,
        "calibration": dataset_digest(dataset),
    }
    with writing(folder):
        parts = read_parts(ov.Core(), folder, config, "FP16")

        @cache
        def calibrated() -> CalibrationInputs:
            return calibration_inputs(dataset, BlipProcessor.from_pretrained(folder), parts)

        def make(part: Part) -> ov.Model:
            inputs = calibrated()
            if part is Part.VISION_MODEL:
                return quantize(parts[part], inputs.vision_model)
            if part is Part.TEXT_ENCODER:
                return quantize_text_encoder(parts[part], inputs.text_encoder)
            return quantize_decoder(parts[part], inputs.text_decoder, weights)

        for part in parts:
            ensure_ir(folder / part.file(weights.upper()), stamp, partial(make, part))
    return folder
