"""Images that people hand over: what each is taken for, or why it is refused.

`FILES` are paths and bytes, which every way in takes; `OBJECTS` are PIL images, arrays and what is no image at all.
A row's `given` is a function of a scratch folder; its `expected` is a function that gives the equivalent RGB image.
"""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image
from strange import Refused, Row

from blip_openvino.ir.easy_vqa import load_questions


def picture() -> Image.Image:
    """An easy-VQA picture, whose shape and colours a model can tell only if nothing went wrong on the way."""
    with Image.open(load_questions("test")[0].image_path) as image:
        return image.convert("RGB")


def grey() -> Image.Image:
    return picture().convert("L").convert("RGB")


def on_white() -> Image.Image:
    """The picture with its upper half gone."""
    image = picture()
    image.paste("white", (0, 0, image.width, image.height // 2))
    return image


def in_two_colors() -> Image.Image:
    return picture().convert("1").convert("RGB")


def see_through(mode: str = "RGBA") -> Image.Image:
    """The picture with a transparent upper half, over colours that must not show."""
    image = picture().convert("RGBA")
    image.paste((9, 200, 9, 0), (0, 0, image.width, image.height // 2))
    return image.convert(mode)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def lying(orientation: int, file_format: str = "PNG") -> bytes:
    """The picture turned away from how the EXIF orientation in its file says it was taken."""
    turned = {3: Image.Transpose.ROTATE_180, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture().transpose(turned), file_format, exif=exif)


def animated() -> bytes:
    frames = [picture().transpose(Image.Transpose.ROTATE_180), Image.new("RGB", (64, 64), "black")]
    return encoded(quantized(), "GIF", save_all=True, append_images=frames, duration=40)


def quantized() -> Image.Image:
    return picture().quantize(16)


def one_color() -> Image.Image:
    image = Image.new("P", (64, 64), 1)
    image.putpalette([0, 0, 0, 9, 200, 9])
    return image


def sixteen_bits(dtype: str = "<u2") -> np.ndarray:
    """The grey picture in 16 bits."""
    return (np.asarray(picture().convert("L")).astype(np.uint16) * 257).astype(dtype)


def png_header(width: int, height: int) -> bytes:
    """The first bytes of a PNG that says to be this large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def on_disk(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def pixels() -> np.ndarray:
    return np.array(picture())


def with_value(value: float) -> np.ndarray:
    array = pixels() / 255
    array[3, 4, 1] = value
    return array


def closed_file() -> io.BytesIO:
    file = io.BytesIO(encoded(picture()))
    file.close()
    return file


FILES = [
    Row("PNG", lambda _: encoded(picture()), picture),
    Row("path of a PNG", lambda folder: on_disk(folder, "a.png", encoded(picture())), picture),
    Row("path as a string", lambda folder: str(on_disk(folder, "a.png", encoded(picture()))), picture),
    Row("path with no suffix", lambda folder: on_disk(folder, "photo", encoded(picture())), picture),
    Row("PNG named .jpg", lambda folder: on_disk(folder, "a.jpg", encoded(picture())), picture),
    Row("path of other alphabets", lambda folder: on_disk(folder, "фото 写真 🐕.png", encoded(picture())), picture),
    Row("BMP", lambda _: encoded(picture(), "BMP"), picture),
    Row("TIFF", lambda _: encoded(picture(), "TIFF"), picture),
    Row("PPM", lambda _: encoded(picture(), "PPM"), picture),
    Row("lossless WebP", lambda _: encoded(picture(), "WEBP", lossless=True), picture),
    Row("grey PNG", lambda _: encoded(picture().convert("L")), grey),
    Row("1-bit PNG", lambda _: encoded(picture().convert("1")), in_two_colors),
    Row("1-bit TIFF", lambda _: encoded(picture().convert("1"), "TIFF"), in_two_colors),
    Row("palette", lambda _: encoded(quantized()), lambda: quantized().convert("RGB")),
    Row("CMYK TIFF", lambda _: encoded(picture().convert("CMYK"), "TIFF"), picture),
    Row("16-bit PNG", lambda _: encoded(Image.fromarray(sixteen_bits())), grey),
    Row("16-bit TIFF", lambda _: encoded(Image.fromarray(sixteen_bits()), "TIFF"), grey),
    Row("16-bit PGM", lambda _: b"P5 64 64 65535\n" + sixteen_bits(">u2").tobytes(), grey),
    Row("transparent PNG", lambda _: encoded(see_through()), on_white),
    Row("transparent grey PNG", lambda _: encoded(see_through("LA")), lambda: on_white().convert("L").convert("RGB")),
    Row(
        "palette with a transparent color",
        lambda _: encoded(one_color(), transparency=1),
        lambda: Image.new("RGB", (64, 64), "white"),
    ),
    Row("animated GIF", lambda _: animated(), lambda: quantized().convert("RGB")),
    Row("EXIF: upside down", lambda _: lying(3), picture),
    Row("EXIF: mirrored and turned", lambda _: lying(5), picture),
    Row("EXIF: turned PNG", lambda _: lying(6), picture),
    Row("EXIF: turned TIFF", lambda _: lying(6, "TIFF"), picture),
    Row("one pixel", lambda _: encoded(Image.new("RGB", (1, 1), "teal")), lambda: Image.new("RGB", (1, 1), "teal")),
    Row("1 x 5000", lambda _: encoded(Image.new("L", (1, 5000))), lambda: Image.new("RGB", (1, 5000))),
    Row("5000 x 1", lambda _: encoded(Image.new("L", (5000, 1))), lambda: Image.new("RGB", (5000, 1))),
    Row(
        "40 megapixels", lambda _: encoded(Image.new("1", (8000, 5000), 1)), lambda: Image.new("RGB", (64, 40), "white")
    ),
    Row("90 megapixels", lambda _: png_header(30_000, 3_000), Refused("30000 x 3000 pixels, more than the 89478485")),
    Row("decompression bomb", lambda _: png_header(60_000, 60_000), Refused("too many pixels: .* make it smaller")),
    Row("no width", lambda _: png_header(0, 7), Refused("is not an image")),
    Row("truncated JPEG", lambda _: encoded(picture(), "JPEG")[:700], Refused("bytes is damaged .*truncated.*again")),
    Row("truncated PNG", lambda _: encoded(picture())[:200], Refused("bytes is damaged .*again")),
    Row("header of a JPEG", lambda _: b"\xff\xd8\xff\xe0", Refused("of 4 bytes (is not|cannot be read as) an image")),
    Row("zero bytes", lambda _: b"", Refused("the image of 0 bytes is not an image; readable are PNG, JPEG")),
    Row("empty file", lambda folder: on_disk(folder, "a.png", b""), Refused(r"a\.png' is not an image; readable are")),
    Row("text named .png", lambda folder: on_disk(folder, "a.png", b"hello\n"), Refused(r"a\.png' is not an image")),
    Row("HTML", lambda _: b"<html><img src=x></html>", Refused("of 24 bytes is not an image")),
    Row("SVG", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>", Refused("is not an image; readable are PNG")),
    Row("PostScript", lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Refused("is not an image")),
    Row("directory", lambda folder: folder, Refused("is a directory: name an image in it")),
    Row("missing path", lambda folder: folder / "none.png", Refused(r"none\.png", FileNotFoundError)),
    Row("path too long", lambda _: Path("x" * 5000), Refused("cannot be read as an image .*too long")),
    Row("path with NUL", lambda _: Path("a\0b.png"), Refused("cannot be read as an image .*null byte")),
]

OBJECTS = [
    Row("PIL RGB", lambda _: picture(), picture),
    Row("PIL L", lambda _: picture().convert("L"), grey),
    Row("PIL 1", lambda _: picture().convert("1"), in_two_colors),
    Row("PIL CMYK", lambda _: picture().convert("CMYK"), picture),
    Row("PIL RGBA", lambda _: see_through(), on_white),
    Row("PIL RGBa", lambda _: see_through("RGBa"), on_white),
    Row("PIL La", lambda _: see_through("LA").convert("La"), lambda: on_white().convert("L").convert("RGB")),
    Row("PIL I of 8 bits", lambda _: picture().convert("L").convert("I"), grey),
    Row(
        "PIL I out of range",
        lambda _: Image.fromarray(sixteen_bits().astype(np.int32)),
        Refused("run from 0 to 255, th"),
    ),
    Row("PIL I;16B", lambda _: Image.frombytes("I;16B", (64, 64), sixteen_bits(">u2").tobytes()), grey),
    Row("PIL F", lambda _: picture().convert("L").convert("F"), grey),
    Row(
        "PIL F in 0..1",
        lambda _: Image.fromarray(np.full((4, 4), 0.5, np.float32)),
        Refused("mode F runs from 0 to 255"),
    ),
    Row(
        "PIL F of NaN", lambda _: Image.fromarray(np.full((4, 4), np.nan, np.float32)), Refused("16 of 16 pixel values")
    ),
    Row("PIL of no pixels", lambda _: Image.new("RGB", (0, 5)), Refused("0 x 5 pixels")),
    Row(
        "PIL of a truncated file",
        lambda _: Image.open(io.BytesIO(encoded(picture(), "JPEG")[:700])),
        Refused("damaged"),
    ),
    Row("PIL with EXIF", lambda _: Image.open(io.BytesIO(lying(6))), picture),
    Row("open file", lambda _: io.BytesIO(encoded(picture())), picture),
    Row("file open as text", lambda _: io.StringIO("text"), Refused("the open file 'StringIO' cannot be read")),
    Row("closed file", lambda _: closed_file(), Refused("closed file")),
    Row("bytearray", lambda _: bytearray(encoded(picture())), picture),
    Row("uint8 array", lambda _: pixels(), picture),
    Row("one channel", lambda _: np.array(grey())[:, :, :1], grey),
    Row("no channel", lambda _: np.array(grey())[:, :, 0], grey),
    Row("four channels", lambda _: np.array(see_through()), on_white),
    Row("int64 array", lambda _: pixels().astype(np.int64), picture),
    Row("big-endian array", lambda _: pixels().astype(">i4"), picture),
    Row("uint16 array", lambda _: pixels().astype(np.uint16) * 257, picture),
    Row("float64 array", lambda _: pixels() / 255, picture),
    Row("float16 array", lambda _: (pixels() / 255).astype(np.float16), picture),
    Row("bool array", lambda _: np.array(in_two_colors())[:, :, 0] > 0, in_two_colors),
    Row("Fortran order", lambda _: np.asfortranarray(pixels()), picture),
    Row("negative strides", lambda _: pixels()[::-1, ::-1][::-1, ::-1].copy(order="F")[::-1][::-1], picture),
    Row("upside down view", lambda _: pixels()[::-1], lambda: picture().transpose(Image.Transpose.FLIP_TOP_BOTTOM)),
    Row("every other pixel", lambda _: pixels()[::2, ::2], lambda: Image.fromarray(pixels()[::2, ::2].copy())),
    Row("read-only array", lambda _: np.asarray(picture()), picture),
    Row("channels first", lambda _: pixels().transpose(2, 0, 1), Refused(r"\[3, 64, 64\], channels first: transpose")),
    Row("batch", lambda _: pixels()[None], Refused(r"the pixels are \[1, 64, 64, 3\]; one image is \[H, W\] or")),
    Row("two channels", lambda _: pixels()[:, :, :2], Refused(r"\[64, 64, 2\]; one image is")),
    Row("one dimension", lambda _: pixels().ravel(), Refused(r"\[12288\]; one image is")),
    Row("no dimension", lambda _: np.array(5), Refused(r"the pixels are \[\]; one image is")),
    Row("empty array", lambda _: np.zeros((0, 5, 3), np.uint8), Refused(r"\[0, 5, 3\].*not empty")),
    Row("NaN pixels", lambda _: with_value(np.nan), Refused("1 of 12288 pixel values are NaN or infinite")),
    Row("infinite pixels", lambda _: with_value(np.inf), Refused("1 of 12288 pixel values are NaN or infinite")),
    Row(
        "floats up to 255",
        lambda _: pixels().astype(np.float32),
        Refused("float32 run from 0 to 1, these from .*scale"),
    ),
    Row("negative floats", lambda _: with_value(-0.1), Refused("run from 0 to 1, these from -0.1")),
    Row("negative integers", lambda _: pixels().astype(np.int16) - 1, Refused("int16 run from 0 to 255, these from ")),
    Row("complex array", lambda _: pixels().astype(complex), Refused("the pixels are of complex128")),
    Row("array of objects", lambda _: pixels().astype(object), Refused("the pixels are of object")),
    Row("array of strings", lambda _: np.array([["a"]]), Refused("the pixels are of <U1")),
    Row("None", lambda _: None, Refused("an image is a path, bytes.* not NoneType")),
    Row("number", lambda _: 5, Refused("a NumPy array, not int")),
    Row("list of lists", lambda _: [[0, 1]], Refused("a NumPy array, not list")),
]
