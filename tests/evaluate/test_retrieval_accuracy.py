"""Matching and retrieval of scenes, measured on models that do what the test decides."""

import random

import numpy as np
import pytest
from test_accuracy import Passing, config_of

from blip_openvino.data.scene_captions import caption, wrong_captions
from blip_openvino.data.scenes import draw_scene, make_scenes
from blip_openvino.evaluate.accuracy import measure_accuracy
from blip_openvino.evaluate.retrieval import RERANKED
from blip_openvino.evaluate.scores import Score

SEED, COUNT = 3, 40
SCENES = make_scenes(COUNT, SEED)
CAPTIONS = [caption(scene) for scene in SCENES]
PICTURES = [draw_scene(scene).tobytes() for scene in SCENES]


class Encoded:
    """Pictures, known by the places of their captions."""

    def __init__(self, places: np.ndarray, rank: int):
        self.places, self.rank = places, rank

    def __getitem__(self, rows):
        return Encoded(self.places[rows], self.rank)

    @property
    def features(self) -> np.ndarray:
        """Their similarity to each caption: the right one comes at `rank`, from 0, for pictures as for texts."""
        return -((np.arange(COUNT) - self.places[:, None] + self.rank) % COUNT)


class Knows:
    """Matches rightly, or where it is blind says that all fits; by contrast, the right one comes at `rank`."""

    def __init__(self, rank: int = 0, is_blind: bool = False):
        self.rank, self.is_blind = rank, is_blind

    def encode_images(self, pixel_values):
        pictures = pixel_values if isinstance(pixel_values, list) else [pixel_values]
        return Encoded(np.array([PICTURES.index(picture.tobytes()) for picture in pictures]), self.rank)

    def text_features(self, input_ids):
        return np.eye(COUNT)[[CAPTIONS.index(text) for text in input_ids]]

    def match(self, images, input_ids):
        pairs = zip(np.broadcast_to(images.places, len(input_ids)), input_ids, strict=True)
        return np.array([float(self.is_blind or CAPTIONS[place] == text) for place, text in pairs])


@pytest.mark.parametrize(
    ("model", "contrast", "reranked", "matching"),
    [
        (Knows(), COUNT, COUNT, 1.0),
        (Knows(rank=RERANKED - 1), 0, COUNT, 1.0),
        (Knows(rank=RERANKED), 0, 0, 1.0),
        (Knows(is_blind=True), COUNT, COUNT, 0.5),
        (Knows(rank=1, is_blind=True), 0, 0, 0.5),
    ],
)
def test_recall_counts_the_first_by_contrast_and_after_matching_the_best_of_them(model, contrast, reranked, matching):
    found = measure_accuracy(
        {"INT8": model}, Passing(), config_of("scenes", "BlipForImageTextRetrieval"), COUNT, first_seed=SEED
    )
    assert next(iter(found)) == "matching, all"
    for way in ("picture to text", "text to picture"):
        assert found[f"recall@1 contrast, {way}"]["INT8"] == Score(contrast, COUNT)
        assert found[f"recall@1 re-ranked, {way}"]["INT8"] == Score(reranked, COUNT)
    assert found["recall@1 re-ranked, all"]["INT8"] == Score(2 * reranked, 2 * COUNT)
    pairs = sum(len(wrong_captions(scene, random.Random(scene.jitter))) for scene in SCENES)
    assert found["matching, all"]["INT8"] == Score(matching * 2 * pairs, 2 * pairs)
    kinds = [scores["INT8"].asked for measure, scores in found.items() if measure.startswith("matching, ")]
    assert sum(kinds) == 2 * kinds[0]
