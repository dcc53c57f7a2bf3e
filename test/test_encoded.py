"""Whole or not: the one judge of encoded images, for files, messages and data sets alike."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from patience import HANG

from bisenetv2_ros.files.decoder_messages import captured_messages
from bisenetv2_ros.files.images import ImageFileError, read_image, read_label
from bisenetv2_ros.image_conversion import ImageError, decode_compressed

HEIGHT, WIDTH = 40, 64
RED_TOP = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
RED_TOP[: HEIGHT // 2, :, 2] = 250  # BGR: red above black, so that every turn shows
RED_TOP[:, : WIDTH // 4, 1] = 200  # green to the left


def noise() -> np.ndarray:
    coarse = np.random.default_rng(2).integers(0, 256, (8, 12, 3), np.uint8)
    return np.asarray(cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC))


def encode(suffix: str, pixels: np.ndarray, *parameters: int) -> bytes:
    done, data = cv2.imencode(suffix, pixels, list(parameters))
    assert done
    return data.tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    """A WebP of these chunks."""
    body = b"WEBP"
    for kind, content in chunks:
        body += kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)


def tiff_pages(count: int, value: int = 7) -> bytes:
    """Grey pages of 4x4, each with its directory behind it."""
    data = b"II*\0"
    for page in range(count):
        pixels = len(data) + 4
        tags = [
            (256, 4),
            (257, 4),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, pixels),
            (278, 4),
            (279, 16),
        ]
        directory = struct.pack("<H", len(tags))
        directory += b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
        data += struct.pack("<I", pixels + 16) + bytes([value] * 16) + directory
        if page == count - 1:
            data += bytes(4)
    return data


def turned(suffix: str, orientation: int) -> bytes:
    plain = encode(suffix, RED_TOP)
    if suffix == ".jpg":
        content = b"Exif\0\0" + exif(orientation)
        segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
        return plain[:2] + segment + plain[2:]
    if suffix == ".png":
        return plain[:33] + chunk(b"eXIf", exif(orientation)) + plain[33:]
    flags = struct.pack("<I", 8) + struct.pack("<I", WIDTH - 1)[:3]
    flags += struct.pack("<I", HEIGHT - 1)[:3]
    return riff((b"VP8X", flags), (plain[12:16], plain[20:]), (b"EXIF", exif(orientation)))


@pytest.fixture
def judged(tmp_path):
    """What a file and a message of the same bytes come to: pixels RGB, or the text of the error."""

    def judge(data: bytes) -> tuple[np.ndarray | str, np.ndarray | str]:
        path = tmp_path / "picture.png"
        path.write_bytes(data)
        try:
            from_file: np.ndarray | str = read_image(path)
        except ImageFileError as error:
            from_file = str(error).removeprefix(f"{path}: ")
        message = SimpleNamespace(format="", data=np.frombuffer(data, np.uint8))
        try:
            pixels, order = decode_compressed(message)
            from_message: np.ndarray | str = pixels if order == "rgb" else pixels[..., ::-1]
        except ImageError as error:
            from_message = str(error)
        return from_file, from_message

    return judge


PROGRESSIVE = (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)


@pytest.mark.parametrize(
    "file",
    [encode(".jpg", noise()), encode(".jpg", noise(), *PROGRESSIVE), encode(".png", noise())],
    ids=["jpeg", "progressive", "png"],
)
@pytest.mark.parametrize(
    "tail",
    [
        b"maker's note",
        bytes(300) + b"\xff\xd8\xff\xda",  # of a film or gain map
        encode(".jpg", noise()),
        b"....ftypmp42" + bytes(100),
    ],
    ids=["note", "padding", "gain map", "motion photo"],
)
def test_bytes_behind_the_end_do_no_harm(judged, file, tail):
    expected, _ = judged(file)
    for result in judged(file + tail):
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("parameters", [(), PROGRESSIVE])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.8])
def test_a_jpeg_cut_with_an_end_mark_pasted_on_is_refused(judged, parameters, part):
    file = encode(".jpg", noise(), *parameters)
    for result in judged(file[: int(len(file) * part)] + b"\xff\xd9"):
        assert isinstance(result, str), "half an image was taken for whole"


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".ppm"])
def test_every_format_is_read_whole_or_refused(judged, suffix):
    file = encode(suffix, noise())
    expected = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    for result in judged(file):
        np.testing.assert_array_equal(result, expected)
    for length in np.linspace(0, len(file) - 1, 40).astype(int):
        for result in judged(file[:length]):
            assert isinstance(result, str), f"{length} of {len(file)} bytes were taken"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\0\0\0\x18ftypheic" + bytes(200), "HEIC"),
        (b"\0\0\0\x18ftypmif1" + bytes(200), "HEIC"),
        (b"\0\0\0\x18ftypavif" + bytes(200), "AVIF"),
        (b"GIF89a" + bytes(50), "GIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"hello, world", "b'hello, w'"),
    ],
)
def test_what_is_not_understood_is_called_by_its_name(judged, data, name):
    for result in judged(data):
        assert isinstance(result, str) and name in result and "expected JPEG, PNG" in result


def apng() -> bytes:
    plain = encode(".png", noise())
    return plain[:33] + chunk(b"acTL", struct.pack(">II", 2, 0)) + plain[33:]


@pytest.mark.parametrize(
    "data",
    [
        tiff_pages(3),
        apng(),
        riff((b"VP8X", b"\2\0\0\0\x0f\0\0\x0f\0\0"), *[(b"ANMF", bytes(40))] * 3),
    ],
    ids=["tiff", "apng", "webp"],
)
def test_of_several_frames_none_is_taken_for_all(judged, data):
    for result in judged(data):
        assert isinstance(result, str) and "3 frames or pages, expected one" in result


def test_a_tiff_of_one_page_is_read(judged):
    for result in judged(tiff_pages(1)):
        assert np.array_equal(result, np.full((4, 4, 3), 7, np.uint8))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_files_are_turned_upright(tmp_path, suffix, orientation):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(turned(suffix, orientation))
    plain = RED_TOP[..., ::-1]
    expected = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1),
        7: plain[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(plain),
    }[orientation]
    image = read_image(path)
    assert image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).mean() < 12  # lossy, and blurred at edges


def test_a_palette_label_is_read_as_indices_without_pillow(tmp_path):
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4)
    palette = np.random.default_rng(0).integers(0, 256, (12, 3), np.uint8)
    header = struct.pack(">IIBBBBB", 4, 3, 8, 3, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in indices))
    path = tmp_path / "label.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"tRNS", bytes(12))
        + chunk(b"IDAT", rows[:7])
        + chunk(b"IDAT", rows[7:])
        + chunk(b"IEND", b"")
    )
    np.testing.assert_array_equal(read_label(path), indices)
    np.testing.assert_array_equal(read_image(path), palette[indices])


def test_sixteen_bits_become_eight_as_in_messages(judged):
    deep = np.random.default_rng(1).integers(0, 1 << 16, (9, 7, 3), np.uint16)
    from_file, from_message = judged(encode(".png", deep))
    np.testing.assert_array_equal(from_file, from_message)
    np.testing.assert_array_equal(from_file, np.round(deep[..., ::-1] / 257).astype(np.uint8))


def test_decoders_own_lines_stay_out_of_ours(tmp_path, capfd):
    file = encode(".jpg", noise())
    middle = len(file) * 2 // 3
    path = tmp_path / "a.jpg"
    path.write_bytes(file[:middle] + bytes(40) + file[middle + 40 :])  # libjpeg remarks on it
    with contextlib.suppress(ImageFileError):
        read_image(path)
    assert capfd.readouterr().err == ""


def bmp(header_size: int, bits: int) -> bytes:
    """A BMP of OS/2 (12) or with masks (52): OpenCV gives it wrong colors, without a word."""
    if header_size == 12:
        header = struct.pack("<IHHHH", 12, 4, 4, 1, bits) + bytes(range(256)) * 3
    else:
        header = struct.pack("<IiiHHIIiiII", header_size, 4, 4, 1, bits, 3, 64, 0, 0, 0, 0)
        header += struct.pack("<III", 0xFF00, 0xFF0000, 0xFF000000)
    offset = 14 + len(header)
    data = header + bytes(16 * bits // 8)
    return b"BM" + struct.pack("<IHHI", offset + 16 * bits // 8, 0, 0, offset) + data


def tiff(bits: int, color: int, planes: int = 1, kind: int = 0) -> bytes:
    """A TIFF of 8x8 samples that OpenCV misreads, without a word."""
    samples = 3 if color == 2 else 1
    size = 8 * 8 * bits * samples // 8
    values = [(256, 8), (257, 8), (258, bits), (259, 1), (262, color), (273, 8), (277, samples)]
    values += [(278, 8), (279, size), (284, planes), (254, kind)]
    directory = struct.pack("<H", len(values))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + directory + bytes(4)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bmp(12, 8), "BMP has a header of 12 bytes and 8 bits"),
        (bmp(52, 32), "BMP has a header of 52 bytes and 32 bits"),
        (tiff(1, 3), "TIFF has 1 bits a sample, photometric interpretation 3"),
        (tiff(16, 2, planes=2), "planar configuration 2"),
        (tiff(8, 1, kind=1), "TIFF begins with a thumbnail"),
        (tiff(8, 8), "TIFF has 8 bits a sample, photometric interpretation 8"),
        (tiff(16, 0), "TIFF has 16 bits a sample, photometric interpretation 0"),
    ],
)
def test_what_opencv_misreads_is_refused(judged, data, said):
    for result in judged(data):
        assert isinstance(result, str) and said in result


def test_numbers_beyond_reason_are_refused(judged):
    sound, place = tiff_pages(1), struct.pack("<HHII", 273, 4, 1, 8)
    huge = sound.replace(place, struct.pack("<HHII", 273, 4, 2**31, 8))
    assert huge != sound
    for result in judged(huge):
        assert isinstance(result, str) and "ends after" in result


def test_threads_do_not_wait_for_each_other_nor_take_their_complaints(tmp_path, capfd):
    file = encode(".jpg", noise())
    (tmp_path / "whole.jpg").write_bytes(file)
    middle = len(file) * 2 // 3
    (tmp_path / "damaged.jpg").write_bytes(file[:middle] + bytes(40) + file[middle + 40 :])
    started, go_on = threading.Event(), threading.Event()

    def read_damaged() -> None:
        with captured_messages() as messages:
            started.set()
            assert go_on.wait(HANG)
            os.write(2, b"Corrupt JPEG data: premature end of data segment\na log line\n")
        seen.extend(messages)

    seen: list[str] = []
    thread = threading.Thread(target=read_damaged)
    thread.start()
    assert started.wait(HANG)
    assert read_image(tmp_path / "whole.jpg").shape == (64, 96, 3)  # while the other is at it
    go_on.set()
    thread.join()
    assert seen == []  # it might have been the other's
    assert capfd.readouterr().err == "a log line\n"


XMP = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'


def with_notes(suffix: str, how: str) -> bytes:
    """An image whose orientation, 6, is not where EXIF has it."""
    plain = encode(suffix, RED_TOP)
    if how == "ImageMagick":
        profile = b"\nexif\n      32\n" + (b"Exif\0\0" + exif(6)).hex().encode() + b"\n"
        text = b"Raw profile type exif\0\0" + zlib.compress(profile)
        return plain[:33] + chunk(b"zTXt", text) + plain[33:]
    if suffix == ".png":
        return plain[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + plain[33:]
    if suffix == ".jpg":
        content = b"http://ns.adobe.com/xap/1.0/\0" + XMP
        return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + plain[2:]
    sides = struct.pack("<I", WIDTH - 1)[:3] + struct.pack("<I", HEIGHT - 1)[:3]
    header = struct.pack("<I", 4) + sides
    return riff((b"VP8X", header), (plain[12:16], plain[20:]), (b"XMP ", XMP))


@pytest.mark.parametrize(
    ("suffix", "how"),
    [(".png", "ImageMagick"), (".png", "XMP"), (".jpg", "XMP"), (".webp", "XMP")],
)
def test_orientation_is_found_in_other_places(tmp_path, suffix, how):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(with_notes(suffix, how))
    image = read_image(path)
    assert image.shape == (WIDTH, HEIGHT, 3)
    assert np.abs(image.astype(int) - np.rot90(RED_TOP[..., ::-1], -1)).mean() < 12
