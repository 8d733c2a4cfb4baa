"""Figures and tables of the notebooks."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import utils

LATENCIES = {
    "caption": {"PyTorch": [1.2, 1.0, 9.0], "FP16": [0.5, 0.5, 0.5], "INT8": [0.25, 0.25, 0.25]},
    "answer": {"PyTorch": [0.8], "FP16": [0.4], "INT8": [0.1]},
}
SIZES = {
    "vision_model": {"FP16": 172_000_000, "INT8": 86_000_000},
    "text_decoder": {"FP16": 28_000_000, "INT8": 7_000_000},
}
TEAL = Image.new("RGB", (64, 64), "teal")


def texts_of(figure: Figure) -> list[str]:
    """What is written in each column, from top to bottom."""
    return ["\n".join(t for t in (a.get_title("left"), *(x.get_text() for x in a.texts)) if t) for a in figure.axes]


def drawn(figure: Figure) -> Image.Image:
    return Image.open(io.BytesIO(figure._repr_png_()))


def assert_nothing_overlaps(figure: Figure) -> None:
    """No text lies over another one, over an image or outside what is drawn."""
    figure.draw_without_rendering()
    images = [axes.get_window_extent() for axes in figure.axes]
    texts = [text.get_window_extent() for axes in figure.axes for text in (axes._left_title, *axes.texts)]
    boxes = images + [box for box in texts if box.width]
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[i + 1 :])
    assert drawn(figure).height >= max(box.y1 for box in boxes) - min(box.y0 for box in boxes)


def test_result_shows_question_and_answer_or_a_caption_and_the_image():
    figure = utils.visualize_results(TEAL, "teal", "what color is it?")
    assert texts_of(figure) == ["question: what color is it?\nanswer: teal"]
    assert np.array_equal(figure.axes[0].images[0].get_array(), np.asarray(TEAL))
    assert texts_of(utils.visualize_results(np.asarray(TEAL), "a teal square")) == ["caption: a teal square"]


def test_comparison_has_one_labelled_column_per_model():
    answers = {"FP16": "teal", "INT8": "blue"}
    asked = [f"{name}\nquestion: what color?\nanswer: {answer}" for name, answer in answers.items()]
    assert texts_of(utils.visualize_comparison(TEAL, answers, "what color?")) == asked
    assert texts_of(utils.visualize_comparison(TEAL, answers)) == ["FP16\ncaption: teal", "INT8\ncaption: blue"]


@pytest.mark.parametrize(
    "text", ["what is in the picture " * 12, "pneumonoultramicroscopicsilico" * 4, "", "$\\frac{1}{2}$ or $6_{"]
)
@pytest.mark.parametrize("size", [(64, 64), (1000, 10), (10, 1000)])
def test_text_of_any_length_fits_its_column_and_loses_nothing(text, size):
    figure = utils.visualize_comparison(Image.new("RGB", size), {"FP16": "teal", text or "INT8": text}, text)
    assert_nothing_overlaps(figure)
    assert drawn(utils.plot_latencies({text[:20]: {"PyTorch": [1.0]}})).width > 400
    assert "".join(texts_of(figure)[1].split()).count("".join(text.split())) >= 3
    assert max(figure.get_size_inches()) < 8


@pytest.mark.parametrize("count", [1, 4, 10])
def test_images_stand_in_rows_with_their_texts_below(count):
    texts = [(f"what is this, number {index}, and where?", "a teal square") for index in range(count)]
    figure = utils.visualize_images([TEAL] * count, texts)
    assert [text.replace("\n", " ") for text in texts_of(figure)] == [" ".join(each) for each in texts]
    assert_nothing_overlaps(figure)


def test_latency_table_gives_medians_spread_and_speed_up():
    assert utils.latency_table(LATENCIES).splitlines() == [
        "| task | model | median, ms | 10-90 %, ms | speed-up over PyTorch |",
        "| --- | --- | --- | --- | --- |",
        "| caption | PyTorch | 1200 | 1040 - 7440 | 1.00x |",
        "| caption | FP16 | 500 | 500 - 500 | 2.40x |",
        "| caption | INT8 | 250 | 250 - 250 | 4.80x |",
        "| answer | PyTorch | 800 | 800 - 800 | 1.00x |",
        "| answer | FP16 | 400 | 400 - 400 | 2.00x |",
        "| answer | INT8 | 100 | 100 - 100 | 8.00x |",
    ]


def test_size_table_gives_compression_and_adds_up_several_parts():
    assert utils.size_table(SIZES).splitlines() == [
        "| part | FP16, MB | INT8, MB | FP16 / INT8 |",
        "| --- | --- | --- | --- |",
        "| vision_model | 172 | 86.0 | 2.00x |",
        "| text_decoder | 28.0 | 7.0 | 4.00x |",
        "| total | 200 | 93.0 | 2.15x |",
    ]
    assert utils.size_table({"a|b": {"FP16": 10**6}}).splitlines()[2:] == [r"| a\|b | 1.0 |"]


def test_accuracy_table_has_a_row_for_each_measure_and_summary_table_for_each_precision():
    accuracy = {"answers": {"FP16": "99 %", "INT8": "98 %"}, "captions": {"FP16": "97 %", "INT8": "96 %"}}
    assert utils.accuracy_table(accuracy).splitlines() == [
        "| accuracy | FP16 | INT8 |",
        "| --- | --- | --- |",
        "| answers | 99 % | 98 % |",
        "| captions | 97 % | 96 % |",
    ]
    table = utils.summary_table("model", accuracy["answers"], SIZES, {"FP16": [0.4], "INT8": [0.1, 0.3]})
    assert table.splitlines()[2:] == ["| model | FP16 | 99 % | 200 | 400 |", "| model | INT8 | 98 % | 93.0 | 200 |"]


@pytest.mark.parametrize(
    ("figure", "labels"),
    [
        (utils.plot_latencies(LATENCIES), {"1200 ms", "500 ms (2.4x)", "250 ms (4.8x)", "100 ms (8.0x)"}),
        (utils.plot_sizes(SIZES), {"172 MB", "86.0 MB (2.0x)", "28.0 MB", "7.0 MB (4.0x)"}),
    ],
    ids=["latencies", "sizes"],
)
def test_bars_carry_values_and_ratios_inside_the_picture(figure, labels):
    assert labels <= {text.get_text() for text in figure.axes[0].texts}
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in (*figure.axes[0].texts, *figure.legends[0].get_texts())]
    assert all(figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) for box in boxes)
    assert all(figure.bbox.containsy(box.y0) and figure.bbox.containsy(box.y1) for box in boxes)
    legend = [handle.get_facecolor() for handle in figure.legends[0].legend_handles]
    assert len(set(legend)) == len(legend)


def test_interleaved_sides_take_turns_after_one_uncounted_run_each():
    calls = []
    seconds = utils.time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(side) for side in seconds.values()] == [3, 3]
    assert all(value > 0 for side in seconds.values() for value in side)


def test_figure_shows_itself_and_is_unknown_to_pyplot_which_would_show_it_again():
    assert drawn(utils.visualize_results(TEAL, "teal")).width > 300
    assert plt.get_fignums() == []
