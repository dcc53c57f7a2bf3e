"""Regions of interest: named polygons in the picture, what they consist of, and limits on that.

    region  'path_ahead: 0.3 1, 0.45 0.6, 0.55 0.6, 0.7 1'     of every camera
            'path_ahead @ front/image_raw: 0.3 1, ...'         of that one
    limit   'path_ahead: road < 0.5 WARN'                      WARN while less of it is road
            'path_ahead: pedestrian > 0.02 ERROR'

Points are x y as fractions of the picture's width and height, from the top left corner, so that
they hold for every size of it. A pixel is inside where its centre is: regions that share an edge
share no pixel. Knows nothing of ROS or of how a mask is made.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from bisenetv2_ros.node.diagnostics import MIN_STALE, WINDOW, Level

_REGION = re.compile(r"\s*([A-Za-z]\w*)\s*(?:@\s*([^\s:]+)\s*)?:(.*)", re.DOTALL)
_LIMIT = re.compile(r"\s*([A-Za-z]\w*)\s*:\s*(.+?)\s*([<>])\s*(\S+)\s+(WARN|ERROR)\s*")


@dataclass(frozen=True)
class Region:
    """A polygon in the picture of one camera, or of all."""

    name: str
    points: tuple[tuple[float, float], ...]  #: at least three (x, y), each 0..1
    camera: str = ""  #: image topic as the parameter cameras has it; '' for every camera


@dataclass(frozen=True)
class Limit:
    """A share of a class in a region that raises a diagnostic level."""

    region: str
    class_name: str
    sign: str  #: '<' or '>': the level is raised while share SIGN bound
    bound: float  #: 0..1
    level: Level

    def passed_by(self, share: float) -> bool:
        """Whether a region with this `share` of the class, 0..1, raises the level."""
        return share < self.bound if self.sign == "<" else share > self.bound


def parse_regions(texts: Sequence[str], cameras: Sequence[str] = ()) -> tuple[Region, ...]:
    """Regions from texts as above; empty ones count for nothing.

    cameras: those that a region may be for; none allows any. ValueError, naming the text, for
    another form, points outside of the picture, fewer than three, or a camera that is not there.
    """
    regions: list[Region] = []
    for text in filter(str.strip, texts):
        match = _REGION.fullmatch(text)
        if match is None:
            raise ValueError(
                f"region '{text}': expected 'NAME: X Y, X Y, X Y' or 'NAME @ CAMERA: ...', NAME of "
                "letters, digits and _, a letter first"
            )
        name, camera, corners = match[1], match[2] or "", match[3].split(",")
        try:
            points = tuple((float(x), float(y)) for x, y in map(str.split, corners))
        except ValueError:
            points = ()
        if len(points) < 3 or not all(0 <= value <= 1 for point in points for value in point):
            raise ValueError(
                f"region '{text}': expected at least three points X Y within 0..1, with commas "
                "between them"
            )
        if camera and cameras and camera not in cameras:
            listed = ", ".join(filter(None, cameras)) or "none"  # a video is the camera ''
            raise ValueError(f"region '{text}': no camera '{camera}', known: {listed}")
        for other in regions:
            if other.name == name and (not camera or other.camera in ("", camera)):
                raise ValueError(f"region '{text}': another one is called {name}")
        regions.append(Region(name, points, camera))
    return tuple(regions)


def parse_limits(
    texts: Sequence[str], regions: Sequence[Region], class_names: Sequence[str]
) -> tuple[Limit, ...]:
    """Limits from texts as above; empty ones count for nothing.

    ValueError, naming the text, for another form, a bound outside of 0..1, or a region or class
    that is not there.
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


def inside(region: Region, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool for a picture of `size` (width, height): whose centres are in the polygon.

    By the even-odd rule: of a polygon that crosses itself, what is covered twice is outside.
    """
    width, height = size
    x = ((np.arange(width) + 0.5) / width)[None, :]
    y = ((np.arange(height) + 0.5) / height)[:, None]
    result = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(
        region.points, region.points[1:] + region.points[:1], strict=True
    ):
        if y0 != y1:  # rays to the right cross the edge
            result ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return result


class RegionWatch:
    """What the regions of one camera consist of, frame by frame, and what that means."""

    def __init__(
        self,
        regions: Sequence[Region],
        limits: Sequence[Limit],
        size: tuple[int, int],
        class_names: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """size: (width, height) of the masks to come. ValueError for a region without a pixel."""
        self.regions = tuple(regions)
        self.limits = tuple(limits)
        #: (C,) int64 pixels of each class, by region, of the newest mask.
        self.counts: dict[str, np.ndarray] = {}
        self._class_names = tuple(class_names)
        self._clock = clock
        self._times: deque[float] = deque(maxlen=10)
        self._areas = [self._area(region, size) for region in self.regions]

    def update(self, mask: np.ndarray) -> None:
        """Count the pixels of each class in each region of a mask, (H, W) uint8."""
        counts = {}
        for region, (box, stencil) in zip(self.regions, self._areas, strict=True):
            part = np.ascontiguousarray(mask[box])
            histogram = cv2.calcHist([part], [0], stencil, [256], [0, 256]).ravel()
            counts[region.name] = histogram[: len(self._class_names)].astype(np.int64)
        self.counts = counts  # at once: the diagnostics read it on another thread
        self._times.append(self._clock())

    def assess(
        self, stale_periods: float, max_rate: float = 0.0
    ) -> Iterator[tuple[str, Level, str, dict[str, str]]]:
        """Judge each region that has limits: name, level, one line why, and all shares.

        STALE where no mask came for `stale_periods` times their median distance, or that of
        `max_rate` [Hz] (0: unlimited), which the masks of before may not know yet.
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
            shares = dict(zip(self._class_names, found / max(1, found.sum()), strict=True))
            passed = [limit for limit in limits if limit.passed_by(shares[limit.class_name])]
            level = max((limit.level for limit in passed), default=Level.OK)
            text = ", ".join(
                f"{limit.class_name} {shares[limit.class_name]:.3f} {limit.sign} {limit.bound:g}"
                for limit in passed
            )
            values = {name: f"{share:.4f}" for name, share in shares.items()}
            yield region.name, level, text or "within its limits", values

    @staticmethod
    def _area(region: Region, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
        """The box around a region's pixels, and which pixels of the box are inside: (h, w) uint8
        of 0 and 1."""
        pixels = inside(region, size)
        rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
        if not rows.size:
            raise ValueError(
                f"region '{region.name}': no pixel of the {size[0]}x{size[1]} mask is inside"
            )
        box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return box, np.ascontiguousarray(pixels[box], np.uint8)


def of_camera(regions: Sequence[Region], camera: str) -> list[Region]:
    """Those of a camera: its own and every camera's."""
    return [region for region in regions if region.camera in ("", camera)]


def watch_cameras(
    regions: Sequence[Region],
    cameras: Sequence[str],
    size: tuple[int, int],
    class_names: Sequence[str],
) -> dict[str, RegionWatch]:
    """A watch without limits for each camera, on masks of `size`. ValueError as of RegionWatch."""
    return {
        camera: RegionWatch(of_camera(regions, camera), (), size, class_names) for camera in cameras
    }
