"""Where the texts of a collection go: whole rows of one run, in every form."""

import csv
import json
import os
from contextlib import closing
from pathlib import Path

import pyarrow.parquet
import pytest

from blip_openvino.apps.collections import sinks
from blip_openvino.apps.collections.sidecars import Sidecars
from blip_openvino.apps.collections.sinks import COLUMNS, clean, key_of, open_output
from blip_openvino.apps.collections.sources import Item, find_items

RUN = {"model": "m", "checkpoint": "1", "precision": "FP16", "task": "caption", "texts": []}
KINDS = ("rows.jsonl", "rows.csv", "rows")


def row(path: str, text: str | None = "a dog", error: str | None = None) -> dict:
    return dict(zip(COLUMNS["caption"], (path, None, text, -0.5, 640, 480, "m", "FP16", error), strict=True))


ROWS = [row("a.jpg", 'a "red", round\u2028 häuschen'), row("b.jpg", None, "no image"), row("c.jpg")]


def write(output: Path, rows: list[dict], run: dict = RUN, overwrite: bool = False) -> set:
    """Add rows to an output; gives what it had before."""
    with closing(open_output(output, run, overwrite)) as sink:
        sink.write(rows)
        return sink.done


def read(output: Path) -> list[dict]:
    """An output's rows as others read them."""
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text(encoding="utf-8").split("\n") if line]
    if output.suffix == ".csv":
        with output.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    return pyarrow.parquet.read_table(output).to_pylist()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_added_and_found_done(tmp_path, kind):
    output = tmp_path / "new" / kind
    assert write(output, ROWS[:2]) == set()
    with closing(open_output(output, RUN)) as sink:
        assert (sink.done, sink.failed) == ({("a.jpg", ""), ("b.jpg", "")}, {("b.jpg", "")})
        sink.write(ROWS[2:])
    as_text = (lambda value: "" if value is None else str(value)) if kind.endswith("csv") else lambda value: value
    assert read(output) == [{name: as_text(value) for name, value in each.items()} for each in ROWS]


@pytest.mark.parametrize("kind", KINDS)
def test_another_run_is_refused_with_what_differs_and_overwrite_replaces(tmp_path, kind):
    output, other = tmp_path / kind, RUN | {"precision": "INT8", "num_beams": 3, "model": "elsewhere/m"}
    write(output, ROWS)
    with pytest.raises(ValueError, match=r"precision 'FP16', not 'INT8'; num_beams None, not 3: give another --output"):
        open_output(output, other)
    assert len(read(output)) == 3
    assert write(output, ROWS[:1], RUN | {"model": "the same elsewhere"}) == {key_of(r["path"], None) for r in ROWS}
    assert write(output, ROWS[:1], other, overwrite=True) == set()
    assert len(read(output)) == 1


def test_a_file_of_others_is_refused(tmp_path):
    output = tmp_path / "rows.csv"
    output.write_text("mine\n")
    with pytest.raises(ValueError, match=r"rows.csv was not written by this command: give another --output"):
        open_output(output, RUN)
    assert output.read_text() == "mine\n"


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_has_one_writer(tmp_path, kind):
    with closing(open_output(tmp_path / kind, RUN)), pytest.raises(ValueError, match="another process is writing"):
        open_output(tmp_path / kind, RUN)


def test_an_unknown_suffix_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"rows.xlsx ends in .xlsx: give .jsonl or .csv, or a folder for Parquet"):
        open_output(tmp_path / "rows.xlsx", RUN)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_wherever_a_write_is_cut_off_the_next_run_adds_what_is_missing(tmp_path, kind):
    output, run = tmp_path / kind, RUN | {"num_return_sequences": 2}
    rows = [each for path in ("a.jpg", "b.jpg") for each in (row(path, "ein Häuschen"), row(path, "a house"))]
    write(output, rows, run)
    whole = output.read_bytes()
    for end in range(1, len(whole)):
        output.write_bytes(whole[:end])
        with closing(open_output(output, run)) as sink:
            sink.write([each for each in rows if key_of(each["path"], None) not in sink.done])
        assert output.read_bytes() == whole, end


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_line_damaged_by_others_is_named_and_nothing_is_cut_off(tmp_path, kind):
    output = tmp_path / kind
    write(output, ROWS)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join([*lines[:1], b'x "\n', *lines[1:]]))
    before = output.read_bytes()
    with pytest.raises(ValueError, match="line 2 is damaged"):
        open_output(output, RUN)
    assert output.read_bytes() == before


def test_a_part_that_was_not_finished_is_none(tmp_path):
    write(tmp_path / "rows", ROWS[:1])
    (tmp_path / "rows" / ".part-00007.parquet.unfinished").write_bytes(b"PAR1")
    assert write(tmp_path / "rows", ROWS[1:]) == {("a.jpg", "")}
    assert {path.name for path in (tmp_path / "rows").iterdir()} == {"part-00000.parquet", "part-00001.parquet"}
    assert len(read(tmp_path / "rows")) == 3


