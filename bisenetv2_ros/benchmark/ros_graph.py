"""Measures the ROS graph: camera, node and listener as processes, from outside.

Follows the rules of ros2_benchmark (r2b): prepared frames at fixed rates; latency from the camera's
stamp to the mask's arrival at the listener; jitter as the difference between consecutive intervals
of masks; as the peak, the highest rate at which less than 5 % of the frames get no mask. A
measurement can be repeated; the best and the worst run are then left out. Inference without ROS is
measured at the same rate, so that the difference is the cost of the node.

Starts processes and does arithmetic; ROS is used in `ros_probes` and in the node.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bisenetv2_ros.benchmark.graph_results import Measurement, Report, jitters, merged
from bisenetv2_ros.benchmark.ros_probes import NAMESPACE, bare, image_topic, listen, publish
from bisenetv2_ros.benchmark.worker import Worker, worker
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.system.child_process import Child, end_all
from bisenetv2_ros.system.process_usage import cpu_seconds, resident_memory

WARM_UP = 0.5  # seconds at the start of each measurement that are not counted
SETTLE = 0.3  # seconds for the last masks to arrive
START_TIMEOUT = 60.0  # seconds for the node's first mask
LOSS_LIMIT = 0.05  # largest fraction of frames without a mask at a rate that counts as reached
PEAK_STEPS = 5  # bisections in the search for the peak
OVERLOAD = 2.0  # times the rate that keeps inference alone busy


class GraphError(RuntimeError):
    """The graph did not start or ended early; the message has the process and its last lines."""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    model: Path
    backend: str
    device: str = ""
    threads: int = 0
    sizes: tuple[tuple[int, int], ...] = ((1280, 720),)  #: of the camera, (width, height)
    transports: tuple[str, ...] = ("raw",)
    cameras: tuple[int, ...] = (1, 4)
    rates: tuple[float, ...] = (10.0, 30.0, 60.0)  #: Hz, of one camera; of several, the first
    seconds: float = 3.0
    runs: int = 1

    @property
    def measurements(self) -> int:
        """How many times `on_progress` is called."""
        per_size = sum(len(self.rates_of(cameras)) + 2 for cameras in self.cameras)
        return len(self.sizes) * len(self.transports) * per_size

    def rates_of(self, cameras: int) -> tuple[float, ...]:
        """The fixed rates for that many cameras."""
        return self.rates if cameras == 1 else self.rates[:1]


def measure_graph(
    plan: Plan, images: Sequence[np.ndarray], on_progress: Callable[[], object] = lambda: None
) -> Report:
    """Run the plan; images are (H, W, 3) uint8 RGB of any size.

    Raises GraphError if a process ends or the node publishes no masks, and the errors of loading
    the model.
    """
    report = Report()
    with (
        tempfile.TemporaryDirectory() as directory,
        worker("bare", bare, plan.model, plan.backend, plan.device, plan.threads) as alone,
    ):
        alone.answer()
        report.runs_on = alone.ask("runs_on")
        for transport, cameras in itertools.product(plan.transports, plan.cameras):
            with _graph(plan, transport, cameras, Path(directory) / "node.log") as graph:
                for size in plan.sizes:
                    resized = [np.ascontiguousarray(resize_image(image, size)) for image in images]
                    graph.camera.ask("load", resized)
                    first_mask = graph.wait_for_masks()
                    if math.isnan(report.first_mask):
                        report.first_mask = first_mask
                    for done in _measure_size(plan, graph, alone, resized[0], report.peaks):
                        report.measurements.append(done)
                        on_progress()
                    on_progress()
    return report


def _measure_size(
    plan: Plan,
    graph: _Graph,
    alone: Worker,
    image: np.ndarray,
    peaks: dict[tuple[tuple[int, int], str, int], float],
) -> Iterator[Measurement]:
    """Measure at each rate and in overload, then find the peak rate and add it to `peaks`."""
    height, width = image.shape[:2]
    size = (width, height)

    def new(rate: float, overload: bool = False) -> Measurement:
        return Measurement(size, graph.transport, graph.cameras, rate, overload)

    inference = []
    for rate in plan.rates_of(graph.cameras):
        runs = []
        for _ in range(plan.runs):
            run = new(rate)
            run.bare = alone.ask("measure", image, rate, plan.seconds)
            graph.run(run, plan.seconds)
            runs.append(run)
            inference += run.bare
        yield merged(runs)
    busy = 1 / statistics.median(inference) / graph.cameras
    runs = [new(OVERLOAD * busy, overload=True) for _ in range(plan.runs)]
    for run in runs:
        graph.run(run, plan.seconds)
    overloaded = merged(runs)
    yield overloaded
    capacity = sum(overloaded.masks) / overloaded.seconds / graph.cameras
    peaks[size, graph.transport, graph.cameras] = (
        find_peak(lambda rate: graph.loss(rate, plan.seconds), 0.4 * capacity, 1.1 * capacity)
        if capacity
        else 0.0
    )


def find_peak(loss: Callable[[float], float], low: float, high: float) -> float:
    """The highest rate [Hz] between two at which the fraction of lost frames is within the limit.

    loss: measures it at a rate. Returns 0 if even `low` exceeds the limit.
    """
    peak = 0.0
    if loss(low) < LOSS_LIMIT:
        peak = low
        for _ in range(PEAK_STEPS):
            middle = (low + high) / 2
            if loss(middle) < LOSS_LIMIT:
                peak = low = middle
            else:
                high = middle
    return peak


class _Graph:
    """A running camera, node and listener."""

    def __init__(
        self, node: Child, camera: Worker, listener: Worker, transport: str, cameras: int
    ) -> None:
        self.camera, self.listener, self._node = camera, listener, node
        self.transport, self.cameras = transport, cameras
        self._pids = {"camera": camera.pid, "node": node.pid, "listener": listener.pid}

    def wait_for_masks(self) -> float:
        """Send frames until each camera has a mask; return the seconds from start to first mask."""
        deadline = time.monotonic() + START_TIMEOUT
        self.listener.ask("begin", False)
        while True:
            self.camera.ask("publish", 20.0, 0.05)
            masks = self.listener.ask("masks")
            if len({camera for camera, _, _ in masks}) == self.cameras:
                first = min(arrival for _, _, arrival in masks)
                since_first = (time.time_ns() - first) / 1e9
                seconds = time.monotonic() - since_first - self._node.started
                time.sleep(SETTLE)
                return seconds
            self._check(deadline)

    def run(self, run: Measurement, seconds: float) -> None:
        """Fill in all measurements at the rate of `run`."""
        before = self.listener.ask("counters")
        self.listener.ask("begin", run.overload)
        cpu, began = {name: cpu_seconds(pid) for name, pid in self._pids.items()}, time.monotonic()
        stamps = self.camera.ask("publish", run.rate, WARM_UP + seconds)
        elapsed = time.monotonic() - began
        run.cpu = {
            name: (cpu_seconds(pid) - cpu[name]) / elapsed for name, pid in self._pids.items()
        }
        run.memory = resident_memory(self._pids["node"])
        time.sleep(SETTLE)
        masks, run.inference, run.answers, after = self.listener.ask("end")
        self._check()

        run.sent = sum(map(len, stamps))
        run.seconds = elapsed
        run.masks = [0] * self.cameras
        warm = min(map(min, stamps)) + int(WARM_UP * 1e9)
        for camera in range(self.cameras):
            sent = set(stamps[camera])  # a mask of a frame before may come late
            mine = [(s, arrival) for i, s, arrival in masks if i == camera and s in sent]
            run.masks[camera] = len(mine)
            timed = [(stamp, arrival) for stamp, arrival in mine if stamp >= warm]
            run.latencies += [(arrival - stamp) / 1e9 for stamp, arrival in timed]
            run.jitters += jitters([arrival / 1e9 for _, arrival in timed])
        counted = Counter[str]()
        for old, new in zip(before, after, strict=True):
            counted.update(new)
            counted.subtract(old)
        run.received, run.published = counted.pop("received"), counted.pop("published")
        run.dropped = dict(+counted)  # causes with none are left out

    def loss(self, rate: float, seconds: float) -> float:
        """Fraction of frames lost at a rate; 1 if the camera itself cannot keep it up."""
        self.listener.ask("begin", False)
        sent = sum(map(len, self.camera.ask("publish", rate, seconds)))
        time.sleep(SETTLE)
        masks = len(self.listener.ask("masks"))
        self._check()
        asked = max(1, round(rate * seconds)) * self.cameras
        return 1 - masks / sent if sent > (1 - LOSS_LIMIT) * asked else 1.0

    def _check(self, deadline: float = math.inf) -> None:
        code = self._node.exit_code()
        if code is not None:
            raise GraphError(f"the node ended with code {code}:\n{self._node.last_lines()}")
        if time.monotonic() > deadline:
            raise GraphError(
                f"no masks within {START_TIMEOUT:.0f} s; the node:\n{self._node.last_lines()}"
            )


@contextlib.contextmanager
def _graph(plan: Plan, transport: str, cameras: int, log: Path) -> Iterator[_Graph]:
    with (
        worker("listener", listen, cameras) as listener,
        worker("camera", publish, transport, cameras) as camera,
    ):
        listener.answer()
        camera.answer()
        topics = ", ".join(image_topic(i) for i in range(cameras))
        parameters = {
            "model": f"'{plan.model}'",
            "backend": plan.backend,
            "device": f"'{plan.device}'",
            "threads": plan.threads,
            "cameras": f"[{topics}]",
            "image_transport": transport,
        }
        command = [sys.executable, "-m", "bisenetv2_ros.cli.main", "segment", "--ros-args"]
        command += ["-r", f"__ns:={NAMESPACE}"]
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        node = Child("node", command, os.environ, log)
        try:
            yield _Graph(node, camera, listener, transport, cameras)
        finally:
            end_all([node])
