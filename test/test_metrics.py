"""Scores against values worked out by hand, and the rules for pixels that are no class."""

from __future__ import annotations

import numpy as np
import pytest

from bisenetv2_ros.metrics import confusion_matrix, scores


def test_hand_computed_example():
    truth = np.array([[0, 0, 1], [1, 2, 255]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)
    matrix = confusion_matrix(truth, prediction, num_classes=3)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 1, 0]]
    result = scores(matrix)
    assert result.iou.tolist() == pytest.approx([1 / 2, 2 / 3, 1.0])
    assert result.mean_iou == pytest.approx((1 / 2 + 2 / 3 + 1) / 3)
    assert result.pixel_accuracy == pytest.approx(4 / 5)


def test_ignored_pixels_are_no_false_positives():
    truth = np.array([0, 7, 7], np.uint8)
    prediction = np.array([0, 0, 1], np.uint8)
    result = scores(confusion_matrix(truth, prediction, num_classes=2, ignore_index=7))
    assert result.iou[0] == 1.0
    assert np.isnan(result.iou[1]), "class 1 was predicted on ignored pixels alone"
    assert result.mean_iou == 1.0 and result.pixel_accuracy == 1.0


def test_a_prediction_that_is_no_class_is_a_miss():
    truth = np.array([0, 0, 1, 1], np.uint8)
    prediction = np.array([0, 255, 1, 2], np.uint8)
    result = scores(confusion_matrix(truth, prediction, num_classes=2))
    assert result.iou.tolist() == [0.5, 0.5]
    assert result.pixel_accuracy == 0.5


def test_matrices_add_up_and_ints_do_not_overflow():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 200, (64, 64), np.uint8)
    prediction = rng.integers(0, 200, (64, 64), np.uint8)
    whole = confusion_matrix(truth, prediction, num_classes=200)
    halves = sum(
        confusion_matrix(truth[half], prediction[half], num_classes=200)
        for half in (np.s_[:32], np.s_[32:])
    )
    assert whole.dtype == np.int64 and whole.sum() == truth.size
    assert (whole == halves).all()
    assert whole[truth[0, 0], prediction[0, 0]] >= 1


def test_nothing_labelled_gives_nan_without_a_warning(recwarn):
    result = scores(confusion_matrix(np.full(4, 255), np.zeros(4, int), num_classes=2))
    assert np.isnan(result.mean_iou) and np.isnan(result.pixel_accuracy)
    assert not recwarn.list


def test_errors_name_what_was_received():
    with pytest.raises(ValueError, match=r"\(2,\) and \(3,\)"):
        confusion_matrix(np.zeros(2, int), np.zeros(3, int), num_classes=2)
    with pytest.raises(ValueError, match=r"label value 11 is neither 0\.\.10 nor the ignored 255"):
        confusion_matrix(np.array([11]), np.array([0]), num_classes=11)
