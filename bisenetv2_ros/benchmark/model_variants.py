"""Variants of a model file for the benchmark only: another size, without its tail, the baseline.

The tail is what follows the network's logits: upsampling to the image's size and argmax. Works on
graphs as `training/export.py` writes them; knows neither runtimes nor clocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from bisenetv2_ros.backends.subgraph import extract, producers
from bisenetv2_ros.convert.input_size import resize_model
from bisenetv2_ros.model_file import INPUT, OUTPUTS, ModelFile, read_model_file, write_metadata

PLAIN_INPUT = "normalised"  #: (N, 3, H, W) float32
PLAIN_OUTPUT = "logits"  #: (N, classes, H, W) float32


def resized(model: ModelFile, size: tuple[int, int], directory: Path) -> ModelFile:
    """The same weights for images of `size`, in a file in `directory`; see `resize_model`."""
    if size == model.info.input_size:
        return model
    width, height = size
    return resize_model(model, size, directory / f"{model.path.stem}_at_{width}x{height}.onnx")


def without_tail(model: ModelFile, directory: Path) -> ModelFile | None:
    """The same network up to its logits; None if it does not end in upsampling and argmax.

    The mask output is a placeholder: zeros at logit resolution.
    """
    graph = onnx.load(model.path)
    ends = _tail(graph.graph)
    if ends is None:
        return None
    logits, _ = ends
    part = extract(_typed(graph), [INPUT], [logits])
    del part.graph.output[:]
    part.graph.initializer.append(numpy_helper.from_array(np.float32(3e38), "beyond_all"))
    part.graph.node.extend(
        [
            helper.make_node("ReduceMax", [logits], ["highest"], axes=[1], keepdims=0),
            helper.make_node("Greater", ["highest", "beyond_all"], ["never"]),
            *(
                helper.make_node("Cast", ["never"], [name], to=onnx.TensorProto.UINT8)
                for name in OUTPUTS
            ),
        ]
    )
    part.graph.output.extend(graph.graph.output)
    del part.metadata_props[:]
    write_metadata(part, model.info)
    path = directory / f"without_tail_{model.path.name}"
    onnx.save(part, path)
    return read_model_file(path)


def plain(model: ModelFile) -> bytes | None:
    """The network as it is usually exported, with the same weights; None as for `without_tail`.

    From PLAIN_INPUT, normalized by the caller, to PLAIN_OUTPUT, one channel per class at the
    image's size, of which the caller takes the argmax.
    """
    graph = onnx.load(model.path)
    ends = _tail(graph.graph)
    if ends is None:
        return None
    _, enlarged = ends
    first = next((node for node in graph.graph.node if node.op_type == "Conv"), None)
    if first is None:
        return None
    part = extract(_typed(graph), [first.input[0]], [enlarged])
    for node in part.graph.node:
        node.input[:] = [PLAIN_INPUT if name == first.input[0] else name for name in node.input]
        node.output[:] = [PLAIN_OUTPUT if name == enlarged else name for name in node.output]
    part.graph.input[0].name, part.graph.output[0].name = PLAIN_INPUT, PLAIN_OUTPUT
    return bytes(part.SerializeToString())


def _typed(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(graph, data_prop=True)


def _tail(graph: onnx.GraphProto) -> tuple[str, str] | None:
    """Names of the logits before and after the last upsampling."""
    makers = producers(graph)
    for node in graph.node:
        if node.op_type == "TopK":
            upsampling = makers.get(node.input[0])
            if upsampling is not None and upsampling.op_type == "Resize":
                return upsampling.input[0], upsampling.output[0]
    return None
