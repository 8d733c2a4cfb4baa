"""How often a model agrees with the humans whom VQA v2 asked: the benchmark's own metric."""

import re
from collections.abc import Iterable, Mapping, Sequence

from tqdm.auto import tqdm

from blip_model import OVBlipModel
from blip_openvino.evaluate.scores import Score
from blip_openvino.runtime.processor import OVBlipProcessor

MAX_NEW_TOKENS = 20

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = "none zero one two three four five six seven eight nine ten"
DIGITS_OF = {word: str(max(index - 1, 0)) for index, word in enumerate(NUMBERS.split())}
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


def vqa_v2_accuracy(model: OVBlipModel, processor: OVBlipProcessor, records: Iterable[Mapping]) -> Score:
    """VQA accuracy of greedy answers, 20 tokens long at most.

    Args:
        model, processor: of one visual question answering checkpoint.
        records: as in the Hub's `lmms-lab/VQAv2`, validation split: `image` (PIL), `question`, and `answers`, one
            mapping with the key `answer` for each human.

    Raises:
        ValueError: there are no records, or one has no human answers.
    """
    scores = []
    for record in tqdm(records, desc="answering", unit="question"):
        ids = model.generate_answer(**processor(record["image"], record["question"]), max_new_tokens=MAX_NEW_TOKENS)
        # BERT's tokens are spaced apart, "don ' t": as they are, no answer with an apostrophe could be right.
        answer = processor.decode(ids[0]).replace(" ' ", "'")
        scores.append(vqa_score(answer, [human["answer"] for human in record["answers"] or ()]))
    if not scores:
        raise ValueError("there are no VQA v2 records to answer: give at least one")
    return Score(sum(scores), len(scores))
