"""A strict CUDA driver of host memory for real cuda-bindings, and a TensorRT that runs on it.

The driver is hostcuda.c, compiled with gcc when it is first asked for. The library is a stand-in,
because the real one takes nothing but a genuine driver. It is held to what NVIDIA documents in the
docstrings of tensorrt_rtx 1.7.1 and, where they are silent, to the strictest reading:

  - BuilderFlag.REQUIRE_USER_ALLOCATION: no other allocation strategy than USER_MANAGED is taken.
  - IExecutionContext.set_device_memory: 256-byte aligned and at least device_memory_size_v2 bytes,
    in use until the work is done.
  - execute_async_v3: shapes, addresses and memory are set, on a stream that is not the default one.
  - Executable graphs go before their context, a context before its engine, an engine before its
    runtime, all before the driver's context.

It shows that order, arguments and lifetimes are right, and nothing of what the real library does
with them. To be imported in a process of its own: cuda-bindings keep the first driver they find.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from kernels_on_host import KERNELS, load_kernels
from tiny_model import tiny_answer

from bisenetv2_ros.backends.base import BatchProfile
from bisenetv2_ros.backends.engine_process import ENGINES
from bisenetv2_ros.backends.engine_target import load_library

COMPILER = "gcc"
NOTHING = (
    "device 0/0, pinned 0/0, registered 0/0, streams 0, events 0, graphs 0, executables 0, "
    "modules 0"
)
ORDER: list[str] = []  #: mistakes in the order of things, noticed where nothing can raise
#: Memory or graphs that go before or after a context they must not. An error's traceback may keep a
#: context, which then runs no more: tests of errors clear this.
LATE: list[str] = []

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def load_driver() -> Any:
    """Compile and load libcuda.so.1; loaded first, it is the one that everybody gets."""
    directory = tempfile.TemporaryDirectory(prefix="hostcuda")
    source = Path(__file__).with_name("hostcuda.c")
    file = Path(directory.name) / "libcuda.so.1"
    flags = ["-O1", "-g", "-Wall", "-Wextra", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run([COMPILER, *flags, "-o", file, source, "-lpthread"], check=True)
    driver = ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
    driver.directory = directory  # cuGetProcAddress opens the file once more
    for name in ("hostcuda_live", "hostcuda_last_fault", "hostcuda_failed"):
        getattr(driver, name).restype = ctypes.c_char_p
    driver.hostcuda_count.restype = ctypes.c_long
    driver.hostcuda_fail_at.argtypes = [ctypes.c_long, ctypes.c_int]
    driver.hostcuda_known.argtypes = [ctypes.c_ulonglong, ctypes.c_size_t]
    driver.hostcuda_has.argtypes = [ctypes.c_ulonglong]
    driver.hostcuda_recorded.argtypes = [ctypes.c_void_p]
    driver.cuLaunchHostFunc.argtypes = [ctypes.c_void_p] * 3
    driver.cuMemAlloc_v2.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    driver.cuMemFree_v2.argtypes = [ctypes.c_ulonglong]
    driver.kernels = load_kernels()
    for name in KERNELS:
        driver.hostcuda_kernel(name.encode(), getattr(driver.kernels, f"launch_{name}"))
    return driver


DRIVER = load_driver()
REAL = load_library()
_STRATEGIES = REAL.ExecutionContextAllocationStrategy


def make_library(scratch: int, user_allocation: bool) -> Any:
    """A TensorRT for RTX whose engines are those of `build_engines`.

    scratch: bytes that an engine needs for each image while it runs. user_allocation: whether its
    engines are built with REQUIRE_USER_ALLOCATION.
    """
    library = SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__="0.0",
        ILogger=REAL.ILogger,
        TensorIOMode=REAL.TensorIOMode,
        uint8=REAL.uint8,
        ExecutionContextAllocationStrategy=_STRATEGIES,
        scratch=scratch,
        user_allocation=user_allocation,
        always_allocates=False,  # each run allocates, which spoils a recording
        compile_seconds=0.0,  # of each kernel
        kernels_to_keep=None,  # what a cache of kernels serialises to, if not its kernels
        takes_kernels=True,
        accepts=lambda call: True,  # whether set_tensor_address and the like report success
    )
    library.Runtime = lambda logger: _Runtime(library, logger)
    return library


def build_engines(
    model: Any, target: Any, batch: BatchProfile, report: Callable[[str], None]
) -> dict[str, bytes]:
    """Take the place of `engine_builder.build_engines`, without a process or a build."""
    numbers = f"{batch.minimum},{batch.optimum},{batch.maximum}"
    return {name: f"{numbers}|{','.join(ENGINES[name])}".encode() for name in ENGINES}


class _Runtime:
    def __init__(self, library: Any, logger: Any) -> None:
        self.library, self.logger = library, logger

    def deserialize_cuda_engine(self, plan: bytes) -> _Engine | None:
        try:
            numbers, outputs = plan.decode().split("|")
            batch = BatchProfile(*map(int, numbers.split(",")))
            return _Engine(self, batch, outputs.split(","))
        except RuntimeError as error:
            self.logger.log(REAL.ILogger.ERROR, str(error))
            return None


class _Engine:
    """Of the tiny model."""

    def __init__(self, runtime: _Runtime, batch: BatchProfile, outputs: list[str]) -> None:
        modes = REAL.TensorIOMode
        count = batch.maximum if batch.minimum == batch.maximum else -1
        self.runtime, self.library, self.batch = runtime, runtime.library, batch
        self.contexts: set[int] = set()
        self.weights = _device_memory(1000)
        self.tensors = {"image": (modes.INPUT, (count, 24, 32, 3))}
        self.tensors |= dict.fromkeys(outputs, (modes.OUTPUT, (count, 24, 32)))
        self.num_io_tensors = len(self.tensors)
        self.device_memory_size_v2 = self.library.scratch * batch.maximum

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return REAL.uint8

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        numbers = (self.batch.minimum, self.batch.optimum, self.batch.maximum)
        return [(number, 24, 32, 3) for number in numbers]

    def create_runtime_config(self) -> _Config:
        return _Config(self.library)

    def create_execution_context(self, config: _Config) -> _Context | None:
        if self.library.user_allocation and config.strategy != _STRATEGIES.USER_MANAGED:
            self.runtime.logger.log(
                REAL.ILogger.ERROR, "the engine requires user allocation (REQUIRE_USER_ALLOCATION)"
            )
            return None
        return _Context(self, config)

    def __del__(self) -> None:
        if self.contexts:
            ORDER.append("an engine goes before its contexts")
        if hasattr(self, "weights"):
            _free(self.weights, "an engine")


class _Kernels:
    """A kernel is the number of images that it is for."""

    def __init__(self, library: Any) -> None:
        self.library, self.counts = library, set[int]()

    def serialize(self) -> bytes:
        kept = self.library.kernels_to_keep
        return bytes(sorted(self.counts)) if kept is None else kept

    def deserialize(self, kernels: bytes) -> bool:
        assert kernels, "nothing to deserialise"
        if self.library.takes_kernels:
            self.counts |= set(kernels)
        return self.library.takes_kernels


class _Config:
    def __init__(self, library: Any) -> None:
        self.library, self.strategy = library, _STRATEGIES.STATIC
        self.kernels = _Kernels(library)

    def create_runtime_cache(self) -> _Kernels:
        return _Kernels(self.library)

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def set_runtime_cache(self, kernels: _Kernels) -> bool:
        self.kernels = kernels
        return self.library.accepts("set_runtime_cache")


class _Context:
    def __init__(self, engine: _Engine, config: _Config) -> None:
        self.engine, self.library = engine, engine.library
        self.kernels, self.addresses = config.kernels, dict[str, int]()
        self.shape: tuple[int, ...] | None = None
        self.own = config.strategy != _STRATEGIES.USER_MANAGED
        size = engine.device_memory_size_v2
        self.memory = (_device_memory(size), size) if self.own and size else None
        self.first = True
        this = weakref.ref(self)
        self.callback = _CALLBACK(lambda _: _run(this()))
        self.function = ctypes.cast(self.callback, ctypes.c_void_p)
        engine.contexts.add(id(self))

    def __del__(self) -> None:
        self.engine.contexts.discard(id(self))
        if DRIVER.hostcuda_recorded(self.function):
            LATE.append("a context goes before a graph that runs it")
        for name, address in self.addresses.items():
            if not DRIVER.hostcuda_has(address):
                LATE.append(f"tensor {name} goes before the context that has its address")
        if self.memory and self.own:
            _free(self.memory[0], "a context")
        elif self.memory and not DRIVER.hostcuda_has(self.memory[0]):
            LATE.append("the memory of a context goes before it")

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        fits = self.engine.batch.minimum <= shape[0] <= self.engine.batch.maximum
        self.shape = shape if fits and shape[1:] == (24, 32, 3) else None
        return self.shape is not None

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert name in self.engine.tensors and address % 256 == 0
        assert DRIVER.hostcuda_known(address, self._size(name)), DRIVER.hostcuda_last_fault()
        self.addresses[name] = address
        return self.library.accepts("set_tensor_address")

    def set_device_memory(self, address: int, size: int) -> None:
        assert not self.own, "it has memory of its own"
        assert address % 256 == 0 and size >= self.engine.device_memory_size_v2
        assert DRIVER.hostcuda_known(address, size), DRIVER.hostcuda_last_fault()
        self.memory = (address, size)

    def is_stream_capturable(self, stream: int) -> bool:
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream, "not the default stream"
        assert self.shape, "no shape"
        assert set(self.addresses) == set(self.engine.tensors), "addresses are missing"
        assert self.memory or not self.engine.device_memory_size_v2, "no memory"
        if self.shape[0] not in self.kernels.counts:
            time.sleep(self.library.compile_seconds)
            self.kernels.counts.add(self.shape[0])
        if self.first or self.library.always_allocates:
            # What real ones put off to the first run, or do in each: not allowed in a recording.
            try:
                _free(_device_memory(64), "a first run")
            except RuntimeError as error:
                self.engine.runtime.logger.log(REAL.ILogger.ERROR, str(error))
                return False
            self.first = False
        return DRIVER.cuLaunchHostFunc(stream, self.function, None) == 0

    def _size(self, name: str) -> int:
        """Bytes of a tensor; of one image before the shape is known."""
        count = self.shape[0] if self.shape else 1
        return count * 24 * 32 * (3 if name == "image" else 1)

    def run(self) -> None:
        places = [(address, self._size(name)) for name, address in self.addresses.items()]
        places += [(self.engine.weights, 1000), *([self.memory] if self.memory else [])]
        if not all(DRIVER.hostcuda_known(*place) for place in places):
            ORDER.append(f"a run: {DRIVER.hostcuda_last_fault()}")
            return
        if self.memory:
            ctypes.memset(self.memory[0], 0x5A, self.engine.device_memory_size_v2)
        assert self.shape
        images = _array(self.addresses["image"], self.shape)
        for name, answer in zip(("mask", "confidence"), tiny_answer(images), strict=True):
            if name in self.addresses:
                _array(self.addresses[name], self.shape[:3])[:] = answer


def _run(context: _Context | None) -> None:
    if context is None:
        ORDER.append("a graph runs a context that is gone")
    else:
        context.run()


def _array(address: int, shape: tuple[int, ...]) -> np.ndarray:
    block = (ctypes.c_uint8 * int(np.prod(shape))).from_address(address)
    return np.frombuffer(block, np.uint8).reshape(shape)


def _device_memory(size: int) -> int:
    address = ctypes.c_ulonglong()
    if DRIVER.cuMemAlloc_v2(ctypes.byref(address), size):
        raise RuntimeError(f"Error Code 2: OutOfMemory (Requested size was {size} bytes.)")
    return address.value


def _free(address: int, whose: str) -> None:
    code = DRIVER.cuMemFree_v2(address)
    if code and not DRIVER.hostcuda_failed():  # else a test wanted it, and the memory is free
        ORDER.append(f"{whose} cannot free its memory: {DRIVER.hostcuda_last_fault()}")
