"""BLIP in PyTorch, as `transformers` has it: loading a checkpoint, telling it from others, and captioning with it.

What is converted comes from here, and what OpenVINO says is compared with it.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoConfig, BlipProcessor, PreTrainedModel

from blip_openvino.ir.files import ARCHITECTURES

IMAGES_AT_ONCE = 32


def load_checkpoint(model_id: str | Path) -> PreTrainedModel:
    """A BLIP checkpoint in PyTorch, float32 and ready for inference.

    Args:
        model_id: name on the Hugging Face Hub or a local folder.

    Raises:
        ValueError: the checkpoint is not a BLIP model that can be converted, or needs code of its own to be read.
        OSError: it is not found, damaged, or has no safetensors weights: pickled ones can run code.
    """
    config = AutoConfig.from_pretrained(model_id, trust_remote_code=False)  # unset, it asks on standard input
    names = config.architectures or [f"a {config.model_type!r} model of unnamed architecture"]
    if names[0] not in ARCHITECTURES:
        raise ValueError(f"{model_id} is {names[0]}; only these are converted: {', '.join(ARCHITECTURES)}")
    try:
        model_class = getattr(transformers, names[0])
        return model_class.from_pretrained(model_id, use_safetensors=True, dtype=torch.float32).eval()
    except (SafetensorError, UnpicklingError) as error:
        raise OSError(
            f"the weights of {model_id} are damaged or no safetensors: get model.safetensors again ({error})"
        ) from error


def set_image_size(model: PreTrainedModel, processor: BlipProcessor, size: int) -> None:
    """Have a model and its processor take images of `size` x `size` pixels, in place.

    Its positions are interpolated, as transformers does at every call with `interpolate_pos_encoding=True`.

    Raises:
        ValueError: `size` is no multiple of a patch.
    """
    embeddings = model.vision_model.embeddings
    patch = embeddings.patch_size
    if size < patch or size % patch:
        raise ValueError(
            f"image size {size} is no multiple of the {patch} pixels of a patch: take {size // patch * patch or patch}"
        )
    tokens = torch.empty(1, (size // patch) ** 2 + 1, embeddings.embed_dim)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(tokens, size, size)
    embeddings.position_embedding = torch.nn.Parameter(positions.clone())
    model.config.vision_config.image_size = model.vision_model.config.image_size = size
    processor.image_processor.size = {"height": size, "width": size}


def checkpoint_digest(model: PreTrainedModel) -> str:
    """What tells one checkpoint from another: a BLAKE2 digest of the configuration and of every weight."""
    digest = hashlib.blake2b(digest_size=16)
    config = {key: value for key, value in model.config.to_diff_dict().items() if key != "transformers_version"}
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy())
    return digest.hexdigest()


@torch.inference_mode()
def write(model: PreTrainedModel, encoder_hidden_states: Tensor, **generate_kwargs) -> Tensor:
    """What the text decoder writes when it looks at tokens [B, N, hidden], all visible; token ids [B, T] int64."""
    config = model.config.text_config
    return model.text_decoder.generate(
        input_ids=torch.full((len(encoder_hidden_states), 1), config.bos_token_id),
        eos_token_id=config.sep_token_id,
        pad_token_id=config.pad_token_id,
        encoder_hidden_states=encoder_hidden_states,
        encoder_attention_mask=torch.ones(encoder_hidden_states.shape[:2], dtype=torch.int64),
        **generate_kwargs,
    )


@torch.inference_mode()
def generate_caption(model: PreTrainedModel, pixel_values: Tensor, **generate_kwargs) -> Tensor:
    """Caption images [B, 3, H, W] with the text decoder of any checkpoint that has one; token ids [B, T] int64.

    `BlipForQuestionAnswering` can only answer by itself, but its decoder captions when it looks at the image's tokens.
    """
    return write(model, model.vision_model(pixel_values).last_hidden_state, **generate_kwargs)


@dataclass(frozen=True)
class TorchImages:
    """Images that `TorchBlip` has encoded: tokens [B, T, hidden], and features [B, projection] of length 1."""

    hidden_states: np.ndarray
    features: np.ndarray

    def __getitem__(self, rows: slice | np.ndarray) -> "TorchImages":
        return TorchImages(self.hidden_states[rows], self.features[rows])


class TorchBlip:
    """A checkpoint in PyTorch behind the methods of `OVBlipModel`, to measure and compare with.

    transformers applies no mask to padding in cross-attention; here a row is read without its padding, so that an
    answer does not depend on what else is in its batch.
    """

    def __init__(self, model: PreTrainedModel):
        self.model = model

    @torch.inference_mode()
    def generate_answer(
        self, pixel_values: np.ndarray, input_ids: np.ndarray, attention_mask: np.ndarray, **generate_kwargs
    ) -> list[list[int]]:
        """Token ids of the answers, for images [1 or B, 3, H, W] and questions [B, T]."""
        embeds = self.model.vision_model(torch.from_numpy(pixel_values)).last_hidden_state
        embeds = embeds.expand(len(input_ids), -1, -1)
        lengths, rows = attention_mask.sum(axis=1), {}
        for length in set(lengths.tolist()):
            chosen = (lengths == length).nonzero()[0]
            ids, tokens = torch.from_numpy(input_ids[chosen, :length]), embeds[chosen]
            read = self.model.text_encoder(ids, encoder_hidden_states=tokens).last_hidden_state
            written = write(self.model, read, **generate_kwargs).tolist()
            rows |= dict(zip(chosen.tolist(), written, strict=True))
        return [rows[index] for index in range(len(input_ids))]

    def generate_caption(self, pixel_values: np.ndarray, **generate_kwargs) -> list[list[int]]:
        """Token ids of the captions of images [B, 3, H, W]."""
        return generate_caption(self.model, torch.from_numpy(pixel_values), **generate_kwargs).tolist()

    @torch.inference_mode()
    def encode_images(self, pixel_values: np.ndarray) -> TorchImages:
        """Encode images [B, 3, H, W], for a checkpoint that matches."""
        parts = torch.from_numpy(pixel_values).split(IMAGES_AT_ONCE)
        hidden = torch.cat([self.model.vision_model(each).last_hidden_state for each in parts])
        return TorchImages(hidden.numpy(), normalize(self.model.vision_proj(hidden[:, 0]), dim=-1).numpy())

    @torch.inference_mode()
    def text_features(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Features [B, projection] of length 1 of texts [B, T]."""
        hidden = self.model.text_encoder(torch.from_numpy(input_ids), torch.from_numpy(attention_mask))
        return normalize(self.model.text_proj(hidden.last_hidden_state[:, 0]), dim=-1).numpy()

    @torch.inference_mode()
    def match(self, images: TorchImages, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """How likely texts [B, T] describe 1 or B images: [B]."""
        tokens = torch.from_numpy(images.hidden_states)
        hidden = self.model.text_encoder(
            torch.from_numpy(input_ids),
            torch.from_numpy(attention_mask),
            encoder_hidden_states=tokens.expand(len(input_ids), -1, -1),
        )
        return self.model.itm_head(hidden.last_hidden_state[:, 0]).softmax(-1)[:, 1].numpy()
