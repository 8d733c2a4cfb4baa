"""Figures and tables for the notebooks: a result under its image, accuracies, latencies and sizes. Loads no models.

Every figure is made without pyplot and carries its own PNG representation, so a notebook shows it exactly once: as
the last expression of a cell or through `display(figure)`, with no `%matplotlib` magic.
"""

from __future__ import annotations

import io
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from blip_openvino.runtime.images import ImageSource, load_image

INK, MUTED = "#222222", "#555555"
# Grey for the baseline, then the Okabe-Ito hues that stay apart under colour blindness and in print.
COLORS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
COLUMN_WIDTH, MAX_IMAGE_HEIGHT, GAP = 3.2, 4.0, 0.2  # inches
CELL_WIDTH = 1.9  # inches, of one of many images
LINE_LENGTH, SHORT_LINE_LENGTH = 36, 26  # characters that fit into a column or below one of many images, in bold too
FONT_SIZE, LINE_HEIGHT = 10, 13  # points

Latencies = Mapping[str, Mapping[str, Sequence[float]]]
Sizes = Mapping[str, Mapping[str, int]]


class NotebookFigure(Figure):
    """A `Figure` that a notebook shows without pyplot, and so never a second time."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100, bbox_inches="tight")
        return buffer.getvalue()


def visualize_results(orig_img: ImageSource, answer: str, question: str | None = None) -> Figure:
    """Draw an image with `question: ...` and `answer: ...` under it, or `caption: ...` when there is no question.

    orig_img: whatever `load_image` takes. Long text is wrapped and `$` is an ordinary character.
    """
    return visualize_comparison(orig_img, {"": answer}, question)


def visualize_comparison(orig_img: ImageSource, answers: Mapping[str, str], question: str | None = None) -> Figure:
    """Draw the results of several models side by side: one column per entry of `answers`, headed by its key.

    answers: from a model's label ("FP16") to its answer, or to its caption when `question` is None.
    Raises what `load_image` raises.
    """
    image = load_image(orig_img)
    height = min(MAX_IMAGE_HEIGHT, COLUMN_WIDTH * image.height / image.width)
    image.thumbnail((1000, 1000))  # many megapixels would cost seconds and megabytes to draw three inches wide
    figure = NotebookFigure(figsize=(len(answers) * (COLUMN_WIDTH + GAP), height), facecolor="white")
    edges = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": GAP / COLUMN_WIDTH}
    columns = figure.subplots(1, len(answers), squeeze=False, gridspec_kw=edges)[0]
    for axes, (label, answer) in zip(columns, answers.items(), strict=True):
        axes.imshow(image)
        axes.set(xticks=[], yticks=[], anchor="NW")
        axes.spines[:].set_color("#DDDDDD")  # or a white image has no edge on a white page
        title = textwrap.fill(label, LINE_LENGTH)
        axes.set_title(title, loc="left", fontsize=FONT_SIZE, fontweight="bold", parse_math=False)
        lines = [f"caption: {answer}"] if question is None else [f"question: {question}", f"answer: {answer}"]
        _write_below(axes, [textwrap.fill(line, LINE_LENGTH) for line in lines], FONT_SIZE)
    return figure


def visualize_images(images: Sequence[ImageSource], texts: Sequence[Sequence[str]], columns: int = 5) -> Figure:
    """Draw images in rows of `columns`, each with its lines of text below, the last one in bold.

    texts: for each image its lines, such as (question, answer). Long ones are wrapped.
    Raises what `load_image` raises.
    """
    wrapped = [[textwrap.fill(line, SHORT_LINE_LENGTH) for line in lines] for lines in texts]
    lines = max(sum(len(text.splitlines()) for text in each) for each in wrapped)
    rows = -(-len(images) // columns)
    below = (lines * LINE_HEIGHT + 10) / 72
    figure = NotebookFigure(figsize=(columns * CELL_WIDTH, rows * (CELL_WIDTH + below)), facecolor="white")
    edges = {"left": 0, "right": 1, "top": 1, "bottom": below / (rows * (CELL_WIDTH + below)), "wspace": 0.08}
    cells = figure.subplots(rows, columns, squeeze=False, gridspec_kw=edges | {"hspace": below / CELL_WIDTH}).ravel()
    for axes, image, each in zip(cells[: len(images)], images, wrapped, strict=True):
        axes.imshow(load_image(image))
        axes.set(xticks=[], yticks=[], anchor="N")
        _write_below(axes, each, FONT_SIZE - 1)
    for axes in cells[len(images) :]:
        axes.remove()
    return figure


def _write_below(axes: Axes, texts: Sequence[str], size: int) -> None:
    """Write wrapped texts below each other under what is drawn, the last one in bold."""
    below = 4
    for text in texts:
        style = {"color": INK, "fontweight": "bold"} if text is texts[-1] else {"color": MUTED}
        style |= {"fontsize": size, "va": "top", "parse_math": False}
        axes.annotate(text, (0, 0), (0, -below), "axes fraction", "offset points", **style)
        below += LINE_HEIGHT * len(text.splitlines())


def time_interleaved(sides: Mapping[str, Callable[[], object]], rounds: int = 10) -> dict[str, list[float]]:
    """Seconds of `rounds` runs of each side; the sides take turns, so that a busy moment of the machine hits all alike.

    Every side runs once beforehand without being counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: runs[1:] for name, runs in seconds.items()}


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of `header` and `rows` of text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def accuracy_table(measures: Mapping[str, Mapping[str, object]]) -> str:
    """Markdown table of what `measure_accuracy` gives: a row for each measure, a column for each model."""
    models = next(iter(measures.values()))
    rows = [(name, *map(str, scores.values())) for name, scores in measures.items()]
    return markdown_table(("accuracy", *models), rows)


