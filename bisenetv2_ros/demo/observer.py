"""Watches the camera's and the node's topics and puts together what belongs to one frame.

Everything that is about one camera frame carries that frame's stamp, so the stamp is the key.
The observer acknowledges each finished frame on `demo/finished`; a camera that waits for that loses
no frame, however slow the machine. It does not know what is done with the frames.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from bisenetv2_ros.demo.results import SegmentedFrame
from bisenetv2_ros.image_conversion import decode_image
from bisenetv2_ros.msg import ClassFractions
from bisenetv2_ros.node.diagnostics import drops_in

FINISHED_TOPIC = "demo/finished"
RECENT = 20  # masks that the live rate looks back
LABEL_GRACE = 0.5  # seconds after its mask in which a frame's label must have come
_PENDING = 32  # frames without an answer that are remembered; older ones were dropped by the node
# Nothing may be lost between the node and the figures.
_RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class _Parts:
    """What has come of one frame so far."""

    header: Header
    image: np.ndarray | None = None
    label: np.ndarray | None = None
    mask: np.ndarray | None = None
    fractions: np.ndarray | None = None
    mask_time: float = math.inf  # time.monotonic() of the mask's arrival


@dataclass
class Measurements:
    """Counts and times of all frames so far."""

    sent: int = 0  # camera frames seen
    received: int = 0  # masks seen
    model: str = ""
    first_mask: float | None = None  # time.monotonic() of its arrival
    mask_times: list[float] = field(default_factory=list)  # time.monotonic()
    latencies: list[float] = field(default_factory=list)  # seconds, camera stamp to mask here
    inference_times: list[float] = field(default_factory=list)  # seconds, as the node says
    node_values: dict[str, str] = field(default_factory=dict)  # the node's diagnostics
    node_values_time: float = 0.0  # time.monotonic() of their arrival

    @property
    def rate(self) -> float:
        """Masks per second from the first to the last."""
        return _rate(self.mask_times)

    @property
    def recent_rate(self) -> float:
        """Masks per second of late."""
        return _rate(self.mask_times[-RECENT:])

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without a mask by cause, as the node's diagnostics last said."""
        return drops_in(self.node_values)


class Observer:
    """Subscribes to everything the demo shows; calls `on_frame` with each frame in full.

    with_labels: there are labels, though maybe not for every frame. Exceptions of `on_frame` come
    out of the executor's spin.
    """

    def __init__(
        self, node: Node, on_frame: Callable[[SegmentedFrame], None], *, with_labels: bool
    ) -> None:
        self.measured = Measurements()
        self.newest_fractions: list[tuple[str, float]] = []
        self._clock = node.get_clock()
        # What the names of the node's statuses on /diagnostics begin with.
        self._statuses = f"{node.get_namespace()}/segment: ".lstrip("/")
        self._on_frame = on_frame
        self._with_labels = with_labels
        self._pending: dict[int, _Parts] = {}  # by stamp
        self._done: set[int] = set()
        self._finished = node.create_publisher(Header, FINISHED_TOPIC, _RELIABLE)
        node.create_subscription(Image, "image_raw", self._take_image, _RELIABLE)
        if with_labels:
            node.create_subscription(Image, "label", self._take_label, _RELIABLE)
            node.create_timer(LABEL_GRACE / 2, self._finish_unlabelled)
        node.create_subscription(Image, "segmentation/mask", self._take_mask, _RELIABLE)
        node.create_subscription(
            ClassFractions, "segmentation/class_fractions", self._take_fractions, _RELIABLE
        )
        node.create_subscription(DiagnosticArray, "/diagnostics", self._take_diagnostics, _RELIABLE)

    @property
    def waiting(self) -> int:
        """Frames that are not finished yet, the dropped ones among them."""
        return len(self._pending)

    def _take_image(self, message: Image) -> None:
        parts = self._parts(message.header)
        if parts is None:  # the camera has not heard that it is finished
            self._finished.publish(message.header)
        elif parts.image is None:
            self.measured.sent += 1
            pixels, order = decode_image(message)
            parts.image = pixels if order == "rgb" else pixels[..., ::-1]
            self._finish_if_complete(parts)

    def _take_label(self, message: Image) -> None:
        parts = self._parts(message.header)
        if parts is not None:
            parts.label = _mono(message)
            self._finish_if_complete(parts)

    def _take_mask(self, message: Image) -> None:
        parts = self._parts(message.header)
        if parts is None or parts.mask is not None:
            return
        measured = self.measured
        measured.received += 1
        measured.mask_times.append(time.monotonic())
        measured.first_mask = measured.first_mask or measured.mask_times[0]
        measured.latencies.append((self._clock.now().nanoseconds - _key(message.header)) / 1e9)
        parts.mask, parts.mask_time = _mono(message), measured.mask_times[-1]
        self._finish_if_complete(parts)

    def _take_fractions(self, message: ClassFractions) -> None:
        parts = self._parts(message.header)
        if parts is None or parts.fractions is not None:
            return
        self.measured.model = message.model
        self.measured.inference_times.append(message.inference_time)
        self.newest_fractions = [(entry.class_name, entry.fraction) for entry in message.classes]
        parts.fractions = np.array([entry.fraction for entry in message.classes])
        self._finish_if_complete(parts)

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(self._statuses):
                values = {pair.key: pair.value for pair in status.values}
                self.measured.node_values.update(values)
                self.measured.node_values_time = time.monotonic()

    def _parts(self, header: Header) -> _Parts | None:
        """What is there of the header's frame; None for a frame that is finished already.

        The camera repeats what it takes for lost, so everything may come twice.
        """
        key = _key(header)
        if key in self._done:
            return None
        parts = self._pending.setdefault(key, _Parts(header))
        if len(self._pending) > _PENDING:
            del self._pending[min(self._pending)]
        return parts

    def _finish_if_complete(self, parts: _Parts) -> None:
        if parts.image is None or parts.mask is None or parts.fractions is None:
            return
        overdue = time.monotonic() > parts.mask_time + LABEL_GRACE
        if self._with_labels and parts.label is None and not overdue:
            return
        key = _key(parts.header)
        self._pending.pop(key, None)
        self._done.add(key)
        self._on_frame(SegmentedFrame(parts.image, parts.mask, parts.fractions, parts.label))
        self._finished.publish(parts.header)

    def _finish_unlabelled(self) -> None:
        for parts in list(self._pending.values()):
            self._finish_if_complete(parts)


def _key(header: Header) -> int:
    """The stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _mono(message: Image) -> np.ndarray:
    """(H, W) uint8 view of a mono8 image, padded rows or not."""
    if message.encoding != "mono8":
        raise ValueError(f"a mask or label came as {message.encoding}, expected mono8")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width]


def _rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
