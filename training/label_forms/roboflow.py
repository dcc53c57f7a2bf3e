"""Roboflow's semantic masks: NAME.jpg, NAME_mask.png, and _classes.csv in each split."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

import numpy as np

from bisenetv2_ros.training.datasets import list_files, read_label
from bisenetv2_ros.training.label_forms.common import (
    Canvas,
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    split_of,
)


def read(root: Path, images: ImageFinder) -> Export:
    """Read the masks beside every _classes.csv."""
    export = Export("Roboflow masks")
    for table in (path for path in list_files(root) if path.name == "_classes.csv"):
        values: dict[int, str] = {}
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
        if rows and not rows[0][0].strip().isdecimal():
            del rows[0]  # the names of the columns
        for row in rows:
            try:
                values[int(row[0])] = row[1].strip()
            except (IndexError, ValueError) as error:
                raise LabelImportError(f"{table}: {row}, expected a value and a class") from error
        for name in values.values():
            export.add_name(name)
        split = split_of(table, root)
        for path in sorted(table.parent.glob("*_mask.png")):
            name = path.name.removesuffix("_mask.png")
            file = images.find(f"{name}.*", table.parent)
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            export.frames.append(LabelledFrame(file, name, split, partial(_paint, path, values)))
    return export


def _paint(path: Path, values: dict[int, str], canvas: Canvas) -> None:
    label = read_label(path)
    if label.ndim != 2:
        raise LabelImportError(f"{path}: a mask in colours, expected the values of _classes.csv")
    table = np.zeros(65536, np.uint8)
    for value, name in values.items():
        table[value] = canvas.index_of(name, path)
    wrong = ~np.isin(label, list(values))
    if wrong.any():
        raise LabelImportError(
            f"{path}: value {int(label[wrong][0])}, expected one of _classes.csv"
        )
    canvas.label = table[label]
