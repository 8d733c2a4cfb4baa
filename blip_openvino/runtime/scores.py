"""How likely a text is by the decoder: of a text that it wrote, and of texts that it is given to choose from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncoderTokens, TextModel


def logsumexp(logits: np.ndarray) -> np.ndarray:
    """What to take from each logit for its log-probability: of logits [..., vocabulary], [...] float32."""
    most = logits.max(axis=-1, keepdims=True)
    return np.log(np.exp(logits - most).sum(axis=-1)) + most[..., 0]


def score_texts(
    state: DecoderState, input_ids: np.ndarray, begun: int, eos_token_id: int | Sequence[int], pad_token_id: int
) -> np.ndarray:
    """The log-probability of each text after its first `begun` tokens, its end included; all are read at once.

    Args:
        state: new, or having read a token that all texts begin with.
        input_ids: [rows, T] int64, padded on the left, and filled up after their ends with anything.

    Returns:
        [rows] float32.
    """
    mask = ((input_ids != pad_token_id).cumsum(axis=1) > 0).astype(np.int64)
    logits = state.read(input_ids[:, :-1], mask[:, :-1], input_ids.shape[1] - begun)
    written = input_ids[:, begun:]
    found = np.take_along_axis(logits, written[..., None], axis=-1)[..., 0] - logsumexp(logits)
    is_end = np.isin(written, eos_token_id)
    return np.where(is_end.cumsum(axis=1) - is_end == 0, found, 0).sum(axis=1)


def rank_texts(
    text_decoder: TextModel,
    tokens: EncoderTokens,
    input_ids: np.ndarray,
    most: int,
    eos_token_id: int,
    pad_token_id: int,
) -> np.ndarray:
    """The log-probability of texts about one row of the encoder's tokens, each begun by the same token.

    As BLIP ranks the answers of a list (Li et al., 2022, section 4.3): by their first tokens, then the best `most` of
    them by the whole.

    Args:
        input_ids: [texts, T] int64, padded at the end; each has a word and an end at least.

    Returns:
        [texts] float32, -inf for those that are not among the best.
    """
    state = DecoderState(text_decoder, tokens)
    logits = state.step(input_ids[:1, :1])[0]
    first = logits[input_ids[:, 1]] - logsumexp(logits)
    best = np.argsort(-first, kind="stable")[:most]
    state.reorder_cache(np.zeros(len(best)))
    scores = np.full(len(input_ids), -np.inf, np.float32)
    scores[best] = first[best] + score_texts(state, input_ids[best, 1:], 1, eos_token_id, pad_token_id)
    return scores
