"""The benchmark at a tiny size: every side gives PyTorch's tokens, limits are what one counts by hand, and the README
quotes the filed results."""

import copy
import json
import subprocess
import sys
from statistics import median

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, ROOT, in_openvino, random_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import fresh, limits, report
from benchmarks.bench import check_tokens, machine, sides_here, stolen_share
from benchmarks.checkpoint import blip_base, blip_processor
from benchmarks.driver import Past
from benchmarks.limits import Geometry, Machine, Tokens
from benchmarks.onnx_runtime import load_onnx
from benchmarks.ours import Ours
from benchmarks.prepare import export_onnx, make_published, quantize_onnx, quantize_published
from benchmarks.published import load_published
from benchmarks.pytorch import PyTorch
from benchmarks.sides import OURS, SIDES, load_side
from benchmarks.workloads import ANSWER_TOKENS, CAPTION_TOKENS, OTHER_QUESTION, QUESTION, Inputs, Timed, workloads
from blip_openvino.ir.checkpoint import generate_caption
from blip_openvino.ir.convert import convert
from blip_openvino.runtime.processor import OVBlipProcessor

EXACT_SIDES = ("published", "ONNX Runtime", "ours")
QUANTIZED_SIDES = ("published INT8", "ONNX Runtime INT8")


@pytest.fixture(scope="module")
def model():
    return random_model(3)


@pytest.fixture(scope="module")
def processor(model):
    return blip_processor(model.config)


@pytest.fixture(scope="module")
def inputs(processor):
    return Inputs.make(processor)


@pytest.fixture(scope="module")
def files(model, processor, tmp_path_factory):
    """The sides' files, made as at full size."""
    folder = tmp_path_factory.mktemp("benchmark")
    for name in ("pytorch", "published", "published-int8", "onnx", "onnx-int8"):
        (folder / name).mkdir()
    model.save_pretrained(folder / "pytorch")
    processor.save_pretrained(folder / "pytorch")
    convert(model, processor, folder / "ours")
    make_published(model, folder / "published")
    quantize_published(folder / "published", folder / "published-int8", processor)
    export_onnx(model, folder / "onnx")
    quantize_onnx(folder / "onnx", folder / "onnx-int8")
    return folder


@pytest.fixture(scope="module")
def sides(model, processor, files):
    """Every side, all but the quantized ones in float32."""
    return {
        "PyTorch": PyTorch(model, processor),
        "published": load_published(files / "pytorch", files / "published", F32),
        "published INT8": load_published(files / "pytorch", files / "published-int8", {}),
        "ONNX Runtime": load_onnx(files / "pytorch", files / "onnx"),
        "ONNX Runtime INT8": load_onnx(files / "pytorch", files / "onnx-int8"),
        "ours": Ours(in_openvino(model), OVBlipProcessor.from_pretrained(files / "ours")),
    }


@pytest.fixture(scope="module")
def expected(sides, inputs):
    """PyTorch's output of every workload."""
    return {name: run_once(name, workload, sides["PyTorch"]).output for name, workload in workloads(inputs, 3).items()}


def run_once(name, workload, side) -> Timed:
    timed = Timed(name, workload, side)
    timed()
    return timed


def test_no_weight_of_the_model_can_be_left_out_of_a_graph():
    for name, parameter in blip_base().named_parameters():
        assert not (parameter == 0).all(), name
        assert not (parameter == 1).all(), name


