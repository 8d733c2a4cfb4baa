"""What `blip-ov ask` and `blip-ov caption` do with many images, whose texts go to files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import click

from blip_openvino.apps.blip import IMAGES_AT_ONCE
from blip_openvino.apps.collections.cluster import run_on_cluster
from blip_openvino.apps.collections.pipeline import Run, Summary, run_collection
from blip_openvino.apps.collections.sidecars import open_sidecars
from blip_openvino.apps.collections.sinks import Sink, open_output
from blip_openvino.apps.collections.sources import Item, find_items, is_address, is_collection
from blip_openvino.apps.collections.tables import ParquetItems, read_table
from blip_openvino.apps.collections.worker import Job
from blip_openvino.apps.load import converted_folder, for_many_images
from blip_openvino.apps.options import load_for


@dataclass(frozen=True)
class Collection:
    """What the options say of a collection, see `options.collection_options`."""

    images: tuple[str, ...]
    texts: tuple[str, ...]
    list_file: str | None = None
    table: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    output: str | None = None
    sidecar: str | None = None
    sidecar_folder: str | None = None
    metadata: bool = False
    overwrite: bool = False
    cluster: str | None = None
    limit: int | None = None
    batch: int = IMAGES_AT_ONCE

    @classmethod
    def of(cls, images: tuple[str, ...], texts: tuple[str, ...], as_json: bool, options: dict[str, Any]) -> Collection:
        """What some of `options`, which are taken out of it, say; UsageError where they contradict each other."""
        own = [name for name in cls.__dataclass_fields__ if name in options]
        found = cls(images, texts, **{name: options.pop(name) for name in own})
        found._check(as_json)
        return found

    @property
    def is_asked(self) -> bool:
        """Whether texts go to files."""
        return bool(self.output or self.sidecar or self.metadata)

    def _check(self, as_json: bool) -> None:
        names = {"list_file": "--list", "text_column": "the table's column of texts"}
        chosen = [each.name for each in fields(self) if getattr(self, each.name) not in (each.default, "")]
        given = set(chosen) - {"images", "texts"}

        def named(name: str) -> str:
            return names.get(name, f"--{name.replace('_', '-')}")

        if not self.images and not self.list_file and not self.table:
            raise click.UsageError("Missing argument 'IMAGE...', or --list or --table in its place.")
        if not self.is_asked:
            if given:
                raise click.UsageError(f"{named(min(given))} is for texts that go to files: add --output or --sidecar.")
            for image in filter(is_collection, self.images):
                raise click.UsageError(f"{image} is no single file: say with --output or --sidecar where its texts go.")
            return
        for first, second, is_wrong in (
            ("--output", "--sidecar or --metadata", self.output and (self.sidecar or self.metadata)),
            ("--output", "--sidecar-folder", self.output and self.sidecar_folder),
            ("--cluster", "--sidecar or --metadata", self.cluster and (self.sidecar or self.metadata)),
            ("--output or --sidecar", "--json, which prints", as_json),
            ("--table", "IMAGE or --list", self.table and (self.images or self.list_file)),
            (named("text_column"), "a question or prompt for all", self.text_column and self.texts),
        ):
            if is_wrong:
                raise click.UsageError(f"{first} does not go with {second}: leave one out.")
        if self.cluster and (is_address(self.output) or (Path(self.output).suffix and not Path(self.output).is_dir())):
            raise click.UsageError(
                "--cluster writes a folder of Parquet parts: give it as --output, or leave --cluster out."
            )
        if not self.table and (self.image_column or self.text_column):
            raise click.UsageError("A column is of a table: add --table.")

    def items(self) -> list[Item] | ParquetItems:
        """The images, all of them."""
        if self.table:
            return read_table(self.table, self.image_column or "image", self.text_column)
        return find_items(self.images, self.list_file)

    def sink(self, items: Iterable[Item], run: Run) -> AbstractContextManager[Sink]:
        """Where the texts go."""
        if self.output:
            return open_output(self.output, run.identity(), self.overwrite)
        places = self.sidecar, self.sidecar_folder, self.metadata
        return open_sidecars(items, run.identity(), *places, overwrite=self.overwrite)


def write_collection(collection: Collection, task: Literal["ask", "caption"], options: dict[str, Any]) -> None:
    """Work a collection off, with a bar on a terminal; exit with 1 where an image or a question was bad."""

    def begin(**changed: object) -> Run:
        blip, generate = load_for({**options, **changed})
        return Run(blip, task, collection.texts, generate, options["model"])

    write = write_on_cluster if collection.cluster else write_here
    try:
        summary = write(collection, begin, options)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise click.exceptions.Exit(130) from None
    click.echo(str(summary))
    if summary.errors:
        raise click.exceptions.Exit(1)


def write_here(collection: Collection, begin: Callable[..., Run], options: Mapping[str, Any]) -> Summary:
    """Work a collection off in this process."""
    items, limit, batch = collection.items(), collection.limit, collection.batch
    total = min(len(items), limit or len(items)) * max(1, len(collection.texts))
    run = begin(ov_config=for_many_images(batch) | (options["ov_config"] or {}))
    with collection.sink(islice(items, limit), run) as sink:
        say_found(len(sink.done), len(sink.failed))
        return run_with_bar(run, islice(items, limit), sink, total, batch)


def write_on_cluster(collection: Collection, begin: Callable[..., Run], options: Mapping[str, Any]) -> Summary:
    """Work a collection off on the machines of a cluster; the model is loaded here once, to try it."""
    if options["device"] not in ("AUTO", "CPU"):
        raise click.UsageError("--cluster runs on CPUs: leave --device out.")
    items = islice(collection.items(), collection.limit)
    folder = converted_folder(options["model"], options["precision"])
    job = Job.of(begin(device="CPU"), folder, options["ov_config"])
    where = collection.output, collection.cluster, collection.overwrite
    return run_on_cluster(job, items, *where, collection.batch, say_found)


def say_found(done: int, failed: int) -> None:
    """Print what is done already, where anything is."""
    if done:
        click.echo(f"{done} found done, errors among them: {failed}", err=True)


def run_with_bar(run: Run, items: Iterable[Item], sink: Sink, total: int, batch: int) -> Summary:
    """`run_collection` with a bar on a terminal: how many are done, how fast, the time left, and errors."""
    hidden = not sys.stderr.isatty()
    with click.progressbar(
        length=total, file=sys.stderr, show_pos=True, hidden=hidden, item_show_func=lambda said: said
    ) as bar:

        def show(so_far: Summary) -> None:
            said = f"{so_far.rate:.1f} images/s, errors: {so_far.errors}"
            bar.update(so_far.written + so_far.found - bar.pos, said)

        return run_collection(run, items, sink, batch, progress=show)
