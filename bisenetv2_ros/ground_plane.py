"""Projects a mask to points on the ground, by the camera's calibration and pose.

    calibration = Calibration(matrix, distortion, "plumb_bob", (width, height))  # of the mask
    projection = GroundProjection(calibration, plane_of_pose(1.4, pitch=3, roll=0), ground, 30.0)
    cloud = projection(mask, confidence)      # (H, W) of POINT: x, y, z, class, confidence

The ground is assumed to be a plane. All pixels of ground classes are projected. Of other classes
only the contact with the ground is: in each column, the pixel right above ground. One image does
not tell what is behind that point, and projecting a whole obstacle would smear it over the ground
behind. Those points are NaN, and so are those of the sky and beyond the range. Coordinates are in
the camera's optical frame: x right, y down, z forward, in meters.

ROS's library `ipm` does the projection alone: it undistorts every point again in each call, knows
no fisheye lens and no objects, and needs tf2 and shape_msgs. This module does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

#: A point of the cloud: meters, class index, probability (255 = 1.0; 0 if it was not computed).
POINT = np.dtype(
    {
        "names": ["x", "y", "z", "class", "confidence"],
        "formats": ["<f4", "<f4", "<f4", "u1", "u1"],
        "offsets": [0, 4, 8, 12, 13],
        "itemsize": 16,
    }
)

#: Ground classes of common datasets.
GROUND_NAMES = frozenset(
    {
        "road", "pavement", "sidewalk", "terrain", "lane-marking", "lane marking", "road marking",
        "ground", "grass", "dirt", "parking", "drivable", "path", "floor", "gravel", "sand",
    }
)  # fmt: skip
#: Classes that never touch the ground.
SKY_NAMES = frozenset({"sky"})

_MODELS = {"": 0, "plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4, "fisheye": 4}
_FISHEYE = ("equidistant", "fisheye")
_MOST_ERROR = 0.05  # pixels between a pixel and its ray, projected back
_MOST_SLOPE = 1e3  # of a ray; steeper ones point backwards
_MOST_STEPS = 50  # of the iteration that finds a ray
#: By the rotation that turns an image upright: the offset in the array of the pixel below.
_BELOW = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}


@dataclass(frozen=True)
class Plane:
    """The ground plane: points p with normal · p = height."""

    normal: tuple[float, float, float]  #: unit vector straight down, in the optical frame
    height: float  #: of the camera above the ground, meters, > 0


def plane_of_pose(height: float, pitch: float, roll: float) -> Plane:
    """The ground under a camera `height` meters above it.

    pitch: degrees down from the horizon. roll: degrees by which its right side is lower.
    """
    pitch, roll = np.radians(pitch), np.radians(roll)
    down = (np.sin(roll) * np.cos(pitch), np.cos(roll) * np.cos(pitch), np.sin(pitch))
    return Plane((float(down[0]), float(down[1]), float(down[2])), height)


def plane_of_transform(translation: Sequence[float], quaternion: Sequence[float]) -> Plane:
    """The plane z = 0 of a frame that has the camera at `translation`.

    quaternion: (x, y, z, w), rotates the optical frame's axes to that frame's.
    """
    x, y, z, w = np.asarray(quaternion, float) / np.linalg.norm(quaternion)
    # The last row of the rotation matrix is that frame's z axis, seen by the camera: straight up.
    up = (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y))
    return Plane((-float(up[0]), -float(up[1]), -float(up[2])), float(translation[2]))


@dataclass(frozen=True)
class Calibration:
    """A camera's intrinsics for images of one size. Pixel centers have integer coordinates.

    Raises a one-line ValueError if the model is unknown or the matrix is invalid.
    """

    matrix: tuple[float, ...]  #: the nine numbers of K, row by row
    distortion: tuple[float, ...]  #: of the model: () for none
    model: str  #: as sensor_msgs/CameraInfo names it
    size: tuple[int, int]  #: (width, height)

    def __post_init__(self) -> None:
        if self.model not in _MODELS:
            known = ", ".join(filter(None, _MODELS))
            raise ValueError(f"distortion model is '{self.model}', expected one of {known}")
        if len(self.matrix) != 9 or not (self.matrix[0] > 0 and self.matrix[4] > 0):
            raise ValueError(f"camera matrix is {self.matrix}, expected focal lengths over 0")
        count, expected = len(self.distortion), _MODELS[self.model]
        if any(self.distortion) and count not in (expected, 4 if expected == 5 else expected):
            raise ValueError(
                f"distortion has {count} coefficients, expected {expected} for the model "
                f"'{self.model}'"
            )

    @cached_property
    def rays(self) -> np.ndarray:
        """(H, W, 2) float32: x and y at z = 1 of each pixel's ray; NaN for a pixel without one.

        Pixels far outside the range in which a distortion polynomial was fitted have no ray, and
        neither have those that would look backwards.
        """
        width, height = self.size
        matrix = np.reshape(self.matrix, (3, 3)).astype(np.float64)
        pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
        pixels = pixels.reshape(-1, 1, 2).astype(np.float64)
        bent = cv2.undistortPoints(pixels, matrix, None)  # the matrix alone
        coefficients = np.array(self.distortion if any(self.distortion) else (), np.float64)
        rays, back = bent, bent
        if self.model in _FISHEYE:
            coefficients = coefficients if coefficients.size else np.zeros(4)
            rays = cv2.fisheye.undistortPoints(bent, np.eye(3), coefficients)
            back = cv2.fisheye.distortPoints(np.nan_to_num(rays), np.eye(3), coefficients)
        elif coefficients.size:
            rays = _undistort(bent, coefficients)
            back = _distort(rays, coefficients)
        error = np.abs(back - bent).max(axis=2) * max(matrix[0, 0], matrix[1, 1])
        lost = ~((error < _MOST_ERROR) & (np.abs(rays).max(axis=2) < _MOST_SLOPE))
        rays = np.where(lost[..., np.newaxis], np.nan, rays)
        return rays.reshape(height, width, 2).astype(np.float32)


def _distort(rays: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Distort (N, 1, 2) rays by plumb_bob or the rational polynomial.

    cv2.projectPoints also computes derivatives and takes many times as long.
    """
    x, y = rays[..., 0], rays[..., 1]
    radial, tangential_x, tangential_y = _bending(x, y, coefficients)
    return np.stack([x * radial + tangential_x, y * radial + tangential_y], axis=-1)


