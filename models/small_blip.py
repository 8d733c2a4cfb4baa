"""A small BLIP with a vocabulary of its own, its pixels, and its folder."""

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    GenerationConfig,
    PreTrainedModel,
)

from blip_openvino.data.scenes import IMAGE_SIZE
from blip_openvino.ir.files import staging

MAX_QUESTION_TOKENS = 512
HIDDEN_SIZE, PATCH_SIZE = 160, 12
# BLIP's own 0.02 (text) and 1e-10 (vision) suit 768 wide layers and trained weights.
INITIALIZER_RANGE = 0.06


def build_processor(texts: Iterable[str]) -> BlipProcessor:
    """Give BLIP's image processor and a BERT tokenizer whose vocabulary is the words of `texts`.

    As in BLIP, "[DEC]" and "[ENC]" are the last two entries; a word that is not in `texts` becomes "[UNK]".
    """
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]", text.lower())})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, "[DEC]", "[ENC]"]
    tokenizer = BertTokenizerFast(
        vocab={token: index for index, token in enumerate(tokens)},
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=MAX_QUESTION_TOKENS,
    )
    return BlipProcessor(BlipImageProcessorPil(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}), tokenizer)


def build_model(tokenizer: BertTokenizerFast) -> BlipForQuestionAnswering:
    """Give a randomly initialised BLIP of 3.8 M parameters for `tokenizer`'s vocabulary."""
    token_ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    both = {"hidden_size": HIDDEN_SIZE, "num_attention_heads": 5, "initializer_range": INITIALIZER_RANGE}
    text_config = both | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": HIDDEN_SIZE,
        "intermediate_size": 2 * HIDDEN_SIZE,
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_QUESTION_TOKENS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "sep_token_id": tokenizer.sep_token_id,
        **token_ids,
    }
    vision_config = both | {
        "intermediate_size": 4 * HIDDEN_SIZE,
        "image_size": IMAGE_SIZE,
        "patch_size": PATCH_SIZE,
        "num_hidden_layers": 5,
    }
    config = BlipConfig(
        text_config=text_config,
        vision_config=vision_config,
        projection_dim=HIDDEN_SIZE,
        image_text_hidden_size=HIDDEN_SIZE,
        trained_on="scenes",  # by which its data is known
    )
    model = BlipForQuestionAnswering(config)
    model.generation_config = GenerationConfig(**token_ids)
    return model


def normalize(images: Tensor, image_processor: BlipImageProcessorPil) -> Tensor:
    """Turn `[N, 3, H, W]` uint8 into the `pixel_values` (float32) that `image_processor` gives for these images."""
    mean = torch.tensor(image_processor.image_mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(image_processor.image_std, device=images.device).view(3, 1, 1)
    return (images / 255 - mean) / std


def save_checkpoint(model: PreTrainedModel, processor: BlipProcessor, folder: Path) -> None:
    """Write model and processor to `folder`, file by file from a finished copy: a killed run leaves no torn file."""
    with staging(folder) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)
        for file in staged.iterdir():
            file.replace(folder / file.name)
