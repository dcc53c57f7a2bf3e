"""`bisenetv2 import-labels`: every form made by hand, whole and with each kind of fault."""

from __future__ import annotations

import base64
import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.files.annotations import write_cvat, write_labelme
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.training.data_check import find_faults
from bisenetv2_ros.training.dataset_layouts import load_dataset
from bisenetv2_ros.training.label_forms.common import LabelImportError
from bisenetv2_ros.training.label_forms.label_studio import decode_brush

WIDTH, HEIGHT = 12, 8
TOP, BOX = "grass", "stone"  # grass above, a stone of 4x3 at (2, 4), nothing else below

TRUTH = np.full((HEIGHT, WIDTH), 255, np.uint8)
TRUTH[:4] = 0
TRUTH[4:7, 2:6] = 1


def frame(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(path, np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return path


def runs(mask: np.ndarray) -> list[int]:
    """Lengths of off and on, in order."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return lengths if not flat[0] else [0, *lengths]


def bits(number: int, count: int) -> str:
    return f"{number:0{count}b}"


def brush(mask: np.ndarray) -> list[int]:
    """Label Studio's coding of a mask, written from its description; literal and repeated runs."""
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[mask] = (10, 20, 30, 255)
    flat = values.ravel()
    text = bits(flat.size, 32) + bits(7, 5) + "".join(bits(w - 1, 4) for w in (3, 4, 8, 16))
    at = 0
    while at < flat.size:
        end = at + 1
        while end < flat.size and flat[end] == flat[at] and end - at < 60000:
            end += 1
        if end - at >= 3:
            text += "1" + bits(3, 2) + bits(end - at - 1, 16) + bits(int(flat[at]), 8)
        else:
            end = min(at + 2, flat.size)
            text += "0" + bits(0, 2) + bits(end - at - 1, 3)
            text += "".join(bits(int(v), 8) for v in flat[at:end])
        at = end
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


# --- the forms ------------------------------------------------------------------------------------
# Polygons are through the centres of the outermost pixels.
GRASS_POLYGON = [(0, 0), (11, 0), (11, 3), (0, 3)]
STONE_POLYGON = [(2, 4), (5, 4), (5, 6), (2, 6)]


def cvat(root: Path) -> None:
    frame(root / "images/front/a.png")
    points = ";".join(f"{x},{y}" for x, y in GRASS_POLYGON)
    stone = TRUTH[4:7, 1:7] == 1
    (root / "annotations.xml").write_text(f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>
<label><name>grass</name><color>#00ff00</color></label>
<label><name>stone</name><color>#808080</color></label></labels></task></meta>
<image id="0" name="front/a.png" width="12" height="8">
<mask label="stone" rle="{", ".join(map(str, runs(stone)))}" left="1" top="4" width="6" height="3"
 z_order="1"></mask>
<polygon label="grass" points="{points}" z_order="0"></polygon>
</image></annotations>""")


def voc(root: Path) -> None:
    frame(root / "JPEGImages/a.jpg")
    (root / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ngrass:0,255,0::\n"
        "stone:128,128,128::\n"
    )
    table = np.zeros((256, 3), np.uint8)
    table[:2] = ((0, 255, 0), (128, 128, 128))
    frame(root / "SegmentationObject/a.png")
    (root / "SegmentationClass").mkdir(parents=True)
    write_picture(root / "SegmentationClass/a.png", table[TRUTH])
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/default.txt").write_text("a\n")


def coco(root: Path) -> None:
    """A polygon, and run lengths column by column, plain; edges of polygons are COCO's."""
    frame(root / "images/a.png")
    column_runs = runs((TRUTH == 1).T)
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 3, "name": "stone"}, {"id": 1, "name": "grass"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3,
             "segmentation": {"size": [HEIGHT, WIDTH], "counts": column_runs}},
            {"id": 2, "image_id": 7, "category_id": 1,
             "segmentation": [[0, 0, 12, 0, 12, 4, 0, 4]]},
        ],
    }  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations/instances_default.json").write_text(json.dumps(content))


