"""Is a converted folder right on this machine? It is run as users run it, and compared with what PyTorch gave.

report = check_folder("build/blip-vqa-base", device="CPU")
print(report)

The probes and PyTorch's results for them lie in the folder's `reference.npz` (`ir.reference`). Neither PyTorch nor
transformers is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from blip_model import OVBlipModel
from blip_openvino.ir.files import REFERENCE, load_config
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncodedImages, EncoderTokens, TextModel
from blip_openvino.runtime.processor import OVBlipProcessor

TOLERANCES = {"FP16": 0.004, "INT8": 0.03, "INT4": 0.035}
"""The largest error that a right run may have at each precision: root mean square over the range of the reference.

Measured on the embedded model (AVX512-BF16, 2 cores): FP16 0.0001 computed in float32 and 0.0008 in bf16, INT8 0.004,
INT4 0.010; of a smaller one, which knew less, INT8 0.016 and INT4 0.021. On random weights of BLIP-base geometry FP16
0.0006 and 0.0026.
"""
MATCHES = 5
"""How many times larger the error of a matching head's two logits may be: it does not average over many numbers."""
BEAMS = 3

Reference = Mapping[str, np.ndarray]
"""What `ir.reference.make_reference` made."""
Steps = Iterator[tuple[int | np.ndarray, np.ndarray]]
"""Of each row the step, and the logits that it gave."""


