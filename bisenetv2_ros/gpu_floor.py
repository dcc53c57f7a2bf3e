"""The least time that a GPU could take for a model: what a measured network is to be compared with.

A network has to do its multiply-adds, and has to read its weights and image and write its mask. The
GPU's rates of both are measured, not taken from a data sheet. No network reaches the floor: between
its layers, data go to memory and back, which is not counted here. Knows no runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bisenetv2_ros.model_file import read_model_file

_SIDE = 8192  # of the matrices: large enough to keep every GPU of today busy
_COPY = 2**30  # bytes
_ROUNDS = 20


@dataclass(frozen=True)
class Work:
    """What a model has to do for one image."""

    multiply_adds: int
    bytes_moved: int  #: weights and image read, mask written


@dataclass(frozen=True)
class Rates:
    """What a GPU was measured to do a second."""

    device: str
    multiply_adds: float  #: of float16 matrices, sums in float32
    bytes_moved: float  #: read and written


def work_of(path: Path) -> Work:
    """Count the multiply-adds of all convolutions and matrix products of a model file.

    int8 weights count a byte each. ModelFileError for a file that is none.
    """
    import onnx

    width, height = read_model_file(path).info.input_size
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:  # or inference of shapes keeps to the free batch
        value.type.tensor_type.shape.dim[0].dim_value = 1
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.input, *graph.output)
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in graph.initializer)
    multiply_adds = sum(_multiply_adds(node, shapes) for node in graph.node)
    return Work(multiply_adds, weights + 3 * width * height + width * height)


def _multiply_adds(node: Any, shapes: dict[str, list[int]]) -> int:
    if node.op_type == "Conv":  # weights: (out, in / groups, kernel height, kernel width)
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type in ("MatMul", "Gemm"):
        return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]
    return 0


def measure_rates(index: int = 0) -> Rates | None:
    """Measure a GPU by torch; None where there is no torch, or none that sees the GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available() or index >= torch.cuda.device_count():
        return None
    device = torch.device("cuda", index)
    with torch.cuda.device(device):
        a, b = (torch.randn(_SIDE, _SIDE, device=device).half() for _ in range(2))
        source = torch.empty(_COPY, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        product = torch.empty_like(a)
        return Rates(
            torch.cuda.get_device_name(device),
            _SIDE**3 / _best(lambda: torch.mm(a, b, out=product)),
            2 * _COPY / _best(lambda: target.copy_(source)),
        )


def _best(work: Any) -> float:
    """Seconds on the device of the quickest of some rounds."""
    import torch

    times = []
    for _ in range(_ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(1e-3 * begin.elapsed_time(end))
    return min(times)


def floor_seconds(work: Work, rates: Rates) -> float:
    """The larger of the times that the arithmetic and the memory take at those rates."""
    return max(
        work.multiply_adds / rates.multiply_adds,
        work.bytes_moved / rates.bytes_moved,
    )
