"""Checks on what a caller hands to the model: wrong input gets an error that names the value and the way out."""

from collections.abc import Sequence

import numpy as np
import openvino as ov
import torch
from torch import Tensor
from transformers import BlipTextConfig

from blip_images import load_image

__all__ = ["check_batch", "check_device", "check_pixels", "check_text", "load_image"]


def check_device(core: ov.Core, device: str) -> None:
    """Raise ValueError where OpenVINO has no such device, before anything is loaded for it."""
    name = device.split(":")[0].split(".")[0]
    virtual = {"AUTO", "MULTI", "HETERO", "BATCH"}
    if name not in virtual | {each.split(".")[0] for each in core.available_devices}:
        raise ValueError(f"there is no device {device!r} here; choose one of {[*core.available_devices, 'AUTO']}")


def check_pixels(pixel_values: Tensor, expected: Sequence[int]) -> np.ndarray:
    """`pixel_values` as a contiguous float32 array [B, 3, H, W]; `expected` is what the model takes, [1, 3, H, W].

    Raises:
        ValueError: there is no image, or one of another size.
    """
    pixel_values = torch.as_tensor(pixel_values).detach().to("cpu", torch.float32)
    if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != tuple(expected[1:]) or not len(pixel_values):
        sizes = ", ".join(map(str, expected[1:]))
        raise ValueError(
            f"pixel_values is {list(pixel_values.shape)}; this model takes [images, {sizes}]: "
            "use the processor that came with it"
        )
    return np.ascontiguousarray(pixel_values.numpy())


def check_batch(images: int, texts: int) -> None:
    """Raise ValueError unless there is one image for all texts or one for each."""
    if images not in (1, texts):
        raise ValueError(f"{images} images do not go with {texts} texts: give one image for all or one for each")


def check_text(config: BlipTextConfig, input_ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Token ids and their mask as contiguous int64 tensors [B, T]; no mask is a mask of ones.

    Raises:
        ValueError: they are no token ids, too long for the model, or of different shapes.
    """
    input_ids = torch.as_tensor(input_ids)
    if input_ids.ndim != 2 or not input_ids.numel() or input_ids.is_floating_point():
        raise ValueError(
            f"input_ids is {list(input_ids.shape)} of {input_ids.dtype}; it takes [texts, tokens] of int64"
        )
    if input_ids.shape[1] > config.max_position_embeddings:
        raise ValueError(
            f"the text is {input_ids.shape[1]} tokens long; the model takes {config.max_position_embeddings}"
        )
    if input_ids.min() < 0 or input_ids.max() >= config.vocab_size:
        raise ValueError(
            f"input_ids has tokens from {input_ids.min()} to {input_ids.max()}, outside the vocabulary of "
            f"{config.vocab_size}: use the tokenizer that came with the model"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    attention_mask = torch.as_tensor(attention_mask)
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask is {list(attention_mask.shape)} but input_ids is {list(input_ids.shape)}")
    if not (attention_mask > 0).any(dim=1).all():
        raise ValueError("attention_mask hides every token of a text: each needs at least one")
    return input_ids.to(torch.int64).contiguous(), attention_mask.to(torch.int64).contiguous()
