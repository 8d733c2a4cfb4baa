"""What the tests share: the embedded checkpoint in PyTorch and in OpenVINO, random models, easy-VQA as tensors."""

import io
import random
from collections import defaultdict
from pathlib import Path

import openvino as ov
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BlipConfig,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
    BlipProcessor,
    PreTrainedModel,
)

from benchmarks.checkpoint import draw_vectors
from blip_model import OVBlipModel
from blip_openvino.ir.checkpoint import generate_caption, load_checkpoint
from blip_openvino.ir.convert import convert, convert_text_decoder, convert_text_encoder, convert_vision_model
from blip_openvino.ir.easy_vqa import Question, load_questions

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "models" / "blip-easy-vqa"
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def random_model(seed: int, model_class: type[PreTrainedModel] = BlipForQuestionAnswering) -> PreTrainedModel:
    """A BLIP with random weights and a geometry drawn from `seed`: heads, layers, image size, widths."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    width, patch = draw.choice([32, 48, 64]), draw.choice([8, 16])
    vision = {
        "hidden_size": width,
        "num_attention_heads": draw.choice([2, 4]),
        "num_hidden_layers": draw.randint(1, 3),
        "intermediate_size": 2 * width,
        "image_size": patch * draw.randint(2, 5),
        "patch_size": patch,
        "initializer_range": 0.1,
    }
    text = {
        "hidden_size": width,
        "encoder_hidden_size": width,
        "num_attention_heads": draw.choice([2, 4]),
        "num_hidden_layers": draw.randint(1, 3),
        "intermediate_size": 2 * width,
        "vocab_size": draw.randint(80, 120),
        "max_position_embeddings": 64,
        "bos_token_id": 3,
        "sep_token_id": 4,
        "eos_token_id": 4,
        "pad_token_id": 0,
        "initializer_range": 0.3,
    }
    return draw_vectors(model_class(BlipConfig(vision_config=vision, text_config=text)).eval())


def in_openvino(model: PreTrainedModel) -> OVBlipModel:
    """`model` over IRs in memory, all float32: what parity with PyTorch is measured on."""
    core = ov.Core()
    parts = [
        convert_vision_model(model.vision_model),
        convert_text_encoder(model.text_encoder),
        convert_text_decoder(model.text_decoder),
    ]
    compiled = [core.compile_model(part, "CPU", F32) for part in parts]
    return OVBlipModel(model.config, model.decoder_start_token_id, *compiled)


def padded(rows: list[Tensor], width: int = 24) -> Tensor:
    """Token ids of several generations as one tensor, [rows, width]."""
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


def picture() -> Image.Image:
    """An easy-VQA picture, whose shape and colours a model can tell only if nothing went wrong on the way."""
    with Image.open(load_questions("test")[0].image_path) as image:
        return image.convert("RGB")


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """The image as the content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


class EasyVQA:
    """The test split of easy-VQA as the embedded model's inputs."""

    def __init__(self, processor: BlipProcessor):
        self.questions: list[Question] = load_questions("test")
        self.paths = sorted({question.image_path for question in self.questions})
        images = [Image.open(path).convert("RGB") for path in self.paths]
        self.pixel_values: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
        row_of = {path: row for row, path in enumerate(self.paths)}
        self.image_row = [row_of[question.image_path] for question in self.questions]
        self.input_ids = [
            torch.tensor(ids) for ids in processor(text=[question.question for question in self.questions])["input_ids"]
        ]

    def torch_answers(self, model: PreTrainedModel, indices: range | list[int], **generate_kwargs) -> Tensor:
        """PyTorch's token ids for the chosen questions; only questions of one length share a batch, without padding."""
        by_length = defaultdict(list)
        for index in indices:
            by_length[len(self.input_ids[index])].append(index)
        answers = {}
        for group in by_length.values():
            for batch in (group[start : start + 128] for start in range(0, len(group), 128)):
                ids = model.generate(
                    input_ids=torch.stack([self.input_ids[index] for index in batch]),
                    pixel_values=self.pixel_values[[self.image_row[index] for index in batch]],
                    **generate_kwargs,
                )
                answers.update(zip(batch, ids, strict=True))
        return padded([answers[index] for index in indices])

    def openvino_answers(self, model: OVBlipModel, indices: range | list[int], **generate_kwargs) -> Tensor:
        """Ours for the same questions: all questions about an image at once, padded, the image encoded once."""
        by_image = defaultdict(list)
        for index in indices:
            by_image[self.image_row[index]].append(index)
        answers = {}
        for row, group in by_image.items():
            input_ids = torch.nn.utils.rnn.pad_sequence([self.input_ids[index] for index in group], batch_first=True)
            ids = model.generate_answer(
                self.pixel_values[row : row + 1], input_ids, (input_ids > 0).long(), **generate_kwargs
            )
            answers.update(zip(group, ids, strict=True))
        return padded([answers[index] for index in indices])


@pytest.fixture(scope="session")
def checkpoint() -> BlipForQuestionAnswering:
    return load_checkpoint(EMBEDDED)


@pytest.fixture(scope="session")
def processor() -> BlipProcessor:
    return BlipProcessor.from_pretrained(EMBEDDED)


@pytest.fixture(scope="session")
def easy_vqa(processor) -> EasyVQA:
    return EasyVQA(processor)


@pytest.fixture(scope="session")
def f32_model(checkpoint) -> OVBlipModel:
    return in_openvino(checkpoint)


@pytest.fixture(scope="session")
def converted(checkpoint, processor, tmp_path_factory) -> Path:
    return convert(checkpoint, processor, tmp_path_factory.mktemp("converted") / "blip-easy-vqa")


@pytest.fixture(scope="session")
def fp16_model(converted) -> OVBlipModel:
    return OVBlipModel.from_pretrained(converted, "CPU", ov_config=F32)


@pytest.fixture(scope="session")
def all_questions(easy_vqa):
    return range(len(easy_vqa.questions))


@pytest.fixture(scope="session")
def torch_greedy(easy_vqa, checkpoint, all_questions):
    return easy_vqa.torch_answers(checkpoint, all_questions)


@pytest.fixture(scope="session")
def torch_captions(easy_vqa, checkpoint):
    return padded(list(generate_caption(checkpoint, easy_vqa.pixel_values)))


@pytest.fixture(scope="session")
def retrieval_checkpoint(checkpoint) -> BlipForImageTextRetrieval:
    """A checkpoint that matches texts, with random weights and the embedded one's sizes."""
    torch.manual_seed(0)
    return draw_vectors(BlipForImageTextRetrieval(checkpoint.config).eval())


@pytest.fixture(scope="session")
def retrieval_folder(retrieval_checkpoint, processor, tmp_path_factory) -> Path:
    return convert(retrieval_checkpoint, processor, tmp_path_factory.mktemp("converted") / "blip-itm")
