"""What a frame is, and a source of frames: the terms that every kind of source is made of.

Knows no kind of source, no files, no ROS and no model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_RATE = 15.0  # Hz

Size = tuple[int, int]  # (width, height) in pixels


class SourceError(ValueError):
    """A source that cannot be opened or read; the message names it and what was expected."""


@dataclass(frozen=True)
class Origin:
    """The message of a recording that a frame was in."""

    camera: str  #: image topic, without /compressed
    sec: int  #: of the header's stamp
    nanosec: int
    frame_id: str
    received: int  #: time of recording, nanoseconds


@dataclass(frozen=True)
class Frame:
    """One picture of a source."""

    image: np.ndarray  #: (H, W, 3) uint8 RGB
    name: str  #: file name, or one made of the source's name and a running number
    label: np.ndarray | None  #: (H, W) uint8 class index of each pixel, where it is known
    time: float  #: seconds since the source's first frame, by the source's own rate
    origin: Origin | None = None  #: of frames from a bag

    @property
    def camera(self) -> str:
        """Which of the source's `cameras` it is from."""
        return self.origin.camera if self.origin else ""


class FrameSource(ABC):
    """An iterable of `Frame`; each iteration starts anew."""

    live = False  #: frames come at their own pace, and one that is not taken grows old
    labelled = False  #: at least one frame has a label
    cameras: tuple[str, ...] = ("",)  #: of frames with an origin, every name that it may have

    def __init__(self, fps: float, count: int | None) -> None:
        self.fps = fps  #: frames per second that the source is meant to be shown at
        self.count = count  #: frames of one iteration, None where unknown or endless

    def rate(self, camera: str) -> float:
        """Frames a second of one of `cameras`."""
        return self.fps

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...


def resized(pixels: np.ndarray, size: Size | None, interpolation: int | None = None) -> np.ndarray:
    """`pixels` in `size`; the interpolation is by default the one that suits a picture."""
    height, width = pixels.shape[:2]
    if size is None or size == (width, height):
        return pixels
    if interpolation is None:
        interpolation = cv2.INTER_AREA if size[0] < width else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, size, interpolation=interpolation))
