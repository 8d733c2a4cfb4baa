"""The filed results as Markdown:  python -m benchmarks.report

Writes the short table into `README.md` and the full ones into `benchmarks/README.md`, each between the two benchmark
comments. A notebook can quote `short_table` or `option_line` of `latest_results`.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.sides import BASELINE, SIDES
from utils import markdown_table

RESULTS = Path(__file__).resolve().parent / "results"
READMES = RESULTS.parents[1] / "README.md", RESULTS.parent / "README.md"
MARKED = re.compile(r"(?<=<!-- benchmark -->\n).*(?=<!-- /benchmark -->)", re.DOTALL)
RIVALS = {"PyTorch": "PyTorch", "published": "published recipe", "ONNX Runtime": "ONNX Runtime"}
OURS, OPTION = ("ours FP16", "ours INT8"), "ours INT4"
"""`OPTION` has a line of its own instead of a column."""
OPTION_TASKS = ("answer", "answer again", "caption", "caption, 3 beams", "batch", "peak memory")
UNITS = {"float": (1e12, "T/s (float)"), "int8": (1e12, "T/s (int8)"), "bytes": (1e9, "GB/s")}
"""Of rates, and how many a second they are."""
SHORT = ("answer", "answer again", "caption", "load", "peak memory")


def filed_results() -> list[dict]:
    """All tables that were filed, newest first; curves are not among them."""
    results = [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]
    return sorted((each for each in results if "curves" not in each), key=lambda each: each["date"], reverse=True)


def latest_results() -> dict:
    """The newest filed results of a run that was not held back to older instructions.

    Raises:
        FileNotFoundError: there are none.
    """
    native = [results for results in filed_results() if not results["machine"]["isa_limit"]]
    if not native:
        raise FileNotFoundError(f"no results in {RESULTS.name}/: run make bench ARGS=--keep")
    return native[0]


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def median_and_spread(runs: Sequence[float], show: Callable[[float], float]) -> str:
    """Such as `349 ±3%`: half the range from the 10th to the 90th percentile, if there was more than one run."""
    low, high = np.percentile(runs, [10, 90])
    spread = f" ±{(high - low) / 2 / median(runs):.0%}" if len(runs) > 1 else ""
    return digits(show(median(runs))) + spread


def tasks_of(results: dict) -> dict[str, dict[str, list[float]]]:
    """Seconds of tasks and parts, and bytes of memory, by side."""
    return results["seconds"] | results["parts"] | {"peak memory": results["memory"]}


def labelled(results: dict, task: str) -> tuple[str, Callable[[float], float]]:
    """A task with its unit, and the way to that from seconds or bytes."""
    batch = results["tokens"]["batch"]
    if task == "batch":
        return f"batch of {batch} captions, images/s", lambda seconds: batch / seconds
    if task == "peak memory":
        return f"{task}, MB", lambda size: size / 1e6
    if task.startswith("load"):
        return f"{task.replace('load', 'load to first answer')}, s", lambda seconds: seconds
    return f"{task}, ms", lambda seconds: seconds * 1000


def where(results: dict) -> str:
    about = results["machine"]
    limit = f", held back to {about['isa_limit']}" if about["isa_limit"] else ""
    return f"{about['cpu']}, {about['cores']} cores, {about['instruction_set']}{limit}, {results['date']}"


def short_table(results: dict) -> str:
    """The README's: rivals at the better of their precisions, bold what is best in a row, and where ours is not."""
    rows, behind = [], []
    for task in SHORT:
        runs = tasks_of(results)[task]
        medians = {side: median(each) for side, each in runs.items() if each and side != OPTION}
        values = [min((medians[s] for s in medians if SIDES[s].family == rival), default=None) for rival in RIVALS]
        values += [medians.get(side) for side in OURS]
        least, (label, show) = min(medians.values(), default=0), labelled(results, task)
        shown = ["failed" if value is None else digits(show(value)) for value in values]
        rows.append([label, *(f"**{shown[i]}**" if value == least else shown[i] for i, value in enumerate(values))])
        behind += [task] * (least not in values[-len(OURS) :])
    verdict = f"Ours is not the best in: {', '.join(behind)}." if behind else "Ours is the best in every row."
    table = markdown_table(("", *RIVALS.values(), *OURS), rows)
    return f"{table}\n\n{where(results)}; medians, the first three each at their best precision. {verdict}"


