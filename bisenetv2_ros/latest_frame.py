"""Newest frame wins: the hand-over from many camera callbacks to one inference thread.

Each camera has one slot. A frame that arrives before the last one was taken replaces it, so
whatever is taken is the newest there is and waiting frames never pile up. Cameras with a fresh
frame take turns, so a fast camera does not starve a slow one.

Knows nothing of ROS, images or time.
"""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


class LatestFrame(Generic[Frame]):
    """One-slot mailboxes for `cameras` producers and one consumer; every method is thread-safe."""

    def __init__(self, cameras: int) -> None:
        self._slots: list[Frame | None] = [None] * cameras
        self._last = cameras - 1  # the camera served last; the search starts behind it
        self._closed = False
        self._changed = threading.Condition()

    def put(self, camera: int, frame: Frame) -> bool:
        """Offer a frame. True if it replaced one that nobody took."""
        with self._changed:
            replaced = self._slots[camera] is not None
            self._slots[camera] = frame
            self._changed.notify()
            return replaced

    def take(self, most: int = 1) -> list[tuple[int, Frame]]:
        """Wait for a frame: (camera, frame), the cameras in turn. Empty once closed.

        Where more than one camera has a frame by then, up to `most` of them at once.
        """
        with self._changed:
            while not self._closed:
                taken: list[tuple[int, Frame]] = []
                first = self._last + 1
                for step in range(len(self._slots)):
                    camera = (first + step) % len(self._slots)
                    frame = self._slots[camera]
                    if frame is not None and len(taken) < most:
                        self._slots[camera] = None
                        self._last = camera
                        taken.append((camera, frame))
                if taken:
                    return taken
                self._changed.wait()
            return []

    def close(self) -> list[int]:
        """Wake the consumer for the last time. The cameras whose frame is forgotten, untaken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            forgotten = [i for i, frame in enumerate(self._slots) if frame is not None]
            self._slots = [None] * len(self._slots)
            return forgotten
