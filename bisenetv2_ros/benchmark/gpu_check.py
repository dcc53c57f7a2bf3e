"""Checks of the TensorRT backend that need a GPU, one line of PASS or FAIL each.

Each part runs in a process of its own with a time limit, because one part loses the device on
purpose and any part may hang. Engines and kernels are built into a temporary cache.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.backends import (
    Backend,
    BatchProfile,
    DeviceLost,
    create_backend,
    model_for,
)
from bisenetv2_ros.backends.base import output_memory
from bisenetv2_ros.backends.cuda import Cuda, CudaError, Gpu, Recording
from bisenetv2_ros.benchmark.machine import machine
from bisenetv2_ros.benchmark.tables import percentile
from bisenetv2_ros.model_file import NO_CLASS, ModelFile, model_files, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.street.scene import StreetScene

SECONDS = 460.0  #: for all parts together
ENVIRONMENT = "BISENETV2_GPU_CHECK"  #: set in the parts' processes
_FRAMES = 4
_CAMERAS = ((1280, 720), (1920, 1080), (3840, 2160))  # (width, height) of the frames resized
_AGREEMENT = {"float32": 0.999, "float16": 0.99, "int8": 0.98}  # minimum, with float32 on the CPU

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


# --- the parts -----------------------------------------------------------------------------------


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
            assert np.array_equal(source, target), f"{size} bytes come back otherwise"
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
        launch = _kernel(cuda, b"spin", ctypes.c_longlong(500_000_000))
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
        launch = _kernel(cuda, b"spin", ctypes.c_longlong(20_000_000))
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
        assert lost < 32 << 20, f"{lost >> 20} MiB are not given back"
        return f"{max(lost, 0) >> 20} MiB kept by the driver"

    check("everything is given back", close)


def check_model(check: Checks, precision: str) -> None:
    """Check a model of the package in one precision: loading, masks, batches, confidence."""
    model = _model(precision)
    images, expected = _expected()
    reports: list[str] = []

    def load() -> str:
        with closing(_load(model, reports.append)) as backend:
            return f"{backend.device}; {_compare(backend, images, expected, precision)}"

    if not check(f"{precision}: first start (build, compile, load)", load):
        return

    def again() -> str:
        reports.clear()
        started = time.perf_counter()
        with closing(_load(model, reports.append)) as backend:
            seconds = time.perf_counter() - started
            work = [line for line in reports if "building" in line or "compiling" in line]
            assert not work, f"it does again: {work[0]}"
            launches = _launches(backend)
            assert all(isinstance(launch, Recording) for launch in launches), "not one launch"
            found = _compare(backend, images, expected, precision)
        return f"{seconds:.2f} s, nothing built or compiled; one launch a frame; {found}"

    def speed() -> str:
        with closing(_load(model)) as backend:
            image = backend.input_memory(1)
            image[:] = images[:1]
            times = []
            for _ in range(300):
                started = time.perf_counter()
                backend.infer(image)
                times.append(1e3 * (time.perf_counter() - started))
            parts = backend.device_seconds(image)  # type: ignore[attr-defined]
        device = ", ".join(f"{name} {1e3 * value:.3f}" for name, value in parts.items())
        half, most = (percentile(times[50:], fraction) for fraction in (0.5, 0.99))
        return f"median {half:.3f} ms, p99 {most:.3f} ms a frame; on the device, ms: {device}"

    def confidence() -> str:
        with closing(_load(model)) as backend:
            masks, confidences = backend.infer(images[:1], confidence=True)
            alone, _ = backend.infer(images[:1])
            assert confidences is not None and np.mean(confidences) > 50, "no confidence"
            same = float(np.mean(np.array(masks) == np.array(alone)))
            assert same > 0.999, f"masks with confidence agree on {same:.2%} only"
        return f"mean {np.mean(confidences) / 255:.2f}"

    check(f"{precision}: second start", again)
    check(f"{precision}: speed", speed)
    check(f"{precision}: confidence", confidence)


def check_batches(check: Checks) -> None:
    """Check engines of fixed and variable batch sizes."""
    model = _model("float16")
    images, expected = _expected()
    for numbers in ((1, 4, 4), (2, 2, 2)):

        def batch(numbers: tuple[int, int, int] = numbers) -> str:
            with closing(_load(model, batch=BatchProfile(*numbers))) as backend:
                for count in (1, 2, 3, 4):
                    for wanted in (False, True):
                        masks, _ = backend.infer(images[:count], wanted)
                        share = np.mean(np.array(masks) == expected[:count])
                        assert share >= _AGREEMENT["float16"], f"{count} images: {share:.2%}"
                launches = _launches(backend)
            recorded = sum(isinstance(launch, Recording) for launch in launches)
            assert recorded == len(launches), f"{recorded} of {len(launches)} recorded"
            return f"1 to 4 images, {recorded} recordings"

        check(f"batch {','.join(map(str, numbers))}", batch)


def check_life(check: Checks) -> None:
    """Check threads, several backends, and that memory is freed."""
    model = _model("float16")
    images, expected = _expected()

    def threads() -> str:
        made: list[Any] = []
        for work in (
            lambda: made.append(_load(model)),
            lambda: made.append(made[0].infer(images[:1])[0][0].copy()),
            lambda: made[0].close(),
        ):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        share = float(np.mean(made[1] == expected[0]))
        assert share >= _AGREEMENT["float16"], f"{share:.2%} agree"
        return "loaded, run and closed in three threads"

    def two() -> str:
        first, second = _load(model), _load(model)
        first.close()
        masks, _ = second.infer(images[:1])
        share = float(np.mean(masks[0] == expected[0]))
        second.close()
        assert share >= _AGREEMENT["float16"], f"{share:.2%} agree"
        return "one closed before the other runs"

    def memory() -> str:
        cuda = Cuda()
        _load(model).close()
        cuda.use()
        before = cuda.memory()[0]
        for _ in range(5):
            _load(model).close()
        cuda.use()
        lost = before - cuda.memory()[0]
        cuda.close()
        assert lost < 32 << 20, f"{lost >> 20} MiB are lost in five loads"
        return f"{max(lost, 0) >> 20} MiB less after five loads"

    check("other threads", threads)
    check("two backends", two)
    check("memory comes back", memory)


def check_resize(check: Checks) -> None:
    """Check that the GPU resizes camera frames to the same pixels as the CPU, and time both."""
    model = _model("float32")
    width, height = model.info.input_size
    for size in _CAMERAS:
        name = "{}x{} to {}x{}".format(*size, width, height)
        frame = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)

        def on_cpu(frame: np.ndarray = frame) -> str:
            resized, copied = np.empty((height, width, 3), np.uint8), np.empty_like(frame)
            resizing = _least(lambda: resize_image(frame, (width, height), resized))
            copying = _least(lambda: np.copyto(copied, frame))
            return f"{resizing:.2f} ms; a copy, which is left for the GPU's, {copying:.2f} ms"

        def on_gpu(frame: np.ndarray = frame) -> str:
            expected = resize_image(frame, (width, height)).astype(np.int16)
            with closing(_load(model)) as backend:
                place = backend.input_memory(1)[0]
                cuda, resize = backend._cuda, backend._resize  # type: ignore[attr-defined]
                assert resize is not None, "it is left to the CPU"
                target = cuda.allocate(place.nbytes)

                def queue() -> None:
                    resize(frame, "rgb", 0, target)

                def whole() -> None:
                    queue()
                    cuda.wait()

                queue()
                cuda.download(place, target)
                cuda.wait()
                levels = int(np.abs(expected - place).max())
                assert levels <= 1, f"{levels} levels from the CPU"
                queuing, all_of_it = _least(queue, cuda.wait), _least(whole)
            return f"{queuing:.2f} ms of the CPU, done after {all_of_it:.2f} ms"

        check(f"resize on the CPU, {name}", on_cpu)
        check(f"resize on the GPU, {name}", on_gpu)


def check_broken_model(check: Checks) -> None:
    """Check that a model with NaN logits gives no class, even if the GPU's maximum skips NaN."""

    def nan() -> str:
        with tempfile.TemporaryDirectory() as directory:
            model = _model_with_nan(Path(directory) / "nan.onnx")
            with closing(_load(model)) as backend:
                masks, _ = backend.infer(_expected()[0][:1])
                share = float(np.mean(masks[0] == NO_CLASS))
        assert share == 1, f"{1 - share:.2%} of the pixels show a class"
        return "no class on any pixel"

    check("logits that are NaN", nan)


