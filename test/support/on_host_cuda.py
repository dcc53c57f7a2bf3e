"""The TensorRT backend on real cuda-bindings and a strict driver of host memory (host_cuda.py).

Run by test_tensorrt_on_host_cuda.py in a process of its own, or directly:

    python -m pytest test/support/on_host_cuda.py
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_cuda import DRIVER, LATE, NOTHING, ORDER, build_engines, make_library
from tiny_model import tiny_answer, write_tiny_model

from bisenetv2_ros.backends import (
    Backend,
    BackendUnavailable,
    BatchProfile,
    Cancelled,
    DeviceLost,
    create_backend,
    gpu_resize,
    tensorrt,
)
from bisenetv2_ros.backends.cuda import Cuda, CudaError
from bisenetv2_ros.benchmark import gpu_model_check
from bisenetv2_ros.benchmark.gpu_driver_check import Checks, check_driver
from bisenetv2_ros.model_file import ModelFile, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.segmenter import Segmenter

PROFILES = [(1, 1, 1), (1, 2, 2), (4, 4, 4), (1, 2, 4), (1, 8, 8)]
UNKNOWN = 12345  # an error code that no release of cuda-bindings knows


@pytest.fixture(params=[999, 0], ids=["scratch", "no scratch"])
def scratch(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(params=[True, False], ids=["user allocation", "any allocation"])
def library(request: pytest.FixtureRequest, scratch: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in for TensorRT for RTX, in place of the real one."""
    stand_in = make_library(scratch, user_allocation=request.param)
    monkeypatch.setattr(tensorrt, "load_library", lambda: stand_in)
    monkeypatch.setattr(tensorrt, "build_engines", build_engines)
    return stand_in


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any) -> Iterator[ModelFile]:
    """A model file; afterwards nothing is alive, and no mistake was counted."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ORDER.clear()
    LATE.clear()
    DRIVER.hostcuda_fail(None, 0)
    DRIVER.hostcuda_reset_faults()
    yield read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    DRIVER.hostcuda_fail(None, 0)
    gc.collect()
    assert ORDER == [] and LATE == []
    assert DRIVER.hostcuda_faults() == 0, DRIVER.hostcuda_last_fault()
    assert alive() == NOTHING


def alive() -> str:
    return DRIVER.hostcuda_live().decode()


def load(model: ModelFile, numbers: tuple[int, int, int] = (1, 2, 2), **options: Any) -> Backend:
    return create_backend(model, "tensorrt", batch=BatchProfile(*numbers), **options)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), np.uint8)


def check(backend: Backend, count: int, confidence: bool, seed: int = 0) -> None:
    masks, confidences = backend.infer(frames(count, seed), confidence)
    right = tiny_answer(frames(count, seed))
    assert np.array_equal(masks, right[0])
    assert np.array_equal(confidences, right[1]) if confidence else confidences is None


def strictly(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test with an engine that needs scratch and requires user allocation, alone."""
    test = pytest.mark.parametrize("library", [True], indirect=True)(test)
    return pytest.mark.parametrize("scratch", [999])(test)


@pytest.mark.parametrize("numbers", PROFILES)
def test_every_number_of_images(model: ModelFile, numbers: tuple[int, int, int]):
    with contextlib.closing(load(model, numbers)) as backend:
        for seed in range(3):
            for count in (1, 2, 3, 4, 5, 9):
                check(backend, count, confidence=False, seed=seed)
                check(backend, count, confidence=True, seed=seed)


@pytest.mark.parametrize("numbers", PROFILES[:2])
def test_the_parts_of_a_call_are_timed(model: ModelFile, numbers: tuple[int, int, int]):
    """Also by bindings that lack the driver's way to time, as those of 13 on a driver of 12.6."""
    with contextlib.closing(load(model, numbers)) as backend:
        parts = backend.device_seconds(frames(1))  # type: ignore[attr-defined]
        assert list(parts) == ["upload", "network", "download"]
        assert all(seconds > 0 for seconds in parts.values())


