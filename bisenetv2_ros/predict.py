"""Segment every frame of a source and keep the results as files. No ROS.

What is written to the output directory:
    masks/NAME.png      grey, class index per pixel, size of the frame
    colour/NAME.png     the same in the label set's colours
    overlay/NAME.png    colours over the frame
    video.mp4           frame | colour mask | overlay with the legend
    fractions.csv       a line per frame: name, time, inference, fraction of the pixels per class
NAME is the frame's without suffix; of frames that share it, later ones get _2, _3 and so on.
Each frame's files are written before the next frame is read: who stops it keeps what is done.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bisenetv2_ros.frame_source import Frame
from bisenetv2_ros.pictures import VideoFile, side_by_side, write_picture
from bisenetv2_ros.segmenter import Segmentation, Segmenter, resize_mask

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter

KINDS = ("masks", "colour", "overlay", "video", "fractions")


class ResultFiles:
    """Writes the results of one frame after the other; the files are complete after `close`.

    kinds: which of KINDS to write. opacity: of the colours in overlays, 0..1. rate: of the video,
    frames per second. Files of an earlier run are overwritten. OSError where one cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        segmenter: Segmenter,
        kinds: Iterable[str],
        *,
        rate: float,
        opacity: float = 0.5,
    ) -> None:
        self.directory = directory
        self.frames = 0  # written so far
        self._segmenter = segmenter
        self._kinds = frozenset(kinds)
        self._opacity = opacity
        self._names: set[str] = set()
        self._closing = ExitStack()
        directory.mkdir(parents=True, exist_ok=True)
        for kind in self._kinds & {"masks", "colour", "overlay"}:
            (directory / kind).mkdir(exist_ok=True)
        if "video" in self._kinds:
            self._video = VideoFile(directory / "video.mp4", rate)
            self._closing.callback(self._video.close)
        if "fractions" in self._kinds:
            table = (directory / "fractions.csv").open("w", newline="", encoding="utf-8")
            self._fractions: CsvWriter = csv.writer(self._closing.enter_context(table))
            names = segmenter.model.info.labels.names
            self._fractions.writerow(["frame", "time_s", "inference_s", *names])

    def write(self, frame: Frame, result: Segmentation) -> None:
        """Write all that was asked for of one frame. `result` is the frame's segmentation."""
        name = self._unused(Path(frame.name).stem)
        height, width = frame.image.shape[:2]
        fractions = result.counts / max(1, result.counts.sum())
        mask = resize_mask(result.mask, (width, height))
        if "masks" in self._kinds:
            self._picture("masks", name, mask)
        if "colour" in self._kinds:
            self._picture("colour", name, self._segmenter.colour(mask))
        if "overlay" in self._kinds:
            overlay = self._segmenter.overlay(frame.image, result.mask, self._opacity)
            self._picture("overlay", name, overlay)
        if "video" in self._kinds:
            labels = self._segmenter.model.info.labels
            self._video.write(side_by_side(frame.image, result.mask, labels, fractions))
        if "fractions" in self._kinds:
            numbers = [frame.time, result.inference_seconds, *fractions]
            self._fractions.writerow([name, *(f"{number:.6f}" for number in numbers)])
        self.frames += 1

    def close(self) -> None:
        """Complete the files."""
        self._closing.close()

    def _picture(self, kind: str, name: str, image: np.ndarray) -> None:
        write_picture(self.directory / kind / f"{name}.png", image)

    def _unused(self, stem: str) -> str:
        """`stem`, or with a number where an earlier frame has it: no result replaces another."""
        name, number = stem, 1
        while name in self._names:
            number += 1
            name = f"{stem}_{number}"
        self._names.add(name)
        return name
