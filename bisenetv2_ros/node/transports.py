"""The transports of a camera's images: topics, message types and decoders, as in image_transport.

    raw          a/image_raw               sensor_msgs/Image
    compressed   a/image_raw/compressed    sensor_msgs/CompressedImage, JPEG, PNG or TIFF
    zstd         a/image_raw/zstd          sensor_msgs/CompressedImage
    ffmpeg       a/image_raw/ffmpeg        ffmpeg_image_transport_msgs/FFMPEGPacket, H.264 or H.265

Some drivers publish other types than Image on a/image_raw itself; `auto` accepts them.
"""

from __future__ import annotations

import importlib
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from bisenetv2_ros.camera_view import camera_entries
from bisenetv2_ros.image_conversion import (
    SUPPORTED_ENCODINGS,
    ChannelOrder,
    decode_compressed,
    decode_image,
)
from bisenetv2_ros.node.video import VideoFrame
from bisenetv2_ros.node.zstd import decode_zstd

AUTO, RAW = "auto", "raw"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"

#: Message type of each transport, by preference; the name is also the last part of its topic.
TRANSPORTS = {
    RAW: IMAGE,
    "compressed": COMPRESSED_IMAGE,
    "zstd": COMPRESSED_IMAGE,
    "ffmpeg": PACKET,
}


@dataclass(frozen=True)
class Stream:
    """A topic and type that a camera's images may come by."""

    transport: str
    name: str  #: as given to rclpy, before remapping
    type_name: str  #: package/msg/Type


def camera_topic(topic: str) -> str:
    """The camera's own topic: `topic` without a transport's name at its end."""
    base, _, last = topic.rpartition("/")
    return base if base and last in TRANSPORTS and last != RAW else topic


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
        found = [Stream(name, names[name], kind) for name, kind in TRANSPORTS.items()]
        found += [Stream("compressed", base, COMPRESSED_IMAGE), Stream("ffmpeg", base, PACKET)]
        return found
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


def decode(message: Any, encoding: str = "") -> tuple[np.ndarray, ChannelOrder]:
    """Decode an image message of any transport to (H, W, 3) uint8 and the order of its channels.

    encoding: replaces the one in the message, unless it is ''. Raises ImageError, and nothing else,
    for any content.
    """
    if isinstance(message, VideoFrame):
        return message.decoded()
    if isinstance(message, CompressedImage):
        if message.format.strip() == "zstd":
            return decode_zstd(message)
        message.format = encoding or message.format
        return decode_compressed(message)
    message.encoding = encoding or message.encoding
    return decode_image(message)