def latency_table(latencies: Latencies) -> str:
    """Markdown table of timings: median and 10-90 % spread in milliseconds, speed-up of medians over the first side.

    latencies: task -> side -> seconds of each run, such as {"answer": {"PyTorch": [0.9, ...], "INT8": [0.1, ...]}}.
    """
    medians = _medians(latencies)
    rows = []
    for task, sides in medians.items():
        for side, median in sides.items():
            low, high = np.percentile(latencies[task][side], (10, 90)) * 1000
            speed_up = next(iter(sides.values())) / median
            rows.append((task, side, _number(median), f"{_number(low)} - {_number(high)}", f"{speed_up:.2f}x"))
    base = next(iter(sides))
    return markdown_table(("task", "model", "median, ms", "10-90 %, ms", f"speed-up over {base}"), rows)


def plot_latencies(latencies: Latencies) -> Figure:
    """Bars of median latency in milliseconds, each with its value and its speed-up over the first side.

    Takes what `latency_table` does.
    """
    return _grouped_bars(_medians(latencies), "median latency, ms (less is better)", "ms")


def size_table(sizes: Sizes) -> str:
    """Markdown table of model sizes in MB (10^6 bytes) with the compression rate over the first precision.

    sizes: part -> precision -> bytes, such as {"vision_model": {"FP16": 172_000_000, "INT8": 87_000_000}}. With more
    than one part, a last row adds them up.
    """
    megabytes = _megabytes(sizes)
    base, *others = precisions = list(next(iter(megabytes.values())))
    if len(megabytes) > 1:
        megabytes["total"] = {p: sum(part[p] for part in megabytes.values()) for p in precisions}
    header = ["part", *(f"{p}, MB" for p in precisions), *(f"{base} / {p}" for p in others)]
    rows = [
        [part, *(_number(mb[p]) for p in precisions), *(f"{mb[base] / mb[p]:.2f}x" for p in others)]
        for part, mb in megabytes.items()
    ]
    return markdown_table(header, rows)


def plot_sizes(sizes: Sizes) -> Figure:
    """Bars of model sizes in MB (10^6 bytes), each with its value and its compression rate over the first precision.

    Takes what `size_table` does.
    """
    return _grouped_bars(_megabytes(sizes), "size, MB (less is better)", "MB")


def summary_table(model_id: str, accuracy: Mapping[str, str], sizes: Sizes, latency: Mapping[str, Sequence]) -> str:
    """Markdown table with one row per precision: model, precision, accuracy, size of all parts, median latency.

    accuracy: precision -> text. sizes: part -> precision -> bytes. latency: precision -> seconds of each run.
    """
    size = {precision: sum(part[precision] for part in sizes.values()) / 1e6 for precision in accuracy}
    rows = [
        (model_id, precision, text, _number(size[precision]), _number(np.median(latency[precision]) * 1000))
        for precision, text in accuracy.items()
    ]
    return markdown_table(("model", "precision", "accuracy", "size, MB", "answer, ms"), rows)


def _medians(latencies: Latencies) -> dict[str, dict[str, float]]:
    """Seconds of many runs as median milliseconds."""
    return {task: {side: np.median(runs) * 1000 for side, runs in sides.items()} for task, sides in latencies.items()}


def _megabytes(sizes: Sizes) -> dict[str, dict[str, float]]:
    return {part: {precision: size / 1e6 for precision, size in each.items()} for part, each in sizes.items()}


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _grouped_bars(values: dict[str, dict[str, float]], axis_label: str, unit: str) -> Figure:
    """Horizontal bars: a group per task or part, a bar per side, labelled `value unit (ratio to the first side)`."""
    sides = list(next(iter(values.values())))
    step = 0.8 / len(sides)
    figure = NotebookFigure(figsize=(6.4, 0.9 + 0.26 * len(values) * (len(sides) + 1)), layout="constrained")
    axes = figure.add_subplot()
    for i, side in enumerate(sides):
        places = [row - 0.4 + step * (i + 0.5) for row in range(len(values))]
        lengths = [group[side] for group in values.values()]
        bars = axes.barh(places, lengths, height=0.9 * step, color=COLORS[i % len(COLORS)], label=side)
        ratios = [f" ({group[sides[0]] / group[side]:.1f}x)" if i else "" for group in values.values()]
        texts = [f"{_number(length)} {unit}{ratio}" for length, ratio in zip(lengths, ratios, strict=True)]
        axes.bar_label(bars, texts, padding=4, fontsize=9, color=INK)
    axes.set_yticks(range(len(values)), list(values), parse_math=False)
    axes.tick_params(length=0, labelbottom=False)
    axes.invert_yaxis()
    axes.set_xlabel(axis_label, color=MUTED)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=min(4, len(sides)), frameon=False)
    return figure
