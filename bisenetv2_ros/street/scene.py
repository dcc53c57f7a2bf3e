"""Renders a synthetic street, seen from a driving car, with its exact label mask.

`StreetScene(seed, size).render(t)` draws the view of a dashboard camera after `t` seconds, and the
CamVid class (one of 11) of every pixel. Image and mask are drawn by the same calls with the same
polygons, so the mask has no annotation error.

Coordinates are in meters in a road-fixed frame (x to the right, y up, z along the road). Any `t`
can be rendered without the frames before it (`street.py`). Objects are painted in bands from the
outside of the street to its middle, and within a band from far to near. Viewing rays only move
outward, so nearer objects always cover farther ones.

Uses only numpy and OpenCV; knows nothing of ROS, files or networks.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from bisenetv2_ros.street import parts
from bisenetv2_ros.street.ground import GROUND_HALF, GROUND_PERIOD, GROUND_X, GROUND_Z, paint_ground
from bisenetv2_ros.street.parts import (
    BUILDING,
    FENCE,
    PAVEMENT,
    ROAD,
    SKY,
    TREE,
    Sprite,
    Thing,
    Wall,
    noise,
    pick,
)
from bisenetv2_ros.street.street import BANDS, SPEED, Street

_NEAR = 0.6  # m, near plane
_SHIFT = 4  # sub-pixel bits handed to OpenCV's polygon filler
_LIMIT = 2.4e5  # maximum fixed-point coordinate; OpenCV's arithmetic overflows above it


class StreetScene(Street):
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
        self.size = size
        rng = np.random.default_rng([seed, 0])
        super().__init__(seed, rng)
        self._ground = paint_ground(self, rng)
        self._fix_camera(rng)
        self._paint_background(rng)
        self._fix_ground()
        self._prepare_sensor(rng)

    def render(self, t: float) -> tuple[np.ndarray, np.ndarray]:
        """Render the view after t seconds of driving at 8 m/s.

        Returns:
            rgb: (H, W, 3) uint8.
            label: (H, W) uint8, the CamVid class of each pixel, 0..10.

        Deterministic: the same (seed, size, t) gives the same arrays.
        """
        rgb, label = self._background.copy(), self._background_label.copy()
        self._draw_ground(rgb, t)
        # Far objects first. Sorting is stable, so a house's shell stays before its front.
        bands = [sorted(self._visible(band, t), key=lambda item: -item[0]) for band in BANDS]
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

    def _fix_camera(self, rng: np.random.Generator) -> None:
        width, height = self.size
        self._focal = width * float(rng.uniform(0.8, 1.05))  # pixels
        self._cx, self._cy = width / 2, height * float(rng.uniform(0.42, 0.52))
        self._centre = np.array((self._cx, self._cy)) * (1 << _SHIFT)
        self._eye = float(rng.uniform(1.25, 1.7))  # m above the road
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
            low, high = self._cy + 2, self._cy - tall
            corners = [(x, low), (x, high), (x + wide, high), (x + wide, low)]
            box = np.array(corners, np.int32)
            cv2.fillPoly(self._background, [box], colour.tolist())
            cv2.fillPoly(self._background_label, [box], (BUILDING,))
            return
        for k in np.linspace(0, 1, 9):
            centre = (int(x + k * wide), int(self._cy - tall * 0.4))
            radius = max(2, int(tall * rng.uniform(0.5, 0.9)))
            tint = (colour * rng.uniform(0.85, 1.1)).tolist()
            cv2.circle(self._background, centre, radius, tint, -1)
            cv2.circle(self._background_label, centre, radius, (TREE,), -1)

    def _fix_ground(self) -> None:
        """Map each pixel to a point of the ground; driving only shifts these points along z."""
        width, height = self.size
        top = self._horizon
        rows = np.arange(top, height) + 0.5 - self._cy
        z = np.minimum(self._focal * self._eye / np.maximum(rows, 1e-3), 400)[:, None]
        across = (np.arange(width) + 0.5 - self._cx) * z / self._focal
        across += self._at - self._bend * z * z
        inside = np.clip(across, 0.1 - GROUND_HALF, GROUND_HALF - 0.1)
        self._ground_u = ((inside + GROUND_HALF) * GROUND_X).astype(np.float32)
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
        size = (columns.stop - columns.start, rows.stop - rows.start)
        modes = {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        patch = np.asarray(cv2.warpPerspective(level, matrix, size, **modes))
        inside = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillPoly(inside, [outline - origin * (1 << _SHIFT)], (255,), cv2.LINE_8, _SHIFT)
        patch[..., 3] = cv2.min(patch[..., 3], inside)
        drawn = 170 if wall.label == FENCE else 127
        middle = (start + end) / 2
        self._stamp(rgb[area], label[area], patch, middle, wall.light, drawn, wall.label)

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
        come = np.float32((SPEED * t) % GROUND_PERIOD)  # float64 would make the map float64
        along = (self._ground_z + come) * GROUND_Z
        v = np.mod(along, np.float32(GROUND_PERIOD * GROUND_Z))
        for texture, (a, b) in zip(reversed(self._ground), self._ground_bands, strict=True):
            if a < b:
                u, wrap = self._ground_u[a:b], cv2.BORDER_WRAP
                ground[a:b] = cv2.remap(texture, u, v[a:b], cv2.INTER_LINEAR, borderMode=wrap)
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
