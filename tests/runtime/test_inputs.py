"""What a caller hands to the model: every kind of array gives the one answer, everything else a ValueError."""

import sys
from contextlib import suppress
from types import SimpleNamespace

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import EMBEDDED
from hypothesis import HealthCheck, given, settings
from transformers import BlipConfig

from blip_model import OVBlipModel
from blip_openvino.runtime.arrays import is_tensor
from blip_openvino.runtime.inputs import check_pixels, check_text


@pytest.fixture(scope="module")
def control(easy_vqa):
    """Two images, each with a question, as arrays."""
    return {
        "pixel_values": easy_vqa.images([0, 9]).numpy(),
        **{name: each.numpy() for name, each in easy_vqa.batch([0, 9]).items()},
    }


@pytest.fixture(autouse=True)
def the_next_answer_is_right(request, fp16_model, control, expected):
    yield
    assert np.array_equal(fp16_model.generate_answer(**control), expected)


@pytest.fixture(scope="module")
def expected(checkpoint, easy_vqa):
    return easy_vqa.torch_answers(checkpoint, [0, 9]).numpy()[:, :3]


def with_value(value: float, dtype: str = "float32"):
    def change(array: np.ndarray) -> np.ndarray:
        array = array.astype(dtype)
        array.flat[0] = value
        return array

    return change


PIXELS, IDS, MASK = "pixel_values", "input_ids", "attention_mask"
CONFIG = BlipConfig.from_pretrained(EMBEDDED)
SIZE, VOCABULARY = CONFIG.vision_config.image_size, CONFIG.text_config.vocab_size


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((PIXELS, lambda a, kind=kind: torch.tensor(a).to(kind)) for kind in (torch.float64, torch.bfloat16)),
        *((PIXELS, lambda a, kind=kind: a.astype(kind)) for kind in ("f2", "f8", ">f4")),
        (PIXELS, lambda a: a[:, :, ::-1].copy()[:, :, ::-1]),
        (PIXELS, lambda a: torch.tensor(a).requires_grad_()),
        (PIXELS, lambda a: np.asfortranarray(a)),
        *((IDS, lambda a, kind=kind: a.astype(kind)) for kind in ("i4", "u1", "u8")),
        (IDS, lambda a: np.stack([a, a], axis=2)[:, :, 0]),
        (IDS, torch.tensor),
        *((MASK, lambda a, kind=kind: a.astype(kind)) for kind in ("?", "f4", "u1")),
    ],
)
def test_any_layout_and_type_gives_the_one_answer(fp16_model, control, expected, name, change):
    found = fp16_model.generate_answer(**control | {name: change(control[name])})
    assert np.array_equal(found, expected)


