"""Images and texts as the model takes them, and its tokens as text, without PyTorch or transformers.

processor = OVBlipProcessor.from_pretrained("build/blip-vqa-base")
inputs = processor("photo.jpg", "how many dogs are there?")
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from blip_openvino.ir.files import CHECKSUMS, load_config
from blip_openvino.runtime.images import ImageSource, load_image

if TYPE_CHECKING:
    from transformers import BlipImageProcessorPil

    from blip_openvino.runtime.arrays import Array

PAD_TOKEN = "[PAD]"
"""Of BERT's tokenizer, which every BLIP has."""


class OVBlipProcessor:
    """Does what `BlipProcessor` of transformers does, in NumPy arrays, and stands in for it.

    Args:
        tokenizer: adds [CLS] and [SEP] to a text.
        image_settings: size, mean and so on, with the names of transformers' image processor.

    Raises:
        ValueError: the settings are not those of a BLIP checkpoint.
    """

    def __init__(self, tokenizer: Tokenizer, image_settings: SimpleNamespace):
        wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": Image.Resampling.BICUBIC}
        for name, value in wanted.items():
            found = getattr(image_settings, name, None)
            if found != value:
                raise ValueError(f"the image processor has {name}={found}; OVBlipProcessor does {name}={value} only")
        self.tokenizer, self.image_settings = tokenizer, image_settings
        tokenizer.no_truncation()
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(PAD_TOKEN), pad_token=PAD_TOKEN)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> OVBlipProcessor:
        """Load the processor of a converted folder or of a checkpoint's folder.

        Raises:
            FileNotFoundError: the folder or a file of it is missing.
            ValueError: a file of a converted folder is not as it was saved, or the settings are not a BLIP's.
        """
        folder = Path(folder)
        if (folder / CHECKSUMS).exists():
            load_config(folder)  # checks all files
        names = ("processor_config.json", "preprocessor_config.json")  # the latter before transformers 5
        settings_file = next((folder / name for name in names if (folder / name).exists()), None)
        if settings_file is None or not (folder / "tokenizer.json").exists():
            raise FileNotFoundError(
                f"{folder} has no processor ({names[0]} and tokenizer.json): name a converted folder or a checkpoint's"
            )
        settings = json.loads(settings_file.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(tokenizer, SimpleNamespace(**settings.get("image_processor", settings)))

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        return_tensors: Literal["np", "pt"] = "np",
        padding: bool = True,
    ) -> dict[str, Array]:
        """The model's inputs for images, texts or both.

        Args:
            images: one or several, each of any kind that `load_image` takes.
            text: one or several.
            return_tensors: "np" for arrays, "pt" for tensors of PyTorch.
            padding: shorter texts are filled up at the end; without it all must be of one length.

        Returns:
            `pixel_values` [images, 3, H, W] float32 and `input_ids`, `attention_mask` [texts, tokens] int64: of what
            was given.

        Raises:
            OSError: an image's file is missing or may not be read.
            ValueError: an image or a text cannot be read, or there is none.
        """
        if return_tensors not in ("np", "pt"):
            raise ValueError(f"return_tensors is {return_tensors!r}; it takes 'np' or 'pt'")
        sources = images if isinstance(images, list | tuple) else [] if images is None else [images]
        texts = text if isinstance(text, list | tuple) else [] if text is None else [text]
        if not sources and not texts:
            raise ValueError("there is neither an image nor a text: give one of them")
        if not all(isinstance(each, str) for each in texts):
            raise ValueError(f"text is {text!r:.80}; it takes a string or several")
        inputs = {}
        if sources:
            pixels = [preprocess_image(self.image_settings, load_image(source)) for source in sources]
            inputs["pixel_values"] = np.concatenate(pixels)
        if texts:
            encoded = self.tokenizer.encode_batch(list(texts))
            inputs["input_ids"] = np.array([each.ids for each in encoded], np.int64)
            inputs["attention_mask"] = np.array([each.attention_mask for each in encoded], np.int64)
            if not padding and not inputs["attention_mask"].all():
                raise ValueError("the texts have different numbers of tokens: set padding=True")
        if return_tensors == "pt":
            import torch  # only here, for it takes seconds and need not be installed

            return {name: torch.from_numpy(array) for name, array in inputs.items()}
        return inputs

    def decode(self, ids: Array | Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids [T]."""
        return self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=skip_special_tokens)

    def batch_decode(self, ids: Array | Iterable[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """The texts of several rows of token ids, which may be of different lengths."""
        return [self.decode(row, skip_special_tokens) for row in ids]


def preprocess_image(image_settings: SimpleNamespace | BlipImageProcessorPil, image: Image.Image) -> np.ndarray:
    """What transformers' image processor makes of an RGB image with Pillow: [1, 3, H, W] float32.

    Args:
        image_settings: size, mean and so on, with the names of transformers' image processor, or that itself.
    """
    height, width = image_settings.size["height"], image_settings.size["width"]
    resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    pixel_values = np.empty((1, 3, height, width), np.float32)
    for channel, (mean, std) in enumerate(zip(image_settings.image_mean, image_settings.image_std, strict=True)):
        np.multiply(
            resized[:, :, channel], np.float32(image_settings.rescale_factor / std), out=pixel_values[0, channel]
        )
        pixel_values[0, channel] -= np.float32(mean / std)
    return pixel_values
