"""The checkpoint in models/blip-easy-vqa, its data and its card."""

import os
import re
import subprocess
import sys

import torch
from conftest import EMBEDDED, ROOT
from PIL import Image

from blip_openvino.evaluate.accuracy import score_answers
from blip_openvino.ir.easy_vqa import load_captions

sys.path.insert(0, str(EMBEDDED))
from training_data import augment, free_margins, normalize, read_images


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


def test_loads_without_the_hub_and_reads_an_unknown_word_as_unk():
    script = f"""
from transformers import BlipForQuestionAnswering, BlipProcessor
model = BlipForQuestionAnswering.from_pretrained({str(EMBEDDED)!r})
tokenizer = BlipProcessor.from_pretrained({str(EMBEDDED)!r}).tokenizer
print(tokenizer.convert_ids_to_tokens(tokenizer("What COLOR is the giraffe?").input_ids))
start = tokenizer.convert_ids_to_tokens([model.decoder_start_token_id, len(tokenizer) - 1])
print(start, model.num_parameters())
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    words, start, parameters = re.fullmatch(r"(.*)\n(\[.*\]) (\d+)\n", done.stdout).groups()
    assert words == "['[CLS]', 'what', 'color', 'is', 'the', '[UNK]', '?', '[SEP]']"
    assert start == "['[DEC]', '[ENC]']"
    assert 2_000_000 <= int(parameters) <= 4_000_000


def test_folder_is_small_and_has_no_pickle():
    tracked = subprocess.check_output(["git", "ls-files", EMBEDDED.relative_to(ROOT)], cwd=ROOT, text=True).split()
    assert sum((ROOT / name).stat().st_size for name in tracked) <= 10_000_000
    assert not [name for name in tracked if name.endswith((".bin", ".pt", ".pkl", ".pth"))]


def test_training_pixels_are_what_the_processor_gives(processor):
    paths = list(load_captions("train"))[:20]
    images = [Image.open(path).convert("RGB") for path in paths]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(normalize(read_images(paths), processor.image_processor), expected, atol=1e-6)


def test_augmentation_keeps_every_pixel_of_the_shape():
    images = read_images(list(load_captions("train"))[:64])
    torch.manual_seed(0)
    moved = augment(images, free_margins(images))
    assert not torch.equal(moved, images)
    for before, after in zip(images, moved, strict=True):
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
