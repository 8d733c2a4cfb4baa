"""What the PyTorch model gives for a few probes, kept in the converted folder: `evaluate.check` compares with it."""

import logging
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BlipProcessor, PreTrainedModel

from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scenes import VALIDATION_SEED, draw_scene, make_scene
from blip_openvino.ir.checkpoint import write
from blip_openvino.ir.files import REFERENCE, staging

logger = logging.getLogger(__name__)

SCENES = (0, 1, 2, 4, 5, 8)
"""Scenes that any BLIP can tell apart, counted from those that a recipe is chosen by."""
QUESTIONS = ("where was this picture taken?", "what does the sign say?", "what is at the bottom right?")
NEW_TOKENS, LOGIT_STEPS, LOGITS, IMAGE_TOKENS = 12, 4, 512, 8
"""How much of what the model gives is kept: tokens of a text, steps and words whose logits, tokens of an image."""
APART = 0.04
"""How far apart the results for any two images have to be, of their range: ten times FP16's tolerance in the check."""
LEAST_TOKENS = 20


def pad_with_words(texts: list[Tensor]) -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` [Q, T] int64 of texts [1, t]: each is padded with the words of the others,
    more than it has itself, so that a mask that is lost is worse than another text.
    """
    width = 3 * max(ids.shape[1] for ids in texts)
    ids = [np.resize(torch.cat([*texts[index:], *texts[:index]], dim=1)[0], width) for index in range(len(texts))]
    mask = np.arange(width) < np.array([[text.shape[1]] for text in texts])
    return {"input_ids": np.stack(ids), "attention_mask": mask.astype(np.int64)}


@torch.inference_mode()
def make_reference(model: PreTrainedModel, processor: BlipProcessor) -> dict[str, np.ndarray]:
    """Run `model` over the probes: P drawn scenes, each with every one of Q questions, or of the scenes' captions.

    Returns:
        `images` [P, size, size, 3] uint8, the texts' padded `input_ids` and `attention_mask` [Q, T] int64, `vision`
        [P, tokens, hidden] float32: some of the images' tokens. For checkpoints that answer `answers` [P·Q, tokens],
        and for those that caption `captions` [P, tokens]: the greedy text, int64, filled up with -1; with each
        `*_logits` [rows, steps, words] float32 of the first steps and of words spread over the vocabulary `words`, and
        `*_margins` [rows, tokens] float32, how much likelier the chosen token was than the next. For retrieval
        checkpoints `matches` [P·Q, 2] float32, the matching head's logits, and `similarities` [P, Q] float32, the
        cosines of image-text contrast. And `silent`, see `why_silent`.
    """
    size, is_matcher = model.config.vision_config.image_size, hasattr(model, "itm_head")
    scenes = [make_scene(VALIDATION_SEED + index) for index in SCENES]
    images = np.stack([np.asarray(draw_scene(scene, size)) for scene in scenes])
    texts = [caption(scene) for scene in scenes] if is_matcher else QUESTIONS
    pixel_values = processor(images=list(images), return_tensors="pt")["pixel_values"]
    rows = [processor(text=text, return_tensors="pt")["input_ids"] for text in texts]
    found = {"images": images} | pad_with_words(rows)
    embeds = model.vision_model(pixel_values).last_hidden_state
    kept = np.linspace(0, embeds.shape[1] - 1, IMAGE_TOKENS, dtype=int)
    found["vision"] = embeds[:, kept].numpy()
    if hasattr(model, "text_decoder"):
        vocabulary = model.config.text_config.vocab_size
        found["words"] = np.unique(np.linspace(0, vocabulary - 1, LOGITS, dtype=int))
        captions = write(model, embeds, max_new_tokens=NEW_TOKENS)
        found |= _text_reference(model, "captions", captions, embeds, found["words"])
    # transformers applies no mask to padding in cross-attention: every text by itself needs none.
    rows = [ids.expand(len(images), -1) for ids in rows]
    if is_matcher:
        matches = [model(ids, pixel_values).itm_score for ids in rows]
        found["matches"] = torch.stack(matches, dim=1).flatten(0, 1).numpy()
        similarities = [model(ids, pixel_values, use_itm_head=False).itm_score[:, :1] for ids in rows]
        found["similarities"] = torch.cat(similarities, dim=1).numpy()
    elif hasattr(model, "text_encoder"):
        answers = []
        for ids in rows:
            ones = torch.ones(embeds.shape[:2], dtype=torch.int64)
            read = model.text_encoder(ids, encoder_hidden_states=embeds, encoder_attention_mask=ones).last_hidden_state
            tokens = write(model, read, max_new_tokens=NEW_TOKENS)
            answers.append(_text_reference(model, "answers", tokens, read, found["words"]))
        for name in answers[0]:  # question after question -> image after image
            each = np.stack([answer[name] for answer in answers], axis=1)
            found[name] = each.reshape(-1, *each.shape[2:])
    return found | {"silent": np.array(why_silent(found))}


def why_silent(reference: Mapping[str, np.ndarray]) -> str:
    """Why a reference cannot tell right from wrong: its images are too much alike, or few tokens were written.

    Empty where it can.
    """
    for name in ("vision", "captions_logits", "answers_logits", "matches"):
        if name in reference:
            per_image = reference[name].reshape(len(reference["images"]), -1)
            spread = np.nanmax(per_image) - np.nanmin(per_image)
            apart = min(np.sqrt(np.nanmean((one - other) ** 2)) / spread for one, other in combinations(per_image, 2))
            if not apart >= APART:
                return f"PyTorch's {name} for two of the probes are only {apart:.4f} of their range apart"
    tokens = sum(int((reference[name] >= 0).sum()) for name in ("captions", "answers") if name in reference)
    if "matches" not in reference and tokens < LEAST_TOKENS:
        return f"PyTorch wrote only {tokens} tokens about the probes"
    return ""


def _text_reference(
    model: PreTrainedModel, name: str, tokens: Tensor, encoder_hidden_states: Tensor, words: np.ndarray
) -> dict[str, np.ndarray]:
    """What the decoder gave when it wrote `tokens` [rows, T], by names that begin with `name`."""
    config = model.config.text_config
    logits = model.text_decoder(tokens[:, :-1], encoder_hidden_states=encoder_hidden_states).logits
    best = logits.topk(2).values
    kept = np.full((len(tokens), NEW_TOKENS + 1), -1)
    margins = np.zeros((len(tokens), NEW_TOKENS + 1), np.float32)
    first = np.full((len(tokens), LOGIT_STEPS, len(words)), np.nan, np.float32)
    for row, ids in enumerate(tokens.tolist()):
        length = ids.index(config.sep_token_id) + 1 if config.sep_token_id in ids else len(ids)
        kept[row, :length] = ids[:length]
        margins[row, 1:length] = (best[row, : length - 1, 0] - best[row, : length - 1, 1]).numpy()
        steps = min(LOGIT_STEPS, length - 1)
        first[row, :steps] = logits[row, :steps][:, words].numpy()
    return {name: kept, f"{name}_logits": first, f"{name}_margins": margins}


def ensure_reference(model: PreTrainedModel, processor: BlipProcessor, folder: Path, stamp: dict[str, str]) -> None:
    """See to it that `folder` has the reference of the checkpoint that `stamp` describes: reuse it or make it."""
    mark = " ".join(stamp.values())
    try:
        with np.load(folder / REFERENCE, allow_pickle=False) as there:
            is_stale, silent = str(there["stamp"]) != mark, str(there["silent"])
    except (OSError, ValueError, KeyError):
        is_stale = True
    if is_stale:
        logger.info("%s: making it with PyTorch", REFERENCE)
        reference = make_reference(model, processor)
        silent = str(reference["silent"])
        with staging(folder) as unfinished:
            np.savez_compressed(unfinished / REFERENCE, stamp=mark, **reference)
            (unfinished / REFERENCE).replace(folder / REFERENCE)
    if silent:
        logger.warning("%s: blip-ov check can say nothing about this checkpoint, since %s", folder, silent)
