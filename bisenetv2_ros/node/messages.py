"""Results as ROS messages: images, clouds, ClassFractions, LabelInfo, CameraInfo; and the latency.

Headers are the camera's, unchanged. Knows nothing of topics, clocks, models or how masks are made.
"""

from __future__ import annotations

import array
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header

from bisenetv2_ros.ground_plane import POINT
from bisenetv2_ros.msg import ClassFraction, ClassFractions, RegionFractions
from bisenetv2_ros.outputs import fill_label_info

if TYPE_CHECKING:
    from builtin_interfaces.msg import Time

    from bisenetv2_ros.labels import LabelSet

#: This package's messages in the form that `outputs` expects.
TYPES: dict[str, type] = {
    f"bisenetv2_ros/msg/{kind.__name__}": kind
    for kind in (ClassFraction, ClassFractions, RegionFractions)
}
_PIXEL_SHAPES = {"mono8": (), "rgb8": (3,), "bgr8": (3,)}


class ImageBuffer:
    """One reused sensor_msgs/Image, so that no frame allocates memory.

    The message's data is an array.array, written through a NumPy view: rclpy checks anything else
    byte by byte, which takes 260 ms for 1920x1080 rgb8. Pixels that already fill an array.array
    become the data without a copy. `fill` returns the same object each time: publish it before the
    next call.
    """

    def __init__(self) -> None:
        self._message = Image()
        self._pixels: np.ndarray = np.empty(0, np.uint8)

    def fill(self, header: Header, pixels: np.ndarray, encoding: str) -> Image:
        """Return the message with this header and these pixels, its rows without padding.

        pixels: (H, W) uint8 for 'mono8' or (H, W, 3) uint8 for 'rgb8' and 'bgr8'; may be a strided
        view. Raises ValueError for anything else.
        """
        expected = _PIXEL_SHAPES.get(encoding)
        if expected is None:
            raise ValueError(f"encoding is '{encoding}', expected {' or '.join(_PIXEL_SHAPES)}")
        if pixels.dtype != np.uint8 or pixels.ndim < 2 or pixels.shape[2:] != expected:
            raise ValueError(
                f"pixels are {pixels.dtype} of shape {pixels.shape}, "
                f"expected uint8 of shape {('H', 'W', *expected)} for {encoding}"
            )
        message = self._message
        data = _array_of(pixels)
        if data is not None:
            message._data = data  # the property would copy it
            self._pixels = np.empty(0, np.uint8)  # the data is the caller's: never write to it
        else:
            if pixels.shape != self._pixels.shape:
                message.data = array.array("B", bytes(pixels.size))
                self._pixels = np.frombuffer(message.data, np.uint8).reshape(pixels.shape)
            np.copyto(self._pixels, pixels)
        message.header = header
        message.height, message.width = pixels.shape[:2]
        message.encoding = encoding
        message.step = math.prod(pixels.shape[1:])
        return message


class CloudBuffer:
    """A reused sensor_msgs/PointCloud2 of `ground_plane.POINT`."""

    def __init__(self) -> None:
        self._message = PointCloud2(point_step=POINT.itemsize, is_dense=False)
        self._points: np.ndarray = np.empty((0, 0), POINT)
        datatypes = {"f": PointField.FLOAT32, "u": PointField.UINT8}
        for name, (kind, offset, *_) in (POINT.fields or {}).items():
            self._message.fields.append(
                PointField(name=name, offset=offset, datatype=datatypes[kind.kind], count=1)
            )

    def memory(self, size: tuple[int, int]) -> np.ndarray:
        """(H, W) of POINT to write to, for a cloud of `size` (width, height)."""
        if self._points.shape != (size[1], size[0]):
            self._message.data = array.array("B", bytes(size[0] * size[1] * POINT.itemsize))
            points = np.frombuffer(self._message.data, POINT)
            self._points = points.reshape(size[1], size[0])
        return self._points

    def fill(self, header: Header) -> PointCloud2:
        """Return the message with this header and the content of `memory`."""
        message = self._message
        message.header = header
        message.height, message.width = self._points.shape
        message.row_step = message.width * message.point_step
        return message


def compressed_image(header: Header, format_: str, data: np.ndarray) -> CompressedImage:
    """A sensor_msgs/CompressedImage of a file, (N,) uint8."""
    # Anything but an array.array is checked byte by byte by rclpy.
    return CompressedImage(header=header, format=format_, data=array.array("B", data.tobytes()))


