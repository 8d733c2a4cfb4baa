"""The check passes what is right and fails whatever is broken, in every precision at default settings."""

import shutil
from collections.abc import Callable
from functools import partial

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, random_model
from openvino import opset13 as opset

from benchmarks.checkpoint import blip_processor
from blip_model import OVBlipModel
from blip_openvino.evaluate.check import CheckReport, check_folder
from blip_openvino.ir.convert import convert
from blip_openvino.ir.files import CROSS, Part, read_ir, read_stamp, save_ir
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncoderTokens
from blip_openvino.runtime.split import insert_after, keys_and_values


@pytest.mark.parametrize("ov_config", [None, F32], ids=["default", "float32"])
@pytest.mark.parametrize("precision", ["FP16", "INT8", "INT4"])
def test_right_models_are_well_inside_the_tolerances(quantized, precision, ov_config):
    report = check_folder(quantized, "CPU", precision, ov_config)
    assert report.passed, str(report)
    assert {row.part for row in report.rows} == {"vision model", "captions", "answers"}
    assert max(row.error / row.tolerance for row in report.rows if not row.unit) < 1 / 1.5
    assert sum(row.unit == " tokens" for row in report.rows) == 2


def silenced(name: str) -> Callable[[ov.Model], None]:
    """One product gives zeros, as zeros for weights would."""

    def damage(model: ov.Model) -> None:
        [product] = [node for node in model.get_ordered_ops() if node.get_friendly_name() == f"__module.{name}/MatMul"]
        insert_after(product.output(0), lambda output: opset.multiply(output, opset.constant(np.float32(0))))

    return damage


def silenced_values(model: ov.Model) -> None:
    """The values that the third layer looks at are zeros."""
    products = keys_and_values(model)["cross.2"].get_node().input_value(0)  # [E, N, 2, heads, head size]
    keys_alone = opset.constant(np.float32([1, 0]).reshape(2, 1, 1))
    insert_after(products, lambda output: opset.multiply(output, keys_alone))


def shifted(model: ov.Model) -> None:
    """Every position of the decoder is one too high."""
    [positions] = [node for node in model.get_ordered_ops() if node.get_type_name() == "Maximum"]
    insert_after(positions.output(0), lambda output: opset.add(output, opset.constant(1, output.get_element_type())))


@pytest.mark.parametrize(
    ("part", "damage"),
    [
        (Part.VISION_MODEL, silenced("layers.0.mlp.fc2/aten::linear")),
        (Part.TEXT_ENCODER, silenced("layers.2.output.dense/aten::linear")),
        (Part.TEXT_DECODER, silenced_values),
        (Part.TEXT_DECODER, shifted),
    ],
    ids=["vision, feed-forward", "text encoder", "values", "positions"],
)
def test_wrong_model_files_fail_at_the_precision_that_tolerates_most(quantized, tmp_path, part, damage):
    folder = shutil.copytree(quantized, tmp_path / "copy")
    model = read_ir(ov.Core(), folder / part.file("INT4"))
    damage(model)
    save_ir(model, folder / part.file("INT4"), read_stamp(model))
    assert_fails(check_folder(folder, "CPU", "INT4"))


def assert_fails(report: CheckReport) -> None:
    assert not report.passed
    assert "WRONG" in str(report)
    assert "--inference-precision f32" in str(report)


def change_tensors(patch: pytest.MonkeyPatch, change) -> None:
    """Have every request look at what `change` makes of the tensors by name that it should look at."""
    right = EncoderTokens.request

    def wrong(self, *args):
        request = right(self, *args)
        names = [port.any_name for port in args[0].steps.inputs if port.any_name.startswith((CROSS, "encoder_"))]
        for name, tensor in change({name: request.get_tensor(name) for name in names}).items():
            request.set_tensor(name, tensor)
        return request

    patch.setattr(EncoderTokens, "request", wrong)


def changed(tensor: ov.Tensor, change) -> ov.Tensor:
    """Another tensor, whose data are what `change` makes of this one's."""
    copy = ov.Tensor(tensor.element_type, tensor.shape)
    copy.data[...] = change(tensor.data)
    return copy


def stale_address(patch) -> None:
    first = {}
    change_tensors(patch, lambda tensors: first.setdefault(str([*tensors.values()]), tensors))


def keys_of_another_row(patch) -> None:
    def rolled(name: str, tensor: ov.Tensor) -> ov.Tensor:
        return changed(tensor, partial(np.roll, shift=1, axis=1 if name.startswith(CROSS) else 0))

    change_tensors(patch, lambda tensors: {name: rolled(name, tensor) for name, tensor in tensors.items()})


def lost_encoder_mask(patch) -> None:
    name = "encoder_attention_mask"
    change_tensors(patch, lambda tensors: {name: changed(tensors[name], np.ones_like)})


def lost_text_mask(patch) -> None:
    read = OVBlipModel.read_texts
    patch.setattr(
        OVBlipModel, "read_texts", lambda self, images, ids, mask: read(self, images, ids, np.ones_like(mask))
    )


def lost_prompt_mask(patch) -> None:
    step = DecoderState.step
    patch.setattr(DecoderState, "step", lambda self, ids, mask=None: step(self, ids))


def beams_not_reordered(patch) -> None:
    patch.setattr(DecoderState, "reorder_cache", lambda self, beam_idx: None)


def logits_of_the_first_position(patch) -> None:
    patch.setattr(DecoderState, "step", lambda self, ids, mask=None: self.read(ids, mask, ids.shape[1])[:, 0])


@pytest.mark.parametrize(
    "fault",
    [
        stale_address,
        keys_of_another_row,
        lost_encoder_mask,
        lost_text_mask,
        lost_prompt_mask,
        beams_not_reordered,
        logits_of_the_first_position,
    ],
    ids=lambda fault: fault.__name__,
)
def test_wrong_runs_fail_at_the_precision_that_tolerates_most(quantized, monkeypatch, fault):
    fault(monkeypatch)
    assert_fails(check_folder(quantized, "CPU", "INT4"))


@torch.no_grad()
def test_checkpoint_whose_images_are_all_alike_is_converted_with_a_warning_and_passes_unchecked(tmp_path, caplog):
    model = random_model(1)
    model.vision_model.post_layernorm.weight.zero_()
    folder = convert(model, blip_processor(model.config), tmp_path)
    assert "blip-ov check can say nothing about this checkpoint, since PyTorch's vision" in caplog.text
    report = check_folder(folder, "CPU")
    assert report.passed
    assert not report.rows
    assert "the check can say nothing, since PyTorch's vision for two of the probes are only" in str(report)
