"""The one loop that segments a source frame by frame and passes each result to a writer."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from bisenetv2_ros.files.paths import naming
from bisenetv2_ros.segmenter import InferenceError
from bisenetv2_ros.sources.frame import SourceDamage
from bisenetv2_ros.system.signals import asked_to_stop

if TYPE_CHECKING:
    from bisenetv2_ros.segmenter import Segmentation, Segmenter
    from bisenetv2_ros.sources.frame import Frame, FrameSource


class Results(ABC):
    """Receives frames and their segmentations; complete after `close`."""

    frames = 0  #: written so far
    mask_size = "camera"  #: required of segmentations: the frame's ('camera') or 'network'
    wants_confidence = False  #: whether segmentations given to `write` must have it

    @property
    def notes(self) -> Sequence[str]:
        """Remarks for users of the results."""
        return ()

    def has(self, frame: Frame) -> bool:
        """Whether an earlier run has finished this frame."""
        return False

    @abstractmethod
    def write(self, frame: Frame, result: Segmentation) -> None:
        """Take one frame and its segmentation."""

    @abstractmethod
    def close(self) -> None:
        """Complete the results."""


class Faults:
    """Reports each loss when it happens, and the number of losses at the end."""

    def __init__(self, verb: str) -> None:
        self._program = f"bisenetv2 {verb}"
        self._skipped = self._damaged = 0

    def skip(self, error: Exception) -> None:
        """Report a frame that cannot be read or segmented, or a damaged recording."""
        is_damage = isinstance(error, SourceDamage)
        self._damaged += is_damage
        self._skipped += not is_damage
        self.say(str(error) if is_damage else f"skipped {error}")

    def say(self, text: str) -> None:
        """Print a line beside the progress bar."""
        tqdm.write(f"{self._program}: {text}", file=sys.stderr)

    def sum_up(self, source: FrameSource, done: int) -> bool:
        """Report the number of losses and the files passed over; True if anything was lost."""
        images = source.say_passed_over(self.say)
        if self._skipped:
            count = done + self._skipped
            self.say(f"error: {self._skipped} of {count} frames skipped, see above")
        if self._damaged:
            self.say("error: the source is damaged and frames are lost, see above")
        return bool(images or self._skipped or self._damaged)


def segment_frames(
    source: FrameSource,
    segmenter: Segmenter,
    results: Results,
    faults: Faults,
    output: Path,
    limit: int | None = None,
) -> int:
    """Segment every wanted frame of the source; return the exit code.

    0 if all could be read, otherwise 1; 128 plus the signal's number after a signal, in which case
    finished results are kept and complete. Raises SourceError and OSError; the latter names the
    frame.

    Args:
        faults: receives frames that cannot be read; also the source's `on_damaged`.
        output: named in errors and at the end.
        limit: stop after this many frames.
    """
    total = source.excerpt.count(source.count, source.fps)
    if limit is not None:
        total = min(limit, total or limit)
    # disable=None: no bar if the output is not a terminal.
    with asked_to_stop() as signals, tqdm(total=total, unit="frame", disable=None) as bar:
        try:
            with naming(output):
                present = _segment_all(source, segmenter, results, faults, limit, signals, bar)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is more specific
                results.close()
            raise
        else:
            with naming(output):
                results.close()
        finally:
            segmenter.close()
            bar.close()
            faults.say(f"{results.frames} frames segmented, results in {output}")
    for note in results.notes:
        faults.say(note)
    if present:
        faults.say(f"{present} frames were done already")
    lost = faults.sum_up(source, results.frames)
    if signals:
        return 128 + signals[0]  # as shells report it
    if not results.frames and not present and not lost:
        faults.say("error: no frame between --start and --end")
        return 1
    return 1 if lost else 0


def _segment_all(
    source: FrameSource,
    segmenter: Segmenter,
    results: Results,
    faults: Faults,
    limit: int | None,
    signals: list[int],
    bar: tqdm,
) -> int:
    """Return how many frames an earlier run had finished."""
    present = 0
    try:
        for frame in itertools.islice(source.excerpt.pick(source), limit):
            if results.has(frame):
                present += 1
            else:
                _segment_one(frame, segmenter, results, faults)
            bar.update()
            if signals:
                break
    except sqlite3.Error as error:  # a bag cannot be written
        raise OSError(5, f"cannot write: {error}") from error
    return present


def _segment_one(frame: Frame, segmenter: Segmenter, results: Results, faults: Faults) -> None:
    try:
        size = frame.image.shape[1::-1] if results.mask_size == "camera" else None
        result = segmenter(frame.image, confidence=results.wants_confidence, size=size)
    except InferenceError as error:
        faults.skip(InferenceError(f"{frame.name}: {error}"))
        return
    try:
        results.write(frame, result)
    except OSError as error:
        error.strerror = f"{error.strerror or error} (results of {frame.name})"
        raise
