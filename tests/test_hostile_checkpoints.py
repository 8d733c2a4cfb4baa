"""Checkpoints that want to run code of theirs, or are damaged: refused, and nothing of theirs runs."""

import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from conftest import EMBEDDED

from blip_openvino.ir import convert as blip_convert
from blip_openvino.ir.checkpoint import load_checkpoint


class Payload:
    """What a malicious pickle holds: a command that runs when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def checkpoint_copy(tmp_path) -> Path:
    return shutil.copytree(EMBEDDED, tmp_path / "checkpoint")


def test_the_payload_of_these_tests_works(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "shard.bin"])
def test_malicious_pickle_is_refused_and_does_not_run(checkpoint_copy, tmp_path, name):
    """In the place of the weights, under their name, or as the shard that a safetensors index names."""
    (checkpoint_copy / "model.safetensors").unlink()
    (checkpoint_copy / name).write_bytes(pickle.dumps(Payload(tmp_path / "marker"), protocol=2))
    if name == "shard.bin":
        index = {"metadata": {}, "weight_map": {"vision_model.post_layernorm.weight": name}}
        (checkpoint_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(OSError, match=rf"safetensors.*{checkpoint_copy}|{checkpoint_copy}.*safetensors"):
        load_checkpoint(checkpoint_copy)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("kept", [0, 0.5, 0.999])
def test_truncated_weights_are_refused_and_named(checkpoint_copy, kept):
    file = checkpoint_copy / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(OSError, match=f"the weights of {checkpoint_copy} are damaged or no safetensors"):
        load_checkpoint(checkpoint_copy)


@pytest.fixture
def with_code(checkpoint_copy, tmp_path):
    """Have a settings file of a checkpoint name code that lies beside it, and leaves a marker when it runs."""
    (checkpoint_copy / "code.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\n")
    auto_map = {
        "AutoConfig": "code.Config",
        "AutoTokenizer": ["code.Tokenizer"] * 2,
        "AutoImageProcessor": "code.Images",
    }

    def change(file: str, **changes) -> Path:
        settings = json.loads((checkpoint_copy / file).read_text())
        if "image_processor" in settings:
            settings["image_processor"] |= {"auto_map": auto_map} | changes
        (checkpoint_copy / file).write_text(json.dumps(settings | {"auto_map": auto_map} | changes))
        return checkpoint_copy

    return change


@pytest.fixture
def load_by_command(monkeypatch):
    """What `python blip_convert.py` loads for somebody who says yes to whatever is asked."""
    loaded = []
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    monkeypatch.setattr(blip_convert, "convert", lambda model, processor, folder: loaded.extend([model, processor]))

    def load(checkpoint: Path) -> list:
        monkeypatch.setattr(sys, "argv", ["blip_convert.py", str(checkpoint)])
        blip_convert.main()
        return loaded

    return load


@pytest.mark.parametrize(
    ("file", "changes"),
    [("config.json", {"model_type": "mine"}), ("processor_config.json", {"image_processor_type": "Mine"})],
)
def test_checkpoint_that_needs_code_of_its_own_is_refused_without_asking(
    with_code, load_by_command, tmp_path, file, changes
):
    with pytest.raises(ValueError, match="contains custom code"):
        load_by_command(with_code(file, **changes))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer_config.json"])
def test_code_that_a_checkpoint_names_without_need_is_ignored(with_code, load_by_command, tmp_path, file):
    model, processor = load_by_command(with_code(file))
    assert type(model).__module__.startswith("transformers.")
    assert type(processor.image_processor).__module__.startswith("transformers.")
    assert type(processor.tokenizer).__module__.startswith("transformers.")
    assert not (tmp_path / "marker").exists()