def _bending(
    x: np.ndarray, y: np.ndarray, coefficients: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The radial factor, and the tangential offsets of x and y."""
    k1, k2, p1, p2, k3, k4, k5, k6 = np.pad(coefficients, (0, 8 - len(coefficients)))
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    if k4 or k5 or k6:
        radial /= 1 + r2 * (k4 + r2 * (k5 + r2 * k6))
    xy2 = 2 * x * y
    return radial, p1 * xy2 + p2 * (r2 + 2 * x * x), p2 * xy2 + p1 * (r2 + 2 * y * y)


def _undistort(bent: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Invert `_distort` to the last digit; cv2.undistortPoints stops after five steps."""
    goal_x, goal_y = bent[..., 0], bent[..., 1]
    x, y = goal_x, goal_y
    with np.errstate(all="ignore"):  # the caller checks that an inverse exists
        for _ in range(_MOST_STEPS):
            radial, tangential_x, tangential_y = _bending(x, y, coefficients)
            next_x, next_y = (goal_x - tangential_x) / radial, (goal_y - tangential_y) / radial
            step = max(np.abs(next_x - x).max(), np.abs(next_y - y).max())
            x, y = next_x, next_y
            if step < 1e-7:
                break
    return np.stack([x, y], axis=-1)


class GroundProjection:
    """Projects the masks of one camera; precomputes all that depends on the camera only."""

    def __init__(
        self,
        calibration: Calibration,
        plane: Plane,
        ground: np.ndarray,
        most_distance: float,
        *,
        sky: np.ndarray | None = None,
        turn: int = 0,
    ) -> None:
        """Compute the table of each pixel's point.

        Args:
            calibration: of the masks.
            plane: the ground, in the same optical frame.
            ground: (256,) bool by mask value, the classes that lie on the ground.
            most_distance: meters along the ground from the camera; farther points are NaN.
            sky: (256,) bool by mask value, the classes that never touch it.
            turn: clockwise degrees that turn the mask upright, 0, 90, 180 or 270.
        """
        self._ground = ground.astype(np.uint8)
        solid = ~ground if sky is None else ~(ground | sky)
        self._solid = solid.astype(np.uint8)
        self._below = _BELOW[turn]
        self._table = _points(calibration.rays, plane, most_distance)
        self._unknown = np.zeros(1, POINT)
        for axis in "xyz":
            self._unknown[axis] = np.nan

    def __call__(
        self,
        mask: np.ndarray,
        confidence: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the cloud of a mask, (H, W) of POINT, in `out` if given.

        mask, confidence: (H, W) uint8 of the calibration's size. Raises ValueError otherwise.
        """
        if mask.shape != self._table.shape:
            raise ValueError(f"mask is {mask.shape}, expected {self._table.shape}")
        cloud = np.empty(mask.shape, POINT) if out is None else out
        # As one number of 16 bytes each, which NumPy copies in one step.
        np.copyto(cloud.view(np.complex128), self._unknown.view(np.complex128))
        shown = self._shown(mask).view(bool)
        np.copyto(cloud.view(np.complex128), self._table.view(np.complex128), where=shown)
        cloud["class"] = mask
        if confidence is not None:
            cloud["confidence"] = confidence
        return cloud

    def _shown(self, mask: np.ndarray) -> np.ndarray:
        """(H, W) uint8, 1 for ground and for the pixels of other objects right above it, else 0."""
        mask = np.ascontiguousarray(mask)
        shown = cv2.LUT(mask, self._ground)
        solid = cv2.LUT(mask, self._solid)
        height, width = mask.shape
        down, right = self._below
        here = _inner(height, -down), _inner(width, -right)
        below = _inner(height, down), _inner(width, right)
        shown[here] |= solid[here] & shown[below]
        return shown


def cloud_of_depth(
    calibration: Calibration,
    depth: np.ndarray,
    most_distance: float,
    mask: np.ndarray,
    confidence: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the labeled cloud of a depth image, (H, W) of POINT, in `out` if given.

    Args:
        calibration: of the masks.
        depth: (H, W) float32, meters along the optical axis; NaN if unknown.
        most_distance: meters along the optical axis; farther points are NaN.
        mask: (H, W) uint8, and so is `confidence`.

    Raises ValueError unless all have the calibration's size.
    """
    rays = calibration.rays
    if not mask.shape == depth.shape == rays.shape[:2]:
        raise ValueError(f"mask is {mask.shape}, depth {depth.shape}, expected {rays.shape[:2]}")
    cloud = np.empty(mask.shape, POINT) if out is None else out
    with np.errstate(invalid="ignore"):
        known = (depth > 0) & (depth <= most_distance) & ~np.isnan(rays[..., 0])
    z = np.where(known, depth, np.float32(np.nan))
    cloud["x"], cloud["y"], cloud["z"] = z * rays[..., 0], z * rays[..., 1], z
    cloud["class"] = mask
    cloud["confidence"] = 0 if confidence is None else confidence
    return cloud


def _inner(length: int, step: int) -> slice:
    """All places along an axis except the first (step 1) or last (-1)."""
    return slice(max(0, step), length + min(0, step))


def _points(rays: np.ndarray, plane: Plane, most_distance: float) -> np.ndarray:
    """(H, W) of POINT, where (H, W, 2) rays meet the ground; NaN above the horizon or too far."""
    x, y = rays[..., 0].astype(np.float64), rays[..., 1].astype(np.float64)
    a, b, c = plane.normal
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = plane.height / (a * x + b * y + c)
        distance2 = depth * depth * (x * x + y * y + 1) - plane.height**2
        depth[~((depth > 0) & (distance2 <= most_distance**2))] = np.nan
    table = np.zeros(rays.shape[:2], POINT)
    table["x"], table["y"], table["z"] = depth * x, depth * y, depth
    return table
