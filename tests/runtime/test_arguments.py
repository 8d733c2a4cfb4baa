"""Arguments of a generation: merged as users expect, refused with a way out where they say nothing or too much."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from blip_openvino.runtime.arguments import COUNTS, GENERATE_ARGUMENTS, SAMPLING, TOKENS, resolve_settings

CONFIG = SimpleNamespace(vocab_size=35, max_position_embeddings=512, sep_token_id=4, pad_token_id=0)


def resolve(arguments: dict, lengths=(1,), defaults=None):
    return resolve_settings(CONFIG, defaults or {}, lengths, arguments)


@pytest.mark.parametrize(
    ("arguments", "lengths", "most", "is_plain"),
    [
        ({}, [1], 20, True),
        ({"max_new_tokens": None, "num_beams": None, "eos_token_id": None}, [1], 20, True),
        ({"num_beams": 1, "do_sample": False, "num_return_sequences": 1, "use_cache": True}, [1], 20, True),
        ({"max_new_tokens": np.int64(7), "num_beams": np.int32(1)}, [3, 5], 7, True),
        ({"max_length": 512}, [1], 511, True),
        ({"max_length": 9, "min_length": 6}, [4, 4], 5, True),
        ({"generation_config": GenerationConfig(max_new_tokens=9)}, [1], 9, True),
        ({"generation_config": GenerationConfig(max_new_tokens=9), "max_new_tokens": 4}, [1], 4, True),
        ({"eos_token_id": [3, 4]}, [1], 20, False),
        ({"num_beams": 2}, [1], 20, True),
        ({"do_sample": True, "top_k": 1}, [1], 20, False),
        ({"repetition_penalty": 1.5}, [1], 20, False),
        ({"generation_config": GenerationConfig(num_beams=3)}, [1], 20, True),
    ],
    ids=str,
)
def test_arguments_become_settings(arguments, lengths, most, is_plain):
    found = resolve(arguments, lengths)
    assert (found.max_new_tokens, found.is_plain, found.pad_token_id) == (most, is_plain, 0)


def test_arguments_override_the_configuration_and_that_the_checkpoints():
    configured = GenerationConfig(max_length=8, repetition_penalty=2.0)
    defaults = {"max_length": 6, "repetition_penalty": 3.0, "no_repeat_ngram_size": 4, "eos_token_id": -1}
    found = resolve({"generation_config": configured, "repetition_penalty": 1.5}, defaults=defaults)
    assert (found.max_new_tokens, found.eos_token_id) == (7, 4)
    assert found.others == {"repetition_penalty": 1.5, "no_repeat_ngram_size": 4}


REFUSED = [
    ({"max_length": 0}, "max_length is 0; it takes a whole number, 1 or more"),
    ({"max_length": 1}, "begins with 1 tokens that count: .*max_new_tokens"),
    ({"max_length": 5.0}, "max_length is 5.0; it takes a whole number"),
    ({"max_length": 513}, "1 .* and 512 new .* 512 positions: .* most 511"),
    ({"max_new_tokens": -3}, "max_new_tokens is -3; it takes"),
    ({"max_new_tokens": "5"}, "max_new_tokens is '5'; it takes a whole number"),
    ({"max_new_tokens": True}, "max_new_tokens is True; it takes"),
    ({"max_new_tokens": 512}, "set max_new_tokens, at most 511"),
    ({"max_length": 9, "max_new_tokens": 8}, "max_length is 9 and max_new_tokens is 8: give one"),
    ({"min_new_tokens": 5, "max_new_tokens": 2}, "at least 5 new tokens are asked for and at most 2"),
    ({"min_length": 5, "max_length": 3}, "at least 4 new tokens are asked for and at most 2"),
    ({"min_new_tokens": 30}, "at least 30 .*at most 20: raise max_new_tokens"),
    ({"num_beams": 0}, "num_beams is 0; it takes a whole number, 1 or more"),
    ({"num_beams": 2.0}, "num_beams is 2.0; it takes a whole number"),
    ({"num_beams": 10**9}, "num_beams is 1000000000; it takes less than the 35 tokens"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences is 3 but num_beams is 2"),
    ({"num_return_sequences": 2}, "num_beams is 1: have as many beams .*do_sample=True"),
    ({"eos_token_id": -5}, "eos_token_id is -5; it takes a token of the vocabulary, 0 to 34"),
    ({"eos_token_id": [3, 35]}, r"eos_token_id is \[3, 35\]; it takes a token"),
    ({"pad_token_id": "[PAD]"}, "pad_token_id is '.PAD.'; it takes a token"),
    ({"length_penalty": "long", "num_beams": 2}, "length_penalty is 'long'; it takes a number"),
    ({"length_penalty": float("inf"), "num_beams": 2}, "length_penalty is inf; it takes a number"),
    ({"early_stopping": "soon", "num_beams": 2}, "early_stopping is 'soon'; it takes True, False or 'never'"),
    ({"generation_config": {"max_length": 3}}, "generation_config is a dict; it takes a GenerationConfig"),
    ({"num_beam": 3}, "'num_beam' is no argument of a generation here; did you mean 'num_beams'"),
    ({"zzz": 3}, "'zzz' is no argument of a generation here; there are bad_words_ids, "),
    *(
        ({name: 1}, f"'{name}' is no argument of a generation here")
        for name in ("encoder_hidden_states", "inputs", "past_key_values", "cache", "custom_generate")
    ),
    *(({name: 0.5}, f"{name} is 0.5, but nothing is sampled: add do_sample=True") for name in sorted(SAMPLING)),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=str)
def test_what_cannot_be_done_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve(arguments)


NOT_HERE = {
    "cache_implementation": "static",
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 2,
    "guidance_scale": 2.0,
    "output_attentions": True,
    "output_hidden_states": True,
    "num_beam_groups": 2,
    "penalty_alpha": 0.6,
    "dola_layers": "high",
    "token_healing": True,
}


@pytest.mark.parametrize("name", NOT_HERE)
@pytest.mark.parametrize("way", ["by keyword", "in a GenerationConfig"])
def test_what_another_decoder_could_do_is_refused_in_both_ways(name, way):
    given = {name: NOT_HERE[name]}
    with pytest.raises(ValueError, match=f"'{name}' is no argument of a generation here"):
        resolve(given if way == "by keyword" else {"generation_config": GenerationConfig(**given)})


@pytest.mark.parametrize(
    ("arguments", "lengths", "message"),
    [
        ({"max_length": 9}, [2, 3], "max_length counts the prompt's tokens, and these prompts differ .*max_new_tokens"),
        ({"min_length": 9}, [2, 3], "min_length counts the prompt's tokens, .*min_new_tokens"),
        ({"max_length": 9}, [10], "max_length is 9, and the text begins with 10 tokens"),
        ({"max_new_tokens": 8}, [505], "505 tokens .* 8 new ones .* 512 positions: set max_new_tokens, at most 7"),
        ({}, [500], "500 tokens to begin with and 20 new ones"),
        ({"max_new_tokens": 1}, [512], "512 tokens to begin with and 1 new ones .*: cut the text"),
    ],
)
def test_prompts_leave_room_for_what_is_generated(arguments, lengths, message):
    assert resolve({"max_new_tokens": 7}, [505]).max_new_tokens == 7
    with pytest.raises(ValueError, match=message):
        resolve(arguments, lengths)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 3, 5, 34, 35, 511, 512, 10**30, "3", [3], [None], [], np.int64(3), np.zeros(2), len]),
    st.floats(),
    st.builds(GenerationConfig, max_new_tokens=st.integers(1, 600)),
)


@settings(derandomize=True, deadline=None, database=None, max_examples=500, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(st.sampled_from([*COUNTS, *TOKENS, "generation_config"]), VALUES, max_size=4),
    st.dictionaries(st.one_of(st.sampled_from(sorted(GENERATE_ARGUMENTS)), st.text()), VALUES, max_size=2),
)
def test_any_arguments_become_settings_within_the_models_limits_or_a_value_error(counted, others):
    try:
        found = resolve(others | counted)
    except ValueError:
        return
    assert 0 <= found.min_new_tokens <= found.max_new_tokens <= 511
