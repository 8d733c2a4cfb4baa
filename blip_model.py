"""Run a converted BLIP model with OpenVINO: answer questions about images, caption them, match them with texts.

model = OVBlipModel.from_pretrained("build/blip-vqa-base", device="CPU")
processor = OVBlipProcessor.from_pretrained("build/blip-vqa-base")
ids = model.generate_answer(**processor("photo.jpg", "how many dogs are there?"))

Arrays of NumPy and tensors of PyTorch both do, and what comes back is of the kind that was given. PyTorch and
transformers, which take longer to import than BLIP to answer, are not imported before a caller asks for something that
needs them: a search other than greedy, or a tensor. (Outside Linux `blip_device` asks PyTorch about the processor.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov

from blip_openvino.ir.files import (
    PARTS_OF_ARCHITECTURE,
    TEXT_DECODER,
    TEXT_ENCODER,
    VISION_MODEL,
    load_config,
    part_files,
    read_part,
)
from blip_openvino.runtime.arguments import DEFAULT_NEW_TOKENS, check_generate_arguments
from blip_openvino.runtime.arrays import KindStreamer, as_given, is_tensor
from blip_openvino.runtime.decoder import OVTextDecoder
from blip_openvino.runtime.device import compile_part
from blip_openvino.runtime.encoded import EncodedImages, TextEncoderRequest, gives_tensors
from blip_openvino.runtime.inputs import check_batch, check_device, check_pixels, check_text

if TYPE_CHECKING:
    from transformers import BlipConfig, PreTrainedModel
    from transformers.utils import ModelOutput

    from blip_openvino.runtime.arrays import Array


def __getattr__(name: str) -> object:
    """`text_decoder_forward`, which `blip_generate` holds: importing it imports PyTorch and transformers."""
    if name != "text_decoder_forward":
        raise AttributeError(f"module 'blip_model' has no attribute {name!r}")
    from blip_openvino.runtime.generate import text_decoder_forward

    return text_decoder_forward


class OVBlipModel:
    """BLIP on OpenVINO, with all that `generate` of transformers can do: greedy, beams, sampling, streamers, criteria.

    Any number of threads may call any method of one model at once, with images of their own or with `EncodedImages`
    that they share: each gets what it would get alone. The vision model runs for several at once; text encoder and
    decoder they take turns in. Only sampling cannot be repeated with a seed there, since all threads draw from torch's
    one generator. A call that ends in an error, or in an exception that a streamer or a stopping criterion raises,
    leaves nothing behind.

    Args:
        config: the checkpoint's configuration, as transformers has it or a namespace with the same names.
        decoder_start_token_id: the token every answer and caption starts with.
        vision_model, text_encoder: compiled models.
        text_decoder: a compiled model, an `OVTextDecoder`, or a PyTorch text decoder whose `forward` is
            `partial(text_decoder_forward, ov_text_decoder_with_past=compiled)`.
            A captioning checkpoint has no `text_encoder`, a retrieval one no `text_decoder`: None then.
    """

    def __init__(
        self,
        config: BlipConfig,
        decoder_start_token_id: int,
        vision_model: ov.CompiledModel,
        text_encoder: ov.CompiledModel | None,
        text_decoder: ov.CompiledModel | OVTextDecoder | PreTrainedModel | None,
    ):
        self.config = config
        self.decoder_start_token_id = decoder_start_token_id
        self.vision_model = vision_model
        self.text_encoder = text_encoder
        self._text_encoder_request = None if text_encoder is None else TextEncoderRequest(text_encoder)
        if isinstance(text_decoder, ov.CompiledModel):
            text_decoder = OVTextDecoder(config.text_config, text_decoder)
        self.text_decoder = text_decoder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        device: str = "AUTO",
        precision: str | None = None,
        ov_config: Mapping[str, object] | None = None,
    ) -> OVBlipModel:
        """Load a folder that `blip_convert` made and compile its parts; no PyTorch weights are loaded.

        Args:
            folder: has the IRs, `config.json` and `generation_config.json`.
            device: as OpenVINO names it: `CPU`, `GPU`, `AUTO`, ...
            precision: "FP16", "INT8", or "INT4" (the decoder's weights; the rest is INT8); the default is "INT8" where
                `blip_optimize` has made it, else "FP16".
            ov_config: more OpenVINO properties for compilation, such as `{"INFERENCE_PRECISION_HINT": "f32"}`, or
                `{"PERFORMANCE_HINT": "THROUGHPUT"}` to encode several images at once, each a little slower.

        Raises:
            FileNotFoundError: the folder or a part of it is missing.
            ValueError: the parts are of different checkpoints, or there is no such device or precision.
        """
        core, folder = ov.Core(), Path(folder)
        # Of mapped files some pages stay in memory beside the weights that were packed from them, and a file that is
        # cut short meanwhile would end the process.
        core.set_property({"ENABLE_MMAP": False})
        check_device(core, device)
        config = load_config(folder)
        files = part_files(folder, PARTS_OF_ARCHITECTURE[config.architectures[0]], precision)

        def load(part: str) -> ov.CompiledModel:
            model = read_part(core, folder / files[part], config)
            return compile_part(core, model, device, part, files[part] != part, ov_config or {})

        # Most of compiling a part is work for one core; three at once would take no less time and more memory.
        with ThreadPoolExecutor(2) as pool:
            compiled = dict(zip(files, pool.map(load, files), strict=True))
        text_decoder = None
        if TEXT_DECODER in compiled:
            generation_config = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
            text_decoder = OVTextDecoder(config.text_config, compiled[TEXT_DECODER], generation_config)
        start = config.text_config.bos_token_id
        return cls(config, start, compiled[VISION_MODEL], compiled.get(TEXT_ENCODER), text_decoder)

    def encode_images(self, pixel_values: Array | EncodedImages) -> EncodedImages:
        """Run the vision model; the result can be given in place of `pixel_values`, as often as you like.

        The model takes one image; a batch is one request for each, as many at once as the device is set up for.

        Args:
            pixel_values: [B, 3, H, W] float32, normalized; images that this model has encoded come back as they are.

        Raises:
            ValueError: it is of another size than the model takes, or encoded by another model.
        """
        pixels = self._check_images(pixel_values)
        if isinstance(pixels, EncodedImages):
            return pixels
        embeds = np.empty((len(pixels), *self.vision_model.output(0).shape[1:]), np.float32)

        def keep(request: ov.InferRequest, index: int) -> None:
            embeds[index] = request.get_output_tensor(0).data[0]

        queue = ov.AsyncInferQueue(
            self.vision_model, min(len(pixels), self.vision_model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        )
        queue.set_callback(keep)
        for index in range(len(pixels)):
            queue.start_async({0: pixels[index : index + 1]}, index, share_inputs=True)
        queue.wait_all()
        return EncodedImages(embeds, self.vision_model, self._text_encoder_request, is_tensor(pixel_values))

    def _encode_text(self, pixel_values: Array | EncodedImages, input_ids: Array, attention_mask: Array | None):
        """The text's tokens after looking at the image: the text encoder's outputs, and its checked attention mask.

        `pixel_values` [1 or B, 3, H, W], `input_ids` [B, T] -> outputs by name, attention mask [B, T] int64.
        """
        if self.text_encoder is None:
            raise ValueError(
                f"{self.config.architectures[0]} has no text encoder: it cannot read a question, only caption"
            )
        input_ids, attention_mask = check_text(self.config.text_config, input_ids, attention_mask)
        pixel_values = self._check_images(pixel_values)
        check_batch(len(pixel_values), len(input_ids))
        return self.encode_images(pixel_values).encode_text(input_ids, attention_mask), attention_mask

    def generate_answer(
        self,
        pixel_values: Array | EncodedImages,
        input_ids: Array,
        attention_mask: Array | None = None,
        **generate_kwargs,
    ) -> Array | ModelOutput:
        """Answer questions about images.

        Args:
            pixel_values: [1 or B, 3, H, W] float32, normalized, or what `encode_images` made of it; one image
                serves all B questions, encoded once.
            input_ids: the questions, [B, T] int64.
            attention_mask: [B, T], 1 for tokens and 0 for padding; None is all ones. Padding changes no answer.
            generate_kwargs: those of transformers' `generate`, see `blip_arguments.GENERATE_ARGUMENTS`.

        Returns:
            Token ids [B, answer tokens] int64, as transformers' `generate` gives them: a tensor where images or
            questions were one, else an array. With `return_dict_in_generate` what it gives then, which holds tensors.

        Raises:
            ValueError: an input or a generation argument is wrong; the message names it.
        """
        self._check_decoder()
        generate_kwargs = self._check_arguments(generate_kwargs, prompt_lengths=[1])
        outputs, question_mask = self._encode_text(pixel_values, input_ids, attention_mask)
        question_embeds = outputs["last_hidden_state"]
        start = np.full((len(question_embeds), 1), self.decoder_start_token_id)
        tensors = gives_tensors(pixel_values, input_ids)
        return self._generate(start, question_embeds, question_mask, generate_kwargs, tensors)

    def generate_caption(
        self,
        pixel_values: Array | EncodedImages,
        input_ids: Array | None = None,
        attention_mask: Array | None = None,
        **generate_kwargs,
    ) -> Array | ModelOutput:
        """Caption images, or continue a prompt about them.

        Args:
            pixel_values: [1 or B, 3, H, W] float32, normalized, or what `encode_images` made of it; one image with
                several prompts is encoded once.
            input_ids: prompts as the tokenizer gives them, [CLS] first and [SEP] last, [B, T] int64.
            attention_mask: [B, T], 1 for tokens and 0 for padding; None is all ones. Padding changes no caption.
            generate_kwargs: those of transformers' `generate`, see `blip_arguments.GENERATE_ARGUMENTS`.

        Returns:
            Token ids [B, caption tokens] int64, the prompt among them, as transformers' `generate` gives them: a tensor
            where images or prompts were one, else an array. With `return_dict_in_generate` what it gives then, which
            holds tensors.

        Raises:
            ValueError: an input or a generation argument is wrong; the message names it.
        """
        self._check_decoder()
        tensors = gives_tensors(pixel_values, input_ids)
        prompts, lengths = [], [1]
        if input_ids is not None:
            input_ids, attention_mask = check_text(self.config.text_config, input_ids, attention_mask)
            prompts = [self._prompt(ids[mask > 0]) for ids, mask in zip(input_ids, attention_mask, strict=True)]
            lengths = [len(prompt) for prompt in prompts]
        elif attention_mask is not None:
            raise ValueError("attention_mask goes with input_ids, and there are none: give both or neither")
        generate_kwargs = self._check_arguments(generate_kwargs, lengths)
        pixel_values = self._check_images(pixel_values)
        if prompts:
            check_batch(len(pixel_values), len(prompts))
        image_embeds = self.encode_images(pixel_values).image_embeds
        image_mask = np.ones(image_embeds.shape[:2], np.int64)
        if not prompts:
            prompts = [np.array([self.decoder_start_token_id])] * len(image_embeds)
        if len(set(lengths)) == 1:
            return self._generate(np.stack(prompts), image_embeds, image_mask, generate_kwargs, tensors)
        rows = self._generate_by_length(prompts, lengths, image_embeds, image_mask, generate_kwargs)
        return as_given(rows, tensors)

    def match(
        self, pixel_values: Array | EncodedImages, input_ids: Array, attention_mask: Array | None = None
    ) -> Array:
        """How likely each text describes the image: image-text matching, for retrieval checkpoints.

        Shapes are those of `generate_answer`; returns probabilities [B] float32.

        Raises:
            ValueError: an input is wrong, or the checkpoint has no matching head.
        """
        if self.text_encoder is None or len(self.text_encoder.outputs) == 1:
            raise ValueError(
                f"{self.config.architectures[0]} cannot match texts: use a checkpoint such as blip-itm-base-coco"
            )
        outputs, _ = self._encode_text(pixel_values, input_ids, attention_mask)
        logits = outputs["itm_logits"]
        likelihoods = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = likelihoods[:, 1] / likelihoods.sum(axis=1)
        return as_given(probabilities, gives_tensors(pixel_values, input_ids))

    def _check_decoder(self) -> None:
        if self.text_decoder is None:
            raise ValueError(f"{self.config.architectures[0]} has no text decoder: it cannot write text, only match it")

    def _check_images(self, pixel_values: Array | EncodedImages) -> np.ndarray | EncodedImages:
        if not isinstance(pixel_values, EncodedImages):
            return check_pixels(pixel_values, self.vision_model.input(0).shape)
        if pixel_values.vision_model is not self.vision_model:
            raise ValueError("these images were encoded by another model: use this one's encode_images")
        return pixel_values

    def _check_arguments(self, generate_kwargs: dict, prompt_lengths: list[int]) -> dict:
        """Before anything runs, since an image takes longer than all the checks."""
        configured = generate_kwargs.get("generation_config")
        for name in ("return_dict_in_generate", "streamer"):
            asked = generate_kwargs.get(name) or getattr(configured, name, None)
            if asked and len(set(prompt_lengths)) > 1:
                raise ValueError(
                    f"{name} works on prompts of one length, these have {sorted(set(prompt_lengths))} tokens: "
                    "caption them one at a time"
                )
        return check_generate_arguments(
            self.config.text_config, self._default_settings(), max(prompt_lengths), generate_kwargs
        )

    def _default_settings(self) -> Mapping[str, object]:
        """The settings of `generate` that hold where a caller says nothing."""
        settings = self.text_decoder.generation_config
        return settings if isinstance(settings, Mapping) else vars(settings)  # of a PyTorch text decoder

    def _prompt(self, tokens: np.ndarray) -> np.ndarray:
        """The tokenizer's [CLS] a picture of [SEP] as the decoder wants it: [DEC] a picture of."""
        ends = tokens[-1] == self.config.text_config.sep_token_id
        return np.concatenate([[self.decoder_start_token_id], tokens[1 : len(tokens) - int(ends)]])

    def _generate(
        self,
        input_ids: np.ndarray,
        encoder_hidden_states: np.ndarray,
        encoder_attention_mask: np.ndarray,
        generate_kwargs: dict,
        tensors: bool,
    ) -> Array | ModelOutput:
        """`generate` of the text decoder, told what BLIP's tokens mean and, by default, where to stop."""
        config, defaults = self.config.text_config, self._default_settings()
        settings = {"eos_token_id": config.sep_token_id, "pad_token_id": config.pad_token_id} | generate_kwargs
        if not {"max_length", "max_new_tokens", "generation_config"} & settings.keys() and not (
            defaults.get("max_length") or defaults.get("max_new_tokens")
        ):
            settings["max_new_tokens"] = DEFAULT_NEW_TOKENS
        if "max_length" in settings and "generation_config" not in settings:
            settings["max_new_tokens"] = settings.pop("max_length") - input_ids.shape[1]
        if "streamer" in settings:
            settings["streamer"] = KindStreamer(settings["streamer"], tensors)
        inputs = {
            "input_ids": input_ids,
            "encoder_hidden_states": encoder_hidden_states,
            "encoder_attention_mask": encoder_attention_mask,
        }
        if not isinstance(self.text_decoder, OVTextDecoder):  # but PyTorch's, around `text_decoder_forward`
            inputs = {name: as_given(array, tensors=True) for name, array in inputs.items()}
        return as_given(self.text_decoder.generate(**inputs, **settings), tensors)

    def _generate_by_length(
        self,
        prompts: list[np.ndarray],
        lengths: list[int],
        image_embeds: np.ndarray,
        image_mask: np.ndarray,
        generate_kwargs: dict,
    ) -> np.ndarray:
        """Prompts of one length go together, so that no padding stands between a prompt and its continuation."""
        rows: list[np.ndarray] = [np.empty(0)] * len(prompts)
        for length in sorted(set(lengths)):
            chosen = [index for index, own in enumerate(lengths) if own == length]
            images = [0] if len(image_embeds) == 1 else chosen
            ids = self._generate(
                np.stack([prompts[index] for index in chosen]),
                image_embeds[images],
                image_mask[images],
                generate_kwargs,
                tensors=False,
            )
            for index, row in zip(chosen, ids.reshape(len(chosen), -1, ids.shape[-1]), strict=True):
                rows[index] = row
        longest = max(row.shape[-1] for row in rows)
        pad = self.config.text_config.pad_token_id
        return np.concatenate(
            [np.pad(row, ((0, 0), (0, longest - row.shape[-1])), constant_values=pad) for row in rows]
        )