def labelme(root: Path) -> None:
    frame(root / "a.png")
    stone = (TRUTH[4:7, 2:6] == 1).astype(np.uint8) * 255
    mask = base64.b64encode(cv2.imencode(".png", stone)[1].tobytes()).decode()
    shapes = [
        {"label": TOP, "points": GRASS_POLYGON, "shape_type": "polygon"},
        {"label": BOX, "points": [[2, 4], [5, 6]], "shape_type": "mask", "mask": mask},
    ]
    content = {"version": "5.5.0", "shapes": shapes, "imagePath": "a.png", "imageData": None}
    (root / "a.json").write_text(json.dumps(content))


def label_studio(root: Path) -> None:
    frame(root / "a.png")
    per_cent = [(100 * x / WIDTH, 100 * y / HEIGHT) for x, y in GRASS_POLYGON]
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    results = [
        {"type": "polygonlabels", **size, "value": {"points": per_cent, "polygonlabels": [TOP]}},
        {"type": "brushlabels", **size,
         "value": {"format": "rle", "rle": brush(TRUTH == 1), "brushlabels": [BOX]}},
    ]  # fmt: skip
    task = {
        "id": 1,
        "data": {"image": "/data/upload/1/0a1b2c3d-a.png"},
        "annotations": [{"result": results}],
    }
    (root / "project.json").write_text(json.dumps([task]))


def roboflow(root: Path) -> None:
    for split in ("train", "valid"):
        frame(root / split / "a_jpg.rf.0123.jpg")
        values = np.where(TRUTH == 255, 0, TRUTH + 1).astype(np.uint8)
        write_picture(root / split / "a_jpg.rf.0123_mask.png", values)
        table = "Pixel Value, Class\n0, background\n1, grass\n2, stone\n"
        (root / split / "_classes.csv").write_text(table)


FORMS = {
    "cvat": cvat, "voc": voc, "coco": coco, "labelme": labelme, "label-studio": label_studio,
    "roboflow": roboflow,
}  # fmt: skip


def import_labels(*words: object) -> int:
    return main(["import-labels", *map(str, words)])


@pytest.fixture(params=FORMS)
def export(request, tmp_path) -> Path:
    (tmp_path / "export").mkdir()
    FORMS[request.param](tmp_path / "export")
    return tmp_path / "export"


def test_every_form_gives_the_same_masks(export, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in export.rglob("*")}
    assert import_labels(export, "-o", tmp_path / "set") == 0
    dataset = load_dataset("folder", tmp_path / "set", "val")
    assert dataset.labels.names == ("grass", "stone")
    assert list(find_faults(dataset)) == [None]
    np.testing.assert_array_equal(dataset[0].label, TRUTH)
    assert {path: path.stat().st_mtime_ns for path in export.rglob("*")} == before


def test_every_form_in_a_zip_file_with_a_background(export, tmp_path):
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in export.rglob("*"):
            file.write(path, path.relative_to(export))
    assert import_labels(archive, "-o", tmp_path / "set", "--background", "floor") == 0
    dataset = load_dataset("folder", tmp_path / "set", "train")
    assert dataset.labels.names == ("floor", "grass", "stone")
    expected = np.where(TRUTH == 255, 0, TRUTH + 1)
    np.testing.assert_array_equal(dataset[0].label, expected)


def test_every_form_without_its_images(export, tmp_path, capsys):
    images = tmp_path / "frames"
    images.mkdir()
    for path in [*export.rglob("a.*"), *export.rglob("a_jpg*.jpg")]:
        if path.suffix in (".png", ".jpg") and "Segmentation" not in str(path):
            path.rename(images / path.name)
    assert import_labels(export, "-o", tmp_path / "set") == 2
    assert "no labeled frame" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()
    assert import_labels(export, "-o", tmp_path / "set", "--images", images) == 0
    np.testing.assert_array_equal(load_dataset("folder", tmp_path / "set", "val")[0].label, TRUTH)


def test_classes_of_ones_own_give_the_order(export, tmp_path, capsys):
    classes = tmp_path / "classes.yaml"
    classes.write_text("classes: [water, stone, {name: grass, colour: [1, 2, 3]}]\n")
    assert import_labels(export, "-o", tmp_path / "set", "--classes", classes) == 0
    dataset = load_dataset("folder", tmp_path / "set", "train")
    assert dataset.labels.palette[2] == (1, 2, 3)
    assert set(np.unique(dataset[0].label)) == {1, 2, 255}
    classes.write_text("classes: [water, stone]\n")
    assert import_labels(export, "-o", tmp_path / "other", "--classes", classes) == 2
    assert "has the class 'grass', expected one of water, stone" in capsys.readouterr().err


