"""Reads and writes image files and label maps, completely or not at all.

Knows nothing of folders or of the meaning of labels; `encoded` checks the bytes.
"""

from __future__ import annotations

import re
import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.decoder_messages import captured_messages
from bisenetv2_ros.files.encoded import Pixels, decode, upright
from bisenetv2_ros.files.image_formats import png_chunks
from bisenetv2_ros.files.image_header import ImageError
from bisenetv2_ros.files.paths import check_input, naming, replacing
from bisenetv2_ros.opencv import convert_color

if TYPE_CHECKING:
    from pathlib import Path

SUFFIXES = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm",
})  # fmt: skip
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (bad Huffman|premature end)|Premature end|TIFF_Error|libpng error"
)
_PNG_GREY, _PNG_PALETTE = 0, 3
_WANTED_GREYS = (
    "grey, one byte a pixel (one bit is read if one class has a value other than 0, that of white)"
)
_PNG_HEADER = 33  # bytes of the signature and IHDR


def _chunk(body: bytes) -> bytes:
    """Make a PNG chunk."""
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


_OWN_CHUNK = _chunk(b"tEXtSoftware\0bisenetv2_ros")


class ImageFileError(ValueError):
    """A file cannot be used as an image; the message begins with its path."""


def raise_error(error: Exception) -> None:
    """Raise an error that is passed to a callback, which could also log and skip."""
    raise error


def read_image(path: Path, data: bytes = b"") -> np.ndarray:
    """Read an image as (H, W, 3) uint8 RGB, upright; `data` is its content if it is in no file.

    Transparency is dropped, gray repeated, 16 bits become 8 by round(value / 257).
    Raises ImageFileError if the file cannot be read completely or contains several images.
    """
    pixels, header = _decode(path, data or _read(path))
    if pixels.dtype == np.uint16:
        pixels = np.asarray(cv2.convertScaleAbs(pixels, alpha=255 / 65535))
    if pixels.dtype != np.uint8:
        raise ImageFileError(f"{path}: samples are {pixels.dtype}, expected 8 or 16 bits")
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    code = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}.get(channels)
    if code is None:
        raise ImageFileError(f"{path}: {channels} channels, expected 1, 3 or 4")
    return upright(convert_color(pixels, code), header.orientation)


def read_label(path: Path) -> np.ndarray:
    """Read a label map as (H, W) uint8, one class index per pixel.

    Raises ImageFileError for anything else; see `read_label_map`.
    """
    label = read_label_map(path)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ImageFileError(
            f"{path}: label map is {label.dtype} of shape {label.shape}, expected grey, one byte a "
            "pixel: one class index a pixel"
        )
    return label


def read_label_map(path: Path, colors: bool = False, white: int | None = None) -> np.ndarray:
    """Read a label map: (H, W) uint8 or uint16 values, or (H, W, 3) uint8 RGB.

    The values of a palette are its indices. If all channels of an image are equal, they are taken
    as values saved as color; an alpha channel is dropped.

    Args:
        path: any lossless image.
        colors: return colors, also of a palette or a gray image.
        white: value of white in a PNG of one bit per pixel, gray or with a palette of black and a
            gray; None if it is not known.

    Raises:
        ImageFileError: if the file cannot be read completely, or its values are ambiguous: a gray
            PNG with less than a byte per pixel (is 1 a class, or white?), or a palette of grays.
    """
    data = _read(path)
    if data.startswith(b"\xff\xd8"):
        raise ImageFileError(f"{path}: label map is a JPEG, which changes values, expected PNG")
    if colors:
        return read_image(path)
    is_png = data.startswith(b"\x89PNG") and len(data) > 25
    depth, kind = (data[24], data[25]) if is_png else (0, -1)
    if kind == _PNG_PALETTE:
        return _read_indices(path, data, depth, white)
    label, header = _decode(path, data)
    if kind == _PNG_GREY and depth == 1 and white is not None:
        return upright(_two_values(label, white), header.orientation)
    if kind == _PNG_GREY and depth < 8 and label.any():
        raise ImageFileError(
            f"{path}: label map is a grey PNG of {depth} bits a pixel, whose largest value "
            f"may mean a class or white, expected {_WANTED_GREYS}"
        )
    if label.ndim == 3:
        label = label[..., :3]
        label = label[..., 0] if (label == label[..., :1]).all() else label[..., ::-1]
    if label.dtype not in (np.uint8, np.uint16) or (label.ndim == 3 and label.dtype != np.uint8):
        raise ImageFileError(
            f"{path}: label map is {label.dtype} of shape {label.shape}, expected grey, one or two "
            "bytes a pixel, or colours of one byte a channel"
        )
    return upright(label, header.orientation)


