"""The model as a whole: PyTorch's texts token for token in float32, within stated bounds at all other settings."""

import copy
import subprocess
import sys
from functools import partial
from unittest.mock import Mock

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import ROOT, differing, in_openvino, padded, random_model
from PIL import Image
from transformers import GenerationMixin, LogitsProcessorList, StoppingCriteriaList, set_seed

from blip_model import OVBlipModel
from blip_openvino.ir.checkpoint import generate_caption
from blip_openvino.ir.files import Part

SAMPLING = {"do_sample": True, "temperature": 2.0, "top_p": 0.95, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def mixed(easy_vqa):
    """64 questions of many lengths about 64 images: indices, images, one padded batch."""
    indices = sorted(easy_vqa.sample, key=lambda index: (index * 37) % 101)[:64]
    batch = easy_vqa.batch(indices)
    assert len(set(batch["attention_mask"].sum(dim=1).tolist())) > 5
    return indices, easy_vqa.images(indices), batch


@pytest.fixture(scope="module")
def searches(easy_vqa, checkpoint, processor):
    """Ways to write other than greedily: what ours is asked for, and PyTorch's texts."""
    questions, images = easy_vqa.sample[:200], easy_vqa.pixel_values[:200]
    prompt = processor(text="a teal", return_tensors="pt")["input_ids"]
    config = checkpoint.config.text_config
    start = torch.tensor([[config.bos_token_id, *prompt[0, 1:-1]]] * 200)
    with torch.inference_mode():
        embeds = checkpoint.vision_model(images).last_hidden_state
    continued = checkpoint.text_decoder.generate(
        start, encoder_hidden_states=embeds, eos_token_id=config.sep_token_id, pad_token_id=config.pad_token_id
    )

    def sampled(generate):
        set_seed(3)
        return generate()

    return {
        "answers with beams": (
            lambda model: easy_vqa.openvino_answers(model, questions, num_beams=3),
            easy_vqa.torch_answers(checkpoint, questions, num_beams=3),
        ),
        "captions with beams": (
            lambda model: model.generate_caption(images, num_beams=5),
            generate_caption(checkpoint, images, num_beams=5),
        ),
        "sampled captions": (
            lambda model: sampled(lambda: model.generate_caption(images[:50], **SAMPLING)),
            sampled(lambda: generate_caption(checkpoint, images[:50], **SAMPLING)),
        ),
        "prompts": (
            lambda model: model.generate_caption(images, prompt.expand(200, -1)),
            continued,
        ),
    }


SEARCHES = ["answers with beams", "captions with beams", "sampled captions", "prompts"]


@pytest.mark.parametrize("name", SEARCHES)
def test_other_searches_equal_pytorch_in_float32(searches, f32_model, name):
    ours, expected = searches[name]
    assert torch.equal(padded(ours(f32_model)), padded(expected))


@pytest.mark.parametrize("name", SEARCHES)
def test_other_searches_nearly_equal_pytorch_at_every_setting(searches, model, name):
    ours, expected = searches[name]
    assert differing(padded(ours(model)), padded(expected)) <= len(expected) // 20


@pytest.fixture(scope="module", params=[1, 3])
def random_pair(request):
    """A model with random weights in PyTorch and in OpenVINO: it writes long, varied texts, the embedded one words."""
    model = random_model(request.param)
    size = model.config.vision_config.image_size
    return model, in_openvino(model), torch.randn(4, 3, size, size), torch.randint(5, 80, (4, 6))


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_new_tokens": 30},
        {"num_beams": 3, "max_new_tokens": 30},
        {"num_beams": 4, "num_return_sequences": 2},
        {"max_length": 12, "repetition_penalty": 1.5},
        {"max_new_tokens": 20, "min_new_tokens": 19},
        {"max_new_tokens": 20, "use_cache": False},
        {"max_new_tokens": 9, "no_repeat_ngram_size": 1},
        {"num_beams": 2, "do_sample": True, "max_new_tokens": 8},
        SAMPLING,
    ],
    ids=str,
)
def test_texts_of_random_models_equal_pytorch(random_pair, arguments):
    model, ours, pixel_values, input_ids = random_pair
    calls = (
        (lambda: model.generate(input_ids, pixel_values, **arguments), ours.generate_answer, (pixel_values, input_ids)),
        (lambda: generate_caption(model, pixel_values, **arguments), ours.generate_caption, (pixel_values,)),
    )
    for reference, generate, inputs in calls:
        set_seed(7)
        expected = reference()
        set_seed(7)
        assert torch.equal(generate(*inputs, **arguments), expected)


