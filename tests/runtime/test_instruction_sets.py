"""Every instruction set that the processor has, and every name of it: right answers, and nothing overflows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from blip_openvino.evaluate.accuracy import LOST, exact_match
from blip_openvino.runtime.device import CPUINFO

NEEDED = {
    "AVX2": "avx2",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_int8",
}
"""Values of ONEDNN_MAX_CPU_ISA, and what has to be in /proc/cpuinfo for each."""
FLAGS = set(CPUINFO.read_text().split()) if CPUINFO.exists() else set()
DEVICES = ("AUTO:CPU", "MULTI:CPU", "HETERO:CPU", "BATCH:CPU", "AUTO")

PROGRAM = """
import json, os, sys
import numpy as np
import openvino as ov
from openvino import opset13 as opset
from blip_model import OVBlipModel
from blip_openvino.evaluate.check import check_folder, check_model

folder, questions, devices = sys.argv[1], dict(np.load(sys.argv[2])), sys.argv[3].split()
# The variable limits kernels; it does not make OpenVINO report a processor without bf16.
has_bf16 = os.environ["ONEDNN_MAX_CPU_ISA"] in ("AVX512_CORE_BF16", "AVX512_CORE_AMX")
wishes = {} if has_bf16 else {"INFERENCE_PRECISION_HINT": "f32"}
found = {}
for precision in ("FP16", "INT8", "INT4"):
    model = OVBlipModel.from_pretrained(folder, "CPU", precision, wishes)
    answers = model.generate_answer(**questions)[:, 1]
    reports = [check_model(model, folder, "CPU")]
    # As `runtime.device` sets for "CPU": a processor that really lacks VNNI needs no such property.
    properties = wishes | {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    names = {"FP16": [], "INT8": devices, "INT4": devices[:1]}[precision]
    reports += [check_folder(folder, name, precision, properties) for name in names]
    found[precision] = {"answers": answers.tolist(), "wrong": [str(r) for r in reports if not r.passed]}

# 255 times 64, the most that seven bits hold, is half of what 16 bits do: pairs of products are added there.
tokens = opset.parameter([-1, -1, 256], ov.Type.f32)
limits = [opset.constant(np.float32(each)) for each in (0, 255, 0, 255)]
weights = opset.convert(opset.constant(np.full((64, 256), 64, np.int8)), "f32")
scaled = opset.multiply(weights, opset.constant(np.full((64, 1), 0.5, np.float32)))
product = ov.Model([opset.matmul(opset.fake_quantize(tokens, *limits, 256), scaled, False, True)], [tokens])
for name in ("CPU", *devices):
    [largest] = ov.Core().compile_model(product, name, wishes)(np.full((1, 8, 256), 255, np.float32)).values()
    assert abs(largest / (255 * 64 * 256 / 2) - 1).max() < 0.01, name
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def questions(easy_vqa, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "questions.npz"
    batch = {name: tensor.numpy() for name, tensor in easy_vqa.batch(easy_vqa.sample).items()}
    np.savez(path, pixel_values=easy_vqa.images(easy_vqa.sample).numpy(), **batch)
    return path


@pytest.mark.parametrize("instructions", [name for name, flag in NEEDED.items() if flag in FLAGS])
def test_answers_and_logits_are_right_with_the_instructions(quantized, questions, easy_vqa, torch_sample, instructions):
    # Without VNNI products of 8-bit numbers are added in 16 bits: there all names of the device are tried.
    devices = DEVICES if instructions in ("AVX2", "AVX512_CORE") else ()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-c", PROGRAM, quantized, questions, " ".join(devices)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    def share(tokens: list[int]) -> float:
        said = easy_vqa.texts([[token] for token in tokens])
        return exact_match(said, [easy_vqa.questions[index].answer for index in easy_vqa.sample]).rate

    reference = share(torch_sample[:, 1].tolist())
    assert reference > 0.99
    for precision, found in json.loads(done.stdout).items():
        right = share(found["answers"])
        print(f"{instructions} {precision}: {right:.2%} of 500 right, PyTorch {reference:.2%}")
        assert not found["wrong"], "\n".join(found["wrong"])
        assert reference - right <= LOST[precision]
