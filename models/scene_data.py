"""Drawn scenes and easy-VQA's training split as tensors: pictures, captions, inventories and questions with answers."""

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import BertTokenizerFast, BlipProcessor

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from easy_vqa_images import augment, enlarge, free_margins, read_images  # noqa: E402
from small_blip import build_processor  # noqa: E402

from blip_openvino.data.easy_vqa import Question, load_captions, load_questions, question_type  # noqa: E402
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


class Texts:
    """A table of tokenized texts, each held once: `ids[row]` of the row that `row_of` gives.

    Attributes:
        ids: `[rows, L]` int64, padded with 0; `start` stands in place of "[CLS]".
    """

    def __init__(self, texts: Sequence[str], tokenizer: BertTokenizerFast, start: str):
        self.rows = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self.ids = tokenizer(list(self.rows), padding=True, return_tensors="pt").input_ids
        self.ids[:, 0] = tokenizer.convert_tokens_to_ids(start)

    def row_of(self, texts: Sequence[str]) -> Tensor:
        """The rows of texts: int64."""
        return torch.tensor([self.rows[text] for text in texts])


@dataclass
class Examples:
    """Pictures by row, with what is said and asked about each; easy-VQA's have the caption as inventory.

    Attributes:
        images: `[N, 3, H, W]` uint8.
        captions: `[N, L]`, "[DEC] caption [SEP]"; all 0 for a picture without one.
        inventories: `[N, L]`, "[ENC] inventory [SEP]".
        wrong: `[N, W, L]`, captions that are wrong by one word, "[CLS] caption [SEP]".
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


def pad_lists(lists: Sequence[Sequence], width: int, filler) -> Tensor:
    """Stack lists as `[len(lists), width, ...]`, filled up or cut off at `width`."""
    return torch.tensor([[*each[:width], *[filler] * (width - len(each))] for each in lists])


def scene_examples(scenes: Sequence[Scene], file: Path, tokenizer: BertTokenizerFast) -> Examples:
    """The tensors of scenes, whose pictures are kept in `file`."""
    captions = [caption(scene) for scene in scenes]
    inventories = [inventory(scene) for scene in scenes]
    wrong = []
    for scene in scenes:
        rng = random.Random(scene.jitter)
        changed = [text for _, text in wrong_captions(scene, rng)]
        wrong.append(rng.choices(changed, k=WRONG_CAPTIONS))
    asked = [scene_questions(scene, QUESTIONS_PER_KIND) for scene in scenes]
    records = [[(each.question, each.answer, each.kind) for each in questions] for questions in asked]
    wrong_texts = Texts([text for texts in wrong for text in texts], tokenizer, "[CLS]")
    caption_texts = Texts(captions, tokenizer, "[DEC]")
    inventory_texts = Texts(inventories, tokenizer, "[ENC]")
    return Examples(
        draw_scenes(scenes, file),
        caption_texts.ids[caption_texts.row_of(captions)],
        inventory_texts.ids[inventory_texts.row_of(inventories)],
        wrong_texts.ids[torch.stack([wrong_texts.row_of(texts) for texts in wrong])],
        *question_tensors(records, tokenizer),
    )


def question_tensors(records: Sequence[Sequence[tuple[str, str, str]]], tokenizer: BertTokenizerFast) -> tuple:
    """Give `Examples`' tensors from `asked` on, from (question, answer, kind) of each picture."""
    flat = [record for each in records for record in each]
    questions = Texts([question for question, _, _ in flat], tokenizer, "[CLS]")
    answers = Texts([answer for _, answer, _ in flat], tokenizer, "[DEC]")
    kind_names = list(dict.fromkeys(kind for _, _, kind in flat))
    width = max(map(len, records))
    rows = [[(questions.rows[q], answers.rows[a]) for q, a, _ in each] for each in records]
    kinds = [[kind_names.index(kind) for _, _, kind in each] for each in records]
    return (
        pad_lists(rows, width, (-1, -1)),
        pad_lists(kinds, width, -1),
        kind_names,
        questions.ids,
        answers.ids,
    )


def easy_vqa_examples(is_held_out: bool, views: int, tokenizer: BertTokenizerFast) -> Examples:
    """The pictures of easy-VQA's training split whose id ends in 0 (held out), or the others, `views` times each.

    From the second view on, pictures are mirrored and their shapes moved at random. Only pictures with captions are
    captioned.
    """
    by_path: dict[str, list[Question]] = {}
    for question in load_questions("train"):
        if (question.image_id % 10 == 0) == is_held_out:
            by_path.setdefault(question.image_path, []).append(question)
    images = read_images(list(by_path))
    margins = free_margins(images)
    drawn = [images, *(augment(images, margins) for _ in range(views - 1))]
    caption_of = load_captions("train")
    texts = [caption_of.get(path, "") for path in by_path]
    records = [
        [(each.question, each.answer, f"easy-VQA {question_type(each.answer)}") for each in questions]
        for questions in by_path.values()
    ]
    encoded = {start: Texts(texts, tokenizer, start) for start in ("[DEC]", "[ENC]")}
    has_caption = torch.tensor([bool(text) for text in texts])[:, None]
    captions, inventories = (table.ids[table.row_of(texts)] * has_caption for table in encoded.values())
    asked, kinds, *rest = question_tensors(records, tokenizer)
    return Examples(
        torch.cat([enlarge(each, IMAGE_SIZE) for each in drawn]),
        captions.repeat(views, 1),
        inventories.repeat(views, 1),
        torch.zeros(len(texts) * views, 0, captions.shape[1], dtype=torch.int64),
        asked.repeat(views, 1, 1),
        kinds.repeat(views, 1),
        *rest,
    )


def pad_and_join(first: Tensor, second: Tensor, filler: int = 0) -> Tensor:
    """Concatenate along the first axis; the others are as long as the longer of the two."""
    widths = [max(sizes) for sizes in zip(first.shape[1:], second.shape[1:], strict=True)]
    joined = first.new_full((len(first) + len(second), *widths), filler)
    for start, part in ((0, first), (len(first), second)):
        joined[(slice(start, start + len(part)), *map(slice, part.shape[1:]))] = part
    return joined


def join_examples(first: Examples, second: Examples) -> Examples:
    """All pictures of the first and then those of the second."""
    offset = torch.tensor([len(first.questions), len(first.answers)])
    asked = torch.where(second.asked >= 0, second.asked + offset, second.asked)
    kinds = torch.where(second.kinds >= 0, second.kinds + len(first.kind_names), second.kinds)
    return Examples(
        torch.cat([first.images, second.images]),
        pad_and_join(first.captions, second.captions),
        pad_and_join(first.inventories, second.inventories),
        pad_and_join(first.wrong, second.wrong),
        pad_and_join(first.asked, asked, -1),
        pad_and_join(first.kinds, kinds, -1),
        first.kind_names + second.kind_names,
        pad_and_join(first.questions, second.questions),
        pad_and_join(first.answers, second.answers),
    )


def training_scenes(first_seed: int, count: int) -> list[Scene]:
    """Up to `count` scenes to train on, none equal to a scene that is kept for measuring."""
    kept = {scene.key for scene in make_scenes(2000) + make_scenes(1000, VALIDATION_SEED)}
    return [scene for scene in map(make_scene, range(first_seed, first_seed + count)) if scene.key not in kept]
