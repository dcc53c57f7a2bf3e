"""Camera messages to pixels: sensor_msgs Image and CompressedImage to an (H, W, 3) uint8 array.

The bytes of a message are taken as hostile: sizes are checked in Python integers before an array is
made of them, and whatever does not fit is refused with an ImageError that names what was received,
what was expected, and a short cause to count by. What is accepted gives the pixels that cv_bridge
(ros-perception/vision_opencv) gives when it is asked for rgb8 or bgr8.

The module knows nothing of topics, models or rclpy: any object with the message's fields will do.
"""

from __future__ import annotations

import operator
import re
import reprlib
import struct
import zlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

ChannelOrder = Literal["rgb", "bgr"]

MAX_SIDE = 16384  #: pixels; wider or higher frames are refused
MAX_PIXELS = 2**26  #: 67 million, room for the largest area cameras; larger frames are refused

CAUSES = ("field", "encoding", "size", "step", "data_length", "format", "decode")
"""Every value of ImageError.cause.

field: not of the type in the message definition; encoding: not one of SUPPORTED_ENCODINGS; size:
zero, huge, or odd where pixels share chroma; step: shorter than a row; data_length: not step times
the number of rows; format: neither JPEG nor PNG; decode: damaged JPEG or PNG.
"""


class ImageError(ValueError):
    """The message holds no usable picture. The text is one line: what came, what was expected."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause  #: one of CAUSES


class _Layout(NamedTuple):
    """How the pixels of an encoding lie in the data, and what makes three channels of them."""

    dtype: type[np.generic]
    samples: int  #: per pixel of a row
    conversion: int | None  #: OpenCV's code; None where there are three channels already
    order: ChannelOrder  #: of the three channels
    multiple: tuple[int, int] = (1, 1)  #: of which width and height must be
    minimum: int = 1  #: pixels of width and height
    planar: bool = False  #: a chroma plane of half the height and the same step follows


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
            # With fewer than three pixels to interpolate between, OpenCV returns black.
            layouts[f"bayer_{mosaic}{bits}"] = _Layout(dtype, 1, conversion, "rgb", minimum=3)
    uyvy = _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY, "rgb", multiple=(2, 1))
    yuyv = _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2, "rgb", multiple=(2, 1))
    layouts.update({"uyvy": uyvy, "yuv422": uyvy, "yuyv": yuyv, "yuv422_yuy2": yuyv})
    for name, conversion in (("nv12", cv2.COLOR_YUV2RGB_NV12), ("nv21", cv2.COLOR_YUV2RGB_NV21)):
        layouts[name] = _Layout(np.uint8, 1, conversion, "rgb", multiple=(2, 2), planar=True)
    return layouts


_LAYOUTS = _layouts()
SUPPORTED_ENCODINGS = tuple(_LAYOUTS)  #: of sensor_msgs/Image


def decode_image(msg: Any) -> tuple[np.ndarray, ChannelOrder]:
    """Pixels of a sensor_msgs/Image and the order of their channels.

    rgb8 and bgr8 come back as a read-only view of the message's own data, with the row stride of
    the message; it stays valid as long as nobody writes to that data. Everything else is converted:
    alpha is dropped, grey is repeated, 16 bits become 8 by round(value / 257), Bayer mosaics are
    interpolated at their own depth, YUV is taken as BT.601 in video range.

    The data must be exactly step * height bytes long, padding of the last row included, as
    cv_bridge asks. For nv12 and nv21, height is that of the picture, and height / 2 rows of chroma
    with the same step follow, so that the data is step * height * 3 / 2 long
    (ros2/common_interfaces pull request 264).

    Returns (H, W, 3) uint8, and 'rgb' or 'bgr'. Raises ImageError and nothing else for any content
    of encoding, width, height, step, is_bigendian and data.
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
    rows = height * 3 // 2 if layout.planar else height
    if data.size != step * rows:
        raise ImageError(
            "data_length",
            f"data is {data.size} bytes long, expected {step * rows}: {rows} rows of step {step}",
        )
    dtype = np.dtype(layout.dtype).newbyteorder(">" if _integer(msg, "is_bigendian") else "<")
    pixels: np.ndarray = np.ndarray(
        (rows, width, layout.samples), dtype, data, strides=(step, layout.samples * item, item)
    )
    # OpenCV wants native byte order and whole samples per row; 8-bit data is not copied here.
    return _convert(np.require(pixels, layout.dtype, ["ALIGNED"]), layout)


