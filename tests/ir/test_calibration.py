"""Calibration data: what a folder says it is decides, and a user's own pictures go with their texts."""

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from blip_openvino.ir.calibration import own_data

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
