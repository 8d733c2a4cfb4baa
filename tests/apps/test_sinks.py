"""Where the texts of a collection go: whole rows of one run, in every form."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from collection_outputs import rows_of

from blip_openvino.apps.collections.sidecars import open_sidecars
from blip_openvino.apps.collections.sinks import COLUMNS, clean, key_of, open_output
from blip_openvino.apps.collections.sources import Item, find_items

RUN = {"model": "m", "checkpoint": "1", "precision": "FP16", "task": "caption", "texts": []}
FILES = ("rows.jsonl", "rows.csv")
KINDS = (*FILES, "rows")


def row(path: str, text: str | None = "a dog", error: str | None = None) -> dict:
    return dict(zip(COLUMNS["caption"], (path, None, text, -0.5, 640, 480, "m", "FP16", error), strict=True))


ROWS = [row("a.jpg", 'a "red", round\u2028 häuschen'), row("b.jpg", None, "no image"), row("c.jpg")]


def write(output: Path, rows: list[dict], run: dict = RUN, overwrite: bool = False) -> tuple[set, set]:
    """Add rows to an output; gives what was done before, and which of it failed."""
    with open_output(output, run, overwrite) as sink:
        sink.write(rows)
        return sink.done, sink.failed


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_added_and_found_done(tmp_path, kind):
    output = tmp_path / "new" / kind
    assert write(output, ROWS[:2]) == (set(), set())
    assert write(output, ROWS[2:]) == ({("a.jpg", ""), ("b.jpg", "")}, {("b.jpg", "")})
    found = [{name: str(value) for name, value in each.items()} for each in rows_of(output)]
    assert found == [{name: str(value) for name, value in each.items() if value is not None} for each in ROWS]


@pytest.mark.parametrize("kind", KINDS)
def test_another_run_is_refused_with_what_differs_and_overwrite_replaces(tmp_path, kind):
    output, other = tmp_path / kind, RUN | {"precision": "INT8", "num_beams": 3, "model": "elsewhere/m"}
    write(output, ROWS)
    with pytest.raises(ValueError, match=r"precision 'FP16', not 'INT8'; num_beams None, not 3: give another --output"):
        write(output, [], other)
    assert len(rows_of(output)) == 3
    assert len(write(output, [], RUN | {"model": "the same elsewhere"})[0]) == 3
    assert write(output, ROWS[:1], other, overwrite=True)[0] == set()
    assert len(rows_of(output)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_has_one_writer(tmp_path, kind):
    with open_output(tmp_path / kind, RUN), pytest.raises(ValueError, match="another process is writing"):
        write(tmp_path / kind, ROWS)


def test_an_output_that_is_none_or_of_others_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rows.xlsx ends in .xlsx: give .jsonl or .csv, or a folder for Parquet"):
        write(tmp_path / "rows.xlsx", ROWS)
    (tmp_path / "rows.csv").write_text("mine\n")
    with pytest.raises(ValueError, match=r"rows.csv was not written by this command: give another --output"):
        write(tmp_path / "rows.csv", ROWS)
    assert (tmp_path / "rows.csv").read_text() == "mine\n"


@pytest.mark.parametrize("kind", FILES)
def test_wherever_a_write_is_cut_off_the_next_run_adds_what_is_missing(tmp_path, kind):
    output, run = tmp_path / kind, RUN | {"num_return_sequences": 2}
    rows = [each for path in ("a.jpg", "b.jpg") for each in (row(path, "ein Häuschen"), row(path, "a house"))]
    write(output, rows, run)
    whole = output.read_bytes()
    for end in range(1, len(whole)):
        output.write_bytes(whole[:end])
        with open_output(output, run) as sink:
            sink.write([each for each in rows if key_of(each["path"], None) not in sink.done])
        assert output.read_bytes() == whole, end


@pytest.mark.parametrize("kind", FILES)
def test_a_line_damaged_by_others_is_named_and_nothing_is_cut_off(tmp_path, kind):
    output = tmp_path / kind
    write(output, ROWS)
    first, *others = output.read_bytes().splitlines(keepends=True)
    damaged = b"".join([first, b'x "\n', *others])
    output.write_bytes(damaged)
    with pytest.raises(ValueError, match="line 2 is damaged"):
        write(output, ROWS)
    assert output.read_bytes() == damaged


def test_a_name_that_is_no_text_stays_on_one_line_and_is_known_again(tmp_path):
    name = os.fsdecode(b"a\xff\nb.jpg")
    write(tmp_path / "rows.csv", [row(clean(name))])
    assert write(tmp_path / "rows.csv", [])[0] == {key_of(name, None)}


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    (photos / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png", "bad.jpg"):
        (photos / name).touch()
    return photos


SIDECAR_ROWS = [
    row("photos/a.jpg", "ein Häuschen"),
    row("photos/bad.jpg", None, "no"),
    row("photos/sub/b.png", "a cat"),
]


def write_sidecars(rows: list[dict], run: dict = RUN, **options) -> tuple[set, set]:
    """Add rows to the folder's sidecars; gives what was done before, and which of it failed."""
    with open_sidecars(find_items(["photos"]), run, **options) as sink:
        sink.write(rows)
        return sink.done, sink.failed