def decode_compressed(msg: Any) -> tuple[np.ndarray, ChannelOrder]:
    """Pixels of a sensor_msgs/CompressedImage holding JPEG or PNG, and the order of their channels.

    The first bytes of the data tell which of the two it is, the file itself what colours it holds;
    as in cv_bridge, the field format does not. Only one thing is read from that: a Bayer mosaic,
    which compressed_image_transport sends as a grey PNG ('bayer_rggb8; png compressed '), is
    interpolated. Alpha, grey and 16 bits are treated as in decode_image; an EXIF orientation is not
    applied.

    PNG has checksums, so any damage is found. JPEG has none: refused are truncation at any byte,
    broken structure, restart markers out of order, bytes other than zeros after the end, and data
    that is used up before the picture is full (OpenCV makes the rest grey). Flipped bits and small
    losses may still give wrong pixels.

    Returns (H, W, 3) uint8, and 'rgb' or 'bgr'. Raises ImageError and nothing else for any content
    of format and data.
    """
    data = _bytes(msg)
    start = data[: len(_PNG)].tobytes()
    grey = _LAYOUTS["mono8"]
    if start == _PNG:
        pixels = _decode(data, _png_size, _PNG_PIXELS_PER_BYTE)
        sent = msg.format.split(";")[0].strip() if isinstance(msg.format, str) else ""
        if sent.startswith("bayer_"):
            grey = _LAYOUTS.get(sent, grey)
    elif start.startswith(_JPEG):
        pixels = _decode(data, _jpeg_size, _JPEG_PIXELS_PER_BYTE)
        if _jpeg_is_cut_short(data, pixels):
            raise ImageError("decode", "JPEG data is used up before the picture is full")
    else:
        raise ImageError(
            "format",
            f"data starts with {start!r} and format is {_short(msg.format)}, expected JPEG or PNG",
        )
    if pixels.ndim == 2:
        _check_size(pixels.shape[1], pixels.shape[0], grey)
        return _convert(pixels, grey)
    return _convert(pixels, _LAYOUTS["bgr8" if pixels.shape[2] == 3 else "bgra8"])


# Steps common to both kinds of message -----------------------------------------------------------


def _short(value: object) -> str:
    """Show a field's value in an error text."""
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
    """Give the message's data as a read-only (N,) uint8 array that shares its memory."""
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


def _convert(pixels: np.ndarray, layout: _Layout) -> tuple[np.ndarray, ChannelOrder]:
    """Three channels of 8 bits; the colours first and the depth second, as cv_bridge does it."""
    try:
        if layout.conversion is not None:
            pixels = cv2.cvtColor(pixels, layout.conversion)
        if pixels.dtype == np.uint16:
            pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    except (cv2.error, MemoryError) as error:
        raise ImageError(
            "decode", f"OpenCV cannot convert the frame: {_line(str(error))}"
        ) from error
    return pixels, layout.order


# JPEG and PNG ------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"

# Data that claims more pixels than it can hold is a decompression bomb. Deflate shrinks at most
# 1032 times and a PNG pixel has at least one bit; a JPEG has at least one bit for 8x8 pixels.
_PNG_PIXELS_PER_BYTE = 1032 * 8
_JPEG_PIXELS_PER_BYTE = 64 * 8

# What hostile files could make endless. OpenCV's own PNGs have a chunk for 8 KiB; progressive JPEGs
# have about ten scans, and each costs a pass over the whole picture.
_MAX_PARTS = 100_000
_JPEG_MAX_SCANS = 100

_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_SCAN, _JPEG_END = 0xDA, 0xD9
_JPEG_MARKER = re.compile(rb"\xff+([^\xff])")
_JPEG_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte nor a restart
_JPEG_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


