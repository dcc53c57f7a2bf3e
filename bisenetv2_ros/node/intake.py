"""Newest frame wins: hands frames from many camera callbacks to one inference thread.

Each camera has one slot. A frame that arrives before the previous one was taken replaces it, so the
consumer always gets the newest frame and frames never pile up. Cameras with a new frame take turns,
so a fast camera does not starve a slow one.

Knows nothing of ROS, images or time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


class LatestFrame(Generic[Frame]):
    """One-slot mailboxes for `cameras` producers and one consumer; every method is thread-safe."""

    def __init__(self, cameras: int) -> None:
        self._slots: list[Frame | None] = [None] * cameras
        self._last = cameras - 1  # the camera served last; the search starts after it
        self._closed = False
        self._changed = threading.Condition()

    def put(self, camera: int, frame: Frame) -> bool:
        """Store a frame. True if it replaced one that was not taken."""
        with self._changed:
            replaced = self._slots[camera] is not None
            self._slots[camera] = frame
            self._changed.notify()
            return replaced

    def take(self, most: int = 1) -> list[tuple[int, Frame]]:
        """Wait for a frame and return (camera, frame), cameras in turn. Empty once closed.

        If several cameras have a frame by then, returns up to `most` of them.
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
        """Wake the consumer for the last time. Returns the cameras whose frame was not taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            forgotten = [i for i, frame in enumerate(self._slots) if frame is not None]
            self._slots = [None] * len(self._slots)
            return forgotten


class RateLimit:
    """Passes a given number of frames per second on average, however unevenly they come."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due = 0.0

    def passes(self, max_rate: float) -> bool:
        """Whether a frame that comes now is within `max_rate` [Hz]; 0 is unlimited."""
        now = self._clock()
        if not max_rate:
            return True
        # Never further ahead than one period of this rate: a lower rate may have been set before.
        self._due = min(self._due, now + 1 / max_rate)
        if now < self._due:
            return False
        # From its due time, not from now; otherwise every wait would be rounded up to a frame.
        self._due = max(self._due + 1 / max_rate, now)
        return True