def test_nothing_is_overwritten(export, tmp_path, capsys):
    out = tmp_path / "set"
    frame(out / "images/mine.png")
    assert import_labels(export, "-o", out) == 2
    assert "is not empty, expected a new folder" in capsys.readouterr().err
    assert import_labels(export, "-o", export) == 2


def test_splits_are_kept(tmp_path):
    roboflow(tmp_path / "robo")
    assert import_labels(tmp_path / "robo", "-o", tmp_path / "a") == 0
    assert (tmp_path / "a/train/images/a_jpg.rf.0123.jpg").is_file()
    assert len(load_dataset("folder", tmp_path / "a", "val")) == 1
    voc(tmp_path / "voc")
    (tmp_path / "voc/ImageSets/Segmentation/val.txt").write_text("a\n")
    assert import_labels(tmp_path / "voc", "-o", tmp_path / "b") == 0
    assert (tmp_path / "b/val/labels/a.png").is_file()
    coco(tmp_path / "x")
    for split in ("train", "valid"):
        (tmp_path / "coco" / split).mkdir(parents=True)
        (tmp_path / "coco" / split / "_annotations.coco.json").write_bytes(
            (tmp_path / "x/annotations/instances_default.json").read_bytes()
        )
        frame(tmp_path / "coco" / split / "a.png")
    assert import_labels(tmp_path / "coco", "-o", tmp_path / "c") == 0
    assert (tmp_path / "c/val/labels/a.png").is_file()
    assert (tmp_path / "c/train/labels/a.png").is_file()


def test_the_last_stretch_becomes_val(tmp_path, capsys):
    """By the numbers in the names, whatever their length."""
    labelme(tmp_path / "e")
    content = json.loads((tmp_path / "e/a.json").read_text())
    for path in (tmp_path / "e").glob("a.*"):
        path.unlink()
    for number in (1, 2, 9, 10, 100):
        frame(tmp_path / f"e/f{number}.png")
        (tmp_path / f"e/f{number}.json").write_text(
            json.dumps(content | {"imagePath": f"f{number}.png"})
        )
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set", "--val", 0.4) == 0
    found = {
        split: sorted(path.stem for path in (tmp_path / "set" / split / "labels").iterdir())
        for split in ("train", "val")
    }
    assert found == {"train": ["f1", "f2", "f9"], "val": ["f10", "f100"]}
    roboflow(tmp_path / "robo")
    assert import_labels(tmp_path / "robo", "-o", tmp_path / "other", "--val", 0.4) == 2
    assert "has splits already" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        import_labels(tmp_path / "e", "-o", tmp_path / "third", "--val", 1.5)


def test_voc_without_a_labelmap_has_the_21_classes(tmp_path):
    """Masks with the challenge's palette; its white border is ignored."""
    from PIL import Image

    voc(tmp_path / "voc")
    (tmp_path / "voc/labelmap.txt").unlink()
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:4], label[4], label[5] = 15, 255, 7
    picture = Image.fromarray(label).convert("P")
    palette = np.zeros((256, 3), np.uint8)
    palette[7], palette[15], palette[255] = (128, 128, 128), (192, 128, 128), (224, 224, 192)
    picture.putpalette(palette.ravel().tolist())
    picture.save(tmp_path / "voc/SegmentationClass/a.png")
    assert import_labels(tmp_path / "voc", "-o", tmp_path / "set", "--background", "rest") == 0
    dataset = load_dataset("folder", tmp_path / "set", "train")
    names = dict(enumerate(dataset.labels.names))
    column = [names.get(int(v)) for v in dataset[0].label[[0, 4, 5, 6], 0]]
    assert column == ["person", None, "car", "rest"]


def test_coco_with_compressed_run_lengths_and_holes(tmp_path):
    from pycocotools import mask as tool

    coco(tmp_path)
    path = tmp_path / "annotations/instances_default.json"
    content = json.loads(path.read_text())
    ring = np.ones((HEIGHT, WIDTH), np.uint8)
    ring[2:6, 3:9] = 0
    encoded = tool.encode(np.asfortranarray(ring))
    counts = encoded["counts"].decode()
    content["annotations"][1]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": counts}
    path.write_text(json.dumps(content))
    assert import_labels(tmp_path / "annotations/..", "-o", tmp_path / "set") == 0
    expected = np.where(TRUTH == 1, 1, np.where(ring == 1, 0, 255))
    np.testing.assert_array_equal(
        load_dataset("folder", tmp_path / "set", "val")[0].label, expected
    )


