"""`bisenetv2 demo` as users run it: real processes over DDS. And its matching of messages alone."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from patience import HANG
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.metrics import confusion_matrix, scores
from bisenetv2_ros.resize import resize_mask
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.sources.frame_source import open_source
from bisenetv2_ros.street.scene import StreetScene

pytest.importorskip("rclpy")
pytest.importorskip("bisenetv2_ros.msg", reason="the messages are not built")

PROGRAM = [sys.executable, "-m", "bisenetv2_ros.cli.main", "demo"]
FRAMES = 60  # seconds of a camera: a node that waits for the processor misses some, never all
SIZE = (320, 240)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


@pytest.fixture(scope="module")
def street(tmp_path_factory) -> Path:
    """A folder with images/ and labels/ of synthetic scenes."""
    folder = tmp_path_factory.mktemp("street")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    scene = StreetScene(3, SIZE)
    for i in range(FRAMES):
        image, label = scene.render(float(i))
        cv2.imwrite(str(folder / "images" / f"{i}.png"), image[..., ::-1])
        cv2.imwrite(str(folder / "labels" / f"{i}.png"), label)
    return folder


def environment() -> dict[str, str]:
    """Without a domain of the caller's, so that the demo has to choose its own."""
    return {key: value for key, value in os.environ.items() if key != "ROS_DOMAIN_ID"}


def demo(*words: object, program: list[str] = PROGRAM) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=3 * HANG,
        env=environment(),
        check=False,
    )


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(word) for word in text.split()]


def test_figures_over_dds_equal_those_without(tmp_path, model, street):
    """Scores are those of the same model on the same files, to the last digit, whatever the node
    drops; fractions of the masks that come over DDS are those of the frames."""
    images, labels = street / "images", street / "labels"
    result = demo(
        "--source", images, "--labels", labels, "--model", model, "--output", tmp_path / "out"
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())

    confusion = np.zeros((len(CAMVID), len(CAMVID) + 1), np.int64)
    fractions = []
    with Segmenter(model, backend=summary["backend"]) as segmenter:
        for frame in open_source(str(images), labels=str(labels)):
            direct = segmenter(frame.image)
            fractions.append((direct.counts / direct.counts.sum()).astype(np.float32))
            mask = resize_mask(direct.mask, SIZE)
            confusion += confusion_matrix(frame.label, mask, len(CAMVID))
    expected = scores(confusion)
    assert expected.mean_iou > 0.01  # not equal by being nothing
    assert summary["scores"]["mean_iou"] == expected.mean_iou
    assert summary["scores"]["pixel_accuracy"] == expected.pixel_accuracy
    assert summary["scores"]["frames"] == FRAMES
    np.testing.assert_array_equal(
        np.array(list(summary["scores"]["iou"].values()), float), expected.iou
    )
    frames = summary["frames"]
    received, dropped = frames["received"], sum(frames["dropped"].values())
    assert frames["sent"] == FRAMES
    assert received >= 1 and received + dropped <= FRAMES
    mean = np.array(list(summary["fractions"].values()))
    assert (np.min(fractions, axis=0) - 1e-6 <= mean).all()
    assert (mean <= np.max(fractions, axis=0) + 1e-6).all()
    if received == FRAMES:
        np.testing.assert_allclose(mean, np.mean(fractions, axis=0), rtol=0, atol=1e-6)
    assert list(summary["fractions"]) == list(CAMVID.names)

    assert summary["model"] == model.stem
    assert summary["backend"] in ("openvino", "onnxruntime") and summary["device"]
    assert 0 < summary["latency_ms"]["p50"] <= summary["latency_ms"]["p99"]
    assert (summary["rate_hz"] > 0) == (received > 1) and summary["rate_limit_hz"] == 15
    assert summary["time_to_first_mask_s"] > 0
    assert 1 <= summary["ros_domain_id"] <= 101
    if sys.platform == "linux":
        assert 20 < summary["node_peak_memory_mib"] < 500
    assert not summary["interrupted"]


