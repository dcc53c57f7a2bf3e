"""Decodes images; the only place that decides whether an image is complete.

Used for image files, bags, messages and datasets, so that the same bytes give the same result
everywhere. Treats the bytes as untrusted: structure and claimed sizes are checked before OpenCV
sees them. Knows nothing of files, folders or messages.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np

from bisenetv2_ros.files.decoder_messages import captured_messages


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


class Pixels(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  #: (H, W) or (H, W, 3 or 4), BGR(A), as stored, in the depth of the file
    header: Header


# Data that claims more pixels than it can hold is a decompression bomb. Deflate compresses at most
# 1032-fold and a PNG pixel has at least one bit; a JPEG has at least one bit per 8x8 pixels.
_PNG_PIXELS_PER_BYTE = 1032 * 8
_JPEG_PIXELS_PER_BYTE = 64 * 8

# Limits on what hostile files could repeat. OpenCV's own PNGs have a chunk per 8 KiB; progressive
# JPEGs have about ten scans, each of which costs a pass over the whole image.
_MAX_PARTS = 100_000
_MAX_PROFILE = 1 << 20
_JPEG_MAX_SCANS = 100

_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=[\"']|>)\s*([1-8])")

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
                raise _ends_early(data) from None
    raise ImageError(
        "format", f"data is {known_format(start) or repr(start[:8])}, expected {FORMATS}"
    )


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
    if array[:2].tobytes() == _JPEG and _jpeg_is_cut_short(array, pixels):
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
        raise ImageError(
            "decode", f"OpenCV cannot decode the frame: {_line(str(error))}"
        ) from error
    return None if pixels is None else np.asarray(pixels)


def _refuse_bomb(data: np.ndarray, header: Header) -> None:
    start = data[:8].tobytes()
    per_byte = _PNG_PIXELS_PER_BYTE if start == _PNG else _JPEG_PIXELS_PER_BYTE
    least = -(-header.width * header.height // per_byte)
    if start[:2] in (_JPEG, _PNG[:2]) and data.size < least:
        raise ImageError(
            "decode",
            f"{data.size} bytes claim {header.width}x{header.height} pixels, expected at least "
            f"{least}",
        )


def _ends_early(data: memoryview) -> ImageError:
    return ImageError("decode", f"ends after {len(data)} bytes, in the middle of the image")


def _check_end(data: memoryview, end: int) -> None:
    if end > len(data):
        raise _ends_early(data)


def _line(text: str) -> str:
    return " ".join(text.split())[:160]


def _orientation(exif: memoryview) -> int:
    """The orientation in a TIFF structure; 1 if it has none or is unreadable."""
    try:
        order = {b"II": "<", b"MM": ">"}[bytes(exif[:2])]
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, first + 2 + 12 * entry)
            if tag == _TIFF_ORIENTATION and kind == 3:
                return value if 1 <= value <= 8 else 1
    except (struct.error, KeyError):
        pass
    return 1


def _xmp_orientation(xmp: bytes) -> int:
    """The orientation in an XMP packet."""
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1


# PNG ---------------------------------------------------------------------------------------------

_PNG = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each chunk up to IEND; verifies the checksums."""
    position = len(_PNG)
    for part in range(_MAX_PARTS):
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
    raise ImageError("decode", f"PNG has more than {_MAX_PARTS} chunks")


def _png_orientation(kind: bytes, content: memoryview) -> int:
    """The orientation from EXIF in its own chunk, from XMP, or from EXIF as ImageMagick writes
    it."""
    if kind == b"eXIf":
        return _orientation(content)
    keyword, _, text = bytes(content).partition(b"\0")
    if keyword == b"XML:com.adobe.xmp":
        return _xmp_orientation(text)
    if keyword not in (b"Raw profile type exif", b"Raw profile type APP1"):
        return 1
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE)
        profile = bytes.fromhex(b"".join(text.split()[2:]).decode("ascii"))
    except (zlib.error, ValueError):
        return 1
    return _orientation(memoryview(profile.removeprefix(_EXIF)))


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


