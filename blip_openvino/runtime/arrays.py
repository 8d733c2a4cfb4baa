"""NumPy arrays and PyTorch tensors: telling them apart and turning one into the other.

PyTorch is imported only to make a tensor of an array; who hands one in has imported it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor
    from transformers.utils import ModelOutput

    Array: TypeAlias = Tensor | np.ndarray


def is_tensor(values: object) -> bool:
    """Whether `values` is a tensor of PyTorch."""
    # While another thread imports torch, the module is there and its names are not: nobody has a tensor yet.
    tensor_class = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor_class is not None and isinstance(values, tensor_class)


def as_array(values: Array, name: str) -> np.ndarray:
    """A caller's tensor or array as an array, which may share its memory.

    Raises:
        ValueError: it is neither, or has no values.
    """
    if isinstance(values, np.ndarray):
        return values
    if not is_tensor(values):
        raise ValueError(
            f"{name} is a {type(values).__name__}; it takes an array or a tensor: call OVBlipProcessor, "
            "or BlipProcessor with return_tensors='pt'"
        )
    if values.device.type == "meta":
        raise ValueError(f"{name} is on the meta device and so has no values: load it on a real one")
    values = values.detach().cpu()
    return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()


def as_given(result: Array | ModelOutput, tensors: bool) -> Array | ModelOutput:
    """`result` as a tensor or as an array; what is neither stays what it is."""
    if isinstance(result, np.ndarray) and tensors:
        import torch

        return torch.from_numpy(result)
    return result.numpy() if is_tensor(result) and not tensors else result


class Streamer(Protocol):
    """What gets tokens as they come, such as transformers' `TextStreamer`: the prompt [1, T] first, then each [1]."""

    def put(self, value: Array) -> None: ...

    def end(self) -> None: ...


class KindStreamer:
    """Hands tokens on to the caller's streamer, as tensors or as arrays."""

    def __init__(self, streamer: Streamer, tensors: bool):
        self.streamer, self.tensors, self.end = streamer, tensors, streamer.end

    def put(self, value: Array) -> None:
        """See `Streamer`."""
        self.streamer.put(as_given(value, self.tensors))
