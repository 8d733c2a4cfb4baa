"""Turn a model's caches from inputs and outputs into state, which an infer request keeps between its calls."""

import numpy as np
import openvino as ov
from openvino import opset13 as opset
from openvino.op import assign, read_value
from openvino.op.util import Variable, VariableInfo


def add_variable(
    model: ov.Model,
    name: str,
    shape: ov.PartialShape,
    initial: ov.Output,
    readers: set[ov.Input],
    new_value: ov.Output | None = None,
) -> None:
    """Let `readers` read a new variable of `model`, float32 of `shape`.

    Args:
        initial: what the variable holds after `reset_state()`; it is computed at the first call only.
        new_value: what the variable holds after each call; None leaves it as it is.
    """
    info = VariableInfo()
    info.data_shape, info.data_type, info.variable_id = shape, ov.Type.f32, name
    variable = Variable(info)
    read = read_value(initial, variable)
    for reader in readers:
        reader.replace_source_output(read.output(0))
    model.add_variables([variable])
    model.add_sinks([assign(read if new_value is None else new_value.get_node(), variable)])


def keep_cache(model: ov.Model, past: list[str], present: list[str]) -> None:
    """Make the cache of self-attention state, in place: each `past` input and its `present` output become a variable.

    It starts empty and is as long as the text so far.
    """
    input_ids = model.input("input_ids").get_node()
    rows = opset.gather(opset.shape_of(input_ids), opset.constant([0]), opset.constant(0))
    for past_name, present_name in zip(past, present, strict=True):
        parameter, result = model.input(past_name).get_node(), model.output(present_name).get_node()
        shape = parameter.get_partial_shape()
        heads, head_size = (opset.constant([shape[axis].get_length()]) for axis in (1, 3))
        no_tokens = opset.concat([rows, heads, opset.constant([0]), head_size], 0)
        empty = opset.broadcast(opset.constant(np.float32(0)), no_tokens)
        readers = parameter.output(0).get_target_inputs()
        add_variable(model, past_name, shape, empty.output(0), readers, result.input_value(0))
        model.remove_parameter(parameter)
        model.remove_result(result)
    model.validate_nodes_and_infer_types()


def keep_projections(model: ov.Model, names: list[str]) -> None:
    """Make cross-attention's keys and values state, in place: each of the outputs `names` becomes a variable.

    Its initial value is the projection of the encoder's tokens, so that these are projected at the first call after
    `reset_state()` and only read at every later one.
    """
    for name in names:
        result = model.output(name).get_node()
        projection = result.input_value(0)
        model.remove_result(result)
        add_variable(model, name, projection.get_partial_shape(), projection, projection.get_target_inputs())
    model.validate_nodes_and_infer_types()


def kept_projections(model: ov.Model) -> dict[str, ov.Node]:
    """What `keep_projections` made: the `ReadValue` of every kept key and value, by name."""
    written = {sink.get_variable_id(): sink.input_value(0).get_node() for sink in model.get_sinks()}
    # Self-attention's cache grows: what is written there is not what was read.
    return {name: node for name, node in written.items() if node.get_type_name() == "ReadValue"}


def release_projections(model: ov.Model) -> list[str]:
    """Undo `keep_projections`, in place: the kept keys and values are outputs again. Returns their names.

    Quantization watches what flows between a model's nodes, and nothing can be watched that runs inside a variable's
    initialization.
    """
    kept = kept_projections(model)
    for read in kept.values():
        for reader in read.output(0).get_target_inputs():
            reader.replace_source_output(read.input_value(0))
    for sink in [sink for sink in model.get_sinks() if sink.get_variable_id() in kept]:
        model.remove_sink(sink)
        model.remove_variable(model.get_variable_by_id(sink.get_variable_id()))
    model.add_results(named_projections(kept))
    model.validate_nodes_and_infer_types()
    return list(kept)


def named_projections(kept: dict[str, ov.Node]) -> list[ov.Node]:
    """The projections that `kept` variables begin with, as outputs of those names."""
    results = []
    for name, read in kept.items():
        results.append(opset.result(read.input_value(0)))
        results[-1].output(0).set_names({name})
    return results


def copy_projections(model: ov.Model) -> ov.Model:
    """The projections alone, as a model: `encoder_hidden_states` -> every key and value that `model` keeps, by name."""
    copied = model.clone()
    return ov.Model(named_projections(kept_projections(copied)), [copied.input("encoder_hidden_states").get_node()])


def replace_projections(model: ov.Model, projections: ov.Model) -> None:
    """Let `model` keep what `projections` gives, in place: it is what `copy_projections` gave, quantized since."""
    for name, read in kept_projections(model).items():
        read.input(0).replace_source_output(projections.output(name).get_node().input_value(0))
    for reader in projections.input(0).get_target_inputs():
        reader.replace_source_output(model.input("encoder_hidden_states").get_node().output(0))
    model.validate_nodes_and_infer_types()
