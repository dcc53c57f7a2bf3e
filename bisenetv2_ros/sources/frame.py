"""Frames and sources of frames: the base of every kind of source.

Knows no kind of source, no ROS and no model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.images import ImageFileError
from bisenetv2_ros.opencv import resize

if TYPE_CHECKING:
    from pathlib import Path

#: Receives the error of an image, label or message that cannot be read; the next frame follows.
OnDamaged = Callable[[ImageFileError], None]

DEFAULT_RATE = 15.0  # Hz

_EPSILON = 1e-6  # seconds
_NAMES_SHOWN = 5

Size = tuple[int, int]  # (width, height) in pixels


class SourceError(ValueError):
    """A source cannot be opened or read; the message names it and what was expected."""


class SourceDamage(ImageFileError):
    """Some frames of a recording are lost; the others were delivered."""


@dataclass(frozen=True)
class Origin:
    """The recorded message of a frame."""

    camera: str  #: image topic, without /compressed
    sec: int  #: of the header's stamp
    nanosec: int
    frame_id: str
    received: int  #: time of recording, nanoseconds


@dataclass(frozen=True)
class Frame:
    """One image of a source."""

    image: np.ndarray  #: (H, W, 3) uint8 RGB
    name: str  #: file name, or one made of the source's name and a running number
    label: np.ndarray | None  #: (H, W) uint8 class index of each pixel, if known
    time: float  #: seconds since the source's first frame, by the source's own rate
    origin: Origin | None = None  #: of frames from a bag
    source: str = ""  #: the file, device or address it is from, as it was given
    index: int | None = None  #: number in its source, counting damaged and skipped ones
    key: str = ""  #: see `result_name`

    @property
    def result_name(self) -> str:
        """Name of its results: a relative path without suffix, unique if the frame has a key."""
        return self.key or PurePath(self.name).stem

    @property
    def stamp(self) -> str:
        """The stamp of its message in seconds; '' if it has none."""
        return f"{self.origin.sec}.{self.origin.nanosec:09d}" if self.origin else ""

    @property
    def camera(self) -> str:
        """The one of the source's `cameras` that it is from."""
        return self.origin.camera if self.origin else ""


@dataclass(frozen=True)
class Moment:
    """A place in a source, or a distance: in frames or in seconds."""

    frames: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Excerpt:
    """The wanted frames of a source: from `start`, up to before `end`, one in `every`."""

    start: Moment = Moment()
    end: Moment | None = None
    every: Moment = Moment(frames=1)

    def picker(self) -> Callable[[int, float], bool | None]:
        """Return a function of number and time [s] that says whether to use a frame.

        It returns None if this frame and all later ones are beyond the end.
        """
        first, due = self.start.seconds or None, 0

        def wanted(index: int, time: float) -> bool | None:
            nonlocal first, due
            if self.is_over(index, time):
                return None
            if index < self.start.frames or time + _EPSILON < self.start.seconds:
                return False
            if not self.every.seconds:
                return not (index - self.start.frames) % self.every.frames
            # On a grid from the first frame, so that the rate holds on average.
            first = time if first is None else first
            step = int((time - first) / self.every.seconds + _EPSILON)
            if step < due:
                return False
            due = step + 1
            return True

        return wanted

    def is_over(self, index: int, time: float) -> bool:
        """Whether this frame and all later ones are beyond `end`."""
        end = self.end
        if end is None:
            return False
        return time + _EPSILON >= end.seconds if end.seconds else index >= end.frames

    def pick(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The wanted ones of `frames`, for each camera."""
        pickers: dict[str, Callable[[int, float], bool | None]] = {}
        numbers: dict[str, int] = {}
        for frame in frames:
            number = numbers.get(frame.camera, 0)
            numbers[frame.camera] = number + 1
            picker = pickers.setdefault(frame.camera, self.picker())
            if picker(number if frame.index is None else frame.index, frame.time):
                yield frame

    def count(self, total: int | None, rate: float) -> int | None:
        """About how many of `total` frames at `rate` [Hz] are wanted."""
        start, every = (m.frames or round(m.seconds * rate) for m in (self.start, self.every))
        if self.end is not None:
            end = self.end.frames or round(self.end.seconds * rate)
            total = end if total is None else min(total, end)
        return None if total is None else len(range(start, total, max(1, every)))


class FrameSource(ABC):
    """An iterable of `Frame`; each iteration starts from the beginning."""

    live = False  #: frames come at their own pace, and grow old if they are not taken
    labelled = False  #: at least one frame has a label
    cameras: tuple[str, ...] = ("",)  #: every camera name that frames may have
    excerpt = Excerpt()  #: the wanted frames, for sources that can skip others at less cost
    inputs: tuple[Path, ...] = ()  #: files and folders that are read
    #: Files of a folder that are not read, and whether each is meant as an image.
    passed_over: tuple[tuple[Path, bool], ...] = ()

    def __init__(self, fps: float, count: int | None) -> None:
        self.fps = fps  #: nominal frame rate
        self.count = count  #: frames of one iteration, None if unknown or endless

    @property
    def parts(self) -> Sequence[FrameSource]:
        """The sources that it delivers one after the other."""
        return [self]

    def rate(self, camera: str) -> float:
        """Frame rate of one of `cameras`, Hz."""
        return self.fps

    def say_passed_over(self, say: Callable[[str], None]) -> bool:
        """Report `passed_over`, one line per kind; True if there are images among them."""
        images = [path.name for path, is_image in self.passed_over if is_image]
        others = [path.name for path, is_image in self.passed_over if not is_image]
        if others:
            say(f"skipped {len(others)} files that are no images: {_some(others)}")
        if images:
            say(f"error: {len(images)} images of an unsupported format: {_some(images)}")
        return bool(images)

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def resized(pixels: np.ndarray, size: Size | None, interpolation: int | None = None) -> np.ndarray:
    """Resize `pixels`, unless `size` is None; the default interpolation suits images."""
    height, width = pixels.shape[:2]
    if size is None or size == (width, height):
        return pixels
    if interpolation is None:
        interpolation = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
    return resize(pixels, size, interpolation)


def numbered(stem: str, index: int) -> str:
    """The name of a frame in a source without names of its own."""
    # Writers would take anything after a dot for the suffix.
    return f"{stem.replace('.', '_')}_{index:06d}"
