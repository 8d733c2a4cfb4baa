"""The filed results as the README's tables and plot:  python -m benchmarks.report

`results_table` is what the notebook quotes too; `main` writes it between the README's two benchmark comments, and the
plot to `assets/benchmark.svg`.
"""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from benchmarks.sides import BASELINE, OURS, PUBLISHED
from utils import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
PLOT = ROOT / "assets" / "benchmark.svg"
MARKED = re.compile(r"(?<=<!-- benchmark -->\n).*(?=<!-- /benchmark -->)", re.DOTALL)
"""Where in the README the tables stand."""
GREY, BLUE, INK = "#8b949e", "#2f81f7", "#808890"  # readable on white and on black


def file_name(results: dict) -> str:
    """Date and newest instruction set, and the limit where the run was held back to older ones."""
    about = results["machine"]
    limited = [f"as-{about['isa_limit']}"] if about["isa_limit"] else []
    return "-".join([results["date"], (about["isa"] or ["cpu"])[-1], *limited]) + ".json"


def filed_results() -> list[dict]:
    """All that was filed, oldest first."""
    return [json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))]


def latest_results() -> dict:
    """The newest filed results of a run that was not held back to older instructions.

    Raises:
        FileNotFoundError: there are none.
    """
    native = [results for results in filed_results() if not results["machine"]["isa_limit"]]
    if not native:
        raise FileNotFoundError(f"no results in {RESULTS.name}/: run make bench ARGS=--keep")
    return native[-1]


def heading(results: dict) -> str:
    """What was run, where and when."""
    about, tokens, effort = results["machine"], results["tokens"], results["effort"]
    packages = ("torch", "transformers", "openvino", "nncf", "onnxruntime")
    versions = ", ".join(f"{package} {about['versions'][package]}" for package in packages)
    limit = f", held back to {about['isa_limit']}" if about["isa_limit"] else ""
    return (
        f"BLIP base, random weights, batch 1 unless said, {tokens['question']} question, {tokens['answer']} answer and "
        f"{tokens['caption']} caption tokens. {results['date']}, {about['cpu']}, {about['cores']} cores, "
        f"{' '.join(about['isa'])}{limit}; {versions}. Medians of at least {effort['rounds']} "
        f"rounds, the sides taking turns (batch {len(results['seconds']['batch'][BASELINE])}, fresh processes "
        f"{effort['fresh_rounds']}), ± half the 10-90 % range; other guests took {results['stolen']:.1%} of the time."
    )


def cell(runs: Sequence[float] | None, show: Callable[[float], float]) -> str:
    """Median and spread, such as `349 ±3%`; a dash where a side has no such thing."""
    if not runs:
        return "-"
    value = show(median(runs))
    low, high = np.percentile(runs, [10, 90])
    return f"{digits(value)} ±{(high - low) / 2 / median(runs):.0%}"


def digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def sides_of(results: dict) -> list[str]:
    return list(results["seconds"]["answer"])


def medians_table(results: dict) -> str:
    """Every workload on every side."""
    sides, batch = sides_of(results), results["tokens"]["batch"]
    rows = []
    for task, runs in results["seconds"].items():
        label, show = f"{task}, ms", lambda seconds: seconds * 1000
        if task == "batch":
            label, show = f"batch of {batch} captions, images/s", lambda seconds: batch / seconds
        elif task.startswith("load"):
            label, show = f"{task}, s", lambda seconds: seconds
        rows.append((label, *(cell(runs.get(side), show) for side in sides)))
    if results["memory"]:
        rows.append(("peak memory, MB", *(cell(results["memory"][side], lambda size: size / 1e6) for side in sides)))
    weights = (results["sizes"].get(side) for side in sides)
    rows.append(("weights, MB", *("-" if size is None else digits(size / 1e6) for size in weights)))
    return markdown_table(("", *sides), rows)


