"""Every row of strange input has its one outcome, and the model answers right after each."""

from collections.abc import Callable

import pytest
import torch
from conftest import picture
from strange import Refused, Row, named
from strange_arguments import ARGUMENTS, Collector
from strange_texts import AS_PYTORCH, CAPTION, CONTROL_QUESTION, QUESTIONS, SAME, TENSORS
from transformers import GenerationConfig

from blip_openvino.ir.checkpoint import generate_caption
from blip_openvino.runtime.images import load_image
from blip_openvino.runtime.inputs import check_question

ANSWER, CAPTIONED = "red", "a red triangle"


@pytest.fixture(scope="module")
def ask(fp16_model, processor) -> Callable[..., str]:
    """The library's way from an image and a question to a text, as the README shows it."""

    def answer(source, question: str = CONTROL_QUESTION, **generate_kwargs) -> str:
        question = check_question(question)
        inputs = processor(load_image(source), question or None, return_tensors="pt")
        generate = fp16_model.generate_answer if question else fp16_model.generate_caption
        return processor.decode(generate(**inputs, **generate_kwargs)[0], skip_special_tokens=True)

    return answer


@pytest.fixture(scope="module")
def control(processor) -> dict[str, torch.Tensor]:
    """The control question about the control picture as tensors."""
    return dict(processor(picture(), CONTROL_QUESTION, return_tensors="pt"))


@pytest.fixture(autouse=True)
def control_question_is_answered_right_after_each_row(ask):
    yield
    assert ask(picture()) == ANSWER
    assert ask(picture(), "") == CAPTIONED


@pytest.fixture
def vision_model_must_not_run(fp16_model, monkeypatch):
    """From its call on, an error where the vision model would run."""

    def encode_images(pixel_values):
        raise AssertionError("the vision model ran on wrong input")

    return lambda: monkeypatch.setattr(fp16_model, "encode_images", encode_images)


@pytest.mark.parametrize("row", named(QUESTIONS))
def test_strange_question(row: Row, ask, checkpoint, processor):
    if isinstance(row.expected, Refused):
        row.expected.check(lambda: ask(picture(), row.given))
        return
    expected = {SAME: ANSWER, CAPTION: CAPTIONED}.get(row.expected)
    if row.expected == AS_PYTORCH:
        inputs = processor(picture(), row.given, return_tensors="pt")
        expected = processor.decode(checkpoint.generate(**inputs)[0], skip_special_tokens=True)
    assert ask(picture(), row.given) == expected


@pytest.mark.parametrize("row", named(TENSORS))
def test_strange_tensor(row: Row, fp16_model, control, vision_model_must_not_run):
    if isinstance(row.expected, Refused):
        vision_model_must_not_run()
        row.expected.check(lambda: fp16_model.generate_answer(**row.given(control)))
        return
    assert torch.equal(fp16_model.generate_answer(**row.given(control)), fp16_model.generate_answer(**control))


@pytest.mark.parametrize("row", named([row for row in TENSORS if row.name != "no ids"]))
def test_strange_tensor_as_a_prompt(row: Row, fp16_model, control, vision_model_must_not_run):
    if isinstance(row.expected, Refused):
        vision_model_must_not_run()
        row.expected.check(lambda: fp16_model.generate_caption(**row.given(control)))
        return
    assert torch.equal(fp16_model.generate_caption(**row.given(control)), fp16_model.generate_caption(**control))


@pytest.mark.parametrize("row", named(ARGUMENTS))
def test_strange_argument(row: Row, fp16_model, control, vision_model_must_not_run):
    pixel_values = control["pixel_values"]
    if isinstance(row.expected, Refused):
        vision_model_must_not_run()
        row.expected.check(lambda: fp16_model.generate_answer(**control, **row.given))
        row.expected.check(lambda: fp16_model.generate_caption(pixel_values, **row.given))
        return
    expected = fp16_model.generate_answer(**control), fp16_model.generate_caption(pixel_values)
    assert torch.equal(fp16_model.generate_answer(**control, **row.given), expected[0])
    assert torch.equal(fp16_model.generate_caption(pixel_values, **row.given), expected[1])


