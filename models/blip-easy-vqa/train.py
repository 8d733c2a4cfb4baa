"""Train the small BLIP that lies beside this script, on 90 % of the images of easy-VQA's training split.

    python models/blip-easy-vqa/train.py

It evaluates on the other 10 %; accuracy.py evaluates on the test split, which nothing here reads.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BlipForQuestionAnswering, BlipImageProcessorPil, BlipProcessor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from accuracy import evaluate, print_scores  # noqa: E402
from small_blip import build_model, build_processor, normalize, save_checkpoint  # noqa: E402
from training_data import TrainingSet, augment  # noqa: E402

from blip_openvino.data.easy_vqa import Question, load_captions, load_questions  # noqa: E402

IMAGE_SIZE = 64
IMAGES_PER_STEP = 32
QUESTIONS_PER_IMAGE = 8
PEAK_LEARNING_RATE = 1e-3
CAPTION_EPOCHS = 14
ANSWER_EPOCHS = 28
SEED = 0
# BLIP's own 0.02 (text) and 1e-10 (vision) suit 768 wide layers and trained weights. At 128 wide, shapes are told apart
# after a third of the steps with this one.
INITIALIZER_RANGE = 0.06


def decoder_loss(model, ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> Tensor:
    """Give the mean cross-entropy of `ids` `[N, L]` said by the text decoder; padding does not count."""
    labels = ids.masked_fill(ids == model.decoder_pad_token_id, -100)
    return model.text_decoder(
        input_ids=ids,
        encoder_hidden_states=encoder_hidden_states,
        encoder_attention_mask=encoder_attention_mask,
        labels=labels,
    ).loss


def encode_questions(model, image_embeds: Tensor, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Run the text encoder on `[B, Q, L]` questions about `[B, T, H]` images: `[B * Q, L, H]`.

    The questions of an image share one sequence, each blind to the others, so that cross-attention projects the image
    once rather than once a question.
    """
    batch, count, length = input_ids.shape
    same_question = torch.block_diag(*[torch.ones(length, length)] * count)
    visible = same_question * attention_mask.view(batch, 1, 1, count * length)
    embeds = model.text_encoder(
        input_ids=input_ids.view(batch, count * length),
        position_ids=torch.arange(length).repeat(count)[None],
        attention_mask=(1 - visible) * torch.finfo(torch.float32).min,
        encoder_hidden_states=image_embeds,
    ).last_hidden_state
    return embeds.reshape(batch * count, length, -1)


