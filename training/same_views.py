"""Finds frames of two splits that show the same: reencoded copies, and neighbors in time.

File names and hashes show neither. Frames that look alike when shrunk are compared in detail:

- A copy has the same fine detail: the correlation of both images without their coarse shading.
  On CamVid it is 0.99 and more for JPEG of quality 10 to 90, at most 0.947 for the next frame of a
  moving camera, 1/15 s later. A camera that stands still gives copies too.
- The same view has many corners (ORB) that a shift, rotation and scaling map onto each other.
  On CamVid there are 115 to 181 of 400 for frames 0.27 s apart, 7 to 156 for most 2 s apart, and
  none to 9 for two places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import ImageFileError, read_image
from bisenetv2_ros.opencv import resize

DETAIL = (64, 48)  # size at which copies are compared, pixels
SHADING = 3.0  # standard deviation of the blur that is subtracted, pixels
MIN_DETAIL = 1.0  # standard deviation of the rest, gray levels; flatter images are not compared
SAME_DETAIL = 0.97  # correlation above which it is a copy
NEAR = 2.5  # mean difference of thumbnails, gray levels, above which no copy is looked for
LOOKED_AT, CANDIDATES = 100, 3  # frames of a split, and the training frames compared with each
VIEW_WIDTH, CORNERS = 240, 400
SAME_VIEW = 35  # matching corners from which two frames show the same view
RATIO, APART = 0.75, 4.0  # of the best match to the second; pixels by which it may miss its place

Gray = NDArray[np.uint8]
Features = tuple[Sequence[cv2.KeyPoint], "NDArray[np.uint8] | None"]


class Match(NamedTuple):
    """Two frames that show the same, and how much: a correlation, or a number of corners."""

    frame: str
    training: str
    amount: float


def copies(
    training: Sequence[str], ours: NDArray[np.float32], frames: Sequence[str], theirs: NDArray
) -> Iterator[Match]:
    """Yield a match for each of `frames` that has the same image as a training frame.

    training, frames: paths. ours, theirs: their thumbnails, (N, D) float32, 0..255.
    """
    order = np.argsort(ours.mean(axis=1))
    means = ours.mean(axis=1)[order]
    for frame, small in zip(frames, theirs, strict=True):
        first, last = np.searchsorted(means, [small.mean() - NEAR, small.mean() + NEAR])
        some = order[first:last]
        differences = np.abs(ours[some] - small).mean(axis=1)
        best = None
        for place in np.argsort(differences)[:CANDIDATES]:
            if differences[place] <= NEAR:
                same = _correlation(frame, training[some[place]])
                if same >= SAME_DETAIL and (best is None or same > best.amount):
                    best = Match(frame, training[some[place]], same)
        if best:
            yield best


def views(
    training: Sequence[str], ours: NDArray[np.float32], frames: Sequence[str], theirs: NDArray
) -> tuple[list[Match], int]:
    """Return frames that show the same view as a training frame, best match first, and how many
    were examined. Arguments as in `copies`."""
    step = max(1, len(frames) // LOOKED_AT)
    known: dict[str, Features | None] = {}

    def features(path: str) -> Features | None:
        if path not in known:
            known[path] = _features(path)
        return known[path]

    found = []
    looked_at = range(0, len(frames), step)
    for index in looked_at:
        own = features(frames[index])
        if own is None:
            continue
        near = np.argsort(np.abs(ours - theirs[index]).mean(axis=1))[:CANDIDATES]
        matches = [
            Match(frames[index], training[place], _common_corners(own, other))
            for place in near
            if (other := features(training[place])) is not None
        ]
        best = max(matches, key=lambda match: match.amount, default=None)
        if best and best.amount >= SAME_VIEW:
            found.append(best)
    return sorted(found, key=lambda match: -match.amount), len(looked_at)


def _gray(path: str) -> Gray | None:
    """Read an image, (H, W), upright; None if it cannot be read, which was reported before."""
    try:
        return np.asarray(cv2.cvtColor(read_image(Path(path)), cv2.COLOR_RGB2GRAY))
    except ImageFileError:
        return None


def _correlation(one: str, other: str) -> float:
    """Correlation of the detail of two images, -1..1; 0 if one has none."""
    details = []
    for path in (one, other):
        gray = _gray(path)
        if gray is None:
            return 0.0
        small = resize(gray, DETAIL, cv2.INTER_AREA).astype(np.float32)
        detail = small - cv2.GaussianBlur(small, (0, 0), SHADING)
        if detail.std() < MIN_DETAIL:
            return 0.0
        details.append(detail / np.linalg.norm(detail))
    return float((details[0] * details[1]).sum())


def _features(path: str) -> Features | None:
    gray = _gray(path)
    if gray is None:
        return None
    height = max(1, round(gray.shape[0] * VIEW_WIDTH / gray.shape[1]))
    found = cv2.ORB_create(CORNERS, fastThreshold=10)  # type: ignore[attr-defined]
    points, descriptions = found.detectAndCompute(
        resize(gray, (VIEW_WIDTH, height), cv2.INTER_AREA), None
    )
    return points, descriptions


def _common_corners(one: Features, other: Features) -> int:
    """Count the corners of two images that a shift, rotation and scaling map onto each other."""
    (points, descriptions), (others, other_descriptions) = one, other
    if descriptions is None or other_descriptions is None or min(len(points), len(others)) < 2:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_HAMMING).knnMatch(descriptions, other_descriptions, k=2)
    clear = [best for best, second in pairs if best.distance < RATIO * second.distance]
    if len(clear) < SAME_VIEW:
        return 0
    _, is_mapped = cv2.estimateAffinePartial2D(
        np.array([points[match.queryIdx].pt for match in clear], np.float32),
        np.array([others[match.trainIdx].pt for match in clear], np.float32),
        ransacReprojThreshold=APART,
    )
    return 0 if is_mapped is None else int(is_mapped.sum())
