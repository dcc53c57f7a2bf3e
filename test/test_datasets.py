"""Every data set layout made in a temporary folder, whole and with each kind of fault."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.training.data_check import find_faults
from bisenetv2_ros.training.dataset_files import known_dataset
from bisenetv2_ros.training.dataset_layouts import dataset_kinds, load_dataset
from bisenetv2_ros.training.datasets import DatasetError

WIDTH, HEIGHT = 6, 4


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    assert cv2.imwrite(str(path), pixels)
    return path


def frame() -> np.ndarray:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[..., 0] = 200  # red, so that a swapped channel order shows
    return image


def row(*values: int) -> np.ndarray:
    """A label map whose every row is `values`."""
    return np.tile(np.array(values, np.uint8), (HEIGHT, 1))


def write_png(path: Path, values: np.ndarray, depth: int, palette=()) -> None:
    """A PNG of `depth` bits a pixel, grey or with a palette: what OpenCV does not write."""
    kind = 3 if palette else 0
    bits = np.unpackbits(values[..., None], axis=2)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(len(values), -1), axis=1)
    header = struct.pack(">IIBBBBB", *values.shape[::-1], depth, kind, 0, 0, 0)
    chunks = {
        b"IHDR": header,
        b"PLTE": bytes(v for colour in palette for v in colour),
        b"IDAT": zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows)),
        b"IEND": b"",
    }
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks.items():
        if content or name != b"PLTE":
            crc = struct.pack(">I", zlib.crc32(name + content))
            data += struct.pack(">I", len(content)) + name + content + crc
    path.write_bytes(data)


@pytest.fixture
def camvid(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            write(tmp_path / split / "images" / f"{name}.png", frame())
            write(tmp_path / split / "labels" / f"{name}.png", row(0, 1, 2, 10, 11, 255))
    # of each class a pixel is in train
    write(tmp_path / "train/images/c.png", frame())
    write(tmp_path / "train/labels/c.png", row(3, 4, 5, 6, 7, 8))
    write(tmp_path / "train/images/d.png", frame())
    write(tmp_path / "train/labels/d.png", row(9, 9, 9, 9, 9, 9))
    return tmp_path


def test_camvid(camvid):
    dataset = load_dataset("camvid", camvid, "val")
    assert len(dataset) == 2 and dataset.labels.name == "camvid11"
    sample = dataset[1]
    assert sample.name == "b" and sample.image[0, 0].tolist() == [200, 0, 0]
    assert sample.label[0].tolist() == [0, 1, 2, 10, 255, 255]
    assert list(find_faults(dataset)) == [None, None]


def test_cityscapes(tmp_path):
    name = "ulm_000000_000019"
    write(tmp_path / "leftImg8bit/val/ulm" / f"{name}_leftImg8bit.png", frame())
    # unlabeled, road, pole group (ignored), person, bicycle, licence plate
    labels = row(0, 7, 18, 24, 33, 255)
    write(tmp_path / "gtFine/val/ulm" / f"{name}_gtFine_labelIds.png", labels)
    write(tmp_path / "gtFine/val/ulm" / f"{name}_gtFine_instanceIds.png", labels)
    dataset = load_dataset("cityscapes", tmp_path, "val")
    assert dataset[0].label[0].tolist() == [255, 0, 255, 11, 18, 255]
    assert dataset.labels.names[11] == "person" and dataset.labels.names[18] == "bicycle"
    assert list(find_faults(dataset)) == [None]


def test_camvid_in_32_colours(tmp_path):
    colours = [
        (128, 64, 128),
        (128, 0, 192),
        (192, 128, 192),
        (0, 0, 0),
        (0, 128, 192),
        (0, 64, 64),
    ]
    label = np.tile(np.array(colours, np.uint8), (HEIGHT, 1, 1))
    write(tmp_path / "train/0001TP.png", frame())
    write(tmp_path / "train_labels/0001TP_L.png", label)
    dataset = load_dataset("camvid32", tmp_path, "train")
    # road, lane marking -> road, truck or bus -> car, void, bicyclist, traffic light -> sign
    assert dataset[0].label[0].tolist() == [3, 3, 8, 255, 10, 6]
    content = known_dataset("camvid32")
    colours = [colour for entry in content.classes for colour in entry.colours]
    assert len({*colours, *content.ignored}) == 32
    label[0, 0] = (1, 2, 3)
    write(tmp_path / "train_labels/0001TP_L.png", label)
    with pytest.raises(DatasetError, match=r"0001TP_L.png: colour \(1, 2, 3\), expected one of"):
        dataset[0]


def test_coco_stuff_164k(tmp_path):
    write(tmp_path / "images/val2017/000000000139.jpg", frame())
    write(tmp_path / "stuffthingmaps/val2017/000000000139.png", row(0, 1, 91, 181, 255, 255))
    dataset = load_dataset("coco_stuff164k", tmp_path, "val")
    assert dataset[0].label[0].tolist() == [0, 1, 91, 181, 255, 255]
    assert (dataset.labels.names[0], dataset.labels.names[181]) == ("person", "wood")
    assert dataset.labels.names[91] == "banner", "the first stuff category, number 92"


def test_coco_stuff_10k(tmp_path):
    for name in ("x", "y"):
        write(tmp_path / f"images/{name}.jpg", frame())
        write(tmp_path / f"annotations/{name}.png", row(0, 1, 2, 92, 182, 182))
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "imageLists/train.txt").write_text("x\n")
    (tmp_path / "imageLists/test.txt").write_text("y\n")
    dataset = load_dataset("coco_stuff10k", tmp_path, "test")
    assert [p[0].stem for p in dataset.pairs] == ["y"]
    assert dataset[0].label[0].tolist() == [255, 0, 1, 91, 181, 181]
    assert list(find_faults(dataset)) == [None], "the other split's label is no fault"
    with pytest.raises(DatasetError, match=r"all.txt: missing"):
        load_dataset("coco_stuff10k", tmp_path, "all")


def test_coco_stuff_10k_in_matlab_files(tmp_path):
    savemat = pytest.importorskip("scipy.io").savemat
    write(tmp_path / "images/x.jpg", frame())
    (tmp_path / "annotations").mkdir()
    savemat(tmp_path / "annotations/x.mat", {"S": row(0, 1, 2, 92, 182, 182)})
    (tmp_path / "imageLists").mkdir()
    (tmp_path / "imageLists/train.txt").write_text("x\n")
    dataset = load_dataset("coco_stuff10k", tmp_path, "train")
    assert dataset[0].label[0].tolist() == [255, 0, 1, 91, 181, 181]


CLASSES = """
name: yard
ignore_index: 9
classes:
  - {name: ground, colour: [1, 2, 3]}
  - {name: box, colour: [4, 5, 6]}
