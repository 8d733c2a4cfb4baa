"""What tests of collections have in common: running the command, and reading what it wrote."""

import csv
import json
from pathlib import Path

import pyarrow.parquet
from click.testing import CliRunner, Result

from blip_openvino.apps.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def rows_of(output: str | Path) -> list[dict]:
    """What an output has, None and an empty cell being one."""
    path = Path(output)
    if path.is_dir():
        rows = pyarrow.parquet.read_table(path).to_pylist()
    else:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file) if path.suffix == ".csv" else map(json.loads, file))
    return [{name: value for name, value in row.items() if value not in (None, "")} for row in rows]


def texts_of(output: str | Path) -> dict[str, str | None]:
    """Texts by path, None where there is an error; there is one for each."""
    rows = rows_of(output)
    texts = {row["path"]: row.get("text") for row in rows}
    assert len(texts) == len(rows)
    return texts
