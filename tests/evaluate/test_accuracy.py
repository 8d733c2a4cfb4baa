"""Scores against published values and hand-made cases; models that answer what the test decides."""

import random

import pytest
import torch
from PIL import Image
from transformers import BertTokenizer, BlipImageProcessor, BlipProcessor

from blip_openvino.evaluate.accuracy import (
    Score,
    agreement,
    answer_questions,
    caption_images,
    normalize_answer,
    score_answers,
    score_captions,
    vqa_score,
    vqa_v2_accuracy,
)
from blip_openvino.ir.easy_vqa import Question, load_questions


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_the_one_published_by_newcombe(right, asked, low, high):
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3."""
    assert Score(right, asked).interval() == pytest.approx((low, high), abs=5e-5)


def test_interval_of_half_is_symmetric_and_of_extremes_ends_there():
    assert Score(5, 10).interval() == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert Score(0, 10).interval() == pytest.approx((0, 0.277533), abs=1e-6)
    assert Score(10, 10).interval() == pytest.approx((0.722467, 1), abs=1e-6)


@pytest.mark.parametrize("asked", [1, 3, 7, 772, 9673])
def test_interval_stays_inside_0_and_1_around_the_rate(asked):
    for right in {0, 1, asked // 2, asked - 1, asked}:
        score = Score(right, asked)
        low, high = score.interval()
        assert 0 <= low <= score.rate <= high <= 1
        assert low < high


def test_score_reads_as_percentages():
    assert str(Score(9617, 9673)) == "99.42 % (99.25 - 99.55)"
    assert str(Score(772, 772)) == "100.00 % (99.50 - 100.00)"


@pytest.mark.parametrize(("right", "asked"), [(0, 0), (-1, 5), (6, 5)])
def test_impossible_score_is_refused(right, asked):
    with pytest.raises(ValueError, match=f"{right} right of {asked} asked is no score"):
        Score(right, asked)


class EchoModel:
    """Answers a question with its own words, captions an image with a word for its brightness; keeps its calls."""

    def __init__(self):
        self.calls = []

    def generate_answer(self, pixel_values, input_ids, attention_mask, **generate_kwargs):
        assert attention_mask.shape == input_ids.shape
        assert attention_mask.sum() == (input_ids > 0).sum()
        self.calls.append((pixel_values, input_ids, generate_kwargs))
        return input_ids

    def generate_caption(self, pixel_values, **generate_kwargs):
        self.calls.append((pixel_values, None, generate_kwargs))
        return torch.tensor([[brightness_token(pixels)] for pixels in pixel_values])


def brightness_token(pixels: torch.Tensor) -> int:
    return 5 + round(20 * torch.sigmoid(pixels.mean()).item())


@pytest.fixture(scope="module")
def shuffled_questions() -> list[Question]:
    """All questions about 12 images, those about one image apart from each other."""
    questions = [question for question in load_questions("test") if question.image_id < 12]
    random.Random(0).shuffle(questions)
    return questions


def test_answers_come_in_the_order_of_the_questions(processor, shuffled_questions):
    answers = answer_questions(EchoModel(), processor, shuffled_questions)
    ids = [processor(text=question.question)["input_ids"] for question in shuffled_questions]
    assert answers == [processor.decode(row, skip_special_tokens=True) for row in ids]


def test_an_image_is_encoded_once_with_all_its_questions_and_no_others(processor, shuffled_questions):
    model = EchoModel()
    answer_questions(model, processor, shuffled_questions)
    paths = list(dict.fromkeys(question.image_path for question in shuffled_questions))
    assert len(model.calls) == len(paths) == 12
    for path, (pixel_values, input_ids, generate_kwargs) in zip(paths, model.calls, strict=True):
        assert torch.equal(pixel_values, processor(images=Image.open(path), return_tensors="pt")["pixel_values"])
        texts = [question.question for question in shuffled_questions if question.image_path == path]
        assert torch.equal(input_ids, processor(text=texts, padding=True, return_tensors="pt")["input_ids"])
        assert generate_kwargs == {"max_new_tokens": 20}


@pytest.mark.parametrize("count", [1, 32, 33, 70])
def test_captions_come_in_the_order_of_the_images_across_batches(processor, tmp_path, count):
    paths = [str(tmp_path / f"{index}.png") for index in range(count)]
    for index, path in enumerate(paths):
        Image.new("RGB", (64, 64), (index * 37 % 256,) * 3).save(path)
    model = EchoModel()
    captions = caption_images(model, processor, paths)
    pixel_values = [processor(images=Image.open(path), return_tensors="pt")["pixel_values"][0] for path in paths]
    assert captions == processor.batch_decode([[brightness_token(pixels)] for pixels in pixel_values])
    assert [len(pixels) for pixels, _, _ in model.calls] == [32] * (count // 32) + [count % 32] * (count % 32 > 0)
    assert all(generate_kwargs == {"max_new_tokens": 20} for _, _, generate_kwargs in model.calls)


def test_nothing_asked_is_nothing_answered(processor):
    assert answer_questions(EchoModel(), processor, []) == []
    assert caption_images(EchoModel(), processor, []) == []


def questions_answered(*answers: str) -> list[Question]:
    return [Question("image.png", "what?", answer, 0) for answer in answers]


def test_answers_are_scored_by_question_type():
    questions = questions_answered("yes", "no", "no", "red", "teal", "circle")
    assert score_answers(["yes", "no", "yes", "red", "circle", "circle"], questions) == {
        "all": Score(4, 6),
        "yes/no": Score(2, 3),
        "colour": Score(1, 2),
        "shape": Score(1, 1),
    }


def test_question_types_not_asked_have_no_score():
    assert score_answers(["Red"], questions_answered("red")) == {"all": Score(0, 1), "colour": Score(0, 1)}


def test_captions_and_agreement_count_equal_texts():
    first, second = ["a red circle", "a teal circle", ""], ["a red circle", "a red circle", ""]
    assert score_captions(first, second) == agreement(first, second) == Score(2, 3)


def test_different_lengths_are_named():
    with pytest.raises(ValueError, match="1 answers do not go with 2 questions"):
        score_answers(["yes"], questions_answered("yes", "no"))
    with pytest.raises(ValueError, match="3 captions do not go with 2 expected captions"):
        score_captions(["a", "b", "c"], ["a", "b"])
    with pytest.raises(ValueError, match="0 first texts do not go with 1 second texts"):
        agreement([], ["a"])


def test_no_texts_have_no_score():
    for score in (score_answers, score_captions, agreement):
        with pytest.raises(ValueError, match="ask at least one question"):
            score([], [])


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Yes\n", "yes"),
        ("black\tand\nwhite", "black and white"),
        ("black   and white", "black and white"),
        ("100,978", "100978"),
        ("1,000 red/blue", "1000 redblue"),
        ("red,blue", "red blue"),
        ("red, blue", "red blue"),
        ("black-white", "black white"),
        ("sit -down-now", "sit downnow"),
        ("sit- down-now", "sit downnow"),
        ("sit\t-down-now", "sit downnow"),
        ("sit-\ndown-now", "sit downnow"),
        ("sit-down- ", "sit down"),
        ("stop!", "stop"),
        ('"stop" (sign)', "stop sign"),
        ("2:50 pm", "2:50 pm"),
        ("girl's", "girl's"),
        ("st. louis", "st louis"),
        ("p.m.", "pm"),
        ("2.5", "2.5"),
        (".5", ".5"),
        ("2.", "2"),
        ("none", "0"),
        ("zero", "0"),
        ("one", "1"),
        ("Ten dogs", "10 dogs"),
        ("eleven", "eleven"),
        ("someone", "someone"),
        ("a dog", "dog"),
        ("an apple on the table", "apple on table"),
        ("The", ""),
        ("theater", "theater"),
        ("dont", "don't"),
        ("isnt", "isn't"),
        ("don't", "don't"),
        ("Couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'd've", "y'all'd've"),
        ("twas", "'twas"),
        ("oclock", "o'clock"),
        ("lets", "lets"),
        ("", ""),
    ],
)
def test_answer_is_normalized(text, normal):
    assert normalize_answer(text) == normal


def test_normalizing_twice_changes_nothing_more():
    for text in ("The 2 dogs, dont", "100,978", "black-white!", "st. louis", "it isnt none"):
        assert normalize_answer(normalize_answer(text)) == normalize_answer(text)


@pytest.mark.parametrize(("humans", "score"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (10, 1)])
def test_vqa_score_is_a_third_for_each_human_up_to_three(humans, score):
    assert vqa_score("red", ["red"] * humans + ["blue"] * (10 - humans)) == pytest.approx(score)


def test_vqa_score_normalizes_both_sides():
    assert vqa_score("Two dogs.", ["2 dogs", "two dogs", "the two dogs", *["cat"] * 7]) == 1
    assert vqa_score("2", ["two", *["3"] * 9]) == pytest.approx(1 / 3)


def test_vqa_score_without_humans_is_refused():
    with pytest.raises(ValueError, match="no human answers to compare 'red' with"):
        vqa_score("red", [])


@pytest.fixture(scope="module")
def bert_processor() -> BlipProcessor:
    """A processor as those of the Hub's checkpoints, with the few words these tests need."""
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] how many what ? 2 two red don ' t know"
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words.split())})
    return BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer)


