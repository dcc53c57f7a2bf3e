"""Inference runtimes: finds the requested one, or the best one available.

A runtime is imported only when it is tried. 'auto' tries them in the order of the table below.
Images are uint8 arrays here; nothing depends on ROS.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

from bisenetv2_ros.backends.base import (
    MOST_AT_ONCE,
    ONE_IMAGE,
    Backend,
    BackendUnavailable,
    BatchProfile,
    Cancelled,
    DeviceLost,
    Report,
    available_cores,
)
from bisenetv2_ros.model_file import ModelFile, model_files, model_path, read_model_file

__all__ = [
    "BACKENDS",
    "MOST_AT_ONCE",
    "Backend",
    "BackendUnavailable",
    "BatchProfile",
    "Cancelled",
    "DeviceLost",
    "Report",
    "available_cores",
    "create_backend",
    "load_on_cpu",
    "model_for",
]

_log = logging.getLogger(__name__)

#: Class of each backend, fastest first.
BACKENDS = {
    "tensorrt": "bisenetv2_ros.backends.tensorrt.TensorRtBackend",
    "openvino": "bisenetv2_ros.backends.openvino.OpenVinoBackend",
    "onnxruntime": "bisenetv2_ros.backends.onnxruntime.OnnxRuntimeBackend",
}


def create_backend(
    model: ModelFile | str | Path,
    name: str = "auto",
    device: str = "",
    threads: int = 0,
    *,
    report: Report = lambda line: None,
    batch: BatchProfile = ONE_IMAGE,
) -> Backend:
    """Load a model into a runtime.

    Args:
        model: a model file already read; or a path or name, of which each backend takes the
            precision that suits it (`model_file.model_path`). The backend's `model` is the file
            taken.
        name: a key of BACKENDS, or 'auto' for the first that is installed and has the device.
        device: the runtime's name for it in any case, such as 'cpu', 'gpu', 'cuda:0'; '' is its
            default.
        threads: of a CPU device; 0 is one per physical core that this process may use.
        report: receives progress; an exception that it raises cancels the load (see `base.Report`).
        batch: batch sizes to build engines for; only TensorRT needs it.

    Raises:
        ValueError: if the name is unknown or threads are negative.
        BackendUnavailable: if the runtime or device is missing; the message says what to install.
        ModelFileError: if the runtime refuses the file.
    """
    if name != "auto" and name not in BACKENDS:
        near = difflib.get_close_matches(name.lower(), ["auto", *BACKENDS], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        expected = f"expected auto, {', '.join(BACKENDS)}"
        raise ValueError(f"backend '{name}' is unknown, {expected}{hint}")
    if threads < 0:
        raise ValueError(f"threads must be 0 (all cores) or more, got {threads}")
    if name != "auto":
        return _load(name, model, device, threads, report, batch)
    skipped = []
    for candidate in BACKENDS:
        try:
            backend = _load(candidate, model, device, threads, report, batch)
        except BackendUnavailable as error:
            skipped.append(str(error))
            continue
        reasons = "; ".join(skipped) or "none"
        _log.info("backend %s on %s (skipped: %s)", backend.name, backend.device, reasons)
        return backend
    raise BackendUnavailable(f"no backend is available: {'; '.join(skipped)}")


def model_for(name_or_path: str | Path, backend: str) -> ModelFile:
    """Read the file of a model that suits a backend; for TensorRT, make the float16 file if needed.

    name_or_path: as for `model_file.model_path`. Raises ModelFileError if it cannot be read.
    """
    file = read_model_file(model_path(name_or_path, backend))
    named = "" in model_files(name_or_path)
    if backend == "tensorrt" and file.info.precision == "float32" and not named:
        from bisenetv2_ros.backends.float16 import float16_of

        return float16_of(file)
    return file


def load_on_cpu(model: ModelFile) -> Iterator[Backend]:
    """Load the model into each installed CPU runtime, one at a time, to compare them.

    Raises BackendUnavailable if none is installed, ModelFileError if one refuses the file.
    """
    names, missing = ("onnxruntime", "openvino"), []
    for name in names:
        try:
            backend = create_backend(model, name, "cpu")
        except BackendUnavailable as error:
            missing.append(str(error))
            continue
        with contextlib.closing(backend):
            yield backend
    if len(missing) == len(names):
        raise BackendUnavailable("; ".join(missing))


def _load(
    name: str,
    model: ModelFile | str | Path,
    device: str,
    threads: int,
    report: Report,
    batch: BatchProfile,
) -> Backend:
    module, _, class_name = BACKENDS[name].rpartition(".")
    try:
        backend_class: type[Backend] = getattr(importlib.import_module(module), class_name)
    except ImportError as error:
        raise BackendUnavailable(
            f"backend '{name}' cannot be imported ({error}): run `pip install {name}`"
        ) from error
    backend_class.check_available(device)
    file = model if isinstance(model, ModelFile) else model_for(model, name)
    backend = backend_class(file, device, threads or available_cores(), report, batch)
    backend.model = file
    return backend
