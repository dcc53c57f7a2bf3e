"""Regions of interest: which pixels are inside, what limits say, and the node that reports them."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_model import tiny_answer, write_tiny_model

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.node.diagnostics import Level
from bisenetv2_ros.node.region_limits import LimitWatch, parse_limits
from bisenetv2_ros.regions import Region, RegionWatch, inside, parse_regions
from bisenetv2_ros.visualization import draw_regions

CLASSES = ("sky", "traffic light", "road")
LEFT = "left: 0 0, 0.5 0, 0.5 1, 0 1"
AHEAD = "ahead: 0.3 1, 0.45 0.6, 0.55 0.6, 0.7 1"


class TestTexts:
    def test_points_and_camera(self):
        assert parse_regions(["", " a_1 @ front/image_raw : 0 0,1 0, .5 1 "]) == (
            Region("a_1", ((0, 0), (1, 0), (0.5, 1)), "front/image_raw"),
        )

    def test_one_name_for_two_cameras(self):
        texts = ["a @ x: 0 0, 1 0, 1 1", "a @ y: 0 0, 1 0, 1 1"]
        assert [region.camera for region in parse_regions(texts, ("x", "y"))] == ["x", "y"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0 0, 1 0, 1 1", "expected 'NAME: X Y, X Y, X Y'"),
            ("a-b: 0 0, 1 0, 1 1", "NAME of letters, digits and _"),
            ("a: 0 0, 1 0", "at least three points"),
            ("a: 0 0, 1 0, 1 1.1", "within 0..1"),
            ("a: 0 0, 1 0, 1 nan", "within 0..1"),
            ("a: 0 0, 1 0, 1", "at least three points"),
            ("a: 0 0, 1 0, 1 one", "at least three points"),
            ("a @ z: 0 0, 1 0, 1 1", "no camera 'z', known: x, y"),
            ("left: 0 0, 1 0, 1 1", "another one is called left"),
        ],
    )
    def test_what_is_no_region_is_named(self, text, message):
        with pytest.raises(ValueError, match="region") as caught:
            parse_regions([LEFT, text], ("x", "y"))
        assert f"'{text}'" in str(caught.value) and message in str(caught.value)

    def test_a_camera_where_there_is_none(self):
        with pytest.raises(ValueError, match="no camera 'front', known: none"):
            parse_regions(["a @ front: 0 0, 1 0, 1 1"], ("",))

    def test_limits(self):
        regions = parse_regions([LEFT])
        (limit,) = parse_limits(["", "left: traffic light > 0.02 ERROR"], regions, CLASSES)
        assert (limit.region, limit.class_name, limit.level) == (
            "left", "traffic light", Level.ERROR,
        )  # fmt: skip
        assert [limit.passed_by(share) for share in (0.01, 0.02, 0.03)] == [False, False, True]
        (limit,) = parse_limits(["left:road<0.5 WARN"], regions, CLASSES)
        assert [limit.passed_by(share) for share in (0.4, 0.5, 0.6)] == [True, False, False]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("left: road = 0.5 WARN", "expected 'REGION: CLASS < SHARE WARN'"),
            ("left: road < 0.5 STALE", "expected 'REGION: CLASS < SHARE WARN'"),
            ("right: road < 0.5 WARN", "no region 'right', known: left"),
            ("left: car < 0.5 WARN", "no class 'car' in the model, known: sky, traffic light"),
            ("left: road < 50 WARN", "got 50, expected a share within 0..1"),
            ("left: road < half WARN", "got half, expected a share within 0..1"),
        ],
    )
    def test_what_is_no_limit_is_named(self, text, message):
        with pytest.raises(ValueError, match="region limit") as caught:
            parse_limits([text], parse_regions([LEFT]), CLASSES)
        assert f"'{text}'" in str(caught.value) and message in str(caught.value)


class TestPixels:
    def test_centres_decide(self):
        (region,) = parse_regions(["a: 0.25 0, 0.75 0, 0.75 0.5, 0.25 0.5"])
        expected = np.zeros((4, 8), bool)
        expected[:2, 2:6] = True
        np.testing.assert_array_equal(inside(region, (8, 4)), expected)

    def test_neighbours_share_no_pixel_and_miss_none(self):
        """Also where an edge runs through pixel centres."""
        random = np.random.default_rng(1)
        for x0, x1 in [(0.5, 0.5), (0, 1), (1, 0), *random.random((20, 2))]:
            left = Region("left", ((0, 0), (x0, 0), (x1, 1), (0, 1)))
            right = Region("right", ((x0, 0), (1, 0), (1, 1), (x1, 1)))
            both = inside(left, (33, 21)).astype(int) + inside(right, (33, 21))
            np.testing.assert_array_equal(both, 1)

    def test_corners_on_pixel_centres_are_of_one_neighbour(self):
        corners = ((0, 0), (1, 0), (1, 1), (0, 1))
        total = np.zeros((21, 33), int)
        for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
            total += inside(Region("fan", ((0.5, 0.5), one, other)), (33, 21))
        np.testing.assert_array_equal(total, 1)

    def test_counts_are_of_the_pixels_inside(self):
        mask = np.random.default_rng(2).integers(0, len(CLASSES), (60, 80), np.uint8)
        regions = parse_regions([LEFT, AHEAD])
        watch = RegionWatch(regions, (80, 60), CLASSES)
        watch.update(mask)
        assert list(watch.counts) == ["left", "ahead"]
        for region in regions:
            pixels = mask[inside(region, (80, 60))]
            assert watch.counts[region.name].tolist() == np.bincount(pixels, minlength=3).tolist()
        assert watch.counts["left"].sum() == 60 * 40

    def test_region_without_a_pixel_is_refused(self):
        with pytest.raises(ValueError, match="region 'a': no pixel of the 8x4 mask is inside"):
            RegionWatch(parse_regions(["a: 0 0, 0.01 0, 0 0.01"]), (8, 4), CLASSES)

    def test_masks_of_other_sizes_are_counted_by_the_same_fractions(self):
        watch = RegionWatch(
            parse_regions(["left: 0 0, 0.5 0, 0.5 1, 0 1", "dot: 0 0, 0.1 0, 0.1 0.1, 0 0.1"]),
            (40, 30),
            CLASSES,
        )
        for width, height in ((40, 30), (80, 60), (4, 2), (40, 30)):
            mask = np.zeros((height, width), np.uint8)
            mask[:, : width // 4] = 1
            watch.update(mask)
            quarter = height * width // 4
            assert watch.counts["left"][:2].tolist() == [quarter, quarter]
            assert watch.counts["dot"].sum() == (0 if width == 4 else height * width // 100)

    def test_outlines_are_where_the_region_is(self):
        picture = np.full((100, 200, 3), 128, np.uint8)
        draw_regions(picture, parse_regions(["a: 0.5 0.5, 0.9 0.5, 0.9 0.9, 0.5 0.9"]))
        assert picture[50, 140].min() > 200 and picture[70, 100].min() > 200
        assert (picture[70, 140] == 128).all() and (picture[95:] == 128).all()


class TestWatch:
    def watch(self, *limits: str) -> LimitWatch:
        self.now = 0.0
        regions = parse_regions([LEFT])
        return LimitWatch(
            regions,
            parse_limits(limits, regions, CLASSES),
            (8, 4),
            CLASSES,
            clock=lambda: self.now,
        )

    def test_the_worst_limit_passed_is_the_level(self):
        watch = self.watch("left: road < 0.75 WARN", "left: sky > 0.4 ERROR")
        mask = np.full((4, 8), 2, np.uint8)
        levels = []
        for rows in (0, 1, 2):  # of sky
            mask[:rows] = 0
            self.now += 0.1
            watch.update(mask)
            ((name, level, text, values),) = watch.assess(3.0)
            assert name == "left"
            assert float(values["sky"]) == rows / 4
            levels.append((level, text))
        assert levels == [
            (Level.OK, "within its limits"),
            (Level.OK, "within its limits"),
            (Level.ERROR, "road 0.500 < 0.75, sky 0.500 > 0.4"),
        ]

    def test_silence_is_stale(self):
        watch = self.watch("left: road < 0.75 WARN")
        assert [(level, text) for _, level, text, _ in watch.assess(3.0)] == [
            (Level.STALE, "no mask yet")
        ]
        for self.now in (1.0, 1.5, 2.0):
            watch.update(np.full((4, 8), 2, np.uint8))
        self.now = 3.4
        assert [level for _, level, *_ in watch.assess(3.0)] == [Level.OK]
        self.now = 3.6
        assert [(level, text) for _, level, text, _ in watch.assess(3.0)] == [
            (Level.STALE, "no mask for 1.6 s")
        ]

    def test_a_lower_rate_that_was_asked_for_is_not_silence(self):
        watch = self.watch("left: road < 0.75 WARN")
        for self.now in (0.0, 0.1, 0.2):
            watch.update(np.full((4, 8), 2, np.uint8))
        self.now = 1.2
        assert [level for _, level, *_ in watch.assess(3.0)] == [Level.STALE]
        assert [level for _, level, *_ in watch.assess(3.0, max_rate=1.0)] == [Level.OK]
        self.now = 3.3
        assert [level for _, level, *_ in watch.assess(3.0, max_rate=1.0)] == [Level.STALE]

    def test_regions_without_limits_are_not_judged(self):
        watch = self.watch()
        watch.update(np.zeros((4, 8), np.uint8))
        assert list(watch.assess(3.0)) == []


class TestNode:
    """The node over a real graph."""

    @pytest.fixture
    def run(self, tmp_path):
        pytest.importorskip("rclpy", reason="needs a ROS 2")
        pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
        from ros_graph import Program, graph

        model = write_tiny_model(tmp_path / "tiny.onnx")
        programs = []

        def start(**parameters: str):
            given = {"model": str(model), "backend": "onnxruntime", "threads": "1"} | parameters
            words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
            words = ["segment", "--ros-args", *words]
            programs.append(Program(words, tmp_path / "segment.log"))
            return programs[-1]

        with graph() as ros:
            yield ros, start
        for program in programs:
            program.end()
            assert "Traceback" not in program.output, program.output

    def test_fractions_and_diagnostics(self, run):
        from bisenetv2_ros.msg import ClassFractions
        from ros_graph import image_message
        from sensor_msgs.msg import Image

        ros, start = run
        regions = "['left: 0 0, 0.5 0, 0.5 1, 0 1', 'low @ b/image_raw: 0 0.5, 1 0.5, 1 1, 0 1']"
        program = start(
            cameras="[a/image_raw, b/image_raw]",
            regions=regions,
            region_limits="['left: sky > 0.5 WARN', 'low: pole > 0.9 ERROR']",
            stale_periods="100.0",  # a busy machine's pauses are not the point
        )
        left_sky = np.zeros((24, 32, 3), np.uint8)
        left_sky[:, 16:] = 16 * 5  # trees
        low_poles = np.full((24, 32, 3), 16 * 5, np.uint8)
        low_poles[12:] = 16 * 2
        cameras = {name: ros.node.create_publisher(Image, f"{name}/image_raw", 10) for name in "ab"}
        assert ros.spin_until(lambda: all(p.get_subscription_count() for p in cameras.values())), (
            program.output
        )

        def send_until(done):
            def step():
                cameras["a"].publish(image_message(left_sky))
                cameras["b"].publish(image_message(low_poles))
                return ros.spin_until(done, 0.1)

            return ros.spin_until(step)

        # Nobody subscribes to an output: limits alone make the node work.
        assert send_until(
            lambda: (
                ros.status("/a/image_raw left")[:2] == (1, "sky 1.000 > 0.5")
                and ros.status("/b/image_raw low")[:2] == (2, "pole 1.000 > 0.9")
                and ros.status("/b/image_raw left")[:2] == (0, "within its limits")
            )
        ), ros.statuses
        assert ros.status("/a/image_raw low")[0] == -1  # is not for that camera
        assert ros.status("/b/image_raw left")[2]["tree"] == "0.5000"
        assert ros.status("/a/image_raw")[0] != 2

        fractions = {
            name: ros.collect(ClassFractions, f"/{name}/segmentation/class_fractions")
            for name in "ab"
        }
        assert send_until(lambda: fractions["a"] and fractions["b"]), program.output
        (region,) = fractions["a"][-1].regions
        assert (region.name, region.pixel_count) == ("left", 24 * 16)
        counts = {c.class_name: c.pixel_count for c in region.classes}
        assert counts == dict.fromkeys(CAMVID.names, 0) | {"sky": 24 * 16}
        left, low = fractions["b"][-1].regions
        mask, _ = tiny_answer(low_poles)
        for region, part in ((left, mask[:, :16]), (low, mask[12:])):
            expected = np.bincount(part.ravel(), minlength=len(CAMVID))
            assert [c.pixel_count for c in region.classes] == expected.tolist()
            shares = [c.fraction for c in region.classes]
            np.testing.assert_allclose(shares, expected / part.size, atol=1e-6)

    def test_overlay_shows_them(self, run):
        from ros_graph import image_message
        from sensor_msgs.msg import Image

        ros, start = run
        program = start(regions="['left: 0.25 0.25, 0.75 0.25, 0.75 0.75, 0.25 0.75']")
        overlays = ros.collect(Image, "/segmentation/overlay")
        camera = ros.node.create_publisher(Image, "image_raw", 10)
        frame = image_message(np.zeros((480, 640, 3), np.uint8))

        def step():
            camera.publish(frame)
            return ros.spin_until(lambda: overlays, 0.1)

        assert ros.spin_until(step), program.output
        picture = np.frombuffer(overlays[0].data, "u1").reshape(480, 640, 3)
        assert picture[120, 400].min() > 200 and picture[240, 160].min() > 200
        assert picture[240, 320].max() < 128

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"regions": "['left: 0 0, 1 0']"}, "region 'left: 0 0, 1 0': expected at least three"),
            (
                {"regions": f"['{LEFT}']", "region_limits": "['left: lawn > 0.5 WARN']"},
                "no class 'lawn' in the model, known: sky, building",
            ),
            (
                {"regions": "['left @ rear/image_raw: 0 0, 1 0, 1 1']"},
                "no camera 'rear/image_raw', known: image_raw",
            ),
        ],
    )
    def test_what_cannot_be_stops_the_node_in_one_line(self, run, parameters, message):
        _, start = run
        program = start(**parameters)
        assert program.wait() == 1
        assert "cannot configure: region" in program.output
        assert message in program.output