class ScriptedModel:
    """Says the next answer of a list; keeps what it was asked."""

    def __init__(self, processor, answers):
        self.processor, self.answers, self.calls = processor, list(answers), []

    def generate_answer(self, pixel_values, input_ids, attention_mask, **generate_kwargs):
        question = self.processor.decode(input_ids[0], skip_special_tokens=True)
        self.calls.append((pixel_values, question, generate_kwargs))
        return self.processor(text=self.answers.pop(0), return_tensors="pt")["input_ids"]


def vqa_record(question: str, *human_answers: str, colour: str = "red", image_mode: str = "RGB") -> dict:
    image = Image.new(image_mode, (50, 40), colour)
    answers = [{"answer": text, "answer_confidence": "yes", "answer_id": i} for i, text in enumerate(human_answers, 1)]
    return {"image": image, "image_id": 1, "question": question, "answers": answers}


def test_vqa_v2_accuracy_is_the_mean_over_records(bert_processor):
    records = [
        vqa_record("How many?", *["2"] * 10),
        vqa_record("What red?", "red", *["blue"] * 9, image_mode="L"),
        vqa_record("What?", *["black"] * 10, colour="teal"),
    ]
    model = ScriptedModel(bert_processor, ["two", "red", "red"])
    assert vqa_v2_accuracy(model, bert_processor, iter(records)) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert [question for _, question, _ in model.calls] == ["how many?", "what red?", "what?"]
    for record, (pixel_values, _, generate_kwargs) in zip(records, model.calls, strict=True):
        image = record["image"].convert("RGB")
        assert torch.equal(pixel_values, bert_processor(images=image, return_tensors="pt")["pixel_values"])
        assert generate_kwargs == {"max_new_tokens": 20}


