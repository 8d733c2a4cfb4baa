import io
import json
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image, ImageDraw

import utils

LATENCIES = {
    "caption": {"PyTorch": [1.2, 1.0, 9.0], "FP16": [0.5, 0.5, 0.5], "INT8": [0.25, 0.25, 0.25]},
    "answer": {"PyTorch": [0.8], "FP16": [0.4], "INT8": [0.1]},
}
SIZES = {
    "vision_model": {"FP16": 172_000_000, "INT8": 86_000_000},
    "text_decoder": {"FP16": 28_000_000, "INT8": 7_000_000},
}
PIL_MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "LA", "PA", "RGBX", "I;16"]
ROOT = Path(utils.__file__).parent


@pytest.fixture
def circle() -> Image.Image:
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=(0, 128, 128))
    return image


def text_of(figure) -> str:
    return "\n".join(text.get_text() for text in figure.texts)


def drawn(figure) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(figure._repr_png_())).convert("RGB"))


def shown_image(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def assert_inside(figure, texts) -> None:
    for text in texts:
        x0, y0, x1, y1 = text.get_window_extent().extents
        assert 0 <= x0 <= x1 <= figure.bbox.x1, f"{text.get_text()!r} leaves the figure sideways"
        assert 0 <= y0 <= y1 <= figure.bbox.y1, f"{text.get_text()!r} leaves the figure above or below"


def assert_text_fits(figure) -> None:
    """Every text lies inside the figure, apart from the images and from every other text."""
    figure.canvas.draw()
    assert_inside(figure, figure.texts)
    images = [axes.get_window_extent() for axes in figure.axes]
    boxes = [text.get_window_extent() for text in figure.texts]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in images + boxes[i + 1 :])


def test_result_shows_question_and_answer(circle):
    assert text_of(utils.visualize_results(circle, "teal", "what color is it?")).splitlines() == [
        "question: what color is it?",
        "answer: teal",
    ]


def test_result_without_question_is_a_caption(circle):
    assert text_of(utils.visualize_results(circle, "a teal circle")) == "caption: a teal circle"


def test_image_has_no_ticks_and_is_not_changed(circle):
    before = circle.tobytes()
    figure = utils.visualize_results(circle, "teal")
    assert [*figure.axes[0].get_xticks(), *figure.axes[0].get_yticks()] == []
    assert np.array_equal(shown_image(figure), np.asarray(circle))
    assert circle.tobytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "W" * 300,
        "what is " * 40,
        "a " + "pneumonoultramicroscopicsilicovolcanoconiosis" * 2 + " b",
        "",
        "gjpqy\n\tgjpqy",
    ],
)
@pytest.mark.parametrize("size", [(64, 64), (1000, 10), (10, 1000)])
def test_text_of_any_length_fits_and_loses_nothing(text, size):
    image = Image.new("RGB", size)
    for figure in (
        utils.visualize_results(image, text),
        utils.visualize_results(image, text, text),
        utils.visualize_comparison(image, {"FP16": "teal", text or "INT8": text}, text),
    ):
        assert_text_fits(figure)
        assert "".join(text.split()) in "".join(text_of(figure).split())


def test_tall_image_does_not_make_a_tall_figure():
    width, height = utils.visualize_results(Image.new("RGB", (10, 1000)), "teal").get_size_inches()
    assert width < 4
    assert height < 5


def test_long_text_breaks_between_words(circle):
    words = ["surfboard"] * 30
    lines = text_of(utils.visualize_results(circle, " ".join(words))).splitlines()
    assert len(lines) > 3
    assert all(set(line.split()) <= {"caption:", "surfboard"} for line in lines)


@pytest.mark.parametrize("text", ["$5 or $6", r"$\frac{1}{2}$", "$", r"\$ {", "$unclosed_{"])
def test_user_text_is_never_a_formula(circle, text):
    figure = utils.visualize_comparison(circle, {text: text}, text)
    assert not any(item.get_parse_math() for item in figure.texts)
    assert drawn(figure).any()
    bars = utils.plot_latencies({text: {text: [1.0]}})
    assert drawn(bars).any()
    names = [*bars.legends[0].get_texts(), *bars.axes[0].get_yticklabels()]
    assert [name.get_text() for name in names] == [text, text]
    assert not any(name.get_parse_math() for name in names)


