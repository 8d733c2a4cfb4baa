"""Make a converted BLIP smaller and faster: INT8 vision model and text encoder, INT8 or INT4 decoder weights.

    python blip_optimize.py build/blip-easy-vqa --samples 300 --weights int8

The FP16 IRs of a folder stay; the quantized ones are written beside them.
"""

import argparse
import hashlib
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import datasets
import nncf
import numpy as np
import openvino as ov
from openvino import opset13 as opset
from tqdm.auto import tqdm
from transformers import BlipProcessor

from blip_openvino.evaluate.accuracy import CALIBRATION, vqa_v2_samples
from blip_openvino.ir.easy_vqa import load_questions
from blip_openvino.ir.files import (
    OPTIMIZER_VERSION,
    PARTS_OF_ARCHITECTURE,
    TEXT_DECODER,
    TEXT_ENCODER,
    VISION_MODEL,
    ensure_ir,
    load_config,
    quantized_name,
    read_part,
    writing,
)
from blip_openvino.runtime.split import copy_projections, keep_projections, release_projections, replace_projections

SAMPLES = 300
SEED = 42


def easy_vqa_calibration(samples: int = SAMPLES, seed: int = SEED) -> datasets.Dataset:
    """Image-question pairs of easy-VQA's training split, drawn with `seed`: `image`, `image_id`, `question`."""
    questions = load_questions("train")
    chosen = [questions[index] for index in np.random.default_rng(seed).permutation(len(questions))[:samples]]
    columns = {
        "image": [question.image_path for question in chosen],
        "image_id": [question.image_id for question in chosen],
        "question": [question.question for question in chosen],
    }
    return datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())


def calibration_dataset(model_id: str | Path, samples: int = SAMPLES) -> datasets.Dataset:
    """What suits a model: easy-VQA for the embedded one, VQA v2 for the others."""
    return (
        easy_vqa_calibration(samples)
        if Path(model_id).name == "blip-easy-vqa"
        else vqa_v2_samples(samples, SEED, CALIBRATION)
    )


@dataclass(frozen=True)
class CalibrationInputs:
    """The calibration set as the models' inputs."""

    pixel_values: list[np.ndarray]
    """One [1, 3, H, W] float32 for every different image."""
    questions: list[dict[str, np.ndarray]]
    """The text encoder's inputs, one for every image-question pair."""
    encoder_hidden_states: list[np.ndarray]
    """What the decoder looks at: every image's tokens for its caption, every question's for the answer."""


def calibration_inputs(
    dataset: datasets.Dataset, processor: BlipProcessor, vision_model: ov.Model, text_encoder: ov.Model | None
) -> CalibrationInputs:
    """Run the real vision model over the calibration images, each once however many questions it has, and the text
    encoder over the questions; without one (captioning checkpoints) the decoder looks at images only.

    Raises:
        ValueError: the dataset is empty.
    """
    if not len(dataset):
        raise ValueError("the calibration dataset is empty: take at least one sample")
    compiled = ov.Core().compile_model(vision_model, "CPU")
    pixel_values, image_embeds, questions = {}, {}, []
    for record in tqdm(dataset, desc="encoding images", unit="sample"):
        image_id = record["image_id"]
        if image_id not in image_embeds:
            pixels = processor(images=record["image"].convert("RGB"), return_tensors="np")["pixel_values"]
            pixel_values[image_id] = pixels.astype(np.float32)
            image_embeds[image_id] = compiled(pixel_values[image_id])[0]
        text = processor(text=record["question"], return_tensors="np")
        questions.append(
            {
                "input_ids": text["input_ids"].astype(np.int64),
                "attention_mask": text["attention_mask"].astype(np.int64),
                "encoder_hidden_states": image_embeds[image_id],
                "encoder_attention_mask": np.ones(image_embeds[image_id].shape[:2], np.int64),
            }
        )
    question_embeds = [] if text_encoder is None else encode_questions(text_encoder, questions)
    return CalibrationInputs(list(pixel_values.values()), questions, [*image_embeds.values(), *question_embeds])


def encode_questions(text_encoder: ov.Model, questions: list[dict[str, np.ndarray]]) -> list[np.ndarray]:
    """The tokens of every question, [1, T, hidden], having looked at its image."""
    request = ov.Core().compile_model(text_encoder, "CPU").create_infer_request()
    embeds = []
    for question in tqdm(questions, desc="encoding questions", unit="sample"):
        request.reset_state()
        embeds.append(request.infer(question)["last_hidden_state"])
    return embeds


def quantize(model: ov.Model, samples: list) -> ov.Model:
    """INT8 weights and activations, with ranges measured on `samples` (inputs of `model`).

    Transformers have a few activation channels far larger than the rest. SmoothQuant, which the TRANSFORMER model type
    turns on, divides those channels and multiplies the weights after them, so that both fit eight bits
    (Xiao et al., 2022, arXiv:2211.10438). `model` itself is changed: what it keeps of an image is given out meanwhile.
    """
    kept = release_projections(model)
    quantized = nncf.quantize(
        model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(samples)
    )
    keep_projections(quantized, kept)
    return quantized


