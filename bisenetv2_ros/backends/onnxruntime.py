"""ONNX Runtime: runs everywhere; the reference for all other backends.

Takes batches of any size. Masks alone and masks with confidence are two sessions, the second
created on first use: a session runs its whole graph whichever outputs are fetched. On a CPU the
graph ends at the logits and `tail` makes the mask; activations after a ReLU are quantized to uint8.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from bisenetv2_ros.backends.base import (
    Backend,
    BackendUnavailable,
    BatchProfile,
    Masks,
    Report,
    refused,
)
from bisenetv2_ros.backends.subgraph import consumers, extract, producers
from bisenetv2_ros.backends.tail import find_tail
from bisenetv2_ros.model_file import INPUT, OUTPUTS, ModelFile

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3  # of ONNX Runtime's log levels


class OnnxRuntimeBackend(Backend):
    """Devices: 'cpu' (the default), 'cuda', 'cuda:N'. See `Backend` for the contract."""

    name = "onnxruntime"

    def __init__(
        self, model: ModelFile, device: str, threads: int, report: Report, batch: BatchProfile
    ) -> None:
        self._describe(model)
        kind, _, index = (device.lower() or "cpu").partition(":")
        provider = _PROVIDERS.get(kind, "")
        if provider not in onnxruntime.get_available_providers() or not (index or "0").isdigit():
            raise BackendUnavailable(
                f"onnxruntime has no device '{device}', expected cpu, cuda or cuda:N; "
                "for cuda run `pip install onnxruntime-gpu`"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads
        # Waiting threads sleep: spinning between frames takes the core from the rest of the robot.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.device = f"CPU ({threads} threads)" if kind == "cpu" else device.upper()
        self._options = options
        self._provider = (provider, {"device_id": index} if index else {})
        self._graph = onnx.load(model.path)
        if kind == "cpu":
            _quantise_unsigned(self._graph.graph)
        self._outputs = list(OUTPUTS)
        self._tail = find_tail(self._graph.graph) if kind == "cpu" else None
        if self._tail:
            self._outputs[0] = self._tail.logits
            self._graph.graph.value_info.append(
                helper.make_tensor_value_info(self._tail.logits, TensorProto.FLOAT, None)
            )
        try:
            self._sessions = {False: self._load(confidence=False)}
        except Exception as error:  # its exceptions have no common narrower class
            raise refused(model, "onnxruntime", error) from error
        if self._sessions[False].get_providers()[0] != provider:
            raise BackendUnavailable(
                f"onnxruntime could not start device '{device}' and fell back to the CPU: "
                "check the driver and the CUDA libraries that onnxruntime-gpu asks for"
            )

    def _load(self, confidence: bool) -> onnxruntime.InferenceSession:
        names = self._outputs[: 1 + confidence]
        part = extract(self._graph, [INPUT], names)
        return onnxruntime.InferenceSession(
            part.SerializeToString(), self._options, [self._provider]
        )

    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        if confidence not in self._sessions:
            self._sessions[confidence] = self._load(confidence)
        outputs = self._sessions[confidence].run(None, {INPUT: images})
        return list(outputs[0]), list(outputs[1]) if confidence else None


def _quantise_unsigned(graph: onnx.GraphProto) -> None:
    """Change int8 activations after a ReLU to uint8 of the same scale.

    Model files use int8 only, because TensorRT takes nothing else; on x86, ONNX Runtime multiplies
    unsigned by signed bytes faster. The values are the same, except beyond the calibrated range,
    where values up to twice the range are kept.
    """
    makers, users = producers(graph), consumers(graph)
    int8_zeros = {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.INT8
        and not tensor.dims
        and not numpy_helper.to_array(tensor).any()
    }
    zero = numpy_helper.from_array(np.zeros((), np.uint8), "zero_of_unsigned")
    graph.initializer.append(zero)
    for node in graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 3:
            continue
        maker = makers.get(node.input[0])
        both = [node, *users[node.output[0]]]
        if (
            maker is not None
            and maker.op_type == "Relu"
            and all(len(one.input) > 2 and one.input[2] in int8_zeros for one in both)
            and all(one.op_type == "DequantizeLinear" for one in both[1:])
        ):
            for one in both:
                one.input[2] = zero.name
    del graph.value_info[:]  # types may have changed; ONNX Runtime infers them
