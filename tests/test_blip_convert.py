import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import EMBEDDED, F32, ROOT, random_model
from transformers import BlipForConditionalGeneration, BlipForImageTextRetrieval

from blip_model import OVBlipModel
from blip_openvino.ir import convert as blip_convert
from blip_openvino.ir.checkpoint import checkpoint_digest, load_checkpoint
from blip_openvino.ir.convert import (
    cache_names,
    convert,
    convert_text_decoder,
    convert_text_encoder,
    convert_vision_model,
)
from blip_openvino.ir.files import (
    PARTS_OF_ARCHITECTURE,
    TEXT_DECODER,
    TEXT_ENCODER,
    VISION_MODEL,
    ensure_ir,
    read_stamp,
    save_ir,
)
from blip_openvino.runtime.split import keep_projections, release_projections

VOCABULARY_START = 5


@pytest.fixture(params=["embedded", "random 1", "random 2", "random 3", "random 4"])
def model(request, checkpoint):
    return checkpoint if request.param == "embedded" else random_model(int(request.param.split()[1]))


def compiled(model: ov.Model) -> ov.CompiledModel:
    return ov.Core().compile_model(model, "CPU", F32)


def assert_close(found: np.ndarray, expected: torch.Tensor) -> None:
    """The largest difference is within a thousandth of the reference's range."""
    expected = expected.detach().numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-3 * (expected.max() - expected.min())


def random_text(model, rows: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY_START, model.config.text_config.vocab_size, (rows, length))


def decoder_inputs(input_ids: torch.Tensor, length: int, encoder_hidden_states: torch.Tensor, beam_idx=None) -> dict:
    """The text decoder's inputs for its next tokens, after which the text is `length` long; nothing is masked."""
    rows = len(input_ids)
    return {
        "input_ids": input_ids.numpy(),
        "attention_mask": np.ones((rows, length), np.int64),
        "encoder_hidden_states": encoder_hidden_states.numpy(),
        "encoder_attention_mask": np.ones(encoder_hidden_states.shape[:2], np.int64),
        "beam_idx": np.array(range(rows) if beam_idx is None else beam_idx, np.int32),
    }


@torch.inference_mode()
def test_vision_model_matches_pytorch(model):
    size = model.config.vision_config.image_size
    pixel_values = torch.randn(1, 3, size, size)
    converted = convert_vision_model(model.vision_model)
    assert list(converted.input("pixel_values").shape) == [1, 3, size, size]
    assert_close(compiled(converted)(pixel_values.numpy())[0], model.vision_model(pixel_values).last_hidden_state)


@torch.inference_mode()
def test_text_encoder_matches_pytorch_with_padding_and_a_shared_image(model):
    image_embeds = torch.randn(1, 11, model.config.text_config.encoder_hidden_size)
    input_ids, attention_mask = random_text(model, 3, 8), torch.ones(3, 8, dtype=torch.int64)
    attention_mask[1, 5:] = 0
    expected = model.text_encoder(
        input_ids, attention_mask, encoder_hidden_states=image_embeds.expand(3, -1, -1)
    ).last_hidden_state
    found = compiled(convert_text_encoder(model.text_encoder))(
        {
            "input_ids": input_ids.numpy(),
            "attention_mask": attention_mask.numpy(),
            "encoder_hidden_states": image_embeds.numpy(),
            "encoder_attention_mask": np.ones((1, 11), np.int64),
        }
    )
    assert_close(found["last_hidden_state"], expected)


@torch.inference_mode()
def test_text_decoder_matches_pytorch_step_by_step_and_after_a_reset(model):
    width = model.config.text_config.encoder_hidden_size
    request = compiled(convert_text_decoder(model.text_decoder)).create_infer_request()
    for encoder_length, rows in ((7, 1), (4, 3), (7, 1)):
        request.reset_state()
        encoder_hidden_states = torch.randn(rows, encoder_length, width)
        input_ids = random_text(model, rows, 7)
        expected = model.text_decoder(input_ids, encoder_hidden_states=encoder_hidden_states).logits
        for start, end in ((0, 3), (3, 4), (4, 5), (5, 7)):
            found = request.infer(decoder_inputs(input_ids[:, start:end], end, encoder_hidden_states))
            assert_close(found["logits"], expected[:, end - 1 : end])


