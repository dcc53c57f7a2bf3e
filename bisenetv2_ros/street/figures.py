"""Builds the figures of a synthetic street: houses, vehicles, people, posts and signs.

Each builder takes a random generator and returns faces: flat polygons in meters with a color and a
CamVid class, built at the origin. Knows nothing of the camera, the weather or a figure's position.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from bisenetv2_ros.street.parts import (
    BICYCLIST,
    BUILDING,
    CAR,
    PAINT,
    PEDESTRIAN,
    POLE,
    SHOP_COLOURS,
    SIGN,
    Colour,
    Face,
    Light,
    Point,
    disc,
    flat,
    limb,
    pick,
    plate,
    scaled,
)

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS = 8  # animation steps per walking or pedaling cycle

# fmt: off
_CLOTHES: list[Colour] = [
    (34, 36, 44), (60, 62, 70), (40, 52, 90), (120, 36, 40), (196, 190, 180), (90, 78, 62),
    (60, 90, 70), (150, 120, 90), (210, 90, 60), (80, 110, 160)]
_SKIN: list[Colour] = [(222, 178, 150), (196, 148, 116), (140, 98, 72), (92, 62, 46)]
_HAIR: list[Colour] = [(40, 30, 24), (90, 64, 38), (24, 22, 22), (150, 140, 130)]
_HELMETS: list[Colour] = [(220, 220, 220), (30, 30, 34), (180, 40, 40), (60, 46, 34)]
_POSTS: list[Colour] = [(96, 100, 102), (66, 70, 70), (130, 132, 130), (46, 60, 54)]
_WHITE: Colour = (244, 244, 240)
_RED: Colour = (205, 24, 30)
_INK: Colour = (24, 24, 24)

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
    paint = pick(rng, PAINT)
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
    bag_colour, stout, turn = pick(rng, SHOP_COLOURS), rng.uniform(.85, 1.2), rng.uniform(.25, 1)
    w, arm = .21 * stout, .25 * stout
    frames: list[list[Face]] = []
    for step in range(STEPS):
        swing = math.sin(step / STEPS * 2 * math.pi) * turn
        parts: list[tuple[np.ndarray, Colour]] = []
        for side in (-1, 1):
            hip, foot = side * .09 * stout, side * .1 + side * swing * .26
            knee = (hip + foot) / 2 + .03 * turn
            tone = .8 if side < 0 else 1.0
            parts += [(limb(hip, .92, knee, .48, .19 * stout, .14), scaled(trousers, tone)),
                      (limb(knee, .5, foot, .07, .14, .1), scaled(trousers, tone * .9)),
                      (limb(foot - .05, .04, foot + .13 * turn, .04, .09, .07), (28, 25, 24))]
        if skirt:
            parts.append((flat((-.16, .98), (.16, .98), (.25, .5), (-.25, .5)),
                          scaled(trousers, 1.1)))
        parts += [
            (limb(-w, 1.4, -arm - swing * .16, .86, .12, .09), scaled(coat, .72)),
            (flat((-w, 1.42), (-.08, 1.5), (.08, 1.5), (w, 1.42), (w * .92, .86), (-w * .92, .86)),
             coat),
            (flat((-w, 1.42), (-.06, 1.47), (-.04, .86), (-w * .92, .86)), scaled(coat, .8)),
            (limb(w, 1.4, arm + swing * .16, .86, .12, .09), scaled(coat, 1.1)),
            (disc(arm + swing * .17, .83, .05, .06, 8), skin),
            (plate(-.05, 1.46, .05, 1.56), scaled(skin, .8)),
            (disc(0, 1.64, .105, .135), hair)]
        if front:
            parts.append((disc(.01, 1.615, .085, .105), skin))
        if bag:
            parts.append((flat((.2, 1.0), (.42, 1.0), (.4, .68), (.2, .68)), bag_colour))
        frames.append([(points * size, colour, PEDESTRIAN) for points, colour in parts])
    return frames


def cyclist(rng: np.random.Generator, turn: float) -> list[list[Face]]:
    """Build a bicycle with its rider; turn is 1 seen from the side and near 0 from the end."""
    coat = pick(rng, [*_CLOTHES, (230, 230, 60), (240, 120, 40)])
    trousers, skin = pick(rng, _CLOTHES[:6]), pick(rng, _SKIN)
    metal, helmet = pick(rng, PAINT), pick(rng, _HELMETS)
    s, end_on = turn, 1 - turn
    lean, w = .24 * s, .13 + .09 * end_on
    tubes = (((-.52, .34), (-.12, .86)), ((-.12, .32), (-.15, .95)), ((-.12, .32), (.4, .86)),
             ((-.15, .84), (.4, .86)), ((.52, .34), (.36, 1.02)), ((-.52, .34), (-.12, .32)))
    bicycle: list[tuple[np.ndarray, Colour]] = []
    for hub in (-.52 * s, .52 * s):
        rx = max(.34 * s, .035)
        bicycle.append((disc(hub, .34, rx, .34, 16), (26, 26, 28)))
        if s > .35:  # spokes
            bicycle += [(disc(hub, .34, rx - .05, .29, 14), (118, 118, 116)),
                        (limb(hub - rx * .8, .34, hub + rx * .8, .34, .02, .02), (60, 60, 60)),
                        (limb(hub, .05, hub, .63, .02, .02), (60, 60, 60))]
    bicycle += [(limb(a[0] * s, a[1], b[0] * s, b[1], .05, .05), metal) for a, b in tubes]
    bicycle += [(limb(-.27 * s, .96, -.03 * s, .97, .08, .07), (24, 24, 24)),  # saddle
                (limb(.36 * s - .28 * end_on, 1.03, .4 * s + .28 * end_on, 1.03, .05, .05),
                 (30, 30, 32))]
    near_wheel: list[tuple[np.ndarray, Colour]] = [
        (disc(0, .35, .04, .36, 14), (24, 24, 26)), (disc(0, .35, .012, .3, 10), (120, 120, 118)),
        (flat((-.05, .7), (.05, .7), (.04, .8), (-.04, .8)), (190, 30, 28))]
    trunk_and_head: list[tuple[np.ndarray, Colour]] = [
        (flat((-.15 * s - w, .95), (-.15 * s + w, .92), (lean + w, 1.42), (lean, 1.52),
               (lean - w, 1.44)), coat),
        (flat((-.15 * s - w, .95), (-.15 * s - w * .3, .94), (lean - w * .4, 1.48),
               (lean - w, 1.44)), scaled(coat, .75))]
    trunk_and_head += [
        (limb(lean + side * w * .8, 1.4, .38 * s + side * .26 * end_on, 1.05, .1, .07),
         scaled(coat, .85 if side < 0 else 1.1)) for side in (-1, 1)]
    trunk_and_head += [(disc(lean + .1 * s, 1.66, .1, .13), skin),
                       (disc(lean + .09 * s, 1.7, .115, .12)[:7], helmet)]
    frames: list[list[Face]] = []
    for step in range(STEPS):
        phase = step / STEPS * 2 * math.pi
        legs: list[tuple[np.ndarray, Colour]] = []
        for side in (-1, 1):
            x = -.12 * s + .17 * s * math.cos(phase) * side + side * .15 * end_on
            y = .36 + .17 * math.sin(phase) * side
            knee = ((x - .13 * s) / 2 + .2 * s + side * .03, (y + .98) / 2 + .07)
            tone = .75 if side < 0 else 1.0
            legs += [(limb(-.13 * s + side * .09 * end_on, .98, *knee, .19, .15),
                      scaled(trousers, tone)),
                     (limb(*knee, x, y, .14, .09), scaled(trousers, tone * .9)),
                     (limb(x - .06, y, x + .1, y, .08, .06), (30, 28, 26))]
        parts = bicycle + legs + (near_wheel if s < .2 else []) + trunk_and_head
        frames.append([(points, colour, BICYCLIST) for points, colour in parts])
    return frames


# --- posts and signs ----------------------------------------------------------------------------

def _shaft(height: float, foot: float, top: float, colour: Colour) -> list[Face]:
    """Build a round post from a dark stroke and a lighter one on it."""
    return [(limb(0, 0, 0, height, foot, top), scaled(colour, .72), POLE),
            (limb(foot * .15, 0, top * .15, height, foot * .6, top * .6), scaled(colour, 1.1),
             POLE)]


def lamp_post(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a street lamp with an arm over the road; side is -1 (left) or 1 (right)."""
    grey, height = pick(rng, _POSTS), rng.uniform(5.5, 8.0)
    return [*_shaft(1.0, .24, .22, grey), *_shaft(height, .17, .11, grey),
            (limb(0, height, -side * 1.3, height + .3, .1, .08), grey, POLE),
            (flat((-side * 1.1, height + .25), (-side * 1.9, height + .38),
                   (-side * 1.9, height + .26), (-side * 1.1, height + .1)), (206, 204, 190), POLE)]


