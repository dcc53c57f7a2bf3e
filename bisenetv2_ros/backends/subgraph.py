"""The edges of an ONNX graph, and the part of it between some of its tensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that computes each tensor, by the tensor's name."""
    return {name: node for node in graph.node for name in node.output}


def consumers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, by the tensor's name; [] for any other name."""
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            found[name].append(node)
    return found


def extract(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Return what computes the tensors `outputs` from the tensors `inputs`, without metadata.

    Both must be inputs or outputs of the model or have a value_info. Raises KeyError otherwise.

    Does as `onnx.utils.Extractor`, whose search in onnx 1.17, the newest beside Humble's NumPy,
    exceeds Python's recursion limit for a thousand nodes in a row.
    """
    from onnx import helper

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
