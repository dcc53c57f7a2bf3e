"""A synthetic street, seen from a car that drives along it, with its exact label mask.

`StreetScene(seed, size).render(t)` draws what a dashboard camera would see after `t` seconds, and
for every pixel which of the 11 CamVid classes it shows.  Picture and mask are drawn by the same
calls with the same polygons, so the mask has no annotation error.

How it works: everything stands in metres in a road-fixed frame (x to the right, y up, z along the
road).  Things are spawned by hashing (seed, stream, slot along the road), so the street has no end
and any `t` can be rendered without the ones before it.  They are painted in bands from the outside
of the street to its middle, and inside a band from far to near: a ray from the camera only ever
moves outward, so this order hides what it must.

This module knows nothing of ROS, files or networks; it needs only numpy and OpenCV.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np

(SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST) = range(11)
NONE = 255

SPEED = 8.0  # m/s, of the camera car
_FAR = 110.0  # m, nothing is drawn beyond
_NEAR = 0.6  # m, near plane
_SHIFT = 4  # sub-pixel bits handed to OpenCV's polygon filler
_LIMIT = 2.4e5  # fixed-point coordinates stay below this, or OpenCV's own arithmetic overflows
_WALL_PX = 16  # texture pixels a metre, walls
_GROUND_X, _GROUND_Z = 24, 16  # texture pixels a metre, ground
_GROUND_HALF, _GROUND_PERIOD = 16.0, 64.0  # m, half width and length of the repeating ground

Colour = tuple[float, float, float]
Face = tuple[np.ndarray, Colour, int]  # (n, 3) metres, RGB, class


@dataclass
class Thing:
    """Something built of flat faces, drawn in the order given; `frames` are its animation steps."""

    x: float
    z: float
    frames: list[list[Face]]
    shadow: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # half width, length, height, -
    sprite: Sprite | None = None
    pace: float = 0.0  # animation steps a second
    points: list[np.ndarray] = field(init=False)  # each step's corners, one after another
    colours: list[np.ndarray] = field(init=False)
    extents: list[np.ndarray] = field(init=False)  # m, the longest side of each face's box
    depth: float = field(init=False)  # m, from z to the farthest corner

    def __post_init__(self) -> None:
        self.points = [np.concatenate([f[0] for f in frame]) if frame else np.zeros((0, 3))
                       for frame in self.frames]
        self.colours = [np.array([f[1] for f in frame]).reshape(-1, 3) for frame in self.frames]
        self.extents = [np.array([np.ptp(f[0], axis=0).max() for f in frame]) for frame in self.frames]
        self.depth = max((float(p[:, 2].max()) for p in self.points if len(p)), default=0.0)


@dataclass
class Sprite:
    """An RGBA picture that stands upright facing the camera; `drawn` is the least alpha painted.

    Alpha from 64 to `drawn` is labelled without being painted: the air between bare twigs, which
    CamVid's annotators count as tree.
    """

    levels: list[np.ndarray]
    width: float
    height: float
    base: float  # m above ground
    drawn: int
    label: int


@dataclass
class Wall:
    """A textured plane along the road at x, from z to z + length."""

    x: float
    z: float
    length: float
    height: float
    levels: list[np.ndarray]  # RGBA, each half the size of the one before
    label: int
    light: float = 1.0
    base: float = 0.0


def _pyramid(texture: np.ndarray, levels: int = 5) -> list[np.ndarray]:
    out = [np.ascontiguousarray(texture)]
    while len(out) < levels and min(out[-1].shape[:2]) > 8:
        height, width = out[-1].shape[:2]
        out.append(cv2.resize(out[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return out


def _noise(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise of zero mean and unit deviation with blobs of about `cell` pixels."""
    height, width = shape
    small = rng.standard_normal((max(2, round(height / cell)), max(2, round(width / cell))))
    big = cv2.resize(small.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return (big - big.mean()) / (big.std() + 1e-6)


def _rgba(rgb: np.ndarray, alpha: np.ndarray | int = 255) -> np.ndarray:
    out = np.empty((*rgb.shape[:2], 4), np.uint8)
    out[..., :3] = np.clip(rgb, 0, 255)
    out[..., 3] = alpha
    return out


def _disc(x: float, y: float, z: float, rx: float, ry: float, n: int = 12) -> np.ndarray:
    """An upright ellipse that faces the camera."""
    a = np.linspace(0, 2 * math.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(a), y + ry * np.sin(a), np.full(n, z)], axis=1)


def _flat(points: list[tuple[float, float]], z: float = 0.0) -> np.ndarray:
    """An upright polygon that faces the camera."""
    return np.array([(x, y, z) for x, y in points], float)


def _limb(x0: float, y0: float, x1: float, y1: float, w0: float, w1: float) -> np.ndarray:
    """A tapered stroke from one point to another, facing the camera."""
    dx, dy = x1 - x0, y1 - y0
    length = math.hypot(dx, dy) + 1e-6
    nx, ny = -dy / length / 2, dx / length / 2
    return _flat([(x0 + nx * w0, y0 + ny * w0), (x1 + nx * w1, y1 + ny * w1),
                  (x1 - nx * w1, y1 - ny * w1), (x0 - nx * w0, y0 - ny * w0)])


def _scaled(colour: Colour, by: float) -> Colour:
    return (colour[0] * by, colour[1] * by, colour[2] * by)


def _pick(rng: np.random.Generator, colours: list[Colour], spread: float = 0.15) -> Colour:
    colour = colours[int(rng.integers(len(colours)))]
    gain = 1 + spread * rng.uniform(-1, 1)
    jitter = rng.uniform(-8, 8, 3)
    return (float(np.clip(colour[0] * gain + jitter[0], 4, 250)),
            float(np.clip(colour[1] * gain + jitter[1], 4, 250)),
            float(np.clip(colour[2] * gain + jitter[2], 4, 250)))


# --- textures -----------------------------------------------------------------------------------

_WALLS: list[Colour] = [(142, 84, 66), (160, 112, 82), (186, 160, 118), (176, 166, 148),
                        (212, 206, 192), (150, 150, 148), (120, 98, 84), (196, 178, 150),
                        (104, 74, 62), (222, 214, 186)]
_SHOPS: list[Colour] = [(150, 30, 34), (30, 62, 120), (26, 90, 60), (40, 40, 44), (190, 150, 50),
                        (225, 225, 220), (100, 40, 90), (200, 90, 30)]
_PAINT: list[Colour] = [(200, 202, 204), (60, 62, 66), (28, 28, 31), (150, 24, 26), (34, 56, 110),
                        (236, 236, 234), (110, 116, 122), (40, 80, 60), (120, 150, 180),
                        (150, 140, 118), (190, 196, 150)]
_CLOTHES: list[Colour] = [(34, 36, 44), (60, 62, 70), (40, 52, 90), (120, 36, 40), (196, 190, 180),
                          (90, 78, 62), (60, 90, 70), (150, 120, 90), (210, 90, 60), (80, 110, 160)]
_SKIN: list[Colour] = [(222, 178, 150), (196, 148, 116), (140, 98, 72), (92, 62, 46)]


