"""What the tests share: the embedded checkpoint in PyTorch and in OpenVINO, random models, easy-VQA as tensors."""

import io
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from filelock import FileLock
from PIL import Image
from playwright.sync_api import sync_playwright
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
from blip_openvino.data.easy_vqa import Question, load_captions, load_questions
from blip_openvino.evaluate.accuracy import Score, exact_match
from blip_openvino.evaluate.check import CheckReport, CheckRow
from blip_openvino.ir.calibration import calibration_dataset
from blip_openvino.ir.checkpoint import generate_caption, load_checkpoint, write
from blip_openvino.ir.convert import convert, convert_text_decoder, convert_text_encoder, convert_vision_model
from blip_openvino.ir.files import Part
from blip_openvino.ir.optimize import optimize
from blip_openvino.runtime.device import compile_part
from blip_openvino.runtime.processor import OVBlipProcessor
from notebook_utils import example_inputs

ROOT = Path(__file__).resolve().parent.parent
EMBEDDED = ROOT / "models" / "blip-scenes"
F32 = {"INFERENCE_PRECISION_HINT": "f32"}
F32_ONE_THREAD = F32 | {"INFERENCE_NUM_THREADS": 1}
"""For long runs: beside another process of tests a second thread costs half as much again and gains nothing."""
SETTINGS = {"FP16": {}, "INT8": {}, "INT4": {}, "FP16 in float32": F32}
"""What tests run at: the default settings of every precision (bf16 where the processor has it), float32 beside them."""
CHROMIUM = shutil.which("chromium")
CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")

SLOW = (
    *("test_blip_model.py", "test_package.py", "test_benchmarks.py"),
    *("test_convert.py", "test_optimize.py", "test_files.py", "test_check.py", "test_page_browser.py", "test_page.py"),
    *("test_instruction_sets.py", "test_threads.py", "test_device.py", "test_load.py"),
    *("test_pipeline.py", "test_resuming.py", "test_index.py", "test_cluster.py"),
)
"""Left out by `make check`, as are single tests that are marked so: what converts, quantizes or runs much."""


LONGEST = ("test_notebooks.py", "test_scene_checkpoints.py", "test_cluster.py", "test_jupyterlab.py", "test_family.py")
"""Run first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    for item in items:
        if item.path.name in SLOW:
            item.add_marker(pytest.mark.slow)


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
    parts = {
        Part.VISION_MODEL: convert_vision_model(model.vision_model),
        Part.TEXT_ENCODER: convert_text_encoder(model.text_encoder),
        Part.TEXT_DECODER: convert_text_decoder(model.text_decoder),
    }
    compiled = [compile_part(ov.Core(), ir, "CPU", part, "FP16", F32_ONE_THREAD) for part, ir in parts.items()]
    return OVBlipModel(model.config, model.decoder_start_token_id, *compiled)


def padded(rows: Iterable[Tensor | np.ndarray], width: int = 24) -> Tensor:
    """Token ids of several generations as one tensor, [rows, width]."""
    return torch.stack([torch.nn.functional.pad(torch.as_tensor(row), (0, width - len(row))) for row in rows])


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    """The image as the content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def differing(first: Tensor, second: Tensor) -> int:
    """How many rows of two sets of token ids are not the same."""
    return int((first != second).any(dim=1).sum())


def check_report(passed: bool) -> CheckReport:
    """A check's report of one row, which passed or did not."""
    return CheckReport(Path("folder"), "CPU", "FP16", (CheckRow("vision model", "as ever", 1 - passed, 0.5),))


