"""TensorRT: engines are built by the real builder of TensorRT for RTX, which takes no GPU.

What runs an engine needs one; those tests say so where it is missing.
"""

from __future__ import annotations

import array
import contextlib
import dataclasses
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

pytest.importorskip("cuda.bindings", reason="needs cuda-bindings")

import host_device
from gpu import needs_gpu, what_is_missing
from host_device import HostDriver, driver, put_in_place
from patience import HANG
from processes import children, is_running
from tiny_model import tiny_answer, tiny_info, tiny_model, write_slow_model, write_tiny_model

from bisenetv2_ros.backends import (
    BackendUnavailable,
    BatchProfile,
    Cancelled,
    DeviceLost,
    create_backend,
    engine_process,
    engine_target,
    model_for,
)
from bisenetv2_ros.backends.cuda import CudaError
from bisenetv2_ros.backends.engine_builder import build_engines
from bisenetv2_ros.backends.engine_target import Target, library_name, load_library
from bisenetv2_ros.model_file import ModelFile, ModelFileError, models_directory, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.segmenter import Segmenter

try:
    LIBRARY = load_library()
except BackendUnavailable as unavailable:
    pytest.skip(str(unavailable), allow_module_level=True)
if what_is_missing() and library_name(LIBRARY) != "tensorrt_rtx":
    pytest.skip("TensorRT builds on a GPU only", allow_module_level=True)

ONE = BatchProfile()
PROGRAM = [sys.executable, "-m", "bisenetv2_ros.cli.main", "build-engine"]
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bisenetv2_ros" / "engines"


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    return read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))


@pytest.fixture
def target() -> Target:
    return Target(library_name(LIBRARY), LIBRARY.__version__)


def silent(line: str) -> None:
    pass


def build_engine(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, text=True)


def files(cache: Path) -> list[str]:
    """What is kept in the cache, by suffixes; the files that processes lock stay beside it."""
    names = [path.name.partition(".")[2] for path in cache.iterdir()] if cache.exists() else []
    return sorted(name for name in names if name != "lock")


# --- building ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [ONE, BatchProfile(1, 2, 4)])
def test_engines_of_both_kinds(model: ModelFile, target: Target, batch: BatchProfile):
    lines: list[str] = []
    engines = build_engines(model, target, batch, lines.append)
    assert list(engines) == ["mask", "mask+confidence"]
    assert all(len(engine) > 1000 for engine in engines.values())
    assert engines["mask"] != engines["mask+confidence"]
    assert lines[0] == f"building for {target.library}: starting, 0 s"


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_package_s_models_build_in_every_precision(
    precision: str, target: Target, tmp_path: Path
):
    """With no unsupported layer: the parser or the builder would refuse it."""
    path = models_directory() / f"bisenetv2_camvid_640x480_{precision}.onnx"
    if precision == "float16":  # made of the float32 one
        pytest.importorskip("bisenetv2_ros.convert.float16")
        from bisenetv2_ros.convert.float16 import write_half_model

        source = read_model_file(models_directory() / "bisenetv2_camvid_640x480_float32.onnx")
        path = tmp_path / path.name
        write_half_model(source, path)
    model = read_model_file(path)
    assert model.info.precision == precision
    lines: list[str] = []
    engines = build_engines(model, target, ONE, lines.append)
    assert all(len(engine) > 3_000_000 for engine in engines.values()), "weights are in it"
    assert any("%" in line for line in lines), "it says how far it is"


