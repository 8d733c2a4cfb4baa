"""Train small BLIPs on drawn scenes: one that answers and captions, and one that matches texts with pictures.

    python models/train_scenes.py vqa           also learns easy-VQA's training split
    python models/train_scenes.py retrieval     begins with the vision model and text encoder of the first

Interrupt it as you like: it goes on from the checkpoints in its build folder. Pictures are drawn there once.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from scene_data import (
    Examples,
    draw_scenes,
    easy_vqa_examples,
    join_examples,
    scene_examples,
    scenes_processor,
    training_scenes,
)
from scene_fit import fast_precision, fit, step_generator, training_device
from scene_losses import (
    Contrast,
    answer,
    describe,
    is_said,
    sample_questions,
    text_loss,
    without_padding,
)
from scene_retrieval import begin_retrieval, candidate_texts, retrieval_rates, train_retrieval
from small_blip import HIDDEN_SIZE, build_model, normalize, save_checkpoint
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm
from transformers import BertTokenizerFast, BlipForQuestionAnswering, BlipProcessor

from blip_openvino.data.scenes import VALIDATION_SEED, make_scenes

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "scenes"

SCENES, HELD_OUT_SCENES = 60_000, 400
EASY_VQA_VIEWS = 4
SCENES_PER_STEP, SHAPES_PER_STEP = 64, 12
QUESTIONS_PER_IMAGE = 8
CAPTION_STEPS, ANSWER_STEPS = 5500, 3300
PEAK_LEARNING_RATE = 1e-3
REPORT_EVERY = 500


def to_device(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Move tensors to the device that trains."""
    return tuple(tensor.to(training_device()) for tensor in tensors)


def encode_images(model, images: Tensor, processor: BlipProcessor) -> Tensor:
    """Run the vision model on `[B, 3, 96, 96]` uint8: `[B, T, H]`."""
    return model.vision_model(normalize(*to_device(images), processor.image_processor)).last_hidden_state


@torch.no_grad()
def encode_all(model, images: Tensor, processor: BlipProcessor) -> Tensor:
    """The image tokens of all pictures, `[N, T, H]` bfloat16, not on a GPU."""
    with fast_precision():
        batches = [
            encode_images(model, batch, processor).to("cpu", torch.bfloat16)
            for batch in tqdm(images.split(128), desc="encoding", unit="batch", mininterval=5)
        ]
    return torch.cat(batches)


def rates(right_by: dict[str, list[Tensor]]) -> dict[str, float]:
    """The share that is right, by name."""
    return {name: torch.cat(right).float().mean().item() for name, right in right_by.items()}


def caption_rates(model, data: Examples, processor: BlipProcessor) -> dict[str, float]:
    """How often captions and inventories are word for word those of `data`."""
    right_by = defaultdict(list)
    for rows in torch.arange(len(data.images)).split(100):
        texts = to_device(data.captions[rows], data.inventories[rows])
        logits = describe(model, encode_images(model, data.images[rows], processor), list(texts))
        for name, each, ids in zip(("captions", "inventories"), logits, texts, strict=True):
            has_text = ids[:, 0] != 0
            right_by[name].append(is_said(each, ids)[has_text].cpu())
    return rates(right_by)


def answer_rates(model, data: Examples, processor: BlipProcessor) -> dict[str, float]:
    """How often questions about the pictures of `data`, drawn as for a step, are answered right, in all and by kind."""
    right_by = defaultdict(list)
    for rows in torch.arange(len(data.images)).split(50):
        *asked, kinds = sample_questions(data, rows, QUESTIONS_PER_IMAGE, step_generator(0, 0))
        questions, answers = to_device(*asked)
        logits = answer(model, encode_images(model, data.images[rows], processor), questions, answers)
        right, kinds = is_said(logits, answers).cpu(), kinds.flatten()
        right_by["answers"].append(right[kinds >= 0])
        for index, kind in enumerate(data.kind_names):
            right_by[kind].append(right[kinds == index])
    return rates(right_by)


def as_text(scores: dict[str, float]) -> str:
    """Scores in per cent, on a line."""
    return ", ".join(f"{name} {100 * score:.1f}" for name, score in scores.items())


def sample_rows(data: Examples, scenes: int, generator: Generator) -> Tensor:
    """Draw the pictures of a step: scenes, which are the first `scenes` rows of `data`, and shapes of easy-VQA."""
    shapes = len(data.images) - scenes
    return torch.cat(
        [
            torch.randint(scenes, (SCENES_PER_STEP,), generator=generator),
            scenes + torch.randint(shapes, (SHAPES_PER_STEP,), generator=generator),
        ]
    )


