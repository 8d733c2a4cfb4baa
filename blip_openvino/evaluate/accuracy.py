"""How right a model is, on data that others made: exact match on easy-VQA, human agreement on VQA v2.

questions = load_questions("test")
print(score_answers(answer_questions(model, processor, questions), questions)["all"])
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import datasets
from PIL import Image
from tqdm.auto import tqdm
from transformers import BlipProcessor

from blip_model import OVBlipModel
from blip_openvino.ir.easy_vqa import Question, load_captions, load_questions, question_type
from utils import markdown_table

MAX_NEW_TOKENS = 20
IMAGES_PER_CALL = 32
CALIBRATION, SCORING = 0, 1  # the images of VQA v2 by the parity of their id: what calibrates does not score
SCORING_SEED = 7
QUESTION_TYPES = ("yes/no", "colour", "shape")


@dataclass(frozen=True)
class Score:
    """How many of the texts asked for were right.

    Raises:
        ValueError: nothing was asked, or `right` is not between 0 and `asked`.
    """

    right: int
    asked: int

    def __post_init__(self):
        if self.asked < 1 or not 0 <= self.right <= self.asked:
            raise ValueError(f"{self.right} right of {self.asked} asked is no score: ask at least one question")

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


def answer_questions(model: OVBlipModel, processor: BlipProcessor, questions: Sequence[Question]) -> list[str]:
    """Answer `questions`, greedily, each image encoded once however many questions it has.

    Returns:
        The answers in the order of `questions`, 20 tokens long at most.
    """
    indices_of = defaultdict(list)
    for index, question in enumerate(questions):
        indices_of[question.image_path].append(index)
    answers = [""] * len(questions)
    for image_path, indices in tqdm(indices_of.items(), desc="answering", unit="image"):
        texts = [questions[index].question for index in indices]
        inputs = processor(images=read_image(image_path), text=texts, padding=True, return_tensors="pt")
        ids = model.generate_answer(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        for index, answer in zip(indices, processor.batch_decode(ids, skip_special_tokens=True), strict=True):
            answers[index] = answer
    return answers


def caption_images(model: OVBlipModel, processor: BlipProcessor, image_paths: Sequence[str]) -> list[str]:
    """Caption image files, greedily, 32 in a call.

    Returns:
        The captions in the order of `image_paths`, 20 tokens long at most.
    """
    captions = []
    with tqdm(total=len(image_paths), desc="captioning", unit="image") as progress:
        for start in range(0, len(image_paths), IMAGES_PER_CALL):
            images = [read_image(path) for path in image_paths[start : start + IMAGES_PER_CALL]]
            pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
            ids = model.generate_caption(pixel_values, max_new_tokens=MAX_NEW_TOKENS)
            captions += processor.batch_decode(ids, skip_special_tokens=True)
            progress.update(len(images))
    return captions


def read_image(path: str) -> Image.Image:
    """The image file as RGB, read whole so that it does not stay open."""
    with Image.open(path) as image:
        return image.convert("RGB")


def score_answers(answers: Sequence[str], questions: Sequence[Question]) -> dict[str, Score]:
    """Exact match of easy-VQA answers: "all", and those of "yes/no", "colour" and "shape" that were asked.

    Raises:
        ValueError: there is not one answer for every question, or there is no question.
    """
    scores = {"all": score_equal(answers, [question.answer for question in questions], "answers", "questions")}
    for kind in QUESTION_TYPES:
        pairs = zip(answers, questions, strict=True)
        right = [answer == asked.answer for answer, asked in pairs if question_type(asked.answer) == kind]
        if right:
            scores[kind] = Score(sum(right), len(right))
    return scores


def score_captions(captions: Sequence[str], expected: Sequence[str]) -> Score:
    """Exact match of `captions` with the ones `expected`.

    Raises:
        ValueError: there is not one caption for every one expected, or there is none.
    """
    return score_equal(captions, expected, "captions", "expected captions")


def agreement(first: Sequence[str], second: Sequence[str]) -> Score:
    """How often two models say the same about the same inputs, right or wrong.

    Raises:
        ValueError: one has more texts than the other, or there is none.
    """
    return score_equal(first, second, "first texts", "second texts")


def score_equal(found: Sequence[str], expected: Sequence[str], found_name: str, expected_name: str) -> Score:
    """The share of equal pairs; a ValueError about unequal lengths names both sequences."""
    if len(found) != len(expected):
        raise ValueError(f"{len(found)} {found_name} do not go with {len(expected)} {expected_name}: give one for each")
    return Score(sum(a == b for a, b in zip(found, expected, strict=True)), len(expected))


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS_OF = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBERS)}
ARTICLES = frozenset({"a", "an", "the"})
CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't
    would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
# VQA's evaluation restores one lost apostrophe, never two: "couldnt've" and "couldn'tve", but not "couldntve".
CONTRACTION_OF = {
    word[:index] + word[index + 1 :]: word
    for word in CONTRACTIONS.split()
    for index, mark in enumerate(word)
    if mark == "'"
}


def normalize_answer(text: str) -> str:
    """Bring an answer to the form in which VQA's evaluation compares answers.

    Lower case; periods gone unless a digit follows; other punctuation, but for apostrophe and colon, a space, or
    nothing where the answer has it next to a space or has a comma between digits; number words up to ten, and "none",
    as digits; no articles; contractions with their apostrophe; single spaces.

    Source: https://visualqa.org/evaluation, and the code it links to where the page leaves a case open.
    """
    text = text.lower().replace("\n", " ").replace("\t", " ").strip()
    has_grouped_digits = re.search(r"\d,\d", text) is not None
    replacement = {
        mark: "" if has_grouped_digits or f"{mark} " in text or f" {mark}" in text else " " for mark in PUNCTUATION
    }
    text = re.sub(r"\.(?!\d)", "", text.translate(str.maketrans(replacement)))
    words = [DIGITS_OF.get(word, word) for word in text.split()]
    return " ".join(CONTRACTION_OF.get(word, word) for word in words if word not in ARTICLES)


def vqa_score(answer: str, human_answers: Sequence[str]) -> float:
    """VQA's accuracy of one answer, from 0 to 1: right when three humans gave it, a third for each when fewer did.

    Source: Antol et al., "VQA: Visual Question Answering" (2015). The official evaluation averages it over the ten
    ways to leave one of ten humans out, so that one, two and three humans are worth 0.3, 0.6 and 0.9 there.

    Raises:
        ValueError: there are no human answers.
    """
    if not human_answers:
        raise ValueError(f"no human answers to compare {answer!r} with: take a split that has them, such as validation")
    said = normalize_answer(answer)
    return min(sum(said == normalize_answer(human) for human in human_answers) / 3, 1.0)


def vqa_v2_accuracy(model: OVBlipModel, processor: BlipProcessor, records: Iterable[Mapping]) -> float:
    """Mean VQA accuracy, from 0 to 1, of greedy answers 20 tokens long at most.

    Args:
        model, processor: of one visual question answering checkpoint.
        records: as in the Hub's `lmms-lab/VQAv2`, validation split: `image` (PIL), `question`, and `answers`, one
            mapping with the key `answer` for each human.

    Raises:
        ValueError: there are no records, or one has no human answers.
    """
    scores = []
    for record in tqdm(records, desc="answering", unit="question"):
        inputs = processor(images=record["image"].convert("RGB"), text=record["question"], return_tensors="pt")
        ids = model.generate_answer(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        # BERT's tokens are spaced apart, "don ' t"; without the clean-up no answer with an apostrophe could be right.
        answer = processor.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=True)
        scores.append(vqa_score(answer, [human["answer"] for human in record["answers"] or ()]))
    if not scores:
        raise ValueError("there are no VQA v2 records to answer: give at least one")
    return sum(scores) / len(scores)


def vqa_v2_samples(samples: int, seed: int, half: int) -> datasets.Dataset:
    """Samples of VQA v2's validation split, streamed from the Hugging Face Hub: image, image_id, question, answers.

    `half` is CALIBRATION or SCORING; no image is in both. BLIP was itself fine-tuned on this split (Li et al., 2022,
    appendix), so a score on it tells precisions of one model apart and says little of the model.

    `lmms-lab/VQAv2` holds it as Parquet (CC BY 4.0, visualqa.org); only the shards that are read are downloaded.

    Raises:
        OSError: the Hub cannot be reached.
    """
    stream = datasets.load_dataset("lmms-lab/VQAv2", split="validation", streaming=True)
    stream = stream.select_columns(["image", "image_id", "question", "answers"])
    stream = stream.filter(lambda record: record["image_id"] % 2 == half).shuffle(seed=seed, buffer_size=1000)
    records = tqdm(islice(stream, samples), total=samples, desc="downloading samples", unit="sample")
    return datasets.Dataset.from_list(list(records))


def easy_vqa_accuracy(models: Mapping[str, OVBlipModel], processor: BlipProcessor) -> dict[str, dict[str, str]]:
    """Every model on easy-VQA's whole test split: all answers, each question type, captions, agreement with the first.

    `models` is by precision, such as {"FP16": ..., "INT8": ...}; so is what it returns, measure -> text in each.
    """
    questions, captions = load_questions("test"), load_captions("test")
    answers = {name: answer_questions(model, processor, questions) for name, model in models.items()}
    said = {name: caption_images(model, processor, list(captions)) for name, model in models.items()}
    first = next(iter(models))
    measures = {}
    for name in models:
        scores = {f"answers, {kind}": score for kind, score in score_answers(answers[name], questions).items()}
        scores["captions"] = score_captions(said[name], list(captions.values()))
        scores[f"agreement with {first}, answers"] = agreement(answers[name], answers[first])
        scores[f"agreement with {first}, captions"] = agreement(said[name], said[first])
        measures[name] = {measure: str(score) for measure, score in scores.items()}
    return measures


def measure_accuracy(
    models: Mapping[str, OVBlipModel], processor: BlipProcessor, model_id: str | Path, samples: int = 200
) -> dict[str, dict[str, str]]:
    """What suits a model: easy-VQA's test split for the embedded one, `samples` of VQA v2 for the others.

    Takes and returns what `easy_vqa_accuracy` does; the first measure is the headline.
    """
    if Path(model_id).name == "blip-easy-vqa":
        return easy_vqa_accuracy(models, processor)
    records = vqa_v2_samples(samples, SCORING_SEED, SCORING)
    scores = {name: vqa_v2_accuracy(model, processor, records) for name, model in models.items()}
    return {name: {f"VQA accuracy, {samples} samples": f"{score:.2%}"} for name, score in scores.items()}


def accuracy_table(measures: Mapping[str, Mapping[str, str]]) -> str:
    """Markdown table of `measure_accuracy`: a row for each measure, a column for each precision."""
    names = next(iter(measures.values()))
    return markdown_table(("accuracy", *measures), [(name, *(m[name] for m in measures.values())) for name in names])
