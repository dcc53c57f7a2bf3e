"""Masks to points on the ground: exact against OpenCV's projections, no smear behind obstacles."""

from __future__ import annotations

import time

import cv2
import numpy as np
import pytest

from bisenetv2_ros.camera_view import View
from bisenetv2_ros.ground_plane import (
    POINT,
    Calibration,
    GroundProjection,
    cloud_of_depth,
    plane_of_pose,
    plane_of_transform,
)
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.street.scene import StreetScene

SIZE = (160, 120)
MATRIX = (110.0, 0.0, 78.5, 0.0, 112.0, 60.25, 0.0, 0.0, 1.0)
LENSES = {
    "none": ("plumb_bob", ()),
    "plumb_bob": ("plumb_bob", (-0.28, 0.07, 0.0007, -0.0005, -0.01)),
    "rational": (
        "rational_polynomial",
        (0.45, -0.12, 0.0004, -0.0003, 0.006, 0.75, -0.05, 0.02),
    ),
    "equidistant": ("equidistant", (-0.02, 0.004, -0.003, 0.0006)),
}
EVERYTHING = np.ones(256, bool)


def rotation(pitch: float, roll: float) -> np.ndarray:
    """(3, 3) from a level camera's optical axes to those of one that looks down and hangs right.

    Made of rotations one after the other, unlike the module's formula.
    """
    down, right = np.radians([pitch, roll])
    about_x = cv2.Rodrigues(np.array([down, 0.0, 0.0]))[0]
    about_z = cv2.Rodrigues(np.array([0.0, 0.0, -right]))[0]
    return about_z @ about_x


def seen_from(points: np.ndarray, height: float, pitch: float, roll: float) -> np.ndarray:
    """(n, 3) points of the ground, (right, 0, ahead) of it, in the optical frame."""
    return (points + np.array([0, height, 0])) @ rotation(pitch, roll).T


def projected(points: np.ndarray, model: str, distortion: tuple[float, ...]) -> np.ndarray:
    """Pixels (n, 2) of (n, 3) points in the optical frame, by OpenCV."""
    matrix = np.reshape(MATRIX, (3, 3))
    coefficients = np.array(distortion or (0.0,) * 4)
    project = cv2.fisheye.projectPoints if model == "equidistant" else cv2.projectPoints
    pixels, _ = project(points.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), matrix, coefficients)
    return pixels.reshape(-1, 2)


def xyz(cloud: np.ndarray) -> np.ndarray:
    return np.stack([cloud[axis] for axis in "xyz"], axis=-1)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("pose", [(1.4, 0.0, 0.0), (1.1, 12.0, -4.0), (2.0, 30.0, 8.0)])
def test_points_are_the_ones_that_opencv_projects_there(lens, pose):
    """Project each point of the cloud: it must fall on its own pixel, and lie on the ground."""
    model, distortion = LENSES[lens]
    calibration = Calibration(MATRIX, distortion, model, SIZE)
    projection = GroundProjection(calibration, plane_of_pose(*pose), EVERYTHING, 50.0)
    cloud = projection(np.zeros(SIZE[::-1], np.uint8))
    assert cloud.dtype == POINT and cloud.shape == SIZE[::-1]
    points = xyz(cloud)
    known = ~np.isnan(points[..., 0])
    assert known.mean() > 0.25 and not known.all()
    rows, columns = np.nonzero(known)
    found = points[known].astype(float)
    level = found @ rotation(*pose[1:])  # back to a level camera
    np.testing.assert_allclose(level[:, 1], pose[0], atol=1e-4)
    assert np.hypot(level[:, 0], level[:, 2]).max() <= 50.001
    pixels = projected(found, model, distortion)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=0.06)


@pytest.mark.parametrize("lens", LENSES)
def test_known_points_of_the_ground_are_found_again(lens):
    """The other way: points that were chosen are projected, and looked up at their pixels."""
    pose = (1.5, 20.0, 3.0)
    model, distortion = LENSES[lens]
    ahead, aside = np.meshgrid(np.linspace(2.2, 6, 15), np.linspace(-1.5, 1.5, 15))
    ground = np.stack([aside.ravel(), np.zeros(aside.size), ahead.ravel()], axis=1)
    points = seen_from(ground, *pose)
    pixels = projected(points, model, distortion)
    calibration = Calibration(MATRIX, distortion, model, SIZE)
    cloud = GroundProjection(calibration, plane_of_pose(*pose), EVERYTHING, 50.0)(
        np.zeros(SIZE[::-1], np.uint8)
    )
    table = xyz(cloud)
    inside = (pixels > 1).all(1) & (pixels < np.array(SIZE) - 2).all(1)
    assert inside.sum() > 80
    found = cv2.remap(
        table, pixels[inside].astype(np.float32)[:, None], None, cv2.INTER_LINEAR
    ).reshape(-1, 3)
    assert np.linalg.norm(found - points[inside], axis=1).max() < 0.02


