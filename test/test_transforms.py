"""Augmentation: matrices by hand, statistics over many draws, image and label in step."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.training.transforms import (
    Augmentation,
    add_noise,
    cast_shadow,
    change_gamma,
    jitter_colours,
    mix_classes,
)


class Draws:
    """A generator whose draws are given: uniform and random numbers in turn, and the choice."""

    def __init__(self, *numbers: float, choice: float = 1.0) -> None:
        self.numbers = list(numbers)
        self.chosen = choice

    def uniform(self, low: float, high: float) -> float:
        return low + self.numbers.pop(0) * (high - low)

    def random(self) -> float:
        return self.numbers.pop(0)

    def choice(self, _: object) -> float:
        return self.chosen


def test_matrix_by_hand():
    augment = Augmentation(crop=(100, 50), scales=(2.0,))
    # a 200x100 frame at twice its size is 400x200: 300 and 150 pixels of room
    matrix = augment.draw_transform(200, 100, Draws(0.1, 0.5, 0.9, choice=2.0))
    assert matrix.tolist() == [[2, 0, 0.5 - 30], [0, 2, 0.5 - 75]]
    mirrored = augment.draw_transform(200, 100, Draws(0.1, 0.5, 0.1, choice=2.0))
    assert mirrored.tolist() == [[-2, 0, 99 - (0.5 - 30)], [0, 2, 0.5 - 75]]


def test_a_smaller_frame_lies_anywhere_inside_the_crop():
    augment = Augmentation(crop=(8, 8), flip=False, fill=(1, 2, 3), ignore_index=77)
    image, label = np.full((4, 4, 3), 200, np.uint8), np.full((4, 4), 5, np.uint8)
    result, labels = augment(image, label, Draws(0.5, 0.25))  # 2 pixels from left, 1 from top
    inside = np.zeros((8, 8), bool)
    inside[1:5, 2:6] = True
    assert (labels[inside] == 5).all() and (labels[~inside] == 77).all()
    assert (result[inside] == 200).all() and (result[~inside] == (1, 2, 3)).all()


def test_scale_one_and_no_room_changes_nothing():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    label = rng.integers(0, 11, (48, 64), np.uint8)
    augment = Augmentation(crop=(64, 48), flip=False)
    result, labels = augment(image, label, np.random.default_rng(1))
    assert np.array_equal(result, image) and np.array_equal(labels, label)
    mirrored = Augmentation(crop=(64, 48))(image, label, Draws(0.0, 0.0, 0.0))
    assert np.array_equal(mirrored[0], image[:, ::-1])
    assert np.array_equal(mirrored[1], label[:, ::-1])


def test_crops_are_cut_between_pixels():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (48, 64, 3), np.uint8)
    label = rng.integers(0, 11, (48, 64), np.uint8)
    augment = Augmentation(crop=(32, 24), flip=False)
    result, labels = augment(image, label, Draws(0.37, 0.61))  # of 32 and 24 pixels of room
    assert np.array_equal(result, image[15:39, 12:44])
    assert np.array_equal(labels, label[15:39, 12:44])


@pytest.mark.parametrize("mirror", [1, -1])
def test_frames_shrink_as_they_do_on_their_way_into_the_network(mirror):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (72, 96, 3), np.uint8)
    label = rng.integers(0, 11, (72, 96), np.uint8)
    draws = Draws(0.0, 0.0, 0.1, choice=1 / 3)
    augment = Augmentation(crop=(32, 24), flip=mirror < 0)
    result, labels = augment(image, label, draws)
    assert np.array_equal(result, resize_image(image, (32, 24))[:, ::mirror])
    assert np.array_equal(labels[:, ::mirror], label[1::3, 1::3])


def test_statistics_of_many_draws():
    scales = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    augment = Augmentation(crop=(96, 72), scales=scales)
    rng = np.random.default_rng(0)
    matrices = np.array([augment.draw_transform(96, 72, rng) for _ in range(6000)])
    drawn = np.abs(matrices[:, 0, 0])
    shares = [(drawn == scale).mean() for scale in scales]
    assert shares == pytest.approx([1 / 6] * 6, abs=0.02)  # 4 standard deviations
    assert (matrices[:, 0, 0] < 0).mean() == pytest.approx(0.5, abs=0.03)
    # at scale 2 the left edge of the crop is uniform over 0..96 pixels: mean 48, deviation 96/√12
    left = 0.5 - matrices[(matrices[:, 0, 0] == 2.0), 0, 2]
    assert left.min() >= 0 and left.max() <= 96
    assert left.mean() == pytest.approx(48, abs=5) and left.std() == pytest.approx(27.7, abs=2)
    top = 0.5 - matrices[drawn == 2.0, 1, 2]
    assert top.mean() == pytest.approx(36, abs=3) and top.std() == pytest.approx(20.8, abs=1.5)


def test_scale_range_is_uniform_in_the_logarithm():
    augment = Augmentation(crop=(96, 72), scales=(0.25, 1.0), scale_range=True)
    rng = np.random.default_rng(0)
    drawn = [abs(augment.draw_transform(96, 72, rng)[0, 0]) for _ in range(4000)]
    assert min(drawn) >= 0.25 and max(drawn) <= 1
    assert np.median(drawn) == pytest.approx(0.5, abs=0.02)  # the geometric mean
    assert np.log(drawn).std() == pytest.approx(np.log(4) / np.sqrt(12), abs=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_image_and_label_stay_in_step(seed):
    """A frame painted with its labels must show, away from edges, the colour of its new label."""
    rng = np.random.default_rng(seed)
    blobs = cv2.resize(3 * rng.integers(0, 4, (12, 16), np.uint8), (160, 120), interpolation=0)
    image = np.repeat(blobs[..., None] * 20, 3, axis=2)
    augment = Augmentation(crop=(128, 96), scales=(0.6, 2.0), scale_range=True, fill=(250,) * 3)
    result, label = augment(image, blobs, rng)
    expected = np.where(label == 255, 250, label * 20)
    steady = cv2.erode(label, np.ones((5, 5))) == cv2.dilate(label, np.ones((5, 5)))
    steady[[0, -1]] = steady[:, [0, -1]] = False  # there a frame's edge may end within a pixel
    assert steady.mean() > 0.2
    assert set(np.unique(label)) <= {*np.unique(blobs), 255}, "no class between two others"
    assert np.abs(result[..., 0].astype(int) - expected)[steady].max() <= 1
    # and on the edges themselves the two switch within half a pixel of each other
    assert (np.abs(result[..., 0].astype(int) - expected) <= 1).mean() > 0.8


def test_jitter_by_hand():
    image = np.full((2, 2, 3), 100, np.uint8)
    brighter = jitter_colours(image, 0.5, _Ones(1.5, 1.0, 1.0))
    assert (brighter == 150).all()
    # contrast stretches about the mean: 50 and 150 of mean 100 become 25 and 175
    image[0], image[1] = 50, 150
    stretched = jitter_colours(image, 0.5, _Ones(1.0, 1.5, 1.0))
    assert stretched[0, 0, 0] == 25 and stretched[1, 0, 0] == 175
    # contrast leaves the brightness that was just set
    both = jitter_colours(image, 0.5, _Ones(1.2, 0.5, 1.0))
    assert both.mean() == pytest.approx(120, abs=1)
    red = np.zeros((1, 1, 3), np.uint8)
    red[..., 0] = 200
    grey = jitter_colours(red, 1.0, _Ones(1.0, 1.0, 0.0))[0, 0]
    assert grey.tolist() == [60, 60, 60]  # 0.299 * 200


class _Ones:
    def __init__(self, *values: float) -> None:
        self.values = values

    def uniform(self, *_: object) -> tuple[float, ...]:
        return self.values


def test_the_generator_alone_decides():
    image, label = np.random.default_rng(0).integers(0, 9, (2, 64, 64), np.uint8)
    image = np.repeat(image[..., None], 3, axis=2)
    augment = Augmentation(crop=(32, 32), scales=(0.5, 2.0), scale_range=True, jitter=0.4)
    one, two, other = (augment(image, label, np.random.default_rng(s)) for s in (5, 5, 6))
    assert np.array_equal(one[0], two[0]) and np.array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0])


def noise_frame(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "change", [{"gamma": 0.5}, {"blur": 1.0}, {"noise": 8.0}, {"shadow": 1.0}], ids=str
)
def test_changes_of_appearance_leave_the_label_alone(change):
    image = noise_frame()
    label = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48)
    augment = Augmentation(crop=(48, 32), flip=False, **change)
    changed, same = augment(image, label, np.random.default_rng(1))
    assert (same == label).all()
    assert changed.dtype == np.uint8 and (changed != image).mean() > 0.3


def test_gamma_keeps_black_white_and_order():
    ramp = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)
    changed = change_gamma(ramp, 0.7, np.random.default_rng(3))[0, :, 0].astype(int)
    assert changed[0] == 0 and changed[255] == 255
    assert (np.diff(changed) >= 0).all()


def test_a_shadow_darkens_one_side_only():
    grey = np.full((60, 80, 3), 200, np.uint8)
    for seed in range(8):
        shaded = cast_shadow(grey, np.random.default_rng(seed))
        assert shaded.max() <= 200 and shaded.min() >= 200 * 0.4 - 1


def test_noise_has_the_deviation_asked_for():
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = add_noise(grey, 6.0, np.random.default_rng(0)).astype(float)
    assert noisy.std() == pytest.approx(6, rel=0.03) and noisy.mean() == pytest.approx(128, abs=0.1)


def test_class_mix_pastes_whole_classes_and_never_unlabelled_pixels():
    image, other = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 9, np.uint8)
    label = np.zeros((8, 8), np.uint8)
    other_label = np.repeat(np.uint8([1, 2, 3, 7]), 2)[:, None].repeat(8, axis=1)
    mixed, mixed_label = mix_classes(image, label, other, other_label, 7, np.random.default_rng(0))
    pasted = mixed_label != 0
    chosen = set(np.unique(mixed_label)) - {0}
    assert len(chosen) == 2 and chosen <= {1, 2, 3}
    assert (pasted == np.isin(other_label, list(chosen))).all()
    assert (mixed[pasted] == 9).all() and (mixed[~pasted] == 0).all()