def check_full_memory(check: Checks) -> None:
    """Check that loading a model into full device memory fails with an error that says so."""

    def full() -> str:
        cuda = Cuda()
        if cuda.integrated:
            cuda.close()
            return "not tried: this GPU shares the system's memory"
        model = _model("float16")
        block = cuda.memory()[0] - (256 << 20)
        while block >= 1 << 20:
            try:
                cuda.allocate(block)
            except CudaError:
                block //= 2
        try:
            _load(model).close()
        except RuntimeError as error:
            reported = str(error)
        else:
            reported = "there was room all the same"
        finally:
            cuda.close()
        assert "too little memory" in reported or "all the same" in reported, reported
        return reported

    check("a full device", full)


def check_lost_device(check: Checks) -> None:
    """Check that a kernel writing to an illegal address is reported as a lost device."""

    def lost() -> str:
        image = _expected()[0][:1]
        with closing(_load(_model("float16"))) as backend:
            cuda: Cuda = backend._cuda  # type: ignore[attr-defined]
            cuda.use()
            _kernel(cuda, b"bad")()
            try:
                backend.infer(image)
            except DeviceLost as error:
                return str(error)
        raise AssertionError("the next frame was answered")

    check("a lost device", lost)


#: By name, most important first if time runs out: the part, and its limit in seconds.
PARTS: dict[str, tuple[Callable[[Checks], None], float]] = {
    "driver": (check_driver, 60),
    "float16": (functools.partial(check_model, precision="float16"), 400),
    "lost": (check_lost_device, 60),
    "resize": (check_resize, 120),
    "nan": (check_broken_model, 120),
    "batches": (check_batches, 240),
    "life": (check_life, 120),
    "full": (check_full_memory, 60),
    "float32": (functools.partial(check_model, precision="float32"), 200),
    "int8": (functools.partial(check_model, precision="int8"), 200),
}


