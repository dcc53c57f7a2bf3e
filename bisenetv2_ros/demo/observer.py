"""Subscribes to the camera's and the node's topics and matches the messages of each frame.

All messages about a camera frame have its stamp, which is the key.
"""

from __future__ import annotations

import dataclasses
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

_PENDING = 32  # unmatched frames that are kept; the node has dropped older ones
# All losses are then the node's own drops, even if this process has to wait for the processor.
_RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


@dataclass
class Measurements:
    """Counts and times of all frames so far."""

    sent: int = 0  # camera frames seen
    model: str = ""
    mask_times: list[float] = field(default_factory=list)  # time.monotonic() of arrival
    latencies: list[float] = field(default_factory=list)  # seconds, camera stamp to mask here
    inference_times: list[float] = field(default_factory=list)  # seconds, as the node reports
    node_values: dict[str, str] = field(default_factory=dict)  # the node's diagnostics
    node_values_time: float = 0.0  # time.monotonic() of their arrival

    @property
    def received(self) -> int:
        """Number of masks seen."""
        return len(self.mask_times)

    @property
    def rate(self) -> float:
        """Masks per second from the first to the last."""
        times = self.mask_times
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0

    @property
    def dropped(self) -> dict[str, int]:
        """Frames without a mask by cause, from the node's latest diagnostics."""
        return drops_in(self.node_values)


class Observer:
    """Calls `on_frame` with each frame whose image, mask and class fractions have arrived.

    Exceptions of `on_frame` are raised by the executor's spin.
    """

    def __init__(self, node: Node, on_frame: Callable[[SegmentedFrame], None]) -> None:
        self.measured = Measurements()
        self._clock = node.get_clock()
        # Prefix of the node's status names on /diagnostics.
        self._statuses = f"{node.get_namespace()}/segment: ".lstrip("/")
        self._on_frame = on_frame
        # By stamp: what has arrived of a frame, by the field of SegmentedFrame.
        self._pending: dict[int, dict[str, np.ndarray]] = {}
        self._newest_done = 0  # stamp
        for kind, topic, callback in (
            (Image, "image_raw", self._take_image),
            (Image, "segmentation/mask", self._take_mask),
            (ClassFractions, "segmentation/class_fractions", self._take_fractions),
            (DiagnosticArray, "/diagnostics", self._take_diagnostics),
        ):
            node.create_subscription(kind, topic, callback, _RELIABLE)

    @property
    def waiting(self) -> bool:
        """Whether the newest camera frame has no mask yet; the node may have dropped older ones."""
        return any(stamp > self._newest_done for stamp in self._pending)

    def _take_image(self, message: Image) -> None:
        self.measured.sent += 1
        pixels, order = decode_image(message)
        image = pixels if order == "rgb" else pixels[..., ::-1]
        self._take(message.header, image=image)

    def _take_mask(self, message: Image) -> None:
        self.measured.mask_times.append(time.monotonic())
        latency = (self._clock.now().nanoseconds - _key(message.header)) / 1e9
        self.measured.latencies.append(latency)
        self._take(message.header, mask=_mono(message))

    def _take_fractions(self, message: ClassFractions) -> None:
        self.measured.model = message.model
        self.measured.inference_times.append(message.inference_time)
        fractions = np.array([entry.fraction for entry in message.classes])
        self._take(message.header, fractions=fractions)

    def _take(self, header: Header, **part: np.ndarray) -> None:
        """Add a part to its frame and pass the frame on if it is complete."""
        key = _key(header)
        parts = self._pending.setdefault(key, {})
        parts |= part
        if len(parts) == len(dataclasses.fields(SegmentedFrame)):
            del self._pending[key]
            self._newest_done = max(self._newest_done, key)
            self._on_frame(SegmentedFrame(**parts))
        elif len(self._pending) > _PENDING:
            del self._pending[min(self._pending)]

    def _take_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.startswith(self._statuses):
                values = {pair.key: pair.value for pair in status.values}
                self.measured.node_values.update(values)
                self.measured.node_values_time = time.monotonic()


def _key(header: Header) -> int:
    """The stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def _mono(message: Image) -> np.ndarray:
    """(H, W) uint8 view of a mono8 image, padded rows or not."""
    if message.encoding != "mono8":
        raise ValueError(f"a mask came as {message.encoding}, expected mono8")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    return rows[:, : message.width]
