"""VQA v2's metric against the rules of its evaluation."""

import numpy as np
import pytest
from conftest import EMBEDDED
from PIL import Image
from transformers import BertTokenizer

from blip_openvino.evaluate.vqa_v2 import normalize_answer, vqa_score, vqa_v2_accuracy
from blip_openvino.runtime.processor import OVBlipProcessor


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


class ScriptedModel:
    """Says the next answer of a list."""

    def __init__(self, *answers):
        words = "[PAD] [UNK] [CLS] [SEP] [MASK] how many what ? 2 two red don ' t know"
        tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words.split())}).backend_tokenizer
        self.processor = OVBlipProcessor(tokenizer, OVBlipProcessor.from_pretrained(EMBEDDED).image_settings)
        self.answers = iter(answers)

    def generate_answer(self, pixel_values, input_ids, attention_mask, max_new_tokens):
        assert self.processor.decode(input_ids[0]) == "how many?"
        assert np.ptp(pixel_values, axis=(2, 3)).max() == 0
        assert max_new_tokens == 20
        return self.processor(text=next(self.answers))["input_ids"]

    def accuracy(self, *human_answers: list[str]) -> float:
        """On one record for each list of human answers."""
        records = [
            {
                "image": Image.new(mode, (50, 40)),
                "question": "How many?",
                "answers": [{"answer": text} for text in texts],
            }
            for mode, texts in zip(("RGB", "L", "RGB"), human_answers, strict=False)
        ]
        return vqa_v2_accuracy(self, self.processor, iter(records))


def test_vqa_v2_accuracy_is_the_mean_over_records():
    found = ScriptedModel("two", "red", "red").accuracy(["2"] * 10, ["red", *["blue"] * 9], ["black"] * 10)
    assert found == pytest.approx((1 + 1 / 3 + 0) / 3)


def test_vqa_v2_answer_with_an_apostrophe_can_be_right():
    assert ScriptedModel("don't know").accuracy(["don't know"] * 10) == 1


def test_vqa_v2_accuracy_needs_records_with_human_answers():
    with pytest.raises(ValueError, match="there are no VQA v2 records"):
        ScriptedModel().accuracy()
    with pytest.raises(ValueError, match=r"no human answers to compare 'red' with: take a split that has them"):
        ScriptedModel("red").accuracy([])
