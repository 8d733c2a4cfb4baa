"""The arguments of a generation: merged, checked where transformers would be silent or unclear, in one dataclass."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from numbers import Integral, Real
from types import SimpleNamespace
from typing import Protocol

import numpy as np

DEFAULT_NEW_TOKENS = 20
"""What transformers takes too, though with a warning each time."""

COUNTS = {
    **{"max_length": 1, "max_new_tokens": 1, "min_length": 0, "min_new_tokens": 0},
    **{"num_beams": 1, "num_return_sequences": 1},
}
"""Whole numbers, and the least each may be."""
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
"""What only sampling heeds."""
TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id")
ROW_BY_ROW = (
    *("streamer", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn"),
    *("return_dict_in_generate", "max_time"),
)
"""What sees the rows or the time of one call of `generate`, and so not of a batch that is worked off in pieces."""
GENERATE_ARGUMENTS = {
    *COUNTS,
    *SAMPLING,
    *TOKENS,
    *ROW_BY_ROW,
    *("do_sample", "use_cache", "renormalize_logits", "remove_invalid_values", "output_scores", "output_logits"),
    *("repetition_penalty", "no_repeat_ngram_size", "early_stopping", "length_penalty", "generation_config"),
    *("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens"),
    *("exponential_decay_length_penalty", "watermarking_config", "stop_strings", "tokenizer"),
}
"""The arguments of transformers' `generate` that do here what they say. The others would bring a second model or a
cache of their own, ask for attentions that the compiled decoder does not give, or load code from the Hub."""
NEUTRAL = {"do_sample": False, "use_cache": True}
"""Settings that are transformers' defaults."""


class Streamer(Protocol):
    """What gets tokens as they come, such as transformers' `TextStreamer`: the prompts [texts, T] first, then [texts].

    Beams settle their tokens only at the end: before that each of their steps brings an empty array.
    """

    def put(self, value: np.ndarray) -> None: ...

    def end(self) -> None: ...


@dataclass(frozen=True)
class GenerationSettings:
    """How a text is generated: what greedy and beam search know in fields, in `others` what only transformers knows.

    See `resolve_settings`.
    """

    eos_token_id: int | Sequence[int]
    pad_token_id: int
    max_new_tokens: int = DEFAULT_NEW_TOKENS
    min_new_tokens: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    streamer: Streamer | None = None
    return_dict_in_generate: bool = False
    others: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it is greedy or beam search, with one token that ends a text and nothing else asked for."""
        return not self.others and isinstance(self.eos_token_id, Integral)

    def generate_kwargs(self) -> dict[str, object]:
        """The same as arguments of transformers' `generate`."""
        given = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "others"}
        return {name: value for name, value in (given | dict(self.others)).items() if value is not None}


def resolve_settings(
    config: SimpleNamespace, defaults: Mapping[str, object], prompt_lengths: Sequence[int], arguments: Mapping
) -> GenerationSettings:
    """The settings of a generation from the checkpoint's defaults, a caller's `generation_config` and arguments.

    Each overrides the one before; an argument that is None leaves a setting as it is.

    Args:
        config: the text configuration; has the decoder's vocabulary, positions, and what its tokens mean.
        defaults: the checkpoint's `generation_config.json`.
        prompt_lengths: how many tokens each row begins with.
        arguments: those of transformers' `generate` named in `GENERATE_ARGUMENTS`.

    Raises:
        ValueError: a name is unknown, a number out of its range, two arguments contradict each other, or more tokens
            are asked for than the decoder has positions.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    configured = given.pop("generation_config", None)
    if configured is not None:
        # Who has made one has imported transformers.
        config_class = getattr(sys.modules.get("transformers"), "GenerationConfig", type(None))
        if not isinstance(configured, config_class):
            raise ValueError(f"generation_config is a {type(configured).__name__}; it takes a GenerationConfig")
        given = _known(configured.to_diff_dict()) | given
    for name in given.keys() - GENERATE_ARGUMENTS:
        likeness = get_close_matches(name, GENERATE_ARGUMENTS, 1)
        hint = f"did you mean {likeness[0]!r}?" if likeness else f"there are {', '.join(sorted(GENERATE_ARGUMENTS))}"
        raise ValueError(f"{name!r} is no argument of a generation here; {hint}")
    tokens = {"eos_token_id": config.sep_token_id, "pad_token_id": config.pad_token_id}
    settings = _known(defaults) | tokens | given
    _check_values(config, settings, given)
    settings = _new_tokens(config, settings, given, prompt_lengths)
    own = {name: settings.pop(name) for name in GenerationSettings.__dataclass_fields__ if name in settings}
    others = {name: value for name, value in settings.items() if (name, value) not in NEUTRAL.items()}
    return GenerationSettings(**own, others=others)


def check_pieces(settings: GenerationSettings, rows: int, rows_at_once: int) -> None:
    """Raise ValueError where a batch is worked off in pieces, and something asked for would see one piece only."""
    given = settings.generate_kwargs()
    asked = [name for name in ROW_BY_ROW if given.get(name)]
    if settings.is_plain:
        asked = [name for name in asked if name != "return_dict_in_generate"]  # pieces of it are put together
    if rows > rows_at_once and asked:
        raise ValueError(
            f"{asked[0]} sees the rows of one batch, and {rows} rows are worked off {rows_at_once} at a time to bound "
            f"memory: give at most {rows_at_once} in a call"
        )


def _known(settings: Mapping[str, object]) -> dict[str, object]:
    """A configuration's settings, less what says nothing about a generation."""
    silent = {"transformers_version", "_from_model_config", "bos_token_id"}
    silent |= {name for name in ("output_attentions", "output_hidden_states") if not settings.get(name)}
    return {name: value for name, value in settings.items() if value is not None and name not in silent}


