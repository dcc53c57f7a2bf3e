"""`bisenetv2 import-labels`: converts the export of an annotation tool to a dataset."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from bisenetv2_ros.cli import UserError, user_errors
from bisenetv2_ros.cli.options import DatasetFolder, OutputFolder

FORMS = ("cvat", "voc", "coco", "labelme", "label-studio", "roboflow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
formats, detected from the content:
  cvat          CVAT for images 1.1: annotations.xml with polygons and masks
  voc           Pascal VOC: SegmentationClass, labelmap.txt; CVAT's "Segmentation mask 1.1"
  coco          COCO JSON with polygons or run lengths, of any tool
  labelme       a JSON file beside each image
  label-studio  Label Studio's JSON with brushes or polygons; or its PNG export with --images: as
                many images as tasks, paired in the order of image names and task numbers
  roboflow      Roboflow's "Semantic Segmentation Masks": NAME_mask.png and _classes.csv

Writes a folder for `--dataset folder`: [SPLIT/]images, [SPLIT/]labels and classes.yaml. Label masks
need no import: see `bisenetv2 datasets folder`. Boxes, lines and points do not outline a region:
they are skipped and counted, and the exit code is then 1.

examples:
  bisenetv2 import-labels export.zip -o my_set --val 0.2
  bisenetv2 import-labels labels.json --images frames -o my_set --background grass
  bisenetv2 check-data --dataset folder --data my_set
"""
    parser.add_argument("export", type=Path, help="folder, .zip, or one .json or .xml file")
    parser.add_argument("-o", "--output", action=OutputFolder, required=True, help="folder to make")
    parser.add_argument(
        "--images", action=DatasetFolder, help="folder of the frames, if not in the export"
    )
    parser.add_argument(
        "--form", choices=FORMS, default="", help="format of the export (default: detected)"
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes.yaml with names, order and colors (default: those of the export)",
    )
    parser.add_argument(
        "--background",
        default="",
        metavar="CLASS",
        help="class of unlabeled pixels (default: they are ignored)",
    )

    parser.add_argument(
        "--val",
        type=_fraction,
        default=0.0,
        metavar="FRACTION",
        help="put this fraction of the frames, the last by name, into the split val and the others "
        "into train (default: the export's splits, or none)",
    )


def run(args: argparse.Namespace) -> int:
    """Import; 0 if everything was imported, 1 if something was left out."""
    from bisenetv2_ros.training.dataset_layouts import read_classes
    from bisenetv2_ros.training.datasets import DatasetError
    from bisenetv2_ros.training.label_imports import read_export, write_folder

    def skip(error: ValueError) -> None:
        print(f"bisenetv2 import-labels: skipped {error}", file=sys.stderr)

    with user_errors(DatasetError), tempfile.TemporaryDirectory() as scratch:
        root = args.export
        if root.suffix.lower() == ".zip" and root.is_file():
            root = _unpack(root, Path(scratch))
        labels = read_classes(args.classes) if args.classes else None
        export = read_export(root, args.images, args.form)
        labels, written = write_folder(export, args.output, labels, args.background, args.val, skip)
    splits = ", ".join(f"{n} {split}" if split else f"{n}" for split, n in written.frames.items())
    print(f"{args.output}: {splits or 'no'} frames of {export.form}, {len(labels)} classes")
    total = max(1, sum(written.pixels.values()))
    for name, pixels in written.pixels.items():
        print(f"  {name}: {pixels / total:.1%} of the labeled pixels")
    rest = f"are {args.background}" if args.background else "are ignored (--background CLASS)"
    print(f"pixels without a label {rest}")
    for note in export.notes:
        print(f"note: {note}", file=sys.stderr)
    for what, count in written.left_out.items():
        print(f"left out: {count} {what}", file=sys.stderr)
    harmless = {"frames without a label"}
    return 1 if set(written.left_out) - harmless else 0


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected between 0 and 1, such as 0.2")
    return value


def _unpack(path: Path, folder: Path) -> Path:
    """Unpack a zip file. Raises UserError if it is invalid, damaged, or would fill the disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            free = shutil.disk_usage(folder).free
            if size > free // 2:
                raise UserError(f"{path}: {size} bytes unpacked, expected at most {free // 2}")
            archive.extractall(folder)  # keeps everything below the folder
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be unpacked: {error}") from error
    return folder