@pytest.mark.parametrize("numbers", PROFILES[:3])
def test_loaded_run_and_closed_in_three_threads(model: ModelFile, numbers: tuple[int, int, int]):
    made: list[Backend] = []
    errors: list[BaseException] = []

    def in_a_thread(work: Callable[[], Any]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        thread.join()
        assert not errors, errors

    in_a_thread(lambda: made.append(load(model, numbers)))
    in_a_thread(lambda: check(made[0], 1, confidence=True))
    in_a_thread(lambda: check(made[0], 3, confidence=False))
    in_a_thread(made[0].close)


@pytest.mark.parametrize("numbers", PROFILES[:3])
def test_two_backends_and_either_closed_first(model: ModelFile, numbers: tuple[int, int, int]):
    for first in (0, 1):
        both = [load(model, numbers) for _ in range(2)]
        for seed in range(2):
            for backend in both:
                check(backend, 2, confidence=bool(seed), seed=seed)
        both[first].close()
        check(both[1 - first], 3, confidence=True, seed=7)
        both[1 - first].close()


@pytest.mark.parametrize("numbers", PROFILES[:3])
def test_dropped_without_close(model: ModelFile, numbers: tuple[int, int, int]):
    """As after an error elsewhere: Python chooses the order in which things go."""
    backend = load(model, numbers)
    check(backend, 1, confidence=True)
    cuda = backend._cuda  # type: ignore[attr-defined]
    del backend
    gc.collect()
    cuda.close()
    LATE.clear()


def test_loading_twenty_times_leaves_nothing(model: ModelFile):
    for seed in range(20):
        backend = load(model)
        check(backend, 2, confidence=True, seed=seed)
        backend.close()
        assert alive() == NOTHING


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 700, UNKNOWN])
@pytest.mark.parametrize("numbers", PROFILES[:2])
@strictly
def test_every_single_call_may_fail(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, numbers: tuple[int, int, int], code: int
):
    """Load, run with and without confidence, close: each call of the driver fails once."""
    if (numbers, code) != (PROFILES[0], 2):  # those of this check fail once, to save time
        monkeypatch.setattr(gpu_resize.GpuResize, "is_right", lambda *_: True)

    def use() -> None:
        with contextlib.closing(load(model, numbers)) as backend:
            check(backend, 1, confidence=False)
            check(backend, 3, confidence=True)

    use()  # the engines and kernels are kept from here on
    before = DRIVER.hostcuda_count(None)
    use()
    total = DRIVER.hostcuda_count(None) - before
    assert total > 30
    failed = set()
    for call in range(total):
        DRIVER.hostcuda_fail_at(call, code)
        reported = "an error"
        try:
            use()
        except RuntimeError as error:  # of which CudaError, BackendUnavailable, DeviceLost are some
            reported = str(error)
        assert reported and "\n" not in reported
        failed.add(DRIVER.hostcuda_failed().decode())
        DRIVER.hostcuda_fail(None, 0)
        gc.collect()
        assert alive() == NOTHING, f"after {sorted(failed)}"
        LATE.clear()
    assert {"cuMemAlloc_v2", "cuGraphLaunch", "cuStreamSynchronize", "cuMemFree_v2"} <= failed


@pytest.mark.parametrize(
    "call",
    [
        "cuMemAlloc_v2",
        "cuMemHostAlloc",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuStreamSynchronize",
        "cuStreamCreate",
        "cuMemGetInfo_v2",
        "cuLaunchHostFunc",
    ],
)
def test_a_call_that_always_fails_leaves_nothing(model: ModelFile, call: str):
    DRIVER.hostcuda_fail(call.encode(), 2)
    with pytest.raises(RuntimeError):
        load(model)
    DRIVER.hostcuda_fail(None, 0)
    gc.collect()
    assert alive() == NOTHING
    LATE.clear()


