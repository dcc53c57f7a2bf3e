"""Frames one after the other from anywhere: pictures, video, bag, webcam, or a synthetic street.

    for frame in open_source("drive/*.png", labels="masks"):
        print(frame.name, frame.image.shape)

A source delivers as fast as it is asked; pacing is the caller's affair. No ROS here, no model, and
no idea of what labels mean.
"""

from __future__ import annotations

import glob
import itertools
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.images import SUFFIXES, ImageFileError, read_image, read_label
from bisenetv2_ros.sources.bag_paths import is_bag
from bisenetv2_ros.sources.frame import DEFAULT_RATE, Frame, FrameSource, Size, SourceError, resized
from bisenetv2_ros.street.scene import StreetScene

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SYNTHETIC = "synthetic"
WEBCAM = "webcam:"
DEFAULT_SCENE_SIZE = (960, 720)


def open_source(
    spec: str = "",
    *,
    labels: str = "",
    topics: Sequence[str] = (),
    loop: bool = False,
    rate: float | None = None,
    size: Size | None = None,
    seed: int = 1,
    on_damaged: Callable[[ImageFileError], None] | None = None,
) -> FrameSource:
    """Find the source that `spec` names.

    Args:
        spec: '' or 'synthetic' (an endless street, with labels), 'webcam:N', a folder of pictures,
            a glob pattern, one picture, or a video file. Pictures come in natural order: 2 before
            10.
        labels: a folder of label maps, one byte a pixel. A picture's label is the file of the same
            stem; pictures without one have the label None.
        topics: image topics of a bag, and of nothing else; none takes the only one.
        loop: begin again after the last picture or at the video's end.
        rate: frames per second of sources without a rate of their own; default 15.
        size: frames are resized to this; None leaves them as they are. The synthetic street is
            rendered in this size, by default 960x720.
        seed: of the synthetic street.
        on_damaged: what to do about a picture, label or message that cannot be read. By default the
            iteration ends with its ImageFileError; otherwise the error is given to this function
            and the next frame follows.

    Raises:
        SourceError: there is no such source, or it has no frames, or no picture has a label, or
            labels or topics are given for a source that has none.
    """
    rate = rate or DEFAULT_RATE
    if spec in ("", SYNTHETIC):
        source: FrameSource = _Street(seed, size or DEFAULT_SCENE_SIZE, rate)
    elif spec.startswith(WEBCAM):
        source = _Webcam(spec, rate, size)
    else:
        paths = _find(spec)
        if paths[0].suffix.lower() in SUFFIXES:
            label_paths = _find_labels(paths, labels) if labels else {}
            source = _Pictures(paths, label_paths, rate, size, loop, on_damaged)
            labels = ""  # taken
        elif is_bag(paths[0]):
            from bisenetv2_ros.sources.bag import (
                BagFrames,  # the one kind that needs a further library
            )

            source = BagFrames(paths[0], topics, size, loop, on_damaged)
            topics = ()
        else:
            source = _Video(paths[0], size, loop)
    if labels:
        raise SourceError(f"labels '{labels}': expected pictures as the source, got '{spec}'")
    if topics:
        raise SourceError(f"topic '{topics[0]}': expected a bag as the source, got '{spec}'")
    return source


class _Street(FrameSource):
    """The synthetic street, endless."""

    labelled = True

    def __init__(self, seed: int, size: Size, rate: float) -> None:
        super().__init__(rate, None)
        try:
            self._scene = StreetScene(seed, size)
        except ValueError as error:
            raise SourceError(f"synthetic street: {error}") from None

    def __iter__(self) -> Iterator[Frame]:
        for index in itertools.count():
            moment = index / self.fps
            image, label = self._scene.render(moment)
            yield Frame(image, _numbered(SYNTHETIC, index), label, moment)


class _Pictures(FrameSource):
    """Picture files in the order given."""

    def __init__(
        self,
        paths: list[Path],
        labels: dict[str, Path],
        rate: float,
        size: Size | None,
        loop: bool,
        on_damaged: Callable[[ImageFileError], None] | None,
    ) -> None:
        super().__init__(rate, None if loop else len(paths))
        self._paths, self._labels, self._size, self._loop = paths, labels, size, loop
        self._on_damaged = on_damaged
        self.labelled = bool(labels)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            before = index
            for path in self._paths:
                try:
                    image, label = self._read(path)
                except ImageFileError as error:
                    if self._on_damaged is None:
                        raise
                    self._on_damaged(error)
                    continue
                yield Frame(image, path.name, label, index / self.fps)
                index += 1
            if index == before:
                raise SourceError(
                    f"'{self._paths[0].parent}': {len(self._paths)} pictures, none can be read"
                )
            if not self._loop:
                return

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray | None]:
        image, label = read_image(path), None
        label_path = self._labels.get(path.stem)
        if label_path is not None:
            label = read_label(label_path)
            if label.shape != image.shape[:2]:
                raise ImageFileError(
                    f"{label_path}: label map is {label.shape[1]}x{label.shape[0]}, expected "
                    f"{image.shape[1]}x{image.shape[0]}, the size of {path}"
                )
            label = resized(label, self._size, cv2.INTER_NEAREST)
        return resized(image, self._size), label


