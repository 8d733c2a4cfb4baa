"""Rewriting a model for older CPUs: float models for those without AVX-512, INT8 models for those without VNNI or AMX.

OpenVINO 2026.4 has fast kernels for them, but not for everything that BLIP asks of it. Figures are of BLIP base on two
cores of an AMD EPYC (Zen 3, AVX2).
"""

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from blip_openvino.runtime.split import kept_projections


def products_by_mlas(model: ov.Model) -> None:
    """Have float products with the tokens of images computed by MLAS, in place: it is OpenVINO's fastest on AVX2.

    OpenVINO does not take it for FP16 weights, nor for a product that it has merged a Gelu into: weights are turned
    into float32, and Gelus are kept apart. The vision model took 659 ms instead of 775, or 706 with Gelus merged; a
    first question took the text encoder 129 ms, not 150. It costs 225 MB of memory. In the rest of the text models
    reading weights takes longer than arithmetic, and FP16 is half as much to read.
    """
    beginnings = []
    for product in products_with_image_tokens(model):
        weights = product.input_value(1).get_node()
        if weights.get_type_name() == "Convert":
            expanded = opset.constant(weights.input_value(0).get_node().data.astype(np.float32))
            product.input(1).replace_source_output(expanded.output(0))
        last = only_reader(product, "Add") or product
        if only_reader(last, "Gelu"):
            beginnings.append(opset.slice(last, start=[0], stop=[1], step=[1], axes=[1]))
    if beginnings:
        # Nothing is merged into a product that something else reads too: here an output that nobody needs.
        model.add_results([opset.result(opset.concat(beginnings, 1))])


def products_with_image_tokens(model: ov.Model) -> list[ov.Node]:
    """All matrix products of a vision model; of a text model those whose results it keeps for an image."""
    kept = kept_projections(model)
    if kept:
        return [product_before(node) for node in kept.values()]
    return [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]


def product_before(node: ov.Node) -> ov.Node:
    """The matrix product that `node` gets its input from, through biases and changes of shape."""
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    return node


def products_as_convolutions(model: ov.Model) -> None:
    """Have INT8 products with weights computed as 1x1 convolutions, in place; all other products are left to float32.

    It is the same sum by another kernel: OpenVINO multiplies INT8 matrices at 110 to 180 billion operations a second
    on AVX2, no faster than float32 ones, but convolves at 370. The transposes around a convolution move nothing, since
    its kernel wants the channels last anyway. The vision model took 392 ms, in FP16 664.

    The weights of these products lose their lowest bit: AVX2 adds two products of 8-bit numbers in 16 bits, and what
    is too large there is cut off without a word. 255·127·2 is, 255·64·2 is not. (NNCF leaves that bit out of a first
    convolution, the vision model's, by itself.)
    """
    leave_to_float32(model)
    for product in int8_products(model):
        separate_heads(product)
    for product in int8_products(model):
        convolve(product)
    model.validate_nodes_and_infer_types()


def leave_to_float32(model: ov.Model) -> None:
    """Take away what quantizes anything but the tokens of INT8 products and of convolutions, in place."""
    names = {node.get_friendly_name() for node in int8_products(model)}
    for node in model.get_ordered_ops():
        if node.get_type_name() == "FakeQuantize" and not feeds(node, names):
            replace(node, node.input_value(0))


def int8_products(model: ov.Model) -> list[ov.Node]:
    """What `is_int8_product` finds in `model`."""
    return [node for node in model.get_ordered_ops() if is_int8_product(node)]


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


def separate_heads(product: ov.Node) -> None:
    """Have a product that gives queries, keys and values at once replaced by three, which take as long together.

    What takes time is moving the whole output, [B, T, 3, heads, size], apart: attention reads three as they are. Of the
    vision model's 404 ms it saved 12.
    """
    bias = bias_after(product)
    turned, sizes, order = division_after(bias or product)
    if not bias or order != [2, 0, 3, 1, 4] or sizes[2] != 3:
        return
    *_, heads, size = sizes
    for gather in [reader.get_node() for reader in turned.output(0).get_target_inputs()]:
        first = int(gather.input_value(1).get_node().data) * heads * size
        rows = range(first, first + heads * size)
        weights = rows_of(product.input_value(1), rows, axis=0)
        biased = opset.add(
            opset.matmul(product.input_value(0), weights, False, True), rows_of(bias.input_value(1), rows, axis=2)
        )
        divided = opset.reshape(biased, opset.constant([0, 0, heads, size]), special_zero=True)
        replace(gather, opset.transpose(divided, [0, 2, 1, 3]).output(0))


def rows_of(constants: ov.Output, rows: range, axis: int) -> ov.Node:
    """These rows of constants, which may have been converted and multiplied by others with as many."""
    node = constants.get_node()
    if node.get_type_name() == "Constant":
        return opset.constant(node.data.take(rows, axis))
    chosen = [rows_of(port, rows, axis) for port in node.input_values()]
    return opset.convert(*chosen, "f32") if node.get_type_name() == "Convert" else opset.multiply(*chosen)


def convolve(product: ov.Node) -> None:
    """Let a convolution take the place of an INT8 product and add its bias.

    The transposes around it move nothing where OpenVINO knows all sizes. Where it does not, heads are taken from the
    output [B, out, T] at once, not from a transposed copy. Keys always are: attention wants them in that order.
    """
    output, last = as_convolution(product), product
    bias = bias_after(product)
    if bias:
        output, last = opset.add(output, opset.transpose(bias.input_value(1), [0, 2, 1])), bias
    turned, sizes, order = division_after(last)
    if sizes[:2] == [0, 0] and (last.get_output_partial_shape(0).is_dynamic or are_keys(turned)):
        divided = opset.reshape(output, opset.constant([0, *sizes[2:], -1]), special_zero=True)  # [B, heads, size, T]
        place = {0: 0, 2: 1, 3: 2, 1: 3}  # where the axes of [B, T, heads, size] are now
        replace(turned, opset.transpose(divided, [place[axis] for axis in order]).output(0))
    else:
        replace(last, opset.transpose(output, [0, 2, 1]).output(0))


def bias_after(product: ov.Node) -> ov.Node | None:
    """What adds a bias to a product, constants [1, 1, out], and nothing else reads the product."""
    added = only_reader(product, "Add")
    if not added:
        return None
    node = added.input_value(1).get_node()
    source = node.input_value(0).get_node() if node.get_type_name() == "Convert" else node
    is_bias = source.get_type_name() == "Constant" and list(node.shape)[:-1] == [1, 1]
    return added if is_bias else None


def division_after(node: ov.Node) -> tuple[ov.Node | None, list[int], list[int]]:
    """What divides [B, T, out] into heads: a Transpose, the sizes of the Reshape before it, the order of its axes."""
    shaped = only_reader(node, "Reshape")
    turned = shaped and only_reader(shaped, "Transpose")
    if not turned or shaped.input_value(1).get_node().get_type_name() != "Constant":
        return None, [], []
    return turned, shaped.input_value(1).get_node().data.tolist(), turned.input_value(1).get_node().data.tolist()


def are_keys(node: ov.Node) -> bool:
    """Whether attention takes the output of `node` for its keys."""
    attention = only_reader(node, "ScaledDotProductAttention")
    return bool(attention) and next(iter(node.output(0).get_target_inputs())).get_index() == 1


def only_reader(node: ov.Node, type_name: str) -> ov.Node | None:
    """What reads the output of `node`, if that is one node of this type."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    return readers[0] if [each.get_type_name() for each in readers] == [type_name] else None


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
