"""The few calls of the CUDA driver that running an engine takes, with errors that say what to do.

A device, one stream, memory on both sides, and work that is recorded once and replayed as a CUDA
graph. The driver's own API, by way of `cuda-bindings`: it needs the driver and no toolkit, and one
version of the bindings serves every newer driver. Knows nothing of TensorRT or models.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np

from bisenetv2_ros.backends.base import BackendUnavailable, DeviceLost

_DEVICE = re.compile(r"(?:(?:cuda|gpu)[:.])?(\d+)|cuda|gpu|")
_NO_DRIVER = (
    "install NVIDIA's driver (`nvidia-smi` has to list the GPU; a container needs the "
    "NVIDIA container toolkit and `--gpus all`)"
)


class CudaError(RuntimeError):
    """A call of the driver failed; `code` is its name, such as 'CUDA_ERROR_OUT_OF_MEMORY'."""

    def __init__(self, call: str, code: str, text: str) -> None:
        super().__init__(f"{call}: {code} ({text})")
        self.code = code


def device_index(name: str) -> int:
    """The number in '', 'cuda', 'cuda:1', 'gpu', 'GPU.1' or '1'; BackendUnavailable for others."""
    found = _DEVICE.fullmatch(name.lower())
    if found is None:
        raise BackendUnavailable(
            f"tensorrt has no device '{name}', expected cuda or cuda:N; "
            "for other devices install another backend, as by `pip install openvino`"
        )
    return int(found[1] or 0)


class Gpu:
    """What the driver says of a GPU; takes nothing of it."""

    def __init__(self, device: str = "") -> None:
        """Find a device by the names of `device_index`.

        BackendUnavailable, saying what is missing, without bindings, driver or such a device.
        """
        index = device_index(device)
        self._driver = _import_driver()
        try:
            self.call("cuInit", 0)
            count = self.call("cuDeviceGetCount")
        except CudaError as error:
            raise BackendUnavailable(f"tensorrt: no usable GPU, {error}: {_NO_DRIVER}") from None
        except RuntimeError as error:  # how the bindings report a driver that is not installed
            raise BackendUnavailable(f"tensorrt: no NVIDIA driver: {_NO_DRIVER}") from error
        if index >= count:
            raise BackendUnavailable(
                f"tensorrt: no device 'cuda:{index}', the driver lists {count}: install it, or "
                "look at CUDA_VISIBLE_DEVICES"
            )
        attributes = self._driver.CUdevice_attribute
        self.index = index
        self._device = self.call("cuDeviceGet", index)
        self.name: str = self.call("cuDeviceGetName", 256, self._device).split(b"\0")[0].decode()
        self.compute_capability: str = ".".join(
            str(self.call("cuDeviceGetAttribute", attribute, self._device))
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        self.multiprocessors: int = self.call(
            "cuDeviceGetAttribute",
            attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT,
            self._device,
        )

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the driver: its result, several as a tuple. CudaError if it fails."""
        status, *results = getattr(self._driver, name)(*arguments)
        if status != self._driver.CUresult.CUDA_SUCCESS:
            _, text = self._driver.cuGetErrorString(status)
            raise CudaError(name, status.name, (text or b"no description").decode())
        if len(results) > 1:
            return tuple(results)
        return results[0] if results else None


