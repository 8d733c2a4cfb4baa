"""OpenVINO 2026.4.1, CPU, bf16: a state that a subgraph begins is computed from a tensor that was given earlier.

python docs/openvino/stale_address.py    prints the error of each answer; all should be near 0.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo

SIZE = 64
rng = np.random.default_rng(1)
weights, images = rng.normal(size=(SIZE, SIZE)).astype("f4"), rng.normal(size=(5, 1, SIZE, SIZE)).astype("f4")
question = rng.normal(size=(1, 1, SIZE)).astype("f4")

# The model: question @ keys^T, where the keys are state, begun as image @ weights in a request's first inference.
image, asked = (ops.parameter([1, -1, SIZE], name=name) for name in ("image", "question"))
for node in (image, asked):
    node.output(0).set_names({node.get_friendly_name()})
keys = ops.matmul(image, ops.constant(weights), False, False)
about = VariableInfo()
about.data_shape, about.data_type, about.variable_id = keys.get_output_partial_shape(0), ov.Type.f32, "keys"
state = Variable(about)
kept = read_value(keys.output(0), state)
model = ov.Model([ops.result(ops.matmul(asked, kept, False, True))], [assign(kept, state)], [image, asked], [state])

print("OpenVINO", ov.__version__)
for precision in ("f32", "bf16"):
    for way in ("copied into the request", "handed over by set_tensor"):
        compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        alive, errors = [], []  # what stays alive leaves its address to nothing else
        for pixels in images:
            alive.append(request := compiled.create_infer_request())
            given = {"question": question, "image": pixels}
            if way.startswith("handed"):
                request.set_tensor("image", ov.Tensor(given.pop("image"), shared_memory=True))
            right = question @ (pixels @ weights).mT
            errors.append(np.abs(request.infer(given)[0] - right).max() / np.ptp(right))
        print(f"{precision}, {way}: error over range", *(f"{error:.3f}" for error in errors))
