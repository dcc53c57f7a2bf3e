"""OpenVINO: the fastest backend on CPUs, and the way to Intel GPUs and NPUs.

One image at a time: the graph is compiled for batch 1, because fixed shapes are faster and a batch
gains nothing on a CPU. Masks alone and masks with confidence are two compiled graphs, the second
made when it is first asked for. On a CPU they end at the logits, and `tail` makes the mask;
`depthwise` rewrites what oneDNN has no fast kernels for.

A float32 file is the reference and runs in float32. What an int8 file leaves in float runs in
bfloat16 where the CPU computes that natively: docs/performance.md has what it saves and what it
changes. A float16 file does not: bfloat16 has fewer digits than it was given, and in float16 itself
the one CPU tried that has the instructions was slower than in float32.
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
from bisenetv2_ros.backends.openvino_runtime import openvino
from bisenetv2_ros.backends.tail import find_tail
from bisenetv2_ros.model_file import OUTPUTS, ModelFile


class OpenVinoBackend(Backend):
    """See the module's head; the contract is `Backend`'s."""

    name = "openvino"

    def __init__(
        self, model: ModelFile, device: str, threads: int, report: Report, batch: BatchProfile
    ) -> None:
        self._describe(model)
        self._core = openvino.Core()
        self._target = device.upper() or "CPU"
        # By family: where there is one GPU it is listed as GPU and answers to GPU.0, and the other
        # way round where there are several.
        families = {name.partition(".")[0] for name in self._core.available_devices}
        if self._target.partition(".")[0] not in families:
            raise BackendUnavailable(
                f"openvino sees no device '{device}', only "
                f"{', '.join(self._core.available_devices)}: install the device's driver, "
                "such as intel-opencl-icd for an Intel GPU"
            )
        try:
            capabilities = self._core.get_property(self._target, "OPTIMIZATION_CAPABILITIES")
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
            # A pinned thread waits for its core while another idles: on a machine that runs more
            # than this, a frame took 67 ms without and 77 ms with.
            self._options["ENABLE_CPU_PINNING"] = "NO"
            self.device = f"CPU ({threads} threads)"
        width, height = model.info.input_size
        try:
            self._graph = self._core.read_model(graph.SerializeToString())
            self._graph.reshape([1, height, width, 3])
            self._requests = {False: self._compile(confidence=False)}
        except RuntimeError as error:
            raise refused(model, "openvino", error) from error

    def _compile(self, confidence: bool) -> openvino.InferRequest:
        outputs = [self._graph.output(name) for name in OUTPUTS]
        if self._tail:
            outputs[0] = self._inner_output(self._tail.logits)
        part = openvino.Model(outputs[: 1 + confidence], self._graph.get_parameters())
        return self._core.compile_model(part, self._target, self._options).create_infer_request()

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
        # OpenVINO shares only memory that it could write to; a view of a message cannot be.
        images = np.require(images, requirements="W")
        masks: Masks = []
        confidences: Masks = []
        for i in range(len(images)):
            image = openvino.Tensor(images[i : i + 1], shared_memory=True)
            request.infer([image], share_outputs=True)
            answers = [tensor.data for tensor in request.output_tensors]
            if len(images) > 1:  # the next run writes to the same memory
                answers = [answer.copy() for answer in answers]
            masks += list(answers[0])
            if confidence:
                confidences += list(answers[1])
        return masks, confidences if confidence else None
