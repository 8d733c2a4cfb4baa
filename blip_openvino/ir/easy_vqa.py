"""easy-VQA as records: questions, their types, and the captions the questions imply.

easy-VQA (Victor Zhou, MIT licence, https://github.com/vzhou842/easy-VQA) has 64x64 pictures of one coloured shape,
with questions whose answer is one of 13 words. It has no captions; `load_captions` derives them from the questions.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import easy_vqa

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
ANSWERS = (*COLOURS, *SHAPES, "no", "yes")

NEGATIONS = frozenset({"no", "not"})

_READERS = {
    "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
    "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
}


@dataclass(frozen=True)
class Question:
    """One question about one image, with its one right answer."""

    image_path: str
    question: str
    answer: str
    image_id: int


def load_questions(split: str) -> list[Question]:
    """Read the questions of `split`, "train" (38,575) or "test" (9,673), in the package's order.

    Image ids are unique within a split only; image paths are unique in both.

    Raises:
        ValueError: `split` is neither "train" nor "test".
    """
    if split not in _READERS:
        raise ValueError(f"easy-VQA has no split {split!r}; it has {' and '.join(map(repr, _READERS))}")
    read_questions, read_image_paths = _READERS[split]
    image_paths = read_image_paths()
    return [
        Question(image_path=image_paths[image_id], question=question, answer=answer, image_id=image_id)
        for question, answer, image_id in zip(*read_questions(), strict=True)
    ]


def question_type(answer: str) -> str:
    """Name what a question with this `answer` asks for: "yes/no", "colour" or "shape".

    Raises:
        ValueError: `answer` is not one of easy-VQA's 13 answers.
    """
    if answer in COLOURS:
        return "colour"
    if answer in SHAPES:
        return "shape"
    if answer in ("yes", "no"):
        return "yes/no"
    raise ValueError(f"{answer!r} is not an answer of easy-VQA; those are {', '.join(ANSWERS)}")


def revealed_words(question: str, answer: str) -> set[str]:
    """Give the colour and shape words that `question` with `answer` says are true of the image.

    An answer other than yes or no is true itself. What a plain question names is there when its answer is yes, what
    a negated one names when its answer is no: "is no teal shape present?" "no" reveals teal.
    """
    if question_type(answer) != "yes/no":
        return {answer}
    words = question.rstrip("?").split()
    is_negated = not NEGATIONS.isdisjoint(words)
    is_there = (answer == "no") if is_negated else (answer == "yes")
    return {word for word in words if word in COLOURS or word in SHAPES} if is_there else set()


def colour_and_shape(questions: Iterable[Question]) -> tuple[str | None, str | None]:
    """Give the colour and the shape that the questions of one image reveal, None for what they leave open.

    Raises:
        ValueError: the questions contradict each other.
    """
    revealed = set()
    for question in questions:
        revealed |= revealed_words(question.question, question.answer)
    return _only_one(revealed.intersection(COLOURS)), _only_one(revealed.intersection(SHAPES))


def _only_one(words: set[str]) -> str | None:
    if len(words) > 1:
        raise ValueError(f"one image cannot be {' and '.join(sorted(words))} at once")
    return next(iter(words), None)


def load_captions(split: str) -> dict[str, str]:
    """Map image path to caption, such as "a teal circle", for each image whose colour and shape are both revealed.

    Those are 3,132 images of the "train" split and 772 of the "test" split; the rest have no caption.
    """
    questions_of = defaultdict(list)
    for question in load_questions(split):
        questions_of[question.image_path].append(question)
    captions = {}
    for image_path, questions in questions_of.items():
        colour, shape = colour_and_shape(questions)
        if colour and shape:
            captions[image_path] = f"a {colour} {shape}"
    return captions
