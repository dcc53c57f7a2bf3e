"""Copies a bag and adds the results beside each camera topic."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2.metadata import dump_qos_v8, dump_qos_v9

from bisenetv2_ros.offline.bag_writer import BagWriter
from bisenetv2_ros.outputs import IMAGES, FrameOutputs, fill_label_info, output_topic
from bisenetv2_ros.sources.bag import IMAGE, LABEL_INFO, BagFrames, typestore
from bisenetv2_ros.sources.bag_file import Channel, Message, Schema
from bisenetv2_ros.sources.frame import FrameSource, Origin, SourceError

CLASS_FRACTIONS = "bisenetv2_ros/msg/ClassFractions"


class BagCopy:
    """A new bag with everything in `source`, plus the outputs of its frames.

    All messages keep their bytes, times, numbers, QoS, definitions and compression; attachments and
    metadata are copied too. Topics of the source that an output replaces are left out. The bag is
    valid after `close`, even if not everything was copied.
    """

    def __init__(self, path: Path, source: FrameSource, names: Sequence[str]) -> None:
        """Begin a bag in the new folder `path`, in the storage of `source`, and copy from then on.

        names: of the outputs to add, such as 'mask'. Raises SourceError if `source` is not a bag or
        two of its cameras would share an output topic, FileExistsError if `path` exists.
        """
        if not isinstance(source, BagFrames):
            raise SourceError("a bag as a result: expected one as the source")
        masks = [output_topic(camera, "mask") for camera in source.cameras]
        for mask in masks:
            if masks.count(mask) > 1:
                raise SourceError(
                    f"a bag as a result: {', '.join(source.topics)} would share the topic {mask}, "
                    "expected cameras in namespaces of their own"
                )
        if path.exists():
            raise FileExistsError(17, "File exists", str(path))
        self._types = typestore()
        self._names = tuple(names)
        self._added: dict[str, Channel] = {}
        added = (*self._names, "label_info")
        self._taken = {output_topic(camera, name) for camera in source.cameras for name in added}
        self._writer = BagWriter(path, source.recording, self._taken, source.lost)
        source.on_message = self._copy

    def write(self, origin: Origin, outputs: FrameOutputs) -> None:
        """Add the outputs of one frame, with its stamp and frame id."""
        types = self._types.types
        time = types["builtin_interfaces/msg/Time"](origin.sec, origin.nanosec)
        header = types["std_msgs/msg/Header"](time, origin.frame_id)
        label_info = output_topic(origin.camera, "label_info")
        if label_info not in self._added:
            unset = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](0, 0), "")
            message = fill_label_info(types, unset, outputs.labels)
            self._add(label_info, LABEL_INFO, origin, message, latched=True)
        for name in self._names:
            topic = output_topic(origin.camera, name)
            if name in IMAGES:
                self._add(topic, IMAGE, origin, self._image(header, outputs, name))
            else:  # no subscriber waited for it, so it has no latency
                message = outputs.fill_class_fractions(types, header, latency=float("nan"))
                self._add(topic, CLASS_FRACTIONS, origin, message)

        self._writer.flush()

    def close(self) -> None:
        """Complete the bag."""
        self._writer.close()

    def _copy(self, message: Message) -> None:
        if message.channel.topic not in self._taken:
            self._writer.write(message)

    def _add(
        self, topic: str, kind: str, origin: Origin, message: Any, latched: bool = False
    ) -> None:
        if topic not in self._added:
            self._added[topic] = self._channel(topic, kind, latched)
            self._writer.add(self._added[topic])
        data = bytes(self._types.serialize_cdr(message, kind))
        time = origin.received
        self._writer.write_new(Message(self._added[topic], time, time, 0, data))

    def _channel(self, topic: str, kind: str, latched: bool) -> Channel:
        text, _ = self._types.generate_msgdef(kind, ros_version=2)
        profiles = [_qos(latched)]
        if self._writer.version >= 9:
            qos = yaml.safe_dump(dump_qos_v9(profiles))
        else:
            qos = dump_qos_v8(profiles)
        type_hash = self._types.hash_rihs01(kind)
        metadata = {"offered_qos_profiles": qos, "topic_type_hash": type_hash}
        return Channel(topic, kind, "cdr", Schema(kind, "ros2msg", text.encode()), metadata)

    def _image(self, header: Any, outputs: FrameOutputs, name: str) -> Any:
        pixels = outputs.pixels(name)
        assert pixels is not None, f"segmented without {name}"
        pixels = np.ascontiguousarray(pixels)
        return self._types.types[IMAGE](
            header,
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=IMAGES[name],
            is_bigendian=0,
            step=pixels.size // pixels.shape[0],
            data=pixels.ravel(),
        )


def _qos(latched: bool) -> Qos:
    """The QoS of the node's publishers, for players of the bag."""
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
