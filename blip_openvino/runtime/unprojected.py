"""Cross-attention over the encoder's tokens as they are, without keys and values: for texts that are read once.

Of tokens X [N, C] a head has keys X·Kᵀ + b. A query q gives them the scores (q·K)·Xᵀ + q·b, and q·b, the same for every
token, is ignored by softmax. Of its probabilities p, which add up to 1, and values X·Vᵀ + c comes (p·X)·Vᵀ + c. So only
queries and what they see are multiplied by K and V, and not the tokens. Each query of each head is then multiplied with
all C numbers of a token, not with the few of a key: the less text there is about an image, the more this saves.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from blip_openvino.runtime.products import float_weights, rounded_to_bf16
from blip_openvino.runtime.split import insert_after, keys_and_values, size_of


def attend_unprojected(model: ov.Model, element_type: ov.Type) -> None:
    """Have the first rows, as many as there are encoder tokens for, do without keys and values, in place.

    The others read theirs as before, once those are inputs (`split.split_projections`). Either part may be empty. The
    text encoder of BLIP base took a third less time for ten tokens of text about a new image, at FP16 half (Zen 5). K
    and V are in memory once more.

    Args:
        element_type: what the device computes in: bf16, or else float32.
    """
    layers = list(keys_and_values(model).values())

    # The same in every layer: how many rows of either kind, their masks, and shapes.
    images = model.input("encoder_hidden_states")
    query, first_key, _, mask, _ = attention_over(layers[0]).input_values()
    heads = query.get_partial_shape()[1].get_length()
    looking, length, width = size_of(images, 0), size_of(query, 2), size_of(images, 2)
    rows = opset.concat([looking, size_of(first_key, 0)], 0)
    first_mask, other_mask = opset.variadic_split(mask, opset.constant(0), rows).outputs()
    first_mask = opset.squeeze(first_mask, opset.constant([1]))
    by_head = opset.concat([looking, opset.constant([heads]), length, width], 0)
    flat = opset.concat([looking, opset.multiply(opset.constant([heads]), length), width], 0)

    def multiply(left: ov.Output | ov.Node, matrix: np.ndarray, transposed: bool) -> ov.Node:
        if element_type != ov.Type.bf16:
            return opset.matmul(left, opset.constant(matrix), False, transposed)
        # OpenVINO 2026.4 would multiply in float32 by a constant that is not in bf16.
        product = opset.matmul(opset.convert(left, element_type), rounded_to_bf16(matrix), False, transposed)
        return opset.convert(product, ov.Type.f32)

    for layer in layers:
        attention, (tokens, matrices, biases) = attention_over(layer), projection(layer)
        queries, other_queries = opset.variadic_split(attention.input_value(0), opset.constant(0), rows).outputs()
        queries = opset.multiply(queries, attention.input_value(4))  # as attention scales its scores
        queries = multiply(queries, matrices[:1], False)
        scores = opset.add(opset.matmul(opset.reshape(queries, flat, False), tokens, False, True), first_mask)
        # Written out, softmax would make this 11 % quicker and have OpenVINO 2026.4 round large scores to bf16 (Zen 5).
        seen = opset.reshape(opset.matmul(opset.softmax(scores, -1), tokens, False, False), by_head, False)
        context = multiply(seen, matrices[1:], True)
        if biases is not None:
            context = opset.add(context, opset.constant(biases[1:]))
        attention.input(0).replace_source_output(other_queries)
        attention.input(3).replace_source_output(other_mask)
        insert_after(attention.output(0), lambda others, first=context: opset.concat([first, others], 0))


def projection(layer: ov.Output) -> tuple[ov.Output, np.ndarray, np.ndarray | None]:
    """What a layer's keys and values [2, E, heads, N, head size] are made of.

    Returns:
        Tokens [E, N, C] before they are quantized, matrices [2, heads, head size, C] float32, and biases [2, heads, 1,
        head size], or None: biases that are all 0 are left out of a converted model.
    """
    _, _, heads, _, head_size = layer.get_partial_shape().get_max_shape()
    product = layer.get_node().input_value(0).get_node().input_value(0).get_node()  # behind Transpose and Reshape
    biases = None
    if product.get_type_name() == "Add":
        product, biases = product.input_value(0).get_node(), float_weights(product.input_value(1))
        biases = biases.reshape(2, heads, 1, head_size)
    tokens, weights = product.input_values()
    if tokens.get_node().get_type_name() == "FakeQuantize":
        tokens = tokens.get_node().input_value(0)
    return tokens, float_weights(weights).reshape(2, heads, head_size, -1), biases


def attention_over(layer: ov.Output) -> ov.Node:
    """The attention that reads a layer's keys and values, which are taken apart first."""
    taken = (reader.get_node().output(0) for reader in layer.get_target_inputs())
    readers = (reader.get_node() for output in taken for reader in output.get_target_inputs())
    return next(node for node in readers if node.get_type_name() == "ScaledDotProductAttention")
