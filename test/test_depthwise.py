"""Depthwise convolutions of several filters are rewritten where that changes no result."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from bisenetv2_ros.backends import depthwise
from bisenetv2_ros.model_file import models_directory
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.street.scene import StreetScene

CHANNELS, FILTERS = 3, 4
WIDE = CHANNELS * FILTERS


def conv(name: str, source: str, groups: int, bias: bool = True) -> onnx.NodeProto:
    inputs = [source, f"{name}_weight", *([f"{name}_bias"] if bias else [])]
    return helper.make_node("Conv", inputs, [name], name, group=groups, pads=[1, 1, 1, 1])


def quantised_graph() -> onnx.GraphProto:
    """Widened, filtered once more, quantised, and made dense by int8 weights: as the network is.

    All numbers are whole or halves, so that sums are exact in whichever order.
    """
    random = np.random.default_rng(0)

    def whole(*shape: int) -> np.ndarray:
        return random.integers(-4, 5, shape).astype(np.float32)

    values = {
        "wide_weight": whole(WIDE, 1, 3, 3),
        "wide_bias": whole(WIDE),
        "again_weight": whole(WIDE, 1, 3, 3),
        "scale": np.float32(4),
        "zero": np.int8(0),
        "int8": random.integers(-127, 128, (5, WIDE, 3, 3), np.int8),
        "scales": np.float32([0.5, 1, 2, 4, 8]),
        "zeros": np.zeros(5, np.int8),
        "dense_bias": whole(5),
    }
    dequantise = helper.make_node(
        "DequantizeLinear", ["int8", "scales", "zeros"], ["dense_weight"], "weights", axis=0
    )
    nodes = [
        dequantise,
        conv("wide", "image", CHANNELS),
        helper.make_node("Relu", ["wide"], ["positive"], "relu"),
        conv("again", "positive", WIDE, bias=False),
        helper.make_node("QuantizeLinear", ["again", "scale", "zero"], ["small"], "quantise"),
        helper.make_node("DequantizeLinear", ["small", "scale", "zero"], ["large"], "dequantise"),
        conv("dense", "large", 1),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, CHANNELS, 6, 7])
    dense = helper.make_tensor_value_info("dense", TensorProto.FLOAT, [1, 5, 6, 7])
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in values.items()]
    return helper.make_graph(nodes, "g", [image], [dense], tensors)


def run(graph: onnx.GraphProto) -> np.ndarray:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model, full_check=True)
    image = np.random.default_rng(1).integers(-2, 3, (1, CHANNELS, 6, 7)).astype(np.float32)
    return np.asarray(ReferenceEvaluator(model).run(None, {"image": image})[0])


def test_the_result_is_the_same():
    graph = quantised_graph()
    expected = run(graph)
    assert depthwise.repeat_inputs(graph) == 1
    groups = {node.name: node.attribute[0].i for node in graph.node if node.op_type == "Conv"}
    assert groups == {"wide": WIDE, "again": WIDE, "dense": 1}
    assert np.array_equal(run(graph), expected)
    assert depthwise.repeat_inputs(graph) == 0, "there is nothing left to do"


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def has_a_second_user(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Abs", ["positive"], ["other"]))


def is_an_output(graph: onnx.GraphProto) -> None:
    graph.output.append(helper.make_tensor_value_info("large", TensorProto.FLOAT, [1, WIDE, 6, 7]))


def shares_its_weights(graph: onnx.GraphProto) -> None:
    node(graph, "again").input[1] = "wide_weight"


def shares_its_int8_weights(graph: onnx.GraphProto) -> None:
    graph.node.append(helper.make_node("Abs", ["int8"], ["other"]))


def is_quantised_by_channel(graph: onnx.GraphProto) -> None:
    for name, array in (("wide_scales", np.ones(WIDE)), ("wide_zeros", np.zeros(WIDE))):
        kind = np.float32 if name == "wide_scales" else np.int8
        graph.initializer.append(numpy_helper.from_array(array.astype(kind), name))
    for name in ("quantise", "dequantise"):
        node(graph, name).input[1:] = ["wide_scales", "wide_zeros"]
        node(graph, name).attribute.append(helper.make_attribute("axis", 1))


def has_weights_quantised_by_input(graph: onnx.GraphProto) -> None:
    node(graph, "weights").attribute[0].i = 1


def meets_something_else(graph: onnx.GraphProto) -> None:
    node(graph, "relu").op_type = "Softmax"  # mixes its channels


@pytest.mark.parametrize(
    "change",
    [
        has_a_second_user,
        is_an_output,
        shares_its_weights,
        shares_its_int8_weights,
        is_quantised_by_channel,
        has_weights_quantised_by_input,
        meets_something_else,
    ],
)
def test_what_would_be_wrong_is_left_as_it_is(change: Callable[[onnx.GraphProto], None]):
    graph = quantised_graph()
    change(graph)
    before = graph.SerializeToString()
    assert depthwise.repeat_inputs(graph) == 0
    assert graph.SerializeToString() == before


def test_the_shipped_file_gives_the_same_masks(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("openvino")
    path = models_directory() / "bisenetv2_camvid_640x480_int8.onnx"
    assert depthwise.repeat_inputs(onnx.load(path).graph) == 8
    image, _ = StreetScene(5).render(3.0)
    masks = []
    for rewrite in (depthwise.repeat_inputs, lambda graph: 0):
        monkeypatch.setattr(depthwise, "repeat_inputs", rewrite)
        with Segmenter(path, backend="openvino") as segmenter:
            masks.append(segmenter(image, confidence=True))
    # Sums may be rounded in another order; on the CPUs tried so far they were not.
    assert np.mean(masks[0].mask == masks[1].mask) > 0.999