@torch.inference_mode()
def test_text_decoder_does_not_see_masked_encoder_tokens(model):
    """PyTorch's decoder drops the encoder's mask, so the reference is the encoder's tokens cut off where it ends."""
    request = compiled(convert_text_decoder(model.text_decoder)).create_infer_request()
    encoder_hidden_states = torch.randn(1, 9, model.config.text_config.encoder_hidden_size)
    input_ids = random_text(model, 1, 4)
    inputs = decoder_inputs(input_ids, 4, encoder_hidden_states)
    inputs["encoder_attention_mask"][:, 6:] = 0
    expected = model.text_decoder(input_ids, encoder_hidden_states=encoder_hidden_states[:, :6]).logits
    assert_close(request.infer(inputs)["logits"], expected[:, -1:])


@torch.inference_mode()
def test_text_decoder_goes_on_from_the_cache_rows_that_beam_idx_names(model):
    request = compiled(convert_text_decoder(model.text_decoder)).create_infer_request()
    encoder_hidden_states = torch.randn(1, 6, model.config.text_config.encoder_hidden_size)
    first, second, order = random_text(model, 3, 4), random_text(model, 3, 1), [2, 0, 0]
    request.infer(decoder_inputs(first, 4, encoder_hidden_states))
    found = request.infer(decoder_inputs(second, 5, encoder_hidden_states, beam_idx=order))
    expected = model.text_decoder(
        torch.cat([first[order], second], dim=1), encoder_hidden_states=encoder_hidden_states.expand(3, -1, -1)
    ).logits
    assert_close(found["logits"], expected[:, -1:])


@torch.inference_mode()
def test_text_encoder_looks_at_an_image_once_and_at_the_next_after_a_reset(model):
    request = compiled(convert_text_encoder(model.text_encoder)).create_infer_request()
    image, other = torch.randn(2, 1, 9, model.config.text_config.encoder_hidden_size)
    for shown, seen, reset in ((image, image, True), (other, image, False), (other, other, True)):
        if reset:
            request.reset_state()
        input_ids = random_text(model, 1, 5)
        found = request.infer(
            {
                "input_ids": input_ids.numpy(),
                "attention_mask": np.ones((1, 5), np.int64),
                "encoder_hidden_states": shown.numpy(),
                "encoder_attention_mask": np.ones((1, 9), np.int64),
            }
        )
        expected = model.text_encoder(input_ids, encoder_hidden_states=seen).last_hidden_state
        assert_close(found["last_hidden_state"], expected)


@torch.inference_mode()
def test_released_projections_are_outputs_and_can_be_kept_again(model):
    converted = convert_text_decoder(model.text_decoder)
    layers = model.config.text_config.num_hidden_layers
    names = release_projections(converted)
    assert set(names) == set(cache_names("cross", layers))
    assert len(converted.get_variables()) == 2 * layers
    assert len(converted.outputs) == 1 + 2 * layers
    keep_projections(converted, names)
    assert len(converted.get_variables()) == 4 * layers
    assert len(converted.outputs) == 1
    input_ids, encoder_hidden_states = random_text(model, 2, 4), torch.randn(2, 6, model.config.text_config.hidden_size)
    request = compiled(converted).create_infer_request()
    expected = model.text_decoder(input_ids, encoder_hidden_states=encoder_hidden_states).logits
    for start, end in ((0, 3), (3, 4)):
        found = request.infer(decoder_inputs(input_ids[:, start:end], end, encoder_hidden_states))
        assert_close(found["logits"], expected[:, end - 1 : end])