def compress_decoder(model: ov.Model, weights: str = "int8") -> ov.Model:
    """INT8 or INT4 weights, in place: a step multiplies one token, so reading weights is most of its time. No ranges
    are fixed for activations, which would cost accuracy; a device may still quantize them on the fly.

    Raises:
        ValueError: `weights` is neither "int8" nor "int4".
    """
    if weights == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    if weights == "int4":
        mode, backup = nncf.CompressWeightsMode.INT4_SYM, nncf.BackupMode.INT8_SYM  # of embeddings and last layer
        return nncf.compress_weights(model, mode=mode, group_size=64, ratio=1.0, backup_mode=backup)
    raise ValueError(f"weights is {weights!r}; it takes 'int8' or 'int4'")


def quantize_decoder(model: ov.Model, encoder_hidden_states: list[np.ndarray], weights: str = "int8") -> ov.Model:
    """Compressed weights for the steps, and INT8 activations too for what is not done token by token: the projections
    of the image's or question's tokens, whose arithmetic is most of a generation's first step.

    Raises:
        ValueError: `weights` is neither "int8" nor "int4".
    """
    projections = quantize(copy_projections(model), encoder_hidden_states)
    compressed = compress_decoder(model, weights)
    replace_projections(compressed, projections)
    separate_embeddings(compressed)
    return compressed


def separate_embeddings(model: ov.Model) -> None:
    """Give the word embeddings a scale of their own, in place; the integers they scale stay the vocabulary product's.

    In a model with INT8 activations OpenVINO's CPU plugin (2026.4) expands weights to float32 that two operations read.
    That product's are 23 million at BLIP base: a step took 15 ms instead of 12.
    """
    for node in model.get_ordered_ops():
        table = node.input_value(0) if node.get_type_name() == "Gather" else None
        if table is None or table.get_node().get_type_name() != "Convert" or len(table.get_target_inputs()) == 1:
            continue
        integers, scale = (port.get_node() for port in table.get_node().input_value(0).get_node().input_values())
        if integers.get_type_name() != "Convert":
            raise ValueError(f"the embeddings are compressed with a {integers.get_type_name()}, not symmetrically")
        own = opset.multiply(
            opset.convert(integers.input_value(0), "f32"), opset.constant(scale.data.astype(np.float32))
        )
        node.input(0).replace_source_output(own.output(0))
    model.validate_nodes_and_infer_types()


def dataset_digest(dataset: datasets.Dataset) -> str:
    """What tells one calibration set from another: a BLAKE2 digest of its image ids and questions."""
    pairs = zip(dataset["image_id"], dataset["question"], strict=True)
    return hashlib.blake2b(repr(list(pairs)).encode(), digest_size=8).hexdigest()


def optimize(folder: str | Path, dataset: datasets.Dataset, weights: str = "int8") -> Path:
    """Write the quantized IRs of a converted folder beside its FP16 ones; those that still fit are reused.

    Args:
        folder: made by `blip_convert`.
        dataset: the calibration set, with `image`, `image_id` and `question`; all of it is used.
        weights: of the decoder, "int8" or "int4".

    Raises:
        FileNotFoundError, ValueError: the folder is not a converted model, or a part of it is missing or damaged.
        OSError: the folder cannot be written to.
    """
    folder, core = Path(folder), ov.Core()
    config = load_config(folder)
    stamp = {
        "checkpoint": config.openvino_checkpoint,
        "converter": config.openvino_converter,
        "optimizer": OPTIMIZER_VERSION,
        "calibration": dataset_digest(dataset),
    }
    with writing(folder):
        names = PARTS_OF_ARCHITECTURE[config.architectures[0]]
        parts = {part: read_part(core, folder / part, config) for part in names}

        @cache
        def calibrated() -> CalibrationInputs:
            processor = BlipProcessor.from_pretrained(folder)
            return calibration_inputs(dataset, processor, parts[VISION_MODEL], parts.get(TEXT_ENCODER))

        def make(part: str) -> ov.Model:
            inputs = calibrated()
            if part == TEXT_DECODER:
                return quantize_decoder(parts[part], inputs.encoder_hidden_states, weights)
            return quantize(parts[part], inputs.pixel_values if part == VISION_MODEL else inputs.questions)

        for part in parts:
            path = folder / quantized_name(part, weights if part == TEXT_DECODER else "int8")
            ensure_ir(path, stamp, partial(make, part))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize a converted BLIP model.")
    parser.add_argument("folder", type=Path, help="a folder that blip_convert.py made")
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"calibration samples (default: {SAMPLES})")
    parser.add_argument("--weights", choices=["int8", "int4"], default="int8", help="the decoder's (default: int8)")
    arguments = parser.parse_args()
    if arguments.samples < 1:
        parser.error(f"--samples is {arguments.samples}; it takes at least 1")
    load_config(arguments.folder)  # a wrong folder is told before data is downloaded for it
    optimize(arguments.folder, calibration_dataset(arguments.folder, arguments.samples), arguments.weights)
    print(f"{arguments.folder} has its quantized models")


if __name__ == "__main__":
    main()
