"""`bisenetv2 extract`: which frames are chosen, what is written, and that nothing is lost.

The tiny model's mask is red // 16 and its confidence the green of a frame, so that each frame's
class and doubt are set by its colour.
"""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.files.annotations import labelme_shapes
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.training.dataset_files import read_dataset_file

SIZE = (96, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info(SIZE))


def picture(red: int, green: int, blue: int = 0) -> np.ndarray:
    image = np.zeros((*SIZE[::-1], 3), np.uint8)
    image[:] = (red, green, blue)
    return image


def drive(folder: Path, pictures: list[np.ndarray]) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures):
        write_picture(folder / f"f{number:03d}.png", image)
    return folder


def extract(*words: object) -> int:
    return main(["extract", *map(str, words)])


def names(out: Path) -> list[str]:
    return sorted(path.stem for path in (out / "images").iterdir())


def table(out: Path) -> list[dict[str, str]]:
    with (out / "frames.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_most_uncertain_are_those_unlike_each_other(tmp_path, model):
    """Twenty equal frames of the greatest doubt count once; then come the other doubtful ones."""
    doubtful = [picture(0, 10)] * 20
    others = [picture(80, 60), picture(160, 60, 200)]
    certain = [picture(red, 250) for red in range(0, 176, 8)]
    source = drive(tmp_path / "drive", [*certain[:11], *doubtful, *certain[11:], *others])
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--most-uncertain", 3, "--model", model) == 0
    chosen = names(out)
    assert len(chosen) == 3 and {"f042", "f043"} < set(chosen)
    assert sum(11 <= int(name[1:]) < 31 for name in chosen) == 1
    rows = {row["frame"]: float(row["uncertainty"]) for row in table(out)}
    assert rows["f042"] == pytest.approx(1 - 60 / 255, abs=1e-4)


def test_the_most_diverse_show_each_place_once(tmp_path, model):
    places = [picture(0, 200), picture(64, 200), picture(160, 200)]
    source = drive(tmp_path / "drive", [place for place in places for _ in range(8)])
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--diverse", 3, "--model", model) == 0
    assert [int(name[1:]) // 8 for name in names(out)] == [0, 1, 2]


def test_a_frame_every_so_often(tmp_path, model):
    source = drive(tmp_path / "drive", [picture(i, 99) for i in range(32)])  # 15 Hz
    for interval, expected in {
        "1s": [0, 15, 30],
        "10": [0, 10, 20, 30],
        "0.4s": range(0, 32, 6),
    }.items():
        out = tmp_path / interval
        assert extract(source, "-o", out, "--every", interval, "--prelabels", "none") == 0
        assert names(out) == [f"f{i:03d}" for i in expected]
        assert not (out / "prelabels").exists(), "no model was asked for"


def test_a_bag_keeps_its_stamps(tmp_path, model):
    pytest.importorskip("rosbags", reason="needs rosbags")
    from test_bag import FRONT, REAR, scene, write_bag

    bag = write_bag(tmp_path / "bag", frames=12)
    out = tmp_path / "set"
    topics = ("--topic", FRONT, "--topic", REAR)
    assert extract(bag, "-o", out, *topics, "--every", "0.5s", "--model", model) == 0
    assert len(names(out)) == 6
    front = [row for row in table(out) if row["camera"] == FRONT]
    assert [row["frame_id"] for row in front] == ["camera_0", "camera_5", "camera_10"]
    assert front[1]["stamp"] == "1700000000.500000007"
    image = cv2.imread(str(out / "images" / f"{front[1]['frame']}.png"))[..., ::-1]
    np.testing.assert_array_equal(image, scene(5))


def test_pre_labels_are_masks_with_their_classes(tmp_path, model):
    source = drive(tmp_path / "drive", [picture(40, 9), picture(100, 9)])
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--every", "1", "--model", model) == 0
    mask = cv2.imread(str(out / "prelabels/f001.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == SIZE[::-1] and (mask == 100 // 16).all()
    assert read_dataset_file(out / "prelabels/classes.yaml").labels == CAMVID


def test_nothing_that_is_there_is_overwritten(tmp_path, model, capsys):
    source = drive(tmp_path / "drive", [picture(40, 9), picture(100, 9)])
    out = tmp_path / "set"
    write_picture(drive(out / "images", []) / "f000.png", picture(1, 2, 3))
    write_picture(drive(out / "prelabels", []) / "f000.png", np.full((4, 4), 7, np.uint8))
    assert extract(source, "-o", out, "--every", "1", "--model", model) == 0
    assert "1 frames were there already" in capsys.readouterr().out
    assert cv2.imread(str(out / "images/f000.png"))[0, 0].tolist() == [3, 2, 1]
    assert cv2.imread(str(out / "prelabels/f000.png")).max() == 7
    (out / "prelabels/classes.yaml").write_text("classes: [other]\n")
    assert extract(source, "-o", out, "--every", "1", "--model", model) == 2
    assert "pre-labels of other classes" in capsys.readouterr().err


def test_for_cvat(tmp_path, model):
    source = drive(tmp_path / "drive", [picture(40, 9), picture(100, 9)])
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--every", 1, "--model", model, "--prelabels", "cvat") == 0
    with zipfile.ZipFile(out / "prelabels/cvat.zip") as archive:
        assert archive.read("ImageSets/Segmentation/default.txt") == b"f000\nf001\n"
        lines = archive.read("labelmap.txt").decode().splitlines()
        assert lines[:3] == [
            "# label:color_rgb:parts:actions",
            "background:0,0,0::",
            "sky:128,128,128::",
        ]
        data = np.frombuffer(archive.read("SegmentationClass/f001.png"), np.uint8)
        mask = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
        assert (mask == CAMVID.palette[100 // 16]).all()
        assert "SegmentationObject/f000.png" in archive.namelist()


def test_for_labelme(tmp_path, model):
    image = picture(40, 9)
    image[:, SIZE[0] // 2 :, 0] = 100
    source = drive(tmp_path / "drive", [image])
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--every", 1, "--model", model, "--prelabels", "labelme") == 0
    content = json.loads((out / "prelabels/f000.json").read_text())
    assert (out / "prelabels" / content["imagePath"]).resolve() == (
        out / "images/f000.png"
    ).resolve()
    assert (content["imageHeight"], content["imageWidth"]) == SIZE[::-1]
    assert {shape["label"] for shape in content["shapes"]} == {"pole", "sign-symbol"}


def test_polygons_paint_the_mask_again():
    """Rings within rings: the larger region is painted first."""
    mask = np.full((120, 160), 255, np.uint8)
    for index, radius in ((0, 55), (1, 40), (0, 25), (2, 12)):
        cv2.circle(mask, (80, 60), radius, index, -1)
    mask[2:4, 2:4] = 5
    shapes, dust = labelme_shapes(mask, CAMVID)
    assert dust == 1
    again = np.full_like(mask, 255)
    for shape in shapes:
        points = np.rint(shape["points"]).astype(np.int32)
        cv2.fillPoly(again, [points], CAMVID.names.index(shape["label"]))
    assert (again == mask).mean() > 0.98


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("synthetic", "--every", "1s"), "has no end, expected --frames N"),
        (("nowhere", "--every", "1s"), "nowhere"),
    ],
)
def test_what_cannot_be_extracted_is_said(tmp_path, capsys, words, message):
    assert extract(*words, "-o", tmp_path / "set", "--prelabels", "none") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("interval", ["0", "0s", "1.5", "-1", "2 s", "2m", "soon"])
def test_a_faulty_interval_is_said(tmp_path, capsys, interval):
    with pytest.raises(SystemExit):
        extract("synthetic", "-o", tmp_path, "--every", interval)
    error = capsys.readouterr().err
    assert f"--every: got '{interval}', expected" in error
    assert ("above 0" if interval in ("0", "0s") else "seconds as in 2s or 0.5s") in error


def test_a_damaged_frame_is_named_once_and_the_rest_taken(tmp_path, model, capsys):
    source = drive(tmp_path / "drive", [picture(i * 16, 9) for i in range(4)])
    (source / "f001.png").write_bytes(b"no picture")
    out = tmp_path / "set"
    assert extract(source, "-o", out, "--diverse", 9, "--model", model) == 1
    printed = capsys.readouterr()
    assert printed.err.count("f001.png") == 1 and "1 skipped, see above" in printed.err
    assert "only 3 frames, fewer than 9: all are taken" in printed.out
    assert names(out) == ["f000", "f002", "f003"]


def test_what_was_passed_over_is_named(tmp_path, capsys):
    source = drive(tmp_path / "drive", [picture(16, 9)])
    (source / "notes.txt").write_text("of mine")
    words = (source, "-o", tmp_path / "set", "--every", 1, "--prelabels", "none")
    assert extract(*words) == 0
    assert "skipped 1 files that are no images: notes.txt" in capsys.readouterr().err
    (source / "b.heic").write_bytes(b"")
    assert extract(*words) == 1
    assert "error: 1 images of an unsupported format: b.heic" in capsys.readouterr().err


def test_a_damaged_frame_counts_for_the_interval(tmp_path):
    """The interval is on a grid over all frames, as that of `predict --every`."""
    source = drive(tmp_path / "drive", [picture(i * 16, 9) for i in range(6)])
    (source / "f001.png").write_bytes(b"no picture")
    words = (source, "-o", tmp_path / "set", "--every", 2, "--prelabels", "none")
    assert extract(*words) == 1
    assert names(tmp_path / "set") == ["f000", "f002", "f004"]


def test_a_run_of_few_frames_of_what_has_no_end(tmp_path):
    words = ("--every", "5", "--frames", 11, "--prelabels", "none")
    assert extract("synthetic", "-o", tmp_path / "set", *words) == 0
    assert names(tmp_path / "set") == ["synthetic_000000", "synthetic_000005", "synthetic_000010"]
