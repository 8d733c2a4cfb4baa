"""Rewriting a model for CPUs without 8-bit instructions: AVX2, or AVX-512 without VNNI.

OpenVINO 2026.4 has fast kernels for them, but not for everything that BLIP asks of it. Figures are of BLIP base on two
cores of an AMD EPYC (Zen 3).
"""

import numpy as np
import openvino as ov
from openvino import opset13 as opset
from openvino.passes import ConstantFolding, Manager


def expand_weights(model: ov.Model) -> None:
    """Turn FP16 weights into float32, in place: OpenVINO then takes its faster float32 products.

    The vision model took a sixth less time, for 170 MB more memory.
    """
    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)


def products_as_convolutions(model: ov.Model) -> None:
    """Have INT8 products with weights computed as 1x1 convolutions, in place; all other products are left to float32.

    It is the same sum by another kernel: OpenVINO multiplies INT8 matrices at 110 to 180 billion operations a second
    on AVX2, no faster than float32 ones, but convolves at 370. The transposes around a convolution move nothing, since
    its kernel wants the channels last anyway. The vision model took 379 ms, in FP16 690.

    The weights of these products lose their lowest bit: AVX2 adds two products of 8-bit numbers in 16 bits, and what
    is too large there is cut off without a word. 255·127·2 is, 255·64·2 is not. (NNCF leaves that bit out of a first
    convolution, the vision model's, by itself.)
    """
    ordered = model.get_ordered_ops()
    products = [node for node in ordered if is_int8_product(node)]
    names = {node.get_friendly_name() for node in products}
    for node in ordered:
        if node.get_type_name() == "FakeQuantize" and not feeds(node, names):
            replace(node, node.input_value(0))
    for product in products:
        replace(product, as_convolution(product).output(0))
    model.validate_nodes_and_infer_types()


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


def as_convolution(product: ov.Node) -> ov.Node:
    """The convolution that gives what an INT8 product does, [B, T, out], with the lowest bit of its weights rounded."""
    integers, scale = (port.get_node() for port in product.input_value(1).get_node().input_values())
    halves = np.rint(integers.input_value(0).get_node().data / np.float32(2)).astype(np.int8)  # [out, in]
    weights = opset.multiply(
        opset.convert(opset.constant(halves[:, :, None]), "f32"),
        opset.constant(scale.data[:, :, None] * 2),
    )
    turned = opset.constant([0, 2, 1])
    channels = opset.transpose(product.input_value(0), turned)  # [B, in, T]
    convolved = opset.convolution(channels, weights, strides=[1], pads_begin=[0], pads_end=[0], dilations=[1])
    return opset.transpose(convolved, turned)