@dataclass(frozen=True)
class CheckRow:
    """One part in one way of running it."""

    part: str
    way: str
    error: float
    tolerance: float
    unit: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance; what is no number is not."""
        return bool(self.error <= self.tolerance)

    def __str__(self) -> str:
        error, tolerance = (f"{value:.{0 if self.unit else 4}f}{self.unit}" for value in (self.error, self.tolerance))
        return f"| {self.part} | {self.way} | {error} | {tolerance} | {'right' if self.passed else 'WRONG'} |"


@dataclass(frozen=True)
class CheckReport:
    """What a check found; as text it is a table."""

    folder: Path
    device: str
    precision: str
    rows: tuple[CheckRow, ...]
    silent: str = ""
    """Why the check can say nothing about this checkpoint; empty where it can."""

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return bool(self.silent) or all(row.passed for row in self.rows)

    def __str__(self) -> str:
        title = f"{self.folder} on {self.device} at {self.precision}, compared with PyTorch in float32"
        if self.silent:
            return f"{title}: the check can say nothing, since {self.silent}"
        table = ["| part | how it was run | error | tolerance | |", "| --- | --- | --- | --- | --- |", *self.rows]
        if not self.passed:
            table.append(
                f"\n{self.device} gives wrong results at {self.precision}: do not use it so. Try another precision or "
                'device, or float32: --inference-precision f32, in Python ov_config={"INFERENCE_PRECISION_HINT": "f32"}'
            )
        return "\n".join(map(str, [title, "", *table]))


def check_folder(
    folder: str | Path,
    device: str = "AUTO",
    precision: str | None = None,
    ov_config: Mapping[str, object] | None = None,
) -> CheckReport:
    """Load a converted folder and check what it gives on `device` at `precision` (see `OVBlipModel.from_pretrained`).

    Raises:
        FileNotFoundError, ValueError: the folder cannot be loaded.
    """
    model = OVBlipModel.from_pretrained(folder, device, precision, ov_config)
    return check_model(model, folder, device)


def check_model(model: OVBlipModel, folder: str | Path, device: str = "") -> CheckReport:
    """Check a loaded model against the reference in its folder."""
    folder = Path(folder)
    load_config(folder)  # the reference is as it was saved
    with np.load(folder / REFERENCE, allow_pickle=False) as saved:
        reference = dict(saved)
    if silent := str(reference["silent"]):
        return CheckReport(folder, device, model.precision, (), silent)
    pixel_values = OVBlipProcessor.from_pretrained(folder)(list(reference["images"]))["pixel_values"]
    return CheckReport(folder, device, model.precision, tuple(run_all(model, reference, pixel_values)))


def run_all(model: OVBlipModel, reference: Reference, pixel_values: np.ndarray) -> Iterator[CheckRow]:
    """Run everything that the checkpoint can do, in every way that users run it."""

    def row(part: str, way: str, name: str, found: np.ndarray) -> CheckRow:
        tolerance = TOLERANCES[model.precision] * (MATCHES if name == "matches" else 1)
        return CheckRow(part, way, largest_error(found, reference[name]), tolerance)

    # Kept alive through all that follows, as a user's program does: no other image comes to lie in their place.
    images = [model.encode_images(pixel_values[index : index + 1]) for index in range(len(pixel_values))]
    batch = model.encode_images(pixel_values)
    kept = np.linspace(0, batch.image_embeds.shape[1] - 1, reference["vision"].shape[1], dtype=int)
    for way, encoded in (("image by image", images), ("one batch", [batch])):
        found = np.concatenate([each.image_embeds for each in encoded])
        yield row("vision model", way, "vision", found[:, kept])
        if "matches" in reference:
            texts = model.text_features(*all_texts(reference, 1))
            found = np.concatenate([each.features for each in encoded]) @ texts.T
            yield row("similarities", way, "similarities", found)
    # An image for each text, which is short: the text encoder does without keys and values.
    once = batch[np.repeat(np.arange(len(batch)), len(reference["input_ids"]))]
    if "matches" in reference:
        for way, encoded in (("image by image", images), ("one batch", [batch]), ("each text once", [once])):
            read = [model.read_texts(each, *texts_about(reference, each)) for each in encoded]
            yield row("matches", way, "matches", np.concatenate([outputs["itm_logits"] for outputs in read]))
    for name in ("captions", "answers"):
        if name in reference:
            for way, encoded, run, write in (
                ("image by image", images, one_by_one, by_steps),
                ("again, backwards", images, backwards, by_steps),
                ("taking turns at each step", images, in_turn, by_steps),
                ("two threads", images, two_threads, by_steps),
                ("one batch", [batch], one_by_one, by_steps),
                ("beams changing places", [batch], one_by_one, by_beams),
                ("as prompts", [batch], one_by_one, by_prompts),
                *([("each question once", [once], one_by_one, by_steps)] if name == "answers" else []),
            ):
                yield row(name, way, f"{name}_logits", written(model, reference, name, encoded, run, write))
            yield CheckRow(name, "tokens that differ", differing(model, reference, name, images), 0, " tokens")


def all_texts(reference: Reference, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask of all texts for every image, [images · texts, T] int64."""
    return tuple(np.tile(reference[name], (images, 1)) for name in ("input_ids", "attention_mask"))


def texts_about(reference: Reference, images: EncodedImages) -> tuple[np.ndarray, np.ndarray]:
    """The same for images of the reference; where each is there once for each text, no longer than the longest text."""
    count = len(reference["images"])
    if len(images) <= count:
        return all_texts(reference, len(images))
    longest = reference["attention_mask"].sum(axis=1).max()
    return tuple(each[:, :longest] for each in all_texts(reference, count))


def looked_at(
    model: OVBlipModel, reference: Reference, name: str, images: list[EncodedImages]
) -> Iterator[tuple[EncoderTokens, np.ndarray]]:
    """What the decoder looks at when it writes `name`, and which rows of the reference are about it."""
    start = 0
    for image in images:
        tokens = image
        if name == "answers":
            tokens = model.read_questions(image, *texts_about(reference, image))
        yield tokens, np.arange(start, start + len(tokens))
        start += len(tokens)


def written(
    model: OVBlipModel, reference: Reference, name: str, images: list[EncodedImages], run: Callable, write: Callable
) -> np.ndarray:
    """The logits [rows, steps, words] when the decoder is fed PyTorch's tokens by `write`; `run` takes its steps."""
    found = np.full_like(reference[f"{name}_logits"], np.nan)

    def steps(tokens: EncoderTokens, rows: np.ndarray) -> Iterator[None]:
        ids = np.maximum(reference[name][rows, : found.shape[1]], 0)
        for step, logits in write(model.text_decoder, tokens, ids):
            found[rows, step] = logits[:, reference["words"]]
            yield

    run([steps(*each) for each in looked_at(model, reference, name, images)])
    return found


