"""Frames from local cameras and network streams, as they come."""

from __future__ import annotations

import itertools
import re
import time
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.files.decoder_messages import captured_messages
from bisenetv2_ros.files.video import VideoError, open_capture
from bisenetv2_ros.sources.frame import (
    DEFAULT_RATE,
    Frame,
    FrameSource,
    Size,
    SourceError,
    numbered,
    resized,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

WEBCAM = "webcam:"
_DEVICE = re.compile(rf"(?:{WEBCAM}|/dev/video)(.*)")
_ADDRESS = re.compile(r"(?:rtsps?|rtmps?|https?|srt|udp|tcp)://(?:[^/@]*@)?(.*)")


def is_live(spec: str) -> bool:
    """Whether a source is a device or an address."""
    return bool(_DEVICE.fullmatch(spec) or _ADDRESS.match(spec))


def open_live(spec: str, rate: float, size: Size | None) -> FrameSource:
    """Open a device or an address. Raises SourceError if it cannot be opened."""
    return _Camera(spec, rate, size) if _DEVICE.fullmatch(spec) else _Stream(spec, size)


class _Live(FrameSource):
    """A local or network camera; frames that are not taken grow old."""

    live = True

    def __init__(self, spec: str, shown: str, rate: float, size: Size | None) -> None:
        """spec: for OpenCV. shown: for messages, without passwords."""
        super().__init__(rate, None)
        self._shown, self._size = shown, size
        self._capture = self._open(spec)

    def _open(self, spec: str) -> cv2.VideoCapture:
        device = _DEVICE.fullmatch(spec)
        if device and not device[1].isdecimal():
            raise SourceError(f"'{spec}': expected {WEBCAM}N with the number of the device")
        try:
            return open_capture(int(device[1]) if device else spec)
        except VideoError as error:
            what = f"no camera opens as device {device[1]}" if device else "nothing answers"
            raise SourceError(f"'{self._shown}': {what} ({error})") from error

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        for index in itertools.count():
            with captured_messages():  # FFmpeg's, about packets lost on the network
                success, bgr = self._capture.read()
            if not success:
                self._end(index)
                return
            image = resized(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)), self._size)
            name = numbered(re.sub(r"[^\w-]+", "_", self._shown).strip("_"), index)
            moment = time.monotonic() - start
            if self.excerpt.is_over(index, moment):
                return
            yield Frame(image, name, None, moment, source=self._shown, index=index)

    def _end(self, count: int) -> None:
        raise SourceError(f"'{self._shown}': the camera delivers no more frames")


class _Camera(_Live):
    """A local camera, endless."""

    def __init__(self, spec: str, rate: float, size: Size | None) -> None:
        super().__init__(spec, spec, rate, size)
        self._capture.set(cv2.CAP_PROP_FPS, rate)
        if size is not None:  # the camera may choose another size; frames are resized anyway
            self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
            self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])


class _Stream(_Live):
    """A network address: a camera's stream, which should not end, or a video, which does."""

    def __init__(self, spec: str, size: Size | None) -> None:
        address = _ADDRESS.match(spec)
        assert address is not None
        shown = spec[: spec.index("://") + 3] + address[1]
        super().__init__(spec, shown, DEFAULT_RATE, size)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = rate if 0 < rate < 1000 else DEFAULT_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if 0 < count < 1e9:
            self.count, self.live = round(count), False

    def _end(self, count: int) -> None:
        if self.count is None or count < 0.9 * self.count - 1:
            raise SourceError(f"'{self._shown}': no more frames after {count}")
