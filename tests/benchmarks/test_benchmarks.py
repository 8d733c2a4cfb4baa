"""The benchmark at a tiny size: every side is checked against PyTorch, one that fails becomes a row, and limits are
what one counts by hand."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import F32, random_model
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import curves, limits, report, rounds
from benchmarks.bench import sides_here
from benchmarks.checkpoint import blip_processor
from benchmarks.limits import Geometry
from benchmarks.onnx_runtime import OnnxRuntime
from benchmarks.ours import Ours
from benchmarks.prepare import prepare
from benchmarks.published import Published
from benchmarks.pytorch import PyTorch
from benchmarks.rounds import Effort, Rounds, SideError, Worker, check
from benchmarks.sides import BASELINE, SIDES, Spec
from benchmarks.workloads import ALL_TASKS, BEAMS, CURVES, PARTS, TASKS, Inputs, run
from blip_openvino.ir.checkpoint import generate_caption

CHECKED = ("published FP16", "published INT8", "ONNX Runtime fp32", "ONNX Runtime INT8", "ours FP16", "ours INT8")
CHECKED_TASKS = (*TASKS, "2 images in a batch", "4 questions about one image", "10 new tokens", "2 beams")
CLASSES = {"PyTorch": PyTorch, "published": Published, "ONNX Runtime": OnnxRuntime, "ours": Ours}


@pytest.fixture(scope="module")
def model():
    return random_model(5)  # 64 wide: INT4 weights come in groups of 64


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The sides' files, made as at full size."""
    folder = tmp_path_factory.mktemp("benchmark")
    prepare(model, blip_processor(model.config), folder)
    return folder


@pytest.fixture(scope="module")
def sides(files):
    """In this process, and computing in float32."""
    return {name: CLASSES[SIDES[name].family](files, SIDES[name].variant, F32) for name in ("PyTorch fp32", *CHECKED)}


@pytest.fixture(scope="module")
def expected(sides):
    """PyTorch's output of every task."""
    return {name: run(sides[BASELINE], Inputs(sides[BASELINE], 3), name, checked=True) for name in CHECKED_TASKS}


@pytest.mark.parametrize("name", CHECKED)
def test_every_side_passes_the_checks_against_pytorch(name, sides, expected, monkeypatch):
    monkeypatch.setitem(rounds.TOLERANCES, "INT8", 0.25)  # of weights this few and random
    inputs = Inputs(sides[name], 3)
    for task in CHECKED_TASKS:
        check(task, SIDES[name], run(sides[name], inputs, task, checked=True), expected[task])
        timed = run(sides[name], inputs, task)
        check(task, SIDES[name], timed, expected[task])
        if task in ("answer", "answer again", "caption"):  # laps: image encoded, prompt, tokens
            assert len(timed["laps"]) == 2 + TASKS[task].new_tokens
            assert timed["laps"] == sorted(timed["laps"])


def test_a_failing_side_becomes_a_row_and_the_others_go_on(monkeypatch, tmp_path):
    variants = {BASELINE: "fp32"} | {wrong: f"{wrong} INT8" for wrong in ("dies", "raises", "short", "off", "later")}
    monkeypatch.setattr(rounds, "CLASSES", {"fake": "tests.benchmarks.fake_sides:Fake"})
    sides = {name: Spec("fake", variant) for name, variant in variants.items()}
    rounds_of = []
    effort = Effort(rounds=2, seconds=0, loads=3, batch=2)
    measured = Rounds(sides, tmp_path, effort, between=rounds_of.append)
    measured.run()
    assert rounds_of == [task for task in TASKS for _ in range(2)]
    failures, captions = measured.failures, {task for task in TASKS if "caption" in task or task == "batch"}
    assert failures["caption, 3 beams"]["dies"] == "died of SIGSEGV"
    assert failures["batch"]["raises"] == "exit code 1: beyond it"
    assert failures["answer"]["short"] == "gives [2] new tokens, not 3"
    assert failures["answer"]["off"] == "values are off by 10.0% of their range, allowed are 8.0%"
    assert {task for task in TASKS if "raises" in failures[task]} == captions
    assert {task for task in TASKS if "dies" in failures[task]} == {"caption, 3 beams"}
    assert "later" in failures["answer"]
    for task in TASKS:
        assert set(measured.seconds[task]) == set(variants) - set(failures[task])
        assert len(measured.seconds[task][BASELINE]) == 2
    assert len(measured.seconds["load"][BASELINE]) == 3
    assert set(measured.parts()["vision model"]) == {BASELINE, "dies"}


@pytest.fixture
def curve_rounds(monkeypatch, tmp_path):
    """Some points of PyTorch and a side that does what is said, neither of them computing."""

    def rounds_with(wrong: str) -> curves.CurveRounds:
        monkeypatch.setattr(rounds, "CLASSES", {"fake": "tests.benchmarks.fake_sides:Fake"})
        sides = {BASELINE: Spec("fake", "right fp32"), "ours INT8": Spec("fake", f"{wrong} INT8")}
        return curves.CurveRounds(curves.curve_sides(sides), tmp_path, quick=True)

    return rounds_with


