"""Run a converted BLIP model with OpenVINO: answer questions about images, caption them, match them with texts.

model = OVBlipModel.from_pretrained("build/blip-vqa-base", device="CPU")
processor = OVBlipProcessor.from_pretrained("build/blip-vqa-base")
ids = model.generate_answer(**processor("photo.jpg", "how many dogs are there?"))

NumPy arrays go in and come out; who gives PyTorch tensors gets tensors. PyTorch and transformers, which take longer to
import than BLIP to answer, are imported only for what neither greedy nor beam search does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from blip_openvino.ir.files import Part, load_generation_config
from blip_openvino.runtime.arguments import GenerationSettings, check_pieces, resolve_settings
from blip_openvino.runtime.arrays import SearchOutput, joined, like
from blip_openvino.runtime.beams import beam_search
from blip_openvino.runtime.decoder import DecoderState
from blip_openvino.runtime.device import load_parts
from blip_openvino.runtime.encoded import KEPT_BYTES, EncodedImages, EncoderTokens, TextModel, number_of
from blip_openvino.runtime.inputs import as_prompts, check_pixels, check_text
from blip_openvino.runtime.scores import logsumexp

if TYPE_CHECKING:
    from transformers import BlipConfig, PreTrainedModel
    from transformers.utils import ModelOutput

    from blip_openvino.runtime.arrays import Array

ROWS_AT_ONCE = 64
"""How many texts are generated together at most; more are worked off in pieces."""


def __getattr__(name: str) -> object:
    """`text_decoder_forward`, which the published notebook's cells import from here."""
    if name != "text_decoder_forward":
        raise AttributeError(f"module 'blip_model' has no attribute {name!r}")
    # PyTorch and transformers, which greedy and beam search do without.
    from blip_openvino.runtime.generate import text_decoder_forward

    return text_decoder_forward