def traffic_light(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a signal head on a post, with one of three lamps lit."""
    grey, lit = pick(rng, _POSTS), int(rng.integers(3))
    lamps: list[Colour] = [(40, 235, 120), (250, 180, 50), (250, 50, 40)]
    return [*_shaft(2.3, .14, .12, grey), (plate(-.24, 2.15, .24, 3.3), (20, 20, 22), SIGN),
            (plate(-.2, 2.2, .2, 3.25), (38, 38, 42), SIGN),
            *((disc(0, 2.38 + .34 * i, .135, .135), lamp if i == lit else scaled(lamp, .22), SIGN)
              for i, lamp in enumerate(lamps))]


def road_sign(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a sign on a post: prohibition, warning, mandatory, or a direction board."""
    grey, height = pick(rng, _POSTS), rng.uniform(2.0, 2.6)
    post = _shaft(height + .3, .09, .08, grey)
    shape, r = int(rng.integers(5)), rng.uniform(.32, .46)
    y = height + r
    parts: list[tuple[np.ndarray, Colour]]
    if shape == 0:
        parts = [(disc(0, y, r, r, 20), _RED), (disc(0, y, r * .72, r * .72, 20), _WHITE),
                 (limb(-r * .3, y, r * .3, y, r * .5, r * .5), _INK)]
    elif shape == 1:
        parts = [(flat((-r * 1.1, height), (r * 1.1, height), (0, height + r * 1.9)), _RED),
                 (flat((-r * .72, height + r * .2), (r * .72, height + r * .2),
                        (0, height + r * 1.45)), _WHITE),
                 (limb(0, height + r * .35, 0, height + r * .95, r * .16, r * .22), _INK)]
    elif shape == 2:
        parts = [(disc(0, y, r, r, 20), _WHITE),
                 (disc(0, y, r * .92, r * .92, 20), (20, 74, 160)),
                 (limb(-r * .4, y - r * .4, r * .3, y + r * .3, r * .22, r * .22), _WHITE)]
    else:
        parts = _direction_board(rng, height)
    return post + [(points, colour, SIGN) for points, colour in parts]


def _direction_board(rng: np.random.Generator, height: float) -> list[tuple[np.ndarray, Colour]]:
    """Build a framed board with lines of imitated lettering."""
    board = pick(rng, [(22, 96, 62), (24, 70, 150), (236, 236, 230), (226, 184, 40)])
    ink = _INK if sum(board) > 380 else _WHITE
    w, h = rng.uniform(.45, 1.1), rng.uniform(.5, .9)
    lines = np.arange(height + .14, height + h - .1, .17)
    return [(plate(-w, height, w, height + h), ink),
            (plate(-w + .04, height + .04, w - .04, height + h - .04), board),
            *((plate(-w + .1, y, w * rng.uniform(0, .8), y + .08), ink) for y in lines)]


def bollard(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a knee-high post with a reflective band."""
    return [*_shaft(.95, .2, .17, pick(rng, _POSTS)),
            (limb(0, .74, 0, .84, .2, .2), (222, 222, 215), POLE)]


def telegraph_pole(rng: np.random.Generator, side: float) -> list[Face]:
    """Build a wooden pole with a crossbar."""
    return [*_shaft(rng.uniform(7, 9), .28, .2, (104, 84, 66)),
            (limb(-.7, 6.6, .7, 6.6, .12, .12), (84, 68, 54), POLE)]
