"""Beam search against transformers' own, over random logits, by which texts end early, late and all at once."""

from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from transformers import BlipTextConfig

from blip_openvino.runtime import generate
from blip_openvino.runtime.arguments import GenerationSettings, resolve_settings
from blip_openvino.runtime.arrays import SearchOutput
from blip_openvino.runtime.beams import beam_search, top_k

WORDS, END = 9, 4
CONFIG = SimpleNamespace(vocab_size=WORDS, max_position_embeddings=512, sep_token_id=END, pad_token_id=0)


class RandomState:
    """In place of `DecoderState`: logits are drawn, the same for a text whatever else is in the batch."""

    is_compileable = False

    def __init__(self, seed: int, *_):
        self.seed, self.texts, self.beam_idx = seed, [], []

    def step(self, input_ids: np.ndarray, attention_mask: np.ndarray | None) -> np.ndarray:
        before = [self.texts[place] for place in self.beam_idx] if self.texts else [[]] * len(input_ids)
        self.texts = [[*text, *new] for text, new in zip(before, input_ids.tolist(), strict=True)]
        assert attention_mask is None or attention_mask.shape == np.shape(self.texts)
        draws = [np.random.default_rng([self.seed, *text]) for text in self.texts]
        return np.stack([draw.normal(0, 2, WORDS).astype(np.float32) for draw in draws])

    def reorder_cache(self, beam_idx: np.ndarray) -> None:
        self.beam_idx = np.asarray(beam_idx).tolist()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return len(self.texts[0])


def settle(**arguments) -> GenerationSettings:
    return resolve_settings(CONFIG, {}, [2], {"return_dict_in_generate": True} | arguments)


def searched(monkeypatch: pytest.MonkeyPatch, seed: int, rows: int, **arguments) -> SearchOutput:
    """What our search finds, whose texts and ranks have to be those of transformers over the same logits."""
    monkeypatch.setattr(generate, "DecoderState", RandomState)
    input_ids = np.array([[7, row] for row in range(rows)])
    found = beam_search(RandomState(seed), input_ids, np.ones_like(input_ids), settle(**arguments))
    driver = generate.GenerateDriver(BlipTextConfig(vocab_size=WORDS, bos_token_id=7, sep_token_id=END), seed, None)
    expected = driver.generate(
        torch.from_numpy(input_ids),
        attention_mask=torch.ones(rows, 2, dtype=torch.int64),
        **settle(output_scores=True, **arguments).generate_kwargs(),
    )
    assert np.array_equal(found.sequences, expected.sequences.numpy())
    lengths = (expected.beam_indices >= 0).sum(dim=1)
    ranks = found.log_probabilities / lengths.numpy() ** arguments["length_penalty"]
    assert ranks == pytest.approx(expected.sequences_scores.numpy(), rel=1e-5)
    return found


@hypothesis_settings(derandomize=True, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 2**30),
    rows=st.integers(1, 3),
    beams=st.integers(2, 5),
    most=st.sampled_from([1, 2, 5, 20]),
    data=st.data(),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.5]),
    early_stopping=st.sampled_from([False, True, "never"]),
    pad_token_id=st.sampled_from([0, 5]),
)
def test_beams_are_those_of_transformers(monkeypatch, seed, rows, beams, most, data, **arguments):
    returned = data.draw(st.integers(1, beams), "num_return_sequences")
    least = data.draw(st.integers(0, most), "min_new_tokens")
    arguments |= {"num_beams": beams, "num_return_sequences": returned, "min_new_tokens": least}
    searched(monkeypatch, seed, rows, max_new_tokens=most, **arguments)


@pytest.mark.parametrize("seed", [5, 25, 67])
def test_a_search_that_never_stops_early_finds_longer_texts(monkeypatch, seed):
    longer = {"num_beams": 3, "max_new_tokens": 20, "length_penalty": 2.0}
    never, early = (searched(monkeypatch, seed, 1, early_stopping=stop, **longer) for stop in ("never", False))
    assert never.sequences.shape[1] > early.sequences.shape[1]


@pytest.mark.parametrize("arguments", [{}, {"repetition_penalty": 1.0}], ids=["our search", "transformers' search"])
def test_who_follows_beams_gets_nothing_until_the_end_and_can_leave(fp16_model, easy_vqa, arguments):
    streamer, steps = Mock(), []
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "min_new_tokens": 5, "streamer": streamer}
    found = fp16_model.generate_caption(easy_vqa.pixel_values[:1], **beams, **arguments)
    handed = [np.asarray(call.args[0]).tolist() for call in streamer.put.mock_calls]
    assert handed == [found[:, :1].tolist(), *[[]] * 5, *found[:, 1:].T.tolist()]
    streamer.end.assert_called_once()

    streamer.put.side_effect = lambda tokens: steps.append(tokens) or 1 / (len(steps) < 3)
    with pytest.raises(ZeroDivisionError):
        fp16_model.generate_caption(easy_vqa.pixel_values[:1], **beams, **arguments)
    assert len(steps) == 3


def test_the_likeliest_are_found_in_order():
    logits = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
    tokens, values = top_k(logits.copy(), 7)
    assert np.array_equal(tokens, np.argsort(-logits, axis=1)[:, :7])
    assert np.array_equal(values, -np.sort(-logits, axis=1)[:, :7])
