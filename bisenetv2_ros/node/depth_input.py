"""A camera's depth images, in meters, matched to its images by stamp."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image

from bisenetv2_ros.camera_view import camera_entries
from bisenetv2_ros.image_transports import IMAGE
from bisenetv2_ros.node.qos import naming_topic, newest
from bisenetv2_ros.node.transports import other_types

KEPT = 10  # images; the depth of a frame arrives before its mask is ready
APART = 0.05  # maximum seconds between the stamps of an image and its depth

#: Type of a pixel and its unit in meters, as in REP 118.
_ENCODINGS = {"16UC1": (np.uint16, 0.001), "mono16": (np.uint16, 0.001), "32FC1": (np.float32, 1.0)}


class DepthError(ValueError):
    """There is no depth for this image; the message is one line with the reason."""


def parse_depth_topics(texts: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    """The depth topics of cameras, from texts 'CAMERA: TOPIC'.

    Raises ValueError, naming the text, for another form or camera.
    """
    topics = {}
    for camera, topic, text in camera_entries("depth topic", texts, cameras):
        if not topic:
            raise ValueError(f"depth topic '{text}': expected 'CAMERA: TOPIC'")
        topics[camera] = topic
    return topics


class DepthInput:
    """Keeps the newest depth images of one camera while it is open."""

    def __init__(self, node: Node, topic: str) -> None:
        self._node, self._name = node, topic
        self.topic = node.resolve_topic_name(topic)
        self._kept: deque[Image] = deque(maxlen=KEPT)
        self._subscription: Subscription | None = None

    def follow(self, needed: bool) -> None:
        """Subscribe while depth is needed. Raises ValueError, naming the topic, if it fails."""
        if needed and self._subscription is None:
            with naming_topic(self._node, self._name):
                self._subscription = self._node.create_subscription(
                    Image, self._name, self._keep, newest()
                )
        elif not needed and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._kept.clear()

    def _keep(self, message: Image) -> None:
        self._kept.append(message)

    def at(self, stamp: Time, size: tuple[int, int]) -> np.ndarray:
        """(H, W) float32 meters for the image of that stamp; NaN if unknown or empty.

        size: (width, height) of the camera's image, to which the depth must be registered.
        Raises DepthError.
        """
        wanted = _seconds(stamp)
        found = min(
            tuple(self._kept),
            key=lambda image: abs(_seconds(image.header.stamp) - wanted),
            default=None,
        )
        if found is None and (types := other_types(self._node, self._name, IMAGE)):
            raise DepthError("; ".join(types))
        if found is None or abs(_seconds(found.header.stamp) - wanted) > APART:
            seen = "no depth image" if found is None else f"none within {APART} s of the image"
            raise DepthError(f"{self.topic}: {seen}, expected one of the same stamp")
        try:
            return meters(found, size)
        except DepthError as error:
            raise DepthError(f"{self.topic}: {error}") from error


def meters(message: Any, size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 of a depth image of `size`; NaN if it has none. Raises DepthError."""
    if message.encoding not in _ENCODINGS:
        known = ", ".join(_ENCODINGS)
        raise DepthError(f"encoding is '{message.encoding}', expected one of {known}")
    if (message.width, message.height) != size:
        raise DepthError(
            f"depth is {message.width}x{message.height}, expected {size[0]}x{size[1]}: registered "
            "to the camera's image"
        )
    kind, unit = _ENCODINGS[message.encoding]
    item = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    data = np.frombuffer(message.data, np.uint8)
    if message.step < size[0] * item.itemsize or data.size != message.step * size[1]:
        raise DepthError(
            f"data is {data.size} bytes in rows of {message.step}, expected {size[1]} rows of "
            f"{size[0] * item.itemsize} or more"
        )
    pixels: np.ndarray = np.ndarray(size[::-1], item, data, strides=(message.step, item.itemsize))
    depth = pixels.astype(np.float32) * np.float32(unit)
    depth[~(np.isfinite(depth) & (depth > 0))] = np.nan
    return depth


def _seconds(stamp: Time) -> float:
    return stamp.sec + stamp.nanosec / 1e9