class OVBlipModel:
    """BLIP on OpenVINO, with all that `generate` of transformers can do: greedy, beams, sampling, streamers, criteria.

    Any number of threads may call any method of one model at once, with images of their own or with `EncodedImages`
    that they share: each gets what it would get alone, but that sampling draws from torch's one generator. Nothing of
    a call stays behind but what its `EncodedImages` hold.

    Args:
        config: the checkpoint's configuration, as transformers has it or a namespace with the same names.
        decoder_start_token_id: the token every answer and caption starts with.
        vision_model, text_encoder, text_decoder: compiled, the text models split in two; None where the checkpoint has
            none. The text encoder may be plain, and the text decoder PyTorch's, with a `forward` that is
            `partial(text_decoder_forward, ov_text_decoder_with_past=compiled)`.
        generation_config: settings of `generate` that hold where its arguments say nothing.
        precision: of the files that the parts were read from.
    """

    def __init__(
        self,
        config: BlipConfig,
        decoder_start_token_id: int,
        vision_model: ov.CompiledModel,
        text_encoder: TextModel | ov.CompiledModel | None,
        text_decoder: TextModel | PreTrainedModel | None,
        generation_config: Mapping[str, object] | None = None,
        precision: str = "FP16",
    ):
        self.config, self.decoder_start_token_id = config, decoder_start_token_id
        self.vision_model = vision_model
        self.text_encoder = TextModel(text_encoder) if isinstance(text_encoder, ov.CompiledModel) else text_encoder
        self.text_decoder = text_decoder
        self.generation_config, self.precision = dict(generation_config or {}), precision

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "AUTO",
        precision: str | None = None,
        ov_config: Mapping[str, object] | None = None,
    ) -> OVBlipModel:
        """Load a converted folder and compile its parts; no PyTorch weights are loaded.

        Args:
            folder: has the IRs, `config.json` and `generation_config.json`.
            device: as OpenVINO names it: `CPU`, `GPU`, `AUTO`, ...
            precision: "FP16", "INT8", or "INT4" (the decoder's weights; the rest is INT8); the default is "INT8" where
                the folder has it whole, else "FP16".
            ov_config: more OpenVINO properties for compilation, such as `{"INFERENCE_PRECISION_HINT": "f32"}`.

        Raises:
            FileNotFoundError, ValueError: a part is missing, damaged or of another checkpoint, there is no such device
                or precision, or the device cannot run the model.
        """
        config, precision, parts = load_parts(Path(folder), device, precision, ov_config or {})
        settings = load_generation_config(Path(folder))
        return cls(config, config.text_config.bos_token_id, *(parts.get(part) for part in Part), settings, precision)

    def encode_images(self, pixel_values: Array | EncodedImages, reused: bool = True) -> EncodedImages:
        """Run the vision model; the result can be given in place of `pixel_values`, as often as you like.

        Args:
            pixel_values: [B, 3, H, W] float32, normalized; images that this model has encoded come back as they are.
            reused: more than one call will use the result: the text encoder then makes keys and values at the first
                question, which takes longer, and keeps them for the next.

        Raises:
            ValueError: it is of another size than the model takes, or encoded by another model.
        """
        if isinstance(pixel_values, EncodedImages):
            if pixel_values.vision_model is not self.vision_model:
                raise ValueError("these images were encoded by another model: use this one's encode_images")
            return pixel_values
        pixels = check_pixels(pixel_values, self.vision_model.input(0).shape)
        outputs = [np.empty((len(pixels), *port.shape[1:]), np.float32) for port in self.vision_model.outputs]

        def keep(request: ov.InferRequest, index: int) -> None:
            for output, tensor in zip(outputs, request.output_tensors, strict=True):
                output[index] = tensor.data[0]

        at_once = min(len(pixels), self.vision_model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        queue = ov.AsyncInferQueue(self.vision_model, at_once)
        queue.set_callback(keep)
        for index in range(len(pixels)):
            queue.start_async({0: pixels[index : index + 1]}, index, share_inputs=True)
        queue.wait_all()
        return EncodedImages(self.vision_model, *outputs, reused=reused)

    def read_texts(
        self, images: EncodedImages, input_ids: np.ndarray, attention_mask: np.ndarray
    ) -> Mapping[str, np.ndarray]:
        """The text encoder's outputs by name, for checked texts [k·E, T] of which k each are about one of E images."""
        request = images.request(self.text_encoder, input_ids.size // len(images))
        return request.infer({"input_ids": input_ids, "attention_mask": attention_mask}, share_inputs=True)

    def read_questions(self, images: EncodedImages, input_ids: np.ndarray, attention_mask: np.ndarray) -> EncoderTokens:
        """Questions, read as `read_texts` does, for the decoder to look at."""
        return EncoderTokens(self.read_texts(images, input_ids, attention_mask)["last_hidden_state"], attention_mask)

    def generate_answer(
        self,
        pixel_values: Array | EncodedImages,
        input_ids: Array,
        attention_mask: Array | None = None,
        **generate_kwargs,
    ) -> Array | SearchOutput | ModelOutput:
        """Answer questions about images.

        Args:
            pixel_values: [1 or B, 3, H, W] float32, normalized, or what `encode_images` made of it; one image
                serves all B questions, encoded once.
            input_ids: the questions, [B, T] int64.
            attention_mask: [B, T], 1 for tokens and 0 for padding at the end; None is all ones.
            generate_kwargs: those of transformers' `generate`, see `runtime.arguments.GENERATE_ARGUMENTS`.

        Returns:
            Token ids [B, answer tokens] int64: a tensor where images or questions were one, else an array. With
            `return_dict_in_generate` a `SearchOutput`, or what transformers gives where that does it.

        Raises:
            ValueError: an input or a generation argument is wrong; the message names it.
        """
        self._check_task(self.text_encoder and self.text_decoder, "cannot read a question and answer it")
        settings = resolve_settings(self.config.text_config, self.generation_config, [1], generate_kwargs)
        ids, mask = check_text(self.config.text_config, input_ids, attention_mask)
        found = []
        for images, rows in self._pieces(pixel_values, len(ids), self.text_encoder, settings):
            tokens = self.read_questions(images, ids[rows], mask[rows])
            start = np.full((len(tokens), 1), self.decoder_start_token_id)
            found.append(self._generate(start, np.ones_like(start), tokens, settings))
        return like((pixel_values, input_ids), joined(found, self.config.text_config.pad_token_id))

    def generate_caption(
        self,
        pixel_values: Array | EncodedImages,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        **generate_kwargs,
    ) -> Array | SearchOutput | ModelOutput:
        """Caption images, or continue a prompt about them.

        Takes, returns and raises what `generate_answer` does, but that `input_ids` [B, T] are prompts, as the tokenizer
        gives them: [CLS] first and [SEP] last. Captions begin with their prompts, shorter ones padded on the left.
        """
        self._check_task(self.text_decoder, "writes no text: it can only match one with an image")
        given = (pixel_values, input_ids)
        if input_ids is None and attention_mask is not None:
            raise ValueError("attention_mask goes with input_ids, and there are none: give both or neither")
        if input_ids is None:
            input_ids = np.full((number_of(pixel_values), 1), self.decoder_start_token_id)
            attention_mask = np.ones_like(input_ids)
        else:
            checked = check_text(self.config.text_config, input_ids, attention_mask)
            input_ids, attention_mask = as_prompts(self.config.text_config, self.decoder_start_token_id, *checked)
        lengths = attention_mask.sum(axis=1).tolist()
        settings = resolve_settings(self.config.text_config, self.generation_config, lengths, generate_kwargs)
        found = [
            self._generate(input_ids[rows], attention_mask[rows], images, settings)
            for images, rows in self._pieces(pixel_values, len(input_ids), self.text_decoder, settings)
        ]
        return like(given, joined(found, self.config.text_config.pad_token_id))

    def match(
        self, pixel_values: Array | EncodedImages, input_ids: Array, attention_mask: Array | None = None
    ) -> Array:
        """How likely each text describes its image, [B] float32; takes and raises what `generate_answer` does."""
        ids, mask = self._check_match(input_ids, attention_mask)
        pieces = self._pieces(pixel_values, len(ids), self.text_encoder)
        found = [self.read_texts(images, ids[rows], mask[rows])["itm_logits"] for images, rows in pieces]
        differs, fits = np.concatenate(found).T
        return like((pixel_values, input_ids), np.exp(-np.logaddexp(0, differs - fits)))

    def text_features(self, input_ids: Array, attention_mask: Array | None = None) -> Array:
        """Texts as vectors [B, projection] float32 of length 1, to multiply with `encode_images(...).features`."""
        ids, mask = self._check_match(input_ids, attention_mask)
        nothing = EncoderTokens(np.zeros((1, 1, self.vision_model.output(0).shape[2])), np.zeros((1, 1)))
        pieces = (slice(start, start + ROWS_AT_ONCE) for start in range(0, len(ids), ROWS_AT_ONCE))
        found = [self.read_texts(nothing, ids[rows], mask[rows])["text_features"] for rows in pieces]
        return like((input_ids,), np.concatenate(found))

    def _check_match(self, input_ids: Array, attention_mask: Array | None) -> tuple[np.ndarray, np.ndarray]:
        ports = [] if self.text_encoder is None else self.text_encoder.steps.outputs
        has_heads = any("itm_logits" in port.names for port in ports)
        self._check_task(has_heads, "cannot match texts with images: use one such as blip-itm-base-coco")
        return check_text(self.config.text_config, input_ids, attention_mask)

    def _check_task(self, has_it: object, otherwise: str) -> None:
        if not has_it:
            raise ValueError(f"{(self.config.architectures or ['this checkpoint'])[0]} {otherwise}")

    def _pieces(
        self,
        pixel_values: Array | EncodedImages,
        texts: int,
        text_model: TextModel | PreTrainedModel,
        settings: GenerationSettings | None = None,
    ) -> Iterator[tuple[EncodedImages, slice]]:
        """The encoded images and which texts are about them, in pieces that fit into memory."""
        number, at_once = number_of(pixel_values), ROWS_AT_ONCE
        if number not in (1, texts):
            raise ValueError(f"{number} images do not go with {texts} texts: give one image for all or one for each")
        if number > 1 and isinstance(text_model, TextModel):
            kept = text_model.kept_bytes(self.vision_model.output(0).shape[1])
            at_once = max(1, min(at_once, KEPT_BYTES // kept if kept else at_once))
        if settings is not None:
            check_pieces(settings, texts, at_once)
        images = None if number > 1 and texts > at_once else self.encode_images(pixel_values, reused=False)
        for start in range(0, texts, at_once):
            rows = slice(start, start + at_once)
            yield images or self.encode_images(pixel_values[rows], reused=False), rows

    def _generate(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, tokens: EncoderTokens, settings: GenerationSettings
    ) -> np.ndarray | SearchOutput | ModelOutput:
        """Continue `input_ids` [rows, T], looking at `tokens`, by our own search or that of transformers."""
        if settings.is_plain and isinstance(self.text_decoder, TextModel):
            search = greedy_search if settings.num_beams == 1 else beam_search
            found = search(DecoderState(self.text_decoder, tokens), input_ids, attention_mask, settings)
            return found if settings.return_dict_in_generate else found.sequences
        # PyTorch and transformers, which greedy and beam search do without.
        from blip_openvino.runtime.generate import generate

        return generate(self.config.text_config, self.text_decoder, tokens, input_ids, attention_mask, settings)


def greedy_search(
    state: DecoderState, input_ids: np.ndarray, attention_mask: np.ndarray, settings: GenerationSettings
) -> SearchOutput:
    """Take the likeliest token until every row has ended; those that end early are filled up with the padding token.

    Args:
        state: a new generation.
        input_ids: what each row begins with, [rows, T] int64.
        attention_mask: [rows, T] int64, 0 for padding on the left.
        settings: which tokens end a row and fill it up, and how long it gets.
    """
    tokens, ended, likely = [input_ids], np.zeros(len(input_ids), bool), np.zeros(len(input_ids), np.float32)
    if settings.streamer is not None:
        settings.streamer.put(input_ids)
    for step in range(settings.max_new_tokens):
        logits = state.step(tokens[-1], attention_mask)
        norms = logsumexp(logits)
        if step < settings.min_new_tokens:
            logits[:, settings.eos_token_id] = -np.inf
        chosen = np.where(ended, settings.pad_token_id, logits.argmax(axis=1))
        likely += np.where(ended, 0, logits[np.arange(len(chosen)), chosen] - norms)
        tokens.append(chosen[:, None])
        attention_mask = None  # what is written is seen
        if settings.streamer is not None:
            settings.streamer.put(chosen)
        ended |= chosen == settings.eos_token_id
        if ended.all():
            break
    if settings.streamer is not None:
        settings.streamer.end()
    return SearchOutput(np.concatenate(tokens, axis=1), likely)
