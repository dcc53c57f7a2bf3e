"""Videos from the wild: names, damage, times and shapes that nobody here chose."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.files.video import MAX_SIDE, VideoError, VideoFile, VideoReader
from bisenetv2_ros.sources.frame import Excerpt, Moment, SourceDamage, SourceError
from bisenetv2_ros.sources.frame_source import open_source

FRAMES = 60


def pictures():
    """Frames with something to encode, told apart by a moving bar."""
    coarse = np.random.default_rng(0).integers(0, 256, (15, 20, 3), np.uint8)
    background = cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC)
    for number in range(FRAMES):
        frame = background.copy()
        frame[:, 2 * number : 2 * number + 20] = number * 4
        yield frame


def write_video(path: Path, codec: str) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 20.0, (160, 120))
    if not writer.isOpened():
        pytest.skip(f"this OpenCV does not write {codec}")
    for frame in pictures():
        writer.write(frame)
    writer.release()
    return path


CONTAINERS = [("mp4", "mp4v"), ("avi", "XVID"), ("avi", "MJPG"), ("webm", "VP80"), ("mkv", "mp4v")]


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
def test_a_sound_video_is_read_whole(tmp_path, suffix, codec):
    reader = VideoReader(write_video(tmp_path / f"a.{suffix}", codec))
    frames = list(reader.frames())
    assert [frame.number for frame in frames] == list(range(FRAMES))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(FRAMES) / 20, abs=2e-3)
    assert reader.losses == []


@pytest.mark.parametrize(("suffix", "codec"), CONTAINERS)
@pytest.mark.parametrize("damage", ["cut", "hole"])
def test_damage_is_named_and_read_past(tmp_path, suffix, codec, damage, capfd):
    path = write_video(tmp_path / f"a.{suffix}", codec)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) * 6 // 10]
    else:
        first, last = len(data) * 4 // 10, len(data) * 6 // 10
        data[first:last] = bytes(last - first)
    path.write_bytes(data)
    capfd.readouterr()
    if (suffix, damage) == ("mp4", "cut"):  # its index is at the end
        with pytest.raises(SourceError, match="moov atom not found"):
            open_source(str(path))
        return
    source = open_source(str(path))
    lost: list = []
    frames = list(open_source(str(path), on_damaged=lost.append))
    assert lost and all(isinstance(error, SourceDamage) for error in lost)
    assert all(str(error).startswith(f"{path}: ") for error in lost)
    assert 20 < len(frames) < FRAMES
    if damage == "hole" and suffix != "avi":  # what is behind the hole is read, at its time
        assert frames[-1].time == pytest.approx((FRAMES - 1) / 20, abs=2e-3)
    with pytest.raises(SourceDamage):
        list(source)
    assert capfd.readouterr().err == ""  # FFmpeg's own lines


def test_a_hole_in_an_avi_makes_times_early_and_is_told(tmp_path):
    path = write_video(tmp_path / "a.avi", "XVID")
    data = bytearray(path.read_bytes())
    data[len(data) * 4 // 10 : len(data) * 6 // 10] = bytes(
        len(data) * 6 // 10 - len(data) * 4 // 10
    )
    path.write_bytes(data)
    reader = VideoReader(path)
    count = len(list(reader.frames()))
    assert f"{count} frames read of the {FRAMES} that the file claims" in reader.losses[-1]
    assert "times are early" in reader.losses[-1]


def vfr_gif(path: Path, delays: list[int]) -> None:
    """A GIF of 8x8 frames of two colours; delays: of each frame, in hundredths of a second."""
    data = b"GIF89a" + bytes([8, 0, 8, 0, 0x80, 0, 0]) + bytes([0, 0, 0, 255, 255, 255])
    for number, delay in enumerate(delays):
        data += b"\x21\xf9\x04\x04" + delay.to_bytes(2, "little") + b"\0\0"
        data += b"\x2c" + bytes([0, 0, 0, 0, 8, 0, 8, 0, 0])
        # LZW of 2 bits: a clear code before each pair of pixels keeps codes at 3 bits.
        codes: list[int] = []
        for _ in range(32):
            codes += [4, number % 2, number % 2]
        bits = "".join(f"{code:03b}"[::-1] for code in [*codes, 5])
        packed = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
        data += b"\x02" + bytes([len(packed)]) + packed + b"\0"
    path.write_bytes(data + b"\x3b")


def test_times_are_the_containers(tmp_path):
    path = tmp_path / "a.gif"
    vfr_gif(path, [10, 50, 10, 100, 10])
    times = [frame.time for frame in open_source(str(path))]
    assert times == pytest.approx([0, 0.1, 0.6, 0.7, 1.7], abs=0.011)


@pytest.mark.parametrize("name", ["12:30:05.mp4", "rec:front.mp4", "http:x.mp4", "%03d.mp4"])
def test_a_name_is_a_file_whatever_it_looks_like(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)  # a name alone, as a user types it
    video = VideoFile(Path(name), 10)
    for frame in pictures():
        video.write(frame)
    video.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert len(list(open_source(name))) == FRAMES


def test_a_path_that_is_not_utf8(tmp_path):
    """In a process of its own: it used to end by SIGSEGV."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcnchen"))
    folder.mkdir()
    code = f"""
import sys; sys.path.insert(0, {str(Path.cwd())!r})
import os, numpy as np
from pathlib import Path
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.sources.frame_source import open_source
path = Path(os.fsdecode({os.fsencode(folder)!r} + b"/f\\xfcr.mp4"))
video = VideoFile(path, 10)
for _ in range(3):
    video.write(np.zeros((48, 64, 3), np.uint8))
video.close()
print(len(list(open_source(str(path)))), len(list(path.parent.iterdir())))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["3", "1"]), done.stderr


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"\0\0\0\x18ftypheic" + bytes(900), "HEIC"), (b"\0\0\0\x18ftypavif" + bytes(900), "AVIF")],
)
def test_tiles_of_a_still_picture_are_no_video(tmp_path, data, name):
    (tmp_path / "a.mov").write_bytes(data)
    with pytest.raises(SourceError, match=rf"is {name}; expected"):
        open_source(str(tmp_path / "a.mov"))


def test_an_image_is_known_by_its_content(tmp_path):
    done, data = cv2.imencode(".jpg", np.full((9, 9, 3), 50, np.uint8))
    (tmp_path / "snapshot").write_bytes(data.tobytes())
    (frame,) = open_source(str(tmp_path / "snapshot"))
    assert done and frame.image.shape == (9, 9, 3)


@pytest.mark.parametrize("size", [(20000, 30), (30, 20000), (1, 1), (3, 5), (8192, 8192)])
def test_odd_shapes_are_fitted(tmp_path, size):
    video = VideoFile(tmp_path / "v.mp4", 10)
    for _ in range(2):
        video.write(np.full((size[1], size[0], 3), 90, np.uint8))
    video.close()
    reader = VideoReader(tmp_path / "v.mp4")
    frames = list(reader.frames())
    assert len(frames) == 2 and max(frames[0].image.shape) <= MAX_SIDE


def test_the_codec_is_told_if_browsers_do_not_play_it(tmp_path):
    video = VideoFile(tmp_path / "v.mp4", 10)
    video.write(np.zeros((48, 64, 3), np.uint8))
    video.close()
    assert (video.codec == "avc1" and not video.note) or (
        video.codec == "mp4v" and "browsers do not" in video.note
    )


def test_a_video_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"an earlier one")
    video = VideoFile(path, 10)
    for frame in pictures():
        video.write(frame)
    assert path.read_bytes() == b"an earlier one"
    video.close()
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    assert VideoReader(path).count == FRAMES


def test_a_full_disk_is_noticed_at_the_frame(tmp_path, monkeypatch):
    video = VideoFile(tmp_path / "v.mp4", 10)
    video.write(np.zeros((48, 64, 3), np.uint8))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"No space left on device.*v\.mp4"):
        video.write(np.zeros((48, 64, 3), np.uint8))
    video.close()
    assert VideoReader(tmp_path / "v.mp4").count == 1  # what fitted is kept


def test_what_is_no_video_is_refused_with_what_was_said(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"nonsense" * 200)
    with pytest.raises(VideoError, match=r"^cannot be opened: \["):
        VideoReader(tmp_path / "a.mp4")


def test_an_excerpt_of_a_video(tmp_path):
    path = write_video(tmp_path / "a.mp4", "mp4v")

    def numbers(**limits) -> list[int]:
        excerpt = Excerpt(**limits)
        source = open_source(str(path), excerpt=excerpt)
        picked = [frame.index for frame in excerpt.pick(source)]
        assert picked == [frame.index for frame in excerpt.pick(open_source(str(path)))]
        assert len(picked) == excerpt.count(source.count, source.fps)
        return picked

    assert numbers(start=Moment(10), end=Moment(16)) == list(range(10, 16))
    assert numbers(start=Moment(seconds=0.5), end=Moment(seconds=1.0)) == list(range(10, 20))
    assert numbers(every=Moment(25)) == [0, 25, 50]
    assert numbers(start=Moment(5), every=Moment(seconds=1.0)) == [5, 25, 45]


def test_a_video_at_an_address(tmp_path):
    write_video(tmp_path / "a.webm", "VP80")
    handler = functools.partial(QuietHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}/a.webm"
        source = open_source(f"http://user:secret@{address}")
        frames = list(source)
        server.shutdown()
    assert (len(frames), source.count, source.live) == (FRAMES, FRAMES, False)
    assert {frame.source for frame in frames} == {f"http://{address}"}
    assert len({frame.result_name for frame in frames}) == FRAMES


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(SourceError, match=r"'/dev/video97': no camera opens as device 97"):
        open_source("/dev/video97")


def test_a_password_is_not_shown(tmp_path):
    with pytest.raises(SourceError) as error:
        open_source("rtsp://user:secret@127.0.0.1:1/stream")
    assert "rtsp://127.0.0.1:1/stream" in str(error.value) and "secret" not in str(error.value)
