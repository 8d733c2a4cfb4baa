"""easy-VQA as tensors to train BLIP on: images, tokenized questions, answers and captions, and their augmentation."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizerFast

from blip_openvino.data.easy_vqa import Question


def read_images(image_paths: list[str]) -> Tensor:
    """Read RGB images of one size as `[N, 3, H, W]` uint8."""
    return torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in image_paths]).permute(
        0, 3, 1, 2
    )


def free_margins(images: Tensor) -> Tensor:
    """Count the shape-free pixels on each side of `[N, 3, H, W]` images: `[N, 4]` int64, top, bottom, left, right.

    The background is the lightest colour of an image: easy-VQA draws a saturated or dark shape on a pale plain ground.
    """
    flat = images.int().flatten(2)
    lightest = flat.sum(1).argmax(1)
    background = flat[torch.arange(len(flat)), :, lightest]
    is_shape = (images.int() != background[:, :, None, None]).any(1)
    rows, columns = is_shape.any(2).int(), is_shape.any(1).int()
    return torch.stack([line.argmax(1) for line in (rows, rows.flip(1), columns, columns.flip(1))], 1)


def augment(images: Tensor, margins: Tensor) -> Tensor:
    """Mirror each of `[N, 3, H, W]` images left to right or not, and move its shape anywhere within the frame.

    The shape stays whole and the ground is plain, so every question keeps its answer.
    """
    count, channels, height, width = images.shape
    top, bottom, left, right = margins.unbind(1)
    down = (torch.rand(count) * (top + bottom + 1)).long() - top
    along = (torch.rand(count) * (left + right + 1)).long() - left
    rows = (torch.arange(height) - down[:, None]) % height
    columns = (torch.arange(width) - along[:, None]) % width
    columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
    return images[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[:, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def decoder_ids(texts: list[str], tokenizer: BertTokenizerFast) -> Tensor:
    """Encode `texts` as what the decoder says, "[DEC] text [SEP]": `[N, L]` int64, padded."""
    encoded = tokenizer(texts, padding=True, return_tensors="pt").input_ids
    encoded[:, 0] = tokenizer.bos_token_id
    return encoded


class TrainingSet:
    """Images, tokenized questions with answers, and captions of easy-VQA, indexed by image."""

    def __init__(self, questions: list[Question], captions: dict[str, str], tokenizer: BertTokenizerFast):
        image_paths = sorted({question.image_path for question in questions})
        row_of = {path: row for row, path in enumerate(image_paths)}
        self.images = read_images(image_paths)
        self.margins = free_margins(self.images)

        encoded = tokenizer([q.question for q in questions], padding=True, return_tensors="pt")
        self.input_ids, self.attention_mask = encoded.input_ids, encoded.attention_mask
        self.answer_ids = decoder_ids([q.answer for q in questions], tokenizer)
        self.questions_of = [[] for _ in image_paths]
        for index, question in enumerate(questions):
            self.questions_of[row_of[question.image_path]].append(index)

        captioned = [path for path in image_paths if path in captions]
        self.caption_row = torch.full((len(image_paths),), -1)
        self.caption_row[[row_of[path] for path in captioned]] = torch.arange(len(captioned))
        self.caption_ids = decoder_ids([captions[path] for path in captioned], tokenizer)

    def sample_questions(self, rows: Tensor, count: int) -> Tensor:
        """Draw `count` question indices, with replacement, for each image of `rows`: `[len(rows), count]`."""
        candidates = [torch.tensor(self.questions_of[row]) for row in rows.tolist()]
        return torch.stack([each[torch.randint(len(each), (count,))] for each in candidates])