@pytest.mark.parametrize("side", EXACT_SIDES)
def test_sides_in_float32_give_the_tokens_of_pytorch(side, sides, inputs, expected):
    for name, workload in workloads(inputs, 3).items():
        output = run_once(name, workload, sides[side]).output
        if name == "preprocessing":  # ours rounds otherwise in some pixels
            assert (torch.as_tensor(output) - expected[name]).abs().max() < 0.02
        elif isinstance(output, str):
            assert output == expected[name]
        else:
            torch.testing.assert_close(output, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("side", QUANTIZED_SIDES)
def test_quantized_sides_give_as_many_tokens_as_asked_for(side, sides, inputs):
    for name, workload in workloads(inputs, 3).items():
        run_once(name, workload, sides[side]).check()


def test_published_int8_has_weights_of_eight_bits(files):
    for part in ("vision_model", "text_encoder", "text_decoder"):
        model = ov.Core().read_model(files / "published-int8" / f"{part}.xml")
        constants = {op.get_element_type() for op in model.get_ops() if op.get_type_name() == "Constant"}
        assert constants & {ov.Type.i8, ov.Type.u8}, part


def test_published_recipe_has_dynamic_shapes_and_projects_the_image_at_every_step(sides, model):
    recipe, text = sides["published"], model.config.text_config
    assert recipe.vision_model.input(0).get_partial_shape()[0].is_dynamic
    assert len(recipe.text_decoder.inputs) == 3 + 2 * text.num_hidden_layers
    past, ids = Past(), np.array([[5]])
    image, other_image = torch.randn(2, 1, 7, text.encoder_hidden_size).numpy()
    recipe._step(past, ids, np.ones((1, 1), np.int64), image)
    again = copy.copy(past)
    second_step = recipe._step(past, ids, np.ones((1, 2), np.int64), image)
    assert not np.allclose(second_step, recipe._step(again, ids, np.ones((1, 2), np.int64), other_image))


def test_laps_split_a_run_into_its_parts(sides, inputs):
    tasks = workloads(inputs, 3)
    lengths = {"answer": ANSWER_TOKENS, "answer again": ANSWER_TOKENS, "caption": CAPTION_TOKENS}
    for side in sides.values():
        for name, new_tokens in lengths.items():
            [laps] = run_once(name, tasks[name], side).laps
            assert len(laps) == 2 + new_tokens  # image encoded, prompt, tokens
            assert laps == sorted(laps)


def test_another_question_finds_the_image_encoded_where_a_side_keeps_it(sides, inputs):
    for name in ("ours", "ONNX Runtime"):
        kept = sides[name].keep(inputs.pixel_values, inputs.question)
        assert not isinstance(kept, torch.Tensor)
    assert sides["PyTorch"].keep(inputs.pixel_values, inputs.question) is inputs.pixel_values


def test_questions_have_ten_tokens_the_tokenizer_knows_and_differ():
    tokenizer = blip_processor().tokenizer
    assert len(tokenizer) == 30524
    rows = [tokenizer(text)["input_ids"] for text in (QUESTION, OTHER_QUESTION)]
    assert [len(row) for row in rows] == [10, 10]
    assert rows[0] != rows[1]
    assert not any(tokenizer.unk_token_id in row for row in rows)


def test_wrong_numbers_of_tokens_and_differing_float32_sides_stop_the_run(sides, inputs):
    caption = workloads(inputs, 3)["caption"]
    timed = {
        "PyTorch fp32": run_once("caption", caption, sides["PyTorch"]),
        "ONNX Runtime fp32": run_once("caption", caption, sides["ONNX Runtime"]),
    }
    check_tokens(timed)
    timed["ONNX Runtime fp32"].output = timed["PyTorch fp32"].output + 1
    with pytest.raises(RuntimeError, match="caption: ONNX Runtime fp32 gives"):
        check_tokens(timed)
    timed["ONNX Runtime fp32"].output = timed["PyTorch fp32"].output[:, :-1]
    with pytest.raises(RuntimeError, match=f"caption: {CAPTION_TOKENS - 1} new tokens on OnnxRuntime"):
        check_tokens(timed)


def operations_of(run) -> int:
    """What PyTorch's own counter counts in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_operations_are_those_that_pytorch_counts(seed):
    model = random_model(seed)
    g, int8 = Geometry.of(model.config), limits.PRECISIONS["INT8"]
    size, image_tokens = model.config.vision_config.image_size, g.image_tokens
    pixels, embeds = torch.randn(1, 3, size, size), torch.randn(1, image_tokens, g.width)
    ids = torch.ones(1, 9, dtype=torch.int64)

    assert limits.vision(g, int8).operations == operations_of(lambda: model.vision_model(pixels))
    assert limits.text_encoder(g, int8, 9, first=True).operations == operations_of(
        lambda: model.text_encoder(ids, encoder_hidden_states=embeds)
    )
    first = limits.text_encoder(g, int8, 9, first=True).operations
    later = limits.text_encoder(g, int8, 9, first=False).operations
    assert first - later == 2 * image_tokens * g.layers * 2 * g.width**2

    steps = [limits.decoder_step(g, int8, 2, past, (2, image_tokens)).operations for past in range(4)]
    projected = limits.projections(g, int8, 2, image_tokens, g.width).operations
    captioned = operations_of(
        lambda: generate_caption(model, pixels.repeat(2, 1, 1, 1), min_new_tokens=4, max_new_tokens=4)
    )
    assert sum(steps) + projected + 2 * limits.vision(g, int8).operations == captioned


def test_bytes_are_those_of_the_weights_and_of_what_is_kept(model):
    g = Geometry.of(model.config)
    int8, int4 = limits.PRECISIONS["INT8"], limits.PRECISIONS["INT4"]

    def weights(module) -> int:
        products = (torch.nn.Linear, torch.nn.Conv2d)
        return sum(each.weight.numel() for each in module.modules() if isinstance(each, products))

    assert limits.vision(g, int8).bytes == weights(model.vision_model)
    decoder = weights(model.text_decoder)
    projections = limits.projections(g, int8, 1, 7, g.width).bytes
    assert projections == sum(
        weights(getattr(layer.crossattention.self, half))
        for layer in model.text_decoder.bert.encoder.layer
        for half in ("key", "value")
    )
    kept = 4 * g.layers * 2 * g.width * (3 * 5 + 7)  # float32 keys and values: 3 rows of 5 tokens, an image of 7
    assert limits.decoder_step(g, int8, 3, 5, (1, 7)).bytes == decoder - projections + kept
    words = weights(model.text_decoder.cls.predictions.decoder)
    in_layers = decoder - projections - words
    assert limits.decoder_step(g, int4, 3, 5, (1, 7)).bytes == in_layers * (0.5 + 2 / 64) + words + kept


def test_a_part_is_limited_by_what_takes_longer_and_a_whole_by_its_parts(model):
    tokens = Tokens(question=10, answer=3, caption=12, beams=3, batch=32)
    slow_products = Machine({"float": 1e6, "int8": 4e6}, 1e15)
    by_precision = limits.limits(model.config, slow_products, tokens)
    assert by_precision["FP16"]["vision model"] == pytest.approx(4 * by_precision["INT8"]["vision model"])
    slow_memory = Machine({"float": 1e15, "int8": 1e15}, 1e6)
    by_precision = limits.limits(model.config, slow_memory, tokens)
    assert by_precision["FP16"]["vision model"] == pytest.approx(2 * by_precision["INT8"]["vision model"])
    for seconds in by_precision.values():
        assert seconds["answer"] - seconds["vision model"] - seconds["text encoder, first question"] == pytest.approx(
            seconds["answer again"] - seconds["text encoder, another question"]
        )
        assert seconds["caption, 3 beams"] > seconds["caption"] > seconds["answer again"]


def test_measured_rates_are_of_products_in_the_precision_they_are_named_after():
    compiled = ov.Core().compile_model(limits.feed_forward(True), "CPU", F32)
    infos = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    products = [info["runtimePrecision"].value for info in infos if info["layerType"].value == "FullyConnected"]
    assert len(products) == 2 * limits.PAIRS
    assert set(products) <= {"i8", "u8"}


def test_peak_memory_of_a_fresh_process_is_its_own():
    ballast = np.ones(500_000_000, np.uint8)
    command = "import benchmarks.fresh as f; print(f.peak_memory())"
    printed = subprocess.check_output([sys.executable, "-c", command], cwd=ROOT, text=True)
    assert ballast.nbytes < fresh.peak_memory()
    assert int(printed) < fresh.peak_memory() - ballast.nbytes / 2


def test_a_fresh_process_that_fails_is_told_with_its_error(tmp_path):
    with pytest.raises(RuntimeError, match=r"a fresh process of ours INT8 failed:(.|\n)*no config\.json"):
        fresh.answer_once("ours INT8", tmp_path, None)


def test_an_unknown_side_is_told_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match="there is no side 'ours INT3'; choose one of PyTorch fp32, "):
        load_side("ours INT3", tmp_path)


def test_machine_names_what_was_run_and_only_sides_it_has_instructions_for():
    about = machine()
    assert about["cores"] >= 1
    assert {"torch", "transformers", "openvino", "nncf", "onnxruntime"} <= set(about["versions"])
    assert sides_here(about | {"isa": ["avx2", "avx512_bf16"], "isa_limit": None}) == SIDES
    assert set(SIDES) - set(sides_here(about | {"isa": ["avx2"], "isa_limit": None})) == {"PyTorch bf16"}
    assert set(SIDES) - set(sides_here(about | {"isa": ["avx512_bf16"], "isa_limit": "AVX2"})) == {"PyTorch bf16"}


def test_stolen_share_is_of_all_time_spent():
    assert stolen_share([10, 0, 10, 100, 0, 0, 0, 5], [40, 0, 20, 150, 0, 0, 0, 15]) == 0.1


def test_readme_has_the_tables_of_the_newest_results_and_its_plot():
    readme = (ROOT / "README.md").read_text()
    assert report.MARKED.search(readme).group() == report.readme_text()
    assert "](assets/benchmark.svg)" in readme
    svg = report.PLOT.read_text()
    for task in ("answer", "answer again", "caption", "caption, 3 beams"):
        assert f">{task}, ms</" in svg


def test_report_shows_the_medians_and_ratios_of_the_filed_results():
    results = report.latest_results()
    table = report.results_table(results)
    rows = {line.split(" | ")[0]: [text.strip(" |") for text in line.split(" | ")[1:]] for line in table.splitlines()}
    sides = list(results["seconds"]["answer"])
    for task in ("answer", "answer again", "caption"):
        runs = results["seconds"][task]
        shown = [float(text.split()[0]) for text in rows[f"| {task}, ms"]]
        assert shown == pytest.approx([median(runs[side]) * 1000 for side in sides], rel=0.01)
        published = min(median(runs["published FP16"]), median(runs["published INT8"]))
        ratios = [float(text.removesuffix("x")) for text in rows[f"| {task}"][:6]]
        expected = [median(runs["PyTorch fp32"]), published] * 3
        ours = [median(runs[side]) for side in OURS for _ in range(2)]
        assert ratios == pytest.approx(np.divide(expected, ours), abs=0.006)
        over_limit = [float(text.split(": ")[1]) for text in rows[f"| {task}"][6:]]
        limit = [results["limits"][side.split()[1]][task] for side in OURS]
        assert over_limit == pytest.approx(np.divide([median(runs[side]) for side in OURS], limit), abs=0.006)
    assert results["date"] in table
    assert results["machine"]["cpu"] in table


def test_filed_results_have_weights_as_small_as_promised():
    sizes = report.latest_results()["sizes"]
    assert sizes["ours FP16"] / sizes["ours INT8"] >= 1.95
    assert sizes["ours INT4"] < sizes["ours INT8"]


def test_newest_results_are_those_of_a_run_that_was_not_held_back(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run make bench ARGS=--keep"):
        report.latest_results()
    for date, limit in (("2026-01-01", None), ("2026-02-01", None), ("2026-02-01", "AVX2")):
        results = {"date": date, "machine": {"isa": ["avx2", "amx_int8"], "isa_limit": limit}}
        (tmp_path / report.file_name(results)).write_text(json.dumps(results))
    latest = report.latest_results()
    assert (latest["date"], latest["machine"]["isa_limit"]) == ("2026-02-01", None)
    names = [file.name for file in sorted(tmp_path.iterdir())]
    assert names == ["2026-01-01-amx_int8.json", "2026-02-01-amx_int8-as-AVX2.json", "2026-02-01-amx_int8.json"]