def test_a_damaged_part_is_named(tmp_path):
    write(tmp_path / "rows", ROWS[:1])
    (tmp_path / "rows" / "part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-00000.parquet is damaged: remove it"):
        open_output(tmp_path / "rows", RUN)


def test_parts_are_written_as_they_fill(tmp_path, monkeypatch):
    monkeypatch.setattr(sinks, "PART_ROWS", 2)
    with closing(open_output(tmp_path / "rows", RUN)) as sink:
        for each in ROWS:
            sink.write([each])
        assert len(read(tmp_path / "rows")) == 2
    assert len(read(tmp_path / "rows")) == 3


def test_a_name_that_is_no_text_stays_on_one_line_and_is_known_again(tmp_path):
    name = os.fsdecode(b"a\xff\nb.jpg")
    write(tmp_path / "rows.csv", [row(clean(name))])
    assert write(tmp_path / "rows.csv", []) == {key_of(name, None)}


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "sub/b.png", "bad.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return Path("photos")


SIDECAR_ROWS = [
    row("photos/a.jpg", "ein Häuschen"),
    row("photos/bad.jpg", None, "no"),
    row("photos/sub/b.png", "a cat"),
]


def write_sidecars(rows: list[dict], run: dict = RUN, **options) -> tuple[set, set]:
    """Add rows to the folder's sidecars; gives what was done before, and which of it failed."""
    with closing(Sidecars(find_items(["photos"]), run, **options)) as sink:
        sink.write(rows)
        return sink.done, sink.failed


def test_sidecars_lie_beside_their_images_and_are_found_done(photos):
    assert write_sidecars(SIDECAR_ROWS[:2], metadata=True) == (set(), set())
    assert write_sidecars(SIDECAR_ROWS[2:], metadata=True)[0] == {("photos/a.jpg", ""), ("photos/bad.jpg", "")}
    assert write_sidecars([], metadata=True) == (
        {key_of(each["path"], None) for each in SIDECAR_ROWS},
        {("photos/bad.jpg", "")},
    )
    assert (photos / "a.txt").read_bytes() == "ein Häuschen\n".encode()
    assert {path.name for path in photos.rglob("*.txt")} == {"a.txt", "b.txt"}
    lines = (photos / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"file_name": "a.jpg", "text": "ein Häuschen"},
        {"file_name": "sub/b.png", "text": "a cat"},
    ]


def test_several_texts_are_lines_of_a_sidecar_and_a_list_of_metadata(photos):
    rows = [row("photos/a.jpg", "a dog"), row("photos/a.jpg", "a cat")]
    write_sidecars(rows, RUN | {"num_return_sequences": 2}, suffix=".caption", metadata=True)
    assert (photos / "a.caption").read_text() == "a dog\na cat\n"
    assert json.loads((photos / "metadata.jsonl").read_text()) == {"file_name": "a.jpg", "text": ["a dog", "a cat"]}


def test_a_run_stopped_before_its_first_text_leaves_no_metadata(photos):
    write_sidecars([], metadata=True)
    assert not (photos / "metadata.jsonl").exists()


def test_metadata_goes_without_sidecars(photos):
    write_sidecars(SIDECAR_ROWS, suffix=None, metadata=True)
    assert len((photos / "metadata.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    write_sidecars([], suffix=None, metadata=True)
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


def test_two_images_for_one_sidecar_are_named(photos):
    (photos / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"photos/a.jpg and photos/a.png would both have photos/a.txt: rename one"):
        write_sidecars([])
    assert not (photos / ".blip-ov.jsonl").exists()


@pytest.mark.parametrize(
    ("items", "options", "message"),
    [
        ([Item("t.parquet#0", bytes)], {}, "t.parquet#0 is not in a folder of this machine: give --sidecar-folder"),
        ([Item("s3://b/a.jpg", bytes, folder="s3://b")], {}, "s3://b/a.jpg is not in a folder of this machine"),
        ([Item("a.jpg", bytes, text, "") for text in ("one?", "two?")], {}, "a.jpg has several: give --output"),
        ([], {"suffix": ".png"}, "a sidecar cannot end in '.png'"),
        ([], {"suffix": "txt"}, "a sidecar cannot end in 'txt'"),
        ([], {"run": RUN | {"texts": ["one?", "two?"]}}, "the answer to one question, not to 2"),
    ],
)
def test_what_cannot_have_a_sidecar_is_named(items, options, message):
    with pytest.raises(ValueError, match=message):
        Sidecars(items, **{"run": RUN} | options)