def train_captions(model, data: Examples, scenes: int, held_out: list[Examples], processor, folder: Path, seed: int):
    """Train the vision model and the decoder to caption pictures and to say all that is in them, cell by cell.

    The image's first token learns to match the caption, which retrieval needs; the text encoder that does it here is
    only a help.
    """
    contrast = Contrast(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
    module = nn.ModuleDict({"model": model, "contrast": contrast}).to(training_device())

    def losses_of(generator: Generator) -> dict[str, Tensor]:
        rows = sample_rows(data, scenes, generator)
        image_embeds = encode_images(model, data.images[rows], processor)
        texts = to_device(without_padding(data.captions[rows]), without_padding(data.inventories[rows]))
        said = [text_loss(*each) for each in zip(describe(model, image_embeds, list(texts)), texts, strict=True)]
        (matched,) = to_device(candidate_texts(data, rows[:SCENES_PER_STEP], 1, processor.tokenizer, generator))
        contrast_loss, _ = contrast(model.text_encoder, image_embeds[:SCENES_PER_STEP], *matched.unbind(1))
        return {"caption": said[0], "inventory": said[1], "contrast": 0.1 * contrast_loss}

    def report() -> str:
        return "; ".join(as_text(caption_rates(model, each, processor)) for each in held_out)

    fit(module, losses_of, CAPTION_STEPS, PEAK_LEARNING_RATE, folder / "captions.pt", seed, report, REPORT_EVERY)


def train_answers(model, data: Examples, scenes: int, held_out: list[Examples], processor, folder: Path, seed: int):
    """Train the text encoder and the decoder to answer, and the decoder to go on captioning.

    The vision model stays as captions made it, so every picture is encoded once for all steps.
    """
    model.vision_model.requires_grad_(False)
    image_embeds = encode_all(model, data.images, processor)

    def losses_of(generator: Generator) -> dict[str, Tensor]:
        rows = sample_rows(data, scenes, generator)
        (embeds,) = to_device(image_embeds[rows])
        *asked, _ = sample_questions(data, rows, QUESTIONS_PER_IMAGE, generator)
        captions, *asked = to_device(without_padding(data.captions[rows]), *asked)
        said = describe(model, embeds, [captions])[0]
        return {
            "caption": text_loss(said, captions),
            "answer": text_loss(answer(model, embeds, *asked), asked[1]),
        }

    def report() -> str:
        scores = [
            as_text(
                {"captions": caption_rates(model, each, processor)["captions"]} | answer_rates(model, each, processor)
            )
            for each in held_out
        ]
        return "; ".join(scores)

    fit(model, losses_of, ANSWER_STEPS, PEAK_LEARNING_RATE, folder / "answers.pt", seed, report, REPORT_EVERY)


def load_scenes(seed: int, part: int, build: Path, tokenizer: BertTokenizerFast) -> Examples:
    """Scenes to train on, whose pictures are drawn once; `part`: 0 for captions, 1 for answers and retrieval."""
    first = (2 * seed + part) * SCENES
    return scene_examples(training_scenes(first, SCENES), build / f"scenes-{first}-{SCENES}.npy", tokenizer)


def load_held_out(build: Path, tokenizer: BertTokenizerFast) -> list[Examples]:
    """Scenes and shapes that a recipe is judged by."""
    file = build / f"validation-{HELD_OUT_SCENES}.npy"
    scenes = scene_examples(make_scenes(HELD_OUT_SCENES, VALIDATION_SEED), file, tokenizer)
    return [scenes, easy_vqa_examples(True, 1, tokenizer)]


def train_vqa(output: Path, build: Path, seed: int) -> None:
    """Train the model of questions and captions from scratch, captions first."""
    torch.manual_seed(seed)
    processor = scenes_processor()
    model = build_model(processor.tokenizer)
    shapes = easy_vqa_examples(False, EASY_VQA_VIEWS, processor.tokenizer)
    held_out = load_held_out(build, processor.tokenizer)
    folder = build / f"vqa-{seed}"
    folder.mkdir(parents=True, exist_ok=True)

    def train(function: Callable, part: int) -> None:
        scenes = load_scenes(seed, part, build, processor.tokenizer)
        function(model, join_examples(scenes, shapes), len(scenes.images), held_out, processor, folder, seed)

    train(train_captions, 0)
    # The decoder's cross-attention has learnt where to look; in BLIP's pre-training the two share these weights
    # throughout (section 3.2 of the paper).
    model.text_encoder.load_state_dict(model.text_decoder.bert.state_dict())
    train(train_answers, 1)
    save_checkpoint(model.cpu(), processor, output)


def train_matching(begin_with: Path, output: Path, build: Path, seed: int) -> None:
    """Train the model of matching and retrieval, whose vision model is that of the checkpoint it begins with."""
    torch.manual_seed(seed)
    processor = BlipProcessor.from_pretrained(begin_with)
    model = begin_retrieval(BlipForQuestionAnswering.from_pretrained(begin_with)).to(training_device())
    held_out = make_scenes(HELD_OUT_SCENES, VALIDATION_SEED)
    data = load_scenes(seed, 1, build, processor.tokenizer)
    pictures = draw_scenes(held_out, build / f"validation-{HELD_OUT_SCENES}.npy")
    image_embeds, held_out_embeds = (encode_all(model, images, processor) for images in (data.images, pictures))

    def report() -> str:
        return as_text(retrieval_rates(model, held_out_embeds.float(), held_out, processor))

    folder = build / f"retrieval-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    train_retrieval(model, data, image_embeds, report, processor, folder / "retrieval.pt", seed)
    save_checkpoint(model.cpu(), processor, output)


def main() -> None:
    """Train one of the two models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=("vqa", "retrieval"), help="which model to train")
    parser.add_argument("--seed", type=int, default=0, help="of weights, scenes and steps (default: 0)")
    parser.add_argument(
        "--output", type=Path, default=HERE, help="folder to save both in (default: beside this script)"
    )
    parser.add_argument("--build", type=Path, default=BUILD, help="folder of pictures and unfinished training")
    arguments = parser.parse_args()
    vqa = arguments.output / "blip-scenes"
    if arguments.model == "vqa":
        train_vqa(vqa, arguments.build, arguments.seed)
    else:
        train_matching(vqa, arguments.output / "blip-scenes-retrieval", arguments.build, arguments.seed)


if __name__ == "__main__":
    main()
