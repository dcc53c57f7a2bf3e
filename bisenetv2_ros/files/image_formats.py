"""Recognizes formats of encoded images and checks their structure from start to end."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator

from bisenetv2_ros.files.image_header import (
    EXIF,
    MAX_PARTS,
    TIFF_ORIENTATION,
    Header,
    ImageError,
    check_end,
    ends_early,
    exif_orientation,
    xmp_orientation,
)
from bisenetv2_ros.files.jpeg import JPEG, walk_jpeg

_MAX_PROFILE = 1 << 20

FORMATS = "JPEG, PNG, WebP, BMP, TIFF or PNM"
_VIDEO = "a video"
_UNSUPPORTED = (
    (rb"GIF8", "GIF"),
    (rb"....ftyp(avif|avis)", "AVIF"),
    (rb"....ftyp(heic|heix|heim|heis|hevc|hevx)", "HEIC"),
    (rb"....ftyp(mif1|msf1)", "HEIF (HEIC or AVIF)"),
    (rb"....ftypcrx ", "a raw photo"),
    (rb"....ftyp|RIFF....AVI |\x1a\x45\xdf\xa3", _VIDEO),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL"),
    (rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ", "JPEG 2000"),
    (rb"\x76\x2f\x31\x01", "OpenEXR"),
    (rb"#\?RADIANCE|#\?RGBE", "Radiance HDR"),
    (rb"8BPS", "Photoshop"),
    (rb"%PDF", "PDF"),
    (rb"%!PS", "PostScript"),
    (rb"\0\0[\1\2]\0", "an icon"),
    (rb"P[7Ff]", "PAM or PFM"),
    (rb"DDS ", "DDS"),
    (rb"qoif", "QOI"),
    (rb"icns", "an Apple icon"),
    (rb"SIMPLE  =", "FITS"),
    (rb"\x0a[\0-\5]\x01[\x01\x02\x04\x08]", "PCX"),
    (rb"\x01\xda[\0\1][\1\2]", "SGI"),
    (rb"\x59\xa6\x6a\x95", "a Sun raster"),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    (rb"\s*<(![Dd][Oo][Cc]|html|HTML|\?xml|svg)", "a page or drawing in HTML, XML or SVG"),
)


def is_image(start: bytes) -> bool:
    """Whether a file with this start is in one of FORMATS."""
    return any(re.match(pattern, start, re.DOTALL) for pattern, _ in _PARSERS)


def may_be_video(start: bytes) -> bool:
    """Whether a file with this start may be a video; not if it is known to be something else."""
    return known_format(start) in (None, _VIDEO, "GIF")


def known_format(start: bytes) -> str | None:
    """The name of a format other than FORMATS; None if it is unknown."""
    for pattern, name in _UNSUPPORTED:
        if re.match(pattern, start, re.DOTALL):
            return name
    return None


def read_header(data: memoryview) -> Header:
    """Check the structure of an encoded image from start to end.

    Bytes after the end are allowed: phones append a video, cameras append notes. Raises ImageError
    if the format is not one of FORMATS, the data ends early, or a part of it is damaged.
    """
    start = bytes(data[:64])
    for pattern, parse in _PARSERS:
        if re.match(pattern, start, re.DOTALL):
            try:
                return parse(data)
            except (struct.error, IndexError, OverflowError):
                raise ends_early(data) from None
    raise ImageError(
        "format", f"data is {known_format(start) or repr(start[:8])}, expected {FORMATS}"
    )


PNG = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk up to IEND; verifies the checksums."""
    position = len(PNG)
    for part in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        (checksum,) = struct.unpack_from(">I", data, position + 8 + length)
        if zlib.crc32(data[position + 4 : position + 8 + length]) != checksum:
            raise ImageError(
                "decode", f"PNG chunk {kind!r} at byte {position} does not match its checksum"
            )
        if part == 0 and kind != b"IHDR":
            raise ImageError("decode", f"PNG starts with chunk {kind!r}, expected b'IHDR'")
        yield kind, data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            return
        position += 12 + length
    raise ImageError("decode", f"PNG has more than {MAX_PARTS} chunks")


