"""The synthetic street: its mask fits its picture, it has every class, it never ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.street import parts
from bisenetv2_ros.street.parts import Wall
from bisenetv2_ros.street.scene import StreetScene
from bisenetv2_ros.street.street import BANDS, SPEED

SIZE = (320, 240)


def test_class_ids_are_those_of_camvid():
    ids = {
        "sky": parts.SKY, "building": parts.BUILDING, "pole": parts.POLE, "road": parts.ROAD,
        "pavement": parts.PAVEMENT, "tree": parts.TREE, "sign-symbol": parts.SIGN,
        "fence": parts.FENCE, "car": parts.CAR, "pedestrian": parts.PEDESTRIAN,
        "bicyclist": parts.BICYCLIST,
    }  # fmt: skip
    assert ids == {name: index for index, name in enumerate(CAMVID.names)}


@pytest.mark.parametrize("size", [(480, 360), (33, 47)])
def test_picture_and_mask_have_the_size_asked_for(size):
    rgb, label = StreetScene(1, size).render(2.0)
    assert (rgb.shape, rgb.dtype) == ((size[1], size[0], 3), np.uint8)
    assert (label.shape, label.dtype) == ((size[1], size[0]), np.uint8)
    assert label.max() <= 10


def test_a_moment_looks_the_same_whatever_was_rendered_before():
    wanderer = StreetScene(5, SIZE)
    for t in (0.0, 90.0, 3.1):
        wanderer.render(t)
    fresh = StreetScene(5, SIZE).render(np.float64(7.7))
    for ours, theirs in zip(wanderer.render(7.7), fresh, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_seeds_and_moments_differ():
    pictures = [StreetScene(seed, SIZE).render(t)[0] for seed, t in ((0, 0.0), (1, 0.0), (0, 0.5))]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = np.abs(pictures[i].astype(int) - pictures[j].astype(int)).mean()
        assert difference > 5


def test_most_streets_show_every_class_within_five_seconds():
    full = 0
    for seed in range(10):
        scene = StreetScene(seed, SIZE)
        labels = np.stack([scene.render(t)[1] for t in (0.0, 2.5, 5.0)])
        # twenty pixels are a thing that one can see
        full += bool((np.bincount(labels.ravel(), minlength=11) > 20).all())
    assert full >= 8


def test_the_street_has_no_end_and_keeps_no_history():
    scene = StreetScene(2, SIZE)
    for t in (1e3, 1e5, 1e6):
        classes = np.unique(scene.render(t)[1])
        assert {parts.SKY, parts.ROAD, parts.CAR} <= set(classes.tolist())
    cache = scene._slot.cache_info()
    assert cache.currsize <= cache.maxsize


def test_what_stands_at_the_roadside_comes_nearer_at_the_cameras_speed():
    scene = StreetScene(3, SIZE)
    posts = (3,)
    before = {id(what): z for z, what in scene._visible(posts, 0.0)}
    after = {id(what): z for z, what in scene._visible(posts, 2.0)}
    common = before.keys() & after.keys()
    assert len(common) > 5
    assert all(before[post] - after[post] == pytest.approx(2 * SPEED) for post in common)


@pytest.mark.parametrize("seed", [1, 2, 9])
def test_every_thing_paints_exactly_the_pixels_that_it_labels(seed):
    """Each thing is drawn alone on an empty canvas, so any pixel that differs is its own."""
    scene = StreetScene(seed, SIZE)
    # Bright haze, because black paint could not be told from the empty canvas.
    scene._low = np.full(3, 250.0)
    scene._fog_range = 30.0
    compared = 0
    for band in BANDS:
        for z, what in scene._visible(band, 1.0):
            rgb, label = np.zeros((SIZE[1], SIZE[0], 3), np.uint8), np.full(SIZE[::-1], 255, "u1")
            see_through = False
            if isinstance(what, Wall):
                scene._draw_wall(rgb, label, what, z)
                see_through = what.label == parts.FENCE
            else:
                scene._draw_thing(rgb, label, what, z, 1.0)
                see_through = what.sprite is not None and what.sprite.drawn > 127
            painted, labelled = rgb.any(axis=2), label != 255
            if z < 2:
                continue  # too near for haze
            if see_through:  # the air between bars and twigs is labelled, not painted
                assert not (painted & ~labelled).any()
            else:
                np.testing.assert_array_equal(painted, labelled)
            compared += int(labelled.sum())
    assert compared > 10_000


@pytest.mark.parametrize("seed", range(4))
def test_bands_are_painted_from_the_outside_of_the_street_inward(seed):
    """What is painted later is nearer to the road's middle, so no ray meets it second."""
    scene = StreetScene(seed, SIZE)
    for side in (-1, 1):
        places = [[side * what.x for _, what in scene._visible(band, 0.0)] for band in BANDS]
        places = [[x for x in band if x > 0] for band in places]
        bands = [band for band in places if band]
        assert len(bands) >= 3
        for outer, inner in pairwise(bands):
            assert min(outer) >= max(inner)


@pytest.mark.parametrize(
    ("seed", "size", "word"), [(0, (16, 100), "size"), (0, (100, 31), "size"), (-1, SIZE, "seed")]
)
def test_what_cannot_be_rendered_is_refused(seed, size, word):
    with pytest.raises(ValueError, match=word):
        StreetScene(seed, size)


def test_rendering_is_quick_enough_for_a_camera():
    """About 15 ms for 480x360 on one core; counted in Gaussian blurs of the same machine."""
    size = (480, 360)
    scene = StreetScene(3, size)
    noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)

    def cost(work: Callable[[int], object]) -> float:
        """Median CPU seconds."""
        durations = []
        for index in range(20):
            start = time.process_time()
            work(index)
            durations.append(time.process_time() - start)
        return float(np.median(durations))

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        blur = cost(lambda _: cv2.GaussianBlur(noise, (0, 0), 5.0))
        rendering = cost(lambda index: scene.render(index / 15))
    finally:
        cv2.setNumThreads(threads)
    print(f"{rendering / blur:.1f} blurs of {1000 * blur:.1f} ms")
    assert rendering < 20 * blur