def test_an_error_code_that_the_bindings_do_not_know_is_one_of_the_driver(model: ModelFile):
    with contextlib.closing(load(model)) as backend:
        DRIVER.hostcuda_fail(b"cuStreamSynchronize", UNKNOWN)
        with pytest.raises(CudaError, match=rf"cuStreamSynchronize: .*{UNKNOWN}"):
            backend.infer(frames(1))
        DRIVER.hostcuda_fail(b"cuCtxSynchronize", UNKNOWN)
        with pytest.raises(DeviceLost, match=rf"is lost to this process: .*{UNKNOWN}"):
            backend.infer(frames(1))
        DRIVER.hostcuda_fail(None, 0)
        check(backend, 1, confidence=True)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture_v2", "cuGraphInstantiateWithFlags"])
def test_what_cannot_be_recorded_is_queued(model: ModelFile, call: str):
    DRIVER.hostcuda_fail(call.encode(), 801)
    with contextlib.closing(load(model)) as backend:
        for count in (1, 2, 5):
            check(backend, count, confidence=True)
            check(backend, count, confidence=False)


def test_an_engine_that_allocates_in_each_run_is_queued(model: ModelFile, library: Any):
    """It reports that it can be recorded, spoils the recording, and runs all the same."""
    library.always_allocates = True
    with contextlib.closing(load(model)) as backend:
        for count in (1, 2, 5):
            check(backend, count, confidence=True)
            check(backend, count, confidence=False)
    assert DRIVER.hostcuda_faults() == 4, "one for each recording"
    assert b"not allowed while a stream is captured" in DRIVER.hostcuda_last_fault()
    DRIVER.hostcuda_reset_faults()


def test_memory_that_cannot_be_locked(model: ModelFile):
    DRIVER.hostcuda_fail(b"cuMemHostRegister_v2", 801)
    with contextlib.closing(load(model)) as backend:
        check(backend, 2, confidence=True)
        check(backend, 5, confidence=False)


@pytest.mark.parametrize("call", ["set_tensor_address", "set_runtime_cache"])
def test_what_the_library_does_not_take_is_an_error(model: ModelFile, library: Any, call: str):
    library.accepts = lambda name: name != call
    with pytest.raises(BackendUnavailable, match=f"does not run its own engine: .*{call}"):
        load(model)
    gc.collect()
    LATE.clear()


# --- what a call costs ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4])
def test_images_are_uploaded_in_one_copy(model: ModelFile, count: int):
    DRIVER.hostcuda_fail(b"cuStreamBeginCapture_v2", 801)  # so that each copy is a call
    with contextlib.closing(load(model, (1, 4, 4))) as backend:
        check(backend, count, confidence=False)
        before = DRIVER.hostcuda_count(b"cuMemcpyHtoDAsync_v2")
        check(backend, count, confidence=False)
        assert DRIVER.hostcuda_count(b"cuMemcpyHtoDAsync_v2") == before + 1


@pytest.mark.parametrize("numbers", PROFILES)
def test_confidence_is_ready_when_the_model_is(model: ModelFile, numbers: tuple[int, int, int]):
    """Its first listener stops no frame: nothing is built, compiled, loaded or allocated for it."""
    with contextlib.closing(load(model, numbers)) as backend:
        before = alive()
        for count in range(1, numbers[2] + 1):
            calls = DRIVER.hostcuda_count(None)
            check(backend, count, confidence=True)
            assert DRIVER.hostcuda_count(None) - calls == 3, "make current, launch, wait"
        assert alive() == before


def test_networks_share_their_memory(model: ModelFile, scratch: int):
    with contextlib.closing(load(model, (1, 4, 4))) as backend:
        for count in range(1, 5):
            check(backend, count, confidence=True)
            check(backend, count, confidence=False)
        blocks, size = alive().split(",")[0].removeprefix("device ").split("/")
        # two engines' weights; image, mask, confidence; and one scratch for everything
        assert (int(blocks), int(size)) == (6, 2 * 1000 + 5 * 4 * 24 * 32 + max(4 * scratch, 1))


