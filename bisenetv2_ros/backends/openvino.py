"""OpenVINO: the fastest backend on CPUs, and the only one for Intel GPUs and NPUs.

Runs one image at a time: the graph is compiled for batch size 1, because fixed shapes are faster
and batches gain nothing on a CPU. Masks alone and masks with confidence are two compiled graphs,
the second created on first use. On a CPU they end at the logits and `tail` makes the mask;
`depthwise` rewrites convolutions that oneDNN has no fast kernels for.

A float32 file runs in float32, as the reference. The float parts of an int8 file run in bfloat16 if
the CPU computes it natively; docs/performance.md has the gain and the differences. A float16 file
runs in float32: bfloat16 has fewer digits, and float16 was slower on the one CPU tried with it.
"""

from __future__ import annotations

import numpy as np
import onnx

from bisenetv2_ros.backends import depthwise
from bisenetv2_ros.backends.base import (
    Backend,
    BackendUnavailable,
    BatchProfile,
    Masks,
    Report,
    refused,
)
from bisenetv2_ros.backends.openvino_runtime import CORE, openvino
from bisenetv2_ros.backends.tail import find_tail
from bisenetv2_ros.model_file import OUTPUTS, ModelFile


class OpenVinoBackend(Backend):
    """See the module docstring; `Backend` has the contract."""

    name = "openvino"

    def __init__(
        self, model: ModelFile, device: str, threads: int, report: Report, batch: BatchProfile
    ) -> None:
        self._describe(model)
        self._target = device.upper() or "CPU"
        # By family: a single GPU is listed as GPU and answers to GPU.0; several are listed as GPU.N
        # and answer to GPU.
        families = {name.partition(".")[0] for name in CORE.available_devices}
        if self._target.partition(".")[0] not in families:
            raise BackendUnavailable(
                f"openvino sees no device '{device}', only "
                f"{', '.join(CORE.available_devices)}: install the device's driver, "
                "such as intel-opencl-icd for an Intel GPU"
            )
        try:
            capabilities = CORE.get_property(self._target, "OPTIMIZATION_CAPABILITIES")
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise BackendUnavailable(f"openvino: no device '{device}': {reason}") from error
        hint = "f32"
        if self._target == "CPU":
            if model.info.precision == "int8" and "BF16" in capabilities:
                hint = "bf16"
        elif model.info.precision == "float16" and "FP16" in capabilities:
            hint = "f16"
        self._options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
        self.device = self._target
        graph = onnx.load(model.path)
        if self._target == "CPU":
            if model.info.precision == "int8":  # float32 gains nothing
                depthwise.repeat_inputs(graph.graph)
            self._tail = find_tail(graph.graph)
            self._options["INFERENCE_NUM_THREADS"] = str(threads)
            # Pinned threads wait for their core while another idles: on a machine under other load,
            # a frame took 77 ms with pinning and 67 ms without.
            self._options["ENABLE_CPU_PINNING"] = "NO"
            self.device = f"CPU ({threads} threads)"
        width, height = model.info.input_size
        try:
            self._graph = CORE.read_model(graph.SerializeToString())
            self._graph.reshape([1, height, width, 3])
            self._requests = {False: self._compile(confidence=False)}
        except RuntimeError as error:
            raise refused(model, "openvino", error) from error

    def _compile(self, confidence: bool) -> openvino.InferRequest:
        outputs = [self._graph.output(name) for name in OUTPUTS]
        if self._tail:
            outputs[0] = self._inner_output(self._tail.logits)
        part = openvino.Model(outputs[: 1 + confidence], self._graph.get_parameters())
        return CORE.compile_model(part, self._target, self._options).create_infer_request()

    def _inner_output(self, name: str) -> openvino.Output:
        for node in self._graph.get_ops():
            for output in node.outputs():
                if name in output.get_names():
                    return output
        raise RuntimeError(f"the graph has lost the tensor {name}")

    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[Masks, Masks | None]:
        if confidence not in self._requests:
            self._requests[confidence] = self._compile(confidence)
        request = self._requests[confidence]
        # OpenVINO shares only writable memory; a view of a message is read-only.
        images = np.require(images, requirements="W")
        masks: Masks = []
        confidences: Masks = []
        for i in range(len(images)):
            image = openvino.Tensor(images[i : i + 1], shared_memory=True)
            request.infer([image], share_outputs=True)
            answers = [tensor.data for tensor in request.output_tensors]
            if len(images) > 1:  # the next run overwrites the memory
                answers = [answer.copy() for answer in answers]
            masks += list(answers[0])
            if confidence:
                confidences += list(answers[1])
        return masks, confidences if confidence else None
