"""Is a converted folder right on this machine? It is run as users run it, and compared with what PyTorch gave.

report = check_folder("build/blip-vqa-base", device="CPU")
print(report)

The probes and PyTorch's results for them lie in the folder's `reference.npz` (`ir.reference`). Neither PyTorch nor
transformers is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from blip_model import OVBlipModel
from blip_openvino.ir.files import REFERENCE, load_config
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncodedImages, EncoderTokens
from blip_openvino.runtime.processor import OVBlipProcessor

TOLERANCES = {"FP16": 0.004, "INT8": 0.03, "INT4": 0.03}
"""The largest error that a right run may have at each precision: root mean square over the range of the reference.

Measured on the embedded model (AMX, 2 cores): FP16 0.0001 computed in float32 and 0.0007 in bf16, INT8 and INT4 up to
0.013; on random weights of BLIP-base geometry FP16 0.0006 and 0.0026.
"""
LOST = {"FP16": 0.003, "INT8": 0.007, "INT4": 0.007}
"""The largest share of right answers, 0.3 and 0.7 points, that a precision may cost over PyTorch in float32."""
APART = 0.04
"""How far apart the references of any two images have to be: ten times FP16's tolerance."""
LEAST_TOKENS = 20


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
        lines = [f"{self.folder} on {self.device} at {self.precision}, compared with PyTorch in float32"]
        if self.silent:
            return f"{lines[0]}: the check can say nothing, since {self.silent}"
        lines += ["| part | how it was run | error | tolerance | |", "| --- | --- | --- | --- | --- |"]
        for row in self.rows:
            error, tolerance = (f"{value:.{0 if row.unit else 4}f}{row.unit}" for value in (row.error, row.tolerance))
            lines.append(f"| {row.part} | {row.way} | {error} | {tolerance} | {'right' if row.passed else 'WRONG'} |")
        if not self.passed:
            lines.append(
                f"{self.device} gives wrong results at {self.precision}: do not use it so. Try another precision or "
                'device, or float32: ov_config={"INFERENCE_PRECISION_HINT": "f32"}, --inference-precision f32'
            )
        return "\n".join(lines)


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
    folder = Path(folder)
    model = OVBlipModel.from_pretrained(folder, device, precision, ov_config)
    return check_model(model, folder, device)


def check_model(model: OVBlipModel, folder: str | Path, device: str = "") -> CheckReport:
    """Check a loaded model against the reference in its folder."""
    folder = Path(folder)
    load_config(folder)  # the reference is as it was saved
    with np.load(folder / REFERENCE, allow_pickle=False) as saved:
        reference = dict(saved)
    silent = why_silent(reference)
    if silent:
        return CheckReport(folder, device, model.precision, (), silent)
    pixel_values = OVBlipProcessor.from_pretrained(folder)(list(reference["images"]))["pixel_values"]
    rows = tuple(Check(model, reference, pixel_values).rows())
    return CheckReport(folder, device, model.precision, rows)


def why_silent(reference: Mapping[str, np.ndarray]) -> str:
    """Why a reference cannot tell right from wrong: its images are too much alike, or too few tokens were written."""
    images = len(reference["images"])
    for name in ("vision", "captions_logits", "answers_logits", "matches"):
        if name in reference:
            per_image = reference[name].reshape(images, -1)
            spread = np.nanmax(per_image) - np.nanmin(per_image)
            nearest = min(rms(per_image[a] - per_image[b]) for a, b in combinations(range(images), 2)) / spread
            if nearest < APART:
                return f"PyTorch's {name} for two of the probes are only {nearest:.4f} of their range apart"
    tokens = sum(int((reference[name] >= 0).sum()) for name in ("captions", "answers") if name in reference)
    if "matches" not in reference and tokens < LEAST_TOKENS:
        return f"PyTorch wrote only {tokens} tokens about the probes"
    return ""


