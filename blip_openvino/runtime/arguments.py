"""Checks on the arguments of a generation: what transformers would ignore, or fail on half-way, is refused at once."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BlipTextConfig

DEFAULT_NEW_TOKENS = 20
"""What transformers takes too, though with a warning each time."""

COUNTS = {
    **{"max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0},
    **{"num_beams": 1, "num_return_sequences": 1, "no_repeat_ngram_size": 0, "top_k": 0},
}
"""Arguments that are whole numbers, and the least each may be."""
NEUTRAL_SAMPLING = {
    **{"temperature": 1.0, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "top_h": 1.0},
    **{"epsilon_cutoff": 0.0, "eta_cutoff": 0.0},
}
"""Arguments that only sampling heeds, and the values that ask for nothing."""
POSITIVE = {"temperature", "repetition_penalty", "max_time"}
FRACTIONS = {"top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
SWITCHES = {
    *("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values"),
    *("return_dict_in_generate", "output_scores", "output_logits"),
}
TOKENS = {"pad_token_id", "bos_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id"}
CALLBACKS = {"logits_processor", "stopping_criteria"}
GENERATE_ARGUMENTS = {
    *COUNTS,
    *NEUTRAL_SAMPLING,
    *POSITIVE,
    *SWITCHES,
    *TOKENS,
    *CALLBACKS,
    *("generation_config", "streamer", "prefix_allowed_tokens_fn", "early_stopping", "length_penalty"),
    # Rarely used; transformers checks their values.
    *("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("exponential_decay_length_penalty", "watermarking_config", "stop_strings", "tokenizer"),
}
"""The arguments of transformers' `generate` that do here what they say. The others would bring a second model or a
cache of their own, ask for attentions that the compiled decoder does not give, or load code from the Hub."""


def check_generate_arguments(
    config: BlipTextConfig, defaults: Mapping[str, object], prompt_tokens: int, arguments: Mapping[str, object]
) -> dict[str, object]:
    """The arguments of a generation, without those that are None and so leave a setting as it is.

    Args:
        config: has the decoder's vocabulary and positions.
        defaults: the settings that hold where `arguments` says nothing.
        prompt_tokens: how many tokens the longest text begins with.
        arguments: those of transformers' `generate` named in `GENERATE_ARGUMENTS`.

    Raises:
        ValueError: a name is unknown, a value of the wrong kind or out of its range, two arguments contradict each
            other, or more tokens are asked for than the decoder has positions.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given.keys() - GENERATE_ARGUMENTS:
        likeness = get_close_matches(name, GENERATE_ARGUMENTS, 1)
        hint = f"did you mean {likeness[0]!r}?" if likeness else f"there are {', '.join(sorted(GENERATE_ARGUMENTS))}"
        raise ValueError(f"{name!r} is no argument of a generation here; {hint}")
    base = defaults
    if "generation_config" in given:
        base = _settings_of(given["generation_config"])
    settings = {name: value for name, value in base.items() if value is not None} | given
    _check_values(config, settings if base is not defaults else given)
    _check_search(config, settings, given)
    _check_lengths(config, settings, given, prompt_tokens)
    return given


def _settings_of(generation_config: object) -> Mapping[str, object]:
    """What a caller's generation configuration holds; who has made one has imported transformers."""
    config_class = getattr(sys.modules.get("transformers"), "GenerationConfig", None)
    if config_class is None or not isinstance(generation_config, config_class):
        raise ValueError(
            f"generation_config is a {type(generation_config).__name__}; it takes transformers' GenerationConfig"
        )
    return vars(generation_config)


