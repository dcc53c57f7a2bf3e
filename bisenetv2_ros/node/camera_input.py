"""The subscriptions of one camera: its images, by whatever transport offers them, and calibration.

`update` follows the graph: a driver may restart with another transport or QoS. While the camera is
not needed there is no subscription, so that its frames cost nothing and the driver can idle too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from rclpy import get_rmw_implementation_identifier
from rclpy.node import Node
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo

from bisenetv2_ros.image_transports import PACKET, camera_topic
from bisenetv2_ros.image_video import VideoDecoder, missing_decoder
from bisenetv2_ros.node import diagnostics, fastdds, transports
from bisenetv2_ros.node.qos import SubscriptionQoS, incompatible, naming_topic
from bisenetv2_ros.node.transports import Stream, other_types

SILENCE = 2.0  # seconds without a frame after which another transport is tried
LOOK_PERIOD = 0.1  # seconds between checks of the graph while waiting for frames
IDLE_LOOK_PERIOD = 1.0  # while frames come, or are not needed
VIDEO_DEPTH = 30  # queue depth of video packets: none may be lost
UNSUPPORTED = ("theora", "compressedDepth")  # transports reported if a camera has no other
CALIBRATION = "sensor_msgs/msg/CameraInfo"
_MAX_CALIBRATIONS = 8  # frame_ids that may share a calibration topic

OnImage = Callable[[Any], None]


class CameraInput:
    """Delivers the images of a camera to a callback while it is open, and keeps its calibration."""

    def __init__(self, node: Node, topic: str, transport: str, on_image: OnImage) -> None:
        """Subscribe to nothing yet.

        Args:
            node: to subscribe with.
            topic: of the camera, as in the parameter cameras.
            transport: 'auto', or the only one of transports.TRANSPORTS to use.
            on_image: called with each message that transports.decode takes.

        Raises ValueError, naming the topic, for an invalid QoS override.
        """
        self._node = node
        self._on_image = on_image
        self._streams = transports.streams(node, topic, transport)
        self._stream = self._streams[0]
        self._is_auto = transport == transports.AUTO
        self._info_name = transports.beside(node, camera_topic(topic), transports.calibration_topic)
        names = dict.fromkeys([*(stream.name for stream in self._streams), self._info_name])
        self._qos = {name: SubscriptionQoS(node, name) for name in names}
        #: The camera's full topic, which identifies it in diagnostics.
        self.topic = node.resolve_topic_name(self._stream.name)
        #: The topic of the calibration, in full.
        self.info_topic = node.resolve_topic_name(self._info_name)
        self.is_open = False  #: whether images are asked for
        #: Whether other cameras of the node have the same calibration topic.
        self.shares_calibration = False
        self.is_published = False  #: whether images of this camera have a publisher
        self._subscriptions: dict[str, tuple[object, Subscription]] = {}  # by name: how made, it
        self._silent: set[Stream] = set()  # streams that did not bring frames
        self._heard_stream = self._stream  # that brought the newest frame
        self._next_look = 0.0
        self._heard = 0.0  # when the newest frame came, or when it was subscribed to
        self._calibrations: dict[str, CameraInfo] = {}  # by frame_id, the newest last

    # The executor's thread

    def open(self) -> None:
        """Subscribe; `update` then keeps choosing the stream."""
        if not self.is_open:
            self.is_open = True
            self._next_look = 0.0
        self.update()

    def close(self) -> None:
        """Unsubscribe."""
        self.is_open = False
        for name in list(self._subscriptions):
            self._unsubscribe(name)

    def update(self) -> None:
        """Follow the graph. Call it every LOOK_PERIOD or more often.

        Raises ValueError, naming the topic, if it cannot be subscribed to.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        flows = now - self._heard < LOOK_PERIOD
        self._next_look = now + (LOOK_PERIOD if self.is_open and not flows else IDLE_LOOK_PERIOD)
        offers = self._offers()
        self.is_published = bool(offers)
        self._choose(offers, now)
        if self.is_open:
            self._subscribe_to_images(offers.get(self._stream, []))
            self._subscribe_to_calibration()

    def calibration(self, frame_id: str) -> CameraInfo | None:
        """The newest calibration for images of that frame_id; None if there is none.

        If no other camera shares the topic, a calibration with another frame_id is accepted: not
        every driver fills it in.
        """
        known = self._calibrations
        if frame_id in known or self.shares_calibration:
            return known.get(frame_id)
        return next(reversed(known.values()), None)

    def other_calibration_types(self) -> str:
        """One line with the types of `info_topic` if none is a calibration; otherwise ''."""
        return "; ".join(other_types(self._node, self._info_name, CALIBRATION))

    @property
    def source(self) -> str:
        """Transport and topic of the current subscription; '' while not subscribed."""
        if not self.is_open:
            return ""
        return f"{self._stream.transport} {self._node.resolve_topic_name(self._stream.name)}"

    def problems(self, silence: float = 0.0) -> list[str]:
        """List why images do not come, one line each: no publisher, other types, QoS.

        silence: seconds without a frame although one was expected.
        """
        offers = self._offers()
        found = offers.get(self._stream, [])
        problems = []
        if not found:
            problems = self._other_types() or [f"nobody publishes {self.topic}{self._elsewhere()}"]
        topic = self._node.resolve_topic_name(self._stream.name)
        profile = self._profile(self._stream, found)
        for publisher in found:
            if reason := incompatible(publisher.qos_profile, profile):
                problems.append(f"incompatible QoS on {topic}: {reason}")
        if found and (missing := _missing(self._stream)):
            problems.append(f"{topic} is published as {PACKET}, which needs {missing}")
        if found and not problems and silence > diagnostics.SILENCE:
            who = {f"{p.node_namespace.rstrip('/')}/{p.node_name}" for p in found}
            problems.append(
                f"{' and '.join(sorted(who))} publishes {topic}, but no frame arrives: it sends "
                f"none, or they are lost on the way; {_advice()}"
            )
        return list(dict.fromkeys(problems))

    def _offers(self) -> dict[Stream, list[TopicEndpointInfo]]:
        """The publishers of each stream that has any."""
        offers: dict[Stream, list[TopicEndpointInfo]] = {}
        for name in dict.fromkeys(stream.name for stream in self._streams):
            for publisher in self._node.get_publishers_info_by_topic(name):
                for stream in self._streams:
                    if (stream.name, stream.type_name) == (name, publisher.topic_type):
                        offers.setdefault(stream, []).append(publisher)
        return offers

    def _choose(self, offers: dict[Stream, list[TopicEndpointInfo]], now: float) -> None:
        """Choose the first published stream; one that stays silent gives way to the others."""
        if (
            self.is_open
            and self._stream in offers
            and self._stream.name in self._subscriptions
            and now - self._heard > SILENCE
        ):
            self._silent.add(self._stream)
            self._heard = now
        self._silent &= set(offers)
        usable = [stream for stream in self._streams if stream in offers and not _missing(stream)]
        if usable and all(stream in self._silent for stream in usable):
            self._silent.clear()
        chosen = [stream for stream in usable if stream not in self._silent]
        published = [stream for stream in self._streams if stream in offers]
        stream = next(iter([*chosen, *published]), self._stream)
        if stream != self._stream:
            self._unsubscribe(self._stream.name)
            self._stream = stream

    def _profile(self, stream: Stream, publishers: Sequence[TopicEndpointInfo]) -> Any:
        depth = VIDEO_DEPTH if stream.type_name == PACKET else 1
        return self._qos[stream.name].profile(publishers, depth)

    def _subscribe_to_images(self, publishers: Sequence[TopicEndpointInfo]) -> None:
        stream = self._stream
        kind = transports.message_class(stream.type_name)
        if kind is None or _missing(stream):
            return  # `problems` reports it
        self._subscribe(
            stream.name, kind, lambda: self._receiver(stream), self._profile(stream, publishers)
        )

    def _receiver(self, stream: Stream) -> OnImage:
        """Make the callback for the messages of a stream."""
        deliver: OnImage = self._on_image
        if stream.type_name == PACKET:
            decoder = VideoDecoder()

            def deliver(packet: Any) -> None:
                for frame in decoder.frames(packet, packet.header):
                    self._on_image(frame)

        def take(message: Any) -> None:
            self._heard = time.monotonic()
            if stream != self._heard_stream:
                topic = self._node.resolve_topic_name(stream.name)
                self._node.get_logger().info(
                    f"{self.topic}: images come as {stream.type_name} on {topic}"
                )
                self._heard_stream = stream
            deliver(message)

        return take

    def _subscribe_to_calibration(self) -> None:
        publishers = [
            publisher
            for publisher in self._node.get_publishers_info_by_topic(self._info_name)
            if publisher.topic_type == CALIBRATION
        ]
        profile = self._qos[self._info_name].profile(publishers)
        self._subscribe(self._info_name, CameraInfo, lambda: self._keep_calibration, profile)

    def _subscribe(
        self, name: str, kind: type, make_callback: Callable[[], OnImage], profile: Any
    ) -> None:
        """Subscribe, unless the same subscription exists."""
        how = (kind, profile)
        if name in self._subscriptions and self._subscriptions[name][0] == how:
            return
        self._unsubscribe(name)
        with naming_topic(self._node, name):
            made = self._node.create_subscription(kind, name, make_callback(), profile)
        self._subscriptions[name] = (how, made)
        if name != self._info_name:
            self._heard = time.monotonic()

    def _unsubscribe(self, name: str) -> None:
        if name in self._subscriptions:
            self._node.destroy_subscription(self._subscriptions.pop(name)[1])

    def _keep_calibration(self, message: CameraInfo) -> None:
        frame_id = message.header.frame_id
        others = {name: info for name, info in self._calibrations.items() if name != frame_id}
        kept = dict(list(others.items())[1 - _MAX_CALIBRATIONS :])
        self._calibrations = {**kept, frame_id: message}  # replaced: another thread reads it

    def _other_types(self) -> list[str]:
        """One line per unsupported type of the camera's topic."""
        name = self._streams[0].name
        expected = dict.fromkeys(each.type_name for each in self._streams if each.name == name)
        advice = "" if self._is_auto else "; image_transport: auto takes every image type"
        return [f"{text}{advice}" for text in other_types(self._node, name, *expected)]

    def _elsewhere(self) -> str:
        """A hint if the images are published by a transport that is not enabled."""
        base = camera_topic(self._streams[0].name)
        for stream in transports.streams(self._node, base, transports.AUTO):
            if stream not in self._streams and any(
                publisher.topic_type == stream.type_name
                for publisher in self._node.get_publishers_info_by_topic(stream.name)
            ):
                topic = self._node.resolve_topic_name(stream.name)
                return (
                    f", but {topic} is published: set image_transport to {stream.transport} or auto"
                )
        for transport in UNSUPPORTED:
            topic = self._node.resolve_topic_name(f"{base}/{transport}")
            if self._node.count_publishers(topic):
                return (
                    f", but {topic} is published, which this node cannot decode: expected "
                    f"{', '.join(transports.TRANSPORTS)}"
                )
        return ""


def _missing(stream: Stream) -> str:
    """The packages to install for this stream; '' if none is missing."""
    if stream.type_name != PACKET:
        return ""
    package = PACKET.partition("/")[0]
    needed = [] if transports.message_class(PACKET) else [f"the package {package}"]
    return " and ".join(filter(None, [*needed, missing_decoder()]))


def _advice() -> str:
    """A hint for images that are lost on the way, for the current middleware."""
    if "fastrtps" in get_rmw_implementation_identifier():
        return fastdds.advice()
    return (
        "images are large: raise net.core.rmem_max and see the middleware's documentation on "
        "large messages"
    )
