"""Chooses frames worth labeling from a source and writes them with stamps and pre-labels.

`bisenetv2 extract --help` lists the files. Existing ones are never overwritten: several sources may
be extracted to one folder.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.annotations import classes_text, write_cvat, write_labelme
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.files.paths import UniqueNames, naming, replacing
from bisenetv2_ros.opencv import resize
from bisenetv2_ros.resize import resize_mask

if TYPE_CHECKING:
    from bisenetv2_ros.segmenter import Segmenter
    from bisenetv2_ros.sources.frame import Frame

PRELABELS = ("masks", "cvat", "labelme", "none")
COLUMNS = ("frame", "source", "camera", "stamp", "frame_id", "time_s", "uncertainty")
GRID = (8, 6)  # cells of a frame's features, columns and rows

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Candidate:
    """A frame that may be chosen.

    Attributes:
        index: of the frame in its source.
        uncertainty: 1 minus the mean confidence of the model, 0..1.
        features: appearance and layout of the frame, for comparison.
    """

    index: int
    uncertainty: float
    features: Features


def examine(index: int, frame: Frame, segmenter: Segmenter) -> Candidate:
    """Describe a frame by the model's result and its colors, both on a coarse grid."""
    mask, uncertainty = _segment(frame, segmenter)
    where = [
        cv2.resize((mask == c).astype(np.float32), GRID, interpolation=cv2.INTER_AREA)
        for c in range(len(segmenter.model.info.labels))
    ]
    colours = resize(frame.image, GRID, cv2.INTER_AREA) / np.float32(255)
    features = np.concatenate([np.ravel(where), np.ravel(colours)]).astype(np.float32)
    return Candidate(index, uncertainty, features)


def _segment(frame: Frame, segmenter: Segmenter) -> tuple[np.ndarray, float]:
    """The mask of a frame, (h, w) uint8 in the network's size, and 1 minus its mean confidence."""
    result = segmenter(frame.image, confidence=True)
    assert result.confidence is not None
    return result.mask, 1 - float(result.confidence.mean()) / 255


def choose(candidates: list[Candidate], count: int, by_uncertainty: bool) -> list[Candidate]:
    """Choose frames that are unlike each other, in the order of the source.

    Each step takes the frame farthest from all chosen ones; with `by_uncertainty` the distance is
    weighted by the uncertainty, so that few of a hundred uncertain frames of one place are taken.
    """
    if count >= len(candidates):
        return candidates
    features = np.stack([candidate.features for candidate in candidates])
    weight = np.array([c.uncertainty if by_uncertainty else 1.0 for c in candidates])
    # the first: the most uncertain, or the most typical
    ordinary = -np.linalg.norm(features - features.mean(axis=0), axis=1)
    chosen = [int(np.argmax(weight if by_uncertainty else ordinary))]
    distance = np.full(len(candidates), np.inf)
    while len(chosen) < count:
        newest = np.linalg.norm(features - features[chosen[-1]], axis=1)
        distance = np.minimum(distance, newest)
        score = (distance + 1e-6) * (weight + 1e-6)  # ties: the uncertain one, then the first
        score[chosen] = -1
        chosen.append(int(np.argmax(score)))
    return [candidates[i] for i in sorted(chosen)]


class ExtractedSet:
    """The folder that frames are extracted to.

    Args:
        folder: created if it is missing.
        source: named in frames.csv.
        segmenter: makes the pre-labels; None for no pre-labels.
        form: of the pre-labels, one of PRELABELS.

    Raises:
        ValueError: the folder has pre-labels of other classes.
    """

    def __init__(self, folder: Path, source: str, segmenter: Segmenter | None, form: str) -> None:
        self.folder, self.source, self.segmenter, self.form = folder, source, segmenter, form
        self.written = self.present = self.dust = 0
        self._unused = UniqueNames().take
        (folder / "images").mkdir(parents=True, exist_ok=True)
        self._prelabels = folder / "prelabels"
        if segmenter:
            self._prelabels.mkdir(exist_ok=True)
            text = classes_text(segmenter.model.info.labels)
            classes = self._prelabels / "classes.yaml"
            if classes.is_file() and classes.read_text(encoding="utf-8") != text:
                raise ValueError(
                    f"{classes}: pre-labels of other classes than those of the model "
                    f"{segmenter.model.name} are there, choose another folder"
                )
            classes.write_text(text, encoding="utf-8")

    def write(self, frame: Frame, uncertainty: float | None = None) -> None:
        """Write a frame and its pre-label. Existing ones are left unchanged."""
        name = self._unused(Path(frame.name).stem)
        image = self.folder / "images" / f"{name}.png"
        if image.exists():
            self.present += 1
            return
        if self.segmenter:
            mask, uncertainty = _segment(frame, self.segmenter)
            mask = resize_mask(mask, frame.image.shape[1::-1])
            write_picture(self._prelabels / f"{name}.png", mask)
            if self.form == "labelme":
                path = self._prelabels / f"{name}.json"
                labels = self.segmenter.model.info.labels
                self.dust += write_labelme(path, f"../images/{name}.png", mask, labels)
        with replacing(image) as partial:  # last, so that an existing frame is complete
            write_picture(partial, frame.image)
        self._record(name, frame, uncertainty)
        self.written += 1

    def close(self) -> None:
        """Write CVAT's archive, which covers all frames."""
        if self.segmenter and self.form == "cvat":
            names = sorted(path.stem for path in self._prelabels.glob("*.png"))
            with replacing(self._prelabels / "cvat.zip") as partial:
                write_cvat(partial, names, self._read, self.segmenter.model.info.labels)

    def _read(self, name: str) -> NDArray[np.uint8]:
        return np.asarray(cv2.imread(str(self._prelabels / f"{name}.png"), cv2.IMREAD_UNCHANGED))

    def _record(self, name: str, frame: Frame, uncertainty: float | None) -> None:
        path = self.folder / "frames.csv"
        new = not path.is_file()
        with naming(path), path.open("a", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            if new:
                table.writerow(COLUMNS)
            frame_id = frame.origin.frame_id if frame.origin else ""
            doubt = "" if uncertainty is None else f"{uncertainty:.4f}"
            origin = (self.source, frame.camera, frame.stamp, frame_id, f"{frame.time:.6f}")
            table.writerow([name, *origin, doubt])