def test_images_that_the_camera_skips_fail_the_demo_and_lose_nothing_else(tmp_path, model, street):
    images = tmp_path / "images"
    images.mkdir()
    for path in (street / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    (images / "1.png").write_bytes(b"not an image")
    output = tmp_path / "out"
    result = demo("--source", images, "--model", model, "--output", output)
    assert result.returncode == 1
    assert "the camera ended with exit code 1" in result.stderr
    assert f"skipped: {images / '1.png'}" in result.stderr
    frames = json.loads((output / "summary.json").read_text())["frames"]
    assert frames["sent"] == FRAMES - 1


def test_pictures_and_video_show_the_frames(tmp_path, model, street):
    output = tmp_path / "out"
    words = ("--source", street / "images", "--model", model, "--output", output)
    result = demo(*words)
    assert result.returncode == 0, result.stderr
    summary = json.loads((output / "summary.json").read_text())
    assert summary["scores"] is None  # no labels were given
    *pictures, video = map(Path, summary["files"])
    shown = summary["frames"]["shown"]
    assert 1 <= shown <= summary["frames"]["received"]
    names = [f"frame_{i:04d}.png" for i in (0, shown - 1)]
    assert [pictures[0].name, pictures[-1].name] == names
    for path in (*pictures, video, output / "summary.json"):
        assert str(path) in result.stdout

    drawn = [cv2.imread(str(path)) for path in pictures]
    capture = cv2.VideoCapture(str(video))
    played = []
    while (read := capture.read())[0]:
        played.append(read[1])
    assert len(played) == shown
    assert np.abs(played[0].astype(int) - drawn[0]).mean() < 8  # lossy
    assert np.abs(played[-1].astype(int) - drawn[-1]).mean() < 8
    panel = drawn[-1][30:390, 12:492].astype(int)
    images = (cv2.imread(str(path)) for path in (street / "images").iterdir())
    originals = [cv2.resize(image, (480, 360)) for image in images]
    assert min(np.abs(panel - original).mean() for original in originals) < 4


def test_synthetic_street_with_truth_and_one_without(tmp_path, model, street):
    """The default source is scored; a picture without a label is shown, not scored."""
    result = demo("--model", model, "--frames", 30, "--output", tmp_path / "synthetic")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "synthetic" / "summary.json").read_text())
    assert summary["source"] == "synthetic"
    assert (summary["frames"]["sent"], summary["scores"]["frames"]) == (30, 30)

    some = tmp_path / "labels"
    some.mkdir()
    for i in (0, 2):
        (some / f"{i}.png").write_bytes((street / "labels" / f"{i}.png").read_bytes())
    words = ("--source", street / "images", "--labels", some, "--frames", 30, "--model", model)
    result = demo(*words, "--output", tmp_path / "some")
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "some" / "summary.json").read_text())
    assert (summary["frames"]["sent"], summary["scores"]["frames"]) == (30, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_every_process_and_keeps_what_is_done(tmp_path, model, number):
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*PROGRAM, "--model", model, "--frames", "100000", "--output", tmp_path / "out"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        give_up = time.monotonic() + HANG
        while b"first mask " not in (tmp_path / "log").read_bytes() and time.monotonic() < give_up:
            time.sleep(0.1)
        assert b"first mask " in (tmp_path / "log").read_bytes()
        started = children(process.pid)
        process.send_signal(number)
        assert process.wait(HANG) == 130
    text = (tmp_path / "log").read_text()
    assert "Traceback" not in text
    assert len(started) == 2
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["interrupted"] and summary["frames"]["received"] > 0
    assert cv2.VideoCapture(str(tmp_path / "out" / "video.mp4")).read()[0]


def test_signal_while_the_first_frame_is_drawn_loses_nothing(tmp_path, model):
    """Then the frame is completed first: an exception would leave the video without any."""
    code = (
        "import os, signal, sys, time; from bisenetv2_ros.cli import main\n"
        "from bisenetv2_ros.demo import results\n"
        "draw = results.side_by_side\n"
        "def interrupted(*parts):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return draw(*parts)\n"
        "results.side_by_side = interrupted\n"
        "sys.exit(main.main(sys.argv[1:], 'demo'))"
    )
    words = ("--model", model, "--frames", 100000, "--output", tmp_path)
    result = demo(*words, program=[sys.executable, "-c", code])
    assert result.returncode == 130, result.stderr
    assert json.loads((tmp_path / "summary.json").read_text())["frames"]["shown"] > 0
    assert cv2.VideoCapture(str(tmp_path / "video.mp4")).read()[0]


def test_node_that_fails_ends_the_demo_with_its_words(tmp_path, model):
    result = demo("--model", model, "--backend", "abacus", "--output", tmp_path)
    assert result.returncode == 1
    assert "error: the node ended with exit code 1; last lines of" in result.stderr
    assert "backend 'abacus' is unknown, expected auto, " in result.stderr


def test_no_mask_in_time_is_a_failure(tmp_path, model):
    """A node that is there but does nothing."""
    code = (
        "import sys; from bisenetv2_ros.cli import main; from bisenetv2_ros.demo import run\n"
        "run.FIRST_MASK_TIMEOUT = 1.0\n"
        "run._segment_command = lambda args: ['sh', '-c', 'echo idle; exec sleep 6000']\n"
        "sys.exit(main.main(sys.argv[1:], verb='demo'))"
    )
    result = demo("--model", model, "--output", tmp_path, program=[sys.executable, "-c", code])
    assert result.returncode == 1
    assert re.search("0 camera frames came, 0 masks, then none for \\d+ s", result.stderr)
    assert "\n    idle\n" in result.stderr
    assert not (tmp_path / "summary.json").exists()


def test_frames_are_sent_again_until_the_first_mask(tmp_path, model, street):
    """A node that misses the few frames of a source, as one that waits for the processor."""
    images = tmp_path / "images"
    images.mkdir()
    for number in range(3):
        shutil.copy(street / "images" / f"{number}.png", images)
    node = (
        "import sys; from bisenetv2_ros.cli import main\n"
        "from bisenetv2_ros.node.inference import Inference\n"
        "put, missed = Inference.put, []\n"
        "def stalled(inference, index, message):\n"
        "    missed.append(message) if len(missed) < 3 else put(inference, index, message)\n"
        "Inference.put = stalled\n"
        "sys.exit(main.main(sys.argv[2:], verb='segment'))"
    )
    code = (
        "import sys; from bisenetv2_ros.cli import main; from bisenetv2_ros.demo import run\n"
        f"run._program = lambda verb, program=run._program: (\n"
        f"    [sys.executable, '-c', {node!r}, verb] if verb == 'segment' else program(verb))\n"
        "sys.exit(main.main(sys.argv[1:], verb='demo'))"
    )
    words = ("--source", images, "--model", model, "--output", tmp_path / "out")
    result = demo(*words, program=[sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert "no mask for 3 frames: the camera starts over" in result.stdout
    frames = json.loads((tmp_path / "out" / "summary.json").read_text())["frames"]
    assert frames["sent"] > 3 and frames["sent"] % 3 == 0 and 1 <= frames["received"] <= 3


def test_source_without_end_ends_on_a_slow_machine(tmp_path, model):
    code = (
        "import sys; from bisenetv2_ros.cli import main; from bisenetv2_ros.demo import run\n"
        "run.ENDLESS_FRAMES, run.ENDLESS_SECONDS = 100000, 1.0\n"
        "sys.exit(main.main(sys.argv[1:], verb='demo'))"
    )
    result = demo("--model", model, "--output", tmp_path, program=[sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert 1 <= summary["frames"]["received"] < 100_000 / 15
    assert not summary["interrupted"]


def test_label_that_is_no_class_is_named(tmp_path, model, street):
    labels = tmp_path / "labels"
    labels.mkdir()
    cv2.imwrite(str(labels / "0.png"), np.full(SIZE[::-1], len(CAMVID), "u1"))  # unlabelled
    cv2.imwrite(str(labels / "1.png"), np.full(SIZE[::-1], 30, "u1"))
    words = ("--source", street / "images", "--labels", labels, "--model", model)
    result = demo(*words, "--output", tmp_path / "out")
    assert result.returncode == 1
    assert "error: the label of frame 2: label value 30 is neither 0..10" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "nowhere"), "source 'nowhere': no such file or folder"),
        (("--model", "nowhere.onnx"), "nowhere.onnx"),
        (("--frames", "0"), "argument --frames: got 0, expected at least 1"),
        (("--frames", "few"), "argument --frames: got few, expected at least 1, a whole number"),
        (("--rate", "fast"), "argument --rate: got fast, expected a number above 0"),
        (("--rate", "nan"), "argument --rate: got nan, expected a number above 0"),
    ],
)
def test_wrong_options_are_refused_before_anything_starts(tmp_path, model, words, message):
    result = demo("--model", model, "--output", tmp_path / "out", *words)
    assert result.returncode == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


class FakeNode:
    """Takes subscriptions."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Any] = {}

    def create_subscription(self, kind, topic, callback, qos) -> None:
        self.callbacks[topic] = callback

    def get_namespace(self) -> str:
        return "/demo"

    def get_clock(self):
        from rclpy.clock import Clock

        return Clock()


def messages(number: int, encoding: str = "rgb8") -> dict[str, Any]:
    """What comes for the frame of a number; its pixels and its class tell the number."""
    from bisenetv2_ros.msg import ClassFraction, ClassFractions
    from sensor_msgs.msg import Image

    made: dict[str, Any] = {
        "image_raw": Image(encoding=encoding, width=2, height=1, step=6),
        "segmentation/mask": Image(encoding="mono8", width=1, height=2, step=3),
        "segmentation/class_fractions": ClassFractions(
            model="m", classes=[ClassFraction(class_name="c", fraction=float(number))]
        ),
    }
    made["image_raw"].data = [number, 0, 1] * 2
    made["segmentation/mask"].data = [number, 99, 99, number + 1, 99, 99]  # padded rows
    for message in made.values():
        message.header.stamp.sec = number
    return made


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_parts_of_a_frame_are_matched_in_any_order(order):
    from bisenetv2_ros.demo.observer import Observer

    node, frames = FakeNode(), []
    observer = Observer(node, frames.append)
    parts = [list(messages(number).items()) for number in (5, 6)]
    for i in order:
        for topic, message in (parts[0][i], parts[1][i]):
            node.callbacks[topic](message)
    assert not observer.waiting
    for number, frame in zip((5, 6), frames, strict=True):
        assert frame.image.tolist() == [[[number, 0, 1]] * 2]
        assert frame.mask.tolist() == [[number], [number + 1]]
        assert frame.fractions.tolist() == [number]


def test_a_dropped_frame_is_not_waited_for():
    from bisenetv2_ros.demo.observer import Observer

    node, frames = FakeNode(), []
    observer = Observer(node, frames.append)
    for number in (5, 6):
        node.callbacks["image_raw"](messages(number)["image_raw"])
    assert observer.waiting
    for topic, message in messages(6).items():
        if topic != "image_raw":
            node.callbacks[topic](message)
    assert not observer.waiting  # the node takes the newest frame, so 5 is dropped
    assert (observer.measured.sent, observer.measured.received, len(frames)) == (2, 1, 1)


def test_bgr_frames_are_turned():
    from bisenetv2_ros.demo.observer import Observer

    node, frames = FakeNode(), []
    Observer(node, frames.append)
    for topic, message in messages(5, "bgr8").items():
        node.callbacks[topic](message)
    assert frames[0].image.tolist() == [[[1, 0, 5]] * 2]


def test_frames_without_an_answer_are_forgotten():
    from bisenetv2_ros.demo import observer as module

    node, frames = FakeNode(), []
    observer = module.Observer(node, frames.append)
    for number in range(module._PENDING + 10):
        node.callbacks["image_raw"](messages(number)["image_raw"])
    assert len(observer._pending) == module._PENDING
    assert observer.measured.sent == module._PENDING + 10
