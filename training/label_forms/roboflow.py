"""Roboflow's semantic masks: NAME.jpg, NAME_mask.png, and _classes.csv in each split."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np

from bisenetv2_ros.training.datasets import read_label
from bisenetv2_ros.training.label_forms.common import (
    Export,
    ImageFinder,
    LabelImportError,
    LabelledFrame,
    Paint,
    Pixels,
    add_name,
    class_of,
    list_files,
    split_of,
)


def read(root: Path, images: ImageFinder) -> Export:
    """Roboflow's semantic masks: NAME.jpg, NAME_mask.png, and _classes.csv in each split."""
    export = Export("Roboflow masks", [])
    for table in (path for path in list_files(root) if path.name == "_classes.csv"):
        values: dict[int, str] = {}
        with table.open(newline="", encoding="utf-8-sig") as lines:
            rows = [row for row in csv.reader(lines) if row]
            for row in rows[_is_heading(rows) :]:
                try:
                    values[int(row[0])] = row[1].strip()
                except (IndexError, ValueError) as error:
                    raise LabelImportError(
                        f"{table}: {row}, expected a value and a class"
                    ) from error
        for name in values.values():
            add_name(export, name)
        split = split_of(table, root)
        for path in sorted(table.parent.glob("*_mask.png")):
            name = path.name.removesuffix("_mask.png")
            file = images.find(f"{name}.*", table.parent)
            if file is None:
                export.left_out["labels whose image is missing"] += 1
                continue
            export.frames.append(LabelledFrame(file, name, split, _roboflow(path, values)))
    return export


def _is_heading(rows: list[list[str]]) -> bool:
    """Return whether the first row has the column names."""
    return bool(rows) and not rows[0][0].strip().isdecimal()


def _roboflow(path: Path, values: dict[int, str]) -> Paint:
    def paint(
        size: tuple[int, int], index: dict[str, int], start: int, left_out: Counter[str]
    ) -> Pixels:
        label = read_label(path)
        if label.ndim != 2:
            raise LabelImportError(
                f"{path}: a mask in colours, expected the values of _classes.csv"
            )
        table = np.full(65536, 254, np.uint8)
        for value, name in values.items():
            table[value] = class_of(name, index, str(path))
        wrong = ~np.isin(label, list(values))
        if wrong.any():
            raise LabelImportError(
                f"{path}: value {int(label[wrong][0])}, expected one of _classes.csv"
            )
        return table[label]

    return paint
