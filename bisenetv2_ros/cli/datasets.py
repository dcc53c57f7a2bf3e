"""`bisenetv2 datasets`: lists the known datasets, or describes one."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import user_errors

if TYPE_CHECKING:
    from bisenetv2_ros.training.dataset_files import DatasetFile

OWN = """\
folder: frames and labels of your own, as `--dataset folder --data DIR`
  DIR/classes.yaml                       the classes, see below
  DIR/[SPLIT/]images/*                   frames; also images/[SPLIT/]*, and folders below
  DIR/[SPLIT/]labels/*.png               named as the frames, optionally with a suffix such as _mask
                                         or _label; masks/ or annotations/ work as well
  Labels hold values (8- or 16-bit gray, palette, RGB or RGBA with equal channels) or the classes'
  colors. Without folders for splits, train and val are both the whole dataset.

classes.yaml:
  name: my_set
  ignore_index: 255                      label value that is ignored (default: 255)
  classes:                               in the order of their values, or with a value each
    - {name: path, colour: [128, 64, 128], value: 1}
    - {name: grass, colour: [0, 102, 0], value: 2}
    - stone                              the next value, a color is chosen

synthetic: no files, street scenes rendered by the package

any other layout: a YAML file like those in config/datasets, as `--dataset my_set.yaml`;
`bisenetv2 import-labels` makes a folder from exports of CVAT, Pascal VOC, COCO, labelme, Label
Studio and Roboflow
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 datasets                 one line each
  bisenetv2 datasets rugd            layout, classes, licence and where to get it
  bisenetv2 datasets folder          a dataset of your own
"""
    parser.add_argument("name", nargs="?", help="show this dataset: a name, or a YAML file")


def run(args: argparse.Namespace) -> int:
    """Print the list or one description."""
    from bisenetv2_ros.training.dataset_files import known_dataset, known_datasets
    from bisenetv2_ros.training.dataset_layouts import FOLDER, SYNTHETIC, dataset_file
    from bisenetv2_ros.training.datasets import DatasetError

    if args.name in (FOLDER, SYNTHETIC):
        print(OWN, end="")
        return 0
    with user_errors(DatasetError):
        if args.name:
            print(_describe(args.name, dataset_file(args.name)))
            return 0
        for name in known_datasets():
            content = known_dataset(name)
            print(f"{name:<20} {len(content.labels):>3} classes  {content.title}")
            print(f"{'':<33} licence: {content.licence}\n{'':<33} {content.where}")
    print(f"{FOLDER:<20}  your own frames and labels: `bisenetv2 datasets {FOLDER}`")
    print(f"{SYNTHETIC:<20}  11 classes  street scenes rendered by the package")
    return 0


def _describe(name: str, content: DatasetFile) -> str:
    labels = content.labels
    lines = [
        f"{name}: {content.title}",
        f"licence: {content.licence}",
        f"where: {content.where}",
        "described in: " + ", ".join(content.source),
        f"splits: {', '.join(content.splits)}",
        "expected in its folder, the first that is there:",
    ]
    for layout in content.layouts:
        shown = [f"  frames {layout.frames}", f"  labels {layout.labels}"]
        shown += [f"  split list {layout.names_in}"] if layout.names_in else []
        shown += [f"  segments {layout.panoptic}"] if layout.panoptic else []
        lines += [*shown, ""]
    lines.append(
        textwrap.fill(
            f"{len(labels)} classes ({labels.name}): {', '.join(labels.names)}",
            100,
            subsequent_indent="  ",
        )
    )
    return "\n".join(lines)
