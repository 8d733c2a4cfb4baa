"""Whatever is handed in: a result or a documented error, never another exception and never the end of the process."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from blip_images import load_image
from blip_inputs import check_pixels, check_question, check_text
from easy_vqa_data import load_captions

FUZZ = settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(FUZZ, max_examples=60)
ODD_NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 7, 10**9, 0.5, -0.5, float("nan"), float("inf"), "3", None, True])


def image_files() -> list[bytes]:
    """A small valid file of every format that is likely to be handed in."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    files = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO"):
        file = BytesIO()
        Image.fromarray(pixels).save(file, kind)
        files.append(file.getvalue())
    return files


@st.composite
def damaged_files(draw) -> bytes:
    """A valid file with some bytes changed, cut out or put in."""
    content = bytearray(draw(st.sampled_from(image_files())))
    for _ in range(draw(st.integers(0, 8))):
        place, new = draw(st.integers(0, len(content))), draw(st.binary(max_size=4))
        content[place : place + draw(st.integers(0, 6))] = new
    return bytes(content)


def result_of(call: Callable[[], object]) -> object:
    """What `call` gives; None where it raises a ValueError that says something, and nothing else."""
    try:
        return call()
    except ValueError as error:
        if not str(error):
            raise
        return None


def is_picture(image: Image.Image) -> bool:
    return image.mode == "RGB" and min(image.size) > 0 and np.asarray(image).shape == (*image.size[::-1], 3)


@FUZZ
@given(st.one_of(damaged_files(), st.binary(max_size=200)))
def test_any_bytes_are_a_picture_or_a_value_error(content):
    result = result_of(lambda: load_image(content))
    if result is None:
        return
    image = result
    assert is_picture(image)


@FUZZ
@given(
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), hnp.unicode_string_dtypes(max_len=2)),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    )
)
def test_any_array_is_a_picture_or_a_value_error(pixels):
    result = result_of(lambda: load_image(pixels))
    if result is None:
        return
    image = result
    assert is_picture(image)


@FUZZ
@given(
    hnp.arrays(
        hnp.scalar_dtypes(), st.sampled_from([(1, 3, 4, 4), (2, 3, 4, 4), (3, 4, 4), (0, 3, 4, 4), (1, 3, 4, 5)])
    )
)
def test_any_pixels_are_float32_of_the_models_size_or_a_value_error(pixels):
    result = result_of(lambda: check_pixels(pixels, [1, 3, 4, 4]))
    if result is None:
        return
    found = result
    assert found.dtype == np.float32
    assert found.shape[1:] == (3, 4, 4)
    assert np.isfinite(found).all()


@FUZZ
@given(
    hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.none() | hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
)
def test_any_token_ids_and_mask_are_checked_ones_or_a_value_error(checkpoint, input_ids, attention_mask):
    config = checkpoint.config.text_config
    result = result_of(lambda: check_text(config, input_ids, attention_mask))
    if result is None:
        return
    ids, mask = result
    assert ids.dtype == mask.dtype == torch.int64
    assert ids.shape == mask.shape
    assert 0 <= ids.min() <= ids.max() < config.vocab_size
    assert set(mask.unique().tolist()) <= {0, 1}


@FEW
@given(st.one_of(st.text(max_size=60), st.none(), st.integers(), st.binary(max_size=4)))
def test_any_question_is_answered_or_a_value_error(fp16_model, processor, easy_vqa, question):
    image = easy_vqa.pixel_values[:1]
    result = result_of(lambda: check_question(question))
    if result is None:
        return
    text = result
    ids = fp16_model.generate_answer(image, **processor(text=text, return_tensors="pt"))
    assert ids.shape[0] == 1


@FEW
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "max_new_tokens",
                "max_length",
                "min_new_tokens",
                "num_beams",
                "temperature",
                "top_p",
                "top_k",
                "do_sample",
                "num_return_sequences",
                "repetition_penalty",
                "length_penalty",
                "early_stopping",
                "no_such_argument",
            ]
        ),
        ODD_NUMBERS,
        max_size=3,
    )
)
def test_any_generation_arguments_give_text_or_a_value_error_and_the_next_caption_is_right(
    fp16_model, easy_vqa, processor, arguments
):
    image, expected = easy_vqa.pixel_values[:1], load_captions("test")[easy_vqa.paths[0]]
    ids = result_of(lambda: fp16_model.generate_caption(image, **arguments))
    assert ids is None or ids.dtype == torch.int64
    assert processor.decode(fp16_model.generate_caption(image)[0], skip_special_tokens=True) == expected
