"""Judges what `data_check.py` found about many frames: numbering, pairing, colors, overlap.

Statistical judgments need several frames and a clear margin, so that a sound dataset passes;
anything merely suspicious is a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.training.data_check import (
    MARGIN,
    MIN_FIT,
    MIN_PIXELS,
    SplitFacts,
    fits_of,
    shows_something,
)
from bisenetv2_ros.training.datasets import Dataset, FileDataset
from bisenetv2_ros.training.same_views import copies, views

MAX_COMPARED, MAX_RANKED = 500, 2000  # frames of a split, and frames to rank a neighbor among
STRONG, LOOK = 1.2, 1.5  # by which a better fit makes a frame a fault, or a note
MIN_COMPARISONS = 6
MAX_LOST = 0.3  # fraction of comparisons that labels may lose against those of other frames
MAX_PAIRED = 250  # frames of a split that are compared with each other
COLORED = 10  # smallest difference of red and blue in a color that is not gray
NEAR_RANK = 0.15  # of a neighbor in time among all frames, by similarity
SAME_VIEWS, NOTED_VIEWS = 0.5, 0.1  # fraction of a split that makes a fault, or a note
SKY = "sky"


def judge(dataset: Dataset, facts: SplitFacts, training: bool) -> Iterator[str]:
    """Yield the faults of a split as a whole, after `find_faults`.

    training: whether the run trains on it; each class must then have pixels.
    """
    if training:
        absent = set(dataset.absent) if isinstance(dataset, FileDataset) else set()
        missing = [name for name in facts.absent() if name not in absent]
        if missing and facts.pixels.sum():
            yield f"{facts.name}: no pixel of {', '.join(missing)}, which cannot be learned"
    yield from _numbering(dataset, facts)
    yield from _pairing(facts)
    yield from _sky(facts)
    for frames in facts.digests.values():
        if len(frames) > 1:
            yield f"{frames[1]}: the same image as {frames[0]}, paired twice"


def _numbering(dataset: Dataset, facts: SplitFacts) -> Iterator[str]:
    """Find label values of another numbering of the classes."""
    if not isinstance(dataset, FileDataset) or dataset.values is None or not facts.values:
        return
    count = len(facts.labels)
    if set(facts.values) == {0, 255} and not any(255 in values for values in dataset.values):
        yield (
            f"{facts.name}: the only label values are 0 and 255, expected those of "
            f"{count} class{'es' * (count > 1)}; of masks in black and white, give the class of "
            "white `value: 255`"
        )
        return
    own = sum(facts.values[value] for values in dataset.values for value in values)
    as_index = sum(n for value, n in facts.values.items() if value < count)
    seen = set(facts.values) - {255}
    differs = dataset.values != [[i] for i in range(count)]
    if differs and max(seen, default=0) < count and as_index > 2 * own:
        yield (
            f"{facts.name}: the label values are 0 to {max(seen)}, as the place in the list of "
            f"classes (train ids), expected {_some(v for values in dataset.values for v in values)}"
        )


def _some(values: Iterator[int]) -> str:
    shown = sorted(values)
    return ", ".join(map(str, shown[:6])) + (", ..." if len(shown) > 6 else "")


def _pairing(facts: SplitFacts) -> Iterator[str]:
    """Find labels that fit other frames better than their own."""
    order = _by_name([thumb.path for thumb in facts.thumbs])[:MAX_PAIRED]
    thumbs = [facts.thumbs[index] for index in order]
    count = len(thumbs)
    if count < 2:
        return
    fits = np.nan_to_num(fits_of(thumbs))
    own = np.diag(fits).copy()
    others = fits.copy()
    np.fill_diagonal(others, 0)
    clear = np.maximum(fits, own[:, None]) > MIN_FIT
    np.fill_diagonal(clear, False)
    lost = int((clear & (others > own[:, None] * MARGIN)).sum())
    compared = lost + int((clear & (own[:, None] > others * MARGIN)).sum())
    best = others.argmax(axis=1)
    beaten = (others.max(axis=1) > STRONG * own) & (others.max(axis=1) > MIN_FIT)

    shifted = Counter(int(best[i] - i) for i in np.flatnonzero(beaten | (others.max(axis=1) > own)))
    offset, times = shifted.most_common(1)[0] if shifted else (0, 0)
    if compared >= MIN_COMPARISONS and abs(offset) <= 2 and times > 0.6 * (count - abs(offset)):
        way = "after" if offset > 0 else "before"
        steps = "the frame" if abs(offset) == 1 else f"{abs(offset)} frames"
        yield (
            f"{facts.name}: paired wrongly: in {times} of {count} frames the label of {steps} "
            f"{way} fits better than the frame's own"
        )
    elif compared >= MIN_COMPARISONS and lost > MAX_LOST * compared:
        yield (
            f"{facts.name}: paired wrongly: {lost} of {compared} times the label of another frame "
            "fits better than the frame's own"
        )
    else:
        for i in np.flatnonzero(beaten):
            path, better = thumbs[i].path, thumbs[best[i]].path
            if beaten[best[i]]:  # the better label's own frame has a better one as well
                yield f"{path}: paired wrongly: the label of {better} fits it much better"
            elif others[i, best[i]] > LOOK * own[i]:
                facts.notes.append(f"{path}: its label fits it worse than that of {better}")


def _sky(facts: SplitFacts) -> Iterator[str]:
    """Find a sky that is redder than blue: red and blue are swapped."""
    if SKY not in facts.labels.names:
        return
    sky = facts.labels.names.index(SKY)
    differences = []
    for _, image, label in facts.thumbs:
        where = label == sky
        if where.sum() >= MIN_PIXELS:
            red, _, blue = image[where].mean(axis=0)
            differences.append(red - blue)
    colored = [difference for difference in differences if abs(difference) > COLORED]
    redder = sum(difference > 0 for difference in colored)
    if len(colored) >= 3 and redder > 0.8 * len(colored):
        yield (
            f"{facts.name}: in {redder} of {len(colored)} frames with a colored sky it is redder "
            "than blue: are red and blue swapped?"
        )


def compare(training: SplitFacts, other: SplitFacts) -> Iterator[str]:
    """Yield faults between the training split and another one."""
    for digest, frames in other.digests.items():
        if digest in training.digests:
            yield (
                f"{frames[0]}: the same image as {training.digests[digest][0]} of "
                f"{training.name}: it is scored, but was trained on"
            )
    yield from _swapped(training, other)
    named = list(_neighbours(training, other))
    yield from named or _same_images(training, other)


def _same_images(training: SplitFacts, other: SplitFacts) -> Iterator[str]:
    """Find frames that show the same as a training frame, whatever their names and encodings."""
    both = {
        frame
        for digest in other.digests.keys() & training.digests.keys()
        for frame in other.digests[digest]
    }
    rest = [
        index
        for index, path in enumerate(other.paths)
        if path not in both and shows_something(other.tiny[index])
    ]
    if not rest or not training.tiny:
        return
    frames = [other.paths[index] for index in rest]
    thumbs = (
        np.stack(tiny).reshape(len(tiny), -1).astype(np.float32)
        for tiny in (training.tiny, [other.tiny[index] for index in rest])
    )
    ours, theirs = thumbs
    copied = list(copies(training.paths, ours, frames, theirs))
    for match in copied:
        yield (
            f"{match.frame}: the same image as {match.training} of {training.name} by "
            f"{match.amount:.1%} of its detail, reencoded or from a camera that stood still: it is "
            "scored, but was trained on"
        )
    if len(copied) > SAME_VIEWS * len(frames):
        return
    found, looked_at = views(training.paths, ours, frames, theirs)
    if len(found) < max(2, NOTED_VIEWS * looked_at):
        return
    first = found[0]
    text = (
        f"{len(found)} of {looked_at} frames show the same view as frames of {training.name}, such "
        f"as {first.frame} and {first.training}, in which {first.amount} corners match"
    )
    if len(found) < SAME_VIEWS * looked_at:
        other.notes.append(text)
    else:
        yield (
            f"{other.name}: {text}: they are neighbors in one recording, so that scores measure "
            "memory: split by recording, or into stretches"
        )


def _swapped(training: SplitFacts, other: SplitFacts) -> Iterator[str]:
    """Find red and blue swapped between two splits, by the mean color of each class."""
    means = [_class_colours(facts) for facts in (training, other)]
    both = ~np.isnan(means[0]).any(axis=1) & ~np.isnan(means[1]).any(axis=1)
    if both.sum() < 3:
        return
    # without the mean over the classes: the color of the light is not a swap
    ours, theirs = (m[both, 0] - m[both, 2] for m in means)
    ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    strength = np.linalg.norm(ours), np.linalg.norm(theirs)
    if min(strength) > COLORED and ours @ theirs < -0.5 * strength[0] * strength[1]:
        yield (
            f"{other.name}: red and blue are swapped against {training.name}: which classes are "
            "redder than others is the other way round"
        )


def _class_colours(facts: SplitFacts) -> NDArray[np.float64]:
    """Return the mean RGB of each class, (C, 3); NaN if thumbnails hardly show it."""
    means = np.full((len(facts.labels), 3), np.nan)
    if facts.thumbs:
        colours = np.stack([thumb.image for thumb in facts.thumbs]).reshape(-1, 3)
        classes = np.stack([thumb.label for thumb in facts.thumbs]).ravel()
        for index in range(len(facts.labels)):
            where = classes == index
            if where.sum() >= MIN_PIXELS:
                means[index] = colours[where].mean(axis=0)
    return means


def _neighbours(training: SplitFacts, other: SplitFacts) -> Iterator[str]:
    """Find frames whose names fall between those of training frames that look like them.

    Names alone are not enough: numbers of independent images interleave too. So a neighbor by name
    must be among the most similar of all training frames.
    """
    names = [*training.paths, *other.paths]
    first = len(training.paths)
    if first < 5 or not other.paths:
        return
    tiny = [*training.tiny, *other.tiny]
    small = np.stack(tiny).reshape(len(names), -1).astype(np.float32)
    rng = np.random.default_rng(0)
    ranked = rng.permutation(first)[:MAX_RANKED]
    order = _by_name([Path(name).name for name in names])
    ranks = []
    looked_at = 0
    stride = max(1, len(other.paths) // MAX_COMPARED)
    for place, index in enumerate(order):
        if index < first or index % stride:
            continue
        looked_at += 1
        beside = [
            order[p]
            for p in (place - 1, place + 1)
            if 0 <= p < len(order)
            and order[p] < first
            and _skeleton(names[order[p]]) == _skeleton(names[index])
        ]
        if beside and shows_something(tiny[index]):
            nearest = np.abs(small[beside] - small[index]).mean(axis=1).min()
            others = np.abs(small[ranked] - small[index]).mean(axis=1)
            ranks.append(float((others < nearest).mean()))
    if len(ranks) >= max(2, 0.2 * looked_at) and np.median(ranks) < NEAR_RANK:
        yield (
            f"{other.name}: {len(ranks)} of {looked_at} frames are neighbors of frames of "
            f"{training.name} in one recording, so that scores measure memory: split by recording, "
            "or into stretches"
        )


def _skeleton(name: str) -> str:
    return re.sub(r"\d+", "0", Path(name).name)


def _by_name(names: list[str]) -> list[int]:
    """Sort indices by name, with the numbers in the names by value."""

    def key(index: int) -> tuple[str, list[int]]:
        text = names[index]
        return re.sub(r"\d+", "0", text), [int(n) for n in re.findall(r"\d+", text)]

    return sorted(range(len(names)), key=key)
