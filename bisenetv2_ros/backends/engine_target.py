"""TensorRT's library and the GPU that engines are built for: one module for 10, 11 and RTX."""

from __future__ import annotations

import dataclasses
import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.backends.base import BackendUnavailable, BatchProfile
from bisenetv2_ros.model_file import ModelFile

if TYPE_CHECKING:
    from bisenetv2_ros.backends.cuda import Gpu

RECIPE = 3  #: version of how engines are built; changing it rebuilds all engines
OLDEST = 10  #: TensorRT version; older ones do not support strongly typed graphs
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  #: in the order they are tried


@dataclass(frozen=True)
class Target:
    """What an engine is built for. Without a GPU, only TensorRT for RTX can build."""

    library: str  #: of `load_library`
    version: str
    gpu: str = ""  #: name; '' for none
    compute_capability: str = ""  #: such as '8.9'; '' for all that TensorRT for RTX knows
    multiprocessors: int = 0  #: Orin models and power modes share a name and differ in these
    device: int = 0  #: CUDA's number of the GPU; not part of the engine's identity
    integrated: bool = False  #: the GPU shares the system's memory, as on Jetson

    def key(self, model: ModelFile, batch: BatchProfile) -> dict[str, Any]:
        """Everything that determines the engines of a model, as the cache key."""
        return {
            "recipe": RECIPE,
            "model_sha256": model.sha256,
            "precision": model.info.precision,
            "input_size": list(model.info.input_size),
            "batch": list(dataclasses.astuple(batch)),
            "library": self.library,
            "version": self.version,
            "platform": os.uname().machine,
            "gpu": self.gpu,
            "compute_capability": self.compute_capability,
            "multiprocessors": self.multiprocessors,
        }


def target_of(library: Any, gpu: Gpu) -> Target:
    """Return the target for a GPU.

    Raises BackendUnavailable if the library does not support the GPU or its driver.
    """
    name, version = library_name(library), library.__version__
    known = supported_compute_capabilities(library)
    if known and gpu.compute_capability not in known:
        raise BackendUnavailable(
            f"{name} {version} supports compute capability {', '.join(known)}, {gpu.name} has "
            f"{gpu.compute_capability}: install TensorRT (`import tensorrt`), which on Jetson is "
            "part of JetPack"
        )
    needed = cuda_needed(library)
    if gpu.driver_version < 1000 * needed:
        raise BackendUnavailable(
            f"{name} {version} needs a driver of CUDA {needed} or newer, {gpu.name} has one of "
            f"CUDA {gpu.driver_cuda}: update NVIDIA's driver, or install TensorRT for that CUDA"
        )
    return Target(
        name,
        version,
        gpu.name,
        gpu.compute_capability,
        gpu.multiprocessors,
        gpu.index,
        gpu.integrated,
    )


def supported_compute_capabilities(library: Any) -> list[str]:
    """The capabilities of TensorRT for RTX, such as '8.9'; [] for TensorRT, which lists none."""
    known = getattr(getattr(library, "ComputeCapability", None), "__members__", {})
    return [f"{name[2:-1]}.{name[-1]}" for name in known if re.fullmatch(r"SM\d+", name)]


def cuda_needed(library: Any) -> int:
    """Return the CUDA major version that a library from PyPI is built with, else 0.

    It does not run on a driver of an older major version.
    """
    place = Path(getattr(library, "__file__", None) or "/nowhere/").parent.parent
    prefix = f"{library_name(library)}_cu"
    versions = [path.name.removeprefix(prefix) for path in place.glob(f"{prefix}*.dist-info")]
    found = [re.match(r"\d+", version) for version in versions]
    return max((int(match[0]) for match in found if match), default=0)


def load_library() -> Any:
    """Import TensorRT, or else TensorRT for RTX.

    Raises BackendUnavailable, saying what to install, if both are missing.
    """
    reasons = []
    for name in MODULES:
        try:
            library = importlib.import_module(name)
        # Their __init__ loads shared libraries and may raise any exception.
        except (ImportError, OSError, RuntimeError) as error:
            reasons.append(" ".join(str(error).split()))
            continue
        if not hasattr(library, "Builder"):
            reasons.append(f"'{name}' has no Builder")
        elif name == "tensorrt" and int(library.__version__.partition(".")[0]) < OLDEST:
            reasons.append(f"tensorrt is {library.__version__}, expected {OLDEST} or newer")
        else:
            return library
    raise BackendUnavailable(
        f"backend 'tensorrt' cannot be imported ({'; '.join(reasons)}): run `pip install "
        "tensorrt-rtx cuda-bindings`, or install TensorRT 10 or newer (part of JetPack)"
    )


def library_name(library: Any) -> str:
    """'tensorrt' or 'tensorrt_rtx'."""
    return "tensorrt_rtx" if "rtx" in library.__name__ else "tensorrt"
