"""The process of a side, so that one that dies takes no other with it and loads nothing but what it needs:

    python -m benchmarks.ours INT8 build/blip-base-random 4 [cache folder]

A request is a line of JSON on standard input, `["load", false]` first and then a task and whether its output is to be
checked; the reply is a line on standard output: what `Runner.load` or `Runner.run` gives, or an `error`.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.sides import Side
from benchmarks.workloads import Runner

Load = Callable[[Path, str, dict[str, object]], Side]
"""Folder, variant and OpenVINO properties -> side."""


def serve(load: Load) -> None:
    """Reply to requests until there are no more."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is no reply
    variant, folder, batch, *cache = sys.argv[1:]
    properties: dict[str, object] = {"CACHE_DIR": cache[0]} if cache else {}
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):  # OpenVINO would go on computing in bf16, without the instructions for it
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    runner = Runner(lambda: load(Path(folder), variant, properties), int(batch))
    for line in sys.stdin:
        task, checked = json.loads(line)
        try:
            reply = runner.load() if task == "load" else runner.run(task, checked)
        except Exception as error:  # of any kind: it becomes a row of the table
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)
