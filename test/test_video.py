"""H.264 and H.265 packets of ffmpeg_image_transport: decoded, over a graph too, or else named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bisenetv2_ros.image_conversion import ImageError
from bisenetv2_ros.image_video import VideoDecoder

try:
    import rclpy  # noqa: F401
    from bisenetv2_ros.msg import ClassFractions  # noqa: F401
except ImportError:  # the decoder needs no ROS
    pass
else:
    pytest_plugins = ["running_node"]  # fixtures

GROUP = 10  # frames from one key frame to the next


def picture(index: int) -> np.ndarray:
    """(48, 64, 3) uint8 RGB: a grey that tells the index, and a red square."""
    pixels = np.full((48, 64, 3), 20 + 8 * (index % 25), np.uint8)
    pixels[16:32, 16:32] = (255, 0, 0)
    return pixels


def packets(codec: str, count: int, **options: str) -> list[SimpleNamespace]:
    av = pytest.importorskip("av", reason="needs PyAV")
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 64, 48, "yuv420p"
    encoder.time_base, encoder.gop_size = Fraction(1, 30), GROUP
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", **options}
    made = []
    for index in range(count):
        frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
        frame.pts = index
        made += encoder.encode(frame)
    made += encoder.encode(None)
    return [
        SimpleNamespace(
            header=packet.pts,
            encoding=f"{codec};yuv420p;rgb8;rgb8",
            pts=packet.pts,
            flags=int(packet.is_keyframe),
            data=bytes(packet),
        )
        for packet in made
    ]


def decode(sent: list[SimpleNamespace]) -> dict[int, np.ndarray | str]:
    """Pixels or the error of each header that comes back."""
    decoder = VideoDecoder()
    found: dict[int, np.ndarray | str] = {}
    for packet in sent:
        for frame in decoder.frames(packet, packet.header):
            try:
                found[frame.header], order = frame.decoded()
                assert order == "rgb"
            except ImageError as error:
                found[frame.header] = str(error)
    return found


def check(found: dict[int, np.ndarray | str]) -> None:
    """What was decoded is the picture of its header, whatever was lost."""
    for header, pixels in found.items():
        if not isinstance(pixels, str):
            assert np.abs(pixels.astype(int) - picture(header))[4:12, 36:60].max() <= 6, header


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
class TestDecoder:
    def test_each_packet_gives_its_picture_under_its_own_header(self, codec):
        found = decode(packets(codec, 25))
        assert list(found) == list(range(25))
        assert not [text for text in found.values() if isinstance(text, str)]
        check(found)

    def test_who_joins_late_waits_for_a_key_frame(self, codec):
        found = decode(packets(codec, 25)[3:])
        assert {found[i] for i in range(3, GROUP)} == {"video: waiting for a key frame"}
        assert not isinstance(found[GROUP], str)
        check(found)

    def test_lost_packets_give_no_wrong_pictures(self, codec):
        sent = packets(codec, 25)
        found = decode(sent[:4] + sent[6:])
        assert isinstance(found[6], str) and isinstance(found[7], str)
        assert not isinstance(found[GROUP], str)
        check(found)

    @pytest.mark.parametrize("left", [0, 1, 8])
    def test_a_damaged_packet_costs_its_group(self, codec, left):
        sent = packets(codec, 25)
        sent[4].data = sent[4].data[:left]
        found = decode(sent)
        assert isinstance(found.get(4, ""), str)
        assert not isinstance(found[GROUP], str)
        check({i: found[i] for i in found if i >= GROUP or i < 4})

    def test_a_stream_that_starts_anew_is_followed(self, codec):
        sent = packets(codec, 5)
        found = decode([*sent, *packets(codec, 3)])
        check(found)
        assert not [text for text in found.values() if isinstance(text, str)]


def test_frames_that_are_sent_out_of_order_keep_their_headers():
    """The first that does may look like a loss, and costs a group."""
    found = decode(packets("libx264", 45, tune="psnr", bf="2", preset="medium"))
    check(found)
    late = [found[i] for i in sorted(found) if i >= GROUP]
    assert len(late) > 25 and not [text for text in late if isinstance(text, str)]


@pytest.mark.parametrize(("encoding", "data"), [("h264", b"nonsense"), ("abacus", b"x"), ("", b"")])
def test_nonsense_is_an_error_of_one_line(encoding, data):
    pytest.importorskip("av", reason="needs PyAV")
    packet = SimpleNamespace(header=0, encoding=encoding, pts=0, flags=1, data=data)
    for text in decode([packet] * 3).values():
        assert isinstance(text, str) and text.startswith("video: ") and len(text.splitlines()) == 1


# Over a graph

CMAKE = """
cmake_minimum_required(VERSION 3.16)
project(ffmpeg_image_transport_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces(${PROJECT_NAME} msg/FFMPEGPacket.msg DEPENDENCIES std_msgs)
ament_package()
"""
PACKAGE = """
<package format="3">
  <name>ffmpeg_image_transport_msgs</name>
  <version>0.0.0</version>
  <description>The message that the test sends.</description>
  <maintainer email="test@example.com">test</maintainer>
  <license>Apache-2.0</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <depend>std_msgs</depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""
MESSAGE = """
std_msgs/Header header
int32 width
int32 height
string encoding
uint64 pts
uint8 flags
bool is_bigendian
uint8[] data
"""
DRIVER = """
import sys, time
import rclpy
from ffmpeg_image_transport_msgs.msg import FFMPEGPacket

rclpy.init()
node = rclpy.create_node("driver")
publisher = node.create_publisher(FFMPEGPacket, "image_raw/ffmpeg", 10)
message = FFMPEGPacket()
try:
    sys.path[:0] = sys.argv[1:]
    from test_video import packets
    sent = packets("libx264", 25)
except BaseException:  # importorskip: without PyAV there is nothing to send but the topic
    sent = []
count = 0
while True:
    for packet in sent:
        message.header.stamp.sec = packet.header + 1
        message.encoding, message.flags = packet.encoding, packet.flags
        message.pts, message.data = count, packet.data
        publisher.publish(message)
        count += 1
        time.sleep(0.05)
    time.sleep(0.05)
"""


@pytest.fixture(scope="module")
def message_package(tmp_path_factory) -> dict[str, str]:
    """Build the message package; the environment that adds it to this one."""
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    if not shutil.which("colcon"):
        pytest.skip("needs colcon")
    root = tmp_path_factory.mktemp("colcon")
    (root / "src" / "msg").mkdir(parents=True)
    (root / "src" / "CMakeLists.txt").write_text(CMAKE)
    (root / "src" / "package.xml").write_text(PACKAGE)
    (root / "src" / "msg" / "FFMPEGPacket.msg").write_text(MESSAGE)
    command = ["colcon", "build", "--base-paths", "src", "--merge-install", "--cmake-args"]
    command += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    install = root / "install"
    (module,) = install.glob("lib/python3*/site-packages")
    added = {"PYTHONPATH": module, "LD_LIBRARY_PATH": install / "lib", "AMENT_PREFIX_PATH": install}
    return {
        name: f"{path}{os.pathsep}{os.environ.get(name, '')}".rstrip(os.pathsep)
        for name, path in added.items()
    }


class TestGraph:
    @pytest.fixture
    def driver(self, message_package, tmp_path, monkeypatch):
        """Start a driver that publishes packets, and let what is started later know them too."""
        from ros_graph import ENVIRONMENT, Program

        script = tmp_path / "driver.py"
        script.write_text(DRIVER)
        for name, value in message_package.items():
            monkeypatch.setitem(ENVIRONMENT, name, value)
        here = Path(__file__).resolve().parent
        command = [sys.executable, os.fspath(script), os.fspath(here), os.fspath(here / "support")]
        program = Program([], tmp_path / "driver.log", command=command)
        yield program
        program.end()

    @pytest.mark.timeout(1800)  # to build messages takes minutes on a busy machine
    def test_packets_are_segmented(self, ros, driver, start):
        pytest.importorskip("av", reason="needs PyAV")
        from sensor_msgs.msg import Image

        program = start()
        masks = ros.collect(Image, "segmentation/mask")
        assert ros.spin_until(lambda: len(masks) > 20), program.output + driver.output
        assert "images come as ffmpeg_image_transport_msgs/msg/FFMPEGPacket" in program.output
        assert {mask.header.stamp.sec for mask in masks} <= set(range(1, 26))

    @pytest.mark.timeout(1800)  # to build messages takes minutes on a busy machine
    @pytest.mark.parametrize("missing", ["PyAV", "package"])
    def test_what_is_missing_is_named(self, ros, driver, start, tmp_path, monkeypatch, missing):
        from ros_graph import ENVIRONMENT
        from sensor_msgs.msg import Image

        hidden = tmp_path / "hidden"
        hidden.mkdir()
        name = "av" if missing == "PyAV" else "ffmpeg_image_transport_msgs"
        (hidden / f"{name}.py").write_text("raise ImportError")
        monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{hidden}:{ENVIRONMENT['PYTHONPATH']}")
        start()
        ros.collect(Image, "segmentation/mask")
        kind = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
        expected = f"/image_raw/ffmpeg is published as {kind}, which needs "
        expected += "PyAV (`pip install av`)" if missing == "PyAV" else "the package ffmpeg_image"
        assert ros.spin_until(lambda: expected in ros.status("/image_raw")[1]), ros.statuses
