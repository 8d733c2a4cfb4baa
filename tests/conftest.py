"""What the tests share: the embedded checkpoint in PyTorch and in OpenVINO, random models, easy-VQA as tensors."""

import io
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch
from easy_vqa_inputs import EasyVQA
from easy_vqa_inputs import padded as padded  # for tests, which look for helpers here
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
from blip_openvino.apps import options, search_commands
from blip_openvino.apps.blip import Blip
from blip_openvino.apps.load import load
from blip_openvino.data.easy_vqa import load_captions
from blip_openvino.evaluate.check import CheckReport, CheckRow
from blip_openvino.ir.calibration import calibration_dataset
from blip_openvino.ir.checkpoint import generate_caption, load_checkpoint
from blip_openvino.ir.convert import convert, convert_text_decoder, convert_text_encoder, convert_vision_model
from blip_openvino.ir.files import Part
from blip_openvino.ir.optimize import optimize
from blip_openvino.runtime.device import compile_parts
from blip_openvino.runtime.encoded import TextModel
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
    *("test_convert.py", "test_family.py", "test_optimize.py", "test_files.py", "test_check.py"),
    *("test_page_browser.py", "test_page.py", "test_instruction_sets.py", "test_threads.py", "test_device.py"),
    *("test_load.py", "test_pipeline.py", "test_resuming.py", "test_index.py", "test_cluster.py"),
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
    compiled = compile_parts(ov.Core(), parts, "CPU", "FP16", F32_ONE_THREAD)
    return OVBlipModel(model.config, model.decoder_start_token_id, *compiled.values())


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
    """Its test split as the embedded model's inputs."""
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


@pytest.fixture
def loaded(monkeypatch) -> list[Blip]:
    """The models that commands have loaded."""
    made = []

    def keeping(*given) -> Blip:
        made.append(load(*given))
        return made[-1]

    for commands in (options, search_commands):
        monkeypatch.setattr(commands, "load", keeping)
    return made


@pytest.fixture
def projected(monkeypatch) -> list[tuple[TextModel, int]]:
    """Which text models have made keys and values, and of how many rows."""
    made, project = [], TextModel.project

    def counting(self: TextModel, hidden_states: np.ndarray) -> dict[str, ov.Tensor]:
        made.append((self, len(hidden_states)))
        return project(self, hidden_states)

    monkeypatch.setattr(TextModel, "project", counting)
    return made


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
    yield launch_demo(demo)
    demo.close()


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium, for tests that are skipped where there is no `CHROMIUM`."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()