@pytest.fixture
def configs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations of builders of this process."""
    kept = []
    set_shape = engine_process._set_shape

    def keep(builder, network, config, request) -> None:
        kept.append(config)
        set_shape(builder, network, config, request)

    monkeypatch.setattr(engine_process, "_set_shape", keep)
    return kept


def build_here(model: ModelFile, target: Target, timings: list[Any]) -> bytes:
    """An engine built in this process, for 1 to 4 images."""
    return engine_process._build_one(
        LIBRARY,
        engine_process.make_logger(LIBRARY),
        engine_process._make_monitor(LIBRARY, SimpleNamespace(send=lambda message: None)),
        model.path.read_bytes(),
        {"input_size": (32, 24), "batch": (1, 2, 4)},
        target,
        timings,
    )


@pytest.mark.skipif(
    not hasattr(LIBRARY.BuilderFlag, "REQUIRE_USER_ALLOCATION"), reason="TensorRT needs no flag"
)
def test_engines_may_be_recorded(model: ModelFile, target: Target, configs: list[Any]):
    assert build_here(model, target, [])
    assert configs[0].get_flag(LIBRARY.BuilderFlag.REQUIRE_USER_ALLOCATION)


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_layers_are_timed_once_for_both_engines(
    model: ModelFile, target: Target, configs: list[Any]
):
    timings: list[Any] = []
    for _ in range(2):
        assert build_here(model, dataclasses.replace(target, library="tensorrt"), timings)
    caches = [config.get_timing_cache() for config in configs]
    assert caches == timings * 2 and len(timings) == 1


def test_a_model_that_the_library_refuses(tmp_path: Path, target: Target):
    graph = tiny_model()
    graph.graph.node[3].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    onnx.save(graph, path)
    with pytest.raises(
        ModelFileError, match=f"{path}: {target.library} cannot load it: .*NoSuchOperator"
    ):
        build_engines(read_model_file(path), target, ONE, silent)


def test_a_build_that_fails_is_not_the_file_s_fault(model: ModelFile, target: Target):
    """The parser accepts it, the builder does not: `auto` then goes on to another backend."""

    class Disordered(BatchProfile):
        def __post_init__(self) -> None:
            pass

    with pytest.raises(BackendUnavailable, match=f"{target.library} .* cannot build tiny: .+"):
        build_engines(model, target, Disordered(4, 2, 1), silent)


def test_no_engine_is_not_the_file_s_fault(
    model: ModelFile, target: Target, monkeypatch: pytest.MonkeyPatch
):
    """`build_serialized_network` returns None, here for want of an optimization profile."""
    monkeypatch.setattr(engine_process, "_set_shape", lambda *_: None)
    with pytest.raises(BackendUnavailable, match="profile"):
        build_here(model, target, [])


def test_the_builder_does_not_import_from_the_working_directory(
    model: ModelFile, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("json", "onnx", "numpy", "ctypes", library_name(LIBRARY)):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\n1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    assert build_engines(model, target, ONE, silent)
    assert not (tmp_path / "imported").exists()


def test_a_gpu_that_shares_the_system_s_memory_limits_the_workspace(
    model: ModelFile, target: Target, configs: list[Any]
):
    pool = LIBRARY.MemoryPoolType.WORKSPACE
    assert build_here(model, dataclasses.replace(target, integrated=True), [])
    assert build_here(model, target, [])
    limits = [config.get_memory_pool_limit(pool) for config in configs]
    assert limits[0] == 1 << 30 < limits[1]


def test_a_process_has_one_logger():
    assert engine_process.make_logger(LIBRARY) is engine_process.make_logger(LIBRARY)


def gpu(compute_capability: str = "8.9", driver_version: int = 13000) -> Any:
    """What `target_of` asks of a GPU."""
    return SimpleNamespace(
        name="A GPU",
        compute_capability=compute_capability,
        multiprocessors=24,
        index=0,
        integrated=False,
        driver_version=driver_version,
        driver_cuda=f"{driver_version // 1000}.{driver_version % 1000 // 10}",
    )


@pytest.mark.skipif(library_name(LIBRARY) != "tensorrt_rtx", reason="TensorRT takes them")
@pytest.mark.parametrize("compute_capability", ["7.2", "8.7", "9.0", "10.0", "10.3", "11.0"])
def test_a_gpu_that_the_library_does_not_support_is_named(compute_capability: str):
    with pytest.raises(
        BackendUnavailable,
        match=rf"supports compute capability 7\.5, .*A GPU has {compute_capability}: install Ten",
    ):
        engine_target.target_of(LIBRARY, gpu(compute_capability))


def test_a_driver_that_is_too_old_is_named_with_the_one_that_is_needed():
    needed = engine_target.cuda_needed(LIBRARY)
    if not needed:
        pytest.skip("the library is not from PyPI, and does not tell its CUDA")
    assert engine_target.target_of(LIBRARY, gpu(driver_version=1000 * needed)).gpu == "A GPU"
    with pytest.raises(
        BackendUnavailable, match=rf"needs a driver of CUDA {needed} or newer, .* CUDA 12\.6:"
    ):
        engine_target.target_of(LIBRARY, gpu(driver_version=12060))


def test_a_model_that_changes_meanwhile(model: ModelFile, target: Target):
    model.path.write_bytes(model.path.read_bytes() + b"\0")
    with pytest.raises(RuntimeError, match="has changed since it was read"):
        build_engines(model, target, ONE, silent)


def test_another_version_in_the_child(model: ModelFile, target: Target):
    other = dataclasses.replace(target, version="0.1")
    with pytest.raises(RuntimeError, match=rf"expected {target.library} 0\.1, got"):
        build_engines(model, other, ONE, silent)


def test_what_the_report_raises_ends_the_builder(model: ModelFile, target: Target):
    before = set(children(os.getpid()))

    def report(line: str) -> None:
        assert set(children(os.getpid())) > before
        raise Cancelled

    with pytest.raises(Cancelled):
        build_engines(model, target, ONE, report)
    assert set(children(os.getpid())) == before


def test_a_builder_that_dies_is_an_error(model: ModelFile, target: Target):
    before = set(children(os.getpid()))

    def report(line: str) -> None:
        for child in set(children(os.getpid())) - before:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSEGV)

    with pytest.raises(RuntimeError, match=r"built tiny for .* ended without an engine \(SIGSEGV"):
        build_engines(model, target, ONE, report)


def test_the_key_names_everything_that_decides(model: ModelFile, target: Target):
    on_gpu = dataclasses.replace(target, gpu="A GPU", compute_capability="8.9", multiprocessors=24)
    key = on_gpu.key(model, BatchProfile(1, 2, 4))
    assert key == {
        "recipe": engine_target.RECIPE,
        "model_sha256": model.sha256,
        "precision": "float32",
        "input_size": [32, 24],
        "batch": [1, 2, 4],
        "library": library_name(LIBRARY),
        "version": LIBRARY.__version__,
        "platform": os.uname().machine,
        "gpu": "A GPU",
        "compute_capability": "8.9",
        "multiprocessors": 24,
    }
    assert dataclasses.replace(on_gpu, device=1).key(model, BatchProfile(1, 2, 4)) == key


# --- the verb ------------------------------------------------------------------------------------


def test_built_once_then_there_already_then_damaged(model: ModelFile, cache: Path):
    first, second = build_engine(model.path), build_engine(model.path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    (path,) = cache.glob("*.engine")
    assert "built in " in first.stdout and f" s: {path}" in first.stdout
    assert ("no GPU here" in first.stdout) == bool(what_is_missing())
    assert f"already there: {path}" in second.stdout
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["key"]["model_sha256"] == model.sha256
    assert [name for name, _ in sidecar["parts"]] == ["mask", "mask+confidence"]

    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    third = build_engine(model.path)
    assert f"{path} is not used: it has {len(whole) - 100} bytes" in third.stderr
    assert "built in" in third.stdout

    fourth = build_engine(model.path, "--batch", "1,2,4")
    assert "built in" in fourth.stdout, "another batch is another engine"
    assert "is not used" not in fourth.stderr
    assert len(list(cache.glob("*.engine"))) == 2


def test_the_verb_leaves_the_device_to_the_builder(device: HostDriver):
    from bisenetv2_ros.cli.build_engine import _target

    assert _target("") == Target(
        library_name(LIBRARY), LIBRARY.__version__, "host memory", "8.9", 16, 0
    )
    assert "cuDevicePrimaryCtxRetain" not in device.calls, "a context takes 100 MB and more"


def test_two_at_once_build_once(model: ModelFile, cache: Path):
    processes = [
        subprocess.Popen([*PROGRAM, model.path], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=HANG)[0] for process in processes]
    assert sorted("built in" in output for output in outputs) == [False, True], outputs
    assert files(cache) == ["engine", "json"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "4,2,1"], "1 <= MIN <= OPT <= MAX"),
        (["--batch", "1"], "got '1', expected three numbers MIN,OPT,MAX"),
        (["--precision", "int8"], "tiny.onnx is float32, not int8: make one by"),
        (["--precision", "float16"], "tiny.onnx: no node is named /network/"),
        (["--device", "quantum"], "no device 'quantum'"),
    ],
)
def test_what_cannot_be_is_one_line(model: ModelFile, words: list[str], message: str, cache: Path):
    result = build_engine(model.path, *words)
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert files(cache) == []


def test_float16_of_a_float32_file_is_a_model_file_beside_it(tmp_path: Path, cache: Path):
    name = "bisenetv2_camvid_640x480_float32.onnx"
    shutil.copy(models_directory() / name, tmp_path)
    path = tmp_path / name.replace("float32", "float16")
    result = build_engine(tmp_path / name, "--precision", "float16")
    assert result.returncode == 0, result.stderr
    assert f"{path}: written" in result.stdout and "(float16)" in result.stdout
    assert read_model_file(path).info.precision == "float16"
    assert path.stat().st_size < 0.6 * (tmp_path / name).stat().st_size
    again = build_engine(tmp_path / name, "--precision", "float16")
    assert again.returncode == 2 and "is there already" in again.stderr


@contextlib.contextmanager
def building(path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The verb in the middle of building, and the process that builds."""
    process = subprocess.Popen(
        [*PROGRAM, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        end = time.monotonic() + HANG
        while not (builders := [child for child in children(process.pid) if builds(child)]):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.01)
        time.sleep(1)
        yield process, builders[0]
    finally:
        process.kill()
        process.communicate()


def builds(pid: int) -> bool:
    """Whether it is the builder's process, with the library loaded."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        process = Path(f"/proc/{pid}")
        if b"engine_process" in (process / "cmdline").read_bytes():
            return "onnxparser" in (process / "maps").read_text()
    return False


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_ends_building_and_leaves_no_file(
    number: signal.Signals, code: int, tmp_path: Path, cache: Path
):
    with building(write_slow_model(tmp_path / "slow.onnx", 1500)) as (process, child):
        assert is_running(child), "it is too quick for this test"
        sent = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=HANG) == code
        while is_running(child):
            time.sleep(0.01)
            assert time.monotonic() - sent < HANG
    assert files(cache) == []


# --- without a GPU -------------------------------------------------------------------------------


@pytest.mark.skipif(not what_is_missing(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing(model: ModelFile, cache: Path):
    with pytest.raises(BackendUnavailable, match=r"tensorrt: no .*install NVIDIA's driver"):
        create_backend(model, "tensorrt")
    assert files(cache) == [], "and builds nothing"


def test_without_the_bindings_of_cuda(model: ModelFile, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(BackendUnavailable, match=r"`pip install cuda-bindings`"):
        create_backend(model, "tensorrt")


def test_without_any_library(model: ModelFile, monkeypatch: pytest.MonkeyPatch):
    for name in engine_target.MODULES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailable, match=r"`pip install tensorrt-rtx cuda-bindings`"):
        create_backend(model, "tensorrt")


# --- which file of a model -----------------------------------------------------------------------


def test_a_gpu_runs_the_package_s_model_in_float16_made_once(cache: Path):
    made = model_for("", "tensorrt")
    assert made.info.precision == "float16" and made.path.is_relative_to(cache.parent)
    assert made.path.stat().st_size < 5_000_000
    before = made.path.stat()
    assert model_for("", "tensorrt") == made
    assert made.path.stat().st_mtime_ns == before.st_mtime_ns and made.path.stat().st_ino
    made.path.write_bytes(made.path.read_bytes()[:-100])
    assert model_for("", "tensorrt") == made, "made again"
    assert model_for("", "openvino").info.precision == "int8"


def test_of_several_processes_one_makes_the_float16_file(cache: Path):
    code = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "from bisenetv2_ros.backends import model_for\n"
        "print(model_for('', 'tensorrt').info.precision)"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(3)
    ]
    outputs = [process.communicate(timeout=HANG) for process in processes]
    assert [output.split() for output, _ in outputs] == [[b"float16"]] * 3, outputs
    assert sum(b" is made from " in errors for _, errors in outputs) == 1, outputs


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_file_that_is_named_is_the_one_that_runs(precision: str, cache: Path):
    name = f"bisenetv2_camvid_640x480_{precision}"
    for named in (name, models_directory() / f"{name}.onnx"):
        assert model_for(named, "tensorrt").path == models_directory() / f"{name}.onnx"
    assert not (cache.parent / "models").exists()


def test_a_folder_s_own_float16_file_is_taken(tmp_path: Path, cache: Path):
    (tmp_path / "deployed").mkdir()
    for precision in ("float32", "float16"):
        info = tiny_info(precision=precision)
        write_tiny_model(tmp_path / "deployed" / f"my_{precision}.onnx", info)
    assert model_for(tmp_path / "deployed", "tensorrt").name == "my_float16"
    (tmp_path / "deployed" / "my_float16.onnx").unlink()
    assert model_for(tmp_path / "deployed", "tensorrt").name == "my_float32", "it has no such form"


def test_where_float16_cannot_be_written_the_model_runs_as_it_is(
    cache: Path, caplog: pytest.LogCaptureFixture
):
    cache.parent.parent.mkdir(parents=True)
    cache.parent.write_text("no folder")
    assert model_for("", "tensorrt").info.precision == "float32"
    assert "has no float16 form, it runs as it is" in caplog.text


@pytest.mark.skipif(not what_is_missing(), reason="there is a GPU")
def test_nothing_is_made_for_a_gpu_that_is_not_there(cache: Path):
    with pytest.raises(BackendUnavailable):
        create_backend("", "tensorrt")
    assert not (cache.parent / "models").exists()


# --- an engine that is not what it should be -----------------------------------------------------


def engine(batch: int = 1, **changes) -> SimpleNamespace:
    """What `check_engine` asks an engine, answered as one of the tiny model would."""
    modes = LIBRARY.TensorIOMode
    tensors = {
        "image": (modes.INPUT, LIBRARY.uint8, (batch, 24, 32, 3)),
        "mask": (modes.OUTPUT, LIBRARY.uint8, (batch, 24, 32)),
    } | changes
    names = list(tensors)
    return SimpleNamespace(
        num_io_tensors=len(names),
        get_tensor_name=names.__getitem__,
        get_tensor_mode=lambda name: tensors[name][0],
        get_tensor_dtype=lambda name: tensors[name][1],
        get_tensor_shape=lambda name: tensors[name][2],
        get_tensor_profile_shape=lambda name, _: [(n, 24, 32, 3) for n in (1, 2, 4)],
    )


def check(wrong: SimpleNamespace, batch: BatchProfile = ONE) -> None:
    from bisenetv2_ros.backends.tensorrt import check_engine

    check_engine(wrong, LIBRARY, ["mask"], (32, 24), batch)


def test_an_engine_of_the_model_passes():
    check(engine())
    check(engine(batch=-1), BatchProfile(1, 2, 4))


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"mask": ("OUTPUT", "int32", (1, 24, 32))}, r"output mask int32 \(1, 24, 32\)"),
        ({"mask": ("OUTPUT", "uint8", (1, 24, 33))}, r"output mask uint8 \(1, 24, 33\)"),
        ({"mask": ("INPUT", "uint8", (1, 24, 32))}, r"input mask uint8"),
        ({"other": ("OUTPUT", "uint8", (1, 24, 32))}, r"output other uint8"),
        ({"image": ("INPUT", "uint8", (1, 3, 24, 32))}, r"input image uint8 \(1, 3, 24, 32\)"),
    ],
)
def test_an_engine_with_other_tensors_is_refused(changes: dict, received: str):
    wrong = {
        name: (getattr(LIBRARY.TensorIOMode, mode), getattr(LIBRARY, kind), shape)
        for name, (mode, kind, shape) in changes.items()
    }
    from bisenetv2_ros.backends.tensorrt import EngineRefused

    expected = r"expected input image uint8 \(1, 24, 32, 3\), output mask uint8 \(1, 24, 32\)"
    with pytest.raises(EngineRefused, match=rf"tensors are .*{received}.*, {expected}"):
        check(engine(**wrong))


def test_an_engine_for_other_batches_is_refused():
    from bisenetv2_ros.backends.tensorrt import EngineRefused

    with pytest.raises(EngineRefused, match=r"\[1, 2, 4\] images, expected \[1, 2, 8\]"):
        check(engine(batch=-1), BatchProfile(1, 2, 8))


# --- the data path, on a device of host memory ---------------------------------------------------


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> HostDriver:
    """In the place of the driver, the library and its builder (see host_device.py)."""
    return put_in_place(monkeypatch.setattr)


def frames(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), np.uint8)


def owner_of(pixels: np.ndarray) -> object:
    """Whose memory the pixels lie in."""
    owner: object = pixels
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return owner.obj if isinstance(owner, memoryview) else owner


def test_a_frame_is_one_launch_and_confidence_is_not_paid_for(model: ModelFile, device: HostDriver):
    backend = create_backend(model, "tensorrt")
    assert backend.device == "host memory (tensorrt_rtx 0.0)"
    for seed in range(3):
        device.calls.clear()
        mask, confidence = backend.infer(frames(1, seed))
        assert np.array_equal(mask, tiny_answer(frames(1, seed))[0]) and confidence is None
        assert isinstance(owner_of(mask[0]), array.array), "which a message takes as it is"
        assert device.calls == ["cuCtxSetCurrent", "cuGraphLaunch", "cuStreamSynchronize"]
    sizes = sorted(len(block) for block in device.memory.values())
    scratch = host_device.SCRATCH
    assert sizes == [24 * 32] * 4 + [scratch] + [3 * 24 * 32] * 2, "images, masks, confidences"
    mask, confidence = backend.infer(frames(1, 5), confidence=True)
    assert np.array_equal(mask, tiny_answer(frames(1, 5))[0])
    assert confidence is not None and np.array_equal(confidence, tiny_answer(frames(1, 5))[1])
    backend.close()
    backend.close()
    assert device.memory == {}, "everything is given back"


@pytest.mark.parametrize("batch", [ONE, BatchProfile(2, 2, 2), BatchProfile(2, 3, 4)])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_any_number_of_images(model: ModelFile, device: HostDriver, batch, count: int):
    backend = create_backend(model, "tensorrt", batch=batch)
    for seed in range(2):
        mask, confidence = backend.infer(frames(count, seed), confidence=True)
        assert np.shape(mask) == (count, 24, 32)
        assert np.array_equal(mask, tiny_answer(frames(count, seed))[0])
        assert confidence is not None
        assert np.array_equal(confidence, tiny_answer(frames(count, seed))[1])
    backend.close()
    assert device.memory == {}


def test_frames_are_resized_into_the_memory_that_is_uploaded(model: ModelFile, device: HostDriver):
    large = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)
    with Segmenter(model, backend="tensorrt", batch=2) as segmenter:
        assert segmenter.at_once == 2
        place = segmenter.backend.input_memory(2)
        assert any(place.ctypes.data == begin for begin in device.memory)
        results = segmenter.segment_batch([(large[0], "rgb"), (large[1], "bgr")], confidence=True)
        small = [resize_image(large[0], (32, 24)), resize_image(large[1], (32, 24))[..., ::-1]]
        assert np.array_equal(place, small)
        for result, image in zip(results, small, strict=True):
            mask, confidence = tiny_answer(image[np.newaxis])
            assert np.array_equal(result.mask, mask[0])
            assert result.confidence is not None
            assert np.array_equal(result.confidence, confidence[0])
        assert segmenter.backend.input_memory(5).shape == (5, 24, 32, 3)
        assert segmenter.backend.input_memory(1).ctypes.data == place.ctypes.data
    assert device.memory == {}


@pytest.mark.parametrize("configured", [True, False])
def test_numbers_of_images_share_what_they_run_in(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch, configured: bool
):
    if not configured:
        monkeypatch.delattr(host_device._Engine, "create_runtime_config")
    with Segmenter(model, backend="tensorrt", batch=4) as segmenter:
        assert segmenter.at_once == 4
        assert len(device.contexts) == 8, "masks, and with confidence"
        assert len({id(context.scratch) for context in device.contexts}) == 1
    assert device.memory == {}


def test_memory_that_cannot_be_locked_is_replaced_by_some_that_is(
    model: ModelFile, device: HostDriver
):
    device.fail["cuMemHostRegister"] = driver.CUresult.CUDA_ERROR_NOT_SUPPORTED
    backend = create_backend(model, "tensorrt", batch=BatchProfile(1, 2, 2))
    for count in (1, 2):
        mask, confidence = backend.infer(frames(count), confidence=True)
        assert np.array_equal(mask, tiny_answer(frames(count))[0])
        assert confidence is not None
        assert np.array_equal(confidence, tiny_answer(frames(count))[1])
    backend.close()
    assert device.memory == {}


def test_kernels_are_compiled_once_for_every_number_of_images(model: ModelFile, device: HostDriver):
    for fresh in (True, False):
        with Segmenter(model, backend="tensorrt", batch=3) as segmenter:
            assert segmenter.at_once == 3
        numbers = [shape[0] for shape in device.compiled]
        assert numbers == [1, 2, 3] * 2, f"both engines; a start that compiles: {fresh}"
    with contextlib.closing(
        create_backend(model, "tensorrt", batch=BatchProfile(1, 30, 40))
    ) as backend:
        backend.infer(frames(1))
    assert [shape[0] for shape in device.compiled[6:]] == [*range(1, 9), 30] * 2


def test_kernels_that_the_driver_refuses_are_compiled_once(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    create_backend(model, "tensorrt").close()
    with monkeypatch.context() as another_driver:
        another_driver.setattr(host_device._Kernels, "deserialize", lambda *_: False)
        another_driver.setattr(host_device._Kernels, "serialize", lambda *_: b"\1\7")
        create_backend(model, "tensorrt").close()
    assert len(device.compiled) == 4
    kept = []
    monkeypatch.setattr(
        host_device._Kernels, "deserialize", lambda self, kernels: kept.append(kernels) or True
    )
    create_backend(model, "tensorrt").close()
    assert kept == [b"\1\7"] * 2, "the new ones"


def test_what_cannot_be_recorded_is_queued(model: ModelFile, device: HostDriver):
    device.fail["cuStreamEndCapture"] = driver.CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
    original = HostDriver._cuStreamBeginCapture
    HostDriver._cuStreamBeginCapture = lambda *_: ()
    try:
        backend = create_backend(model, "tensorrt")
        assert np.array_equal(backend.infer(frames(1))[0], tiny_answer(frames(1))[0])
    finally:
        HostDriver._cuStreamBeginCapture = original
    assert device.launches == 0


def test_a_device_of_the_same_name_with_less_in_it_has_engines_of_its_own(
    model: ModelFile, device: HostDriver, cache: Path
):
    for number in (16, 16, 8):  # AGX Orin, again, Orin NX
        device.multiprocessors = number
        create_backend(model, "tensorrt").close()
    keys = [json.loads(path.read_text())["key"] for path in cache.glob("*.json")]
    built = [key["multiprocessors"] for key in keys if "kernels" not in key]
    assert sorted(built) == [8, 16]


def test_too_little_memory_is_said_with_the_numbers(model: ModelFile, device: HostDriver):
    device.fail["cuMemAlloc"] = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
    with pytest.raises(RuntimeError, match=r"host memory has too little memory .* 3 of 5 MiB were"):
        create_backend(model, "tensorrt")
    assert device.memory == {}


def replace_runtime(monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any]) -> None:
    """Let the stand-in's `Runtime` be `make`."""
    from bisenetv2_ros.backends import tensorrt

    library = tensorrt.load_library()
    library.Runtime = make
    monkeypatch.setattr(tensorrt, "load_library", lambda: library)


def test_too_little_memory_in_the_words_of_the_library(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch, cache: Path
):
    """Else the engine would be thrown away and built anew, for minutes, in vain."""
    create_backend(model, "tensorrt").close()
    words = ["Error Code 2: OutOfMemory (no further information)", "Deserialization failed."]

    def runtime(logger) -> SimpleNamespace:
        def deserialize_cuda_engine(plan: bytes) -> None:
            for line in words:
                logger.log(LIBRARY.ILogger.ERROR, line)

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)

    replace_runtime(monkeypatch, runtime)
    with pytest.raises(RuntimeError, match=r"host memory has too little memory .* 3 of 5 MiB"):
        create_backend(model, "tensorrt")
    assert "json" in files(cache), "the engine is thrown away"


