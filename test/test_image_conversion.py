"""Camera messages to pixels: every encoding against expectations computed here, hostile input."""

from __future__ import annotations

import array
import importlib
import struct
import zlib
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from long_run import long_or_short

from bisenetv2_ros import image_conversion
from bisenetv2_ros.image_conversion import (
    CAUSES,
    MAX_PIXELS,
    MAX_SIDE,
    SUPPORTED_ENCODINGS,
    ImageError,
    decode_compressed,
    decode_image,
)

# Written down once more, independently of the module: bytes a pixel in a row, rows a picture row.
BYTES_PER_PIXEL = {
    encoding: count
    for count, encodings in {
        1: "mono8 8UC1 nv12 nv21 nv24 bayer_rggb8 bayer_bggr8 bayer_gbrg8 bayer_grbg8",
        2: "mono16 16UC1 uyvy yuv422 yuyv yuv422_yuy2"
        " bayer_rggb16 bayer_bggr16 bayer_gbrg16 bayer_grbg16",
        3: "rgb8 bgr8 8UC3",
        4: "rgba8 bgra8 8UC4",
        6: "rgb16 bgr16",
        8: "rgba16 bgra16",
    }.items()
    for encoding in encodings.split()
}
SIXTEEN_BIT = [encoding for encoding in BYTES_PER_PIXEL if encoding.endswith("16")]
WIDTH, HEIGHT = 32, 24
PLAIN = {"8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8", "16UC1": "mono16"}


def rows_of(encoding: str, height: int) -> int:
    """Rows of the message's step in its data."""
    return height * {"nv12": 3, "nv21": 3, "nv24": 6}.get(encoding, 2) // 2


