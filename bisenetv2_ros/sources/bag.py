"""Frames of ROS bags (MCAP, SQLite, ROS 1): the messages of image topics, decoded.

Images of every transport go through the node's decoder, so that the same images are accepted.
Their types are built in; definitions in a bag are ignored, so that a wrong one does no harm. Knows
nothing of models or of how a mask is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import zstandard
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bisenetv2_ros.files.images import ImageFileError, raise_error
from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.image_conversion import SUPPORTED_ENCODINGS, ImageError
from bisenetv2_ros.image_transports import COMPRESSED_IMAGE, IMAGE, PACKET, camera_topic, decode
from bisenetv2_ros.image_video import VideoDecoder, VideoFrame, missing_decoder
from bisenetv2_ros.opencv import convert_color
from bisenetv2_ros.sources.bag_file import (
    ZSTD_MAGIC,
    BagError,
    Channel,
    Message,
    one_line,
    seconds,
)
from bisenetv2_ros.sources.frame import (
    DEFAULT_RATE,
    Excerpt,
    Frame,
    FrameSource,
    OnDamaged,
    Origin,
    Size,
    SourceDamage,
    SourceError,
    resized,
)
from bisenetv2_ros.sources.recording import Recording

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

LABEL_INFO = "vision_msgs/msg/LabelInfo"

_TYPES = (IMAGE, COMPRESSED_IMAGE, PACKET)

# rosbags has no definitions of these.
_PACKET_MESSAGE = (
    "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n"
    "uint8 flags\nbool is_bigendian\nuint8[] data\n"
)
_VISION_MESSAGES = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold\n",
}


class BagFrames(FrameSource):
    """The frames of one or several image topics of a bag, in recording order.

    A frame's name is its camera's topic and stamp; `Frame.origin` has its message.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str] = (),
        size: Size | None = None,
        loop: bool = False,
        on_damaged: OnDamaged = raise_error,
        encodings: Mapping[str, str] | None = None,
    ) -> None:
        """Open the bag. Raises SourceError if it is not one or `topics` are not image topics.

        Args:
            topics: image topics of any transport; none takes the only one in the bag.
            size, loop, on_damaged: as in `open_source`; on_damaged also receives damage of the bag
                itself.
            encodings: overrides the encoding of the images, by topic, or '' for all topics.
        """
        self.path = path
        self._size, self._loop = size, loop
        self._on_damaged = on_damaged
        self._encodings = dict(encodings or {})
        #: Called with every message in the bag in order, before the frame of that message.
        self.on_message: Callable[[Message], None] | None = None
        try:
            self.recording = Recording(path)
        except (BagError, OSError) as error:
            raise SourceError(
                f"bag '{path}' cannot be read: {str(error).removeprefix(f'{path}: ')}"
            ) from error
        self.topics = self._choose(list(topics))
        self.cameras = tuple(map(camera_topic, self.topics))
        self._channels = {
            channel
            for channel in self.recording.counts
            if channel.topic in self.topics and _is_image(channel)
        }
        counts = dict.fromkeys(self.topics, 0)
        for channel in self._channels:
            counts[channel.topic] += self.recording.counts[channel]
        duration = self.recording.duration
        self._rates = {
            camera_topic(topic): (count - 1) / duration if count > 1 and duration else 0.0
            for topic, count in counts.items()
        }
        if not sum(counts.values()):
            raise self._refusal(f"no messages on {', '.join(self.topics)}")
        count = None if loop else sum(counts.values())
        super().__init__(max(self._rates.values()) or DEFAULT_RATE, count)
        self.inputs = (path, *self.recording.paths)

    def rate(self, camera: str) -> float:
        """Average frame rate of one camera, Hz."""
        return self._rates.get(camera) or self.fps

    def __iter__(self) -> Iterator[Frame]:
        while True:
            frames = 0
            for frame in self._once():
                yield frame
                frames += 1
            if not frames and self.excerpt == Excerpt():
                topics = ", ".join(self.topics)
                raise self._refusal(f"no message on {topics} can be read")
            if not self._loop:
                return

    def _once(self) -> Iterator[Frame]:
        first = None
        numbers = dict.fromkeys(self.cameras, 0)
        over: set[str] = set()  # cameras of which no later frame is wanted
        pickers = {camera: self.excerpt.picker() for camera in self.cameras}
        for message, image in self._images():
            first = message.log_time if first is None else first
            time = (message.log_time - first) / 1e9
            camera = camera_topic(message.channel.topic)
            number = numbers[camera]
            numbers[camera] += 1
            take = pickers[camera](number, time)
            if take is None and not self.on_message:
                over.add(camera)
                if len(over) == len(numbers):
                    return
            if not take:
                continue
            try:
                pixels, origin = self._read(message, image)
            except ImageFileError as error:
                self._on_damaged(error)
                continue
            yield Frame(pixels, _name(origin), None, time, origin, str(self.path), number)

    def _images(self) -> Iterator[tuple[Message, Any]]:
        """Each message with an image, and the image if it is part of a video stream, else None."""
        wanted = self.recording.counts.keys() if self.on_message else self._channels
        videos: dict[Channel, VideoDecoder] = {}
        for message in self.recording.messages(wanted, self.lost):
            if self.on_message:
                self.on_message(message)
            if message.channel not in self._channels:
                continue
            if message.channel.type != PACKET:
                yield message, None
                continue
            try:
                packet: Any = _deserialize(message.channel, message.data)
            except Exception:  # reported when it is read
                yield message, None
                continue
            video = videos.setdefault(message.channel, VideoDecoder())
            for frame in video.frames(packet, (message, packet.header)):
                yield _untied(frame)
        for video in videos.values():
            yield from map(_untied, video.rest())

    def lost(self, text: str) -> None:
        """Report a part of the bag that cannot be read."""
        self._on_damaged(SourceDamage(text))

    def _refusal(self, reason: str) -> SourceError:
        return SourceError(f"bag '{self.path}': {reason}")

    def _choose(self, topics: list[str]) -> list[str]:
        """The topics asked for, or the only one."""
        channels = self.recording.counts
        known = {channel.topic for channel in channels if _is_image(channel)}
        if not known:
            there = sorted({f"{channel.topic} ({channel.type})" for channel in channels})
            there[8:] = [f"and {len(there) - 8} more"] if len(there) > 8 else []
            lost: list[str] = []  # may have contained one
            next(self.recording.messages((), lost.append), None)
            raise self._refusal(
                "no image topic in it, expected sensor_msgs Image or CompressedImage, or "
                f"FFMPEGPacket; topics: {'; '.join([', '.join(there) or 'none', *lost])}"
            )
        listed = ", ".join(sorted(known))
        if not topics and len(known) > 1:
            raise self._refusal(
                "expected --topic TOPIC, any number of times (of `predict`, `view`, `camera`, and "
                f"once of `demo`); image topics: {listed}"
            )
        topics = list(dict.fromkeys(topics or known))
        for topic in topics:
            if topic not in known:
                raise self._refusal(f"no image topic '{topic}'; image topics: {listed}")
        videos = {channel.topic for channel in channels if channel.type == PACKET}
        if videos.intersection(topics) and (missing := missing_decoder()):
            video = min(videos.intersection(topics))
            raise self._refusal(f"{video} is video, which needs {missing}")
        for topic, encoding in self._encodings.items():
            if topic not in ("", *topics):
                raise self._refusal(
                    f"an encoding for '{topic}', expected one of the topics that are read: "
                    f"{', '.join(topics)}"
                )
            if encoding not in SUPPORTED_ENCODINGS:
                known_encodings = ", ".join(SUPPORTED_ENCODINGS)
                raise self._refusal(f"encoding is '{encoding}', expected one of {known_encodings}")
        if len(set(map(camera_topic, topics))) < len(topics):
            raise self._refusal(
                f"{', '.join(topics)}: expected each camera once, by one of its transports"
            )
        return topics

    def _read(self, message: Message, image: Any) -> tuple[np.ndarray, Origin]:
        """Decode the image of a message, or a VideoFrame of it.

        Returns pixels (H, W, 3) uint8 RGB and their origin. Raises ImageFileError.
        """
        channel = message.channel
        place = f"{self.path}: {channel.topic} received at {seconds(message.log_time)}"
        if image is None:
            try:
                image = _deserialize(channel, message.data)
            except Exception as error:  # bytes of another type fail in any way
                raise ImageFileError(f"{place}: no {channel.type}: {one_line(error)}") from error
        stamp = image.header.stamp
        origin = Origin(
            camera_topic(channel.topic),
            stamp.sec,
            stamp.nanosec,
            image.header.frame_id,
            message.log_time,
        )
        encoding = self._encodings.get(channel.topic, self._encodings.get("", ""))
        try:
            pixels, order = decode(image, encoding)
        except ImageError as error:
            raise ImageFileError(f"{place}: {error}") from error
        if order == "bgr":
            pixels = convert_color(pixels, cv2.COLOR_BGR2RGB)
        return resized(pixels, self._size), origin


