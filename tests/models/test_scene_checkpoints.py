"""The checkpoints of drawn scenes: their cards are true, and OpenVINO says what PyTorch says.

Scenes that were kept for measuring, and easy-VQA's whole test split, are read here only: elsewhere samples of them.
"""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import EMBEDDED, F32, F32_ONE_THREAD, ROOT, differing, padded
from PIL import Image
from torch import Tensor
from transformers import BlipForImageTextRetrieval, BlipProcessor

from blip_model import OVBlipModel
from blip_openvino.data.easy_vqa import load_captions, question_type
from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import KINDS, scene_questions
from blip_openvino.data.scenes import draw_scene, make_scenes
from blip_openvino.evaluate.accuracy import LOST, SCENES, answer_each, caption_images, measure_accuracy
from blip_openvino.evaluate.scores import Score, exact_match, scores_by_kind
from blip_openvino.ir.checkpoint import TorchBlip, generate_caption, load_checkpoint
from blip_openvino.ir.convert import convert
from blip_openvino.runtime.processor import OVBlipProcessor
from notebook_utils import SCENE_EXAMPLES, example_inputs

NAMES = ("blip-scenes", "blip-scenes-retrieval")


def folder_of(name: str) -> Path:
    return ROOT / "models" / name


def card(name: str) -> dict[str, tuple[int, int]]:
    """What the card states of each measure in PyTorch: how many were right, of how many."""
    rows = re.findall(
        r"^\| ([^|]+) \| \d+\.\d\d % \| ([\d,]+) of ([\d,]+) \|", (folder_of(name) / "README.md").read_text(), re.M
    )
    return {measure: (int(right.replace(",", "")), int(asked.replace(",", ""))) for measure, right, asked in rows}


@pytest.fixture(scope="module")
def retrieval() -> BlipForImageTextRetrieval:
    return load_checkpoint(folder_of("blip-scenes-retrieval"))


@pytest.fixture(scope="module")
def folders(converted, retrieval, tmp_path_factory) -> dict[str, Path]:
    """Both, converted."""
    processor = BlipProcessor.from_pretrained(folder_of("blip-scenes-retrieval"))
    folder = convert(retrieval, processor, tmp_path_factory.mktemp("scenes") / "blip-scenes-retrieval")
    return dict(zip(NAMES, (converted, folder), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_card_states_what_float32_gives_on_all_scenes_that_are_kept_for_measuring(folders, name):
    """OpenVINO in float32, which says PyTorch's tokens; rounding may turn what is nearly even."""
    model = OVBlipModel.from_pretrained(folders[name], "CPU", "FP16", F32_ONE_THREAD)
    processor = OVBlipProcessor.from_pretrained(folders[name])
    stated, found = card(name), measure_accuracy({"f32": model}, processor, model.config, SCENES)
    found = {measure: scores["f32"] for measure, scores in found.items() if not measure.startswith("agreement")}
    assert found.keys() <= stated.keys()
    for measure, score in found.items():
        right, asked = stated[measure]
        assert score.asked == asked
        assert score.right == pytest.approx(right, abs=3), measure


@pytest.fixture(scope="module")
def torch_greedy(easy_vqa, checkpoint) -> Tensor:
    """PyTorch's answers to all questions of easy-VQA's test split."""
    return easy_vqa.torch_answers(checkpoint, easy_vqa.all)


@pytest.fixture(scope="module")
def torch_captions(easy_vqa, checkpoint) -> Tensor:
    """PyTorch's captions of all its images."""
    return padded(generate_caption(checkpoint, easy_vqa.pixel_values))


def easy_vqa_scores(easy_vqa, answers: Tensor, captions: Tensor) -> dict[str, Score]:
    """By measure, of answers to all questions and captions of all images, of which some have no right one."""
    right, right_captions = [question.answer for question in easy_vqa.questions], load_captions("test")
    said = dict(zip(easy_vqa.paths, easy_vqa.texts(captions), strict=True))
    scores = scores_by_kind(easy_vqa.texts(answers), right, map(question_type, right))
    found = {f"easy-VQA answers, {kind}": score for kind, score in scores.items()}
    captions_said = [said[path] for path in right_captions]
    return found | {"easy-VQA captions, all": exact_match(captions_said, [*right_captions.values()])}


@pytest.mark.slow
def test_card_states_what_pytorch_gives_on_easy_vqa(easy_vqa, torch_greedy, torch_captions):
    found = easy_vqa_scores(easy_vqa, torch_greedy, torch_captions)
    stated = {measure: pair for measure, pair in card("blip-scenes").items() if measure.startswith("easy-VQA")}
    assert {measure: (score.right, score.asked) for measure, score in found.items()} == stated


@pytest.mark.slow
def test_float32_answers_and_captions_equal_pytorch_on_the_whole_test_split(
    easy_vqa, f32_model, torch_greedy, torch_captions
):
    assert (len(torch_greedy), len(torch_captions)) == (9673, 1000)
    assert torch.equal(easy_vqa.openvino_answers(f32_model, easy_vqa.all), torch_greedy)
    assert torch.equal(padded(f32_model.generate_caption(easy_vqa.pixel_values)), torch_captions)


@pytest.fixture(scope="module", params=["FP16", "INT8", "INT4"])
def written(request, models, easy_vqa):
    """A model at default settings, and what it says about the whole test split: the one pass over it at a precision.

    FP16 in float32 passes over more of drawn scenes, above.
    """
    model = models[request.param]
    answers = easy_vqa.openvino_answers(model, easy_vqa.all)
    captions = padded(model.generate_caption(easy_vqa.pixel_values))
    return SimpleNamespace(model=model, answers=answers, captions=captions)


@pytest.mark.slow
def test_accuracy_of_every_precision_is_within_its_bound_of_pytorch(easy_vqa, torch_greedy, torch_captions, written):
    expected = easy_vqa_scores(easy_vqa, torch_greedy, torch_captions)
    found = easy_vqa_scores(easy_vqa, written.answers, written.captions)
    lost = {name: expected[name].rate - found[name].rate for name in found if name.endswith(", all")}
    print(written.model.precision, lost)
    assert max(lost.values()) <= LOST[written.model.precision], lost


@pytest.mark.slow
def test_answers_alone_are_those_of_a_batch_but_for_ten_in_five_hundred(easy_vqa, written):
    alone = [
        written.model.generate_answer(easy_vqa.images([index]), easy_vqa.input_ids[index][None])[0]
        for index in easy_vqa.sample
    ]
    changed = differing(padded(alone), written.answers[list(easy_vqa.sample)])
    print(written.model.precision, changed, "answers of 500 depend on their batch")
    assert changed <= 10


BOTH_WAYS = ("picture to text", "text to picture")
ASKED_OF = {
    "blip-scenes": {f"answers, {kind}": 0.93 for kind in KINDS}
    | {"answers, all": 0.97, "captions, all": 0.90, "easy-VQA answers, all": 0.99, "easy-VQA captions, all": 0.99},
    "blip-scenes-retrieval": {f"recall@1 contrast, {way}": 0.70 for way in BOTH_WAYS}
    | {f"recall@1 re-ranked, {way}": 0.90 for way in BOTH_WAYS}
    | {"matching, all": 0.97},
}


@pytest.mark.parametrize("name", ASKED_OF)
def test_checkpoints_are_small_and_their_cards_state_what_is_asked_of_them(name):
    assert (folder_of(name) / "model.safetensors").stat().st_size <= 16e6
    stated = card(name)
    assert not {measure for measure, rate in ASKED_OF[name].items() if stated[measure][0] < rate * stated[measure][1]}


def test_answers_and_captions_are_those_of_pytorch_in_float32(converted, checkpoint, ours):
    sides = TorchBlip(checkpoint), OVBlipModel.from_pretrained(converted, "CPU", "FP16", F32)
    scenes = make_scenes(25)
    pictures = [draw_scene(scene) for scene in scenes]
    asked = [
        (picture, [each.question for each in scene_questions(scene)])
        for picture, scene in zip(pictures, scenes, strict=True)
    ]
    expected, found = (answer_each(side, ours, asked) for side in sides)
    assert found == expected
    expected, found = (caption_images(side, ours, pictures) for side in sides)
    assert found == expected


def test_matching_and_contrast_are_those_of_pytorch_in_float32(folders, retrieval, ours):
    """To within what storing weights in 16 bits changes."""
    model = OVBlipModel.from_pretrained(folders["blip-scenes-retrieval"], "CPU", "FP16", F32)
    expected = TorchBlip(retrieval)
    scenes = make_scenes(10)
    pixels = ours([draw_scene(scene) for scene in scenes])["pixel_values"]
    texts = ours(text=[caption(scene) for scene in scenes])
    images, torch_images = model.encode_images(pixels), expected.encode_images(pixels)
    assert images.features == pytest.approx(torch_images.features, abs=1e-3)
    assert model.text_features(**texts) == pytest.approx(expected.text_features(**texts), abs=1e-3)
    assert model.match(images, **texts) == pytest.approx(expected.match(torch_images, **texts), abs=5e-3)
    # Of one picture with every text.
    assert model.match(images[:1], **texts) == pytest.approx(expected.match(torch_images[:1], **texts), abs=5e-3)
    assert np.argmax(model.match(images[:1], **texts)) == 0


def test_figure_of_ten_scenes_shows_what_the_model_answers(fp16_model, ours, tmp_path):
    """assets/questions.png carries its texts, as `visualize_images` drew them."""
    paths, questions = zip(*example_inputs(EMBEDDED, tmp_path), strict=True)
    ids = fp16_model.generate_answer(**ours(list(paths), list(questions)))
    shown = json.loads(Image.open(ROOT / "assets" / "questions.png").text["Description"])
    assert shown == [list(each) for each in zip(SCENE_EXAMPLES, questions, ours.batch_decode(ids), strict=True)]
