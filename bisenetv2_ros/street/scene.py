"""Renders a synthetic street, seen from a driving car, with its exact label mask.

`StreetScene(seed, size).render(t)` draws the view of a dashboard camera after `t` seconds, and the
CamVid class (one of 11) of every pixel. Image and mask are drawn by the same calls with the same
polygons, so the mask has no annotation error.

Coordinates are in meters in a road-fixed frame (x to the right, y up, z along the road). Objects
are generated from a hash of (seed, stream, slot along the road), so the street has no end and any
`t` can be rendered without the frames before it. Objects are painted in bands from the outside of
the street to its middle, and within a band from far to near. Viewing rays only move outward, so
nearer objects always cover farther ones.

Uses only numpy and OpenCV; knows nothing of ROS, files or networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bisenetv2_ros.street import parts
from bisenetv2_ros.street.parts import (
    BUILDING,
    FENCE,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Colour,
    Sprite,
    Thing,
    Wall,
    noise,
    pick,
    pyramid,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEED = 8.0  # m/s, of the camera
_FAR = 110.0  # m, far plane
_BEHIND = 16.0  # m, slots this far behind the camera still count; longer than any object
_NEAR = 0.6  # m, near plane
_SHIFT = 4  # sub-pixel bits handed to OpenCV's polygon filler
_LIMIT = 2.4e5  # maximum fixed-point coordinate; OpenCV's arithmetic overflows above it
_GROUND_X, _GROUND_Z = 24, 16  # ground texture pixels per meter, across and along the road
_GROUND_HALF, _GROUND_PERIOD = 16.0, 64.0  # m, half width and length of the repeating ground


class StreetScene:
    """An endless street.

    Args:
        seed: any non-negative integer; determines layout, colors, light, weather and sensor noise.
            The default is a sunny street that shows every class at once.
        size: (width, height) of the images in pixels, each at least 32.

    Raises:
        ValueError: if the size is too small or the seed is negative.
    """

    def __init__(self, seed: int = 1, size: tuple[int, int] = (960, 720)) -> None:
        if min(size) < 32:
            raise ValueError(f"size: received {size[0]}x{size[1]}, expected at least 32x32 pixels")
        if seed < 0:
            raise ValueError(f"seed: received {seed}, expected a non-negative integer")
        self.seed, self.size = seed, size
        rng = np.random.default_rng([seed, 0])
        self._lay_out(rng)
        self._set_weather(rng)
        self._paint_textures(rng)
        self._fix_camera(rng)
        self._paint_background(rng)
        self._fix_ground()
        self._prepare_sensor(rng)
        # A view needs about 250 slots; the cache drops those that were passed.
        self._slot = lru_cache(maxsize=600)(self._build_slot)

    def render(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Render the view after t seconds of driving at 8 m/s.

        Returns:
            rgb: (H, W, 3) uint8.
            label: (H, W) uint8, the CamVid class of each pixel, 0..10.

        Deterministic: the same (seed, size, t) gives the same arrays.
        """
        rgb, label = self._background.copy(), self._background_label.copy()
        self._draw_ground(rgb, t)
        bands = [sorted(self._visible(band, t), key=_far_first) for band in _BANDS]
        self._draw_shadows(rgb, [(z, w) for band in bands for z, w in band if isinstance(w, Thing)])
        for band in bands:
            for z, what in band:
                if isinstance(what, Wall):
                    self._draw_wall(rgb, label, what, z)
                else:
                    self._draw_thing(rgb, label, what, z, t)
        rgb = self._develop(rgb, t)
        if self._mirrored:
            return np.asarray(cv2.flip(rgb, 1)), np.asarray(cv2.flip(label, 1))
        return rgb, label

    # --- what the seed chooses ------------------------------------------------------------------

    def _lay_out(self, rng: np.random.Generator) -> None:
        """Choose the street's cross-section and the density of objects; pairs are (left, right)."""
        self._mirrored = bool(rng.random() < 0.5)  # drive on the right instead of on the left
        self._road = float(rng.uniform(4.6, 6.0))  # m, half the carriageway
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
        self._facades = [pyramid(parts.facade(rng)) for _ in range(7)]
        self._hedges = [pyramid(parts.hedge(rng, pick(rng, greens))) for _ in range(2)]
        self._boards = pyramid(parts.board_fence(rng))
        self._railings = pyramid(parts.railings(rng, [(30, 32, 34), (36, 58, 46)], 4))
        self._guard_rail = pyramid(parts.railings(rng, [(168, 172, 174)], 5))
        leafy = [parts.crown(rng, pick(rng, greens)) for _ in range(4)]
        winter = season == 2
        self._crowns = [leafy[0], *(parts.bare_tree(rng) for _ in range(3))] if winter else leafy
        self._ground = self._paint_ground(rng)

    def _fix_camera(self, rng: np.random.Generator) -> None:
        width, height = self.size
        self._focal = width * float(rng.uniform(0.8, 1.05))  # pixels
        self._cx, self._cy = width / 2, height * float(rng.uniform(0.42, 0.52))
        self._centre = np.array((self._cx, self._cy)) * (1 << _SHIFT)
        self._eye = float(rng.uniform(1.25, 1.7))  # m above the road
        self._at = -self._road * 0.32  # m, the middle of the left lane
        self._horizon = math.ceil(self._cy)  # the first row that shows ground

    def _prepare_sensor(self, rng: np.random.Generator) -> None:
        """Precompute vignette, exposure curve and noise for all frames."""
        width, height = self.size
        ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
        radius = ((xs - width / 2) / width) ** 2 + ((ys - height / 2) / height) ** 2
        vignette = (255 * (1 - rng.uniform(0, 0.5) * radius)).astype(np.uint8)
        self._vignette = np.repeat(vignette[..., None], 3, 2)
        curve = (np.arange(256) / 255 * self._gain)[:, None] ** self._gamma * self._cast
        self._curve = np.clip(curve * 255, 0, 255).astype(np.uint8)[None]
        scale = max(1.0, width / 480)  # demosaicing spreads noise over neighbors
        grain = rng.standard_normal((round(height / scale) + 33, round(width / scale) + 33, 3))
        self._noise = cv2.resize(
            (grain * self._grain).astype(np.float32), (width + 32, height + 32)
        ).astype(np.int16)

    # --- backdrop and ground --------------------------------------------------------------------

    def _paint_background(self, rng: np.random.Generator) -> None:
        """Paint sky and skyline, which never change because the camera does not turn."""
        width, height = self.size
        rows = self._horizon
        up = np.linspace(0, 1, rows)[:, None, None]
        cloud = sum(
            noise(rng, (rows, width), width * cell) * strength
            for cell, strength in ((0.3, 1.0), (0.12, 0.6), (0.04, 0.3))
        )
        cover = np.clip((cloud + 2.2 * self._cloud - 1.2) * 0.5, 0, 0.9)[..., None]
        tone = np.clip(235 - 14 * cloud, 150, 252)[..., None] * self._low.mean() / 220
        sky = (self._zenith * (1 - up) + self._low * up) * (1 - cover) + tone * cover
        self._background = np.zeros((height, width, 3), np.uint8)
        self._background[:rows] = np.clip(sky, 0, 255)
        self._background_label = np.full((height, width), SKY, np.uint8)
        x = 0.0
        while x < width:
            wide, tall = rng.uniform(0.03, 0.09) * width, rng.uniform(0.015, 0.05) * height
            self._paint_skyline(rng, x, wide, tall)
            x += wide * rng.uniform(0.6, 1.0)

    def _paint_skyline(self, rng: np.random.Generator, x: float, wide: float, tall: float) -> None:
        """Paint far blocks and clumps of trees behind the end of the street, in pixels."""
        leafy = rng.random() < 0.55
        colours = [(76, 92, 60)] if leafy else parts.WALL_COLOURS
        colour = self._hazy(np.array(pick(rng, colours)), 170)
        if not leafy:
            box = np.array(
                [
                    (x, self._cy + 2),
                    (x, self._cy - tall),
                    (x + wide, self._cy - tall),
                    (x + wide, self._cy + 2),
                ],
                np.int32,
            )
            cv2.fillPoly(self._background, [box], colour.tolist())
            cv2.fillPoly(self._background_label, [box], (BUILDING,))
            return
        for k in np.linspace(0, 1, 9):
            centre = (int(x + k * wide), int(self._cy - tall * 0.4))
            radius = max(2, int(tall * rng.uniform(0.5, 0.9)))
            tint = (colour * rng.uniform(0.85, 1.1)).tolist()
            cv2.circle(self._background, centre, radius, tint, -1)
            cv2.circle(self._background_label, centre, radius, (TREE,), -1)

    def _paint_ground(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Paint the ground from above, and two smoothed copies for larger distances."""
        height, width = int(_GROUND_PERIOD * _GROUND_Z), int(2 * _GROUND_HALF * _GROUND_X)
        shape = (height, width)
        across = ((np.arange(width) + 0.5) / _GROUND_X - _GROUND_HALF).astype(np.float32)
        off = np.abs(across)
        fine, coarse = rng.standard_normal(shape, np.float32), noise(rng, shape, 40)
        asphalt = np.array(pick(rng, [(92, 92, 94), (74, 75, 78), (108, 105, 102)]), np.float32)
        tracks = 0.05 * np.cos(2 * math.pi * off / 1.7)  # of many tyres
        image = asphalt * (1 + 0.05 * (fine + coarse) + tracks)[..., None]
        for _ in range(10):  # mended patches
            x, z = rng.uniform(-self._road, self._road), rng.uniform(0, 60)
            columns = _columns(x, min(x + rng.uniform(0.5, 2.0), self._road))
            image[_rows(z, z + rng.uniform(0.6, 4)), columns] *= rng.uniform(0.75, 1.15)
        self._paint_markings(rng, image)

        slab = np.array(
            pick(rng, [(158, 152, 144), (140, 138, 134), (172, 160, 146), (150, 134, 122)]),
            np.float32,
        )
        tile = rng.uniform(0.92, 1.08, (height // 12 + 1, width // 16 + 1)).astype(np.float32)
        paving = tile.repeat(12, 0).repeat(16, 1)[:height, :width] + 0.05 * (fine + coarse)
        paving[::12] *= 0.78  # joints
        paving[:, ::16] *= 0.8
        paving[:, off < self._road + 0.2] = 1.12  # kerb
        grass = np.array(pick(rng, [(96, 112, 58), (82, 100, 54), (112, 112, 66)]), np.float32)
        growth = 1 + 0.2 * fine + 0.12 * noise(rng, shape, 4)
        beyond = _GROUND_HALF
        for part in _columns(-beyond, -self._road), _columns(self._road, beyond):
            image[:, part] = slab * paving[:, part, None]
        for part in _columns(-beyond, -self._edge), _columns(self._edge, beyond):
            image[:, part] = grass * growth[:, part, None]
        image[:, np.abs(off - self._road + 0.08) < 0.07] *= 0.6  # gutter
        if self._sunny:  # the shadows of the houses and trees on the sun's side
            reach = self._edge - rng.uniform(0, self._edge)
            turn = np.linspace(0, 2 * math.pi, height)[:, None]
            skyline = 1.2 * np.sign(np.sin(turn * 5 + 1)) + 1.5 * np.sign(np.sin(turn * 2))
            dapple = noise(rng, shape, 26) + 0.5 * noise(rng, shape, 7) > 1.6
            shade = (across * self._sun_side > reach + skyline) | dapple
            image *= 1 - self._shadow * cv2.blur(shade.astype(np.float32), (9, 9))[..., None]
        texture = np.clip(image, 0, 255).astype(np.uint8)
        smooth = [np.asarray(cv2.blur(texture, window)) for window in ((5, 17), (11, 101))]
        return [texture, *smooth]

    def _paint_markings(self, rng: np.random.Generator, image: np.ndarray) -> None:
        wear = np.clip(0.9 + 0.2 * noise(rng, image.shape[:2], 5), 0.35, 1)[..., None]
        paint = float(rng.uniform(170, 225))
        white: Colour = (paint, paint, paint * 0.97)

        def stripe(centre: float, width: float, z0: float, z1: float, colour: Colour) -> None:
            part = (_rows(z0, z1), _columns(centre - width / 2, centre + width / 2))
            image[part] += (np.array(colour) - image[part]) * wear[part]

        dash = int(rng.choice([4, 6, 8]))
        for start in range(0, int(_GROUND_PERIOD), dash):
            stripe(0, 0.14, start, start + dash / 2, white)
        edging = int(rng.integers(3))  # none, a white line, double yellow lines
        for side in (-1, 1):
            if edging == 1:
                stripe(side * (self._road - 0.35), 0.12, 0, _GROUND_PERIOD, white)
            elif edging == 2:
                for offset in (0.25, 0.5):
                    stripe(side * (self._road - offset), 0.1, 0, _GROUND_PERIOD, (200, 168, 60))
        if rng.random() < 0.6:  # zebra crossing
            for x in np.arange(-self._road + 0.5, self._road - 0.4, 1.0):
                stripe(x + 0.25, 0.5, 20, 23, white)
        if rng.random() < 0.5:  # a stop line of the own lane
            stripe(-self._road / 2, self._road - 0.6, 26, 26.4, white)

    def _fix_ground(self) -> None:
        """Map each pixel to a point of the ground; driving only shifts these points along z."""
        width, height = self.size
        top = self._horizon
        rows = np.arange(top, height) + 0.5 - self._cy
        z = np.minimum(self._focal * self._eye / np.maximum(rows, 1e-3), 400)[:, None]
        across = (np.arange(width) + 0.5 - self._cx) * z / self._focal
        across += self._at - self._bend * z * z
        inside = np.clip(across, 0.1 - _GROUND_HALF, _GROUND_HALF - 0.1)
        self._ground_u = ((inside + _GROUND_HALF) * _GROUND_X).astype(np.float32)
        self._ground_z = np.broadcast_to(z, across.shape).astype(np.float32)
        off = np.abs(across)
        # CamVid counts grass and shrubs as tree.
        self._background_label[top:] = np.where(
            off < self._road, ROAD, np.where(off < self._edge, PAVEMENT, TREE)
        )
        # Rows above which the smoother textures are used, so that the far ground does not flicker.
        far, middle = (int(np.searchsorted(-z[:, 0], -limit)) for limit in (45.0, 14.0))
        self._ground_bands = [(0, far), (far, middle), (middle, height - top)]
        self._ground_fog = self._fog(z)[..., None].astype(np.float32)

    # --- what stands along the street -----------------------------------------------------------

    def _rng(self, *key: int) -> np.random.Generator:
        # Seed sequences reject negative numbers, which slots behind the start have.
        return np.random.default_rng([self.seed, *(k & 0xFFFFFFFF for k in key)])

    def _build_slot(self, stream: int, right: int, index: int) -> list[Wall | Thing]:
        rng = self._rng(10 + stream, right, index)
        return _STREAMS[stream].build(
            self, rng, 1.0 if right else -1.0, index * _STREAMS[stream].slot
        )

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
            height = levels[0].shape[0] / parts.WALL_PX * rng.uniform(0.9, 1.15)
            r, g, b = levels[0][20:60, :4, :3].reshape(-1, 3).mean(axis=0).tolist()
            roof = pick(rng, [(92, 62, 54), (74, 76, 82), (110, 84, 66)])
            pitch = rng.uniform(1.5, 3.2) if rng.random() < 0.7 else 0.0
            shell = parts.house_shell(length, height, pitch, side, (r, g, b), roof, self._light)
            light = self._light[1 - right] * rng.uniform(0.9, 1.1)
            return [Thing(x, z, [shell]), Wall(x, z, length, height, levels, BUILDING, light)]
        return [
            *(
                self._tree(
                    rng,
                    side * (self._line + rng.uniform(3.0, 7.5)),
                    z + rng.uniform(0, 14),
                    rng.uniform(0.9, 1.5),
                )
                for _ in range(3)
            ),
            self._hedge(rng, side * (self._line + 1.5), z, 14.0, rng.uniform(1.4, 2.8)),
        ]

    def _tree(self, rng: np.random.Generator, x: float, z: float, size: float = 1.0) -> Thing:
        crown = self._crowns[int(rng.integers(len(self._crowns)))]
        width = crown.width * size * rng.uniform(0.85, 1.15) * rng.choice([-1, 1])
        sprite = Sprite(
            crown.levels,
            width,
            crown.height * size * rng.uniform(0.9, 1.15),
            crown.base * size,
            crown.drawn,
            TREE,
        )
        bark = pick(rng, [(92, 76, 60), (74, 64, 54), (110, 100, 88)])
        # A bare tree's image has its own trunk.
        trunk = parts.trunk(size, sprite.base + sprite.height * 0.3, bark) if crown.base else []
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
            out.append(
                Thing(
                    x,
                    z + rng.uniform(0, 8),
                    parts.walker(rng),
                    (0.25, 0.3, 1.7),
                    pace=rng.uniform(6, 9),
                )
            )
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
        faces = parts.vehicle(rng, x - self._at, oncoming, self._light)
        half, height, length = np.abs(np.concatenate([f[0] for f in faces])).max(axis=0).tolist()
        return Thing(x, z, [faces], (half, length, height))

    def _riders(self, rng: np.random.Generator, side: float, z: float) -> list[Wall | Thing]:
        if rng.random() > 0.55:
            return []
        room = 2.5 if self._parked[int(side > 0)] > 0 else 0.7  # m from the kerb
        frames = parts.cyclist(
            rng, float(rng.choice([0.1, 0.3, 0.55, 0.95], p=[0.35, 0.25, 0.22, 0.18]))
        )
        way = rng.choice([-1, 1])
        frames = [
            [(points * (way, 1, 1), colour, label) for points, colour, label in frame]
            for frame in frames
        ]
        return [
            Thing(
                side * (self._road - room), z + rng.uniform(0, 8), frames, (0.3, 1.2, 1.7), pace=8.0
            )
        ]

    # --- drawing --------------------------------------------------------------------------------

    def _fog(self, z: np.ndarray | float) -> np.ndarray:
        """Return the fraction of fog in the color, 0..1, at a depth in meters."""
        return 1 - np.exp(-np.asarray(z) / self._fog_range)

    def _hazy(self, colours: np.ndarray, z: float) -> np.ndarray:
        fog = self._fog(z)
        return np.clip(colours * (1 - fog) + self._low * fog, 0, 255)

    def _project(self, points: np.ndarray, x: float, z: float) -> np.ndarray:
        """Project (n, 3) meters relative to (x, 0, z) to (n, 2) pixels, int32 fixed point."""
        depth = np.maximum(points[:, 2] + z, _NEAR)
        scale = (self._focal * (1 << _SHIFT)) / depth
        out = np.empty((len(points), 2))
        out[:, 0] = (points[:, 0] + (x - self._at) + self._bend * depth * depth) * scale
        out[:, 1] = (self._eye - points[:, 1]) * scale
        out += self._centre
        np.maximum(out, -_LIMIT, out=out)
        np.minimum(out, _LIMIT, out=out)
        return out.astype(np.int32)

    def _draw_thing(
        self, rgb: np.ndarray, label: np.ndarray, thing: Thing, z: float, t: float
    ) -> None:
        step = int(t * thing.pace) % len(thing.frames)
        if thing.frames[step] and z + thing.depth > _NEAR:
            pixels = self._project(thing.points[step], thing.x, z)
            colours = self._hazy(thing.colours[step], z).tolist()
            # Skip details smaller than two pixels, which would flicker.
            seen = (thing.extents[step] * self._focal > 2 * max(z, _NEAR)).tolist()
            start = 0
            for (shape, _, kind), colour, show in zip(
                thing.frames[step], colours, seen, strict=True
            ):
                end = start + len(shape)
                if show:
                    polygon = [pixels[start:end]]
                    cv2.fillPoly(rgb, polygon, colour, cv2.LINE_8, _SHIFT)
                    cv2.fillPoly(label, polygon, (kind,), cv2.LINE_8, _SHIFT)
                start = end
        if thing.sprite is not None and z > _NEAR:
            self._draw_sprite(rgb, label, thing.sprite, thing.x, z)

    def _draw_sprite(
        self, rgb: np.ndarray, label: np.ndarray, sprite: Sprite, x: float, z: float
    ) -> None:
        scale = self._focal / z
        wide, tall = abs(sprite.width) * scale, sprite.height * scale
        left = self._cx + (x + self._bend * z * z - self._at) * scale - wide / 2
        top = self._cy + (self._eye - sprite.base) * scale - tall
        area = self._area((left, top), (left + wide, top + tall))
        if area is None:
            return
        rows, columns = area
        level = _level(sprite.levels, tall)
        kx, ky = level.shape[1] / wide, level.shape[0] / tall
        matrix = np.array([[kx, 0, (columns.start - left) * kx], [0, ky, (rows.start - top) * ky]])
        if sprite.width < 0:
            matrix[0] = (-kx, 0, level.shape[1] - 1 - matrix[0, 2])
        size = (columns.stop - columns.start, rows.stop - rows.start)
        patch = cv2.warpAffine(level, matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        self._stamp(rgb[area], label[area], np.asarray(patch), z, 1.0, sprite.drawn, sprite.label)

    def _draw_wall(self, rgb: np.ndarray, label: np.ndarray, wall: Wall, z: float) -> None:
        # Start where the wall enters the image, to not warp its hidden parts.
        enters = 0.95 * abs(wall.x - self._at) * self._focal / (self.size[0] / 2)
        start, end = max(z, _NEAR, enters), z + wall.length
        if start >= end - 0.05:
            return
        top = wall.height
        corners = np.array([(0, 0, start), (0, top, start), (0, top, end), (0, 0, end)])
        outline = self._project(corners, wall.x, 0.0)
        screen = outline.astype(np.float32) / (1 << _SHIFT)
        area = self._area(screen.min(axis=0), screen.max(axis=0) + 1)
        if area is None:
            return
        rows, columns = area
        tall, wide = float(np.ptp(screen[:2, 1])), float(np.ptp(screen[:, 0]))
        level = _level(wall.levels, min(tall, 2.5 * wide))
        height, width = level.shape[:2]
        first = (start - z) / wall.length * width
        source = np.array([(first, height), (first, 0), (width, 0), (width, height)], np.float32)
        origin = np.array((columns.start, rows.start), np.int32)
        matrix = cv2.getPerspectiveTransform(source, screen - origin.astype(np.float32))
        patch = np.asarray(
            cv2.warpPerspective(
                level,
                matrix,
                (columns.stop - columns.start, rows.stop - rows.start),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            )
        )
        inside = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(inside, [outline - origin * (1 << _SHIFT)], (255,), cv2.LINE_8, _SHIFT)
        patch[..., 3] = cv2.min(patch[..., 3], inside)
        self._stamp(
            rgb[area],
            label[area],
            patch,
            (start + end) / 2,
            wall.light,
            170 if wall.label == FENCE else 127,
            wall.label,
        )

    def _area(
        self, low: tuple[float, float] | np.ndarray, high: tuple[float, float] | np.ndarray
    ) -> tuple[slice, slice] | None:
        """Return the image's (rows, columns) between two corners (x, y), None if outside it."""
        x0, y0 = max(0, math.floor(low[0])), max(0, math.floor(low[1]))
        x1, y1 = min(self.size[0], math.ceil(high[0])), min(self.size[1], math.ceil(high[1]))
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def _stamp(
        self,
        rgb: np.ndarray,
        label: np.ndarray,
        patch: np.ndarray,
        z: float,
        light: float,
        drawn: int,
        kind: int,
    ) -> None:
        """Paint an RGBA patch; `Sprite.drawn` explains the alpha values."""
        fog = float(self._fog(z))
        alpha = patch[..., 3]
        paint = cv2.convertScaleAbs(patch[..., :3], alpha=light * (1 - fog))
        cv2.add(paint, np.array([*(self._low * fog), 0.0]), dst=paint)
        cv2.copyTo(paint, (alpha > drawn).astype(np.uint8), rgb)
        label[alpha > (64 if drawn > 127 else drawn)] = kind

    def _draw_ground(self, rgb: np.ndarray, t: float) -> None:
        ground = rgb[self._horizon :]
        come = np.float32((SPEED * t) % _GROUND_PERIOD)  # float64 would make the map float64
        along = (self._ground_z + come) * _GROUND_Z
        v = np.mod(along, np.float32(_GROUND_PERIOD * _GROUND_Z))
        for texture, (a, b) in zip(reversed(self._ground), self._ground_bands, strict=True):
            if a < b:
                ground[a:b] = cv2.remap(
                    texture,
                    self._ground_u[a:b],
                    v[a:b],
                    cv2.INTER_LINEAR,
                    borderMode=cv2.BORDER_WRAP,
                )
        if self._fog_range < 200:  # thinner fog does not show on the ground
            clear = ground.astype(np.float32)
            ground[:] = clear + (self._low.astype(np.float32) - clear) * self._ground_fog

    def _draw_shadows(self, rgb: np.ndarray, things: list[tuple[float, Thing]]) -> None:
        """Draw all shadows on the ground with one mask, one blur and one multiplication."""
        width, height = self.size
        mask = np.zeros((height - self._horizon, width), np.uint8)
        origin = np.array((0, self._horizon << _SHIFT), np.int32)
        for z, thing in things:
            if thing.shadow is None or z + thing.shadow[1] < _NEAR:
                continue
            half, length, tall = thing.shadow
            reach = -self._sun_side * self._shadow_reach * tall
            foot = np.array([(-half, 0, 0), (half, 0, 0), (half, 0, length), (-half, 0, length)])
            thrown = foot + np.array((reach, 0, 0.3 * abs(reach)))
            outline = self._project(np.concatenate([foot, thrown]), thing.x, z)
            hull = np.asarray(cv2.convexHull(outline - origin))
            cv2.fillConvexPoly(mask, hull, (255,), cv2.LINE_8, _SHIFT)
        size = max(3, (width // 160) | 1)
        lit = cv2.convertScaleAbs(
            cv2.bitwise_not(cv2.blur(mask, (size, size))),
            alpha=self._shadow,
            beta=255 * (1 - self._shadow),
        )
        ground = rgb[self._horizon :]
        cv2.multiply(ground, cv2.cvtColor(lit, cv2.COLOR_GRAY2RGB), dst=ground, scale=1 / 255)

    def _develop(self, rgb: np.ndarray, t: float) -> np.ndarray:
        """Apply the lens and the sensor: blur, vignette, exposure curve, noise."""
        width, height = self.size
        kernel = 3 if width < 700 else 5
        picture = cv2.GaussianBlur(rgb, (kernel, kernel), self._blur * max(1.0, width / 640))
        picture = cv2.LUT(cv2.multiply(picture, self._vignette, scale=1 / 255), self._curve)
        dx, dy = self._rng(1, round(t * 1000)).integers(0, 32, 2).tolist()
        grain = self._noise[dy : dy + height, dx : dx + width]
        return np.asarray(cv2.add(picture, grain, dtype=cv2.CV_8U))


def _level(levels: list[np.ndarray], pixels: float) -> np.ndarray:
    """Return the texture level for a height of `pixels` on the screen."""
    shrink = max(levels[0].shape[0] / max(pixels, 1.0), 1.0)
    return levels[min(int(math.log2(shrink)), len(levels) - 1)]


def _far_first(item: tuple[float, Wall | Thing]) -> float:
    return -item[0]  # sorting is stable, so a house's shell stays before its front


def _columns(x0: float, x1: float) -> slice:
    """Return the columns of the ground texture between two x in meters."""
    a, b = (
        min(max(round((x + _GROUND_HALF) * _GROUND_X), 0), round(2 * _GROUND_HALF * _GROUND_X))
        for x in (x0, x1)
    )
    return slice(a, b)


def _rows(z0: float, z1: float) -> slice:
    """Return the rows of the ground texture between two z in meters."""
    return slice(int(z0 * _GROUND_Z), int(z1 * _GROUND_Z))


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


@dataclass(frozen=True)
class _Stream:
    """One kind of object along both sides of the street."""

    slot: float  # m of road per hash
    build: Callable[[StreetScene, np.random.Generator, float, float], list[Wall | Thing]]
    speed: tuple[float, float] = (0.0, 0.0)  # m/s along the road, on the left and right side


_POSTS = [
    parts.lamp_post,
    parts.traffic_light,
    parts.road_sign,
    parts.bollard,
    parts.telegraph_pole,
]
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
_BANDS = [
    (0,),
    (1,),
    (2, 3, 4),
    (5,),
    (6,),
    (7, 8),
]  # streams, from the outside of the street inward
