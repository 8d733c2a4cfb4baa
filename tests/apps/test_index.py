"""An index of images: what is added, changed and gone is noticed, and a search finds what ranking all would find."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from collection_outputs import run
from PIL import Image

from blip_model import OVBlipModel
from blip_openvino.apps.blip import Blip
from blip_openvino.apps.collections.index import WRITTEN_AT_ONCE, ImageIndex, Update
from blip_openvino.apps.collections.sources import find_items
from blip_openvino.runtime.processor import OVBlipProcessor

TEXT = "a red circle"


@pytest.fixture(scope="module")
def blip(retrieval_folder) -> Blip:
    return Blip(OVBlipModel.from_pretrained(retrieval_folder, "CPU"), OVBlipProcessor.from_pretrained(retrieval_folder))


@pytest.fixture
def photos(tmp_path, easy_vqa) -> Path:
    """A folder of 40 pictures, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for index, path in enumerate(easy_vqa.paths[:40]):
        shutil.copy(path, folder / ("more" if index == 39 else "") / f"{index:02}.png")
    return folder


@pytest.fixture
def index(tmp_path, blip) -> ImageIndex:
    """An empty one."""
    return ImageIndex.create(tmp_path / "index", blip, "some model")


@pytest.fixture
def filled(index, blip, photos) -> ImageIndex:
    """Of all the pictures."""
    done = update(index, blip, photos)
    assert (done.added, len(index), done.errors) == (40, 40, {})
    return index


def update(index: ImageIndex, blip: Blip, folder: Path) -> Update:
    return index.update(blip, find_items([str(folder)]))


def test_a_search_finds_what_ranking_all_images_finds(filled, blip, photos):
    paths = [item.path for item in find_items([str(photos)])]
    for rerank in (0, 8, 32):
        expected = blip.find_images(TEXT, paths, top=10, rerank=rerank)
        found = ImageIndex(filled.folder).search(blip, text=TEXT, top=10, rerank=rerank)
        assert [each.path for each in found] == [paths[each.index] for each in expected]
        for one, other in zip(found, expected, strict=True):
            assert one.similarity == pytest.approx(other.similarity, abs=1e-5)
            assert one.match == (None if other.match is None else pytest.approx(other.match, abs=1e-5))


def test_only_what_is_new_or_changed_is_encoded_and_what_is_gone_is_removed(filled, blip, photos, monkeypatch):
    assert len(filled.search(blip, text=TEXT, top=100)) == 40  # it keeps what it has read, but not after an update
    (photos / "00.png").unlink()
    teal = Image.new("RGB", (50, 40), "teal")
    teal.save(photos / "01.png")
    Image.new("RGB", (50, 40), "red").save(photos / "new.png")
    encoded, encode = [], Blip.encode_images
    with monkeypatch.context() as patch:
        patch.setattr(Blip, "encode_images", lambda self, images: encoded.extend(images) or encode(self, images))
        done = filled.update(blip, find_items([str(photos), str(photos / "new.png")]))  # the new one twice
    assert (done.added, done.changed, done.unchanged, done.removed, len(encoded)) == (1, 1, 38, 1, 2)
    assert len(filled) == 40
    [first, *_] = filled.search(blip, image=teal)
    assert first.path == str(photos / "01.png")
    assert first.similarity == pytest.approx(1, abs=1e-5)
    found = [each.path for each in filled.search(blip, text=TEXT, top=100)]
    assert sorted(found) == sorted(map(str, photos.rglob("*.png")))


def test_a_bad_image_has_its_error_is_not_found_and_tried_again(filled, blip, photos):
    bad = photos / "bad.png"
    bad.write_bytes(b"no image")
    for _ in range(2):
        done = update(filled, blip, photos)
        assert (done.added, list(done.errors), len(filled)) == (0, [str(bad)], 40)
    assert str(bad) not in [each.path for each in filled.search(blip, text=TEXT, top=100)]
    shutil.copy(photos / "00.png", bad)
    assert update(filled, blip, photos).errors == {}
    assert len(filled) == 41


def test_an_empty_index_finds_nothing(index, blip):
    assert index.search(blip, text=TEXT) == []


def test_what_an_interrupted_update_wrote_is_kept_and_the_next_one_does_the_rest(index, blip, photos):
    def interrupt(so_far: Update) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.update(blip, find_items([str(photos)]), interrupt)
    again = ImageIndex.create(index.folder, blip, "some model")
    assert len(again) == WRITTEN_AT_ONCE
    done = update(again, blip, photos)
    assert (done.added, done.unchanged, len(again)) == (40 - WRITTEN_AT_ONCE, WRITTEN_AT_ONCE, 40)


def test_an_image_that_went_after_it_was_indexed_is_left_out_with_a_warning(filled, blip, caplog):
    [first, second, *_] = filled.search(blip, text=TEXT)
    os.unlink(first.path)
    [found, *_] = filled.search(blip, text=TEXT)
    assert found == second
    assert f"{first.path} is left out" in caplog.text


def test_an_index_is_of_one_model_and_other_folders_are_none(index, blip, photos, fp16_model):
    other = Blip(fp16_model, blip.processor)
    with pytest.raises(ValueError, match=r"was made by checkpoint .* \(some model\)"):
        update(index, other, photos)
    with pytest.raises(ValueError, match="was made by checkpoint"):
        index.search(other, text=TEXT)
    with pytest.raises(FileNotFoundError, match="is no index: make one with blip-ov index"):
        ImageIndex(photos)
    with pytest.raises(ValueError, match="has other files in it"):
        ImageIndex.create(photos, blip, "some model")


def test_commands_index_a_folder_and_search_it(tmp_path, blip, photos, retrieval_folder, loaded):
    (photos / "bad.png").write_bytes(b"no image")
    folder, sheet = tmp_path / "index", tmp_path / "found.png"
    result = run("index", photos, "--output", folder, "--model", retrieval_folder)
    assert result.exit_code == 1
    assert f"{photos / 'bad.png'}: " in result.stderr
    assert result.stdout == f"40 images in {folder}: 40 added, 0 changed, 0 unchanged, 0 removed, errors: 1\n"
    assert loaded[0].model.vision_model.get_property("PERFORMANCE_HINT") == "THROUGHPUT"  # several images at once
    (photos / "bad.png").unlink()
    result = run("index", photos, "--output", folder)
    assert result.stdout == f"40 images in {folder}: 0 added, 0 changed, 40 unchanged, 1 removed, errors: 0\n"
    lines = run("search", folder, "--text", TEXT, "--top", 3, "--json", "--show", sheet).stdout.splitlines()
    expected = ImageIndex(folder).search(blip, text=TEXT, top=3)
    assert [json.loads(line)["path"] for line in lines] == [each.path for each in expected]
    assert {name for line in lines for name in json.loads(line)} == {"path", "similarity", "match"}
    assert np.asarray(Image.open(sheet)).shape == (240, 1100, 3)
    [line, *_] = run("search", folder, "--image", photos / "07.png").stdout.splitlines()
    assert line.endswith(": similarity 1.0")
    for options in ([], ["--text", TEXT, "--image", photos / "07.png"]):
        assert "for a text or for an image" in run("search", folder, *options).stderr
