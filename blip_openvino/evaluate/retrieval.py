"""How well a model matches texts with pictures, and finds one by the other: on drawn scenes."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from blip_model import OVBlipModel
from blip_openvino.data.scene_captions import caption, wrong_captions
from blip_openvino.data.scenes import TEST_SEED, Scene, draw_scene, make_scenes
from blip_openvino.evaluate.scores import Measures, Score, by_measure
from blip_openvino.ir.checkpoint import TorchBlip
from blip_openvino.runtime.processor import OVBlipProcessor

SEARCHED = 1000
"""Among how many scenes, with captions that all differ, is searched at most."""
RERANKED = 32
"""How many of the first by contrast are ranked anew by matching, as in `Blip.find_images`."""

Measured = OVBlipModel | TorchBlip
"""What is measured: ours, and PyTorch to compare with."""


def retrieval_accuracy(
    models: Mapping[str, Measured], processor: OVBlipProcessor, count: int, first_seed: int = TEST_SEED
) -> Measures:
    """Every model on `count` drawn scenes: matching by the kind of word that is wrong, and recall@1 both ways."""
    scenes = make_scenes(count, first_seed)
    pictures = [draw_scene(scene) for scene in scenes]
    first_with = {}
    for picture, scene in zip(pictures, scenes, strict=True):
        first_with.setdefault(caption(scene), picture)
    captions, searched = zip(*list(first_with.items())[:SEARCHED], strict=True)
    scores = {
        name: matching_scores(model, processor, pictures, scenes) | recalls(model, processor, list(searched), captions)
        for name, model in models.items()
    }
    return by_measure(scores)


def matching_scores(
    model: Measured, processor: OVBlipProcessor, pictures: Sequence[Image.Image], scenes: Sequence[Scene]
) -> dict[str, Score]:
    """How often a scene's caption is taken to fit, and one with one word exchanged not to: each counts a half.

    A word is a "colour", "number", "thing", "place", "sky", "activity", "word" or "position".
    """
    right_by = defaultdict(list)
    for picture, scene in zip(tqdm(pictures, desc="matching", unit="image"), scenes, strict=True):
        wrong = wrong_captions(scene, random.Random(scene.jitter))
        inputs = processor(picture, [caption(scene), *(text for _, text in wrong)])
        fits = np.asarray(model.match(model.encode_images(inputs.pop("pixel_values")), **inputs)) > 0.5
        for (kind, _), wrong_fits in zip(wrong, fits[1:], strict=True):
            right_by[kind] += [bool(fits[0]), not wrong_fits]
    right_by = {"all": [right for each in right_by.values() for right in each]} | dict(sorted(right_by.items()))
    return {f"matching, {kind}": Score(sum(each), len(each)) for kind, each in right_by.items()}


def recalls(
    model: Measured, processor: OVBlipProcessor, pictures: list[Image.Image], captions: Sequence[str]
) -> dict[str, Score]:
    """How often picture i finds caption i first among all, and caption i picture i: by contrast alone, and re-ranked.

    As in the paper (Li et al., 2022, section 4.1), the first by contrast are ranked anew by matching.
    """
    encoded, texts = model.encode_images(processor(pictures)["pixel_values"]), processor(text=list(captions))
    similarity = np.asarray(encoded.features @ model.text_features(**texts).T)
    right = defaultdict(list)
    for index in tqdm(range(len(pictures)), desc="searching", unit="image"):
        first = np.argsort(-similarity[index], kind="stable")[:RERANKED]
        probability = model.match(encoded[index : index + 1], **{name: ids[first] for name, ids in texts.items()})
        right["contrast, picture to text"].append(first[0] == index)
        right["re-ranked, picture to text"].append(first[np.argmax(probability)] == index)
        first = np.argsort(-similarity[:, index], kind="stable")[:RERANKED]
        rows = np.full(len(first), index)
        probability = model.match(encoded[first], **{name: ids[rows] for name, ids in texts.items()})
        right["contrast, text to picture"].append(first[0] == index)
        right["re-ranked, text to picture"].append(first[np.argmax(probability)] == index)
    right["re-ranked, all"] = right["re-ranked, picture to text"] + right["re-ranked, text to picture"]
    return {f"recall@1 {way}": Score(int(sum(each)), len(each)) for way, each in sorted(right.items())}
