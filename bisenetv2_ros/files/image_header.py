"""Common to all formats of encoded images: header, errors, limits, orientation."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

# Maximum number of chunks, segments or tags in a file. OpenCV's own PNGs have one per 8 KiB.
MAX_PARTS = 100_000

EXIF = b"Exif\0\0"
TIFF_ORIENTATION = 274
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")


class ImageError(ValueError):
    """The data is not a usable image. One line: what was received, what was expected."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause  #: one of image_conversion.CAUSES


class Header(NamedTuple):
    """The header of an encoded image."""

    width: int  #: pixels, as stored
    height: int
    orientation: int = 1  #: EXIF's 1..8: the rotation that makes the stored image upright
    frames: int = 1  #: or pages


def ends_early(data: memoryview) -> ImageError:
    """Return the error for data that ends before its image does."""
    return ImageError("decode", f"ends after {len(data)} bytes, in the middle of the image")


def check_end(data: memoryview, end: int) -> None:
    """Raise ImageError if the data is shorter than `end` bytes."""
    if end > len(data):
        raise ends_early(data)


def exif_orientation(exif: memoryview) -> int:
    """The orientation in a TIFF structure; 1 if it has none or is unreadable."""
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(exif[:2])]
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, first + 2 + 12 * entry)
            if tag == TIFF_ORIENTATION and kind == 3:
                return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1


def xmp_orientation(xmp: bytes) -> int:
    """The orientation in an XMP packet."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
