"""Tables of images, as items of a collection: Parquet, CSV and JSONL.

for item in read_table("questions.csv", "image", "question"):
    print(item.path, item.text)
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from blip_openvino.apps.collections.sources import Item, filesystem, is_address, item_at, reaching, read_file
from blip_openvino.apps.errors import extra

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

SUFFIXES = (".parquet", ".csv", ".jsonl")
ROWS_AT_ONCE = 16
"""How many rows of a Parquet file are held at a time, the bytes of their images among them."""


def read_table(table: str, image_column: str = "image", text_column: str | None = None) -> list[Item] | ParquetItems:
    """The images of a table: a Parquet, CSV or JSONL file or its address.

    Args:
        table: of Parquet, rows are read a few at a time.
        image_column: has paths or addresses, paths from the table's own folder on; in Parquet also bytes, or both as
            `datasets` saves images.
        text_column: has a question or a prompt for each image.

    Raises:
        ValueError: it is another kind of file, is damaged, has no such column, or no rows.
        OSError: it cannot be read.
        ImportError: it is Parquet or an address, and the extra `collections` is not installed.
    """
    if not table.endswith(SUFFIXES):
        raise ValueError(f"{table} is no table; readable are {', '.join(SUFFIXES)}")
    wanted = [image_column] if text_column is None else [image_column, text_column]
    if table.endswith(".parquet"):
        items: list[Item] | ParquetItems = ParquetItems(table, *wanted)
    else:
        lines = io.StringIO(read_file(table).decode("utf-8-sig"), newline="")
        rows = list(csv.DictReader(lines) if table.endswith(".csv") else _json_rows(table, lines))
        if rows:
            _check_columns(table, rows[0], wanted)
        items = [_item_of_cells(table, number, *map(row.get, wanted)) for number, row in enumerate(rows)]
    if not len(items):
        raise ValueError(f"{table} has no rows")
    return items


class ParquetItems:
    """The items of a Parquet file, see `read_table`."""

    def __init__(self, table: str, *columns: str):
        self.table, self.columns = table, list(columns)
        with self._open() as file:
            _check_columns(table, file.schema_arrow.names, self.columns)
            self.count = file.metadata.num_rows

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Item]:
        row = 0
        with self._open() as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=self.columns):
                for values in batch.to_pylist():
                    yield _item_of_cells(self.table, row, *map(values.get, self.columns))
                    row += 1

    def _open(self) -> ParquetFile:
        with extra("collections"):
            # pyarrow, which only Parquet needs.
            from pyarrow import ArrowInvalid
            from pyarrow.parquet import ParquetFile
        with reaching(self.table):
            fs, path = filesystem(self.table) if is_address(self.table) else (None, self.table)
            try:
                return ParquetFile(path, filesystem=fs)
            except ArrowInvalid as error:
                raise ValueError(f"{self.table} is damaged or no Parquet: {error}") from error


def _json_rows(table: str, lines: Iterable[str]) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                yield dict(json.loads(line))
            except (ValueError, TypeError) as error:
                raise ValueError(f"{table}, line {number} is no JSON object: {error}") from error


def _check_columns(table: str, there: Iterable[str], wanted: Iterable[str]) -> None:
    for column in wanted:
        if column not in there:
            raise ValueError(f"{table} has no column {column!r}; there are {', '.join(map(repr, there))}")


def _item_of_cells(table: str, row: int, image: object, text: object = None) -> Item:
    """The item that a table's cells stand for."""
    text = None if text is None or text == "" else str(text)
    if isinstance(image, dict):  # as `datasets` saves images
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and image:
        return item_at(image if is_address(image) else os.path.join(os.path.dirname(table), image), text)
    content = image if isinstance(image, bytes) else b""
    return Item(f"{table}#{row}", lambda: content, text)
