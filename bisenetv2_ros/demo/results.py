"""What the demo keeps of the frames: pictures, a video, and scores against the truth. No ROS."""

from __future__ import annotations

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
from bisenetv2_ros.visualization import side_by_side

PICTURES = 5

T = TypeVar("T")


@dataclass(frozen=True)
class SegmentedFrame:
    """Everything that arrived for one camera frame."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (h, w) uint8 class indices, as published
    fractions: np.ndarray  # (num_classes,) float, as published
    label: np.ndarray | None  # (H', W') uint8 truth


class EvenlySpaced(Generic[T]):
    """Keeps `count` about evenly spaced items of a stream whose length nobody knows beforehand.

    Holds at most 4 * count + 1 items. The first and the last item are always among the picked.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept: list[tuple[int, T]] = []
        self._last: tuple[int, T] | None = None
        self._stride = 1
        self._seen = 0

    def add(self, item: T) -> None:
        """Offer the stream's next item."""
        self._last = (self._seen, item)
        if self._seen % self._stride == 0:
            self._kept.append(self._last)
            if len(self._kept) > 4 * self._count:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._seen += 1

    def pick(self) -> list[tuple[int, T]]:
        """Return (index in the stream, item), in order; fewer than `count` of a short stream."""
        if self._last is None:
            return []
        candidates = dict([*self._kept, self._last])
        nearest = {
            min(candidates, key=lambda index: abs(index - target))
            for target in np.linspace(0, self._last[0], self._count)
        }
        return [(index, candidates[index]) for index in sorted(nearest)]


class Results:
    """Gathers frames into the output directory; `close` completes the files."""

    def __init__(self, directory: Path, labels: LabelSet, rate: float) -> None:
        """rate: of the video, frames per second. Pictures of an earlier demo are removed."""
        self._directory = directory
        for path in filter(is_own_picture, directory.glob("frame_*.png")):
            path.unlink()
        self._labels = labels
        self._video = VideoFile(directory / "video.mp4", rate)
        self._pictures: EvenlySpaced[np.ndarray] = EvenlySpaced(PICTURES)
        self._confusion = np.zeros((len(labels), len(labels) + 1), np.int64)
        self._fractions = np.zeros(len(labels))
        self.frames = 0
        self.scored_frames = 0

    def add(self, frame: SegmentedFrame) -> None:
        """Take in one frame. DemoError where its label has values that are no class."""
        self.frames += 1
        self._fractions += frame.fractions
        if frame.label is not None:
            mask = resize_mask(frame.mask, frame.label.shape[1::-1])
            classes, ignore = len(self._labels), self._labels.ignore_index
            # Many data sets, CamVid among them, number what is unlabelled after the last class.
            label = np.where(frame.label == classes, np.uint8(ignore), frame.label)
            try:
                self._confusion += confusion_matrix(label, mask, classes, ignore)
            except ValueError as error:
                raise DemoError(f"the label of frame {self.frames}: {error}") from error
            self.scored_frames += 1
        picture = side_by_side(frame.image, frame.mask, self._labels, frame.fractions)
        self._video.write(picture)
        self._pictures.add(picture)

    @property
    def mean_fractions(self) -> dict[str, float]:
        """Share of each class over all frames, 0..1."""
        return dict(
            zip(self._labels.names, (self._fractions / max(1, self.frames)).tolist(), strict=True)
        )

    @property
    def scores(self) -> Scores | None:
        """Scores over all frames that came with a label; None if there was none."""
        return scores(self._confusion) if self.scored_frames else None

    @property
    def note(self) -> str:
        """What to tell people who will play the video."""
        return self._video.note

    def close(self) -> list[Path]:
        """Complete the video, write the pictures; return the paths of all files, pictures first."""
        self._video.close()
        paths = []
        for index, picture in self._pictures.pick():
            paths.append(self._directory / f"frame_{index:04d}.png")
            write_picture(paths[-1], picture)
        return [*paths, self._video.path] if paths else []