def _decode(
    data: np.ndarray, size_of: Callable[[np.ndarray], tuple[int, int]], pixels_per_byte: int
) -> np.ndarray:
    """Decode to (H, W) or (H, W, 3 or 4) after a look at the file's structure and claims."""
    try:
        width, height = size_of(data)
    except struct.error:
        raise ImageError("decode", f"data stops after {data.size} bytes, before its end") from None
    _check_size(width, height, _LAYOUTS["mono8"])
    least = -(-width * height // pixels_per_byte)
    if data.size < least:
        raise ImageError(
            "decode", f"{data.size} bytes claim {width}x{height} pixels, expected at least {least}"
        )
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        raise ImageError(
            "decode", f"OpenCV cannot decode the frame: {_line(str(error))}"
        ) from error
    if pixels is None:
        raise ImageError("decode", f"OpenCV cannot decode the announced {width}x{height} pixels")
    return pixels


def _png_size(data: np.ndarray) -> tuple[int, int]:
    """Width and height of a PNG, after checking each chunk against its checksum."""
    stream = data.data
    position, size = len(_PNG), (0, 0)
    for part in range(_MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", stream, position)
        (checksum,) = struct.unpack_from(">I", stream, position + 8 + length)
        if zlib.crc32(stream[position + 4 : position + 8 + length]) != checksum:
            raise ImageError(
                "decode", f"PNG chunk {kind!r} at byte {position} does not match its checksum"
            )
        if part == 0:
            if kind != b"IHDR":
                raise ImageError("decode", f"PNG starts with chunk {kind!r}, expected b'IHDR'")
            size = struct.unpack_from(">II", stream, position + 8)
        position += 12 + length
        if kind == b"IEND":
            break
    else:
        raise ImageError("decode", f"PNG has more than {_MAX_PARTS} chunks")
    if position != data.size:
        raise ImageError("decode", f"{data.size - position} bytes follow the end of the PNG")
    return size


def _jpeg_size(data: np.ndarray) -> tuple[int, int]:
    """Width and height of a JPEG, after following its segments from the first to the last."""
    stream = data.data
    position, scans, size = len(_JPEG), 0, None
    for _ in range(_MAX_PARTS):
        match = _JPEG_MARKER.match(stream, position)
        if match is None:
            raise ImageError("decode", f"JPEG has no marker at byte {position}")
        position, marker = match.end(), match[1][0]
        if marker == _JPEG_END:
            break
        (length,) = struct.unpack_from(">H", stream, position)
        if marker in _JPEG_FRAME_HEADERS:
            if size is not None:
                raise ImageError("decode", f"JPEG has a second frame header at byte {position}")
            height, width = struct.unpack_from(">HH", stream, position + 3)
            size = (width, height)
        position += length
        if marker == _JPEG_SCAN:
            scans += 1
            after = _JPEG_AFTER_SCAN.search(stream, position)
            end = after.start() if after else len(stream)
            restarts = _JPEG_RESTART.finditer(stream, position, end)
            if any(restart[1][0] & 7 != count % 8 for count, restart in enumerate(restarts)):
                raise ImageError("decode", "JPEG restart markers are out of order, a part is lost")
            position = end
    else:
        raise ImageError("decode", f"JPEG has more than {_MAX_PARTS} segments")
    if size is None or not 1 <= scans <= _JPEG_MAX_SCANS:
        raise ImageError(
            "decode",
            f"JPEG has {scans} scans and {'no' if size is None else 'a'} frame header, "
            f"expected 1 to {_JPEG_MAX_SCANS} and a frame header",
        )
    if data[position:].any():  # cameras pad with zeros
        raise ImageError("decode", f"{data.size - position} bytes follow the end of the JPEG")
    return size


def _jpeg_is_cut_short(data: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the decoder wanted more data, as when a part of the file was lost on the way.

    The decoder leaves the missing end of the picture at exactly mid-grey. Where the picture does
    end so, decoding once more with a few bytes added tells: only a decoder that still wants data
    takes notice of them.
    """
    if (pixels[-8:, -8:] != 128).any():
        return False
    end = data.tobytes().rindex(bytes((0xFF, _JPEG_END)))
    more = np.insert(data, end, range(1, 65))
    again = cv2.imdecode(more, cv2.IMREAD_UNCHANGED)
    return again is None or not np.array_equal(again, pixels)
