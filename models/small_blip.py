"""What both training scripts build: a small BLIP with a vocabulary of its own, its pixels, and its folder."""

import os
import re
import tempfile
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

MAX_QUESTION_TOKENS = 512


def build_processor(texts: Iterable[str], image_size: int) -> BlipProcessor:
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
    return BlipProcessor(BlipImageProcessorPil(size={"height": image_size, "width": image_size}), tokenizer)


def build_model(
    tokenizer: BertTokenizerFast, hidden_size: int, heads: int, initializer_range: float, vision: dict, **settings
) -> BlipForQuestionAnswering:
    """Give a randomly initialised BLIP for `tokenizer`'s vocabulary, with three text layers.

    Args:
        vision: `image_size`, `patch_size` and `num_hidden_layers` of the vision model.
        settings: further ones of `BlipConfig`, among them `trained_on`, by which its data is known.
    """
    token_ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    both = {"hidden_size": hidden_size, "num_attention_heads": heads, "initializer_range": initializer_range}
    text_config = both | {
        "vocab_size": len(tokenizer),
        "encoder_hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": 3,
        "max_position_embeddings": MAX_QUESTION_TOKENS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "sep_token_id": tokenizer.sep_token_id,
        **token_ids,
    }
    vision_config = both | {"intermediate_size": 4 * hidden_size} | vision
    config = BlipConfig(text_config=text_config, vision_config=vision_config, projection_dim=hidden_size, **settings)
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
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        for file in Path(unfinished).iterdir():
            os.replace(file, folder / file.name)