def test_labelme_shapes_that_outline_a_region(tmp_path, capsys):
    labelme(tmp_path / "e")
    path = tmp_path / "e/a.json"
    content = json.loads(path.read_text())
    content["shapes"] = [
        {"label": "grass", "points": [[11, 3], [0, 0]], "shape_type": "rectangle"},
        {"label": "stone", "points": [[6, 5], [6, 7]], "shape_type": "circle"},
        {"label": "__ignore__", "points": [[0, 0], [1, 0], [1, 1]], "shape_type": "polygon"},
        {"label": "stone", "points": [[0, 0], [1, 0]], "shape_type": "line"},
    ]
    path.write_text(json.dumps(content))
    out = tmp_path / "set"
    assert import_labels(tmp_path / "e", "-o", out, "--background", "grass") == 1
    assert "left out: 1 line shapes, which outline no region" in capsys.readouterr().err
    label = load_dataset("folder", out, "train")[0].label
    assert label[5, 6] == 1 and label[7, 6] == 1 and label[3, 0] == 0 and label[7, 0] == 0
    assert label[0, 0] == 255


def test_there_and_back(tmp_path):
    """Pre-labels for CVAT and labelme, taken back as they are."""
    labels = LabelSet("yard", ("grass", "stone"), ((0, 255, 0), (128, 128, 128)))
    mask = np.full((60, 80), 255, np.uint8)
    cv2.circle(mask, (40, 30), 25, 0, -1)
    cv2.circle(mask, (40, 30), 12, 1, -1)
    images = tmp_path / "images"
    images.mkdir()
    write_picture(images / "a.png", np.zeros((60, 80, 3), np.uint8))
    write_cvat(tmp_path / "cvat.zip", ["a"], lambda name: mask, labels)
    assert import_labels(tmp_path / "cvat.zip", "--images", images, "-o", tmp_path / "set") == 0
    np.testing.assert_array_equal(load_dataset("folder", tmp_path / "set", "val")[0].label, mask)
    (tmp_path / "json").mkdir()
    assert write_labelme(tmp_path / "json/a.json", "../images/a.png", mask, labels) == 0
    assert import_labels(tmp_path / "json", "--images", images, "-o", tmp_path / "again") == 0
    again = load_dataset("folder", tmp_path / "again", "val")[0].label
    assert (again == mask).mean() > 0.97


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


COCO, STUDIO = "annotations/instances_default.json", "project.json"

#: form, file, what is replaced in it by what, and what is said
FAULTS = [
    ("cvat", "annotations.xml", "</image>", "", "annotations.xml: not XML"),
    ("cvat", "annotations.xml", "<annotations>", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>",
     "defines entities"),
    ("cvat", "annotations.xml", "front/a.png", "../../a.png", "leads out of the export"),
    ("cvat", "annotations.xml", 'width="6"', 'width="7"', "mask of 18 pixels, expected 7x3"),
    ("cvat", "annotations.xml", "11,0;", "x,0;", "expected x and y"),
    ("voc", "labelmap.txt", "128,128,128", "128,128,129",
     "colour (128, 128, 128), expected one of labelmap.txt"),
    ("voc", "labelmap.txt", "0,255,0", "green",
     "labelmap.txt: 'grass:green::', expected NAME:R,G,B"),
    ("coco", COCO, '"category_id": 3', '"category_id": 9', "category 9 is not in its categories"),
    ("coco", COCO, '"counts": [', '"counts": [9, ', "pixels, expected 96"),
    ("coco", COCO, '"file_name"', '"name"', "not COCO's JSON: KeyError('file_name')"),
    ("labelme", "a.json", "[[0, 0], [11, 0], [11, 3], [0, 3]]", "[[0, 0]]",
     "1 points, expected 3 or more"),
    ("labelme", "a.json", '"mask": "', '"mask": "AAAA', "a mask that is no PNG"),
    ("label-studio", STUDIO, '"rle": [', '"rle": [1, ', "rle of "),
    ("label-studio", STUDIO, '"rle": [', '"rle": [-1, ', "expected bytes"),
    ("label-studio", STUDIO, '"original_width": 12', '"original_width": 13',
     "a brush of 13x8, expected the frame's 12x8"),
    ("roboflow", "train/_classes.csv", "2, stone", "3, stone",
     "value 2, expected one of _classes.csv"),
    ("roboflow", "train/_classes.csv", "2, stone", "two", "expected a value and a class"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "file", "old", "new", "message"), FAULTS)
