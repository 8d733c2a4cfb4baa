"""OVBlipProcessor beside the BlipProcessor of transformers that it stands in for."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import EMBEDDED
from PIL import Image
from tokenizers import Tokenizer
from transformers import BlipImageProcessorPil

from blip_openvino.runtime.processor import OVBlipProcessor, preprocess_image

BLIP_BASE = BlipImageProcessorPil(size={"height": 384, "width": 384})


@pytest.mark.parametrize(
    "size", [(384, 384), (1024, 768), (385, 2000), (4000, 400), (64, 64), (1, 1), (1, 5000), (383, 1000)]
)
def test_pixels_are_those_of_transformers(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    expected, found = BLIP_BASE(image, return_tensors="np")["pixel_values"], preprocess_image(BLIP_BASE, image)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)


def test_token_ids_and_decoded_texts_are_those_of_transformers(ours, processor, easy_vqa):
    texts = [question.question for question in easy_vqa.questions]
    texts += ["", "Ünïcode?!", "two  spaces", "[MASK] and [SEP]", "數字 7", "a" * 300, "what color\nis it"]
    expected, found = processor(text=texts, padding=True, return_tensors="np"), ours(text=texts)
    for name in ("input_ids", "attention_mask"):
        assert found[name].dtype == np.int64
        assert np.array_equal(found[name], expected[name])
    rows = found["input_ids"][-40:]
    for skipped in (True, False):
        decoded = processor.batch_decode(rows, skip_special_tokens=skipped)
        for ids in (rows, torch.from_numpy(rows), rows.tolist()):
            assert ours.batch_decode(ids, skip_special_tokens=skipped) == decoded
        assert ours.decode(torch.from_numpy(rows[0]), skip_special_tokens=skipped) == decoded[0]


@pytest.mark.parametrize(
    ("images", "text"), [(1, None), (3, None), (None, "is it?"), (1, "is it?"), (2, ["is it?", "what color is it?"])]
)
def test_calls_of_transformers_give_the_same_tensors(ours, processor, easy_vqa, images, text):
    pictures = images and [Image.open(path).convert("RGB") for path in easy_vqa.paths[:images]]
    arguments = {"images": pictures[0] if images == 1 else pictures, "text": text, "return_tensors": "pt"}
    expected, found = (each(**arguments, padding=True) for each in (processor, ours))
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "neither an image nor a text"),
        ({"images": [], "text": []}, "neither an image nor a text"),
        ({"text": ["a", None]}, "it takes a string or several"),
        ({"text": 7}, "text is 7"),
        ({"text": ["a", "a b"], "padding": False}, "different numbers of tokens: set padding=True"),
        ({"text": "a", "return_tensors": "tf"}, "return_tensors is 'tf'"),
    ],
)
def test_wrong_arguments_are_refused(ours, arguments, message):
    with pytest.raises(ValueError, match=message):
        ours(**arguments)


def test_other_ways_of_resizing_are_refused():
    settings = SimpleNamespace(**BLIP_BASE.to_dict() | {"resample": 0})
    with pytest.raises(ValueError, match=r"resample=0; OVBlipProcessor does resample=\w+ only"):
        OVBlipProcessor(Tokenizer.from_file(str(EMBEDDED / "tokenizer.json")), settings)


@pytest.mark.parametrize("name", ["processor_config.json", "tokenizer.json"])
def test_damaged_file_of_a_converted_folder_is_named(converted, tmp_path, name):
    folder = shutil.copytree(converted, tmp_path / "copy")
    (folder / name).write_text("{}")
    with pytest.raises(ValueError, match=f"{name} is missing or not as it was saved"):
        OVBlipProcessor.from_pretrained(folder)


def test_folders_of_every_layout_are_read(ours, converted, easy_vqa, tmp_path):
    settings = json.loads((EMBEDDED / "processor_config.json").read_text())["image_processor"]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))  # as transformers saved it until 4
    with pytest.raises(FileNotFoundError, match=r"has no processor .* name a converted folder or a checkpoint's"):
        OVBlipProcessor.from_pretrained(tmp_path)
    shutil.copy(EMBEDDED / "tokenizer.json", tmp_path)
    expected = ours(easy_vqa.paths[0], "is it?")
    for folder in (converted, tmp_path):
        found = OVBlipProcessor.from_pretrained(folder)(easy_vqa.paths[0], "is it?")
        assert all(np.array_equal(found[name], array) for name, array in expected.items())
