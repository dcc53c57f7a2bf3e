"""Decodes zstd_image_transport: a header of 17 bytes, the encoding, and the compressed data.

Despite the name, releases until 2025 compress with zlib. Newer ones use zstd, which needs a Python
module: compression.zstd (3.14), backports.zstd or zstandard.
"""

from __future__ import annotations

import contextlib
import importlib
import struct
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from bisenetv2_ros.image_conversion import MAX_PIXELS, ChannelOrder, ImageError, decode_image

_HEADER = struct.Struct("<IIBII")  # height, width, is_bigendian, step, length of the encoding
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZLIB = 32 + zlib.MAX_WBITS  # with a header of zlib or gzip
_MAX_BYTES = MAX_PIXELS * 8  # 16 bits of four channels


def decode_zstd(message: Any, encoding: str = "") -> tuple[np.ndarray, ChannelOrder]:
    """Decode a sensor_msgs/CompressedImage with the format 'zstd'. Returns as decode_image does.

    encoding: overrides the header's encoding unless it is ''.
    Raises ImageError if the content is invalid.
    """
    data = bytes(message.data)
    try:
        height, width, is_bigendian, step, length = _HEADER.unpack_from(data)
    except struct.error:
        raise ImageError(
            "data_length", f"zstd image is {len(data)} bytes long, expected {_HEADER.size} or more"
        ) from None
    start = _HEADER.size + length
    expected = step * height * 3  # planar encodings have more rows than the height
    if not 0 < expected <= 2 * _MAX_BYTES:
        raise ImageError("size", f"zstd image has {height} rows of {step} bytes, expected an image")
    pixels = _decompress(data[start:], expected)
    encoding = encoding or data[_HEADER.size : start].decode("ascii", "replace")
    return decode_image(
        SimpleNamespace(
            encoding=encoding,
            height=height,
            width=width,
            is_bigendian=is_bigendian,
            step=step,
            data=pixels,
        )
    )


def _decompress(data: bytes, most: int) -> bytes:
    """Decompress at most `most` bytes; decode_image checks the number."""
    try:
        if data.startswith(_ZSTD):
            return _zstd()(data, most)
        return zlib.decompressobj(_ZLIB).decompress(data, most)
    except ImageError:
        raise
    except Exception as error:  # each module has its own exception types
        raise ImageError("decode", f"zstd image cannot be decompressed: {error}") from error


def _zstd() -> Callable[[bytes, int], bytes]:
    """Return an installed decompressor. Raises ImageError if there is none."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            module = importlib.import_module(name)
            return lambda data, most: bytes(module.ZstdDecompressor().decompress(data, most))
    with contextlib.suppress(ImportError):
        zstandard = importlib.import_module("zstandard")
        return lambda data, most: bytes(zstandard.ZstdDecompressor().stream_reader(data).read(most))
    raise ImageError("format", "the image is compressed with zstd: run `pip install zstandard`")
