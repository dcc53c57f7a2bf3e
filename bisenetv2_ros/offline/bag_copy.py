"""Copies a bag and adds the results beside each camera topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import get_types_from_msg

from bisenetv2_ros.outputs import output_topic
from bisenetv2_ros.sources.frame import (
    FrameSource,
    Origin,
    SourceError,
)

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

    from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.sources.bag import IMAGE, LABEL_INFO, BagFrames, typestore

CLASS_FRACTIONS = "bisenetv2_ros/msg/ClassFractions"


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