def one_by_one(texts: Sequence[Iterator[None]]) -> None:
    """Write each text to its end before the next one begins."""
    for text in texts:
        list(text)


def backwards(texts: Sequence[Iterator[None]]) -> None:
    """The last text first."""
    one_by_one(texts[::-1])


def in_turn(texts: Sequence[Iterator[None]]) -> None:
    """A step of every text, then the next one of every text."""
    list(zip(*texts, strict=True))


def two_threads(texts: Sequence[Iterator[None]]) -> None:
    """Write two texts at a time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(list, texts))


def by_steps(text_decoder: TextModel, tokens: EncoderTokens, ids: np.ndarray) -> Steps:
    """Feed `ids` [rows, steps] token by token, and give the step and the logits [rows, vocabulary] of each."""
    state = DecoderState(text_decoder, tokens)
    for step in range(ids.shape[1]):
        yield step, state.step(ids[:, step : step + 1])


def by_beams(text_decoder: TextModel, tokens: EncoderTokens, ids: np.ndarray) -> Steps:
    """The same by one of three beams, which change places after every step; the other two are a word ahead."""
    state = DecoderState(text_decoder, tokens)
    order = np.roll(np.arange(len(ids) * BEAMS).reshape(-1, BEAMS), 1, axis=1).ravel()
    for step in range(ids.shape[1]):
        beams = np.repeat(np.roll(ids, -1, axis=1)[:, step : step + 1], BEAMS, axis=1)
        beams[:, step % BEAMS] = ids[:, step]
        yield step, state.step(beams.reshape(-1, 1)).reshape(*beams.shape, -1)[:, step % BEAMS]
        state.reorder_cache(order)


def by_prompts(text_decoder: TextModel, tokens: EncoderTokens, ids: np.ndarray) -> Steps:
    """The same as prompts of different lengths at once, padded on the left; each row has every length in turn."""
    rows, steps = ids.shape
    for turn in range(steps):
        last = (np.arange(rows) + turn) % steps
        places = np.arange(steps) - (steps - 1 - last[:, None])  # of each row's tokens; negative in the padding
        prompts = np.take_along_axis(ids, np.maximum(places, 0), axis=1)
        yield last, DecoderState(text_decoder, tokens).step(prompts, (places >= 0).astype(np.int64))


def differing(model: OVBlipModel, reference: Reference, name: str, images: list[EncodedImages]) -> int:
    """How many greedy texts have a token that is not PyTorch's though PyTorch was sure of it."""
    expected, margins, logits = (reference[f"{name}{kind}"] for kind in ("", "_margins", "_logits"))
    unsure = TOLERANCES[model.precision] * (np.nanmax(logits) - np.nanmin(logits)) * 4
    generate = model.generate_caption if name == "captions" else model.generate_answer
    texts = () if name == "captions" else all_texts(reference, 1)
    found = [ids for image in images for ids in generate(image, *texts, max_new_tokens=expected.shape[1] - 1)]
    count = 0
    for ids, wanted, margin in zip(found, expected, margins, strict=True):
        wrong = np.flatnonzero((np.resize(ids, len(wanted)) != wanted) & (wanted >= 0))
        # What follows a token that could have been another is another text.
        count += len(wrong) > 0 and bool(margin[wrong[0]] > unsure)
    return count


def largest_error(found: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square over the reference's range, of the worst row; NaN in the reference is not compared."""
    errors = np.where(np.isnan(reference), 0, found - reference).reshape(len(reference), -1).astype(np.float64)
    compared = (~np.isnan(reference)).reshape(errors.shape).sum(axis=1)
    return float(np.sqrt((errors**2).sum(axis=1) / compared).max() / (np.nanmax(reference) - np.nanmin(reference)))
