"""Splits depthwise convolutions with several outputs per channel into ones with a single output.

The depthwise convolution of a gather-and-expansion layer (paper, section 4.2) has six filters per
input channel. CPU runtimes have fast kernels only for one filter per channel. Therefore the input
is repeated six times along its channels, and each copy gets one of the filters.

This changes the order of the channels. The weights of the following layers, up to the block's final
dense convolution, are reordered to match. The result is the same; docs/performance.md states the
time saved.

Works on ONNX graphs. Knows neither runtimes nor images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bisenetv2_ros.backends.subgraph import consumers, producers

if TYPE_CHECKING:
    import onnx


def repeat_inputs(graph: onnx.GraphProto) -> int:
    """Rewrite such convolutions in place; return how many were rewritten.

    A convolution is left alone unless its channels go through ReLUs, quantization by a single
    scale, depthwise and finally a dense convolution only, each with weights of its own.
    """
    from onnx import helper, numpy_helper

    weights = _Weights(graph)
    count = 0
    for node in list(graph.node):
        if not (chain := weights.chain_from(node)):
            continue
        groups = _attribute(node, "group", 1)
        filters = weights.tensors[node.input[1]].dims[0] // groups
        order = np.arange(groups * filters).reshape(groups, filters).T.ravel()
        for name in chain.by_output:
            tensor = weights.tensors[name]
            array = np.ascontiguousarray(numpy_helper.to_array(tensor)[order])
            tensor.CopyFrom(numpy_helper.from_array(array, name))
        last = weights.tensors[chain.by_input]
        array = np.ascontiguousarray(numpy_helper.to_array(last)[:, order])
        last.CopyFrom(numpy_helper.from_array(array, chain.by_input))
        for convolution in chain.depthwise:
            _set_attribute(convolution, "group", groups * filters)
        repeated, repeats = f"{node.output[0]}_repeated", f"{node.output[0]}_repeats"
        graph.initializer.append(
            numpy_helper.from_array(np.array([1, filters, 1, 1], np.int64), repeats)
        )
        tile = helper.make_node("Tile", [node.input[0], repeats], [repeated], repeated)
        graph.node.insert(list(graph.node).index(node), tile)
        node.input[0] = repeated
        count += 1
    return count


@dataclass(frozen=True)
class _Chain:
    """Initializers to bring into the new channel order."""

    depthwise: list[onnx.NodeProto]
    by_output: list[str]  #: initializers whose first axis is the channels
    by_input: str  #: the initializer whose second axis is the channels


class _Weights:
    """The initializers of a graph, and its edges."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._producers, self._consumers = producers(graph), consumers(graph)
        self._kept = {output.name for output in graph.output}

    def chain_from(self, node: onnx.NodeProto) -> _Chain | None:
        """Follow a depthwise convolution of several filters per channel to the dense one after
        it."""
        groups = _attribute(node, "group", 1)
        if node.op_type != "Conv" or groups == 1 or not self._own(node.input[1]):
            return None
        shape = self.tensors[node.input[1]].dims
        channels = shape[0]
        if len(shape) != 4 or shape[1] != 1 or channels == groups:
            return None
        depthwise, by_output = [node], list(node.input[1:])
        while True:
            if not all(map(self._own, by_output)) or len(self._consumers[node.output[0]]) != 1:
                return None
            if node.output[0] in self._kept:
                return None
            before, node = node.output[0], self._consumers[node.output[0]][0]
            if node.input[0] != before:
                return None
            if node.op_type == "Relu" or self._has_one_scale(node):
                continue
            if node.op_type != "Conv":
                return None
            if _attribute(node, "group", 1) == 1:
                name = self._quantised(node.input[1])
                return _Chain(depthwise, by_output, name) if self._own(name) else None
            if _attribute(node, "group", 1) != channels or not self._own(node.input[1]):
                return None
            if self.tensors[node.input[1]].dims[0] != channels:
                return None
            depthwise.append(node)
            by_output += node.input[1:]

    def _own(self, name: str) -> bool:
        return name in self.tensors and len(self._consumers[name]) == 1

    def _has_one_scale(self, node: onnx.NodeProto) -> bool:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return False
        return all(name in self.tensors and not self.tensors[name].dims for name in node.input[1:])

    def _quantised(self, name: str) -> str:
        """The int8 weights that a DequantizeLinear reads, if their scale is per tensor or per
        output."""
        maker = self._producers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear" or len(self._consumers[name]) != 1:
            return name
        along_outputs = _attribute(maker, "axis", 1) == 0
        return maker.input[0] if along_outputs or self._has_one_scale(maker) else name


def _attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((one.i for one in node.attribute if one.name == name), default)


def _set_attribute(node: onnx.NodeProto, name: str, value: int) -> None:
    next(one for one in node.attribute if one.name == name).i = value