"""


@pytest.mark.parametrize("split", ["", "train/"])
def test_own_folder(tmp_path, split):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    write(tmp_path / f"{split}images/1.png", frame())
    write(tmp_path / f"{split}labels/1.png", row(0, 1, 9, 0, 0, 0))
    dataset = load_dataset("folder", tmp_path, "train")
    assert dataset.labels.name == "yard" and dataset.labels.palette[1] == (4, 5, 6)
    assert dataset[0].label[0].tolist() == [0, 1, 9, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [("classes: [[road]]", "expected `classes:`"), ("a: [", "classes.yaml: not YAML")],
)
def test_faulty_classes_are_named(tmp_path, text, message):
    (tmp_path / "classes.yaml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_dataset("folder", tmp_path, "train")


def test_synthetic_scenes():
    dataset = load_dataset("synthetic", "", "val")
    sample = dataset[0]
    assert sample.image.shape == (360, 480, 3) and sample.label.shape == (360, 480)
    assert set(np.unique(sample.label)) <= {*range(11), 255}
    splits = [load_dataset("synthetic", "", split) for split in ("train", "val", "test")]
    seeds = [range(d.first_seed, d.first_seed + d.count) for d in splits]
    assert not any(set(a) & set(b) for a in seeds for b in seeds if a is not b)


# --- faults ---------------------------------------------------------------------------------------


def damage(path: Path, position: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(position * len(data))] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


FAULTS = {
    "missing label": (lambda r: (r / "labels/a.png").unlink(), "a.png: No such file"),
    "missing frame": (lambda r: (r / "images/a.png").unlink(), "a.png: a label without a frame"),
    "size": (
        lambda r: write(r / "labels/a.png", row(0, 0)),
        "label is 2x4, expected the frame's 6x4",
    ),
    "range": (
        lambda r: write(r / "labels/a.png", row(0, 0, 0, 0, 0, 77)),
        "a.png: label value 77, expected 0..10 or 255",
    ),
    "empty": (lambda r: (r / "images/a.png").write_bytes(b""), "a.png: "),
    "text": (lambda r: (r / "images/a.png").write_text("IEND" * 30), "a.png: data is"),
    "truncated": (lambda r: truncate(r / "images/a.png"), "a.png: ends after"),
    "flipped bits": (lambda r: damage(r / "labels/a.png", 0.6), "a.png: PNG chunk"),
    "colour label": (
        lambda r: write(r / "labels/a.png", frame()),
        "expected grey, one byte a pixel",
    ),
    "deep label": (
        lambda r: write(r / "labels/a.png", row(0, 1, 2, 3, 4, 5).astype(np.uint16) * 300),
        "a.png: label value 300, expected 0..10 or 255",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_data_names_each_fault(camvid, capsys, fault):
    make, message = FAULTS[fault]
    make(camvid / "train")
    assert cli.main(["check-data", "--dataset", "camvid", "--data", str(camvid)]) == 1
    printed = capsys.readouterr().out
    assert message in printed, printed
    assert "1 faults" in printed and str(camvid / "train") in printed


def test_check_data_of_a_whole_set(camvid, capsys):
    assert cli.main(["check-data", "--dataset", "camvid", "--data", str(camvid)]) == 0
    assert "no faults" in capsys.readouterr().out


def test_truncated_jpeg(tmp_path):
    frames = tmp_path / "images/train2017"
    write(frames / "1.jpg", frame())
    write(tmp_path / "stuffthingmaps/train2017/1.png", row(0, 0, 0, 0, 0, 0))
    truncate(frames / "1.jpg")
    with pytest.raises(DatasetError, match=r"1.jpg: ends after"):
        load_dataset("coco_stuff164k", tmp_path, "train")[0]


def test_a_grey_label_saved_in_colour_is_read(camvid):
    grey = np.repeat(row(0, 1, 2, 3, 4, 5)[..., None], 3, axis=2)
    write(camvid / "val/labels/a.png", grey)
    assert load_dataset("camvid", camvid, "val")[0].label[0].tolist() == [0, 1, 2, 3, 4, 5]


COLOURS = [(0, 0, 0), (255, 0, 0), (255, 255, 255), (0, 0, 255)]
GREYS = [(0, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_label_with_a_palette_holds_indices(camvid, depth):
    """OpenCV would make the palette's colours of them."""
    values = row(0, 1, 1, 0, 1, 0) if depth == 1 else row(0, 1, 2, 3, 1, 0)
    values[1:] = values[1:, ::-1]
    path = camvid / "val/labels/a.png"
    write_png(path, values, depth, COLOURS[: 2**depth])
    assert np.array_equal(load_dataset("camvid", camvid, "val")[0].label, values)