class EasyVQA:
    """The test split of easy-VQA as the embedded model's inputs."""

    def __init__(self, processor: BlipProcessor):
        self.processor = processor
        self.questions: list[Question] = load_questions("test")
        self.paths = sorted({question.image_path for question in self.questions})
        images = [Image.open(path).convert("RGB") for path in self.paths]
        self.pixel_values: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
        row_of = {path: row for row, path in enumerate(self.paths)}
        self.image_row = [row_of[question.image_path] for question in self.questions]
        texts = processor(text=[question.question for question in self.questions])
        self.input_ids = [torch.tensor(ids) for ids in texts["input_ids"]]
        self.all = range(len(self.questions))
        self.sample = self.all[::19][:500]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some questions as one batch, padded."""
        ids = torch.nn.utils.rnn.pad_sequence([self.input_ids[index] for index in indices], batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def images(self, indices: Sequence[int]) -> Tensor:
        """The image of each of some questions, [B, 3, H, W]."""
        return self.pixel_values[[self.image_row[index] for index in indices]]

    @torch.inference_mode()
    def torch_answers(self, model: PreTrainedModel, indices: Sequence[int], **generate_kwargs) -> Tensor:
        """PyTorch's token ids for the chosen questions, step by step what `model.generate` does, each image once.

        Only questions of one length share a batch, without padding.
        """
        rows, place_of = np.unique([self.image_row[index] for index in indices], return_inverse=True)
        embeds = model.vision_model(self.pixel_values[rows]).last_hidden_state
        place_of = dict(zip(indices, place_of, strict=True))
        by_length = defaultdict(list)
        for index in indices:
            by_length[len(self.input_ids[index])].append(index)
        answers = {}
        for group in by_length.values():
            for batch in (group[start : start + 128] for start in range(0, len(group), 128)):
                seen = embeds[[place_of[index] for index in batch]]
                ids = torch.stack([self.input_ids[index] for index in batch])
                read = model.text_encoder(ids, encoder_hidden_states=seen).last_hidden_state
                answers.update(zip(batch, write(model, read, **generate_kwargs), strict=True))
        return padded([answers[index] for index in indices])

    def openvino_answers(self, model: OVBlipModel, indices: Sequence[int], **generate_kwargs) -> Tensor:
        """Ours for the same questions: image after image, with all questions about it at once, padded."""
        by_image = defaultdict(list)
        for index in indices:
            by_image[self.image_row[index]].append(index)
        # All images stay alive, so that none comes to lie where another was: a stale address would be read unseen.
        images, answers = [], {}
        for row, group in by_image.items():
            images.append(model.encode_images(self.pixel_values[row : row + 1]))
            ids = model.generate_answer(images[-1], **self.batch(group), **generate_kwargs)
            answers.update(zip(group, torch.as_tensor(ids), strict=True))
        return padded([answers[index] for index in indices])

    def answer_score(self, ids: Tensor) -> Score:
        """How many answers to all questions are right."""
        return exact_match(self.texts(ids), [question.answer for question in self.questions])

    def caption_score(self, ids: Tensor) -> Score:
        """How many captions of all images are right, of those whose caption is known."""
        expected = load_captions("test")
        said = dict(zip(self.paths, self.texts(ids), strict=True))
        return exact_match([said[path] for path in expected], list(expected.values()))

    def texts(self, ids: Tensor) -> list[str]:
        return self.processor.batch_decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="session")
def checkpoint() -> BlipForQuestionAnswering:
    return load_checkpoint(EMBEDDED)


@pytest.fixture(scope="session")
def processor() -> BlipProcessor:
    return BlipProcessor.from_pretrained(EMBEDDED)


@pytest.fixture(scope="session")
def ours() -> OVBlipProcessor:
    return OVBlipProcessor.from_pretrained(EMBEDDED)


@pytest.fixture(scope="session")
def easy_vqa(processor) -> EasyVQA:
    return EasyVQA(processor)


@pytest.fixture(scope="session")
def f32_model(checkpoint) -> OVBlipModel:
    return in_openvino(checkpoint)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], Path]], Path]:
    """Have `make` make a folder that all processes of the tests read: the first that needs it does, others wait."""
    processes = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        processes = processes.parent

    def made(name: str, make: Callable[[Path], Path]) -> Path:
        folder = processes / name
        folder.parent.mkdir(exist_ok=True)
        with FileLock(f"{folder}.lock"):
            return folder if folder.exists() else make(folder.with_suffix(".unfinished")).rename(folder)

    return made


@pytest.fixture(scope="session")
def converted(checkpoint, processor, made_once) -> Path:
    return made_once(f"converted/{EMBEDDED.name}", partial(convert, checkpoint, processor))


@pytest.fixture(scope="session")
def quantized(converted, made_once) -> Path:
    """The converted folder with INT8 and INT4 beside FP16."""

    def make(folder: Path) -> Path:
        shutil.copytree(converted, folder, dirs_exist_ok=True)
        for weights in ("int8", "int4"):
            optimize(folder, calibration_dataset(folder), weights)
        return folder

    return made_once(f"quantized/{EMBEDDED.name}", make)


@pytest.fixture(scope="session")
def fp16_model(converted) -> OVBlipModel:
    return OVBlipModel.from_pretrained(converted, "CPU")


@pytest.fixture(scope="session")
def models(quantized) -> dict[str, OVBlipModel]:
    """The embedded model at each of SETTINGS."""
    return {
        name: OVBlipModel.from_pretrained(quantized, "CPU", name[:4], ov_config) for name, ov_config in SETTINGS.items()
    }


@pytest.fixture(params=SETTINGS)
def model(request, models) -> OVBlipModel:
    return models[request.param]


@pytest.fixture(scope="session")
def torch_sample(easy_vqa, checkpoint) -> Tensor:
    """PyTorch's answers to the questions of `easy_vqa.sample`."""
    return easy_vqa.torch_answers(checkpoint, easy_vqa.sample)


