"""Cost as work grows: milliseconds over images, beams, new tokens, questions and cores, and the figure of that.

Each point is a task of `workloads.CURVES`, checked and timed by turns as every other task. A side leaves a curve after
a point of over `PATIENCE` seconds a run.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from benchmarks.report import digits, where
from benchmarks.rounds import Effort, Rounds
from benchmarks.sides import BASELINE, Spec
from benchmarks.workloads import CURVES, MOST_IMAGES
from utils import markdown_table

SHOWN = (BASELINE, "PyTorch bf16", "ONNX Runtime INT8", "ours INT8")
PATIENCE = 6
CORES, ONE_CORE = "cores, for an answer", ", one core"
FULL = Effort(rounds=1, seconds=4, loads=1, batch=MOST_IMAGES)
QUICK = replace(FULL, seconds=0)
LOG_AXES = ("images in a batch", "questions about one image")


def curve_sides(sides: Mapping[str, Spec]) -> dict[str, Spec]:
    """Those of `sides` that are shown, each once more in a process with one core, which only answers."""
    shown = {side: spec for side, spec in sides.items() if side in SHOWN}
    return shown | {side + ONE_CORE: replace(spec, tasks=("answer",), cores=1) for side, spec in shown.items()}


class CurveRounds(Rounds):
    """Rounds over the points of all curves; `quick` is once over the first point and the third."""

    def __init__(self, sides: Mapping[str, Spec], folder: Path, quick: bool):
        points = [[f"{count} {curve}" for count in counts] for curve, counts in CURVES.items()]
        self.points = [tasks[:3:2] for tasks in points] if quick else points
        super().__init__(sides, folder, QUICK if quick else FULL, ["answer", *chain.from_iterable(self.points)])

    def before(self, task: str) -> list[str]:
        """The curve's points that come before it."""
        return next((tasks[: tasks.index(task)] for tasks in self.points if task in tasks), [])

    def has(self, side: str, task: str) -> bool:
        slow = any(max(self.seconds[point].get(side, [0])) > PATIENCE for point in self.before(task))
        return super().has(side, task) and not slow

    def time(self, task: str) -> None:
        """As in all rounds; where PyTorch has left the curve, logits are compared with those of its last point.

        The logits that are compared are of the first step and the first row, so they are the same at every point.
        """
        if self.before(task) and not self.has(BASELINE, task):
            self.expected[task] = self.expected[self.before(task)[-1]]
        super().time(task)

    def curves(self, cores: int) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Seconds by curve, amount and side; a side that left a curve has no more points."""
        by_cores = {"1": {}, str(cores): {}}
        for side, runs in self.seconds["answer"].items():
            by_cores["1" if side.endswith(ONE_CORE) else str(cores)][side.removesuffix(ONE_CORE)] = runs
        points = {
            curve: {
                str(count): dict(self.seconds[f"{count} {curve}"])
                for count in counts
                if f"{count} {curve}" in self.tasks
            }
            for curve, counts in CURVES.items()
        }
        return points | {CORES: by_cores}


def sides_of(results: dict) -> list[str]:
    timed = {side for points in results["curves"].values() for runs in points.values() for side in runs}
    return [side for side in SHOWN if side in timed]


def notes(results: dict) -> list[str]:
    """Where a side has left a curve, and what failed; each in a line."""
    lines = []
    for curve, points in results["curves"].items():
        for side in sides_of(results):
            left = [count for count in points if side not in points[count]]
            left = [count for count in left if side not in results["failures"].get(f"{count} {curve}", {})]
            if left and curve != CORES:
                lines.append(f"{side} without {', '.join(left)} {curve}: over {PATIENCE} s a run before that.")
    for task, errors in results["failures"].items():
        lines.extend(f"{side} failed at {task}: {error}" for side, error in errors.items())
    return lines


def table(results: dict) -> str:
    """Every point's median in milliseconds, and the notes."""
    sides = sides_of(results)
    rows = [
        [f"{count} {curve}", *(digits(1000 * median(runs[side])) if side in runs else "-" for side in sides)]
        for curve, points in results["curves"].items()
        for count, runs in points.items()
    ]
    heading = f"{where(results)}; medians in milliseconds; other guests took {results['stolen']:.1%} of the time."
    return "\n\n".join([heading, markdown_table(("", *sides), rows), *notes(results)])


def draw(results: dict, file: Path) -> None:
    """The curves as a PNG, a panel each; the last place is for legend and notes."""
    figure = Figure(figsize=(10, 6.2), dpi=90, layout="constrained")
    figure.suptitle(where(results), fontsize=10)
    *panels, words = figure.subplots(2, 3).flat
    for panel, (curve, points) in zip(panels, results["curves"].items(), strict=True):
        for index, side in enumerate(sides_of(results)):
            line = {int(count): 1000 * median(runs[side]) for count, runs in points.items() if side in runs}
            panel.plot(line.keys(), line.values(), "o-", color=f"C{index}", markersize=3.5, label=side)
        if curve in LOG_AXES:
            panel.set_xscale("log", base=2)
            panel.set_yscale("log", base=2)
            panel.yaxis.set_major_formatter("{x:g}")
        else:
            panel.set_ylim(bottom=0)
        counts = [int(count) for count in points]
        panel.set_xticks(counts, counts, minor=False)
        panel.set(xlabel=curve, ylabel="ms")
        panel.grid(alpha=0.3)
    words.axis("off")
    words.legend(*panels[0].get_legend_handles_labels(), loc="upper left", frameon=False)
    wrapped = "\n".join(textwrap.fill(note, 48) for note in notes(results))
    words.text(0, 0.55, wrapped, fontsize=7, va="top")
    figure.savefig(file)
