"""Train small BLIPs on drawn scenes: one that answers and captions, and one that matches texts with pictures.

    python models/train_scenes.py vqa           also learns easy-VQA's training split
    python models/train_scenes.py retrieval     begins with the vision model and text encoder of the first

Interrupt it as you like: it goes on from the checkpoints in its build folder. Pictures are drawn there once.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from scene_data import (
    Examples,
    Said,
    draw_scenes,
    easy_vqa_pictures,
    make_examples,
    said_of_scene,
    scenes_processor,
    training_scenes,
)
from scene_fit import DEVICE, fast_precision, fit
from scene_losses import Contrast, answer, describe, sample_questions, text_loss, without_padding
from scene_retrieval import begin_retrieval, candidate_texts, train_retrieval
from small_blip import HIDDEN_SIZE, build_model, normalize, save_checkpoint
from torch import Generator, Tensor, nn
from tqdm.auto import tqdm
from transformers import BlipForQuestionAnswering, BlipProcessor

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "scenes"

SCENES = 60_000
EASY_VQA_VIEWS = 4
SCENES_PER_STEP, SHAPES_PER_STEP = 64, 12
QUESTIONS_PER_IMAGE = 8
CAPTION_STEPS, ANSWER_STEPS = 5500, 3300
PEAK_LEARNING_RATE = 1e-3


def encode_images(model, images: Tensor, processor: BlipProcessor) -> Tensor:
    """Run the vision model on `[B, 3, 96, 96]` uint8: `[B, T, H]`."""
    return model.vision_model(normalize(images.to(DEVICE), processor.image_processor)).last_hidden_state


@torch.no_grad()
def encode_all(model, images: Tensor, processor: BlipProcessor) -> Tensor:
    """The image tokens of all pictures, `[N, T, H]` bfloat16, not on a GPU."""
    with fast_precision():
        batches = [
            encode_images(model, batch, processor).to("cpu", torch.bfloat16)
            for batch in tqdm(images.split(128), desc="encoding", unit="batch", mininterval=5)
        ]
    return torch.cat(batches)


def sample_rows(data: Examples, generator: Generator) -> Tensor:
    """Draw the pictures of a step: scenes, which come first, and shapes of easy-VQA."""
    scenes, pictures = len(data.wrong), len(data.images)
    return torch.cat(
        [
            torch.randint(scenes, (SCENES_PER_STEP,), generator=generator),
            scenes + torch.randint(pictures - scenes, (SHAPES_PER_STEP,), generator=generator),
        ]
    )


def train_captions(model, data: Examples, processor: BlipProcessor, folder: Path, seed: int) -> None:
    """Train the vision model and the decoder to caption pictures and to say all that is in them, cell by cell.

    The image's first token learns to match the caption, which retrieval needs; the text encoder that does it here is
    only a help.
    """
    contrast = Contrast(nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE), nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE))
    module = nn.ModuleDict({"model": model, "contrast": contrast}).to(DEVICE)

    def losses_of(generator: Generator) -> dict[str, Tensor]:
        rows = sample_rows(data, generator)
        image_embeds = encode_images(model, data.images[rows], processor)
        texts = [without_padding(ids[rows]).to(DEVICE) for ids in (data.captions, data.inventories)]
        said = [text_loss(*each) for each in zip(describe(model, image_embeds, texts), texts, strict=True)]
        matched = candidate_texts(data, rows[:SCENES_PER_STEP], 1, processor.tokenizer, generator).to(DEVICE)
        contrast_loss, _ = contrast(model.text_encoder, image_embeds[:SCENES_PER_STEP], *matched.unbind(1))
        return {"caption": said[0], "inventory": said[1], "contrast": 0.1 * contrast_loss}

    fit(module, losses_of, CAPTION_STEPS, PEAK_LEARNING_RATE, folder / "captions.pt", seed)


def train_answers(model, data: Examples, processor: BlipProcessor, folder: Path, seed: int) -> None:
    """Train the text encoder and the decoder to answer, and the decoder to go on captioning.

    The vision model stays as captions made it, so every picture is encoded once for all steps.
    """
    model.vision_model.requires_grad_(False)
    image_embeds = encode_all(model, data.images, processor)

    def losses_of(generator: Generator) -> dict[str, Tensor]:
        rows = sample_rows(data, generator)
        embeds = image_embeds[rows].to(DEVICE)
        questions, answers = sample_questions(data, rows, QUESTIONS_PER_IMAGE, generator)
        questions, answers = questions.to(DEVICE), answers.to(DEVICE)
        captions = without_padding(data.captions[rows]).to(DEVICE)
        return {
            "caption": text_loss(describe(model, embeds, [captions])[0], captions),
            "answer": text_loss(answer(model, embeds, questions, answers), answers),
        }

    fit(model, losses_of, ANSWER_STEPS, PEAK_LEARNING_RATE, folder / "answers.pt", seed)


def load_scenes(seed: int, part: int, build: Path) -> tuple[Tensor, list[Said]]:
    """Scenes to train on, drawn once; `part`: 0 for captions, 1 for answers and retrieval."""
    first = (2 * seed + part) * SCENES
    scenes = training_scenes(first, SCENES)
    return draw_scenes(scenes, build / f"scenes-{first}-{SCENES}.npy"), [said_of_scene(scene) for scene in scenes]


def train_vqa(output: Path, build: Path, seed: int) -> None:
    """Train the model of questions and captions from scratch, captions first."""
    torch.manual_seed(seed)
    processor = scenes_processor()
    model = build_model(processor.tokenizer)
    shapes, said_of_shapes = easy_vqa_pictures(EASY_VQA_VIEWS)
    folder = build / f"vqa-{seed}"
    folder.mkdir(parents=True, exist_ok=True)

    def train(function: Callable, part: int) -> None:
        pictures, said = load_scenes(seed, part, build)
        data = make_examples(torch.cat([pictures, shapes]), said + said_of_shapes, processor.tokenizer)
        function(model, data, processor, folder, seed)

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
    model = begin_retrieval(BlipForQuestionAnswering.from_pretrained(begin_with)).to(DEVICE)
    data = make_examples(*load_scenes(seed, 1, build), processor.tokenizer)
    folder = build / f"retrieval-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    image_embeds = encode_all(model, data.images, processor)
    train_retrieval(model, data, image_embeds, processor, folder / "retrieval.pt", seed)
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
