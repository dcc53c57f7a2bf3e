"""Limits on regions of interest, which raise a diagnostic level.

'path_ahead: road < 0.5 WARN'           WARN while less than half of the region is road
'path_ahead: pedestrian > 0.02 ERROR'
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bisenetv2_ros.node.diagnostics import MIN_STALE, WINDOW, Level
from bisenetv2_ros.regions import Region, RegionWatch

_LIMIT = re.compile(r"\s*([A-Za-z]\w*)\s*:\s*(.+?)\s*([<>])\s*(\S+)\s+(WARN|ERROR)\s*")


@dataclass(frozen=True)
class Limit:
    """A fraction of a class in a region beyond which a diagnostic level is raised."""

    region: str
    class_name: str
    sign: str  #: '<' or '>': the level is raised while fraction SIGN bound
    bound: float  #: 0..1
    level: Level

    def passed_by(self, fraction: float) -> bool:
        """Whether a region with this fraction of the class, 0..1, raises the level."""
        return fraction < self.bound if self.sign == "<" else fraction > self.bound


def parse_limits(
    texts: Sequence[str], regions: Sequence[Region], class_names: Sequence[str]
) -> tuple[Limit, ...]:
    """Parse limits written as above; empty texts are skipped.

    Raises ValueError, naming the text, if it has another form, its bound is outside of 0..1, or
    its region or class does not exist.
    """
    limits = []
    known = list(dict.fromkeys(region.name for region in regions))
    for text in filter(str.strip, texts):
        match = _LIMIT.fullmatch(text)
        if match is None:
            raise ValueError(
                f"region limit '{text}': expected 'REGION: CLASS < SHARE WARN', or > and ERROR"
            )
        region, class_name, sign, number, level = match.groups()
        if region not in known:
            raise ValueError(
                f"region limit '{text}': no region '{region}', known: {', '.join(known) or 'none'}"
            )
        if class_name not in class_names:
            raise ValueError(
                f"region limit '{text}': no class '{class_name}' in the model, known: "
                f"{', '.join(class_names)}"
            )
        try:
            bound = float(number)
        except ValueError:
            bound = math.nan
        if not 0 <= bound <= 1:
            raise ValueError(f"region limit '{text}': got {number}, expected a share within 0..1")
        limits.append(Limit(region, class_name, sign, bound, Level[level]))
    return tuple(limits)


class LimitWatch(RegionWatch):
    """Counts the classes in the regions of one camera and checks them against limits."""

    def __init__(
        self,
        regions: Sequence[Region],
        limits: Sequence[Limit],
        size: tuple[int, int],
        class_names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """size: (width, height) of the masks to come.

        Raises ValueError if a region has no pixel in a mask of that size.
        """
        super().__init__(regions, size, class_names)
        self.limits = tuple(limits)
        self._clock = clock
        self._times: deque[float] = deque(maxlen=10)  # of masks

    def update(self, mask: np.ndarray) -> None:
        super().update(mask)
        self._times.append(self._clock())

    def assess(
        self, stale_periods: float, max_rate: float = 0.0
    ) -> Iterator[tuple[str, Level, str, dict[str, str]]]:
        """Judge each region that has limits: name, level, one line why, and all fractions.

        STALE if no mask came for `stale_periods` of their median periods, or of the period of
        `max_rate` [Hz] (0: unlimited), which may have been lowered since the last mask.
        """
        times, counts = list(self._times), self.counts
        period = float(np.median(np.diff(times))) if len(times) > 1 else WINDOW / stale_periods
        if max_rate:
            period = max(period, 1 / max_rate)
        age = self._clock() - times[-1] if times else math.inf
        for region in self.regions:
            limits = [limit for limit in self.limits if limit.region == region.name]
            if not limits:
                continue
            if age > max(stale_periods * period, MIN_STALE):
                since = f"for {age:.1f} s" if times else "yet"
                yield region.name, Level.STALE, f"no mask {since}", {}
                continue
            found = counts[region.name]
            parts = dict(zip(self._class_names, found / max(1, found.sum()), strict=True))
            passed = [limit for limit in limits if limit.passed_by(parts[limit.class_name])]
            level = max((limit.level for limit in passed), default=Level.OK)
            text = ", ".join(
                f"{limit.class_name} {parts[limit.class_name]:.3f} {limit.sign} {limit.bound:g}"
                for limit in passed
            )
            values = {name: f"{fraction:.4f}" for name, fraction in parts.items()}
            yield region.name, level, text or "within its limits", values
