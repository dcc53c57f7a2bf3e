"""Converts a float32 model file to one whose network computes in float16, the form for GPUs.

Input, normalization, the last upsampling, argmax and confidence stay float32: float16 has too few
digits for them. Works on graphs written by `export`; does not need torch.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
from filelock import FileLock
from onnx import TensorProto, helper, numpy_helper

from bisenetv2_ros.backends.subgraph import producers
from bisenetv2_ros.files.paths import naming, replacing
from bisenetv2_ros.model_file import (
    ModelFile,
    ModelFileError,
    cache_directory,
    read_model_file,
    write_metadata,
)

_RECIPE = 1  # version of this conversion; changing it makes all cached files again
_log = logging.getLogger(__name__)


def float16_of(source: ModelFile) -> ModelFile:
    """Return the float16 form of a float32 model file, made on first use and cached.

    Returns `source` itself, and logs why, if it cannot be converted or the result not written.
    """
    name = f"{source.name.removesuffix('_float32')}_float16.onnx"
    try:
        path = cache_directory() / "models" / f"{source.sha256[:32]}-{_RECIPE}" / name
        if kept := _kept(path):  # checked before writing: the cache may be read-only
            return kept
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # one of several processes makes it
            if kept := _kept(path):
                return kept
            write_half_model(source, path)
            made = read_model_file(path)
    except (OSError, RuntimeError, ModelFileError) as error:
        _log.warning("%s has no float16 form, it runs as it is: %s", source.name, error)
        return source
    _log.info("%s is made from %s", path, source.path)
    return made


def _kept(path: Path) -> ModelFile | None:
    if not path.is_file():
        return None
    try:
        return read_model_file(path)
    except ModelFileError as error:
        _log.warning("%s: it is made again", error)
        return None


def write_half_model(source: ModelFile, path_out: Path) -> None:
    """Write the float16 form of a float32 model file, without its scores.

    Raises ModelFileError if the file has another precision or was not made by `export`.
    """
    if source.info.precision != "float32":
        raise ModelFileError(
            f"model file {source.path}: precision is {source.info.precision}, expected float32"
        )
    model = onnx.load(source.path)
    if all(_outside_network(node) for node in model.graph.node):
        raise ModelFileError(
            f"model file {source.path}: no node is named /network/..., as `bisenetv2 export` names "
            "what can be float16"
        )
    cast_to_half(model)
    write_metadata(model, dataclasses.replace(source.info, precision="float16", metrics={}))
    with replacing(path_out) as partial, naming(path_out):
        onnx.save(model, partial)


def cast_to_half(model: onnx.ModelProto) -> None:
    """Cast the network of an exported float32 graph to float16, by the types in the graph.

    Runtimes then need no flag of their own. (onnxruntime.transformers.float16 converts whole
    graphs; if nodes are excluded, it casts between each two of them and writes files that ONNX
    Runtime refuses.)
    """
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    values = [*graph.value_info, *graph.input, *graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    maker = producers(graph)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    casts: dict[tuple[str, int], str] = {}

    def cast(name: str, to: int) -> str:
        if (name, to) not in casts:
            suffix = "half" if to == TensorProto.FLOAT16 else "float"
            casts[name, to] = f"{name}_{suffix}"
            nodes.append(
                helper.make_node("Cast", [name], [casts[name, to]], casts[name, to], to=to)
            )
        return casts[name, to]

    for node in graph.node:
        outside = _outside_network(node)
        for i, name in enumerate(node.input):
            if types.get(name) != TensorProto.FLOAT or (node.op_type == "Resize" and i > 0):
                continue
            if name in weights:
                if not outside:
                    weights[name].CopyFrom(_half_tensor(weights[name]))
                    types[name] = TensorProto.FLOAT16
            elif _outside_network(maker[name]) != outside:
                node.input[i] = cast(name, TensorProto.FLOAT if outside else TensorProto.FLOAT16)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.value_info[:]
    model.graph.CopyFrom(graph)
    onnx.checker.check_model(model, full_check=True)


def _outside_network(node: onnx.NodeProto) -> bool:
    """Whether a node belongs to normalization, last upsampling, argmax or confidence."""
    return not node.name.startswith("/network/")


def _half_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    with np.errstate(over="ignore"):  # the comparison with torch shows whether it matters
        half = numpy_helper.to_array(tensor).astype(np.float16)
    return numpy_helper.from_array(half, tensor.name)
