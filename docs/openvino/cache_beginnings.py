"""OpenVINO 2026.4.1, CPU: of three ways to begin the state of a key and value cache, two fail.

python docs/openvino/cache_beginnings.py    tries each in a process of its own and prints how that ended.
"""

import subprocess
import sys

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation


def run(beginning: str) -> None:
    ports = {name: ops.parameter([-1, 2, -1, 16], name=name) for name in ("past.k", "past.v", "q", "new.k", "new.v")}
    ports["beam_idx"] = ops.parameter([-1], ov.Type.i32, name="beam_idx")
    for name, node in ports.items():
        node.output(0).set_names({name})
    present = [ops.concat([ops.gather(ports[f"past.{h}"], ports["beam_idx"], 0), ports[f"new.{h}"]], 2) for h in "kv"]
    for half, node in zip("kv", present, strict=True):
        node.output(0).set_names({f"present.{half}"})
    outputs = [ops.scaled_dot_product_attention(ports["q"], *present), *present]
    model = ov.Model([ops.result(each) for each in outputs], list(ports.values()))
    apply_make_stateful_transformation(model, {f"past.{half}": f"present.{half}" for half in "kv"})
    rows = ops.constant([1]) if beginning == "one row" else ops.gather(ops.shape_of(ports["q"]), [0], 0)
    empty = ops.broadcast(np.float32(0), ops.concat([rows, ops.constant([2, 0, 16])], 0))
    states = [node for node in model.get_ordered_ops() if node.get_type_name() == "ReadValue"]
    for read in states if beginning != "nothing" else ():
        read.set_arguments([empty])
    model.validate_nodes_and_infer_types()
    new = dict.fromkeys(("q", "new.k", "new.v"), np.ones((3, 2, 1, 16), np.float32)) | {"beam_idx": np.arange(3)}
    print("right" if np.allclose(ov.Core().compile_model(model, "CPU")(new)[0], 1) else "WRONG")


for beginning in sys.argv[1:]:
    run(beginning)
for beginning in () if sys.argv[1:] else ("nothing", "one row", "as many rows as are given"):
    done = subprocess.run([sys.executable, __file__, beginning], capture_output=True, text=True)
    print(f"{beginning}: exit {done.returncode} {(done.stdout or done.stderr).strip().splitlines()[-1:]}")
