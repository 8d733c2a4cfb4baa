"""Pictures and comparisons: a result under its image, latencies and sizes as tables and bars. Loads no models.

Every figure is made without pyplot and carries its own PNG representation, so a notebook shows it exactly once: as
the last expression of a cell or through `display(figure)`, with no `%matplotlib` magic.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

INK, MUTED = "#222222", "#555555"
# Grey for the baseline, then the Okabe-Ito hues that stay apart under colour blindness and in print.
COLORS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")

COLUMN_WIDTH, MARGIN, MAX_IMAGE_HEIGHT = 3.2, 0.12, 4.0  # inches
FONT_SIZE, LINE_HEIGHT = 10, 10 * 1.45 / 72  # points, inches

Values = Mapping[str, Mapping[str, float]]


class NotebookFigure(Figure):
    """A `Figure` that a notebook shows without pyplot, and so never a second time."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=self.dpi)
        return buffer.getvalue()


def visualize_results(orig_img: Image.Image | np.ndarray, answer: str, question: str | None = None) -> Figure:
    """Draw an image with `question: ...` and `answer: ...` under it, or `caption: ...` when there is no question.

    orig_img: a PIL image of any mode, or an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] that holds integers in
    0..255 (uint16: 0..65535), floats in 0..1 or booleans. Long text is wrapped and `$` is an ordinary character.
    Raises ValueError for an array of another shape or range.
    """
    return _draw_columns(orig_img, {"": answer}, question)


def visualize_comparison(
    orig_img: Image.Image | np.ndarray, answers: Mapping[str, str], question: str | None = None
) -> Figure:
    """Draw the results of several models side by side: one column per entry of `answers`, headed by its key.

    answers: from a model's label ("FP16") to its answer, or to its caption when `question` is None.
    Raises ValueError when `answers` is empty, and as `visualize_results` does.
    """
    if not answers:
        raise ValueError("answers is empty: expected at least one label with its answer")
    return _draw_columns(orig_img, answers, question)


def _draw_columns(orig_img: Image.Image | np.ndarray, answers: Mapping[str, str], question: str | None) -> Figure:
    """One column per answer: label, image, text. All heights are in inches, so that text of any length fits."""
    image = _to_rgb(orig_img)
    image_height = min(MAX_IMAGE_HEIGHT, COLUMN_WIDTH * image.height / image.width)
    # A photo of many megapixels would cost seconds and megabytes to draw three inches wide.
    image.thumbnail((1000, 1000))
    regular, bold = FontProperties(size=FONT_SIZE), FontProperties(size=FONT_SIZE, weight="bold")
    figure = NotebookFigure(dpi=100, facecolor="white")

    def wrapped(text: str, font: FontProperties) -> list[str]:
        return _wrap(text, COLUMN_WIDTH * figure.dpi, lambda line: _text_width(figure, line, font))

    labels = [wrapped(label, bold) if label else [] for label in answers]
    asked = wrapped(f"question: {question}", regular) if question is not None else []
    kind = "answer" if question is not None else "caption"
    answered = [wrapped(f"{kind}: {answer}", bold) for answer in answers.values()]

    label_height = LINE_HEIGHT * max(map(len, labels))
    text_height = LINE_HEIGHT * (len(asked) + max(map(len, answered)))
    width = len(answers) * (COLUMN_WIDTH + MARGIN) + MARGIN
    height = label_height + image_height + text_height + 3 * MARGIN
    figure.set_size_inches(width, height)

    def write(lines: list[str], left: float, top: float, font: FontProperties, color: str) -> None:
        for i, line in enumerate(lines):
            figure.text(
                left / width,
                1 - (top + i * LINE_HEIGHT) / height,
                line,
                fontproperties=font,
                color=color,
                va="top",
                # A question about a price is no formula.
                parse_math=False,
            )

    for column in range(len(answers)):
        left, image_top = MARGIN + column * (COLUMN_WIDTH + MARGIN), MARGIN + label_height
        text_top = image_top + image_height + MARGIN / 2
        bottom = 1 - (image_top + image_height) / height
        axes = figure.add_axes((left / width, bottom, COLUMN_WIDTH / width, image_height / height))
        axes.imshow(image, aspect="equal")
        axes.set(xticks=[], yticks=[])
        # A frame, or a white image has no edge on a white page.
        axes.spines[:].set_color("#DDDDDD")
        write(labels[column], left, MARGIN / 2, bold, INK)
        write(asked, left, text_top, regular, MUTED)
        write(answered[column], left, text_top + len(asked) * LINE_HEIGHT, bold, INK)
    return figure


