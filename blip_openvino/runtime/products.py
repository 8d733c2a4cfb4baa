"""Rewriting products with weights for CPUs that have a faster kernel for them than OpenVINO 2026.4 takes by itself.

Results are the same either way. Figures are of BLIP base on two cores of an AMD EPYC (Zen 3, AVX2), unless said.
"""

from collections.abc import Collection

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from blip_openvino.runtime.split import insert_after

ELEMENTWISE = {"Add", "FakeQuantize", "Gelu", "Multiply"}
TOKENS_AND_CHANNELS = [0, 2, 1]
"""The order of axes that makes [B, C, T] of [B, T, C], and the reverse."""


def products_by_mlas(model: ov.Model) -> None:
    """Have float products with weights computed by MLAS, in place: it is OpenVINO's fastest on AVX2.

    OpenVINO does not take it for FP16 weights, nor for a product that it has merged a Gelu into: weights are turned
    into float32, and Gelus are kept apart. The vision model took 659 ms instead of 775; memory grows by 225 MB with the
    projections. Where few tokens are multiplied, reading weights takes longer than arithmetic: leave those in FP16.
    """
    beginnings = []
    for product in [node for node in model.get_ordered_ops() if is_fp16_product(node)]:
        product.input(1).replace_source_output(opset.constant(float_weights(product.input_value(1))).output(0))
        bias = only_reader(product.output(0), {"Add"})
        last = bias.get_node() if bias else product
        if only_reader(last.output(0), {"Gelu"}):
            beginnings.append(opset.slice(last, start=[0], stop=[1], step=[1], axes=[1]))
    if beginnings:
        # Nothing is merged into a product that something else reads too: here an output that nobody needs.
        model.add_results([opset.result(opset.concat(beginnings, 1))])


def only_reader(output: ov.Output, types: Collection[str]) -> ov.Input | None:
    """Where `output` is read, if that is in one place and by a node of these types."""
    readers = list(output.get_target_inputs())
    return readers[0] if len(readers) == 1 and readers[0].get_node().get_type_name() in types else None


def products_as_convolutions(model: ov.Model, precision: str = "INT8") -> None:
    """Have products with weights of a precision computed as 1x1 convolutions, in place: the same sum by another kernel.

    On AVX2 OpenVINO multiplies INT8 matrices at 110 to 180 billion operations a second, no faster than float32 ones,
    but convolves at 370: the vision model took 404 ms, in FP16 664. On AVX512-BF16 (Zen 4) it is 780 and 870: an image
    has 577 tokens, of which products work off 64 at a time and then one. At FP16, whose convolutions are in bf16, the
    vision model took 285 ms there instead of 310, and 170 MB more: OpenVINO keeps what it packs these weights from.
    """
    is_product = is_int8_product if precision == "INT8" else is_fp16_product
    for product in [node for node in model.get_ordered_ops() if is_product(node)]:
        channels = channels_first(product.input_value(0))
        if precision == "INT8":
            integers, scale = (opset.unsqueeze(each, opset.constant([2])) for each in int8_weights(product))
            convolution = convolve(channels, opset.multiply(opset.convert(integers, "f32"), scale))
        else:
            kernel = rounded_to_bf16(float_weights(product.input_value(1))[:, :, None])
            convolution = opset.convert(convolve(opset.convert(channels, "bf16"), kernel), "f32")
        last = convolution.output(0)
        product.output(0).replace(last)
        while reader := elementwise_reader(last):  # a bias, Gelu or quantization, which OpenVINO merges into it
            for port in reader.get_node().inputs():
                if port.get_index() != reader.get_index():
                    port.replace_source_output(channels_first(port.get_source_output()))
            reader.get_node().constructor_validate_and_infer_types()
            last = reader.get_node().output(0)
        insert_after(last, lambda channels: opset.transpose(channels, TOKENS_AND_CHANNELS))
    model.validate_nodes_and_infer_types()


def convolve(channels: ov.Output | ov.Node, kernel: ov.Node) -> ov.Node:
    """The 1x1 convolution of [B, in, T] with [out, in, 1]: [B, out, T]."""
    return opset.convolution(channels, kernel, strides=[1], pads_begin=[0], pads_end=[0], dilations=[1])


def float_weights(weights: ov.Output) -> np.ndarray:
    """Weights (in FP16, in INT8 with scales, or as they are) in float32."""
    node = weights.get_node()
    if node.get_type_name() == "Multiply":
        return float_weights(node.input_value(0)) * float_weights(node.input_value(1))
    return float_weights(node.input_value(0)) if node.get_type_name() == "Convert" else node.data.astype(np.float32)


