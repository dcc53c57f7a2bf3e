"""What `bisenetv2 check-data` says of a set as a whole, on rendered streets."""

from __future__ import annotations

import functools
import re
import shutil
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.street.scene import StreetScene
from bisenetv2_ros.training.dataset_layouts import load_dataset
from bisenetv2_ros.training.datasets import SCENE_SPLITS, DatasetError, check_labels

SIZE = (160, 120)
STREET = "classes: [sky, building, pole, road, pavement, tree, sign, fence, car, person, bicycle]\n"
COUNTS = {"train": 12, "val": 6}


@functools.cache
def street(seed: int, moment: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    return StreetScene(seed, SIZE).render(moment)


def write(root: Path, split: str, name: str, image: np.ndarray, label: np.ndarray) -> None:
    for kind, pixels in (("images", image), ("labels", label)):
        (root / split / kind).mkdir(parents=True, exist_ok=True)
        write_picture(root / split / kind / f"{name}.png", pixels)


def make(root: Path, scenes=None) -> Path:
    """A sound set: every frame is a street of its own."""
    (root / "classes.yaml").write_text(STREET)
    for number, (split, count) in enumerate(COUNTS.items()):
        for i in range(count):
            image, label = street(100 * number + i) if scenes is None else scenes(split, i)
            write(root, split, f"{split}_{i:03d}", image, label)
    return root


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def folder(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "set"))


def check(root: Path, *words: object, dataset: str = "folder") -> int:
    return cli.main(["check-data", "--dataset", dataset, "--data", str(root), *map(str, words)])


def each(folder: Path, kind: str, change, split: str = "*") -> None:
    """Replace every picture of a kind by what `change` makes of it."""
    for path in sorted(folder.glob(f"{split}/{kind}/*.png")):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), change(pixels))


def test_a_sound_set_has_no_faults(folder, capsys):
    assert check(folder) == 0
    printed = capsys.readouterr().out
    assert "train: 12 frames read\ntrain: sizes 160x120 (12)\n" in printed
    assert "no faults" in printed and "look at" not in printed
    values = [cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in folder.glob("train/labels/*.png")]
    labelled = np.concatenate([v[v < 11] for v in values])
    road = re.search(r"^road +([\d.]+) ", printed, re.M)
    assert float(road[1]) == pytest.approx(100 * (labelled == 3).mean(), abs=0.001)


def test_rendered_streets_have_no_faults(capsys, monkeypatch):
    monkeypatch.setitem(SCENE_SPLITS, "val", (5, 900_000))
    words = ("--dataset", "synthetic", "--split", "val")
    assert cli.main(["check-data", *words]) == 0, capsys.readouterr().out


def swap_two_splits(root: Path) -> None:
    """Every label to the frame after it."""
    labels = sorted(root.glob("train/labels/*.png"))
    data = [path.read_bytes() for path in labels]
    for path, content in zip(labels, [*data[-1:], *data[:-1]], strict=True):
        path.write_bytes(content)


def shuffle(root: Path) -> None:
    labels = sorted(root.glob("train/labels/*.png"))
    data = [path.read_bytes() for path in labels]
    for path, i in zip(labels, np.random.default_rng(3).permutation(len(labels)), strict=True):
        path.write_bytes(data[i])


def black_and_white(root: Path) -> None:
    each(root, "labels", lambda label: np.where(label == 3, 255, 0).astype(np.uint8))


def without_cars(root: Path) -> None:
    each(root, "labels", lambda label: np.where(label == 8, 255, label).astype(np.uint8), "train")


def sixteen_bits(root: Path) -> None:
    each(root, "images", lambda image: image.astype(np.uint16) * 16)


def transparent(root: Path) -> None:
    def change(image):
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        alpha[:5] = 0
        return np.concatenate([image, alpha], axis=2)

    each(root, "images", change)


def swap_red_and_blue(root: Path) -> None:
    each(root, "images", lambda image: image[..., ::-1])


def swap_red_and_blue_of_val(root: Path) -> None:
    each(root, "images", lambda image: image[..., ::-1], "val")


def the_same_frame_in_both(root: Path) -> None:
    for kind in ("images", "labels"):
        shutil.copy(root / f"train/{kind}/train_003.png", root / f"val/{kind}/val_900.png")


def the_same_frame_twice(root: Path) -> None:
    shutil.copy(root / "train/images/train_003.png", root / "train/images/train_900.png")
    shutil.copy(root / "train/labels/train_004.png", root / "train/labels/train_900.png")


def two_labels(root: Path) -> None:
    shutil.copy(root / "train/labels/train_003.png", root / "train/labels/train_003_mask.png")


def two_frames_of_a_label(root: Path) -> None:
    shutil.copy(root / "train/images/train_004.png", root / "train/images/train_003.bmp")


