"""A fresh process that answers one question: how long from its start to the answer, and its peak memory.

python -m benchmarks.fresh "ours INT8" build/blip-base-random [cache folder]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.sides import load_side
from benchmarks.workloads import ANSWER_TOKENS, QUESTION, photo

ROOT = Path(__file__).resolve().parents[1]


def peak_memory() -> int:
    """The most memory in bytes that this process has had resident, mapped files included.

    From /proc, because `ru_maxrss` may begin with what the parent process had.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def answer_once(side: str, folder: Path, cache: Path | None) -> tuple[float, int]:
    """Seconds from the start of a new process to its answer, and its peak memory in bytes.

    Raises:
        RuntimeError: the process failed; the message is its error output.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", side, str(folder), *([str(cache)] if cache else [])]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    seconds = time.perf_counter() - start
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a fresh process of {side} failed:\n{errors}")
    return seconds, json.loads(line)["peak_memory"]


def fresh_runs(
    sides: tuple[str, ...], caching: tuple[str, ...], folder: Path, rounds: int
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[int]]]:
    """Seconds by workload and side of "load" and "load, model cache", and peak memory by side; sides take turns."""
    print("answering once in fresh processes ...", flush=True)
    load: dict[str, list[float]] = {side: [] for side in sides}
    cached: dict[str, list[float]] = {side: [] for side in sides if side in caching}
    memory: dict[str, list[int]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory(prefix="model-cache-", dir=folder) as name:
        caches = {side: Path(name) / side.replace(" ", "-") for side in cached}
        for side, cache in caches.items():
            answer_once(side, folder, cache)  # fills it
        for _ in range(rounds):
            for side in sides:
                seconds, peak = answer_once(side, folder, None)
                load[side].append(seconds)
                memory[side].append(peak)
                if side in caches:
                    cached[side].append(answer_once(side, folder, caches[side])[0])
    return {"load": load, "load, model cache": cached}, memory


def main() -> None:
    side, folder, *cache = sys.argv[1:]
    loaded = load_side(side, Path(folder), Path(cache[0]) if cache else None)
    answer = loaded.end_to_end(photo(), QUESTION, ANSWER_TOKENS)
    print(json.dumps({"answer": answer, "peak_memory": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