def test_the_horizon_and_the_range():
    calibration = Calibration(MATRIX, (), "", SIZE)
    cloud = GroundProjection(calibration, plane_of_pose(1.5, 0, 0), EVERYTHING, 10.0)(
        np.zeros(SIZE[::-1], np.uint8)
    )
    assert np.isnan(cloud["z"][:61]).all(), "the horizon is at row 60.25"
    middle = cloud["z"][:, 78]
    depth = 1.5 * MATRIX[4] / (np.arange(61, 120) - MATRIX[5])
    expected = np.where(depth <= 10, depth, np.nan)
    np.testing.assert_allclose(middle[61:], expected, rtol=0.002)


def test_a_pose_by_transform_is_that_by_angles():
    height, pitch, roll = 1.3, 17.0, -5.0
    # From the optical frame to one with x ahead, y left, z up, at the ground below the camera.
    level = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]], float)
    matrix = level @ rotation(pitch, roll).T
    w = np.sqrt(1 + np.trace(matrix)) / 2
    x, y, z = np.array(
        [
            matrix[2, 1] - matrix[1, 2],
            matrix[0, 2] - matrix[2, 0],
            matrix[1, 0] - matrix[0, 1],
        ]
    ) / (4 * w)
    plane = plane_of_transform((0.4, -0.2, height), (x, y, z, w))
    np.testing.assert_allclose(plane.normal, plane_of_pose(height, pitch, roll).normal, atol=1e-9)
    assert plane.height == height


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_only_the_contact_of_what_stands_on_the_ground(turn):
    """A post on the road, upright in the upright picture: one pixel of it is known."""
    upright = np.zeros((30, 40), np.uint8)  # 0 ground, 1 object, 2 sky
    upright[:5] = 2
    upright[8:20, 10:13] = 1
    upright[10:, 30:] = 1  # reaches the picture's lower edge: where it stands is not seen
    upright[5:8, 20] = 1  # touches the sky above and the ground below
    mask = np.ascontiguousarray(np.rot90(upright, turn // 90))  # as the camera sends it
    assert np.array_equal(View(turn=turn).upright(np.dstack([mask] * 3))[..., 0], upright)
    ground, sky = np.arange(256) == 0, np.arange(256) == 2
    size = (mask.shape[1], mask.shape[0])
    matrix = (30.0, 0.0, size[0] / 2, 0.0, 30.0, size[1] / 2, 0.0, 0.0, 1.0)
    projection = GroundProjection(
        Calibration(matrix, (), "plumb_bob", size),
        plane_of_pose(1.0, 89.0, 0.0),  # nearly straight down: every pixel sees the ground
        ground,
        1e3,
        sky=sky,
        turn=turn,
    )
    confidence = np.random.default_rng(0).integers(0, 256, mask.shape, np.uint8)
    cloud = projection(mask, confidence)
    shown = np.rot90(~np.isnan(cloud["x"]), -turn // 90)
    expected = upright == 0
    expected[19, 10:13] = True
    expected[7, 20] = True
    np.testing.assert_array_equal(shown, expected)
    np.testing.assert_array_equal(cloud["class"], mask)
    np.testing.assert_array_equal(cloud["confidence"], confidence)


def test_a_street_whose_cars_stand_where_they_are():
    """Points of cars lie at cars; projected whole, as nav2#3042 tried, they smear over the road."""
    distances, smeared = [], []
    for seed in (1, 2, 3, 4, 5, 8):
        scene = StreetScene(seed, (320, 240))
        if scene._mirrored:
            continue
        t = 1.0
        _, label = scene.render(t)
        matrix = (scene._focal, 0, scene._cx - 0.5, 0, scene._focal, scene._cy - 0.5, 0, 0, 1)
        calibration = Calibration(tuple(map(float, matrix)), (), "", (320, 240))
        plane = plane_of_pose(scene._eye, 0.0, 0.0)
        car = CAMVID.names.index("car")
        ground = np.isin(np.arange(256), [CAMVID.names.index(n) for n in ("road", "pavement")])
        cloud = GroundProjection(calibration, plane, ground, 30.0)(label)
        whole = GroundProjection(calibration, plane, EVERYTHING, 30.0)(label)
        footprints = vehicles(scene, t)
        for points, into in ((cloud, distances), (whole, smeared)):
            found = points[(label == car) & ~np.isnan(points["x"])]
            into += distance(found["x"], found["z"], footprints).tolist()
    assert len(distances) > 100 and len(smeared) > 1000
    # Between its wheels, a car's lower edge hangs above the ground, which is then seen behind it.
    print(np.percentile(distances, [50, 75, 90]), np.percentile(smeared, [50, 75, 90]))
    assert np.percentile(distances, 75) < 0.5 and np.percentile(distances, 90) < 1.5, "meters"
    assert np.percentile(smeared, 90) > 3 * np.percentile(distances, 90)


def vehicles(scene: StreetScene, t: float) -> list[tuple[float, float, float, float]]:
    """(left, right, near, far) in meters of each vehicle's body, seen from the camera."""
    found = []
    for stream in range(20):
        try:
            things = list(scene._visible((stream,), t))
        except IndexError:
            break
        for z, thing in things:
            frames = getattr(thing, "frames", None)
            if not frames or not frames[0]:
                continue
            kinds = {kind for _, _, kind in frames[0]}
            if CAMVID.names.index("car") not in kinds or z > 40:
                continue
            points = thing.points[0]
            left, near = points[:, 0].min(), points[:, 2].min()
            right, far = points[:, 0].max(), points[:, 2].max()
            shift = thing.x - scene._at + scene._bend * max(z, 0) ** 2
            found.append((left + shift, right + shift, near + z, far + z))
    return found


def distance(
    x: np.ndarray, z: np.ndarray, boxes: list[tuple[float, float, float, float]]
) -> np.ndarray:
    """Meters from (n,) points to the nearest box, 0 inside."""
    nearest = np.full(len(x), np.inf)
    for left, right, near, far in boxes:
        aside = np.maximum(np.maximum(left - x, x - right), 0)
        along = np.maximum(np.maximum(near - z, z - far), 0)
        nearest = np.minimum(nearest, np.hypot(aside, along))
    return nearest


def test_it_is_fast_enough_beside_the_network():
    """Against another pass over as many bytes in the same run, as machines differ."""
    calibration = Calibration((500.0, 0, 319.5, 0, 500.0, 239.5, 0, 0, 1), (), "", (640, 480))
    ground = np.arange(256) == 3
    projection = GroundProjection(calibration, plane_of_pose(1.4, 5, 0), ground, 30.0)
    _, mask = StreetScene(1, (640, 480)).render(1.0)
    out = np.empty(mask.shape, POINT)
    table = np.random.default_rng(0).random((*mask.shape, 4), np.float32)

    def seconds(work) -> float:
        times = []
        for _ in range(20):
            begin = time.thread_time()
            work()
            times.append(time.thread_time() - begin)
        return float(np.median(times))

    mine = seconds(lambda: projection(mask, mask, out))
    gathered = seconds(lambda: np.where((mask == 3)[..., None], table, np.float32(np.nan)))
    print(f"{1e3 * mine:.2f} ms, one np.where {1e3 * gathered:.2f} ms")
    assert mine < 10 * gathered


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "omni"}, "distortion model is 'omni', expected one of plumb_bob"),
        ({"matrix": (0.0,) * 9}, "expected focal lengths over 0"),
        ({"model": "equidistant", "distortion": (0.1,) * 5}, "5 coefficients, expected 4"),
        ({"model": "plumb_bob", "distortion": (0.1,) * 8}, "8 coefficients, expected 5"),
    ],
)
def test_calibrations_that_are_none(changes, message):
    arguments = {"matrix": MATRIX, "distortion": (), "model": "plumb_bob", "size": SIZE}
    with pytest.raises(ValueError, match=message):
        Calibration(**arguments | changes)


