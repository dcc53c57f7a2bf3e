"""The CUDA driver calls needed to run an engine, with errors that say how to fix them.

A device, one stream, memory on both sides, and work that is captured once and launched as a CUDA
graph. Uses the driver API through `cuda-bindings`, which needs the driver but no toolkit. Knows
nothing of TensorRT or models.
"""

from __future__ import annotations

import ctypes
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from bisenetv2_ros.backends.base import BackendUnavailable, DeviceLost

#: How a thread waits for the GPU: 'block' yields its core, 'spin' answers microseconds earlier.
_WAITS = {"block": "CU_CTX_SCHED_BLOCKING_SYNC", "spin": "CU_CTX_SCHED_SPIN"}

#: Older releases of cuda-bindings hold Python's lock while they wait for the GPU.
OLDEST_BINDINGS = (12, 9, 1)
_BLOCK = (32, 8)  # threads of a block, in pixels
NOT_FOUND = "CUDA_ERROR_NOT_FOUND"  #: the driver lacks a function that the bindings call

_DEVICE = re.compile(rf"(?:(?:(?:cuda|gpu)[:.])?(\d+)|cuda|gpu|)(?:,({'|'.join(_WAITS)}))?")
_NO_DRIVER = (
    "install NVIDIA's driver (`nvidia-smi` has to list the GPU; a container needs the "
    "NVIDIA container toolkit and `--gpus all`)"
)
_log = logging.getLogger(__name__)


class CudaError(RuntimeError):
    """A driver call failed; `code` is its name, such as 'CUDA_ERROR_OUT_OF_MEMORY'."""

    def __init__(self, call: str, code: str, text: str) -> None:
        super().__init__(f"{call}: {code} ({text})")
        self.code = code


def parse_device(name: str) -> tuple[int, str]:
    """Return the number in '', 'cuda', 'cuda:1', 'gpu', 'GPU.1' or '1', and how to wait.

    The latter, 'block' or 'spin', may follow after a comma, as in 'cuda,block'; '' leaves it to the
    driver. Raises BackendUnavailable for any other name.
    """
    found = _DEVICE.fullmatch(name.lower())
    if found is None:
        raise BackendUnavailable(
            f"tensorrt has no device '{name}', expected cuda or cuda:N, and maybe ,block or ,spin "
            "for how to wait; for other devices install another backend, as by "
            "`pip install openvino`"
        )
    return int(found[1] or 0), found[2] or ""