@pytest.fixture(scope="session")
def retrieval_checkpoint() -> BlipForImageTextRetrieval:
    """A checkpoint that matches texts, with random weights, which are never sure, and the embedded one's sizes."""
    torch.manual_seed(0)
    config = BlipConfig.from_pretrained(EMBEDDED)
    config.trained_on = None  # it knows no scenes
    return draw_vectors(BlipForImageTextRetrieval(config).eval())


@pytest.fixture(scope="session")
def retrieval_folder(retrieval_checkpoint, processor, made_once) -> Path:
    return made_once("converted/blip-itm", partial(convert, retrieval_checkpoint, processor))


@pytest.fixture(scope="session")
def captions(easy_vqa, checkpoint) -> dict[str, str]:
    """By path, what PyTorch says of the first 20 images whose caption is known."""
    paths = list(load_captions("test"))[:20]
    pixel_values = easy_vqa.pixel_values[[easy_vqa.paths.index(path) for path in paths]]
    return dict(zip(paths, easy_vqa.texts(generate_caption(checkpoint, pixel_values)), strict=True))


@pytest.fixture
def photos(tmp_path, monkeypatch, converted, captions) -> dict[str, str]:
    """The folder `photos` in the current one, with pictures of easy-VQA: their paths and PyTorch's captions."""
    monkeypatch.setenv("BLIP_MODEL", str(converted))
    monkeypatch.chdir(tmp_path)
    expected = {}
    for index, (path, caption) in enumerate(captions.items()):
        copy = Path("photos", "sub" * (index % 3 == 0), f"{index:02}.png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
        expected[str(copy)] = caption
    return dict(sorted(expected.items()))


@pytest.fixture(scope="module")
def address(converted, tmp_path_factory):
    """Of the page that serves the converted folder."""
    from blip_openvino.apps.page import build_demo, launch_demo  # Gradio, which few tests need

    demo = build_demo(converted, example_inputs(EMBEDDED, tmp_path_factory.mktemp("examples")), "CPU")
    yield launch_demo(demo, prevent_thread_lock=True, inline=False)
    demo.close()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, for tests that are skipped where there is no `CHROMIUM`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
