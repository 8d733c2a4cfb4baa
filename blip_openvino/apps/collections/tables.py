"""Tables of images, as items of a collection: Parquet, CSV and JSONL.

for item in read_table("questions.csv", "image", "question"):
    print(item.path, item.text)
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

from blip_openvino.apps.collections.sources import Item, Items, is_address, item_at, open_file
from blip_openvino.apps.errors import extra

SUFFIXES = (".parquet", ".csv", ".jsonl")
ROWS_AT_ONCE = 16
"""How many rows of a Parquet file are held at a time, the bytes of their images among them."""


def read_table(table: str, image_column: str = "image", text_column: str | None = None) -> Items:
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
        items: Items = ParquetItems(table, *wanted)
    else:
        with open_file(table) as file:
            items = []
            for values in _csv_rows(file) if table.endswith(".csv") else _json_rows(table, file):
                if not items:
                    _check_columns(table, values, wanted)
                items.append(_item_of_cell(table, len(items), *map(values.get, wanted)))
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
                    yield _item_of_cell(self.table, row, *map(values.get, self.columns))
                    row += 1

    @contextmanager
    def _open(self) -> Iterator[Any]:
        with extra("collections"):
            # pyarrow, which only Parquet needs.
            import pyarrow
            import pyarrow.parquet
        with open_file(self.table) as file:
            try:
                parquet = pyarrow.parquet.ParquetFile(file)
            except pyarrow.ArrowInvalid as error:
                raise ValueError(f"{self.table} is damaged or no Parquet: {error}") from error
            yield parquet


def _csv_rows(file: BinaryIO) -> Iterator[Mapping[str, object]]:
    return csv.DictReader(line.decode("utf-8-sig") for line in file)


def _json_rows(table: str, file: BinaryIO) -> Iterator[Mapping[str, object]]:
    for number, line in enumerate(file, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError as error:
            raise ValueError(f"{table}, line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{table}, line {number} is no JSON object")
        if row:
            yield row


def _check_columns(table: str, there: Iterable[str], wanted: Sequence[str]) -> None:
    there = list(there)
    for column in wanted:
        if column not in there:
            raise ValueError(f"{table} has no column {column!r}; there are {', '.join(map(repr, there))}")


def _item_of_cell(table: str, row: int, image: object, text: object = None) -> Item:
    """The item that a table's cells stand for."""
    text = None if text is None or text == "" else str(text)
    if isinstance(image, dict):  # as `datasets` saves images
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and image:
        return item_at(image if is_address(image) else os.path.join(os.path.dirname(table), image), text)
    content = image if isinstance(image, bytes) else None
    return Item(f"{table}#{row}", partial(cell_content, content), text)


def cell_content(content: bytes | None) -> bytes:
    """An image's bytes from a table; ValueError where it has none."""
    if not content:
        raise ValueError("the table has no image there")
    return content