def ratio(results: dict, task: str, runs: dict[str, list[float]], side: str, others: Sequence[str]) -> str:
    """How many times faster a side is than the best of others; of load and memory, how much it takes of theirs."""
    best = min(median(runs[other]) for other in others)
    own = median(runs[side])
    return f"{own / best:.0%}" if task.startswith(("load", "peak")) else f"{best / own:.2f}x"


def ratios_table(results: dict) -> str:
    """Ours against PyTorch and the better of the published recipe's two, and against the machine's limit."""
    memory = {"peak memory": results["memory"]} if results["memory"] else {}
    tasks = results["seconds"] | memory | results["parts"]
    rows = []
    for task, runs in tasks.items():
        row = [task]
        for side in OURS:
            for others in ((BASELINE,), PUBLISHED):
                known = side in runs and all(other in runs for other in others)
                row.append(ratio(results, task, runs, side, others) if known else "-")
        for side in OURS:
            limit = results["limits"][side.removeprefix("ours ")].get(task)
            row.append("-" if limit is None else f"{digits(limit * 1000)} ms: {median(runs[side]) / limit:.2f}")
        rows.append(row)
    sides = [side.removeprefix("ours ") for side in OURS]
    against = [f"{side} over {other}" for side in sides for other in ("PyTorch", "published")]
    return markdown_table(("ours", *against, *(f"{side}, limit: times over it" for side in sides)), rows)


def results_table(results: dict) -> str:
    """Markdown: where and when, then medians of all sides, then ours against others and against the limit."""
    ceilings = results["ceilings"]
    rates = " and ".join(f"{rate / 1e12:.2f} T/s ({name})" for name, rate in ceilings["rates"].items())
    limit = (
        f"The limit of a part is its operations at the best rate of matrix products measured in this run, {rates}, or "
        f"its bytes at the best read bandwidth, {ceilings['bandwidth'] / 1e9:.1f} GB/s, whichever takes longer; of a "
        "whole, the sum of its parts'. Load and memory: what ours takes of theirs."
    )
    return "\n\n".join([heading(results), medians_table(results), limit, ratios_table(results)])


def readme_text() -> str:
    """The tables of the newest results, and of those held back to older instructions on the same day."""
    latest = latest_results()
    limited = [r for r in filed_results() if r["machine"]["isa_limit"] and r["date"] == latest["date"]]
    return "\n\n".join(map(results_table, [latest, *limited])) + "\n"


def plot(results: dict) -> Figure:
    """A panel for each task: bars of median milliseconds, ours in blue with the limit as a line."""
    tasks = [task for task in results["seconds"] if task.startswith(("answer", "caption"))]
    sides = sides_of(results)
    figure = Figure(figsize=(9, 0.5 + 0.25 * len(sides)), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), sharey=True), tasks, strict=True):
        values = [median(results["seconds"][task][side]) * 1000 for side in sides]
        bars = axes.barh(sides, values, height=0.7, color=[BLUE if side in OURS else GREY for side in sides])
        axes.bar_label(bars, [digits(value) for value in values], padding=3, fontsize=8, color=INK)
        for row, side in enumerate(sides):
            if side in OURS:
                limit = results["limits"][side.removeprefix("ours ")][task] * 1000
                axes.plot([limit, limit], [row - 0.35, row + 0.35], color=INK, linewidth=1.5)
        axes.set_title(f"{task}, ms", fontsize=9, color=INK)
        axes.set_xlim(0, 1.3 * max(values))
        axes.set_xticks([])
        axes.tick_params(length=0, labelsize=8, labelcolor=INK)
        axes.spines[:].set_visible(False)
    axes.invert_yaxis()
    return figure


def main() -> None:
    readme = ROOT / "README.md"
    readme.write_text(MARKED.sub(lambda _: readme_text(), readme.read_text()))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark", "font.family": "sans-serif"}):
        plot(latest_results()).savefig(PLOT, transparent=True, metadata={"Date": None})
    print(readme_text())


if __name__ == "__main__":
    main()