def _to_rgb(image: Image.Image | np.ndarray) -> Image.Image:
    """Any image as RGB, transparency laid over white."""
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    elif image.mode.startswith("I;16"):
        # PIL's own conversion clips 16-bit grey at 255 instead of scaling it.
        image = _from_array(np.asarray(image).astype(np.uint16))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _from_array(pixels: np.ndarray) -> Image.Image:
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)) or not pixels.size:
        raise ValueError(f"image has shape {list(pixels.shape)}; expected [H, W] or [H, W, 1, 3 or 4], not empty")
    limit = 1 if pixels.dtype.kind in "bf" else 65535 if pixels.dtype == np.uint16 else 255
    # Written so that a NaN fails too.
    if not (pixels.min() >= 0 and pixels.max() <= limit):
        raise ValueError(f"image of {pixels.dtype} holds {pixels.min()}..{pixels.max()}; expected 0..{limit}")
    pixels = pixels.squeeze(2) if pixels.shape[2:] == (1,) else pixels
    return Image.fromarray(np.rint(pixels * (255 / limit)).astype(np.uint8))


def _text_width(figure: Figure, line: str, font: FontProperties) -> float:
    """Width of a line in pixels, as the figure's renderer will draw it."""
    return figure.canvas.get_renderer().get_text_width_height_descent(line, font, ismath=False)[0]


def _wrap(text: str, max_width: float, width_of: Callable[[str], float]) -> list[str]:
    """Break text into lines no wider than `max_width`: between words, and inside a word that fills a line alone."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if width_of(joined) <= max_width:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and width_of(lines[-1] + character) > max_width:
                lines.append("")
            lines[-1] += character
    return lines


def time_interleaved(sides: Mapping[str, Callable[[], object]], rounds: int = 10) -> dict[str, list[float]]:
    """Seconds of `rounds` runs of each side; the sides take turns, so that a busy moment of the machine hits all alike.

    Every side runs once beforehand without being counted.
    """
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def latency_table(latencies: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Markdown table of timings: median and 10-90 % spread in milliseconds, speed-up of medians over the first side.

    latencies: task -> side -> seconds of each run, such as {"answer": {"PyTorch": [0.9, ...], "INT8": [0.1, ...]}}.
    Raises ValueError when tasks differ in their sides, or a side has no runs or one that is not above zero.
    """
    medians = _medians(latencies)
    base = next(iter(next(iter(medians.values()))))
    rows = []
    for task, sides in latencies.items():
        for side, seconds in sides.items():
            low, high = np.percentile(seconds, (10, 90)) * 1000
            speed_up = medians[task][base] / medians[task][side]
            spread = f"{_number(low)} - {_number(high)}"
            rows.append((task, side, _number(medians[task][side]), spread, f"{speed_up:.2f}x"))
    return markdown_table(("task", "model", "median, ms", "10-90 %, ms", f"speed-up over {base}"), rows)


