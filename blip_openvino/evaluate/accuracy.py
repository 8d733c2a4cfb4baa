"""How right a model is, on data that others made: exact match on easy-VQA, human agreement on VQA v2.

questions = load_questions("test")
print(score_answers(answer_questions(model, processor, questions), questions)["all"])
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Literal, Protocol

from tqdm.auto import tqdm

from blip_openvino.evaluate.check import LOST
from blip_openvino.evaluate.vqa_v2 import MAX_NEW_TOKENS, vqa_v2_accuracy
from blip_openvino.ir.easy_vqa import Question, load_captions, load_questions, question_type
from blip_openvino.ir.vqa_v2 import SCORING, SCORING_SEED, vqa_v2_samples
from blip_openvino.runtime.processor import OVBlipProcessor

IMAGES_PER_CALL = 32


class Writer(Protocol):
    """What is measured: an `OVBlipModel`, or `ir.checkpoint.TorchBlip` to compare with."""

    def generate_answer(self, pixel_values, input_ids, attention_mask, **generate_kwargs): ...

    def generate_caption(self, pixel_values, **generate_kwargs): ...


@dataclass(frozen=True)
class Score:
    """How many of the texts asked for, at least one, were right; VQA v2's metric counts parts of one."""

    right: float
    asked: int

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{100 * self.rate:.2f} % ({100 * low:.2f} - {100 * high:.2f})"

    @property
    def rate(self) -> float:
        """The share of right texts, from 0 to 1."""
        return self.right / self.asked

    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of the rate, both ends from 0 to 1.

        Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
        Unlike the normal approximation it stays inside 0 to 1, and has a width at 0 % and 100 % too.
        """
        z = NormalDist().inv_cdf(0.975)
        shrink = 1 + z**2 / self.asked
        centre = (self.rate + z**2 / (2 * self.asked)) / shrink
        half = z / shrink * sqrt(self.rate * (1 - self.rate) / self.asked + (z / (2 * self.asked)) ** 2)
        # Rounding could put an end past a rate of 0 or 1.
        return max(0.0, min(centre - half, self.rate)), min(1.0, max(centre + half, self.rate))


def answer_questions(model: Writer, processor: OVBlipProcessor, questions: Sequence[Question]) -> list[str]:
    """Answer `questions`, greedily, each image encoded once however many questions it has.

    Returns:
        The answers in the order of `questions`, 20 tokens long at most.
    """
    indices_of = defaultdict(list)
    for index, question in enumerate(questions):
        indices_of[question.image_path].append(index)
    answers = [""] * len(questions)
    for image_path, indices in tqdm(indices_of.items(), desc="answering", unit="image"):
        inputs = processor(image_path, [questions[index].question for index in indices])
        ids = model.generate_answer(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        for index, answer in zip(indices, processor.batch_decode(ids), strict=True):
            answers[index] = answer
    return answers


def caption_images(model: Writer, processor: OVBlipProcessor, image_paths: Sequence[str]) -> list[str]:
    """Caption image files, greedily, 32 in a call.

    Returns:
        The captions in the order of `image_paths`, 20 tokens long at most.
    """
    captions = []
    for start in tqdm(range(0, len(image_paths), IMAGES_PER_CALL), desc="captioning", unit="batch"):
        inputs = processor(image_paths[start : start + IMAGES_PER_CALL])
        captions += processor.batch_decode(model.generate_caption(**inputs, max_new_tokens=MAX_NEW_TOKENS))
    return captions


def exact_match(found: Sequence[str], expected: Sequence[str]) -> Score:
    """How many texts are equal to the ones expected, or to those of another model.

    Raises:
        ValueError: there is not one text for every one expected, or there is none.
    """
    if len(found) != len(expected) or not expected:
        raise ValueError(f"{len(found)} texts do not go with {len(expected)} expected: give one for each, at least one")
    return Score(sum(map(str.__eq__, found, expected)), len(expected))


def score_answers(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, Score]:
    """Exact match of easy-VQA answers: "all", and those of "yes/no", "colour" and "shape" that were asked.

    Raises:
        ValueError: there is not one answer for every question, or there is no question.
    """
    scores = {"all": exact_match(answers, [question.answer for question in questions])}
    pairs_of = defaultdict(list)
    for answer, question in zip(answers, questions, strict=True):
        pairs_of[question_type(question.answer)].append((answer, question.answer))
    return scores | {kind: exact_match(*zip(*pairs, strict=True)) for kind, pairs in sorted(pairs_of.items())}


Measures = dict[str, dict[str, Score]]
"""By measure, a score for each model: `{"answers, all": {"PyTorch": Score(9658, 9673), "INT8": ...}, ...}`."""


def easy_vqa_accuracy(models: Mapping[str, Writer], processor: OVBlipProcessor) -> Measures:
    """Every model on easy-VQA's whole test split: all answers, each question type, captions, agreement with the first.

    `models` is by name, such as {"PyTorch": ..., "INT8": ...}.
    """
    questions, captions = load_questions("test"), load_captions("test")
    answers = {name: answer_questions(model, processor, questions) for name, model in models.items()}
    said = {name: caption_images(model, processor, list(captions)) for name, model in models.items()}
    first = next(iter(models))
    measures = defaultdict(dict)
    for name in models:
        scores = {f"answers, {kind}": score for kind, score in score_answers(answers[name], questions).items()}
        scores["captions, all"] = exact_match(said[name], list(captions.values()))
        scores[f"agreement with {first}, answers"] = exact_match(answers[name], answers[first])
        scores[f"agreement with {first}, captions"] = exact_match(said[name], said[first])
        for measure, score in scores.items():
            measures[measure][name] = score
    return dict(measures)


def measure_accuracy(
    models: Mapping[str, Writer],
    processor: OVBlipProcessor,
    data: Literal["easy-vqa"] | None = None,
    samples: int = 200,
) -> Measures:
    """Every model on easy-VQA's test split, or where `data` is None on `samples` of VQA v2.

    `data` is what a model's configuration says it was trained on; the first measure is the headline.

    Raises:
        ValueError: there is no such data.
        OSError: VQA v2 cannot be downloaded.
    """
    if data not in ("easy-vqa", None):
        raise ValueError(f"there is no data {data!r} to measure accuracy on; it is 'easy-vqa', or None for VQA v2")
    if data == "easy-vqa":
        return easy_vqa_accuracy(models, processor)
    records = vqa_v2_samples(samples, SCORING_SEED, SCORING)
    rates = {name: vqa_v2_accuracy(model, processor, records) for name, model in models.items()}
    return {"VQA accuracy, all": {name: Score(rate * len(records), len(records)) for name, rate in rates.items()}}


def lost_accuracy(measures: Measures) -> list[str]:
    """What lost more than it may (`check.LOST`) against the first model, PyTorch in float32: a sentence for each."""
    sentences = []
    for measure, scores in measures.items():
        first, best = next(iter(scores.items()))
        for name, score in scores.items() if measure.endswith(", all") else ():
            lost, allowed = round(best.rate - score.rate, 9), LOST.get(name, 0)
            if lost > allowed:
                sentences.append(
                    f"{name}, {measure}: {score.rate:.2%} is {100 * lost:.2f} points below the {best.rate:.2%} of "
                    f"{first}, and {100 * allowed:.1f} may be lost"
                )
    return sentences