@pytest.mark.parametrize(
    ("depth", "options", "message"),
    [
        (1, {}, r"a\.png: label map is a grey PNG of 1 bits a pixel, whose largest value may"),
        (
            1,
            {"palette": GREYS},
            r"a\.png: label map is a PNG with a palette of greys, whose values",
        ),
        (1, {"palette": COLOURS[:1]}, r"a\.png: index 1, expected one of the PNG's palette of 1"),
    ],
)
def test_a_label_that_may_mean_either_is_refused(camvid, depth, options, message):
    write_png(camvid / "val/labels/a.png", row(0, 1, 1, 0, 1, 0), depth, **options)
    with pytest.raises(DatasetError, match=message):
        load_dataset("camvid", camvid, "val")[0]


@pytest.mark.parametrize(
    "classes",
    ["[path, grass]", "[{name: path, value: 0}, {name: grass, value: 255}]"],
    ids=["white is 1", "white is 255"],
)
def test_white_of_a_mask_of_one_bit_is_the_other_class_of_two(tmp_path, classes):
    (tmp_path / "classes.yaml").write_text(f"classes: {classes}\n")
    write(tmp_path / "images/a.png", frame())
    (tmp_path / "labels").mkdir()
    values = row(0, 1, 1, 0, 1, 0)
    write_png(tmp_path / "labels/a.png", values, 1)
    assert np.array_equal(load_dataset("folder", tmp_path, "train")[0].label, values)
    assert cli.main(["check-data", "--dataset", "folder", "--data", str(tmp_path)]) == 0


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize("palette", [None, [BLACK, WHITE], [WHITE, BLACK], [BLACK, (128,) * 3]])
@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("[path, grass]", (0, 1)),
        ("[{name: grass, value: 255}, {name: path, value: 0}]", (1, 0)),
        ("[{name: grass, value: 7}]\nignored: [0]", (255, 0)),
        ("[{name: grass, color: [255, 255, 255]}, {name: path, color: [0, 0, 0]}]", (1, 0)),
    ],
)
def test_a_mask_of_one_bit_is_black_and_white_with_and_without_a_palette(
    tmp_path, classes, expected, palette
):
    if "color" in classes and palette and (128,) * 3 in palette:
        return  # that gray is no class's color
    (tmp_path / "classes.yaml").write_text(f"classes: {classes}\n")
    write(tmp_path / "images/a.png", frame())
    (tmp_path / "labels").mkdir()
    white = row(0, 1, 1, 0, 1, 0)
    bits = 1 - white if palette and palette[0] == WHITE else white
    write_png(tmp_path / "labels/a.png", bits, 1, **({"palette": palette} if palette else {}))
    label = load_dataset("folder", tmp_path, "train")[0].label
    assert np.array_equal(label, np.where(white, expected[1], expected[0]))


