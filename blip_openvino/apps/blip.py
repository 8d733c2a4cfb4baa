"""A loaded model asked in plain Python: images of any kind and texts in, answers with their likelihood out.

blip = blip_openvino.load("Salesforce/blip-vqa-base")
print(blip.ask("photo.jpg", "how many dogs are there?"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from blip_model import ROWS_AT_ONCE, OVBlipModel
from blip_openvino.apps.errors import extra
from blip_openvino.runtime.arguments import check_pieces, resolve_settings
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.encoded import EncodedImages
from blip_openvino.runtime.images import ImageSource
from blip_openvino.runtime.inputs import check_text
from blip_openvino.runtime.processor import OVBlipProcessor
from blip_openvino.runtime.scores import rank_texts, score_texts

IMAGES_AT_ONCE = 8
"""How many images of a list are held as pixels at a time: at BLIP base 14 MB, and their files decoded one by one."""
RANKED = 128
"""How many answers `Blip.rank` reads to their end, the likeliest by their first token, as BLIP's evaluation does."""


@dataclass(frozen=True)
class Answer:
    """What the model says of an image; printed it is its text."""

    text: str
    image: ImageSource = field(repr=False, compare=False)
    """The image as it was given."""
    question: str | None = None
    """The question, or the beginning of the caption; None where there was none."""
    score: float = field(default=float("nan"), compare=False)
    """The text's log-probability by the model, its end included, a given beginning not."""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Match:
    """An image or a text that was searched for."""

    index: int
    """Its place in the list that was given."""
    similarity: float
    """Image-text contrast: the cosine of both features."""
    match: float | None = None
    """Image-text matching: the probability, from 0 to 1; None for what was not among the first to be re-ranked."""


