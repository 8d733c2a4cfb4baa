"""The process of a side, so that one that dies takes no other with it and loads nothing but what it needs:

    python -m benchmarks.worker benchmarks.ours:Ours INT8 build/blip-base-random 4 [cache folder]

It answers once, says so in a line of JSON on standard output, and from then on replies to each line of standard input,
`["caption", false]`: a task, and whether its output is to be checked. An exception ends it.
"""

import json
import os
import pkgutil
import sys
from pathlib import Path

from benchmarks.workloads import Inputs, run


def peak_memory() -> int:
    """The most memory in bytes that this process has had resident, mapped files included.

    From /proc, because `ru_maxrss` may begin with what the parent process had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no reply
    side_class, variant, folder, batch, *cache = sys.argv[1:]
    properties = {"CACHE_DIR": cache[0]} if cache else {}
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):  # OpenVINO would go on computing in bf16, without the instructions for it
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    side, inputs = pkgutil.resolve_name(side_class)(Path(folder), variant, properties), None
    run(side, inputs, "end to end")
    print(json.dumps({"peak_memory": peak_memory()}), file=replies, flush=True)
    for line in sys.stdin:
        inputs = inputs or Inputs(side, int(batch))
        print(json.dumps(run(side, inputs, *json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
