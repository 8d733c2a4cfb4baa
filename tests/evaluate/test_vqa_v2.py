"""VQA v2's metric against the rules of its evaluation."""

from unittest.mock import MagicMock

import pytest

from blip_openvino.evaluate.vqa_v2 import normalize_answer, vqa_score, vqa_v2_accuracy


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
def test_answer_is_normalized_once_and_for_all(text, normal):
    assert normalize_answer(text) == normal
    assert normalize_answer(normal) == normal


@pytest.mark.parametrize(("humans", "score"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (10, 1)])
def test_vqa_score_is_a_third_for_each_human_up_to_three(humans, score):
    assert vqa_score("Two dogs.", ["the 2 dogs"] * humans + ["blue"] * (10 - humans)) == pytest.approx(score)


def accuracy(answers: list[str], *human_answers: list[str]) -> float:
    """Of a model that gives these answers, on one record for each list of human answers."""
    processor = MagicMock(return_value={})
    processor.decode.side_effect = answers
    answers_of = [[{"answer": text} for text in texts] for texts in human_answers]
    records = [{"image": None, "question": "?", "answers": each} for each in answers_of]
    return vqa_v2_accuracy(MagicMock(), processor, iter(records)).rate


def test_vqa_v2_accuracy_is_the_mean_over_records():
    """The tokenizer spaces apostrophes apart: right all the same."""
    found = accuracy(["two", "don ' t know", "red"], ["2"] * 10, ["don't know", *["blue"] * 9], ["black"] * 10)
    assert found == pytest.approx((1 + 1 / 3 + 0) / 3)


def test_vqa_v2_accuracy_needs_records_with_human_answers():
    with pytest.raises(ValueError, match="there are no VQA v2 records"):
        accuracy([])
    with pytest.raises(ValueError, match=r"no human answers to compare 'red' with: take a split that has them"):
        accuracy(["red"], [])
