"""Where the texts of a collection go: a JSONL or CSV file, or a folder of Parquet parts.

What is there is whole, whenever the process died, and of one run: another model, question or option is refused.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from filelock import FileLock, Timeout

from blip_openvino.apps.errors import extra

if TYPE_CHECKING:
    import pyarrow

Row = Mapping[str, Any]
Key = tuple[str, str]

COLUMNS = {
    task: ("path", text, "text", "score", "width", "height", "model", "precision", "error")
    for task, text in (("ask", "question"), ("caption", "prompt"))
}
"""What a row has, by the run's task: the image and what was asked of it, the text written and its log-probability, the
image's pixels, what wrote it, and in place of a text the error that kept it from being written."""
SUFFIXES = (".jsonl", ".csv")
PART_ROWS = 256
"""How many rows a Parquet part has at least, but for the last; what is not in a part yet is lost with the process."""


class Sink(Protocol):
    """Takes a collection's rows."""

    done: set[Key]
    """What it had when it was opened, see `key_of`."""
    failed: set[Key]
    """Those of them that are errors."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows, all of an image and question together."""


@contextmanager
def open_output(
    output: str | Path, run: Mapping[str, Any], overwrite: bool = False, other: str = "another --output"
) -> Iterator[Lines | Parts]:
    """A file (.jsonl, .csv) or a folder of Parquet parts, to begin it or to go on with it; whole when it is left.

    Beside it, in a file ending in `.run.json`, lies what it is the output of.

    Args:
        output: its suffix says which; a folder has none, or is there already.
        run: what its texts depend on, as `Run.identity` of `apps.collections.pipeline` gives it.
        overwrite: remove what is there.
        other: what an error tells to give where the output is not this run's.

    Raises:
        ValueError: what is there is of another run or none, or damaged; another process writes there; or the suffix is
            none of those.
        OSError: it cannot be written.
        ImportError: it is Parquet, and the extra `collections` is not installed.
    """
    path = Path(output)
    if path.is_dir() or not path.suffix:
        kind, files = Parts, path.glob("*.parquet")
    elif path.suffix in SUFFIXES:
        kind, files = Lines, [path]
    else:
        raise ValueError(f"{path} ends in {path.suffix}: give {' or '.join(SUFFIXES)}, or a folder for Parquet")
    with sole_writer(path, run, overwrite, files, other), closing(kind(path, run)) as sink:
        yield sink


def clean(text: str) -> str:
    """A path or text as rows have it: on one line, and UTF-8 where a file's name is not."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())


def key_of(path: str, text: str | None) -> Key:
    """What tells a row's image and question from others."""
    return clean(path), clean(text or "")


def schema_of(task: str) -> pyarrow.Schema:
    """The columns that Parquet parts have, with their types."""
    with extra("collections"):
        # pyarrow, which only Parquet needs.
        import pyarrow
    types = {"score": pyarrow.float64(), "width": pyarrow.int32(), "height": pyarrow.int32()}
    return pyarrow.schema([(name, types.get(name, pyarrow.string())) for name in COLUMNS[task]])


