"""The package's kernels (kernels.cu), compiled by gcc and run on the CPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros import backends

COMPILER = "gcc"
SOURCE = Path(backends.__file__).with_name("kernels.cu")
KERNELS = ("resample",)
_BLOCK = (ctypes.c_uint * 3)(32, 8, 1)


@functools.cache
def load_kernels() -> Any:
    """Compile kernels.cu as C; each kernel is launch_NAME(grid, block, places of its arguments)."""
    directory = tempfile.TemporaryDirectory(prefix="kernels")
    file = Path(directory.name) / "kernels.so"
    flags = ["-O2", "-Wall", "-ffp-contract=off", "-shared", "-fPIC", f"-I{SOURCE.parent}"]
    source = Path(__file__).with_suffix(".c")
    subprocess.run([COMPILER, *flags, "-o", file, source, "-lm"], check=True)
    return ctypes.CDLL(str(file))


class HostCuda:
    """Takes the place of `cuda.Cuda` for what needs memory and copies; does them when queued."""

    def __init__(self, integrated: bool = False) -> None:
        self.integrated = integrated
        self.memory: dict[int, np.ndarray] = {}  # by address
        self._taken = contextlib.ExitStack()

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[contextlib.ExitStack]:
        before, self._taken = self._taken, contextlib.ExitStack()
        yield self._taken
        self._taken = before

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        array = np.full(shape, 0xA5, np.uint8)
        self.memory[array.ctypes.data] = array
        self._taken.callback(self.memory.pop, array.ctypes.data)
        return array

    def allocate(self, size: int) -> int:
        return self.pinned((size,)).ctypes.data

    def mapped(self, array: np.ndarray) -> int:
        assert array.ctypes.data in self.memory
        return array.ctypes.data

    def upload(self, pointer: int, source: np.ndarray) -> None:
        ctypes.memmove(pointer, source.ctypes.data, source.nbytes)

    def wait(self) -> None:
        pass


class HostKernel:
    """Takes the place of `cuda.Kernel`: addresses are those of the host."""

    def __init__(self, name: str, types: Any) -> None:
        self._run, self._types = getattr(load_kernels(), f"launch_{name}"), types

    def __call__(self, size: tuple[int, int], *arguments: int) -> None:
        values = [kind(value) for kind, value in zip(self._types, arguments, strict=True)]
        places = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        grid = (ctypes.c_uint * 3)(-(-size[0] // _BLOCK[0]), -(-size[1] // _BLOCK[1]), 1)
        self._run(grid, _BLOCK, places)
