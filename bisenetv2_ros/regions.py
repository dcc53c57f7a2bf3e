"""Regions of interest: named polygons in the image, and the pixels of each class in them.

    'path_ahead: 0.3 1, 0.45 0.6, 0.55 0.6, 0.7 1'     for every camera
    'path_ahead @ front/image_raw: 0.3 1, ...'         for one camera

Points are x y as fractions of the image's width and height, from the top left corner, so they apply
to every image size. A pixel is inside if its center is: regions that share an edge share no pixel.
Knows nothing of ROS or of how a mask is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

_REGION = re.compile(r"\s*([A-Za-z]\w*)\s*(?:@\s*([^\s:]+)\s*)?:(.*)", re.DOTALL)


@dataclass(frozen=True)
class Region:
    """A polygon in the image of one camera, or of all cameras."""

    name: str
    points: tuple[tuple[float, float], ...]  #: at least three (x, y), each 0..1
    camera: str = ""  #: image topic as in the parameter cameras; '' for every camera


def parse_regions(texts: Sequence[str], cameras: Sequence[str] = ()) -> tuple[Region, ...]:
    """Parse regions from texts as above; empty texts are ignored.

    cameras: the known ones; if empty, any name is accepted. Raises ValueError, naming the text, if
    its form is wrong, it has fewer than three points or one outside the image, its camera is
    unknown, or its name is taken.
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


def inside(region: Region, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool for an image of `size` (width, height): whether a pixel's center is inside.

    By the even-odd rule: if a polygon crosses itself, what is covered twice is outside.
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
    """Counts the pixels of each class in the regions of one camera, mask by mask."""

    def __init__(
        self, regions: Sequence[Region], size: tuple[int, int], class_names: Sequence[str]
    ) -> None:
        """size: (width, height) of the network's masks; other sizes may follow.

        Raises ValueError if a region has no pixel in a mask of that size.
        """
        self.regions = tuple(regions)
        #: (C,) int64 pixels of each class, by region, of the newest mask.
        self.counts: dict[str, np.ndarray] = {}
        self._class_names = tuple(class_names)
        self._size = size
        self._areas = [_area(region, size) for region in self.regions]
        for region, (_, stencil) in zip(self.regions, self._areas, strict=True):
            if not stencil.size:
                raise ValueError(
                    f"region '{region.name}': no pixel of the {size[0]}x{size[1]} mask is inside"
                )

    def update(self, mask: np.ndarray) -> None:
        """Count the pixels of each class in each region of a mask, (H, W) uint8."""
        if mask.shape[::-1] != self._size:
            self._size = (mask.shape[1], mask.shape[0])
            self._areas = [_area(region, self._size) for region in self.regions]
        counts = {}
        for region, (box, stencil) in zip(self.regions, self._areas, strict=True):
            histogram = np.zeros(256)
            if stencil.size:
                part = np.ascontiguousarray(mask[box])
                histogram = cv2.calcHist([part], [0], stencil, [256], [0, 256]).ravel()
            counts[region.name] = histogram[: len(self._class_names)].astype(np.int64)
        self.counts = counts  # in one assignment: the diagnostics read it on another thread


def _area(region: Region, size: tuple[int, int]) -> tuple[tuple[slice, slice], np.ndarray]:
    """The bounding box of a region's pixels, and (h, w) uint8 with 1 for pixels inside.

    Both are empty for a region without a pixel.
    """
    pixels = inside(region, size)
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    if not rows.size:
        return (slice(0, 0), slice(0, 0)), np.empty((0, 0), np.uint8)
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return box, np.ascontiguousarray(pixels[box], np.uint8)


def of_camera(regions: Sequence[Region], camera: str) -> list[Region]:
    """The regions of a camera: its own and every camera's."""
    return [region for region in regions if region.camera in ("", camera)]


def watch_cameras(
    regions: Sequence[Region],
    cameras: Sequence[str],
    size: tuple[int, int],
    class_names: Sequence[str],
) -> dict[str, RegionWatch]:
    """A watch for each camera, on masks of `size`. Raises ValueError as RegionWatch does."""
    return {
        camera: RegionWatch(of_camera(regions, camera), size, class_names) for camera in cameras
    }