# JPEG --------------------------------------------------------------------------------------------

_JPEG = b"\xff\xd8"
_JPEG_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_JPEG_SCAN, _JPEG_END, _JPEG_APP1 = 0xDA, 0xD9, 0xE1
_JPEG_MARKER = re.compile(rb"\xff+([^\xff])")
_JPEG_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed byte nor a restart
_JPEG_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_EXIF = b"Exif\0\0"


class _Jpeg(NamedTuple):
    """A JPEG's structure."""

    header: Header
    components: int
    progressive: bool
    end: int  #: offset of the end marker


def _jpeg_header(data: memoryview) -> Header:
    return _walk_jpeg(data).header


def _walk_jpeg(data: memoryview) -> _Jpeg:
    """Follow all segments."""
    position, scans, header = len(_JPEG), 0, None
    orientation, xmp_orientation, progressive = 1, 1, False
    missing: dict[int, int] = {}  # by component: a bit for each of 64 coefficients
    for _ in range(_MAX_PARTS):
        match = _JPEG_MARKER.match(data, position)
        if match is None:
            if position >= len(data) or not any(data[position : position + 2]):
                raise _ends_early(data)
            raise ImageError("decode", f"JPEG has no marker at byte {position}")
        position, marker = match.end(), match[1][0]
        if marker == _JPEG_END:
            break
        (length,) = struct.unpack_from(">H", data, position)
        if marker in _JPEG_FRAME_HEADERS:
            if header is not None:
                raise ImageError("decode", f"JPEG has a second frame header at byte {position}")
            height, width = struct.unpack_from(">HH", data, position + 3)
            header = Header(width, height)
            progressive = marker in _JPEG_PROGRESSIVE
            components = data[position + 8 : position + length : 3]
            missing = dict.fromkeys(components, (1 << 64) - 1)
        elif marker == _JPEG_APP1 and data[position + 2 : position + 8] == _EXIF:
            orientation = _orientation(data[position + 8 : position + length])
        elif marker == _JPEG_APP1 and bytes(data[position + 2 : position + 7]) == b"http:":
            xmp_orientation = _xmp_orientation(bytes(data[position : position + length]))
        elif marker == _JPEG_SCAN:
            scans += 1
            _take_scan(data[position : position + length], progressive, missing)
            position = _end_of_scan(data, position + length)
            continue
        position += length
    else:
        raise ImageError("decode", f"JPEG has more than {_MAX_PARTS} segments")
    if header is None or not 1 <= scans <= _JPEG_MAX_SCANS:
        raise ImageError(
            "decode",
            f"JPEG has {scans} scans and {'no' if header is None else 'a'} frame header, "
            f"expected 1 to {_JPEG_MAX_SCANS} and a frame header",
        )
    if any(missing.values()):
        raise ImageError("decode", "JPEG lacks scans, expected all coefficients of all components")
    if orientation == 1:
        orientation = xmp_orientation
    return _Jpeg(header._replace(orientation=orientation), len(missing), progressive, match.start())


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
    after = _JPEG_AFTER_SCAN.search(data, position)
    end = after.start() if after else len(data)
    restarts = _JPEG_RESTART.finditer(data, position, end)
    if any(restart[1][0] & 7 != count % 8 for count, restart in enumerate(restarts)):
        raise ImageError("decode", "JPEG restart markers are out of order, a part is lost")
    return end


def _jpeg_is_cut_short(data: np.ndarray, pixels: np.ndarray) -> bool:
    """Whether the decoder wanted more data, as when a part of the file is missing.

    The decoder leaves the missing end of a baseline JPEG at exactly mid-gray. If the image itself
    may end so, or is progressive or CMYK, it is decoded again with a few bytes added: only a
    decoder that still wants data notices them.
    """
    jpeg = _walk_jpeg(data.data)
    may_end_in_grey = jpeg.components < 4 and not jpeg.progressive
    if may_end_in_grey and (pixels[-8:, -8:] != 128).any():
        return False
    more = np.insert(data, jpeg.end, range(1, 65))
    with captured_messages():  # libjpeg reports the added bytes
        again = _imdecode(more)
    return again is None or not np.array_equal(again, pixels)


