"""Frame sources: what is found, in which order, with which labels, and what is said when not."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from bisenetv2_ros.files.images import ImageFileError
from bisenetv2_ros.sources.frame import SourceError
from bisenetv2_ros.sources.frame_source import open_source
from bisenetv2_ros.street.scene import StreetScene

RED = np.full((12, 16, 3), (250, 10, 20), np.uint8)


def picture(path, value: int) -> None:
    """A picture whose brightness tells it from others."""
    path.parent.mkdir(exist_ok=True)
    assert cv2.imwrite(str(path), np.full((12, 16, 3), value, np.uint8))


def label_map(path, values=range(11)) -> np.ndarray:
    """A label map of the size of `picture`."""
    path.parent.mkdir(exist_ok=True)
    label = np.random.default_rng(0).choice(np.array(values, np.uint8), (12, 16))
    assert cv2.imwrite(str(path), label)
    return label


@pytest.fixture
def drive(tmp_path):
    """A folder of three pictures whose natural order is not that of their characters."""
    for number in (10, 2, 1):
        picture(tmp_path / "drive" / f"frame{number}.png", number)
    (tmp_path / "drive" / "notes.txt").write_text("not a picture")
    return tmp_path / "drive"


def names(source) -> list[str]:
    return [frame.name for frame in source]


def test_a_folder_gives_its_pictures_in_natural_order(drive):
    source = open_source(str(drive), rate=10)
    frames = list(source)
    assert [frame.name for frame in frames] == ["frame1.png", "frame2.png", "frame10.png"]
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 2, 10]
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.1, 0.2])
    assert (source.count, source.fps, source.live, source.labelled) == (3, 10, False, False)
    assert names(source) == names(source)  # a second pass begins anew


def test_a_glob_and_a_single_picture(drive, monkeypatch):
    assert names(open_source(str(drive / "frame1*.png"))) == ["frame1.png", "frame10.png"]
    assert names(open_source(str(drive / "frame2.png"))) == ["frame2.png"]
    monkeypatch.chdir(drive.parent)
    assert names(open_source("dr*/frame?.png")) == ["frame1.png", "frame2.png"]


def test_pixels_are_rgb(tmp_path):
    cv2.imwrite(str(tmp_path / "red.png"), RED[..., ::-1])
    (frame,) = open_source(str(tmp_path))
    np.testing.assert_array_equal(frame.image, RED)


def test_labels_belong_to_the_picture_of_the_same_stem(drive):
    folder = drive.parent / "labels"
    label = label_map(folder / "frame2.png")
    label_map(folder / "frame7.png")  # of no picture
    source = open_source(str(drive), labels=str(folder))
    first, second, third = source
    assert first.label is None
    assert third.label is None
    np.testing.assert_array_equal(second.label, label)
    assert source.labelled


def test_resizing_keeps_label_values(drive):
    folder = drive.parent / "labels"
    label_map(folder / "frame2.png", values=(2, 9))
    frames = list(open_source(str(drive), labels=str(folder), size=(31, 23)))
    assert {frame.image.shape for frame in frames} == {(23, 31, 3)}
    assert frames[1].label.shape == (23, 31)
    assert set(np.unique(frames[1].label)) == {2, 9}


def test_a_loop_goes_on_and_so_does_its_time(drive):
    source = open_source(str(drive), loop=True, rate=4)
    frames = list(itertools.islice(source, 5))
    assert [frame.name for frame in frames][3:] == ["frame1.png", "frame2.png"]
    assert frames[4].time == 1.0
    assert source.count is None


def damage(path, how: str):
    data = path.read_bytes()
    path.write_bytes({"cut": data[: len(data) * 2 // 3], "empty": b"", "text": b"hello"}[how])


@pytest.mark.parametrize("how", ["cut", "empty", "text"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_damaged_picture_is_named_or_skipped(tmp_path, how, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for stem in "abc":
        cv2.imwrite(str(tmp_path / f"{stem}{suffix}"), noise)
    damage(tmp_path / f"b{suffix}", how)
    with pytest.raises(ImageFileError, match=f"b{suffix}"):
        names(open_source(str(tmp_path)))
    errors: list[ImageFileError] = []
    assert names(open_source(str(tmp_path), on_damaged=errors.append)) == [
        f"a{suffix}",
        f"c{suffix}",
    ]
    assert [f"b{suffix}" in str(error) for error in errors] == [True]


def test_a_jpeg_with_a_thumbnail_and_data_after_its_end_is_whole(tmp_path):
    """A camera's files: an end mark early, in the thumbnail, and a note of its own at the end."""
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = cv2.imencode(".jpg", noise)[1].tobytes()
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    path = tmp_path / "photo.jpg"
    path.write_bytes(data[:2] + thumbnail + data[2:] + b"maker's note")
    assert names(open_source(str(path))) == ["photo.jpg"]
    path.write_bytes(data[:2] + thumbnail + data[2 : len(data) // 2])
    with pytest.raises(ImageFileError, match=r"photo\.jpg: ends after"):
        names(open_source(str(path)))


def test_a_folder_without_one_readable_picture_ends_even_in_a_loop(drive):
    for path in drive.glob("*.png"):
        damage(path, "empty")
    with pytest.raises(SourceError, match="3 images, none can be read"):
        names(open_source(str(drive), loop=True, on_damaged=lambda error: None))


@pytest.mark.parametrize(
    ("shape", "said"),
    [((12, 17), "label map is 17x12, expected 16x12"), ((12, 16, 3), "one class index a pixel")],
)
def test_a_label_that_does_not_fit_is_named(drive, shape, said):
    folder = drive.parent / "labels"
    folder.mkdir()
    label = np.zeros(shape, np.uint8)
    label.flat[0] = 9  # in colour, not a grey saved as colour
    cv2.imwrite(str(folder / "frame1.png"), label)
    with pytest.raises(ImageFileError, match=said) as error:
        names(open_source(str(drive), labels=str(folder)))
    assert str(folder / "frame1.png") in str(error.value)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "some.drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48))
    assert writer.isOpened()
    for value in (40, 120, 200):
        writer.write(np.full((48, 64, 3), (value, 10, 10), np.uint8))  # BGR
    writer.release()
    return path


def test_a_video_has_its_own_rate(video):
    source = open_source(str(video), rate=3, size=(32, 24))
    frames = list(source)
    assert (source.fps, source.count) == (20.0, 3)
    assert [frame.name for frame in frames] == [f"some_drive_{index:06d}" for index in range(3)]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.05, 0.1])
    assert [round(frame.image[..., 2].mean(), -1) for frame in frames] == [40, 120, 200]
    assert frames[0].image.shape == (24, 32, 3)
    looped = open_source(str(video), loop=True)
    assert [frame.name[-1] for frame in itertools.islice(looped, 5)] == list("01234")


