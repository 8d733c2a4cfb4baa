"""The two halves of a text model, compiled, and the tokens of images and questions that they look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import openvino as ov

KEPT_BYTES = 384 * 2**20
"""What a call may hold in keys and values of images at once: a larger batch is worked off in pieces."""


@dataclass(frozen=True, eq=False)
class TextModel:
    """A compiled text model: `steps` takes what `projections` makes of the encoder's tokens (see `runtime.split`).

    A plain text model is all `steps`: it takes the encoder's tokens themselves and projects them in every call.
    """

    steps: ov.CompiledModel
    projections: ov.CompiledModel | None = None

    def project(self, hidden_states: np.ndarray) -> dict[str, ov.Tensor]:
        """Keys and values by name, each [E, heads, N, head size], for the encoder's tokens [E, N, hidden] float32.

        They are OpenVINO's own tensors, in the type that the device computes in, for `steps` to read as they are.
        """
        tokens = ov.Tensor(hidden_states, shared_memory=True)
        if self.projections is None:
            return {"encoder_hidden_states": tokens}
        request = self.projections.create_infer_request()
        request.set_tensor("encoder_hidden_states", tokens)
        request.infer(share_outputs=True)  # else it copies them all into arrays as well
        return {port.any_name: request.get_tensor(port) for port in self.projections.outputs}

    def warm_up(self) -> None:
        """Run both halves once, over one token each: what OpenVINO puts off until then is done."""
        width = self.projections.input(0).get_partial_shape()[2].get_length()
        request = EncoderTokens(np.zeros((1, 1, width))).request(self)
        one = np.ones((1, 1), np.int64)
        inputs = {"input_ids": one, "attention_mask": one, "beam_idx": np.zeros(1, np.int32), "logits_to_keep": one[0]}
        names = {port.any_name for port in self.steps.inputs}
        request.infer({name: inputs[name] for name in names & inputs.keys()}, share_inputs=True)

    def kept_bytes(self, tokens: int) -> int:
        """How large the keys and values of one image with so many tokens are."""
        ports = [] if self.projections is None else self.projections.outputs
        sizes = (port.get_partial_shape() for port in ports)
        width = sum(size[1].get_length() * size[3].get_length() for size in sizes)
        return width * tokens * (ports[0].element_type.size if ports else 0)


class EncoderTokens:
    """What a text model looks at, E rows of N tokens: images, or questions that have been read.

    The keys and values that a text model makes of them are made when first needed and kept, for as many questions or
    generations as come, from any thread. (Two threads that come first at once both make them.)
    """

    def __init__(self, hidden_states: np.ndarray, attention_mask: np.ndarray | None = None):
        self.hidden_states = np.ascontiguousarray(hidden_states, np.float32)  # [E, N, hidden]
        if attention_mask is None:
            attention_mask = np.ones(hidden_states.shape[:2])
        self.attention_mask = np.ascontiguousarray(attention_mask, np.int64)  # [E, N]
        self._inputs: dict[TextModel, dict[str, ov.Tensor]] = {}

    def __len__(self) -> int:
        """How many rows."""
        return len(self.hidden_states)

    @property
    def nbytes(self) -> int:
        """How many bytes are held, kept keys and values among them."""
        kept = sum(tensor.byte_size for inputs in self._inputs.values() for tensor in inputs.values())
        return self.hidden_states.nbytes + self.attention_mask.nbytes + kept

    def request(self, text_model: TextModel) -> ov.InferRequest:
        """A new request of `text_model.steps` that looks at these tokens."""
        if text_model not in self._inputs:
            self._inputs[text_model] = text_model.project(self.hidden_states)
        request = text_model.steps.create_infer_request()
        for name, tensor in self._inputs[text_model].items():
            request.set_tensor(name, tensor)
        request.set_tensor("encoder_attention_mask", ov.Tensor(self.attention_mask, shared_memory=True))
        return request


class EncodedImages(EncoderTokens):
    """Images as `OVBlipModel.encode_images` gives them, to be asked about as often as you like, by any thread.

    The first question has the text encoder project them, the first caption the decoder; from then on each costs its own
    tokens only. More images than `KEPT_BYTES` allows are projected anew in every call.
    """

    def __init__(self, vision_model: ov.CompiledModel, hidden_states: np.ndarray, features: np.ndarray | None = None):
        super().__init__(hidden_states)
        self.vision_model = vision_model
        self.features = features
        """Of retrieval checkpoints: what is compared with `text_features`, [B, projection] float32 of length 1."""

    def __getitem__(self, rows: slice | np.ndarray) -> EncodedImages:
        """Some of the images, with no keys and values yet."""
        features = None if self.features is None else self.features[rows]
        return EncodedImages(self.vision_model, self.hidden_states[rows], features)

    @property
    def image_embeds(self) -> np.ndarray:
        """The images' tokens, [B, N, vision hidden] float32."""
        return self.hidden_states


def number_of(pixel_values: object) -> int:
    """How many images a caller gives; what is no batch of them is left to be told so where it is encoded."""
    is_batch = isinstance(pixel_values, EncodedImages) or getattr(pixel_values, "ndim", 0) == 4
    return len(pixel_values) or 1 if is_batch else 1
