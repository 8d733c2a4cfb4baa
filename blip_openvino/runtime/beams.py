"""Beam search over the compiled text decoder: what `generate` of transformers gives, without importing it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blip_openvino.runtime.arguments import GenerationSettings, Streamer
from blip_openvino.runtime.arrays import SearchOutput
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.scores import logsumexp

NO_TOKENS = np.empty(0, np.int64)
"""What a streamer gets at a step of beams, which settles no token yet."""


@dataclass(frozen=True)
class Beam:
    """A text as far as it has come."""

    tokens: tuple[int, ...] = ()
    """The new ones."""
    score: float = 0.0
    """Their log-probability."""


class Row:
    """The beams of one row: those that grow, and the best of those that have ended, best first.

    The rules are those of transformers 5.24. Each step looks at the likeliest candidates, twice as many as there are
    beams. Those that end are kept if they are in the better half, and ranked by their log-probability divided by their
    length to the power of `length_penalty`. The row is settled when as many have ended as there are beams, and the best
    one that grows, at its present length, would not outrank the last of them. With `early_stopping` True it is settled
    as soon as so many have ended; with "never" and a positive penalty the full length stands for the present one.
    """

    def __init__(self, settings: GenerationSettings):
        self.settings = settings
        self.growing, self.ended, self.is_settled = [Beam()], [], False

    def grow(self, tokens: list[list[int]], log_probabilities: list[list[float]]) -> list[int]:
        """Go on with the likeliest next tokens of each growing beam; gives the places of those that went on."""
        settings, length = self.settings, len(self.growing[0].tokens) + 1
        candidates = [
            (beam.score + log_probability, place, token)
            for place, beam in enumerate(self.growing)
            for token, log_probability in zip(tokens[place], log_probabilities[place], strict=True)
        ]
        candidates.sort(key=lambda candidate: candidate[0], reverse=True)
        growing, places = [], []
        for order, (score, place, token) in enumerate(candidates[: 2 * settings.num_beams]):
            beam = Beam((*self.growing[place].tokens, token), score)
            if token == settings.eos_token_id or length == settings.max_new_tokens:
                if order < settings.num_beams and not self.is_settled:
                    self.ended.append(beam)
            elif len(growing) < settings.num_beams:
                growing.append(beam)
                places.append(place)
        self.growing = growing
        self.ended = sorted(self.ended, key=self.rank, reverse=True)[: settings.num_beams]
        if len(self.ended) == settings.num_beams and growing:
            to_the_end = settings.early_stopping == "never" and settings.length_penalty > 0
            best_length = settings.max_new_tokens if to_the_end else length
            best_rank = growing[0].score / best_length**settings.length_penalty
            self.is_settled |= settings.early_stopping is True or best_rank <= self.rank(self.ended[-1])
        return places

    def rank(self, beam: Beam) -> float:
        """What beams that have ended are compared by."""
        return beam.score / len(beam.tokens) ** self.settings.length_penalty


def beam_search(
    state: DecoderState, input_ids: np.ndarray, attention_mask: np.ndarray, settings: GenerationSettings
) -> SearchOutput:
    """Follow the likeliest few texts of every row at once, and give the best of each, best first.

    Args:
        state: a new generation.
        input_ids: what each row begins with, [rows, T] int64.
        attention_mask: [rows, T] int64, 0 for padding on the left.
        settings: how many beams are followed and given, how they are ranked, when one ends, and how long it gets.
    """
    rows, new_ids = [Row(settings) for _ in input_ids], input_ids
    begun = np.repeat(input_ids, settings.num_return_sequences, axis=0)
    if settings.streamer is not None:
        settings.streamer.put(begun)
    for step in range(settings.max_new_tokens):
        logits = state.step(new_ids, attention_mask)
        norms = logsumexp(logits)
        if step < settings.min_new_tokens:
            logits[:, settings.eos_token_id] = -np.inf
        tokens, values = top_k(logits, 2 * settings.num_beams)
        tokens = tokens.reshape(len(rows), -1, tokens.shape[1])  # [rows, growing, candidates]
        log_probabilities = (values - norms[:, None]).reshape(tokens.shape)
        places = [
            row.grow(*of_row) for row, *of_row in zip(rows, tokens.tolist(), log_probabilities.tolist(), strict=True)
        ]
        if settings.streamer is not None:
            settings.streamer.put(NO_TOKENS)
        if all(row.is_settled for row in rows) or not places[0]:
            break
        state.reorder_cache((np.array(places) + np.arange(len(rows))[:, None] * tokens.shape[1]).ravel())
        new_ids = np.array([[beam.tokens[-1]] for row in rows for beam in row.growing])
        attention_mask = None  # what is written is seen
    best = [beam for row in rows for beam in row.ended[: settings.num_return_sequences]]
    # As transformers does, which takes a padding token of 0 for none.
    filler = settings.pad_token_id or settings.eos_token_id
    new_tokens = np.full((len(best), max(len(beam.tokens) for beam in best)), filler)
    for index, beam in enumerate(best):
        new_tokens[index, : len(beam.tokens)] = beam.tokens
    if settings.streamer is not None:
        hand_over(new_tokens, settings.streamer)
    scores = np.array([beam.score for beam in best], np.float32)
    return SearchOutput(np.concatenate([begun, new_tokens], axis=1), scores)


def hand_over(new_tokens: np.ndarray, streamer: Streamer) -> None:
    """Give a streamer the tokens [rows, T] that beams have settled."""
    for tokens in new_tokens.T:
        streamer.put(tokens)
    streamer.end()


def top_k(logits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` likeliest tokens of each row and their logits [rows, count], likeliest first; overwrites `logits`.

    For six of 30,000, repeated `argmax` takes a tenth of the time of a partition.
    """
    tokens, values, row = [], [], np.arange(len(logits))
    for _ in range(count):
        tokens.append(logits.argmax(axis=1))
        values.append(logits[row, tokens[-1]])
        logits[row, tokens[-1]] = -np.inf
    return np.stack(tokens, axis=1), np.stack(values, axis=1)
