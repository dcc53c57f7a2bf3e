"""The results of the demo: images, a video, and scores against labels. No ROS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np

from bisenetv2_ros.demo import DemoError
from bisenetv2_ros.files.images import is_own_picture, write_picture
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.metrics import Scores, confusion_matrix, scores
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.sources.frame import Frame
from bisenetv2_ros.visualization import side_by_side

PICTURES = 5

T = TypeVar("T")


@dataclass(frozen=True)
class SegmentedFrame:
    """A camera frame and what the node published for it."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (h, w) uint8 class indices, as published
    fractions: np.ndarray  # (num_classes,) float, as published


class EvenlySpaced(Generic[T]):
    """Keeps about `count` evenly spaced items of a stream of unknown length.

    Holds at most 4 * count + 1 items. Always picks the first and the last item.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[int, T]] = []
        self._last: tuple[int, T] | None = None
        self._stride = 1
        self._seen = 0

    def add(self, item: T) -> None:
        """Take the next item of the stream."""
        self._last = (self._seen, item)
        if self._seen % self._stride == 0:
            self._kept.append(self._last)
            if len(self._kept) > 4 * self._count:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._seen += 1

    def pick(self) -> list[tuple[int, T]]:
        """Return (index, item) pairs in order; fewer than `count` if the stream is short."""
        if self._last is None:
            return []
        candidates = dict([*self._kept, self._last])
        nearest = {
            min(candidates, key=lambda index: abs(index - target))
            for target in np.linspace(0, self._last[0], self._count)
        }
        return [(index, candidates[index]) for index in sorted(nearest)]


class Results:
    """Writes frames into the output directory; `close` completes the files."""

    def __init__(self, directory: Path, labels: LabelSet, rate: float) -> None:
        """Remove the images of an earlier demo. rate: of the video, in frames per second."""
        self._directory = directory
        for path in filter(is_own_picture, directory.glob("frame_*.png")):
            path.unlink()
        self._labels = labels
        self._video = VideoFile(directory / "video.mp4", rate)
        self._pictures: EvenlySpaced[np.ndarray] = EvenlySpaced(PICTURES)
        self._fractions = np.zeros(len(labels))
        self.frames = 0

    def add(self, frame: SegmentedFrame) -> None:
        """Add one frame."""
        self.frames += 1
        self._fractions += frame.fractions
        picture = side_by_side(frame.image, frame.mask, self._labels, frame.fractions)
        self._video.write(picture)
        self._pictures.add(picture)

    @property
    def mean_fractions(self) -> dict[str, float]:
        """Mean fraction of each class over all frames, 0..1."""
        return dict(
            zip(self._labels.names, (self._fractions / max(1, self.frames)).tolist(), strict=True)
        )

    @property
    def note(self) -> str:
        """A remark about playing the video, or ''."""
        return self._video.note

    def close(self) -> list[Path]:
        """Complete the video, write the images; return all paths, images first."""
        self._video.close()
        paths = []
        for index, picture in self._pictures.pick():
            paths.append(self._directory / f"frame_{index:04d}.png")
            write_picture(paths[-1], picture)
        return [*paths, self._video.path] if paths else []


def score(
    frames: Iterable[Frame], segmenter: Segmenter, on_frame: Callable[[], object]
) -> tuple[Scores, int] | None:
    """Segment the labeled ones of `frames`; return their scores and their number, or None.

    Raises DemoError if a label has a value that is no class. The number after the last class means
    unlabeled, as in CamVid and many other datasets.
    """
    labels = segmenter.model.info.labels
    classes, ignore = len(labels), labels.ignore_index
    confusion = np.zeros((classes, classes + 1), np.int64)
    count = 0
    for number, frame in enumerate(frames, 1):
        on_frame()
        if frame.label is None:
            continue
        mask = resize_mask(segmenter(frame.image).mask, frame.label.shape[1::-1])
        label = np.where(frame.label == classes, np.uint8(ignore), frame.label)
        try:
            confusion += confusion_matrix(label, mask, classes, ignore)
        except ValueError as error:
            raise DemoError(f"the label of frame {number}: {error}") from error
        count += 1
    return (scores(confusion), count) if count else None
