"""A collection worked off on many machines: Ray Data hands out the images, and writes their texts as Parquet.

run = Run(blip_openvino.load(folder), "caption")
print(run_on_cluster(Job.of(run, folder), find_items(["/mnt/photos"]), "/mnt/captions", "auto"))

Ray Data reads the list of images, starts workers, gives them images, does again what a dead one had, writes, and leaves
out what is written: docs/cluster.md says where it falls short.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from blip_openvino.apps.blip import IMAGES_AT_ONCE
from blip_openvino.apps.collections.pipeline import Summary, batched
from blip_openvino.apps.collections.sinks import PART_ROWS, sole_writer
from blip_openvino.apps.collections.sources import Item
from blip_openvino.apps.collections.worker import CPUS, ID, Job, Worker, id_of, share_folder
from blip_openvino.apps.errors import extra, one_line

if TYPE_CHECKING:
    import pyarrow

ROWS_AT_ONCE = 64
"""Images, or pairs of an image and a question, that a worker takes at a time; a dead one's are done again."""
IO_CPUS, IO_TASKS = 0, 2
"""Of tasks that hand out the list, and of those that write parts: workers, which hold their cores to the end, do not
keep them out; and how many there are at a time, since each is a process, and none has work for more than one."""
RAY_SETTINGS = {"RAY_DATA_LOG_LEVEL": "WARNING", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_USAGE_STATS_ENABLED": "0"}
"""Of the driver's environment, where it does not say otherwise: Ray logs little, and tells nobody how it is used."""


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
    from ray.data.exceptions import ExecutionTimeoutError

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
    except ExecutionTimeoutError as error:  # after half an hour without a row
        way_out = "start the command again to go on with what is left"
        raise OSError(f"the cluster stood still, {way_out}: {one_line(error)}") from error


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Be a driver of a cluster; OSError where it cannot be reached."""
    for name, value in RAY_SETTINGS.items():
        os.environ.setdefault(name, value)
    with extra("cluster"):
        # Ray, which only clusters need, and which reads its settings as it is imported.
        import ray
    options = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except Exception as error:  # of many kinds: ConnectionError, RuntimeError where versions differ, Exception itself
        raise OSError(f"the Ray cluster {address} cannot be joined: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


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
                    content = item.read() if item.folder is None else None
                    yield {ID: number, "path": os.fsencode(item.path), "text": text, "content": content}

    return [pyarrow.Table.from_pylist(rows, pyarrow.schema(types)) for rows in batched(listed(), ROWS_AT_ONCE)]


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