CASES = long_or_short(100_000, 300)
fuzz = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def random_bytes(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def image_message(encoding: str, rows: np.ndarray, *, padding: int = 0, height: int | None = None):
    """Make a message as a driver does. rows: (R, ...) of the sensor's samples, any byte order."""
    content = [np.ascontiguousarray(row).tobytes() for row in rows]
    return SimpleNamespace(
        encoding=encoding,
        height=len(rows) if height is None else height,
        width=rows.shape[1],
        step=len(content[0]) + padding,
        is_bigendian=int(rows.dtype.byteorder == ">"),
        data=array.array("B", b"".join(row + b"\xa5" * padding for row in content)),
    )


def random_message(encoding: str, padding: int = 0):
    step = WIDTH * BYTES_PER_PIXEL[encoding] + padding
    return SimpleNamespace(
        encoding=encoding,
        height=HEIGHT,
        width=WIDTH,
        step=step,
        is_bigendian=0,
        data=array.array("B", random_bytes(step * rows_of(encoding, HEIGHT))),
    )


def decoded(message) -> np.ndarray:
    """RGB pixels of a raw message."""
    pixels, order = decode_image(message)
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels if order == "rgb" else pixels[:, :, ::-1]


def to_8_bits(values: np.ndarray) -> np.ndarray:
    """0..65535 to the nearest of 0..255, in integers."""
    return ((values.astype(np.int64) + 128) // 257).astype(np.uint8)


def attempt(decode, message) -> tuple[np.ndarray, str] | ImageError:
    """Decode, or give the error, after a look at its form."""
    try:
        return decode(message)
    except ImageError as caught:
        error = caught
    assert error.cause in CAUSES
    assert str(error).isprintable()
    assert len(str(error)) < 600
    return error


def refusal(decode, message) -> ImageError:
    result = attempt(decode, message)
    assert isinstance(result, ImageError), f"{len(result[0])} rows instead of an ImageError"
    return result


def test_every_encoding_the_issue_asks_for_is_taken():
    assert set(SUPPORTED_ENCODINGS) == set(BYTES_PER_PIXEL)


# Raw encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [0, 1, 5, 12])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "rgba", "bgra", "mono"])
def test_colour_and_grey(channels, dtype, padding):
    bits = 8 * np.dtype(dtype).itemsize
    rng = np.random.default_rng(1)
    rgba = rng.integers(0, 2**bits, (HEIGHT, WIDTH, 4)).astype(dtype)
    if channels == "mono":
        samples, expected = rgba[:, :, 0], np.repeat(rgba[:, :, :1], 3, axis=2)
    else:
        samples = rgba[:, :, ["rgba".index(channel) for channel in channels]]
        expected = rgba[:, :, :3]
    message = image_message(f"{channels}{bits}", samples, padding=padding)
    if bits == 16:
        expected = to_8_bits(expected)
    np.testing.assert_array_equal(decoded(message), expected)


def test_sixteen_bits_become_the_nearest_eight():
    values = np.arange(2**16, dtype="<u2").reshape(256, 256)
    pixels = decoded(image_message("mono16", values))
    np.testing.assert_array_equal(pixels[:, :, 1], to_8_bits(values))
    assert pixels[0, 0, 0] == 0
    assert pixels[-1, -1, 0] == 255


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
@pytest.mark.parametrize("padding", [0, 7])
def test_common_encodings_are_read_only_views_of_the_message(encoding, padding):
    message = random_message(encoding, padding)
    pixels, order = decode_image(message)
    assert order == encoding[:3]
    assert np.shares_memory(pixels, np.frombuffer(message.data, np.uint8))
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1
    message.data[message.step] ^= 255
    assert pixels[1, 0, 0] == message.data[message.step]
    # what the segmenter does with it
    np.testing.assert_array_equal(
        cv2.resize(pixels, (16, 12), interpolation=cv2.INTER_AREA),
        cv2.resize(pixels.copy(), (16, 12), interpolation=cv2.INTER_AREA),
    )


def colour_ramps(bits: int) -> np.ndarray:
    """(H, W, 3): a plane for each channel, so that bilinear interpolation is exact."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    planes = np.dstack([20 + 4 * columns, 200 - 4 * rows, 40 + 2 * columns + 2 * rows])
    return planes * (257 if bits == 16 else 1)


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
@pytest.mark.parametrize("mosaic", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(mosaic, dtype):
    bits = 8 * np.dtype(dtype).itemsize
    picture = colour_ramps(bits)
    samples = np.empty((HEIGHT, WIDTH), dtype)
    for index, colour in enumerate(mosaic):
        row, column = divmod(index, 2)
        samples[row::2, column::2] = picture[row::2, column::2, "rgb".index(colour)]
    pixels = decoded(image_message(f"bayer_{mosaic}{bits}", samples, padding=3))
    # the outermost pixels have neighbours on one side only
    np.testing.assert_array_equal(pixels[1:-1, 1:-1], colour_ramps(8)[1:-1, 1:-1])


@pytest.mark.parametrize(("encoding", "meaning"), PLAIN.items())
def test_plain_numbers_are_read_as_cv_bridge_reads_them(encoding, meaning):
    message = random_message(encoding, padding=5)
    same = SimpleNamespace(**vars(message) | {"encoding": meaning})
    assert decode_image(message)[1] == decode_image(same)[1]
    np.testing.assert_array_equal(decoded(message), decoded(same))


@pytest.mark.parametrize("padding", [0, 6])
def test_nv24(padding):
    """Chroma of its own for every pixel, also where width and height are odd."""
    rng = np.random.default_rng(2)
    yuv = rng.integers(16, 236, (HEIGHT - 1, WIDTH - 1, 3)).astype(np.uint8)
    chroma = yuv[..., 1:].reshape(HEIGHT - 1, 2 * (WIDTH - 1))
    gap = bytes(padding)
    data = b"".join(row.tobytes() + gap for row in yuv[..., 0])
    data += b"".join(row.tobytes() + 2 * gap for row in chroma)
    message = SimpleNamespace(
        encoding="nv24",
        width=WIDTH - 1,
        height=HEIGHT - 1,
        step=WIDTH - 1 + padding,
        is_bigendian=0,
        data=array.array("B", data),
    )
    luma, u, v = (yuv - [16.0, 128, 128]).transpose(2, 0, 1) / [[[219]], [[224]], [[224]]]
    red, blue = luma + 1.402 * v, luma + 1.772 * u
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    expected = np.clip(255 * np.dstack([red, green, blue]), 0, 255)
    assert np.abs(decoded(message) - expected).max() < 2


def yuv_picture() -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) Y, U, V with the chroma constant in blocks of 2x2, and its RGB by BT.601."""
    rng = np.random.default_rng(2)
    yuv = rng.integers(16, 236, (HEIGHT, WIDTH, 3))
    yuv[:, :, 1:] = np.repeat(np.repeat(yuv[::2, ::2, 1:], 2, axis=0), 2, axis=1)
    luma, u, v = (yuv - [16, 128, 128]).transpose(2, 0, 1) / [[[219]], [[224]], [[224]]]
    red, blue = luma + 1.402 * v, luma + 1.772 * u
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    rgb = np.dstack([red, green, blue])
    return yuv.astype(np.uint8), np.clip(np.rint(rgb * 255), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")],
)
def test_packed_yuv(encoding, order, padding):
    yuv, expected = yuv_picture()
    samples = np.empty((HEIGHT, WIDTH, 2), np.uint8)
    luma, chroma = order.index("y"), 1 - order.index("y")
    samples[:, :, luma] = yuv[:, :, 0]
    samples[:, ::2, chroma] = yuv[:, ::2, 1]
    samples[:, 1::2, chroma] = yuv[:, ::2, 2]
    pixels = decoded(image_message(encoding, samples, padding=padding))
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", [1, 2]), ("nv21", [2, 1])])
def test_planar_yuv(encoding, chroma, padding):
    yuv, expected = yuv_picture()
    rows = np.vstack([yuv[:, :, 0], yuv[::2, ::2][:, :, chroma].reshape(HEIGHT // 2, WIDTH)])
    message = image_message(encoding, rows, padding=padding, height=HEIGHT)
    np.testing.assert_allclose(decoded(message).astype(int), expected.astype(int), atol=2)


@pytest.mark.parametrize("encoding", BYTES_PER_PIXEL)
def test_padding_changes_nothing(encoding):
    plain = random_message(encoding)
    rows = np.frombuffer(plain.data, np.uint8).reshape(-1, plain.step)
    if encoding == "nv24":
        pytest.skip("rows of two lengths, see test_nv24")
    for padding in (1, 64):
        padded = image_message(encoding, rows, padding=padding, height=HEIGHT)
        padded.width = WIDTH
        np.testing.assert_array_equal(decoded(padded), decoded(plain))


@pytest.mark.parametrize("encoding", SIXTEEN_BIT)
def test_byte_order_changes_nothing(encoding):
    little = random_message(encoding)
    big = SimpleNamespace(**vars(little))
    big.is_bigendian = 1
    big.data = np.frombuffer(little.data, "<u2").astype(">u2").tobytes()
    np.testing.assert_array_equal(decoded(big), decoded(little))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, np.array, lambda data: data])
def test_any_buffer_of_bytes_will_do(kind):
    message = random_message("rgb8")
    expected = decoded(message).copy()
    message.data = kind(message.data)
    np.testing.assert_array_equal(decoded(message), expected)


@pytest.mark.parametrize("encoding", BYTES_PER_PIXEL)
def test_equals_cv_bridge(encoding):
    cv_bridge = pytest.importorskip("cv_bridge")
    if encoding in ("uyvy", "yuyv", "nv12", "nv21", "nv24"):
        pytest.skip("cv_bridge does not know it")
    if encoding in PLAIN:
        pytest.skip("cv_bridge only hands out its numbers")
    pure_python = hasattr(importlib.import_module("cv_bridge.boost.cv_bridge_boost"), "cv2")
    if pure_python and (encoding in SIXTEEN_BIT or "yuv" in encoding or "grbg" in encoding):
        pytest.skip("the pure Python cv-bridge of PyPI does not convert it")
    from sensor_msgs.msg import Image

    message = Image(**vars(random_message(encoding)))
    for target in ("rgb8", "bgr8"):
        expected = cv_bridge.CvBridge().imgmsg_to_cv2(message, target)
        pixels = decoded(message) if target == "rgb8" else decoded(message)[:, :, ::-1]
        np.testing.assert_array_equal(pixels, expected)


# Raw messages that are refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "cause", "words"),
    [
        ({"encoding": "8UC2"}, "encoding", "'8UC2', expected one of rgb8, bgr8"),
        ({"encoding": "RGB8"}, "encoding", "'RGB8'"),
        ({"encoding": "32FC1"}, "encoding", "'32FC1'"),
        ({"encoding": "rgb8\ufffd\n"}, "encoding", "rgb8"),
        ({"encoding": "x" * 10**6}, "encoding", "xxx"),
        ({"encoding": None}, "encoding", "None"),
        ({"encoding": ["rgb8"]}, "encoding", "['rgb8']"),
        ({"width": 0}, "size", "0x24"),
        ({"height": 0}, "size", "32x0"),
        ({"width": -1}, "size", "-1x24"),
        ({"width": 0, "height": 0, "step": 0, "data": b""}, "size", "0x0"),
        ({"width": MAX_SIDE + 1}, "size", f"1 to {MAX_SIDE}"),
        ({"width": 2**32 - 1, "height": 2**32 - 1}, "size", "4294967295x4294967295"),
        ({"width": MAX_SIDE, "height": MAX_PIXELS // MAX_SIDE + 1}, "size", f"{MAX_PIXELS} pixels"),
        ({"width": "32"}, "field", "width is '32'"),
        ({"height": 24.0}, "field", "height is 24.0"),
        ({"step": None}, "field", "step is None"),
        ({"is_bigendian": ""}, "field", "is_bigendian"),
        ({"step": 0}, "step", "0 bytes, expected at least 96"),
        ({"step": 95}, "step", "95 bytes, expected at least 96"),
        ({"step": 2**32 - 1}, "data_length", "2304 bytes long, expected 103079215080"),
        ({"step": 97}, "data_length", "2304 bytes long, expected 2328"),
        ({"height": 23}, "data_length", "expected 2208"),
        ({"data": b""}, "data_length", "0 bytes long, expected 2304"),
        ({"data": bytes(2303)}, "data_length", "2303"),
        ({"data": bytes(2305)}, "data_length", "2305"),
        ({"data": None}, "field", "data is None"),
        ({"data": "text"}, "field", "data is 'text'"),
        ({"data": [0] * 2304}, "field", "data is [0"),
    ],
)
def test_refused(changes, cause, words):
    message = random_message("rgb8")
    vars(message).update(changes)
    error = refusal(decode_image, message)
    assert error.cause == cause
    assert words in str(error)


def test_the_last_row_is_padded_too():
    message = random_message("rgb8", padding=4)
    message.data = message.data[:-4]
    assert refusal(decode_image, message).cause == "data_length"


@pytest.mark.parametrize(
    ("encoding", "width", "height"),
    [
        *[(encoding, 31, 24) for encoding in ("uyvy", "yuv422", "yuyv", "nv12", "nv21")],
        *[("nv12", 32, 23), ("nv21", 32, 23), ("bayer_rggb8", 2, 24), ("bayer_grbg16", 32, 2)],
    ],
)
def test_sizes_an_encoding_cannot_have(encoding, width, height):
    message = random_message(encoding)
    message.width, message.height = width, height
    message.step = width * BYTES_PER_PIXEL[encoding]
    message.data = bytes(message.step * (height * 3 // 2 if "nv" in encoding else height))
    error = refusal(decode_image, message)
    assert error.cause == "size"
    assert f"{width}x{height}" in str(error)


def is_well_formed(message) -> bool:
    """Judge by the message definition and the size limits, without the module's tables."""
    if not isinstance(message.encoding, str) or message.encoding not in BYTES_PER_PIXEL:
        return False
    numbers = (message.width, message.height, message.step, message.is_bigendian)
    if not all(isinstance(number, int) for number in numbers):
        return False
    if not isinstance(message.data, (bytes, bytearray, array.array)):
        return False
    least = 3 if message.encoding.startswith("bayer") else 1
    if not all(least <= side <= MAX_SIDE for side in (message.width, message.height)):
        return False
    planar = message.encoding in ("nv12", "nv21")
    if ("y" in message.encoding.replace("bayer", "") or planar) and message.width % 2:
        return False
    if planar and message.height % 2:
        return False
    rows = rows_of(message.encoding, message.height)
    return (
        message.width * message.height <= MAX_PIXELS
        and message.step >= message.width * BYTES_PER_PIXEL[message.encoding]
        and len(message.data) == message.step * rows
    )


anything = st.one_of(
    st.none(), st.booleans(), st.floats(), st.text(), st.binary(), st.lists(st.integers())
)
numbers = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**15, MAX_SIDE, MAX_SIDE + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**64, -(2**63)]),
    anything,
)


@st.composite
def hostile_images(draw):
    """Take a sound message of random size and overwrite up to three of its fields."""
    encoding = draw(st.sampled_from(list(BYTES_PER_PIXEL)))
    width, height = 2 * draw(st.integers(2, 9)), 2 * draw(st.integers(2, 9))
    step = width * BYTES_PER_PIXEL[encoding] + draw(st.sampled_from([0, 1, 8]))
    size = step * rows_of(encoding, height)
    message = SimpleNamespace(
        encoding=encoding,
        width=width,
        height=height,
        step=step,
        is_bigendian=draw(st.integers(0, 1)),
        data=random_bytes(size),
    )
    other = {
        "encoding": st.one_of(st.sampled_from(list(BYTES_PER_PIXEL)), anything),
        "width": numbers,
        "height": numbers,
        "step": numbers,
        "is_bigendian": numbers,
        "data": st.one_of(
            anything, st.integers(0, 2 * size).map(random_bytes), st.binary(max_size=64)
        ),
    }
    for field in draw(st.lists(st.sampled_from(sorted(other)), max_size=3)):
        setattr(message, field, draw(other[field]))
    return message


@pytest.mark.timeout(1200 + CASES // 20)
@fuzz
@pytest.mark.long_run
@given(hostile_images())
def test_fuzz_raw(message):
    if is_well_formed(message):
        assert decoded(message).shape == (message.height, message.width, 3)
    else:
        refusal(decode_image, message)


# JPEG and PNG ------------------------------------------------------------------------------------


def compressed_message(data, format_: str = ""):
    return SimpleNamespace(format=format_, data=array.array("B", bytes(data)))


def rgb_of(data, format_: str = "") -> np.ndarray:
    pixels, order = decode_compressed(compressed_message(data, format_))
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    return pixels if order == "rgb" else pixels[:, :, ::-1]


def refused_file(data, format_: str = "") -> ImageError:
    return refusal(decode_compressed, compressed_message(data, format_))


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


COLOUR_TYPE = {"grey": 0, "rgb": 2, "palette": 3, "grey_alpha": 4, "rgba": 6}


def png(kind: str, bits: int, rows: np.ndarray, *, between: bytes = b"", size=None) -> bytes:
    """Make a PNG file without OpenCV. rows: (H, W, channels) samples of at most 16 bits."""
    height, width = size or rows.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPE[kind], 0, 0, 0)
    if bits == 16:
        lines = [row.astype(">u2").tobytes() for row in rows]
    elif bits == 8:
        lines = [row.astype(np.uint8).tobytes() for row in rows]
    else:  # only for 1 bit
        lines = [np.packbits(row.ravel().astype(np.uint8)).tobytes() for row in rows]
    content = zlib.compress(b"".join(b"\0" + line for line in lines))
    chunks = chunk(b"IHDR", header) + between + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """RGB with something everywhere, so that every part of a file matters."""
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def jpeg(rgb: np.ndarray, *parameters: int) -> bytes:
    bgr = rgb if rgb.ndim == 2 else np.ascontiguousarray(rgb[:, :, ::-1])
    return cv2.imencode(".jpg", bgr, list(parameters))[1].tobytes()


PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
RESTARTS = (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("kind", "channels"), [("grey", 1), ("grey_alpha", 2), ("rgb", 3), ("rgba", 4)]
)
def test_png_of_every_kind(kind, channels, bits):
    samples = np.random.default_rng(4).integers(0, 2**bits, (7, 9, channels))
    expected = samples[:, :, [0, 0, 0] if channels < 3 else [0, 1, 2]]
    expected = to_8_bits(expected) if bits == 16 else expected
    np.testing.assert_array_equal(rgb_of(png(kind, bits, samples)), expected)


def test_png_of_one_bit_and_with_a_palette():
    bits = np.random.default_rng(5).integers(0, 2, (6, 16, 1))
    np.testing.assert_array_equal(rgb_of(png("grey", 1, bits)), np.repeat(bits * 255, 3, axis=2))
    palette = np.random.default_rng(6).integers(0, 256, (4, 3), np.uint8)
    index = np.random.default_rng(7).integers(0, 4, (6, 16, 1))
    file = png("palette", 8, index, between=chunk(b"PLTE", palette.tobytes()))
    np.testing.assert_array_equal(rgb_of(file), palette[index[:, :, 0]])


@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_mosaic_sent_as_png(bits):
    message = random_message(f"bayer_grbg{bits}")
    samples = np.frombuffer(message.data, f"<u{bits // 8}").reshape(HEIGHT, WIDTH, 1)
    file = png("grey", bits, samples)
    pixels = rgb_of(file, f"bayer_grbg{bits}; png compressed ")
    np.testing.assert_array_equal(pixels, decoded(message))
    assert refused_file(png("grey", bits, samples[:2, :2]), "bayer_rggb8; png").cause == "size"
    for format_ in ("mono8; png compressed ", "bayer_", None):
        grey = rgb_of(file, format_)
        assert (grey[:, :, 0] == grey[:, :, 1]).all()


@pytest.mark.parametrize("mosaic", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("bits", [8, 16])
def test_bayer_mosaic_sent_as_jpeg(mosaic, bits):
    sent = f"bayer_{mosaic}{bits}"
    picture = cv2.GaussianBlur(scene(), (0, 0), 4)
    samples = np.empty(picture.shape[:2], np.uint8)
    for index, colour in enumerate(mosaic):
        row, column = divmod(index, 2)
        samples[row::2, column::2] = picture[row::2, column::2, "rgb".index(colour)]
    file = jpeg(samples, cv2.IMWRITE_JPEG_QUALITY, 100)
    for format_ in (f"{sent}; jpeg compressed {sent}", f"{sent}; jpeg compressed ", f"{sent};jpeg"):
        pixels = rgb_of(file, format_)
        assert np.abs(pixels[2:-2, 2:-2].astype(int) - picture[2:-2, 2:-2]).mean() < 4
    # The sender has interpolated the mosaic to grey.
    grey = rgb_of(file, f"{sent}; jpeg compressed mono8")
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    # A color image of a mosaic's driver.
    colours = rgb_of(jpeg(picture), f"{sent}; jpeg compressed bgr8")
    np.testing.assert_array_equal(colours, rgb_of(jpeg(picture)))


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "mono16"])
def test_tiff_as_image_transport_sends_it(encoding):
    """Its publisher hands the samples to OpenCV in their own order, whatever OpenCV calls them."""
    bits = 16 if encoding.endswith("16") else 8
    channels = {"m": 1}.get(encoding[0], 4 if "a" in encoding else 3)
    rng = np.random.default_rng(6)
    samples = rng.integers(0, 2**bits, (HEIGHT, WIDTH, channels)).astype(f"u{bits // 8}")
    file = cv2.imencode(".tiff", samples)[1].tobytes()
    pixels = rgb_of(file, f"{encoding}; tiff compressed ")
    np.testing.assert_array_equal(pixels, decoded(image_message(encoding, samples.squeeze())))
    if encoding == "rgb8":  # no image_transport: colors as the file has them
        np.testing.assert_array_equal(rgb_of(file, "tiff"), pixels[..., ::-1])


@pytest.mark.parametrize("mosaic", ["rggb", "bggr"])
def test_bayer_mosaic_sent_as_tiff(mosaic):
    message = random_message(f"bayer_{mosaic}16")
    samples = np.frombuffer(message.data, "<u2").reshape(HEIGHT, WIDTH)
    file = cv2.imencode(".tiff", samples)[1].tobytes()
    pixels = rgb_of(file, f"bayer_{mosaic}16; tiff compressed ")
    np.testing.assert_array_equal(pixels, decoded(message))


@pytest.mark.parametrize("tail", ["random", "stale", "end", "second"])
def test_jpeg_in_a_buffer_that_goes_on(tail):
    """usb_cam sends the whole buffer: behind the end are remains of a larger frame before."""
    file, larger = jpeg(scene()), jpeg(scene(96, 128))
    behind = {
        "random": random_bytes(700),
        "stale": larger[len(file) :],
        "end": b"\xff\xd9",
        "second": larger,
    }[tail]
    np.testing.assert_array_equal(rgb_of(file + behind), rgb_of(file))
    middle = len(file) // 2
    assert refused_file(file[:middle] + b"\xff\xd9" + behind).cause == "decode"


@pytest.mark.parametrize("parameters", [(), PROGRESSIVE, RESTARTS])
def test_jpeg_colours(parameters):
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :16], picture[:, 16:] = (200, 30, 60), (20, 60, 220)
    pixels = rgb_of(jpeg(picture, *parameters), "rgb8; jpeg compressed bgr8")
    np.testing.assert_allclose(pixels[:, :14].astype(int), picture[:, :14], atol=3)
    np.testing.assert_allclose(pixels[:, 18:].astype(int), picture[:, 18:], atol=3)


def test_grey_jpeg():
    picture = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (32, 1))
    pixels = rgb_of(jpeg(picture))
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), picture, atol=3)
    assert (pixels[:, :, 0] == pixels[:, :, 2]).all()


