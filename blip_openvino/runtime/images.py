"""Any image a user has, as the RGB image a processor takes."""

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO")
"""What is opened. Pillow knows more, some of which run other programs (EPS) or are rarely tested."""

ImageSource = str | Path | bytes | BinaryIO | Image.Image | np.ndarray


def load_image(source: ImageSource) -> Image.Image:
    """Any image as RGB, upright by its EXIF orientation, with transparency laid over white.

    Args:
        source: a path, a file's content, a file open for reading bytes, a PIL image, or an array of pixels:
            [H, W] or [H, W, 1, 3 or 4], of bool, integers in 0..255, uint16 in 0..65535, or floats in 0..1.
            Of an animation the first frame is taken. 16 bits are scaled to 8.

    Returns:
        An image of its own, independent of `source`.

    Raises:
        OSError: the file is missing or may not be read.
        ValueError: it is no image, a damaged one, one of more pixels than Pillow opens (twice
            `PIL.Image.MAX_IMAGE_PIXELS`), or an array of another shape or range.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source)
    if isinstance(source, bytes | bytearray | memoryview):
        name, source = f"the image of {len(source)} bytes", io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        name = str(source)
    elif hasattr(source, "read"):
        name = str(getattr(source, "name", "the open file"))
    else:
        raise ValueError(f"an image is a path, bytes, an open file, a PIL image or an array, not {source!r:.80}")
    try:
        with Image.open(source, formats=IMAGE_FORMATS) as image:
            return _to_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image; readable are {', '.join(IMAGE_FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name} has too many pixels, make it smaller: {error}") from error
    except Exception as error:  # Pillow does not say what its readers raise on damaged data
        if isinstance(error, OSError) and error.errno is not None:  # the file system's
            raise
        raise ValueError(f"{name} is damaged ({error}): save or download it again") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # grey of 16 bits, which Pillow would cut off at 255
        image = _from_array(np.asarray(image).clip(0, 65535).astype(np.uint16))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _from_array(pixels: np.ndarray) -> Image.Image:
    """Pixels of any layout that `load_image` takes as a PIL image of 8 bits."""
    is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in (1, 3, 4))
    if not is_image or not pixels.size or pixels.dtype.kind not in "buif":
        raise ValueError(
            f"the array is {list(pixels.shape)} of {pixels.dtype}; an image is [H, W] or [H, W, 1, 3 or 4], not empty, "
            "of bool, integers or floats"
        )
    limit = 1 if pixels.dtype.kind in "bf" else 65535 if pixels.dtype.type is np.uint16 else 255
    if not (pixels.min() >= 0 and pixels.max() <= limit):  # so that NaN fails too
        raise ValueError(
            f"pixels of {pixels.dtype} run from 0 to {limit}, these from {pixels.min()} to {pixels.max()}: scale them"
        )
    if pixels.shape[2:] == (1,):
        pixels = pixels[:, :, 0]
    levels = pixels if limit == 255 else np.rint(pixels * (255 / limit))
    return Image.fromarray(levels.astype(np.uint8))
