"""The topics of one camera: what comes in, what goes out, and who listens.

For the camera topic a/b/image_raw the outputs are a/b/segmentation/mask and so on, and the
calibration is read from a/b/camera_info, beside the images. Names are relative and can be remapped.
The module does not know when a frame is segmented, nor on which thread.
"""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.validate_topic_name import validate_topic_name
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from bisenetv2_ros.camera_view import View
from bisenetv2_ros.image_conversion import ChannelOrder, decode_compressed, decode_image
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.msg import ClassFractions
from bisenetv2_ros.node.diagnostics import CameraStatistics
from bisenetv2_ros.node.intake import RateLimit
from bisenetv2_ros.node.messages import (
    TYPES,
    ImageBuffer,
    label_info,
    latency_seconds,
    scaled_camera_info,
)
from bisenetv2_ros.node.parameters import Parameters
from bisenetv2_ros.node.qos import latched, newest, reliable
from bisenetv2_ros.node.region_limits import LimitWatch
from bisenetv2_ros.outputs import IMAGES, FrameOutputs, output_topic

#: Outputs and their message types; publish_<name> is the parameter that switches one off.
OUTPUTS: dict[str, type] = {
    **dict.fromkeys(IMAGES, Image),
    "class_fractions": ClassFractions,
    "camera_info": CameraInfo,
}


def check_camera_topics(node: Node, topics: Sequence[str]) -> None:
    """Raise ValueError unless every topic is one and no two share it or their outputs."""
    if not topics:
        raise ValueError("parameter cameras: got an empty list, expected at least one image topic")
    owners: dict[str, str] = {}
    for topic in topics:
        try:
            validate_topic_name(topic)
        except InvalidTopicNameException as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"parameter cameras: '{topic}' is no topic name: {reason}") from None
        try:  # what is wrong only together with the namespace
            names = [node.resolve_topic_name(name) for name in (topic, output_topic(topic, "mask"))]
        except RuntimeError as error:
            reason = str(error)
            raise ValueError(f"parameter cameras: '{topic}' is no topic name: {reason}") from None
        for name in names:
            if name in owners:
                raise ValueError(
                    f"parameter cameras: {owners[name]!r} and {topic!r} would share the topic "
                    f"{name}, expected cameras in namespaces of their own"
                )
            owners[name] = topic


