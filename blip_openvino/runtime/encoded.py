"""The two halves of a text model, compiled, and the tokens of images and questions that they look at."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import openvino as ov

KEPT_BYTES = 384 * 2**20
"""What a call may hold in keys and values of images at once: a larger batch is worked off in pieces."""
UNPROJECTED_TOKENS = 20
"""How many tokens of text about an image, padding among them, are at most read without keys and values. To make and
read those took as long with 26 to 30 tokens at INT8 and some 55 at FP16 (BLIP base on Zen 5), and in an earlier version
on Zen 4 with 17 to 26 at INT8 and 35 at FP16."""
TOKENS = "encoder_hidden_states"


@dataclass(frozen=True, eq=False)
class TextModel:
    """A compiled text model: `steps` takes what `projections` makes of the encoder's tokens (see `runtime.split`).

    On a CPU a text encoder's `steps` takes the tokens too, for texts that are read once (`runtime.unprojected`).
    A plain text model is all `steps`: it takes the tokens and projects them in every call.
    """

    steps: ov.CompiledModel
    projections: ov.CompiledModel | None = None

    @cached_property
    def takes_tokens(self) -> bool:
        """Whether it can do without keys and values."""
        return any(TOKENS in port.names for port in self.steps.inputs)

    def token_inputs(self, hidden_states: np.ndarray) -> dict[str, ov.Tensor]:
        """Inputs by name: the encoder's tokens [E, N, hidden] float32 themselves, and no keys and values."""
        inputs = {TOKENS: ov.Tensor(hidden_states, shared_memory=True)}
        for port in [] if self.projections is None else self.projections.outputs:
            _, _, heads, _, head_size = port.get_partial_shape().get_max_shape()
            nothing = ov.Shape([2, 0, heads, hidden_states.shape[1], head_size])
            inputs[port.any_name] = ov.Tensor(port.element_type, nothing)
        return inputs

    def project(self, hidden_states: np.ndarray) -> dict[str, ov.Tensor]:
        """Inputs by name: keys and values, [2, E, heads, N, head size], of the encoder's tokens [E, N, hidden] float32.

        They are OpenVINO's own tensors, in the type that the device computes in, for `steps` to read as they are.
        """
        if self.projections is None:
            return self.token_inputs(hidden_states)
        request = self.projections.create_infer_request()
        request.set_tensor(TOKENS, ov.Tensor(hidden_states, shared_memory=True))
        request.infer(share_outputs=True)  # else it copies them all into arrays as well
        no_tokens = {TOKENS: ov.Tensor(hidden_states[:0])} if self.takes_tokens else {}
        return no_tokens | {port.any_name: request.get_tensor(port) for port in self.projections.outputs}

    def warm_up(self) -> None:
        """Run both halves once, over one token in each way: what OpenVINO puts off until then is done."""
        token = np.zeros((1, 1, self.projections.input(0).get_partial_shape()[2].get_length()), np.float32)
        inputs = self.project(token) | ({TOKENS: ov.Tensor(token)} if self.takes_tokens else {})
        ones = np.ones((2 if self.takes_tokens else 1, 1), np.int64)
        inputs |= dict.fromkeys(("input_ids", "attention_mask", "encoder_attention_mask"), ones)
        inputs |= {"beam_idx": np.arange(len(ones), dtype=np.int32), "logits_to_keep": ones[0]}
        names = {port.any_name for port in self.steps.inputs}
        self.steps.create_infer_request().infer({name: inputs[name] for name in names}, share_inputs=True)

    def kept_bytes(self, tokens: int) -> int:
        """How large the keys and values of one image with so many tokens are."""
        if self.projections is None:
            return 0
        layers, port = len(self.projections.outputs), self.projections.output(0)
        _, _, heads, _, head_size = port.get_partial_shape().get_max_shape()
        return 2 * layers * heads * head_size * tokens * port.element_type.size


class EncoderTokens:
    """What a text model looks at, E rows of N tokens: images, or questions that have been read.

    The keys and values that a text model makes of them are made when first needed and kept, for as many questions or
    generations as come, from any thread. (Two threads that come first at once both make them.)

    Args:
        hidden_states: [E, N, hidden].
        attention_mask: [E, N]; None is all ones.
        reused: more texts about them are to come than the first.
    """

    def __init__(self, hidden_states: np.ndarray, attention_mask: np.ndarray | None = None, reused: bool = True):
        self.hidden_states = np.ascontiguousarray(hidden_states, np.float32)
        if attention_mask is None:
            attention_mask = np.ones(hidden_states.shape[:2])
        self.attention_mask = np.ascontiguousarray(attention_mask, np.int64)
        self.reused = reused
        self._inputs: dict[TextModel, dict[str, ov.Tensor]] = {}

    def __len__(self) -> int:
        """How many rows."""
        return len(self.hidden_states)

    @property
    def nbytes(self) -> int:
        """How many bytes are held, kept keys and values among them."""
        kept = sum(tensor.byte_size for inputs in self._inputs.values() for tensor in inputs.values())
        return self.hidden_states.nbytes + self.attention_mask.nbytes + kept

    def request(self, text_model: TextModel, text_tokens: int = 0) -> ov.InferRequest:
        """A new request of `text_model.steps` that looks at these tokens, for so many tokens of text about each row."""
        inputs = self._inputs.get(text_model)
        if inputs is None:
            if text_model.takes_tokens and not self.reused and text_tokens <= UNPROJECTED_TOKENS:
                inputs = text_model.token_inputs(self.hidden_states)
            else:
                inputs = self._inputs[text_model] = text_model.project(self.hidden_states)
        request = text_model.steps.create_infer_request()
        for name, tensor in inputs.items():
            request.set_tensor(name, tensor)
        request.set_tensor("encoder_attention_mask", ov.Tensor(self.attention_mask, shared_memory=True))
        return request


class EncodedImages(EncoderTokens):
    """Images as `OVBlipModel.encode_images` gives them, to be asked about as often as you like, by any thread.

    The first question has the text encoder project them, the first caption the decoder; from then on each costs its own
    tokens only. Where they are not `reused`, a short question is read without keys and values. More images than
    `KEPT_BYTES` allows are worked off in parts, which keep nothing.
    """

    def __init__(
        self,
        vision_model: ov.CompiledModel,
        hidden_states: np.ndarray,
        features: np.ndarray | None = None,
        reused: bool = True,
    ):
        super().__init__(hidden_states, reused=reused)
        self.vision_model = vision_model
        self.features = features
        """Of retrieval checkpoints: what is compared with `text_features`, [B, projection] float32 of length 1."""

    def __getitem__(self, rows: slice | np.ndarray) -> EncodedImages:
        """Some of the images, with no keys and values yet, for one call: not `reused`."""
        features = None if self.features is None else self.features[rows]
        return EncodedImages(self.vision_model, self.hidden_states[rows], features, reused=False)

    @property
    def image_embeds(self) -> np.ndarray:
        """The images' tokens, [B, N, vision hidden] float32."""
        return self.hidden_states


def number_of(pixel_values: object) -> int:
    """How many images a caller gives; what is no batch of them is left to be told so where it is encoded."""
    is_batch = isinstance(pixel_values, EncodedImages) or getattr(pixel_values, "ndim", 0) == 4
    return len(pixel_values) or 1 if is_batch else 1
