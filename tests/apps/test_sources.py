"""The images of a collection: of files, folders, globs, lists, tables and addresses."""

import io
import os
import sys
from pathlib import Path

import datasets
import fsspec
import pyarrow
import pyarrow.parquet
import pytest
from conftest import encoded
from PIL import Image

from blip_openvino.apps.collections.sources import find_items
from blip_openvino.apps.collections.tables import read_table

PNG = encoded(Image.new("RGB", (4, 4), "red"))
TREE = ("a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff", "sub/notes.txt", ".hidden/e.png", "sub/.f.png")


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """A folder in the current one with four visible images."""
    monkeypatch.chdir(tmp_path)
    fill("file", str(tmp_path / "photos"))
    return Path("photos")


def fill(protocol: str, folder: str) -> None:
    for name in TREE:
        fsspec.filesystem(protocol, auto_mkdir=True).pipe(f"{folder}/{name}", PNG)


def paths(*arguments, **options) -> list[str]:
    return [item.path for item in find_items(*arguments, **options)]


def test_a_folder_gives_its_images_to_the_bottom_and_nothing_hidden(photos):
    expected = ["photos/a.png", "photos/b.JPG", "photos/sub/c.webp", "photos/sub/deep/d.tiff"]
    assert paths(["photos"]) == paths(["photos/"]) == expected
    items = find_items(["photos"])
    assert [item.file_name for item in items] == ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert all(item.read() == PNG for item in items)


def test_a_glob_gives_images_alone_and_what_is_below_its_fixed_folder(photos):
    assert paths(["photos/*"]) == ["photos/a.png", "photos/b.JPG"]
    assert [item.file_name for item in find_items(["photos/**/*.tiff"])] == ["sub/deep/d.tiff"]


def test_a_file_is_taken_as_it_is_named_whatever_it_ends_in(photos):
    name = photos / "scan[1]"
    name.write_bytes(PNG)
    assert [(item.path, item.file_name) for item in find_items([str(name)])] == [(str(name), "scan[1]")]


def test_a_list_names_files_a_line_and_one_that_is_gone_is_known_when_it_is_read(photos):
    Path("list.txt").write_text("photos/b.JPG\n\n gone.png \n")
    first, gone = find_items(["photos/a.png"], "list.txt")[1:]
    assert first.read() == PNG
    with pytest.raises(FileNotFoundError):
        gone.read()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photos/*.gif", "photos/[*].gif has no images: none ends in .*, .png,"),
        ("nowhere", "there is no nowhere: give an image, a folder"),
        ("empty", "empty has no images"),
        ("--list", "list.txt names no images"),
        ("memory://nowhere/*.png", "memory://nowhere/[*].png has no images"),
    ],
)
def test_an_input_without_images_is_named(photos, given, message):
    Path("empty").mkdir()
    Path("list.txt").write_text("\n")
    with pytest.raises((ValueError, OSError), match=message):
        find_items(*([], "list.txt") if given == "--list" else [[given]])


@pytest.fixture(params=["csv", "jsonl", "parquet"])
def table(request, photos) -> str:
    """A table beside the images whose paths it has, with a question for each."""
    rows = {"file": ["a.png", os.path.abspath("photos/b.JPG")], "ask": ["what\u2028colour?", "how many?"]}
    path = str(photos / f"table.{request.param}")
    made = datasets.Dataset.from_dict(rows)
    write = {"csv": made.to_csv, "jsonl": made.to_json, "parquet": made.to_parquet}[request.param]
    write(path)
    return path


def test_a_table_names_images_from_its_own_folder_on_and_a_text_for_each(table):
    items = read_table(table, "file", "ask")
    assert [item.path for item in items] == ["photos/a.png", os.path.abspath("photos/b.JPG")]
    assert [item.text for item in items] == ["what\u2028colour?", "how many?"]
    assert [item.read() for item in items] == [PNG] * len(items)
    assert [item.text for item in read_table(table, "file")] == [None, None]


def test_a_column_that_a_table_has_not_is_named_with_those_it_has(table):
    with pytest.raises(ValueError, match="has no column 'image'; there are 'file', 'ask'"):
        read_table(table)


def test_parquet_has_bytes_or_what_datasets_makes_of_images(tmp_path):
    plain = str(tmp_path / "plain.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"image": [PNG, None]}), plain)
    assert [(item.path, item.read()) for item in read_table(plain)] == [(f"{plain}#0", PNG), (f"{plain}#1", b"")]
    made = str(tmp_path / "made.parquet")
    images = datasets.Dataset.from_dict({"image": [Image.new("RGB", (4, 4))] * 3})
    images.cast_column("image", datasets.Image()).to_parquet(made)
    assert all(item.read().startswith(b"\x89PNG") for item in read_table(made))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.xlsx", b"", "is no table; readable are .parquet, .csv, .jsonl"),
        ("table.csv", b"image\n", "has no rows"),
        ("table.jsonl", b'{"image": "a.png"}\n{"image"', "table.jsonl, line 2 is no JSON object"),
        ("table.jsonl", b"\n7\n", "table.jsonl, line 2 is no JSON object"),
        ("table.parquet", b"PAR1", "is damaged or no Parquet"),
    ],
)
def test_what_is_no_table_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(str(tmp_path / name))


def test_addresses_are_folders_globs_files_lists_and_tables_too(photos):
    fill("memory", "/there")
    pairs = io.BytesIO()
    datasets.Dataset.from_dict({"image": ["a.png"], "ask": ["what?"]}).to_parquet(pairs)
    files = {"list.txt": b"memory://there/a.png\nphotos/a.png", "t.csv": b"image,ask\na.png,what?\n"}
    for name, content in {**files, "t.parquet": pairs.getvalue()}.items():
        fsspec.filesystem("memory").pipe(f"/there/{name}", content)
    items = find_items(["memory://there"])
    assert [item.file_name for item in items] == ["a.png", "b.JPG", "sub/c.webp", "sub/deep/d.tiff"]
    assert {item.read() for item in items} == {PNG}
    assert items[0].path.startswith("memory://")
    assert [item.file_name for item in find_items(["memory://there/sub/*"])] == ["c.webp"]
    for item in find_items(["memory://there/a.png"], "memory://there/list.txt"):
        assert item.read() == PNG
    for table in ("memory://there/t.csv", "memory://there/t.parquet"):
        (item,) = read_table(table, "image", "ask")
        assert (item.path, item.read(), item.text) == ("memory://there/a.png", PNG, "what?")


def test_addresses_and_parquet_name_the_extra_where_it_is_missing(monkeypatch):
    for name in ("fsspec.core", "pyarrow"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'fsspec.* is not installed: pip install ".\[collections\]"'):
        find_items(["s3://bucket/photos"])
    with pytest.raises(ImportError, match=r'pyarrow is not installed: pip install ".\[collections\]"'):
        read_table("table.parquet")
