"""Checks of a GPU and its driver, without TensorRT."""

from __future__ import annotations

import ctypes
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from bisenetv2_ros.backends.base import output_memory
from bisenetv2_ros.backends.cuda import Cuda, CudaError, Gpu, Kernel

#: Two kernels, compiled by the driver: one takes a while, one writes to an illegal address.
_KERNELS = b"""
.version 6.0
.target sm_60
.address_size 64
.visible .entry spin(.param .u64 nanoseconds) {
  .reg .u64 %rd<4>;
  .reg .pred %p<1>;
  ld.param.u64 %rd0, [nanoseconds];
  mov.u64 %rd1, %globaltimer;
again:
  mov.u64 %rd2, %globaltimer;
  sub.u64 %rd3, %rd2, %rd1;
  setp.lt.u64 %p0, %rd3, %rd0;
  @%p0 bra again;
  ret;
}
.visible .entry bad() {
  .reg .u64 %rd<1>;
  .reg .u32 %r<1>;
  mov.u64 %rd0, 16;
  mov.u32 %r0, 1;
  st.global.u32 [%rd0], %r0;
  ret;
}
"""

Check = Callable[[], str | None]  #: returns what it found; raises if that is wrong


class Checks:
    """Prints the result of each check, and continues after a failure."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, name: str, check: Check) -> bool:
        """Run a check and print its line; returns whether it passed."""
        started = time.perf_counter()
        try:
            found = check() or ""
            passed = True
        except Exception as error:
            if not isinstance(error, (AssertionError, RuntimeError)):
                traceback.print_exc()
            found = f"{type(error).__name__}: {' '.join(str(error).split())}"
            passed = False
        self.failed += not passed
        seconds = time.perf_counter() - started
        print(f"{'PASS' if passed else 'FAIL'}  {name}: {found} [{seconds:.1f} s]", flush=True)
        return passed


def check_driver(check: Checks) -> None:
    """Check memory on host and device, copies, graph capture and waiting, without TensorRT."""

    def gpu() -> str:
        found = Gpu()
        return (
            f"{found.name}, compute capability {found.compute_capability}, "
            f"{found.multiprocessors} multiprocessors, driver of CUDA {found.driver_cuda}, "
            f"{'integrated' if found.integrated else 'discrete'}"
        )

    if not check("GPU", gpu):
        return
    cuda = Cuda()
    free = cuda.memory()[0]

    def round_trip() -> str:
        for size in (1, 480 * 640 * 3, 2160 * 3840 * 3):
            source, target = cuda.pinned((size,)), cuda.pinned((size,))
            source[:] = np.random.default_rng(0).integers(0, 256, size, np.uint8)
            device = cuda.allocate(size)
            cuda.upload(device, source)
            cuda.download(target, device)
            cuda.wait()
            assert np.array_equal(source, target), f"{size} bytes come back changed"
        return "1 byte to 4K"

    def page_lock() -> str:
        blocks = [output_memory((24, 32)) for _ in range(64)] + [output_memory((480, 640))]
        locked = sum(cuda.page_lock(block) for block in blocks)
        return f"{locked} of {len(blocks)} blocks are locked; masks in others are copied once more"

    def spoilt_recording() -> str:
        try:
            cuda.record(lambda: cuda.call("cuMemAlloc", 1 << 20))
        except CudaError as error:
            cuda.wait()
            return f"refused: {error}"
        raise AssertionError("an allocation was recorded")

    def waiting() -> str:
        launch = kernel(cuda, "spin", ctypes.c_longlong(500_000_000))
        steps, stop = [0], threading.Event()

        def count() -> None:
            while not stop.is_set():
                steps[0] += 1

        thread = threading.Thread(target=count)
        thread.start()
        begin, started, busy = steps[0], time.perf_counter(), time.thread_time()
        launch()
        cuda.wait()
        seconds, cpu = time.perf_counter() - started, time.thread_time() - busy
        done = steps[0] - begin
        stop.set()
        thread.join()
        assert 0.4 < seconds < 5, f"a kernel of 0.5 s took {seconds:.2f} s"
        assert done > 100_000, f"another thread made {done} steps: the GIL is held"
        return f"another thread made {done} steps; waiting takes {cpu / seconds:.0%} of a core"

    def timing() -> str:
        launch = kernel(cuda, "spin", ctypes.c_longlong(20_000_000))
        milliseconds = cuda.milliseconds(launch)
        assert 19 < milliseconds < 40, f"a kernel of 20 ms took {milliseconds:.1f} ms"
        return f"{milliseconds:.2f} ms for 20 ms"

    check("copies", round_trip)
    check("page-locked memory of messages", page_lock)
    check("a recording that fails", spoilt_recording)
    check("waiting", waiting)
    check("timing", timing)

    def close() -> str:
        cuda.close()
        cuda.use()
        lost = free - cuda.memory()[0]
        assert lost < 32 << 20, f"{lost >> 20} MiB are not freed"
        return f"{max(lost, 0) >> 20} MiB kept by the driver"

    check("all memory is freed", close)


def kernel(cuda: Cuda, name: str, *arguments: Any) -> Callable[[], None]:
    """One of _KERNELS, ready to be launched with these ctypes arguments."""
    launch = Kernel(cuda, cuda.load_module(_KERNELS), name, [type(a) for a in arguments])
    return lambda: launch((1, 1), *(a.value for a in arguments))
