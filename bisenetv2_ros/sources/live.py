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


class Live(FrameSource):
    """A local camera, a camera's network stream, or a video at a network address."""

    live = True

    def __init__(self, spec: str, rate: float, size: Size | None) -> None:
        """Open a source for which `is_live` is true. Raises SourceError if it cannot be opened.

        rate: requested from a local camera, Hz.
        """
        super().__init__(rate, None)
        device, address = _DEVICE.fullmatch(spec), _ADDRESS.match(spec)
        # For messages, so without a password.
        self._shown = spec[: spec.index("://") + 3] + address[1] if address else spec
        self._size = size
        if device and not device[1].isdecimal():
            raise SourceError(f"'{spec}': expected {WEBCAM}N with the number of the device")
        try:
            self._capture = open_capture(int(device[1]) if device else spec)
        except VideoError as error:
            reason = f"no camera opens as device {device[1]}" if device else "nothing answers"
            raise SourceError(f"'{self._shown}': {reason} ({error})") from error
        if device:
            self._capture.set(cv2.CAP_PROP_FPS, rate)
            if size is not None:  # the camera may choose another size; frames are resized anyway
                self._capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
                self._capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
        else:
            rate = self._capture.get(cv2.CAP_PROP_FPS)
            self.fps = rate if 0 < rate < 1000 else DEFAULT_RATE
            count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
            if 0 < count < 1e9:  # a video, which has an end
                self.count, self.live = round(count), False

    def __iter__(self) -> Iterator[Frame]:
        start = time.monotonic()
        for index in itertools.count():
            with captured_messages():  # FFmpeg's, about packets lost on the network
                success, bgr = self._capture.read()
            if not success:
                if self.count is None or index < 0.9 * self.count - 1:
                    raise SourceError(f"'{self._shown}': no more frames after {index}")
                return
            image = resized(np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)), self._size)
            name = numbered(re.sub(r"[^\w-]+", "_", self._shown).strip("_"), index)
            moment = time.monotonic() - start
            if self.excerpt.is_over(index, moment):
                return
            yield Frame(image, name, None, moment, source=self._shown, index=index)