def test_float32_answer_does_not_depend_on_its_batch(f32_model, easy_vqa, mixed):
    indices, images, batch = mixed
    together = padded(f32_model.generate_answer(images, **batch))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = f32_model.generate_answer(images[order], **{name: each[order] for name, each in batch.items()})
    assert torch.equal(padded(shuffled), together[order])
    alone = [f32_model.generate_answer(easy_vqa.images([i]), easy_vqa.input_ids[i][None])[0] for i in indices]
    assert torch.equal(padded(alone), together)


@pytest.mark.parametrize("arguments", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}], ids=str)
def test_prompts_of_several_lengths_are_continued_as_each_alone(model, processor, easy_vqa, arguments):
    prompts = ["a", "a teal", "a red circle a blue", "a green", "a"]
    images, rows = easy_vqa.pixel_values[:5], arguments.get("num_return_sequences", 1)
    batch = processor(text=prompts, padding=True, return_tensors="pt")
    original = batch["input_ids"].clone()
    together = processor.batch_decode(model.generate_caption(images, **batch, **arguments), skip_special_tokens=True)
    assert torch.equal(batch["input_ids"], original)
    for index, prompt in enumerate(prompts):
        inputs = processor(text=prompt, return_tensors="pt")
        alone = model.generate_caption(images[index : index + 1], **inputs, **arguments)
        # Texts, not ids: the batch is padded, and beam search fills up rows that have ended.
        expected = processor.batch_decode(alone, skip_special_tokens=True)
        assert together[index * rows : (index + 1) * rows] == expected


@pytest.mark.parametrize("beams", [1, 3])
def test_callbacks_see_all_rows_of_prompts_of_several_lengths(fp16_model, processor, easy_vqa, beams):
    words = processor.tokenizer.convert_tokens_to_ids(["red", "blue", "teal"])
    batch = processor(text=["a", "a circle a", "a green circle"], padding=True, return_tensors="pt")
    seen = set()

    def own_word(row: int, input_ids: torch.Tensor) -> list[int]:
        return [words[row]]

    def count(input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
        seen.add(len(input_ids))
        return torch.zeros(len(input_ids), dtype=torch.bool)

    found = fp16_model.generate_caption(
        easy_vqa.pixel_values[:3],
        **batch,
        num_beams=beams,
        max_new_tokens=2,
        prefix_allowed_tokens_fn=own_word,
        logits_processor=LogitsProcessorList([lambda input_ids, scores: (count(input_ids, scores), scores)[1]]),
        stopping_criteria=StoppingCriteriaList([count]),
    )
    assert processor.batch_decode(found, skip_special_tokens=True) == [
        "a red red",
        "a circle a blue blue",
        "a green circle teal teal",
    ]
    assert seen <= {3 * beams, 6 * beams}  # beam search has two candidates for each beam


@pytest.mark.parametrize("arguments", [{}, {"repetition_penalty": 1.0}], ids=["own loop", "transformers' loop"])
def test_streamer_gets_every_token(fp16_model, easy_vqa, arguments):
    streamer = Mock()
    ids = fp16_model.generate_caption(easy_vqa.pixel_values[:1], streamer=streamer, **arguments)
    assert np.concatenate([np.ravel(call.args[0]) for call in streamer.put.mock_calls]).tolist() == ids[0].tolist()
    streamer.end.assert_called_once()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"max_new_tokens": np.int64(1)},
        {"max_length": 6, "num_beams": 1, "do_sample": False, "early_stopping": None},
        {"min_new_tokens": 6, "max_new_tokens": 7},
        {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
        {"num_beams": 4, "early_stopping": True, "min_new_tokens": 6},
    ],
    ids=str,
)
def test_greedy_and_beam_search_give_what_transformers_gives_without_running_it(
    fp16_model, f32_model, mixed, monkeypatch, arguments
):
    # Beams in float32: transformers reads a prompt once for each beam, ours once, which bf16 rounds otherwise.
    model = f32_model if arguments.get("num_beams", 1) > 1 else fp16_model
    _, images, batch = mixed
    generate_kwargs = arguments | {"repetition_penalty": 1.0}
    answers = model.generate_answer(images, **batch, **generate_kwargs)
    captions = model.generate_caption(images, **generate_kwargs)
    monkeypatch.setattr(GenerationMixin, "generate", None)
    assert torch.equal(model.generate_answer(images, **batch, **arguments), answers)
    assert torch.equal(model.generate_caption(images, **arguments), captions)