def epoch_batches(data: TrainingSet, captioned_only: bool) -> tuple[Tensor, ...]:
    """Shuffle the images of `data`, all or those that have a caption, into full batches of row numbers."""
    rows = torch.arange(len(data.images))
    rows = rows[data.caption_row >= 0] if captioned_only else rows
    shuffled = rows[torch.randperm(len(rows))]
    return shuffled[: len(rows) // IMAGES_PER_STEP * IMAGES_PER_STEP].split(IMAGES_PER_STEP)


def caption_loss(model, data: TrainingSet, rows: Tensor, image_embeds: Tensor) -> Tensor:
    """Give the loss of captioning those images of `rows` that have a caption."""
    caption_rows = data.caption_row[rows]
    has_caption = caption_rows >= 0
    embeds = image_embeds[has_caption]
    return decoder_loss(model, data.caption_ids[caption_rows[has_caption]], embeds, torch.ones(embeds.shape[:2]))


def answer_loss(model, data: TrainingSet, rows: Tensor, image_embeds: Tensor) -> Tensor:
    """Give the loss of answering a random few of the questions of each image of `rows`."""
    asked = data.sample_questions(rows, QUESTIONS_PER_IMAGE)
    embeds = encode_questions(model, image_embeds, data.input_ids[asked], data.attention_mask[asked])
    asked = asked.flatten()
    return decoder_loss(model, data.answer_ids[asked], embeds, data.attention_mask[asked])


def fit(model, batches: list[Tensor], losses_of: Callable[[Tensor], dict[str, Tensor]], description: str) -> None:
    """Train what of `model` takes gradients, in place, on the sum of the losses that `losses_of` gives for a batch."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, len(batches), pct_start=0.1)
    model.train()
    progress = tqdm(batches, desc=description, unit="step")
    for rows in progress:
        losses = losses_of(rows)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix({name: f"{loss.item():.4f}" for name, loss in losses.items()}, refresh=False)
    model.eval()


def train_captions(model, data: TrainingSet, image_processor: BlipImageProcessorPil) -> None:
    """Train the vision model and the text decoder to caption augmented images."""

    def losses_of(rows: Tensor) -> dict[str, Tensor]:
        pixel_values = normalize(augment(data.images[rows], data.margins[rows]), image_processor)
        return {"caption": caption_loss(model, data, rows, model.vision_model(pixel_values).last_hidden_state)}

    batches = [rows for _ in range(CAPTION_EPOCHS) for rows in epoch_batches(data, captioned_only=True)]
    fit(model, batches, losses_of, "captions")


@torch.no_grad()
def encode_images(model, data: TrainingSet, image_processor: BlipImageProcessorPil, augmented: bool) -> Tensor:
    """Give the image tokens `[N, T, H]` of all images of `data`, as they are or augmented."""
    embeds = []
    for rows in torch.arange(len(data.images)).split(64):
        images = augment(data.images[rows], data.margins[rows]) if augmented else data.images[rows]
        embeds.append(model.vision_model(normalize(images, image_processor)).last_hidden_state)
    return torch.cat(embeds)


def train_answers(model, data: TrainingSet, image_processor: BlipImageProcessorPil) -> None:
    """Train the text encoder and the text decoder to answer, and the decoder to go on captioning.

    The vision model stays as captioning made it, so every image is encoded only once as it is and once augmented. The
    text encoder starts as a copy of the decoder, whose cross-attention has learnt to find colour and shape; in BLIP's
    pre-training the two share these weights throughout (section 3.2 of the paper).
    """
    model.text_encoder.load_state_dict(model.text_decoder.bert.state_dict())
    model.vision_model.requires_grad_(False)
    views = [encode_images(model, data, image_processor, augmented) for augmented in (False, True)]

    def losses_of(rows: Tensor) -> dict[str, Tensor]:
        image_embeds = views[torch.randint(len(views), ()).item()][rows]
        return {
            "caption": caption_loss(model, data, rows, image_embeds),
            "answer": answer_loss(model, data, rows, image_embeds),
        }

    batches = [rows for _ in range(ANSWER_EPOCHS) for rows in epoch_batches(data, captioned_only=False)]
    fit(model, batches, losses_of, "answers")


def train(questions: list[Question], captions: dict[str, str]) -> tuple[BlipForQuestionAnswering, BlipProcessor]:
    """Train a model from scratch to caption images, and then to answer `questions` about them as well.

    Captions come first: they teach colours and shapes with a step that costs a third of one with questions. Yes or no
    is hard to learn first, as half of the answers are yes and negation turns each around.
    """
    torch.manual_seed(SEED)
    texts = [text for q in questions for text in (q.question, q.answer)] + list(captions.values())
    processor = build_processor(texts, IMAGE_SIZE)
    vision = {"image_size": IMAGE_SIZE, "patch_size": 8, "num_hidden_layers": 4}
    model = build_model(
        processor.tokenizer, 128, 4, INITIALIZER_RANGE, vision, trained_on="easy-vqa"
    )  # 2.2 M parameters
    data = TrainingSet(questions, captions, processor.tokenizer)
    train_captions(model, data, processor.image_processor)
    train_answers(model, data, processor.image_processor)
    return model, processor


def hold_out(questions: list[Question]) -> tuple[list[Question], list[Question]]:
    """Split questions by image, 90 % to train on and 10 % to choose the recipe by."""
    kept = [question for question in questions if question.image_id % 10]
    return kept, [question for question in questions if question.image_id % 10 == 0]


def captions_of(questions: list[Question], captions: dict[str, str]) -> dict[str, str]:
    """Give those of `captions` whose image `questions` ask about."""
    image_paths = {question.image_path for question in questions}
    return {path: caption for path, caption in captions.items() if path in image_paths}


def main() -> None:
    """Train, save, and evaluate on the training images that were held out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE, help="folder to save to (default: beside this script)")
    output = parser.parse_args().output

    questions, held_out = hold_out(load_questions("train"))
    captions = load_captions("train")
    model, processor = train(questions, captions_of(questions, captions))
    save_checkpoint(model, processor, output)
    print_scores(evaluate(model, processor, held_out, captions_of(held_out, captions)))


if __name__ == "__main__":
    main()
