"""Exact match on easy-VQA; models that answer what the test decides."""

from collections import Counter
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
from PIL import Image

from blip_openvino.data.easy_vqa import load_captions, load_questions, question_type
from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import KINDS, scene_questions
from blip_openvino.data.scenes import Scene, draw_scene, make_scenes
from blip_openvino.evaluate.accuracy import IMAGES_PER_CALL, easy_vqa_accuracy, lost_accuracy, measure_accuracy
from blip_openvino.evaluate.scores import Score


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (29, 29, 0.8830, 1.0),
    ],
)
def test_interval_is_the_one_published_by_newcombe(right, asked, low, high):
    """R. G. Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3."""
    assert Score(right, asked).interval() == pytest.approx((low, high), abs=5e-5)


def test_score_reads_as_percentages():
    assert str(Score(9617, 9673)) == "99.42 % (99.25 - 99.55)"


def config_of(trained_on: str | None, architecture: str = "BlipForQuestionAnswering") -> SimpleNamespace:
    return SimpleNamespace(trained_on=trained_on, architectures=[architecture])


class Passing:
    """A processor that hands pictures and texts on as they are."""

    def __call__(self, images=None, text=None):
        inputs = {} if images is None else {"pixel_values": images}
        return inputs if text is None else inputs | {"input_ids": np.array(text, object)}

    def batch_decode(self, texts):
        return texts

    def decode(self, text):
        return text


def key(image: str | Image.Image) -> str | bytes:
    """What tells pictures apart: a path, or the pixels."""
    return image if isinstance(image, str) else image.tobytes()


class Knows:
    """Says what it is told to, of pictures by `key`, and keeps which it was asked about."""

    def __init__(self, captions: dict, answers: dict):
        self.captions, self.answers, self.asked = captions, answers, []

    def generate_answer(self, pixel_values, input_ids, max_new_tokens):
        self.asked.append(key(pixel_values))
        return [self.answers[key(pixel_values), str(question)] for question in np.atleast_1d(input_ids)]

    def generate_caption(self, pixel_values, max_new_tokens):
        assert len(pixel_values) <= IMAGES_PER_CALL
        return [self.captions[key(picture)] for picture in pixel_values]


def test_without_data_the_scoring_half_of_vqa_v2_is_measured(monkeypatch):
    """Only images of odd ids score, those of even ones calibrate."""
    image = Image.open(load_questions("test")[0].image_path)
    humans = [[{"answer": "triangle"}] * 10, [{"answer": "Circle."}] * 10]
    records = [{"image": image, "image_id": i, "question": "what is it?", "answers": humans[i % 2]} for i in range(9)]
    stream = datasets.Dataset.from_list(records).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: stream)
    model = Knows({}, {(key(image), "what is it?"): "circle"})
    found = measure_accuracy({"FP16": model}, Passing(), config_of(None), samples=3)
    assert found == {"VQA accuracy, all": {"FP16": Score(3, 3)}}


@pytest.mark.parametrize(
    ("trained_on", "architecture"),
    [
        ("faces", "BlipForQuestionAnswering"),
        (None, "BlipForImageTextRetrieval"),
    ],
)
def test_a_model_that_no_data_suits_is_refused(trained_on, architecture):
    with pytest.raises(
        ValueError, match=f"no data to measure a {architecture} trained on {trained_on or 'photographs'}"
    ):
        measure_accuracy({}, Passing(), config_of(trained_on, architecture))


def knows_scenes(scenes: list[Scene], fails_at: str = "") -> Knows:
    """Says what is right of scenes, but for one kind of question."""
    answers = {
        (key(draw_scene(scene)), each.question): each.answer if each.kind != fails_at else "?"
        for scene in scenes
        for each in scene_questions(scene)
    }
    return Knows({key(draw_scene(scene)): caption(scene) for scene in scenes}, answers)


def test_scenes_are_measured_by_kind_of_question():
    scenes = make_scenes(20, first_seed=5)
    models = {"PyTorch": knows_scenes(scenes), "INT8": knows_scenes(scenes, fails_at="counting")}
    found = measure_accuracy(models, Passing(), config_of("scenes"), samples=20, first_seed=5)
    asked = Counter(each.kind for scene in scenes for each in scene_questions(scene))
    assert {f"answers, {kind}" for kind in KINDS} < found.keys()
    assert next(iter(found)) == "answers, all"
    all_asked, counted = asked.total(), asked["counting"]
    assert found["answers, all"] == {
        "PyTorch": Score(all_asked, all_asked),
        "INT8": Score(all_asked - counted, all_asked),
    }
    assert found["answers, counting"] == {"PyTorch": Score(counted, counted), "INT8": Score(0, counted)}
    assert found["answers, reading"]["INT8"] == Score(asked["reading"], asked["reading"])
    assert found["captions, all"] == {name: Score(20, 20) for name in models}


def test_easy_vqa_is_measured_on_its_whole_test_split_by_type_of_question():
    """A model that is right, and one that takes every shape for a circle."""
    questions, captions = load_questions("test"), load_captions("test")
    right = {(each.image_path, each.question): each.answer for each in questions}
    circles = {name: "circle" if answer in ("rectangle", "triangle") else answer for name, answer in right.items()}
    models = {"PyTorch": Knows(captions, right), "INT8": Knows(dict.fromkeys(captions, "a circle"), circles)}
    found = easy_vqa_accuracy(models, Passing())
    types = Counter(question_type(each.answer) for each in questions)
    wrong = sum(each.answer in ("rectangle", "triangle") for each in questions)
    assert found["answers, all"] == {"PyTorch": Score(9673, 9673), "INT8": Score(9673 - wrong, 9673)}
    assert found["answers, shape"]["INT8"] == Score(types["shape"] - wrong, types["shape"])
    for name in ("colour", "yes/no"):
        assert found[f"answers, {name}"] == dict.fromkeys(models, Score(types[name], types[name]))
    assert found["captions, all"] == {"PyTorch": Score(772, 772), "INT8": Score(0, 772)}
    assert found["agreement with PyTorch, answers"] == found["answers, all"]
    assert found["agreement with PyTorch, captions"] == found["captions, all"]
    assert len(models["INT8"].asked) == 1000  # each image once


def test_what_lost_more_than_it_may_is_named():
    scores = {"PyTorch": Score(990, 1000), "FP16": Score(988, 1000), "INT8": Score(980, 1000)}
    measures = {"answers, all": scores, "answers, colour": scores, "captions, all": scores | {"INT8": Score(983, 1000)}}
    assert lost_accuracy(measures) == [
        "INT8, answers, all: 98.00% is 1.00 points below the 99.00% of PyTorch, and 0.7 may be lost"
    ]
    few = {"PyTorch": Score(300, 300), "FP16": Score(298, 300), "INT8": Score(295, 300)}
    assert [line[:18] for line in lost_accuracy({"captions, all": few})] == ["INT8, captions, all"[:18]]
    assert lost_accuracy({"captions, all": few | {"INT8": Score(296, 300)}}) == []