def test_the_folders_generation_settings_hold_where_the_caller_says_nothing(converted, easy_vqa):
    model, images = OVBlipModel.from_pretrained(converted, "CPU"), easy_vqa.pixel_values[:3]
    expected = model.generate_caption(images, max_new_tokens=2, num_beams=2)
    model.generation_config = {"max_length": 3, "num_beams": 2, "temperature": 0.7, "eos_token_id": -1}
    assert torch.equal(model.generate_caption(images), expected)
    assert model.generate_caption(images, max_new_tokens=1).shape[1] == 2


@pytest.mark.parametrize("search", [{}, {"num_beams": 2}], ids=str)
def test_arrays_give_arrays_and_tensors_tensors(fp16_model, mixed, search):
    _, images, batch = mixed
    arrays = {name: tensor.numpy() for name, tensor in batch.items()}
    for generate, texts in ((fp16_model.generate_answer, True), (fp16_model.generate_caption, False)):
        expected = generate(images, **batch if texts else {}, **search)
        for given in (images.numpy(), fp16_model.encode_images(images)):
            found = generate(given, **arrays if texts else {}, **search)
            assert (type(expected), type(found), found.dtype) == (torch.Tensor, np.ndarray, np.int64)
            assert np.array_equal(found, expected)


def test_published_cells_run_as_written(converted, checkpoint, easy_vqa, processor):
    """The cells of the published notebook that compile the parts, patch the PyTorch decoder and generate."""
    model = copy.deepcopy(checkpoint)  # a shallow copy would share its parts, and the decoder is patched
    VISION_MODEL_OV, TEXT_ENCODER_OV, TEXT_DECODER_OV = (converted / part.file() for part in Part)  # noqa: N806
    raw_image = Image.open(easy_vqa.paths[0]).convert("RGB")
    inputs = processor(raw_image, "what color is the shape?", return_tensors="pt")
    text_decoder = model.text_decoder

    core = ov.Core()
    ov_vision_model = core.compile_model(VISION_MODEL_OV, "CPU")
    ov_text_encoder = core.compile_model(TEXT_ENCODER_OV, "CPU")
    ov_text_decoder_with_past = core.compile_model(TEXT_DECODER_OV, "CPU")

    from blip_model import text_decoder_forward

    text_decoder.forward = partial(text_decoder_forward, ov_text_decoder_with_past=ov_text_decoder_with_past)

    ov_model = OVBlipModel(model.config, model.decoder_start_token_id, ov_vision_model, ov_text_encoder, text_decoder)
    out = ov_model.generate_answer(**inputs, max_length=20)
    caption = ov_model.generate_caption(inputs["pixel_values"], max_length=20)

    assert torch.equal(out, checkpoint.generate(**inputs, max_length=20))
    assert torch.equal(caption, generate_caption(checkpoint, inputs["pixel_values"], max_length=20))
    assert torch.equal(ov_model.generate_answer(**inputs, num_beams=3), checkpoint.generate(**inputs, num_beams=3))


def test_greedy_and_beam_search_import_neither_pytorch_nor_transformers(converted, easy_vqa):
    script = f"""
import sys
from blip_model import OVBlipModel
from blip_openvino.runtime.processor import OVBlipProcessor
folder = {str(converted)!r}
model, processor = OVBlipModel.from_pretrained(folder, "CPU"), OVBlipProcessor.from_pretrained(folder)
inputs = processor({easy_vqa.questions[0].image_path!r}, {easy_vqa.questions[0].question!r})
print(processor.decode(model.generate_answer(**inputs)[0]))
print(model.generate_caption(inputs["pixel_values"], num_beams=3, length_penalty=2.0).shape[0])
assert not {{"torch", "transformers"}} & sys.modules.keys(), "imported"
print(model.generate_caption(inputs["pixel_values"], do_sample=True).shape[0])
assert {{"torch", "transformers"}} <= sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [easy_vqa.questions[0].answer, "1", "1"]


def test_retrieval_checkpoint_matches_as_pytorch_and_says_that_it_cannot_write(
    retrieval_checkpoint, retrieval_folder, easy_vqa, mixed
):
    indices, images, batch = mixed
    model = OVBlipModel.from_pretrained(retrieval_folder, "CPU")
    with torch.inference_mode():
        scores = [
            retrieval_checkpoint(easy_vqa.input_ids[i][None], easy_vqa.images([i])).itm_score.softmax(dim=1)[0, 1]
            for i in indices
        ]
    assert torch.allclose(model.match(images, **batch), torch.stack(scores), atol=0.01)
    with pytest.raises(ValueError, match="BlipForImageTextRetrieval writes no text"):
        model.generate_caption(images)
    with pytest.raises(ValueError, match="BlipForImageTextRetrieval cannot read a question and answer it"):
        model.generate_answer(images, **batch)
