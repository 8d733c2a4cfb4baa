"""Make the files of every side from one checkpoint: PyTorch's, the published recipe's, ONNX Runtime's and ours."""

import json
import warnings
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import datasets
import nncf
import openvino as ov
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image, ImageChops
from torch import nn
from transformers import BlipForQuestionAnswering, BlipProcessor

from benchmarks import onnx_runtime, published
from benchmarks.exports import Part, encode_image, encode_question, project, projected_step, published_step
from benchmarks.workloads import OTHER_QUESTION, QUESTION, photo
from blip_openvino.ir.convert import convert
from blip_openvino.ir.files import PRECISIONS, weight_sizes
from blip_openvino.ir.optimize import optimize

CALIBRATION_SAMPLES = 4  # speed does not depend on the ranges found
MAKERS = ("torch", "transformers", "openvino", "nncf", "onnx", "onnxscript", "onnxruntime")
RECIPE = 2
"""Raise it whenever the functions below make something else, or of another checkpoint."""


def prepare(model: BlipForQuestionAnswering, processor: BlipProcessor, folder: Path) -> None:
    """Write to `folder` what all sides run; what the same versions made there before is reused."""
    print("making the sides' files, unless they are there ...", flush=True)
    convert(model, processor, folder)
    for weights in ("int8", "int4"):
        optimize(folder, datasets.Dataset.from_list(calibration_samples()), weights)
    stamp, made = {name: version(name) for name in MAKERS} | {"recipe": RECIPE}, folder / "made.json"
    if made.exists() and json.loads(made.read_text()) == stamp:
        return
    for name in ("pytorch", "published/FP16", "published/INT8", "onnx/fp32", "onnx/INT8"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder / "pytorch")
    processor.save_pretrained(folder / "pytorch")
    make_published(model, folder / "published/FP16")
    quantize_published(folder / "published/FP16", folder / "published/INT8", processor)
    export_onnx(model, folder / "onnx/fp32")
    quantize_onnx(folder / "onnx/fp32", folder / "onnx/INT8")
    made.write_text(json.dumps(stamp, indent=1) + "\n")


def calibration_samples() -> list[dict[str, object]]:
    """The picture, shifted further and further, and a question about it, now the one and now the other."""
    picture, questions = Image.open(BytesIO(photo())), (QUESTION, OTHER_QUESTION)
    return [
        {"image": ImageChops.offset(picture, 40 * index, 0), "image_id": index, "text": questions[index % 2]}
        for index in range(CALIBRATION_SAMPLES)
    ]


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each side's weights on disk; PyTorch has one checkpoint, and makes bf16 of it when loading."""
    places = {
        "PyTorch fp32": "pytorch",
        **{f"published {precision}": f"published/{precision}" for precision in ("FP16", "INT8")},
        **{f"ONNX Runtime {precision}": f"onnx/{precision}" for precision in ("fp32", "INT8")},
    }
    suffixes = {".safetensors", ".bin", ".onnx", ".data"}
    parts = weight_sizes(folder, PRECISIONS).values()
    return {
        side: sum(file.stat().st_size for file in (folder / place).iterdir() if file.suffix in suffixes)
        for side, place in places.items()
    } | {f"ours {precision}": sum(part[precision] for part in parts) for precision in PRECISIONS}


def text_example(model: BlipForQuestionAnswering, new: int, whole: int) -> tuple[torch.Tensor, ...]:
    """Two texts of `new` tokens, a mask of `whole`, and five tokens of an encoder: the text models' first inputs."""
    mask = torch.ones(2, whole, dtype=torch.int64)
    mask[0, 0] = 0  # transformers leaves a mask that hides nothing out of what it computes
    return torch.ones(2, new, dtype=torch.int64), mask, torch.randn(2, 5, model.config.text_config.encoder_hidden_size)


