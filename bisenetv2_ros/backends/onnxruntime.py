"""ONNX Runtime: runs everywhere; the reference that the other backends are compared with.

Batches of any size. Of the graph only what leads to the outputs asked for is executed.
"""

from __future__ import annotations

import numpy as np
import onnxruntime

from bisenetv2_ros.backends.base import Backend, BackendUnavailable, refused
from bisenetv2_ros.model_file import INPUT, OUTPUTS, ModelFile

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ERRORS_ONLY = 3  # of ONNX Runtime's log levels


class OnnxRuntimeBackend(Backend):
    """Devices: 'cpu' (the default), 'cuda', 'cuda:N'. The contract is `Backend`'s."""

    name = "onnxruntime"

    def __init__(self, model: ModelFile, device: str, threads: int) -> None:
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
        # waiting threads sleep: spinning between frames takes the core from the rest of the robot
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.device = f"CPU ({threads} threads)" if kind == "cpu" else device.upper()
        provider_options = [{"device_id": index}] if index else None
        try:
            self._session = onnxruntime.InferenceSession(
                str(model.path), options, [provider], provider_options
            )
        except Exception as error:  # its exceptions share no narrower class
            raise refused(model, "onnxruntime", error) from error
        if self._session.get_providers()[0] != provider:
            raise BackendUnavailable(
                f"onnxruntime could not start device '{device}' and fell back to the CPU: "
                "check the driver and the CUDA libraries that onnxruntime-gpu asks for"
            )
        self._run_options = onnxruntime.RunOptions()
        self._run_options.only_execute_path_to_fetches = True

    def _infer(self, images: np.ndarray, confidence: bool) -> tuple[np.ndarray, np.ndarray | None]:
        names = OUTPUTS if confidence else OUTPUTS[:1]
        outputs = self._session.run(names, {INPUT: images}, self._run_options)
        return outputs[0], outputs[1] if confidence else None