def test_images_and_texts_that_do_not_pair_are_refused_before_anything_runs(
    fp16_model, control, vision_model_must_not_run
):
    images = fp16_model.encode_images(control["pixel_values"].expand(2, -1, -1, -1))
    texts = {name: control[name].expand(3, -1) for name in ("input_ids", "attention_mask")}
    vision_model_must_not_run()
    for pixel_values in (images, control["pixel_values"].expand(2, -1, -1, -1)):
        for generate in (fp16_model.generate_answer, fp16_model.generate_caption):
            Refused("2 images do not go with 3 texts: give one").check(lambda: generate(pixel_values, **texts))  # noqa: B023


def test_caption_takes_no_mask_without_a_prompt(fp16_model, control):
    inputs = {name: control[name] for name in ("pixel_values", "attention_mask")}
    Refused("attention_mask goes with input_ids").check(lambda: fp16_model.generate_caption(**inputs))


def test_prompt_leaves_room_for_what_is_generated(fp16_model, control):
    def caption(tokens: int, **arguments):
        prompt = torch.full((1, tokens), 5)
        return fp16_model.generate_caption(control["pixel_values"], prompt, **arguments)

    assert caption(505, max_new_tokens=7).shape[1] <= 512
    Refused("505 tokens .* 8 new ones .* 512 positions: set max_new_tokens, at most 7").check(
        lambda: caption(505, max_new_tokens=8)
    )
    Refused("500 tokens to begin with and 20 new ones").check(lambda: caption(500))
    Refused("512 tokens to begin with and 1 new ones .*: cut the text").check(lambda: caption(512, max_new_tokens=1))
    Refused("max_length is 9, and the text begins with 10 tokens").check(lambda: caption(10, max_length=9))


def test_prompts_of_several_lengths_are_refused_what_they_cannot_have(fp16_model, control, processor):
    batch = processor(text=["a", "a red"], padding=True, return_tensors="pt")
    for name, value in (("return_dict_in_generate", True), ("streamer", Collector())):
        Refused(f"{name} works on prompts of one length, these have \\[2, 3\\] tokens").check(
            lambda: fp16_model.generate_caption(control["pixel_values"], **batch, **{name: value})  # noqa: B023
        )
    configured = GenerationConfig(return_dict_in_generate=True, max_new_tokens=9)
    Refused("return_dict_in_generate works on prompts of one length").check(
        lambda: fp16_model.generate_caption(control["pixel_values"], **batch, generation_config=configured)
    )


def test_second_argument_for_the_question_is_pythons_own_error(fp16_model, control):
    with pytest.raises(TypeError, match="multiple values for argument 'input_ids'"):
        fp16_model.generate_answer(control["pixel_values"], control["input_ids"], **control)


def test_settings_of_the_folder_are_not_held_against_the_caller(fp16_model, control, monkeypatch):
    settings = {"temperature": 0.7, "eos_token_id": -1, "max_length": 9}
    monkeypatch.setattr(fp16_model.text_decoder, "generation_config", settings)
    assert fp16_model.generate_answer(**control).shape[1] <= 9
    Refused("temperature is 0.5, but nothing is sampled").check(
        lambda: fp16_model.generate_answer(**control, temperature=0.5)
    )


def test_captions_of_control_agree_with_pytorch(checkpoint, processor, control):
    """The control question's right answers are PyTorch's."""
    ids = generate_caption(checkpoint, control["pixel_values"])
    assert processor.decode(ids[0], skip_special_tokens=True) == CAPTIONED
    assert processor.decode(checkpoint.generate(**control)[0], skip_special_tokens=True) == ANSWER