def example_past(model: BlipForQuestionAnswering, length: int) -> list[torch.Tensor]:
    """Keys and values of `length` tokens for every layer."""
    config = model.config.text_config
    shape = (2, config.num_attention_heads, length, config.hidden_size // config.num_attention_heads)
    return [torch.randn(shape) for _ in range(2 * config.num_hidden_layers)]


def make_published(model: BlipForQuestionAnswering, folder: Path) -> None:
    """The three parts as IR with FP16 weights. All sizes but those that the weights fix are dynamic."""
    size = model.config.vision_config.image_size
    past, width = example_past(model, 3), model.config.text_config.encoder_hidden_size
    text_shapes = [ov.PartialShape(shape) for shape in ([-1, -1], [-1, -1], [-1, -1, width])]
    past_shapes = [ov.PartialShape([-1, tensor.shape[1], -1, tensor.shape[3]]) for tensor in past]
    parts = {
        "vision_model": (Part(model.vision_model, encode_image), (torch.zeros(1, 3, size, size),), None),
        "text_encoder": (Part(model.text_encoder, encode_question), text_example(model, 4, 4), text_shapes),
        "text_decoder": (
            Part(model.text_decoder, published_step),
            (*text_example(model, 2, 5), *past),
            text_shapes + past_shapes,
        ),
    }
    for name, (module, example, input_shapes) in parts.items():
        ir = ov.convert_model(module.eval(), example_input=example, input=input_shapes)
        ov.save_model(ir, folder / f"{name}.xml")


def quantize_published(source: Path, folder: Path, processor: BlipProcessor) -> None:
    """`nncf.quantize` for vision model and text encoder, `nncf.compress_weights` for the decoder, as the notebook."""
    core = ov.Core()
    vision_model, text_encoder, text_decoder = (core.read_model(source / f"{part}.xml") for part in published.PARTS)
    compiled, pixels, questions = core.compile_model(vision_model, "CPU"), [], []
    for sample in calibration_samples():
        inputs = processor(images=sample["image"], text=sample["text"], return_tensors="np")
        pixels.append(inputs["pixel_values"])
        questions.append([inputs["input_ids"], inputs["attention_mask"], compiled(inputs["pixel_values"])[0]])
    for name, model, samples in (("vision_model", vision_model, pixels), ("text_encoder", text_encoder, questions)):
        quantized = nncf.quantize(model, nncf.Dataset(samples), model_type=nncf.ModelType.TRANSFORMER)
        ov.save_model(quantized, folder / f"{name}.xml")
    ov.save_model(nncf.compress_weights(text_decoder), folder / "text_decoder.xml")


def export_onnx(model: BlipForQuestionAnswering, folder: Path) -> None:
    """The four parts in float32; batch and lengths are dynamic, the image size is not."""
    decoder, size = model.text_decoder, model.config.vision_config.image_size
    past, cross = example_past(model, 3), example_past(model, 5)
    ids, mask, embeds = text_example(model, 2, 5)
    text, image, whole = {0: "batch", 1: "length"}, {0: "batch", 1: "image_tokens"}, {0: "batch", 1: "whole_length"}
    past_axes = [{0: "batch", 2: "past"}] * len(past)
    cross_axes = [{0: "batch", 2: "image_tokens"}] * len(cross)
    parts: dict[str, tuple[nn.Module, tuple, list[dict[int, str]]]] = {
        "vision_model": (Part(model.vision_model, encode_image), (torch.zeros(2, 3, size, size),), [{0: "batch"}]),
        "text_encoder": (Part(model.text_encoder, encode_question), text_example(model, 4, 4), [text, text, image]),
        "projections": (Part(decoder, project), (embeds,), [image]),
        "decoder_step": (
            Part(decoder, projected_step),
            (ids, mask, *past, *cross),
            [text, whole, *past_axes, *cross_axes],
        ),
    }
    for name, (module, example, axes) in parts.items():
        names = [f"input_{index}" for index in range(len(example))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a tracer warns of every Python number that comes from a shape
            torch.onnx.export(
                module.eval(),
                example,
                folder / f"{name}.onnx",
                input_names=names,
                dynamic_axes=dict(zip(names, axes, strict=True)),
                opset_version=20,
                dynamo=False,
            )


def quantize_onnx(source: Path, folder: Path) -> None:
    """ONNX Runtime's dynamic quantization: INT8 weights, activations quantized at each run."""
    for part in onnx_runtime.PARTS:
        quantize_dynamic(source / f"{part}.onnx", folder / f"{part}.onnx", weight_type=QuantType.QInt8)
