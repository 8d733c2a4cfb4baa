"""Checks on what a caller hands to the model: wrong input gets an error that names the value and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from blip_openvino.runtime.arrays import as_array

if TYPE_CHECKING:
    from blip_openvino.runtime.arrays import Array


def check_device(core: ov.Core, device: str) -> None:
    """Raise ValueError where OpenVINO has no such device, before anything is loaded for it."""
    name = device.split(":")[0].split(".")[0]
    virtual = {"AUTO", "MULTI", "HETERO", "BATCH"}
    if name not in virtual | {each.split(".")[0] for each in core.available_devices}:
        raise ValueError(f"there is no device {device!r} here; choose one of {[*core.available_devices, 'AUTO']}")


def check_pixels(pixel_values: Array, expected: Sequence[int]) -> np.ndarray:
    """`pixel_values` as a contiguous float32 array [B, 3, H, W]; `expected` is what the model takes, [1, 3, H, W].

    Raises:
        ValueError: they are no floats, not finite, there is no image, or one of another size.
    """
    pixels = as_array(pixel_values, "pixel_values")
    if pixels.dtype.kind != "f" or pixels.ndim != 4 or pixels.shape[1:] != tuple(expected[1:]) or not len(pixels):
        sizes = ", ".join(map(str, expected[1:]))
        raise ValueError(
            f"pixel_values is {list(pixels.shape)} of {pixels.dtype}; this model takes [images, {sizes}] of floats: "
            "use the processor that came with it"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and said to be
        pixels = np.ascontiguousarray(pixels, np.float32)
    wrong = pixels.size - np.count_nonzero(np.isfinite(pixels))
    if wrong:
        raise ValueError(f"{wrong} of {pixels.size} pixel_values are NaN or infinite")
    return pixels


def check_text(
    config: SimpleNamespace, input_ids: Array, attention_mask: Array | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and their mask as contiguous int64 arrays [B, T]; no mask is a mask of ones.

    Raises:
        ValueError: they are no token ids, too long for the model, or of different shapes; the mask holds something
            other than 0 and 1, or hides tokens that are not at the end.
    """
    ids = as_array(input_ids, "input_ids")
    if ids.ndim != 2 or not ids.size or ids.dtype.kind not in "iu":
        raise ValueError(f"input_ids is {list(ids.shape)} of {ids.dtype}; it takes [texts, tokens] of int64")
    if ids.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"the text is {ids.shape[1]} tokens long; the model takes {config.max_position_embeddings}: shorten it"
        )
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise ValueError(
            f"input_ids has tokens from {ids.min()} to {ids.max()}, outside the vocabulary of "
            f"{config.vocab_size}: use the tokenizer that came with the model"
        )
    mask = np.ones(ids.shape, np.int64) if attention_mask is None else as_array(attention_mask, "attention_mask")
    if mask.shape != ids.shape:
        raise ValueError(f"attention_mask is {list(mask.shape)} but input_ids is {list(ids.shape)}")
    if not np.isin(mask, (0, 1)).all() or not (mask == 1).any(axis=1).all():
        raise ValueError("attention_mask takes 1 for tokens and 0 for padding, and at least one token in each text")
    if ((mask[:, :-1] == 0) & (mask[:, 1:] == 1)).any():
        # The text encoder counts positions from the first column, hidden or not: padding there would change the answer.
        raise ValueError("attention_mask hides tokens before others: pad texts at the end, padding_side='right'")
    return tuple(np.array(each, np.int64, order="C") for each in (ids, mask))


def as_prompts(
    config: SimpleNamespace, start: int, input_ids: np.ndarray, attention_mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The tokenizer's [CLS] a picture of [SEP] as the decoder wants it: [DEC] a picture of.

    Args:
        start: the token that a text starts with, [DEC].
        input_ids, attention_mask: as `check_text` gives them, padded at the end.

    Returns:
        Both again, [B, T] int64, padded at the beginning, so that each text goes on where its prompt ends.
    """
    prompts = [ids[mask > 0] for ids, mask in zip(input_ids, attention_mask, strict=True)]
    prompts = [prompt[:-1] if prompt[-1] == config.sep_token_id and len(prompt) > 1 else prompt for prompt in prompts]
    longest = max(map(len, prompts))
    ids = np.full((len(prompts), longest), config.pad_token_id)
    mask = np.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = [start, *prompt[1:]]
        mask[row, longest - len(prompt) :] = 1
    return ids, mask
