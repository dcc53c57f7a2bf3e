"""Labels as people have them, read directly from a folder: `--dataset folder`."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.training.data_check import find_faults
from bisenetv2_ros.training.dataset_layouts import load_dataset
from bisenetv2_ros.training.datasets import DatasetError

COLOURED = """
classes:
  - {name: path, color: [128, 64, 128]}
  - {name: grass, colour: [0, 102, 0]}
ignored:
  - [0, 0, 0]
"""
PLAIN = "classes: [path, grass, stone]\n"


def frame(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 256, (4, 3, 3), np.uint8)
    assert cv2.imwrite(str(path), image)
    return path


def label(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    done, data = cv2.imencode(".png", pixels)  # not imwrite: it knows suffixes in small letters
    assert done
    path.write_bytes(data.tobytes())
    return path


def rows(*values: object, kind: type = np.uint8) -> np.ndarray:
    """Four rows of three equal pixels."""
    return np.repeat(np.array(values, kind)[:, None], 3, axis=1)


def read(root: Path, split: str = "train") -> list[int]:
    """The first column of the only label."""
    dataset = load_dataset("folder", root, split)
    assert list(find_faults(dataset)) == [None]
    return dataset[0].label[:, 0].tolist()


@pytest.fixture
def folder(tmp_path) -> Path:
    frame(tmp_path / "images/a.png")
    (tmp_path / "classes.yaml").write_text(PLAIN)
    return tmp_path


def test_masks_by_colour(folder):
    (folder / "classes.yaml").write_text(COLOURED)
    colours = rows((128, 64, 128), (0, 102, 0), (0, 0, 0), (0, 102, 0))
    path = label(folder / "labels/a.png", colours)
    assert read(folder) == [0, 1, 255, 1]
    opaque = np.concatenate([colours, np.full((4, 3, 1), 255, np.uint8)], axis=2)
    label(path, opaque)
    assert read(folder) == [0, 1, 255, 1], "with an alpha channel"
    label(path, rows((128, 64, 128), (0, 102, 0), (1, 2, 3), (0, 0, 0)))
    with pytest.raises(DatasetError, match=r"a.png: colour \(1, 2, 3\), expected one of the 3"):
        load_dataset("folder", folder, "train")[0]


def test_a_mask_of_grey_classes_among_coloured_ones(folder):
    """By itself it could hold values; the others tell that it does not."""
    (folder / "classes.yaml").write_text(
        "classes: [{name: sky, colour: [128, 128, 128]}, {name: road, colour: [1, 1, 1]},\n"
        "  {name: tree, colour: [0, 102, 0]}]\n"
    )
    grey = label(folder / "labels/a.png", rows((1, 1, 1), (1, 1, 1), (128, 128, 128), (1, 1, 1)))
    frame(folder / "images/b.png")
    label(folder / "labels/b.png", rows((1, 1, 1), (0, 102, 0), (1, 1, 1), (1, 1, 1)))
    dataset = load_dataset("folder", folder, "train")
    assert dataset[0].label[:, 0].tolist() == [1, 1, 0, 1]
    assert dataset[1].label[:, 0].tolist() == [1, 2, 1, 1]
    text = (folder / "classes.yaml").read_text()
    (folder / "classes.yaml").write_text(f"{text}encoding: values\n")
    dataset = load_dataset("folder", folder, "train")
    with pytest.raises(DatasetError, match=r"label value 128, expected 0\.\.2 or 255"):
        dataset[0]
    with pytest.raises(DatasetError, match=r"b\.png: label map is in colours, expected grey"):
        dataset[1]
    (folder / "labels/b.png").unlink()
    (folder / "classes.yaml").write_text(f"{text}encoding: colours\n")
    assert load_dataset("folder", folder, "train")[0].label[:, 0].tolist() == [1, 1, 0, 1]
    assert grey.is_file()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_values_in_any_form(folder, kind, channels):
    """Grey, RGB or RGBA of equal channels, 8 or 16 bits."""
    values = rows(2, 0, 255, 1, kind=kind)
    if channels > 1:
        values = np.repeat(values[..., None], channels, axis=2)
    if channels == 4:
        values[..., 3] = np.iinfo(kind).max
    label(folder / "labels/a.png", values)
    assert read(folder) == [2, 0, 255, 1]


def test_a_value_for_each_class(folder):
    """0 is ignored, 255 is a class, and one value is beyond a byte."""
    (folder / "classes.yaml").write_text(
        "ignore_index: 0\nclasses:\n  - {name: path, value: 255}\n"
        "  - {name: grass, value: 7}\n  - {name: stone, value: 1000}\n"
    )
    label(folder / "labels/a.png", rows(255, 7, 0, 1000, kind=np.uint16))
    assert read(folder) == [0, 1, 255, 2]
    label(folder / "labels/a.png", rows(255, 7, 8, 1000, kind=np.uint16))
    with pytest.raises(
        DatasetError, match=r"label value 8, expected 7, 255, 1000, or 0 \(ignored\)"
    ):
        load_dataset("folder", folder, "train")[0]


def test_black_and_white_with_white_as_a_class(folder, capsys):
    (folder / "classes.yaml").write_text("classes: [floor, {name: path, value: 255}]\n")
    label(folder / "labels/a.png", rows(255, 0, 255, 0))
    assert read(folder) == [1, 0, 1, 0]
    words = ("--dataset", "folder", "--data", str(folder))
    assert cli.main(["check-data", *words]) == 0, capsys.readouterr().out


def test_an_ignored_value_that_is_a_class_is_refused(folder):
    (folder / "classes.yaml").write_text("ignore_index: 0\nclasses: [path, grass]\n")
    label(folder / "labels/a.png", rows(0, 1, 1, 1))
    with pytest.raises(DatasetError, match="label value 0 is that of class 'path' and ignored"):
        load_dataset("folder", folder, "train")


@pytest.mark.parametrize(
    "name",
    [
        "a.PNG",
        "a_mask.png",
        "a_label.png",
        "a_labels.PNG",
        "a_labelIds.png",
        "a_gt.png",
        "a_seg.png",
    ],
)
@pytest.mark.parametrize("kind", ["labels", "masks", "annotations"])
def test_names_and_folders_of_labels(folder, name, kind):
    label(folder / kind / name, rows(0, 1, 2, 1))
    assert read(folder) == [0, 1, 2, 1]


@pytest.mark.parametrize(
    ("split", "images", "labels"),
    [
        ("train", "train/images", "train/labels"),
        ("train", "images/train", "labels/train"),
        ("val", "valid/images", "valid/masks"),
        ("val", "images/validation", "labels/validation"),
        ("test", "images/test", "annotations/test"),
    ],
)
def test_where_splits_are(tmp_path, split, images, labels):
    (tmp_path / "classes.yaml").write_text(PLAIN)
    frame(tmp_path / images / "a.JPG")
    label(tmp_path / labels / "a.png", rows(0, 1, 2, 1))
    assert read(tmp_path, split) == [0, 1, 2, 1]
    with pytest.raises(DatasetError, match="no such folder, expected a split that is one"):
        load_dataset("folder", tmp_path, "other")


def test_folders_below_folders(folder):
    """Frames of one name in two folders are two frames."""
    (folder / "images/a.png").unlink()
    for day, value in (("monday", 0), ("tuesday/noon", 1)):
        frame(folder / "images" / day / "a.png")
        label(folder / "labels" / day / "a_mask.png", rows(value, value, value, value))
    dataset = load_dataset("folder", folder, "train")
    assert [int(dataset[i].label[0, 0]) for i in range(2)] == [0, 1]


def test_hidden_files_are_passed_over(folder):
    label(folder / "labels/a.png", rows(0, 1, 2, 1))
    (folder / "images/._a.png").write_bytes(b"resource fork")
    (folder / "labels/.DS_Store.png").write_bytes(b"")
    (folder / "images/.thumbnails").mkdir()
    frame(folder / "images/.thumbnails/a.png")
    assert read(folder) == [0, 1, 2, 1]
    assert len(load_dataset("folder", folder, "train")) == 1


def test_a_layout_of_its_own_in_classes_yaml(tmp_path):
    """The file in the folder may say where frames and labels lie."""
    (tmp_path / "classes.yaml").write_text(
        PLAIN + "layouts:\n  - {frames: 'rgb/{name}.png', labels: 'seg/{name}_*.png'}\n"
    )
    frame(tmp_path / "rgb/a.png")
    label(tmp_path / "seg/a_anna.png", rows(0, 1, 2, 1))
    assert read(tmp_path) == [0, 1, 2, 1]
