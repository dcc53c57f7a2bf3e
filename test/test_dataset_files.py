"""Data sets as YAML files: each published layout as a tiny tree, and files of one's own."""

from __future__ import annotations

import json
import os
import re
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.training.data_check import find_faults
from bisenetv2_ros.training.dataset_files import known_dataset, known_datasets
from bisenetv2_ros.training.dataset_layouts import load_dataset
from bisenetv2_ros.training.dataset_splits import _belongs
from bisenetv2_ros.training.datasets import DatasetError

HEIGHT = 3
CAMVID_FOLDER = os.environ.get("BISENETV2_CAMVID", "")


def write(path: Path, *row: int | tuple[int, int, int]) -> None:
    """A picture whose every row is `row`, of values or RGB colours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.tile(
        np.array(row, np.uint8), (HEIGHT, 1, 1) if isinstance(row[0], tuple) else (HEIGHT, 1)
    )
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    assert cv2.imwrite(str(path), pixels)


FRAME = ((200, 0, 0),) * 4

# For each data set: split, frame, label, a row of the label, the classes it means (None: ignored).
# Values and names are those of the publications, not those of our files.
PUBLISHED = {
    "cityscapes": [
        ("train", "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png",
         "gtFine/train/ulm/ulm_000000_000019_gtFine_labelIds.png",
         (7, 33, 0, 24), ("road", "bicycle", None, "person")),
        ("val", "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png",
         "gtFine/val/ulm/ulm_000000_000019_gtFine_labelTrainIds.png",
         (0, 18, 255, 11), ("road", "bicycle", None, "person")),
    ],
    "cityscapes_coarse": [
        ("train_extra", "leftImg8bit/train_extra/bonn/bonn_000000_000019_leftImg8bit.png",
         "gtCoarse/train_extra/bonn/bonn_000000_000019_gtCoarse_labelIds.png",
         (7, 33, 0, 24), ("road", "bicycle", None, "person")),
        ("val", "leftImg8bit/val/bonn/bonn_000000_000019_leftImg8bit.png",
         "gtCoarse/val/bonn/bonn_000000_000019_gtCoarse_labelTrainIds.png",
         (0, 18, 255, 11), ("road", "bicycle", None, "person")),
    ],
    "camvid": [
        ("train", "train/images/0001TP_006690.png", "train/labels/0001TP_006690.png",
         (0, 10, 11, 3), ("sky", "bicyclist", None, "road")),
        ("val", "val/0016E5_07959.png", "valannot/0016E5_07959.png",
         (0, 10, 11, 3), ("sky", "bicyclist", None, "road")),
    ],
    "camvid32": [
        ("train", "train/0001TP_006690.png", "train_labels/0001TP_006690_L.png",
         ((128, 0, 192), (64, 128, 192), (0, 0, 0), (192, 0, 192)),
         ("road", "car", None, "bicyclist")),
    ],
    "coco_stuff164k": [
        ("val", "images/val2017/000000000139.jpg", "stuffthingmaps/val2017/000000000139.png",
         (0, 91, 181, 255), ("person", "banner", "wood", None)),
        ("train2017", "images/train2017/000000000009.jpg",
         "stuffthingmaps/train2017/000000000009.png",
         (0, 91, 181, 255), ("person", "banner", "wood", None)),
    ],
    "coco_stuff164k_171": [
        ("val", "images/val2017/000000000139.jpg", "stuffthingmaps/val2017/000000000139.png",
         (0, 12, 181, 11), ("person", "stop sign", "wood", None)),
        ("train", "images/train2017/000000000009.jpg",
         "annotations/train2017/000000000009_labelTrainIds.png",
         (0, 11, 170, 255), ("person", "stop sign", "wood", None)),
    ],
    "rugd": [
        ("train", "RUGD_frames-with-annotations/trail-9/trail-9_00001.png",
         "RUGD_annotations/trail-9/trail-9_00001.png",
         ((0, 102, 0), (114, 85, 47), (0, 0, 0), (64, 64, 64)),
         ("grass", "picnic-table", None, "asphalt")),
        ("val", "RUGD_frames-with-annotations/park-8/park-8_00001.png",
         "RUGD_annotations/park-8/park-8_00001.png",
         ((0, 102, 0), (114, 85, 47), (0, 0, 0), (64, 64, 64)),
         ("grass", "picnic-table", None, "asphalt")),
    ],
    "goose": [
        ("val", "images/val/2022-07-22_flight/2022-07-22_flight__0071_165_windshield_vis.png",
         "labels/val/2022-07-22_flight/2022-07-22_flight__0071_165_labelids.png",
         (0, 1, 50, 63), (None, "traffic_cone", "low_grass", "military_vehicle")),
        ("train", "images/train/spot/spot__0001_7_camera_left.png",
         "labels/train/spot/spot__0001_7_labelids.png",
         (0, 1, 50, 63), (None, "traffic_cone", "low_grass", "military_vehicle")),
    ],
    "bdd100k": [
        ("val", "images/10k/val/7d06fefd-f7be05a6.jpg",
         "labels/sem_seg/masks/val/7d06fefd-f7be05a6.png",
         (0, 18, 255, 11), ("road", "bicycle", None, "person")),
        ("train", "seg/images/train/0004a4c0-d4dff0ad.jpg",
         "seg/labels/train/0004a4c0-d4dff0ad_train_id.png",
         (0, 18, 255, 11), ("road", "bicycle", None, "person")),
    ],
    "mapillary_vistas": [
        ("train", "training/images/aB_-9.jpg", "training/v1.2/labels/aB_-9.png",
         (0, 13, 64, 65), ("Bird", "Road", "Ego Vehicle", None)),
        ("val", "validation/images/aB_-9.jpg", "validation/labels/aB_-9.png",
         (0, 13, 64, 65), ("Bird", "Road", "Ego Vehicle", None)),
    ],
    "idd": [
        ("train", "leftImg8bit/train/201/frame0029_leftImg8bit.jpg",
         "gtFine/train/201/frame0029_gtFine_labellevel3Ids.png",
         (0, 8, 25, 255), ("road", "autorickshaw", "sky/fallback background", None)),
        ("val", "leftImg8bit/val/0/005506_leftImg8bit.png",
         "gtFine/val/0/005506_gtFine_labelids.png",
         (0, 27, 31, 39), ("road", "pole", "bridge/tunnel", None)),
    ],
    "kitti": [
        ("train", "training/image_2/000001_10.png", "training/semantic/000001_10.png",
         (7, 33, 0, 24), ("road", "bicycle", None, "person")),
        ("val", "training/image_2/000005_10.png", "training/semantic/000005_10.png",
         (7, 33, 0, 24), ("road", "bicycle", None, "person")),
    ],
    "a2d2": [
        ("train",
         "20181008_095521/camera/cam_side_left/20181008095521_camera_sideleft_000000091.png",
         "20181008_095521/label/cam_side_left/20181008095521_label_sideleft_000000091.png",
         ((255, 0, 255), (150, 0, 0), (255, 0, 128), (135, 206, 255)),
         ("RD normal street", "Car", "Obstacles / trash", "Sky")),
        ("val",
         "20180807_145028/camera/cam_front_center/20180807145028_camera_frontcenter_000000091.png",
         "20180807_145028/label/cam_front_center/20180807145028_label_frontcenter_000000091.png",
         ((255, 0, 255), (150, 0, 0), (255, 0, 128), (135, 206, 255)),
         ("RD normal street", "Car", "Obstacles / trash", "Sky")),
    ],
    "ade20k": [
        ("train", "images/training/ADE_train_00000001.jpg",
         "annotations/training/ADE_train_00000001.png",
         (0, 1, 13, 150), (None, "wall", "person", "flag")),
        ("val", "images/validation/ADE_val_00000001.jpg",
         "annotations/validation/ADE_val_00000001.png",
         (0, 1, 13, 150), (None, "wall", "person", "flag")),
    ],
    "tas500": [
        ("train", "train/1537960302.png", "train_labels_ids/1537960302.png",
         (0, 7, 22, 255), ("asphalt", "high grass", "ego vehicle", None)),
        ("val", "val/1537960302.png", "val_labels_ids/1537960302.png",
         (0, 7, 22, 255), ("asphalt", "high grass", "ego vehicle", None)),
    ],
}  # fmt: skip


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_published_layout(kind, tmp_path):
    for number, (split, frame, label, row, meaning) in enumerate(PUBLISHED[kind]):
        root = tmp_path / str(number)
        write(root / frame, *FRAME)
        write(root / label, *row)
        for hidden in (frame, label):  # as macOS leaves them
            (root / hidden).with_name(f"._{Path(hidden).name}").write_bytes(b"resource fork")
        dataset = load_dataset(kind, root, split)
        assert list(find_faults(dataset)) == [None]
        names = dict(enumerate(dataset.labels.names))
        assert tuple(names.get(int(v)) for v in dataset[0].label[0]) == meaning
        assert dataset[0].image[0, 0].tolist() == pytest.approx([200, 0, 0], abs=3)
        write(root / label, *((1, 2, 3) if isinstance(v, tuple) else 253 for v in row))
        with pytest.raises(DatasetError, match=r"colour \(1, 2, 3\)|label value 253, expected"):
            dataset[0]
        (root / label).unlink()
        assert "No such file" in next(iter(find_faults(load_dataset(kind, root, split))))


def test_every_known_data_set_has_a_tree_here():
    elsewhere = {"coco_stuff10k", "rellis3d", "wilddash"}
    assert set(known_datasets()) == {*PUBLISHED, *elsewhere}


def test_camvid_as_it_is_published(tmp_path):
    """Flat folders; the split is by sequence and frame."""
    expected = {
        "train": ["0001TP_006690", "0001TP_008520", "0006R0_f00930", "0016E5_00390",
                  "0016E5_07920", "0016E5_08190", "0016E5_08640"],
        "val": ["0016E5_07959", "0016E5_08061", "0016E5_08159"],
        "test": ["0001TP_008550", "0001TP_010380", "Seq05VD_f00000"],
    }  # fmt: skip
    for name in (name for names in expected.values() for name in names):
        write(tmp_path / f"701_StillsRaw_full/{name}.png", *FRAME)
        write(tmp_path / f"LabeledApproved_full/{name}_L.png", *[(128, 64, 128)] * 4)
    for split, names in expected.items():
        dataset = load_dataset("camvid32", tmp_path, split)
        assert [frame.stem for frame, _ in dataset.pairs] == names
        assert dataset[0].label[0, 0] == 3
    assert len(load_dataset("camvid32", tmp_path, "train+val:!0006R0*")) == 9
    with pytest.raises(DatasetError, match="split 'trian', expected one of train, val, test"):
        load_dataset("camvid32", tmp_path, "trian")


@pytest.mark.skipif(not CAMVID_FOLDER, reason="BISENETV2_CAMVID is not set")
def test_the_published_split_of_camvid_is_the_one_of_the_copy_at_480x360():
    only = known_dataset("camvid32").layouts[1].only
    for split in ("train", "val"):
        for frame in Path(CAMVID_FOLDER, split, "images").iterdir():
            assert [s for s in only if _belongs(frame.stem, only[s]["name"])] == [split]


def test_rellis_takes_its_split_lists(tmp_path):
    for name in ("frame000000-1581624652_750", "frame000001-1581624652_949"):
        write(tmp_path / f"00000/pylon_camera_node/{name}.jpg", *FRAME)
        write(tmp_path / f"00000/pylon_camera_node_label_id/{name}.png", 3, 33, 0, 34)
    line = "00000/pylon_camera_node/{0}.jpg 00000/pylon_camera_node_label_id/{0}.png\n"
    (tmp_path / "train.lst").write_text(line.format("frame000001-1581624652_949"))
    (tmp_path / "val.lst").write_text("somewhere/else.jpg\n")
    dataset = load_dataset("rellis3d", tmp_path, "train")
    assert [frame.stem for frame, _ in dataset.pairs] == ["frame000001-1581624652_949"]
    names = dataset.labels.names
    assert [names[v] for v in dataset[0].label[0, [0, 1, 3]]] == ["grass", "mud", "rubble"]
    assert dataset[0].label[0, 2] == 255
    with pytest.raises(DatasetError, match=r"val.lst: 'somewhere/else.jpg', expected {sequence}"):
        load_dataset("rellis3d", tmp_path, "val")
    with pytest.raises(DatasetError, match=r"test.lst: missing, expected the list of"):
        load_dataset("rellis3d", tmp_path, "test")


def test_wilddash_takes_panoptic_labels(tmp_path):
    """Segment numbers in RGB, their categories in a JSON file."""
    write(tmp_path / "images/aa0001.jpg", *FRAME)
    write(tmp_path / "panoptic/aa0001.png", (7, 0, 0), (1, 2, 0), (0, 0, 3), (0, 0, 0))
    segments = {7: 38, 1 + 2 * 256: 26, 3 * 65536: 4}  # road marking, car, static
    info = [{"id": number, "category_id": value} for number, value in segments.items()]
    annotations = [{"file_name": "aa0001.png", "image_id": 1, "segments_info": info}]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": annotations}))
    label = load_dataset("wilddash", tmp_path, "val")[0].label
    assert label[0].tolist() == [0, 13, 255, 255]
    annotations[0]["segments_info"] = info[1:]
    (tmp_path / "panoptic.json").write_text(json.dumps({"annotations": annotations}))
    with pytest.raises(DatasetError, match=r"aa0001.png: segment 7 is not in .*panoptic.json"):
        load_dataset("wilddash", tmp_path, "val")[0]


# --- files of one's own ---------------------------------------------------------------------------

OWN = """
name: yard
splits: {train: a, val: b}
layouts:
  - frames: "{split}/{day}/rgb_{name}.png"
    labels: "{split}/{day}/id_{name}_*.png"
