"""Pictures and video files: what was drawn is there, and what was written reads back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.labels import CAMVID, CITYSCAPES, LabelSet
from bisenetv2_ros.visualization import (
    MARGIN,
    PANEL_HEIGHT,
    TITLE_HEIGHT,
    draw_legend,
    side_by_side,
)

OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))


def fractions_of(labels: LabelSet) -> np.ndarray:
    return np.full(len(labels), 1 / len(labels))


@pytest.mark.parametrize("size", [(480, 360), (961, 721), (2048, 1024), (300, 900), (481, 480)])
def test_three_panels_lie_where_they_should(size):
    width, height = size
    image = np.full((height, width, 3), (200, 10, 20), "u1")
    mask = np.full((40, 30), 3, "u1")  # masks may be smaller than the frame
    picture = side_by_side(image, mask, CAMVID, fractions_of(CAMVID))
    assert picture.dtype == np.uint8 and picture.ndim == 3
    assert picture.shape[0] % 2 == picture.shape[1] % 2 == 0  # video codecs want it
    panel = round(PANEL_HEIGHT * width / height)
    rows = slice(TITLE_HEIGHT, TITLE_HEIGHT + PANEL_HEIGHT)
    road = CAMVID.palette[3]
    between = [(a + b) / 2 for a, b in zip((200, 10, 20), road, strict=True)]
    for i, ink in enumerate([(200, 10, 20), road, between]):
        left = MARGIN + i * (panel + MARGIN)
        assert np.abs(picture[rows, left : left + panel] - np.array(ink)).max() <= 1


@pytest.mark.parametrize("labels", [CAMVID, CITYSCAPES], ids=lambda labels: labels.name)
@pytest.mark.parametrize("width", [700, 1488])
def test_legend_has_a_swatch_per_class_and_text_stays_in_its_cell(labels, width):
    strip = draw_legend(labels, fractions_of(labels), width)
    assert strip.shape[1] == width
    for name, colour in zip(labels.names, labels.palette, strict=True):
        assert (strip == colour).all(axis=2).sum() > 150, f"no swatch for {name}"
    # Whatever is drawn ends before the edge, in both directions.
    background = strip[0, 0]
    assert (strip[:, -4:] == background).all() and (strip[-4:] == background).all()


def test_legend_shows_absent_classes_faintly():
    present, absent = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    labels = LabelSet("two", ("aaa", "bbb"), ((0, 0, 0), (0, 0, 0)))
    strips = [draw_legend(labels, f, 600)[..., 0].astype(int) for f in (present, absent)]
    left_half = [strip[:, :300].max() for strip in strips]
    assert left_half[0] > left_half[1]


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_png_reads_back_equal(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_picture(tmp_path / "a.png", image)
    read = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(read if image.ndim == 2 else read[..., ::-1], image)


def test_picture_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="missing"):
        write_picture(tmp_path / "missing" / "a.png", np.zeros((4, 4, 3), "u1"))


def test_video_plays_back(tmp_path):
    video = VideoFile(tmp_path / "v.mp4", 12.5)
    for level in (40, 120, 200):
        video.write(np.full((61, 101, 3), (level, 20, 250 - level), "u1"))
    video.write(np.full((122, 200, 3), 90, "u1"))  # of another size
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1][..., ::-1])
    assert [frame.shape for frame in frames] == [(62, 102, 3)] * 4
    for frame, ink in zip(
        frames, [(40, 20, 210), (120, 20, 130), (200, 20, 50), (90, 90, 90)], strict=True
    ):
        assert np.abs(frame.mean(axis=(0, 1)) - ink).max() < 8  # lossy, but these colours


@pytest.mark.parametrize(
    ("rate", "written"),
    [(90.0473, 90.05), (0.0005, 0.01), (654.999, 655), (700.26, 700), (1e6, 65535)],
)
def test_video_of_an_odd_rate_plays_back(tmp_path, rate, written):
    video = VideoFile(tmp_path / "v.mp4", rate)
    for _ in range(2):
        video.write(np.zeros((16, 16, 3), "u1"))
    video.close()
    capture = cv2.VideoCapture(str(tmp_path / "v.mp4"))
    if OPENCV < (4, 6) and written >= 1000:
        written *= 2  # of the two frames, the last one lasts no time
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(written)


def test_video_without_a_frame_is_no_file(tmp_path):
    VideoFile(tmp_path / "v.mp4", 10).close()
    assert not list(tmp_path.iterdir())


def test_video_that_cannot_be_written_is_an_error(tmp_path):
    video = VideoFile(tmp_path / "missing" / "v.mp4", 10)
    with pytest.raises(OSError, match=r"at 10 Hz in mp4v.*v\.mp4"):
        video.write(np.zeros((10, 10, 3), "u1"))
