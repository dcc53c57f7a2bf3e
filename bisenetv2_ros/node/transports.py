"""The topics that a camera's images may come by, under the names that ROS resolves.

Some drivers publish other types than Image on a/image_raw itself; `auto` accepts them.
"""

from __future__ import annotations

import importlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rclpy.node import Node

from bisenetv2_ros.camera_view import camera_entries
from bisenetv2_ros.image_conversion import SUPPORTED_ENCODINGS
from bisenetv2_ros.image_transports import (
    COMPRESSED_IMAGE,
    PACKET,
    RAW,
    TRANSPORTS,
    camera_topic,
)

AUTO = "auto"


@dataclass(frozen=True)
class Stream:
    """A topic and type that a camera's images may come by."""

    transport: str
    name: str  #: as given to rclpy, before remapping
    type_name: str  #: package/msg/Type


def streams(node: Node, topic: str, transport: str) -> list[Stream]:
    """The streams that the images of `topic` may come by, in order of preference.

    topic: of the camera, or one of its transports. transport: `auto` for all, or one of TRANSPORTS.
    """
    base = camera_topic(topic)
    given = topic[len(base) + 1 :]  # the transport named by the topic itself
    if transport == AUTO:
        if given:
            return [Stream(given, topic, TRANSPORTS[given])]
        names = {name: _name(node, base, name) for name in TRANSPORTS}
        own = [Stream(name, names[name], kind) for name, kind in TRANSPORTS.items()]
        return [*own, Stream("compressed", base, COMPRESSED_IMAGE), Stream("ffmpeg", base, PACKET)]
    if transport in (RAW, given):
        return [Stream(transport, topic, TRANSPORTS[transport])]
    return [Stream(transport, _name(node, base, transport), TRANSPORTS[transport])]


def _name(node: Node, base: str, transport: str) -> str:
    """The name to give to rclpy for a transport of the camera topic `base`."""
    return base if transport == RAW else beside(node, base, lambda topic: f"{topic}/{transport}")


def beside(node: Node, topic: str, other: Callable[[str], str]) -> str:
    """The name to give to rclpy for a topic beside a camera's, such as its calibration.

    `other` derives it from the camera's topic. It follows the remapping of the camera's topic,
    unless it is remapped itself.
    """
    name = other(topic)
    if node.resolve_topic_name(name) != node.resolve_topic_name(name, only_expand=True):
        return name
    return other(node.resolve_topic_name(topic))


def calibration_topic(topic: str) -> str:
    """The topic of the camera's calibration, beside its images."""
    return posixpath.join(posixpath.dirname(topic), "camera_info")


def other_types(node: Node, topic: str, *expected: str) -> list[str]:
    """One line per type that `topic` is published as, unless one of `expected` is among them."""
    kinds = dict.fromkeys(p.topic_type for p in node.get_publishers_info_by_topic(topic))
    if any(kind in kinds for kind in expected):
        return []
    full = node.resolve_topic_name(topic)
    return [f"{full} is published as {kind}, expected {' or '.join(expected)}" for kind in kinds]


def message_class(type_name: str) -> type | None:
    """The Python class of a message type; None if its package is not installed."""
    package, _, name = type_name.partition("/msg/")
    try:
        found: type = getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None
    return found


def parse_encodings(texts: Sequence[str], cameras: Sequence[str]) -> dict[str, str]:
    """The encoding set for each of `cameras`, '' for none, from texts 'CAMERA: ENCODING'.

    Raises ValueError, naming the text, for another form, camera or encoding.
    """
    encodings = dict.fromkeys(cameras, "")
    for camera, value, text in camera_entries("encoding", texts, cameras):
        if value not in SUPPORTED_ENCODINGS:
            known = ", ".join(SUPPORTED_ENCODINGS)
            raise ValueError(f"encoding '{text}': expected 'CAMERA: ' and one of {known}")
        encodings[camera] = value
    return encodings
