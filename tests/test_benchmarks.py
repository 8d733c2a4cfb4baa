import json
from statistics import median

import pytest

from benchmarks import report
from benchmarks.bench import blip_processor, machine


def test_report_shows_the_medians_and_ratios_of_the_filed_results():
    results = report.latest_results()
    table = report.results_table(results)
    for task, sides in results["seconds"].items():
        torch, fp16 = median(sides["PyTorch"]), median(sides["FP16"])
        for side, seconds in sides.items():
            row = next(line for line in table.splitlines() if line.startswith(f"| {task} | {side} |"))
            assert f"| {median(seconds) * 1000:.1f} |" in row
            assert row.endswith(f"| {torch / median(seconds):.2f}x | {fp16 / median(seconds):.2f}x |")
    assert results["date"] in table
    assert results["machine"]["cpu"] in table


def test_filed_results_have_int8_no_slower_than_fp16_and_weights_as_small_as_promised():
    results = report.latest_results()
    for sides in results["seconds"].values():
        assert median(sides["INT8"]) <= median(sides["FP16"])
    for part in results["sizes"].values():
        assert part["FP16"] / part["INT8"] >= 1.95
    decoder = results["sizes"]["text decoder"]
    assert decoder["FP16"] / decoder["INT4"] >= 3


def test_missing_results_say_how_to_make_them(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"run python benchmarks/bench\.py --keep"):
        report.latest_results()
    (tmp_path / "2026-01-01-a.json").write_text(json.dumps({"date": "2026-01-01"}))
    (tmp_path / "2026-02-01-a.json").write_text(json.dumps({"date": "2026-02-01"}))
    assert report.latest_results()["date"] == "2026-02-01"


def test_machine_and_processor_describe_what_was_run():
    about = machine()
    assert about["cores"] >= 1
    assert set(about["versions"]) == {"python", "torch", "transformers", "openvino", "nncf"}
    tokenizer = blip_processor().tokenizer
    assert len(tokenizer) == 30524
    assert tokenizer.unk_token_id not in tokenizer("how many dogs are in the picture?")["input_ids"]