def plot_latencies(latencies: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Bars of median latency in milliseconds, each with its value and its speed-up over the first side.

    Takes and raises what `latency_table` does.
    """
    return _grouped_bars(_medians(latencies), "median latency, ms (less is better)", "ms")


def size_table(sizes: Mapping[str, Mapping[str, int]]) -> str:
    """Markdown table of model sizes in MB (10^6 bytes) with the compression rate over the first precision.

    sizes: part -> precision -> bytes, such as {"vision_model": {"FP16": 172_000_000, "INT8": 87_000_000}}. With more
    than one part, a last row adds them up. Raises ValueError when parts differ in their precisions or a size is not
    above zero.
    """
    megabytes = _megabytes(sizes)
    precisions = list(next(iter(megabytes.values())))
    base = precisions[0]
    if len(megabytes) > 1:
        total = {p: sum(part[p] for part in megabytes.values()) for p in precisions}
        megabytes = {**megabytes, "total": total}
    header = ["part", f"{base}, MB"]
    for precision in precisions[1:]:
        header += [f"{precision}, MB", f"{base} / {precision}"]
    rows = []
    for part, values in megabytes.items():
        row = [part, _number(values[base])]
        for precision in precisions[1:]:
            row += [_number(values[precision]), f"{values[base] / values[precision]:.2f}x"]
        rows.append(row)
    return markdown_table(header, rows)


def summary_table(
    model_id: str, accuracy: Mapping[str, str], sizes: Mapping[str, Mapping[str, int]], latency: Mapping[str, Sequence]
) -> str:
    """Markdown table with one row per precision: model, precision, accuracy, size of all parts, median latency.

    accuracy: precision -> text. sizes: part -> precision -> bytes. latency: precision -> seconds of each run.
    """
    rows = []
    for precision, text in accuracy.items():
        size = sum(part[precision] for part in sizes.values()) / 1e6
        rows.append((model_id, precision, text, _number(size), _number(float(np.median(latency[precision])) * 1000)))
    return markdown_table(("model", "precision", "accuracy", "size, MB", "answer, ms"), rows)


def plot_sizes(sizes: Mapping[str, Mapping[str, int]]) -> Figure:
    """Bars of model sizes in MB (10^6 bytes), each with its value and its compression rate over the first precision.

    Takes and raises what `size_table` does.
    """
    return _grouped_bars(_megabytes(sizes), "size, MB (less is better)", "MB")


def _medians(latencies: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, float]]:
    """Seconds of many runs to median milliseconds."""
    for task, sides in latencies.items():
        for side, seconds in sides.items():
            if not len(seconds) or not all(0 < s < np.inf for s in seconds):
                raise ValueError(f"latencies of {task!r} on {side!r} are {seconds!r}; expected seconds above zero")
    return _checked({task: {k: float(np.median(v)) * 1000 for k, v in s.items()} for task, s in latencies.items()})


def _megabytes(sizes: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, float]]:
    for part, precisions in sizes.items():
        for precision, size in precisions.items():
            if not size > 0:
                raise ValueError(f"size of {part!r} in {precision!r} is {size!r}; expected bytes above zero")
    return _checked({part: {k: v / 1e6 for k, v in p.items()} for part, p in sizes.items()})


def _checked(values: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The values themselves, once it is sure that every group compares the same things."""
    names = {group: list(entries) for group, entries in values.items()}
    if not names or len({frozenset(entries) for entries in names.values()}) > 1 or [] in names.values():
        raise ValueError(f"every group needs the same entries to compare, at least one; got {names}")
    return values


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of `header` and `rows` of text."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _grouped_bars(values: Values, axis_label: str, unit: str) -> Figure:
    """Horizontal bars: a group per task or part, a bar per side, labelled `value unit (ratio to the first side)`."""
    sides = list(next(iter(values.values())))
    step = 0.8 / len(sides)
    figure = NotebookFigure(figsize=(6.4, 0.9 + 0.26 * len(values) * (len(sides) + 1)), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for i, side in enumerate(sides):
        places = [row - 0.4 + step * (i + 0.5) for row in range(len(values))]
        lengths = [group[side] for group in values.values()]
        bars = axes.barh(places, lengths, height=0.9 * step, color=COLORS[i % len(COLORS)], label=side)
        ratios = [group[sides[0]] / group[side] for group in values.values()]
        texts = [f"{_number(v)} {unit}" + (f" ({r:.1f}x)" if i else "") for v, r in zip(lengths, ratios, strict=True)]
        axes.bar_label(bars, texts, padding=4, fontsize=9, color=INK)
    axes.set_yticks(range(len(values)), list(values), parse_math=False)
    axes.tick_params(length=0)
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlabel(axis_label, color=MUTED)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    legend = figure.legend(loc="outside upper left", ncols=min(4, len(sides)), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure
