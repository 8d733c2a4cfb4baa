"""The checkpoint in models/blip-easy-vqa, its data and its card."""

import re

import torch
from conftest import EMBEDDED
from PIL import Image
from small_blip import normalize
from training_data import read_images

from blip_openvino.data.easy_vqa import load_captions
from blip_openvino.evaluate.accuracy import score_answers


def test_model_card_states_the_measured_accuracies_all_above_99_percent(easy_vqa, torch_greedy, torch_captions):
    scores = score_answers(easy_vqa.texts(torch_greedy), easy_vqa.questions)
    scores = {"answers": scores.pop("all"), **scores, "captions": easy_vqa.caption_score(torch_captions)}
    card = (EMBEDDED / "README.md").read_text()
    found = dict(re.findall(r"^\| (?:\W )?([a-z/]+) \| \d+\.\d\d % \| ([\d,]+ of [\d,]+) \|$", card, re.MULTILINE))
    assert {name: found[name] for name in scores} == {
        name: f"{score.right:,} of {score.asked:,}" for name, score in scores.items()
    }
    assert (scores["answers"].asked, scores["captions"].asked) == (9673, 772)
    assert min(scores["answers"].rate, scores["captions"].rate) >= 0.99


def test_training_pixels_are_what_the_processor_gives(processor):
    paths = list(load_captions("train"))[:20]
    images = [Image.open(path).convert("RGB") for path in paths]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(normalize(read_images(paths), processor.image_processor), expected, atol=1e-6)
