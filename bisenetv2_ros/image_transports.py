"""The supported transports of image_transport: topics, message types and decoders.

    raw          a/image_raw               sensor_msgs/Image
    compressed   a/image_raw/compressed    sensor_msgs/CompressedImage, JPEG, PNG or TIFF
    zstd         a/image_raw/zstd          sensor_msgs/CompressedImage
    ffmpeg       a/image_raw/ffmpeg        ffmpeg_image_transport_msgs/FFMPEGPacket, H.264 or H.265

Shared by the node and bags, so that both read the same transports. Does not import ROS.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bisenetv2_ros.image_conversion import ChannelOrder, decode_compressed, decode_image
from bisenetv2_ros.image_video import VideoFrame
from bisenetv2_ros.image_zstd import decode_zstd

RAW = "raw"

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
PACKET = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"

#: Message type of each transport, in order of preference; the name is also the topic's suffix.
TRANSPORTS = {
    RAW: IMAGE,
    "compressed": COMPRESSED_IMAGE,
    "zstd": COMPRESSED_IMAGE,
    "ffmpeg": PACKET,
}


def camera_topic(topic: str) -> str:
    """Return `topic` without the transport's name at its end."""
    base, _, last = topic.rpartition("/")
    return base if base and last in TRANSPORTS and last != RAW else topic


def decode(message: Any, encoding: str = "") -> tuple[np.ndarray, ChannelOrder]:
    """Decode an Image, a CompressedImage, or a VideoFrame of `image_video`.

    Args:
        message: the message or frame; any object with the same fields.
        encoding: overrides the message's encoding unless it is ''.

    Returns:
        Pixels, (H, W, 3) uint8, and the order of their channels.

    Raises:
        ImageError: if the content is invalid; no other exception is raised.
    """
    if isinstance(message, VideoFrame):
        return message.decoded()
    if hasattr(message, "format"):
        if message.format.strip() == "zstd":
            return decode_zstd(message, encoding)
        message.format = encoding or message.format
        return decode_compressed(message)
    message.encoding = encoding or message.encoding
    return decode_image(message)