@dataclass(frozen=True)
class Blip:
    """A model and its processor: images and texts in, texts out.

    Every method takes one image (a path, bytes, an open file, a PIL image, or an array of pixels [H, W, 3]) and one
    text, or lists of them, and in place of images what `encode_images` made of them. One image with many texts is
    encoded once, many images may share one text, and else both lists have one length. Of lists the result is a list.
    Images of a list are read eight at a time. `generate` are the arguments of transformers' `generate`, such as
    `num_beams=3` or `max_new_tokens=40`; with `num_return_sequences` there is a list of answers in place of each.

    Raises:
        ValueError: an image, a text or an argument is wrong, or the checkpoint cannot do this; the message names it.
        OSError: an image cannot be read.
        ImportError: an argument takes PyTorch and transformers, and the extra `convert` is not installed.
    """

    model: OVBlipModel
    processor: OVBlipProcessor

    def ask(
        self, image: ImageSource | Sequence[ImageSource], question: str | Sequence[str], **generate
    ) -> Answer | list:
        """Answer questions about images."""
        return self._texts(self.model.generate_answer, image, question, generate)

    def caption(
        self, image: ImageSource | Sequence[ImageSource], prompt: str | Sequence[str] | None = None, **generate
    ) -> Answer | list:
        """Caption images, or go on from a prompt, with which the text then begins."""
        return self._texts(self.model.generate_caption, image, prompt, generate)

    def match(self, image: ImageSource | Sequence[ImageSource], text: str | Sequence[str]) -> float | list[float]:
        """How likely each text describes the image, from 0 to 1: the matching head of a checkpoint for retrieval."""
        found = []
        for encoded, inputs, _, _ in self._batches(image, text):
            found += self.model.match(encoded, **inputs).tolist()
        return found if is_list(image) or is_list(text) else found[0]

    def rank(self, image: ImageSource, question: str, answers: Sequence[str]) -> dict[str, float]:
        """How likely each of the given answers is, best first; together 1.

        As BLIP's own evaluation ranks its candidates (Li et al., 2022, section 4.3): by their first tokens, and then
        the best 128 of them by the whole of each.
        """
        if self.model.text_encoder is None or self.model.text_decoder is None:
            raise ValueError("this checkpoint cannot read a question and answer it: use one such as blip-vqa-base")
        config, answers = self.model.config.text_config, list(dict.fromkeys(as_list(answers)))
        ids = self.processor(text=answers)["input_ids"] if answers else np.zeros((1, 2))
        if (ids[:, 1] == config.sep_token_id).any() or ids.shape[1] < 3:
            raise ValueError(f"answers is {answers!r:.80}; it takes texts to choose from, none of them empty")
        ids[:, 0] = self.model.decoder_start_token_id
        if is_list(image) or is_list(question):
            raise ValueError("rank is about one image and one question: call it for each")
        encoded, inputs, _, _ = next(self._batches(image, question))
        check_text(config, **inputs)
        tokens = self.model.read_questions(encoded, **inputs)
        scores = rank_texts(self.model.text_decoder, tokens, ids, RANKED, config.sep_token_id, config.pad_token_id)
        likely = np.exp(scores - scores.max())
        order = np.argsort(-likely, kind="stable").tolist()
        return {answers[index]: float(likely[index] / likely.sum()) for index in order}

    def encode_images(self, images: ImageSource | Sequence[ImageSource] | EncodedImages) -> EncodedImages:
        """One or many images, encoded once, to search among; those that this model has encoded come back as they are.

        At BLIP base each takes 1.8 MB.
        """
        if isinstance(images, EncodedImages):
            return self.model.encode_images(images)
        images = as_list(images)
        if not images:
            raise ValueError("there is no image to encode: give at least one")
        parts = [
            self.model.encode_images(self.processor(images=images[start : start + IMAGES_AT_ONCE])["pixel_values"])
            for start in range(0, len(images), IMAGES_AT_ONCE)
        ]
        features = [each.features for each in parts if each.features is not None]
        return EncodedImages(
            self.model.vision_model,
            np.concatenate([each.hidden_states for each in parts]),
            np.concatenate(features) if features else None,
        )

    def similarity(self, images: Sequence[ImageSource] | EncodedImages, texts: str | Sequence[str]) -> np.ndarray:
        """Image-text contrast of every pair, for retrieval checkpoints: cosines [images, texts] float32."""
        features = self.model.text_features(**self.processor(text=as_list(texts)))
        return self.encode_images(images).features @ features.T

    def match_all(self, images: Sequence[ImageSource] | EncodedImages, texts: str | Sequence[str]) -> np.ndarray:
        """Image-text matching of every pair, for retrieval checkpoints: probabilities [images, texts] float32."""
        encoded, inputs = self.encode_images(images), self.processor(text=as_list(texts))
        return np.stack([self.model.match(encoded[i : i + 1], **inputs) for i in range(len(encoded))])

    def find_images(
        self, text: str, images: Sequence[ImageSource] | EncodedImages, top: int = 5, rerank: int = 32
    ) -> list[Match]:
        """The `top` images that a text describes best, best first.

        As in the paper (Li et al., 2022, section 4.1): all are ranked by contrast, the first `rerank` of them anew by
        matching.
        """
        encoded = self.encode_images(images)
        similarity = self.similarity(encoded, text)[:, 0]
        return best_matches(similarity, lambda chosen: self.match(encoded[chosen], [text]), top, rerank)

    def find_texts(
        self, image: ImageSource | EncodedImages, texts: Sequence[str], top: int = 5, rerank: int = 32
    ) -> list[Match]:
        """The `top` texts that describe an image best, best first, found as `find_images` does."""
        encoded, texts = self.encode_images(image), as_list(texts)
        if len(encoded) != 1:
            raise ValueError(f"find_texts is about one image, and {len(encoded)} were given: call it for each")
        similarity = self.similarity(encoded, texts)[0]
        return best_matches(similarity, lambda chosen: self.match(encoded, [texts[i] for i in chosen]), top, rerank)

    def _texts(self, compute: Callable, images, texts, generate: dict) -> Answer | list:
        settings = resolve_settings(self.model.config.text_config, self.model.generation_config, [1], generate)
        lists = as_list(images), as_list(texts)
        check_pieces(settings, max(map(len, lists)), rows_at_once(lists[0]))
        answers = []
        for encoded, inputs, some_images, some_texts in self._batches(images, texts):
            with extra("convert"):  # sampling and constraints are done with PyTorch and transformers
                found = compute(encoded, **inputs, **generate, return_dict_in_generate=settings.is_plain)
            if settings.is_plain:
                sequences, scores = found.sequences, found.log_probabilities
            else:
                asks = compute == self.model.generate_answer
                tokens = self.model.read_questions(encoded, **inputs) if asks else encoded
                prompts = inputs["attention_mask"].sum(axis=1).max() - 1 if inputs and not asks else 1  # less [SEP]
                ends = settings.eos_token_id, settings.pad_token_id
                sequences = found
                scores = score_texts(DecoderState(self.model.text_decoder, tokens), sequences, int(prompts), *ends)
            rows = zip(map(self.processor.decode, sequences), scores.tolist(), strict=True)
            count = len(sequences) // len(some_texts)
            written = [
                [Answer(said, image, text, score) for said, score in islice(rows, count)]
                for image, text in zip(some_images, some_texts, strict=True)
            ]
            answers += written if count > 1 else [each for (each,) in written]
        return answers if is_list(images) or is_list(texts) else answers[0]

    def _batches(self, images, texts) -> Iterator[tuple[EncodedImages, dict[str, np.ndarray], list, list]]:
        """Some encoded images, the inputs of the texts about them, and both as they were given, a row each."""
        given = images if isinstance(images, EncodedImages) else None
        images, texts = as_list(images), as_list(texts)
        if len(images) != len(texts) and 1 not in (len(images), len(texts)):
            raise ValueError(f"{len(images)} images do not go with {len(texts)} texts: give one of either, or as many")
        count = max(len(images), len(texts)) if images and texts else 0
        at_once = rows_at_once(images)
        for start in range(0, count, at_once):
            batch = slice(start, min(start + at_once, count))
            if given is not None:
                encoded = given if len(given) <= at_once else given[batch]
            elif start == 0 or len(images) > 1:
                encoded = self.model.encode_images(self.processor(images=images[batch])["pixel_values"], reused=False)
            some_images, some_texts = (
                each[batch] if len(each) > 1 else each * (batch.stop - start) for each in (images, texts)
            )
            yield encoded, {} if texts == [None] else self.processor(text=some_texts), some_images, some_texts