def test_a_library_that_the_driver_is_too_old_for(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    def runtime(logger) -> None:
        logger.log(LIBRARY.ILogger.ERROR, "CUDA initialization failure with error: 35.")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    replace_runtime(monkeypatch, runtime)
    with pytest.raises(
        BackendUnavailable, match=r"does not work on host memory, .*old driver: CUDA .* 35"
    ):
        create_backend(model, "tensorrt")
    assert device.memory == {}


def count_builds(monkeypatch: pytest.MonkeyPatch, build: Callable[..., Any]) -> list[ModelFile]:
    """Let `build` build the engines; what it was asked for, one for each time."""
    from bisenetv2_ros.backends import tensorrt

    built = []

    def counting(model: ModelFile, *rest: Any) -> Any:
        built.append(model)
        return build(model, *rest)

    monkeypatch.setattr(tensorrt, "build_engines", counting)
    return built


@pytest.mark.skipif(not what_is_missing(), reason="the library works here")
def test_nothing_is_built_twice_for_an_error_of_cuda(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch, cache: Path
):
    """The real library without a real driver: its Runtime is made, and takes no engine."""
    from bisenetv2_ros.backends import tensorrt

    library = tensorrt.load_library()
    library.Runtime = LIBRARY.Runtime
    for name in ("EngineValidity", "EngineInvalidityDiagnostics"):
        if hasattr(LIBRARY, name):
            setattr(library, name, getattr(LIBRARY, name))
    monkeypatch.setattr(tensorrt, "load_library", lambda: library)
    real = Target(library_name(LIBRARY), LIBRARY.__version__)
    built = count_builds(
        monkeypatch, lambda model, _, batch, report: build_engines(model, real, batch, report)
    )
    for _ in range(2):
        with pytest.raises(
            BackendUnavailable,
            match=r"not work on host memory, .*old driver: CUDA 13\.0 found, .* needed: .*35",
        ):
            create_backend(model, "tensorrt")
    assert len(built) == 1 and files(cache) == ["engine", "json"], "the good engine is kept"


@pytest.mark.parametrize("flag", ["UNSUPPORTED_CC", "OLD_CUDA_DRIVER", "VERSION_MISMATCH"])
def test_the_library_is_asked_whether_an_engine_is_valid(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch, flag: str
):
    """A new build mends what is wrong with the engine, and nothing else."""
    from bisenetv2_ros.backends import tensorrt

    library = tensorrt.load_library()
    library.EngineValidity = SimpleNamespace(VALID=0, SUBOPTIMAL=1, INVALID=2)
    flags = {"VERSION_MISMATCH": 1, "UNSUPPORTED_CC": 2, "OLD_CUDA_DRIVER": 4}
    library.EngineInvalidityDiagnostics = SimpleNamespace(__members__=flags)
    make = library.Runtime

    def runtime(logger: Any) -> Any:
        made = make(logger)
        made.engine_header_size = 3
        made.get_engine_validity = lambda header: (2, flags[flag]) if len(header) == 3 else (0, 0)
        return made

    library.Runtime = runtime
    monkeypatch.setattr(tensorrt, "load_library", lambda: library)
    built = count_builds(monkeypatch, tensorrt.build_engines)
    with pytest.raises(BackendUnavailable, match=flag):
        create_backend(model, "tensorrt")
    assert len(built) == (2 if flag == "VERSION_MISMATCH" else 1)


def test_a_gpu_that_is_not_supported_is_refused_before_anything_is_built(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    from bisenetv2_ros.backends import tensorrt

    library = tensorrt.load_library()
    library.ComputeCapability = SimpleNamespace(__members__={"NONE": 0, "SM75": 1, "SM120": 2})
    monkeypatch.setattr(tensorrt, "load_library", lambda: library)
    built = count_builds(monkeypatch, tensorrt.build_engines)
    with pytest.raises(BackendUnavailable, match=r"7\.5, 12\.0, host memory has 8\.9"):
        create_backend(model, "tensorrt")
    assert built == []


@pytest.mark.parametrize("version", ["12.8.0", "12.9.0"])
def test_bindings_that_stop_all_threads_are_refused(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, version: str
):
    import cuda.bindings

    monkeypatch.setattr(cuda.bindings, "__version__", version)
    with pytest.raises(BackendUnavailable, match=rf"{version}, expected 12\.9\.1 or newer"):
        create_backend(model, "tensorrt")


def test_too_little_memory_for_the_confidence_is_reported_while_loading(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    """And not by the first frame that somebody wants it for."""
    allocate = HostDriver._cuMemAlloc

    def full_after_the_mask(self: HostDriver, size: int) -> tuple:
        if len(self.memory) == 4:  # image and mask on the host, scratch and image on the device
            self.fail["cuMemAlloc"] = driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY
        return allocate(self, size)

    monkeypatch.setattr(HostDriver, "_cuMemAlloc", full_after_the_mask)
    with pytest.raises(RuntimeError, match="host memory has too little memory"):
        create_backend(model, "tensorrt")
    # of the masks: with their images uploaded, and with images that are there already
    assert device.memory == {} and device.calls.count("cuGraphInstantiate") == 2


def test_an_error_that_stays_is_a_lost_device(model: ModelFile, device: HostDriver):
    backend = create_backend(model, "tensorrt")
    broken = driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
    device.fail["cuStreamSynchronize"] = broken
    with pytest.raises(CudaError, match="ILLEGAL_ADDRESS"):
        backend.infer(frames(1))  # this once; the device still answers
    device.fail["cuCtxSynchronize"] = broken
    with pytest.raises(DeviceLost, match=r"host memory is lost to this process: .*ILLEGAL_ADDRESS"):
        backend.infer(frames(1))


@pytest.mark.parametrize("call", ["cuStreamSynchronize", "cuGraphLaunch"])
def test_a_device_that_is_lost_while_loading_is_said_to_be(
    model: ModelFile, device: HostDriver, call: str
):
    calls = (call, "cuCtxSynchronize", "cuMemFree", "cuMemHostUnregister")
    device.fail |= dict.fromkeys(calls, driver.CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
    with pytest.raises(DeviceLost, match=rf"host memory is lost .*{call}: CUDA_ERROR_ILLEGAL"):
        Segmenter(model, backend="tensorrt")


@pytest.fixture
def without_gc() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("without_gc")
def test_closing_frees_what_runs_the_engines(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    for recorded in (True, False):
        monkeypatch.setattr(
            host_device._Context, "is_stream_capturable", lambda *_, r=recorded: r, raising=False
        )
        backend = create_backend(model, "tensorrt", batch=BatchProfile(1, 2, 2))
        backend.infer(frames(1), confidence=True)
        assert device.contexts
        backend.close()
        assert not device.contexts, f"recorded: {recorded}"


@pytest.mark.usefixtures("without_gc")
def test_what_a_traceback_keeps_is_freed_before_the_device(model: ModelFile, device: HostDriver):
    device.fail["cuStreamSynchronize"] = driver.CUresult.CUDA_ERROR_LAUNCH_FAILED
    try:
        create_backend(model, "tensorrt")
    except CudaError:
        assert not device.contexts and device.memory == {}
    assert device.freed_too_late == 0


def test_an_engine_that_the_library_refuses_is_built_once_more(
    model: ModelFile, device: HostDriver, monkeypatch: pytest.MonkeyPatch
):
    from bisenetv2_ros.backends import tensorrt

    whole = tensorrt.build_engines
    builds = []

    def build(*arguments) -> dict[str, bytes]:
        builds.append(len(builds))
        engines = whole(*arguments)
        return dict.fromkeys(engines, b"broken") if len(builds) in broken else engines

    monkeypatch.setattr(tensorrt, "build_engines", build)
    broken = (1,)
    create_backend(model, "tensorrt").close()
    assert len(builds) == 2
    create_backend(model, "tensorrt").close()
    assert len(builds) == 2, "the good one was kept"

    broken = (3, 4)
    with pytest.raises(BackendUnavailable, match="does not run its own engine"):
        create_backend(model, "tensorrt", batch=BatchProfile(2, 2, 2))


def test_the_time_of_the_parts(model: ModelFile, device: HostDriver):
    backend = create_backend(model, "tensorrt")
    parts = backend.device_seconds(frames(1))  # type: ignore[attr-defined]
    assert parts == {"upload": 2e-3, "network": 2e-3, "download": 2e-3}


def test_what_the_code_calls_is_in_the_real_library():
    """The data path does not run here, so at least its names are held against the real thing."""
    context = ("set_input_shape", "set_tensor_address", "execute_async_v3", "set_device_memory")
    engine = ("create_execution_context", "get_tensor_profile_shape", "num_io_tensors")
    names = {
        "IExecutionContext": context,
        "ICudaEngine": (*engine, "device_memory_size_v2"),
        "ExecutionContextAllocationStrategy": ("STATIC", "USER_MANAGED"),
        "Runtime": ("deserialize_cuda_engine",),
    }
    if library_name(LIBRARY) == "tensorrt_rtx":
        names["IExecutionContext"] += ("is_stream_capturable",)
        names["ICudaEngine"] += ("create_runtime_config",)
        names["IRuntimeConfig"] = ("create_runtime_cache", "set_runtime_cache")
        names["IRuntimeConfig"] += ("set_execution_context_allocation_strategy",)
        names["IRuntimeConfig"] += ("dynamic_shapes_kernel_specialization_strategy",)
        names["IRuntimeCache"] = ("serialize", "deserialize")
    for owner, members in names.items():
        for member in members:
            assert hasattr(getattr(LIBRARY, owner), member), f"{owner}.{member}"


# --- with a GPU ----------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_images_with_engines_for_2_to_3(model: ModelFile, count: int):
    images = np.random.default_rng(0).integers(0, 256, (count, 24, 32, 3), np.uint8)
    backend = create_backend(model, "tensorrt", batch=BatchProfile(2, 2, 3))
    for _ in range(2):
        mask, confidence = backend.infer(images, confidence=True)
        assert np.array_equal(mask, tiny_answer(images)[0])
        assert confidence is not None and np.array_equal(confidence, tiny_answer(images)[1])
    backend.close()


@needs_gpu
@pytest.mark.parametrize(("precision", "agreement"), [("float32", 0.999), ("float16", 0.995)])
def test_masks_agree_with_float32_in_onnxruntime(precision: str, agreement: float, tmp_path: Path):
    from bisenetv2_ros.convert.float16 import write_half_model

    reference = read_model_file(models_directory() / "bisenetv2_camvid_640x480_float32.onnx")
    model = reference
    if precision == "float16":
        write_half_model(reference, tmp_path / "half.onnx")
        model = read_model_file(tmp_path / "half.onnx")
    from bisenetv2_ros.cli.options import sample_frames

    frames = sample_frames("synthetic", 4, "--frames")
    with Segmenter(reference, backend="onnxruntime") as exact:
        expected = [exact(frame).mask for frame in frames]
    with Segmenter(model, backend="tensorrt") as quick:
        received = [quick(frame).mask for frame in frames]
    assert np.mean([a == b for a, b in zip(expected, received, strict=True)]) >= agreement
