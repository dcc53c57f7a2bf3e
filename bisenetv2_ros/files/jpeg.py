"""Checks the structure of a JPEG: every segment, and that the scans complete all coefficients."""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from bisenetv2_ros.files.image_header import (
    EXIF,
    MAX_PARTS,
    Header,
    ImageError,
    ends_early,
    exif_orientation,
    xmp_orientation,
)

_MAX_SCANS = 100  # progressive JPEGs have about ten, each of which costs a pass over the image
JPEG = b"\xff\xd8"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_MARKER = re.compile(rb"\xff+([^\xff])")
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte nor a restart
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")


class Jpeg(NamedTuple):
    """A JPEG's structure."""

    header: Header
    components: int
    progressive: bool
    end: int  #: offset of the end marker


def walk_jpeg(data: memoryview) -> Jpeg:
    """Follow all segments."""
    position, scans, header = len(JPEG), 0, None
    orientation, from_xmp, progressive = 1, 1, False
    missing: dict[int, int] = {}  # by component: a bit for each of 64 coefficients
    for _ in range(MAX_PARTS):
        match = _MARKER.match(data, position)
        if match is None:
            if position >= len(data) or not any(data[position : position + 2]):
                raise ends_early(data)
            raise ImageError("decode", f"JPEG has no marker at byte {position}")
        position, marker = match.end(), match[1][0]
        if marker == _END:
            break
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _FRAME_HEADERS:
            if header is not None:
                raise ImageError("decode", f"JPEG has a second frame header at byte {position}")
            height, width = struct.unpack_from(">HH", data, position + 3)
            header = Header(width, height)
            progressive = marker in _PROGRESSIVE
            components = data[position + 8 : position + length : 3]
            missing = dict.fromkeys(components, (1 << 64) - 1)
        elif marker == _APP1 and data[position + 2 : position + 8] == EXIF:
            orientation = exif_orientation(data[position + 8 : position + length])
        elif marker == _APP1 and bytes(data[position + 2 : position + 7]) == b"http:":
            from_xmp = xmp_orientation(bytes(data[position : position + length]))
        elif marker == _SCAN:
            scans += 1
            _take_scan(data[position : position + length], progressive, missing)
            position = _end_of_scan(data, position + length)
            continue
        position += length
    else:
        raise ImageError("decode", f"JPEG has more than {MAX_PARTS} segments")
    if header is None or not 1 <= scans <= _MAX_SCANS:
        raise ImageError(
            "decode",
            f"JPEG has {scans} scans and {'no' if header is None else 'a'} frame header, "
            f"expected 1 to {_MAX_SCANS} and a frame header",
        )
    if any(missing.values()):
        raise ImageError("decode", "JPEG lacks scans, expected all coefficients of all components")
    if orientation == 1:
        orientation = from_xmp
    return Jpeg(header._replace(orientation=orientation), len(missing), progressive, match.start())


def _take_scan(scan: memoryview, progressive: bool, missing: dict[int, int]) -> None:
    """Remove the coefficients that a scan brings to full precision."""
    count = scan[2]
    first, last, precision = scan[3 + 2 * count], scan[4 + 2 * count], scan[5 + 2 * count]
    if progressive and precision & 15:
        return  # the lowest bits are still to come
    bits = (1 << min(last, 63) + 1) - (1 << first) if progressive else (1 << 64) - 1
    for component in scan[3 : 3 + 2 * count : 2]:
        if component in missing:
            missing[component] &= ~bits


def _end_of_scan(data: memoryview, position: int) -> int:
    after = _AFTER_SCAN.search(data, position)
    end = after.start() if after else len(data)
    restarts = _RESTART.finditer(data, position, end)
    if any(restart[1][0] & 7 != count % 8 for count, restart in enumerate(restarts)):
        raise ImageError("decode", "JPEG restart markers are out of order, a part is lost")
    return end
