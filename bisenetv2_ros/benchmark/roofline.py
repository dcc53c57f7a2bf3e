"""The roofline: the least time in which a device could run a model.

A network has to do its multiply-adds, read its weights and image, and write its mask. The device's
rates of both are measured, not taken from a data sheet: on a GPU by matrix products and copies in
torch, on a CPU by convolutions in OpenVINO. No network reaches the roofline, because data between
its layers also go to memory and back, which is not counted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.model_file import read_model_file

_SIDE = 8192  # of the matrices: large enough to keep every GPU of today busy
_COPY = 2**30  # bytes
_LAYERS, _CHANNELS, _SIZE = 4, 128, (128, 64)  # of the CPU's convolutions, which are 3x3
_ROUNDS = 20


@dataclass(frozen=True)
class Work:
    """The work of a model for one image."""

    multiply_adds: int
    bytes_moved: int  #: weights and image read, mask written


@dataclass(frozen=True)
class Rates:
    """Measured rates of a device."""

    what: str  #: what was measured, human-readable
    multiply_adds: float
    bytes_moved: float  #: read and written; infinite for a CPU, whose caches hold the weights

    def __str__(self) -> str:
        text = f"{self.what}: {self.multiply_adds / 1e9:.0f} G multiply-adds/s"
        if math.isfinite(self.bytes_moved):
            text += f", {self.bytes_moved / 1e9:.0f} GB/s"
        return text


def work_of(path: Path) -> Work:
    """Count the multiply-adds of all convolutions and matrix products of a model file.

    int8 weights count one byte each. Raises ModelFileError for an invalid file.
    """
    import onnx

    width, height = read_model_file(path).info.input_size
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    for value in model.graph.output:  # otherwise shape inference keeps the free batch size
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


def measure_gpu() -> Rates | None:
    """Measure the first GPU's float16; None if torch is missing or sees no GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda").half() for _ in range(2))
    source = torch.empty(_COPY, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    product = torch.empty_like(a)
    return Rates(
        f"{torch.cuda.get_device_name()}, float16",
        _SIDE**3 / _best(lambda: torch.mm(a, b, out=product)),
        2 * _COPY / _best(lambda: target.copy_(source)),
    )


def measure_cpu(precision: str, threads: int) -> Rates | None:
    """Measure a CPU for networks of 'int8' or of floats; None if OpenVINO is not installed."""
    try:
        from bisenetv2_ros.backends.openvino_runtime import openvino
    except ImportError:
        return None
    ops = openvino.opset8
    rng = np.random.default_rng(0)
    width, height = _SIZE
    zero, one = np.float32(0), np.float32(1)
    x = y = ops.parameter([1, _CHANNELS, height, width], np.float32)
    for _ in range(_LAYERS):
        weights = rng.uniform(-1, 1, (_CHANNELS, _CHANNELS, 3, 3)).astype(np.float32)
        filters = ops.constant(weights)
        if precision == "int8":
            y = ops.fake_quantize(y, zero, one, zero, one, levels=256)
            filters = ops.fake_quantize(filters, -one, one, -one, one, levels=255)
        y = ops.relu(ops.convolution(y, filters, [1, 1], [1, 1], [1, 1], [1, 1]))
    options = {"INFERENCE_NUM_THREADS": str(threads), "INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.compile_model(openvino.Model([y], [x]), "CPU", options)
    request = network.create_infer_request()
    image = rng.uniform(0, 1, (1, _CHANNELS, height, width)).astype(np.float32)
    times = []
    for _ in range(_ROUNDS):
        begin = time.perf_counter()
        request.infer([image])
        times.append(time.perf_counter() - begin)
    multiply_adds = _LAYERS * _CHANNELS**2 * 9 * width * height
    return Rates(
        f"{threads} threads, {precision}, 3x3 convolutions in OpenVINO",
        multiply_adds / min(times),
        math.inf,
    )


def _best(work: Any) -> float:
    """Device time of the fastest of several rounds, in seconds."""
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


def roofline_seconds(work: Work, rates: Rates) -> float:
    """The longer of the times for arithmetic and for memory at those rates."""
    return max(
        work.multiply_adds / rates.multiply_adds,
        work.bytes_moved / rates.bytes_moved,
    )
