"""Strange questions as people type them, and strange tensors as programs hand them over."""

import numpy as np
import torch
from strange import Refused, Row

SAME = "the answer to the control question"
CAPTION = "a caption"
AS_PYTORCH = "what PyTorch answers to the same characters"

CONTROL_QUESTION = "what color is the shape?"

QUESTIONS = [
    Row("plain", CONTROL_QUESTION, SAME),
    Row("blank ends", f"  {CONTROL_QUESTION}\n", SAME),
    Row("capitals", CONTROL_QUESTION.upper(), SAME),
    Row("tabs and line feeds", CONTROL_QUESTION.replace(" ", "\t\r\n "), SAME),
    Row("no-break spaces", CONTROL_QUESTION.replace(" ", "\N{NO-BREAK SPACE}"), SAME),
    Row("NUL", f"\0{CONTROL_QUESTION[:5]}\0{CONTROL_QUESTION[5:]}\0", SAME),
    Row("control characters", f"\x07\x1b{CONTROL_QUESTION}\x7f\x85", SAME),
    Row("zero-width and direction marks", f"\u200f{CONTROL_QUESTION}\u200b\ufeff", SAME),
    Row("lone surrogate", f"{CONTROL_QUESTION}\ud800", SAME),
    Row("accents", "whät cólor is the shape?", SAME),
    Row("full-width letters", "".join(chr(ord(each) + 0xFEE0) for each in "what?"), AS_PYTORCH),
    Row("empty", "", CAPTION),
    Row("blank", " \t\n\N{NO-BREAK SPACE}", CAPTION),
    Row("NUL only", "\0", CAPTION),
    Row("invisible only", "\u200b\ufeff\x07", CAPTION),
    Row("question mark", "?", AS_PYTORCH),
    Row("emoji", "🔺👩\u200d🚀 what color is the shape? 🐕", AS_PYTORCH),
    Row("right to left", "ما هو لون الشكل؟", AS_PYTORCH),
    Row("Chinese", "形状是什么颜色\N{FULLWIDTH QUESTION MARK}", AS_PYTORCH),
    Row("Hindi", "आकृति का रंग क्या है?", AS_PYTORCH),
    Row("Greek", "τι χρώμα έχει το σχήμα;", AS_PYTORCH),
    Row("HTML", "<script>alert(1)</script><b>is there a circle?</b>", AS_PYTORCH),
    Row("SQL", "'; DROP TABLE shapes; --", AS_PYTORCH),
    Row("format and template", "{0} %s %n ${HOME} {{7*7}}", AS_PYTORCH),
    Row("special tokens", "[SEP] [PAD] [MASK] [DEC] [ENC] is there a circle?", AS_PYTORCH),
    Row("one long word", "a" * 5000, AS_PYTORCH),
    Row("as long as the model takes", "is " * 510, AS_PYTORCH),
    Row("one token too long", "is " * 511, Refused("513 tokens long; the model takes 512")),
    Row("10,000 words", "circle " * 10_000, Refused("10002 tokens long; the model takes 512")),
    Row("None", None, Refused("the question is a NoneType; it takes a string")),
    Row("bytes", b"is there a circle?", Refused("the question is a bytes; it takes a string")),
    Row("number", 7, Refused("the question is a int; it takes a string")),
    Row("list of strings", [CONTROL_QUESTION], Refused("the question is a list; it takes a string")),
]


def changed(**inputs):
    """The control's inputs with some made of them by functions, as `given` of a row."""

    def change(control: dict[str, torch.Tensor]) -> dict[str, object]:
        return control | {name: make(control[name]) for name, make in inputs.items()}

    return change


def pixels(make):
    return changed(pixel_values=make)


def ids(make):
    return changed(input_ids=make)


def mask(make):
    return changed(attention_mask=make)


