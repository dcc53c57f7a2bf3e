"""Every backend gives the same answers, takes any strides, and says what is wrong or missing."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from gpu import needs_gpu, what_is_missing
from onnx import TensorProto, helper
from tiny_model import tiny_answer, tiny_model, write_tiny_model

from bisenetv2_ros import backends
from bisenetv2_ros.backends import (
    BACKENDS,
    Backend,
    BackendUnavailable,
    base,
    create_backend,
    engine_target,
)
from bisenetv2_ros.backends.base import available_cores
from bisenetv2_ros.model_file import ModelFile, ModelFileError, read_model_file


def needs(name: str) -> pytest.MarkDecorator:
    if name == "tensorrt":
        return needs_gpu
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"{name} is not installed")


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    return read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))


@pytest.fixture(params=[pytest.param(name, marks=needs(name)) for name in BACKENDS])
def backend(request: pytest.FixtureRequest, model: ModelFile) -> Iterator[Backend]:
    backend = create_backend(model, request.param, threads=1)
    yield backend
    backend.close()


def images(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 32, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("confidence", [False, True])
def test_answers(backend: Backend, count: int, confidence: bool):
    batch = images(count)
    expected_mask, expected_confidence = tiny_answer(batch)
    mask, confidences = backend.infer(batch, confidence)
    assert {one.dtype for one in mask} == {np.dtype(np.uint8)} and len(mask) == count
    assert np.array_equal(mask, expected_mask)
    if confidence:
        assert confidences is not None and {one.dtype for one in confidences} == {np.dtype("u1")}
        assert np.array_equal(confidences, expected_confidence)
    else:
        assert confidences is None


def test_read_only_images(backend: Backend):
    """As a frame of the network's own size arrives: a view of the message's bytes."""
    batch = np.frombuffer(images().tobytes(), np.uint8).reshape(1, 24, 32, 3)
    mask, _ = backend.infer(batch)
    assert np.array_equal(mask, tiny_answer(batch)[0])


def test_asking_for_confidence_now_and_then(backend: Backend):
    for seed, confidence in enumerate([False, True, False, True]):
        batch = images(seed=seed)
        mask, confidences = backend.infer(batch, confidence)
        assert np.array_equal(mask, tiny_answer(batch)[0])
        assert (confidences is not None) == confidence


@pytest.mark.parametrize(
    "view",
    [
        lambda whole: whole[:, 3:27, 5:37],
        lambda whole: whole[:, ::2, ::2],
        lambda whole: whole[:, 23::-1, 31::-1],
        lambda whole: whole[:, :24, :32, ::-1],
        lambda whole: whole.transpose(0, 2, 1, 3)[:, :24, :32],
    ],
    ids=["crop", "every second", "mirrored", "swapped channels", "transposed"],
)
def test_strided_images(backend: Backend, view):
    whole = np.random.default_rng(1).integers(0, 256, (2, 48, 64, 3), np.uint8)
    batch = view(whole)
    assert batch.shape == (2, 24, 32, 3) and not batch.flags["C_CONTIGUOUS"]
    assert np.array_equal(backend.infer(batch)[0], tiny_answer(batch)[0])


@pytest.mark.parametrize(
    ("wrong", "received"),
    [
        (images()[0], r"uint8 \(24, 32, 3\)"),
        (images()[:, :23], r"uint8 \(1, 23, 32, 3\)"),
        (images()[..., :2], r"uint8 \(1, 24, 32, 2\)"),
        (images()[:0], r"uint8 \(0, 24, 32, 3\)"),
        (images().astype(np.float32), r"float32 \(1, 24, 32, 3\)"),
        (images().astype(np.int8), r"int8 \(1, 24, 32, 3\)"),
        (images().tolist(), "list"),
    ],
)
def test_wrong_images_are_named(backend: Backend, wrong, received: str):
    expected = rf"images are {received}, expected uint8 \(N, 24, 32, 3\) for model 'tiny'"
    with pytest.raises(ValueError, match=expected):
        backend.infer(wrong)
    assert np.array_equal(backend.infer(images())[0], tiny_answer(images())[0]), "still works"


@needs("onnxruntime")
def test_onnxruntime_does_not_compute_what_nobody_asked_for(tmp_path: Path):
    """The way to the confidence holds a reshape that fails on images that are not black."""
    model = tiny_model()
    nodes = model.graph.node
    nodes[-1].output[0] = "flat"
    nodes.extend(
        [
            helper.make_node("Constant", [], ["size"], value_ints=[1, 24, 32]),
            helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
            helper.make_node("Cast", ["brightest"], ["more"], to=TensorProto.INT64),
            helper.make_node("Add", ["size", "more"], ["wrong_size"]),
            helper.make_node("Reshape", ["flat", "wrong_size"], ["confidence"]),
        ]
    )
    path = tmp_path / "fragile.onnx"
    onnx.save(model, path)
    fragile = create_backend(read_model_file(path), "onnxruntime", threads=1)
    batch = images()
    assert np.array_equal(fragile.infer(batch)[0], tiny_answer(batch)[0])
    with pytest.raises(Exception, match=r"Reshape"):
        fragile.infer(batch, confidence=True)


@needs("openvino")
def test_openvino_does_not_compute_what_nobody_asked_for(model: ModelFile):
    """It takes impossible reshapes without a word; its compiled graphs tell what they compute."""
    backend = create_backend(model, "openvino", threads=1)
    backend.infer(images(), confidence=True)
    operations = {
        asked: len(request.get_compiled_model().get_runtime_model().get_ops())
        for asked, request in backend._requests.items()
    }
    assert operations[False] < operations[True]


def test_closing_twice(backend: Backend):
    backend.close()
    backend.close()


def test_a_runtime_that_cannot_load_a_checked_file_is_one_line(tmp_path: Path, backend: Backend):
    model = tiny_model()
    model.graph.node[3].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        ModelFileError, match=rf"{path}: {backend.name}\w* cannot load it"
    ) as caught:
        create_backend(read_model_file(path), backend.name)
    assert "\n" not in str(caught.value)


# --- choosing ------------------------------------------------------------------------------------


def test_unknown_backend(model: ModelFile):
    message = "backend 'tflite' is unknown, expected auto, tensorrt, openvino, onnxruntime"
    with pytest.raises(ValueError, match=message):
        create_backend(model, "tflite")


@pytest.mark.parametrize("typed", ["OpenVINO", "openvin", "OPENVINO"])
def test_backend_that_is_nearly_known(model: ModelFile, typed: str):
    with pytest.raises(ValueError, match=f"backend '{typed}' .*; did you mean openvino\\?"):
        create_backend(model, typed)


def test_negative_threads(model: ModelFile):
    with pytest.raises(ValueError, match=r"threads must be 0 .* or more, got -1"):
        create_backend(model, threads=-1)


def test_a_device_that_is_not_there(model: ModelFile, backend: Backend):
    with pytest.raises(BackendUnavailable, match=r"no device 'quantum'.*install"):
        create_backend(model, backend.name, device="quantum")


@needs("openvino")
@pytest.mark.parametrize(
    ("listed", "asked", "found"),
    [
        (["CPU", "GPU"], "gpu.0", True),
        (["CPU", "GPU.0", "GPU.1"], "gpu", True),
        (["CPU", "GPU"], "gpu.3", False),
    ],
)
def test_openvino_is_asked_for_a_device_by_any_of_its_names(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, listed, asked: str, found: bool
):
    from bisenetv2_ros.backends import openvino

    core = openvino.CORE

    class Core:
        available_devices = listed
        read_model = staticmethod(core.read_model)

        def get_property(self, target: str, name: str):
            if not found:
                raise RuntimeError("Exception from core.cpp:1\n[GPU] no device with id 3")
            return ["FP32"]

        def compile_model(self, part, target: str, options):
            assert target == asked.upper()
            return core.compile_model(part, "CPU", options)

    monkeypatch.setattr(openvino, "CORE", Core())
    if found:
        assert create_backend(model, "openvino", asked).device == asked.upper()
    else:
        with pytest.raises(BackendUnavailable, match=r"'gpu.3': .*core.cpp:1 \[GPU\] no device"):
            create_backend(model, "openvino", asked)


@needs("onnxruntime")
def test_a_device_is_never_replaced_by_another(model: ModelFile):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine has CUDA")
    with pytest.raises(BackendUnavailable, match="onnxruntime-gpu"):
        create_backend(model, "onnxruntime", device="cuda:0")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"], indirect=True)
def test_device_and_threads_are_described(model: ModelFile, backend: Backend):
    assert create_backend(model, backend.name, device="cpu", threads=2).device == "CPU (2 threads)"
    cores = available_cores()
    assert create_backend(model, backend.name).device == f"CPU ({cores} threads)"


def test_a_runtime_that_is_not_installed(model: ModelFile, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, "openvino")
    with pytest.raises(BackendUnavailable, match=r"'openvino' cannot .*`pip install openvino`"):
        create_backend(model, "openvino")


def without(monkeypatch: pytest.MonkeyPatch, *runtimes: str) -> None:
    for name in runtimes:
        for module in [name] if name != "tensorrt" else engine_target.MODULES:
            monkeypatch.setitem(sys.modules, module, None)
        for module in (name, f"{name}_runtime"):  # so that the old one comes back whole
            monkeypatch.delitem(sys.modules, f"bisenetv2_ros.backends.{module}", raising=False)
            monkeypatch.delattr(backends, module, raising=False)


@needs("openvino")
@pytest.mark.skipif(not what_is_missing(), reason="TensorRT runs here")
def test_auto_takes_the_first_that_is_there(model: ModelFile, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "bisenetv2_ros.backends"):
        assert create_backend(model).name == "openvino"
    assert "backend openvino on CPU" in caplog.text
    assert what_is_missing() in caplog.text


@needs("onnxruntime")
def test_auto_goes_on_to_the_next(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    without(monkeypatch, "tensorrt", "openvino")
    with caplog.at_level(logging.INFO, "bisenetv2_ros.backends"):
        assert create_backend(model).name == "onnxruntime"
    assert "`pip install openvino`" in caplog.text


def test_auto_with_nothing_there_says_why(model: ModelFile, monkeypatch: pytest.MonkeyPatch):
    without(monkeypatch, *BACKENDS)
    with pytest.raises(BackendUnavailable) as caught:
        create_backend(model)
    for package in ("tensorrt-rtx cuda-bindings", "openvino", "onnxruntime"):
        assert f"`pip install {package}`" in str(caught.value)


def test_auto_does_not_hide_a_bad_model(tmp_path: Path):
    model = tiny_model()
    model.graph.node[3].op_type = "NoSuchOperator"
    path = tmp_path / "odd.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError):
        create_backend(read_model_file(path))


# --- cores and imports ---------------------------------------------------------------------------


def test_cores_follow_the_affinity_of_the_process():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "from bisenetv2_ros.backends import available_cores; print(available_cores())"
    )
    assert run_python(code) == "1"


def test_two_threads_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch):
    siblings = {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(base, "cpu_quota", lambda: math.inf)
    monkeypatch.setattr(Path, "read_text", lambda path: siblings[int(path.parts[-3][3:])])
    assert available_cores() == 2


def test_cores_without_a_topology(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {10**6, 10**6 + 1, 10**6 + 2})
    assert available_cores() == 3


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cgroup": "0::/\n", "cpu.max": "150000 100000\n"}, 1.5),
        ({"cgroup": "0::/\n", "cpu.max": "max 100000\n"}, math.inf),
        # the parent's quota holds too, and in a container the path may be the host's
        (
            {"cgroup": "0::/a/b\n", "a/cpu.max": "50000 100000\n", "a/b/cpu.max": "max 100000\n"},
            0.5,
        ),
        ({"cgroup": "0::/docker/1f\n", "cpu.max": "200000 100000\n"}, 2.0),
        (
            {
                "cgroup": "5:cpuset:/x\n4:cpu,cpuacct:/x\n",
                "cpu,cpuacct/x/cpu.cfs_quota_us": "300000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            3.0,
        ),
        (
            {
                "cgroup": "4:cpu:/\n",
                "cpu/cpu.cfs_quota_us": "-1\n",
                "cpu/cpu.cfs_period_us": "100000\n",
            },
            math.inf,
        ),
        ({}, math.inf),
    ],
)
def test_cpu_quota_of_the_container(tmp_path: Path, files: dict[str, str], quota: float):
    for name, text in files.items():
        top = "proc/self" if name == "cgroup" else "sys/fs/cgroup"
        (tmp_path / top / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / top / name).write_text(text)
    assert base.cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(("quota", "threads"), [(0.5, 1), (1.0, 1), (1.5, 2), (99.0, 4)])
def test_threads_follow_the_cpu_quota(monkeypatch: pytest.MonkeyPatch, quota: float, threads: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {10**6 + i for i in range(4)})
    monkeypatch.setattr(base, "cpu_quota", lambda: quota)
    assert available_cores() == threads


def test_runtimes_are_imported_on_demand():
    code = (
        "import sys, bisenetv2_ros.segmenter;"
        "print([n for n in ('openvino', 'onnxruntime', 'onnx', 'torch') if n in sys.modules])"
    )
    assert run_python(code) == "[]"


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_cpu_runtimes_that_are_absent_are_left_out(model, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.setitem(BACKENDS, "openvino", "no_such_module.Backend")
    assert [backend.name for backend in backends.load_on_cpu(model)] == ["onnxruntime"]
    monkeypatch.setitem(BACKENDS, "onnxruntime", "no_such_module.Backend")
    with pytest.raises(BackendUnavailable, match=r"pip install onnxruntime.*pip install openvino"):
        list(backends.load_on_cpu(model))


@needs("openvino")
def test_signals_are_handled_after_models_are_closed_in_the_order_of_loading(model: ModelFile):
    """OpenVINO then left the thread a freed stack for them, and the process ended by SIGSEGV."""
    code = f"""
import os, signal
from bisenetv2_ros.segmenter import Segmenter
first, second = (Segmenter({str(model.path)!r}, backend="openvino") for _ in range(2))
first.close()
del first
second.close()
del second
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
