"""Checks of the TensorRT backend on a GPU, with the package's models."""

from __future__ import annotations

import functools
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from bisenetv2_ros.backends import Backend, BatchProfile, DeviceLost, create_backend, model_for
from bisenetv2_ros.backends.cuda import Cuda, CudaError, Recording
from bisenetv2_ros.benchmark.gpu_driver_check import Checks, kernel
from bisenetv2_ros.benchmark.tables import percentile
from bisenetv2_ros.model_file import NO_CLASS, ModelFile, model_files, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.street.scene import StreetScene

_FRAMES = 4
_CAMERAS = ((1280, 720), (1920, 1080), (3840, 2160))  # (width, height) of the frames resized
_AGREEMENT = {"float32": 0.999, "float16": 0.99, "int8": 0.98}  # minimum, with float32 on the CPU


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
                        _agreement(masks, expected[:count], "float16")
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
        _agreement(made[1], expected[0], "float16")
        return "loaded, run and closed in three threads"

    def two() -> str:
        first = _load(model)
        with closing(_load(model)) as second:
            first.close()
            _agreement(second.infer(images[:1])[0], expected[:1], "float16")
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
                fraction = float(np.mean(masks[0] == NO_CLASS))
        assert fraction == 1, f"{1 - fraction:.2%} of the pixels show a class"
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
            kernel(cuda, "bad")()
            try:
                backend.infer(image)
            except DeviceLost as error:
                return str(error)
        raise AssertionError("the next frame was answered")

    check("a lost device", lost)


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
    masks = [backend.infer(image[np.newaxis])[0][0].copy() for image in images]
    return _agreement(masks, expected, precision)


def _agreement(masks: Any, expected: np.ndarray, precision: str) -> str:
    """Check how many pixels of the masks have the class that float32 on the CPU gives them."""
    fraction = float(np.mean(np.array(masks) == expected))
    found = f"{fraction:.3%} of the pixels as on the CPU in float32"
    assert fraction >= _AGREEMENT[precision], f"{found}, expected {_AGREEMENT[precision]:.1%}"
    return found


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
