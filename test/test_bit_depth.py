"""Images of 16 bits that hold fewer are noticed, once, and others are not."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from bisenetv2_ros.image_conversion import decode_compressed, decode_image
from bisenetv2_ros.node.bit_depth import LOOKS, BitDepth


def noise(bits: int, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2**bits, (24, 32)).astype(np.uint16)
    values[0, 0] = 2**bits - 1
    return values


def image(values: np.ndarray, encoding: str, is_bigendian: int = 0) -> SimpleNamespace:
    data = values.astype(">u2" if is_bigendian else "<u2").tobytes()
    return SimpleNamespace(
        encoding=encoding, height=24, width=32, step=64, is_bigendian=is_bigendian, data=data
    )


def said(messages: list[SimpleNamespace]) -> list[str]:
    depth = BitDepth()
    decode = [decode_compressed if hasattr(m, "format") else decode_image for m in messages]
    lines = [depth.look(m, d(m)[0]) for m, d in zip(messages, decode, strict=True)]
    return [line for line in lines if line]


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("encoding", ["mono16", "bayer_rggb16", "bayer_grbg16"])
@pytest.mark.parametrize("is_bigendian", [0, 1])
def test_fewer_bits_are_named_once(bits, encoding, is_bigendian):
    message = image(noise(bits), encoding, is_bigendian)
    (line,) = said([message] * (3 * LOOKS))
    assert f"{encoding} images are nearly black" in line
    assert f"as {bits} bits in 16 give" in line and f"shift them up by {16 - bits} bits" in line


def test_a_png_of_fewer_bits_is_named():
    data = cv2.imencode(".png", noise(12))[1].tobytes()
    message = SimpleNamespace(format="mono16; png compressed ", data=data)
    (line,) = said([message] * LOOKS)
    assert "mono16 images are nearly black" in line


@pytest.mark.parametrize("values", [noise(16), noise(12) << 4, noise(16) // 3])
def test_sixteen_bits_are_not_named(values):
    assert not said([image(values, "mono16")] * (2 * LOOKS))


def test_a_dark_start_and_black_frames_are_not_named():
    dark, black, bright = (
        image(values, "mono16") for values in (noise(12), noise(0) * 0, noise(16))
    )
    assert not said([black] * 50 + [dark] * (LOOKS - 1) + [bright] + [dark] * 50)


def test_eight_bits_may_be_dark():
    values = np.ones((24, 32), np.uint8)
    message = SimpleNamespace(
        encoding="mono8", height=24, width=32, step=32, is_bigendian=0, data=values.tobytes()
    )
    assert not said([message] * (2 * LOOKS))
