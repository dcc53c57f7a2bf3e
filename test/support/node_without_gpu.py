"""The node with TensorRT in everything but the GPU, for which ONNX Runtime stands in.

backend tensorrt      builds its engines by the real builder, as on the first start on a robot
backend onnxruntime   loses its device at the first frame that is not black
backend openvino      loses its device at the first frame, which is that of loading

Run as a program with the node's arguments.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from bisenetv2_ros import backends
from bisenetv2_ros.backends import DeviceLost, engine_cache
from bisenetv2_ros.backends.engine_builder import build_engines
from bisenetv2_ros.backends.engine_target import Target, library_name, load_library
from bisenetv2_ros.backends.onnxruntime import OnnxRuntimeBackend


class Builds(OnnxRuntimeBackend):
    name = "tensorrt"

    def __init__(self, model: Any, device: str, threads: int, report: Any, batch: Any) -> None:
        library = load_library()
        target = Target(library_name(library), library.__version__)
        engine_cache.obtain(
            target.key(model, batch), lambda: build_engines(model, target, batch, report), report
        )
        super().__init__(model, device, threads, report, batch)


class Loses(OnnxRuntimeBackend):
    def _infer(self, images: np.ndarray, confidence: bool) -> Any:
        if images.any():
            raise DeviceLost("GPU is lost to this process")
        return super()._infer(images, confidence)


class LosesAtOnce(OnnxRuntimeBackend):
    def _infer(self, images: np.ndarray, confidence: bool) -> Any:
        raise DeviceLost("GPU is lost to this process")


if __name__ == "__main__":
    from bisenetv2_ros.node import segment_node

    backends.BACKENDS["tensorrt"] = "node_without_gpu.Builds"
    backends.BACKENDS["onnxruntime"] = "node_without_gpu.Loses"
    backends.BACKENDS["openvino"] = "node_without_gpu.LosesAtOnce"
    sys.exit(segment_node.main(sys.argv[1:]))