def test_compiling_kernels_reports_and_can_be_cancelled(model: ModelFile, library: Any):
    library.compile_seconds = 0.5
    lines: list[tuple[float, str]] = []
    load(model, report=lambda line: lines.append((time.monotonic(), line))).close()
    compiling = [when for when, line in lines if "compiling kernels" in line]
    assert len(compiling) >= 8, lines
    assert {line for _, line in lines if "confidence" in line}, lines

    def report(line: str) -> None:
        if "compiling" in line:
            raise Cancelled

    with pytest.raises(Cancelled):
        load(model, (1, 3, 3), report=report)
    gc.collect()
    LATE.clear()
    library.compile_seconds = 0.0
    load(model, (1, 3, 3)).close()


def kept_kernels(directory: Path) -> int:
    return sum(b'"kernels"' in path.read_bytes() for path in directory.rglob("*.json"))


def test_no_kernels_are_not_kept(model: ModelFile, library: Any, tmp_path: Path):
    library.kernels_to_keep = b""
    for _ in range(2):
        load(model).close()
        assert kept_kernels(tmp_path) == 0
    library.kernels_to_keep = None
    load(model).close()
    assert kept_kernels(tmp_path) == 2


@pytest.mark.parametrize(
    ("device", "flags"),
    [("cuda:0", None), ("cuda,block", 4), ("CUDA:0,Block", 4), (",spin", 1), ("0,spin", 1)],
)
@strictly
def test_how_a_thread_waits(model: ModelFile, device: str, flags: int | None):
    before = DRIVER.hostcuda_context_flags()
    with contextlib.closing(load(model, device=device)) as backend:
        check(backend, 1, confidence=False)
        assert DRIVER.hostcuda_context_flags() == (before if flags is None else flags)


@pytest.mark.parametrize("device", ["cuda,nap", "cuda block", "cuda:0,", "block"])
@strictly
def test_a_way_to_wait_that_there_is_not(model: ModelFile, device: str):
    with pytest.raises(BackendUnavailable, match=f"no device '{device}', expected cuda or cuda:N,"):
        load(model, device=device)


# --- frames resized on the device ----------------------------------------------------------------

SIZES = [(64, 48), (32, 24), (67, 50), (20, 15), (200, 24)]  #: (width, height); the second fits


def camera_frames(count: int, seed: int = 0) -> list[tuple[np.ndarray, Any]]:
    """Frames of several sizes, in either order of their channels."""
    rng = np.random.default_rng(seed)
    sizes = [SIZES[(seed + n) % len(SIZES)] for n in range(count)]
    return [
        (rng.integers(0, 256, (height, width, 3), np.uint8), "bgr" if (seed + n) % 2 else "rgb")
        for n, (width, height) in enumerate(sizes)
    ]


def check_frames(segmenter: Segmenter, count: int, confidence: bool, seed: int) -> None:
    frames = camera_frames(count, seed)
    results = segmenter.segment_batch(frames, confidence)
    images = [resize_image(image, (32, 24)) for image, _ in frames]
    images = [
        image[..., ::-1] if order == "bgr" else image
        for image, (_, order) in zip(images, frames, strict=True)
    ]
    masks, confidences = tiny_answer(np.stack(images))
    assert np.array_equal([result.mask for result in results], masks)
    assert not confidence or np.array_equal([r.confidence for r in results], confidences)


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("most", [1, 3])
@strictly
def test_frames_of_cameras(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, most: int, integrated: bool
):
    """Also on a GPU that shares the system's memory: then no frame is uploaded."""
    monkeypatch.setenv("HOSTCUDA_INTEGRATED", str(int(integrated)))
    with Segmenter(model, backend="tensorrt", batch=most) as segmenter:
        for seed in range(8):
            for count in range(1, most + 2):  # one more than fits into the memory
                for confidence in (False, True):
                    check_frames(segmenter, count, confidence, seed)
        launches = DRIVER.hostcuda_count(b"cuLaunchKernel")
        uploads = DRIVER.hostcuda_count(b"cuMemcpyHtoDAsync_v2")
        check_frames(segmenter, 1, False, 0)  # 64x48: halved
        assert DRIVER.hostcuda_count(b"cuLaunchKernel") == launches + 1
        assert DRIVER.hostcuda_count(b"cuMemcpyHtoDAsync_v2") == uploads + (not integrated)


