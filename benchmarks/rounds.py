"""The sides taking turns, each in its own process; a side that fails becomes a row that says so.

Turn by turn, so that a busy moment of the machine hits all sides alike. What a side gives is checked before a task is
timed and once more after it: a later image may be wrong where the first was right.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.sides import BASELINE, CACHING, CLASSES, TOLERANCES, Spec
from benchmarks.workloads import ALL_TASKS, PARTS, TASKS

ROOT = Path(__file__).resolve().parents[1]
MOST_ROUNDS = 30
ERROR_LENGTH = 160


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of a task at least, seconds for more of them, how often sides with all tasks are
    loaded (more than once: from a model cache too), images in the batch."""

    rounds: int
    seconds: float
    loads: int
    batch: int


class SideError(Exception):
    """A side died, or what it gave is wrong; the message says so in a line."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.replace(f"{ROOT}/", "").split())[:ERROR_LENGTH])


class Worker:
    """A side's process (`worker.py`), loaded and having answered once.

    `load_seconds` is from its start to the answer, `peak_memory` in bytes what it had resident at most by then.

    Raises:
        SideError: it died of that.
    """

    def __init__(self, spec: Spec, folder: Path, batch: int, *cache: str):
        command = [sys.executable, "-m", "benchmarks.worker", CLASSES[spec.family], spec.variant, folder, str(batch)]
        if spec.cores:
            cores = sorted(os.sched_getaffinity(0))[: spec.cores]
            command = ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, not a pipe, which nobody would empty
        start, pipe = time.perf_counter(), subprocess.PIPE
        self.process = subprocess.Popen(
            [*command, *cache], cwd=ROOT, stdin=pipe, stdout=pipe, stderr=self.errors, text=True
        )
        self.peak_memory: int = self.reply()["peak_memory"]
        self.load_seconds = time.perf_counter() - start

    def ask(self, task: str, checked: bool) -> dict[str, object]:
        """What `workloads.run` gives.

        Raises:
            SideError: the process died.
        """
        with contextlib.suppress(BrokenPipeError):  # there is no reply then
            print(json.dumps([task, checked]), file=self.process.stdin, flush=True)
        return self.reply()

    def reply(self) -> dict[str, object]:
        if line := self.process.stdout.readline():
            return json.loads(line)
        code = self.process.wait()
        self.errors.seek(0)
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise SideError(": ".join([how, *self.errors.read().strip().splitlines()[-1:]]))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


def check(task: str, spec: Spec, reply: dict[str, object], expected: dict[str, object] | None) -> None:
    """Compare what a side gave with PyTorch's float32, as far as there is that.

    Raises:
        SideError: rows or tokens are not as many as asked for, or tokens not the same on a float32 side; logits or
            pixels differ by more than the tolerance, as a share of the range of PyTorch's.
    """
    asked, rows, tolerance = ALL_TASKS[task].new_tokens, ALL_TASKS[task].rows, TOLERANCES[spec.precision]
    lengths = {len(row) - 1 for row in reply["tokens"] or []}
    if asked and lengths != {asked}:
        raise SideError(f"gives {sorted(lengths)} new tokens, not {asked}")
    if rows and len(reply["tokens"]) != rows:
        raise SideError(f"gives {len(reply['tokens'])} rows, not {rows}")
    if expected and spec.precision == "fp32" and reply["tokens"] != expected["tokens"]:
        raise SideError(f"gives tokens {reply['tokens']}, not {expected['tokens']}")
    if expected and reply["values"]:
        values, reference = np.array(reply["values"]), np.array(expected["values"])
        error = np.abs(values - reference).max() / np.ptp(reference)
        if not error <= tolerance:  # nor where it is no number
            raise SideError(f"values are off by {error:.1%} of their range, allowed are {tolerance:.1%}")


class Rounds:
    """All measurements of some sides over the files in `folder`: run once, then read.

    `between` is called with the name of the task after each of its rounds.
    """

    def __init__(
        self,
        sides: Mapping[str, Spec],
        folder: Path,
        effort: Effort,
        tasks: Iterable[str] = TASKS,
        between: Callable[[str], object] = lambda task: None,
    ):
        self.sides, self.folder, self.effort, self.tasks, self.between = sides, folder, effort, tasks, between
        self.workers: dict[str, Worker] = {}
        self.expected: dict[str, dict[str, object]] = {}
        self.seconds: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))  # by task and side
        self.laps: dict[str, dict[str, list[list[float]]]] = defaultdict(lambda: defaultdict(list))  # by side and task
        self.memory: dict[str, list[int]] = defaultdict(list)  # by side
        self.failures: dict[str, dict[str, str]] = defaultdict(dict)  # by task and side

    def run(self) -> None:
        """Load every side, then do every task."""
        try:
            self.turns("load", list(self.sides), self.load)
            whole = [side for side, spec in self.sides.items() if spec.tasks is None]
            for _ in range(self.effort.loads - 1):
                self.turns("load", [side for side in whole if side not in self.failures["load"]], self.load)
            if self.effort.loads > 1:
                caching = [side for side in whole if self.sides[side].family in CACHING]
                self.turns("load, model cache", caching, self.load_cached)
            for task in self.tasks:
                self.time(task)
        finally:
            for worker in self.workers.values():
                worker.close()

    def parts(self) -> dict[str, dict[str, list[float]]]:
        """Seconds by part and side."""
        return {
            part: {side: [read(run) for run in laps[task]] for side, laps in self.laps.items() if laps.get(task)}
            for part, (task, read) in PARTS.items()
        }

    def turns(self, task: str, sides: Sequence[str], turn: Callable[[str, str], None]) -> list[str]:
        """A turn for each side; those on which it went well. A task that fails once has no times on that side."""
        well = []
        for side in sides:
            print(f"{task}: {side}", flush=True)
            try:
                turn(task, side)
                well.append(side)
            except SideError as error:
                print(f"failed: {error}", flush=True)
                self.failures[task][side] = str(error)
                self.seconds[task].pop(side, None)
                self.laps[side].pop(task, None)
        return well

    def has(self, side: str, task: str) -> bool:
        """Whether it is to be timed on that side."""
        return self.sides[side].tasks is None or task in self.sides[side].tasks

    def time(self, task: str) -> None:
        """Check every side that has the task, let them take turns, check again."""
        sides = self.turns(task, [side for side in self.sides if self.has(side, task)], self.checked_run)
        start, rounds, spent = time.perf_counter(), 0, 0.0
        while rounds < self.effort.rounds or (
            rounds < MOST_ROUNDS and spent * (rounds + 1) / rounds < self.effort.seconds
        ):
            sides = self.turns(task, sides, self.timed_run)
            self.between(task)
            rounds, spent = rounds + 1, time.perf_counter() - start
        self.turns(task, sides, self.checked_run)

    def load(self, task: str, side: str) -> None:
        """In a new process, which ends the one before it."""
        if side in self.workers:
            self.workers.pop(side).close()
        worker = self.workers[side] = Worker(self.sides[side], self.folder, self.effort.batch)
        self.seconds["load"][side].append(worker.load_seconds)
        self.memory[side].append(worker.peak_memory)

    def load_cached(self, task: str, side: str) -> None:
        with tempfile.TemporaryDirectory(prefix="model-cache-") as cache:
            for _ in range(2):  # the first one fills the cache
                worker = Worker(self.sides[side], self.folder, self.effort.batch, cache)
                worker.close()
        self.seconds[task][side].append(worker.load_seconds)

    def reply(self, task: str, side: str, checked: bool) -> dict[str, object]:
        """Of a side's process, a new one where the last has died."""
        if side not in self.workers or self.workers[side].process.poll() is not None:
            self.load(task, side)
        reply = self.workers[side].ask(task, checked)
        check(task, self.sides[side], reply, self.expected.get(task))
        return reply

    def checked_run(self, task: str, side: str) -> None:
        reply = self.reply(task, side, checked=True)
        if side == BASELINE:
            self.expected[task] = reply

    def timed_run(self, task: str, side: str) -> None:
        reply = self.reply(task, side, checked=False)
        self.seconds[task][side].append(reply["seconds"])
        self.laps[side][task].append(reply["laps"])
