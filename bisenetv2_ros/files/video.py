"""Writes videos."""

from __future__ import annotations

import errno
from pathlib import Path

import cv2
import numpy as np


class VideoFile:
    """An .mp4 file of RGB frames (MPEG-4 part 2, the one mp4 codec of OpenCV's wheels everywhere).

    All frames take the size of the first. The file is complete after `close`; without a frame there
    is none.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """rate: frames per second on playing back, rounded to what MPEG-4 can express."""
        self.path = path
        # A fraction of numbers of 16 bits.
        self._rate = min(max(0.01, round(rate, 2 if rate < 655 else 0)), 65535.0)
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def write(self, frame: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame; OSError if the file cannot be written."""
        if self._writer is None:
            height, width = frame.shape[:2]
            self._size = (width + width % 2, height + height % 2)  # odd sides lose a line
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), codec, self._rate, self._size)
            if not self._writer.isOpened():
                raise OSError(
                    errno.EIO,
                    f"cannot write a video of {self._size} at {self._rate} Hz in mp4v",
                    str(self.path),
                )
        if frame.shape[1::-1] != self._size:
            frame = cv2.resize(frame, self._size, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Complete the file."""
        if self._writer is None:
            return
        self._writer.release()
        # A full disk stops the writer without a word.
        if not cv2.VideoCapture(str(self.path)).isOpened():
            raise OSError(errno.EIO, "the video is not whole, is the disk full?", str(self.path))