def _facade(rng: np.random.Generator) -> np.ndarray:
    """A house front: masonry, windows with frames and sills, now and then a shop below."""
    floors, bays, cell = int(rng.integers(2, 5)), int(rng.integers(3, 7)), 3 * _WALL_PX
    height, width = floors * cell + 14, bays * cell
    base = np.array(_pick(rng, _WALLS))
    shade = 1 + 0.05 * _noise(rng, (height, width), 24) + 0.05 * _noise(rng, (height, width), 2)
    if rng.random() < 0.6:  # courses of brick
        brick = rng.standard_normal((height // 3 + 1, width // 6 + 1)).repeat(3, 0).repeat(6, 1)
        shade += 0.07 * brick[:height, :width]
        shade[::3] -= 0.05
    image = base * shade[..., None]
    image *= np.linspace(1.06, 0.86, height)[:, None, None]  # dirt and darkness towards the street
    image[:5] = base * rng.uniform(0.55, 1.15)  # cornice
    image[5:7] *= 0.6
    frame = np.array([(235, 232, 225), (70, 58, 48), (40, 42, 46)][int(rng.integers(3))], float)
    ww, wh = int(rng.uniform(0.36, 0.62) * cell), int(rng.uniform(0.5, 0.66) * cell)
    shop = rng.random() < 0.5
    trim = rng.uniform(0.7, 1.25)
    for floor in range(floors):
        top = 14 + floor * cell + 8
        if floor == floors - 1 and shop:
            continue
        for bay in range(bays):
            left = bay * cell + (cell - ww) // 2
            door = floor == floors - 1 and rng.random() < 0.3
            bottom = height if door else top + wh
            image[top - 3:bottom + 2, left - 2:left + ww + 2] = base * trim
            image[top:bottom, left:left + ww] = frame
            if door:
                image[top + 3:bottom, left + 3:left + ww - 3] = _pick(rng, _SHOPS)
                continue
            glass = rng.uniform(25, 80) + np.linspace(rng.uniform(0, 90), 0, wh - 4)[:, None, None]
            tint = np.array((0.92, 1.0, 1.1))
            pane = image[top + 2:top + wh - 2, left + 2:left + ww - 2]
            pane[:] = glass * tint
            if rng.random() < 0.3:  # curtain
                pane[:, :int(rng.uniform(0.15, 0.5) * ww)] = rng.uniform(120, 200)
            pane[wh // 2 - 3:wh // 2 - 1] = frame
            pane[:, (ww - 4) // 2:(ww - 4) // 2 + 2] = frame
            image[top + wh:top + wh + 3, left - 3:left + ww + 3] = base * 1.25
            image[top + wh + 3:top + wh + 5, left - 3:left + ww + 3] *= 0.6
    if shop:
        top = 14 + (floors - 1) * cell
        image[top:] = np.array(_pick(rng, _SHOPS)) * 0.8
        image[top + 10:height - 6] = rng.uniform(30, 70)
        image[top + 10:height - 6] += 40 * np.abs(_noise(rng, (height - top - 16, width), 9))[..., None]
        image[top:top + 9] = np.array(_pick(rng, _SHOPS))
        for x in range(8, width - 24, 9):  # something like lettering
            if rng.random() < 0.6:
                image[top + 3:top + 7, x:x + int(rng.integers(3, 8))] = rng.choice([235, 20, 200])
        for x in range(0, width, cell):
            image[top + 9:, x:x + 4] = frame
    return _rgba(image)


def _hedge(rng: np.random.Generator, green: Colour) -> np.ndarray:
    height, width = 32, 160
    light = 1 + 0.28 * _noise(rng, (height, width), 2) + 0.16 * _noise(rng, (height, width), 7)
    image = np.array(green) * (light * np.linspace(1.2, 0.55, height)[:, None])[..., None]
    ragged = 2 + 1.6 * _noise(rng, (1, width), 4)
    return _rgba(image, np.where(np.arange(height)[:, None] >= ragged, 255, 0))


def _fence(rng: np.random.Generator, kind: int) -> tuple[np.ndarray, float]:
    """A fence texture and its height: 0 wooden boards, 1 iron railings, 2 galvanised guard rail.

    Between the bars of 1 and 2 one sees what is behind; the label still says fence there, as
    CamVid's does (alpha 128).
    """
    width = 160
    if kind == 0:
        height = 28
        board = rng.uniform(0.75, 1.15, width // 4).repeat(4)[:width]
        image = np.array(_pick(rng, [(132, 98, 66), (150, 122, 92), (104, 84, 66), (92, 96, 84)]))
        picture = image * (board * (1 + 0.06 * _noise(rng, (height, width), 3)))[..., None]
        picture[:, ::4] *= 0.5
        picture[3:5] *= 0.75
        picture[-7:-5] *= 0.75
        picture[:, ::40] *= 0.7
        picture[:, 1::40] *= 0.7
        return _rgba(picture), 1.75
    height = 40
    iron = np.array(_pick(rng, [(30, 32, 34), (36, 58, 46)] if kind == 1 else [(168, 172, 174)]))
    picture = np.broadcast_to(iron * 0.8, (height, width, 3)).copy()
    alpha = np.full((height, width), 128)
    step = 4 if kind == 1 else 5
    for x in range(0, width, step):
        alpha[:, x:x + 2] = 255
        picture[:, x] = iron * 1.15
    for x in range(0, width, 40):
        alpha[:, x:x + 4] = 255
    for y in (1, height - 8):
        alpha[y:y + 3] = 255
        picture[y] = iron * 1.3
    return _rgba(picture, alpha), 1.15


def _crown(rng: np.random.Generator, green: Colour) -> Sprite:
    """A leafy crown: many shaded clumps, ragged at the rim."""
    side = 192
    rgb = np.zeros((side, side, 3), np.float32)
    alpha = np.zeros((side, side), np.uint8)
    sun = rng.uniform(-0.6, 0.6)
    for _ in range(170):
        a, r = rng.uniform(0, 2 * math.pi), math.sqrt(rng.uniform()) * 66
        x, y = side / 2 + r * math.cos(a), side / 2 + 0.95 * r * math.sin(a)
        light = 0.85 - 0.4 * (y - side / 2) / 80 + 0.2 * sun * (x - side / 2) / 80
        colour = np.array(green) * light * rng.uniform(0.6, 1.3)
        centre, radius = (int(x), int(y)), int(rng.uniform(6, 17))
        cv2.circle(rgb, centre, radius, colour.tolist(), -1)
        cv2.circle(alpha, centre, radius, 255, -1)
    leaves = _noise(rng, (side, side), 2.2)
    rgb *= (1 + 0.30 * leaves + 0.12 * _noise(rng, (side, side), 6))[..., None]
    rim = cv2.GaussianBlur(alpha, (0, 0), 5).astype(np.float32) + 30 * leaves
    rgb = np.where(rgb.sum(axis=2, keepdims=True) > 0, rgb, np.array(green) * 0.5)
    width = rng.uniform(3.6, 6.5)
    return Sprite(_pyramid(_rgba(rgb, np.where(rim > 120, 255, 0))), width,
                  width * rng.uniform(0.9, 1.3), rng.uniform(1.9, 2.8), 127, TREE)


def _bare(rng: np.random.Generator) -> Sprite:
    """A tree in winter; the twigs are painted and the whole crown is labelled."""
    side = 224
    bark = np.array(_pick(rng, [(74, 62, 52), (92, 84, 74), (58, 50, 46)]))
    alpha = np.zeros((side, side), np.uint8)

    def grow(x: float, y: float, angle: float, length: float, thick: float) -> None:
        x1, y1 = x + length * math.sin(angle), y - length * math.cos(angle)
        cv2.line(alpha, (int(x), int(y)), (int(x1), int(y1)), 255, max(1, round(thick)))
        if length > 5:
            for _ in range(3 if length > 14 else 2):
                grow(x1, y1, angle + rng.uniform(-0.7, 0.7), length * rng.uniform(0.66, 0.84),
                     thick * 0.66)

    grow(side / 2, side - 1, 0, 38, 7)
    hull = cv2.morphologyEx(cv2.copyMakeBorder(alpha, 20, 20, 20, 20, cv2.BORDER_CONSTANT),
                            cv2.MORPH_CLOSE, np.ones((15, 15), np.uint8))[20:-20, 20:-20]
    rgb = bark * (1 + 0.2 * _noise(rng, (side, side), 3))[..., None]
    return Sprite(_pyramid(_rgba(rgb, np.where(alpha > 0, 255, np.where(hull > 0, 128, 0)))),
                  rng.uniform(6, 8), rng.uniform(6.5, 9), 0.0, 170, TREE)


# --- things -------------------------------------------------------------------------------------

def _box(x0: float, x1: float, y0: float, y1: float, z0: float, z1: float, colour: Colour,
         label: int, light: tuple[float, float, float]) -> list[Face]:
    """The faces of a box seen from -z: both sides, top, then front. light = left, right, front."""
    def face(p: list[tuple[float, float, float]], by: float) -> Face:
        return np.array(p, float), _scaled(colour, by), label
    return [face([(x0, y0, z0), (x0, y0, z1), (x0, y1, z1), (x0, y1, z0)], light[0]),
            face([(x1, y0, z0), (x1, y0, z1), (x1, y1, z1), (x1, y1, z0)], light[1]),
            face([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], 1.1),
            face([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], light[2])]


def _car(rng: np.random.Generator, x: float, oncoming: bool,
         light: tuple[float, float, float]) -> list[Face]:
    """A car, van or bus: extruded side profile, glass, wheels, lights, plate."""
    paint = _pick(rng, _PAINT)
    kind = rng.choice(4, p=[0.45, 0.3, 0.17, 0.08])  # hatchback, saloon, van, bus
    length, half, belt, roof = [(3.9, 0.84, 0.92, 1.46), (4.5, 0.88, 0.9, 1.42),
                                (4.9, 0.96, 1.15, 2.05), (9.5, 1.22, 1.3, 2.95)][kind]
    # Greenhouse along the length, 0 = tail: foot and top of the rear and front screens.
    r0, r1, f1, f0 = [(0.03, 0.12, 0.52, 0.72), (0.16, 0.27, 0.56, 0.74),
                      (0.0, 0.02, 0.72, 0.86), (0.0, 0.01, 0.97, 0.995)][kind]
    if oncoming:
        r0, r1, f1, f0 = 1 - f0, 1 - f1, 1 - r1, 1 - r0
    sill, tuck = 0.28, half * (0.98 if kind > 1 else 0.84)
    glass: Colour = _scaled((52, 60, 68), rng.uniform(0.6, 1.5))
    zs = [length * s for s in (r0, r1, f1, f0)]
    faces: list[Face] = []

    def add(points: list[tuple[float, float, float]], colour: Colour) -> None:
        faces.append((np.array(points, float), colour, CAR))

    # From the camera only the side that faces the road's middle shows; draw hidden one first.
    order = (-1, 1) if x < 0 else (1, -1)
    for wheel in (0.19, 0.81):  # tyres under the far side and the belly
        for side in order:
            add([(side * half, 0, length * wheel - .28), (side * (half - .2), 0, length * wheel - .28),
                 (side * (half - .2), .5, length * wheel - .28), (side * half, .5, length * wheel - .28)],
                (22, 22, 24))
    add([(-half, 0.16, 0.1), (half, 0.16, 0.1), (half, 0.5, 0.1), (-half, 0.5, 0.1)], (20, 20, 22))
    for side in order:
        by = light[0] if side < 0 else light[1]
        for lo, hi, tone in ((sill, 0.5, 0.62), (0.5, 0.74, 0.88), (0.74, belt, 1.12)):
            add([(side * half, lo, 0), (side * half, lo, length), (side * half, hi, length),
                 (side * half, hi, 0)], _scaled(paint, by * tone))
        add([(side * half, 0.72, 0), (side * half, 0.72, length), (side * half, 0.75, length),
             (side * half, 0.75, 0)], _scaled(paint, by * 0.6))
        add([(side * half, belt, zs[0]), (side * half, belt, zs[3]), (side * tuck, roof, zs[2]),
             (side * tuck, roof, zs[1])], _scaled(paint, by * 0.9))
        # side windows, with a pillar between
        low, high = belt + 0.05, roof - (0.09 if kind < 3 else 0.5)
        cuts = [0.04, 0.5, 0.94] if kind < 2 else ([0.62, 0.94] if kind == 2 else [0, .2, .4, .6, .8, 1])
        if oncoming and kind == 2:
            cuts = [0.06, 0.38]
        k = (high - belt) / (roof - belt)
        k0 = (low - belt) / (roof - belt)
        hx, lx = half + (tuck - half) * k, half + (tuck - half) * k0
        bottom = (zs[0] + (zs[1] - zs[0]) * k0, zs[3] + (zs[2] - zs[3]) * k0)
        top = (zs[0] + (zs[1] - zs[0]) * k, zs[3] + (zs[2] - zs[3]) * k)
        for a, b in zip(cuts[:-1], cuts[1:]):
            a, b = a + 0.015, b - 0.015
            add([(side * lx, low, bottom[0] + (bottom[1] - bottom[0]) * a),
                 (side * lx, low, bottom[0] + (bottom[1] - bottom[0]) * b),
                 (side * hx, high, top[0] + (top[1] - top[0]) * b),
                 (side * hx, high, top[0] + (top[1] - top[0]) * a)], _scaled(glass, by))
        for wheel in (0.19, 0.81):
            a = np.linspace(0, 2 * math.pi, 14, endpoint=False)
            for radius, tone in ((0.36, (30.0, 30.0, 31.0)), (0.31, (20.0, 20.0, 22.0)),
                                 (0.2, (150.0, 152.0, 155.0)), (0.07, (70.0, 70.0, 72.0))):
                faces.append((np.stack([np.full(14, side * half * 1.005), 0.31 + radius * np.sin(a),
                                        length * wheel + radius * np.cos(a)], 1), tone, CAR))
    # bonnet or boot lid, roof, screen, end face
    add([(-half, belt, 0), (half, belt, 0), (half, belt, zs[0]), (-half, belt, zs[0])],
        _scaled(paint, 1.15))
    add([(-tuck, roof, zs[1]), (tuck, roof, zs[1]), (tuck, roof, zs[2]), (-tuck, roof, zs[2])],
        _scaled(paint, 1.2))
    f = light[2]
    add([(-half, belt, zs[0]), (half, belt, zs[0]), (tuck, roof, zs[1]), (-tuck, roof, zs[1])],
        _scaled(paint, f))
    for lo, hi, tone in ((0.08, 0.9, 0.85), (0.55, 0.9, 1.5)):  # glass, brighter sky above
        def at(k: float, s: float) -> tuple[float, float, float]:
            return (s * (half + (tuck - half) * k) * 0.9, belt + (roof - belt) * k,
                    zs[0] + (zs[1] - zs[0]) * k)
        if kind == 2 and not oncoming and rng.random() < 0.5:
            break  # a van without a rear window
        add([at(lo, -1), at(lo, 1), at(hi, 1), at(hi, -1)], _scaled(glass, f * tone))
    for lo, hi, tone in ((0.25, 0.45, 0.6), (0.45, 0.68, 0.85), (0.68, belt, 1.08)):
        add([(-half, lo, 0), (half, lo, 0), (half, hi, 0), (-half, hi, 0)],
            _scaled(paint, f * tone))
    lamp: Colour = (240, 240, 225) if oncoming else (200, 26, 24)
    tall = kind in (0, 2) and not oncoming
    for side in (-1, 1):
        add([(side * half * .98, 0.62, 0), (side * half * (.78 if tall else .62), 0.62, 0),
             (side * half * (.78 if tall else .62), belt if tall else .8, 0),
             (side * half * .98, belt if tall else .8, 0)], lamp)
    if oncoming:
        add([(-half * .55, 0.6, 0), (half * .55, 0.6, 0), (half * .55, 0.74, 0), (-half * .55, 0.74, 0)],
            (32, 33, 35))
    add([(-half, 0.3, 0), (half, 0.3, 0), (half, 0.42, 0), (-half, 0.42, 0)], (48, 48, 50))
    plate: Colour = (225, 222, 210) if oncoming else (214, 190, 90)
    add([(-.26, 0.44, 0), (.26, 0.44, 0), (.26, 0.55, 0), (-.26, 0.55, 0)], plate)
    if kind == 1 and rng.random() < 0.15:
        add([(-.3, roof, zs[1] + .4), (.3, roof, zs[1] + .4), (.25, roof + .16, zs[1] + .4),
             (-.25, roof + .16, zs[1] + .4)], (235, 190, 60))
    return faces


def _person(rng: np.random.Generator) -> list[list[Face]]:
    """A walker, eight steps of the gait."""
    size = rng.uniform(0.9, 1.08) * (0.7 if rng.random() < 0.12 else 1.0)
    coat, trousers = _pick(rng, _CLOTHES), _pick(rng, _CLOTHES[:7])
    skin, hair = _pick(rng, _SKIN), _pick(rng, [(40, 30, 24), (90, 64, 38), (24, 22, 22), (150, 140, 130)])
    skirt, bag, front = rng.random() < 0.2, rng.random() < 0.35, rng.random() < 0.5
    bag_colour, stout, turn = _pick(rng, _SHOPS), rng.uniform(0.85, 1.2), rng.uniform(0.25, 1.0)
    frames = []
    for step in range(8):
        swing = math.sin(step / 8 * 2 * math.pi) * turn
        faces: list[Face] = []

        def add(points: np.ndarray, colour: Colour, at: list[Face] = faces) -> None:
            at.append((points * size, colour, PEDESTRIAN))

        for side in (-1, 1):
            hip, foot = side * 0.09 * stout, side * 0.1 + side * swing * 0.26
            knee = (hip + foot) / 2 + 0.03 * turn
            tone = 0.8 if side < 0 else 1.0
            add(_limb(hip, 0.92, knee, 0.48, 0.19 * stout, 0.14), _scaled(trousers, tone))
            add(_limb(knee, 0.5, foot, 0.07, 0.14, 0.1), _scaled(trousers, tone * 0.9))
            add(_limb(foot - 0.05, 0.04, foot + 0.13 * turn, 0.04, 0.09, 0.07), (28, 25, 24))
        if skirt:
            add(_flat([(-.16, .98), (.16, .98), (.25, .5), (-.25, .5)]), _scaled(trousers, 1.1))
        add(_limb(-0.21 * stout, 1.4, -0.25 * stout - swing * 0.16, 0.86, 0.12, 0.09), _scaled(coat, .72))
        w = 0.21 * stout
        add(_flat([(-w, 1.42), (-.08, 1.5), (.08, 1.5), (w, 1.42), (w * .92, 0.86), (-w * .92, 0.86)]), coat)
        add(_flat([(-w, 1.42), (-.06, 1.47), (-.04, 0.86), (-w * .92, 0.86)]), _scaled(coat, 0.8))
        add(_limb(0.21 * stout, 1.4, 0.25 * stout + swing * 0.16, 0.86, 0.12, 0.09), _scaled(coat, 1.1))
        add(_disc(0.25 * stout + swing * 0.17, 0.83, 0, 0.05, 0.06, 8), skin)
        add(_flat([(-.05, 1.46), (.05, 1.46), (.05, 1.56), (-.05, 1.56)]), _scaled(skin, 0.8))
        add(_disc(0, 1.64, 0, 0.105, 0.135), hair)
        if front:
            add(_disc(0.01, 1.615, 0, 0.085, 0.105), skin)
        if bag:
            add(_flat([(.2, 1.0), (.42, 1.0), (.4, .68), (.2, .68)]), bag_colour)
        frames.append(faces)
    return frames


def _cyclist(rng: np.random.Generator, heading: float) -> list[list[Face]]:
    """A bicycle with its rider; heading 1 is side on, near 0 end on."""
    coat = _pick(rng, [*_CLOTHES, (230, 230, 60), (240, 120, 40)])
    trousers, skin = _pick(rng, _CLOTHES[:6]), _pick(rng, _SKIN)
    metal, helmet = _pick(rng, _PAINT), _pick(rng, [(220, 220, 220), (30, 30, 34), (180, 40, 40), (60, 46, 34)])
    s = heading
    frames = []
    for step in range(8):
        faces: list[Face] = []

        def add(points: np.ndarray, colour: Colour, at: list[Face] = faces) -> None:
            at.append((points, colour, BICYCLIST))

        for hub in (-0.52, 0.52):
            rx = max(0.34 * s, 0.035)
            add(_disc(hub * s, 0.34, 0, rx, 0.34, 16), (26, 26, 28))
            if s > 0.35:
                add(_disc(hub * s, 0.34, 0, rx - .05, 0.29, 14), (118, 118, 116))
                add(_limb(hub * s - rx * .8, .34, hub * s + rx * .8, .34, .02, .02), (60, 60, 60))
                add(_limb(hub * s, .05, hub * s, .63, .02, .02), (60, 60, 60))
        for a, b in (((-.52, .34), (-.12, .86)), ((-.12, .32), (-.15, .95)), ((-.12, .32), (.4, .86)),
                     ((-.15, .84), (.4, .86)), ((.52, .34), (.36, 1.02)), ((-.52, .34), (-.12, .32))):
            add(_limb(a[0] * s, a[1], b[0] * s, b[1], .05, .05), metal)
        add(_limb(-.27 * s, .96, -.03 * s, .97, .08, .07), (24, 24, 24))
        add(_limb(.36 * s - .28 * (1 - s), 1.03, .4 * s + .28 * (1 - s), 1.03, .05, .05), (30, 30, 32))
        phase = step / 8 * 2 * math.pi
        for side in (-1, 1):
            foot = (-.12 * s + .17 * s * math.cos(phase) * side + side * .15 * (1 - s),
                    .36 + .17 * math.sin(phase) * side)
            knee = ((foot[0] - .13 * s) / 2 + .2 * s + side * .03, (foot[1] + .98) / 2 + .07)
            tone = .75 if side < 0 else 1.0
            add(_limb(-.13 * s + side * .09 * (1 - s), .98, *knee, .19, .15), _scaled(trousers, tone))
            add(_limb(*knee, *foot, .14, .09), _scaled(trousers, tone * .9))
            add(_limb(foot[0] - .06, foot[1], foot[0] + .1, foot[1], .08, .06), (30, 28, 26))
        if s < 0.2:  # end on, the near wheel hides the feet's middle
            add(_disc(0, .35, 0, .04, .36, 14), (24, 24, 26))
            add(_disc(0, .35, 0, .012, .3, 10), (120, 120, 118))
            add(_flat([(-.05, .7), (.05, .7), (.04, .8), (-.04, .8)]), (190, 30, 28))
        w = .13 + .09 * (1 - s)
        lean = .24 * s
        add(_flat([(-.15 * s - w, .95), (-.15 * s + w, .92), (lean + w, 1.42), (lean, 1.52),
                   (lean - w, 1.44)]), coat)
        add(_flat([(-.15 * s - w, .95), (-.15 * s - w * .3, .94), (lean - w * .4, 1.48),
                   (lean - w, 1.44)]), _scaled(coat, .75))
        for side in (-1, 1):
            add(_limb(lean + side * w * .8, 1.4, .38 * s + side * .26 * (1 - s), 1.05, .1, .07),
                _scaled(coat, .85 if side < 0 else 1.1))
        add(_disc(lean + .1 * s, 1.66, 0, .1, .13), skin)
        add(np.vstack([_disc(lean + .09 * s, 1.7, 0, .115, .12, 12)[:7]]), helmet)
        frames.append(faces)
    return frames


def _post(rng: np.random.Generator, kind: int, toward: float) -> list[Face]:
    """0 lamp post, 1 traffic light, 2 sign on a post, 3 bollard, 4 telegraph pole."""
    grey = _pick(rng, [(96, 100, 102), (66, 70, 70), (130, 132, 130), (46, 60, 54)])
    faces: list[Face] = []

    def add(points: np.ndarray, colour: Colour, label: int) -> None:
        faces.append((points, colour, label))

    def shaft(height: float, foot: float, top: float, colour: Colour) -> None:
        add(_limb(0, 0, 0, height, foot, top), _scaled(colour, 0.72), POLE)
        add(_limb(foot * .15, 0, top * .15, height, foot * .6, top * .6), _scaled(colour, 1.1), POLE)

    if kind == 0:
        height = rng.uniform(5.5, 8.0)
        shaft(1.0, 0.24, 0.22, grey)
        shaft(height, 0.17, 0.11, grey)
        add(_limb(0, height, toward * 1.3, height + .3, .1, .08), grey, POLE)
        add(_flat([(toward * 1.1, height + .25), (toward * 1.9, height + .38),
                   (toward * 1.9, height + .26), (toward * 1.1, height + .1)]), (206, 204, 190), POLE)
    elif kind == 1:
        shaft(2.3, 0.14, 0.12, grey)
        add(_flat([(-.24, 2.15), (.24, 2.15), (.24, 3.3), (-.24, 3.3)]), (20, 20, 22), SIGN)
        add(_flat([(-.2, 2.2), (.2, 2.2), (.2, 3.25), (-.2, 3.25)]), (38, 38, 42), SIGN)
        lit = int(rng.integers(3))
        lamps: list[Colour] = [(40, 235, 120), (250, 180, 50), (250, 50, 40)]
        for i, colour in enumerate(lamps):
            y = 2.38 + 0.34 * i
            add(_disc(0, y, 0, .135, .135), colour if i == lit else _scaled(colour, .22), SIGN)
    elif kind == 2:
        height = rng.uniform(2.0, 2.6)
        shaft(height + .3, 0.09, 0.08, grey)
        shape = int(rng.integers(5))
        r = rng.uniform(.32, .46)
        if shape == 0:  # prohibition
            add(_disc(0, height + r, 0, r, r, 20), (205, 24, 30), SIGN)
            add(_disc(0, height + r, 0, r * .72, r * .72, 20), (244, 244, 240), SIGN)
            add(_limb(-r * .3, height + r, r * .3, height + r, r * .5, r * .5), (24, 24, 24), SIGN)
        elif shape == 1:  # warning
            add(_flat([(-r * 1.1, height), (r * 1.1, height), (0, height + r * 1.9)]), (205, 24, 30), SIGN)
            add(_flat([(-r * .72, height + r * .2), (r * .72, height + r * .2),
                       (0, height + r * 1.45)]), (244, 244, 240), SIGN)
            add(_limb(0, height + r * .35, 0, height + r * .95, r * .16, r * .22), (24, 24, 24), SIGN)
        elif shape == 2:  # mandatory
            add(_disc(0, height + r, 0, r, r, 20), (240, 240, 240), SIGN)
            add(_disc(0, height + r, 0, r * .92, r * .92, 20), (20, 74, 160), SIGN)
            add(_limb(-r * .4, height + r * .6, r * .3, height + r * 1.3, r * .22, r * .22),
                (240, 240, 240), SIGN)
        else:  # direction board
            board = _pick(rng, [(22, 96, 62), (24, 70, 150), (236, 236, 230), (226, 184, 40)])
            ink: Colour = (30, 30, 30) if sum(board) > 380 else (240, 240, 236)
            w, h = rng.uniform(.45, 1.1), rng.uniform(.5, .9)
            add(_flat([(-w, height), (w, height), (w, height + h), (-w, height + h)]), ink, SIGN)
            add(_flat([(-w + .04, height + .04), (w - .04, height + .04), (w - .04, height + h - .04),
                       (-w + .04, height + h - .04)]), board, SIGN)
            for y in np.arange(height + .14, height + h - .1, .17):
                add(_flat([(-w + .1, y), (w * rng.uniform(0, .8), y), (w * .7, y + .08),
                           (-w + .1, y + .08)]), ink, SIGN)
    elif kind == 3:
        shaft(0.95, 0.2, 0.17, grey)
        add(_limb(0, .74, 0, .84, .2, .2), (222, 222, 215), POLE)
    else:
        shaft(rng.uniform(7, 9), 0.28, 0.2, (104, 84, 66))
        add(_limb(-.7, 6.6, .7, 6.6, .12, .12), (84, 68, 54), POLE)
    return faces


def _house_shell(wall: Wall, colour: Colour, roof: Colour, pitch: float, side: float,
                 light: tuple[float, float, float]) -> list[Face]:
    """What shows of a house apart from its front: gable wall, roof, chimney."""
    depth, height, length = 8.0 * side, wall.height, wall.length
    out: list[Face] = []

    def add(points: list[tuple[float, float, float]], by: float, paint: Colour) -> None:
        out.append((np.array(points, float), _scaled(paint, by), BUILDING))

    mid = depth / 2
    if pitch > 0:
        add([(mid, height + pitch, .3), (mid + .9 * side, height + pitch, .3),
             (mid + .9 * side, height + pitch + 1.1, .3), (mid, height + pitch + 1.1, .3)], .8, colour)
        add([(0, height, 0), (0, height, length), (mid, height + pitch, length),
             (mid, height + pitch, 0)], 1.0, roof)
        for k in (.25, .5, .75):
            add([(mid * k, height + pitch * k, 0), (mid * k, height + pitch * k, length),
                 (mid * (k + .04), height + pitch * (k + .04), length),
                 (mid * (k + .04), height + pitch * (k + .04), 0)], .85, roof)
    add([(0, 0, 0), (depth, 0, 0), (depth, height, 0), (mid, height + pitch, 0), (0, height, 0)],
        light[2] * .85, colour)
    add([(0, 0, 0), (depth, 0, 0), (depth, height * .4, 0), (0, height * .4, 0)], light[2] * .78, colour)
    if depth and height > 5:  # a small gable window
        for y in (height * .3, height * .68):
            add([(mid * .7, y, 0), (mid * 1.2, y, 0), (mid * 1.2, y + 1.3, 0), (mid * .7, y + 1.3, 0)],
                1.0, (58, 62, 68))
    return out


# --- the scene ----------------------------------------------------------------------------------

class StreetScene:
    """An endless street.

    Args:
        seed: chooses layout, colours, light, weather and sensor noise; any non-negative integer.
        size: (width, height) of the pictures in pixels, each at least 32.

    Raises:
        ValueError: the size is too small or the seed negative.
    """

    def __init__(self, seed: int = 0, size: tuple[int, int] = (960, 720)) -> None:
        if min(size) < 32:
            raise ValueError(f'size: expected at least 32x32 pixels, received {size[0]}x{size[1]}')
        if seed < 0:
            raise ValueError(f'seed: expected a non-negative integer, received {seed}')
        self.seed, self.size = seed, size
        rng = np.random.default_rng([seed, 0])
        self._lay_out(rng)
        self._set_weather(rng)
        self._paint_textures(rng)
        self._fix_camera(rng)
        # Slots are built once and forgotten when far behind.
        self._slot = lru_cache(maxsize=600)(self._build_slot)

    # -- choices of the seed --

    def _lay_out(self, rng: np.random.Generator) -> None:
        self._mirrored = bool(rng.random() < 0.5)  # drive on the right instead of on the left
        self._road = float(rng.uniform(4.6, 6.0))  # m, half the carriageway
        self._edge = self._road + float(rng.uniform(2.4, 3.8))  # m, outer edge of the pavement
        self._line = self._edge + float(rng.uniform(0.1, 1.2))  # m, house fronts
        self._bend = float(rng.normal(0, 0.0004))  # 1/m, sideways shift of the road per z squared
        self._built = rng.uniform(0.35, 0.95, 2)  # share of houses, left and right
        self._parked = rng.uniform(0.0, 0.8, 2)
        self._tree_rate = rng.uniform(0.15, 0.7, 2)
        self._fence_rate = rng.uniform(0.25, 0.8, 2)
        self._people = float(rng.uniform(0.35, 0.8))

    def _set_weather(self, rng: np.random.Generator) -> None:
        kind = rng.choice(4, p=[0.45, 0.33, 0.12, 0.10])  # sunny, overcast, hazy, dusk
        self._sun_side = float(rng.choice([-1.0, 1.0]))
        contrast = (0.35, 0.08, 0.1, 0.12)[kind]
        left = 1 + contrast * -self._sun_side
        self._light = (left, 2 - left, float(rng.uniform(0.8, 1.05)))
        self._shadow_depth = (float(rng.uniform(0.35, 0.5)), 0.25, 0.25, 0.2)[kind]
        self._shadow_reach = (float(rng.uniform(0.3, 1.1)), 0.05, 0.05, 0.05)[kind]
        self._fog_range = (600.0, 350.0, float(rng.uniform(60, 140)), 250.0)[kind]
        zenith, low = [((84, 132, 200), (196, 214, 232)), ((172, 178, 186), (224, 226, 228)),
                       ((190, 196, 202), (220, 222, 222)), ((60, 74, 112), (226, 176, 136))][kind]
        self._zenith = np.array(zenith, float) * rng.uniform(0.85, 1.15)
        self._low = np.clip(np.array(low, float) * rng.uniform(0.92, 1.12), 0, 255)
        self._cloud = float(rng.uniform(0, 0.9))
        self._gain = float((1.0, 0.92, 0.98, 0.6)[kind] * rng.uniform(0.8, 1.2))
        self._gamma = float(rng.uniform(0.85, 1.2))
        self._cast = rng.uniform(0.94, 1.06, 3)
        self._grain = float(rng.uniform(1.0, 5.0) * (1.6 if kind == 3 else 1.0))
        self._blur = float(rng.uniform(0.35, 0.85))

    def _paint_textures(self, rng: np.random.Generator) -> None:
        season = int(rng.choice(3, p=[0.6, 0.15, 0.25]))
        greens: list[Colour] = [[(74, 104, 46), (92, 116, 52), (60, 88, 48)],
                                [(150, 112, 44), (128, 104, 48), (92, 98, 46)],
                                [(62, 82, 44), (56, 70, 44), (74, 84, 50)]][season]
        self._facades = [_facade(rng) for _ in range(7)]
        self._facade_levels = [_pyramid(f) for f in self._facades]
        self._hedges = [_pyramid(_hedge(rng, _pick(rng, greens))) for _ in range(2)]
        self._fences = [(_pyramid(t), h) for t, h in (_fence(rng, kind) for kind in (0, 1, 2))]
        self._crowns = [_crown(rng, _pick(rng, greens)) for _ in range(4)]
        if season == 2:
            self._crowns[1:] = [_bare(rng) for _ in range(3)]
        self._grass = _pick(rng, [(96, 112, 58), (82, 100, 54), (112, 112, 66)])
        self._ground = self._paint_ground(rng)

    def _paint_ground(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Road, kerb, pavement and verge with markings and the shadows of houses and trees."""
        height, width = int(_GROUND_PERIOD * _GROUND_Z), int(2 * _GROUND_HALF * _GROUND_X)
        x = ((np.arange(width) + 0.5) / _GROUND_X - _GROUND_HALF)[None, :]
        shape = (height, width)
        fine, coarse = rng.standard_normal(shape).astype(np.float32), _noise(rng, shape, 40)
        asphalt = np.array(_pick(rng, [(92, 92, 94), (74, 75, 78), (108, 105, 102)]))
        tracks = 0.05 * np.cos(2 * math.pi * np.abs(x) / 1.7)
        image = asphalt * (1 + 0.05 * fine + 0.05 * coarse + tracks)[..., None]
        for _ in range(10):  # mended patches
            u, v = rng.uniform(-self._road, self._road), rng.uniform(0, 60)
            a, b = self._column(u), self._column(min(u + rng.uniform(0.5, 2.0), self._road))
            image[int(v * _GROUND_Z):int((v + rng.uniform(0.6, 4)) * _GROUND_Z), a:b] *= rng.uniform(0.75, 1.15)
        paint = float(rng.uniform(170, 225))
        wear = np.clip(0.9 + 0.2 * _noise(rng, shape, 5), 0.35, 1)[..., None]

        def stripe(centre: float, wide: float, rows: slice, colour: Colour) -> None:
            part = (rows, slice(self._column(centre - wide / 2), self._column(centre + wide / 2)))
            image[part] = image[part] * (1 - wear[part]) + np.array(colour) * wear[part]

        white: Colour = (paint, paint, paint * 0.97)
        dash = int(rng.choice([4, 6, 8]))
        for start in range(0, int(_GROUND_PERIOD), dash):
            stripe(0, 0.14, slice(start * _GROUND_Z, int((start + dash * 0.5) * _GROUND_Z)), white)
        edging = int(rng.integers(3))
        for side in (-1, 1):
            if edging == 1:
                stripe(side * (self._road - 0.35), 0.12, slice(None), white)
            elif edging == 2:  # double yellow
                for offset in (0.25, 0.5):
                    stripe(side * (self._road - offset), 0.1, slice(None), (200, 168, 60))
        if rng.random() < 0.6:  # zebra crossing
            for u in np.arange(-self._road + 0.5, self._road - 0.4, 1.0):
                stripe(u + 0.25, 0.5, slice(20 * _GROUND_Z, 23 * _GROUND_Z), white)
        if rng.random() < 0.5:  # a stop line of the own lane
            stripe(-self._road / 2, self._road - 0.6, slice(26 * _GROUND_Z, int(26.4 * _GROUND_Z)), white)

        slab = np.array(_pick(rng, [(158, 152, 144), (140, 138, 134), (172, 160, 146), (150, 134, 122)]))
        tile = rng.uniform(0.92, 1.08, (height // 12 + 1, width // 16 + 1)).repeat(12, 0).repeat(16, 1)
        paved = slab * (tile[:height, :width] * (1 + 0.05 * fine + 0.05 * coarse))[..., None]
        paved[::12] *= 0.78
        paved[:, ::16] *= 0.8
        pavement = np.broadcast_to(np.abs(x) >= self._road, shape)
        image[pavement] = paved[pavement]
        kerb = np.broadcast_to(np.abs(np.abs(x) - self._road - 0.1) < 0.1, shape)
        image[kerb] = (slab * 1.12 * (1 + 0.06 * fine)[..., None])[kerb]
        image[np.broadcast_to(np.abs(np.abs(x) - self._road + 0.08) < 0.07, shape)] *= 0.6
        green = np.array(self._grass) * (1 + 0.2 * fine + 0.12 * _noise(rng, shape, 4))[..., None]
        verge = np.broadcast_to(np.abs(x) >= self._edge, shape)
        image[verge] = green[verge]

        if self._shadow_depth > 0.3:  # what the sun's side throws over the street
            reach = self._edge - rng.uniform(0, self._edge)
            z = np.linspace(0, 2 * math.pi, height)[:, None]
            steps = np.sign(np.sin(z * 5 + 1)) * 1.2 + np.sign(np.sin(z * 2)) * 1.5
            shade = (x * self._sun_side > reach + steps).astype(np.float32)
            dapple = (_noise(rng, shape, 26) + 0.5 * _noise(rng, shape, 7) > 1.6).astype(np.float32)
            shade = cv2.GaussianBlur(np.maximum(shade, dapple), (0, 0), 3)
            image *= (1 - self._shadow_depth * shade)[..., None]
        texture = np.clip(image, 0, 255).astype(np.uint8)
        return [texture, cv2.GaussianBlur(texture, (0, 0), sigmaX=1.2, sigmaY=5, borderType=cv2.BORDER_REFLECT),
                cv2.GaussianBlur(texture, (0, 0), sigmaX=3, sigmaY=30, borderType=cv2.BORDER_REFLECT)]

    @staticmethod
    def _column(x: float) -> int:
        return int(np.clip(round((x + _GROUND_HALF) * _GROUND_X), 0, 2 * _GROUND_HALF * _GROUND_X))

    def _fix_camera(self, rng: np.random.Generator) -> None:
        width, height = self.size
        self._focal = width * float(rng.uniform(0.8, 1.05))
        self._cx, self._cy = width / 2, height * float(rng.uniform(0.42, 0.52))
        self._centre = np.array((self._cx, self._cy)) * (1 << _SHIFT)
        self._eye = float(rng.uniform(1.25, 1.7))  # m above the road
        self._at = -self._road * 0.32  # m, the left lane
        self._static_background(rng)
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
        radius = ((xs - width / 2) / width) ** 2 + ((ys - height / 2) / height) ** 2
        vignette = 255 * (1 - rng.uniform(0, 0.5) * radius)
        self._vignette = np.repeat(vignette[..., None], 3, 2).astype(np.uint8)
        levels = np.arange(256) / 255
        curve = (levels * self._gain)[:, None] ** self._gamma * self._cast
        self._curve = np.clip(curve * 255, 0, 255).astype(np.uint8)[:, None, :]
        scale = max(1.0, width / 480)  # noise of a camera is spread by its demosaicing
        noise = rng.standard_normal((round(height / scale) + 33, round(width / scale) + 33, 3))
        self._noise = cv2.resize((noise * self._grain).astype(np.float32),
                                 (width + 32, height + 32)).astype(np.int16)

    def _static_background(self, rng: np.random.Generator) -> None:
        """Sky, skyline and the ground's geometry: the camera never turns, so they stay."""
        width, height = self.size
        horizon = int(math.ceil(self._cy))
        up = np.linspace(0, 1, horizon)[:, None]
        sky = self._zenith * (1 - up[..., None]) + self._low * up[..., None]
        sky = np.broadcast_to(sky, (horizon, width, 3)).copy()
        cloud = sum(_noise(rng, (horizon, width), width * c) * a
                    for c, a in ((0.3, 1.0), (0.12, 0.6), (0.04, 0.3)))
        cover = np.clip((cloud + 2.2 * self._cloud - 1.2) * 0.5, 0, 0.9)[..., None]
        tone = np.clip(235 - 14 * cloud, 150, 252)[..., None] * np.array((0.98, 0.99, 1.0))
        sky = sky * (1 - cover) + tone * self._low.mean() / 220 * cover
        self._background = np.zeros((height, width, 3), np.uint8)
        self._background[:horizon] = np.clip(sky, 0, 255)
        self._background_label = np.full((height, width), SKY, np.uint8)
        x = 0.0
        while x < width:  # a skyline closes the end of the street
            wide = rng.uniform(0.03, 0.09) * width
            tall = rng.uniform(0.015, 0.05) * height
            box = np.array([(x, self._cy + 2), (x, self._cy - tall), (x + wide, self._cy - tall),
                            (x + wide, self._cy + 2)], np.int32)
            leafy = rng.random() < 0.55
            colour = self._hazy(np.array([_pick(rng, [(76, 92, 60)] if leafy else _WALLS)]), 170.0)[0]
            label = TREE if leafy else BUILDING
            if leafy:
                for k in np.linspace(0, 1, 9):
                    r = max(2, int(tall * rng.uniform(0.5, 0.9)))
                    at = (int(x + k * wide), int(self._cy - tall * 0.4))
                    tint = [float(c) * float(rng.uniform(0.85, 1.1)) for c in colour]
                    cv2.circle(self._background, at, r, tint, -1)
                    cv2.circle(self._background_label, at, r, label, -1)
            else:
                cv2.fillPoly(self._background, [box], colour.tolist())
                cv2.fillPoly(self._background_label, [box], label)
            x += wide * rng.uniform(0.6, 1.0)
        rows = np.arange(horizon, height) + 0.5 - self._cy
        z = self._focal * self._eye / np.maximum(rows, 1e-3)
        z = np.minimum(z, 400.0)[:, None].astype(np.float32)
        xs = ((np.arange(width) + 0.5 - self._cx)[None, :] / self._focal).astype(np.float32)
        across = xs * z + np.float32(self._at) - np.float32(self._bend) * z * z
        self._ground_row = horizon
        self._ground_u = (np.clip(across, -_GROUND_HALF + .1, _GROUND_HALF - .1) + _GROUND_HALF) * _GROUND_X
        self._ground_z = np.broadcast_to(z, across.shape).copy()
        off = np.abs(across)
        label = np.where(off < self._road, ROAD, np.where(off < self._edge, PAVEMENT, TREE))
        self._background_label[horizon:] = label
        # Texture levels by depth, so that the far ground does not sparkle.
        self._ground_cuts = [int(np.searchsorted(-z[:, 0], -limit)) for limit in (45.0, 14.0)]
        self._ground_fog = self._fog(z)[..., None].astype(np.float32)

    # -- the street's content --

    def _rng(self, *key: int) -> np.random.Generator:
        # Seed sequences take no negative numbers; slots behind the start have them.
        return np.random.default_rng([self.seed, *(k & 0xFFFFFFFF for k in key)])

    def _build_slot(self, stream: int, index: int) -> list[Wall | Thing]:
        """What stands in one slot; stream = 10 * kind + (0 left, 1 right). See `_STREAMS`."""
        kind, right = divmod(stream, 10)
        side = 1.0 if right else -1.0
        length = _STREAMS[kind].slot
        return _STREAMS[kind].build(self, self._rng(stream, index), side, index * length)

    def _houses(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        out: list[Wall | Thing] = []
        right = int(side > 0)
        if rng.random() < self._built[right]:
            pick = int(rng.integers(len(self._facades)))
            texture = self._facades[pick]
            light = self._light[0] if side > 0 else self._light[1]
            wall = Wall(side * (self._line + rng.uniform(0, 0.8)), z, 14.0 + rng.uniform(-1.0, 0.0),
                        texture.shape[0] / _WALL_PX * rng.uniform(0.9, 1.15),
                        self._facade_levels[pick], BUILDING, light * rng.uniform(0.9, 1.1))
            colour = tuple(texture[20:60, :4, :3].reshape(-1, 3).mean(0).tolist())
            roof = _pick(rng, [(92, 62, 54), (74, 76, 82), (110, 84, 66)])
            pitch = rng.uniform(1.5, 3.2) if rng.random() < 0.7 else 0.0
            shell = _house_shell(wall, colour, roof, pitch, side, self._light)
            out += [Thing(wall.x, z, [shell]), wall]
        else:
            for _ in range(3):
                out.append(self._tree(rng, side * (self._line + rng.uniform(3.0, 7.5)),
                                      z + rng.uniform(0, 14), rng.uniform(0.9, 1.5)))
            height = rng.uniform(1.4, 2.8)
            out.append(Wall(side * (self._line + 1.5), z, 14.0, height,
                            self._hedges[int(rng.integers(2))], TREE, self._light[right]))
        return out

    def _tree(self, rng: np.random.Generator, x: float, z: float, size: float = 1.0) -> Thing:
        crown = self._crowns[int(rng.integers(len(self._crowns)))]
        wide = rng.uniform(0.85, 1.15) * size * (-1 if rng.random() < 0.5 else 1)
        sprite = Sprite(crown.levels, crown.width * wide, crown.height * size * rng.uniform(0.9, 1.15),
                        crown.base * size, crown.drawn, TREE)
        bark = _pick(rng, [(92, 76, 60), (74, 64, 54), (110, 100, 88)])
        trunk: list[Face] = []
        if crown.base > 0:
            top = sprite.base + sprite.height * 0.3
            trunk = [(_limb(0, 0, 0, top, .42 * size, .2), _scaled(bark, .7), TREE),
                     (_limb(.06, 0, .03, top, .22 * size, .1), _scaled(bark, 1.1), TREE)]
        return Thing(x, z, [trunk], (crown.width * 0.3, 2.5, 4.0, 0), sprite)

    def _borders(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        right = int(side > 0)
        light = self._light[0] if side > 0 else self._light[1]
        if rng.random() < self._fence_rate[right]:
            levels, height = self._fences[int(rng.integers(2))]
            return [Wall(side * self._edge, z, 10.0, height, levels, FENCE, light)]
        if rng.random() < 0.4:
            return [Wall(side * self._edge, z, 10.0, rng.uniform(0.9, 1.6),
                         self._hedges[int(rng.integers(2))], TREE, light)]
        return []

    def _guards(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() < 0.3 * self._fence_rate[int(side > 0)]:
            levels, height = self._fences[2 if rng.random() < 0.6 else 1]
            return [Wall(side * (self._road + 0.25), z, 10.0, height, levels, FENCE, 1.0)]
        return []

    def _street_trees(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() < self._tree_rate[int(side > 0)]:
            return [self._tree(rng, side * (self._road + rng.uniform(0.7, 1.2)), z + rng.uniform(0, 6))]
        return []

    def _posts(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() < 0.25:
            return []
        kind = int(rng.choice(5, p=[0.27, 0.17, 0.34, 0.14, 0.08]))
        x = side * (self._road + rng.uniform(0.35, 0.8))
        return [Thing(x, z + rng.uniform(0, 7), [_post(rng, kind, -side)], (0.08, 0.2, 4.0, 0))]

    def _walkers(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        out: list[Wall | Thing] = []
        while rng.random() < self._people and len(out) < 3:
            out.append(Thing(side * rng.uniform(self._road + 0.9, self._edge - 0.4), z + rng.uniform(0, 8),
                             _person(rng), (0.25, 0.3, 1.7, 0), pace=rng.uniform(6, 9)))
        return out

    def _parked_cars(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > self._parked[int(side > 0)]:
            return []
        x = side * (self._road - 1.1 + rng.uniform(-0.1, 0.1))
        return [self._vehicle(rng, x, z + rng.uniform(0, 1.2), oncoming=side > 0)]

    def _vehicle(self, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> Thing:
        faces = _car(rng, x - self._at, oncoming, self._light)
        half, length, height = np.abs(np.concatenate([f[0] for f in faces])).max(axis=0)[[0, 2, 1]]
        return Thing(x, z, [faces], (float(half), float(length), float(height), 0))

    def _traffic(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        # The left lane is the camera's own: it keeps its distance to the car ahead.
        if rng.random() > 0.6 or (side < 0 and z < 10):
            return []
        return [self._vehicle(rng, side * self._road * 0.32, z + rng.uniform(0, 3), oncoming=side > 0)]

    def _riders(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > 0.55:
            return []
        room = 2.5 if self._parked[int(side > 0)] > 0.15 else 0.7
        heading = float(rng.choice([0.1, 0.3, 0.55, 0.95], p=[0.35, 0.25, 0.22, 0.18]))
        frames = _cyclist(rng, heading)
        if rng.random() < 0.5:
            frames = [[(f[0] * (-1, 1, 1), f[1], f[2]) for f in frame] for frame in frames]
        return [Thing(side * (self._road - room), z + rng.uniform(0, 8), frames, (0.3, 1.2, 1.7, 0), pace=8.0)]

    def _visible(self, kinds: tuple[int, ...], t: float) -> Iterator[tuple[float, Wall | Thing]]:
        """What the streams hold between the camera and _FAR, as (z from the camera, what)."""
        for kind in kinds:
            for right in (0, 1):
                stream = _STREAMS[kind]
                drive = stream.speed[right]
                ahead = (SPEED - drive) * t  # how far the camera has moved along this stream
                first = math.floor((ahead - 16.0) / stream.slot)
                for index in range(first, math.floor((ahead + _FAR) / stream.slot) + 1):
                    for what in self._slot(10 * kind + right, index):
                        yield what.z - ahead, what

    # -- drawing --

    def _fog(self, z: np.ndarray | float) -> np.ndarray:
        return 1 - np.exp(-np.asarray(z) / self._fog_range)

    def _hazy(self, colours: np.ndarray, z: float) -> np.ndarray:
        f = float(self._fog(z))
        return np.clip(colours * (1 - f) + self._low * f, 0, 255)

    def _project(self, points: np.ndarray, x: float, z: float) -> np.ndarray:
        """(n, 3) metres relative to (x, 0, z) -> (n, 2) pixels in fixed point."""
        depth = np.maximum(points[:, 2] + z, _NEAR)
        scale = (self._focal * (1 << _SHIFT)) / depth
        out = np.empty((len(points), 2))
        out[:, 0] = (points[:, 0] + (x - self._at) + self._bend * depth * depth) * scale
        out[:, 1] = (self._eye - points[:, 1]) * scale
        out += self._centre
        np.maximum(out, -_LIMIT, out=out)
        return np.minimum(out, _LIMIT, out=out).astype(np.int32)

    def _draw_thing(self, rgb: np.ndarray, label: np.ndarray, thing: Thing, z: float, t: float) -> None:
        step = int(t * thing.pace) % len(thing.frames)
        if len(thing.points[step]) and z + thing.depth > _NEAR:
            pixels = self._project(thing.points[step], thing.x, z)
            colours = self._hazy(thing.colours[step], z).tolist()
            # Details of less than two pixels would only flicker.
            seen = (thing.extents[step] * self._focal > 2 * max(z, _NEAR)).tolist()
            start = 0
            for (shape, _, kind), colour, show in zip(thing.frames[step], colours, seen):
                end = start + len(shape)
                if show:
                    cv2.fillPoly(rgb, [pixels[start:end]], colour, cv2.LINE_8, _SHIFT)
                    cv2.fillPoly(label, [pixels[start:end]], kind, cv2.LINE_8, _SHIFT)
                start = end
        if thing.sprite is not None and z > _NEAR:
            self._draw_sprite(rgb, label, thing.sprite, thing.x, z)

    def _draw_sprite(self, rgb: np.ndarray, label: np.ndarray, sprite: Sprite, x: float, z: float) -> None:
        scale = self._focal / z
        centre = self._cx + (x + self._bend * z * z - self._at) * scale
        bottom = self._cy + (self._eye - sprite.base) * scale
        wide, tall = abs(sprite.width) * scale, sprite.height * scale
        x0, x1 = max(0, math.floor(centre - wide / 2)), min(self.size[0], math.ceil(centre + wide / 2))
        y0, y1 = max(0, math.floor(bottom - tall)), min(self.size[1], math.ceil(bottom))
        if x0 >= x1 or y0 >= y1:
            return
        level = _level(sprite.levels, tall)
        height, width = level.shape[:2]
        kx, ky = width / wide, height / tall
        matrix = np.array([[kx, 0, (x0 - centre + wide / 2) * kx], [0, ky, (y0 - bottom + tall) * ky]])
        if sprite.width < 0:
            matrix[0] = -matrix[0]
            matrix[0, 2] += width - 1
        patch = cv2.warpAffine(level, matrix, (x1 - x0, y1 - y0),
                               flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self._stamp(rgb[y0:y1, x0:x1], label[y0:y1, x0:x1], patch, z, 1.0, sprite.drawn, sprite.label)

    def _stamp(self, rgb: np.ndarray, label: np.ndarray, patch: np.ndarray, z: float, light: float,
               drawn: int, kind: int) -> None:
        """Paint an RGBA patch where alpha > drawn, label it where alpha > min(drawn, 64)."""
        f = float(self._fog(z))
        alpha = patch[..., 3]
        paint = cv2.convertScaleAbs(patch[..., :3], alpha=light * (1 - f))
        if f > 0.01:
            paint = cv2.add(paint, (*(self._low * f), 0.0))
        cv2.copyTo(paint, cv2.compare(alpha, drawn, cv2.CMP_GT), rgb)
        label[alpha > (64 if drawn > 127 else drawn)] = kind

    def _draw_wall(self, rgb: np.ndarray, label: np.ndarray, wall: Wall, z: float) -> None:
        width, height = self.size
        # Start where the wall enters the picture, else the warp wastes itself on hidden parts.
        start = max(z, _NEAR, 0.95 * abs(wall.x - self._at) * self._focal / (width * 0.5))
        end = z + wall.length
        if start >= end - 0.05:
            return
        corners = np.array([(0, 0, start), (0, wall.height, start), (0, wall.height, end), (0, 0, end)])
        quad = self._project(corners, wall.x, 0.0)
        screen = quad.astype(np.float32) / (1 << _SHIFT)
        (x0, y0), (x1, y1) = np.floor(screen.min(0)).astype(int), np.ceil(screen.max(0)).astype(int) + 1
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
        if x0 >= x1 or y0 >= y1:
            return
        level = _level(wall.levels, min(float(np.ptp(screen[:2, 1])), 2.5 * float(np.ptp(screen[:, 0]))))
        th, tw = level.shape[:2]
        u0 = (start - z) / wall.length * tw
        source = np.array([(u0, th), (u0, 0), (tw, 0), (tw, th)], np.float32)
        matrix = cv2.getPerspectiveTransform(source, screen - np.float32((x0, y0)))
        patch = cv2.warpPerspective(level, matrix, (x1 - x0, y1 - y0), flags=cv2.INTER_LINEAR,
                                    borderMode=cv2.BORDER_REPLICATE)
        inside = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(inside, [quad - (np.int32((x0, y0)) << _SHIFT)], 255, cv2.LINE_8, _SHIFT)
        patch[..., 3] = cv2.min(patch[..., 3], inside)
        self._stamp(rgb[y0:y1, x0:x1], label[y0:y1, x0:x1], patch, (start + end) / 2, wall.light,
                    170 if wall.label == FENCE else 127, wall.label)

    def _draw_ground(self, rgb: np.ndarray, t: float) -> None:
        top = self._ground_row
        period = _GROUND_PERIOD * _GROUND_Z
        v = np.mod((self._ground_z + (SPEED * t) % _GROUND_PERIOD) * _GROUND_Z, period)
        cuts = [0, *self._ground_cuts, self.size[1] - top]
        for texture, a, b in zip(reversed(self._ground), cuts[:-1], cuts[1:]):
            if b > a:
                rgb[top + a:top + b] = cv2.remap(texture, self._ground_u[a:b], v[a:b], cv2.INTER_LINEAR,
                                                 borderMode=cv2.BORDER_WRAP)
        if self._fog_range < 200:
            part = rgb[top:].astype(np.float32)
            part += (self._low.astype(np.float32) - part) * self._ground_fog
            rgb[top:] = part.astype(np.uint8)

    def _draw_shadows(self, rgb: np.ndarray, things: list[tuple[float, Thing]]) -> None:
        """All shadows on the ground at once: one mask, one blur, one product."""
        width, height = self.size
        top = self._ground_row
        mask = np.zeros((height - top, width), np.uint8)
        for z, thing in things:
            half, length, tall, _ = thing.shadow
            if half == 0 or z + length < _NEAR:
                continue
            reach = -self._sun_side * self._shadow_reach * tall
            corners = np.array([(-half, 0, 0), (half, 0, 0), (half, 0, length), (-half, 0, length)])
            thrown = corners + (reach, 0, 0.3 * abs(reach))
            hull = cv2.convexHull(self._project(np.concatenate([corners, thrown]), thing.x, z))
            cv2.fillConvexPoly(mask, hull - np.int32((0, top << _SHIFT)), 255, cv2.LINE_8, _SHIFT)
        size = max(3, (width // 160) | 1)
        mask = cv2.blur(mask, (size, size))
        keep = cv2.convertScaleAbs(cv2.bitwise_not(mask), alpha=self._shadow_depth,
                                   beta=255 * (1 - self._shadow_depth))
        rgb[top:] = cv2.multiply(rgb[top:], cv2.cvtColor(keep, cv2.COLOR_GRAY2RGB), scale=1 / 255)

    def render(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """The view after t seconds of driving at 8 m/s.

        Returns:
            rgb: (H, W, 3) uint8.
            label: (H, W) uint8, CamVid class of each pixel, 255 where none applies.

        The same (seed, size, t) gives the same arrays.
        """
        rgb, label = self._background.copy(), self._background_label.copy()
        self._draw_ground(rgb, t)
        bands = [sorted(self._visible(kinds, t), key=_far_first) for kinds in _BANDS]
        self._draw_shadows(rgb, [(z, w) for band in bands for z, w in band if isinstance(w, Thing)])
        for band in bands:
            for z, what in band:
                if isinstance(what, Wall):
                    self._draw_wall(rgb, label, what, z)
                else:
                    self._draw_thing(rgb, label, what, z, t)
        return self._develop(rgb, t), cv2.flip(label, 1) if self._mirrored else label

    def _develop(self, rgb: np.ndarray, t: float) -> np.ndarray:
        """What lens and sensor do: blur, vignette, exposure curve, noise."""
        rgb = cv2.GaussianBlur(rgb, (3, 3) if self.size[0] < 700 else (5, 5),
                               self._blur * max(1.0, self.size[0] / 640))
        rgb = cv2.multiply(rgb, self._vignette, scale=1 / 255)
        rgb = cv2.LUT(rgb, self._curve)
        width, height = self.size
        dx, dy = self._rng(9, int(round(t * 1000))).integers(0, 32, 2)
        rgb = cv2.add(rgb, self._noise[dy:dy + height, dx:dx + width], dtype=cv2.CV_8U)
        return cv2.flip(rgb, 1) if self._mirrored else rgb


def _level(levels: list[np.ndarray], pixels: float) -> np.ndarray:
    """The texture level whose height suits `pixels` on the screen."""
    index = math.floor(math.log2(max(levels[0].shape[0] / max(pixels, 1.0), 1.0)))
    return levels[min(index, len(levels) - 1)]


def _far_first(item: tuple[float, Wall | Thing]) -> float:
    # A house shell comes just before its own front.
    return -item[0]


@dataclass(frozen=True)
class _Stream:
    slot: float  # m of road that one hash decides about
    build: Callable[[StreetScene, np.random.Generator, float, float], list[Wall | Thing]]
    speed: tuple[float, float] = (0.0, 0.0)  # m/s along the road, left and right


_STREAMS = [
    _Stream(14.0, StreetScene._houses),
    _Stream(10.0, StreetScene._borders),
    _Stream(12.0, StreetScene._street_trees),
    _Stream(8.0, StreetScene._posts),
    _Stream(11.0, StreetScene._walkers, (1.2, -1.1)),
    _Stream(10.0, StreetScene._guards),
    _Stream(6.4, StreetScene._parked_cars),
    _Stream(14.0, StreetScene._traffic, (SPEED, -7.0)),
    _Stream(17.0, StreetScene._riders, (4.0, -4.0)),
]
_BANDS = [(0,), (1,), (2, 3, 4), (5,), (6, 7, 8)]  # streams, from the outside of the street inward
