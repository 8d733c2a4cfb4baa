"""easy-VQA's test split as tensors, and what PyTorch and OpenVINO answer to it."""

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BlipProcessor, PreTrainedModel

from blip_model import OVBlipModel
from blip_openvino.data.easy_vqa import Question, load_questions
from blip_openvino.ir.checkpoint import write


def padded(rows: Iterable[Tensor | np.ndarray], width: int = 24) -> Tensor:
    """Token ids of several generations as one tensor, [rows, width]."""
    return torch.stack([torch.nn.functional.pad(torch.as_tensor(row), (0, width - len(row))) for row in rows])


class EasyVQA:
    """The questions of the test split, each known by its index, and their images."""

    def __init__(self, processor: BlipProcessor):
        self.processor = processor
        self.questions: list[Question] = load_questions("test")
        self.paths = sorted({question.image_path for question in self.questions})
        images = [Image.open(path).convert("RGB") for path in self.paths]
        self.pixel_values: Tensor = processor(images=images, return_tensors="pt")["pixel_values"]
        row_of = {path: row for row, path in enumerate(self.paths)}
        self.image_row = [row_of[question.image_path] for question in self.questions]
        texts = processor(text=[question.question for question in self.questions])
        self.input_ids = [torch.tensor(ids) for ids in texts["input_ids"]]
        self.all = range(len(self.questions))
        self.sample = self.all[::19][:500]

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some questions as one batch, padded."""
        ids = torch.nn.utils.rnn.pad_sequence([self.input_ids[index] for index in indices], batch_first=True)
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    def images(self, indices: Sequence[int]) -> Tensor:
        """The image of each of some questions, [B, 3, H, W]."""
        return self.pixel_values[[self.image_row[index] for index in indices]]

    def texts(self, ids: Tensor) -> list[str]:
        return self.processor.batch_decode(ids, skip_special_tokens=True)

    @torch.inference_mode()
    def torch_answers(self, model: PreTrainedModel, indices: Sequence[int], **generate_kwargs) -> Tensor:
        """PyTorch's token ids for the chosen questions, step by step what `model.generate` does, each image once.

        Only questions of one length share a batch, without padding.
        """
        rows, place_of = np.unique([self.image_row[index] for index in indices], return_inverse=True)
        embeds = model.vision_model(self.pixel_values[rows]).last_hidden_state
        place_of = dict(zip(indices, place_of, strict=True))
        answers = {}
        for group in grouped(indices, lambda index: len(self.input_ids[index])):
            seen = embeds[[place_of[index] for index in group]]
            read = model.text_encoder(self.batch(group)["input_ids"], encoder_hidden_states=seen).last_hidden_state
            answers |= dict(zip(group, write(model, read, **generate_kwargs), strict=True))
        return padded([answers[index] for index in indices])

    def openvino_answers(self, model: OVBlipModel, indices: Sequence[int], **generate_kwargs) -> Tensor:
        """Ours for the same questions: image after image, with all questions about it at once, padded."""
        # All images stay alive, so that none comes to lie where another was: a stale address would be read unseen.
        images, answers = [], {}
        for group in grouped(indices, self.image_row.__getitem__):
            images.append(model.encode_images(self.images(group[:1])))
            ids = model.generate_answer(images[-1], **self.batch(group), **generate_kwargs)
            answers |= dict(zip(group, ids, strict=True))
        return padded([answers[index] for index in indices])


def grouped(indices: Iterable[int], key: Callable[[int], int]) -> list[list[int]]:
    """The indices of each key."""
    return [list(group) for _, group in groupby(sorted(indices, key=key), key)]