def cell(results: dict, task: str, side: str) -> str:
    """Median and spread, such as `349 ±3%`; `failed`, or a dash where a side has no such task."""
    runs, (_, show) = tasks_of(results)[task].get(side), labelled(results, task)
    if not runs:
        return "failed" if side in results["failures"].get(task, {}) else "-"
    return median_and_spread(runs, show)


def limit_cell(results: dict, task: str, side: str) -> str:
    """The limit of the machine, and how many times that ours takes: `349 (1.16x)`."""
    limit, runs = results["limits"][SIDES[side].precision].get(task), tasks_of(results)[task].get(side)
    if limit is None or not runs:
        return "-"
    return f"{digits(labelled(results, task)[1](limit))} ({median(runs) / limit:.2f}x)"


def option_line(results: dict) -> str:
    """What INT4 weights in the decoder bring."""
    compared = [
        f"{labelled(results, task)[0]}: {cell(results, task, OPTION)} against {cell(results, task, OURS[-1])}"
        for task in OPTION_TASKS
        if cell(results, task, OPTION) != "-"
    ]
    weights = " against ".join(digits(results["sizes"][side] / 1e6) for side in (OPTION, OURS[-1]))
    return f"INT4 weights in the decoder instead of INT8 bring {'; '.join(compared)}; weights, MB: {weights}."


def results_table(results: dict) -> str:
    """Where, when and how it was measured, every task and part on every side, and what failed."""
    about, tokens, effort = (results[name] for name in ("machine", "tokens", "effort"))
    versions = ", ".join(f"{package} {number}" for package, number in about["versions"].items())
    rates = ", ".join(
        f"{median_and_spread(each, lambda rate, unit=UNITS[kind][0]: rate / unit)} {UNITS[kind][1]}"
        for kind, each in results["rates"].items()
    )
    counts = ", ".join(f"{task} {len(results['seconds'][task].get(BASELINE, []))}" for task in ("batch", "load"))
    heading = (
        f"{where(results)}; {versions}; {tokens['question']} question, {tokens['answer']} answer, {tokens['caption']} "
        f"caption tokens. Medians of at least {effort['rounds']} rounds ({counts}), ± half the 10-90 % range; other "
        f"guests took {results['stolen']:.1%} of the time. Rates of the machine: {rates}."
    )
    known = results["seconds"]["load"].keys() | results["failures"].get("load", {}).keys()
    sides = [side for side in SIDES if side in known and side != OPTION]
    rows = [
        [labelled(results, task)[0], *(cell(results, task, side) for side in sides)]
        + [limit_cell(results, task, side) for side in OURS]
        for task in tasks_of(results)
    ]
    sizes = (results["sizes"].get(side) for side in sides)
    rows.append(["weights, MB", *("-" if size is None else digits(size / 1e6) for size in sizes), *("-" * len(OURS))])
    table = markdown_table(("", *sides, *(f"limit {SIDES[side].precision}" for side in OURS)), rows)
    failed = [
        f"- {side}, {task}: `{error}`" for task, errors in results["failures"].items() for side, error in errors.items()
    ]
    return "\n\n".join([heading, table, option_line(results), *(["Failed:", "\n".join(failed)] if failed else [])])


def main() -> None:
    full = "\n\n".join(f"### {each['machine']['instruction_set']}\n\n{results_table(each)}" for each in filed_results())
    figures = [f"![{file.stem}](results/{file.name})" for file in sorted(RESULTS.glob("curves-*.png"))]
    full = "\n\n".join([full, *(["### Curves", *figures] if figures else [])])
    for readme, text in zip(READMES, (short_table(latest_results()), full), strict=True):
        written, places = MARKED.subn(lambda _, text=text: text + "\n", readme.read_text())
        if not places:
            raise ValueError(f"{readme} has no <!-- benchmark --> and <!-- /benchmark -->, each on a line: add them")
        readme.write_text(written)


if __name__ == "__main__":
    main()