def _check_values(config: SimpleNamespace, settings: Mapping[str, object], given: Mapping[str, object]) -> None:
    for name in settings.keys() & COUNTS.keys():
        value = settings[name]
        if not isinstance(value, Integral) or isinstance(value, bool) or value < COUNTS[name]:
            raise ValueError(f"{name} is {value!r}; it takes a whole number, {COUNTS[name]} or more")
    for name in settings.keys() & set(TOKENS):
        tokens = settings[name] if isinstance(settings[name], list | tuple) else [settings[name]]
        if not all(isinstance(token, Integral) and 0 <= token < config.vocab_size for token in tokens):
            raise ValueError(
                f"{name} is {settings[name]!r}; it takes a token of the vocabulary, 0 to {config.vocab_size - 1}"
            )
    beams, rows = settings.get("num_beams", 1), settings.get("num_return_sequences", 1)
    samples = settings.get("do_sample", False)
    if beams >= config.vocab_size:
        raise ValueError(f"num_beams is {beams}; it takes less than the {config.vocab_size} tokens of the vocabulary")
    if rows > beams and (beams > 1 or not samples):
        raise ValueError(
            f"num_return_sequences is {rows} but num_beams is {beams}: "
            "have as many beams as texts, or sample them with do_sample=True and one beam"
        )
    penalty, stopping = settings.get("length_penalty", 1.0), settings.get("early_stopping", False)
    if not isinstance(penalty, Real) or not np.isfinite(penalty):
        raise ValueError(f"length_penalty is {penalty!r}; it takes a number")
    if not isinstance(stopping, bool | str) or stopping not in (True, False, "never"):
        raise ValueError(f"early_stopping is {stopping!r}; it takes True, False or 'never'")
    for name in given.keys() & SAMPLING if not samples else ():
        raise ValueError(f"{name} is {given[name]!r}, but nothing is sampled: add do_sample=True or leave it out")


def _new_tokens(
    config: SimpleNamespace, settings: dict[str, object], given: Mapping[str, object], prompt_lengths: Sequence[int]
) -> dict[str, object]:
    """The settings with lengths as numbers of new tokens, which is what they are to the rows of a batch."""
    longest, positions = max(prompt_lengths), config.max_position_embeddings
    if {"max_length", "max_new_tokens"} <= given.keys():
        raise ValueError(
            f"max_length is {given['max_length']} and max_new_tokens is {given['max_new_tokens']}: give one of them"
        )
    settings = dict(settings)
    for name in ("max_length", "min_length"):
        total, new = settings.pop(name, 0), name.replace("_length", "_new_tokens")
        if not total or (new in settings and name not in given):
            continue
        if min(prompt_lengths) != longest:
            raise ValueError(f"{name} counts the prompt's tokens, and these prompts differ in length: set {new}")
        if name == "max_length" and total <= longest:
            raise ValueError(
                f"max_length is {total}, and the text begins with {longest} tokens that count: make it longer, "
                "or set max_new_tokens"
            )
        settings[new] = max(total - longest, settings.get(new, 0) if name == "min_length" else 0)
    most, least = settings.setdefault("max_new_tokens", DEFAULT_NEW_TOKENS), settings.get("min_new_tokens", 0)
    if longest + most > positions:
        raise ValueError(
            f"{longest} tokens to begin with and {most} new ones are more than the decoder's {positions} positions: "
            + (f"set max_new_tokens, at most {positions - longest}" if longest < positions else "cut the text")
        )
    if least > most:
        raise ValueError(f"at least {least} new tokens are asked for and at most {most}: raise max_new_tokens")
    return settings
