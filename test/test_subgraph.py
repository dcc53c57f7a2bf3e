"""The part of a graph that a backend runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.utils
import pytest
from onnx import TensorProto, helper, numpy_helper
from tiny_model import tiny_model

from bisenetv2_ros.backends.subgraph import extract
from bisenetv2_ros.model_file import INPUT, MASK, model_path


def test_nothing_else_is_in_it():
    model = tiny_model()
    part = extract(model, [INPUT], [MASK])
    assert [value.name for value in (*part.graph.input, *part.graph.output)] == [INPUT, MASK]
    assert "greens" not in {name for node in part.graph.node for name in node.output}
    assert {tensor.name for tensor in part.graph.initializer} == {
        "red",
        "step",
        "lowest",
        "highest",
    }
    assert not part.metadata_props
    with pytest.raises(KeyError, match="nothing"):
        extract(model, [INPUT], ["nothing"])


def test_it_is_that_of_onnx():
    model = onnx.load(model_path("bisenetv2_camvid_640x480_int8"))
    ours, theirs = (
        find(model, [INPUT], [MASK]).graph
        for find in (extract, lambda model, *ends: onnx.utils.Extractor(model).extract_model(*ends))
    )
    for field in ("node", "initializer", "input", "output"):
        ends = [{part.SerializeToString() for part in getattr(g, field)} for g in (ours, theirs)]
        assert ends[0] == ends[1] and len(getattr(ours, field)) == len(getattr(theirs, field))
    assert [node.output for node in ours.node] == [node.output for node in theirs.node]


def test_thousands_of_nodes_in_a_row():
    """Of them, onnx 1.17 raised a RecursionError."""
    count = 3000
    nodes = [helper.make_node("Relu", [f"x{i}"], [f"x{i + 1}"]) for i in range(count)]
    nodes.append(helper.make_node("Add", ["x7", "one"], ["unused"]))
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1]) for i in (0, count)]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    model = helper.make_model(helper.make_graph(nodes, "row", ends[:1], ends[1:], [one]))
    part = extract(model, ["x0"], [f"x{count}"])
    assert list(part.graph.node) == nodes[:count]
    assert not part.graph.initializer
