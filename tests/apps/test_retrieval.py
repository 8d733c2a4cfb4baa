"""Matching and retrieval: both scores are PyTorch's, of pairs and of every pair, and a search ranks by them."""

import shutil

import numpy as np
import openvino as ov
import pytest
import torch
from conftest import F32, random_model
from transformers import BlipForImageTextRetrieval

from benchmarks.checkpoint import blip_processor
from blip_model import OVBlipModel
from blip_openvino.apps.blip import Blip, best_matches
from blip_openvino.ir.calibration import scene_texts
from blip_openvino.ir.convert import convert
from blip_openvino.ir.files import Part
from blip_openvino.ir.optimize import optimize
from blip_openvino.runtime.processor import OVBlipProcessor

TEXTS = ["a red circle", "a blue rectangle in the snow", "no", "is there a green triangle in the image?"]


@pytest.fixture(scope="module")
def blip(retrieval_folder) -> Blip:
    model = OVBlipModel.from_pretrained(retrieval_folder, "CPU")
    return Blip(model, OVBlipProcessor.from_pretrained(retrieval_folder))


@torch.inference_mode()
def torch_scores(model, processor, pixel_values, texts, use_itm_head: bool) -> torch.Tensor:
    """PyTorch's for every pair, text by text: [images, texts]."""
    found = []
    for text in texts:
        ids = processor(text=text, return_tensors="pt")["input_ids"].expand(len(pixel_values), -1)
        score = model(ids, pixel_values, use_itm_head=use_itm_head).itm_score
        found.append(score.softmax(dim=1)[:, 1] if use_itm_head else score[:, 0])
    return torch.stack(found, dim=1)


def test_both_scores_of_every_pair_are_those_of_pytorch(blip, retrieval_checkpoint, processor, easy_vqa):
    images, pixel_values = easy_vqa.paths[:5], easy_vqa.pixel_values[:5]
    expected = [torch_scores(retrieval_checkpoint, processor, pixel_values, TEXTS, head) for head in (True, False)]
    encoded = blip.encode_images(images)
    assert blip.match_all(encoded, TEXTS) == pytest.approx(expected[0].numpy(), abs=0.01)
    assert blip.similarity(images, TEXTS) == pytest.approx(expected[1].numpy(), abs=0.01)
    # Of pairs, of one image with many texts, of many images with one text.
    assert blip.match(images[:4], TEXTS) == pytest.approx(expected[0].diagonal().tolist(), abs=0.01)
    assert blip.match(images[0], TEXTS) == pytest.approx(expected[0][0].tolist(), abs=0.01)
    assert blip.match(images, TEXTS[0]) == pytest.approx(expected[0][:, 0].tolist(), abs=0.01)


@pytest.mark.parametrize("seed", range(2))
def test_random_geometries_agree_with_pytorch_in_float32(tmp_path, seed):
    checkpoint = random_model(seed, BlipForImageTextRetrieval)
    processor = blip_processor(checkpoint.config)
    model = OVBlipModel.from_pretrained(convert(checkpoint, processor, tmp_path), "CPU", "FP16", F32)
    size = checkpoint.config.vision_config.image_size
    pixel_values = torch.randn(3, 3, size, size)
    texts = ["a b", "c d e f", "g"]
    padded = processor(text=texts, padding=True, return_tensors="pt")
    encoded = model.encode_images(pixel_values)
    similarity = encoded.features @ model.text_features(padded["input_ids"], padded["attention_mask"]).numpy().T
    expected = torch_scores(checkpoint, processor, pixel_values, texts, use_itm_head=False)
    assert similarity == pytest.approx(expected.numpy(), abs=1e-3)


def test_weights_are_stored_once_and_read_once_by_both_scores(retrieval_folder, retrieval_checkpoint, tmp_path):
    weights = sum(each.numel() * 2 for each in retrieval_checkpoint.parameters())
    stored = sum(file.stat().st_size for file in retrieval_folder.glob("*.bin"))
    assert stored < 1.05 * weights
    model = ov.Core().read_model(retrieval_folder / Part.TEXT_ENCODER.file())
    matrices = [
        node for node in model.get_ordered_ops() if node.get_type_name() == "Constant" and np.prod(node.shape) > 4096
    ]
    assert matrices
    assert all(len(node.output(0).get_target_inputs()) == 1 for node in matrices)


def test_search_ranks_by_similarity_and_the_first_anew_by_matching(blip, easy_vqa):
    images = blip.encode_images(easy_vqa.paths[:20])
    similarity, matches = blip.similarity(images, TEXTS[:1])[:, 0], blip.match_all(images, TEXTS[:1])[:, 0]
    found = blip.find_images(TEXTS[0], images, top=10, rerank=6)
    first = np.argsort(-similarity)[:10].tolist()
    assert {each.index for each in found[:6]} == {*first[:6]}
    assert [each.index for each in found[6:]] == first[6:]
    assert [each.match for each in found[:6]] == sorted((each.match for each in found[:6]), reverse=True)
    for each in found:
        assert each.similarity == pytest.approx(similarity[each.index], abs=1e-4)
        assert each.match is None or each.match == pytest.approx(matches[each.index], abs=0.01)
    texts = blip.find_texts(easy_vqa.paths[3], TEXTS, top=3)
    expected = blip.match_all(easy_vqa.paths[3:4], TEXTS)[0]
    assert [each.index for each in texts] == np.argsort(-expected)[:3].tolist()


def test_one_image_or_text_is_as_good_as_a_list_of_it_and_what_does_not_go_is_said(blip, easy_vqa):
    path = easy_vqa.paths[0]
    one, several = blip.encode_images(path), blip.encode_images(easy_vqa.paths[:2])
    assert blip.similarity(one, TEXTS[0]) == pytest.approx(blip.similarity([path], TEXTS[:1]), abs=1e-4)
    found = blip.find_images(TEXTS[0], several, rerank=0)
    assert [each.match for each in found] == [None, None]
    with pytest.raises(ValueError, match="find_texts is about one image, and 2 were given"):
        blip.find_texts(several, TEXTS)
    with pytest.raises(ValueError, match="there is no image to encode"):
        blip.encode_images([])
    with pytest.raises(ValueError, match="cannot read a question and answer it"):
        blip.rank(path, "what is it?", ["a", "b"])


def test_equal_probabilities_are_ordered_by_similarity():
    found = best_matches(np.array([0.1, 0.3, 0.2, 0.4]), lambda chosen: np.ones(len(chosen)), top=4, rerank=3)
    assert [(each.index, each.match) for each in found] == [(3, 1), (1, 1), (2, 1), (0, None)]


def test_a_checkpoint_without_matching_says_so(fp16_model, processor):
    with pytest.raises(ValueError, match="cannot match texts with images: use one such as blip-itm-base-coco"):
        fp16_model.text_features(processor(text="a dog", return_tensors="pt")["input_ids"])


@pytest.mark.slow
def test_quantized_features_point_where_the_others_do(retrieval_folder, blip, easy_vqa, tmp_path):
    folder = shutil.copytree(retrieval_folder, tmp_path / "itm")
    optimize(folder, scene_texts(False, 30))
    quantized = Blip(OVBlipModel.from_pretrained(folder, "CPU", "INT8"), blip.processor)
    texts = blip.processor(text=TEXTS)
    for features in (
        [each.model.text_features(**texts) for each in (quantized, blip)],
        [each.encode_images(easy_vqa.paths[:6]).features for each in (quantized, blip)],
    ):
        assert np.prod(features, axis=0).sum(axis=1).min() > 0.97
