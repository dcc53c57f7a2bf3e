"""The parts that make up the objects of a synthetic street: sprites, walls, flat colored faces.

Axes: x to the right, y up, z away from the viewer; meters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

(SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST) = range(11)

WALL_PX = 16  # texture pixels per meter

Colour = tuple[float, float, float]  # RGB, 0..255
Point = tuple[float, float, float]
Face = tuple[np.ndarray, Colour, int]  # (n, 3) meters, color, class
Light = tuple[float, float, float]  # brightness of faces to the left, right and viewer

# fmt: off
WALL_COLOURS: list[Colour] = [
    (142, 84, 66), (160, 112, 82), (186, 160, 118), (176, 166, 148), (212, 206, 192),
    (150, 150, 148), (120, 98, 84), (196, 178, 150), (104, 74, 62), (222, 214, 186)]
SHOP_COLOURS: list[Colour] = [
    (150, 30, 34), (30, 62, 120), (26, 90, 60), (40, 40, 44), (190, 150, 50), (225, 225, 220),
    (100, 40, 90), (200, 90, 30)]
PAINT: list[Colour] = [
    (200, 202, 204), (60, 62, 66), (28, 28, 31), (150, 24, 26), (34, 56, 110), (236, 236, 234),
    (110, 116, 122), (40, 80, 60), (120, 150, 180), (150, 140, 118), (190, 196, 150)]
# fmt: on


@dataclass
class Sprite:
    """An upright RGBA image that faces the camera.

    Pixels with alpha above `drawn` are painted and labeled. If `drawn` is above 127, pixels with
    alpha from 65 to `drawn` are labeled but not painted, such as the air between bare twigs, which
    CamVid labels as tree. A negative width mirrors the image.
    """

    levels: list[np.ndarray]  # each half the size of the one before
    width: float  # m
    height: float  # m
    base: float  # m above ground
    drawn: int
    label: int


@dataclass
class Wall:
    """An RGBA texture on a plane along the road at x, from z to z + length."""

    x: float
    z: float
    length: float
    height: float
    levels: list[np.ndarray]
    label: int
    light: float


@dataclass
class Thing:
    """Faces, painted in the given order, and a sprite on top. `frames` are the animation steps."""

    x: float
    z: float
    frames: list[list[Face]]
    shadow: tuple[float, float, float] | None = None  # m: half width, length, height
    sprite: Sprite | None = None
    pace: float = 0.0  # animation steps per second
    points: list[np.ndarray] = field(init=False)  # all corners of each step
    colours: list[np.ndarray] = field(init=False)
    extents: list[np.ndarray] = field(init=False)  # m, longest side of each face's bounding box
    depth: float = field(init=False)  # m, from z to the farthest corner

    def __post_init__(self) -> None:
        self.points = [
            np.concatenate([f[0] for f in frame]) if frame else np.zeros((0, 3))
            for frame in self.frames
        ]
        self.colours = [np.array([f[1] for f in frame]).reshape(-1, 3) for frame in self.frames]
        self.extents = [
            np.array([np.ptp(f[0], axis=0).max() for f in frame]) for frame in self.frames
        ]
        self.depth = max((float(p[:, 2].max()) for p in self.points if len(p)), default=0.0)


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """Return a random color of these, with slightly varied brightness and hue."""
    colour = colours[int(rng.integers(len(colours)))]
    gain = 1 + 0.15 * rng.uniform(-1, 1)
    r, g, b = np.clip(np.array(colour) * gain + rng.uniform(-8, 8, 3), 4, 250).tolist()
    return r, g, b


def scaled(colour: Colour, by: float) -> Colour:
    """Return the color multiplied by a factor."""
    return (colour[0] * by, colour[1] * by, colour[2] * by)


def noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Return smooth float32 noise, zero mean, unit deviation, with blobs of about `cell` pixels."""
    height, width = shape
    small = rng.standard_normal((max(2, round(height / cell)), max(2, round(width / cell))))
    big = np.asarray(
        cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    )
    return (big - big.mean()) / (big.std() + 1e-6)


def pyramid(texture: np.ndarray) -> list[np.ndarray]:
    """Return the texture and smaller levels, each half the size, to draw it without flicker."""
    out = [np.ascontiguousarray(texture)]
    while len(out) < 5 and min(out[-1].shape[:2]) > 8:
        height, width = out[-1].shape[:2]
        out.append(
            np.asarray(cv2.resize(out[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        )
    return out


def rgba(rgb: np.ndarray, alpha: np.ndarray | int = 255) -> np.ndarray:
    """Return (H, W, 3) colors of any range as (H, W, 4) uint8."""
    out = np.empty((*rgb.shape[:2], 4), np.uint8)
    out[..., :3] = np.clip(rgb, 0, 255)
    out[..., 3] = alpha
    return out


def disc(x: float, y: float, rx: float, ry: float, n: int = 12) -> np.ndarray:
    """Return an upright ellipse that faces the camera."""
    a = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a), np.zeros(n)], axis=1)


def flat(*points: tuple[float, float]) -> np.ndarray:
    """Return an upright polygon that faces the camera."""
    return np.array([(x, y, 0) for x, y in points], float)


def plate(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return an upright rectangle that faces the camera."""
    return flat((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> np.ndarray:
    """Return a tapered stroke between two points, facing the camera."""
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy) + 1e-6
    nx, ny = -dy / length / 2, dx / length / 2
    return flat(
        (x0 + nx * w0, y0 + ny * w0),
        (x1 + nx * w1, y1 + ny * w1),
        (x1 - nx * w1, y1 - ny * w1),
        (x0 - nx * w0, y0 - ny * w0),
    )