@pytest.mark.parametrize("lens", LENSES)
def test_a_depth_image_gives_every_point_that_has_depth(lens):
    model, distortion = LENSES[lens]
    calibration = Calibration(MATRIX, distortion, model, SIZE)
    rng = np.random.default_rng(4)
    depth = rng.uniform(0.5, 12, SIZE[::-1]).astype(np.float32)
    depth[3:9] = np.nan
    mask, confidence = rng.integers(0, 11, (2, *SIZE[::-1]), np.uint8)
    cloud = cloud_of_depth(calibration, depth, 10.0, mask, confidence)
    known = ~np.isnan(cloud["z"])
    assert not known[3:9].any() and not known[depth > 10].any() and known.sum() > known.size / 2
    np.testing.assert_array_equal(cloud["z"][known], depth[known])
    pixels = projected(xyz(cloud)[known].astype(float), model, distortion)
    rows, columns = np.nonzero(known)
    np.testing.assert_allclose(pixels, np.stack([columns, rows], 1), atol=0.06)
    np.testing.assert_array_equal(cloud["class"], mask)
    np.testing.assert_array_equal(cloud["confidence"], confidence)
    with pytest.raises(ValueError, match="depth \\(2, 2\\), expected"):
        cloud_of_depth(calibration, depth[:2, :2], 10.0, mask)


def test_a_mask_of_another_size_is_refused():
    projection = GroundProjection(
        Calibration(MATRIX, (), "", SIZE), plane_of_pose(1, 0, 0), EVERYTHING, 9.0
    )
    with pytest.raises(ValueError, match=r"mask is \(3, 4\), expected \(120, 160\)"):
        projection(np.zeros((3, 4), np.uint8))
