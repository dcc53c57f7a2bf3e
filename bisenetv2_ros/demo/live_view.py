"""The demo's table: redrawn in place on a terminal, a line now and then elsewhere (a log, CI)."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TextIO

CLASSES = 5  # how many of the largest are shown
BAR = 30  # characters of a bar that stands for 100 %
REDRAW = 0.25  # seconds between redraws on a terminal
LINE_EVERY = 2.0  # seconds between lines elsewhere


@dataclass(frozen=True)
class Progress:
    """What the table shows."""

    stage: str  # what is being waited for while there are no frames yet
    frames: int  # segmented so far
    total: int | None  # expected, where known
    rate: float  # masks per second
    latency_p50: float  # seconds
    latency_p99: float  # seconds
    dropped: int
    fractions: Sequence[tuple[str, float]]  # (class, 0..1) of the newest frame


class LiveView:
    """Shows `Progress`, and says when the next showing is due."""

    def __init__(self, stream: TextIO = sys.stdout) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._bar = "█" if stream.encoding.lower().startswith("utf") else "#"
        self._period = REDRAW if self._terminal else LINE_EVERY
        self._due = 0.0
        self._drawn = 0  # lines on the terminal that the next drawing replaces

    def is_due(self) -> bool:
        """Whether the last showing is long enough ago."""
        return time.monotonic() >= self._due

    def show(self, progress: Progress) -> None:
        """Show `progress` now."""
        self._due = time.monotonic() + self._period
        lines = _table(progress, self._bar) if self._terminal else [_line(progress)]
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1  # a wrapped line would count as two
            up = f"\x1b[{self._drawn}F" if self._drawn else ""
            text = up + "".join(f"{line[:width]}\x1b[K\n" for line in lines) + "\x1b[J"
            self._drawn = len(lines)
        else:
            text = "".join(f"{line}\n" for line in lines)
        self._stream.write(text)
        self._stream.flush()


def _line(progress: Progress) -> str:
    if not progress.frames:
        return f"  {progress.stage}"
    largest = ", ".join(f"{name} {100 * value:.0f} %" for name, value in _largest(progress)[:3])
    return f"  {_figures(progress)}   {largest}"


def _table(progress: Progress, bar: str) -> list[str]:
    if not progress.frames:
        return [f"  {progress.stage}"]
    largest = _largest(progress)
    width = max(len(name) for name, _ in progress.fractions)
    return [
        f"  {_figures(progress)}",
        "",
        *(
            f"  {name:<{width}}  {100 * value:5.1f} %  {bar * round(BAR * value)}"
            for name, value in largest
        ),
    ]


def _figures(progress: Progress) -> str:
    total = f"/{progress.total}" if progress.total else ""
    return (
        f"frame {progress.frames}{total}   {progress.rate:4.1f} Hz   "
        f"latency p50 {1000 * progress.latency_p50:.0f} ms, "
        f"p99 {1000 * progress.latency_p99:.0f} ms   dropped {progress.dropped}"
    )


def _largest(progress: Progress) -> list[tuple[str, float]]:
    return sorted(progress.fractions, key=lambda entry: -entry[1])[:CLASSES]