def _array_of(pixels: np.ndarray) -> array.array[int] | None:
    """The array.array that the pixels fill completely; None if they do not."""
    owner: Any = pixels
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    fills = isinstance(owner, array.array) and owner.typecode == "B" and len(owner) == pixels.size
    return owner if fills and pixels.flags.c_contiguous else None


def latency_seconds(stamp: Time, now_nanoseconds: int) -> float:
    """Seconds from a header's stamp to now, both of the node's clock.

    NaN if the stamp is 0 (not set) or in the future (another clock, or time has jumped back), so
    that a consumer does not take either for a low latency.
    """
    stamp_nanoseconds = stamp.sec * 10**9 + stamp.nanosec
    if stamp_nanoseconds == 0 or stamp_nanoseconds > now_nanoseconds:
        return math.nan
    return (now_nanoseconds - stamp_nanoseconds) / 1e9


class FrameLatency:
    """The latencies of one camera's frames, also while a bag with a clock starts over.

    The first frames may then come before the clock has jumped back. Such a frame is older than the
    one before it; its latency would be the length of the bag.
    """

    def __init__(self) -> None:
        self._newest = 0  # nanoseconds

    def seconds(self, stamp: Time, now_nanoseconds: int) -> float:
        """As `latency_seconds`, and NaN for a frame of a bag that starts over before its clock."""
        latency = latency_seconds(stamp, now_nanoseconds)
        if self._newest > now_nanoseconds:  # the clock has jumped back
            self._newest = 0
        nanoseconds = stamp.sec * 10**9 + stamp.nanosec
        if nanoseconds < self._newest:
            return math.nan
        if not math.isnan(latency):
            self._newest = nanoseconds
        return latency


def label_info(labels: LabelSet) -> Any:
    """The vision_msgs/LabelInfo that explains the values of a mask; None without vision_msgs.

    The header is left empty.
    """
    try:
        from vision_msgs.msg import LabelInfo, VisionClass
    except ImportError:  # the package is not on PyPI, so not every installation has it
        return None
    types = {"vision_msgs/msg/LabelInfo": LabelInfo, "vision_msgs/msg/VisionClass": VisionClass}
    return fill_label_info(types, Header(), labels)


def scaled_camera_info(
    info: CameraInfo,
    size: tuple[int, int],
    header: Header,
    box: tuple[int, int, int, int] | None = None,
) -> CameraInfo:
    """Scale the camera's calibration to its image resized to `size` (width, height) of the mask.

    box: (left, top, width, height) in pixels, if only that part of the image is in the mask.

    K and P become those of the mask, with the region of interest and binning included; the result
    has neither. Distortion, its model and R do not depend on the resolution and stay. Matrices left
    at zero (an uncalibrated camera) stay zero.

    A pixel's center has integer coordinates, as everywhere in ROS and OpenCV, and resizing keeps
    the image's edges, half a pixel outside of the outermost centers: u' = s (u + 0.5) - 0.5.
    (image_proc leaves the halves out; its principal point is up to half a mask pixel away.)

    Raises ValueError if `info` does not say the size of the image.
    """
    width, height = info.roi.width or info.width, info.roi.height or info.height
    if not (width and height):
        raise ValueError(f"camera_info has size {width}x{height}, expected that of the image")
    x_offset, y_offset = info.roi.x_offset, info.roi.y_offset
    if box is not None:
        binning_x, binning_y = max(info.binning_x, 1), max(info.binning_y, 1)
        x_offset, y_offset = x_offset + box[0] * binning_x, y_offset + box[1] * binning_y
        width, height = box[2] * binning_x, box[3] * binning_y
    scale_x, scale_y = size[0] / width, size[1] / height
    to_mask = np.array(
        [
            [scale_x, 0.0, scale_x * (0.5 - x_offset) - 0.5],
            [0.0, scale_y, scale_y * (0.5 - y_offset) - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )
    return CameraInfo(
        header=header,
        width=size[0],
        height=size[1],
        distortion_model=info.distortion_model,
        d=info.d,
        k=(to_mask @ np.reshape(info.k, (3, 3))).ravel(),
        r=info.r,
        p=(to_mask @ np.reshape(info.p, (3, 4))).ravel(),
    )
