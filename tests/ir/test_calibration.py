"""Calibration data: what a folder says it is decides, and a user's own pictures go with their texts."""

import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
from PIL import Image

from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import make_scenes
from blip_openvino.ir import calibration
from blip_openvino.ir.calibration import SEED, calibration_dataset, own_data

COLOURS = {"a.png": (255, 0, 0), "b.jpg": (0, 255, 0), "more/c.png": (0, 0, 255)}


@pytest.fixture
def photos(tmp_path) -> Path:
    (tmp_path / "more").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    return tmp_path


def test_own_images_go_with_the_texts_of_their_metadata(photos):
    records = [{"file_name": name, "question": f"is it {colour}?"} for name, colour in COLOURS.items()]
    (photos / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    found = own_data(photos, 300)
    assert len(found) == len(set(found["image_id"])) == 3
    for row in found:
        pixel = row["image"].convert("RGB").getpixel((4, 4))
        nearest = min(COLOURS.values(), key=lambda colour: sum(abs(a - b) for a, b in zip(colour, pixel, strict=True)))
        assert row["text"] == f"is it {nearest}?"


def test_own_images_need_no_texts_and_are_drawn_the_same_each_time(photos):
    first, second = (own_data(str(photos), 2) for _ in range(2))
    assert first["text"] == ["", ""]
    assert [row["image"].getpixel((4, 4)) for row in first] == [row["image"].getpixel((4, 4)) for row in second]


def test_a_dataset_of_the_hub_is_read_by_the_types_of_its_columns(photos, monkeypatch):
    columns = {"picture": [str(photos / "a.png")] * 3, "caption": ["one", "two", "three"]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image()).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: {"test": None, "train": dataset})
    found = own_data("somebody/pictures", 2)
    assert len(found) == 2
    assert set(found["text"]) < {"one", "two", "three"}


def test_a_dataset_without_images_is_refused(monkeypatch):
    dataset = datasets.Dataset.from_dict({"text": ["one"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: {"train": dataset})
    with pytest.raises(ValueError, match="no column of images to calibrate on, only text"):
        own_data("somebody/texts", 2)


def data_for(monkeypatch, architecture: str, trained_on: str | None) -> datasets.Dataset:
    """Of a folder that says what it is; the Hub cannot be reached."""

    def load_dataset(name: str, **options) -> None:
        raise ConnectionError(name)

    config = SimpleNamespace(architectures=[architecture], trained_on=trained_on)
    monkeypatch.setattr(calibration, "load_config", lambda folder: config)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calibration_dataset("any name", 20)


def test_models_of_scenes_are_calibrated_on_scenes_and_what_they_read_without_the_network(monkeypatch):
    scenes = make_scenes(20, SEED)
    captions = data_for(monkeypatch, "BlipForImageTextRetrieval", "scenes")
    assert captions["text"] == [caption(scene) for scene in scenes]
    asked = data_for(monkeypatch, "BlipForQuestionAnswering", "scenes")
    for scene, text in zip(scenes, asked["text"], strict=True):
        assert text in {each.question for each in scene_questions(scene)}
    assert asked["text"] == data_for(monkeypatch, "BlipForQuestionAnswering", "scenes")["text"]


@pytest.mark.parametrize(
    ("architecture", "asked"),
    [("BlipForQuestionAnswering", "lmms-lab/VQAv2"), ("BlipForImageTextRetrieval", "lmms-lab/COCO-Caption2017")],
)
def test_other_models_are_calibrated_on_photographs_with_the_texts_that_they_read(monkeypatch, architecture, asked):
    with pytest.raises(ConnectionError, match=asked):
        data_for(monkeypatch, architecture, None)
