"""The graph benchmark: its arithmetic, and one short run over a real graph. Nothing is timed."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_model import write_tiny_model

from bisenetv2_ros.benchmark import ros_graph
from bisenetv2_ros.benchmark.graph_results import Measurement, Report, jitters, merged
from bisenetv2_ros.benchmark.ros_graph import _Graph, find_peak
from bisenetv2_ros.benchmark.ros_graph_report import as_json, overload_lines, table, write_plot
from bisenetv2_ros.benchmark.ros_probes import Listener
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.node.fastdds import profile_variables


def measurement(latency_ms: float, **values: object) -> Measurement:
    """One run at 30 Hz of a camera whose frames all took that long."""
    made = Measurement((1280, 720), "raw", 1, 30.0)
    made.sent, made.seconds, made.masks, made.received, made.published = 100, 3.0, [98], 99, 98
    made.dropped = {"replaced": 1}
    made.latencies, made.bare, made.jitters = [latency_ms / 1e3] * 98, [0.010] * 98, [0.001] * 96
    made.cpu = {"camera": 0.1, "node": 0.5, "listener": 0.1}
    for name, value in values.items():
        setattr(made, name, value)
    return made


def test_a_run_tells_what_was_lost_and_what_the_node_added():
    run = measurement(12.5)
    assert run.lost == pytest.approx(0.02)
    assert run.added == pytest.approx(0.0025)
    assert run.uncounted == 0 and measurement(12.5, received=103).uncounted == 4


def test_the_share_is_that_of_the_camera_with_fewest_masks():
    assert measurement(1, masks=[30, 30, 30, 10]).fair_share == pytest.approx(0.4)
    assert math.isnan(measurement(1, masks=[0, 0]).fair_share)


def test_the_age_is_counted_in_inference_times():
    assert measurement(25, inference=[0.010] * 9).age == pytest.approx(2.5)


def test_jitter_is_the_change_of_the_interval():
    assert jitters([0.0, 1.0, 2.0, 4.0, 5.0]) == pytest.approx([0.0, 1.0, 1.0])
    assert jitters([0.0, 1.0]) == []


@pytest.mark.parametrize("limit", [12.0, 20.0, 29.0])
def test_the_peak_is_the_highest_rate_within_the_limit(limit: float):
    asked: list[float] = []

    def loss(rate: float) -> float:
        asked.append(rate)
        return 0.0 if rate <= limit else 1 - limit / rate + 0.05

    peak = find_peak(loss, 10.0, 30.0)
    assert limit - 20 / 2**5 <= peak <= limit
    assert peak in asked, "a rate that nobody measured is none"
    assert find_peak(lambda rate: 0.05, 10.0, 30.0) == 0, "5 % are too many"


def test_of_three_runs_the_best_and_the_worst_are_left_out():
    whole = merged([measurement(30), measurement(10), measurement(20)])
    assert whole.sent == 100 and set(whole.latencies) == {0.020}
    both = merged([measurement(30), measurement(10)])
    assert both.sent == 200 and both.masks == [196] and both.dropped == {"replaced": 2}
    assert len(both.latencies) == 196


def test_what_overload_and_several_cameras_do_is_told():
    overloaded = measurement(
        22, overload=True, rate=90.0, inference=[0.010], answers=[0.06], received=120
    )
    four = measurement(1, cameras=4, rate=10.0, masks=[10, 10, 10, 6])
    lines = overload_lines(Report(measurements=[measurement(25), overloaded, four]))
    age, answer, counts, share = lines
    assert "2.20 inference times" in age
    assert "slowest of 1 parameter requests 60.0 ms" in answer
    assert "21 not accounted for" in counts
    assert "4 cameras, 10 Hz: least share 67%" in share


def test_reports(tmp_path: Path):
    key = ((1280, 720), "raw", 1)
    report = Report("openvino, CPU", 1.5, [measurement(12.5), Measurement(*key, 60.0)], {key: 71.3})
    report.measurements[1].cpu = dict.fromkeys(("camera", "node", "listener"), 0.0)
    content = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert content["measurements"][0]["latency_ms"]["median"] == pytest.approx(12.5)
    assert content["measurements"][1]["added_ms"] is None
    assert content["peaks_hz"][0]["rate_hz"] == 71.3
    lines = table(report)
    assert "12.50" in lines and "1280x720 raw: 71.3 Hz" in lines
    pytest.importorskip("matplotlib")
    write_plot(report, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


class Probe:
    """Answers each request with what is prepared."""

    def __init__(self, **answers: object) -> None:
        self.answers, self.pid = answers, os.getpid()

    def ask(self, method: str, *_: object) -> object:
        return self.answers[method]


def test_a_mask_of_a_frame_before_the_run_is_not_counted():
    counters = [{"received": 9, "published": 9}]
    masks = [(0, 5, 6), (0, 10, 11), (0, 20, 22)]
    later = [{"received": 12, "published": 11, "replaced": 1}]
    listener = Probe(counters=counters, begin=None, end=(masks, [], [], later))
    node = SimpleNamespace(pid=os.getpid(), exit_code=lambda: None)
    run = Measurement((64, 48), "raw", 1, 30.0)
    _Graph(node, Probe(publish=[[10, 20, 30]]), listener, "raw", 1).run(run, 0.1)
    assert (run.sent, run.masks) == (3, [2])
    assert (run.received, run.published, run.dropped) == (3, 2, {"replaced": 1})


def test_the_first_mask_is_timed_from_the_start_of_the_node(monkeypatch: pytest.MonkeyPatch):
    """The masks of the second camera come later, and the wait for late ones is not counted."""
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 102.0, time_ns=lambda: 50 * 10**9, sleep=slept.append)
    monkeypatch.setattr(ros_graph, "time", clock)
    listener = Probe(begin=None, masks=[(0, 0, 49 * 10**9), (1, 0, int(49.5e9))])
    node = SimpleNamespace(pid=os.getpid(), started=100.0)
    assert _Graph(node, Probe(publish=[]), listener, "raw", 2).wait_for_masks() == 1.0
    assert slept, "late masks are awaited"


def test_counters_are_read_when_every_frame_is_accounted_for():
    """The diagnostics may come while a frame is segmented; it is not lost."""
    listener = Listener.__new__(Listener)
    listener._cameras = 1
    reports = iter([{}, {"frames received": "5", "frames published": "3"}])
    last = {"frames received": "5", "frames published": "3", "dropped: replaced": "2"}

    def spin_once(timeout_sec: float) -> None:
        listener._report = {"camera": values} if (values := next(reports, last)) else {}

    listener._executor = SimpleNamespace(spin_once=spin_once)
    assert listener.counters() == [{"received": 5, "published": 3, "replaced": 2}]


# Over ROS ----------------------------------------------------------------------------------------


def graph(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    from ros_graph import ENVIRONMENT

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name, value in profile_variables(ENVIRONMENT).items():
        monkeypatch.setenv(name, value)
    options = ["--graph", "--backend", "onnxruntime", "--threads", "1", "--sizes", "64x48"]
    return main(["benchmark", *options, "--rates", "20", "--seconds", "0.5", *words])


def test_two_cameras_over_a_real_graph(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "graph.json"
    words = [str(model), "--transports", "compressed", "--cameras", "2", "--json", str(out)]
    assert graph(words, monkeypatch) == 0
    assert "64x48 compressed, 2 cameras" in capsys.readouterr().out
    content = json.loads(out.read_text())
    steady, overload = content["measurements"]
    assert content["first_mask_s"] > 0
    # 1 s at 20 Hz with the warm-up; how many are late or lost is the machine's doing.
    assert 0 < sum(steady["masks"]) <= steady["sent"] <= 2 * 20
    for m in (steady, overload):
        node = m["node"]
        assert len(m["masks"]) == 2 and m["cpu_cores"]["node"] > 0 and m["node_memory_bytes"] > 2e7
        assert node["received"] == node["published"] + sum(node["dropped"].values())
        assert sum(m["masks"]) <= node["published"] <= m["sent"]
        assert 0 < m["latency_ms"]["median"] <= m["latency_ms"]["p99"]
    assert steady["bare_inference_ms"]["median"] > 0
    assert overload["overload"] and overload["parameter_answer_ms"]["max"] > 0
    assert overload["node_inference_ms"]["median"] > 0


def test_a_model_that_is_none_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "x.onnx").write_bytes(b"no model")
    assert graph([str(tmp_path / "x.onnx")], monkeypatch) == 2
    error = capsys.readouterr().err
    assert "x.onnx" in error and error.count("\n") == 1
