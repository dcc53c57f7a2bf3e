"""A CUDA driver and a TensorRT whose device is host memory, to run the data path without a GPU.

Copies are made when they are queued, a graph is the list of what was queued while recording, and an
engine answers as the tiny model does. It shows that addresses, sizes and order are right; it shows
nothing of what a real driver takes or how long that takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np
from cuda.bindings import driver
from tiny_model import tiny_answer

from bisenetv2_ros.backends import cuda, tensorrt
from bisenetv2_ros.backends.base import BatchProfile
from bisenetv2_ros.backends.engine_process import ENGINES
from bisenetv2_ros.backends.engine_target import load_library

OK = driver.CUresult.CUDA_SUCCESS
SCRATCH = 999  # bytes for an image that an engine needs while it runs
Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class HostDriver:
    """Takes the place of `cuda.bindings.driver`; `fail` maps a function to the error it gives."""

    CUresult = driver.CUresult
    CUdevice_attribute = driver.CUdevice_attribute
    CUstream_flags = driver.CUstream_flags
    CUstreamCaptureMode = driver.CUstreamCaptureMode
    CUctx_flags = driver.CUctx_flags

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}  # what is allocated, by address
        self.recording: list[Callable[[], Any]] | None = None
        self.launches = 0
        self.compiled: list[tuple[int, ...]] = []  # shapes of images that had no kernel yet
        self.calls: list[str] = []
        self.fail: dict[str, Any] = {}
        self.multiprocessors = 16
        self.retained = 0  # how often the primary context is
        self.contexts: WeakSet[_Context] = WeakSet()  # of engines, as long as they live
        self.freed_too_late = 0  # of these, after the primary context

    def __getattr__(self, name: str) -> Callable:
        assert hasattr(driver, name), f"the driver has no {name}"
        work = type(self).__dict__.get(f"_{name}", lambda *_: (0,))

        def call(*arguments: Any) -> tuple:
            self.calls.append(name)
            if name in self.fail:
                return (self.fail[name], 0)
            return (OK, *work(self, *arguments))

        return call

    def cuGetErrorString(self, status: Any) -> tuple:  # noqa: N802
        return OK, b"as the test wants it"

    def _cuDriverGetVersion(self) -> tuple:  # noqa: N802
        return (13000,)

    def _cuDeviceGetCount(self) -> tuple:  # noqa: N802
        return (1,)

    def _cuDeviceGetName(self, length: int, device: Any) -> tuple:  # noqa: N802
        return (b"host memory".ljust(length, b"\0"),)

    def _cuDeviceGetAttribute(self, attribute: Any, device: Any) -> tuple:  # noqa: N802
        names = driver.CUdevice_attribute
        if attribute == names.CU_DEVICE_ATTRIBUTE_INTEGRATED:
            return (0,)
        values = {
            names.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: self.multiprocessors,
            names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: 9,
        }
        return (values.get(attribute, 8),)

    def _cuDevicePrimaryCtxRetain(self, device: Any) -> tuple:  # noqa: N802
        self.retained += 1
        return (0,)

    def _cuDevicePrimaryCtxRelease(self, device: Any) -> tuple:  # noqa: N802
        self.retained -= 1
        return ()

    def _cuMemGetInfo(self) -> tuple:  # noqa: N802
        return 3 << 20, 5 << 20

    def _cuMemAlloc(self, size: int) -> tuple:  # noqa: N802
        assert size > 0, "0 bytes"
        block = (ctypes.c_uint8 * size)(*([7] * size))
        self.memory[ctypes.addressof(block)] = block
        return (ctypes.addressof(block),)

    def _cuMemHostAlloc(self, size: int, flags: int) -> tuple:  # noqa: N802
        return self._cuMemAlloc(size)

    def _cuMemFree(self, pointer: int) -> tuple:  # noqa: N802
        del self.memory[pointer]
        return ()

    _cuMemFreeHost = _cuMemHostUnregister = _cuMemFree  # noqa: N815

    def _cuMemHostRegister(self, pointer: int, size: int, flags: int) -> tuple:  # noqa: N802
        self.memory[pointer] = (ctypes.c_uint8 * size).from_address(pointer)
        return ()

    def _copy(self, target: int, source: int, size: int, stream: Any) -> tuple:
        for pointer in (target, source):
            assert any(
                begin <= pointer and pointer + size <= begin + len(block)
                for begin, block in self.memory.items()
            ), "beyond what was allocated"
        self.queue(lambda: ctypes.memmove(target, source, size))
        return ()

    _cuMemcpyHtoDAsync = _cuMemcpyDtoHAsync = _copy  # noqa: N815

    def queue(self, work: Callable[[], Any]) -> None:
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def _cuStreamBeginCapture(self, stream: Any, mode: Any) -> tuple:  # noqa: N802
        self.recording = []
        return ()

    def _cuStreamEndCapture(self, stream: Any) -> tuple:  # noqa: N802
        graph, self.recording = self.recording, None
        return (graph,)

    def _cuGraphInstantiate(self, graph: Any, flags: int) -> tuple:  # noqa: N802
        return (graph,)

    def _cuGraphLaunch(self, graph: Any, stream: Any) -> tuple:  # noqa: N802
        self.launches += 1
        for work in graph:
            work()
        return ()

    def _cuEventElapsedTime(self, begin: Any, end: Any) -> tuple:  # noqa: N802
        return (2.0,)


def put_in_place(put: Callable[[Any, str, Any], None], answer: Answer = tiny_answer) -> HostDriver:
    """Replace driver, library and builder by way of `put`, such as `setattr`."""
    device, library = HostDriver(), load_library()

    def build(model: Any, target: Any, batch: BatchProfile, report: Any) -> dict[str, bytes]:
        return {name: host_engine(batch, outputs) for name, outputs in ENGINES.items()}

    put(cuda, "_import_driver", lambda: device)
    put(tensorrt, "load_library", lambda: host_library(device, library, answer))
    put(tensorrt, "build_engines", build)
    return device


def host_library(device: HostDriver, library: Any, answer: Answer) -> Any:
    """A TensorRT that runs the engines of `host_engine` on such a device."""

    def deserialize(plan: bytes) -> Any:
        if b"broken" in plan:
            return None
        batch, outputs = plan.decode().split("|")[:2]
        sizes = [int(size) for size in batch.split(",")]
        return _Engine(device, library, sizes, outputs.split(","), answer)

    return SimpleNamespace(
        __name__="tensorrt_rtx",
        __version__="0.0",
        Builder=object,
        ILogger=library.ILogger,
        TensorIOMode=library.TensorIOMode,
        ExecutionContextAllocationStrategy=library.ExecutionContextAllocationStrategy,
        uint8=library.uint8,
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
    )


def host_engine(batch: BatchProfile, outputs: tuple[str, ...]) -> bytes:
    """The plan of an engine."""
    return f"{batch.minimum},{batch.optimum},{batch.maximum}|{','.join(outputs)}|".encode()


class _Engine:
    def __init__(
        self,
        device: HostDriver,
        library: Any,
        sizes: list[int],
        outputs: list[str],
        answer: Answer,
    ) -> None:
        modes = library.TensorIOMode
        count = sizes[0] if len(set(sizes)) == 1 else -1
        self.device_memory_size_v2 = SCRATCH * sizes[2]
        self.device = device
        self.sizes = sizes
        self.answer = answer
        self.tensors = {"image": (modes.INPUT, (count, 24, 32, 3))}
        self.tensors |= dict.fromkeys(outputs, (modes.OUTPUT, (count, 24, 32)))
        self.num_io_tensors = len(self.tensors)
        self._uint8 = library.uint8

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.tensors[name][0]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name][1]

    def get_tensor_dtype(self, name: str) -> Any:
        return self._uint8

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(n, 24, 32, 3) for n in self.sizes]

    def create_runtime_config(self) -> Any:
        return _Config()

    def create_execution_context(self, config: Any = None) -> Any:
        if not isinstance(config, _Config):  # as with TensorRT 10.3, which JetPack brings
            strategy, config = config, _Config()
            config.set_execution_context_allocation_strategy(strategy)
        # The engines are built with REQUIRE_USER_ALLOCATION, and take nothing else.
        return None if config.brings_memory else _Context(self, config)


class _Kernels:
    """A kernel is the number of images that it is for."""

    def __init__(self) -> None:
        self.counts: set[int] = set()

    def serialize(self) -> bytes:
        return bytes(sorted(self.counts))

    def deserialize(self, kernels: bytes) -> bool:
        self.counts = set(kernels)
        return True


class _Config:
    create_runtime_cache = _Kernels
    brings_memory = True

    def __init__(self) -> None:
        self.kernels = _Kernels()

    def set_runtime_cache(self, kernels: _Kernels) -> bool:
        self.kernels = kernels
        return True

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.brings_memory = strategy.name == "STATIC"


class _Context:
    def __init__(self, engine: _Engine, config: _Config) -> None:
        self.engine = engine
        self.kernels = config.kernels
        self.scratch: Any = None
        self.addresses: dict[str, int] = {}
        self.shape: tuple[int, ...] = ()
        engine.device.contexts.add(self)

    def __del__(self) -> None:
        self.engine.device.freed_too_late += not self.engine.device.retained

    def set_device_memory(self, address: int, size: int) -> None:
        assert size == self.engine.device_memory_size_v2 == len(self.engine.device.memory[address])
        self.scratch = self.engine.device.memory[address]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert self.scratch is not None
        if self.shape[0] not in self.kernels.counts:
            self.engine.device.compiled.append(self.shape)
            self.kernels.counts.add(self.shape[0])
        self.engine.device.queue(self._run)
        return True

    def _run(self) -> None:
        mask, confidence = self.engine.answer(self._array("image", self.shape))
        answers = {"mask": mask, "confidence": confidence}
        for name in self.engine.tensors:
            if name != "image":
                self._array(name, self.shape[:3])[:] = answers[name]

    def _array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        block = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses[name])
        return np.frombuffer(block, np.uint8).reshape(shape)
