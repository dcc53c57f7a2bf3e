"""Every output of a segmented frame, made once: its name, topic, pixels and fractions.

    outputs = FrameOutputs(image, "rgb", segmentation, model)
    outputs.mask, outputs.overlay       # (H, W) and (H, W, 3) uint8, computed when first asked for
    outputs.fractions                   # (num_classes,) fraction of each class, 0..1

The node publishes them, `predict` writes them to files and bags, `view` logs them to Rerun: none of
these computes anything of its own. Messages are filled here too, from whatever classes are given,
so that topics and bags hold the same. Imports no ROS.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from bisenetv2_ros.camera_view import View
from bisenetv2_ros.opencv import convert_color
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.visualization import colorize, draw_regions, overlay, side_by_side

if TYPE_CHECKING:
    from bisenetv2_ros.labels import LabelSet
    from bisenetv2_ros.model_file import ModelFile
    from bisenetv2_ros.regions import RegionWatch
    from bisenetv2_ros.segmenter import Segmentation

#: Image outputs and their encodings, in the terms of sensor_msgs/Image.
IMAGES = {"mask": "mono8", "confidence": "mono8", "color_mask": "rgb8", "overlay": "rgb8"}


#: How compressed_image_transport of image_transport_plugins sends these encodings: file suffix and
#: the field format, on <topic>/compressed. Class indices and probabilities are kept exactly.
COMPRESSED = {
    "mask": (".png", "mono8; png compressed "),
    "confidence": (".png", "mono8; png compressed "),
    "color_mask": (".jpg", "rgb8; jpeg compressed bgr8"),
    "overlay": (".jpg", "rgb8; jpeg compressed bgr8"),
}


def compressed(name: str) -> str:
    """The name of the compressed form of image output `name`."""
    return f"{name}/compressed"


def uncompressed(name: str) -> str:
    """The output `name` without its compression."""
    return name.removesuffix("/compressed")


def needs_confidence(names: Iterable[str]) -> bool:
    """Whether the confidence has to be computed for outputs of these names."""
    return not {"confidence", "ground_points"}.isdisjoint(map(uncompressed, names))


def output_topic(image_topic: str, name: str, place: str = "beside") -> str:
    """The topic of output `name`, such as 'mask'.

    Beside the camera topic a/b/image_raw it is a/b/segmentation/mask, `below` it
    a/b/image_raw/segmentation/mask.
    """
    base = image_topic if place == "below" else posixpath.dirname(image_topic)
    return posixpath.join(base, "segmentation", name)


class FrameOutputs:
    """The outputs of one frame. Each is computed on first use; unused ones cost nothing.

    Valid as long as the segmentation is: results of `Segmenter.segment_batch` share its memory.
    """

    def __init__(
        self,
        image: np.ndarray,
        order: Literal["rgb", "bgr"],
        segmentation: Segmentation,
        model: ModelFile,
        *,
        view: View = View(),  # noqa: B008 - frozen
        watch: RegionWatch | None = None,
        mask_size: str = "camera",
        opacity: float = 0.5,
        jpeg_quality: int = 95,
    ) -> None:
        """Count the regions of `watch`; compute nothing else yet.

        Args:
            image: (H, W, 3) uint8, the whole camera image.
            order: of the image's channels.
            segmentation: of the part that `view` cuts out, in the camera's orientation.
            view: what is segmented of the image; all outputs are of that part.
            watch: of the camera's regions of interest; None if it has none.
            mask_size: of mask, confidence and color_mask: 'camera' for that of the cut image, or
                'network'.
            opacity: of the class colors in the overlay, 0..1.
            jpeg_quality: of compressed colors, 1..100.
        """
        self.segmentation = segmentation
        self.labels: LabelSet = model.info.labels
        self.model_name = model.name
        self.camera_size = (image.shape[1], image.shape[0])  #: (width, height) before the cut
        self._image, self._order = view.cut(image), order
        self._opacity, self._jpeg_quality = opacity, jpeg_quality
        height, width = (self._image if mask_size == "camera" else segmentation.mask).shape[:2]
        self.mask_size = (width, height)  #: of mask, confidence and color_mask
        if watch is not None:
            watch.update(segmentation.mask)
        self._regions = watch.regions if watch else ()
        #: (num_classes,) int64 pixels of each class in each region, by name.
        self.region_counts: Mapping[str, np.ndarray] = watch.counts if watch else {}

    @cached_property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the part of the camera image that is segmented."""
        if self._order == "rgb":
            return self._image
        return convert_color(self._image, cv2.COLOR_BGR2RGB)

    @cached_property
    def mask(self) -> np.ndarray:
        """(H, W) uint8 class index."""
        return resize_mask(self.segmentation.mask, self.mask_size)

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """(H, W) uint8 probability of the mask's class, 255 = 1.0; None if it was not computed."""
        confidence = self.segmentation.confidence
        return None if confidence is None else resize_mask(confidence, self.mask_size)

    @cached_property
    def color_mask(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the mask in the label set's colors."""
        return colorize(self.mask, self.labels)

    @cached_property
    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB at the image's size: class colors and regions over the image."""
        blended = overlay(self.image, self.segmentation.mask, self.labels, self._opacity)
        draw_regions(blended, self._regions)
        return blended

    @cached_property
    def side_by_side(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: image, colors and overlay above a legend with the fractions."""
        return side_by_side(self.image, self.segmentation.mask, self.labels, self.fractions)

    def pixels(self, name: str) -> np.ndarray | None:
        """The image output `name`, one of IMAGES; None if it was not computed."""
        return getattr(self, name)

    def compressed(self, name: str) -> np.ndarray | None:
        """The file, (N,) uint8, of image output `name` by COMPRESSED; None if `pixels` is."""
        pixels = self.pixels(name)
        if pixels is None:
            return None
        if pixels.ndim == 3:
            pixels = convert_color(pixels, cv2.COLOR_RGB2BGR)
        suffix, _ = COMPRESSED[name]
        # Higher levels take several times as long for a few per cent of a mask's bytes.
        options = (cv2.IMWRITE_JPEG_QUALITY, self._jpeg_quality, cv2.IMWRITE_PNG_COMPRESSION, 1)
        done, data = cv2.imencode(suffix, np.ascontiguousarray(pixels), options)
        if not done:
            raise RuntimeError(f"OpenCV cannot encode {name} as {suffix}")
        return data.ravel()

    @cached_property
    def fractions(self) -> np.ndarray:
        """(num_classes,) float64 fraction of each class in the mask, 0..1."""
        return fractions(self.segmentation.counts)

    @cached_property
    def region_fractions(self) -> dict[str, np.ndarray]:
        """The same for each region of interest, by name."""
        return {name: fractions(counts) for name, counts in self.region_counts.items()}

    def fill_class_fractions(self, types: Mapping[str, Any], header: Any, latency: float) -> Any:
        """The message bisenetv2_ros/ClassFractions; see the function of this name."""
        height, width = self.segmentation.mask.shape
        return fill_class_fractions(
            types,
            header,
            self.model_name,
            self.labels,
            self.segmentation.counts,
            (width, height),
            latency,
            self.segmentation.inference_seconds,
            self.region_counts,
        )


def fractions(counts: np.ndarray) -> np.ndarray:
    """(C,) float64 fractions of (C,) int64 pixel counts; all 0 if nothing was counted."""
    return counts / max(1, int(counts.sum()))


def fill_class_fractions(
    types: Mapping[str, Any],
    header: Any,
    model: str,
    labels: LabelSet,
    counts: np.ndarray,
    size: tuple[int, int],
    latency: float,
    inference_time: float,
    regions: Mapping[str, np.ndarray],
) -> Any:
    """The message bisenetv2_ros/ClassFractions of one mask.

    Args:
        types: message classes by full name, 'bisenetv2_ros/msg/ClassFractions' and its parts:
            rclpy's or rosbags'.
        header: std_msgs/Header of the camera image.
        counts: (C,) int64 pixels of each class in the mask of `size` (width, height).
        latency, inference_time: in seconds.
        regions: counts of each region of interest, by name.

    Raises ValueError if counts and labels differ in number.
    """

    def classes(counts: np.ndarray) -> list[Any]:
        columns = zip(labels.names, fractions(counts).tolist(), counts.tolist(), strict=True)
        return [
            types["bisenetv2_ros/msg/ClassFraction"](
                class_id=class_id, class_name=name, fraction=fraction, pixel_count=count
            )
            for class_id, (name, fraction, count) in enumerate(columns)
        ]

    return types["bisenetv2_ros/msg/ClassFractions"](
        header=header,
        model=model,
        width=size[0],
        height=size[1],
        classes=classes(counts),
        regions=[
            types["bisenetv2_ros/msg/RegionFractions"](
                name=name, pixel_count=int(part.sum()), classes=classes(part)
            )
            for name, part in regions.items()
        ],
        latency=latency,
        inference_time=inference_time,
    )


def fill_label_info(types: Mapping[str, Any], header: Any, labels: LabelSet) -> Any:
    """The message vision_msgs/LabelInfo that explains the values of a mask.

    types: message classes by full name. The threshold is 0: every pixel has the class of its
    largest score.
    """
    classes = [
        types["vision_msgs/msg/VisionClass"](class_id=class_id, class_name=name)
        for class_id, name in enumerate(labels.names)
    ]
    return types["vision_msgs/msg/LabelInfo"](header=header, class_map=classes, threshold=0.0)