class Lines:
    """A sink that is a file of lines: JSON objects, or CSV below a line of names."""

    def __init__(self, path: Path, run: Mapping[str, Any]):
        self.path, self.columns, self.is_csv = path, COLUMNS[run["task"]], path.suffix == ".csv"
        self.done: set[Key] = set()
        self.failed: set[Key] = set()
        end, texts = 0, run.get("num_return_sequences", 1)
        for key, group in groupby(self._read(), key=lambda read: key_of(*read[0][:2])):
            rows = list(group)
            if rows[0][0][-1]:
                self.failed.add(key)
            elif len(rows) < texts:  # it is the last, and some of its rows were lost
                continue
            self.done.add(key)
            end = rows[-1][1]
        self.file = path.open("ab", buffering=0)
        self.file.truncate(end)
        if self.is_csv and not end:
            self.write([dict(zip(self.columns, self.columns, strict=True))])

    def rows(self) -> Iterator[Row]:
        """All that it has."""
        return (dict(zip(self.columns, values, strict=True)) for values, _ in self._read())

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`; on return they are on the disk."""
        if self.is_csv:
            lines = io.StringIO()
            csv.DictWriter(lines, self.columns, lineterminator="\n").writerows(rows)
            text = lines.getvalue()
        else:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self.file.write(text.encode())
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Write no more."""
        self.file.close()

    def _read(self) -> Iterator[tuple[list[Any], int]]:
        """The values of each whole row, and where in the file it ends."""
        end = 0
        with self.path.open("a+b") as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):  # the process died while it was written
                    return
                end += len(line)
                try:
                    if self.is_csv:
                        (values,) = csv.reader([line.decode()], strict=True)
                    else:
                        values = list(map(json.loads(line).__getitem__, self.columns))
                    if len(values) != len(self.columns):
                        raise ValueError(f"{len(values)} values")
                except (ValueError, LookupError, TypeError, AttributeError, csv.Error) as error:
                    message = (
                        f"{self.path}, line {number} is damaged ({error}): mend it, or begin anew with --overwrite"
                    )
                    raise ValueError(message) from error
                if not (self.is_csv and number == 1):
                    yield values, end


class Parts:
    """A sink that is a folder of Parquet files, each there as a whole or not at all."""

    def __init__(self, folder: Path, run: Mapping[str, Any]):
        with extra("collections"):
            # pyarrow, which only Parquet needs.
            import pyarrow.dataset
            import pyarrow.parquet
        self.arrow, self.folder, self.schema, self.waiting = pyarrow, folder, schema_of(run["task"]), []
        self.done: set[Key] = set()
        self.failed: set[Key] = set()
        folder.mkdir(exist_ok=True)
        parts = {int(part.stem.removeprefix("part-")): str(part) for part in folder.glob("part-*.parquet")}
        self.number = max(parts, default=-1) + 1
        written = pyarrow.dataset.dataset(list(parts.values()), self.schema, format="parquet")
        for batch in written.to_batches(columns=[*self.schema.names[:2], "error"]):
            for path, text, error in zip(*map(pyarrow.Array.to_pylist, batch.columns), strict=True):
                self.done.add(key_of(path, text))
                if error:
                    self.failed.add(key_of(path, text))

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`; they are on the disk when there are enough for a part."""
        self.waiting += rows
        if len(self.waiting) >= PART_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is held back."""
        if self.waiting:
            self._flush()

    def _flush(self) -> None:
        table = self.arrow.Table.from_pylist(self.waiting, self.schema)
        with written_whole(self.folder / f"part-{self.number:05}.parquet") as file:
            self.arrow.parquet.write_table(table, file)
        self.number, self.waiting = self.number + 1, []


@contextmanager
def sole_writer(
    output: Path, run: Mapping[str, Any], overwrite: bool, files: Iterable[Path], other: str = "another --output"
) -> Iterator[None]:
    """Be the only writer of an output, made sure to be this run's.

    Args:
        output, run, overwrite, other: see `open_output`.
        files: what of it there may be.
    """
    output = Path(os.path.abspath(output))
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(output.with_name(f".{output.name.lstrip('.')}.lock")).acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"another process is writing {output}: wait for it, or give {other}") from error
    with lock:
        there = [file for file in files if file.exists() and file.stat().st_size]
        record = output.with_name(f"{output.name}.run.json")
        if there and not overwrite:
            check_record(output, record, run, other)
        else:
            record.unlink(missing_ok=True)  # of what is left when the process dies here nobody is to go on
            for file in there:
                file.unlink()
            with written_whole(record) as file:
                file.write(json.dumps(run, indent=2).encode())
        yield


def check_record(output: Path, record: Path, run: Mapping[str, Any], other: str) -> None:
    """Raise ValueError where `record` says that an output is of another run, or where there is none."""
    if not record.exists():
        raise ValueError(f"{output} was not written by this command: give {other}, or --overwrite to replace it")
    before, now = json.loads(record.read_text(encoding="utf-8")), json.loads(json.dumps(run))
    if differing := differences(before, now):
        raise ValueError(
            f"{output} was written by {before.get('model')} with {differing}: "
            f"give {other}, or --overwrite to replace it"
        )


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """What two runs differ in, but for the name of their model; empty where they write the same."""
    return "; ".join(
        f"{name} {one.get(name)!r}, not {other.get(name)!r}"
        for name in {**one, **other}
        if name != "model" and one.get(name) != other.get(name)
    )


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes its name when it is whole and on the disk."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    with unfinished.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
