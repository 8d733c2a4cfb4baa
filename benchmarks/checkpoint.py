"""A BLIP of base size with random weights: speed depends on no value, as long as a converter can leave none out."""

import torch
from transformers import (
    BertTokenizerFast,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    BlipProcessor,
    PreTrainedModel,
)

WORDS = "how many dogs are in the picture ? what color is shape"


def blip_base_config() -> BlipConfig:
    """384 pixels in patches of 16 (577 image tokens), 12 + 12 + 12 layers, hidden size 768, vocabulary 30,524."""
    return BlipConfig(
        vision_config={"image_size": 384, "initializer_range": 0.02},
        text_config={
            "vocab_size": 30524,
            "encoder_hidden_size": 768,
            "num_attention_heads": 12,
            "bos_token_id": 30522,
            "sep_token_id": 102,
        },
    )


def blip_base() -> BlipForQuestionAnswering:
    """BLIP base with random weights: 361 M parameters."""
    torch.manual_seed(0)
    return draw_vectors(BlipForQuestionAnswering(blip_base_config()).eval())


def draw_vectors(model: PreTrainedModel) -> PreTrainedModel:
    """Draw the biases of a new model and the scales of its normalizations, in place.

    transformers begins with zeros and ones, and a converter to OpenVINO or ONNX leaves those out of the graph, as it
    cannot do with a trained checkpoint's.
    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.02 * torch.randn_like(parameter)
    return model


def blip_processor(config: BlipConfig | None = None) -> BlipProcessor:
    """A processor of the image and vocabulary sizes of `config` (BLIP base), whose tokenizer knows `WORDS` only."""
    config = config or blip_base_config()
    text, size = config.text_config, config.vision_config.image_size
    tokens = {text.pad_token_id: "[PAD]", text.sep_token_id: "[SEP]", text.bos_token_id: "[DEC]"}
    free = (index for index in range(text.vocab_size) if index not in tokens)
    tokens |= {next(free): name for name in ("[UNK]", "[CLS]", "[MASK]", "[ENC]", *WORDS.split())}
    tokenizer = BertTokenizerFast(
        vocab={tokens.get(index, f"[unused{index}]"): index for index in range(text.vocab_size)},
        bos_token="[DEC]",
        additional_special_tokens=["[ENC]"],
        model_max_length=text.max_position_embeddings,
    )
    return BlipProcessor(BlipImageProcessorPil(size={"height": size, "width": size}), tokenizer)
