"""Ray Data 2.60: a file that is gone, or may not be read, ends a run of `read_binary_files`, or is left out unsaid.

There is no row for it. Prints "ended: FileNotFoundError" and "rows: 1 of 2".
"""

import pathlib
import tempfile

import ray

folder = pathlib.Path(tempfile.mkdtemp())
(folder / "there.png").write_bytes(b"image")
paths = [str(folder / name) for name in ("there.png", "gone.png")]
ray.init(address="local", include_dashboard=False, log_to_driver=False)
try:
    ray.data.read_binary_files(paths, include_paths=True).count()
except FileNotFoundError as error:
    print("ended:", type(error).__name__)
print("rows:", ray.data.read_binary_files(paths, include_paths=True, ignore_missing_paths=True).count(), "of 2")