def rounded_to_bf16(weights: np.ndarray) -> ov.Node:
    """Float32 weights as a constant of the nearest in bf16: OpenVINO 2026.4 itself cuts off what it should round up."""
    bits, tensor = weights.view(np.uint32), ov.Tensor(ov.Type.bf16, weights.shape)
    nearest = bits + (0x7FFF + (bits >> 16 & 1))  # ties, of which FP16 has many, to even
    tensor.data[:] = nearest.view(tensor.data.dtype)[..., 1::2]  # the upper halves
    return opset.constant(tensor)


def channels_first(output: ov.Output) -> ov.Output:
    """Tokens [B, T, C], or a constant that is combined with such, as [B, C, T]."""
    node, rank = output.get_node(), output.get_partial_shape().rank.get_length()
    if node.get_type_name() == "Transpose" and node.input_value(1).get_node().data.tolist() == TOKENS_AND_CHANNELS:
        return node.input_value(0)
    if rank == 1:
        return opset.unsqueeze(output, opset.constant([1])).output(0)
    return opset.transpose(output, TOKENS_AND_CHANNELS).output(0) if rank else output


def elementwise_reader(output: ov.Output) -> ov.Input | None:
    """Where `output` is read, if that is in one elementwise operation with constants."""
    reader = only_reader(output, ELEMENTWISE)
    for port in reader.get_node().inputs() if reader else ():
        source = port.get_source_output().get_node()
        if source.get_type_name() == "Convert":
            source = source.input_value(0).get_node()
        if port.get_index() != reader.get_index() and source.get_type_name() != "Constant":
            return None
    return reader


def quantize_products_only(model: ov.Model) -> None:
    """Leave nothing but products with weights, and the convolution of patches, in INT8, in place.

    What else is quantized, attention's own products, AVX2 multiplies no faster than float32.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize":
            readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
            if not any(is_int8_product(each) or each.get_type_name() == "Convolution" for each in readers):
                node.output(0).replace(node.input_value(0))


def without_zero_points(model: ov.Model) -> None:
    """Have the quantized tokens that products with INT8 weights read begin at 0, in place.

    Tokens that began at l are less by l then, so that products of them with weights W lack l·W·1: that is added, and
    OpenVINO merges it into their biases. It does the same with zero points, but takes longer to find out what they come
    to: the vision model was compiled in 0.65 s instead of 1.05, the text encoder in 0.8 instead of 1 (Zen 4).
    """
    for quantize in [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]:
        low, high = (quantize.input_value(port).get_node().data for port in (3, 4))  # of what it gives
        products = [reader.get_node() for reader in quantize.output(0).get_target_inputs()]
        if low.size != 1 or not all(is_int8_product(product) for product in products):
            continue
        for product in products:
            integers, scale = (weights.get_node().data for weights in int8_weights(product))
            lacking = low.item() * integers.sum(axis=1, dtype=np.int32) * scale[:, 0]
            bias = opset.constant(lacking.astype(np.float32))
            insert_after(product.output(0), lambda output, bias=bias: opset.add(output, bias))
        quantize.input(3).replace_source_output(opset.constant(np.zeros_like(low)).output(0))
        quantize.input(4).replace_source_output(opset.constant(high - low).output(0))
    model.validate_nodes_and_infer_types()


def is_int8_product(node: ov.Node) -> bool:
    """Whether `node` multiplies quantized tokens [B, T, in] by INT8 weights [out, in], as NNCF writes that."""
    if not is_product_of_tokens(node) or node.input_value(0).get_node().get_type_name() != "FakeQuantize":
        return False
    weights = node.input_value(1).get_node()
    if weights.get_type_name() != "Multiply" or weights.input_value(0).get_node().get_type_name() != "Convert":
        return False
    return weights.input_value(0).get_node().input_value(0).get_element_type() == ov.Type.i8


def int8_weights(product: ov.Node) -> tuple[ov.Output, ov.Output]:
    """The integers [out, in] and the scales [out, 1] of a product that `is_int8_product`."""
    converted, scale = product.input_value(1).get_node().input_values()
    return converted.get_node().input_value(0), scale


def is_fp16_product(node: ov.Node) -> bool:
    """Whether `node` multiplies tokens [B, T, in] by FP16 weights [out, in], as files have them."""
    if not is_product_of_tokens(node) or node.input_value(1).get_node().get_type_name() != "Convert":
        return False
    weights = node.input_value(1).get_node().input_value(0)
    return weights.get_node().get_type_name() == "Constant" and weights.get_element_type() == ov.Type.f16


def is_product_of_tokens(node: ov.Node) -> bool:
    """Whether `node` multiplies something [B, T, in] by something [out, in]."""
    if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
        return False
    return [port.get_partial_shape().rank.get_length() for port in node.input_values()] == [3, 2]
