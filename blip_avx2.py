"""Rewriting a model for CPUs without 8-bit instructions: AVX2, or AVX-512 without VNNI.

OpenVINO 2026.4 has fast kernels for them, but not for everything that BLIP asks of it. Figures are of BLIP base on two
cores of an AMD EPYC (Zen 3).
"""

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from blip_stateful import kept_projections


def products_by_mlas(model: ov.Model) -> None:
    """Have float products with the tokens of images computed by MLAS, in place: it is OpenVINO's fastest on AVX2.

    OpenVINO does not take it for FP16 weights, nor for a product that it has merged a Gelu into: weights are turned
    into float32, and Gelus are kept apart. The vision model took 659 ms instead of 775, or 706 with Gelus merged; a
    first question took the text encoder 129 ms, not 150. It costs 225 MB of memory. In the rest of the text models
    reading weights takes longer than arithmetic, and FP16 is half as much to read.
    """
    kept, beginnings = kept_projections(model), []
    nodes = map(product_before, kept.values()) if kept else model.get_ordered_ops()
    for product in [node for node in nodes if node.get_type_name() == "MatMul"]:
        weights = product.input_value(1).get_node()
        if weights.get_type_name() == "Convert":
            expanded = opset.constant(weights.input_value(0).get_node().data.astype(np.float32))
            product.input(1).replace_source_output(expanded.output(0))
        bias = only_reader(product, "Add")
        if bias and only_reader(bias, "Gelu"):
            beginnings.append(opset.slice(bias, [0], [1], [1], [1]))
    if beginnings:
        # Of a product that something else reads too, nothing can be merged into it: here an output that nobody needs.
        model.add_results([opset.result(opset.concat(beginnings, 1))])


def product_before(node: ov.Node) -> ov.Node:
    """The matrix product that `node` gets its input from, through biases and changes of shape."""
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    return node


def products_as_convolutions(model: ov.Model) -> None:
    """Have INT8 products with weights computed as 1x1 convolutions, in place; all other products are left to float32.

    It is the same sum by another kernel: OpenVINO multiplies INT8 matrices at 110 to 180 billion operations a second
    on AVX2, no faster than float32 ones, but convolves at 370. The transposes around a convolution move nothing, since
    its kernel wants the channels last anyway. The vision model took 379 ms, in FP16 690.

    The weights of these products lose their lowest bit: AVX2 adds two products of 8-bit numbers in 16 bits, and what
    is too large there is cut off without a word. 255·127·2 is, 255·64·2 is not. (NNCF leaves that bit out of a first
    convolution, the vision model's, by itself.)
    """
    leave_to_float32(model)
    for product in [node for node in model.get_ordered_ops() if is_int8_product(node)]:
        convolve(product)
    model.validate_nodes_and_infer_types()


def leave_to_float32(model: ov.Model) -> None:
    """Take away what quantizes anything but the tokens of INT8 products and of convolutions, in place."""
    ordered = model.get_ordered_ops()
    names = {node.get_friendly_name() for node in ordered if is_int8_product(node)}
    for node in ordered:
        if node.get_type_name() == "FakeQuantize" and not feeds(node, names):
            replace(node, node.input_value(0))


def is_int8_product(node: ov.Node) -> bool:
    """Whether `node` multiplies quantized tokens [B, T, in] by INT8 weights [out, in], as NNCF writes that."""
    if node.get_type_name() != "MatMul" or not node.get_attributes()["transpose_b"]:
        return False
    tokens, weights = node.input_value(0), node.input_value(1).get_node()
    if tokens.get_node().get_type_name() != "FakeQuantize" or tokens.get_partial_shape().rank.get_length() != 3:
        return False
    if weights.get_type_name() != "Multiply" or weights.input_value(0).get_node().get_type_name() != "Convert":
        return False
    return weights.input_value(0).get_node().input_value(0).get_element_type() == ov.Type.i8


def feeds(node: ov.Node, product_names: set[str]) -> bool:
    """Whether the output of `node` goes into one of these products or into a convolution."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    return any(each.get_friendly_name() in product_names or each.get_type_name() == "Convolution" for each in readers)


def replace(node: ov.Node, output: ov.Output) -> None:
    """Let whoever reads `node` read `output`."""
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(output)


def convolve(product: ov.Node) -> None:
    """Let a convolution take the place of an INT8 product, its bias and what divides its output into heads.

    The convolution then adds the bias itself, and heads are taken from its output [B, out, T] as it is, not from a
    transposed copy: the keys of images, which are kept as [B, heads, size, T], are in that order already.
    """
    output, last = as_convolution(product), product
    bias = only_reader(last, "Add")
    if bias and is_bias(bias.input_value(1)):
        output, last = opset.add(output, opset.transpose(bias.input_value(1), [0, 2, 1])), bias
    heads = only_reader(last, "Reshape")
    turned = heads and only_reader(heads, "Transpose")
    if turned and divides_into_heads(heads):
        sizes = heads.input_value(1).get_node().data[2:]
        output = opset.reshape(output, opset.constant([0, *sizes, -1]), special_zero=True)  # [B, heads, size, T]
        place = {0: 0, 2: 1, 3: 2, 1: 3}  # where the axes of [B, T, heads, size] are now
        order, last = [place[axis] for axis in turned.input_value(1).get_node().data], turned
    else:
        order = [0, 2, 1]
    replace(last, opset.transpose(output, opset.constant(order)).output(0))


def divides_into_heads(reshape: ov.Node) -> bool:
    """Whether it makes [B, T, heads, size] of [B, T, out], in zeros for what stays as it is."""
    sizes = reshape.input_value(1).get_node()
    return sizes.get_type_name() == "Constant" and len(sizes.data) == 4 and list(sizes.data[:2]) == [0, 0]


def only_reader(node: ov.Node, type_name: str) -> ov.Node | None:
    """What reads the output of `node`, if that is one node of this type."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    return readers[0] if [each.get_type_name() for each in readers] == [type_name] else None


def is_bias(added: ov.Output) -> bool:
    """Whether what is added to a product are constants [1, 1, out], which files hold as FP16."""
    node = added.get_node()
    source = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    return source.get_type_name() == "Constant" and list(added.shape)[:-1] == [1, 1]


def as_convolution(product: ov.Node) -> ov.Node:
    """The convolution that gives what an INT8 product does, [B, out, T], with the lowest bit of its weights rounded."""
    integers, scale = (port.get_node() for port in product.input_value(1).get_node().input_values())
    halves = np.rint(integers.input_value(0).get_node().data / np.float32(2)).astype(np.int8)  # [out, in]
    weights = opset.multiply(
        opset.convert(opset.constant(halves[:, :, None]), "f32"),
        opset.constant(scale.data[:, :, None] * 2),
    )
    channels = opset.transpose(product.input_value(0), [0, 2, 1])  # [B, in, T]
    return opset.convolution(channels, weights, strides=[1], pads_begin=[0], pads_end=[0], dilations=[1])
