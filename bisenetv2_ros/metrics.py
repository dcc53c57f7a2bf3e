"""Agreement of masks with labels: confusion matrix, IoU, pixel accuracy. NumPy only.

Knows nothing of files, models or class names. The rules are those of cityscapesScripts
(evalPixelLevelSemanticLabeling.py): one matrix over the whole dataset, ignored label pixels are not
counted, a prediction without a class on a labeled pixel counts against that label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Scores of a confusion matrix, each 0..1, NaN if there is nothing to score."""

    iou: np.ndarray  #: (C,) float64, NaN for a class in neither labels nor predictions
    mean_iou: float  #: over the classes whose IoU is not NaN
    pixel_accuracy: float  #: fraction of labeled pixels predicted correctly


def confusion_matrix(
    truth: np.ndarray, prediction: np.ndarray, num_classes: int, ignore_index: int = 255
) -> np.ndarray:
    """Count pixels by label (row) and prediction (column): (C, C + 1) int64.

    The last column counts predictions outside 0..C-1 as misses. Matrices of several images add up.
    `truth` and `prediction` are integer arrays of the same shape. Raises ValueError if the shapes
    differ, or a label is neither in 0..C-1 nor `ignore_index`.
    """
    if truth.shape != prediction.shape:
        raise ValueError(
            f"labels and prediction differ in shape: {truth.shape} and {prediction.shape}"
        )
    labelled = truth != ignore_index
    rows = truth[labelled].astype(np.int64)
    columns = prediction[labelled].astype(np.int64)
    outside = (rows < 0) | (rows >= num_classes)
    if outside.any():
        raise ValueError(
            f"label value {rows[outside][0]} is neither 0..{num_classes - 1} "
            f"nor the ignored {ignore_index}"
        )
    columns[(columns < 0) | (columns >= num_classes)] = num_classes
    shape = (num_classes, num_classes + 1)
    flat = np.bincount(rows * shape[1] + columns, minlength=shape[0] * shape[1])
    return flat.reshape(shape).astype(np.int64, copy=False)


def scores(confusion: np.ndarray) -> Scores:
    """Score a matrix of `confusion_matrix`, or a (C, C) one; rows are labels."""
    classes = confusion.shape[0]
    hits = np.diagonal(confusion).astype(np.float64)
    labelled = confusion.sum(axis=1)
    union = labelled + confusion[:, :classes].sum(axis=0) - hits
    iou = np.divide(hits, union, out=np.full(classes, np.nan), where=union > 0)
    seen = iou[union > 0]
    total = labelled.sum()
    return Scores(
        iou=iou,
        mean_iou=float(seen.mean()) if seen.size else float("nan"),
        pixel_accuracy=float(hits.sum() / total) if total else float("nan"),
    )