def a_frame_written_anew_in_both(root: Path) -> None:
    """The bytes differ, the pixels do not."""
    for kind in ("images", "labels"):
        pixels = cv2.imread(str(root / f"train/{kind}/train_003.png"), cv2.IMREAD_UNCHANGED)
        assert cv2.imwrite(str(root / f"val/{kind}/val_900.bmp"), pixels)


def white_of_one_class(root: Path) -> None:
    (root / "classes.yaml").write_text("classes: [road]\n")
    black_and_white(root)


def a_label_as_jpeg(root: Path) -> None:
    path = root / "train/labels/train_003.png"
    cv2.imwrite(str(path.with_suffix(".jpg")), cv2.imread(str(path), cv2.IMREAD_UNCHANGED))
    path.unlink()


FAULTS = {
    swap_two_splits: "train: paired wrongly: in 1[01] of 12 frames the label of the frame after",
    shuffle: r"train: paired wrongly: \d+ of \d+ times the label of another frame fits better",
    black_and_white: "train: the only label values are 0 and 255, expected those of 11 classes",
    without_cars: "train: no pixel of .*car.*, which cannot be learned",
    sixteen_bits: r"train_000.png: 16 bits a channel, training sees 8: its largest value \d{4} be",
    transparent: "train_000.png: has transparent pixels, of which training sees the color",
    swap_red_and_blue: r"train: in (\d+) of \1 frames with a colored sky it is redder than blue",
    swap_red_and_blue_of_val: "val: red and blue are swapped against train",
    white_of_one_class: "train: the only label values are 0 and 255, expected those of 1 class;",
    a_frame_written_anew_in_both: "val_900.bmp: the same image as .*train_003.png of train",
    the_same_frame_in_both: "val_900.png: the same image as .*train_003.png of train",
    the_same_frame_twice: "train_900.png: the same image as .*train_003.png, paired twice",
    two_frames_of_a_label: "train_003.png: the label of two frames, .*train_003.bmp and .*train_0",
    a_label_as_jpeg: "train_003.jpg: label map is a JPEG, which changes values",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_of_the_whole_set_is_named(folder, capsys, fault):
    fault(folder)
    assert check(folder) == 1
    printed = capsys.readouterr().out
    assert re.search(FAULTS[fault], printed), printed
    assert "no faults" not in printed


def test_two_labels_of_a_frame_are_named(folder, capsys):
    two_labels(folder)
    assert check(folder) == 2
    assert re.search(
        r"train_003.png: two labels, .*003.png and .*003_mask", capsys.readouterr().err
    )


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels to store so that a reader that honors the orientation sees `image`."""
    turns = {3: cv2.ROTATE_180, 6: cv2.ROTATE_90_COUNTERCLOCKWISE}
    return cv2.rotate(image, turns[orientation])


def write_with_exif(path: Path, pixels: np.ndarray, orientation: int) -> None:
    done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
    exif = b"Exif\0\0" + tiff
    path.write_bytes(
        data[:2].tobytes() + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        + data[2:].tobytes()
    )  # fmt: skip


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_frame_that_exif_turns_and_its_label_not(folder, capsys, orientation):
    """Of a turn by half the sizes are equal, and the pixels have to tell."""
    image, label = street(0)
    frame = folder / "train/images/train_000.jpg"
    (folder / "train/images/train_000.png").unlink()
    write_with_exif(frame, turned(image, orientation), orientation)
    assert check(folder) == 0, "frame and label are upright"
    write_picture(folder / "train/labels/train_000.png", turned(label, orientation))
    assert check(folder) == 1
    printed = capsys.readouterr().out
    assert re.search(rf"EXIF .*\(orientation {orientation}\), and .*label is not", printed)


def test_splits_that_are_neighbours_in_one_recording(tmp_path, capsys):
    (tmp_path / "classes.yaml").write_text(STREET)
    for number in range(18):
        image, label = street(7, 0.4 * number)
        write(tmp_path, "val" if number % 3 == 2 else "train", f"cam_{10 * number}", image, label)
    assert check(tmp_path) == 1
    assert "val: 6 of 6 frames are neighbors of frames of train" in capsys.readouterr().out


def test_numbers_that_interleave_are_no_neighbours_by_themselves(tmp_path, capsys):
    (tmp_path / "classes.yaml").write_text(STREET)
    for number in range(18):
        image, label = street(500 + number)
        write(tmp_path, "val" if number % 3 == 2 else "train", f"cam_{10 * number}", image, label)
    check(tmp_path)
    assert "neighbors" not in capsys.readouterr().out


def test_two_stretches_of_a_recording_are_no_neighbours(tmp_path, capsys):
    (tmp_path / "classes.yaml").write_text(STREET)
    for number in range(18):
        image, label = street(7, 0.4 * number)
        write(tmp_path, "val" if number >= 13 else "train", f"cam_{10 * number}", image, label)
    check(tmp_path)
    assert "neighbors" not in capsys.readouterr().out


@pytest.mark.parametrize("quality", [30, 95])
def test_a_frame_of_val_that_is_one_of_train_encoded_anew(folder, capsys, quality):
    image, label = street(3)
    half = cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    for name, pixels, percent in (("jpeg", image, quality), ("smaller", half, 95)):
        done, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, percent])
        assert done
        (folder / f"val/images/{name}.jpg").write_bytes(data.tobytes())
    write_picture(folder / "val/labels/jpeg.png", label)
    write_picture(folder / "val/labels/smaller.png", label[::2, ::2])
    assert check(folder) == 1
    printed = capsys.readouterr().out
    for name in ("jpeg", "smaller"):
        same = rf"val/images/{name}.jpg: the same image as .*train_003.png of train by"
        assert re.search(rf"{same} (9\d\.\d|100\.0)%", printed)
    assert printed.count("the same image as") == 2 and "2 faults" in printed


def test_neighbours_in_one_recording_whose_files_were_renamed(tmp_path, capsys):
    (tmp_path / "classes.yaml").write_text(STREET)
    names = np.random.default_rng(5).permutation(18)
    for number in range(18):
        image, label = street(7, 0.2 * number)
        split = "val" if number % 3 == 2 else "train"
        write(tmp_path, split, f"{'abcdefghijklmnopqr'[names[number]]}{split}", image, label)
    assert check(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "val: 6 of 6 frames show the same view as frames of train, such as " in printed


def test_streets_that_only_look_alike_are_no_neighbours(sound, capsys):
    assert check(sound) == 0
    assert "same" not in capsys.readouterr().out


def test_train_ids_under_the_name_of_label_ids(tmp_path, capsys):
    for i in range(3):
        name = f"ulm_00000{i}_000019"
        for kind, ending, pixels in (
            ("leftImg8bit", "leftImg8bit", street(i)[0]),
            ("gtFine", "gtFine_labelIds", np.minimum(street(i)[1], 18)),
        ):
            path = tmp_path / kind / "train/ulm" / f"{name}_{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_picture(path, pixels)
    assert check(tmp_path, "--split", "train", dataset="cityscapes") == 1
    printed = capsys.readouterr().out
    assert re.search(r"the label values are 0 to \d+, as the place .* \(train ids\)", printed)


def test_two_labels_that_are_swapped(folder, capsys):
    """Two of twelve, which counting alone does not show."""
    one, other = (folder / f"train/labels/train_{i:03d}.png" for i in (2, 9))
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    assert check(folder) == 1
    printed = capsys.readouterr().out
    assert re.search("train_002.png: paired wrongly: the label of .*train_009.png fits", printed)
    assert re.search("train_009.png: paired wrongly: the label of .*train_002.png fits", printed)
    assert "2 faults" in printed


def test_a_label_that_fits_worse_than_others_is_to_be_looked_at(folder, capsys):
    """One alone is no proof, and no fault."""
    path = folder / "train/labels/train_005.png"
    write_picture(path, cv2.rotate(street(5)[1], cv2.ROTATE_180))
    assert check(folder) == 0
    assert re.search("look at .*train_005.png: its label fits it worse", capsys.readouterr().out)


@pytest.mark.parametrize("name", ["sheet.png", "sheet.html", "sheet.jpg"])
def test_the_contact_sheet_shows_every_frame(folder, tmp_path, name):
    assert check(folder, "--sheet", tmp_path / name) == 0
    if name.endswith(".html"):
        page = (tmp_path / name).read_text()
        assert page.count("<figure>") == 18 and "train_011" in page and "pavement" in page
        assert page.count("data:image/jpeg;base64,") == 18
    else:
        sheet = cv2.imread(str(tmp_path / name))
        assert sheet.shape[1] == 4 * 320 and sheet.shape[0] > 5 * 240
        assert sheet[60:280, :320].std() > 20


def test_a_sheet_in_place_of_a_frame_is_refused(folder, tmp_path, capsys):
    frame = folder / "train/images/train_003.png"
    before = frame.read_bytes()
    (tmp_path / "link.png").hardlink_to(frame)
    for path in (frame, tmp_path / "link.png"):
        assert check(folder, "--sheet", path) == 2
        assert "would be overwritten" in capsys.readouterr().err
    assert frame.read_bytes() == before


def test_a_sheet_of_another_kind_is_refused(folder, tmp_path, capsys):
    assert check(folder, "--sheet", tmp_path / "sheet.pdf") == 2
    assert "expected a name that ends in .html, .png or .jpg" in capsys.readouterr().err


def test_every_label_is_looked_at_without_a_frame_being_read(folder):
    (folder / "train/labels/train_007.png").write_bytes(b"")
    (folder / "train/images/train_004.png").write_bytes(b"")
    (folder / "train/labels/train_002.png").unlink()
    errors: list[DatasetError] = []
    check_labels(load_dataset("folder", folder, "train"), errors.append)
    assert [Path(str(e).partition(": ")[0]).name for e in errors] == [
        "train_002.png", "train_007.png",
    ]  # fmt: skip
