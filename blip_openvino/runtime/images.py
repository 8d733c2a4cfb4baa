"""Any image a user has, as the RGB image a processor takes."""

import io
import os
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "ICO")
"""What is opened. Pillow knows more, some of which run other programs (EPS) or are rarely tested."""

ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn an image upright, by the EXIF tag `ORIENTATION_TAG` (Exif 2.3, section 4.6.4)."""
ORIENTATION_TAG = 0x0112

ImageSource = str | Path | bytes | BinaryIO | Image.Image | np.ndarray


def load_image(source: ImageSource) -> Image.Image:
    """Any image as RGB, upright: what its EXIF orientation says is done, transparency is laid over white.

    Args:
        source: a path, a file's content, a file open for reading bytes, a PIL image, or an array of pixels:
            [H, W] or [H, W, 1, 3 or 4], of bool, integers in 0..255, uint16 in 0..65535, or floats in 0..1.
            Of an animation the first frame is taken. 16 bits are scaled to 8.

    Returns:
        An RGB image of its own, independent of `source`.

    Raises:
        FileNotFoundError, PermissionError: there is no such file, or it may not be read.
        ValueError: it is no image, a damaged one, one of more than `PIL.Image.MAX_IMAGE_PIXELS` pixels, or pixels
            outside their range.
    """
    if isinstance(source, np.ndarray):
        return _to_rgb(_from_array(source))
    if isinstance(source, Image.Image):
        return _decode(source, f"the image of mode {source.mode}")
    if isinstance(source, bytes | bytearray | memoryview):
        return _open(io.BytesIO(source), f"the image of {len(source)} bytes")
    if isinstance(source, str | os.PathLike):
        return _open(source, repr(str(source)))
    if hasattr(source, "read"):
        return _open(source, f"the open file {getattr(source, 'name', type(source).__name__)!r}")
    raise ValueError(
        f"an image is a path, bytes, an open file, a PIL image or a NumPy array, not {type(source).__name__}"
    )


def _open(file: str | os.PathLike | BinaryIO, name: str) -> Image.Image:
    try:
        image = Image.open(file, formats=IMAGE_FORMATS)
    except (FileNotFoundError, PermissionError):
        raise
    except IsADirectoryError as error:
        raise ValueError(f"{name} is a directory: name an image in it") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image; readable are {', '.join(IMAGE_FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name} has too many pixels: {error}; make it smaller") from error
    except Exception as error:  # Pillow does not say what its readers raise on damaged data
        raise ValueError(
            f"{name} cannot be read as an image ({error}); readable are {', '.join(IMAGE_FORMATS)}"
        ) from error
    with image:
        if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            raise ValueError(
                f"{name} has {image.width} x {image.height} pixels, more than the {Image.MAX_IMAGE_PIXELS} of "
                "PIL.Image.MAX_IMAGE_PIXELS; make it smaller"
            )
        return _decode(image, name)


def _decode(image: Image.Image, name: str) -> Image.Image:
    """A PIL image, which may still lie undecoded in its file, as upright RGB."""
    if not image.width or not image.height:
        raise ValueError(f"{name} has {image.width} x {image.height} pixels: there is nothing to see in it")
    try:
        image.load()
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception as error:  # as above
        raise ValueError(f"{name} is damaged ({error}): save or download it again") from error
    if image.mode == "F":
        image = _from_array(_from_mode_f(np.asarray(image)))
    elif image.mode == "I" and image.format == "PPM":
        image = _from_array(np.asarray(image).astype(np.uint16))  # Pillow keeps 16 bits in 32 there
    elif image.mode.startswith("I"):
        image = _from_array(np.asarray(image))
    rgb = _to_rgb(image)
    return rgb.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight.convert("RGBA"))
    rgb = image.convert("RGB")
    rgb.info = {}  # it would carry the EXIF orientation, which would be applied again by whoever opens this
    return rgb


def _from_mode_f(pixels: np.ndarray) -> np.ndarray:
    """Pixels of Pillow's mode F, 0..255 there, in 0..1."""
    _check_finite(pixels)
    if 0 < pixels.max() <= 1:
        raise ValueError(
            f"an image of mode F runs from 0 to 255, and this one to {pixels.max():.3g}: "
            "hand its pixels over as an array if they run from 0 to 1"
        )
    _check_range(pixels, 255)
    return pixels / np.float32(255)


def _from_array(pixels: np.ndarray) -> Image.Image:
    """Pixels of any layout that `load_image` takes as a PIL image of 8 bits."""
    shape = list(pixels.shape)
    if pixels.ndim == 3 and shape[0] in (1, 3, 4) and shape[2] not in (1, 3, 4):
        raise ValueError(f"the pixels are {shape}, channels first: transpose them to [H, W, channels]")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and shape[2] not in (1, 3, 4)) or not pixels.size:
        raise ValueError(f"the pixels are {shape}; one image is [H, W] or [H, W, 1, 3 or 4], not empty")
    if pixels.dtype.kind not in "buif":
        raise ValueError(f"the pixels are of {pixels.dtype}; they are bool, integers or floats")
    pixels = np.asarray(pixels)
    if pixels.ndim == 3 and shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Image.fromarray(_eight_bits(pixels))


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any numeric dtype as contiguous uint8 of the same shape."""
    if pixels.dtype.kind == "f":
        _check_finite(pixels)
        _check_range(pixels, 1)
        return np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    if pixels.dtype.kind == "b":
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.itemsize == 2 and pixels.dtype.kind == "u":
        return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    _check_range(pixels, 255)
    return np.ascontiguousarray(pixels, np.uint8)


def _check_finite(pixels: np.ndarray) -> None:
    wrong = pixels.size - np.count_nonzero(np.isfinite(pixels))
    if wrong:
        raise ValueError(f"{wrong} of {pixels.size} pixel values are NaN or infinite")


def _check_range(pixels: np.ndarray, limit: int) -> None:
    if pixels.min() < 0 or pixels.max() > limit:
        raise ValueError(
            f"pixels of {pixels.dtype} run from 0 to {limit}, these from {pixels.min()} to {pixels.max()}: scale them"
        )
