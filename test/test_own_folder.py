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


# --- as people have them --------------------------------------------------------------------------

HEX = "classes:\n  - {name: path, color: '#804080'}\n  - {name: grass, colour: '006600'}\n"


def with_palette(path: Path, indices: np.ndarray, palette: dict[int, tuple[int, int, int]]) -> None:
    from PIL import Image

    table = np.zeros((256, 3), np.uint8)
    for index, colour in palette.items():
        table[index] = colour
    picture = Image.fromarray(indices)
    picture.putpalette(table.ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def test_colours_as_hex(folder):
    (folder / "classes.yaml").write_text(HEX)
    label(folder / "labels/a.png", rows((128, 64, 128), (0, 102, 0), (0, 102, 0), (0, 102, 0)))
    assert read(folder) == [0, 1, 1, 1]


@pytest.mark.parametrize(("classes", "message"), [
    ("classes: [path, {name: grass, value: 0}]", "label value 0 is that of classes 'path' and 'g"),
    ("classes: [{name: path, value: [3, 4]}, {name: grass, value: 4}]", "label value 4 is that of"),
    ("classes: [{name: path, colour: [1, 1, 2]}, {name: grass, colour: [1, 1, 2]}]",
     r"colour \(1, 1, 2\) is that of classes 'path' and 'grass'"),
    ("classes: [yes, no]", "a name needs quotes"),
    ("classes: [1, 2]", "a name needs quotes"),
])  # fmt: skip
def test_classes_that_cannot_be_told_apart_are_refused(folder, classes, message):
    (folder / "classes.yaml").write_text(classes)
    label(folder / "labels/a.png", rows((1, 1, 2), (1, 1, 2), (1, 1, 2), (1, 1, 2)))
    with pytest.raises(DatasetError, match=message):
        load_dataset("folder", folder, "train")


def test_two_classes_of_one_colour_are_fine_in_labels_of_values(folder):
    (folder / "classes.yaml").write_text(HEX.replace("006600", "804080"))
    label(folder / "labels/a.png", rows(0, 1, 1, 0))
    assert read(folder) == [0, 1, 1, 0]


def test_a_palette_in_another_order_than_the_classes(folder):
    """Its colours tell what its indices mean; they are no class indices then."""
    (folder / "classes.yaml").write_text(HEX + "ignored: ['#000000']\n")
    indices = rows(2, 1, 1, 0)
    with_palette(folder / "labels/a.png", indices, {2: (128, 64, 128), 1: (0, 102, 0)})
    assert read(folder) == [0, 1, 1, 255]
    # in the same order, or in colours that mean nothing, indices are class indices
    with_palette(folder / "labels/a.png", rows(1, 0, 1, 255), {0: (128, 64, 128), 1: (0, 102, 0)})
    assert read(folder) == [1, 0, 1, 255]
    with_palette(folder / "labels/a.png", rows(1, 0, 1, 255), {0: (9, 9, 8), 1: (128, 0, 0)})
    assert read(folder) == [1, 0, 1, 255]
    # an ignored index may have any colour, also that of a class
    same = {0: (128, 64, 128), 1: (0, 102, 0), 255: (128, 64, 128)}
    with_palette(folder / "labels/a.png", rows(1, 0, 1, 255), same)
    assert read(folder) == [1, 0, 1, 255]


def test_black_and_white_by_colour(folder):
    (folder / "classes.yaml").write_text(
        "classes: [{name: floor, colour: [255, 255, 255]}, {name: rest, colour: [0, 0, 0]}]\n"
    )
    for channels in (1, 3):
        white = rows(255, 0, 0, 255)
        label(folder / "labels/a.png", white if channels == 1 else np.dstack([white] * 3))
        assert read(folder) == [0, 1, 1, 0]
    label(folder / "labels/a.png", rows(0, 1, 1, 0))
    assert read(folder) == [0, 1, 1, 0], "these are values"


def test_a_mask_that_was_a_jpeg_is_said_to_be_one(folder):
    (folder / "classes.yaml").write_text(HEX)
    label(folder / "labels/a.png", rows((129, 63, 128), (0, 102, 0), (0, 102, 0), (0, 102, 0)))
    with pytest.raises(DatasetError, match="nearly that of 'path': a mask that was a JPEG"):
        load_dataset("folder", folder, "train")[0]


@pytest.mark.parametrize(("image", "mask"), [
    ("IMG_1.JPG", "img_1.png"), ("Gr\u00fcn.png", "Gru\u0308n_mask.png"), ("a.png", "A_Mask.PNG"),
])  # fmt: skip
def test_names_in_other_letters(folder, image, mask):
    """As file systems that do not tell them apart leave them."""
    (folder / "images/a.png").unlink()
    frame(folder / "images" / image.replace("JPG", "png")).rename(folder / "images" / image)
    label(folder / "labels" / mask, rows(0, 1, 2, 2))
    assert read(folder) == [0, 1, 2, 2]


def test_names_that_differ_in_their_letters_alone_stay_apart(folder):
    frame(folder / "images/A.png")
    label(folder / "labels/A.png", rows(0, 0, 0, 0))
    label(folder / "labels/a.png", rows(1, 1, 1, 1))
    dataset = load_dataset("folder", folder, "train")
    assert [dataset[i].label[0, 0] for i in range(2)] == [0, 1]


@pytest.mark.parametrize("place", ["train/{}", "{}/train"])
def test_without_val_it_is_train(tmp_path, capsys, place):
    """And said; training holds the last fifth out then."""
    (tmp_path / "classes.yaml").write_text(PLAIN)
    frame(tmp_path / place.format("images") / "a.png")
    label(tmp_path / place.format("labels") / "a.png", rows(0, 1, 2, 2))
    assert read(tmp_path, "val") == [0, 1, 2, 2]
    assert cli.main(["check-data", "--dataset", "folder", "--data", str(tmp_path)]) == 0
    assert "val: the same frames as train" in capsys.readouterr().out
    with pytest.raises(DatasetError, match="expected a split that is one: train"):
        load_dataset("folder", tmp_path, "test")
    frame(tmp_path / place.format("images").replace("train", "night") / "a.png")
    if place.startswith("train"):  # a folder that may be meant by val
        with pytest.raises(DatasetError, match="expected a split that is one: night, train"):
            load_dataset("folder", tmp_path, "val")


def test_labels_as_gif_are_named(folder):
    (folder / "labels").mkdir()
    (folder / "labels/a.gif").write_bytes(b"GIF89a" + bytes(20))
    with pytest.raises(DatasetError, match=r"a\.gif: data is GIF"):
        load_dataset("folder", folder, "train")[0]
