"""Builds the objects of a synthetic street: houses, trees, fences, posts, vehicles and people.

Each builder takes a random generator and returns textures (RGBA arrays) or faces: flat polygons in
meters with a color and a CamVid class. Axes: x to the right, y up, z away from the viewer. Objects
are built at the origin; `scene` moves them to their place. Knows nothing of the camera, the weather
or an object's position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
_SHOP_COLOURS: list[Colour] = [
    (150, 30, 34), (30, 62, 120), (26, 90, 60), (40, 40, 44), (190, 150, 50), (225, 225, 220),
    (100, 40, 90), (200, 90, 30)]
_PAINT: list[Colour] = [
    (200, 202, 204), (60, 62, 66), (28, 28, 31), (150, 24, 26), (34, 56, 110), (236, 236, 234),
    (110, 116, 122), (40, 80, 60), (120, 150, 180), (150, 140, 118), (190, 196, 150)]
_CLOTHES: list[Colour] = [
    (34, 36, 44), (60, 62, 70), (40, 52, 90), (120, 36, 40), (196, 190, 180), (90, 78, 62),
    (60, 90, 70), (150, 120, 90), (210, 90, 60), (80, 110, 160)]
_SKIN: list[Colour] = [(222, 178, 150), (196, 148, 116), (140, 98, 72), (92, 62, 46)]
_HAIR: list[Colour] = [(40, 30, 24), (90, 64, 38), (24, 22, 22), (150, 140, 130)]
_HELMETS: list[Colour] = [(220, 220, 220), (30, 30, 34), (180, 40, 40), (60, 46, 34)]
_POSTS: list[Colour] = [(96, 100, 102), (66, 70, 70), (130, 132, 130), (46, 60, 54)]
# fmt: on
_WHITE: Colour = (244, 244, 240)
_RED: Colour = (205, 24, 30)
_INK: Colour = (24, 24, 24)

STEPS = 8  # animation steps per walking or pedaling cycle


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


# --- helpers ------------------------------------------------------------------------------------


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


def _rgba(rgb: np.ndarray, alpha: np.ndarray | int = 255) -> np.ndarray:
    out = np.empty((*rgb.shape[:2], 4), np.uint8)
    out[..., :3] = np.clip(rgb, 0, 255)
    out[..., 3] = alpha
    return out


def _disc(x: float, y: float, rx: float, ry: float, n: int = 12) -> np.ndarray:
    """Return an upright ellipse that faces the camera."""
    a = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a), np.zeros(n)], axis=1)


def _flat(*points: tuple[float, float]) -> np.ndarray:
    """Return an upright polygon that faces the camera."""
    return np.array([(x, y, 0) for x, y in points], float)


def _plate(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Return an upright rectangle that faces the camera."""
    return _flat((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def _limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> np.ndarray:
    """Return a tapered stroke between two points, facing the camera."""
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy) + 1e-6
    nx, ny = -dy / length / 2, dx / length / 2
    return _flat(
        (x0 + nx * w0, y0 + ny * w0),
        (x1 + nx * w1, y1 + ny * w1),
        (x1 - nx * w1, y1 - ny * w1),
        (x0 - nx * w0, y0 - ny * w0),
    )


# --- textures -----------------------------------------------------------------------------------


def facade(rng: np.random.Generator) -> np.ndarray:
    """Paint a house front: masonry, windows with frames and sills, sometimes a shop below."""
    floors, bays, cell = int(rng.integers(2, 5)), int(rng.integers(3, 7)), 3 * WALL_PX
    height, width = floors * cell + 14, bays * cell
    base = np.array(pick(rng, WALL_COLOURS))
    shade = 1 + 0.05 * noise(rng, (height, width), 24) + 0.05 * noise(rng, (height, width), 2)
    if rng.random() < 0.6:  # courses of brick
        brick = rng.standard_normal((height // 3 + 1, width // 6 + 1)).repeat(3, 0).repeat(6, 1)
        shade += 0.07 * brick[:height, :width]
        shade[::3] -= 0.05
    image = base * shade[..., None]
    image *= np.linspace(1.06, 0.86, height)[:, None, None]  # dirt and darkness towards the street
    image[:5] = base * rng.uniform(0.55, 1.15)  # cornice
    image[5:7] *= 0.6
    frame = np.array([(235, 232, 225), (70, 58, 48), (40, 42, 46)][int(rng.integers(3))], float)
    wide, tall = int(rng.uniform(0.36, 0.62) * cell), int(rng.uniform(0.5, 0.66) * cell)
    shop = rng.random() < 0.5
    trim = rng.uniform(0.7, 1.25)
    for floor in range(floors - 1 if shop else floors):
        for bay in range(bays):
            door = floor == floors - 1 and rng.random() < 0.3
            top, left = 14 + floor * cell + 8, bay * cell + (cell - wide) // 2
            right, bottom = left + wide, height if door else top + tall
            image[top - 3 : bottom + 2, left - 2 : right + 2] = base * trim
            image[top:bottom, left:right] = frame
            if door:
                image[top + 3 : bottom, left + 3 : right - 3] = pick(rng, _SHOP_COLOURS)
                continue
            _window(rng, image[top + 2 : bottom - 2, left + 2 : right - 2], frame)
            image[bottom : bottom + 3, left - 3 : right + 3] = base * 1.25  # sill and its shadow
            image[bottom + 3 : bottom + 5, left - 3 : right + 3] *= 0.6
    if shop:
        _shop(rng, image[14 + (floors - 1) * cell :], frame)
    return _rgba(image)


def _window(rng: np.random.Generator, pane: np.ndarray, frame: np.ndarray) -> None:
    """Paint dark glass that reflects the sky, sometimes a curtain, and glazing bars."""
    height, width = pane.shape[:2]
    glass = rng.uniform(25, 80) + np.linspace(rng.uniform(0, 90), 0, height)[:, None, None]
    pane[:] = glass * np.array((0.92, 1.0, 1.1))
    if rng.random() < 0.3:
        pane[:, : int(rng.uniform(0.15, 0.5) * width)] = rng.uniform(120, 200)
    pane[height // 2 - 1 : height // 2 + 1] = frame
    pane[:, width // 2 : width // 2 + 2] = frame


def _shop(rng: np.random.Generator, storey: np.ndarray, frame: np.ndarray) -> None:
    """Paint a shop over a storey: a fascia with imitated lettering, glass, pillars."""
    height, width = storey.shape[:2]
    storey[:] = np.array(pick(rng, _SHOP_COLOURS)) * 0.8
    glass = storey[10 : height - 6]
    glass[:] = rng.uniform(30, 70) + 40 * np.abs(noise(rng, glass.shape[:2], 9))[..., None]
    storey[:9] = pick(rng, _SHOP_COLOURS)
    for x in range(8, width - 24, 9):
        if rng.random() < 0.6:
            storey[3:7, x : x + int(rng.integers(3, 8))] = rng.choice([235, 20, 200])
    for x in range(0, width, 3 * WALL_PX):
        storey[9:, x : x + 4] = frame


def hedge(rng: np.random.Generator, green: Colour) -> np.ndarray:
    """Paint ten meters of hedge with a ragged top."""
    height, width = 32, 160
    light = 1 + 0.28 * noise(rng, (height, width), 2) + 0.16 * noise(rng, (height, width), 7)
    image = np.array(green) * (light * np.linspace(1.2, 0.55, height)[:, None])[..., None]
    ragged = 2 + 1.6 * noise(rng, (1, width), 4)
    return _rgba(image, np.where(np.arange(height)[:, None] >= ragged, 255, 0))


def board_fence(rng: np.random.Generator) -> np.ndarray:
    """Paint ten meters of wooden boards."""
    height, width = 28, 160
    board = rng.uniform(0.75, 1.15, width // 4).repeat(4)
    wood = np.array(pick(rng, [(132, 98, 66), (150, 122, 92), (104, 84, 66), (92, 96, 84)]))
    image = wood * (board * (1 + 0.06 * noise(rng, (height, width), 3)))[..., None]
    image[:, ::4] *= 0.5  # gaps
    for rail in (slice(3, 5), slice(-7, -5)):
        image[rail] *= 0.75
    for post in (slice(0, None, 40), slice(1, None, 40)):
        image[:, post] *= 0.7
    return _rgba(image)


def railings(rng: np.random.Generator, colours: Sequence[Colour], step: int) -> np.ndarray:
    """Paint ten meters of upright bars, one every `step` texture pixels.

    Between the bars (alpha 128) the background is visible but labeled as fence, as in CamVid.
    """
    height, width = 40, 160
    iron = np.array(pick(rng, colours))
    image = np.broadcast_to(iron * 0.8, (height, width, 3)).copy()
    alpha = np.full((height, width), 128)
    for x in range(0, width, step):
        alpha[:, x : x + 2] = 255
        image[:, x] = iron * 1.15
    for x in range(0, width, 40):
        alpha[:, x : x + 4] = 255
    for y in (1, height - 8):
        alpha[y : y + 3] = 255
        image[y] = iron * 1.3
    return _rgba(image, alpha)


def crown(rng: np.random.Generator, green: Colour) -> Sprite:
    """Paint a leafy crown of many shaded clumps with a ragged edge."""
    side = 192
    rgb = np.zeros((side, side, 3), np.float32)
    alpha = np.zeros((side, side), np.uint8)
    sun = rng.uniform(-0.6, 0.6)
    for _ in range(170):
        a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform()) * 66
        x, y = side / 2 + r * math.cos(a), side / 2 + 0.95 * r * math.sin(a)
        light = 0.85 - 0.4 * (y - side / 2) / 80 + 0.2 * sun * (x - side / 2) / 80
        colour = scaled(green, light * rng.uniform(0.6, 1.3))
        centre, radius = (int(x), int(y)), int(rng.uniform(6, 17))
        cv2.circle(rgb, centre, radius, colour, -1)
        cv2.circle(alpha, centre, radius, (255,), -1)
    leaves = noise(rng, (side, side), 2.2)
    rgb *= (1 + 0.30 * leaves + 0.12 * noise(rng, (side, side), 6))[..., None]
    rim = cv2.GaussianBlur(alpha, (0, 0), 5).astype(np.float32) + 30 * leaves
    leafy = np.where(rgb.sum(axis=2, keepdims=True) > 0, rgb, np.array(green) * 0.5)
    width = rng.uniform(3.6, 6.5)
    return Sprite(
        pyramid(_rgba(leafy, np.where(rim > 120, 255, 0))),
        width,
        width * rng.uniform(0.9, 1.3),
        rng.uniform(1.9, 2.8),
        127,
        TREE,
    )


def bare_tree(rng: np.random.Generator) -> Sprite:
    """Paint a tree in winter: only the twigs are painted, but the whole crown is labeled."""
    side = 224
    bark = np.array(pick(rng, [(74, 62, 52), (92, 84, 74), (58, 50, 46)]))
    alpha = np.zeros((side, side), np.uint8)

    def grow(x: float, y: float, angle: float, length: float, thick: float) -> None:
        x1, y1 = x + length * math.sin(angle), y - length * math.cos(angle)
        cv2.line(alpha, (int(x), int(y)), (int(x1), int(y1)), (255,), max(1, round(thick)))
        if length > 5:
            for _ in range(3 if length > 14 else 2):
                grow(
                    x1,
                    y1,
                    angle + rng.uniform(-0.7, 0.7),
                    length * rng.uniform(0.66, 0.84),
                    thick * 0.66,
                )

    grow(side / 2, side - 1, 0, 38, 7)
    padded = cv2.copyMakeBorder(alpha, 20, 20, 20, 20, cv2.BORDER_CONSTANT)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))
    hull = np.where(closed[20:-20, 20:-20] > 0, 128, 0)
    rgb = bark * (1 + 0.2 * noise(rng, (side, side), 3))[..., None]
    return Sprite(
        pyramid(_rgba(rgb, np.where(alpha > 0, 255, hull))),
        rng.uniform(6, 8),
        rng.uniform(6.5, 9),
        0.0,
        170,
        TREE,
    )


def trunk(size: float, top: float, bark: Colour) -> list[Face]:
    """Build the trunk of a tree of this size (1 is average), `top` meters high."""
    return [
        (_limb(0, 0, 0, top, 0.42 * size, 0.2), scaled(bark, 0.7), TREE),
        (_limb(0.06, 0, 0.03, top, 0.22 * size, 0.1), scaled(bark, 1.1), TREE),
    ]


# Shapes from here on are tables of coordinates, unreadable with one value per line.
# fmt: off

# --- houses -------------------------------------------------------------------------------------

def house_shell(length: float, height: float, pitch: float, side: float, masonry: Colour,
                roof: Colour, light: Light) -> list[Face]:
    """Build a house without its front: gable wall, roof (pitch m high), chimney.

    The house reaches from the street outward, to the left for side -1 and to the right for 1.
    """
    depth = 8.0 * side
    middle = depth / 2
    out: list[Face] = []

    def add(points: list[Point], paint: Colour, by: float) -> None:
        out.append((np.array(points, float), scaled(paint, by), BUILDING))

    ridge = height + pitch
    if pitch > 0:
        flue = middle + .9 * side
        add([(middle, ridge, .3), (flue, ridge, .3), (flue, ridge + 1.1, .3),
             (middle, ridge + 1.1, .3)], masonry, .8)
        add([(0, height, 0), (0, height, length), (middle, ridge, length), (middle, ridge, 0)],
            roof, 1.0)
        for low in (.25, .5, .75):  # rows of tiles
            high = low + .04
            low_x, low_y = middle * low, height + pitch * low
            high_x, high_y = middle * high, height + pitch * high
            add([(low_x, low_y, 0), (low_x, low_y, length), (high_x, high_y, length),
                 (high_x, high_y, 0)], roof, .85)
    add([(0, 0, 0), (depth, 0, 0), (depth, height, 0), (middle, ridge, 0), (0, height, 0)],
        masonry, light[2] * .85)
    add([(0, 0, 0), (depth, 0, 0), (depth, height * .4, 0), (0, height * .4, 0)],
        masonry, light[2] * .78)
    if height > 5:
        for y in (height * .3, height * .68):
            add([(middle * .7, y, 0), (middle * 1.2, y, 0), (middle * 1.2, y + 1.3, 0),
                 (middle * .7, y + 1.3, 0)], (58, 62, 68), 1.0)
    return out


# --- vehicles -----------------------------------------------------------------------------------

@dataclass(frozen=True)
class _Body:
    """A vehicle's shape in meters; stations are fractions of the length, 0 = tail."""

    share: float  # of the traffic
    length: float
    half: float  # half width
    belt: float  # height of the window sills
    roof: float
    stations: tuple[float, float, float, float]  # rear screen foot, top, front screen top, foot
    windows: tuple[float, ...]  # cuts between side windows, along the greenhouse from the tail
    window_top: float = 0.09  # from the roof down
    tuck: float = 0.84  # roof width relative to the body's


_HATCHBACK = _Body(0.45, 3.9, 0.84, 0.92, 1.46, (0.03, 0.12, 0.52, 0.72), (0.04, 0.5, 0.94))
_SALOON = _Body(0.3, 4.5, 0.88, 0.9, 1.42, (0.16, 0.27, 0.56, 0.74), (0.04, 0.5, 0.94))
_VAN = _Body(0.17, 4.9, 0.96, 1.15, 2.05, (0.0, 0.02, 0.72, 0.86), (0.62, 0.94), tuck=0.98)
_BUS = _Body(0.08, 9.5, 1.22, 1.3, 2.95, (0.0, 0.01, 0.97, 0.995), (0, .2, .4, .6, .8, 1),
             window_top=0.5, tuck=0.98)
_BODIES = [_HATCHBACK, _SALOON, _VAN, _BUS]


def vehicle(rng: np.random.Generator, x: float, oncoming: bool, light: Light) -> list[Face]:
    """Build a car, van or bus with its near end at z = 0, x meters to the right of the viewer.

    An extruded side profile with glass, wheels, lamps and number plate.
    """
    paint = pick(rng, _PAINT)
    body = _BODIES[int(rng.choice(len(_BODIES), p=[b.share for b in _BODIES]))]
    length, half, belt, roof = body.length, body.half, body.belt, body.roof
    tuck = half * body.tuck
    stations, windows = body.stations, body.windows
    if oncoming:
        stations = tuple(1 - s for s in reversed(stations))  # type: ignore[assignment]
        windows = tuple(1 - s for s in reversed(windows))
    near_foot, near_top, far_top, far_foot = (length * s for s in stations)
    glass = scaled((52, 60, 68), rng.uniform(0.6, 1.5))
    faces: list[Face] = []

    def add(points: list[Point], colour: Colour) -> None:
        faces.append((np.array(points, float), colour, CAR))

    def bar(x0: float, x1: float, y0: float, y1: float, colour: Colour, z: float = 0.0) -> None:
        add([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def screen(k: float, s: float) -> Point:
        """Return a point of the near screen: k = 0 bottom, 1 top; s = -1 left, 1 right."""
        return (s * (half + (tuck - half) * k) * .9, belt + (roof - belt) * k,
                near_foot + (near_top - near_foot) * k)

    order = (-1, 1) if x < 0 else (1, -1)  # far side first, so that the near side covers it
    for station in (.19, .81):
        for side in order:  # tyres
            bar(side * half, side * (half - .2), 0, .5, (22, 22, 24), length * station - .28)
    bar(-half, half, .16, .5, (20, 20, 22), .1)  # underneath
    for side in order:
        by = light[0] if side < 0 else light[1]
        for low, high, tone in ((.28, .5, .62), (.5, .74, .88), (.74, belt, 1.12), (.72, .75, .6)):
            add([(side * half, low, 0), (side * half, low, length), (side * half, high, length),
                 (side * half, high, 0)], scaled(paint, by * tone))
        add([(side * half, belt, near_foot), (side * half, belt, far_foot),
             (side * tuck, roof, far_top), (side * tuck, roof, near_top)], scaled(paint, by * .9))
        _side_windows(add, side, body, windows, (near_foot, near_top, far_top, far_foot),
                      scaled(glass, by))
        for station in (.19, .81):
            faces += _wheel(side * half * 1.005, length * station)
    front = light[2]
    add([(-half, belt, 0), (half, belt, 0), (half, belt, near_foot), (-half, belt, near_foot)],
        scaled(paint, 1.15))  # bonnet or boot lid
    add([(-tuck, roof, near_top), (tuck, roof, near_top), (tuck, roof, far_top),
         (-tuck, roof, far_top)], scaled(paint, 1.2))
    add([(-half, belt, near_foot), (half, belt, near_foot), (tuck, roof, near_top),
         (-tuck, roof, near_top)], scaled(paint, front))
    if body is not _VAN or oncoming or rng.random() >= 0.5:  # many vans have no rear window
        for low, tone in ((.08, .85), (.55, 1.5)):  # the upper half mirrors the sky
            add([screen(low, -1), screen(low, 1), screen(.9, 1), screen(.9, -1)],
                scaled(glass, front * tone))
    for low, high, tone in ((.25, .45, .6), (.45, .68, .85), (.68, belt, 1.08)):
        bar(-half, half, low, high, scaled(paint, front * tone))
    lamp: Colour = (240, 240, 225) if oncoming else (200, 26, 24)
    tall = body in (_HATCHBACK, _VAN) and not oncoming
    for side in (-1, 1):
        inner, top = (.78, belt) if tall else (.62, .8)
        bar(side * half * .98, side * half * inner, .62, top, lamp)
    if oncoming:
        bar(-half * .55, half * .55, .6, .74, (32, 33, 35))  # grille
    bar(-half, half, .3, .42, (48, 48, 50))  # bumper
    bar(-.26, .26, .44, .55, (225, 222, 210) if oncoming else (214, 190, 90))
    if body is _SALOON and rng.random() < 0.15:  # a taxi
        bar(-.28, .28, roof, roof + .16, (235, 190, 60), near_top + .4)
    return faces


def _side_windows(add: Callable[[list[Point], Colour], None], side: float, body: _Body,
                  cuts: tuple[float, ...], stations: tuple[float, float, float, float],
                  glass: Colour) -> None:
    """Build the panes between the cuts, leaving room for the pillars."""
    near_foot, near_top, far_top, far_foot = stations

    def at(y: float, along: float) -> Point:
        k = (y - body.belt) / (body.roof - body.belt)
        start, end = near_foot + (near_top - near_foot) * k, far_foot + (far_top - far_foot) * k
        return (side * body.half * (1 + (body.tuck - 1) * k), y, start + (end - start) * along)

    low, high = body.belt + .05, body.roof - body.window_top
    for start, end in pairwise(cuts):
        a, b = start + .015, end - .015
        add([at(low, a), at(low, b), at(high, b), at(high, a)], glass)


def _wheel(x: float, z: float) -> list[Face]:
    """Build arch, tire, rim and hub on a vehicle's side."""
    a = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    rings: list[tuple[float, Colour]] = [(.36, (30, 30, 31)), (.31, (20, 20, 22)),
                                         (.2, (150, 152, 155)), (.07, (70, 70, 72))]
    return [(np.stack([np.full(14, x), .31 + radius * np.sin(a), z + radius * np.cos(a)], 1),
             colour, CAR) for radius, colour in rings]


# --- people -------------------------------------------------------------------------------------

def walker(rng: np.random.Generator) -> list[list[Face]]:
    """Build a pedestrian; one list of faces per step of the gait."""
    size = rng.uniform(0.9, 1.08) * (0.7 if rng.random() < 0.12 else 1.0)  # a child
    coat, trousers = pick(rng, _CLOTHES), pick(rng, _CLOTHES[:7])
    skin, hair = pick(rng, _SKIN), pick(rng, _HAIR)
    skirt, bag, front = rng.random() < 0.2, rng.random() < 0.35, rng.random() < 0.5
    bag_colour, stout, turn = pick(rng, _SHOP_COLOURS), rng.uniform(.85, 1.2), rng.uniform(.25, 1)
    w, arm = .21 * stout, .25 * stout
    frames: list[list[Face]] = []
    for step in range(STEPS):
        swing = math.sin(step / STEPS * 2 * math.pi) * turn
        parts: list[tuple[np.ndarray, Colour]] = []
        for side in (-1, 1):
            hip, foot = side * .09 * stout, side * .1 + side * swing * .26
            knee = (hip + foot) / 2 + .03 * turn
            tone = .8 if side < 0 else 1.0
            parts += [(_limb(hip, .92, knee, .48, .19 * stout, .14), scaled(trousers, tone)),
                      (_limb(knee, .5, foot, .07, .14, .1), scaled(trousers, tone * .9)),
                      (_limb(foot - .05, .04, foot + .13 * turn, .04, .09, .07), (28, 25, 24))]
        if skirt:
            parts.append((_flat((-.16, .98), (.16, .98), (.25, .5), (-.25, .5)),
                          scaled(trousers, 1.1)))
        parts += [
            (_limb(-w, 1.4, -arm - swing * .16, .86, .12, .09), scaled(coat, .72)),
            (_flat((-w, 1.42), (-.08, 1.5), (.08, 1.5), (w, 1.42), (w * .92, .86), (-w * .92, .86)),
             coat),
            (_flat((-w, 1.42), (-.06, 1.47), (-.04, .86), (-w * .92, .86)), scaled(coat, .8)),
            (_limb(w, 1.4, arm + swing * .16, .86, .12, .09), scaled(coat, 1.1)),
            (_disc(arm + swing * .17, .83, .05, .06, 8), skin),
            (_plate(-.05, 1.46, .05, 1.56), scaled(skin, .8)),
            (_disc(0, 1.64, .105, .135), hair)]
        if front:
            parts.append((_disc(.01, 1.615, .085, .105), skin))
        if bag:
            parts.append((_flat((.2, 1.0), (.42, 1.0), (.4, .68), (.2, .68)), bag_colour))
        frames.append([(points * size, colour, PEDESTRIAN) for points, colour in parts])
    return frames


def cyclist(rng: np.random.Generator, turn: float) -> list[list[Face]]:
    """Build a bicycle with its rider; turn is 1 seen from the side and near 0 from the end."""
    coat = pick(rng, [*_CLOTHES, (230, 230, 60), (240, 120, 40)])
    trousers, skin = pick(rng, _CLOTHES[:6]), pick(rng, _SKIN)
    metal, helmet = pick(rng, _PAINT), pick(rng, _HELMETS)
    s, end_on = turn, 1 - turn
    lean, w = .24 * s, .13 + .09 * end_on
    tubes = (((-.52, .34), (-.12, .86)), ((-.12, .32), (-.15, .95)), ((-.12, .32), (.4, .86)),
             ((-.15, .84), (.4, .86)), ((.52, .34), (.36, 1.02)), ((-.52, .34), (-.12, .32)))
    bicycle: list[tuple[np.ndarray, Colour]] = []
    for hub in (-.52 * s, .52 * s):
        rx = max(.34 * s, .035)
        bicycle.append((_disc(hub, .34, rx, .34, 16), (26, 26, 28)))
        if s > .35:  # spokes
            bicycle += [(_disc(hub, .34, rx - .05, .29, 14), (118, 118, 116)),
                        (_limb(hub - rx * .8, .34, hub + rx * .8, .34, .02, .02), (60, 60, 60)),
                        (_limb(hub, .05, hub, .63, .02, .02), (60, 60, 60))]
    bicycle += [(_limb(a[0] * s, a[1], b[0] * s, b[1], .05, .05), metal) for a, b in tubes]
    bicycle += [(_limb(-.27 * s, .96, -.03 * s, .97, .08, .07), (24, 24, 24)),  # saddle
                (_limb(.36 * s - .28 * end_on, 1.03, .4 * s + .28 * end_on, 1.03, .05, .05),
                 (30, 30, 32))]
    near_wheel: list[tuple[np.ndarray, Colour]] = [
        (_disc(0, .35, .04, .36, 14), (24, 24, 26)), (_disc(0, .35, .012, .3, 10), (120, 120, 118)),
        (_flat((-.05, .7), (.05, .7), (.04, .8), (-.04, .8)), (190, 30, 28))]
    trunk_and_head: list[tuple[np.ndarray, Colour]] = [
        (_flat((-.15 * s - w, .95), (-.15 * s + w, .92), (lean + w, 1.42), (lean, 1.52),
               (lean - w, 1.44)), coat),
        (_flat((-.15 * s - w, .95), (-.15 * s - w * .3, .94), (lean - w * .4, 1.48),
               (lean - w, 1.44)), scaled(coat, .75))]
    trunk_and_head += [
        (_limb(lean + side * w * .8, 1.4, .38 * s + side * .26 * end_on, 1.05, .1, .07),
         scaled(coat, .85 if side < 0 else 1.1)) for side in (-1, 1)]
    trunk_and_head += [(_disc(lean + .1 * s, 1.66, .1, .13), skin),
                       (_disc(lean + .09 * s, 1.7, .115, .12)[:7], helmet)]
    frames: list[list[Face]] = []
    for step in range(STEPS):
        phase = step / STEPS * 2 * math.pi
        legs: list[tuple[np.ndarray, Colour]] = []
        for side in (-1, 1):
            x = -.12 * s + .17 * s * math.cos(phase) * side + side * .15 * end_on
            y = .36 + .17 * math.sin(phase) * side
            knee = ((x - .13 * s) / 2 + .2 * s + side * .03, (y + .98) / 2 + .07)
            tone = .75 if side < 0 else 1.0
            legs += [(_limb(-.13 * s + side * .09 * end_on, .98, *knee, .19, .15),
                      scaled(trousers, tone)),
                     (_limb(*knee, x, y, .14, .09), scaled(trousers, tone * .9)),
                     (_limb(x - .06, y, x + .1, y, .08, .06), (30, 28, 26))]
        parts = bicycle + legs + (near_wheel if s < .2 else []) + trunk_and_head
        frames.append([(points, colour, BICYCLIST) for points, colour in parts])
    return frames


# --- posts and signs ----------------------------------------------------------------------------

def _shaft(height: float, foot: float, top: float, colour: Colour) -> list[Face]:
    """Build a round post from a dark stroke and a lighter one on it."""
    return [(_limb(0, 0, 0, height, foot, top), scaled(colour, .72), POLE),
            (_limb(foot * .15, 0, top * .15, height, foot * .6, top * .6), scaled(colour, 1.1),
             POLE)]


def lamp_post(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a street lamp with an arm over the road; side is -1 (left) or 1 (right)."""
    grey, height = pick(rng, _POSTS), rng.uniform(5.5, 8.0)
    return [*_shaft(1.0, .24, .22, grey), *_shaft(height, .17, .11, grey),
            (_limb(0, height, -side * 1.3, height + .3, .1, .08), grey, POLE),
            (_flat((-side * 1.1, height + .25), (-side * 1.9, height + .38),
                   (-side * 1.9, height + .26), (-side * 1.1, height + .1)), (206, 204, 190), POLE)]


def traffic_light(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a signal head on a post, with one of three lamps lit."""
    grey, lit = pick(rng, _POSTS), int(rng.integers(3))
    lamps: list[Colour] = [(40, 235, 120), (250, 180, 50), (250, 50, 40)]
    return [*_shaft(2.3, .14, .12, grey), (_plate(-.24, 2.15, .24, 3.3), (20, 20, 22), SIGN),
            (_plate(-.2, 2.2, .2, 3.25), (38, 38, 42), SIGN),
            *((_disc(0, 2.38 + .34 * i, .135, .135), lamp if i == lit else scaled(lamp, .22), SIGN)
              for i, lamp in enumerate(lamps))]


def road_sign(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a sign on a post: prohibition, warning, mandatory, or a direction board."""
    grey, height = pick(rng, _POSTS), rng.uniform(2.0, 2.6)
    post = _shaft(height + .3, .09, .08, grey)
    shape, r = int(rng.integers(5)), rng.uniform(.32, .46)
    y = height + r
    parts: list[tuple[np.ndarray, Colour]]
    if shape == 0:
        parts = [(_disc(0, y, r, r, 20), _RED), (_disc(0, y, r * .72, r * .72, 20), _WHITE),
                 (_limb(-r * .3, y, r * .3, y, r * .5, r * .5), _INK)]
    elif shape == 1:
        parts = [(_flat((-r * 1.1, height), (r * 1.1, height), (0, height + r * 1.9)), _RED),
                 (_flat((-r * .72, height + r * .2), (r * .72, height + r * .2),
                        (0, height + r * 1.45)), _WHITE),
                 (_limb(0, height + r * .35, 0, height + r * .95, r * .16, r * .22), _INK)]
    elif shape == 2:
        parts = [(_disc(0, y, r, r, 20), _WHITE),
                 (_disc(0, y, r * .92, r * .92, 20), (20, 74, 160)),
                 (_limb(-r * .4, y - r * .4, r * .3, y + r * .3, r * .22, r * .22), _WHITE)]
    else:
        parts = _direction_board(rng, height)
    return post + [(points, colour, SIGN) for points, colour in parts]


def _direction_board(rng: np.random.Generator, height: float) -> list[tuple[np.ndarray, Colour]]:
    """Build a framed board with lines of imitated lettering."""
    board = pick(rng, [(22, 96, 62), (24, 70, 150), (236, 236, 230), (226, 184, 40)])
    ink = _INK if sum(board) > 380 else _WHITE
    w, h = rng.uniform(.45, 1.1), rng.uniform(.5, .9)
    lines = np.arange(height + .14, height + h - .1, .17)
    return [(_plate(-w, height, w, height + h), ink),
            (_plate(-w + .04, height + .04, w - .04, height + h - .04), board),
            *((_plate(-w + .1, y, w * rng.uniform(0, .8), y + .08), ink) for y in lines)]


def bollard(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a knee-high post with a reflective band."""
    return [*_shaft(.95, .2, .17, pick(rng, _POSTS)),
            (_limb(0, .74, 0, .84, .2, .2), (222, 222, 215), POLE)]


def telegraph_pole(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a wooden pole with a crossbar."""
    return [*_shaft(rng.uniform(7, 9), .28, .2, (104, 84, 66)),
            (_limb(-.7, 6.6, .7, 6.6, .12, .12), (84, 68, 54), POLE)]
