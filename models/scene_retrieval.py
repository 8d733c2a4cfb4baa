"""Training of the model that matches texts with pictures."""

from pathlib import Path

import torch
from scene_data import Examples
from scene_fit import DEVICE, fit
from scene_losses import Contrast, read, without_padding
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, pad
from transformers import BlipForImageTextRetrieval, BlipForQuestionAnswering, BlipProcessor

PICTURES_PER_STEP = 64
WRONG_WORDS = 3
STEPS = 3000
PEAK_LEARNING_RATE = 5e-4


def begin_retrieval(model: BlipForQuestionAnswering) -> BlipForImageTextRetrieval:
    """Give a model with the vision model and the text encoder of `model`; its heads are new."""
    retrieval = BlipForImageTextRetrieval(model.config)
    retrieval.vision_model.load_state_dict(model.vision_model.state_dict())
    retrieval.text_encoder.load_state_dict(model.text_encoder.state_dict())
    return retrieval


def after_cls(captions: Tensor, tokenizer) -> Tensor:
    """Captions `[..., L]` as the text encoder reads them, after "[CLS]"; the decoder says them after "[DEC]"."""
    return captions.masked_fill(captions == tokenizer.bos_token_id, tokenizer.cls_token_id)


def candidate_texts(data: Examples, rows: Tensor, count: int, tokenizer, generator: Generator) -> Tensor:
    """The caption of each picture of `rows` and `count` that are wrong by one word: `[B, 1 + count, L]`."""
    right, wrong = after_cls(data.captions[rows], tokenizer), data.wrong[rows]
    chosen = torch.rand(wrong.shape[:2], generator=generator).topk(count, dim=1).indices
    wrong = wrong.take_along_dim(chosen[..., None], 1)
    width = max(right.shape[1], wrong.shape[2])
    right, wrong = (pad(ids, (0, width - ids.shape[-1])) for ids in (right[:, None], wrong))
    return without_padding(torch.cat([right, wrong], 1))


def hard_captions(similarities: Tensor, captions: Tensor, generator: Generator) -> Tensor:
    """For each picture the caption of another, drawn by its similarity `[B, B]`: `[B, L]`, never an equal one."""
    is_equal = (captions[:, None] == captions[None]).all(-1).cpu()
    weights = similarities.detach().float().cpu().softmax(1).masked_fill(is_equal, 0) + 1e-6 * ~is_equal
    return captions[torch.multinomial(weights, 1, generator=generator)[:, 0].to(captions.device)]


def matching_logits(model, image_embeds: Tensor, texts: Tensor) -> Tensor:
    """Whether each of `[B, Q, L]` texts fits its picture: `[B, Q, 2]`, the last index 1 for a fit."""
    hidden = read(model.text_encoder, image_embeds, texts)
    return model.itm_head(hidden[:, 0]).view(*texts.shape[:2], 2)


def matching_loss(logits: Tensor) -> Tensor:
    """Cross-entropy where the first text of each picture fits and the others do not, both weighing the same."""
    logits = logits.float()
    right, wrong = logits[:, 0], logits[:, 1:].flatten(0, 1)
    fits, does_not = (torch.full((len(each),), label, device=each.device) for label, each in ((1, right), (0, wrong)))
    return (cross_entropy(right, fits) + cross_entropy(wrong, does_not)) / 2


def train_retrieval(
    model: BlipForImageTextRetrieval,
    data: Examples,
    image_embeds: Tensor,
    processor: BlipProcessor,
    file: Path,
    seed: int,
) -> None:
    """Train the text encoder and the heads on contrast and matching (BLIP, section 3.2), the vision model as it is.

    What does not fit a picture is its own caption with one word exchanged, and the caption of a picture like it.
    """
    model.vision_model.requires_grad_(False)
    contrast = Contrast(model.vision_proj, model.text_proj)
    module = nn.ModuleDict({"model": model, "contrast": contrast}).to(DEVICE)

    def losses_of(generator: Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(image_embeds), (PICTURES_PER_STEP,), generator=generator)
        embeds = image_embeds[rows].to(DEVICE)
        texts = candidate_texts(data, rows, WRONG_WORDS, processor.tokenizer, generator).to(DEVICE)
        contrast_loss, similarities = contrast(model.text_encoder, embeds, texts[:, 0], texts[:, 1])
        hard = hard_captions(similarities, texts[:, 0], generator)
        logits = matching_logits(model, embeds, torch.cat([texts, hard[:, None]], 1))
        return {"contrast": contrast_loss, "matching": matching_loss(logits)}

    fit(module, losses_of, STEPS, PEAK_LEARNING_RATE, file, seed)
