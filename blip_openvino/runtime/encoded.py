"""Images that the vision model has encoded, and what the text encoder keeps of them between questions."""

from __future__ import annotations

from threading import Lock

import numpy as np
import openvino as ov
from openvino.utils.data_helpers import OVDict

from blip_openvino.runtime.arrays import is_tensor


class TextEncoderRequest:
    """The text encoder's infer request, which keeps the keys and values of the images that were asked about last.

    One at a time, and anew for other images: OpenVINO's CPU plugin (2026.4) mixes up the states of several requests of
    one model, with wrong results or an error.
    """

    def __init__(self, text_encoder: ov.CompiledModel):
        self.text_encoder = text_encoder
        self._turn = Lock()
        self._image_embeds: np.ndarray | None = None
        self._request: ov.InferRequest | None = None

    def infer(self, image_embeds: np.ndarray, input_ids: np.ndarray, attention_mask: np.ndarray) -> OVDict:
        """Outputs by name for `image_embeds` [B, N, vision hidden] and checked texts [k·B, T], k for each image."""
        with self._turn:
            if self._image_embeds is not image_embeds:
                self._image_embeds = None
                self._request = self.text_encoder.create_infer_request()
                image_mask = np.ones(image_embeds.shape[:2], np.int64)
                self._request.set_tensor("encoder_hidden_states", ov.Tensor(image_embeds, shared_memory=True))
                self._request.set_tensor("encoder_attention_mask", ov.Tensor(image_mask))
            outputs = self._request.infer({"input_ids": input_ids, "attention_mask": attention_mask}, share_inputs=True)
            self._image_embeds = image_embeds  # only once they are projected; a failure leaves nothing to go on from
            return outputs


class EncodedImages:
    """Images as `OVBlipModel.encode_images` gives them, to be asked about as often as you like, by any thread.

    The first question has the text encoder project them; the next ones cost their own tokens only, for as long as the
    model is asked about no other images in between.
    """

    def __init__(
        self,
        image_embeds: np.ndarray,
        vision_model: ov.CompiledModel,
        text_encoder: TextEncoderRequest | None,
        from_tensor: bool,
    ):
        self.image_embeds = image_embeds  # [B, N, vision hidden] float32
        self.vision_model, self.text_encoder = vision_model, text_encoder
        self.from_tensor = from_tensor
        """Whether the images were a tensor, so that their captions are to be one."""

    def __len__(self) -> int:
        """How many images."""
        return len(self.image_embeds)

    def encode_text(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> OVDict:
        """The text encoder's outputs by name, for checked texts [k·B, T] of which k each are about one image."""
        return self.text_encoder.infer(self.image_embeds, input_ids, attention_mask)


def gives_tensors(*given: object) -> bool:
    """Whether a call with these inputs is to give a tensor: any of them is one, or was made of one."""
    return any(each.from_tensor if isinstance(each, EncodedImages) else is_tensor(each) for each in given)
