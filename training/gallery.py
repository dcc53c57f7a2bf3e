"""Sample frames with label and prediction, worst first."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.metrics import confusion_matrix, scores
from bisenetv2_ros.opencv import resize
from bisenetv2_ros.training.datasets import Sample
from bisenetv2_ros.training.evaluate import Mask
from bisenetv2_ros.visualization import colorize

PANEL_WIDTH = 320  # of each of the three images of a panel, pixels
GAP = 8  # between them


@dataclass(frozen=True)
class Example:
    """image (H, W, 3) RGB, label and mask (H, W) class indices, uint8; mean IoU of this frame."""

    name: str
    image: Mask
    label: Mask
    mask: Mask
    score: float


class Gallery:
    """Keeps the first samples, and the best and worst ones by mean IoU."""

    def __init__(self, labels: LabelSet, count: int = 4) -> None:
        self.labels = labels
        self.count = count
        self.first: list[Example] = []
        self.best: list[Example] = []
        self.worst: list[Example] = []

    def __call__(self, sample: Sample, mask: Mask) -> None:
        """Consider one sample and its mask."""
        labels = self.labels
        matrix = confusion_matrix(sample.label, mask, len(labels), labels.ignore_index)
        score = scores(matrix).mean_iou
        example = Example(sample.name, sample.image, sample.label, mask, score)
        if len(self.first) < self.count:
            self.first.append(example)
        if np.isfinite(score):  # there is something labeled
            self.best = sorted([*self.best, example], key=lambda e: -e.score)[: self.count]
            self.worst = sorted([*self.worst, example], key=lambda e: e.score)[: self.count]


def panel(example: Example, labels: LabelSet) -> Mask:
    """Compose input | truth | prediction, with white gaps, as (h, w, 3) uint8 RGB.

    Each image is PANEL_WIDTH wide. Pixels without a class are black.
    """
    height = max(1, round(PANEL_WIDTH * example.image.shape[0] / example.image.shape[1]))
    size = (PANEL_WIDTH, height)
    gap = np.full((height, GAP, 3), 255, np.uint8)
    truth, mask = (
        colorize(cv2.resize(classes, size, interpolation=cv2.INTER_NEAREST), labels)
        for classes in (example.label, example.mask)
    )
    image = resize(example.image, size, cv2.INTER_AREA)
    return np.concatenate([image, gap, truth, gap, mask], axis=1)
