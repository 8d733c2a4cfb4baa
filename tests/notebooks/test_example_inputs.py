import pytest
from conftest import EMBEDDED

import notebook_utils
from blip_openvino.ir.easy_vqa import load_captions
from notebook_utils import DEMO_PHOTO, example_inputs


def test_models_of_easy_vqa_get_its_images(tmp_path):
    (tmp_path / "config.json").write_text('{"trained_on": "easy-vqa"}')
    captions = load_captions("test")
    assert example_inputs(tmp_path) == example_inputs(EMBEDDED)
    assert [path in captions for path, _ in example_inputs(tmp_path)] == [True] * 3


@pytest.mark.parametrize("is_folder", [True, False])
def test_other_models_get_the_photo(monkeypatch, tmp_path, is_folder):
    (tmp_path / "config.json").write_text("{}")
    asked = []
    download = lambda *arguments: asked.append(arguments) or tmp_path / "demo.jpg"  # noqa: E731
    monkeypatch.setattr(notebook_utils, "download_file", download)
    (photo, question), _ = example_inputs(tmp_path if is_folder else "Salesforce/blip-vqa-base", tmp_path)
    assert asked == [(DEMO_PHOTO, "demo.jpg", tmp_path)]
    assert (photo, question) == (str(tmp_path / "demo.jpg"), "how many dogs are in the picture?")
