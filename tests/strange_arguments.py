"""Generation arguments as people try them. `SAME` is what is generated without any."""

import numpy as np
import torch
from strange import Refused, Row
from strange_texts import SAME
from transformers import GenerationConfig, MaxLengthCriteria, StoppingCriteriaList


class Collector:
    """The least that a streamer is."""

    def __init__(self):
        self.values = []

    def put(self, value: torch.Tensor) -> None:
        self.values.append(value)

    def end(self) -> None:
        self.values.append(None)


ARGUMENTS = [
    Row("none of them", {}, SAME),
    Row(
        "all of them None", {"max_length": None, "max_new_tokens": None, "num_beams": None, "eos_token_id": None}, SAME
    ),
    Row(
        "the defaults, said", {"num_beams": 1, "do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50}, SAME
    ),
    Row("max_length of all positions", {"max_length": 512}, SAME),
    Row("NumPy's integers", {"max_new_tokens": np.int64(20), "num_beams": np.int32(1)}, SAME),
    Row("sampling with one choice", {"do_sample": True, "top_k": 1}, SAME),
    Row("streamer", {"streamer": Collector()}, SAME),
    Row("generation_config", {"generation_config": GenerationConfig(max_new_tokens=20)}, SAME),
    Row("empty stopping criteria", {"stopping_criteria": StoppingCriteriaList()}, SAME),
    Row("max_length 0", {"max_length": 0}, Refused("max_length is 0; it takes a whole number, 1 or more")),
    Row("max_length -1", {"max_length": -1}, Refused("max_length is -1; it takes a whole number, 1 or more")),
    Row(
        "max_length of the start alone", {"max_length": 1}, Refused("begins with 1 tokens that count: .*max_new_tokens")
    ),
    Row("max_length of a float", {"max_length": 5.0}, Refused("max_length is 5.0; it takes a whole number")),
    Row(
        "max_length past the positions", {"max_length": 513}, Refused("1 .* and 512 new .* 512 positions: .* most 511")
    ),
    Row("max_new_tokens 0", {"max_new_tokens": 0}, Refused("max_new_tokens is 0; it takes a whole number, 1 or more")),
    Row("max_new_tokens -3", {"max_new_tokens": -3}, Refused("max_new_tokens is -3; it takes")),
    Row("max_new_tokens 2.5", {"max_new_tokens": 2.5}, Refused("max_new_tokens is 2.5; it takes a whole number")),
    Row(
        "max_new_tokens of a string", {"max_new_tokens": "5"}, Refused("max_new_tokens is '5'; it takes a whole number")
    ),
    Row("max_new_tokens of a truth value", {"max_new_tokens": True}, Refused("max_new_tokens is True; it takes")),
    Row("max_new_tokens of a list", {"max_new_tokens": [5]}, Refused(r"max_new_tokens is \[5\]; it takes")),
    Row("max_new_tokens past the positions", {"max_new_tokens": 512}, Refused("set max_new_tokens, at most 511")),
    Row("max_new_tokens of a billion", {"max_new_tokens": 10**9}, Refused("1000000000 new ones are more than .* 512")),
    Row(
        "two lengths",
        {"max_length": 9, "max_new_tokens": 8},
        Refused("max_length is 9 and max_new_tokens is 8: give one"),
    ),
    Row("min_new_tokens -1", {"min_new_tokens": -1}, Refused("min_new_tokens is -1; it takes")),
    Row(
        "min over max, new",
        {"min_new_tokens": 5, "max_new_tokens": 2},
        Refused("min_new_tokens is 5, but .* at 3 tokens"),
    ),
    Row("min over max", {"min_length": 5, "max_length": 2}, Refused("min_length is 5, but the text ends at 2 tokens")),
    Row("min over the default", {"min_new_tokens": 30}, Refused("min_new_tokens is 30, but .* raise max_new_tokens")),
    Row("num_beams 0", {"num_beams": 0}, Refused("num_beams is 0; it takes a whole number, 1 or more")),
    Row("num_beams -1", {"num_beams": -1}, Refused("num_beams is -1; it takes")),
    Row("num_beams 2.0", {"num_beams": 2.0}, Refused("num_beams is 2.0; it takes a whole number")),
    Row("num_beams '3'", {"num_beams": "3"}, Refused("num_beams is '3'; it takes a whole number")),
    Row("a billion beams", {"num_beams": 10**9}, Refused("num_beams is 1000000000, more than the 35 tokens")),
    Row(
        "more texts than beams",
        {"num_beams": 2, "num_return_sequences": 3},
        Refused("num_return_sequences is 3 but num_b"),
    ),
    Row(
        "two greedy texts", {"num_return_sequences": 2}, Refused("num_beams is 1: have as many beams .*do_sample=True")
    ),
    Row("no text", {"num_return_sequences": 0}, Refused("num_return_sequences is 0; it takes")),
    Row(
        "temperature alone",
        {"temperature": 0.5},
        Refused("temperature is 0.5, but nothing is sampled: add do_sample=Tr"),
    ),
    Row("top_p while greedy", {"do_sample": False, "top_p": 0.9}, Refused("top_p is 0.9, but nothing is sampled")),
    Row(
        "temperature 0", {"do_sample": True, "temperature": 0.0}, Refused("temperature is 0.0; .* leave do_sample out")
    ),
    Row(
        "temperature -1",
        {"do_sample": True, "temperature": -1.0},
        Refused("temperature is -1.0; it takes a number above"),
    ),
    Row("temperature NaN", {"do_sample": True, "temperature": float("nan")}, Refused("temperature is nan; it takes")),
    Row(
        "temperature of a string", {"do_sample": True, "temperature": "hot"}, Refused("temperature is 'hot'; it takes")
    ),
    Row("top_p 2", {"do_sample": True, "top_p": 2.0}, Refused("top_p is 2.0; it takes a number from 0 to 1")),
    Row("top_k -1", {"do_sample": True, "top_k": -1}, Refused("top_k is -1; it takes a whole number, 0 or more")),
    Row("do_sample 'yes'", {"do_sample": "yes"}, Refused("do_sample is 'yes'; it takes True or False")),
    Row(
        "repetition_penalty 0",
        {"repetition_penalty": 0.0},
        Refused("repetition_penalty is 0.0; it takes a number above"),
    ),
    Row(
        "length_penalty 'x'",
        {"num_beams": 2, "length_penalty": "x"},
        Refused("length_penalty is 'x'; it takes a number"),
    ),
    Row(
        "early_stopping 'x'",
        {"num_beams": 2, "early_stopping": "x"},
        Refused("early_stopping is 'x'; it takes True, Fal"),
    ),
    Row("max_time 0", {"max_time": 0}, Refused("max_time is 0; it takes a number above 0")),
    Row(
        "eos_token_id -5",
        {"eos_token_id": -5},
        Refused("eos_token_id is -5; it takes a token of the vocabulary, 0 to 34"),
    ),
    Row(
        "eos_token_id past the vocabulary",
        {"eos_token_id": [3, 35]},
        Refused(r"eos_token_id is \[3, 35\]; it takes a to"),
    ),
    Row("pad_token_id of a string", {"pad_token_id": "[PAD]"}, Refused("pad_token_id is '.PAD.'; it takes a token")),
    Row(
        "streamer with beams", {"streamer": Collector(), "num_beams": 2}, Refused("cannot follow 2 beams.* num_beams=1")
    ),
    Row(
        "streamer of a string",
        {"streamer": "x"},
        Refused("streamer is 'x'; it takes an object with the methods put and"),
    ),
    Row(
        "stopping_criteria of a number", {"stopping_criteria": 5}, Refused("stopping_criteria is 5; it takes a list of")
    ),
    Row(
        "stopping_criteria, one bare",
        {"stopping_criteria": MaxLengthCriteria(2)},
        Refused("it takes a list of functions"),
    ),
    Row(
        "logits_processor of numbers",
        {"logits_processor": [3]},
        Refused(r"logits_processor is \[3\]; it takes a list of"),
    ),
    Row(
        "prefix function of a number",
        {"prefix_allowed_tokens_fn": 3},
        Refused("prefix_allowed_tokens_fn is 3; it takes a"),
    ),
    Row(
        "generation_config of a dict",
        {"generation_config": {"max_length": 3}},
        Refused("generation_config is a dict; it t"),
    ),
    Row(
        "generation_config past the positions",
        {"generation_config": GenerationConfig(max_new_tokens=600)},
        Refused("600 new ones are more than the decoder's 512 positions"),
    ),
    Row(
        "misspelt", {"num_beam": 3}, Refused("'num_beam' is no argument of a generation here; did you mean 'num_beams'")
    ),
    Row("unknown", {"zzz": 3}, Refused("'zzz' is no argument of a generation here; there are bad_words_ids, ")),
    Row(
        "the vision model's work",
        {"encoder_hidden_states": torch.zeros(1, 2, 3)},
        Refused("'encoder_hidden_states' is no"),
    ),
    Row("the model's mask", {"encoder_attention_mask": torch.ones(1, 2)}, Refused("'encoder_attention_mask' is no")),
    Row("ids by another name", {"inputs": torch.zeros(1, 1, dtype=torch.int64)}, Refused("'inputs' is no argument")),
    Row("embeddings", {"inputs_embeds": torch.zeros(1, 1, 64)}, Refused("'inputs_embeds' is no argument")),
    Row("a cache", {"past_key_values": 1}, Refused("'past_key_values' is no argument")),
    Row("another cache", {"cache_implementation": "static"}, Refused("'cache_implementation' is no argument")),
    Row("attentions", {"output_attentions": True}, Refused("'output_attentions' is no argument")),
    Row("groups of beams", {"num_beams": 4, "num_beam_groups": 2}, Refused("'num_beam_groups' is no argument")),
    Row(
        "a second model",
        {"assistant_model": None, "prompt_lookup_num_tokens": 3},
        Refused("'prompt_lookup_num_tokens' is"),
    ),
    Row(
        "code from the Hub", {"custom_generate": "someone/code", "trust_remote_code": True}, Refused("' is no argument")
    ),
]