class Gpu:
    """What the driver reports about a GPU. Allocates nothing on it."""

    def __init__(self, device: str = "") -> None:
        """Find a device by the names of `parse_device`.

        Raises BackendUnavailable, naming what is missing: bindings, driver or device.
        """
        index, self._wait = parse_device(device)
        self._driver = _import_driver()
        try:
            self.call("cuInit", 0)
            self.driver_version: int = self.call("cuDriverGetVersion")  #: such as 12060
            count = self.call("cuDeviceGetCount")
        except CudaError as error:
            if error.code == NOT_FOUND:  # how the bindings report that there is no libcuda.so.1
                raise BackendUnavailable(f"tensorrt: no NVIDIA driver: {_NO_DRIVER}") from error
            raise BackendUnavailable(f"tensorrt: no usable GPU, {error}: {_NO_DRIVER}") from None
        if index >= count:
            raise BackendUnavailable(
                f"tensorrt: no device 'cuda:{index}', the driver lists {count}: install it, or "
                "look at CUDA_VISIBLE_DEVICES"
            )
        self.index = index
        try:
            self._device = self.call("cuDeviceGet", index)
            name = self.call("cuDeviceGetName", 256, self._device)
            major = self._attribute("COMPUTE_CAPABILITY_MAJOR")
            minor = self._attribute("COMPUTE_CAPABILITY_MINOR")
            self.multiprocessors: int = self._attribute("MULTIPROCESSOR_COUNT")
            self.integrated = bool(self._attribute("INTEGRATED"))  #: shares the system's memory
        except CudaError as error:
            raise BackendUnavailable(f"tensorrt: 'cuda:{index}' does not answer: {error}") from None
        self.name: str = name.split(b"\0")[0].decode()
        self.compute_capability = f"{major}.{minor}"

    @property
    def driver_cuda(self) -> str:
        """The newest CUDA that the driver supports, such as '12.6'."""
        return f"{self.driver_version // 1000}.{self.driver_version % 1000 // 10}"

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function and return its result; several results as a tuple.

        Raises CudaError if it fails, also for a code that the bindings do not know.
        """
        try:
            status, *results = getattr(self._driver, name)(*arguments)
        except (ValueError, KeyError) as error:  # no such member of their CUresult
            raise CudaError(name, "unknown error", _one_line(error)) from None
        except RuntimeError as error:
            raise CudaError(name, NOT_FOUND, _one_line(error)) from None
        if status != self._driver.CUresult.CUDA_SUCCESS:
            _, text = self._driver.cuGetErrorString(status)
            raise CudaError(name, status.name, (text or b"no description").decode())
        if len(results) > 1:
            return tuple(results)
        return results[0] if results else None

    def _attribute(self, name: str) -> int:
        attribute = getattr(self._driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        return int(self.call("cuDeviceGetAttribute", attribute, self._device))


class Cuda(Gpu):
    """One GPU, its primary context and one stream. `close` frees all memory that it allocated.

    The context is kept until the process ends: libraries keep modules in it, and objects that hold
    their memory may outlive this one, for example in a traceback. They crash without a context.

    Not thread-safe. A context is current in one thread at a time: call `use` first in each thread.
    """

    def __init__(self, device: str = "") -> None:
        """Open a device; names and errors as for `Gpu`. Raises CudaError if its memory is full."""
        super().__init__(device)
        bindings = _bindings_version()
        if bindings and bindings[0] > self.driver_version // 1000:
            _log.warning(
                "cuda-bindings %s on a driver of CUDA %s: some calls are missing; "
                "run `pip install 'cuda-bindings>=12.9.1,<13'`",
                ".".join(map(str, bindings)),
                self.driver_cuda,
            )
        self._undo = ExitStack()
        if self._wait:
            flags = getattr(self._driver.CUctx_flags, _WAITS[self._wait])
            self.call("cuDevicePrimaryCtxSetFlags", self._device, flags)
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.use()
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        self.stream = self.call("cuStreamCreate", flags)
        self._undo.callback(self._free, "cuStreamDestroy", self.stream)

    def use(self) -> None:
        """Make this device current in the calling thread."""
        self.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """Return the free and the total bytes of device memory."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    @contextmanager
    def all_or_nothing(self) -> Iterator[ExitStack]:
        """Free what the block allocates if it raises; otherwise on closing what is yielded.

        `close` frees it at the latest.
        """
        before, taken = self._undo, ExitStack()
        self._undo = taken
        try:
            yield taken
        except BaseException:
            taken.close()
            raise
        finally:
            self._undo = before
        before.callback(taken.close)

    def allocate(self, size: int) -> int:
        """Return the address of `size` bytes on the device; at least one."""
        pointer = self.call("cuMemAlloc", size)
        self._undo.callback(self._free, "cuMemFree", pointer)
        return int(pointer)

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return a uint8 array in page-locked host memory, which the device accesses directly."""
        size = int(np.prod(shape))
        pointer = int(self.call("cuMemHostAlloc", size, 0))
        self._undo.callback(self._free, "cuMemFreeHost", pointer)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)).reshape(shape)

    def mapped(self, array: np.ndarray) -> int:
        """Return the address by which the device itself accesses an array of `pinned`."""
        return int(self.call("cuMemHostGetDevicePointer", array.ctypes.data, 0))

    def load_module(self, ptx: bytes) -> Any:
        """Let the driver compile PTX; raises CudaError if it is newer than the driver."""
        module = self.call("cuModuleLoadData", ptx + b"\0")
        self._undo.callback(self._free, "cuModuleUnload", module)
        return module

    def page_lock(self, array: np.ndarray) -> bool:
        """Let the device access a contiguous array directly; False if it cannot.

        Keeps the array alive until `close`.
        """
        try:
            self.call("cuMemHostRegister", array.ctypes.data, array.nbytes, 0)
        except CudaError:  # some devices cannot, and some drivers cannot if a page is shared
            return False
        self._undo.callback(lambda: self._free("cuMemHostUnregister", array.ctypes.data))
        return True

    def upload(self, pointer: int, source: np.ndarray) -> None:
        """Queue the copy of a contiguous pinned array to the device."""
        self.call("cuMemcpyHtoDAsync", pointer, source.ctypes.data, source.nbytes, self.stream)

    def download(self, target: np.ndarray, pointer: int) -> None:
        """Queue the copy from the device into a contiguous pinned array."""
        self.call("cuMemcpyDtoHAsync", target.ctypes.data, pointer, target.nbytes, self.stream)

    def wait(self) -> None:
        """Wait until the stream has finished all queued work."""
        self.call("cuStreamSynchronize", self.stream)

    def record(self, work: Callable[[], None]) -> Recording:
        """Capture what `work` queues; calling the result queues it again in one launch.

        Raises CudaError, or what `work` raises, if it cannot be captured; the stream is then
        unchanged.
        """
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", self.stream, mode)
        try:
            work()
            graph = self.call("cuStreamEndCapture", self.stream)
        except BaseException:
            with suppress(CudaError):  # end the capture, so that the stream can be used again
                self._free("cuGraphDestroy", self.call("cuStreamEndCapture", self.stream))
            raise
        try:
            executable = self.call("cuGraphInstantiate", graph, 0)
        finally:
            self._free("cuGraphDestroy", graph)
        recording = Recording(self, executable)
        self._undo.callback(recording.close)
        return recording

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Run `work` and wait; return the device time of what it queued.

        If the driver cannot measure it, return the time until the host sees it finish.
        """
        with ExitStack() as events:

            def event() -> Any:
                made = self.call("cuEventCreate", 0)
                events.callback(self._free, "cuEventDestroy", made)
                return made

            begin, end = event(), event()
            self.wait()
            started = time.perf_counter()
            self.call("cuEventRecord", begin, self.stream)
            work()
            self.call("cuEventRecord", end, self.stream)
            self.call("cuEventSynchronize", end)
            on_host = 1e3 * (time.perf_counter() - started)
            try:
                return float(self.call("cuEventElapsedTime", begin, end))
            except CudaError as error:
                if error.code != NOT_FOUND:
                    raise
                return on_host

    def check_alive(self, cause: Exception) -> None:
        """Raise DeviceLost if the device does not even synchronize after `cause`.

        After some errors (an illegal address, a launch timeout) a context answers every call with
        the same error, and only a new process gets a new one.
        """
        try:
            self.call("cuCtxSynchronize")
        except CudaError as error:
            raise DeviceLost(
                f"{self.name} is lost to this process: {error}, after {_one_line(cause)}"
            ) from cause

    def close(self) -> None:
        """Free everything, newest first. May be called twice. Raises nothing."""
        with suppress(CudaError):
            self.use()
        self._undo.close()

    def _free(self, name: str, *arguments: Any) -> None:
        """`call`, ignoring errors: a lost device fails here too, which must not hide the cause."""
        with suppress(CudaError):
            self.call(name, *arguments)


