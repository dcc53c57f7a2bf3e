"""ROS 2 bags (MCAP and SQLite): the frames in one, and a copy of it with segmentation topics added.

By the library `rosbags`: no ROS is needed, and messages are read by the definitions that the bag
holds. Images go through the decoder of the node, so that what it refuses is refused here. Knows
nothing of models or of how a mask is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from bisenetv2_ros.frame import (
    DEFAULT_RATE,
    Frame,
    FrameSource,
    Origin,
    Size,
    SourceError,
    resized,
)
from bisenetv2_ros.image_conversion import ImageError, decode_compressed, decode_image
from bisenetv2_ros.image_file import ImageFileError
from bisenetv2_ros.paths import share_directory
from bisenetv2_ros.topic_names import output_topic

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

    from bisenetv2_ros.labels import LabelSet

IMAGE = "sensor_msgs/msg/Image"
CLASS_FRACTIONS = "bisenetv2_ros/msg/ClassFractions"
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
        cameras = [camera_of(topic) for topic in topics]
        outputs = [output_topic(camera, "mask") for camera in cameras]
        if len(set(outputs)) < len(outputs):
            raise SourceError(
                f"bag '{self.path}': {', '.join(topics)} would share the topic {outputs[0]}, "
                "expected cameras in namespaces of their own"
            )
        return topics

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


class BagCopy:
    """A new bag beside `source`: all it holds, and the outputs of its frames.

    Messages keep their bytes, times, QoS and definitions. Topics of the old bag that an output
    takes the place of are left out. Whole after `close`, also when not everything was copied.
    """

    def __init__(
        self, path: Path, source: FrameSource, outputs: Sequence[str], labels: LabelSet
    ) -> None:
        """Begin a bag in the new folder `path`, in the storage of `source`, and copy from it from
        now on.

        outputs: names of the node's topics, such as 'mask'. SourceError where `source` is no bag,
        FileExistsError where there is something at `path`.
        """
        if not isinstance(source, BagFrames):
            raise SourceError("a bag as a result: expected one as the source")
        if path.exists():
            raise FileExistsError(17, "File exists", str(path))
        self._types = typestore()
        self._outputs = tuple(outputs)
        self._labels = labels
        sqlite = source.path.suffix == ".db3" or any(source.path.glob("*.db3*"))
        self._writer = Writer(
            path,
            version=9,
            storage_plugin=StoragePlugin.SQLITE3 if sqlite else StoragePlugin.MCAP,
        )
        self._writer.open()
        self._copies: dict[tuple[Any, ...], Connection] = {}
        self._added: dict[str, Connection] = {}
        names = (*self._outputs, "label_info")
        self._taken = {output_topic(camera, name) for camera in source.cameras for name in names}
        source.on_message = self._copy

    def write(
        self,
        origin: Origin,
        images: dict[str, np.ndarray],
        counts: np.ndarray,
        size: tuple[int, int],
        model: str,
        inference_seconds: float,
        regions: Mapping[str, np.ndarray],
    ) -> None:
        """Add the outputs of one frame, with its stamp and frame id.

        images: of each image output that is wanted, (H, W) or (H, W, 3) uint8. counts: (C,) int64,
        pixels of each class in the mask of `size` (width, height); regions: the same of each region
        of interest, by name.
        """
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](origin.sec, origin.nanosec)
        header = types["std_msgs/msg/Header"](time, origin.frame_id)
        label_info = output_topic(origin.camera, "label_info")
        if label_info not in self._added:
            self._add(label_info, LABEL_INFO, origin, self._label_info(), latched=True)
        for name in self._outputs:
            kind = CLASS_FRACTIONS if name == "class_fractions" else IMAGE
            if name == "class_fractions":
                message = types[kind](
                    header,
                    model=model,
                    width=size[0],
                    height=size[1],
                    classes=self._class_fractions(counts),
                    regions=self._region_fractions(regions),
                    latency=float("nan"),  # nobody waited for it
                    inference_time=inference_seconds,
                )
            else:
                pixels = np.ascontiguousarray(images[name])
                message = types[kind](
                    header,
                    height=pixels.shape[0],
                    width=pixels.shape[1],
                    encoding="mono8" if pixels.ndim == 2 else "rgb8",
                    is_bigendian=0,
                    step=pixels.size // pixels.shape[0],
                    data=pixels.ravel(),
                )
            self._add(output_topic(origin.camera, name), kind, origin, message)

    def close(self) -> None:
        """Complete the bag."""
        self._writer.close()

    def _copy(self, connection: Connection, received: int, data: bytes, types: Typestore) -> None:
        if connection.topic in self._taken:
            return
        qos: Any = getattr(connection.ext, "offered_qos_profiles", [])
        key = (connection.topic, connection.msgtype, str(qos))
        if key not in self._copies:
            text, name = connection.msgdef.data, connection.msgtype
            if name not in types.types:  # neither in the bag nor known: an empty definition
                types.register(get_types_from_msg("", name))
            elif not text:
                text, _ = types.generate_msgdef(name, ros_version=2)
            self._copies[key] = self._writer.add_connection(
                connection.topic,
                name,
                msgdef=text,
                rihs01=connection.digest or types.hash_rihs01(name),  # MCAP does not store it
                offered_qos_profiles=qos,
            )
        self._writer.write(self._copies[key], received, data)

    def _add(
        self, topic: str, kind: str, origin: Origin, message: Any, latched: bool = False
    ) -> None:
        if topic not in self._added:
            self._added[topic] = self._writer.add_connection(
                topic, kind, typestore=self._types, offered_qos_profiles=[_qos(latched)]
            )
        data = self._types.serialize_cdr(message, kind)
        self._writer.write(self._added[topic], origin.received, data)

    def _class_fractions(self, counts: np.ndarray) -> Any:
        fraction = self._types.types["bisenetv2_ros/msg/ClassFraction"]
        valid = max(int(counts.sum()), 1)
        return [
            fraction(class_id, name, count / valid, count)
            for class_id, (name, count) in enumerate(
                zip(self._labels.names, counts.tolist(), strict=True)
            )
        ]

    def _region_fractions(self, regions: Mapping[str, np.ndarray]) -> Any:
        fractions = self._types.types["bisenetv2_ros/msg/RegionFractions"]
        return [
            fractions(name, int(counts.sum()), self._class_fractions(counts))
            for name, counts in regions.items()
        ]

    def _label_info(self) -> Any:
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](0, 0)
        classes: Any = [
            types["vision_msgs/msg/VisionClass"](class_id, name)
            for class_id, name in enumerate(self._labels.names)
        ]
        return types[LABEL_INFO](types["std_msgs/msg/Header"](time, ""), classes, 0.0)


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


def _qos(latched: bool) -> Qos:
    """That of the node's publishers, for whoever plays the bag."""
    never = QosTime(0, 0)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=never,
        lifespan=never,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=never,
        avoid_ros_namespace_conventions=False,
    )
