"""Decodes images; the only place that decides whether an image is complete.

Used for image files, bags, messages and datasets, so that the same bytes give the same result
everywhere. Treats the bytes as untrusted: structure and claimed sizes are checked before OpenCV
sees them. Knows nothing of files, folders or messages.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import cv2
import numpy as np

from bisenetv2_ros.files.decoder_messages import captured_messages
from bisenetv2_ros.files.image_formats import PNG, read_header
from bisenetv2_ros.files.image_header import TIFF_ORIENTATION, Header, ImageError
from bisenetv2_ros.files.jpeg import JPEG, walk_jpeg


class Pixels(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  #: (H, W) or (H, W, 3 or 4), BGR(A), as stored, in the depth of the file
    header: Header


# Data that claims more pixels than it can hold is a decompression bomb. Deflate compresses at most
# 1032-fold and a PNG pixel has at least one bit; a JPEG has at least one bit per 8x8 pixels.
_PNG_PIXELS_PER_BYTE = 1032 * 8
_JPEG_PIXELS_PER_BYTE = 64 * 8


def decode(data: bytes | np.ndarray, max_side: int = 1 << 20, max_pixels: int = 1 << 28) -> Pixels:
    """Decode one complete image.

    Detects truncation at any byte, broken structure and checksums, and JPEG data that ends before
    the image is full (OpenCV fills the rest with gray). JPEG has no checksums: flipped bits and
    small losses may still give wrong pixels.

    Raises ImageError (`format`, `size` or `decode`) if the data is not exactly one complete image
    of at most `max_side` pixels per side and `max_pixels` in total.
    """
    array = np.frombuffer(data, np.uint8)
    header = read_header(array.data)
    width, height = header.width, header.height
    if not (1 <= width <= max_side and 1 <= height <= max_side):
        raise ImageError(
            "size", f"size is {width}x{height}, expected 1 to {max_side} pixels a side"
        )
    if width * height > max_pixels:
        raise ImageError("size", f"size is {width}x{height}, expected at most {max_pixels} pixels")
    _refuse_bomb(array, header)
    if header.frames > 1:
        raise ImageError(
            "format",
            f"{header.frames} frames or pages, expected one image (split the file, or convert it "
            "to a video)",
        )
    if header.orientation != 1 and array[:2].tobytes() in (b"II", b"MM"):
        array = _without_orientation(array, header.orientation)
    pixels = _imdecode(array)
    if pixels is None:
        raise ImageError("decode", f"OpenCV cannot decode the announced {width}x{height} pixels")
    if pixels.shape[:2] != (height, width):
        raise ImageError(
            "decode",
            f"decoded to {pixels.shape[1]}x{pixels.shape[0]} pixels, announced {width}x{height}",
        )
    if array[:2].tobytes() == JPEG and _jpeg_is_cut_short(array, pixels):
        raise ImageError("decode", "JPEG data is used up before the image is full")
    return Pixels(pixels, header)


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate (H, W, ...) pixels by their EXIF orientation (1..8)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _imdecode(data: np.ndarray) -> np.ndarray | None:
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except (cv2.error, MemoryError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ImageError("decode", f"OpenCV cannot decode the frame: {reason}") from error
    return None if pixels is None else np.asarray(pixels)


def _refuse_bomb(data: np.ndarray, header: Header) -> None:
    start = data[:8].tobytes()
    per_byte = _PNG_PIXELS_PER_BYTE if start == PNG else _JPEG_PIXELS_PER_BYTE
    least = -(-header.width * header.height // per_byte)
    if start[:2] in (JPEG, PNG[:2]) and data.size < least:
        raise ImageError(
            "decode",
            f"{data.size} bytes claim {header.width}x{header.height} pixels, expected at least "
            f"{least}",
        )


def _jpeg_is_cut_short(data: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the decoder wanted more data, as when a part of the file is missing.

    The decoder leaves the missing end of a baseline JPEG at exactly mid-gray. If the image itself
    may end so, or is progressive or CMYK, it is decoded again with a few bytes added: only a
    decoder that still wants data notices them.
    """
    jpeg = walk_jpeg(data.data)
    may_end_in_grey = jpeg.components < 4 and not jpeg.progressive
    if may_end_in_grey and (pixels[-8:, -8:] != 128).any():
        return False
    more = np.insert(data, jpeg.end, range(1, 65))
    with captured_messages():  # libjpeg reports the added bytes
        again = _imdecode(more)
    return again is None or not np.array_equal(again, pixels)


def _without_orientation(data: np.ndarray, orientation: int) -> np.ndarray:
    """Make a TIFF claim to be upright: some versions of OpenCV rotate it, others do not."""
    content, order = data.tobytes(), "<" if data[0] == ord("I") else ">"
    form = order + ("HHQH" if content[2:4].strip(b"\0") == b"+" else "HHIH")
    said, upright_ = (struct.pack(form, TIFF_ORIENTATION, 3, 1, turn) for turn in (orientation, 1))
    return np.frombuffer(content.replace(said, upright_), np.uint8)