classes:
  - {name: ground, color: [1, 2, 3], values: [4, 5]}
  - {name: box, value: 255}
ignored: [0]
"""


def test_a_file_of_ones_own(tmp_path, capsys):
    (tmp_path / "yard.yaml").write_text(OWN)
    write(tmp_path / "data/a/monday/rgb_1.png", *FRAME)
    write(tmp_path / "data/a/monday/id_1_anna.png", 4, 5, 255, 0)
    kind = str(tmp_path / "yard.yaml")
    dataset = load_dataset(kind, tmp_path / "data", "train")
    assert dataset[0].label[0].tolist() == [0, 0, 1, 255]
    assert dataset.labels.palette[0] == (1, 2, 3) and dataset.labels.palette[1] != (1, 2, 3)
    write(tmp_path / "data/a/monday/id_2_anna.png", 4, 5, 255, 0)
    assert list(find_faults(dataset))[1].endswith("id_2_anna.png: a label without a frame")
    with pytest.raises(DatasetError, match=r"data/b: no such folder, expected b/{day}/rgb_{name}"):
        load_dataset(kind, tmp_path / "data", "val")
    assert cli.main(["datasets", kind]) == 0
    assert "2 classes (yard): ground, box" in capsys.readouterr().out


def test_two_labels_of_one_frame_are_refused_and_named(tmp_path):
    (tmp_path / "yard.yaml").write_text(OWN)
    monday = tmp_path / "data/a/monday"
    write(monday / "rgb_1.png", *FRAME)
    write(monday / "id_1_bert.png", 5, 5, 255, 0)
    write(monday / "._id_1_bert.png", 5, 5, 255, 0)  # a sidecar of macOS
    load = partial(load_dataset, str(tmp_path / "yard.yaml"), tmp_path / "data", "train")
    assert load()[0].label[0].tolist() == [0, 0, 1, 255]
    write(monday / "id_1_anna.png", 4, 5, 255, 0)
    both = f"{monday / 'id_1_anna.png'} and {monday / 'id_1_bert.png'}, expected one"
    with pytest.raises(DatasetError, match=re.escape(both)):
        load()


def test_brackets_in_names_are_no_pattern(tmp_path):
    (tmp_path / "yard.yaml").write_text(
        'layouts: [{frames: "day [1]/{name}.png", labels: "id [1]?/{name}*.png"}]\n'
        "classes: [ground, box]\n"
    )
    write(tmp_path / "data/day [1]/a[0-9].png", *FRAME)
    write(tmp_path / "data/id [1]?/a[0-9]_by_anna.png", 0, 1, 1, 255)
    dataset = load_dataset(str(tmp_path / "yard.yaml"), tmp_path / "data", "train")
    assert dataset[0].label[0].tolist() == [0, 1, 1, 255]


def test_labels_beside_their_frames_are_no_frames(tmp_path):
    """In one folder, with names that fit the pattern of the frames too, and odd characters."""
    (tmp_path / "yard.yaml").write_text(
        'layouts: [{frames: "day (1)/{name}.png", labels: "day (1)/{name}_mask.png"}]\n'
        "classes: [ground, box]\n"
    )
    for name in ("a", "b+c"):
        write(tmp_path / f"data/day (1)/{name}.png", *FRAME)
        write(tmp_path / f"data/day (1)/{name}_mask.png", 0, 1, 1, 255)
    dataset = load_dataset(str(tmp_path / "yard.yaml"), tmp_path / "data", "train")
    assert [dataset[i].name for i in range(len(dataset))] == ["a", "b+c"]
    assert [fault for fault in find_faults(dataset) if fault] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("classes:", "klasses:"), "klasses"),
        (("value: 255", "value: -1"), r"classes.1.value.*got '-1'"),
        (("ignored: [0]", "ignored: [5]"), "label value 5 is that of class 'ground' and ignored"),
        (("ignored: [0]", "ignored: [0]\nignore_index: 4"), "label value 4 is that of class"),
        (("name: box", "name: ground"), "names occur twice: ground"),
        (("value: 255", "value: 4"), "label value 4 is that of classes 'ground' and 'box'"),
        (("[1, 2, 3]", "[1, 2]"), "colo"),
        (("ignored: [0]", "without: [bx]"), "without: 'bx', expected the name of a class"),
        (("name: yard", "base: moon"), "moon: No such file"),
        (("layouts:", "layouts: []\nnotes:"), "notes"),
        (('"{split}/{day}/rgb', '"/data/{split}/{day}/rgb'), "frames: a path below the folder of"),
        (('"{split}/{day}/id', '"/data/{split}/{day}/id'), "labels: a path below the folder of"),
        (('"{split}/{day}/rgb', '"{split}\\\\{day}\\\\rgb'), "frames: folders are separated by /"),
        (("rgb_{name}", "rgb_{1}"), "frames: a placeholder is a word of letters, digits and _"),
        (("rgb_{name}", "rgb_{frame-name}"), "frames: a placeholder is a word of"),
        (("rgb_{name}", "rgb_{name"), "frames: a placeholder is a word of"),
        (("{split}/{day}/rgb", "{split}/**/rgb"), "frames: each folder on the way needs a placeh"),
        (
            ("classes:", "    only: {train: {scene: [a]}}\nclasses:"),
            "only: 'scene', expected a plac",
        ),
        (
            ("classes:", "    encoding: colors\nclasses:"),
            "class 'box' has none, expected a `colour",
        ),
        (("name: box", "name: yes"), r"classes.1.name: a name needs text, in quotes if it is yes"),
        (("name: box", "name: ''"), r"classes.1.name: a name needs text"),
        (("splits:", "splits: [a]\nsplits:"), r"not YAML: the key 'splits' twice.*\(line 4\)"),
        (("ignored: [0]", "ignored: [0"), r"not YAML: .*\(line \d+\)"),
    ],
)
def test_a_faulty_file_is_named(tmp_path, change, message):
    path = tmp_path / "yard.yaml"
    path.write_text(OWN.replace(*change))
    write(tmp_path / "a/monday/rgb_1.png", *FRAME)
    with pytest.raises(DatasetError, match=message) as error:
        load_dataset(str(path), tmp_path, "train")
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("id/*.png", r"id/a.png: the label of two frames, .*a.png and .*b.png, expected `labels:`"),
        ("id/{nam}.png", "the label of two frames"),
        ("rgb/{name}.png", "no frames: rgb/{name}.png names the frames themselves"),
    ],
)
def test_labels_that_do_not_tell_frames_apart(tmp_path, labels, message):
    """Each would be paired with the first label, and trained on it."""
    (tmp_path / "yard.yaml").write_text(
        f"classes: [ground, box]\nlayouts: [{{frames: 'rgb/{{name}}.png', labels: '{labels}'}}]\n"
    )
    for name in ("a", "b"):
        write(tmp_path / f"rgb/{name}.png", *FRAME)
        write(tmp_path / f"id/{name}.png", 0, 1, 1, 255)
    with pytest.raises(DatasetError, match=message):
        load_dataset(str(tmp_path / "yard.yaml"), tmp_path, "train")


def test_frames_of_which_a_split_takes_none_are_counted(tmp_path):
    (tmp_path / "yard.yaml").write_text(
        "classes: [ground, box]\nlayouts:\n  - frames: 'rgb/{name}.png'\n"
        "    labels: 'id/{name}.png'\n    only: {train: {name: ['day*']}}\n"
    )
    write(tmp_path / "rgb/night.png", *FRAME)
    with pytest.raises(
        DatasetError, match=r"1 frames as .*, none of which `only:` takes for train"
    ):
        load_dataset(str(tmp_path / "yard.yaml"), tmp_path, "train")


@pytest.mark.parametrize("place", ["", "    "], ids=["of all", "of the layout"])
@pytest.mark.parametrize("word", ["colors", "colours"])
def test_an_encoding_holds_for_layouts(tmp_path, place, word):
    (tmp_path / "yard.yaml").write_text(
        "layouts:\n  - frames: 'rgb/{name}.png'\n    labels: 'id/{name}.png'\n"
        f"{place}encoding: {word}\n"
        "classes: [{name: ground, color: [0, 0, 0]}, {name: box, color: [9, 0, 0]}]\n"
    )
    write(tmp_path / "rgb/a.png", *FRAME)
    write(tmp_path / "id/a.png", (0, 0, 0), (9, 0, 0), (9, 0, 0), (0, 0, 0))
    label = load_dataset(str(tmp_path / "yard.yaml"), tmp_path, "train")[0].label
    assert label[0].tolist() == [0, 1, 1, 0]


def test_a_folder_takes_classes_yml_too(tmp_path):
    (tmp_path / "classes.yml").write_text("classes: [path, grass]\n")
    write(tmp_path / "images/1.png", *FRAME)
    write(tmp_path / "labels/1.png", 0, 1, 1, 255)
    dataset = load_dataset("folder", tmp_path, "train")
    assert dataset.labels.names == ("path", "grass")
    (tmp_path / "classes.yaml").write_text("classes: [path, stone]\n")
    with pytest.raises(DatasetError, match=r"classes.yaml and classes.yml, expected one of them"):
        load_dataset("folder", tmp_path, "train")


def test_classes_may_be_names_alone(tmp_path):
    (tmp_path / "classes.yaml").write_text("classes: [path, grass, stone]\n")
    write(tmp_path / "images/1.png", *FRAME)
    write(tmp_path / "labels/1.png", 0, 2, 1, 255)
    dataset = load_dataset("folder", tmp_path, "train")
    assert dataset.labels.names == ("path", "grass", "stone")
    assert len(set(dataset.labels.palette)) == 3
    assert dataset[0].label[0].tolist() == [0, 2, 1, 255]


def test_a_file_of_ones_own_from_training_to_scores(tmp_path, monkeypatch, capsys):
    """Every verb that takes the name of a data set takes the path of a file."""
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    Path("yard.yaml").write_text(
        "splits: [train, val]\nclasses: [ground, box]\n"
        "layouts:\n  - {frames: 'rgb/{split}_{name}.png', labels: 'id/{split}_{name}.png'}\n"
    )
    rng = np.random.default_rng(0)
    for name in ("train_1", "train_2", "val_1"):
        for folder, pixels in (
            ("rgb", rng.integers(0, 256, (48, 64, 3), np.uint8)),
            ("id", rng.integers(0, 2, (48, 64), np.uint8)),
        ):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(f"data/{folder}/{name}.png", pixels)
    small = ("model.detail_channels=[16,16,16]", "model.head_channels=16", "model.boosters=[]")
    sizes = ("crop=[64,48]", "input_size=[64,48]", "batch_size=2", "workers=0", "synthetic=0")
    words = ("dataset=yard.yaml", "model.num_classes=2", "iterations=1", "warmup=0", *small, *sizes)
    train = ["train", "--config", "camvid_cpu", "--data", "data", "--output", "run"]
    assert cli.main([*train, *words]) == 0
    assert cli.main(["evaluate", "run", "--data", "data"]) == 0
    assert "yard.yaml, val split, 1 frames" in capsys.readouterr().out
    assert cli.main(["export", "run", "--frame-count", "2"]) == 0
    assert Path("bisenetv2_yard_64x48_float32.onnx").is_file()