class Kernel:
    """A function on the device that processes one pixel per thread."""

    def __init__(self, cuda: Cuda, module: Any, name: str, types: Sequence[Any]) -> None:
        """Find it in a module; types: of its arguments, c_void_p for addresses."""
        self._cuda, self._types = cuda, tuple(types)
        self._function = cuda.call("cuModuleGetFunction", module, name.encode())

    def __call__(self, size: tuple[int, int], *arguments: int) -> None:
        """Queue it for (width, height) pixels, rounded up to whole blocks of threads."""
        blocks = (-(-size[0] // _BLOCK[0]), -(-size[1] // _BLOCK[1]), 1)
        self._cuda.call(
            "cuLaunchKernel",
            *(self._function, *blocks, *_BLOCK, 1, 0, self._cuda.stream),
            *((arguments, self._types), 0),
        )


class Recording:
    """A CUDA graph that is ready to be launched."""

    def __init__(self, cuda: Cuda, executable: Any) -> None:
        self._cuda = cuda
        self._executable = executable

    def __call__(self) -> None:
        """Queue what was recorded."""
        self._cuda.call("cuGraphLaunch", self._executable, self._cuda.stream)

    def close(self) -> None:
        """Free the graph: before what it runs, such as an engine's context, is freed."""
        executable, self._executable = self._executable, None
        if executable is not None:
            self._cuda._free("cuGraphExecDestroy", executable)


def _bindings_version() -> tuple[int, ...]:
    """Version of the installed cuda-bindings, () if unknown."""
    from cuda import bindings

    numbers = re.match(r"(\d+)\.(\d+)\.(\d+)", getattr(bindings, "__version__", ""))
    return tuple(map(int, numbers.groups())) if numbers else ()


def _import_driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendUnavailable(
            f"backend 'tensorrt' needs the CUDA driver's bindings ({error}): "
            "run `pip install cuda-bindings`, in the version of your CUDA"
        ) from error
    version = _bindings_version()
    if version and version < OLDEST_BINDINGS:
        raise BackendUnavailable(
            f"cuda-bindings is {'.'.join(map(str, version))}, expected 12.9.1 or newer (older ones "
            "stop all Python threads while they wait for the GPU): "
            "run `pip install 'cuda-bindings>=12.9.1'`, below 13 for a driver of CUDA 12"
        )
    return driver


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
