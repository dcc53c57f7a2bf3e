"""Images of zstd_image_transport: both of its compressions, and everything else refused."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest

from bisenetv2_ros import image_zstd
from bisenetv2_ros.image_conversion import ImageError
from bisenetv2_ros.image_zstd import decode_zstd

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def compress_zstd(data: bytes) -> bytes:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name).compress(data)
        except ImportError:
            pass
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


def message(
    payload: bytes, *, height=24, width=32, step=96, encoding=b"rgb8", length=None
) -> SimpleNamespace:
    length = len(encoding) if length is None else length
    head = struct.pack("<IIBII", height, width, 0, step, length) + encoding
    return SimpleNamespace(format="zstd", data=head + payload)


@pytest.mark.parametrize("compress", [zlib.compress, compress_zstd, gzip.compress])
def test_pixels_are_those_of_the_image(compress):
    pixels, order = decode_zstd(message(compress(PIXELS.tobytes())))
    np.testing.assert_array_equal(pixels, PIXELS)
    assert order == "rgb"


@pytest.mark.parametrize("compress", [zlib.compress, compress_zstd])
def test_no_truncation_and_no_nonsense_is_an_image(compress):
    whole = message(compress(PIXELS.tobytes())).data
    for length in range(0, len(whole), 7):
        with pytest.raises(ImageError):
            decode_zstd(SimpleNamespace(format="zstd", data=whole[:length]))
    generator = np.random.default_rng(1)
    for _ in range(200):
        data = bytearray(whole)
        data[int(generator.integers(17))] ^= int(generator.integers(1, 256))
        with contextlib.suppress(ImageError):
            decode_zstd(SimpleNamespace(format="zstd", data=bytes(data)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 2**31, "step": 2**31},
        {"height": 0},
        {"step": 1},
        {"width": 33},
        {"encoding": b"\xff\xfe"},
        {"length": 2**32 - 1},
    ],
)
def test_headers_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ImageError):
        decode_zstd(message(zlib.compress(PIXELS.tobytes()), **wrong))


@pytest.mark.parametrize("compress", [zlib.compress, compress_zstd])
def test_a_bomb_is_not_unpacked(compress):
    with pytest.raises(ImageError, match=r"data is \d{4} bytes long, expected 2304"):
        decode_zstd(message(compress(bytes(2**26))))


def test_a_missing_decompressor_is_named(monkeypatch):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(image_zstd.importlib, "import_module", missing)
    with pytest.raises(ImageError, match="run `pip install zstandard`"):
        decode_zstd(message(image_zstd._ZSTD + b"..."))