def test_a_fault_is_one_line_that_names_the_file(tmp_path, capsys, form, file, old, new, message):
    root = tmp_path / "export"
    root.mkdir()
    FORMS[form](root)
    edit(root / file, old, new)
    assert import_labels(root, "-o", tmp_path / "set") in (1, 2)
    error = capsys.readouterr().err
    line = next(line for line in error.splitlines() if message in line)
    assert str(root) in line


def test_a_label_of_another_size_is_left_out_and_said(tmp_path, capsys):
    voc(tmp_path / "e")
    frame(tmp_path / "e/JPEGImages/b.jpg")
    write_picture(tmp_path / "e/SegmentationClass/b.png", np.zeros((4, 4, 3), np.uint8))
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 1
    error = capsys.readouterr().err
    assert "b.jpg: label is 4x4, expected the frame's 12x8" in error
    assert "left out: 1 damaged frames" in error
    assert len(load_dataset("folder", tmp_path / "set", "train")) == 1


@pytest.mark.parametrize("cut", [0, 3, 9, 30])
def test_a_cut_brush_is_refused(cut):
    whole = brush(TRUTH == 1)
    np.testing.assert_array_equal(decode_brush(whole, (HEIGHT, WIDTH)), TRUTH == 1)
    with pytest.raises(LabelImportError):
        decode_brush(whole[:cut], (HEIGHT, WIDTH))


def test_label_studios_png_export_lacks_the_images_names(tmp_path, capsys):
    frame(tmp_path / "e/task-3-annotation-7-by-1-tag-grass-0.png")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 2
    assert "expected its JSON export" in capsys.readouterr().err


