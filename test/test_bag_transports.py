"""Bags of the other transports of image_transport: zstd, and H.264 or H.265 packets."""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="needs rosbags")

import mcap.writer
from rosbags.typesys import Stores
from test_video import GROUP, packets, picture
from test_zstd import PIXELS
from test_zstd import message as zstd_message
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros import image_video
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.image_transports import COMPRESSED_IMAGE, PACKET
from bisenetv2_ros.sources import bag
from bisenetv2_ros.sources.frame import Excerpt, Moment, SourceError

T0 = 1_700_000_000


def write(path: Path, topic: str, kind: str, images: list) -> Path:
    """An MCAP with one topic of `kind`; an image a second, of stamp T0 and on."""
    types = bag._types(Stores.ROS2_HUMBLE)
    with path.open("wb") as file:
        writer = mcap.writer.Writer(file)
        writer.start("ros2")
        definition, _ = types.generate_msgdef(kind, ros_version=2)
        schema = writer.register_schema(kind, "ros2msg", definition.encode())
        channel = writer.register_channel(topic, "cdr", schema)
        for number, image in enumerate(images):
            if not isinstance(image, bytes):
                time = types.types["builtin_interfaces/msg/Time"](T0 + number, 0)
                header = types.types["std_msgs/msg/Header"](time, "camera")
                data = np.frombuffer(image.data, np.uint8)
                fields: dict = {"header": header, "format": "zstd", "data": data}
                if kind == PACKET:
                    fields = {"header": header, "width": 64, "height": 48, "is_bigendian": False}
                    fields |= {"encoding": image.encoding, "pts": image.pts}
                    fields |= {"flags": image.flags, "data": data}
                image = bytes(types.serialize_cdr(types.types[kind](**fields), kind))
            writer.add_message(channel, (T0 + number) * 10**9, image, (T0 + number) * 10**9)
        writer.finish()
    return path


def video(path: Path, sent: list) -> Path:
    return write(path, "/front/image_raw/ffmpeg", PACKET, sent)


def read(path: Path, excerpt: Excerpt = Excerpt()) -> tuple[dict[int, np.ndarray], list[str]]:  # noqa: B008
    """Pixels by second of the stamp, and what was damaged."""
    damage: list[str] = []
    source = bag.BagFrames(path, on_damaged=lambda error: damage.append(str(error)))
    source.excerpt = excerpt
    frames = {}
    for frame in source:
        assert frame.origin.received == frame.origin.sec * 10**9
        assert frame.origin.frame_id == "camera" and frame.camera == source.cameras[0]
        frames[frame.origin.sec - T0] = frame.image
    return frames, damage


def is_picture(pixels: np.ndarray, index: int) -> bool:
    return bool(np.abs(pixels.astype(int) - picture(index))[4:12, 36:60].max() <= 6)


def test_zstd_images_are_read(tmp_path):
    one = zstd_message(zlib.compress(PIXELS.tobytes()))
    path = write(tmp_path / "a.mcap", "/front/image_raw/zstd", COMPRESSED_IMAGE, [one] * 3)
    frames, damage = read(path)
    assert sorted(frames) == [0, 1, 2] and not damage
    np.testing.assert_array_equal(frames[2], PIXELS)


def test_the_encoding_of_zstd_images_can_be_replaced(tmp_path):
    one = zstd_message(zlib.compress(PIXELS.tobytes()))
    path = write(tmp_path / "a.mcap", "/front/image_raw/zstd", COMPRESSED_IMAGE, [one])
    (frame,) = bag.BagFrames(path, encodings={"": "bgr8"})
    np.testing.assert_array_equal(frame.image, PIXELS[..., ::-1])


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_video_is_read(tmp_path, codec):
    source = bag.BagFrames(path := video(tmp_path / "a.mcap", packets(codec, 25)))
    assert source.cameras == ("/front/image_raw",)
    frames, damage = read(path)
    assert list(frames) == list(range(25)) and not damage
    assert all(is_picture(pixels, index) for index, pixels in frames.items())


def test_a_part_of_a_video_builds_on_what_is_before_it(tmp_path):
    path = video(tmp_path / "a.mcap", packets("libx264", 25))
    frames, damage = read(path, Excerpt(Moment(frames=14), Moment(frames=21), Moment(frames=3)))
    assert list(frames) == [14, 17, 20] and not damage
    assert all(is_picture(pixels, index) for index, pixels in frames.items())


def test_each_packet_is_an_image_or_damage(tmp_path):
    """Also those that are held back when a packet is lost, or the recording ends."""
    sent = packets("libx264", 45, tune="psnr", bf="2", preset="medium")
    path = video(tmp_path / "a.mcap", [*sent[3:25], b"\0\1\0\0none", *sent[28:-1]])
    damage: list[str] = []
    source = bag.BagFrames(path, on_damaged=lambda error: damage.append(str(error)))
    frames = list(source)
    assert len(frames) + len(damage) == source.count == len(sent) - 6
    assert any("waiting for a key frame" in line for line in damage)
    assert any(f"no {PACKET}" in line for line in damage)
    assert len({(frame.origin.sec, frame.index) for frame in frames}) == len(frames)


def test_a_copy_has_a_mask_of_each_image(tmp_path, capfd):
    info = tiny_info((96, 64))
    model = write_tiny_model(tmp_path / "bisenetv2_tiny_96x64_float32.onnx", info)
    path = video(tmp_path / "a.mcap", packets("libx264", GROUP + 5)[2:])
    copy = tmp_path / "copy"
    words = ["predict", str(path), "-o", str(copy), "--save", "bag", "--model", str(model)]
    assert main(words) == 1  # what is before the first key frame is lost
    assert "waiting for a key frame" in capfd.readouterr().err
    (found,) = copy.rglob("*.mcap")
    masks = bag.BagFrames(found, ["/front/segmentation/mask"])
    assert [frame.origin.sec for frame in masks] == [T0 + i for i in range(GROUP - 2, GROUP + 3)]


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    path = video(tmp_path / "a.mcap", packets("libx264", 2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert image_video.missing_decoder()
    with pytest.raises(SourceError, match=r"/front/image_raw/ffmpeg is video, .* install av"):
        bag.BagFrames(path)
