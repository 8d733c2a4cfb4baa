"""The public functions under whatever hypothesis thinks of: a result or a ValueError, nothing else, and no crash."""

from collections.abc import Callable
from unicodedata import category

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import picture
from hypothesis import HealthCheck, given, settings
from strange_arguments import Collector
from strange_texts import CONTROL_QUESTION
from transformers import BlipTextConfig, GenerationConfig

from blip_openvino.runtime.arguments import (
    CALLBACKS,
    COUNTS,
    FRACTIONS,
    GENERATE_ARGUMENTS,
    POSITIVE,
    SWITCHES,
    TOKENS,
    check_generate_arguments,
)
from blip_openvino.runtime.inputs import check_pixels, check_question, check_text

# Derandomized: a run that fails for one fails for all. No deadline: machines differ.
bounded = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
CONFIG = BlipTextConfig(vocab_size=35, max_position_embeddings=512)


DTYPES = st.one_of(
    npst.scalar_dtypes(),
    npst.unicode_string_dtypes(max_len=3),
    npst.array_dtypes(max_size=2),
    st.just(np.dtype(object)),
)
SHAPES = npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)


def a_result_or_refused(check: Callable, *arguments):
    """What `check` gives; None where it raises a ValueError that says something, and nothing else."""
    try:
        return check(*arguments)
    except ValueError as error:
        if not str(error):
            raise
        return None


@settings(bounded, max_examples=500)
@given(
    st.one_of(npst.arrays(DTYPES, SHAPES), npst.arrays(np.float64, (2, 3, 2, 2)), st.none(), st.text(), st.integers())
)
def test_pixel_values_are_finite_float32_or_refused(pixel_values):
    found = a_result_or_refused(check_pixels, pixel_values, [1, 3, 2, 2])
    if found is not None:
        assert found.dtype == np.float32
        assert found.shape == (len(pixel_values), 3, 2, 2)
        assert np.isfinite(found).all()


IDS = npst.arrays(npst.integer_dtypes(), (2, 3), elements={"min_value": 0, "max_value": 34})
MASKS = npst.arrays(st.one_of(npst.boolean_dtypes(), npst.integer_dtypes(), npst.floating_dtypes()), (2, 3))
TENSORLIKE = st.one_of(npst.arrays(DTYPES, SHAPES), st.none(), st.text())


@settings(bounded, max_examples=500)
@given(st.one_of(IDS, IDS, TENSORLIKE), st.one_of(MASKS, TENSORLIKE))
def test_texts_are_tokens_of_the_vocabulary_or_refused(input_ids, attention_mask):
    found = a_result_or_refused(check_text, CONFIG, input_ids, attention_mask)
    if found is not None:
        ids, mask = found
        assert ids.dtype == mask.dtype == np.int64
        assert ids.shape == mask.shape == input_ids.shape
        assert ids.tolist() == input_ids.tolist()
        assert set(mask.flatten().tolist()) <= {0, 1}
        assert mask[:, 0].all()


@pytest.fixture(scope="module")
def image(fp16_model, processor):
    pixel_values = processor(images=picture(), return_tensors="pt")["pixel_values"]
    return fp16_model.encode_images(pixel_values)


@settings(bounded, max_examples=300)
@given(
    text=st.one_of(st.text(st.characters(exclude_categories=()), max_size=60), st.none(), st.integers(), st.binary())
)
def test_any_characters_can_be_asked_and_nothing_else(fp16_model, processor, image, text):
    question = a_result_or_refused(check_question, text)
    if question is None:
        assert not isinstance(text, str)
        return
    assert check_question(question) == question
    assert not any(category(each).startswith("C") and each not in "\t\n\r" for each in question)
    if question:
        ids = fp16_model.generate_answer(image, **processor(text=question, return_tensors="pt"))
        assert ids.shape[0] == 1
        assert ids.shape[1] >= 2


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [-1, 0, 1, 2, 3, 5, 34, 35, 511, 512, 513, 10**30, 0.0, 0.5, 1.0, 2.0, "3", "never", [3], [None], []]
    ),
    st.sampled_from(
        [np.int64(3), np.float32(0.5), np.bool_(True), torch.tensor(3), torch.zeros(2), np.zeros(2), {}, len]
    ),
    st.floats(),
    st.builds(Collector),
    st.builds(GenerationConfig, max_new_tokens=st.integers(1, 30)),
)
CHECKED = sorted(
    {*COUNTS, *FRACTIONS, *POSITIVE, *SWITCHES, *TOKENS, *CALLBACKS}
    | {"streamer", "generation_config", "length_penalty", "early_stopping", "prefix_allowed_tokens_fn"}
)
ARGUMENTS = st.one_of(
    st.dictionaries(st.sampled_from(CHECKED), VALUES, max_size=4),
    st.dictionaries(st.one_of(st.sampled_from(sorted(GENERATE_ARGUMENTS)), st.text()), VALUES, max_size=3),
)


@settings(bounded, max_examples=1000)
@given(ARGUMENTS)
def test_generation_arguments_are_checked_or_refused(arguments):
    found = a_result_or_refused(check_generate_arguments, CONFIG, {}, 1, arguments)
    if found is not None:
        assert found.keys() == {name for name, value in arguments.items() if value is not None}


LIKELY = {
    **{name: st.sampled_from([1, 2, 3, 9, 20]) for name in COUNTS},
    **{name: st.floats(0.01, 1) for name in FRACTIONS | POSITIVE},
    **{name: st.booleans() for name in SWITCHES},
    **{name: st.integers(0, 35) for name in TOKENS},
    "length_penalty": st.floats(-2, 2),
    "early_stopping": st.sampled_from([True, False, "never"]),
    "streamer": st.builds(Collector),
}


@settings(bounded, max_examples=300)
@given(arguments=st.fixed_dictionaries({}, optional=LIKELY))
def test_arguments_that_pass_the_checks_generate(fp16_model, image, arguments):
    found = a_result_or_refused(lambda: fp16_model.generate_caption(image, **arguments))
    if found is not None:
        tokens = found.sequences if arguments.get("return_dict_in_generate") else found
        assert tokens.shape[0] == arguments.get("num_return_sequences", 1)
        assert tokens.min() >= 0
        assert tokens.max() < 35


def test_model_is_as_right_as_before(fp16_model, processor, image):
    ids = fp16_model.generate_answer(image, **processor(text=CONTROL_QUESTION, return_tensors="pt"))
    assert processor.decode(ids[0], skip_special_tokens=True) == "red"