def _png_orientation(kind: bytes, content: memoryview) -> int:
    """The orientation from EXIF in its own chunk, from XMP, or from EXIF as ImageMagick writes
    it."""
    if kind == b"eXIf":
        return exif_orientation(content)
    keyword, _, text = bytes(content).partition(b"\0")
    if keyword == b"XML:com.adobe.xmp":
        return xmp_orientation(text)
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return 1
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE)
        profile = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except (zlib.error, ValueError):
        return 1
    return exif_orientation(memoryview(profile.removeprefix(EXIF)))


def _png_header(data: memoryview) -> Header:
    header, frames = Header(0, 0), 0
    parts: set[bytes] = set()
    for kind, content in png_chunks(data):
        if kind == b"IHDR":
            width, height = struct.unpack_from(">II", content)
            header = header._replace(width=width, height=height)
        elif kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt") and header.orientation == 1:
            header = header._replace(orientation=_png_orientation(kind, content))
        elif kind == b"acTL":
            frames = struct.unpack_from(">I", content)[0]
        elif kind == b"IDAT" and not parts & {b"IDAT", b"fcTL"} and frames:
            frames += 1  # the image itself is not a frame of the animation
        parts.add(kind)
    return header._replace(frames=max(1, frames))


_TIFF_DNG = 50706
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of sizes and offsets
_MAX_PAGES = 10_000


def _webp_header(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    check_end(data, 8 + size)
    width = height = frames = 0
    orientation, position = 1, 12
    for _ in range(MAX_PARTS):
        if position + 8 > 8 + size:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        check_end(data, position + 8 + length)
        content = data[position + 8 : position + 8 + length]
        if kind == b"VP8X":
            low, high = struct.unpack_from("<II", bytes(content[4:10]) + bytes(2))
            width, height = 1 + (low & 0xFFFFFF), 1 + (low >> 24 | (high & 0xFFFF) << 8)
        elif kind == b"VP8 " and not width:
            width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 6))
        elif kind == b"VP8L" and not width:
            (bits,) = struct.unpack_from("<I", content, 1)
            width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        elif kind == b"EXIF":
            exif = content[6:] if bytes(content[:6]) == EXIF else content
            orientation = exif_orientation(exif)
        elif kind == b"XMP " and orientation == 1:
            orientation = xmp_orientation(bytes(content))
        frames += kind == b"ANMF"
        position += 8 + length + length % 2
    else:
        raise ImageError("decode", f"WebP has more than {MAX_PARTS} chunks")
    return Header(width, height, orientation, max(1, frames))