def _untied(frame: VideoFrame) -> tuple[Message, VideoFrame]:
    """Undo the pairing of message and header that `_images` gave the decoder as a header."""
    message, header = frame.header
    return message, replace(frame, header=header)


def _is_image(channel: Channel) -> bool:
    return channel.type in _TYPES and channel.encoding in ("cdr", "ros1")


def _deserialize(channel: Channel, data: bytes) -> object:
    """Deserialize an image message. Uncompressed CDR begins with a zero."""
    if data.startswith(ZSTD_MAGIC):  # rosbag2's compression mode `message`
        data = zstandard.ZstdDecompressor().decompressobj().decompress(data)
    if channel.encoding == "ros1":
        return _types(Stores.ROS1_NOETIC).deserialize_ros1(data, channel.type)
    return _types(Stores.ROS2_HUMBLE).deserialize_cdr(data, channel.type)


@functools.cache
def _types(store: Stores) -> Typestore:
    types = get_typestore(store)
    types.register(get_types_from_msg(_PACKET_MESSAGE, PACKET))
    return types


def typestore() -> Typestore:
    """The message types that this package writes."""
    types = get_typestore(Stores.ROS2_JAZZY)
    texts = dict(_VISION_MESSAGES)
    for path in sorted((share_directory() / "msg").glob("*.msg")):
        texts[f"bisenetv2_ros/msg/{path.stem}"] = path.read_text(encoding="utf-8")
    definitions: Any = {}
    for name, text in texts.items():
        if name not in types.types:
            definitions.update(get_types_from_msg(text, name))
    types.register(definitions)
    return types


def _name(origin: Origin) -> str:
    return f"{origin.camera.strip('/').replace('/', '_')}_{origin.sec}_{origin.nanosec:09d}"
