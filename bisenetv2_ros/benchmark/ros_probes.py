"""Processes around the measured node: a camera, a listener, and inference without ROS.

Each does what `ros_graph` requests over a pipe, and nothing else in the meantime that would affect
the measurement. They know neither each other nor the meaning of the results. Camera stamps and
arrivals are system clock times in nanoseconds, so that they compare between processes.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bisenetv2_ros.files.paths import natural_key
from bisenetv2_ros.node.diagnostics import drops_in
from bisenetv2_ros.outputs import output_topic

if TYPE_CHECKING:
    from rclpy.node import Node

NAMESPACE = "/benchmark"
ASK_PERIOD = 0.1  # seconds between requests to the node's parameter service
REPORT_TIMEOUT = 10.0  # seconds for the node's next diagnostics, sent once a second


def image_topic(camera: int) -> str:
    """The topic of a camera by number, relative to NAMESPACE."""
    return f"camera{camera}/image_raw"


class Camera:
    """Publishes prepared image messages at a steady rate, from all cameras at the same time.

    That is how triggered cameras work, and the hardest case for the node.
    """

    def __init__(self, node: Node, transport: str, cameras: int) -> None:
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import CompressedImage, Image

        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)  # like drivers: REP-2003
        self._compressed = transport == "compressed"
        kind, suffix = (CompressedImage, "/compressed") if self._compressed else (Image, "")
        self._publishers = [
            node.create_publisher(kind, image_topic(i) + suffix, qos) for i in range(cameras)
        ]
        self._messages: list[Any] = []

    def load(self, images: Sequence[np.ndarray]) -> None:
        """Make messages of (H, W, 3) uint8 RGB images, to be published in rotation."""
        from std_msgs.msg import Header

        from bisenetv2_ros.node.camera_node import jpeg_message
        from bisenetv2_ros.node.messages import ImageBuffer

        header = Header(frame_id="camera")
        self._messages = [
            jpeg_message(header, image)
            if self._compressed
            else ImageBuffer().fill(header, image, "rgb8")
            for image in images
        ]

    def publish(self, rate: float, seconds: float) -> list[list[int]]:
        """Publish at `rate` [Hz]; returns the stamps of each camera's frames.

        Skips a frame that is late by more than a period: a camera does not catch up.
        """
        stamps: list[list[int]] = [[] for _ in self._publishers]
        begin = time.monotonic()
        for tick in range(max(1, round(rate * seconds))):
            ahead = begin + tick / rate - time.monotonic()
            if tick and ahead < -1 / rate:
                continue
            if ahead > 0:
                time.sleep(ahead)
            message = self._messages[tick % len(self._messages)]
            for publisher, sent in zip(self._publishers, stamps, strict=True):
                now = time.time_ns()
                message.header.stamp.sec, message.header.stamp.nanosec = divmod(now, 10**9)
                publisher.publish(message)
                sent.append(now)
        return stamps


class Listener:
    """Records when each mask arrives, and requests the node's counters and parameters."""

    def __init__(self, node: Node, cameras: int) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from rcl_interfaces.srv import GetParameters
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.qos import QoSProfile, ReliabilityPolicy
        from sensor_msgs.msg import Image

        self._node = node
        self._cameras = cameras
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(node)
        self._masks: list[tuple[int, int, int]] = []
        self._inference: list[float] = []
        self._answers: list[float] = []
        self._report: dict[str, dict[str, str]] = {}
        self._asking = False
        self._question_due = 0.0
        self._question: Any = None
        self._fractions: list[Any] = []
        qos = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        for camera in range(cameras):
            node.create_subscription(
                Image, self._output(camera, "mask"), partial(self._take_mask, camera), qos
            )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_report, qos)
        self._client = node.create_client(GetParameters, f"{NAMESPACE}/segment/get_parameters")

    def idle(self) -> None:
        """Spin for a moment."""
        self._executor.spin_once(timeout_sec=0.02)
        now = time.monotonic()
        if self._asking and self._question is None and now >= self._question_due:
            self._ask(now)

    def begin(self, overload: bool) -> None:
        """Start recording; in overload also inference times and answers of the parameter service.

        The node then publishes class fractions as well.
        """
        from bisenetv2_ros.msg import ClassFractions

        self._masks, self._inference, self._answers = [], [], []
        self._asking = overload
        if overload and not self._fractions:
            self._fractions = [
                self._node.create_subscription(
                    ClassFractions,
                    self._output(camera, "class_fractions"),
                    self._take_fractions,
                    10,
                )
                for camera in range(self._cameras)
            ]

    def end(
        self,
    ) -> tuple[list[tuple[int, int, int]], list[float], list[float], list[dict[str, int]]]:
        """Stop; return masks (camera, stamp, arrival), inference and answer times [s], counters.

        Waits for pending requests: the slowest answer may still be missing.
        """
        deadline = time.monotonic() + REPORT_TIMEOUT
        waits = self._asking
        while waits and time.monotonic() < deadline:
            self._asking = not self._answers  # stop asking after the first answer
            self.idle()
            waits = self._question is not None or not self._answers
        self._asking = False
        counters = self.counters()
        for subscription in self._fractions:
            self._node.destroy_subscription(subscription)
        self._fractions = []
        return self._masks, self._inference, self._answers, counters

    def masks(self) -> list[tuple[int, int, int]]:
        """The masks so far."""
        return self._masks

    def counters(self) -> list[dict[str, int]]:
        """Each camera's frame counts since the node's start: received, published, drops by cause.

        Waits for diagnostics that account for every frame; after REPORT_TIMEOUT, takes the newest.
        Raises TimeoutError if none come.
        """
        self._report = {}
        deadline = time.monotonic() + REPORT_TIMEOUT
        while time.monotonic() < deadline:
            self._executor.spin_once(timeout_sec=0.02)
            counters = self._counters()
            if len(counters) == self._cameras and not any(map(_uncounted, counters)):
                return counters
        if len(self._report) < self._cameras:
            raise TimeoutError(f"no diagnostics of the node within {REPORT_TIMEOUT} s")
        return self._counters()

    def _counters(self) -> list[dict[str, int]]:
        """Those of the newest diagnostics."""
        newest = [self._report[name] for name in sorted(self._report, key=natural_key)]
        return [
            {
                "received": int(values["frames received"]),
                "published": int(values["frames published"]),
                **drops_in(values),
            }
            for values in newest
        ]

    def _output(self, camera: int, name: str) -> str:
        return output_topic(image_topic(camera), name)

    def _take_mask(self, camera: int, message: Any) -> None:
        stamp = message.header.stamp
        self._masks.append((camera, stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    def _take_fractions(self, message: Any) -> None:
        self._inference.append(message.inference_time)

    def _take_report(self, message: Any) -> None:
        for status in message.status:
            if NAMESPACE + "/camera" in status.name:
                self._report[status.name] = {pair.key: pair.value for pair in status.values}

    def _ask(self, now: float) -> None:
        from rcl_interfaces.srv import GetParameters

        if not self._client.service_is_ready():
            return

        def take(_: Any) -> None:
            self._answers.append(time.monotonic() - now)
            self._question = None

        self._question_due = now + ASK_PERIOD
        self._question = self._client.call_async(GetParameters.Request(names=["max_rate"]))
        self._question.add_done_callback(take)


def _uncounted(counters: dict[str, int]) -> int:
    """Frames that are received but neither published nor dropped: under way, or lost."""
    received = counters["received"]
    return received - sum(count for name, count in counters.items() if name != "received")


class Bare:
    """Measures inference without ROS at a camera's rate: a lower bound for the node's latency."""

    def __init__(self, segmenter: Any) -> None:
        self._segmenter = segmenter

    def runs_on(self) -> str:
        """Backend and device, for people."""
        return f"{self._segmenter.backend.name}, {self._segmenter.backend.device}"

    def measure(self, image: np.ndarray, rate: float, seconds: float) -> list[float]:
        """Seconds from frame to mask, for each frame at `rate` [Hz]."""
        durations = []
        due = time.monotonic()
        for _ in range(max(1, round(rate * seconds))):
            time.sleep(max(0.0, due - time.monotonic()))
            begin = time.monotonic()
            self._segmenter(image)
            durations.append(time.monotonic() - begin)
            due = max(due + 1 / rate, begin)
        return durations


@contextlib.contextmanager
def _ros_node(name: str) -> Iterator[Node]:
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    # Ctrl-C is for the parent, which then closes the pipe; a killed node leaves shared memory.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name, namespace=NAMESPACE)
    try:
        yield node
    finally:
        node.destroy_node()
        rclpy.shutdown()


@contextlib.contextmanager
def publish(transport: str, cameras: int) -> Iterator[Camera]:
    """A camera with its ROS node."""
    with _ros_node("camera") as node:
        yield Camera(node, transport, cameras)


@contextlib.contextmanager
def listen(cameras: int) -> Iterator[Listener]:
    """A listener with its ROS node."""
    with _ros_node("listener") as node:
        listener = Listener(node, cameras)
        try:
            yield listener
        finally:
            listener._executor.shutdown(timeout_sec=0)


@contextlib.contextmanager
def bare(model: Path, backend: str, device: str, threads: int) -> Iterator[Bare]:
    """The model, loaded as by the node."""
    from bisenetv2_ros.segmenter import Segmenter

    with Segmenter(model, backend=backend, device=device, threads=threads) as segmenter:
        yield Bare(segmenter)