REFUSED = [
    (
        PIXELS,
        lambda a: a[0],
        rf"pixel_values is \[3, {SIZE}, {SIZE}\] of float32; this model takes \[images, 3, {SIZE}, {SIZE}\]",
    ),
    (PIXELS, lambda a: a[:, :, :, :48], rf"is \[2, 3, {SIZE}, 48\].* use the processor"),
    (PIXELS, lambda a: a[:, :1], rf"pixel_values is \[2, 1, {SIZE}, {SIZE}\]"),
    (PIXELS, lambda a: a[:0], rf"pixel_values is \[0, 3, {SIZE}, {SIZE}\]"),
    (PIXELS, lambda a: a.astype("u1"), "of uint8; this model takes .* of floats"),
    (PIXELS, with_value(np.nan), f"1 of {2 * 3 * SIZE**2} pixel_values are NaN or infinite"),
    (PIXELS, with_value(-np.inf), f"1 of {2 * 3 * SIZE**2} pixel_values are NaN or infinite"),
    (PIXELS, with_value(1e300, "f8"), f"1 of {2 * 3 * SIZE**2} pixel_values are NaN or infinite"),
    (PIXELS, lambda a: a.tolist(), "pixel_values is a list; it takes an array or a tensor"),
    (PIXELS, lambda a: None, "pixel_values is a NoneType; it takes an array or a tensor"),
    (PIXELS, lambda a: a[[0, 0, 1]], "3 images do not go with 2 texts: give one"),
    (IDS, lambda a: a[0], r"input_ids is \[\d+\] of int64; it takes \[texts, tokens\]"),
    (IDS, lambda a: a[:, :0], r"input_ids is \[2, 0\] of int64"),
    (IDS, lambda a: a.astype("f4"), "of float32; it takes .* of int64"),
    (IDS, lambda a: a > 0, "of bool; it takes .* of int64"),
    (IDS, with_value(-1, "i8"), f"input_ids has tokens from -1 to .* outside the vocabulary of {VOCABULARY}"),
    (IDS, with_value(VOCABULARY, "i8"), f"to {VOCABULARY}, outside the vocabulary of {VOCABULARY}: use the tokenizer"),
    (IDS, lambda a: np.tile(a, 65), "tokens long; the model takes 512: shorten it"),
    (IDS, lambda a: "is there a circle?", "input_ids is a str; it takes an array"),
    (IDS, lambda a: a[[0, 1, 1]], r"attention_mask is \[2, \d+\] but input_ids is \[3"),
    (MASK, lambda a: a[:, :3], r"attention_mask is \[2, 3\] but input_ids is"),
    (MASK, np.zeros_like, "at least one token in each text"),
    (MASK, lambda a: a * 2, "attention_mask takes 1 for tokens and 0 for padding"),
    (MASK, lambda a: a * np.nan, "attention_mask takes 1 for tokens"),
    (MASK, with_value(0, "i8"), "hides tokens before others: pad texts at the end, padding_side='right'"),
    (MASK, lambda a: a.tolist(), "attention_mask is a list; it takes an array"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_wrong_inputs_are_refused_before_the_model_runs(fp16_model, control, monkeypatch, name, change, message):
    inputs = control | {name: change(control[name])}
    if name != PIXELS:
        monkeypatch.setattr(fp16_model, "encode_images", None)
    for generate in (fp16_model.generate_answer, fp16_model.generate_caption):
        with pytest.raises(ValueError, match=message):
            generate(**inputs)


def test_captions_take_no_mask_without_a_prompt(fp16_model, control):
    with pytest.raises(ValueError, match="attention_mask goes with input_ids"):
        fp16_model.generate_caption(control[PIXELS], attention_mask=control[MASK])


def test_images_that_another_model_encoded_are_refused(fp16_model, converted, control):
    images = OVBlipModel.from_pretrained(converted, "CPU").encode_images(control[PIXELS])
    with pytest.raises(ValueError, match="encoded by another model: use this one's encode_images"):
        fp16_model.generate_caption(images)


def test_tensors_are_told_from_arrays_while_another_thread_imports_pytorch(monkeypatch):
    """A module in the middle of its import is there, but its names are not."""
    assert is_tensor(torch.zeros(1))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace())
    assert not is_tensor(np.zeros(1))


SHORT = SimpleNamespace(vocab_size=35, max_position_embeddings=8)
SHAPES = npst.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=5)
ANYTHING = st.one_of(npst.arrays(npst.scalar_dtypes(), SHAPES), st.none(), st.text(), st.integers())
TOKENS = npst.arrays(npst.integer_dtypes(), (2, 3), elements={"min_value": 0, "max_value": 34})
MASKS = npst.arrays(st.one_of(npst.boolean_dtypes(), npst.integer_dtypes(), npst.floating_dtypes()), (2, 3))


@settings(derandomize=True, deadline=None, database=None, max_examples=500, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(ANYTHING, npst.arrays(np.float64, (2, 3, 2, 2))), st.one_of(TOKENS, ANYTHING), st.one_of(MASKS, ANYTHING)
)
def test_any_inputs_are_checked_arrays_or_a_value_error(pixel_values, input_ids, attention_mask):
    with suppress(ValueError):
        pixels = check_pixels(pixel_values, [1, 3, 2, 2])
        assert (pixels.dtype, pixels.shape[1:]) == (np.float32, (3, 2, 2))
        assert np.isfinite(pixels).all()
    with suppress(ValueError):
        ids, mask = check_text(SHORT, input_ids, attention_mask)
        assert ids.dtype == mask.dtype == np.int64
        assert ids.tolist() == input_ids.tolist()
        assert set(mask.flatten().tolist()) <= {0, 1}
        assert mask[:, 0].all()