class _Video(FrameSource):
    """A video file."""

    def __init__(self, path: Path, size: Size | None, loop: bool) -> None:
        self._path, self._size, self._loop = path, size, loop
        capture = self._open()
        rate = capture.get(cv2.CAP_PROP_FPS)
        count = round(capture.get(cv2.CAP_PROP_FRAME_COUNT))  # what the file claims
        capture.release()
        super().__init__(rate if rate > 0 else DEFAULT_RATE, count if count > 0 else None)
        if loop:
            self.count = None

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self._path))
        if not capture.isOpened():
            raise SourceError(
                f"'{self._path}': expected a picture or a video that OpenCV reads, or a ROS 2 bag"
            )
        return capture

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while True:
            capture, before = self._open(), index
            try:
                while (image := _next_image(capture, self._size)) is not None:
                    yield Frame(image, _numbered(self._path.stem, index), None, index / self.fps)
                    index += 1
            finally:
                capture.release()
            if index == before:
                raise SourceError(f"'{self._path}': the video has no frame that OpenCV reads")
            if not self._loop:
                return


class _Webcam(FrameSource):
    """A camera of this machine, endless."""

    live = True

    def __init__(self, spec: str, rate: float, size: Size | None) -> None:
        super().__init__(rate, None)
        number = spec[len(WEBCAM) :]
        if not number.isdecimal():
            raise SourceError(f"'{spec}': expected {WEBCAM}N with the number of the device")
        self._spec, self._size = spec, size
        self._capture = cv2.VideoCapture(int(number))
        if not self._capture.isOpened():
            raise SourceError(f"'{spec}': no camera opens as device {number}")
        self._capture.set(cv2.CAP_PROP_FPS, rate)
        if size is not None:  # the camera may choose another; frames are resized in any case
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        for index in itertools.count():
            image = _next_image(self._capture, self._size)
            if image is None:
                raise SourceError(f"'{self._spec}': the camera delivers no more frames")
            name = _numbered(self._spec.replace(":", ""), index)
            yield Frame(image, name, None, time.monotonic() - start)


def _next_image(capture: cv2.VideoCapture, size: Size | None) -> np.ndarray | None:
    success, bgr = capture.read()
    if not success:
        return None
    return resized(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)), size)


def _numbered(stem: str, index: int) -> str:
    # Whoever makes a file of a frame takes what follows a dot for the suffix.
    return f"{stem.replace('.', '_')}_{index:06d}"


def _find(spec: str) -> list[Path]:
    """The pictures that a folder, a pattern or a path names in natural order, a video or a bag."""
    path = Path(spec).expanduser()
    if is_bag(path):
        return [path]
    if path.is_dir():
        candidates = list(path.iterdir())
    elif path.is_file():
        return [path]
    elif glob.has_magic(spec):
        candidates = list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    else:
        raise SourceError(
            f"source '{spec}': no such file or folder; expected one, a glob pattern, {WEBCAM}N or "
            f"{SYNTHETIC}"
        )
    files = [candidate for candidate in candidates if candidate.is_file()]
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not pictures and len(files) == 1:
        return files
    if not pictures:
        folders = sorted(c.name for c in candidates if c.is_dir())
        hint = f"; it has the folders {', '.join(folders)}" if folders else ""
        raise SourceError(
            f"source '{spec}': no pictures ({', '.join(sorted(SUFFIXES))}) among {len(files)} "
            f"files{hint}"
        )
    return sorted(pictures, key=lambda picture: _natural(str(picture)))


def _find_labels(pictures: list[Path], folder: str) -> dict[str, Path]:
    """The label maps of `pictures` in `folder`, by stem."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise SourceError(f"labels '{folder}': expected a folder of label maps")
    stems = {picture.stem for picture in pictures}
    found = {
        file.stem: file
        for file in path.iterdir()
        if file.suffix.lower() in SUFFIXES and file.stem in stems
    }
    if not found:
        raise SourceError(
            f"labels '{folder}': no file has the stem of one of the {len(pictures)} pictures, "
            f"such as {pictures[0].stem}.png"
        )
    return found


def _natural(text: str) -> list[tuple[int, str]]:
    """A sort key by which 'frame2' comes before 'frame10'."""
    parts = re.split(r"(\d+)", text)
    return [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]