def test_comparison_has_one_labelled_column_per_model(circle):
    figure = utils.visualize_comparison(circle, {"FP16": "teal", "INT8": "blue"}, "what color?")
    assert len(figure.axes) == 2
    assert text_of(figure).splitlines() == [
        *("FP16", "question: what color?", "answer: teal"),
        *("INT8", "question: what color?", "answer: blue"),
    ]
    captions = utils.visualize_comparison(circle, {"FP16": "teal", "INT8": "blue"})
    assert text_of(captions).splitlines() == ["FP16", "caption: teal", "INT8", "caption: blue"]


def test_comparison_of_nothing_is_refused(circle):
    with pytest.raises(ValueError, match="answers is empty"):
        utils.visualize_comparison(circle, {})


@pytest.mark.parametrize("mode", PIL_MODES)
def test_pil_images_of_every_mode_are_drawn(mode):
    assert shown_image(utils.visualize_results(Image.new(mode, (6, 4)), "x")).shape == (4, 6, 3)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((4, 6), 128, np.uint8),
        np.full((4, 6, 1), 128, np.int64),
        np.full((4, 6, 3), 128 / 255, np.float32),
        np.full((4, 6), 128 * 257, np.uint16),
        np.dstack([np.full((4, 6, 3), 128, np.uint8), np.full((4, 6, 1), 255, np.uint8)]),
        Image.fromarray(np.full((4, 6), 128 * 257, np.uint16)),
        Image.new("LA", (6, 4), (128, 255)),
    ],
    ids=["grey", "one channel int64", "float", "uint16", "opaque RGBA", "PIL 16 bit", "PIL LA"],
)
def test_the_same_grey_looks_the_same_in_every_representation(pixels):
    assert np.array_equal(shown_image(utils.visualize_results(pixels, "x")), np.full((4, 6, 3), 128))


@pytest.mark.parametrize("as_array", [False, True])
def test_transparency_is_laid_over_white(as_array):
    image = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
    assert (shown_image(utils.visualize_results(np.asarray(image) if as_array else image, "x")) == 255).all()


@pytest.mark.parametrize("shape", [(3, 64, 64), (4,), (2, 2, 2), (1, 3, 8, 8), (0, 4, 3)])
def test_an_array_that_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        utils.visualize_results(np.zeros(shape, np.uint8), "x")


@pytest.mark.parametrize("value", [-1.5, 2.0, np.nan])
def test_normalized_pixels_are_refused_instead_of_drawn_wrong(value):
    with pytest.raises(ValueError, match=r"expected 0\.\.1"):
        utils.visualize_results(np.full((4, 4, 3), value, np.float32), "x")


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


def test_size_table_gives_compression_and_adds_up():
    assert utils.size_table(SIZES).splitlines() == [
        "| part | FP16, MB | INT8, MB | FP16 / INT8 |",
        "| --- | --- | --- | --- |",
        "| vision_model | 172 | 86.0 | 2.00x |",
        "| text_decoder | 28.0 | 7.0 | 4.00x |",
        "| total | 200 | 93.0 | 2.15x |",
    ]


def test_a_single_part_needs_no_total():
    assert "total" not in utils.size_table({"vision_model": SIZES["vision_model"]})


def test_a_pipe_in_a_name_does_not_break_the_table():
    rows = utils.size_table({"a|b": {"FP16": 10**6}}).splitlines()
    assert rows[-1] == r"| a\|b | 1.0 |"