def test_sidecars_lie_beside_their_images_and_are_found_done(photos):
    first, bad, last = (key_of(each["path"], None) for each in SIDECAR_ROWS)
    assert write_sidecars(SIDECAR_ROWS[:2], metadata=True) == (set(), set())
    assert write_sidecars(SIDECAR_ROWS[2:], metadata=True) == ({first, bad}, {bad})
    assert write_sidecars([], metadata=True) == ({first, bad, last}, {bad})
    assert (photos / "a.txt").read_bytes() == "ein Häuschen\n".encode()
    assert {path.name for path in photos.rglob("*.txt")} == {"a.txt", "b.txt"}
    assert rows_of(photos / "metadata.jsonl") == [
        {"file_name": "a.jpg", "text": "ein Häuschen"},
        {"file_name": "sub/b.png", "text": "a cat"},
    ]


def test_several_texts_are_lines_of_a_sidecar_and_a_list_of_metadata(photos):
    rows = [row("photos/a.jpg", "a dog"), row("photos/a.jpg", "a cat")]
    write_sidecars(rows, RUN | {"num_return_sequences": 2}, suffix=".caption", metadata=True)
    assert (photos / "a.caption").read_text() == "a dog\na cat\n"
    assert json.loads((photos / "metadata.jsonl").read_text()) == {"file_name": "a.jpg", "text": ["a dog", "a cat"]}


def test_metadata_is_written_whatever_stops_the_run_but_not_before_the_first_text(photos):
    for rows in ([], SIDECAR_ROWS):
        with suppress(KeyboardInterrupt), open_sidecars(find_items(["photos"]), RUN, None, metadata=True) as sink:
            sink.write(rows)
            raise KeyboardInterrupt
        assert (photos / "metadata.jsonl").exists() == bool(rows)
    assert [path.read_bytes() for path in photos.rglob("*.[jp][pn]g")] == [b""] * 3


def test_sidecars_in_a_folder_of_their_own_keep_the_tree(photos):
    write_sidecars(SIDECAR_ROWS, folder="texts")
    assert Path("texts/sub/b.txt").read_text() == "a cat\n"
    assert not list(photos.rglob("*.txt"))


@pytest.mark.parametrize("name", ["a.txt", "metadata.jsonl"])
def test_a_text_of_others_is_replaced_by_overwrite_only(photos, name):
    (photos / name).write_text("mine\n")
    with pytest.raises(ValueError, match=f"photos/{name} was not written by this run: give another --sidecar-folder"):
        write_sidecars(SIDECAR_ROWS, metadata=True)
    assert (photos / name).read_text() == "mine\n"
    write_sidecars(SIDECAR_ROWS, metadata=True, overwrite=True)
    assert "Häuschen" in (photos / name).read_text(encoding="utf-8")


def test_a_sidecar_that_was_edited_stays_and_one_that_was_lost_comes_back(photos):
    write_sidecars(SIDECAR_ROWS)
    (photos / "a.txt").write_text("edited\n")
    (photos / "sub/b.txt").unlink()
    write_sidecars([])
    assert (photos / "a.txt").read_text() == "edited\n"
    assert (photos / "sub/b.txt").read_text() == "a cat\n"


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([Item("t.parquet#0", bytes)], {}, "t.parquet#0 is not in a folder of this machine: give --sidecar-folder"),
        ([Item("s3://b/a.jpg", bytes, folder="s3://b")], {}, "s3://b/a.jpg is not in a folder of this machine"),
        ([Item("a.jpg", bytes, text, "") for text in ("one?", "two?")], {}, "a.jpg has several: give --output"),
        ([Item(f"a.{end}", bytes, None, "") for end in ("jpg", "png")], {}, "a.jpg and a.png would both have a.txt"),
        ([], {"suffix": ".png"}, "a sidecar cannot end in '.png'"),
        ([], {"suffix": "txt"}, "a sidecar cannot end in 'txt'"),
        ([], {"run": RUN | {"texts": ["one?", "two?"]}}, "the answer to one question, not to 2"),
    ],
)
def test_what_cannot_have_a_sidecar_is_named(tmp_path, monkeypatch, items, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message), open_sidecars(items, **{"run": RUN} | options):
        pass
    assert not list(tmp_path.iterdir())
