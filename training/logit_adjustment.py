"""Shifts the logits of each class, so that rare classes are not lost to frequent ones.

Training counts pixels and mean IoU counts classes, so an uncertain network says road rather than
pole. The shifts are those with the highest mean IoU on labeled frames, searched one class at a
time. They go into the bias of the last convolution and cost nothing at run time. Based on the
post-hoc logit adjustment of Menon et al. (arXiv 2007.07314, section 4), who derive them from the
classes' frequencies. Knows nothing of files or datasets.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bisenetv2_ros.metrics import confusion_matrix, scores
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.training.datasets import Sample
from bisenetv2_ros.training.export import DeployedModel

STRIDE = 4  # of the label pixels used, in both directions
LIMIT, STEP = 1.0, 1 / 16  # of a shift: the odds of a class change at most by a factor of e
ROUNDS = 10  # through the classes, at most; usually three to five


@dataclass(frozen=True)
class Adjustment:
    """The shifts, and their effect on the frames that they were computed on."""

    shifts: NDArray[np.float32]  #: (C,), for each class
    before: float  #: mean IoU, 0..1
    after: float


@torch.inference_mode()
def adjust_logits(
    deployed: DeployedModel,
    samples: Iterable[Sample],
    input_size: tuple[int, int],
    ignore_index: int,
) -> Adjustment:
    """Shift the logits of `deployed`, in place, for the highest mean IoU on `samples`.

    samples: labeled frames that training saw, some hundred. input_size: (width, height) that the
    network will run at. Raises ValueError if no pixel of them is labeled.
    """
    deployed.eval()
    logits, labels = [], []
    for sample in samples:
        image = np.ascontiguousarray(resize_image(sample.image, input_size))
        answer = deployed.logits(torch.from_numpy(image[None]))[0].numpy()
        rows, columns = (
            _nearest(of_label, of_network)
            for of_label, of_network in zip(sample.label.shape, answer.shape[1:], strict=True)
        )
        label = sample.label[::STRIDE, ::STRIDE]
        labelled = label != ignore_index
        logits.append(answer[:, rows[:, np.newaxis], columns][:, labelled])
        labels.append(label[labelled])
    if not sum(map(len, labels)):
        raise ValueError("no labeled pixel to adjust the logits on")
    adjustment = best_shifts(np.concatenate(logits, axis=1), np.concatenate(labels))
    last = deployed.network.head.classifier
    assert last.bias is not None
    copies = deployed.network.config.head_shuffle**2  # of each class, side by side
    last.bias += torch.from_numpy(adjustment.shifts).repeat_interleave(copies)
    return adjustment


def best_shifts(logits: NDArray[np.float32], labels: NDArray[np.uint8]) -> Adjustment:
    """Find the shifts for pixels with these logits (C, n) and labels (n,), 0..C-1."""
    classes = len(logits)
    logits = logits.copy()
    candidates = np.arange(-LIMIT, LIMIT + STEP / 2, STEP, dtype=np.float32)
    shape = (classes, classes, len(candidates) + 1)  # label, rival, first candidate above
    shifts = np.zeros(classes, np.float32)
    before = after = scores(confusion_matrix(labels, logits.argmax(0), classes)).mean_iou
    for _ in range(ROUNDS):
        at_the_start = after
        for one in range(classes):
            own = logits[one] - shifts[one]
            logits[one] = -np.inf
            rival = logits.argmax(0)
            margin = logits.max(0) - own
            # All candidates at once: a pixel is of this class from the first one above its margin.
            first = np.searchsorted(candidates, margin, side="right")
            cases = np.ravel_multi_index((labels, rival, first), shape)
            counts = np.bincount(cases, minlength=math.prod(shape)).reshape(shape)
            taken = counts.cumsum(axis=2)[..., :-1]
            confusion = counts.sum(axis=2, keepdims=True) - taken
            confusion[:, one] += taken.sum(axis=1)
            reached = [scores(matrix).mean_iou for matrix in np.moveaxis(confusion, 2, 0)]
            best = int(np.argmax(reached))
            if reached[best] > after:
                after, shifts[one] = reached[best], candidates[best]
            logits[one] = own + shifts[one]
        if after < at_the_start + 1e-5:
            break
    return Adjustment(shifts, before, after)


def _nearest(count: int, among: int) -> NDArray[np.int64]:
    """Map each STRIDE-th of `count` pixels to one of `among`, as `resize.resize_mask`."""
    return ((np.arange(0, count, STRIDE) + 0.5) * among / count).astype(np.int64)
