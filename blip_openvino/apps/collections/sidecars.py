"""A text file beside each image of a collection, and a folder's `metadata.jsonl`: what trainers and `datasets` read.

What was written is kept in a hidden file of each folder given, `.blip-ov.jsonl`: from it a run goes on, and knows which
texts are its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from blip_openvino.apps.collections.sinks import Key, Lines, Row, clean, key_of, open_output, written_whole
from blip_openvino.apps.collections.sources import SUFFIXES, Item, is_address

JOURNAL = ".blip-ov.jsonl"
METADATA = "metadata.jsonl"
OTHER = "another --sidecar-folder"


@dataclass(frozen=True)
class Place:
    """Where an image's text goes."""

    root: Path
    """The folder that was given; it has the journal and `metadata.jsonl`."""
    file_name: str
    """The image's path below it."""
    sidecar: Path
    text: str | None
    """What is asked of the image."""


@contextmanager
def open_sidecars(
    items: Iterable[Item],
    run: Mapping[str, Any],
    suffix: str | None = ".txt",
    folder: str | Path | None = None,
    metadata: bool = False,
    overwrite: bool = False,
) -> Iterator[Sidecars]:
    """A sink that writes a file for each image, with a text on each line.

    Args:
        items: those that the run is about, one text each.
        run: what texts depend on, as `Run.identity` of `apps.collections.pipeline` gives it.
        suffix: of the files, such as ".txt"; None writes none.
        folder: where they go in place of the images' own folders, in the same tree.
        metadata: whether to write `metadata.jsonl` too, with `file_name` and `text`.
        overwrite: replace files that are not this run's.

    Raises:
        ValueError: two images would have one sidecar or one image several questions; a file is there that was not
            written by this run; an image is in no folder of this machine and no `folder` is given.
        OSError: something cannot be written.
    """
    if suffix is not None and (not suffix[1:].isalnum() or suffix[0] != "." or suffix.lower() in SUFFIXES):
        raise ValueError(f"a sidecar cannot end in {suffix!r}: give .txt or .caption")
    given = run["texts"] or [None]
    if len(given) > 1:
        raise ValueError(f"a sidecar has the answer to one question, not to {len(given)}: give --output")
    places = plan(items, given[0], suffix, folder)
    identity = {**run, "sidecar": suffix, "metadata": metadata}
    with ExitStack() as held:
        journals = {
            root: held.enter_context(open_output(root / JOURNAL, identity, overwrite, OTHER))
            for root in sorted({place.root for place in places.values()})
        }
        if not overwrite:
            refuse_others(places, journals, suffix is not None, metadata)
        try:
            yield Sidecars(places, journals, suffix is not None)
        finally:
            if metadata:
                is_list = run.get("num_return_sequences", 1) > 1
                for root, journal in journals.items():
                    write_metadata(root / METADATA, journal, is_list)


def plan(items: Iterable[Item], text: str | None, suffix: str | None, folder: str | Path | None) -> dict[str, Place]:
    """The places by path; each image is asked its own text, or `text`."""
    places: dict[str, Place] = {}
    taken: dict[Path, str] = {}
    for item in items:
        path = clean(item.path)
        if item.folder is None or (folder is None and is_address(item.path)):
            raise ValueError(f"{path} is not in a folder of this machine: give --sidecar-folder, or --output")
        root = Path(item.folder if folder is None else folder)
        sidecar = (root / item.file_name).with_suffix(suffix or Path(path).suffix)
        place = Place(root, item.file_name, sidecar, text or item.text)
        if places.setdefault(path, place).text != place.text:
            raise ValueError(f"a sidecar has the answer to one question, and {path} has several: give --output")
        if taken.setdefault(sidecar, path) != path:
            raise ValueError(f"{taken[sidecar]} and {path} would both have {sidecar}: rename one, or give --output")
    return places


def refuse_others(places: Mapping[str, Place], journals: Mapping[Path, Lines], sidecars: bool, metadata: bool) -> None:
    """Raise ValueError where a file is there that no journal knows."""
    files = [root / METADATA for root, journal in journals.items() if metadata and not journal.done]
    if sidecars:
        files += [
            place.sidecar
            for place in places.values()
            if key_of(place.file_name, place.text) not in journals[place.root].done
        ]
    for file in files:
        if file.exists():
            raise ValueError(f"{file} was not written by this run: give {OTHER}, or --overwrite to replace it")


class Sidecars:
    """The sink that `open_sidecars` opens; sidecars that were lost are written again."""

    def __init__(self, places: Mapping[str, Place], journals: Mapping[Path, Lines], sidecars: bool):
        self.places, self.journals, self.sidecars = places, journals, sidecars
        self.done: set[Key] = set()
        self.failed: set[Key] = set()
        written: dict[tuple[Path, str], Place] = {}
        for path, place in places.items():
            journal, key = journals[place.root], key_of(place.file_name, place.text)
            if key in journal.done:
                self.done.add(key_of(path, place.text))
                written[place.root, clean(place.file_name)] = place
            if key in journal.failed:
                self.failed.add(key_of(path, place.text))
        for root, journal in journals.items():
            for name, texts in texts_by_path(journal.rows()):
                place = written.get((root, name))
                if place and not place.sidecar.exists():
                    self._write_sidecar(place, texts)

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`."""
        for root, group in groupby(rows, key=lambda row: self.places[row["path"]].root):
            some = list(group)
            # Of a sidecar that is not written yet the next run finds the text here.
            self.journals[root].write([{**row, "path": clean(self.places[row["path"]].file_name)} for row in some])
            for path, texts in texts_by_path(some):
                self._write_sidecar(self.places[path], texts)

    def _write_sidecar(self, place: Place, texts: Sequence[str]) -> None:
        if self.sidecars:
            place.sidecar.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(place.sidecar) as file:
                file.writelines(f"{text}\n".encode() for text in texts)


def write_metadata(path: Path, journal: Lines, is_list: bool) -> None:
    """Write a folder's `metadata.jsonl`, with a list of texts or one for each image; none before the first."""
    if journal.path.stat().st_size:
        with written_whole(path) as file:
            for name, texts in texts_by_path(journal.rows()):
                row = {"file_name": name, "text": texts if is_list else texts[0]}
                file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())


def texts_by_path(rows: Iterable[Row]) -> Iterator[tuple[str, list[str]]]:
    """The texts of each image that has any; rows of an image lie together."""
    for path, group in groupby(rows, key=lambda row: row["path"]):
        texts = [row["text"] for row in group if not row["error"]]
        if texts:
            yield path, texts
