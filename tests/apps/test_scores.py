"""How sure the model is: log-probabilities are PyTorch's, and lists of answers are ranked as PyTorch would."""

import numpy as np
import pytest
import torch
from conftest import F32, EasyVQA
from transformers import GenerationConfig, PreTrainedModel

from blip_openvino.apps.blip import Answer, Blip
from blip_openvino.apps.load import load
from blip_openvino.data.easy_vqa import ANSWERS
from blip_openvino.evaluate.accuracy import LOST

TOLERANCE = 0.05
"""Of a log-probability in float32 arithmetic with FP16 weights: the likely ones are within 0.001, of -11 some 0.01."""


@pytest.fixture(scope="module")
def blip(converted) -> Blip:
    """In float32: what parity with PyTorch is measured on."""
    return load(converted, "CPU", "FP16", F32)


@torch.inference_mode()
def torch_scores(model: PreTrainedModel, hidden_states: torch.Tensor, **generate_kwargs) -> list[float]:
    """The sums of what `compute_transition_scores` gives for the raw logits of a generation's tokens."""
    config, decoder = model.config.text_config, model.text_decoder
    found = decoder.generate(
        torch.full((len(hidden_states), 1), config.bos_token_id),
        encoder_hidden_states=hidden_states,
        eos_token_id=config.sep_token_id,
        pad_token_id=config.pad_token_id,
        return_dict_in_generate=True,
        output_logits=True,
        **generate_kwargs,
    )
    beams = getattr(found, "beam_indices", None)
    scores = decoder.compute_transition_scores(found.sequences, found.logits, beams, normalize_logits=True)
    new = found.sequences[:, -scores.shape[1] :]
    return torch.where(new != config.pad_token_id, scores, 0).sum(dim=1).tolist()


@torch.no_grad()
def torch_read(checkpoint: PreTrainedModel, easy_vqa: EasyVQA, index: int) -> torch.Tensor:
    """A question as PyTorch's decoder looks at it, [1, T, hidden]."""
    embeds = checkpoint.vision_model(easy_vqa.images([index])).last_hidden_state
    return checkpoint.text_encoder(easy_vqa.input_ids[index][None], encoder_hidden_states=embeds).last_hidden_state


def scores(answers: list[Answer] | list[list[Answer]]) -> list[float]:
    return [each.score for several in answers for each in (several if isinstance(several, list) else [several])]


@pytest.mark.parametrize(
    "generate", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 3}], ids=["greedy", "beams", "several"]
)
def test_scores_are_those_of_pytorch(blip, checkpoint, easy_vqa, generate):
    embeds = checkpoint.vision_model(easy_vqa.pixel_values[:10]).last_hidden_state.detach()
    captions = scores(blip.caption(easy_vqa.paths[:10], **generate))
    assert captions == pytest.approx(torch_scores(checkpoint, embeds, **generate), abs=TOLERANCE)
    # And one by one, so that nothing hides the padding of questions.
    for index in range(0, 400, 40):
        question, read = easy_vqa.questions[index], torch_read(checkpoint, easy_vqa, index)
        found = scores(blip.ask([question.image_path], question.question, **generate))
        assert found == pytest.approx(torch_scores(checkpoint, read, **generate), abs=TOLERANCE)


def test_several_answers_come_best_first_also_by_a_configuration(blip, easy_vqa):
    question = easy_vqa.questions[0]
    one = blip.ask(question.image_path, question.question, num_beams=4, num_return_sequences=4)
    assert scores(one) == sorted(scores(one), reverse=True)
    assert one[0].text == question.answer
    config = GenerationConfig(num_beams=4, num_return_sequences=4)
    assert blip.ask([question.image_path] * 2, question.question, generation_config=config) == [one, one]


def test_a_prompt_is_not_counted_whatever_else_is_in_the_batch(blip, easy_vqa):
    path = easy_vqa.paths[0]
    words = blip.caption(path).text.split()
    prompts = [" ".join(words[:2]), words[0]]
    together = blip.caption([path, path], prompts)
    for prompt, found in zip(prompts, together, strict=True):
        alone = blip.caption(path, prompt)
        beams = blip.caption(path, prompt, num_beams=2)
        assert found.score == pytest.approx(alone.score, abs=TOLERANCE)
        assert (beams.text, beams.score) == (alone.text, pytest.approx(alone.score, abs=TOLERANCE))
    beams = blip.caption([path, path], prompts, num_beams=2)
    assert scores(beams) == pytest.approx(scores(together), abs=TOLERANCE)


def test_answers_are_ranked_by_the_probabilities_of_pytorch(blip, checkpoint, processor, easy_vqa):
    question, read = easy_vqa.questions[0], torch_read(checkpoint, easy_vqa, 0)
    candidates = [*ANSWERS, "a red circle", "is there a blue triangle in the image"]
    expected = []
    for candidate in candidates:
        tokens = processor(text=candidate, return_tensors="pt")["input_ids"]
        tokens[:, 0] = checkpoint.decoder_start_token_id
        logits = checkpoint.text_decoder(tokens[:, :-1], encoder_hidden_states=read).logits.log_softmax(dim=-1)
        expected.append(logits.gather(2, tokens[:, 1:, None]).sum().detach())
    expected = torch.stack(expected).softmax(dim=0)
    found = blip.rank(question.image_path, question.question, candidates)
    assert [found[each] for each in candidates] == pytest.approx(expected.tolist(), abs=1e-3)
    assert sum(found.values()) == pytest.approx(1)
    assert next(iter(found)) == question.answer
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_ranking_is_at_least_as_accurate_as_generating(easy_vqa, quantized, torch_sample):
    blip = load(quantized, "CPU")
    asked = [easy_vqa.questions[index] for index in easy_vqa.sample[:100]]
    ranked = sum(next(iter(blip.rank(each.image_path, each.question, ANSWERS))) == each.answer for each in asked)
    generated = sum(blip.ask(each.image_path, each.question).text == each.answer for each in asked)
    torch_right = sum(text == each.answer for text, each in zip(easy_vqa.texts(torch_sample), asked, strict=False))
    assert ranked >= generated >= torch_right - LOST["INT8"] * len(asked)


@pytest.mark.parametrize("answers", [[], [""], ["yes", ""]])
def test_answers_that_cannot_be_ranked_are_named(blip, easy_vqa, answers):
    with pytest.raises(ValueError, match="it takes texts to choose from, none of them empty"):
        blip.rank(easy_vqa.paths[0], "is there a circle?", answers)


def test_only_the_likeliest_beginnings_are_read_to_their_end(blip, easy_vqa, monkeypatch):
    monkeypatch.setattr("blip_openvino.apps.blip.RANKED", 2)
    question = easy_vqa.questions[0]
    found = blip.rank(question.image_path, question.question, ANSWERS)
    assert len(found) == len(ANSWERS)
    assert np.count_nonzero(list(found.values())) == 2
    assert next(iter(found)) == question.answer


def test_what_sees_one_batch_is_refused_where_images_are_read_in_several(blip, easy_vqa):
    with pytest.raises(ValueError, match="streamer sees the rows of one batch"):
        blip.caption(easy_vqa.paths[:9], streamer=print)


@pytest.mark.parametrize("generate", [{}, {"num_beams": 2}], ids=["greedy", "beams"])
def test_a_score_is_the_models_own_whatever_length_is_asked_for(blip, easy_vqa, generate):
    short = blip.caption(easy_vqa.paths[0])
    longer = blip.caption(easy_vqa.paths[0], min_new_tokens=6, max_new_tokens=6, **generate)
    assert longer.score < short.score - 1