def _bmp_header(data: memoryview) -> Header:
    offset, header_size = struct.unpack_from("<II", data, 10)
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    else:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    height = abs(height)
    # OpenCV decodes these with wrong colors.
    if header_size not in (12, 40, 64, 108, 124) or (header_size == 12 and bits <= 8):
        raise ImageError("format", f"BMP has a header of {header_size} bytes and {bits} bits")
    colors = struct.unpack_from("<I", data, 46)[0] if header_size >= 40 and bits <= 8 else 0
    if offset < 14 + header_size + 4 * min(colors, 256):
        raise ImageError("decode", f"BMP has {colors} colors that reach into its pixels")
    if compression in (0, 3):
        check_end(data, offset + (width * bits + 31) // 32 * 4 * height)
    elif bytes(data[2:6]) != bytes(4):  # compressed: only the claimed file size can be checked
        check_end(data, *struct.unpack_from("<I", data, 2))
    return Header(width, height)


def _tiff_header(data: memoryview) -> Header:
    order = "<" if data[0] == ord("I") else ">"
    (version,) = struct.unpack_from(f"{order}H", data, 2)
    big = version == 43
    (position,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    first: dict[int, list[int]] = {}
    pages = 0
    seen: set[int] = set()
    while position and position not in seen and len(seen) < _MAX_PAGES:
        seen.add(position)
        tags, position = _tiff_page(data, position, order, big)
        first = first or tags
        # Thumbnails and masks are not pages.
        pages += not tags.get(254, [0])[0] & 5
    for offsets, lengths in ((273, 279), (324, 325)):
        for start, length in zip(first.get(offsets, []), first.get(lengths, []), strict=False):
            check_end(data, start + length)
    try:
        (width,), (height,) = first[256], first[257]
    except (KeyError, ValueError):
        raise ImageError("decode", "TIFF does not say its width and height") from None
    if _TIFF_DNG in first or first.get(254, [0])[0] & 1:
        raise ImageError("format", "TIFF begins with a thumbnail, as raw photos do")
    bits, color, planes = (first.get(tag, [1])[0] for tag in (258, 262, 284))
    # OpenCV decodes these with wrong colors; above 6 are L*a*b* and logarithms.
    if (
        (bits > 8 and (color not in (1, 2) or planes != 1))
        or (bits < 8 and color not in (0, 1))
        or color > 6
    ):
        raise ImageError(
            "format",
            f"TIFF has {bits} bits a sample, photometric interpretation {color} and planar "
            f"configuration {planes}, expected 8 bits of grey, RGB, CMYK or YCbCr, or "
            "grey or RGB by pixels",
        )
    orientation = first.get(TIFF_ORIENTATION, [1])[0]
    return Header(width, height, orientation if 1 <= orientation <= 8 else 1, max(1, pages))


def _tiff_page(
    data: memoryview, position: int, order: str, big: bool
) -> tuple[dict[int, list[int]], int]:
    """The integers of a page by tag, and the offset of the next page, 0 after the last."""
    count_form, form, pointer = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    (count,) = struct.unpack_from(order + count_form, data, position)
    position += struct.calcsize("=" + count_form)
    entry_size = struct.calcsize("=" + form + pointer)
    if count > MAX_PARTS:
        raise ImageError("decode", f"TIFF has more than {MAX_PARTS} tags")
    tags: dict[int, list[int]] = {}
    for _ in range(count):
        tag, kind, amount = struct.unpack_from(order + form, data, position)
        place = position + struct.calcsize("=" + form)
        if kind in _TIFF_TYPES:
            values = f"{amount}{_TIFF_TYPES[kind]}"
            if amount * struct.calcsize(_TIFF_TYPES[kind]) > len(data):
                raise ends_early(data)
            if struct.calcsize("=" + values) > struct.calcsize("=" + pointer):
                (place,) = struct.unpack_from(order + pointer, data, place)
            tags[tag] = list(struct.unpack_from(order + values, data, place)) or [0]
        position += entry_size
    (following,) = struct.unpack_from(order + pointer, data, position)
    return tags, following


_PNM = re.compile(rb"P([1-6])")
_PNM_NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*(\d{1,9})")


def _pnm_header(data: memoryview) -> Header:
    kind, position = data[1] - ord("0"), 2
    numbers = []
    for _ in range(2 if kind in (1, 4) else 3):
        match = _PNM_NUMBER.match(data, position)
        if match is None:
            raise ImageError("decode", f"PNM has no number at byte {position} of its header")
        numbers.append(int(match[1]))
        position = match.end()
    width, height, largest = (*numbers, 1)[:3]
    samples = width * height * (3 if kind in (3, 6) else 1)
    if kind <= 3:  # text; P1 also without spaces
        words = len(re.findall(rb"[01]" if kind == 1 else rb"\d+", bytes(data[position:])))
        if words < samples:
            raise ends_early(data)
        return Header(width, height)
    row = -(-width // 8) if kind == 4 else samples // max(1, height) * (1 + (largest > 255))
    end = position + 1 + row * height
    check_end(data, end)
    return Header(width, height, frames=1 + bool(_PNM.match(bytes(data[end : end + 2]))))


_PARSERS: tuple[tuple[bytes, Callable[[memoryview], Header]], ...] = (
    (re.escape(PNG), _png_header),
    (JPEG, lambda data: walk_jpeg(data).header),
    (rb"RIFF....WEBP", _webp_header),
    (rb"BM............[\x0c-\x7c]\0", _bmp_header),
    (rb"II[*+]\0|MM\0[*+]", _tiff_header),
    (rb"P[1-6]\s|P[1-6]#", _pnm_header),
)
