"""Images and texts as the model takes them, and its tokens as text, without PyTorch or transformers.

processor = OVBlipProcessor.from_pretrained("build/blip-vqa-base")
inputs = processor("photo.jpg", "how many dogs are there?")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from blip_openvino.ir.files import load_config
from blip_openvino.runtime.images import ImageSource, load_image

if TYPE_CHECKING:
    from transformers import BlipImageProcessorPil

    from blip_openvino.runtime.arrays import Array

BANDS = 4
"""An image is resized in this many bands, each by its own thread: the same number everywhere, for the same pixels."""


class OVBlipProcessor:
    """The processor of a converted folder: what `BlipProcessor` of transformers gives, in NumPy arrays.

    Args:
        tokenizer: adds [CLS] and [SEP] to a text.
        image_settings: size, mean and so on, with the names of transformers' image processor.
        pad_token: of the tokenizer's vocabulary, fills up the shorter texts.
    """

    def __init__(self, tokenizer: Tokenizer, image_settings: SimpleNamespace, pad_token: str):
        self.tokenizer, self.image_settings = tokenizer, image_settings
        tokenizer.no_truncation()
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad_token), pad_token=pad_token)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> OVBlipProcessor:
        """Load the processor of a folder that `blip_convert` made.

        Raises:
            FileNotFoundError: the folder is missing or no converted model.
            ValueError: a file of it is missing or damaged, or its settings are not those of a BLIP checkpoint.
        """
        folder = Path(folder)
        load_config(folder)  # checks all files
        settings, words = (
            json.loads((folder / name).read_text(encoding="utf-8"))
            for name in ("processor_config.json", "tokenizer_config.json")
        )
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        image_settings = SimpleNamespace(**settings["image_processor"])
        check_settings(image_settings)
        return cls(tokenizer, image_settings, words["pad_token"])

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """The model's inputs for images, texts or both.

        Args:
            images: one or several, each of any kind that `blip_images.load_image` takes.
            text: one or several; shorter ones are padded at the end.

        Returns:
            `pixel_values` [images, 3, H, W] float32 and `input_ids`, `attention_mask` [texts, tokens] int64: of what
            was given.

        Raises:
            ValueError: an image or a text cannot be read, or there is none.
        """
        inputs = {}
        if images is not None:
            sources = images if isinstance(images, list | tuple) else [images]
            if not sources:
                raise ValueError(f"images is {images!r}; it takes an image or several")
            pixels = [preprocess_image(self.image_settings, load_image(source)) for source in sources]
            inputs["pixel_values"] = np.concatenate(pixels)
        if text is not None:
            texts = text if isinstance(text, list | tuple) else [text]
            if not texts or not all(isinstance(each, str) for each in texts):
                raise ValueError(f"text is {text!r:.80}; it takes a string or several")
            encoded = self.tokenizer.encode_batch(list(texts))
            inputs["input_ids"] = np.array([each.ids for each in encoded], np.int64)
            inputs["attention_mask"] = np.array([each.attention_mask for each in encoded], np.int64)
        if not inputs:
            raise ValueError("there is neither an image nor a text: give one of them")
        return inputs

    def decode(self, ids: Array | Sequence[int]) -> str:
        """The text of token ids [T], without its special tokens."""
        return self.tokenizer.decode(np.asarray(ids).tolist(), skip_special_tokens=True)


def preprocess_image(image_settings: SimpleNamespace | BlipImageProcessorPil, image: Image.Image) -> np.ndarray:
    """What transformers' image processor makes of an image, [1, 3, H, W] float32, to within one of 256 levels.

    It is resized in bands at the same time, in which some pixels are rounded otherwise than in a whole image.

    Args:
        image_settings: size, mean and so on, with the names of transformers' image processor, or that itself.

    Raises:
        ValueError: the image is not RGB, or the settings are not those of a BLIP checkpoint.
    """
    if image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}, not RGB: convert it with blip_images.load_image")
    check_settings(image_settings)
    height, width = image_settings.size["height"], image_settings.size["width"]
    pixel_values = np.empty((1, 3, height, width), np.float32)
    edges = [height * band // BANDS for band in range(BANDS + 1)]

    def fill(top: int, bottom: int) -> None:
        box = (0, top * image.height / height, image.width, bottom * image.height / height)
        resized = np.asarray(image.resize((width, bottom - top), Image.Resampling.BICUBIC, box))
        for channel, (mean, std) in enumerate(zip(image_settings.image_mean, image_settings.image_std, strict=True)):
            band = pixel_values[0, channel, top:bottom]
            np.multiply(resized[:, :, channel], np.float32(image_settings.rescale_factor / std), out=band)
            band -= np.float32(mean / std)

    image.load()  # not by two threads at once
    with ThreadPoolExecutor(BANDS) as pool:
        list(pool.map(fill, edges[:-1], edges[1:]))
    return pixel_values


def check_settings(image_settings: SimpleNamespace | BlipImageProcessorPil) -> None:
    """Raise ValueError unless they are to resize with bicubic filtering, to rescale and to normalize."""
    wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": Image.Resampling.BICUBIC}
    for name, value in wanted.items():
        found = getattr(image_settings, name, None)
        if found != value:
            raise ValueError(
                f"the image processor has {name}={found}; only {name}={value} is done here: call BlipProcessor instead"
            )
