"""Camera messages to pixels: sensor_msgs Image and CompressedImage to an (H, W, 3) uint8 array.

Messages are untrusted input: sizes are checked in Python integers before an array is allocated, and
an invalid message is refused with an ImageError that says what was received, what was expected, and
a short cause to count by. Accepted images give the same pixels as cv_bridge
(ros-perception/vision_opencv) for rgb8 or bgr8.

Knows nothing of topics, models or rclpy: any object with the message's fields is accepted.
"""

from __future__ import annotations

import operator
import reprlib
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np

from bisenetv2_ros.files.encoded import decode
from bisenetv2_ros.files.image_header import ImageError
from bisenetv2_ros.opencv import convert_color

ChannelOrder = Literal["rgb", "bgr"]

MAX_SIDE = 16384  #: pixels; wider or higher frames are refused
MAX_PIXELS = 2**26  #: 67 million, room for the largest area cameras; larger frames are refused

CAUSES = ("field", "encoding", "size", "step", "data_length", "format", "decode")
"""Every value of ImageError.cause.

field: not of the type in the message definition; encoding: not one of SUPPORTED_ENCODINGS; size:
zero, too large, or odd although pixels share chroma; step: shorter than a row; data_length: not
step times the number of rows; format: of a CompressedImage, not supported, or several frames in
one; decode: damaged data.
"""


class _Layout(NamedTuple):
    """How an encoding stores its pixels, and how to convert them to three channels."""

    dtype: type[np.generic]
    samples: int  #: per pixel of a row
    conversion: int | None  #: OpenCV's code; None if there are three channels already
    order: ChannelOrder  #: of the three channels
    multiple: tuple[int, int] = (1, 1)  #: that width and height must be multiples of
    minimum: int = 1  #: pixels of width and height
    chroma: int = 0  #: rows of `step` bytes of chroma that follow per two rows


