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

PROCESSES, SECONDS = 50, 5


def run(before: bool) -> None:
    constants = [ov.op.Constant(ov.Type.f32, ov.Shape([1]), [1.0]) for _ in range(4)]
    if before:
        ov.Tensor(np.zeros(1))
    begin = threading.Event()

    def see(constant: ov.op.Constant) -> None:
        while not begin.is_set():
            pass
        assert constant.data.shape == (1,)

    threads = [threading.Thread(target=see, args=(each,)) for each in constants]
    for thread in threads:
        thread.start()
    begin.set()
    for thread in threads:
        thread.join()


if "run" in sys.argv:
    run("before" in sys.argv)
else:
    hung = 0
    for _ in range(PROCESSES):
        try:
            subprocess.run([sys.executable, __file__, "run", *sys.argv[1:]], check=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            hung += 1
    print(f"{hung} of {PROCESSES} stood still")
