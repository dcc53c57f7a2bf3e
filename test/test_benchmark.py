"""The benchmark's bookkeeping: what it runs, counts, compares, writes. No test times anything."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from gpu import what_is_missing
from patience import HANG
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.backends import BackendUnavailable, create_backend
from bisenetv2_ros.benchmark import frames as benchmark
from bisenetv2_ros.benchmark import roofline
from bisenetv2_ros.benchmark.case import NNCF, PLAIN, STAGES, TORCH, Case, Result
from bisenetv2_ros.benchmark.frames import measure
from bisenetv2_ros.benchmark.frames_report import (
    as_json,
    reference_of,
    roofline_table,
    speed_up,
    table,
    undominated,
    write_plot,
)
from bisenetv2_ros.benchmark.machine import machine
from bisenetv2_ros.benchmark.model_variants import resized
from bisenetv2_ros.benchmark.worker import WorkerLost, worker
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.model_file import ModelFileError, read_model_file


def result(
    backend: str,
    precision: str,
    network_ms: list[float],
    size: tuple[int, int] = (32, 24),
    name: str = "m",
) -> Result:
    """A measured case, its other stages 1 ms each."""
    seconds = {name: [1e-3] * len(network_ms) for name in STAGES}
    seconds["network"] = [1e-3 * value for value in network_ms]
    case = Case(Path(f"{name}_{precision}.onnx"), backend)
    return Result(
        case, f"{name}_{precision}", precision, size, f"{backend}, CPU", seconds, 0.5, 10_000_000
    )


def test_a_frame_is_the_sum_of_its_stages():
    assert result("openvino", "int8", [6.0, 16.0]).frames == pytest.approx([0.010, 0.020])
    assert result("openvino", "int8", [6.0, 16.0]).cpu_per_frame == 0.25


def test_speed_up_is_over_the_references_of_the_same_size():
    plain = result(PLAIN, "float32", [36.0, 36.0, 96.0])
    torch = result(TORCH, "float32", [76.0])
    quick = result("openvino", "int8", [6.0, 6.0, 6.0])
    other_size = result("openvino", "int8", [6.0], (64, 48))
    results = [quick, result("onnxruntime", "float32", [1.0]), other_size, plain, torch]
    assert reference_of(quick, results, PLAIN) is plain
    assert speed_up(quick, results, PLAIN) == pytest.approx(4.0)
    assert speed_up(quick, results, TORCH) == pytest.approx(8.0)
    assert speed_up(plain, results, PLAIN) == 1.0
    assert math.isnan(speed_up(other_size, results, PLAIN))


def test_two_networks_of_a_size_have_references_of_their_own():
    plains = [result(PLAIN, "float32", [9.0], name=name) for name in ("wide", "slim")]
    slim, wide, other = (
        result("openvino", "int8", [6.0], name=name) for name in ("slim", "wide", "other")
    )
    results = [slim, wide, other, *plains]
    assert reference_of(slim, results, PLAIN) is plains[1]
    assert reference_of(wide, results, PLAIN) is plains[0]
    assert reference_of(other, results, PLAIN) is None
    assert reference_of(other, results[:4], PLAIN) is plains[0], "the only one of its size"


def test_table_is_sorted_by_speed_and_holds_the_figures():
    lines = table(
        [
            result(PLAIN, "float32", [36.0, 36.0, 96.0]),
            result("openvino", "int8", [6.0, 6.0, 6.0]),
            result("openvino", "int8", [996.0], (64, 48)),
        ]
    ).splitlines()
    head, *rows = [line.split() for line in lines]
    assert head[:2] == ["model", "runs"]
    assert [row[0] for row in rows] == ["m_int8", "m_float32", "m_int8"]
    ones, cpu = ["1.00", "1.00"], "166.67"
    assert rows[0][3:] == [
        *(*ones, "6.00", *ones, "10.00", "10.00", cpu, "100.0", "4.00", "-", "-", "-", "10")
    ]
    assert rows[1][3:] == [
        *(*ones, "36.00", *ones, "40.00", "98.80", cpu, "25.0", "1.00", "-", "-", "-", "10")
    ]
    assert rows[2][-5:-1] == ["-", "-", "-", "-"]


def test_cases_run_in_processes_of_their_own(tmp_path: Path):
    pytest.importorskip("openvino")
    path = write_tiny_model(tmp_path / "tiny.onnx")
    images = [np.zeros((48, 64, 3), np.uint8)] * 2
    cases = [Case(path, name, threads=1) for name in ("onnxruntime", "tensorrt", "openvino")]
    turns: list[None] = []
    results, skipped = measure(cases, images, 7, lambda: turns.append(None))
    on_gpu = [] if what_is_missing() else ["tensorrt"]
    ran = [measured.case.backend for measured in results]
    assert ran == ["onnxruntime", *on_gpu, "openvino"]
    assert skipped == ([what_is_missing()] if what_is_missing() else [])
    assert len(turns) == 2 * len(ran), "7 frames are two turns"
    for measured in results:
        if measured.case.backend == "tensorrt":
            continue
        assert measured.model == "tiny" and measured.input_size == (32, 24)
        assert measured.runs_on == f"{measured.case.backend}, CPU (1 threads)"
        assert {name: len(values) for name, values in measured.seconds.items()} == dict.fromkeys(
            STAGES, 7
        )
        times = [measured.seconds[name] for name in STAGES if name != "tail"]
        assert all(value > 0 for values in times for value in values)
        assert measured.cpu_seconds > 0
        assert 10e6 < measured.peak_memory < 2e9


def test_a_file_that_is_no_model_ends_it(tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    with pytest.raises(ModelFileError, match=r"x\.onnx"):
        measure([Case(tmp_path / "x.onnx", "onnxruntime")], [np.zeros((8, 8, 3), np.uint8)], 1)


def test_a_worker_answers_until_it_fails_or_ends():
    with worker("words", list, "ab") as words:
        words.answer()
        assert words.ask("index", "b") == 1
        with pytest.raises(ValueError, match="c"):
            words.ask("index", "c")
        with pytest.raises(WorkerLost, match="the benchmark's process 'words' ended early"):
            words.ask("index", "a")
    with worker("gone", os._exit, 3) as gone, pytest.raises(WorkerLost, match="'gone' ended"):
        gone.answer()


def test_machine_is_described():
    facts = machine()
    assert facts["cpu"] and facts["cores"] >= 1 and facts["memory_bytes"] > 2**26
    assert facts["packages"]["numpy"] == np.__version__
    json.dumps(facts)


def test_parts_on_the_device_and_their_roofline():
    quick = result("tensorrt", "float16", [2.0])
    quick.device_seconds = {"upload": [1e-4], "network": [8e-4, 9e-4, 4e-4], "download": [5e-5]}
    results = [quick, result("openvino", "int8", [7.0])]
    assert roofline_table(results, {}) == (
        f"m_float16 on {quick.runs_on}, medians in ms: upload 0.100, network 0.800, download 0.050"
    )
    line = roofline_table(results, {(quick.case.path, "tensorrt"): 4e-4})
    assert line.endswith("; roofline of the network 0.400, ratio 2.00")
    assert roofline_table(results[1:], {}) == ""
    line = roofline_table(results[1:], {(results[1].case.path, "openvino"): 1e-3})
    assert "; roofline of the network 1.000, ratio " in line
    json.dumps(as_json(results, []), allow_nan=False)


def test_torch_s_network_in_half_gives_the_same_masks():
    torch = pytest.importorskip("torch")
    from small_network import SIZE, small_network, street_frames

    from bisenetv2_ros.benchmark.references import _half_network
    from bisenetv2_ros.resize import resize_image

    frame = torch.from_numpy(np.ascontiguousarray(resize_image(street_frames(1)[0], SIZE)))
    deployed = small_network()
    with torch.inference_mode():
        expected = deployed(frame[None])[0]
        deployed.network = _half_network(deployed.network)
        received = deployed(frame[None])[0]
    assert next(deployed.network.parameters()).dtype == torch.float16
    assert float((expected == received).float().mean()) > 0.98


def test_plot(tmp_path: Path):
    pytest.importorskip("matplotlib")
    write_plot([result("openvino", "int8", [7.0])], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_the_plot_has_accuracy_over_latency_where_models_state_it(tmp_path: Path):
    pytest.importorskip("matplotlib")
    results = [result("openvino", "int8", [7.0]), result("openvino", "float32", [9.0])]
    results[0].mean_iou = 0.5
    write_plot(results, tmp_path / "one.png")
    results[1].mean_iou = 0.6
    write_plot(results, tmp_path / "two.png")
    widths = [cv2.imread(str(tmp_path / f"{name}.png")).shape[1] for name in ("one", "two")]
    assert widths[1] > widths[0], "a second panel"


def test_undominated_points_rise():
    points = [(3.0, 0.6), (1.0, 0.5), (2.0, 0.4), (4.0, 0.7), (3.0, 0.65), (5.0, 0.7)]
    assert undominated(points) == [(1.0, 0.5), (3.0, 0.65), (4.0, 0.7)]
    assert undominated([]) == []


def test_json_has_no_nan():
    content = as_json([result("openvino", "int8", [6.0, 16.0])], ["why"])
    json.dumps(content, allow_nan=False)
    (measured,) = content["results"]
    assert measured["speed_up"] == {PLAIN: None, NNCF: None, TORCH: None} and content[
        "skipped"
    ] == ["why"]
    assert measured["frame_ms"]["median"] == pytest.approx(15.0)
    assert measured["stages_ms"]["decode"]["p99"] == pytest.approx(1.0)
    assert measured["cpu_ms_per_frame"] == pytest.approx(250.0)


# --- the verb ------------------------------------------------------------------------------------


def test_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    float32 = write_tiny_model(tmp_path / "tiny_float32.onnx")
    int8 = write_tiny_model(
        tmp_path / "tiny_int8.onnx", dataclasses.replace(tiny_info(), precision="int8")
    )
    out = tmp_path / "out.json"
    options = ["--backend", "onnxruntime", "--frames", "3", "--threads", "1", "--json", str(out)]
    code = main(["benchmark", str(float32), str(int8), *options])
    printed = capsys.readouterr().out
    assert code == 0
    assert "3 frames of 960x720" in printed and "tiny_int8" in printed
    results = json.loads(out.read_text())["results"]
    assert [measured["precision"] for measured in results] == ["float32", "int8"]
    assert results[0]["stages_ms"]["tail"]["median"] == 0, "the tiny model has none to tell apart"
    assert json.loads(out.read_text())["roofline_ms"] == {}, "it multiplies and adds nothing"


def test_every_network_has_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path, _ = small_model(tmp_path)
    other = Path(shutil.copy(path, tmp_path / f"other_{path.name}"))
    out = tmp_path / "out.json"
    options = ["--backend", "onnxruntime", "--frames", "1", "--threads", "1", "--json", str(out)]
    assert main(["benchmark", str(path), str(other), *options]) == 0
    ran = [(r["model"], r["runs_on"].split()[0]) for r in json.loads(out.read_text())["results"]]
    assert {name for name, how in ran if how == "plain"} == {path.stem, other.stem}


def test_references_and_tail_of_a_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    path, _ = small_model(tmp_path)
    asked: list[tuple[str, int]] = []

    def measure_cpu(*of: Any) -> roofline.Rates:  # test_roofline.py has the real one
        asked.append(of)
        return roofline.Rates("a CPU", 1e9, math.inf)

    monkeypatch.setattr(roofline, "measure_cpu", measure_cpu)
    out = tmp_path / "out.json"
    options = ["--backend", "openvino", "--frames", "6", "--threads", "1", "--size", "64x32"]
    assert main(["benchmark", str(path), *options, "--json", str(out)]) == 0
    content = json.loads(out.read_text())
    measured = {result["runs_on"].split()[0]: result for result in content["results"]}
    ours, plain = measured["openvino,"], measured["plain"]
    assert ours["input_size"] == plain["input_size"] == [64, 32] and ours["mean_iou"] is None
    assert plain["runs_on"].startswith("plain onnxruntime") and plain["speed_up"][PLAIN] == 1.0
    assert ours["speed_up"][PLAIN] > 0 and ours["stages_ms"]["tail"]["median"] != 0
    assert [*content["roofline_ms"]] == [f"{ours['model']} on openvino"]
    work = roofline.work_of(resized(read_model_file(path), (64, 32), tmp_path).path)
    (least,) = content["roofline_ms"].values()
    assert least == pytest.approx(1e3 * work.multiply_adds / 1e9) and least > 0
    assert asked == [("float32", 1)]
    assert "roofline: a CPU: 1 G multiply-adds/s" in capsys.readouterr().out
    missing = " ".join(content["skipped"])
    assert "no torch reference" in missing, "its widths are not the paper's"
    if importlib.util.find_spec("nncf"):
        assert measured["nncf"]["precision"] == "int8" and ours["speed_up"][NNCF] > 0
    else:
        assert "no nncf reference: nncf is not installed: run `pip install nncf" in missing


def test_without_onnxruntime_there_is_no_plain_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="run `pip install onnxruntime`"):
        benchmark._load(Case(Path("m.onnx"), PLAIN))


# --- variants of a model file ---------------------------------------------------------------------


def small_model(directory: Path) -> tuple[Path, Any]:
    """The file of a network of random weights, for 96x64, and the network."""
    pytest.importorskip("torch")
    pytest.importorskip("openvino")
    from small_network import SIZE, small_network, street_frames

    from bisenetv2_ros.training.export import export_model

    network = small_network()
    path = directory / f"small_{SIZE[0]}x{SIZE[1]}.onnx"
    export_model(network, dataclasses.replace(tiny_info(), input_size=SIZE), path, street_frames(1))
    return path, network


def test_variants_of_a_model_compute_what_they_say(tmp_path: Path):
    path, network = small_model(tmp_path)
    import torch
    from small_network import MEAN, STD, street_frames

    from bisenetv2_ros.benchmark.model_variants import PLAIN_INPUT, plain, without_tail
    from bisenetv2_ros.resize import resize_image

    size = (64, 32)
    other = resized(read_model_file(path), size, tmp_path)
    assert other.info.input_size == size and other.info.metrics == {}
    frame = np.ascontiguousarray(resize_image(street_frames(1)[0], size))[np.newaxis]
    with torch.inference_mode():
        expected = network(torch.from_numpy(frame))[0].numpy()
    assert len(np.unique(expected)) > 2, "a mask that shows whether it is the right one"
    (mask,) = create_backend(other, "onnxruntime").infer(frame)[0]
    assert (mask == expected).mean() > 0.999

    graph = plain(other)
    assert graph is not None
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    pixels = ((frame / 255 - MEAN) / STD).transpose(0, 3, 1, 2).astype(np.float32)
    logits = session.run(None, {PLAIN_INPUT: pixels})[0]
    assert logits.shape == (1, 11, 32, 64)
    assert (logits.argmax(1) == expected).mean() > 0.999

    short = without_tail(other, tmp_path)
    assert short is not None
    (answer,) = create_backend(short, "openvino", threads=1).infer(frame)[0]
    assert answer.shape == (4, 8) and not answer.any()
    with pytest.raises(ValueError, match="size is 60x32, expected multiples of 32"):
        resized(other, (60, 32), tmp_path)


def test_a_model_without_a_tail_has_no_variants(tmp_path: Path):
    from bisenetv2_ros.benchmark.model_variants import plain, without_tail

    tiny = read_model_file(write_tiny_model(tmp_path / "tiny.onnx"))
    assert plain(tiny) is None and without_tail(tiny, tmp_path) is None


def test_the_installed_program(tmp_path: Path):
    program = shutil.which("bisenetv2")
    if program is None:
        pytest.skip("the package is not installed")
    model = write_tiny_model(tmp_path / "tiny.onnx")
    command = [program, "benchmark", model, "--backend", "onnxruntime", "--frames", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * HANG, check=False)
    assert done.returncode == 0 and "tiny" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--backend", "tflite"], "backend 'tflite' is unknown, expected tensorrt, openvino"),
        (["nowhere.onnx"], "model 'nowhere.onnx': no such file"),
        (["tiny.onnx", "--source", "nowhere"], "'nowhere'"),
        pytest.param(
            ["tiny.onnx", "--backend", "tensorrt"],
            what_is_missing(),
            marks=pytest.mark.skipif(not what_is_missing(), reason="TensorRT runs here"),
        ),
        (["tiny.onnx", "--device", "quantum"], "no device 'quantum'"),
        pytest.param(
            ["tiny.onnx", "--device", "cuda"],
            "tensorrt: no NVIDIA driver",
            marks=pytest.mark.skipif(
                not what_is_missing().startswith("tensorrt: no NVIDIA driver"),
                reason="there is a GPU, or no TensorRT",
            ),
        ),
    ],
)
def test_verb_with_what_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    write_tiny_model(Path("tiny.onnx"))
    assert main(["benchmark", *arguments, "--frames", "1"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_a_model_is_not_overwritten_by_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    before = model.read_bytes()
    output = tmp_path / "figures.png"
    output.symlink_to(model)
    assert main(["benchmark", str(model), "--frames", "1", option, str(output)]) == 2
    error = capsys.readouterr().err
    assert f"{output} is read (as {model}) and would be overwritten" in error
    assert model.read_bytes() == before