@strictly
def test_images_laid_before_a_call_that_did_not_come(model: ModelFile):
    with Segmenter(model, backend="tensorrt", batch=2) as segmenter:
        backend = segmenter.backend
        frame, order = camera_frames(1)[0]
        backend.lay(frame, order, backend.input_memory(2)[0])
        check(backend, 2, confidence=False)  # of other memory
        backend.lay(frame, order, backend.input_memory(2)[0])
        images = backend.input_memory(2)
        images[:] = frames(2, seed=5)
        assert np.array_equal(backend.infer(images)[0], tiny_answer(frames(2, seed=5))[0])
        check_frames(segmenter, 2, True, 0)
        images[:] = frames(2, seed=6)  # in the memory that lay has been used for
        assert np.array_equal(backend.infer(images)[0], tiny_answer(frames(2, seed=6))[0])


@pytest.mark.parametrize("code", [2, 700])
@strictly
def test_every_call_may_fail_of_frames_of_cameras(model: ModelFile, code: int):
    """The frame is segmented all the same, or an error is raised; the next one is right."""

    def use() -> None:
        with Segmenter(model, backend="tensorrt", batch=2) as segmenter:
            before = DRIVER.hostcuda_count(None)
            check_frames(segmenter, 2, False, 0)
            total = DRIVER.hostcuda_count(None) - before
            for call in range(total):
                DRIVER.hostcuda_fail_at(call, code)
                with contextlib.suppress(RuntimeError):
                    check_frames(segmenter, 2, False, 1 + call % 4)
                DRIVER.hostcuda_fail(None, 0)
                check_frames(segmenter, 2, False, 1 + call % 4)

    use()
    gc.collect()
    assert alive() == NOTHING


@pytest.mark.parametrize("why", ["an old driver", "no memory", "_AREA", "_HALVES", "_LINEAR"])
@strictly
def test_frames_are_resized_on_the_cpu_if_the_device_cannot(
    model: ModelFile,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    why: str,
):
    if why == "an old driver":
        DRIVER.hostcuda_fail(b"cuModuleLoadData", 222)
    if why.startswith("_"):  # the kernel makes other pixels of this kind of step
        monkeypatch.setattr(gpu_resize, why, 1 if why == "_LINEAR" else 2)
    with Segmenter(model, backend="tensorrt", batch=2) as segmenter:
        if why == "no memory":
            DRIVER.hostcuda_fail(b"cuMemHostAlloc", 2)
        for seed in range(3):
            check_frames(segmenter, 2, True, seed)
    logged = [line for line in caplog.messages if "resized on the CPU" in line]
    assert len(logged) == 1, caplog.messages


# --- gpu-check, as far as the stand-in goes ------------------------------------------------------