# --- what the parts need -------------------------------------------------------------------------


def _load(
    model: ModelFile,
    report: Callable[[str], None] = lambda line: None,
    batch: BatchProfile = BatchProfile(),  # noqa: B008 (frozen)
) -> Backend:
    return create_backend(model, "tensorrt", report=report, batch=batch)


def _least(work: Callable[[], object], after: Callable[[], object] = lambda: None) -> float:
    """Return the minimum milliseconds of `work`, without `after`, which runs in between."""
    times = []
    for _ in range(25):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
        after()
    return min(times)


def _launches(backend: Backend) -> list[Any]:
    networks = backend._networks.values()  # type: ignore[attr-defined]
    return [launch for network in networks for launch in network._launch.values()]


def _model(precision: str) -> ModelFile:
    """The package's model."""
    if precision == "float16":
        return model_for("", "tensorrt")
    return read_model_file(model_files("")[precision])


@functools.cache
def _expected() -> tuple[np.ndarray, np.ndarray]:
    """Images of a street, (N, H, W, 3), and their masks by the float32 file on the CPU."""
    model = _model("float32")
    scene = StreetScene(5, model.info.input_size)
    images = np.stack([scene.render(2.0 * n)[0] for n in range(_FRAMES)])
    with closing(create_backend(model, "onnxruntime", "cpu")) as backend:
        return images, np.array([backend.infer(image[np.newaxis])[0][0] for image in images])