# Other formats -----------------------------------------------------------------------------------

_TIFF_ORIENTATION, _TIFF_DNG = 274, 50706
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of sizes and offsets
_MAX_PAGES = 10_000


def _webp_header(data: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    _check_end(data, 8 + size)
    width = height = frames = 0
    orientation, position = 1, 12
    for _ in range(_MAX_PARTS):
        if position + 8 > 8 + size:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        _check_end(data, position + 8 + length)
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
            exif = content[6:] if bytes(content[:6]) == _EXIF else content
            orientation = _orientation(exif)
        elif kind == b"XMP " and orientation == 1:
            orientation = _xmp_orientation(bytes(content))
        frames += kind == b"ANMF"
        position += 8 + length + length % 2
    else:
        raise ImageError("decode", f"WebP has more than {_MAX_PARTS} chunks")
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
        _check_end(data, offset + (width * bits + 31) // 32 * 4 * height)
    elif bytes(data[2:6]) != bytes(4):  # compressed: only the claimed file size can be checked
        _check_end(data, *struct.unpack_from("<I", data, 2))
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
            _check_end(data, start + length)
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
    orientation = first.get(_TIFF_ORIENTATION, [1])[0]
    return Header(width, height, orientation if 1 <= orientation <= 8 else 1, max(1, pages))


def _without_orientation(data: np.ndarray, orientation: int) -> np.ndarray:
    """Make a TIFF claim to be upright: some versions of OpenCV rotate it, others do not."""
    content, order = data.tobytes(), "<" if data[0] == ord("I") else ">"
    form = order + ("HHQH" if content[2:4].strip(b"\0") == b"+" else "HHIH")
    said, upright_ = (struct.pack(form, _TIFF_ORIENTATION, 3, 1, turn) for turn in (orientation, 1))
    return np.frombuffer(content.replace(said, upright_), np.uint8)


def _tiff_page(
    data: memoryview, position: int, order: str, big: bool
) -> tuple[dict[int, list[int]], int]:
    """The integers of a page by tag, and the offset of the next page, 0 after the last."""
    count_form, form, pointer = ("Q", "HHQ", "Q") if big else ("H", "HHI", "I")
    (count,) = struct.unpack_from(order + count_form, data, position)
    position += struct.calcsize("=" + count_form)
    entry_size = struct.calcsize("=" + form + pointer)
    if count > _MAX_PARTS:
        raise ImageError("decode", f"TIFF has more than {_MAX_PARTS} tags")
    tags: dict[int, list[int]] = {}
    for _ in range(count):
        tag, kind, amount = struct.unpack_from(order + form, data, position)
        place = position + struct.calcsize("=" + form)
        if kind in _TIFF_TYPES:
            values = f"{amount}{_TIFF_TYPES[kind]}"
            if amount * struct.calcsize(_TIFF_TYPES[kind]) > len(data):
                raise _ends_early(data)
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
            raise _ends_early(data)
        return Header(width, height)
    row = -(-width // 8) if kind == 4 else samples // max(1, height) * (1 + (largest > 255))
    end = position + 1 + row * height
    _check_end(data, end)
    return Header(width, height, frames=1 + bool(_PNM.match(bytes(data[end : end + 2]))))


_PARSERS: tuple[tuple[bytes, Callable[[memoryview], Header]], ...] = (
    (re.escape(_PNG), _png_header),
    (_JPEG, _jpeg_header),
    (rb"RIFF....WEBP", _webp_header),
    (rb"BM............[\x0c-\x7c]\0", _bmp_header),
    (rb"II[*+]\0|MM\0[*+]", _tiff_header),
    (rb"P[1-6]\s|P[1-6]#", _pnm_header),
)