def test_an_empty_label_of_one_bit_is_read(camvid):
    write_png(camvid / "val/labels/a.png", row(0, 0, 0, 0, 0, 0), 1)
    assert not load_dataset("camvid", camvid, "val")[0].label.any()


def test_classes_without_a_pixel_are_named(camvid, capsys):
    assert cli.main(["check-data", "--dataset", "camvid", "--data", str(camvid)]) == 0
    printed = capsys.readouterr().out
    absent = ["road", "pavement", "tree", "sign-symbol", "fence", "car", "pedestrian"]
    assert f"val: no pixel of {', '.join(absent)}\n" in printed


def test_own_folder_with_a_split_missing(tmp_path):
    (tmp_path / "classes.yaml").write_text(CLASSES)
    write(tmp_path / "images/1.png", frame())
    with pytest.raises(DatasetError, match=r"test: no such folder, .* one: train, val"):
        load_dataset("folder", tmp_path, "test")
    write(tmp_path / "train/images/1.png", frame())
    with pytest.raises(DatasetError, match=r"test: no such folder, .* one: train"):
        load_dataset("folder", tmp_path, "test")


def test_unknown_data_sets_and_folders_are_named(tmp_path, capsys):
    with pytest.raises(DatasetError, match=r"'cityscape' .did you mean 'cityscapes'"):
        load_dataset("cityscape", tmp_path, "val")
    assert cli.main(["check-data", "--dataset", "camvid", "--data", str(tmp_path)]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_list_of_data_sets_names_every_one(capsys):
    assert cli.main(["datasets"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{kind} " in f"\n{printed}" for kind in dataset_kinds())


def test_data_sets_need_no_torch():
    code = "import sys, bisenetv2_ros.training.datasets; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_splits_are_joined_and_sequences_left_out(tmp_path):
    for split, names in {"train": ["a_1", "a_2", "b_1"], "val": ["b_2", "c_1"]}.items():
        for name in names:
            for kind, pixels in (("images", np.zeros((8, 8, 3))), ("labels", np.zeros((8, 8)))):
                (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(tmp_path / split / kind / f"{name}.png"), pixels)

    def names(split):
        return [sample.name for sample in load_dataset("camvid", tmp_path, split)]

    assert names("train+val") == ["a_1", "a_2", "b_1", "b_2", "c_1"]
    assert names("train+val:!b*") == ["a_1", "a_2", "c_1"]
    assert names("train+val:b*") == ["b_1", "b_2"]
    assert names("train:a*") == ["a_1", "a_2"]
    with pytest.raises(DatasetError, match=r"no frame of .* fits 'x\*'"):
        names("train:x*")
    with pytest.raises(DatasetError, match="name of one split for synthetic"):
        load_dataset("synthetic", "", "train+val")