class CameraTopics:
    """Publishers, subscriptions and statistics of one camera."""

    def __init__(
        self,
        node: Node,
        topic: str,
        transport: str,
        view: View,
        watch: LimitWatch | None = None,
    ) -> None:
        """Create the publishers. `topic` is as in the parameter cameras, `transport` raw or
        compressed, `view` what to use of its pictures, `watch` for a camera that has regions of
        interest. ValueError, with none left behind, where one cannot be created."""
        self.view = view
        self.watch = watch
        self.statistics = CameraStatistics()
        self.image_type: type = Image
        self._decode: Callable[[Any], tuple[np.ndarray, ChannelOrder]] = decode_image
        # Names for rclpy, which applies the rules of remapping to whatever it is given.
        self.image_name = topic
        if transport == "compressed":
            self.image_name = _beside(node, topic, lambda base: f"{base}/compressed")
            self.image_type, self._decode = CompressedImage, decode_compressed
        self._camera_info_name = _beside(
            node, topic, lambda base: posixpath.join(posixpath.dirname(base), "camera_info")
        )
        self.output_names = {name: output_topic(topic, name) for name in OUTPUTS}
        #: The topic subscribed to, in full.
        self.topic = node.resolve_topic_name(self.image_name)
        self._node = node
        self._subscriptions: list[Subscription] = []
        self._camera_info: CameraInfo | None = None
        self._buffers = {name: ImageBuffer() for name in IMAGES}
        self._publishers: dict[str, Publisher] = {}
        self._label_info_topic = output_topic(topic, "label_info")
        self._label_info_publisher: Publisher | None = None
        self.rate_limit = RateLimit()
        with contextlib.ExitStack() as undo:
            undo.callback(self.destroy)
            for name, kind in OUTPUTS.items():
                with _naming(node, self.output_names[name]):
                    self._publishers[name] = node.create_publisher(
                        kind,
                        self.output_names[name],
                        reliable(depth=1 if kind is Image else 10),
                        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                    )
            undo.pop_all()

    def subscribe(self, on_image: Callable[[Any], None]) -> None:
        """Begin to call `on_image` with each image message. ValueError where that cannot be."""
        with _naming(self._node, self.image_name):
            self._subscriptions = [
                self._node.create_subscription(
                    self.image_type,
                    self.image_name,
                    on_image,
                    newest(),
                    qos_overriding_options=QoSOverridingOptions.with_default_policies(),
                ),
                self._node.create_subscription(
                    CameraInfo, self._camera_info_name, self._keep_camera_info, newest()
                ),
            ]

    def unsubscribe(self) -> None:
        """End the calls of `on_image`."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def destroy(self) -> None:
        """Remove everything from the graph."""
        self.unsubscribe()
        for publisher in (*self._publishers.values(), self._label_info_publisher):
            if publisher is not None:
                self._node.destroy_publisher(publisher)

    def wanted(self, settings: Parameters) -> set[str]:
        """The outputs that are switched on and have a subscriber."""
        return {
            name
            for name, publisher in self._publishers.items()
            if getattr(settings, f"publish_{name}") and publisher.get_subscription_count()
        }

    @property
    def watched(self) -> bool:
        """Whether limits are set on its regions, so that masks are needed without subscribers."""
        return self.watch is not None and bool(self.watch.limits)

    def decode(self, message: Any) -> tuple[np.ndarray, ChannelOrder]:
        """Pixels (H, W, 3) uint8 of a message and their channel order. Raises ImageError."""
        return self._decode(message)

    def publish_label_info(self, labels: LabelSet) -> None:
        """Publish what the mask's values mean, for now and for whoever subscribes later."""
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
        fractions; NaN if the stamp tells nothing.
        """
        if "mask" in wanted:
            self._publish_image("mask", header, outputs)
        latency = latency_seconds(header.stamp, self._node.get_clock().now().nanoseconds)
        if "class_fractions" in wanted:
            message = outputs.fill_class_fractions(TYPES, header, latency)
            self._publishers["class_fractions"].publish(message)
        if "camera_info" in wanted:
            self._publish_camera_info(header, outputs.camera_size, outputs.mask_size)
        for name in IMAGES:
            if name in wanted and name != "mask":
                self._publish_image(name, header, outputs)
        return latency

    def _publish_image(self, name: str, header: Header, outputs: FrameOutputs) -> None:
        pixels = outputs.pixels(name)
        if pixels is not None:
            message = self._buffers[name].fill(header, pixels, IMAGES[name])
            self._publishers[name].publish(message)

    def _publish_camera_info(
        self, header: Header, camera_size: tuple[int, int], size: tuple[int, int]
    ) -> None:
        """Publish the newest calibration seen, scaled to the mask.

        A calibration holds for many frames, so that of the same stamp is not waited for; but one
        of another image size is not this image's, and is not published.
        """
        info = self._camera_info
        if info is None:
            return
        calibrated = (
            (info.roi.width or info.width) // max(info.binning_x, 1),
            (info.roi.height or info.height) // max(info.binning_y, 1),
        )
        if calibrated == camera_size:
            box = self.view.box(camera_size)
            self._publishers["camera_info"].publish(scaled_camera_info(info, size, header, box))
        else:
            topic = self._node.resolve_topic_name(self._camera_info_name)
            self._node.get_logger().warning(
                f"{topic} is for {calibrated[0]}x{calibrated[1]} pixels, "
                f"expected {camera_size[0]}x{camera_size[1]}, the size of the image",
                throttle_duration_sec=10.0,
            )

    def _keep_camera_info(self, message: CameraInfo) -> None:
        self._camera_info = message


@contextlib.contextmanager
def _naming(node: Node, name: str) -> Iterator[None]:
    """Make a ValueError with the topic in full of what rclpy raises: for an override of the
    quality of service that makes no sense it has several kinds, and not all tell the topic."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"topic {node.resolve_topic_name(name)}: {error}") from error


def _beside(node: Node, topic: str, other: Callable[[str], str]) -> str:
    """The name to give to rclpy for what lies beside a camera topic, such as its calibration.

    `other` makes it of the camera topic. It is where the rules of remapping put the camera topic,
    unless one of them is about it alone.
    """
    name = other(topic)
    if node.resolve_topic_name(name) != node.resolve_topic_name(name, only_expand=True):
        return name
    return other(node.resolve_topic_name(topic))
