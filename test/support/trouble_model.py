"""The tiny model with a fault to order: the brightest blue of a frame says how badly it goes.

blue 0          answers at once, as the tiny model does
blue 1 to 198   takes time that grows with the square of blue: `seconds_to_blue`
blue 199        hangs: takes longer than any test
blue 200 up     inference fails
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tiny_model import tiny_info, tiny_model

FAILURE = 200  # this blue makes inference fail
HANGING = 199  # this one keeps it for days
_STEPS = 5  # iterations that blue 1 costs


def write_trouble_model(path: Path) -> Path:
    model = tiny_model()
    extra_iterations = np.zeros(FAILURE, np.float32)
    extra_iterations[HANGING] = 1e9
    graph = model.graph
    constants = {
        "blue": np.array(2, np.int64),
        "steps": np.array(_STEPS, np.float32),
        "true": np.array(True),
        "load": np.ones((256, 256), np.float32),
        "table": extra_iterations,
        "nothing": np.array(0, np.float32),
    }
    body = helper.make_graph(
        [
            helper.make_node("Sin", ["x"], ["y"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
        ],
        "work",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [256, 256]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [256, 256]),
        ],
    )
    trouble = [
        helper.make_node("Gather", ["pixels", "blue"], ["blues"], axis=3),
        helper.make_node("ReduceMax", ["blues"], ["bluest"], keepdims=0),
        helper.make_node("Cast", ["bluest"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["extra"], axis=0),  # fails off the table
        helper.make_node("Mul", ["bluest", "bluest"], ["squared"]),
        helper.make_node("Mul", ["squared", "steps"], ["iterations"]),
        helper.make_node("Add", ["iterations", "extra"], ["all_iterations"]),  # so it fails first
        helper.make_node("Cast", ["all_iterations"], ["trips"], to=TensorProto.INT64),
        helper.make_node("Loop", ["trips", "true", "load"], ["worked"], body=body),
        helper.make_node("ReduceMax", ["worked"], ["work"], keepdims=0),
        helper.make_node("Mul", ["work", "nothing"], ["no_work"]),
        helper.make_node("Add", ["classes", "no_work"], ["troubled_classes"]),
    ]
    nodes = list(graph.node)
    clip = next(i for i, node in enumerate(nodes) if node.op_type == "Clip")
    nodes[clip].input[0] = "troubled_classes"
    del graph.node[:]
    graph.node.extend([*nodes[:clip], *trouble, *nodes[clip:]])
    graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in constants.items())
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def seconds_to_blue(path: Path, seconds: float) -> int:
    """The blue that makes inference take about this long on this machine."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    width, height = tiny_info().input_size
    probe = 20
    image = np.full((1, height, width, 3), probe, np.uint8)
    session.run(None, {"image": image})
    began = time.monotonic()
    session.run(None, {"image": image})
    blue = probe * (seconds / (time.monotonic() - began)) ** 0.5
    return int(np.clip(round(blue), 1, HANGING - 1))
