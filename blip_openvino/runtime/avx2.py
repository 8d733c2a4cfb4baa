"""Rewriting a model for older CPUs: float models for those without AVX-512, INT8 models for those without VNNI or AMX.

OpenVINO 2026.4 has fast kernels for them, but does not take them for what BLIP asks of it. Results are the same either
way. Figures are of BLIP base on two cores of an AMD EPYC (Zen 3, AVX2).
"""

import numpy as np
import openvino as ov
from openvino import opset13 as opset


def products_by_mlas(model: ov.Model) -> None:
    """Have float products with weights computed by MLAS, in place: it is OpenVINO's fastest on AVX2.

    OpenVINO does not take it for FP16 weights, nor for a product that it has merged a Gelu into: weights are turned
    into float32, and Gelus are kept apart. The vision model took 659 ms instead of 775; memory grows by 225 MB with the
    projections. Where few tokens are multiplied, reading weights takes longer than arithmetic: leave those in FP16.
    """
    beginnings = []
    for product in [node for node in model.get_ordered_ops() if node.get_type_name() == "MatMul"]:
        weights = product.input_value(1).get_node()
        if weights.get_type_name() == "Convert" and weights.input_value(0).get_node().get_type_name() == "Constant":
            expanded = opset.constant(weights.input_value(0).get_node().data.astype(np.float32))
            product.input(1).replace_source_output(expanded.output(0))
        last = only_reader(product, "Add") or product
        if only_reader(last, "Gelu"):
            beginnings.append(opset.slice(last, start=[0], stop=[1], step=[1], axes=[1]))
    if beginnings:
        # Nothing is merged into a product that something else reads too: here an output that nobody needs.
        model.add_results([opset.result(opset.concat(beginnings, 1))])


def only_reader(node: ov.Node, type_name: str) -> ov.Node | None:
    """What reads the output of `node`, if that is one node of this type."""
    readers = [reader.get_node() for reader in node.output(0).get_target_inputs()]
    return readers[0] if [each.get_type_name() for each in readers] == [type_name] else None


def products_as_convolutions(model: ov.Model) -> None:
    """Have INT8 products with weights computed as 1x1 convolutions, in place, and nothing else in INT8.

    It is the same sum by another kernel: OpenVINO multiplies INT8 matrices at 110 to 180 billion operations a second
    on AVX2, no faster than float32 ones, but convolves at 370. The vision model took 404 ms, in FP16 664.
    """
    products = [node for node in model.get_ordered_ops() if is_int8_product(node)]
    names = {node.get_friendly_name() for node in products}
    for node in model.get_ordered_ops():
        readers = [reader.get_node() for reader in node.output(0).get_target_inputs()] if node.outputs() else []
        quantizes = node.get_type_name() == "FakeQuantize"
        if quantizes and not any(
            each.get_friendly_name() in names or each.get_type_name() == "Convolution" for each in readers
        ):
            replace(node, node.input_value(0))
    for product in products:
        integers, scale = (port.get_node() for port in product.input_value(1).get_node().input_values())
        weights = opset.multiply(
            opset.convert(opset.constant(integers.input_value(0).get_node().data[:, :, None]), "f32"),
            opset.constant(scale.data[:, :, None]),
        )
        channels = opset.transpose(product.input_value(0), [0, 2, 1])  # [B, in, T]
        output = opset.convolution(channels, weights, strides=[1], pads_begin=[0], pads_end=[0], dilations=[1])
        replace(product, opset.transpose(output, [0, 2, 1]).output(0))
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


def replace(node: ov.Node, output: ov.Output) -> None:
    """Let whoever reads `node` read `output`."""
    for reader in node.output(0).get_target_inputs():
        reader.replace_source_output(output)
