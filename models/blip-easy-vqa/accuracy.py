"""Measure a small BLIP's exact-match accuracy on easy-VQA, answers and captions, in PyTorch float32.

python models/blip-easy-vqa/accuracy.py          the checkpoint beside this script, on easy-VQA's test split
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BlipForQuestionAnswering, BlipProcessor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from blip_openvino.data.easy_vqa import Question, load_captions, load_questions, question_type  # noqa: E402
from blip_openvino.ir.checkpoint import generate_caption  # noqa: E402


def process_images(image_paths: list[str], processor: BlipProcessor) -> Tensor:
    """Give the `pixel_values` `[N, 3, 64, 64]` of image files."""
    return processor(images=[Image.open(path) for path in image_paths], return_tensors="pt").pixel_values


def answer_questions(model, processor: BlipProcessor, questions: list[Question], batch_size: int = 128) -> list[str]:
    """Answer each question with transformers' `generate`, greedily."""
    image_paths = sorted({question.image_path for question in questions})
    row_of = {path: row for row, path in enumerate(image_paths)}
    pixel_values = process_images(image_paths, processor)
    # BLIP's generate lets the decoder see padding, so only questions of one length share a batch.
    by_length = defaultdict(list)
    for index, input_ids in enumerate(processor(text=[question.question for question in questions]).input_ids):
        by_length[len(input_ids)].append((index, input_ids))
    batches = [group[i : i + batch_size] for group in by_length.values() for i in range(0, len(group), batch_size)]
    answers = [""] * len(questions)
    for batch in tqdm(batches, desc="answering", unit="batch"):
        rows = [row_of[questions[index].image_path] for index, _ in batch]
        output = model.generate(torch.tensor([input_ids for _, input_ids in batch]), pixel_values[rows])
        for (index, _), answer in zip(batch, processor.batch_decode(output, skip_special_tokens=True), strict=True):
            answers[index] = answer
    return answers


def caption_images(model, processor: BlipProcessor, image_paths: list[str]) -> list[str]:
    """Caption image files, greedily."""
    output = generate_caption(model, process_images(image_paths, processor))
    return processor.batch_decode(output, skip_special_tokens=True)


def evaluate(
    model, processor: BlipProcessor, questions: list[Question], captions: dict[str, str]
) -> dict[str, tuple[int, int]]:
    """Count exact matches: "answers", each question type and "captions", mapped to (right, asked)."""
    right_by = defaultdict(list)
    for question, answer in zip(questions, answer_questions(model, processor, questions), strict=True):
        right_by["answers"].append(answer == question.answer)
        right_by[question_type(question.answer)].append(answer == question.answer)
    said = caption_images(model, processor, list(captions))
    right_by["captions"] = [a == b for a, b in zip(said, captions.values(), strict=True)]
    return {name: (sum(right), len(right)) for name, right in right_by.items()}


def print_scores(scores: dict[str, tuple[int, int]]) -> None:
    """Print what `evaluate` gives, one line a score."""
    for name, (right, asked) in scores.items():
        print(f"{name:<9} {right / asked:8.2%}  {right:>5} of {asked}")


def main() -> None:
    """Evaluate a checkpoint on the test split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, default=HERE, help="folder to load (default: beside this script)")
    checkpoint = parser.parse_args().checkpoint

    model = BlipForQuestionAnswering.from_pretrained(checkpoint).eval()
    processor = BlipProcessor.from_pretrained(checkpoint)
    print_scores(evaluate(model, processor, load_questions("test"), load_captions("test")))


if __name__ == "__main__":
    main()
