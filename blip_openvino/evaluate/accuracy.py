"""How right a model is: exact match on drawn scenes and easy-VQA, agreement with people on VQA v2.

for measure, scores in measure_accuracy({"INT8": model}, processor, model.config).items():
    print(measure, scores["INT8"])
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from types import SimpleNamespace

from tqdm.auto import tqdm

from blip_openvino.data.easy_vqa import load_captions, load_questions, question_type
from blip_openvino.data.scene_captions import caption
from blip_openvino.data.scene_questions import scene_questions
from blip_openvino.data.scenes import TEST_SEED, draw_scene, make_scenes
from blip_openvino.data.vqa_v2 import SCORING, SCORING_SEED, vqa_v2_samples
from blip_openvino.evaluate.retrieval import Measured, retrieval_accuracy
from blip_openvino.evaluate.scores import Measures, by_measure, exact_match, scores_by_kind
from blip_openvino.evaluate.vqa_v2 import MAX_NEW_TOKENS, vqa_v2_accuracy
from blip_openvino.ir.files import architecture
from blip_openvino.runtime.images import ImageSource
from blip_openvino.runtime.processor import OVBlipProcessor

IMAGES_PER_CALL = 32
SCENES, VQA_V2_SAMPLES = 2000, 200
"""How many are measured on unless a caller says otherwise."""
LOST = {"FP16": 0.003, "INT8": 0.007, "INT4": 0.007}
"""The largest share of right texts, 0.3 and 0.7 points, that a precision may cost over PyTorch in float32."""
BY_CHANCE = 2
"""How many texts a precision may lose beside its share: where two are nearly as likely, rounding decides."""


def answer_each(
    model: Measured, processor: OVBlipProcessor, asked: Iterable[tuple[ImageSource, Sequence[str]]]
) -> list[str]:
    """Answer the questions about each image, greedily, encoding it once: all answers in turn, 20 tokens at most."""
    answers = []
    for image, questions in tqdm(asked, desc="answering", unit="image"):
        inputs = processor(image, list(questions))
        answers += processor.batch_decode(model.generate_answer(**inputs, max_new_tokens=MAX_NEW_TOKENS))
    return answers


def caption_images(model: Measured, processor: OVBlipProcessor, images: Sequence[ImageSource]) -> list[str]:
    """Caption images, greedily, 32 in a call: the captions in their order, 20 tokens long at most."""
    captions = []
    for start in tqdm(range(0, len(images), IMAGES_PER_CALL), desc="captioning", unit="batch"):
        inputs = processor(images[start : start + IMAGES_PER_CALL])
        captions += processor.batch_decode(model.generate_caption(**inputs, max_new_tokens=MAX_NEW_TOKENS))
    return captions


def compare_texts(
    models: Mapping[str, Measured],
    processor: OVBlipProcessor,
    asked: Sequence[tuple[ImageSource, Sequence[str]]],
    right_answers: Sequence[str],
    kinds: Sequence[str],
    pictures: Sequence[ImageSource],
    right_captions: Sequence[str],
) -> Measures:
    """Score answers and captions of every model by kind of question, and how often they are the first model's.

    Args:
        models: by name, such as {"PyTorch": ..., "INT8": ...}.
        asked: images, each with the questions about it.
        right_answers, kinds: of all questions in turn.
        pictures, right_captions: those to caption.
    """
    answers = {name: answer_each(model, processor, asked) for name, model in models.items()}
    captions = {name: caption_images(model, processor, pictures) for name, model in models.items()}
    first, scores = next(iter(models)), {}
    for name in models:
        by_kind = scores_by_kind(answers[name], right_answers, kinds)
        scores[name] = {f"answers, {kind}": score for kind, score in by_kind.items()} | {
            "captions, all": exact_match(captions[name], right_captions),
            f"agreement with {first}, answers": exact_match(answers[name], answers[first]),
            f"agreement with {first}, captions": exact_match(captions[name], captions[first]),
        }
    return by_measure(scores)


def easy_vqa_accuracy(models: Mapping[str, Measured], processor: OVBlipProcessor) -> Measures:
    """Every model on easy-VQA's whole test split: all answers, each question type, captions, agreement with the first.

    `models` is by name, such as {"PyTorch": ..., "INT8": ...}.
    """
    of_image = attrgetter("image_path")
    questions = load_questions("test")  # those about one image follow one another
    asked = [(path, [each.question for each in some]) for path, some in groupby(questions, of_image)]
    right = [question.answer for question in questions]
    kinds = [question_type(answer) for answer in right]
    captions = load_captions("test")
    return compare_texts(models, processor, asked, right, kinds, list(captions), list(captions.values()))


def scene_accuracy(models: Mapping[str, Measured], processor: OVBlipProcessor, count: int, first_seed: int) -> Measures:
    """Every model on drawn scenes: answers of each of the ten kinds, captions, agreement with the first."""
    scenes = make_scenes(count, first_seed)
    pictures = [draw_scene(scene) for scene in scenes]
    questions = [scene_questions(scene) for scene in scenes]
    flat = [each for some in questions for each in some]
    return compare_texts(
        models,
        processor,
        [(picture, [each.question for each in some]) for picture, some in zip(pictures, questions, strict=True)],
        [each.answer for each in flat],
        [each.kind for each in flat],
        pictures,
        [caption(scene) for scene in scenes],
    )


def measure_accuracy(
    models: Mapping[str, Measured],
    processor: OVBlipProcessor,
    config: SimpleNamespace,
    samples: int | None = None,
    first_seed: int = TEST_SEED,
) -> Measures:
    """Every model on the data that suits it, by what its configuration says; the first measure is the headline.

    Those trained on drawn scenes are measured on scenes kept for it: on questions and captions, or on matching and
    retrieval. All others answer questions of VQA v2.

    Args:
        samples: how many scenes (2,000 if None) or samples of VQA v2 (200).
        first_seed: where the seeds of the scenes begin; below `VALIDATION_SEED` are those that were trained on.

    Raises:
        ValueError: there is no data for such a model.
        OSError: VQA v2 cannot be downloaded.
    """
    trained_on, does = getattr(config, "trained_on", None), architecture(config)
    if trained_on == "scenes" and does.matches:
        return retrieval_accuracy(models, processor, samples or SCENES, first_seed)
    if trained_on == "scenes" and does.answers:
        return scene_accuracy(models, processor, samples or SCENES, first_seed)
    if trained_on is not None or not does.answers:
        raise ValueError(
            f"there is no data to measure a {config.architectures[0]} trained on {trained_on or 'photographs'} with; "
            "there is for those that answer questions, and for those trained on 'scenes'"
        )
    records = vqa_v2_samples(samples or VQA_V2_SAMPLES, SCORING_SEED, SCORING)
    return {"VQA accuracy, all": {name: vqa_v2_accuracy(model, processor, records) for name, model in models.items()}}


def lost_accuracy(measures: Measures) -> list[str]:
    """What lost more than it may (`LOST`) against the first model, PyTorch in float32: a sentence for each.

    `BY_CHANCE` texts more may be lost: of 300 captions one is already 0.33 points.
    """
    sentences = []
    for measure, scores in measures.items():
        first, best = next(iter(scores.items()))
        for name, score in scores.items() if measure.endswith(", all") else ():
            lost, allowed = round(best.rate - score.rate, 9), LOST.get(name, 0)
            if lost > allowed + BY_CHANCE / score.asked:
                sentences.append(
                    f"{name}, {measure}: {score.rate:.2%} is {100 * lost:.2f} points below the {best.rate:.2%} of "
                    f"{first}, and {100 * allowed:.1f} may be lost"
                )
    return sentences
