"""Random models of a moment's size, converted."""

from pathlib import Path

from conftest import random_model
from transformers import BlipForQuestionAnswering, PreTrainedModel

from benchmarks.checkpoint import blip_processor
from blip_openvino.ir.convert import convert


def convert_random(
    seed: int,
    folder: Path,
    model_class: type[PreTrainedModel] = BlipForQuestionAnswering,
    trained_on: str | None = None,
) -> Path:
    """Convert the random model of a seed, as trained on some data set, into `folder`."""
    model = random_model(seed, model_class)
    model.config.trained_on = trained_on
    return convert(model, blip_processor(model.config), folder)
