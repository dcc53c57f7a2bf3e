"""The topics of one camera: its inputs, its outputs, and who subscribes.

For the camera topic a/b/image_raw the outputs are a/b/segmentation/mask and so on, or with `below`
a/b/image_raw/segmentation/mask. Names are relative and can be remapped. The module does not decide
when a frame is segmented, or on which thread.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_msgs.msg import Header

from bisenetv2_ros.camera_view import View
from bisenetv2_ros.image_conversion import ChannelOrder, ImageError
from bisenetv2_ros.image_transports import camera_topic, decode
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.msg import ClassFractions
from bisenetv2_ros.node import diagnostics, parameters
from bisenetv2_ros.node.bit_depth import BitDepth
from bisenetv2_ros.node.camera_input import CameraInput
from bisenetv2_ros.node.depth_input import DepthError
from bisenetv2_ros.node.diagnostics import CameraStatistics
from bisenetv2_ros.node.ground_points import CameraPoses, GroundError, GroundPoints
from bisenetv2_ros.node.intake import RateLimit
from bisenetv2_ros.node.lifecycle import guarded
from bisenetv2_ros.node.messages import (
    TYPES,
    FrameLatency,
    ImageBuffer,
    compressed_image,
    label_info,
    scaled_camera_info,
)
from bisenetv2_ros.node.parameters import Parameters
from bisenetv2_ros.node.qos import OVERRIDES, latched, naming_topic, output_problems, reliable
from bisenetv2_ros.node.region_limits import LimitWatch
from bisenetv2_ros.node.transports import beside, parse_encodings
from bisenetv2_ros.outputs import (
    COMPRESSED,
    IMAGES,
    FrameOutputs,
    compressed,
    output_topic,
    uncompressed,
)

try:
    from rclpy.event_handler import PublisherEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, UnsupportedEventTypeError

WARN_PERIOD = 5.0  # seconds
REST_DELAY = 1.0  # seconds after the last subscriber leaves, which may only be restarting

#: Outputs and their message types; the parameter publish_<name> switches one off.
OUTPUTS: dict[str, type] = {
    **dict.fromkeys(IMAGES, Image),
    **dict.fromkeys(map(compressed, COMPRESSED), CompressedImage),
    "class_fractions": ClassFractions,
    "camera_info": CameraInfo,
    "ground_points": PointCloud2,
}
#: Outputs that need the camera's calibration.
NEED_CALIBRATION = {"camera_info", "ground_points"}


def check_camera_topics(node: Node, topics: Sequence[str], outputs: str) -> None:
    """Raise ValueError if a topic is not valid, or if two share a topic or their outputs.

    outputs: the parameter of that name, beside or below.
    """
    if not topics:
        raise ValueError("parameter cameras: got an empty list, expected at least one image topic")
    owners: dict[str, str] = {}
    for topic in topics:
        own = camera_topic(topic)
        try:
            validate_topic_name(topic)
            camera = node.resolve_topic_name(own)  # some names are invalid with the namespace
            mask = node.resolve_topic_name(output_topic(own, "mask", outputs))
        except (InvalidTopicNameException, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"parameter cameras: '{topic}' is no topic name: {reason}") from None
        for name in (camera, mask):
            if name in owners:
                below = "outputs:=below, which puts them below each camera's own topic, or "
                helps = name == mask and outputs != "below"
                raise ValueError(
                    f"parameter cameras: {owners[name]!r} and {topic!r} would share the topic "
                    f"{name}, expected {below if helps else ''}cameras in namespaces of their own"
                )
            owners[name] = topic


class CameraTopics:
    """Publishers, subscriptions and statistics of one camera."""

    def __init__(
        self,
        node: Node,
        topic: str,
        settings: Parameters,
        view: View,
        watch: LimitWatch | None = None,
        poses: CameraPoses | None = None,
    ) -> None:
        """Create the publishers.

        Args:
            node: to publish and subscribe with.
            topic: of the images, as in the parameter cameras.
            settings: only image_transport and outputs are read, which do not change.
            view: the part of the images to use.
            watch: for a camera that has regions of interest.
            poses: of the cameras, for ground_points.

        Raises ValueError, with no publisher left behind, if one cannot be created.
        """
        self.view = view
        self.watch = watch
        self.encoding = parse_encodings(settings.encodings, settings.cameras)[topic]
        self._ground = GroundPoints(node, topic, settings, view, poses)
        self.statistics = CameraStatistics()
        self.rate_limit = RateLimit()
        self._latency = FrameLatency()
        self._warned = -math.inf  # time of the last warning
        self.bit_depth = BitDepth()
        self.input = CameraInput(node, topic, settings.image_transport, self._deliver)
        #: The camera's full topic, which identifies it in diagnostics.
        self.topic = self.input.topic
        #: Why no frames are asked for; '' while they are.
        self.resting = ""
        camera = camera_topic(topic)
        self.output_names = {name: output_topic(camera, name, settings.outputs) for name in OUTPUTS}
        for name in COMPRESSED:  # goes where its raw topic is remapped to, as with image_transport
            self.output_names[compressed(name)] = beside(node, self.output_names[name], compressed)
        self._node = node
        self._on_image: Callable[[Any], None] | None = None  # while active
        self._needed = -math.inf  # when frames were last
        self._buffers = {name: ImageBuffer() for name in IMAGES}
        self._publishers: dict[str, Publisher] = {}
        self._label_info_topic = output_topic(camera, "label_info", settings.outputs)
        self._label_info_publisher: Publisher | None = None
        # Since when an output with subscribers cannot be published, why, and its name.
        self._lack: tuple[float, str, str] | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.destroy)
            for name, kind in OUTPUTS.items():
                self._publishers[name] = self._publisher(name, kind)
            undo.pop_all()

    def _publisher(self, output: str, kind: type) -> Publisher:
        """Create the publisher of an output; a new subscriber is noticed immediately."""
        name = self.output_names[output]
        make = functools.partial(
            self._node.create_publisher,
            kind,
            name,
            reliable(depth=1 if kind in (Image, CompressedImage, PointCloud2) else 10),
            qos_overriding_options=OVERRIDES,
        )
        on_listener = guarded(self._node, lambda _: self.follow(parameters.read(self._node)))
        with naming_topic(self._node, name):
            try:
                return make(event_callbacks=PublisherEventCallbacks(matched=on_listener))
            except (TypeError, UnsupportedEventTypeError):
                return make()  # on Humble, or a middleware without it: `follow` is called anyway

    def start(self, on_image: Callable[[Any], None], settings: Parameters) -> None:
        """From now on, call `on_image` with image messages whenever frames are needed.

        Raises ValueError, naming the topic, if it cannot be subscribed to.
        """
        self._on_image = on_image
        self._needed = -math.inf
        self.follow(settings)

    def stop(self) -> None:
        """End the calls of `on_image`."""
        self._on_image = None
        self._ground.follow(False)
        self.resting = ""
        self.input.close()

    def follow(self, settings: Parameters) -> None:
        """Subscribe to the camera while it is needed and unsubscribe while it is not; call it
        often.

        It is needed while an output has a subscriber, or while its regions have limits.
        """
        if self._on_image is None:
            return
        now = time.monotonic()
        wanted = self.wanted(settings)
        if self.watched or wanted:
            self._needed = now
        reason = ""
        if not settings.enabled:
            reason = diagnostics.IS_DISABLED
        elif now - self._needed > REST_DELAY:
            reason = diagnostics.IS_IDLE
        if (self.resting and not reason) or (self._needed == now and not self.input.is_open):
            self.statistics.resumed()
        self.resting = reason
        if not wanted & NEED_CALIBRATION:
            self._lack = None
        self._ground.follow("ground_points" in wanted and not reason)
        if reason:
            self.input.close()
            self.input.update()
        else:
            self.input.open()

    def problems(self) -> list[str]:
        """List why frames do not come in or outputs do not go out, one line each."""
        report = self.statistics.report()
        silence = report.age if report.waiting is None else report.waiting
        problems = self.input.problems(0.0 if self.resting else silence)
        lack = self._lack
        if lack and not self.resting and time.monotonic() - lack[0] > diagnostics.SILENCE:
            output = self._node.resolve_topic_name(self.output_names[lack[2]])
            problems.append(f"somebody subscribes to {output}, but {lack[1]}")
        return problems + output_problems(self._node, self.output_names.values())

    def _deliver(self, message: Any) -> None:
        if self._on_image is not None:
            self._on_image(message)

    def destroy(self) -> None:
        """Remove everything from the graph."""
        self.stop()
        for publisher in (*self._publishers.values(), self._label_info_publisher):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def wanted(self, settings: Parameters) -> set[str]:
        """The enabled outputs that have a subscriber."""
        return {
            name
            for name, publisher in self._publishers.items()
            if getattr(settings, f"publish_{uncompressed(name)}")
            and publisher.get_subscription_count()
        }

    def decode(self, message: Any) -> tuple[np.ndarray, ChannelOrder]:
        """Pixels (H, W, 3) uint8 of an image message and their order. Raises ImageError."""
        try:
            return decode(message, self.encoding)
        except ImageError as error:
            if error.cause != "encoding":
                raise
            hint = "if the pixels are of another one, name it in the parameter encodings"
            raise ImageError(error.cause, f"{error}; {hint}") from None

    @property
    def watched(self) -> bool:
        """Whether limits are set on its regions, so that masks are needed without subscribers."""
        return self.watch is not None and bool(self.watch.limits)

    def publish_label_info(self, labels: LabelSet) -> None:
        """Publish the meaning of the mask's values, also for later subscribers."""
        message = label_info(labels)
        if message is not None:
            if self._label_info_publisher is None:
                self._label_info_publisher = self._node.create_publisher(
                    type(message), self._label_info_topic, latched()
                )
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._label_info_publisher.publish(message)

    def publish(self, wanted: set[str], header: Header, outputs: FrameOutputs) -> float:
        """Publish the `wanted` outputs of one frame with the frame's own header.

        Returns the latency in seconds from the camera's stamp to the publishing of mask and class
        fractions; NaN if the stamp is not usable.
        """
        if "mask" in wanted:
            self._publish_image("mask", header, outputs)
        latency = self._latency.seconds(header.stamp, self._node.get_clock().now().nanoseconds)
        if "class_fractions" in wanted:
            message = outputs.fill_class_fractions(TYPES, header, latency)
            self._publishers["class_fractions"].publish(message)
        if wanted & NEED_CALIBRATION:
            self._publish_calibrated(wanted & NEED_CALIBRATION, header, outputs)
        for name in IMAGES:
            if name in wanted and name != "mask":
                self._publish_image(name, header, outputs)
        for name, (_, format_) in COMPRESSED.items():
            if compressed(name) in wanted:
                data = outputs.compressed(name)
                if data is not None:
                    message = compressed_image(header, format_, data)
                    self._publishers[compressed(name)].publish(message)
        return latency

    def _publish_image(self, name: str, header: Header, outputs: FrameOutputs) -> None:
        pixels = outputs.pixels(name)
        if pixels is not None:
            message = self._buffers[name].fill(header, pixels, IMAGES[name])
            self._publishers[name].publish(message)

    def _publish_calibrated(self, wanted: set[str], header: Header, outputs: FrameOutputs) -> None:
        """Publish the outputs that need a calibration, scaled to the mask, by the newest one.

        A calibration is valid for many frames, so one of the same stamp is not waited for; but one
        for another image size is not used.
        """
        name = min(wanted)
        info = self.input.calibration(header.frame_id)
        if info is None:
            known = f" of frame_id '{header.frame_id}'" if self.input.shares_calibration else ""
            if types := self.input.other_calibration_types():
                self.warn(types)
            self._miss(name, types or f"{self.input.info_topic} brings no calibration{known}")
            return
        calibrated = (
            (info.roi.width or info.width) // max(info.binning_x, 1),
            (info.roi.height or info.height) // max(info.binning_y, 1),
        )
        camera_size = outputs.camera_size
        if calibrated != camera_size:
            text = (
                f"{self.input.info_topic} is for {calibrated[0]}x{calibrated[1]} pixels, "
                f"expected {camera_size[0]}x{camera_size[1]}, the size of the image"
            )
            self._miss(name, text)
            self.warn(text)
            return
        box = self.view.box(camera_size)
        scaled = scaled_camera_info(info, outputs.mask_size, header, box)
        if "camera_info" in wanted:
            self._publishers["camera_info"].publish(scaled)
        lack = None
        if "ground_points" in wanted:
            try:
                self._publishers["ground_points"].publish(self._ground.cloud(scaled, outputs))
            except (GroundError, DepthError) as error:
                lack = str(error)
                self.warn(f"{self.topic}: no ground_points: {error}")
        if lack:
            self._miss("ground_points", lack)
        else:
            self._lack = None

    def warn(self, text: str) -> None:
        """Log a warning, at most one per camera and WARN_PERIOD; rclpy would share the limit."""
        now = time.monotonic()
        if now - self._warned >= WARN_PERIOD:
            self._warned = now
            self._node.get_logger().warning(text)

    def _miss(self, output: str, why: str) -> None:
        since = self._lack[0] if self._lack else time.monotonic()
        self._lack = (since, why, output)
