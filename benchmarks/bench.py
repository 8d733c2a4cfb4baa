"""PyTorch, FP16, INT8 and INT4 at BLIP-base size, all in one run and taking turns.

    python benchmarks/bench.py [--rounds 20]

Speed does not depend on what the weights are, so they are random. Results go to `build/bench.json`, with the machine
and the versions they were measured on; `--keep` also files them in `benchmarks/results/`.
"""

import argparse
import datetime
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import BertTokenizerFast, BlipConfig, BlipForQuestionAnswering, BlipImageProcessorPil, BlipProcessor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.report import RESULTS, results_table  # noqa: E402
from blip_convert import convert  # noqa: E402
from blip_files import weight_sizes  # noqa: E402
from blip_model import OVBlipModel  # noqa: E402
from blip_optimize import easy_vqa_calibration, optimize  # noqa: E402
from blip_torch import generate_caption  # noqa: E402
from utils import time_interleaved  # noqa: E402

FOLDER = ROOT / "build" / "blip-base-random"
PRECISIONS = ("FP16", "INT8", "INT4")
QUESTION_TOKENS, ANSWER_TOKENS, CAPTION_TOKENS = 10, 3, 12
CALIBRATION_SAMPLES = 16  # enough for speed and size, which do not depend on the ranges found


def blip_base(seed: int = 0) -> BlipForQuestionAnswering:
    """BLIP base with random weights: 384 pixels, 12 + 12 + 12 layers, hidden size 768, 361 M parameters."""
    torch.manual_seed(seed)
    vision = {"image_size": 384, "initializer_range": 0.02}
    text = {
        "vocab_size": 30524,
        "encoder_hidden_size": 768,
        "num_attention_heads": 12,
        "bos_token_id": 30522,
        "sep_token_id": 102,
    }
    return BlipForQuestionAnswering(BlipConfig(vision_config=vision, text_config=text)).eval()


def blip_processor(words: str = "how many dogs are in the picture ? what color is shape") -> BlipProcessor:
    """A processor of BLIP's image size and vocabulary size, whose tokenizer knows `words` and no others."""
    tokens = [f"[unused{index}]" for index in range(30522)]
    tokens[0], tokens[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens[2000 : 2000 + len(words.split())] = words.split()
    tokenizer = BertTokenizerFast(
        vocab={token: index for index, token in enumerate([*tokens, "[DEC]", "[ENC]"])},
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=512,
    )
    return BlipProcessor(BlipImageProcessorPil(size={"height": 384, "width": 384}), tokenizer)


def prepare(model: BlipForQuestionAnswering) -> dict[str, OVBlipModel]:
    """Convert and quantize `model` where that is not done yet, and load it at every precision."""
    convert(model, blip_processor(), FOLDER)
    dataset = easy_vqa_calibration(CALIBRATION_SAMPLES)
    for weights in ("int8", "int4"):
        optimize(FOLDER, dataset, weights)
    return {precision: OVBlipModel.from_pretrained(FOLDER, "CPU", precision) for precision in PRECISIONS}


def workloads(model: BlipForQuestionAnswering, ours: dict[str, OVBlipModel]) -> dict[str, dict[str, Callable]]:
    """Task -> side -> what to time: the vision model, an answer and a caption of fixed lengths, batch 1.

    "answer again" is another question about an image that was asked about before; PyTorch's `generate` starts anew.
    """
    pixel_values = torch.randn(1, 3, 384, 384, generator=torch.Generator().manual_seed(0))
    input_ids = torch.arange(2000, 2000 + QUESTION_TOKENS)[None]
    question = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    other = question | {"input_ids": input_ids + QUESTION_TOKENS}
    answer = {"min_new_tokens": ANSWER_TOKENS, "max_new_tokens": ANSWER_TOKENS}
    caption = {"min_new_tokens": CAPTION_TOKENS, "max_new_tokens": CAPTION_TOKENS}

    @torch.inference_mode()
    def torch_vision() -> torch.Tensor:
        return model.vision_model(pixel_values).last_hidden_state

    tasks: dict[str, dict[str, Callable]] = {
        "vision": {"PyTorch": torch_vision},
        "answer": {"PyTorch": lambda: model.generate(**question, pixel_values=pixel_values, **answer)},
        "answer again": {"PyTorch": lambda: model.generate(**other, pixel_values=pixel_values, **answer)},
        "caption": {"PyTorch": lambda: generate_caption(model, pixel_values, **caption)},
    }
    for name, each in ours.items():
        tasks["vision"][name] = lambda each=each: each.vision_model(pixel_values.numpy())
        images = each.encode_images(pixel_values)
        each.generate_answer(images, **question, **answer)
        tasks["answer"][name] = lambda each=each: each.generate_answer(pixel_values, **question, **answer)
        tasks["answer again"][name] = lambda each=each, images=images: each.generate_answer(images, **other, **answer)
        tasks["caption"][name] = lambda each=each: each.generate_caption(pixel_values, **caption)
    return tasks


def machine() -> dict[str, object]:
    """What the figures depend on: processor, instruction sets, cores, versions."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in info.split("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", "").split())
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    packages = ("torch", "transformers", "openvino", "nncf")
    return {
        "cpu": f"{fields.get('model name', platform.processor())}, family {fields.get('cpu family')} model "
        f"{fields.get('model')} stepping {fields.get('stepping')}",
        "cores": torch.get_num_threads(),
        "isa": [flag for flag in wanted if flag in flags],
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="runs of every side (default: 20)")
    parser.add_argument("--keep", action="store_true", help="also file the results in benchmarks/results/")
    arguments = parser.parse_args()
    model = blip_base()
    ours = prepare(model)
    seconds = {}
    for task, sides in workloads(model, ours).items():
        print(f"timing {task} ...", flush=True)
        seconds[task] = time_interleaved(sides, arguments.rounds)
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "rounds": arguments.rounds,
        "tokens": {"question": QUESTION_TOKENS, "answer": ANSWER_TOKENS, "caption": CAPTION_TOKENS},
        "seconds": {
            task: {side: [round(run, 6) for run in runs] for side, runs in sides.items()}
            for task, sides in seconds.items()
        },
        "sizes": weight_sizes(FOLDER, PRECISIONS),
    }
    text = json.dumps(results, indent=1) + "\n"
    files = [ROOT / "build" / "bench.json"]
    if arguments.keep:
        files.append(RESULTS / f"{results['date']}-{'-'.join(results['machine']['isa'][-1:]) or 'cpu'}.json")
    for file in files:
        file.write_text(text)
    print(results_table(results))


if __name__ == "__main__":
    main()