def is_list(values: object) -> bool:
    """Whether a caller gave several, and so gets several."""
    return isinstance(values, list | tuple) or (isinstance(values, EncodedImages) and len(values) != 1)


def as_list(values: object) -> list:
    """Several as a list, and one as a list of it."""
    if isinstance(values, EncodedImages) and len(values) != 1:
        return [values[row : row + 1] for row in range(len(values))]
    return list(values) if is_list(values) else [values]


def rows_at_once(images: Sequence[object]) -> int:
    """How many texts are worked off together: many about one image, or few about as many images."""
    return IMAGES_AT_ONCE if len(images) > 1 else ROWS_AT_ONCE


def best_matches(
    similarity: np.ndarray, match: Callable[[np.ndarray], Sequence[float]], top: int, rerank: int
) -> list[Match]:
    """The `top` best of many, by similarity [many], the first `rerank` anew by what `match` gives for their places."""
    order = np.argsort(-similarity, kind="stable")
    first = order[:rerank]
    probability = match(first) if len(first) else first
    # Many probabilities round to 1: there the similarity decides.
    best = [Match(int(first[i]), float(similarity[first[i]]), float(probability[i])) for i in range(len(first))]
    best.sort(key=lambda found: (found.match, found.similarity), reverse=True)
    return [*best, *(Match(int(index), float(similarity[index])) for index in order[rerank:top])][:top]