def test_vqa_v2_answer_with_an_apostrophe_can_be_right(bert_processor):
    model = ScriptedModel(bert_processor, ["don't know"])
    assert vqa_v2_accuracy(model, bert_processor, [vqa_record("What?", *["don't know"] * 10)]) == 1


def test_vqa_v2_accuracy_of_nothing_is_refused(bert_processor):
    with pytest.raises(ValueError, match="there are no VQA v2 records"):
        vqa_v2_accuracy(ScriptedModel(bert_processor, []), bert_processor, [])
    without_answers = vqa_record("What?") | {"answers": None}
    with pytest.raises(ValueError, match="take a split that has them"):
        vqa_v2_accuracy(ScriptedModel(bert_processor, ["red"]), bert_processor, [without_answers])


def test_answers_and_captions_are_those_the_model_gives_one_by_one(f32_model, processor, shuffled_questions):
    questions = shuffled_questions[:20]
    answers, paths = [], [question.image_path for question in questions]
    captions = []
    for question in questions:
        inputs = processor(images=Image.open(question.image_path), text=question.question, return_tensors="pt")
        ids = f32_model.generate_answer(**inputs, max_new_tokens=20)
        answers.append(processor.decode(ids[0], skip_special_tokens=True))
        ids = f32_model.generate_caption(inputs["pixel_values"], max_new_tokens=20)
        captions.append(processor.decode(ids[0], skip_special_tokens=True))
    assert answer_questions(f32_model, processor, questions) == answers
    assert caption_images(f32_model, processor, paths) == captions
