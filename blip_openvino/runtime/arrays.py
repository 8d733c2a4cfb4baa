"""The boundary to PyTorch: NumPy inside, tensors for who gives tensors.

PyTorch is imported only to make a tensor of an array; who hands one in has imported it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    Array: TypeAlias = Tensor | np.ndarray


def is_tensor(values: object) -> bool:
    """Whether `values` is a tensor of PyTorch."""
    # While another thread imports torch, the module is there and its names are not: nobody has a tensor yet.
    return isinstance(values, getattr(sys.modules.get("torch"), "Tensor", ()))


def as_array(values: Array, name: str) -> np.ndarray:
    """A caller's tensor or array as an array, which may share its memory.

    Raises:
        ValueError: it is neither.
    """
    if is_tensor(values):
        values = values.detach().cpu()
        return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    if not isinstance(values, np.ndarray) or not values.ndim:
        raise ValueError(
            f"{name} is a {type(values).__name__}; it takes an array or a tensor, as the processor gives them"
        )
    return values


@dataclass(frozen=True)
class SearchOutput:
    """What greedy and beam search give with `return_dict_in_generate`."""

    sequences: Array
    """Token ids [rows, T] int64."""
    log_probabilities: Array
    """Of each row's new tokens together, its end among them, [rows] float32."""


def like(given: tuple[object, ...], result: object) -> object:
    """`result` as a tensor where any of the inputs `given` was one and it is an array; else as it is."""
    if not any(map(is_tensor, given)):
        return result
    if isinstance(result, SearchOutput):
        return SearchOutput(like(given, result.sequences), like(given, result.log_probabilities))
    if isinstance(result, np.ndarray):
        # It is there already: who gave a tensor has imported it.
        import torch

        return torch.from_numpy(result)
    return result


def joined(found: list[object], pad_token_id: int) -> object:
    """Token ids of several calls [rows, tokens] as one array, shorter ones filled up; of one call as they are."""
    if len(found) == 1:
        return found[0]
    if isinstance(found[0], SearchOutput):
        sequences = joined([each.sequences for each in found], pad_token_id)
        return SearchOutput(sequences, np.concatenate([each.log_probabilities for each in found]))
    longest = max(ids.shape[1] for ids in found)
    return np.concatenate(
        [np.pad(ids, ((0, 0), (0, longest - ids.shape[1])), constant_values=pad_token_id) for ids in found]
    )