def test_cross_attention_is_projected_at_the_first_step_only(checkpoint):
    """After the first step the encoder's tokens are not looked at again: nonsense there changes nothing."""
    request = compiled(convert_text_decoder(checkpoint.text_decoder)).create_infer_request()
    encoder_hidden_states = np.random.default_rng(0).standard_normal((1, 9, 128), np.float32)

    def two_steps(at_second_step: np.ndarray) -> np.ndarray:
        request.reset_state()
        for length, encoder in ((1, encoder_hidden_states), (2, at_second_step)):
            outputs = request.infer(decoder_inputs(torch.full((1, 1), 7), length, torch.from_numpy(encoder)))
        return outputs["logits"].copy()

    assert np.array_equal(two_steps(encoder_hidden_states), two_steps(np.zeros_like(encoder_hidden_states)))


def test_decoder_inputs_keep_their_names(converted):
    names = [port.any_name for port in ov.Core().read_model(converted / TEXT_DECODER).inputs]
    assert names == ["input_ids", "attention_mask", "encoder_hidden_states", "encoder_attention_mask", "beam_idx"]


def test_weights_are_saved_in_fp16(converted, checkpoint):
    for part, module in ((VISION_MODEL, checkpoint.vision_model), (TEXT_DECODER, checkpoint.text_decoder)):
        parameters = sum(parameter.numel() for parameter in module.parameters())
        size = (converted / part).with_suffix(".bin").stat().st_size
        assert 2 * parameters <= size + 2 * 256 * 128 < 2.5 * parameters + 2 * 256 * 128


def test_second_conversion_reuses_every_ir(checkpoint, processor, converted, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in converted.glob("*.bin")}
    convert(checkpoint, processor, converted)
    assert before == {path.name: path.stat().st_mtime_ns for path in converted.glob("*.bin")}
    assert capsys.readouterr().out.count("reused") == 3


def test_ir_of_other_weights_is_made_anew(processor, tmp_path, capsys):
    for seed in (1, 1, 2):
        model = random_model(seed)
        convert(model, processor, tmp_path)
        said = capsys.readouterr().out
        assert said.count("reused") == (3 if seed == 1 and "reused" in said else 0)
    assert said.count("the one there has checkpoint") == 3
    stamp = read_stamp(ov.Core().read_model(tmp_path / VISION_MODEL))
    assert stamp["checkpoint"] == checkpoint_digest(model)


def test_ir_of_another_converter_version_is_made_anew(processor, tmp_path, capsys, monkeypatch):
    model = random_model(1)
    monkeypatch.setattr(blip_convert, "CONVERTER_VERSION", "0")
    convert(model, processor, tmp_path)
    monkeypatch.undo()
    capsys.readouterr()
    convert(model, processor, tmp_path)
    assert capsys.readouterr().out.count("the one there has converter 0") == 3


def test_ir_that_cannot_be_read_is_made_anew(processor, tmp_path, capsys):
    model = random_model(1)
    convert(model, processor, tmp_path)
    (tmp_path / VISION_MODEL).write_bytes((tmp_path / VISION_MODEL).read_bytes()[:1000])
    (tmp_path / TEXT_ENCODER).with_suffix(".bin").unlink()
    capsys.readouterr()
    convert(model, processor, tmp_path)
    said = capsys.readouterr().out
    assert f"{VISION_MODEL}: making it, the one there cannot be read" in said
    assert f"{TEXT_ENCODER}: making it, the one there cannot be read" in said
    OVBlipModel.from_pretrained(tmp_path, "CPU")


