"""ROS 2 bags (MCAP and SQLite): the frames in one, and a copy of it with segmentation topics added.

By the library `rosbags`: no ROS is needed, and messages are read by the definitions that the bag
holds. Images go through the decoder of the node, so that what it refuses is refused here. Knows
nothing of models or of how a mask is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bisenetv2_ros.files.images import ImageFileError
from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.image_conversion import ImageError, decode_compressed, decode_image
from bisenetv2_ros.sources.frame import (
    DEFAULT_RATE,
    Frame,
    FrameSource,
    Origin,
    Size,
    SourceError,
    resized,
)

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore


IMAGE = "sensor_msgs/msg/Image"
LABEL_INFO = "vision_msgs/msg/LabelInfo"

_DECODERS: dict[str, Callable[[Any], tuple[np.ndarray, str]]] = {
    IMAGE: decode_image,
    "sensor_msgs/msg/CompressedImage": decode_compressed,
}

# vision_msgs is not among the definitions that rosbags brings.
_VISION_MESSAGES = {
    "vision_msgs/msg/VisionClass": "uint16 class_id\nstring class_name\n",
    LABEL_INFO: "std_msgs/Header header\nVisionClass[] class_map\nfloat32 threshold\n",
}


class BagFrames(FrameSource):
    """The frames of one or several image topics of a bag, in the order they were recorded in.

    A frame's name is its camera's topic and stamp; `Frame.origin` says where it comes from.
    """

    def __init__(
        self,
        path: Path,
        topics: Sequence[str] = (),
        size: Size | None = None,
        loop: bool = False,
        on_damaged: Callable[[ImageFileError], None] | None = None,
    ) -> None:
        """Look into the bag. SourceError where it is none, or `topics` are not image topics of it.

        topics: raw or compressed image topics; none takes the only one that the bag has.
        size, loop, on_damaged: as in `open_source`; on_damaged is also told when the bag itself
        breaks off.
        """
        self.path = path
        self._size, self._loop = size, loop
        #: Called with connection, time received [ns] and raw message of everything in the bag, and
        #: the types it holds.
        self.on_message: Callable[[Connection, int, bytes, Typestore], None] | None = None
        self._on_damaged = on_damaged
        with self._open() as reader:
            known = {
                connection.topic: connection.msgtype
                for connection in reader.connections
                if connection.msgtype in _DECODERS
            }
            self.topics = self._choose(known, list(topics))
            counts = {topic: reader.topics[topic].msgcount for topic in self.topics}
            seconds = reader.duration / 1e9 if reader.message_count else 0.0
        self.cameras = tuple(camera_of(topic) for topic in self.topics)
        self._rates = {
            camera_of(topic): (count - 1) / seconds if count > 1 and seconds else 0.0
            for topic, count in counts.items()
        }
        if not sum(counts.values()):
            raise SourceError(f"bag '{path}': no messages on {', '.join(self.topics)}")
        count = None if loop else sum(counts.values())
        super().__init__(max(self._rates.values()) or DEFAULT_RATE, count)

    def rate(self, camera: str) -> float:
        """Frames a second of one camera, on average."""
        return self._rates.get(camera) or self.fps

    def __iter__(self) -> Iterator[Frame]:
        while True:
            frames = 0
            for frame in self._once():
                yield frame
                frames += 1
            if not frames:
                topics = ", ".join(self.topics)
                raise SourceError(f"bag '{self.path}': no message on {topics} can be read")
            if not self._loop:
                return

    def _once(self) -> Iterator[Frame]:
        first = None
        with self._open() as reader:
            chosen = [c for c in reader.connections if c.topic in self.topics]
            try:
                for connection, received, data in self._whole(
                    reader.messages(() if self.on_message else chosen)
                ):
                    if self.on_message:
                        self.on_message(connection, received, data, reader.typestore)
                    if connection.topic not in self.topics:
                        continue
                    first = received if first is None else first
                    try:
                        image, origin = self._read(reader, connection, received, data)
                    except ImageFileError as error:
                        if self._on_damaged is None:
                            raise
                        self._on_damaged(error)
                        continue
                    yield Frame(image, _name(origin), None, (received - first) / 1e9, origin)
            except _BrokenOff as error:
                if self._on_damaged is None:
                    raise
                self._on_damaged(error)

    @contextmanager
    def _open(self) -> Iterator[AnyReader]:
        """The bag, open; SourceError where it cannot be opened."""
        try:
            # Bags of before Iron in SQLite hold no definitions; common messages have not changed.
            reader = AnyReader([self.path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
            reader.open()
        except Exception as error:  # a damaged file makes the parser stumble over anything
            raise SourceError(
                f"bag '{self.path}' cannot be read: {error} (one that was cut off can be repaired "
                "by `ros2 bag reindex` or `mcap recover`)"
            ) from error
        try:
            yield reader
        finally:
            reader.close()

    def _choose(self, known: dict[str, str], topics: list[str]) -> list[str]:
        """The topics asked for, or the only one."""
        listed = ", ".join(sorted(known)) or "none"
        if not topics and len(known) == 1:
            return list(known)
        if not topics:
            raise SourceError(
                f"bag '{self.path}': expected --topic TOPIC, any number of times (only `predict` "
                f"and `view` have it); image topics: {listed}"
            )
        for topic in topics:
            if topic not in known:
                raise SourceError(
                    f"bag '{self.path}': no image topic '{topic}'; image topics: {listed}"
                )
        return list(dict.fromkeys(topics))

    def _whole(self, messages: Iterator[tuple[Connection, int, bytes]]) -> Iterator[Any]:
        """The messages up to where the bag's storage is damaged; _BrokenOff there."""
        count = 0
        while True:
            try:
                message = next(messages)
            except StopIteration:
                return
            except Exception as error:
                raise _BrokenOff(
                    f"{self.path}: damaged after {count} messages, the rest cannot be read: {error}"
                ) from error
            count += 1
            yield message

    def _read(
        self, reader: AnyReader, connection: Connection, received: int, data: bytes
    ) -> tuple[np.ndarray, Origin]:
        """Pixels (H, W, 3) uint8 RGB and where they come from; ImageFileError."""
        seconds = f"{received // 10**9}.{received % 10**9:09d}"
        place = f"{self.path}: {connection.topic} received at {seconds}"
        try:
            message: Any = reader.deserialize(data, connection.msgtype)
        except Exception as error:
            raise ImageFileError(f"{place}: no {connection.msgtype}: {error}") from error
        stamp = message.header.stamp
        origin = Origin(
            camera_of(connection.topic),
            stamp.sec,
            stamp.nanosec,
            message.header.frame_id,
            received,
        )
        try:
            image, order = _DECODERS[connection.msgtype](message)
        except ImageError as error:
            raise ImageFileError(f"{place}: {error}") from error
        if order == "bgr":
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        return resized(image, self._size), origin


class _BrokenOff(ImageFileError):
    """The storage of the bag cannot be read on."""


def camera_of(topic: str) -> str:
    """The camera topic that `topic` belongs to: itself, without /compressed."""
    return topic.removesuffix("/compressed")


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