def _compare(backend: Backend, images: np.ndarray, expected: np.ndarray, precision: str) -> str:
    masks = np.array([backend.infer(image[np.newaxis])[0][0].copy() for image in images])
    share = float(np.mean(masks == expected))
    assert share >= _AGREEMENT[precision], (
        f"{share:.3%} of the pixels as on the CPU in float32, expected {_AGREEMENT[precision]:.1%}"
    )
    return f"{share:.3%} of the pixels as on the CPU in float32"


def _model_with_nan(path: Path) -> ModelFile:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(_model("float32").path)
    last = [node for node in model.graph.node if node.op_type == "Conv"][-1]
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == last.input[2])
    values = np.full(numpy_helper.to_array(bias).shape, np.nan, np.float32)
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, path)
    return read_model_file(path)


def _kernel(cuda: Cuda, name: bytes, *arguments: Any) -> Callable[[], None]:
    """One of _KERNELS, to be launched on one thread; its module stays loaded."""
    module = cuda.call("cuModuleLoadData", _KERNELS + b"\0")
    function = cuda.call("cuModuleGetFunction", module, name)
    values = (tuple(a.value for a in arguments), tuple(type(a) for a in arguments))

    def launch() -> None:
        one = (1, 1, 1)
        cuda.call(
            "cuLaunchKernel", function, *one, *one, 0, cuda.stream, values if arguments else 0, 0
        )

    return launch


# --- all of them ---------------------------------------------------------------------------------


def run_part(name: str) -> int:
    """Run one part in this process; returns how many of its checks failed."""
    check = Checks()
    PARTS[name][0](check)
    return check.failed


def run_all(report: Path, parts: list[str], seconds: float = SECONDS) -> bool:
    """Run parts in processes of their own, print their lines, and write them to `report`.

    Returns whether every check passed. Raises OSError if the report cannot be written.
    """
    lines: list[str] = []
    with report.open("w", encoding="utf-8") as file, tempfile.TemporaryDirectory() as cache:

        def say(line: str) -> None:
            lines.append(line)
            print(line, flush=True)
            file.write(f"{line}\n")
            file.flush()

        file.write(f"bisenetv2 gpu-check\n{json.dumps(machine(), indent=1)}\n")
        end = time.monotonic() + seconds
        for name in parts:
            limit = min(PARTS[name][1], end - time.monotonic())
            if limit < 5:
                say(f"FAIL  part {name}: not run, no time was left of {seconds:.0f} s")
                continue
            for line in _run(name, limit, cache):
                say(line)
            if name == "driver" and lines[0].startswith("FAIL"):
                break  # without a GPU, nothing else can be checked
        failed = sum(line.startswith("FAIL") for line in lines)
        passed = sum(line.startswith("PASS") for line in lines)
        say(f"{passed} passed, {failed} failed; report: {report}")
    return not failed


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "bisenetv2_ros.cli.main", "gpu-check", "--part", name]


def _run(name: str, limit: float, cache: str) -> Iterator[str]:
    """The lines of a part, and one more if it did not end normally."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache, ENVIRONMENT: "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    started = time.monotonic()
    process = subprocess.Popen(
        _command(name),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    timer = threading.Timer(limit, process.kill)
    timer.start()
    failed = False
    try:
        assert process.stdout
        for line in process.stdout:
            failed |= line.startswith("FAIL")
            yield line.rstrip("\n")
        code = process.wait()
    finally:
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    if time.monotonic() - started >= limit:
        yield f"FAIL  part {name}: not done within {limit:.0f} s"
    elif code != 0 and not failed:
        yield f"FAIL  part {name}: ended with {code}"
