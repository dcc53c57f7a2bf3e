"""The part of an ONNX graph between some of its tensors.

As `onnx.utils.Extractor` has it, whose search in onnx 1.17, the newest beside Humble's NumPy, calls
itself once per node: a network of a thousand nodes in a row exceeded Python's recursion limit.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper


def extract(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return what computes the tensors `outputs` from the tensors `inputs`, without metadata.

    Both must be inputs or outputs of the model or have a value_info. Raises KeyError otherwise.
    """
    graph = model.graph
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needed: set[int] = set()
    pending = list(outputs)
    while pending:
        name = pending.pop()
        if name not in inputs and (index := makers.get(name)) is not None and index not in needed:
            needed.add(index)
            pending.extend(graph.node[index].input)
    nodes = [graph.node[index] for index in sorted(needed)]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}
    part = helper.make_graph(
        nodes,
        graph.name,
        [values[name] for name in inputs],
        [values[name] for name in outputs],
        initializer=[tensor for tensor in graph.initializer if tensor.name in names],
        value_info=[value for value in graph.value_info if value.name in names],
    )
    return helper.make_model(
        part,
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
        functions=model.functions,
    )