def _layouts() -> dict[str, _Layout]:
    layouts: dict[str, _Layout] = {}
    for bits, dtype in ((8, np.uint8), (16, np.uint16)):
        layouts[f"rgb{bits}"] = _Layout(dtype, 3, None, "rgb")
        layouts[f"bgr{bits}"] = _Layout(dtype, 3, None, "bgr")
        layouts[f"rgba{bits}"] = _Layout(dtype, 4, cv2.COLOR_RGBA2RGB, "rgb")
        layouts[f"bgra{bits}"] = _Layout(dtype, 4, cv2.COLOR_BGRA2BGR, "bgr")
        layouts[f"mono{bits}"] = _Layout(dtype, 1, cv2.COLOR_GRAY2RGB, "rgb")
        # ROS names a mosaic by its first two rows, OpenCV by columns two and three of rows two and
        # three, hence the crossed names.
        for mosaic, conversion in (
            ("rggb", cv2.COLOR_BayerBG2RGB),
            ("bggr", cv2.COLOR_BayerRG2RGB),
            ("gbrg", cv2.COLOR_BayerGR2RGB),
            ("grbg", cv2.COLOR_BayerGB2RGB),
        ):
            # With fewer than three pixels to interpolate, OpenCV returns black.
            layouts[f"bayer_{mosaic}{bits}"] = _Layout(dtype, 1, conversion, "rgb", minimum=3)
    uyvy = _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY, "rgb", multiple=(2, 1))
    yuyv = _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2, "rgb", multiple=(2, 1))
    layouts.update({"uyvy": uyvy, "yuv422": uyvy, "yuyv": yuyv, "yuv422_yuy2": yuyv})
    for name, conversion in (("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)):
        layouts[name] = _Layout(np.uint8, 1, conversion, "rgb", multiple=(2, 2), chroma=1)
    layouts["nv24"] = _Layout(np.uint8, 1, None, "rgb", chroma=4)
    # OpenCV's type names, as cv_bridge reads them.
    aliases = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16"}
    return layouts | {name: layouts[meaning] for name, meaning in aliases.items()}


_LAYOUTS = _layouts()
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)  #: of sensor_msgs/Image


def decode_image(msg: Any) -> tuple[np.ndarray, ChannelOrder]:
    """Convert a sensor_msgs/Image to pixels and the order of their channels.

    rgb8 and bgr8 are returned as a read-only view of the message's data, with its row stride, valid
    until that data is overwritten. Other encodings are converted: alpha is dropped, gray is
    repeated, 16 bits become 8 by round(value / 257), Bayer mosaics are interpolated at their own
    depth, YUV is read as BT.601 in video range. 8UC1, 8UC3, 8UC4 and 16UC1 are read as mono8, bgr8,
    bgra8 and mono16.

    The data must be exactly step * height bytes long, including the padding of the last row, as
    cv_bridge requires. For nv12 and nv21, height is that of the image, and height / 2 rows of
    chroma with the same step follow, so that the data is step * height * 3 / 2 long
    (ros2/common_interfaces pull request 264). For nv24, height rows of chroma with twice the step
    follow.

    Returns (H, W, 3) uint8, and 'rgb' or 'bgr'. Raises ImageError, and nothing else, for any
    content of encoding, width, height, step, is_bigendian and data.
    """
    layout = _LAYOUTS.get(msg.encoding) if isinstance(msg.encoding, str) else None
    if layout is None:
        raise ImageError(
            "encoding",
            f"encoding is {_short(msg.encoding)}, expected one of {', '.join(SUPPORTED_ENCODINGS)}",
        )
    width, height = _integer(msg, "width"), _integer(msg, "height")
    _check_size(width, height, layout)

    item = np.dtype(layout.dtype).itemsize
    step, row = _integer(msg, "step"), width * layout.samples * item
    if step < row:
        raise ImageError(
            "step",
            f"step is {step} bytes, expected at least {row} for {width} pixels of {msg.encoding}",
        )
    data = _bytes(msg)
    rows = height + height * layout.chroma // 2
    if data.size != step * rows:
        raise ImageError(
            "data_length",
            f"data is {data.size} bytes long, expected {step * rows}: {rows} rows of step {step}",
        )
    dtype = np.dtype(layout.dtype).newbyteorder(">" if _integer(msg, "is_bigendian") else "<")
    pixels: np.ndarray = np.ndarray(
        (rows, width, layout.samples), dtype, data, strides=(step, layout.samples * item, item)
    )
    if msg.encoding == "nv24":
        return _convert_nv24(data, width, height, step), layout.order
    # OpenCV needs native byte order and whole samples per row; 8-bit data is not copied here.
    return _convert(np.require(pixels, layout.dtype, ["ALIGNED"]), layout)


def decode_compressed(msg: Any) -> tuple[np.ndarray, ChannelOrder]:
    """Convert a sensor_msgs/CompressedImage to pixels and the order of their channels.

    The format is detected from the data (`files.encoded.FORMATS`) and the colors are read from the
    file itself; as in cv_bridge, not from the field format. The field format decides only two
    things: whether a color TIFF has its channels as they were sent ('rgb8; tiff compressed '), and
    whether gray is a Bayer mosaic, which is interpolated. compressed_image_transport sends a mosaic
    as 'bayer_rggb8; png compressed ' or 'bayer_rggb8; jpeg compressed bayer_rggb8', and as
    'bayer_rggb8; jpeg compressed mono8' if it converted it to gray. Alpha, gray and 16 bits are
    treated as in decode_image; an EXIF orientation is not applied. `files.encoded.decode` judges
    damage, as for image files.

    Returns (H, W, 3) uint8, and 'rgb' or 'bgr'. Raises ImageError, and nothing else, for any
    content of format and data.
    """
    try:
        data = _bytes(msg)
        pixels = decode(data, MAX_SIDE, MAX_PIXELS).pixels
    except ImageError as error:
        if error.cause != "format":
            raise
        raise ImageError("format", f"{error} (format is {_short(msg.format)})") from None
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError("format", f"samples are {pixels.dtype}, expected 8 or 16 bits")
    if pixels.ndim == 2:
        grey = _LAYOUTS[_mosaic(msg.format) or "mono8"]
        _check_size(pixels.shape[1], pixels.shape[0], grey)
        return _convert(pixels, grey)
    order = "rgb" if _is_rgb_tiff(data, msg.format) else "bgr"
    return _convert(pixels, _LAYOUTS[f"{order}8" if pixels.shape[2] == 3 else f"{order}a8"])


# Steps common to both kinds of message -----------------------------------------------------------


def _short(value: object) -> str:
    """A field's value, shortened for an error message."""
    return _line(reprlib.repr(value))


def _line(text: str) -> str:
    return " ".join(text.split())[:160]


def _integer(msg: Any, field: str) -> int:
    value = getattr(msg, field)
    try:
        return operator.index(value)
    except TypeError:
        raise ImageError("field", f"{field} is {_short(value)}, expected an integer") from None


def _bytes(msg: Any) -> np.ndarray:
    """Return the message's data as a read-only (N,) uint8 array that shares its memory."""
    try:
        data = np.frombuffer(msg.data, np.uint8)
    except (TypeError, ValueError, AttributeError, BufferError):
        raise ImageError("field", f"data is {_short(msg.data)}, expected bytes") from None
    data.flags.writeable = False
    return data


def _check_size(width: int, height: int, layout: _Layout) -> None:
    if not (layout.minimum <= width <= MAX_SIDE and layout.minimum <= height <= MAX_SIDE):
        raise ImageError(
            "size",
            f"size is {width}x{height}, expected {layout.minimum} to {MAX_SIDE} pixels a side",
        )
    if width * height > MAX_PIXELS:
        raise ImageError("size", f"size is {width}x{height}, expected at most {MAX_PIXELS} pixels")
    if width % layout.multiple[0] or height % layout.multiple[1]:
        raise ImageError(
            "size",
            f"size is {width}x{height}, expected a multiple of "
            f"{layout.multiple[0]}x{layout.multiple[1]}",
        )


def _mosaic(format_: object) -> str:
    """The Bayer encoding of gray in a CompressedImage of this format; '' if it is not a mosaic."""
    sent, _, compression = format_.partition(";") if isinstance(format_, str) else ("", "", "")
    _, _, encoded = compression.partition("compressed ")
    sent, encoded = sent.strip(), encoded.strip()
    name = encoded or sent
    return name if name.startswith("bayer_") and name in _LAYOUTS else ""


def _is_rgb_tiff(data: np.ndarray, format_: object) -> bool:
    """Whether OpenCV's blue is red: image_transport writes 'rgb8; tiff compressed ' without
    swapping the channels, unlike JPEG and PNG ('rgb8; png compressed bgr8')."""
    is_tiff = data[:2].tobytes() in (b"II", b"MM")
    return (
        is_tiff
        and isinstance(format_, str)
        and format_.startswith("rgb")
        and ("compressed bgr" not in format_)
    )


def _convert_nv24(data: np.ndarray, width: int, height: int, step: int) -> np.ndarray:
    """Convert luma, followed by a chroma pair per pixel, in rows of `step` and 2 * `step` bytes."""
    planes = data.reshape(3 * height, step)
    # OpenCV has no NV24, but YUYV, in which two pixels share chroma: each pixel is entered twice.
    yuyv = np.empty((height, width, 4), np.uint8)
    yuyv[..., 0] = yuyv[..., 2] = planes[:height, :width]
    chroma = planes[height:].reshape(height, 2 * step)
    yuyv[..., 1], yuyv[..., 3] = chroma[:, 0 : 2 * width : 2], chroma[:, 1 : 2 * width : 2]
    pixels, _ = _convert(yuyv.reshape(height, 2 * width, 2), _LAYOUTS["yuyv"])
    return np.ascontiguousarray(pixels[:, ::2])


def _convert(pixels: np.ndarray, layout: _Layout) -> tuple[np.ndarray, ChannelOrder]:
    """Convert to three channels of 8 bits: first the colors, then the depth, as cv_bridge does."""
    try:
        if layout.conversion is not None:
            pixels = convert_color(pixels, layout.conversion)
        if pixels.dtype == np.uint16:
            pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    except (cv2.error, MemoryError) as error:
        raise ImageError(
            "decode", f"OpenCV cannot convert the frame: {_line(str(error))}"
        ) from error
    return pixels, layout.order