@pytest.mark.parametrize(
    ("figure", "labels"),
    [
        (utils.plot_latencies(LATENCIES), {"1200 ms", "500 ms (2.4x)", "250 ms (4.8x)", "100 ms (8.0x)"}),
        (utils.plot_sizes(SIZES), {"172 MB", "86.0 MB (2.0x)", "28.0 MB", "7.0 MB (4.0x)"}),
    ],
    ids=["latencies", "sizes"],
)
def test_bars_carry_values_ratios_and_fit_a_small_picture(figure, labels):
    assert labels <= {text.get_text() for text in figure.axes[0].texts}
    figure.canvas.draw()
    assert_inside(figure, [*figure.axes[0].texts, *figure.legends[0].get_texts(), *figure.axes[0].get_yticklabels()])
    assert len(figure._repr_png_()) < 100_000


def test_bars_of_different_models_have_different_colors():
    colors = {patch.get_facecolor() for patch in utils.plot_latencies(LATENCIES).axes[0].patches}
    assert len(colors) == 3


@pytest.mark.parametrize("function", [utils.latency_table, utils.plot_latencies])
@pytest.mark.parametrize(
    "latencies",
    [
        {},
        {"answer": {}},
        {"answer": {"PyTorch": []}},
        {"answer": {"PyTorch": [0.1, 0.0]}},
        {"answer": {"PyTorch": [float("nan")]}},
        {"answer": {"PyTorch": [0.1]}, "caption": {"FP16": [0.1]}},
    ],
)
def test_latencies_that_cannot_be_compared_are_refused(function, latencies):
    with pytest.raises(ValueError, match=r"above zero|same entries"):
        function(latencies)


@pytest.mark.parametrize("function", [utils.size_table, utils.plot_sizes])
@pytest.mark.parametrize("sizes", [{}, {"a": {}}, {"a": {"FP16": 0}}, {"a": {"FP16": 1}, "b": {"INT8": 1}}])
def test_sizes_that_cannot_be_compared_are_refused(function, sizes):
    with pytest.raises(ValueError, match=r"above zero|same entries"):
        function(sizes)


def test_no_figure_is_registered_with_pyplot(circle):
    utils.visualize_results(circle, "teal")
    utils.visualize_comparison(circle, {"FP16": "teal"})
    utils.plot_latencies(LATENCIES)
    utils.plot_sizes(SIZES)
    assert plt.get_fignums() == []


def test_utils_needs_no_model_library_and_no_pyplot():
    unwanted = ("torch", "openvino", "transformers", "matplotlib.pyplot")
    code = f"import sys, utils; print([name for name in {unwanted} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_notebook_cell_shows_a_figure_exactly_once(tmp_path):
    last_expression = "utils.visualize_results(Image.new('RGB', (8, 8)), 'teal')"
    cells = [f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport utils\nfrom PIL import Image"]
    for setup in ("", "import matplotlib.pyplot as plt", "%matplotlib inline"):
        cells += [setup, last_expression, f"display({last_expression})", f"{last_expression};"]
    outputs = [cell["outputs"] for cell in execute(cells, tmp_path)]
    pictures = [[list(output["data"]).count("image/png") for output in cell] for cell in outputs]
    assert pictures == [[]] + 3 * [[], [1], [1], []]


def execute(sources: list[str], folder: Path) -> list[dict]:
    """The cells of a notebook after `jupyter nbconvert --execute`."""
    empty = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    cells = [{**empty, "id": f"cell{i}", "source": source} for i, source in enumerate(sources)]
    path = folder / "shown.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(path.read_text())["cells"]


def test_interleaved_sides_take_turns_after_one_uncounted_run_each():
    calls = []
    seconds = utils.time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert calls == ["a", "b"] * 4
    assert [len(side) for side in seconds.values()] == [3, 3]
    assert all(value > 0 for side in seconds.values() for value in side)


def test_summary_has_a_row_for_each_precision_with_the_size_of_all_parts():
    table = utils.summary_table("model", {"FP16": "99 %", "INT8": "98 %"}, SIZES, {"FP16": [0.4], "INT8": [0.1, 0.3]})
    assert table.splitlines()[2:] == ["| model | FP16 | 99 % | 200 | 400 |", "| model | INT8 | 98 % | 93.0 | 200 |"]
