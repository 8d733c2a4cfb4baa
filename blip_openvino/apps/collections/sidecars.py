"""A text file beside each image of a collection, and a folder's `metadata.jsonl`: what trainers and `datasets` read.

What was written is kept in a hidden file of each folder given, `.blip-ov.jsonl`: from it a run goes on, and knows which
texts are its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from blip_openvino.apps.collections.sinks import Key, Lines, Row, clean, key_of, written_whole
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


class Sidecars:
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

    def __init__(
        self,
        items: Iterable[Item],
        run: Mapping[str, Any],
        suffix: str | None = ".txt",
        folder: str | Path | None = None,
        metadata: bool = False,
        overwrite: bool = False,
    ):
        if suffix is not None and (not suffix[1:].isalnum() or suffix[0] != "." or suffix.lower() in SUFFIXES):
            raise ValueError(f"a sidecar cannot end in {suffix!r}: give .txt or .caption")
        self.suffix, self.metadata, self.texts = suffix, metadata, run.get("num_return_sequences", 1)
        given = run["texts"] or [None]
        if len(given) > 1:
            raise ValueError(f"a sidecar has the answer to one question, not to {len(given)}: give --output")
        self.places: dict[str, Place] = {}
        keys = self._plan(items, given[0], folder)
        roots = sorted({place.root for place in self.places.values()})
        identity = {**run, "sidecar": suffix, "metadata": metadata}
        self.journals: dict[Path, Lines] = {}
        self.done: set[Key] = set()
        self.failed: set[Key] = set()
        with ExitStack() as held:
            for root in roots:
                self.journals[root] = Lines(root / JOURNAL, identity, overwrite, OTHER)
                held.callback(self.journals[root].close)
            self._find_done(keys, overwrite)
            self.held = held.pop_all()

    def write(self, rows: Sequence[Row]) -> None:
        """See `Sink.write`."""
        for root, group in groupby(rows, key=lambda row: self.places[row["path"]].root):
            some = list(group)
            # Of a sidecar that is not written yet the next run finds the text here.
            self.journals[root].write([{**row, "path": clean(self.places[row["path"]].file_name)} for row in some])
            for path, texts in texts_by_path(some):
                self._write_sidecar(self.places[path].sidecar, texts)

    def close(self) -> None:
        """See `Sink.close`."""
        with self.held:
            for root, journal in self.journals.items():
                if not self.metadata or not journal.path.stat().st_size:
                    continue
                with written_whole(root / METADATA) as file:
                    for name, texts in texts_by_path(journal.rows()):
                        row = {"file_name": name, "text": texts if self.texts > 1 else texts[0]}
                        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())

    def _find_done(self, keys: Mapping[str, str | None], overwrite: bool) -> None:
        """Set `done`, write sidecars again that were lost, and refuse those of others."""
        lost: dict[Path, dict[str, Path]] = {}
        for path, place in self.places.items():
            is_there = self.suffix is not None and place.sidecar.exists()
            journal, key = self.journals[place.root], key_of(place.file_name, keys[path])
            if key in journal.done:
                self.done.add(key_of(path, keys[path]))
                if key in journal.failed:
                    self.failed.add(key_of(path, keys[path]))
                elif not is_there:
                    lost.setdefault(place.root, {})[clean(place.file_name)] = place.sidecar
            elif is_there and not overwrite:
                self._refuse(place.sidecar)
        for root, journal in self.journals.items():
            if self.metadata and not overwrite and not journal.done and (root / METADATA).exists():
                self._refuse(root / METADATA)
            for name, texts in texts_by_path(journal.rows()) if root in lost else ():
                if name in lost[root]:
                    self._write_sidecar(lost[root][name], texts)

    def _plan(self, items: Iterable[Item], text: str | None, folder: str | Path | None) -> dict[str, str | None]:
        """Set `places`, by path; give each path's text, of its own or `text`."""
        texts: dict[str, str | None] = {}
        taken: dict[Path, str] = {}
        for item in items:
            path, own = clean(item.path), text or item.text
            if item.folder is None or (folder is None and is_address(item.path)):
                raise ValueError(f"{path} is not in a folder of this machine: give --sidecar-folder, or --output")
            root = Path(item.folder if folder is None else folder)
            sidecar = (root / item.file_name).with_suffix(self.suffix or Path(path).suffix)
            if texts.setdefault(path, own) != own:
                raise ValueError(f"a sidecar has the answer to one question, and {path} has several: give --output")
            if taken.setdefault(sidecar, path) != path:
                raise ValueError(f"{taken[sidecar]} and {path} would both have {sidecar}: rename one, or give --output")
            self.places[path] = Place(root, item.file_name, sidecar)
        return texts

    def _write_sidecar(self, path: Path, texts: Sequence[str]) -> None:
        if self.suffix is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(path) as file:
                file.writelines(f"{text}\n".encode() for text in texts)

    def _refuse(self, path: Path) -> None:
        raise ValueError(f"{path} was not written by this run: give {OTHER}, or --overwrite to replace it")


def texts_by_path(rows: Iterable[Row]) -> Iterator[tuple[str, list[str]]]:
    """The texts of each image that has any; rows of an image lie together."""
    for path, group in groupby(rows, key=lambda row: row["path"]):
        texts = [row["text"] for row in group if not row["error"]]
        if texts:
            yield path, texts