def rms(values: np.ndarray) -> float:
    """Root mean square of all numbers that are there; NaN stands for none only in the reference."""
    return float(np.sqrt(np.mean(np.square(values[~np.isnan(values)], dtype=np.float64))))


class Check:
    """One model and its reference; every method runs the model in a way of its own."""

    def __init__(self, model: OVBlipModel, reference: Mapping[str, np.ndarray], pixel_values: np.ndarray):
        self.model, self.reference, self.pixel_values = model, reference, pixel_values
        self.texts = reference["input_ids"], reference["attention_mask"]
        # Kept alive through all that follows, as a user's program does: no other image comes to lie in their place.
        self.images = [model.encode_images(pixel_values[index : index + 1]) for index in range(len(pixel_values))]

    def rows(self) -> Iterator[CheckRow]:
        """Everything that the checkpoint can do."""
        found = np.concatenate([image.image_embeds for image in self.images])
        kept = np.linspace(0, found.shape[1] - 1, self.reference["vision"].shape[1], dtype=int)
        yield self._row("vision model", "image by image", found[:, kept], "vision")
        if "matches" in self.reference:
            yield self._row("text encoder", "image by image", self._match(self.images), "matches")
            yield self._row("text encoder", "again", self._match(self.images), "matches")
        for name, contexts in (("captions", self._captions), ("answers", self._answers)):
            if name in self.reference:
                yield from self._written(name, contexts)

    def _written(self, name: str, contexts) -> Iterator[CheckRow]:
        """Texts of one kind: `contexts` gives what the decoder looks at, and the rows of the reference about it."""
        logits = f"{name}_logits"
        each = list(contexts(self.images))
        yield self._row(
            name, "image by image", self._in_order(name, [(self._write(name, *one), one[1]) for one in each]), logits
        )
        yield self._row(name, "taking turns at each step", self._alternating(name, each), logits)
        again = list(contexts(self.images))[::-1]
        yield self._row(
            name, "again, backwards", self._in_order(name, [(self._write(name, *one), one[1]) for one in again]), logits
        )
        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(lambda one: (self._write(name, *one), one[1]), each))
        yield self._row(name, "two threads", self._in_order(name, written), logits)
        together = list(contexts([self.model.encode_images(self.pixel_values)]))
        batch = self._in_order(name, [(self._write(name, *one), one[1]) for one in together])
        yield self._row(name, "one batch", batch, logits)
        yield self._row(name, "beams changing places", self._reordered(name, each), logits)
        yield CheckRow(name, "tokens that differ", self._differing(name), 0, " tokens")

    def _captions(self, images: list[EncodedImages]) -> Iterator[tuple[EncoderTokens, np.ndarray]]:
        start = 0
        for image in images:
            yield image, np.arange(start, start + len(image))
            start += len(image)

    def _answers(self, images: list[EncodedImages]) -> Iterator[tuple[EncoderTokens, np.ndarray]]:
        """One image with all texts at once, padded; several images with each text in turn."""
        ids, mask = self.texts
        for index, image in enumerate(images):
            if len(image) == 1:
                read = self.model.read_texts(image, ids, mask)["last_hidden_state"]
                yield EncoderTokens(read, mask), np.arange(index * len(ids), (index + 1) * len(ids))
                continue
            for text in range(len(ids)):
                rows = [np.repeat(each[text : text + 1], len(image), axis=0) for each in (ids, mask)]
                read = self.model.read_texts(image, *rows)["last_hidden_state"]
                yield EncoderTokens(read, rows[1]), np.arange(len(image)) * len(ids) + text

    def _write(self, name: str, tokens: EncoderTokens, rows: np.ndarray) -> np.ndarray:
        """The logits [rows, steps, words] when the decoder is given PyTorch's tokens."""
        state = DecoderState(self.model.text_decoder, tokens)
        return np.stack([self._step(state, name, rows, step) for step in range(self._steps(name))], axis=1)

    def _step(self, state: DecoderState, name: str, rows: np.ndarray, step: int) -> np.ndarray:
        tokens = np.maximum(self.reference[name][rows, step : step + 1], 0)
        return state.step(tokens)[:, self.reference["words"]]

    def _steps(self, name: str) -> int:
        return self.reference[f"{name}_logits"].shape[1]

    def _in_order(self, name: str, written: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """What was written about some rows each, in the reference's order."""
        found = np.full_like(self.reference[f"{name}_logits"], np.nan)
        for logits, rows in written:
            found[rows] = logits
        return found

    def _alternating(self, name: str, each: list[tuple[EncoderTokens, np.ndarray]]) -> np.ndarray:
        """All generations at once, each taking a step in turn."""
        states = [DecoderState(self.model.text_decoder, tokens) for tokens, _ in each]
        steps = [
            self._in_order(
                name,
                [
                    (self._step(state, name, rows, step)[:, None], rows)
                    for state, (_, rows) in zip(states, each, strict=True)
                ],
            )[:, :1]
            for step in range(self._steps(name))
        ]
        return np.concatenate(steps, axis=1)

    def _reordered(self, name: str, each: list[tuple[EncoderTokens, np.ndarray]]) -> np.ndarray:
        """Three beams of which one writes PyTorch's text, and which change places after every step."""
        found = np.full_like(self.reference[f"{name}_logits"], np.nan)
        for tokens, rows in each:
            for place, row in enumerate(rows):
                one = EncoderTokens(tokens.hidden_states[place : place + 1], tokens.attention_mask[place : place + 1])
                state = DecoderState(self.model.text_decoder, one)
                for step in range(self._steps(name)):
                    beams = np.full((3, 1), self.reference["words"][step])
                    beams[step % 3] = max(self.reference[name][row, step], 0)
                    found[row, step] = state.step(beams)[step % 3, self.reference["words"]]
                    state.reorder_cache(np.roll(np.arange(3), 1))
        return found

    def _match(self, images: list[EncodedImages]) -> np.ndarray:
        """The matching head's logits, image after image, [images · texts, 2]."""
        return np.concatenate([self.model.read_texts(image, *self.texts)["itm_logits"] for image in images])

    def _differing(self, name: str) -> int:
        """How many greedy tokens are not PyTorch's though PyTorch was sure of them."""
        ids, mask = self.texts
        expected, margins = self.reference[name], self.reference[f"{name}_margins"]
        logits = self.reference[f"{name}_logits"]
        unsure = TOLERANCES[self.model.precision] * (np.nanmax(logits) - np.nanmin(logits)) * 4
        found = []
        for image in self.images:
            arguments = (image,) if name == "captions" else (image, ids, mask)
            generate = self.model.generate_caption if name == "captions" else self.model.generate_answer
            found += list(generate(*arguments, max_new_tokens=expected.shape[1] - 1))
        differing = 0
        for row, wanted in enumerate(expected):
            wanted = wanted[wanted >= 0]
            written = np.resize(found[row], len(wanted))
            wrong = np.flatnonzero(written != wanted)
            # What follows a token that could have been another is another text.
            differing += bool(len(wrong)) and bool(margins[row, wrong[0]] > unsure)
        return differing

    def _row(self, part: str, way: str, found: np.ndarray, name: str) -> CheckRow:
        """The largest error of any row of the reference; what the reference leaves open is not compared."""
        reference = self.reference[name]
        scale = np.nanmax(reference) - np.nanmin(reference)
        errors = [
            rms(np.where(np.isnan(wanted), np.nan, got - wanted)) / scale
            for got, wanted in zip(found, reference, strict=True)
        ]
        unreadable = np.isnan(found[~np.isnan(reference)]).any()
        return CheckRow(part, way, float("nan") if unreadable else max(errors), TOLERANCES[self.model.precision])
