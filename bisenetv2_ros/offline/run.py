"""The one loop that segments a source frame by frame and hands each result to the writers."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.files.paths import naming

if TYPE_CHECKING:
    from bisenetv2_ros.regions import Region
    from bisenetv2_ros.segmenter import Segmentation, Segmenter
    from bisenetv2_ros.sources.frame import Frame, FrameSource


class Results(Protocol):
    """Where frames and their segmentations go; complete after `close`."""

    frames: int  #: written so far

    @property
    def wants_confidence(self) -> bool:
        """Whether segmentations given to `write` must have it."""

    def write(self, frame: Frame, result: Segmentation) -> None:
        """Take one frame and its segmentation."""

    def close(self) -> None:
        """Complete what was written."""


def segment_source(
    verb: str,
    args: argparse.Namespace,
    open_results: Callable[[Segmenter, FrameSource, Sequence[Region]], Results],
    output: Path,
) -> int:
    """Segment every frame of the source; 0 when every one could be read, 1 else.

    128 and the signal's number after one that asks to stop: what is done is kept, and whole.

    args: of `add_source_options`. open_results: may raise ValueError for what does not fit the
    source. output: named in errors and at the end.
    """
    from tqdm import tqdm

    from bisenetv2_ros.backends.base import BackendUnavailable
    from bisenetv2_ros.regions import parse_regions
    from bisenetv2_ros.segmenter import InferenceError, Segmenter
    from bisenetv2_ros.sources.frame import SourceError
    from bisenetv2_ros.sources.frame_source import open_source

    damaged: list[Exception] = []

    def skip(error: Exception) -> None:
        damaged.append(error)
        tqdm.write(f"bisenetv2 {verb}: skipped {error}", file=sys.stderr)

    try:
        source = open_source(args.source, topics=args.topic, on_damaged=skip)
        regions = parse_regions(args.region, source.cameras)
        segmenter = Segmenter(args.model, backend=args.backend, device=args.device)
    except (ValueError, BackendUnavailable, InferenceError) as error:
        raise UserError(str(error)) from error
    print(
        f"{segmenter.model.name} on {segmenter.backend.name}, {segmenter.backend.device}",
        file=sys.stderr,
    )
    total = source.count if args.frames is None else min(args.frames, source.count or args.frames)
    # disable=None: no bar where the output is not a terminal.
    bar = tqdm(total=total, unit="frame", disable=None)
    try:
        results = open_results(segmenter, source, regions)
    except ValueError as error:
        raise UserError(f"{args.source}: {error}") from error
    confidence = results.wants_confidence
    with _asked_to_stop() as signals:
        try:
            with naming(output):
                for frame in itertools.islice(source, args.frames):
                    try:
                        results.write(frame, segmenter(frame.image, confidence=confidence))
                    except InferenceError as error:
                        skip(InferenceError(f"{frame.name}: {error}"))
                    bar.update()
                    if signals:
                        break
        except SourceError as error:
            raise UserError(str(error)) from error
        finally:
            with naming(output):
                results.close()
            segmenter.close()
            bar.close()
            print(f"{results.frames} frames segmented, results in {output}", file=sys.stderr)
    if damaged:
        count = results.frames + len(damaged)
        print(
            f"bisenetv2 {verb}: error: {len(damaged)} of {count} frames skipped, see above",
            file=sys.stderr,
        )
    if signals:
        return 128 + signals[0]  # as shells report it
    return 1 if damaged else 0


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[list[int]]:
    """A list of the signals that asked to stop, so that the frame in hand is finished.

    Ctrl-C, SIGTERM, and SIGHUP unless it is ignored (nohup). A second Ctrl-C interrupts as usual;
    the others may come twice, as when a terminal is closed.
    """
    signals: list[int] = []

    def handle(number: int, _: object) -> None:
        signals.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
