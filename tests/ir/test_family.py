"""The checkpoints of the Hub by their geometry: at full width, with random weights, converted, quantized and run.

Question answering is base throughout (`blip-vqa-capfilt-large` too); captioning and retrieval are base and large.
"""

import numpy as np
import pytest
import torch
from conftest import F32, draw_vectors
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from benchmarks.checkpoint import blip_processor
from blip_model import OVBlipModel
from blip_openvino.evaluate.check import check_model
from blip_openvino.ir.calibration import calibration_dataset
from blip_openvino.ir.checkpoint import generate_caption, set_image_size
from blip_openvino.ir.convert import convert
from blip_openvino.ir.optimize import optimize

VISION = {
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16},
}
LAYERS = {"base": 12, "large": 24}
IMAGE_SIZE = 64
"""Of 384 in the checkpoints: pixels add tokens, and no weights but their positions."""


def geometry(size: str, layers: int | None = None) -> BlipConfig:
    """A configuration of the family, with so many layers in each part or all of them."""
    vision = VISION[size] | {"num_hidden_layers": layers or LAYERS[size], "image_size": IMAGE_SIZE, "patch_size": 16}
    text = {
        "encoder_hidden_size": vision["hidden_size"],
        "num_hidden_layers": layers or 12,
        "vocab_size": 30524,
        "bos_token_id": 30522,
        "eos_token_id": 102,
        "sep_token_id": 102,
        "pad_token_id": 0,
    }
    return BlipConfig(vision_config=vision, text_config=text, projection_dim=256, image_text_hidden_size=256)


def random_checkpoint(model_class, config: BlipConfig):
    torch.manual_seed(0)
    return draw_vectors(model_class(config).eval())


@torch.inference_mode()
@pytest.mark.parametrize(
    ("model_class", "size", "layers"),
    [
        (BlipForQuestionAnswering, "base", None),
        (BlipForConditionalGeneration, "base", 2),
        (BlipForConditionalGeneration, "large", 2),
        (BlipForImageTextRetrieval, "base", 2),
        (BlipForImageTextRetrieval, "large", 2),
    ],
)
def test_every_geometry_of_the_family_says_what_pytorch_says(tmp_path, model_class, size, layers):
    model = random_checkpoint(model_class, geometry(size, layers))
    model.config.trained_on = "scenes"  # pictures to calibrate on, without the Hub
    folder = convert(model, blip_processor(model.config), tmp_path)
    optimize(folder, calibration_dataset(folder, 3))
    pixel_values = torch.randn(2, 3, IMAGE_SIZE, IMAGE_SIZE)
    ids = torch.randint(1000, 20000, (2, 5))
    exact = OVBlipModel.from_pretrained(folder, "CPU", "FP16", F32)
    if model_class is BlipForImageTextRetrieval:
        expected = model(ids, pixel_values).itm_score.softmax(dim=1)[:, 1]
        assert exact.match(pixel_values, ids) == pytest.approx(expected, abs=1e-3)
        expected = model(ids, pixel_values, use_itm_head=False).itm_score
        found = exact.encode_images(pixel_values).features @ exact.text_features(ids).numpy().T
        assert found == pytest.approx(expected.numpy(), abs=1e-3)
    else:
        expected = generate_caption(model, pixel_values, max_new_tokens=3)
        assert exact.generate_caption(pixel_values, max_new_tokens=3).tolist() == expected.tolist()
    if model_class is BlipForQuestionAnswering:
        expected = model.generate(ids, pixel_values, max_new_tokens=3)
        assert exact.generate_answer(pixel_values, ids, max_new_tokens=3).tolist() == expected.tolist()
    assert check_model(exact, folder).passed
    quantized = OVBlipModel.from_pretrained(folder, "CPU")
    assert quantized.precision == "INT8"
    [embeds, of_quantized] = [each.encode_images(pixel_values).image_embeds for each in (exact, quantized)]
    assert np.sqrt(np.mean((embeds - of_quantized) ** 2)) < 0.03 * np.ptp(embeds)


@torch.inference_mode()
@pytest.mark.parametrize("image_size", [32, 96])
def test_other_image_sizes_interpolate_positions_as_transformers(tmp_path, image_size):
    model = random_checkpoint(BlipForConditionalGeneration, geometry("base", 2))
    pixel_values = torch.randn(2, 3, image_size, image_size)
    expected = model.vision_model(pixel_values, interpolate_pos_encoding=True).last_hidden_state
    written = model.generate(pixel_values, interpolate_pos_encoding=True, max_new_tokens=3)
    processor = blip_processor(model.config)
    set_image_size(model, processor, image_size)
    folder = convert(model, processor, tmp_path)
    converted = OVBlipModel.from_pretrained(folder, "CPU", "FP16", F32)
    assert converted.encode_images(pixel_values).image_embeds == pytest.approx(expected.numpy(), abs=0.02)
    assert converted.generate_caption(pixel_values, max_new_tokens=3).tolist() == written.tolist()
    with pytest.raises(ValueError, match="image size 50 is no multiple of the 16 pixels of a patch: take 48"):
        set_image_size(model, processor, 50)
