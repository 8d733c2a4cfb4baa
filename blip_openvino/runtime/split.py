"""What loading does to a text model, one small rewriting each: a plain IR in, the models that run fast out.

Cross-attention's keys and values depend on the encoder's tokens alone. So a text model is cut where they are made: one
half projects the image (or the question) once, the other takes the keys and values as inputs at every step.
"""

from collections.abc import Callable

import numpy as np
import openvino as ov
from openvino import opset13 as opset
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo

from blip_openvino.ir.files import CROSS, named_outputs


def keys_and_values(model: ov.Model) -> dict[str, ov.Output]:
    """What each layer's cross-attention reads, [2, E, heads, N, head size], by name: `cross.0`, `cross.1`, ..."""
    return {name: output for name, output in named_outputs(model).items() if name.startswith(CROSS)}


def insert_after(output: ov.Output, make: Callable[[ov.Output], ov.Node]) -> None:
    """Have what reads `output` read instead what `make` makes of it."""
    readers = output.get_target_inputs()
    made = make(output)
    for reader in readers:
        reader.replace_source_output(made.output(0))


def size_of(output: ov.Output, axis: int) -> ov.Node:
    """The size of one axis, [1]."""
    return opset.gather(opset.shape_of(output), opset.constant([axis]), opset.constant(0))


def split_projections(model: ov.Model, element_type: ov.Type, keep_tokens: bool) -> ov.Model:
    """Cut `model` in two, in place: it takes cross-attention's keys and values in place of the encoder's tokens.

    Args:
        element_type: of keys and values.
        keep_tokens: it takes tokens as well, for the rows of `unprojected.attend_unprojected`.

    Returns:
        The other half: `encoder_hidden_states` [E, N, encoder hidden] -> `cross.0` [2, E, heads, N, head size], ...
    """
    whole, results, inputs = model.clone(), [], []
    for name, made in keys_and_values(whole).items():
        made.set_names(set())
        results.append(opset.result(opset.convert(made, element_type)))
        results[-1].input_value(0).set_names({name})
    projections = ov.Model(results, [whole.input("encoder_hidden_states").get_node()], "projections")

    for name, made in keys_and_values(model).items():
        made.set_names(set())
        inputs.append(opset.parameter(made.get_partial_shape(), element_type, name=name))
        inputs[-1].output(0).set_names({name})
        made.replace(opset.convert(inputs[-1], ov.Type.f32).output(0))
    model.add_parameters(inputs)
    if not keep_tokens:
        model.remove_parameter(model.input("encoder_hidden_states").get_node())
    model.validate_nodes_and_infer_types()
    return projections


def dequantize_looked_up(model: ov.Model) -> None:
    """Look up the 8-bit rows of an embedding table, and dequantize those alone, in place.

    A model with quantized activations would have OpenVINO 2026.4 expand the whole table to float32 when it compiles:
    94 MB instead of 23 for BLIP's words.
    """
    for gather in model.get_ordered_ops():
        if gather.get_type_name() != "Gather":
            continue
        table = gather.input_value(0).get_node()
        if table.get_type_name() == "Convert":
            table = table.input_value(0).get_node()
        if table.get_type_name() != "Multiply":
            continue
        integers = table.input_value(0).get_node()
        if integers.get_type_name() != "Convert" or integers.get_input_element_type(0) != ov.Type.i8:
            continue
        where = gather.input_value(1), gather.input_value(2)
        rows = opset.convert(opset.gather(integers.input_value(0), *where), ov.Type.f32)
        scales = opset.convert(opset.gather(table.input_value(1), *where), ov.Type.f32)
        gather.output(0).replace(opset.multiply(rows, scales).output(0))
    model.validate_nodes_and_infer_types()


def keep_cache(model: ov.Model) -> None:
    """Make self-attention's cache state, in place: every `past.*` input and its `present.*` output.

    A new input `beam_idx` [rows] int32 says which row of the cache each row goes on from. The cache starts empty. It is
    [rows, past, heads, head size], the order in which products give it: OpenVINO's attention takes it so, and with
    nothing to transpose a step of three beams or of eight images took 5 to 6 % less (Zen 4).
    """
    beam_idx = opset.parameter([-1], ov.Type.i32, name="beam_idx")
    beam_idx.output(0).set_names({"beam_idx"})
    model.add_parameters([beam_idx])
    rows = size_of(model.input("input_ids"), 0)
    for past in [port for port in model.inputs if port.any_name.startswith("past.")]:
        [tokens] = (reader.get_node() for reader in past.get_target_inputs())  # the past ones and the new
        new = tokens.input_value(1).get_node().input_value(0)  # [rows, T, heads, head size], not yet transposed
        shape = new.get_partial_shape()
        no_tokens = opset.constant([0, shape[2].get_length(), shape[3].get_length()])
        empty = opset.broadcast(opset.constant(np.float32(0)), opset.concat([rows, no_tokens], 0))
        info = VariableInfo()
        info.variable_id, info.data_type, info.data_shape = past.any_name, ov.Type.f32, shape
        state = Variable(info)
        cache = opset.gather(read_value(empty, state), beam_idx, opset.constant(0))
        cache = opset.concat([cache, new], 1)
        model.add_variables([state])
        model.add_sinks([assign(cache, state)])
        model.remove_result(model.output(past.any_name.replace("past.", "present.", 1)).get_node())
        model.remove_parameter(past.get_node())
        tokens.output(0).replace(opset.transpose(cache, opset.constant([0, 2, 1, 3])).output(0))
    # A CPU would keep eight bits of each key and value, which shifts logits by up to 4 % of their range (2026.4).
    model.set_rt_info("f32", ["runtime_options", "KV_CACHE_PRECISION"])
    model.validate_nodes_and_infer_types()


def keep_some_logits(model: ov.Model) -> None:
    """Give the decoder an input `logits_to_keep` [1] int64, in place: it gives logits of that many last positions.

    While a text is written one is read, and the product with the vocabulary is a good part of a step.
    """
    count = opset.parameter([1], ov.Type.i64, name="logits_to_keep")
    count.output(0).set_names({"logits_to_keep"})
    model.add_parameters([count])
    start = opset.negative(count)
    hidden_states = named_outputs(model)["decoder_hidden_states"]
    insert_after(hidden_states, lambda states: opset.slice(states, start, stop=[2**31 - 1], step=[1], axes=[1]))
    model.validate_nodes_and_infer_types()