def test_failed_conversion_leaves_what_was_there(tmp_path):
    save_ir(convert_vision_model(random_model(1).vision_model), tmp_path / VISION_MODEL, {"checkpoint": "old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail() -> ov.Model:
        raise MemoryError("no memory left for the weights")

    with pytest.raises(MemoryError):
        ensure_ir(tmp_path / VISION_MODEL, {"checkpoint": "new"}, fail)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("part", PARTS_OF_ARCHITECTURE["BlipForQuestionAnswering"])
def test_conversion_killed_while_saving_leaves_no_finished_looking_file_and_can_be_repeated(part, tmp_path):
    """The process is stopped by SIGKILL in the middle of `part`'s saving; before it, other weights were there."""
    script = f"""
import os, signal, openvino as ov
from blip_openvino.ir.convert import convert
from conftest import random_model, EMBEDDED
from transformers import BlipProcessor
processor = BlipProcessor.from_pretrained(EMBEDDED)
convert(random_model(1), processor, {str(tmp_path)!r})
save = ov.save_model
def save_and_die(model, path, **options):
    save(model, path, **options)
    if path.name == {part!r}:
        with open(path.with_suffix(".bin"), "r+b") as file:
            file.truncate(file.seek(0, 2) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
ov.save_model = save_and_die
convert(random_model(2), processor, {str(tmp_path)!r})
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    stamps = {read_stamp(ov.Core().read_model(path))["checkpoint"] for path in tmp_path.glob("*.xml")}
    assert stamps <= {checkpoint_digest(random_model(1)), checkpoint_digest(random_model(2))}
    with pytest.raises(ValueError, match="was made from checkpoint"):
        OVBlipModel.from_pretrained(tmp_path, "CPU")

    processor = blip_convert.BlipProcessor.from_pretrained(EMBEDDED)
    convert(random_model(2), processor, tmp_path)
    assert not list(tmp_path.glob(".unfinished-*"))
    OVBlipModel.from_pretrained(tmp_path, "CPU")


def test_command_line_converts_into_the_named_folder(tmp_path):
    command = [sys.executable, "blip_convert.py", str(EMBEDDED), "--output", str(tmp_path / "made")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "is ready" in done.stdout
    assert {path.name for path in (tmp_path / "made").glob("*.xml")} == {VISION_MODEL, TEXT_ENCODER, TEXT_DECODER}


def test_captioning_checkpoint_converts_and_captions_as_pytorch(processor, tmp_path):
    random_model(5, BlipForConditionalGeneration).save_pretrained(tmp_path / "checkpoint")
    model = load_checkpoint(tmp_path / "checkpoint")
    found = OVBlipModel.from_pretrained(convert(model, processor, tmp_path / "ir"), "CPU", ov_config=F32)
    size = model.config.vision_config.image_size
    pixel_values = torch.randn(2, 3, size, size)
    assert found.generate_caption(pixel_values).tolist() == model.generate(pixel_values).tolist()
    with pytest.raises(ValueError, match="has no text encoder"):
        found.generate_answer(pixel_values, random_text(model, 2, 4))


@torch.inference_mode()
def test_retrieval_checkpoint_converts_and_matches_as_pytorch(processor, tmp_path):
    random_model(6, BlipForImageTextRetrieval).save_pretrained(tmp_path / "checkpoint")
    model = load_checkpoint(tmp_path / "checkpoint")
    found = OVBlipModel.from_pretrained(convert(model, processor, tmp_path / "ir"), "CPU", ov_config=F32)
    size = model.config.vision_config.image_size
    pixel_values, input_ids = torch.randn(3, 3, size, size), random_text(model, 3, 6)
    expected = model(input_ids, pixel_values, attention_mask=torch.ones_like(input_ids)).itm_score.softmax(dim=1)[:, 1]
    assert torch.allclose(found.match(pixel_values, input_ids), expected, atol=1e-3)
    with pytest.raises(ValueError, match="has no text decoder"):
        found.generate_caption(pixel_values)


def test_checkpoint_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}')
    with pytest.raises(ValueError, match="is BertForMaskedLM; only these are converted: BlipForQuestionAnswering"):
        load_checkpoint(tmp_path)


def test_pickled_weights_are_refused(tmp_path):
    shutil.copy(EMBEDDED / "config.json", tmp_path)
    torch.save(random_model(1).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_checkpoint(tmp_path)
