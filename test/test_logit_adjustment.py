"""Shifts of the classes' logits: the best ones are found, and the network then has them."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch
from small_network import SIZE, small_network, street_frames

from bisenetv2_ros.metrics import confusion_matrix, scores
from bisenetv2_ros.training.datasets import Sample
from bisenetv2_ros.training.logit_adjustment import LIMIT, STEP, adjust_logits, best_shifts


def test_no_shift_of_one_class_is_better_than_those_found():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 3000, p=[0.7, 0.2, 0.08, 0.02]).astype(np.uint8)
    logits = rng.normal(size=(4, 3000)).astype(np.float32)
    logits[labels, np.arange(3000)] += 1.5
    logits[3] -= 1.0  # the rare class is as good as lost

    def mean_iou(shifts: np.ndarray) -> float:
        prediction = (logits + shifts[:, np.newaxis]).argmax(0)
        return scores(confusion_matrix(labels, prediction, 4)).mean_iou

    found = best_shifts(logits, labels)
    assert found.before == mean_iou(np.zeros(4, np.float32))
    assert found.after == pytest.approx(mean_iou(found.shifts), abs=1e-9)
    assert found.after > found.before + 0.02
    assert np.abs(found.shifts).max() <= LIMIT
    for one in range(4):
        for shift in np.arange(-LIMIT, LIMIT + STEP / 2, STEP):
            other = found.shifts.copy()
            other[one] = shift
            assert mean_iou(other) < found.after + 1e-4, (one, shift)


@pytest.mark.parametrize("shuffle", [1, 2])
def test_a_class_that_is_held_down_comes_back(shuffle: int):
    deployed = small_network(shuffle=shuffle)
    images = torch.from_numpy(np.stack(street_frames(4)))

    def masks() -> np.ndarray:
        with torch.no_grad():
            return deployed(images)[0].numpy()

    right = masks()
    frequent = int(np.bincount(right.ravel()).argmax())
    last = deployed.network.head[2]
    with torch.no_grad():
        last.bias[frequent * shuffle**2 : (frequent + 1) * shuffle**2] -= 10 * STEP
    held_down = np.mean(masks() == right)
    samples = [
        Sample(image, label, str(i))
        for i, (image, label) in enumerate(zip(street_frames(4), right, strict=True))
    ]
    right[0, :40] = 255  # not labelled, to be left out

    found = adjust_logits(deployed, samples, (192, 128), 255)

    assert found.before < found.after
    rest = np.delete(found.shifts, frequent)
    assert np.median(found.shifts[frequent] - rest) == pytest.approx(10 * STEP, abs=2 * STEP)
    assert np.mean(masks()[right != 255] == right[right != 255]) > max(0.97, held_down)


def test_nothing_labelled_is_an_error():
    sample = Sample(street_frames(1)[0], np.full((128, 192), 255, np.uint8), "empty")
    with pytest.raises(ValueError, match="no labeled pixel to adjust the logits on"):
        adjust_logits(small_network(), [sample], SIZE, 255)
