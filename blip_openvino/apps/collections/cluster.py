"""A collection worked off on many machines: Ray Data hands out the images, and writes their texts as Parquet.

run = Run(blip_openvino.load(folder), "caption")
print(run_on_cluster(Job.of(run, folder), find_items(["/mnt/photos"]), "/mnt/captions", "auto"))

Ray Data reads the list of images, starts workers, gives them images, does again what a dead one had, writes, and leaves
out what is written: docs/cluster.md says where it falls short.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blip_openvino.apps.blip import IMAGES_AT_ONCE
from blip_openvino.apps.collections.pipeline import Run, Summary, batched, one_line, run_collection
from blip_openvino.apps.collections.sinks import COLUMNS, PART_ROWS, Row, key_of, schema_of, sole_writer
from blip_openvino.apps.collections.sources import Item, is_address, item_at
from blip_openvino.apps.collections.tables import cell_content
from blip_openvino.apps.extras import extra
from blip_openvino.apps.load import cache_root, load
from blip_openvino.ir.files import CHECKSUMS, architecture, load_config, staging, weight_sizes, writing

if TYPE_CHECKING:
    import pyarrow
    from ray import ObjectRef

ID = "id"
"""The column that Ray Data's checkpoint goes by, see `id_of`; it has to be in the output too."""
ROWS_AT_ONCE = 64
"""Images, or pairs of an image and a question, that a worker takes at a time; a dead one's are done again."""
CPUS = 1
"""Of a worker, and as many threads of inference: a node has as many workers as its cores and memory allow."""
IO_CPUS, IO_TASKS = 0, 2
"""Of tasks that hand out the list, and of those that write parts: workers, which hold their cores to the end, do not
keep them out; and how many there are at a time, since each is a process, and none has work for more than one."""
RAY_SETTINGS = {"RAY_DATA_LOG_LEVEL": "WARNING", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
"""Of the driver's environment, where it does not say otherwise: Ray logs little, and tells nobody how it is used."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to be one: a `Run` that can be sent, and where its model is."""

    folder: str
    """The converted folder, by the path that all nodes have it at."""
    base: str
    """Where relative paths of images begin."""
    precision: str
    ov_config: Mapping[str, object]
    task: Literal["ask", "caption"]
    texts: tuple[str, ...]
    generate: Mapping[str, Any]
    model: str
    identity: Mapping[str, Any]
    """What the worker's own run has to be the same in."""
    files: tuple[str, ObjectRef] | None = field(default=None, repr=False)
    """A digest of the folder's files, and they in Ray's object store, for nodes without the folder."""

    @classmethod
    def of(cls, run: Run, folder: str | Path, ov_config: Mapping[str, object] | None = None) -> Job:
        """The job that a run is, whose model was loaded from `folder` on CPU with `ov_config`."""
        about = str(Path(folder).resolve()), os.getcwd(), run.blip.model.precision, ov_config or {}
        return cls(*about, run.task, tuple(run.texts), run.generate, run.name, run.identity())

    @property
    def memory(self) -> int:
        """Bytes that a worker takes: half a GB, and twice its weights; at BLIP base 2 GB (FP16), 1.3 GB (INT8)."""
        sizes = weight_sizes(Path(self.folder), [self.precision])
        return (1 << 29) + 2 * sum(size for part in sizes.values() for size in part.values())


class Worker:
    """An actor of Ray's with one compiled model.

    Raises:
        ValueError: its processor computes otherwise than the driver's, or its package is another version.
    """

    def __init__(self, job: Job, batch: int):
        threads = {"INFERENCE_NUM_THREADS": CPUS, "ENABLE_CPU_PINNING": False}  # a node's workers share its cores
        blip = load(folder_on_node(job), "CPU", job.precision, {**job.ov_config, **threads})
        run = Run(blip, job.task, job.texts, job.generate, job.model)
        here = run.identity()
        if here != job.identity:
            differing = [
                f"{name} {here[name]!r}, not {value!r}" for name, value in job.identity.items() if here[name] != value
            ]
            raise ValueError(
                f"{os.uname().nodename} has {'; '.join(differing)}: "
                "give --inference-precision f32 where processors differ, and one version of this package to all"
            )
        self.run, self.batch, self.base = replace(run, texts=()), batch, job.base

    def __call__(self, listed: pyarrow.Table) -> pyarrow.Table:
        """The rows of some listed images."""
        # pyarrow, which came with Ray.
        import pyarrow

        rows = Rows()
        run_collection(self.run, [item_of(row, self.base) for row in listed.to_pylist()], rows, self.batch)
        schema = schema_of(self.run.task).append(pyarrow.field(ID, pyarrow.int64()))
        text = COLUMNS[self.run.task][1]
        with_ids = [{**row, ID: id_of(row["path"], row[text])} for row in rows.written]
        return pyarrow.Table.from_pylist(with_ids, schema)


class Rows:
    """A sink that keeps its rows."""

    done = failed = frozenset()

    def __init__(self):
        self.written: list[Row] = []

    def write(self, rows: list[Row]) -> None:
        """See `Sink.write`."""
        self.written += rows


def run_on_cluster(
    job: Job,
    items: Iterable[Item],
    output: str | Path,
    address: str = "local",
    overwrite: bool = False,
    batch: int = IMAGES_AT_ONCE,
    found: Callable[[int, int], None] = lambda done, failed: None,
) -> Summary:
    """Ask about every image that `output` has no row of yet, as `run_collection` does, on a Ray cluster.

    Args:
        job: what is asked, and of which model.
        items: those in files are read by the workers, at the same paths; bytes of a table go to them through the list.
        output: a folder that all nodes have at this path. It gets parts with the columns of `sinks.COLUMNS` and `ID`;
            beside it lie `….checkpoint`, with the ids of what is done, and `….run.json`.
        address: of a running cluster, "auto" for the one that this machine is in, or "local" for one of its own.
        overwrite: remove what is there.
        batch: how many images are encoded and written about together.
        found: called with how many are done already, and how many of those are errors.

    Raises:
        ValueError: what is there is of another run, or was changed by someone else; a worker differs from the driver.
        OSError: the cluster cannot be reached or did not do it, or the output cannot be written.
        ImportError: the extra `cluster` is not installed.
    """
    started, output = time.monotonic(), Path(os.path.abspath(output))
    checkpoint = output.with_name(f"{output.name}.checkpoint")
    identity = {**job.identity, "parts": "Ray Data"}  # no other run may add to it, since the checkpoint would miss that
    there = [file for folder in (checkpoint, output) for file in folder.glob("*.parquet")]
    with connected(address), sole_writer(output, identity, overwrite, there):
        texts = job.generate.get("num_return_sequences", 1)
        done_before, failed = count_done(output, checkpoint, texts)
        found(done_before, failed)
        listed = list_items(items, job.texts)
        if address != "local":
            job = replace(job, files=share_folder(job))
        run_dataset(job, listed, output, checkpoint, batch)
        done, failed = count_done(output, checkpoint, texts)
    written, total = done - done_before, sum(map(len, listed))
    return Summary(written, total - written, failed, time.monotonic() - started)


def run_dataset(job: Job, listed: Sequence[pyarrow.Table], output: Path, checkpoint: Path, batch: int) -> None:
    """Ask about what is listed and not done yet, and write it: all of it Ray Data's."""
    # Ray, which only clusters need.
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata
    from ray.data.checkpoint import CheckpointConfig

    class Listed(Datasource):
        """What `from_items` is too, but that its rows would not be looked up in the checkpoint."""

        def get_read_tasks(self, *_: object, **__: object) -> list[ReadTask]:
            return [
                ReadTask(partial(iter, [table]), BlockMetadata(table.num_rows, table.nbytes, None, None))
                for table in listed
            ]

        def estimate_inmemory_data_size(self) -> int:
            return sum(table.nbytes for table in listed)

    context = DataContext.get_current().copy()
    context.print_on_execution_start = False
    # Kept on success, so that the next run, which may have more images, knows what is done.
    context.checkpoint_config = CheckpointConfig(ID, str(checkpoint), delete_checkpoint_on_success=False)
    try:
        with DataContext.current(context):
            ray.data.read_datasource(
                Listed(), override_num_blocks=len(listed), num_cpus=IO_CPUS, concurrency=IO_TASKS
            ).map_batches(
                Worker,
                fn_constructor_kwargs={"job": job, "batch": batch},
                batch_size=ROWS_AT_ONCE,
                batch_format="pyarrow",
                compute=ActorPoolStrategy(min_size=1),
                num_cpus=CPUS,
                memory=job.memory,
            ).write_parquet(
                str(output), min_rows_per_file=PART_ROWS, ray_remote_args={"num_cpus": IO_CPUS}, concurrency=IO_TASKS
            )
    except ray.exceptions.RayError as error:
        cause = str(error).strip().splitlines()[-1]  # of a worker's traceback
        raise OSError(f"the cluster did not do it: {cause}") from error


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a cluster; OSError where it cannot be reached."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    with extra("cluster"):
        # Ray, which only clusters need, and which reads its settings as it is imported.
        import ray
    options: dict[str, Any] = {}
    if address == "local":
        options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError where versions differ, Exception itself
        raise OSError(f"the Ray cluster {address} cannot be joined: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def id_of(path: str, text: str | None) -> int:
    """What tells an image and question from others, in 64 bits: the checkpoint's ids are all held in memory.

    Of n of them two are the same with a chance of n² / 2⁶⁵, of ten million 3 in a million.
    """
    digest = blake2b(json.dumps(key_of(path, text)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def list_items(items: Iterable[Item], texts: Sequence[str]) -> list[pyarrow.Table]:
    """What there is to do, each image and question once, in tables of `ROWS_AT_ONCE`."""
    # pyarrow, which comes with Ray.
    import pyarrow

    types = {ID: pyarrow.int64(), "path": pyarrow.binary(), "text": pyarrow.string(), "content": pyarrow.large_binary()}
    seen: set[int] = set()

    def listed() -> Iterator[dict[str, object]]:
        for item in items:
            for text in texts or [item.text]:
                number = id_of(item.path, text)
                if number not in seen:
                    seen.add(number)
                    content = content_of(item) if item.folder is None else None
                    yield {ID: number, "path": os.fsencode(item.path), "text": text, "content": content}

    return [pyarrow.Table.from_pylist(rows, pyarrow.schema(types)) for rows in batched(listed(), ROWS_AT_ONCE)]


def content_of(item: Item) -> bytes:
    """The image that a table has; empty where it has none, which the worker then says in the row."""
    try:
        return item.read()
    except ValueError:
        return b""


def item_of(listed: Mapping[str, Any], base: str) -> Item:
    """The item that a row of the list stands for; `base` is where relative paths begin."""
    path, content = os.fsdecode(listed["path"]), listed["content"]
    place = path if is_address(path) else os.path.join(base, path)
    read = item_at(place).read if content is None else partial(cell_content, content)
    return Item(path, read, listed["text"])


def count_done(output: Path, checkpoint: Path, texts: int) -> tuple[int, int]:
    """How many are done, and how many of them are errors; there are `texts` rows of each of the others.

    Ray Data writes the ids of a part as `X.pending.parquet`, then the part, `X-0.parquet`, and then renames the former
    `X.parquet`. Of a pending one it removes the part when it starts again.

    Raises:
        ValueError: there are parts without ids, or ids without parts.
    """
    # pyarrow, which comes with Ray.
    import pyarrow.dataset

    ids = {file.stem for file in checkpoint.glob("*.parquet")}
    pending = {name.removesuffix(".pending") for name in ids if name.endswith(".pending")}
    parts = {file.stem.rpartition("-")[0]: str(file) for file in output.glob("*.parquet")}
    done = {name for name in ids if not name.endswith(".pending")}
    if lost := (done ^ parts.keys()) - pending:
        raise ValueError(
            f"{output} and {checkpoint} do not belong together, only one of them has {min(lost)}: "
            "give another --output, or --overwrite to begin anew"
        )
    for name in done & pending:  # written again by a task that died: Ray Data would remove the part and keep the ids
        (checkpoint / f"{name}.parquet").unlink()
    if not done - pending:
        return 0, 0
    rows = pyarrow.dataset.dataset([parts[name] for name in done - pending], format="parquet")
    failed = rows.count_rows(filter=pyarrow.dataset.field("error").is_valid())
    return failed + (rows.count_rows() - failed) // texts, failed


def share_folder(job: Job) -> tuple[str, ObjectRef]:
    """Put the files of the converted folder that a job needs into Ray's object store; give their digest too."""
    # Ray, which only clusters need.
    import ray

    folder = Path(job.folder)
    needed = {Path(part.file(job.precision)).stem for part in architecture(load_config(folder)).parts}
    files = {
        file.name: np.fromfile(file, np.uint8)
        for file in folder.iterdir()
        if file.is_file() and (file.suffix not in (".xml", ".bin") or file.stem in needed)
    }
    digest = blake2b(digest_size=8)
    for name in sorted(files):
        digest.update(name.encode())
        digest.update(files[name])
    return digest.hexdigest(), ray.put(files)


def folder_on_node(job: Job) -> Path:
    """The job's converted folder on this machine: the same path, or a copy that the first worker here makes."""
    folder = Path(job.folder)
    if (folder / CHECKSUMS).exists():
        return folder
    if job.files is None:
        raise ValueError(f"{folder} is not on {os.uname().nodename}")
    # Ray, which only clusters need.
    import ray

    digest, files = job.files
    copy = cache_root() / "cluster" / digest
    with writing(copy.parent):  # who waited here finds it made
        if not copy.exists():
            with staging(copy.parent) as staged:
                (staged / digest).mkdir()
                for name, content in ray.get(files).items():
                    content.tofile(staged / digest / name)
                (staged / digest).replace(copy)
    return copy