def test_label_studios_png_export_is_paired_in_order_and_said(tmp_path, capsys):
    for name in ("img_2.png", "img_10.png"):
        frame(tmp_path / "images" / name)
    prefix = tmp_path / "e/task-"
    prefix.parent.mkdir()
    masks = {
        "9-annotation-30-by-a@b.org-tag-grass-0": TRUTH == 0,
        "9-annotation-30-by-a@b.org-tag-stone-0": TRUTH == 1,
        "10-annotation-2-by-1-tag-grass-0": np.ones_like(TRUTH),
        "10-annotation-2-by-1-tag-stone-1": TRUTH == 1,
    }
    for name, mask in masks.items():
        write_picture(Path(f"{prefix}{name}.png"), mask.astype(np.uint8) * 255)
    words = (tmp_path / "e", "--images", tmp_path / "images", "-o")
    assert import_labels(*words, tmp_path / "set") == 0
    assert "from task 9, img_2.png, to task 10, img_10.png" in capsys.readouterr().err
    for name, truth in (("img_2", TRUTH), ("img_10", np.where(TRUTH == 1, 1, 0))):
        found = cv2.imread(str(tmp_path / f"set/labels/{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(found, truth)
    frame(tmp_path / "images/img_11.png")
    assert import_labels(*words, tmp_path / "other") == 2
    error = capsys.readouterr().err
    assert "2 tasks and 3 images, expected its JSON export, or as many images" in error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["nothing", "empty", "broken.zip"])
def test_what_is_no_export_is_said(tmp_path, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 and no more")
    assert import_labels(tmp_path / name, "-o", tmp_path / "set") == 2
    assert name in capsys.readouterr().err


# --- exports as people have them ------------------------------------------------------------------


def rewrite(path: Path, change) -> None:
    """Change a JSON file's content in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def imported(out: Path) -> np.ndarray:
    return load_dataset("folder", out, "val")[0].label


def resized(form: str, root: Path) -> None:
    """The export was made for images of twice the size."""
    if form == "cvat":
        edit(root / "annotations.xml", 'width="12" height="8"', 'width="24" height="16"')
    elif form == "coco":
        rewrite(root / COCO, lambda c: c["images"][0].update(width=24, height=16))
    else:
        rewrite(root / "a.json", lambda c: c.update(imageWidth=24, imageHeight=16))


@pytest.mark.parametrize("form", ["cvat", "coco", "labelme"])
def test_labels_for_images_of_another_size_are_refused(tmp_path, capsys, form):
    """Their outlines would lie in the wrong place, and nothing would tell."""
    (tmp_path / "e").mkdir()
    FORMS[form](tmp_path / "e")
    resized(form, tmp_path / "e")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 1
    error = capsys.readouterr().err
    assert "the frame is 12x8, expected the 24x16 for which the export has labels" in error
    assert not (tmp_path / "set/classes.yaml").exists(), "so that the folder can be used again"


@pytest.mark.parametrize("form", ["coco", "labelme", "label-studio"])
def test_labels_of_the_frame_before_it_was_turned_are_refused(tmp_path, capsys, form):
    from PIL import Image

    (tmp_path / "e").mkdir()
    FORMS[form](tmp_path / "e")
    path = next((tmp_path / "e").rglob("a.png"))
    exif = Image.Exif()
    exif[274] = 6
    Image.open(path).convert("RGB").save(path, exif=exif)
    if form == "labelme":
        rewrite(tmp_path / "e/a.json", lambda c: c.update(imageWidth=12, imageHeight=8))
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 1
    assert "turned" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["cvat", "coco", "labelme", "label-studio"])
def test_an_outline_of_two_points_costs_that_outline_only(tmp_path, capsys, form):
    root = tmp_path / "e"
    root.mkdir()
    FORMS[form](root)
    if form == "cvat":
        line = '<polygon label="stone" points="1,1;2,2" z_order="2"/></image>'
        edit(root / "annotations.xml", "</image>", line)
    elif form == "coco":
        rewrite(root / COCO, lambda c: c["annotations"][1]["segmentation"].append([1, 1, 2, 2]))
    elif form == "labelme":
        line = {"label": "stone", "points": [[1, 1], [2, 2]], "shape_type": "polygon"}
        rewrite(root / "a.json", lambda c: c["shapes"].append(line))
    else:
        value = {"points": [[1, 1], [2, 2]], "polygonlabels": ["stone"]}
        rewrite(root / STUDIO, lambda c: c[0]["annotations"][0]["result"].append({"value": value}))
    assert import_labels(root, "-o", tmp_path / "set") == 1
    assert "left out: 1 outlines of 2 points, expected 3 or more" in capsys.readouterr().err
    np.testing.assert_array_equal(imported(tmp_path / "set"), TRUTH)


def test_coco_ids_as_text_and_annotations_of_no_image(tmp_path, capsys):
    coco(tmp_path / "e")

    def change(content):
        for annotation in content["annotations"]:
            annotation["image_id"] = "7"
        content["annotations"].append({**content["annotations"][0], "image_id": 99})

    rewrite(tmp_path / "e" / COCO, change)
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 1
    said = capsys.readouterr().err
    assert "left out: 1 annotations of images that are not listed" in said
    np.testing.assert_array_equal(imported(tmp_path / "set"), TRUTH)


@pytest.mark.parametrize("name", ["/home/me/a.png", "C:\\\\Users\\\\me\\\\a.png", "C:/me/a.png"])
def test_of_an_absolute_path_the_files_name_is_taken(tmp_path, name):
    coco(tmp_path / "e")
    edit(tmp_path / "e" / COCO, '"a.png"', f'"{name}"')
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 0
    assert (tmp_path / "set/labels/a.png").is_file()


def test_cocos_panoptic_form_is_named(tmp_path, capsys):
    coco(tmp_path / "e")
    segments = {"image_id": 7, "file_name": "a.png", "segments_info": []}
    rewrite(tmp_path / "e" / COCO, lambda c: c.update(annotations=[segments]))
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 2
    assert "COCO's panoptic form, expected polygons" in capsys.readouterr().err


@pytest.mark.parametrize("masks", ["palette", "values", "colours"])
def test_voc_labelmap_without_colours(tmp_path, masks):
    """Then the classes have the challenge's colours, in their order, and borders are ignored."""
    from PIL import Image

    voc(tmp_path / "e")
    (tmp_path / "e/labelmap.txt").write_text("background:::\ngrass:::\nstone:::\n")
    label = np.where(TRUTH == 255, 0, TRUTH + 1).astype(np.uint8)
    label[7] = 255
    picture = Image.fromarray(label)
    if masks != "values":
        palette = np.zeros((256, 3), np.uint8)
        palette[1], palette[2], palette[255] = (128, 0, 0), (0, 128, 0), (224, 224, 192)
        picture.putpalette(palette.ravel().tolist())
    if masks == "colours":
        picture = picture.convert("RGB")
    picture.save(tmp_path / "e/SegmentationClass/a.png")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set", "--background", "stone") == 0
    expected = np.where(TRUTH == 255, 1, TRUTH)
    expected[7] = 255
    label = imported(tmp_path / "set")
    np.testing.assert_array_equal(label, expected)


def test_the_challenges_border_is_ignored_beside_a_labelmap(tmp_path):
    voc(tmp_path / "e")
    path = tmp_path / "e/SegmentationClass/a.png"
    picture = cv2.imread(str(path))
    picture[3] = (192, 224, 224)
    cv2.imwrite(str(path), picture)
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set", "--background", "stone") == 0
    assert set(np.unique(imported(tmp_path / "set")[3])) == {255}


def test_voc_masks_that_are_no_png_are_said(tmp_path, capsys):
    voc(tmp_path / "e")
    (tmp_path / "e/SegmentationClass/a.png").rename(tmp_path / "e/SegmentationClass/a.jpg")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 2
    assert "1 .jpg files in SegmentationClass, expected PNG" in capsys.readouterr().err


def test_cvats_tracks_of_a_video_are_said(tmp_path, capsys):
    cvat(tmp_path / "e")
    edit(tmp_path / "e/annotations.xml", "</annotations>", "<track/></annotations>")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 1
    assert "left out: 1 tracks of CVAT for video" in capsys.readouterr().err


def test_labelme_with_the_image_in_it_and_four_corners(tmp_path):
    """As labelme saves by default, and as tools that turn rectangles do; with Windows' mark."""
    labelme(tmp_path / "e")
    data = (tmp_path / "e/a.png").read_bytes()
    (tmp_path / "e/a.png").unlink()

    def change(content):
        content["imageData"] = base64.b64encode(data).decode()
        content["shapes"][0]["shape_type"] = "rectangle"
        content["shapes"][1] = {
            "label": "stone", "points": STONE_POLYGON, "shape_type": "oriented_rectangle",
        }  # fmt: skip

    rewrite(tmp_path / "e/a.json", change)
    path = tmp_path / "e/a.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 0
    assert (tmp_path / "set/images/a.png").read_bytes() == data
    np.testing.assert_array_equal(imported(tmp_path / "set"), TRUTH)


def test_label_studios_task_with_a_text_beside_the_image(tmp_path):
    (tmp_path / "e").mkdir()
    label_studio(tmp_path / "e")
    rewrite(
        tmp_path / "e" / STUDIO,
        lambda c: c[0].update(data={"text": "at noon. Wet/dry", "image": "s3://bucket/a.png?v=1"}),
    )
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 0


@pytest.mark.parametrize("table", ["0, background\n1, grass\n2, stone\n",
                                   "\ufeffPixel Value, Class\r\n0, background\r\n\r\n1, grass\r\n"
                                   "2, stone\r\n\r\n"])  # fmt: skip
def test_roboflows_table_without_a_heading_or_with_empty_lines(tmp_path, table):
    roboflow(tmp_path / "e")
    for split in ("train", "valid"):
        (tmp_path / f"e/{split}/_classes.csv").write_text(table, encoding="utf-8", newline="")
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 0
    np.testing.assert_array_equal(imported(tmp_path / "set"), TRUTH)


def test_names_with_accents_in_two_forms_are_one(tmp_path):
    """macOS stores an accent as a character of its own, exports do not."""
    labelme(tmp_path / "e")
    (tmp_path / "e/a.png").rename(tmp_path / "e/Gru\u0308n.png")
    rewrite(tmp_path / "e/a.json", lambda c: c.update(imagePath="Gr\u00fcn.png"))
    assert import_labels(tmp_path / "e", "-o", tmp_path / "set") == 0
