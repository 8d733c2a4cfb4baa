"""Calibration on a user's own pictures: which texts go with which images, and what is left out."""

import json
from pathlib import Path

import datasets
import pytest
from PIL import Image

from blip_openvino.ir.user_data import user_calibration


@pytest.fixture
def photos(tmp_path) -> Path:
    """Three images, one of them in a folder of its own, and a file that only looks like one."""
    (tmp_path / "more").mkdir()
    for name, colour in (("a.png", "red"), ("b.JPG", "green"), ("more/c.png", "blue")):
        Image.new("RGB", (8, 8), colour).save(tmp_path / name)
    (tmp_path / "damaged.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (tmp_path / "notes.md").write_text("no image")
    return tmp_path


def texts_by_colour(dataset: datasets.Dataset) -> dict[tuple[int, ...], list[str]]:
    """The texts of each image, by its largest channel."""
    found: dict = {}
    for row in dataset:
        pixel = row["image"].convert("RGB").getpixel((0, 0))
        found.setdefault("RGB"[pixel.index(max(pixel))], []).append(row["question"])
    return {colour: sorted(texts) for colour, texts in found.items()}


def test_texts_beside_images_go_with_them_and_damaged_files_are_left_out(photos):
    (photos / "a.txt").write_text("what is red?\n")
    (photos / "more" / "c.caption").write_text("all blue")
    dataset = user_calibration(str(photos), 300)
    assert texts_by_colour(dataset) == {"R": ["what is red?"], "G": [""], "B": ["all blue"]}
    assert sorted(dataset["image_id"]) == [0, 1, 2]


def test_metadata_may_have_several_texts_for_an_image(photos):
    records = [
        {"file_name": "a.png", "question": "what?", "text": "not this"},
        {"file_name": "a.png", "question": "where?"},
        {"file_name": "more/c.png", "text": ["first", "second"]},
    ]
    (photos / "metadata.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    dataset = user_calibration(photos, 300)
    assert texts_by_colour(dataset) == {"R": ["what?", "where?"], "B": ["first"]}
    assert len(set(dataset["image_id"])) == 2


def test_as_many_samples_are_taken_as_asked_for_the_same_each_time(photos):
    first, second = (user_calibration(photos, 2) for _ in range(2))
    assert len(first) == 2
    assert texts_by_colour(first) == texts_by_colour(second)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path} has no image to calibrate on"):
        user_calibration(tmp_path, 300)


@pytest.mark.parametrize("line", ["no json", "{}", "[1]"])
def test_a_wrong_line_of_metadata_is_named(photos, line):
    (photos / "metadata.jsonl").write_text(f'{{"file_name": "a.png"}}\n{line}\n')
    with pytest.raises(ValueError, match="line 2"):
        user_calibration(photos, 300)


def test_a_dataset_of_the_hub_is_read_by_the_types_of_its_columns(photos, monkeypatch):
    columns = {"picture": [str(photos / "a.png")] * 3, "caption": ["one", "two", "three"]}
    dataset = datasets.Dataset.from_dict(columns).cast_column("picture", datasets.Image()).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: {"test": None, "train": dataset})
    found = user_calibration("somebody/pictures", 2)
    assert len(found) == 2
    assert set(found["question"]) < {"one", "two", "three"}
    assert found[0]["image"].size == (8, 8)


def test_a_dataset_without_images_is_refused(monkeypatch):
    dataset = datasets.Dataset.from_dict({"text": ["one"]}).to_iterable_dataset()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: {"train": dataset})
    with pytest.raises(ValueError, match="no column of images, only text"):
        user_calibration("somebody/texts", 2)
