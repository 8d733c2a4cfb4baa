"""Plain IRs: the ports that everyone knows, and PyTorch's results whatever the geometry."""

import logging

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, random_model
from tiny import convert_random

from blip_model import OVBlipModel
from blip_openvino.evaluate.check import check_folder
from blip_openvino.ir import convert as convert_module
from blip_openvino.ir.calibration import calibration_dataset
from blip_openvino.ir.checkpoint import load_checkpoint
from blip_openvino.ir.convert import convert_text_decoder, convert_text_encoder, convert_vision_model
from blip_openvino.ir.files import Part, cache_names
from blip_openvino.ir.optimize import optimize
from blip_openvino.runtime.split import keys_and_values


@pytest.fixture(params=["embedded", 1, 2, 3], ids=str)
def model(request, checkpoint):
    return checkpoint if request.param == "embedded" else random_model(request.param)


def compiled(model: ov.Model) -> ov.CompiledModel:
    return ov.Core().compile_model(model, "CPU", F32)


def assert_close(found: np.ndarray, expected: torch.Tensor) -> None:
    """The largest difference is within a thousandth of the reference's range."""
    expected = expected.numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * (expected.max() - expected.min())


def random_ids(model, rows: int, length: int) -> torch.Tensor:
    return torch.randint(5, model.config.text_config.vocab_size, (rows, length))


def random_tokens(model, rows: int, visible: list[int]) -> tuple[list[torch.Tensor], dict[str, np.ndarray]]:
    """Encoder tokens cut off where each row's mask ends, as PyTorch needs them, and masked, as the IR takes them."""
    tokens = torch.randn(rows, max(visible), model.config.text_config.encoder_hidden_size)
    mask = (np.arange(max(visible)) < np.array(visible)[:, None]).astype(np.int64)
    cut = [row[None, :end] for row, end in zip(tokens, visible, strict=True)]
    return cut, {"encoder_hidden_states": tokens.numpy(), "encoder_attention_mask": mask}


@torch.inference_mode()
def test_vision_model_equals_pytorch(model):
    size = model.config.vision_config.image_size
    pixel_values = torch.randn(1, 3, size, size)
    found = compiled(convert_vision_model(model.vision_model))(pixel_values.numpy())[0]
    assert_close(found, model.vision_model(pixel_values).last_hidden_state)


@torch.inference_mode()
def test_text_encoder_equals_pytorch_with_padding_and_rows_that_share_an_image(model):
    images, inputs = random_tokens(model, 2, [11, 7])
    ids, lengths = random_ids(model, 4, 8), [8, 5, 6, 8]
    mask = (np.arange(8) < np.array(lengths)[:, None]).astype(np.int64)
    inputs |= {"input_ids": ids.numpy(), "attention_mask": mask}
    found = compiled(convert_text_encoder(model.text_encoder))(inputs)["last_hidden_state"]
    for row, length in enumerate(lengths):
        expected = model.text_encoder(ids[row : row + 1, :length], encoder_hidden_states=images[row // 2])
        assert_close(found[row, :length], expected.last_hidden_state[0])


@torch.inference_mode()
def test_text_decoder_equals_pytorch_at_every_position_step_by_step_and_padded_on_the_left(model):
    seen, inputs = random_tokens(model, 2, [9, 6])
    ids, padding = random_ids(model, 4, 7), [0, 3, 1, 0]
    mask = (np.arange(7) >= np.array(padding)[:, None]).astype(np.int64)
    text = model.config.text_config
    no_past = np.zeros((4, text.num_attention_heads, 0, text.hidden_size // text.num_attention_heads), np.float32)
    past = dict.fromkeys(cache_names("past", text.num_hidden_layers), no_past)
    decoder, logits = compiled(convert_text_decoder(model.text_decoder)), []
    for start, end in ((0, 3), (3, 4), (4, 7)):
        new = {"input_ids": ids[:, start:end].numpy(), "attention_mask": mask[:, :end]}
        outputs = decoder(inputs | past | new)
        past = {name: outputs[name.replace("past", "present")] for name in past}
        logits.append(outputs["logits"].copy())
    found = np.concatenate(logits, axis=1)
    for row, start in enumerate(padding):
        expected = model.text_decoder(ids[row : row + 1, start:], encoder_hidden_states=seen[row // 2])
        assert_close(found[row, start:], expected.logits[0])


@pytest.mark.parametrize("precision", ["FP16", "INT8", "INT4"])
def test_ports_are_those_of_the_published_recipe(quantized, checkpoint, precision):
    def ports(part: Part) -> tuple[list[tuple[str, str]], list[str]]:
        model = ov.Core().read_model(quantized / part.file(precision))
        inputs = [(port.any_name, str(port.partial_shape)) for port in model.inputs]
        return inputs, [port.any_name for port in model.outputs]

    names = ["input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask"]
    config, size = checkpoint.config.text_config, checkpoint.config.vision_config.image_size
    width, heads, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    texts = list(zip(names, ["[?,?]", "[?,?]", f"[?,?,{width}]", "[?,?]"], strict=True))
    past = [(name, f"[?,{heads},?,{width // heads}]") for name in cache_names("past", layers)]
    assert ports(Part.VISION_MODEL) == ([("pixel_values", f"[1,3,{size},{size}]")], ["last_hidden_state"])
    assert ports(Part.TEXT_ENCODER) == (texts, ["last_hidden_state"])
    assert ports(Part.TEXT_DECODER) == ([*texts, *past], ["logits", *cache_names("present", layers)])
    for part in (Part.TEXT_ENCODER, Part.TEXT_DECODER):
        inner = keys_and_values(ov.Core().read_model(quantized / part.file(precision)))
        shape = f"[2,?,{heads},?,{width // heads}]"
        assert {name: str(made.get_partial_shape()) for name, made in inner.items()} == {
            f"cross.{layer}": shape for layer in range(layers)
        }


def test_same_weights_are_reused_and_others_made_anew_without_the_quantized_files_of_the_old(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    folder = convert_random(1, tmp_path, trained_on="scenes")
    optimize(folder, calibration_dataset(folder, 4))
    caplog.clear()
    convert_random(1, tmp_path, trained_on="scenes")
    assert caplog.text.count("reused") == 3
    assert len(list(folder.glob("*_int8.*"))) == 6
    convert_random(2, tmp_path)
    assert caplog.text.count("making it, the one there has checkpoint") == 3
    assert caplog.text.count("removed, the one there has checkpoint") == 3
    assert not list(folder.glob("*_int8.*"))
    assert check_folder(folder, "CPU", ov_config=F32).passed


def test_folder_of_another_converter_version_names_the_command_and_is_made_anew_by_it(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "CONVERTER_VERSION", "0")
        convert_random(1, tmp_path)
    command = f"run blip-ov convert CHECKPOINT --output {tmp_path}"
    with pytest.raises(ValueError, match=rf"version 0, this is \d+: {command}"):
        OVBlipModel.from_pretrained(tmp_path, "CPU")
    convert_random(1, tmp_path)
    OVBlipModel.from_pretrained(tmp_path, "CPU")


def test_checkpoint_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    with pytest.raises(ValueError, match="is BertForMaskedLM; only these are converted: BlipForQuestionAnswering"):
        load_checkpoint(tmp_path)
