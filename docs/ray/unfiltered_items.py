"""Ray Data 2.60: a checkpoint does not leave out what is done when rows come from `from_items` (or `range`).

The planner asks that every source be a read, and takes one without inputs for such. So the second run, which should
write nothing, writes all again, without a word. Prints "rows: 20"; 10 when it is mended.
"""

import tempfile

import pyarrow.parquet
import ray
from ray.data.checkpoint import CheckpointConfig

folder = tempfile.mkdtemp()
ray.init(address="local", include_dashboard=False, log_to_driver=False)
ray.data.DataContext.get_current().checkpoint_config = CheckpointConfig(
    "id", f"{folder}/checkpoint", delete_checkpoint_on_success=False
)
for _ in range(2):
    ray.data.from_items([{"id": number} for number in range(10)]).write_parquet(f"{folder}/out")
print("rows:", pyarrow.parquet.read_table(f"{folder}/out").num_rows)
