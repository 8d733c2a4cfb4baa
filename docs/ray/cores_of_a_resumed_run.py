"""Ray Data 2.60: a run that goes on by its checkpoint waits forever for cores on a cluster of two.

The actor that looks ids up takes one, which nothing changes, the user's actor the other; `read_parquet` lists files in
a task that takes a whole one too, whatever its `num_cpus` says. Prints "first run done", and ends two minutes later;
prints "second run done" when it is mended.
"""

import os
import tempfile
import threading

import pyarrow
import pyarrow.parquet
import ray
from ray.data import ActorPoolStrategy
from ray.data.checkpoint import CheckpointConfig


class Same:
    def __call__(self, batch):
        return batch


folder = tempfile.mkdtemp()
pyarrow.parquet.write_table(pyarrow.table({"id": range(10)}), f"{folder}/in.parquet")
ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=2)
ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
    "id", f"{folder}/checkpoint", delete_checkpoint_on_success=False
)
threading.Timer(120, os._exit, [1]).start()
for run in ("first", "second"):
    listed = ray.data.read_parquet(f"{folder}/in.parquet", num_cpus=0)
    same = listed.map_batches(Same, compute=ActorPoolStrategy(size=1), num_cpus=1)
    same.write_parquet(f"{folder}/out", ray_remote_args={"num_cpus": 0})
    print(run, "run done", flush=True)
os._exit(0)
