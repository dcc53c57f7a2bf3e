"""A model file small enough to check by hand: mask = red // 16 up to C-1, confidence = green."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.model_file import ModelInfo, write_metadata


def tiny_info(size: tuple[int, int] = (32, 24), precision: str = "float32") -> ModelInfo:
    return ModelInfo(
        labels=CAMVID,
        dataset="camvid",
        input_size=size,
        precision=precision,
        metrics={"mIoU camvid val": 0.5},
        source_revision="0123456",
        licence="test",
    )


def tiny_model(info: ModelInfo | None = None) -> onnx.ModelProto:
    info = info or tiny_info()
    width, height = info.input_size
    constants = {
        "red": np.array(0, np.int64),
        "green": np.array(1, np.int64),
        "step": np.array(1 / 16, np.float32),
        "lowest": np.array(0, np.float32),
        "highest": np.array(len(info.labels) - 1, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Gather", ["pixels", "red"], ["reds"], axis=3),
        helper.make_node("Gather", ["pixels", "green"], ["greens"], axis=3),
        helper.make_node("Mul", ["reds", "step"], ["sixteenths"]),
        helper.make_node("Floor", ["sixteenths"], ["classes"]),
        helper.make_node("Clip", ["classes", "lowest", "highest"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["mask"], to=TensorProto.UINT8),
        helper.make_node("Cast", ["greens"], ["confidence"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", height, width, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", height, width])
            for name in ("mask", "confidence")
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_metadata(model, info)
    return model


def tiny_answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the model answers for (N, H, W, 3) uint8."""
    return np.minimum(images[..., 0] // 16, len(CAMVID) - 1), images[..., 1]


def write_tiny_model(path: Path, info: ModelInfo | None = None) -> Path:
    onnx.save(tiny_model(info), path)
    return path


def write_model_without_class(path: Path, where: str) -> Path:
    """A tiny model that answers 255, as exported graphs do for logits that are not finite.

    where: 'everywhere', or 'bright' for pixels of red 255 only.
    """
    model = tiny_model()
    graph = model.graph
    graph.node[6].input[0] = "guarded"
    limit = -1.0 if where == "everywhere" else 254.5
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(limit, np.float32), "limit"),
            numpy_helper.from_array(np.array(255, np.float32), "no_class"),
        ]
    )
    graph.node.insert(6, helper.make_node("Where", ["bad", "no_class", "clipped"], ["guarded"]))
    graph.node.insert(6, helper.make_node("Greater", ["reds", "limit"], ["bad"]))
    onnx.save(model, path)
    return path


def write_slow_model(path: Path, links: int) -> Path:
    """The tiny model with a chain that TensorRT's builder would like to fuse: 1500 take minutes."""
    model = tiny_model()
    nodes = model.graph.node
    tail = list(nodes[5:])
    del nodes[5:]
    name = nodes[4].output[0]
    for i in range(links):
        nodes.append(helper.make_node("Softmax", [name], [f"link{i}"], axis=2))
        name = f"link{i}"
    tail[0].input[0] = name
    nodes.extend(tail)
    onnx.save(model, path)
    return path
