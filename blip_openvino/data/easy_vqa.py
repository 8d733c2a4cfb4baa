"""easy-VQA as records: questions, their types, and the captions the questions imply.

easy-VQA (Victor Zhou, MIT licence, https://github.com/vzhou842/easy-VQA) has 64x64 pictures of one coloured shape,
with questions whose answer is one of 13 words. It has no captions; `load_captions` derives them from the questions.
"""

from collections import defaultdict
from dataclasses import dataclass

import easy_vqa

COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPES = ("circle", "rectangle", "triangle")
ANSWERS = (*COLOURS, *SHAPES, "no", "yes")


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
    """
    image_paths = getattr(easy_vqa, f"get_{split}_image_paths")()
    questions = getattr(easy_vqa, f"get_{split}_questions")()
    return [
        Question(image_paths[image_id], text, answer, image_id)
        for text, answer, image_id in zip(*questions, strict=True)
    ]


def question_type(answer: str) -> str:
    """What a question with this answer asks for: "yes/no", "colour" or "shape"."""
    return "colour" if answer in COLOURS else "shape" if answer in SHAPES else "yes/no"


def revealed_words(question: str, answer: str) -> set[str]:
    """The colour and shape words that `question` with `answer` says are true of the image.

    An answer other than yes or no is true itself. What a plain question names is there when its answer is yes, what
    a negated one names when its answer is no: "is no teal shape present?" "no" reveals teal.
    """
    if answer not in ("yes", "no"):
        return {answer}
    words = set(question.rstrip("?").split())
    is_negated = not words.isdisjoint({"no", "not"})
    return words.intersection(COLOURS + SHAPES) if is_negated == (answer == "no") else set()


def load_captions(split: str) -> dict[str, str]:
    """Map image path to caption, such as "a teal circle", for each image whose colour and shape are both revealed.

    Those are 3,132 images of the "train" split and 772 of the "test" split; the rest have no caption.
    """
    revealed_by = defaultdict(set)
    for question in load_questions(split):
        revealed_by[question.image_path] |= revealed_words(question.question, question.answer)
    return {
        path: " ".join(("a", *sorted(words, key=SHAPES.__contains__)))  # the colour before the shape
        for path, words in revealed_by.items()
        if len(words) == 2
    }
