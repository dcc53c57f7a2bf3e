"""Runtimes that execute a model file: finds the one asked for, or the best that is there.

Runtimes are imported only here and only when tried. Which is tried first with 'auto' is the order
of the table below. Nothing here knows of images other than uint8 arrays, or of ROS.
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

    model: a file that was read; or a path or name, of which each backend takes the precision that
        suits it (`model_file.model_path`). The backend's `model` is the file taken.
    name: a key of BACKENDS, or 'auto' for the first of them that is installed and has the device.
    device: in the runtime's words and any case, such as 'cpu', 'gpu', 'cuda:0'; '' for its default.
    threads: of a CPU device; 0 for one per physical core that this process may use.
    report: told how far the loading is; an exception of its own ends it (see `base.Report`).
    batch: numbers of images to build engines for; the other backends take all numbers alike.
    Raises ValueError for an unknown name or negative threads, BackendUnavailable, saying what to
    install, when runtime or device are not there, ModelFileError if the runtime refuses the file.
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
    """Read the file of a model that suits a backend: for TensorRT float16, made if need be.

    name_or_path: as for `model_file.model_path`. Raises ModelFileError if it cannot be read.
    """
    file = read_model_file(model_path(name_or_path, backend))
    named = "" in model_files(name_or_path)
    if backend == "tensorrt" and file.info.precision == "float32" and not named:
        from bisenetv2_ros.backends.float16 import float16_of

        return float16_of(file)
    return file


def load_on_cpu(model: ModelFile) -> Iterator[Backend]:
    """The model in each CPU runtime that is installed, one at a time, for a comparison of them.

    Raises BackendUnavailable if there is none, ModelFileError if one refuses the file.
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