def as_filed(measured: curves.CurveRounds) -> dict:
    about = {"cpu": "a processor", "cores": 2, "instruction_set": "avx2", "isa_limit": None}
    filed = {"date": "2026-01-01", "machine": about, "stolen": 0, "failures": measured.failures}
    return json.loads(json.dumps(filed | {"curves": measured.curves(2)}))


@pytest.mark.parametrize(
    ("wrong", "failing", "error"),
    [
        ("dies", ["3 beams"], "died of SIGSEGV"),
        ("narrow", ["4 questions about one image"], "gives 1 rows, not 4"),
        ("short", [*ALL_TASKS], "new tokens, not"),
    ],
)
def test_a_failing_point_is_left_out_of_its_curve_and_told(wrong, failing, error, curve_rounds, tmp_path):
    measured = curve_rounds(wrong)
    measured.run()
    results = as_filed(measured)
    assert set(results["curves"]) == {*CURVES, curves.CORES}
    for curve, points in results["curves"].items():
        assert list(points) == (
            ["1", "2"] if curve == curves.CORES else [str(count) for count in list(CURVES[curve])[:3:2]]
        )
        for count, runs in points.items():
            assert len(runs[BASELINE]) == 1
            assert ("ours INT8" in runs) == (f"{count} {curve}" not in failing and wrong != "short")
    notes = "\n".join(curves.notes(results))
    assert error in notes
    assert "without" not in notes
    assert notes in curves.table(results).replace("\n\n", "\n")
    curves.draw(results, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as figure:
        assert figure.width > figure.height > 500
    assert 20_000 < (tmp_path / "curves.png").stat().st_size < 150_000


def test_a_side_leaves_a_curve_where_it_gets_slow_and_the_others_are_still_compared(curve_rounds):
    measured = curve_rounds("off")
    measured.time("1 beams")
    measured.seconds["1 beams"][BASELINE] = [curves.PATIENCE + 1.0]
    assert not measured.has(BASELINE, "3 beams")
    assert measured.has(BASELINE, "4 images in a batch")
    measured.time("3 beams")
    assert measured.failures["3 beams"] == {"ours INT8": "values are off by 10.0% of their range, allowed are 8.0%"}
    assert f"{BASELINE} without 3 beams: over 6 s a run before that." in curves.notes(as_filed(measured))
    for worker in measured.workers.values():
        worker.close()


def test_one_core_is_a_process_that_has_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(rounds, "CLASSES", {"fake": "tests.benchmarks.fake_sides:Fake"})
    for cores in (1, None):
        worker = Worker(Spec("fake", "right INT8", cores=cores), tmp_path, 1)
        has = os.sched_getaffinity(worker.process.pid)
        assert len(has) == (cores or len(os.sched_getaffinity(0)))
        worker.close()


def test_a_check_finds_tokens_and_logits_that_are_not_pytorchs(expected):
    reply, exact = expected["caption"], SIDES["ONNX Runtime fp32"]
    check("caption", exact, reply, reply)
    with pytest.raises(SideError, match="gives tokens"):
        check("caption", exact, reply | {"tokens": [[token + 1 for token in reply["tokens"][0]]]}, reply)
    with pytest.raises(SideError, match="values are off by nan%"):
        check("caption", SIDES["ours INT8"], reply | {"values": [float("nan")] * len(reply["values"])}, reply)


def test_a_side_that_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(SideError, match=r"exit code 1: FileNotFoundError: .*no config\.json"):
        Worker(SIDES["ours INT8"], tmp_path, 1)


def operations_of(run) -> int:
    """What PyTorch's own counter counts in matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("seed", [3, 4])
def test_operations_are_those_that_pytorch_counts(seed):
    model = random_model(seed)
    g, int8 = Geometry.of(model.config), limits.PRECISIONS["INT8"]
    size, image_tokens = model.config.vision_config.image_size, g.image_tokens
    pixels, embeds = torch.randn(1, 3, size, size), torch.randn(1, image_tokens, g.width)
    ids = torch.ones(1, 9, dtype=torch.int64)

    assert limits.vision(g, int8).operations == operations_of(lambda: model.vision_model(pixels))
    read = limits.text_encoder(g, int8, 9, first=False).operations
    read += limits.projections(g, int8, 1, image_tokens, g.width).operations
    assert read == operations_of(lambda: model.text_encoder(ids, encoder_hidden_states=embeds))
    matrix, queries = torch.randn(g.heads, g.width // g.heads, g.width), torch.randn(g.heads, 9, g.width // g.heads)
    looking = operations_of(lambda: (queries @ matrix @ embeds[0].T @ embeds[0]) @ matrix.transpose(1, 2))
    unprojected = limits.unprojected(g, int8, 9).operations
    assert unprojected == limits.text_layers(g, int8, 1, 9, 0, (0, 0)).operations + g.layers * looking
    assert limits.text_encoder(g, int8, 9, first=True).operations == min(read, unprojected)
    steps = [limits.decoder_step(g, int8, 2, past, (2, image_tokens)).operations for past in range(4)]
    projected = limits.projections(g, int8, 2, image_tokens, g.width).operations
    captioned = operations_of(
        lambda: generate_caption(model, pixels.repeat(2, 1, 1, 1), min_new_tokens=4, max_new_tokens=4)
    )
    assert sum(steps) + projected + 2 * limits.vision(g, int8).operations == captioned


def test_limits_are_by_the_rates_beside_each_task():
    config, tokens = random_model(3).config, limits.Tokens(question=9, answer=3, caption=12, beams=BEAMS, batch=2)
    beside = {task: {"float": 1e12, "int8": 2e12, "bytes": 5e10} for task in (*TASKS, *PARTS)}
    before = limits.limits(config, beside, tokens)
    assert set(before) == {"FP16", "INT8", "INT4"}
    assert all(set(seconds) == {*TASKS, *PARTS} - {"preprocessing", "end to end"} for seconds in before.values())
    after = limits.limits(config, beside | {"caption": {"float": 5e11, "int8": 1e12, "bytes": 2.5e10}}, tokens)
    for name, seconds in before.items():
        assert after[name] == seconds | {"caption": pytest.approx(2 * seconds["caption"])}


def test_the_meter_keeps_to_what_was_fastest(monkeypatch):
    now, ran = [0.0], []

    def taking(seconds):
        def run():
            now[0] += seconds
            ran.append(seconds)

        return run

    monkeypatch.setattr(limits, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(limits, "ways", lambda: {"bytes": [limits.Way(100, taking(4)), limits.Way(100, taking(2))]})
    meter = limits.Meter()
    ran.clear()
    assert meter.read() == {"bytes": 50}
    assert set(ran) == {2}


def test_tables_show_each_rivals_best_and_where_ours_loses_or_failed():
    results = next(each for each in report.filed_results() if each["machine"]["instruction_set"] == "avx2")
    seconds = {"PyTorch fp32": [3.0], "published FP16": [2.0], "published INT8": [1.0], "ONNX Runtime fp32": [0.5]}
    results["seconds"]["answer"] = seconds | {"ours FP16": [0.25, 0.26, 0.9], "ours INT8": [0.125]}
    results["seconds"]["caption"] = seconds | {"ours FP16": [0.6]}
    results["failures"] = {"caption": {"ours INT8": "died of SIGSEGV"}}
    short, full = report.short_table(results), report.results_table(results)
    assert "| answer, ms | 3000 | 1000 | 500 | 260 | **125** |" in short
    assert "| caption, ms | 3000 | 1000 | **500** | 600 | failed |" in short
    assert "Ours is not the best in: caption" in short
    assert "| caption, ms | 3000 | 2000 | 1000 | 500 | - | 600 | failed |" in full
    assert "- ours INT8, caption: `died of SIGSEGV`" in full


def test_sides_are_those_that_a_machine_has_instructions_for():
    new, old = (sides_here({"isa": isa, "isa_limit": None}) for isa in (["avx2", "avx512_bf16"], ["avx2"]))
    assert set(SIDES) - set(new) == {"torch.compile fp32"}
    assert set(SIDES) - set(old) == {"PyTorch bf16", "torch.compile bf16"}
    assert sides_here({"isa": ["avx512_bf16"], "isa_limit": "AVX2"}) == old


def test_report_writes_both_readmes_between_their_comments(tmp_path, monkeypatch):
    readmes = tmp_path / "README.md", tmp_path / "full.md"
    for readme in readmes:
        readme.write_text("before\n<!-- benchmark -->\nold\n<!-- /benchmark -->\nafter\n")
    monkeypatch.setattr(report, "READMES", readmes)
    report.main()
    short, full = (readme.read_text() for readme in readmes)
    table = report.short_table(report.latest_results())
    assert short == f"before\n<!-- benchmark -->\n{table}\n<!-- /benchmark -->\nafter\n"
    assert all(report.results_table(each) in full for each in report.filed_results())
    readmes[0].write_text("no place")
    with pytest.raises(ValueError, match="has no <!-- benchmark -->"):
        report.main()


def test_filed_curves_are_a_figure_below_the_tables(tmp_path, monkeypatch):
    shutil.copytree(report.RESULTS, tmp_path / "results")
    (tmp_path / "results" / "curves-amx.json").write_text(json.dumps({"date": "2099-01-01", "curves": {}}))
    (tmp_path / "results" / "curves-amx.png").touch()
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(report, "READMES", (tmp_path / "README.md", tmp_path / "full.md"))
    for readme in report.READMES:
        readme.write_text("<!-- benchmark -->\n<!-- /benchmark -->\n")
    report.main()
    below = report.READMES[1].read_text().split("### Curves")[1]
    assert "\n![curves-amx](results/curves-amx.png)\n" in below


def test_latest_results_are_those_of_a_run_that_was_not_held_back(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match="run make bench ARGS=--keep"):
        report.latest_results()
    for name, date, limit in (("amx", "2026-01-01", None), ("avx2", "2026-02-01", "AVX2")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"date": date, "machine": {"isa_limit": limit}}))
    assert report.latest_results()["date"] == "2026-01-01"
