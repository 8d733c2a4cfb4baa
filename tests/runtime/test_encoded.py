"""Images held with their keys and values: made once, worked off in pieces, gone with whoever held them."""

import gc

import numpy as np
import pytest
import torch
from conftest import padded
from transformers import LogitsProcessorList, StoppingCriteriaList

import blip_model
from blip_openvino.runtime.arguments import ROW_BY_ROW
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncodedImages, EncoderTokens


@pytest.fixture(scope="module")
def asked(easy_vqa):
    """Ten questions about ten images: images, texts."""
    indices = easy_vqa.sample[:10]
    return easy_vqa.images(indices), easy_vqa.batch(indices)


def test_keys_and_values_of_images_are_made_once_for_each_text_model(fp16_model, asked, projected):
    pixel_values, batch = asked
    each = [fp16_model.encode_images(pixels) for pixels in pixel_values.split(1)]
    for _ in range(3):
        for images in each:
            fp16_model.generate_answer(images, **batch)
            fp16_model.generate_caption(images, num_beams=3)
    of_images = [call for call in projected if call != (fp16_model.text_decoder, 10)]  # those are of questions
    assert sorted(map(id, (model for model, _ in of_images))) == sorted(
        10 * [id(fp16_model.text_encoder)] + 10 * [id(fp16_model.text_decoder)]
    )


def test_nbytes_grows_by_the_keys_and_values_that_are_kept(fp16_model, asked):
    images = fp16_model.encode_images(asked[0])
    tokens, before = images.image_embeds.shape[1], images.nbytes
    fp16_model.generate_answer(images, **asked[1])
    for _ in range(2):
        fp16_model.generate_caption(images)
    kept = fp16_model.text_encoder.kept_bytes(tokens) + fp16_model.text_decoder.kept_bytes(tokens)
    assert images.nbytes == before + 10 * kept > before


@pytest.mark.parametrize("few", ["ROWS_AT_ONCE", "KEPT_BYTES"])
def test_a_large_batch_is_worked_off_in_pieces_with_equal_results(
    fp16_model, easy_vqa, asked, monkeypatch, projected, few
):
    pixel_values, batch = asked
    # Read without keys and values, as parts of them are: in bf16 the other way differs by what rounding does.
    images = fp16_model.encode_images(pixel_values, reused=False)
    beams = {"num_beams": 2, "num_return_sequences": 2}
    generations = [
        lambda: fp16_model.generate_answer(pixel_values, **batch),
        lambda: fp16_model.generate_answer(images, **batch, **beams),
        lambda: fp16_model.generate_caption(pixel_values),
        lambda: fp16_model.generate_caption(images, **batch, max_new_tokens=3),
    ]
    # Texts, not ids: beam search fills up rows that have ended with [SEP], other searches with [PAD].
    whole = [easy_vqa.texts(generate()) for generate in generations]
    kept = fp16_model.text_encoder.kept_bytes(images.image_embeds.shape[1])
    monkeypatch.setattr(blip_model, few, {"ROWS_AT_ONCE": 3, "KEPT_BYTES": 3 * kept + 1}[few])
    # In four pieces: of images for captions, of questions for answers, which need no keys and values of images.
    for generate, expected in zip(generations, whole, strict=True):
        projected.clear()
        assert easy_vqa.texts(generate()) == expected
        assert projected == [(fp16_model.text_decoder, rows) for rows in (3, 3, 3, 1)]


def test_one_image_with_many_texts_is_projected_once_however_many_pieces(fp16_model, asked, monkeypatch, projected):
    expected = fp16_model.generate_answer(asked[0][:1], **asked[1])
    projected.clear()
    monkeypatch.setattr(blip_model, "ROWS_AT_ONCE", 4)
    assert torch.equal(fp16_model.generate_answer(asked[0][:1], **asked[1]), expected)
    assert [rows for model, rows in projected if model is fp16_model.text_encoder] == [1]


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_what_sees_the_rows_of_one_batch_is_refused_in_pieces(fp16_model, asked, monkeypatch, name):
    wish = {
        "logits_processor": LogitsProcessorList([lambda input_ids, scores: scores]),
        "stopping_criteria": StoppingCriteriaList([lambda *args, **kwargs: False]),
        "return_dict_in_generate": True,
        "max_time": 9.0,
    }.get(name, print)
    monkeypatch.setattr(blip_model, "ROWS_AT_ONCE", 9)
    with pytest.raises(ValueError, match=f"{name} sees the rows of one batch, .* give at most 9 in a call"):
        fp16_model.generate_caption(asked[0], do_sample=name == "return_dict_in_generate", **{name: wish})


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}], ids=str)
def test_scores_of_pieces_are_put_together(fp16_model, asked, monkeypatch, search):
    whole = fp16_model.generate_caption(asked[0], return_dict_in_generate=True, **search)
    monkeypatch.setattr(blip_model, "ROWS_AT_ONCE", 4)
    found = fp16_model.generate_caption(asked[0], return_dict_in_generate=True, **search)
    assert torch.equal(found.sequences, whole.sequences)
    assert torch.allclose(found.log_probabilities, whole.log_probabilities, atol=0.05)


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}, {"do_sample": True}], ids=str)
def test_nothing_stays_behind_after_a_call(fp16_model, asked, search):
    def held() -> int:
        gc.collect()
        return sum(type(each) in (EncodedImages, EncoderTokens, DecoderState) for each in gc.get_objects())

    before = held()
    images = fp16_model.encode_images(asked[0])
    for given in (asked[0], asked[0].numpy(), images):
        fp16_model.generate_answer(given, **asked[1], **search)
        fp16_model.generate_caption(given, **search)
    assert held() == before + 1
    del images, given
    assert held() == before


def test_some_of_the_images_are_asked_as_if_they_were_encoded_alone(fp16_model, asked):
    images = fp16_model.encode_images(asked[0])
    expected = padded(fp16_model.generate_caption(images))
    assert len(images[3:7]) == 4
    assert torch.equal(padded(fp16_model.generate_caption(images[3:7])), expected[3:7])
    np.testing.assert_array_equal(images[3:7].image_embeds, fp16_model.encode_images(asked[0][3:7]).image_embeds)
