"""PyTorch, the published recipe, ONNX Runtime and this project at BLIP-base size, all in one run and taking turns.

    make bench ARGS="--quick"            # or python -m benchmarks.bench
    make bench ARGS="--isa AVX2 --keep"  # as on a processor that has no more

Results go to `build/bench.json`, with the machine and the versions they were measured on; `--keep` also files them in
`benchmarks/results/`, where `benchmarks/report.py` takes the README's table from.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import BlipConfig

from benchmarks.checkpoint import blip_base, blip_processor
from benchmarks.fresh import fresh_runs
from benchmarks.limits import Tokens, limits, measure
from benchmarks.prepare import MAKERS, prepare, sizes
from benchmarks.report import RESULTS, file_name, results_table
from benchmarks.sides import BASELINE, CACHING, EXACT, SIDES, Side, load_side
from benchmarks.workloads import (
    ANSWER_TOKENS,
    BEAMS,
    CAPTION_TOKENS,
    Inputs,
    Timed,
    part_seconds,
    take_turns,
    workloads,
)

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "blip-base-random"

ISA_LIMITS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX512_CORE_VNNI": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
}
"""What holds the products of oneDNN and MKL, OpenVINO's and PyTorch's, back to older instructions.

MLAS, ONNX Runtime's and by way of `blip_avx2.products_by_mlas` also ours at FP16, knows no such limit.
"""


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds of a workload at least, seconds for more of them, likewise for the batch, which is
    run cold; rounds of fresh processes; images in the batch."""

    rounds: int
    seconds: float
    batch_seconds: float
    fresh_rounds: int
    batch: int


FULL = Effort(rounds=4, seconds=40, batch_seconds=300, fresh_rounds=2, batch=32)
QUICK = Effort(rounds=1, seconds=0, batch_seconds=0, fresh_rounds=0, batch=2)


def machine() -> dict[str, object]:
    """What the figures depend on: processor, instruction sets, cores, versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "cpu": f"{fields.get('model name', platform.processor())}, family {fields.get('cpu family')} model "
        f"{fields.get('model')} stepping {fields.get('stepping')}",
        "cores": torch.get_num_threads(),
        "isa": [flag for flag in wanted if flag in flags],
        "isa_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in MAKERS},
    }


def sides_here(about: Mapping[str, object]) -> tuple[str, ...]:
    """The sides that make sense on a machine: PyTorch in bf16 only where there are instructions for it."""
    has_bf16 = "avx512_bf16" in about["isa"] and not about["isa_limit"]
    return tuple(side for side in SIDES if has_bf16 or side != "PyTorch bf16")


def processor_ticks() -> list[int]:
    """Ticks of all cores since the machine started: user, nice, system, idle, iowait, irq, softirq, steal, ..."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def stolen_share(before: list[int], after: list[int]) -> float:
    """Of the time between, the share in which other guests of a virtual machine's host had the cores."""
    spent = [end - start for start, end in zip(before, after, strict=True)]
    return spent[7] / sum(spent)


def check_tokens(timed: Mapping[str, Timed]) -> None:
    """Raise RuntimeError unless outputs are as long as asked for, and those of float32 sides the same."""
    for each in timed.values():
        each.check()
    expected = timed[BASELINE].output
    for side in EXACT:
        output = timed[side].output
        if isinstance(output, torch.Tensor) and output.dtype == torch.int64 and not torch.equal(output, expected):
            raise RuntimeError(f"{timed[side].name}: {side} gives {output.tolist()}, {BASELINE} {expected.tolist()}")


def run_workloads(
    sides: Mapping[str, Side], inputs: Inputs, effort: Effort
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, list[float]]]]:
    """Seconds of every run by workload and side, and of the parts by part and side."""
    timed_by_side: dict[str, dict[str, Timed]] = {side: {} for side in sides}
    for name, workload in workloads(inputs, effort.batch).items():
        print(f"timing {name} ...", flush=True)
        if name == "batch":
            timed = {side: Timed(name, workload, each) for side, each in sides.items()}
            take_turns(timed, 1, effort.batch_seconds)
        else:
            for each in sides.values():
                Timed(name, workload, each)()  # a warm-up that does not count
            timed = {side: Timed(name, workload, each) for side, each in sides.items()}
            take_turns(timed, effort.rounds, effort.seconds)
        check_tokens(timed)
        for side, each in timed.items():
            timed_by_side[side][name] = each
    parts = {side: part_seconds(timed) for side, timed in timed_by_side.items()}
    seconds = {name: {side: timed_by_side[side][name].seconds for side in sides} for name in timed_by_side[BASELINE]}
    return seconds, {part: {side: parts[side][part] for side in sides} for part in parts[BASELINE]}


def run(effort: Effort) -> dict[str, object]:
    """All measurements, as they are filed."""
    about, before = machine(), processor_ticks()
    names = sides_here(about)
    processor = blip_processor()
    prepare(blip_base(), processor, FOLDER)
    load, memory = fresh_runs(names, CACHING, FOLDER, effort.fresh_rounds) if effort.fresh_rounds else ({}, {})
    inputs = Inputs.make(processor)
    config = BlipConfig.from_pretrained(FOLDER)
    ceilings = measure()
    seconds, parts = run_workloads({name: load_side(name, FOLDER) for name in names}, inputs, effort)
    ceilings = ceilings.best(measure())
    tokens = Tokens(inputs.question["input_ids"].shape[1], ANSWER_TOKENS, CAPTION_TOKENS, BEAMS, effort.batch)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": about,
        "stolen": round(stolen_share(before, processor_ticks()), 4),
        "effort": asdict(effort),
        "tokens": asdict(tokens),
        "seconds": rounded(seconds | load),
        "parts": rounded(parts),
        "memory": memory,
        "sizes": sizes(FOLDER),
        "ceilings": asdict(ceilings),
        "limits": limits(config, ceilings, tokens),
    }


def rounded(seconds: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """To microseconds."""
    return {task: {side: [round(each, 6) for each in runs] for side, runs in s.items()} for task, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one round, two images a batch, nothing in fresh processes: five minutes, and noisy",
    )
    parser.add_argument("--isa", choices=ISA_LIMITS, help="use no newer instructions than these")
    parser.add_argument("--keep", action="store_true", help="also file the results in benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.isa and not os.environ.get("ONEDNN_MAX_CPU_ISA"):  # libraries read it when they are loaded
        environment = os.environ | ISA_LIMITS[arguments.isa]
        command = [sys.executable, "-m", "benchmarks.bench", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment).returncode)
    results = run(QUICK if arguments.quick else FULL)
    text = json.dumps(results, indent=1) + "\n"
    (ROOT / "build" / "bench.json").write_text(text)
    if arguments.keep:
        (RESULTS / file_name(results)).write_text(text)
    print(results_table(results))


if __name__ == "__main__":
    main()