def _two_values(label: np.ndarray, white: int) -> np.ndarray:
    return np.where(label > 0, white, 0).astype(np.uint16 if white > 255 else np.uint8)


def _read_indices(path: Path, data: bytes, depth: int, white: int | None) -> np.ndarray:
    """Indices (H, W) of a PNG with a palette, which OpenCV returns if the PNG is labeled gray."""
    _, header = _decode(path, data)  # checks that it is one complete image
    chunks = dict[bytes, bytes]()
    for kind, content in png_chunks(memoryview(data)):
        chunks[kind] = chunks.get(kind, b"") + bytes(content)
    palette = np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)
    ihdr = bytearray(chunks[b"IHDR"])
    ihdr[9] = _PNG_GREY
    grey = data[:8]
    for body in (b"IHDR" + bytes(ihdr), b"IDAT" + chunks[b"IDAT"], b"IEND"):
        grey += _chunk(body)
    label = _decode(path, grey).pixels // (255 // (2**depth - 1))
    used = np.unique(label)
    if used[-1] >= len(palette):
        raise ImageFileError(
            f"{path}: index {used[-1]}, expected one of the PNG's palette of {len(palette)}"
        )
    if (palette == palette[:, :1]).all() and (palette[used, 0] != used).any():
        greys = palette[:, 0]
        if depth == 1 and white is not None and len(set(greys[:2]) - {0}) == 1:
            return upright(_two_values(greys[label], white), header.orientation)
        raise ImageFileError(
            f"{path}: label map is a PNG with a palette of greys, whose values may mean the greys "
            f"or their indices, expected {_WANTED_GREYS}, or a palette of colours"
        )
    return upright(label, header.orientation)


def _read(path: Path) -> bytes:
    try:
        check_input(path)
        return path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: {error.strerror}") from error


def _decode(path: Path, data: bytes) -> Pixels:
    """Decode a file's data. Also refuses data that the decoder itself reports as damaged."""
    if not data:
        raise ImageFileError(f"{path}: the file is empty")
    messages: list[str] = []
    try:
        with captured_messages() as messages:
            decoded = decode(data)
    except ImageError as error:
        clear = [message for message in messages if "imdecode_" not in message]
        said = f" ({clear[0]})" if clear else ""
        raise ImageFileError(f"{path}: {error}{said}") from error
    damage = [message for message in messages if _DAMAGE.search(message)]
    if damage:
        raise ImageFileError(f"{path}: {damage[0]}")
    return decoded


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB or (H, W) gray image in the format of the path's suffix. Raises OSError.

    The file appears once it is complete. `is_own_picture` recognizes it later if it is a PNG.
    """
    pixels = image if image.ndim == 2 else convert_color(image, cv2.COLOR_RGB2BGR)
    # Not imwrite: it reports a full disk as False without a reason, or not at all.
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise OSError(f"cannot encode {path}: shape {image.shape}, {image.dtype}")
    content = data.tobytes()
    if path.suffix.lower() == ".png":
        content = content[:_PNG_HEADER] + _OWN_CHUNK + content[_PNG_HEADER:]
    with naming(path), replacing(path) as partial:
        partial.write_bytes(content)


def is_own_picture(path: Path) -> bool:
    """Whether `write_picture` made this PNG, so that it may be deleted."""
    with naming(path), path.open("rb") as file:
        return file.read(_PNG_HEADER + len(_OWN_CHUNK)).endswith(_OWN_CHUNK)
