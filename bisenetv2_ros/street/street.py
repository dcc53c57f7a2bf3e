"""The layout, weather, textures and objects of a street, all derived from a seed.

Objects are generated from a hash of (seed, stream, slot along the road), so the street has no end.
Knows nothing of the camera or of drawing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from bisenetv2_ros.street import figures, textures
from bisenetv2_ros.street.parts import (
    BUILDING,
    FENCE,
    TREE,
    WALL_PX,
    Colour,
    Sprite,
    Thing,
    Wall,
    pick,
    pyramid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEED = 8.0  # m/s, of the camera
_FAR = 110.0  # m, how far objects are seen
_BEHIND = 16.0  # m, slots this far behind the camera still count; longer than any object


@dataclass(frozen=True)
class _Weather:
    share: float  # fraction of the seeds
    contrast: float  # between walls in the sun and in the shade
    reach: float  # m of shadow per m of height
    fog: float  # m, depth at which the color is 63 % fog
    zenith: Colour
    horizon: Colour
    gain: float = 1.0
    grain: float = 1.0


_WEATHERS = [
    _Weather(0.45, 0.35, 0.7, 600, (84, 132, 200), (196, 214, 232)),  # sunny
    _Weather(0.33, 0.08, 0.05, 350, (172, 178, 186), (224, 226, 228), gain=0.92),  # overcast
    _Weather(0.12, 0.1, 0.05, 100, (190, 196, 202), (220, 222, 222), gain=0.98),  # hazy
    _Weather(0.10, 0.12, 0.05, 250, (60, 74, 112), (226, 176, 136), gain=0.6, grain=1.6),  # dusk
]


_FOLIAGE: list[list[Colour]] = [  # by season: summer, autumn, winter
    [(74, 104, 46), (92, 116, 52), (60, 88, 48)],
    [(150, 112, 44), (128, 104, 48), (92, 98, 46)],
    [(62, 82, 44), (56, 70, 44), (74, 84, 50)],
]


class Street:
    """An endless street; `StreetScene` draws it.

    Consumes `rng` for the layout, the weather and the textures, in this order.
    """

    def __init__(self, seed: int, rng: np.random.Generator) -> None:
        self.seed = seed
        self._lay_out(rng)
        self._set_weather(rng)
        self._paint_textures(rng)
        # A view needs about 250 slots; the cache drops those that were passed.
        self._slot = lru_cache(maxsize=600)(self._build_slot)

    def _lay_out(self, rng: np.random.Generator) -> None:
        """Choose the street's cross-section and the density of objects; pairs are (left, right)."""
        self._mirrored = bool(rng.random() < 0.5)  # drive on the right instead of on the left
        self._road = float(rng.uniform(4.6, 6.0))  # m, half the carriageway
        self._at = -self._road * 0.32  # m, the middle of the left lane, where the camera drives
        self._edge = self._road + float(rng.uniform(2.4, 3.8))  # m, outer edge of the pavement
        self._line = self._edge + float(rng.uniform(0.1, 1.2))  # m, house fronts
        self._bend = float(rng.normal(0, 0.0004))  # 1/m, sideways shift of the road per z squared
        self._built = rng.uniform(0.35, 0.95, 2)  # fraction of slots that hold one
        self._parked = np.maximum(rng.uniform(-0.2, 0.8, 2), 0.0)
        self._treed = rng.uniform(0.15, 0.7, 2)
        self._fenced = rng.uniform(0.25, 0.8, 2)
        self._crowd = float(rng.uniform(0.35, 0.8))

    def _set_weather(self, rng: np.random.Generator) -> None:
        weather = _WEATHERS[int(rng.choice(len(_WEATHERS), p=[w.share for w in _WEATHERS]))]
        self._sun_side = float(rng.choice([-1.0, 1.0]))
        left = 1 - weather.contrast * self._sun_side
        self._light = (left, 2 - left, float(rng.uniform(0.8, 1.05)))
        self._sunny = weather.reach > 0.1
        self._shadow = float(rng.uniform(0.35, 0.5)) if self._sunny else 0.23
        self._shadow_reach = weather.reach * float(rng.uniform(0.4, 1.6))  # m for each m of height
        self._fog_range = weather.fog * float(rng.uniform(0.7, 1.3))  # m
        self._zenith = np.array(weather.zenith) * rng.uniform(0.85, 1.15)
        self._low = np.clip(np.array(weather.horizon) * rng.uniform(0.92, 1.12), 0, 255)
        self._cloud = float(rng.uniform(0, 0.9))
        self._gain = weather.gain * float(rng.uniform(0.8, 1.2))
        self._gamma = float(rng.uniform(0.85, 1.2))
        self._cast = rng.uniform(0.94, 1.06, 3)
        self._grain = weather.grain * float(rng.uniform(1.0, 5.0))  # gray levels
        self._blur = float(rng.uniform(0.35, 0.85))  # pixels at a width of 640

    def _paint_textures(self, rng: np.random.Generator) -> None:
        season = int(rng.choice(3, p=[0.6, 0.15, 0.25]))
        greens = _FOLIAGE[season]
        self._facades = [pyramid(textures.facade(rng)) for _ in range(7)]
        self._hedges = [pyramid(textures.hedge(rng, pick(rng, greens))) for _ in range(2)]
        self._boards = pyramid(textures.board_fence(rng))
        self._railings = pyramid(textures.railings(rng, [(30, 32, 34), (36, 58, 46)], 4))
        self._guard_rail = pyramid(textures.railings(rng, [(168, 172, 174)], 5))
        leafy = [textures.crown(rng, pick(rng, greens)) for _ in range(4)]
        winter = season == 2
        self._crowns = [leafy[0], *(textures.bare_tree(rng) for _ in range(3))] if winter else leafy

    def _rng(self, *key: int) -> np.random.Generator:
        # Seed sequences reject negative numbers, which slots behind the start have.
        return np.random.default_rng([self.seed, *(k & 0xFFFFFFFF for k in key)])

    def _build_slot(self, stream: int, right: int, index: int) -> list[Wall | Thing]:
        rng = self._rng(10 + stream, right, index)
        kind = _STREAMS[stream]
        return kind.build(self, rng, 1.0 if right else -1.0, index * kind.slot)

    def _visible(self, band: tuple[int, ...], t: float) -> Iterator[tuple[float, Wall | Thing]]:
        """Yield a band's objects near the camera, each with its distance in z from it in meters."""
        for stream in band:
            slot = _STREAMS[stream].slot
            for right, speed in enumerate(_STREAMS[stream].speed):
                ahead = (SPEED - speed) * t  # how far the camera has come along this stream
                last = math.floor((ahead + _FAR) / slot)
                for index in range(math.floor((ahead - _BEHIND) / slot), last + 1):
                    for what in self._slot(stream, right, index):
                        yield what.z - ahead, what

    def _houses(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        """Build a house, or a garden with a hedge."""
        right = int(side > 0)
        if rng.random() < self._built[right]:
            levels = self._facades[int(rng.integers(len(self._facades)))]
            x, length = side * (self._line + rng.uniform(0, 0.8)), 14.0 - rng.uniform(0, 1)
            height = levels[0].shape[0] / WALL_PX * rng.uniform(0.9, 1.15)
            r, g, b = levels[0][20:60, :4, :3].reshape(-1, 3).mean(axis=0).tolist()
            roof = pick(rng, [(92, 62, 54), (74, 76, 82), (110, 84, 66)])
            pitch = rng.uniform(1.5, 3.2) if rng.random() < 0.7 else 0.0
            shell = figures.house_shell(length, height, pitch, side, (r, g, b), roof, self._light)
            light = self._light[1 - right] * rng.uniform(0.9, 1.1)
            return [Thing(x, z, [shell]), Wall(x, z, length, height, levels, BUILDING, light)]
        garden: list[Wall | Thing] = []
        for _ in range(3):
            x = side * (self._line + rng.uniform(3.0, 7.5))
            garden.append(self._tree(rng, x, z + rng.uniform(0, 14), rng.uniform(0.9, 1.5)))
        hedge = self._hedge(rng, side * (self._line + 1.5), z, 14.0, rng.uniform(1.4, 2.8))
        return [*garden, hedge]

    def _tree(self, rng: np.random.Generator, x: float, z: float, size: float = 1.0) -> Thing:
        crown = self._crowns[int(rng.integers(len(self._crowns)))]
        width = crown.width * size * rng.uniform(0.85, 1.15) * rng.choice([-1, 1])
        height = crown.height * size * rng.uniform(0.9, 1.15)
        sprite = Sprite(crown.levels, width, height, crown.base * size, crown.drawn, TREE)
        bark = pick(rng, [(92, 76, 60), (74, 64, 54), (110, 100, 88)])
        # A bare tree's image has its own trunk.
        trunk = textures.trunk(size, sprite.base + sprite.height * 0.3, bark) if crown.base else []
        return Thing(x, z, [trunk], (crown.width * 0.3, 2.5, 4.0), sprite)

    def _hedge(
        self, rng: np.random.Generator, x: float, z: float, length: float, height: float
    ) -> Wall:
        light = self._light[int(x < 0)]
        return Wall(x, z, length, height, self._hedges[int(rng.integers(2))], TREE, light)

    def _borders(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        """Build the border between pavement and gardens: a fence, a hedge or nothing."""
        right = int(side > 0)
        if rng.random() < self._fenced[right]:
            levels, height = [(self._boards, 1.75), (self._railings, 1.15)][int(rng.integers(2))]
            return [Wall(side * self._edge, z, 10.0, height, levels, FENCE, self._light[1 - right])]
        if rng.random() < 0.4:
            return [self._hedge(rng, side * self._edge, z, 10.0, rng.uniform(0.9, 1.6))]
        return []

    def _guards(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        """Build railings along the kerb."""
        if rng.random() > 0.3 * self._fenced[int(side > 0)]:
            return []
        levels = self._guard_rail if rng.random() < 0.6 else self._railings
        return [Wall(side * (self._road + 0.25), z, 10.0, 1.15, levels, FENCE, 1.0)]

    def _street_trees(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > self._treed[int(side > 0)]:
            return []
        return [self._tree(rng, side * (self._road + rng.uniform(0.7, 1.2)), z + rng.uniform(0, 6))]

    def _posts(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() < 0.25:
            return []
        build = _POSTS[int(rng.choice(len(_POSTS), p=[0.27, 0.17, 0.34, 0.14, 0.08]))]
        x = side * (self._road + rng.uniform(0.35, 0.8))
        return [Thing(x, z + rng.uniform(0, 7), [build(rng, side)], (0.08, 0.2, 4.0))]

    def _walkers(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        out: list[Wall | Thing] = []
        while rng.random() < self._crowd and len(out) < 3:
            x = side * rng.uniform(self._road + 0.9, self._edge - 0.4)
            at, gait = z + rng.uniform(0, 8), figures.walker(rng)
            out.append(Thing(x, at, gait, (0.25, 0.3, 1.7), pace=rng.uniform(6, 9)))
        return out

    def _parked_cars(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > self._parked[int(side > 0)]:
            return []
        x = side * (self._road - 1.1 + rng.uniform(-0.1, 0.1))
        return [self._vehicle(rng, x, z + rng.uniform(0, 1.2), oncoming=side > 0)]

    def _traffic(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        # The left lane is the camera's own; the car ahead keeps its distance.
        if rng.random() > 0.6 or (side < 0 and z < 10):
            return []
        x = side * self._road * 0.32
        return [self._vehicle(rng, x, z + rng.uniform(0, 3), oncoming=side > 0)]

    def _vehicle(self, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> Thing:
        faces = figures.vehicle(rng, x - self._at, oncoming, self._light)
        half, height, length = np.abs(np.concatenate([f[0] for f in faces])).max(axis=0).tolist()
        return Thing(x, z, [faces], (half, length, height))

    def _riders(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > 0.55:
            return []
        room = 2.5 if self._parked[int(side > 0)] > 0 else 0.7  # m from the kerb
        frames = figures.cyclist(
            rng, float(rng.choice([0.1, 0.3, 0.55, 0.95], p=[0.35, 0.25, 0.22, 0.18]))
        )
        way = rng.choice([-1, 1])
        frames = [
            [(points * (way, 1, 1), colour, label) for points, colour, label in frame]
            for frame in frames
        ]
        x, at = side * (self._road - room), z + rng.uniform(0, 8)
        return [Thing(x, at, frames, (0.3, 1.2, 1.7), pace=8.0)]


@dataclass(frozen=True)
class _Stream:
    """One kind of object along both sides of the street."""

    slot: float  # m of road per hash
    build: Callable[[Street, np.random.Generator, float, float], list[Wall | Thing]]
    speed: tuple[float, float] = (0.0, 0.0)  # m/s along the road, on the left and right side


_POSTS = [
    figures.lamp_post,
    figures.traffic_light,
    figures.road_sign,
    figures.bollard,
    figures.telegraph_pole,
]
_STREAMS = [
    _Stream(14.0, Street._houses),
    _Stream(10.0, Street._borders),
    _Stream(12.0, Street._street_trees),
    _Stream(8.0, Street._posts),
    _Stream(11.0, Street._walkers, (1.2, -1.1)),
    _Stream(10.0, Street._guards),
    _Stream(6.4, Street._parked_cars),
    _Stream(14.0, Street._traffic, (SPEED, -7.0)),
    _Stream(17.0, Street._riders, (4.0, -4.0)),
]
BANDS = [(0,), (1,), (2, 3, 4), (5,), (6,), (7, 8)]  # streams, from the outside inward