def with_pixel(value: float):
    def change(pixel_values: torch.Tensor) -> torch.Tensor:
        pixel_values = pixel_values.clone()
        pixel_values[0, 1, 2, 3] = value
        return pixel_values

    return change


def with_first(value: int):
    return lambda tensor: torch.cat([torch.full_like(tensor[:, :1], value), tensor[:, 1:]], dim=1)


def padded_left(control: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(1, 2, dtype=torch.int64)
    return control | {name: torch.cat([zeros, control[name]], dim=1) for name in ("input_ids", "attention_mask")}


def padded_right(control: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(1, 504, dtype=torch.int64)
    return control | {name: torch.cat([control[name], zeros], dim=1) for name in ("input_ids", "attention_mask")}


TENSORS = [
    Row(
        "pixels of rank 3",
        pixels(lambda t: t[0]),
        Refused(r"pixel_values is \[3, 64, 64\]; this model takes \[images, 3,"),
    ),
    Row("pixels of rank 5", pixels(lambda t: t[None]), Refused(r"pixel_values is \[1, 1, 3, 64, 64\]; this model")),
    Row("a number for pixels", pixels(lambda t: t.mean()), Refused(r"pixel_values is \[\]; this model takes")),
    Row(
        "pixels of another size", pixels(lambda t: t[:, :, :, :48]), Refused(r"is \[1, 3, 64, 48\].* use the processor")
    ),
    Row("one channel", pixels(lambda t: t[:, :1]), Refused(r"pixel_values is \[1, 1, 64, 64\]")),
    Row("channels last", pixels(lambda t: t.permute(0, 2, 3, 1)), Refused(r"pixel_values is \[1, 64, 64, 3\]")),
    Row("no image", pixels(lambda t: t[:0]), Refused(r"pixel_values is \[0, 3, 64, 64\]")),
    Row("bytes of an image", pixels(lambda t: t.to(torch.uint8)), Refused("of uint8; it takes floats, normalized")),
    Row("int64 pixels", pixels(lambda t: t.long()), Refused("of int64; it takes floats, normalized")),
    Row("bool pixels", pixels(lambda t: t > 0), Refused("of bool; it takes floats")),
    Row("complex pixels", pixels(lambda t: t.to(torch.complex64)), Refused("of complex64; it takes floats")),
    Row("float64 pixels", pixels(lambda t: t.double()), SAME),
    Row("float16 pixels", pixels(lambda t: t.half()), SAME),
    Row("bfloat16 pixels", pixels(lambda t: t.bfloat16()), SAME),
    Row("NaN pixel", pixels(with_pixel(float("nan"))), Refused("1 of 12288 pixel_values are NaN or infinite")),
    Row("infinite pixel", pixels(with_pixel(float("-inf"))), Refused("1 of 12288 pixel_values are NaN or infinite")),
    Row(
        "beyond float32",
        pixels(lambda t: with_pixel(1e300)(t.double())),
        Refused("1 of 12288 pixel_values are NaN or inf"),
    ),
    Row("strided pixels", pixels(lambda t: t.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)), SAME),
    Row("expanded pixels", pixels(lambda t: t.expand(1, -1, -1, -1)), SAME),
    Row("pixels with a gradient", pixels(lambda t: t.clone().requires_grad_()), SAME),
    Row("NumPy pixels", pixels(lambda t: t.numpy()), SAME),
    Row("NumPy pixels backwards", pixels(lambda t: t.numpy()[:, :, ::-1].copy()[:, :, ::-1]), SAME),
    Row("big-endian pixels", pixels(lambda t: t.numpy().astype(">f4")), SAME),
    Row("pixels on the meta device", pixels(lambda t: t.to("meta")), Refused("pixel_values is on the meta device")),
    Row("list of pixels", pixels(lambda t: t.tolist()), Refused("pixel_values is a list; .* return_tensors='pt'")),
    Row("path for pixels", pixels(lambda t: "photo.jpg"), Refused("pixel_values is a str; it takes an array")),
    Row("no pixels", pixels(lambda t: None), Refused("pixel_values is a NoneType; it takes an array")),
    Row("ids of rank 1", ids(lambda t: t[0]), Refused(r"input_ids is \[8\] of int64; it takes \[texts, tokens\]")),
    Row("ids of rank 3", ids(lambda t: t[None]), Refused(r"input_ids is \[1, 1, 8\] of int64")),
    Row("no text", ids(lambda t: t[:0]), Refused(r"input_ids is \[0, 8\] of int64")),
    Row("no token", ids(lambda t: t[:, :0]), Refused(r"input_ids is \[1, 0\] of int64")),
    Row("float ids", ids(lambda t: t.float()), Refused("of float32; it takes .* of int64")),
    Row("bool ids", ids(lambda t: t > 0), Refused("of bool; it takes .* of int64")),
    Row("int32 ids", ids(lambda t: t.int()), SAME),
    Row("uint8 ids", ids(lambda t: t.to(torch.uint8)), SAME),
    Row("NumPy ids", ids(lambda t: t.numpy()), SAME),
    Row("NumPy uint64 ids", ids(lambda t: t.numpy().astype(np.uint64)), SAME),
    Row("strided ids", ids(lambda t: torch.stack([t, t], dim=2)[:, :, 0]), SAME),
    Row("ids on the meta device", ids(lambda t: t.to("meta")), Refused("input_ids is on the meta device")),
    Row("negative id", ids(with_first(-1)), Refused("input_ids has tokens from -1 to .* outside the vocabulary of 35")),
    Row(
        "id past the vocabulary", ids(with_first(35)), Refused("to 35, outside the vocabulary of 35: use the tokenizer")
    ),
    Row("huge id", ids(with_first(2**62)), Refused("outside the vocabulary")),
    Row("513 tokens", ids(lambda t: t[:, :1].expand(1, 513)), Refused("513 tokens long; the model takes 512")),
    Row("question as a string", ids(lambda t: "is there a circle?"), Refused("input_ids is a str; it takes an array")),
    Row("ids as lists", ids(lambda t: t.tolist()), Refused("input_ids is a list; .* return_tensors='pt'")),
    Row("no ids", ids(lambda t: None), Refused("input_ids is a NoneType; it takes an array")),
    Row("no mask", mask(lambda t: None), SAME),
    Row("bool mask", mask(lambda t: t.bool()), SAME),
    Row("float mask", mask(lambda t: t.float()), SAME),
    Row("NumPy mask", mask(lambda t: t.numpy()), SAME),
    Row("mask of another length", mask(lambda t: t[:, :3]), Refused(r"is \[1, 3\] but input_ids is \[1, 8\]")),
    Row("mask of another rank", mask(lambda t: t[0]), Refused(r"attention_mask is \[8\] but input_ids is \[1, 8\]")),
    Row("mask of zeros", mask(torch.zeros_like), Refused("hides every token of a text: each needs at least one")),
    Row("mask of twos", mask(lambda t: t * 2), Refused("attention_mask holds 2; it takes 1 .* and 0 for padding")),
    Row("additive mask", mask(lambda t: t.float() * -10_000), Refused(r"attention_mask holds -10000\.0; it takes 1")),
    Row("NaN mask", mask(lambda t: t * float("nan")), Refused("attention_mask holds nan")),
    Row("mask with a hole", mask(lambda t: t - torch.eye(8, dtype=torch.int64)[2:3]), Refused("pad texts at the end")),
    Row("list for a mask", mask(lambda t: t.tolist()), Refused("attention_mask is a list; it takes an array")),
    Row("padding at the start", padded_left, Refused("pad texts at the end, padding_side='right'")),
    Row("padded to all positions", padded_right, SAME),
    Row(
        "three images, one text", pixels(lambda t: t.expand(3, -1, -1, -1)), Refused("3 images do not go with 1 texts")
    ),
]
