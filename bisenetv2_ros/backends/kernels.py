"""Loads the package's own GPU kernels: kernels.cu, compiled to kernels.ptx."""

from __future__ import annotations

from ctypes import c_int, c_void_p
from pathlib import Path

from bisenetv2_ros.backends.cuda import Cuda, Kernel

SOURCE = Path(__file__).with_name("kernels.cu")
PTX = SOURCE.with_suffix(".ptx")  #: made by scripts/compile_kernels.py

_SIDE = (c_void_p, c_void_p)  # tables of one side of an image
#: Argument types of each kernel.
ARGUMENTS = {
    "resample": (
        *(c_void_p, c_int, c_int, c_int, c_int),
        *(c_void_p, c_int, c_int),
        *(*_SIDE, c_int, *_SIDE, c_int, c_int),
    ),
}


def load_kernels(cuda: Cuda) -> dict[str, Kernel]:
    """Return the kernels by name. They are valid while `cuda` is open.

    Raises CudaError if the driver is older than CUDA 12.2, the version of the PTX.
    """
    module = cuda.load_module(PTX.read_bytes())
    return {name: Kernel(cuda, module, name, types) for name, types in ARGUMENTS.items()}
