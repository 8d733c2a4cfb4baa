"""An image as the model takes it, in a fifth of the time that the processor needs for it."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import BlipImageProcessor
from transformers.image_utils import PILImageResampling


def preprocess_image(image_processor: BlipImageProcessor, image: Image.Image) -> Tensor:
    """What `image_processor(image)` gives, `pixel_values` [1, 3, H, W] float32, to within one of 256 levels.

    An image that shrinks is resized by PyTorch, whose bicubic kernels round otherwise in one of 300 pixels and take a
    quarter of Pillow's time; one that grows, by Pillow, from which PyTorch's could differ by two levels.

    Raises:
        ValueError: the image is not RGB, or the processor's settings are not those of a BLIP checkpoint.
    """
    if image.mode != "RGB":
        raise ValueError(f"the image's mode is {image.mode}, not RGB: convert it with blip_inputs.load_image")
    check_settings(image_processor)
    height, width = image_processor.size["height"], image_processor.size["width"]
    if image.width >= width and image.height >= height:
        channels_first = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        resized = interpolate(channels_first, (height, width), mode="bicubic", antialias=True)[0].numpy()
    else:
        resized = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    pixel_values = np.empty((1, 3, height, width), np.float32)
    for channel, (mean, std) in enumerate(zip(image_processor.image_mean, image_processor.image_std, strict=True)):
        scale, shift = np.float32(image_processor.rescale_factor / std), np.float32(mean / std)
        np.subtract(resized[channel] * scale, shift, out=pixel_values[0, channel])
    return torch.from_numpy(pixel_values)


def check_settings(image_processor: BlipImageProcessor) -> None:
    """Raise ValueError unless the processor resizes with bicubic filtering, rescales and normalizes."""
    wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": PILImageResampling.BICUBIC}
    for name, value in wanted.items():
        found = getattr(image_processor, name)
        if found != value:
            raise ValueError(
                f"the image processor has {name}={found}; only {name}={value} is done here: call it instead"
            )