def test_the_synthetic_street_comes_with_its_labels():
    source = open_source(size=(96, 64), seed=4, rate=10)
    frames = list(itertools.islice(source, 3))
    image, label = StreetScene(4, (96, 64)).render(0.2)
    np.testing.assert_array_equal(frames[2].image, image)
    np.testing.assert_array_equal(frames[2].label, label)
    assert source.labelled
    assert source.count is None
    assert len({frame.name for frame in frames}) == 3


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("nowhere/at/all", "no such file or folder"),
        ("webcam:front", "number of the device"),
        ("webcam:97", "no camera opens as device 97"),
        ("{}/*.jpg", r"no images \(.*\) among 0 files"),
        ("{}", "it has the folders drive"),
        ("{}/drive/notes.txt", "expected an image or a video"),
    ],
)
def test_a_source_that_is_none_is_refused(drive, spec, said):
    spec = spec.format(drive.parent)
    with pytest.raises(SourceError, match=said) as error:
        open_source(spec)
    assert spec in str(error.value)


@pytest.mark.parametrize("spec", ["synthetic", "video"])
def test_labels_are_for_pictures(spec, video):
    with pytest.raises(SourceError, match="expected images as the source"):
        open_source(str(video) if spec == "video" else spec, labels=".")


@pytest.mark.parametrize("spec", ["synthetic", "pictures", "video"])
def test_topics_are_for_bags(spec, video, drive):
    spec = {"pictures": str(drive), "video": str(video)}.get(spec, spec)
    with pytest.raises(SourceError, match=r"topic '/image_raw': expected a bag as the source"):
        open_source(spec, topics=["/image_raw"])


def test_two_labels_that_fit_one_picture_are_refused_and_named(drive):
    folder = drive.parent / "labels"
    folder.mkdir()
    for name in ("frame1.png", "frame1.bmp"):
        label_map(folder / name)
    both = r"frame1\.bmp and .*frame1\.png fit .*frame1\.\w+, expected one"
    with pytest.raises(SourceError, match=both):
        open_source(str(drive), labels=str(folder))


@pytest.mark.parametrize("suffix", [".JFIF", ".jpe", ".pbm", ".pnm"])
def test_rarer_names_of_formats_that_are_read(tmp_path, suffix):
    image = np.full((4, 6, 3), 255, np.uint8)
    stored = {".jfif": ".jpg", ".jpe": ".jpg"}.get(suffix.lower(), suffix)
    done, data = cv2.imencode(stored, image[..., 0] if suffix == ".pbm" else image)
    assert done
    (tmp_path / f"a{suffix}").write_bytes(data.tobytes())
    (frame,) = open_source(str(tmp_path))
    np.testing.assert_array_equal(frame.image, image)


def test_labels_that_fit_no_picture_are_refused(drive):
    (drive.parent / "labels").mkdir()
    with pytest.raises(SourceError, match=r"such as frame1\.png"):
        open_source(str(drive), labels=str(drive.parent / "labels"))
    with pytest.raises(SourceError, match="expected a folder"):
        open_source(str(drive), labels=str(drive / "frame1.png"))