@pytest.fixture
def on_tiny_model(model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> Checks:
    images = frames(4)
    answer = (images, tiny_answer(images)[0])
    monkeypatch.setattr(gpu_model_check, "_model", lambda precision: model)
    monkeypatch.setattr(gpu_model_check, "_expected", lambda: answer)
    return Checks()


@strictly
def test_gpu_check_passes_what_works(on_tiny_model: Checks, capsys: pytest.CaptureFixture[str]):
    check = on_tiny_model
    gpu_model_check.check_model(check, "float16")
    gpu_model_check.check_batches(check)
    gpu_model_check.check_life(check)
    output = capsys.readouterr().out
    assert check.failed == 0 and output.count("PASS") == 9, output


@strictly
def test_gpu_check_of_the_resize(on_tiny_model: Checks, capsys: pytest.CaptureFixture[str]):
    gpu_model_check.check_resize(on_tiny_model)
    lines = capsys.readouterr().out.splitlines()
    assert on_tiny_model.failed == 0 and len(lines) == 6, lines


@strictly
def test_gpu_check_of_the_driver(on_tiny_model: Checks, capsys: pytest.CaptureFixture[str]):
    """All but its kernels, which take a GPU."""
    check = on_tiny_model
    check_driver(check)
    lines = capsys.readouterr().out.splitlines()
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split(":")[0] for line in failed] == ["FAIL  waiting", "FAIL  timing"]
    assert all("cuModuleLoadData" in line for line in failed) and len(lines) == 7, lines
    DRIVER.hostcuda_reset_faults()  # the allocation that is recorded on purpose


@strictly
def test_gpu_check_fails_what_does_not_work(
    on_tiny_model: Checks, library: Any, capsys: pytest.CaptureFixture[str]
):
    check = on_tiny_model
    _, expected = gpu_model_check._expected()
    expected[0, :4] += 1
    gpu_model_check.check_model(check, "float16")
    assert check.failed == 1 and "of the pixels as on the CPU" in capsys.readouterr().out


@strictly
def test_gpu_check_of_a_lost_device(
    on_tiny_model: Checks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def loses(cuda: Cuda, name: bytes) -> Callable[[], None]:
        def launch() -> None:
            for call in (b"cuStreamSynchronize", b"cuCtxSynchronize"):
                DRIVER.hostcuda_fail(call, 700)

        return launch

    monkeypatch.setattr(gpu_model_check, "kernel", loses)
    gpu_model_check.check_lost_device(on_tiny_model)
    assert on_tiny_model.failed == 0, capsys.readouterr().out
    monkeypatch.setattr(gpu_model_check, "kernel", lambda cuda, name: lambda: None)
    DRIVER.hostcuda_fail(None, 0)
    gpu_model_check.check_lost_device(on_tiny_model)
    assert on_tiny_model.failed == 1, "a frame was answered"
    gc.collect()
    LATE.clear()


# --- the stand-in --------------------------------------------------------------------------------


@pytest.mark.skipif("HOSTCUDA_VERSION" in os.environ, reason="of one version, once")
def test_the_stand_in_notices_mistakes(model: ModelFile):
    """Else the rest of this file would show nothing."""
    mistakes = 0

    def wrong(work: Callable[[], Any]) -> None:
        nonlocal mistakes
        with pytest.raises(CudaError):
            work()
        mistakes += 1
        assert DRIVER.hostcuda_faults() == mistakes

    cuda = Cuda()
    pointer, host = cuda.allocate(100), cuda.pinned((100,))
    wrong(lambda: cuda.upload(pointer + 1, host))  # beyond the end
    wrong(lambda: cuda.upload(pointer, np.zeros(100, np.uint8)))  # not page-locked
    wrong(lambda: cuda.record(lambda: cuda.allocate(1)))  # in a recording
    wrong(lambda: cuda.allocate(0))
    replay = cuda.record(lambda: cuda.upload(pointer, host))
    cuda.call("cuMemFree", pointer)
    wrong(replay)  # into memory that is given back
    wrong(lambda: cuda.call("cuMemFree", pointer))
    thread = threading.Thread(target=lambda: wrong(lambda: cuda.allocate(1)))  # no context there
    thread.start()
    thread.join()
    assert mistakes == 7
    cuda.close()  # frees `pointer` once more
    assert DRIVER.hostcuda_faults() == 8
    DRIVER.hostcuda_reset_faults()
