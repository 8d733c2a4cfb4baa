"""PyTorch, the published recipe, ONNX Runtime and this project at BLIP-base size, all in one run and taking turns.

    make bench ARGS="--quick"            # or python -m benchmarks.bench
    make bench ARGS="--isa AVX2 --keep"  # as on a processor that has no more
    make bench ARGS=--curves             # cost as work grows, as a figure, instead of the table

Results go to `build/bench.json`, with the machine and the versions they were measured on; `--keep` also files them in
`benchmarks/results/`, where `python -m benchmarks.report` takes the READMEs' tables from. Curves go to
`build/curves.json` and `build/curves.png`, and are filed as `curves-<instruction set>`.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median

import torch
from transformers import BlipConfig

from benchmarks.checkpoint import blip_base, blip_processor
from benchmarks.curves import CurveRounds, curve_sides, draw, table
from benchmarks.limits import Meter, Tokens, limits
from benchmarks.prepare import MAKERS, prepare, sizes
from benchmarks.report import RESULTS, results_table
from benchmarks.rounds import ROOT, Effort, Rounds
from benchmarks.sides import SIDES, Spec
from benchmarks.workloads import ANSWER_TOKENS, BEAMS, CAPTION_TOKENS, PARTS, QUESTION, TASKS

FOLDER = ROOT / "build" / "blip-base-random"
FULL = Effort(rounds=2, seconds=40, loads=3, batch=4)
QUICK = Effort(rounds=1, seconds=0, loads=1, batch=2)
INSTRUCTION_SETS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
"""Oldest first, with the names that Linux has for them."""
ISA_LIMITS = {
    "AVX2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "AVX512_CORE_VNNI": {
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ATEN_CPU_CAPABILITY": "avx512",
    },
}
"""What holds the products of oneDNN and MKL, OpenVINO's and PyTorch's, back to older instructions.

MLAS, ONNX Runtime's and on AVX2 also ours at FP16, knows no such limit.
"""


def machine() -> dict[str, object]:
    """What the figures depend on: processor, instruction sets, cores, versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    has = [name for name in INSTRUCTION_SETS if name in fields.get("flags", "").split()]
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return {
        "cpu": f"{fields.get('model name', platform.processor())}, family {fields.get('cpu family')} model "
        f"{fields.get('model')} stepping {fields.get('stepping')}",
        "cores": torch.get_num_threads(),
        "isa": has,
        "isa_limit": limit,
        "instruction_set": limit.lower().replace("_core", "") if limit else (has or [platform.machine()])[-1],
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in MAKERS},
    }


def sides_here(about: Mapping[str, object]) -> dict[str, Spec]:
    """The sides that make sense on a machine: PyTorch in bf16, also compiled, where there are instructions for it."""
    has_bf16 = "avx512_bf16" in about["isa"] and not about["isa_limit"]
    left_out = {"torch.compile fp32"} if has_bf16 else {"PyTorch bf16", "torch.compile bf16"}
    return {side: spec for side, spec in SIDES.items() if side not in left_out}


def processor_ticks() -> list[int]:
    """Ticks of all cores since the machine started: user, nice, system, idle, iowait, irq, softirq, steal, ..."""
    return [int(ticks) for ticks in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]


def stolen_share(before: Sequence[int], after: Sequence[int]) -> float:
    """Of the time between, the share in which other guests of a virtual machine's host had the cores."""
    spent = [end - start for start, end in zip(before, after, strict=True)]
    return spent[7] / sum(spent)


def run(measured: Callable[[Mapping[str, object], bool], dict[str, object]], quick: bool) -> dict[str, object]:
    """What `measured` gives for this machine, as it is filed: with the machine, the date and how quiet it was."""
    about, before = machine(), processor_ticks()
    prepare(blip_base(), blip_processor(), FOLDER)
    results = measured(about, quick)
    stolen = round(stolen_share(before, processor_ticks()), 4)
    return {"date": datetime.date.today().isoformat(), "machine": about, "stolen": stolen, **results}


def measured_table(about: Mapping[str, object], quick: bool) -> dict[str, object]:
    """All tasks of all sides, and the limits of the machine."""
    effort, meter, rates = QUICK if quick else FULL, Meter(), defaultdict(list)  # rates by task
    rounds = Rounds(sides_here(about), FOLDER, effort, between=lambda task: rates[task].append(meter.read()))
    rounds.run()
    question_tokens = len(blip_processor()(text=QUESTION)["input_ids"])
    tokens = Tokens(question_tokens, ANSWER_TOKENS, CAPTION_TOKENS, BEAMS, effort.batch)
    beside = {task: {kind: median(each[kind] for each in rates[task]) for kind in meter.fastest} for task in TASKS}
    beside |= {part: beside[task] for part, (task, _) in PARTS.items()}
    return {
        "effort": asdict(effort),
        "tokens": asdict(tokens),
        "seconds": rounded(rounds.seconds),
        "parts": rounded(rounds.parts()),
        "memory": rounds.memory,
        "failures": rounds.failures,
        "sizes": sizes(FOLDER),
        "rates": {kind: [each[kind] for task in TASKS for each in rates[task]] for kind in meter.fastest},
        "limits": limits(BlipConfig.from_pretrained(FOLDER), beside, tokens),
    }


def measured_curves(about: Mapping[str, object], quick: bool) -> dict[str, object]:
    """All points of all curves."""
    rounds = CurveRounds(curve_sides(sides_here(about)), FOLDER, quick)
    rounds.run()
    return {
        "effort": asdict(rounds.effort),
        "curves": rounds.curves(about["cores"]),
        "failures": rounds.failures,
    }


def rounded(seconds: Mapping[str, Mapping[str, list[float]]]) -> dict[str, dict[str, list[float]]]:
    """To microseconds."""
    return {task: {side: [round(each, 6) for each in runs] for side, runs in s.items()} for task, s in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one round, two images a batch, each side loaded once: minutes, and noisy"
    )
    parser.add_argument("--curves", action="store_true", help="cost as work grows, as a figure")
    parser.add_argument("--isa", choices=ISA_LIMITS, help="use no newer instructions than these")
    parser.add_argument("--keep", action="store_true", help="also file the results in benchmarks/results/")
    arguments = parser.parse_args()
    if arguments.isa and not os.environ.get("ONEDNN_MAX_CPU_ISA"):  # libraries read it when they are loaded
        environment = os.environ | ISA_LIMITS[arguments.isa]
        command = [sys.executable, "-m", "benchmarks.bench", *sys.argv[1:]]
        raise SystemExit(subprocess.run(command, cwd=ROOT, env=environment).returncode)
    name, measured = ("curves", measured_curves) if arguments.curves else ("bench", measured_table)
    results = run(measured, arguments.quick)
    made = [ROOT / "build" / f"{name}.json"]
    made[0].write_text(json.dumps(results, indent=1) + "\n")
    if arguments.curves:
        made.append(made[0].with_suffix(".png"))
        draw(results, made[1])
    for file in made if arguments.keep else []:
        prefix = "curves-" if arguments.curves else ""
        shutil.copyfile(file, RESULTS / f"{prefix}{results['machine']['instruction_set']}{file.suffix}")
    print(table(results) if arguments.curves else results_table(results))


if __name__ == "__main__":
    main()
