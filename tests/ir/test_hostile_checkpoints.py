"""Checkpoints that want to run code of theirs, or are damaged: refused, and nothing of theirs runs."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from conftest import EMBEDDED

from blip_openvino.apps.load import convert_checkpoint
from blip_openvino.ir import convert as convert_module
from blip_openvino.ir.checkpoint import load_checkpoint


class Payload:
    """What a malicious pickle holds: a command that runs when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def copy(tmp_path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "checkpoint")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "shard.bin"])
def test_malicious_pickle_is_refused_and_does_not_run(copy, tmp_path, name):
    """In the place of the weights, under their name, or as the shard that a safetensors index names."""
    malicious = pickle.dumps(Payload(tmp_path / "marker"), protocol=2)
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(malicious)
    if name == "shard.bin":
        index = {"metadata": {}, "weight_map": {"vision_model.post_layernorm.weight": name}}
        (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(OSError, match=rf"safetensors.*{copy}|{copy}.*safetensors"):
        load_checkpoint(copy)
    assert not (tmp_path / "marker").exists()
    pickle.loads(malicious)  # it would have run
    assert (tmp_path / "marker").exists()


def test_truncated_weights_are_refused_and_named(copy):
    content = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(OSError, match=f"the weights of {copy} are damaged or no safetensors"):
        load_checkpoint(copy)


AUTO_MAP = {"AutoConfig": "code.Config", "AutoTokenizer": ["code.Tokenizer"] * 2, "AutoImageProcessor": "code.Images"}


@pytest.mark.parametrize(
    ("file", "needs"),
    [
        ("config.json", {"model_type": "mine"}),
        ("processor_config.json", {"image_processor_type": "Mine"}),
        ("config.json", {}),
        ("processor_config.json", {}),
        ("tokenizer_config.json", {}),
    ],
)
def test_code_of_a_checkpoint_is_refused_where_needed_and_ignored_otherwise(copy, tmp_path, monkeypatch, file, needs):
    """Even for somebody who says yes to whatever is asked."""
    (copy / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n")
    settings = json.loads((copy / file).read_text())
    if "image_processor" in settings:
        settings["image_processor"] |= {"auto_map": AUTO_MAP} | needs
    (copy / file).write_text(json.dumps(settings | {"auto_map": AUTO_MAP} | needs))
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    monkeypatch.setattr(convert_module, "convert", lambda model, processor, folder: (model, processor))
    if needs:
        with pytest.raises(ValueError, match="contains custom code"):
            convert_checkpoint(copy, tmp_path / "ir")
    else:
        model, processor = convert_checkpoint(copy, tmp_path / "ir")
        used = model, processor.image_processor, processor.tokenizer
        assert all(type(each).__module__.startswith("transformers.") for each in used)
    assert not (tmp_path / "marker").exists()