def test_orientation_in_exif_is_not_applied():
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\0\0" + tiff
    exif = b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment
    plain = jpeg(scene())
    turned = plain[:2] + exif + plain[2:]
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    np.testing.assert_array_equal(rgb_of(turned), rgb_of(plain))


def test_what_cameras_do_to_jpeg_is_taken():
    plain = jpeg(scene())
    expected = rgb_of(plain)
    np.testing.assert_array_equal(rgb_of(plain + bytes(1000)), expected)  # zeros up to a block
    fill = plain.index(b"\xff\xdb")
    np.testing.assert_array_equal(rgb_of(plain[:fill] + b"\xff" * 9 + plain[fill:]), expected)
    grey = np.full((32, 40, 3), 128, np.uint8)  # looks like the end of a picture cut short
    np.testing.assert_array_equal(rgb_of(jpeg(grey)), grey)


@pytest.mark.parametrize("parameters", [(), PROGRESSIVE, RESTARTS])
def test_jpeg_cut_at_every_offset_is_refused(parameters):
    file = jpeg(scene(), *parameters)
    for length in range(len(file)):
        assert refused_file(file[:length]).cause in ("format", "decode")


def test_jpeg_with_a_lost_part_is_refused():
    file = jpeg(scene())
    assert "used up" in str(refused_file(file[: len(file) * 2 // 3] + file[-20:]))
    file = jpeg(scene(), *RESTARTS)
    first, third = (file.index(bytes((0xFF, marker))) for marker in (0xD0, 0xD2))
    assert "out of order" in str(refused_file(file[:first] + file[third:]))


def test_jpeg_that_ends_before_its_end_is_refused():
    file = jpeg(scene())
    middle = len(file) // 2
    assert "used up" in str(refused_file(file[:middle] + b"\xff\xd9" + file[middle + 2 :]))


@pytest.mark.parametrize("parameters", [(), PROGRESSIVE, RESTARTS])
def test_jpeg_damaged_at_every_offset(parameters):
    """JPEG has no checksum: what still decodes has the announced size, the rest is refused."""
    file = jpeg(scene(), *parameters)
    rng = np.random.default_rng(8)
    causes: Counter[str] = Counter()
    for offset in range(len(file)):
        damaged = bytearray(file)
        damaged[offset] ^= 1 << rng.integers(8)
        result = attempt(decode_compressed, compressed_message(damaged))
        if isinstance(result, ImageError):
            causes[result.cause] += 1
        else:
            assert result[0].shape[2] == 3
    assert set(causes) <= {"format", "size", "decode"}
    assert causes["decode"] > 100


def test_png_damaged_or_cut_at_every_offset_is_refused():
    file = png("rgb", 8, scene(12, 16))
    for offset in range(len(file)):
        assert refused_file(file[:offset]).cause in ("format", "decode")
        for bit in range(8):
            damaged = bytearray(file)
            damaged[offset] ^= 1 << bit
            assert refused_file(damaged).cause in ("format", "decode")


def test_png_of_sound_chunks_in_senseless_order_is_refused():
    file = png("rgb", 8, scene(12, 16))
    start, header, rest = file[:8], file[8:33], file[33:]
    assert "IEND" in str(refused_file(start + chunk(b"IEND", b"")))
    assert "b'IHDR'" in str(refused_file(start + rest[:-12] + header + rest[-12:]))
    assert refused_file(start + header + chunk(b"IEND", b"")).cause == "decode"
    assert refused_file(start + chunk(b"IHDR", b"") + rest).cause in ("size", "decode")


@pytest.mark.parametrize(("size", "cause"), [((8000, 8000), "decode"), ((60000, 60000), "size")])
def test_decompression_bombs_never_reach_the_decoder(size, cause, monkeypatch):
    small = jpeg(scene())
    frame = small.index(b"\xff\xc0")
    large = small[: frame + 5] + struct.pack(">HH", *size) + small[frame + 9 :]
    bombs = [png("rgb", 8, scene(12, 16), size=size), large]

    def decoder(*_):
        raise AssertionError("reached")

    monkeypatch.setattr(image_conversion.cv2, "imdecode", decoder)
    for bomb in bombs:
        error = refused_file(bomb)
        assert error.cause == cause
        assert f"{size[1]}x{size[0]}" in str(error)
    two_headers = large[:-2] + small[frame : frame + 19] + large[-2:]
    assert "second frame header" in str(refused_file(two_headers))


def test_jpeg_with_endless_scans_is_refused():
    file = jpeg(scene(), *PROGRESSIVE)
    last_scan = file.rindex(b"\xff\xda")
    assert rgb_of(file).shape == (48, 64, 3)
    error = refused_file(file[:last_scan] + 200 * file[last_scan:-2] + file[-2:])
    assert error.cause == "decode"
    assert "scans" in str(error)


def test_files_of_endless_parts_are_refused():
    plain = jpeg(scene())
    segments = 200_000 * b"\xff\xe0\x00\x02"
    assert "100000 segments" in str(refused_file(plain[:2] + segments + plain[2:]))
    chunks = 200_000 * chunk(b"teXt", b"")
    assert "100000 chunks" in str(refused_file(png("rgb", 8, scene(12, 16), between=chunks)))


@pytest.mark.parametrize(
    ("format_", "data", "cause"),
    [
        ("jpeg", b"", "format"),
        ("jpeg", b"\xff", "format"),
        ("jpeg", b"GIF89a" + bytes(100), "format"),
        ("16UC1; compressedDepth png", bytes(12) + png("grey", 16, scene()[:, :, :1]), "format"),
        (None, b"nothing", "format"),
        ("x" * 10**6, b"\n\n", "format"),
        ("jpeg", b"\xff\xd8", "decode"),
        ("jpeg", b"\xff\xd8\xff\xd9", "decode"),
        ("png", b"\x89PNG\r\n\x1a\n", "decode"),
    ],
)
def test_files_that_are_none(format_, data, cause):
    assert refused_file(data, format_).cause == cause


@pytest.mark.parametrize("data", [None, "text", 3, [1, 2]])
def test_data_that_is_none(data):
    message = SimpleNamespace(format="png", data=data)
    assert refusal(decode_compressed, message).cause == "field"


@pytest.mark.parametrize("function", ["imdecode", "cvtColor"])
def test_a_failure_inside_opencv_is_an_image_error(function, monkeypatch):
    def out_of_memory(*_):
        raise cv2.error("(-4:Insufficient memory)\nFailed to allocate")

    file = png("grey", 8, scene()[:, :, :1])
    monkeypatch.setattr(image_conversion.cv2, function, out_of_memory)
    error = refused_file(file)
    assert error.cause == "decode"
    assert "Insufficient memory" in str(error)


SOUND_FILES = [
    jpeg(scene()),
    jpeg(scene(), *PROGRESSIVE),
    jpeg(scene(), *RESTARTS),
    jpeg(scene()[:, :, 0]),
    png("rgb", 8, scene(12, 16)),
    png("rgba", 16, np.random.default_rng(9).integers(0, 2**16, (5, 6, 4))),
]
sound_files = st.sampled_from(SOUND_FILES)


@st.composite
def hostile_files(draw):
    """Take a sound file and make one to four edits: replace, remove, repeat or insert bytes."""
    data = draw(sound_files)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 64) | st.integers(0, len(data)))
        new = draw(
            st.binary(max_size=8)
            | st.just(data[start : start + length] * 2)
            | st.integers(0, 2**32 - 1).map(lambda number: struct.pack(">I", number))
            | st.integers(0, 255).map(lambda marker: bytes((0xFF, marker)))
        )
        data = data[:start] + new + data[start + length :]
    return data


@pytest.mark.timeout(1200 + CASES // 20)
@fuzz
@pytest.mark.long_run
@given(hostile_files() | st.binary(), st.text() | st.sampled_from(["bayer_rggb8; png", "jpeg"]))
def test_fuzz_compressed(data, format_):
    result = attempt(decode_compressed, compressed_message(data, format_))
    if not isinstance(result, ImageError):
        # A changed PNG is never taken; what follows its end does not matter.
        assert data.startswith((b"\xff\xd8", *SOUND_FILES))
        assert result[0].dtype == np.uint8
        assert result[0].shape[2] == 3