def _check_values(config: BlipTextConfig, settings: Mapping[str, object]) -> None:
    """Each value by itself."""

    def refuse(name: str, expected: str) -> None:
        raise ValueError(f"{name} is {settings[name]!r}; it takes {expected}")

    for name in settings.keys() & COUNTS.keys():
        if not _is_whole(settings[name]) or settings[name] < COUNTS[name]:
            refuse(name, f"a whole number, {COUNTS[name]} or more")
    for name in settings.keys() & POSITIVE:
        if not _is_number(settings[name]) or settings[name] <= 0:
            refuse(
                name, "a number above 0" + ("; for greedy search leave do_sample out" if name == "temperature" else "")
            )
    for name in settings.keys() & FRACTIONS:
        if not _is_number(settings[name]) or not 0 <= settings[name] <= 1:
            refuse(name, "a number from 0 to 1")
    if not _is_number(settings.get("length_penalty", 0)):
        refuse("length_penalty", "a number")
    for name in settings.keys() & SWITCHES:
        if not isinstance(settings[name], bool):
            refuse(name, "True or False")
    stopping = settings.get("early_stopping", False)
    if not isinstance(stopping, bool) and not (isinstance(stopping, str) and stopping == "never"):
        refuse("early_stopping", "True, False or 'never'")
    for name in settings.keys() & TOKENS:
        tokens = settings[name] if isinstance(settings[name], list | tuple) else [settings[name]]
        if not all(_is_whole(token) and 0 <= token < config.vocab_size for token in tokens):
            refuse(name, f"a token of the vocabulary, 0 to {config.vocab_size - 1}")
    for name in settings.keys() & CALLBACKS:
        if not isinstance(settings[name], list) or not all(map(callable, settings[name])):
            refuse(name, "a list of functions, such as transformers' own in a StoppingCriteriaList")
    if not callable(settings.get("prefix_allowed_tokens_fn", len)):
        refuse("prefix_allowed_tokens_fn", "a function of the row and its tokens")
    if "streamer" in settings and not all(
        callable(getattr(settings["streamer"], name, None)) for name in ("put", "end")
    ):
        refuse("streamer", "an object with the methods put and end, such as transformers' TextStreamer")


def _check_search(config: BlipTextConfig, settings: Mapping[str, object], given: Mapping[str, object]) -> None:
    """Beams, sampling and streamers together."""
    beams, rows = settings.get("num_beams", 1), settings.get("num_return_sequences", 1)
    samples = settings.get("do_sample", False)
    if beams > config.vocab_size:
        raise ValueError(f"num_beams is {beams}, more than the {config.vocab_size} tokens that a text can begin with")
    if rows > beams and (beams > 1 or not samples):
        raise ValueError(
            f"num_return_sequences is {rows} but num_beams is {beams}: "
            "have as many beams as texts, or sample them with do_sample=True and one beam"
        )
    if beams > 1 and "streamer" in settings:
        raise ValueError(
            f"a streamer cannot follow {beams} beams, whose text is known at the end only: use num_beams=1"
        )
    for name, neutral in NEUTRAL_SAMPLING.items():
        if not samples and given.get(name, neutral) != neutral:
            raise ValueError(f"{name} is {given[name]!r}, but nothing is sampled: add do_sample=True or leave it out")


def _check_lengths(
    config: BlipTextConfig, settings: Mapping[str, object], given: Mapping[str, object], prompt_tokens: int
) -> None:
    """The tokens that a text begins with, those it is given at least and at most, and the decoder's positions."""
    positions = config.max_position_embeddings
    if {"max_length", "max_new_tokens"} <= given.keys():
        raise ValueError(
            f"max_length is {given['max_length']} and max_new_tokens is {given['max_new_tokens']}: give one of them"
        )
    if "max_length" in settings and "max_new_tokens" not in settings:
        most = settings["max_length"]
        if most <= prompt_tokens:
            raise ValueError(
                f"max_length is {most}, and the text begins with {prompt_tokens} tokens that count: "
                "make it longer, or set max_new_tokens"
            )
    else:
        most = prompt_tokens + settings.get("max_new_tokens", DEFAULT_NEW_TOKENS)
    if most > positions:
        raise ValueError(
            f"{prompt_tokens} tokens to begin with and {most - prompt_tokens} new ones are more than the decoder's "
            f"{positions} positions: "
            + (
                f"set max_new_tokens, at most {positions - prompt_tokens}"
                if prompt_tokens < positions
                else "cut the text"
            )
        )
    for name, least in (
        ("min_length", settings.get("min_length", 0)),
        ("min_new_tokens", prompt_tokens + settings.get("min_new_tokens", 0)),
    ):
        if least > most:
            raise ValueError(
                f"{name} is {settings[name]}, but the text ends at {most} tokens, {most - prompt_tokens} of them new: "
                "raise max_new_tokens or lower it"
            )


def _is_whole(value: object) -> bool:
    """Whether it is an integer, Python's or NumPy's, and no truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
