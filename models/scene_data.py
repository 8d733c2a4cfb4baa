"""Drawn scenes and easy-VQA's training split as tensors: pictures, captions, inventories and questions with answers."""

import random
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import BertTokenizerFast, BlipProcessor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from easy_vqa_images import augment, enlarge, free_margins, read_images  # noqa: E402
from small_blip import build_processor  # noqa: E402

from blip_openvino.data.easy_vqa import load_captions, load_questions, question_type  # noqa: E402
from blip_openvino.data.scene_captions import caption, inventory, wrong_captions  # noqa: E402
from blip_openvino.data.scene_questions import scene_questions  # noqa: E402
from blip_openvino.data.scenes import IMAGE_SIZE, VALIDATION_SEED, Scene, draw_scene, make_scene, make_scenes  # noqa: E402

QUESTIONS_PER_KIND = 4
WRONG_CAPTIONS = 6
VOCABULARY_SCENES = 4000


def scenes_processor() -> BlipProcessor:
    """A processor whose vocabulary is the words of scenes and of easy-VQA."""
    texts = set(load_captions("train").values())
    for question in load_questions("train"):
        texts.update((question.question, question.answer))
    for seed in range(VOCABULARY_SCENES):
        scene = make_scene(seed)
        texts.update((caption(scene), inventory(scene)))
        texts.update(text for each in scene_questions(scene, 9) for text in (each.question, each.answer))
    return build_processor(texts)


@dataclass
class Said:
    """What is said and asked of a picture: wrong captions are wrong by one word; asked are (question, answer, kind)."""

    caption: str
    inventory: str
    wrong: list[str]
    asked: list[tuple[str, str, str]]


@dataclass
class Examples:
    """Pictures by row, with what is said and asked about each.

    Attributes:
        images: `[N, 3, H, W]` uint8.
        captions: `[N, L]`, "[DEC] caption [SEP]"; all 0 for a picture without one.
        inventories: `[N, L]`, "[ENC] inventory [SEP]"; the same.
        wrong: `[S, W, L]`, wrong captions of scenes, which come first: "[CLS] caption [SEP]".
        asked: `[N, Q, 2]`, rows in `questions` and `answers`; -1 where a picture has fewer than Q.
        kinds: `[N, Q]`, index into `kind_names`.
    """

    images: Tensor
    captions: Tensor
    inventories: Tensor
    wrong: Tensor
    asked: Tensor
    kinds: Tensor
    kind_names: list[str]
    questions: Tensor
    answers: Tensor


def draw_batch(scenes: Sequence[Scene]) -> np.ndarray:
    """Draw scenes as `[N, 3, 96, 96]` uint8."""
    return np.stack([np.asarray(draw_scene(scene)) for scene in scenes]).transpose(0, 3, 1, 2)


def draw_scenes(scenes: Sequence[Scene], file: Path) -> Tensor:
    """Draw scenes with a process a core, or read the pictures that an earlier call left in `file`: `[N, 3, 96, 96]`."""
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished = file.with_suffix(".unfinished.npy")
        shape = (len(scenes), 3, IMAGE_SIZE, IMAGE_SIZE)
        pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        batches = [scenes[start : start + 256] for start in range(0, len(scenes), 256)]
        with get_context("spawn").Pool() as pool:
            drawn = tqdm(pool.imap(draw_batch, batches), total=len(batches), desc="drawing", unit="batch")
            for index, batch in enumerate(drawn):
                pictures[256 * index : 256 * index + len(batch)] = batch
        pictures.flush()
        unfinished.rename(file)
    return torch.from_numpy(np.load(file))


def said_of_scene(scene: Scene) -> Said:
    """What is said and asked of a scene, the same each time."""
    rng = random.Random(scene.jitter)
    wrong = rng.choices([text for _, text in wrong_captions(scene, rng)], k=WRONG_CAPTIONS)
    asked = [(each.question, each.answer, each.kind) for each in scene_questions(scene, QUESTIONS_PER_KIND)]
    return Said(caption(scene), inventory(scene), wrong, asked)


def easy_vqa_pictures(views: int) -> tuple[Tensor, list[Said]]:
    """The pictures of easy-VQA's training split, `views` times each, and what is said of them.

    From the second view on, pictures are mirrored and their shapes moved at random. Those whose id ends in 0 are left
    out: the recipe was chosen by them. The caption, where there is one, is the inventory too.
    """
    caption_of = load_captions("train")
    said: dict[str, Said] = {}
    for each in load_questions("train"):
        if each.image_id % 10:
            text = caption_of.get(each.image_path, "")
            asked = said.setdefault(each.image_path, Said(text, text, [], [])).asked
            asked.append((each.question, each.answer, f"easy-VQA {question_type(each.answer)}"))
    images = read_images(list(said))
    margins = free_margins(images)
    drawn = [images, *(augment(images, margins) for _ in range(views - 1))]
    return torch.cat([enlarge(each, IMAGE_SIZE) for each in drawn]), [*said.values()] * views


def token_table(texts: Iterable[str], tokenizer: BertTokenizerFast, start: str) -> tuple[dict[str, int], Tensor]:
    """Each of `texts` once: the row of each, and token ids `[rows, L]`, padded with 0, with `start` for "[CLS]"."""
    rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    ids = tokenizer(list(rows), padding=True, return_tensors="pt").input_ids
    ids[:, 0] = tokenizer.convert_tokens_to_ids(start)
    return rows, ids


def make_examples(images: Tensor, said: Sequence[Said], tokenizer: BertTokenizerFast) -> Examples:
    """The tensors of pictures `[N, 3, H, W]` and of what is said of them; scenes come first."""

    def tokenized(texts: list[str], start: str) -> Tensor:
        rows, ids = token_table(texts, tokenizer, start)
        return ids[[rows[text] for text in texts]] * torch.tensor([[text != ""] for text in texts])

    wrong = tokenized([text for each in said for text in each.wrong], "[CLS]")
    question_rows, questions = token_table((q for each in said for q, _, _ in each.asked), tokenizer, "[CLS]")
    answer_rows, answers = token_table((a for each in said for _, a, _ in each.asked), tokenizer, "[DEC]")
    kind_names = list(dict.fromkeys(kind for each in said for _, _, kind in each.asked))
    asked = [torch.tensor([(question_rows[q], answer_rows[a]) for q, a, _ in each.asked]) for each in said]
    kinds = [torch.tensor([kind_names.index(kind) for _, _, kind in each.asked]) for each in said]
    return Examples(
        images,
        tokenized([each.caption for each in said], "[DEC]"),
        tokenized([each.inventory for each in said], "[ENC]"),
        wrong.view(-1, WRONG_CAPTIONS, wrong.shape[1]),
        pad_sequence(asked, batch_first=True, padding_value=-1),
        pad_sequence(kinds, batch_first=True, padding_value=-1),
        kind_names,
        questions,
        answers,
    )


def training_scenes(first_seed: int, count: int) -> list[Scene]:
    """Up to `count` scenes to train on, none equal to a scene that is kept for measuring."""
    kept = {scene.key for scene in make_scenes(2000) + make_scenes(1000, VALIDATION_SEED)}
    return [scene for scene in map(make_scene, range(first_seed, first_seed + count)) if scene.key not in kept]
