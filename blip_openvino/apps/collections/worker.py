"""A worker of a cluster: what it is sent, the model that it loads, and the rows that it gives for listed images."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from blip_openvino.apps.collections.pipeline import Run, rows_of
from blip_openvino.apps.collections.sinks import COLUMNS, differences, key_of, schema_of
from blip_openvino.apps.collections.sources import Item, is_address, item_at
from blip_openvino.apps.load import cache_root, load
from blip_openvino.ir.files import CHECKSUMS, architecture, load_config, staging, weight_sizes, writing

if TYPE_CHECKING:
    import pyarrow
    from ray import ObjectRef

ID = "id"
"""The column that Ray Data's checkpoint goes by, see `id_of`; it has to be in the output too."""
CPUS = 1
"""Of a worker, and as many threads of inference: a node has as many workers as its cores and memory allow."""


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
    memory: int
    """Bytes that a worker takes: 1.9 GB, and its weights; at BLIP base 2.6 GB (FP16), 2.2 GB (INT8).

    With batches of 8 images one process took 1.8 and 1.7 GB, to which Ray's own part comes.
    """
    identity: Mapping[str, Any]
    """What the worker's own run has to be the same in."""
    files: tuple[str, ObjectRef] | None = field(default=None, repr=False)
    """A digest of the folder's files, and they in Ray's object store, for nodes without the folder."""

    @classmethod
    def of(cls, run: Run, folder: str | Path, ov_config: Mapping[str, object] | None = None) -> Job:
        """The job that a run is, whose model was loaded from `folder` on CPU with `ov_config`."""
        sizes = weight_sizes(Path(folder), [run.blip.model.precision])
        memory = (7 << 28) + sum(size for part in sizes.values() for size in part.values())
        about = str(Path(folder).resolve()), os.getcwd(), run.blip.model.precision, ov_config or {}
        return cls(*about, run.task, tuple(run.texts), run.generate, run.name, memory, run.identity())


class Worker:
    """An actor of Ray's with one compiled model.

    Raises:
        ValueError: its processor computes otherwise than the driver's, or its package is another version.
    """

    def __init__(self, job: Job, batch: int):
        threads = {"INFERENCE_NUM_THREADS": CPUS, "ENABLE_CPU_PINNING": False}  # a node's workers share its cores
        blip = load(folder_on_node(job), "CPU", job.precision, {**job.ov_config, **threads})
        run = Run(blip, job.task, job.texts, job.generate, job.model)
        if differing := differences(run.identity(), job.identity):
            raise ValueError(
                f"{platform.node()} has {differing}: give --inference-precision f32 where processors differ, "
                "and one version of this package to all"
            )
        self.run, self.batch, self.base = run, batch, job.base

    def __call__(self, listed: pyarrow.Table) -> pyarrow.Table:
        """The rows of some listed images."""
        # pyarrow, which came with Ray.
        import pyarrow

        items = [item_of(row, self.base) for row in listed.to_pylist()]
        schema = schema_of(self.run.task).append(pyarrow.field(ID, pyarrow.int64()))
        text = COLUMNS[self.run.task][1]
        with_ids = [
            {**row, ID: id_of(row["path"], row[text])} for rows in rows_of(self.run, items, self.batch) for row in rows
        ]
        return pyarrow.Table.from_pylist(with_ids, schema)


def id_of(path: str, text: str | None) -> int:
    """What tells an image and question from others, in 64 bits: the checkpoint's ids are all held in memory.

    Of n of them two are the same with a chance of n² / 2⁶⁵, of ten million 3 in a million.
    """
    digest = blake2b(json.dumps(key_of(path, text)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def item_of(listed: Mapping[str, Any], base: str) -> Item:
    """The item that a row of the list stands for; `base` is where relative paths begin."""
    path, content = os.fsdecode(listed["path"]), listed["content"]
    if content is not None:
        return Item(path, lambda: content, listed["text"])
    place = path if is_address(path) else os.path.join(base, path)
    return replace(item_at(place, listed["text"]), path=path)


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
        raise ValueError(f"{folder} is not on {platform.node()}")
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