class Cuda(Gpu):
    """One GPU, its primary context and one stream. Everything it hands out ends with `close`.

    Only the context stays, with the process: libraries keep modules in it, and what holds memory of
    theirs may live longer than this, as does a traceback. They crash where the context is gone.

    Not thread-safe. A context is current in one thread at a time: the first call of any thread has
    to be `use`.
    """

    def __init__(self, device: str = "") -> None:
        """Open a device; names and errors as for `Gpu`, and CudaError where it has no room."""
        super().__init__(device)
        self._undo = ExitStack()
        self._context = self.call("cuDevicePrimaryCtxRetain", self._device)
        self.use()
        flags = self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value
        self.stream = self.call("cuStreamCreate", flags)
        self._undo.callback(self._free, "cuStreamDestroy", self.stream)

    def use(self) -> None:
        """Make this device the calling thread's."""
        self.call("cuCtxSetCurrent", self._context)

    def memory(self) -> tuple[int, int]:
        """Bytes of device memory that are free, and that there are."""
        free, total = self.call("cuMemGetInfo")
        return int(free), int(total)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Give back at once what the block has been handed out, should it raise."""
        before = self._undo
        with ExitStack() as taken:
            self._undo = taken
            try:
                yield
            finally:
                self._undo = before
            before.callback(taken.pop_all().close)

    def allocate(self, size: int) -> int:
        """Address of `size` bytes on the device."""
        pointer = self.call("cuMemAlloc", size)
        self._undo.callback(self._free, "cuMemFree", pointer)
        return int(pointer)

    def pinned(self, shape: tuple[int, ...]) -> np.ndarray:
        """A uint8 array in page-locked host memory, which the device reads and writes itself."""
        size = int(np.prod(shape))
        pointer = int(self.call("cuMemHostAlloc", size, 0))
        self._undo.callback(self._free, "cuMemFreeHost", pointer)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(pointer)).reshape(shape)

    def page_lock(self, array: np.ndarray) -> bool:
        """Let the device read and write a contiguous array itself; False where it cannot.

        Until `close`, as everything here, and so long the array is kept.
        """
        try:
            self.call("cuMemHostRegister", array.ctypes.data, array.nbytes, 0)
        except CudaError:  # some devices cannot, and some drivers not where a page is shared
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
        """Wait until the stream has done everything that was queued."""
        self.call("cuStreamSynchronize", self.stream)

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture what `work` queues and return what queues the same by one launch.

        CudaError, or what `work` raises, when it cannot be captured; the stream is then as before.
        """
        mode = self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self.call("cuStreamBeginCapture", self.stream, mode)
        try:
            work()
        except BaseException:
            self._driver.cuStreamEndCapture(self.stream)  # an error again, and no graph
            raise
        graph = self.call("cuStreamEndCapture", self.stream)
        try:
            executable = self.call("cuGraphInstantiate", graph, 0)
        finally:
            self.call("cuGraphDestroy", graph)
        self._undo.callback(self._free, "cuGraphExecDestroy", executable)
        return lambda: self.call("cuGraphLaunch", executable, self.stream)

    def milliseconds(self, work: Callable[[], None]) -> float:
        """Run `work` and wait: the time the device took over what it queued."""
        begin, end = (self.call("cuEventCreate", 0) for _ in range(2))
        try:
            self.call("cuEventRecord", begin, self.stream)
            work()
            self.call("cuEventRecord", end, self.stream)
            self.call("cuEventSynchronize", end)
            return float(self.call("cuEventElapsedTime", begin, end))
        finally:
            self.call("cuEventDestroy", begin)
            self.call("cuEventDestroy", end)

    def check_alive(self, cause: Exception) -> None:
        """Raise DeviceLost if the device refuses even to be waited for after `cause`.

        Some errors (an illegal address, a launch that timed out) leave a context that answers every
        later call with the same error, and only a new process gets a new one.
        """
        try:
            self.call("cuCtxSynchronize")
        except CudaError as error:
            raise DeviceLost(
                f"{self.name} is lost to this process: {error}, after {_one_line(cause)}"
            ) from cause

    def close(self) -> None:
        """Give everything back, newest first; again does nothing. Raises nothing."""
        with suppress(CudaError):
            self.use()
        self._undo.close()

    def _free(self, name: str, *arguments: Any) -> None:
        """`call`; a device that is lost refuses this too, which must not hide why it is."""
        with suppress(CudaError):
            self.call(name, *arguments)


def _import_driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendUnavailable(
            f"backend 'tensorrt' needs the CUDA driver's bindings ({error}): "
            "run `pip install cuda-bindings`, in the version of your CUDA"
        ) from error
    return driver


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
