"""The training of the small models: what is drawn for a step, and that an interruption changes nothing."""

from types import SimpleNamespace

import pytest
import scene_fit
import torch
from conftest import ROOT
from easy_vqa_images import augment, enlarge, free_margins, read_images
from PIL import Image
from scene_data import draw_batch, make_examples, said_of_scene, training_scenes
from scene_losses import sample_questions
from small_blip import normalize
from torch import nn
from transformers import BlipProcessor

from blip_openvino.data.easy_vqa import load_captions
from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import VALIDATION_SEED, make_scenes


def fitted(file, interrupt_at: int | None = None) -> list[float]:
    """The weights of a product that was trained for 12 steps, or until it was interrupted."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    steps = []

    def losses_of(generator: torch.Generator) -> dict[str, torch.Tensor]:
        if len(steps) == interrupt_at:
            raise KeyboardInterrupt
        steps.append(1)
        inputs = torch.rand(8, 3, generator=generator)
        return {"loss": (module(inputs)[:, 0] - inputs.sum(1)).square().mean()}

    scene_fit.fit(module, losses_of, 12, 0.1, file, seed=0)
    return [*module.weight[0].tolist(), module.bias.item()]


def test_training_that_was_interrupted_ends_with_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(scene_fit, "SECONDS_BETWEEN_SAVES", 0)
    expected = fitted(tmp_path / "whole.pt")
    for steps in (5, 4):  # twice, the second time from where the first had gone on
        with pytest.raises(KeyboardInterrupt):
            fitted(tmp_path / "parts.pt", interrupt_at=steps)
    assert fitted(tmp_path / "parts.pt") == expected
    assert fitted(tmp_path / "parts.pt") == expected  # nothing is left to do


@pytest.mark.parametrize(("kind", "share"), [("scene", 1 / 2), ("counting", 2.5 / 3.5)])
def test_questions_are_drawn_evenly_by_kind_but_more_of_counting(kind, share):
    """Four of one kind, and one of another, whose token is 2."""
    pictures = 4000
    data = SimpleNamespace(
        kind_names=["attributes", kind],
        kinds=torch.tensor([[0, 0, 0, 0, 1, -1]]).repeat(pictures, 1),
        asked=torch.tensor([[[0, 0]] * 4 + [[1, 0], [-1, -1]]]).repeat(pictures, 1, 1),
        questions=torch.tensor([[1], [2]]),
        answers=torch.ones(1, 3, dtype=torch.int64),
    )
    generator = torch.Generator().manual_seed(0)
    questions, _ = sample_questions(data, torch.arange(pictures), 1, generator)
    assert (questions == 2).float().mean() == pytest.approx(share, abs=0.03)
    _, answers = sample_questions(data, torch.arange(3), 6, generator)
    assert answers.any(1).sum() == 3 * 5  # what fills up says nothing


def test_tensors_of_scenes_say_what_scenes_say():
    tokenizer = BlipProcessor.from_pretrained(ROOT / "models" / "blip-scenes").tokenizer
    scenes = make_scenes(6)
    said = [said_of_scene(scene) for scene in scenes]
    data = make_examples(torch.from_numpy(draw_batch(scenes)), said, tokenizer)

    def decode(ids: torch.Tensor) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True).replace(" ?", "?")

    assert [decode(ids) for ids in data.captions] == [caption(scene) for scene in scenes]
    assert [[decode(ids) for ids in wrong] for wrong in data.wrong] == [each.wrong for each in said]
    for row, scene in enumerate(scenes):
        found = [
            (data.kind_names[kind], decode(data.questions[question]), decode(data.answers[answer]))
            for (question, answer), kind in zip(data.asked[row].tolist(), data.kinds[row].tolist(), strict=True)
            if kind >= 0
        ]
        assert found == [(each.kind, each.question, each.answer) for each in scene_questions(scene, 4)]


def test_training_pixels_of_easy_vqa_are_what_the_processor_gives_but_for_rounding(processor):
    paths = list(load_captions("train"))[:20]
    images = [Image.open(path).convert("RGB") for path in paths]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    settings = processor.image_processor
    found = normalize(enlarge(read_images(paths), settings.size["height"]), settings)
    levels = (found - expected).abs() * torch.tensor(settings.image_std).view(3, 1, 1) * 255
    # Pillow rounds and cuts off after each of two passes: beside edges that makes a few levels of 256.
    assert (levels > 1.001).float().mean() < 1e-3
    assert levels.max() <= 10


def test_moved_and_mirrored_shapes_are_whole_and_within_the_frame():
    images = read_images(list(load_captions("train"))[:40])
    margins = free_margins(images)
    torch.manual_seed(0)
    moved = free_margins(augment(images, margins))
    assert (moved != margins).any(dim=1).sum() > 30
    for sides in ([0, 1], [2, 3]):
        assert torch.equal(moved[:, sides].sum(dim=1), margins[:, sides].sum(dim=1))  # else a shape were cut in two


def test_no_scene_that_measures_is_trained_on():
    scenes = training_scenes(VALIDATION_SEED, 50)  # as if its seeds were training's
    assert not {scene.key for scene in scenes} & {scene.key for scene in make_scenes(1000, VALIDATION_SEED)}
