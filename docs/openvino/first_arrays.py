"""OpenVINO 2026.4.1: two threads that are the first to see an array of its package can wait for each other for ever.

python docs/openvino/first_arrays.py          tries in 50 processes, and prints how many stood still
python docs/openvino/first_arrays.py before   the same after one array: none

One thread prepares the package's use of NumPy: it holds a C++ static variable and waits for Python's lock. The other
holds that and waits for the variable.
"""

import subprocess
import sys
import threading

import numpy as np
import openvino as ov


def see(constant: ov.op.Constant, begin: threading.Event) -> None:
    while not begin.is_set():
        pass
    assert constant.data.shape == (1,)


if "run" in sys.argv:
    if "before" in sys.argv:
        ov.Tensor(np.zeros(1))
    begin = threading.Event()
    for _ in range(4):
        constant = ov.op.Constant(ov.Type.f32, ov.Shape([1]), [1.0])
        threading.Thread(target=see, args=(constant, begin)).start()
    begin.set()
else:
    hung = 0
    for _ in range(50):
        try:
            subprocess.run([sys.executable, __file__, "run", *sys.argv[1:]], check=True, timeout=5)
        except subprocess.TimeoutExpired:
            hung += 1
    print(f"{hung} of 50 stood still")
