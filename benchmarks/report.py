"""The filed results of `bench.py` as Markdown: python -m benchmarks.report"""

import json
from pathlib import Path

import numpy as np

from utils import markdown_table

RESULTS = Path(__file__).resolve().parent / "results"


def latest_results() -> dict:
    """The newest results that were filed.

    Raises:
        FileNotFoundError: there are none.
    """
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"no results in {RESULTS.name}/: run python benchmarks/bench.py --keep")
    return json.loads(files[-1].read_text())


def results_table(results: dict) -> str:
    """Markdown: where and when, then each task's medians, spread and speed-ups."""
    about, tokens = results["machine"], results["tokens"]
    rows = []
    for task, sides in results["seconds"].items():
        medians = {side: float(np.median(seconds)) for side, seconds in sides.items()}
        for side, seconds in sides.items():
            low, high = np.percentile(seconds, [10, 90]) * 1000
            rows.append(
                (
                    task,
                    side,
                    f"{medians[side] * 1000:.1f}",
                    f"{low:.1f} - {high:.1f}",
                    f"{medians['PyTorch'] / medians[side]:.2f}x",
                    f"{medians['FP16'] / medians[side]:.2f}x",
                )
            )
    header = ("task", "side", "median, ms", "10-90 %, ms", "over PyTorch", "over FP16")
    precisions = next(iter(results["sizes"].values()))
    sizes = [
        (part, *(f"{size / 1e6:.1f}" for size in by_precision.values()))
        for part, by_precision in results["sizes"].items()
    ]
    return (
        f"BLIP base, random weights, batch 1, {tokens['answer']} answer and {tokens['caption']} caption tokens, "
        f"{results['rounds']} rounds. {results['date']}, {about['cpu']}, {about['cores']} cores, "
        f"{' '.join(about['isa'])}, openvino {about['versions']['openvino']}, torch {about['versions']['torch']}.\n\n"
        f"{markdown_table(header, rows)}\n\n"
        f"{markdown_table(('weights, MB', *precisions), sizes)}"
    )


if __name__ == "__main__":
    print(results_table(latest_results()))
