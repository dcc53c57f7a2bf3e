"""The launch files under the real launch system; without it, test_segment_node.py covers the node.

Each test starts a launch file as `ros2 launch` does, and ends it with a shutdown that every process
has to survive with exit code 0.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("launch_pytest", reason="needs launch_pytest, from ROS's apt")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import launch_pytest
import numpy as np
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events.process import ProcessExited, ProcessStarted
from launch.launch_description_sources import (
    PythonLaunchDescriptionSource,
    get_launch_description_from_python_launch_file,
)
from ros_graph import ENVIRONMENT, Graph, graph, image_message
from running_node import camera, publish_until
from sensor_msgs.msg import Image
from tiny_model import write_tiny_model
from trouble_model import FAILURE, write_trouble_model

LAUNCH = Path(__file__).resolve().parent.parent / "launch"


class Launched:
    """A launch file with arguments, and the starts and exits of its processes."""

    def __init__(self, name: str, **arguments: str) -> None:
        self.started: list[ProcessStarted] = []
        self.exited: list[ProcessExited] = []
        self.description = LaunchDescription(
            [
                SetEnvironmentVariable("ROS_DOMAIN_ID", ENVIRONMENT["ROS_DOMAIN_ID"]),
                RegisterEventHandler(
                    OnProcessStart(on_start=lambda event, _: self.started.append(event))
                ),
                RegisterEventHandler(
                    OnProcessExit(on_exit=lambda event, _: self.exited.append(event))
                ),
                IncludeLaunchDescription(
                    PythonLaunchDescriptionSource(str(LAUNCH / name)),
                    launch_arguments=arguments.items(),
                ),
            ]
        )

    def names(self) -> list[str]:
        return sorted(event.process_name.rpartition("-")[0] for event in self.started)


def frame(blue: int = 0) -> Image:
    pixels = np.zeros((24, 32, 3), np.uint8)
    pixels[..., 2] = blue
    return image_message(pixels)


@pytest.fixture
def ros():
    with graph() as made:
        yield made


@pytest.mark.parametrize("name", ["segment.launch.py", "demo.launch.py"])
def test_every_argument_is_explained(name):
    arguments = get_launch_description_from_python_launch_file(
        str(LAUNCH / name)
    ).get_launch_arguments()
    assert arguments
    for argument in arguments:
        assert isinstance(argument, DeclareLaunchArgument)
        assert argument.description.endswith("."), f"{name} {argument.name}"


# Function scope: with a wider one, launch_pytest keeps one launch context for all, and with it
# the arguments of the launch file before.


@pytest.fixture
def one_camera(tmp_path) -> Launched:
    return Launched(
        "segment.launch.py",
        image_topic="/driver/colour",
        namespace="robot",
        model=str(write_tiny_model(tmp_path / "model.onnx")),
        backend="onnxruntime",
        log_level="debug",
    )


@launch_pytest.fixture
def one_camera_description(one_camera):
    return one_camera.description


@pytest.mark.launch(fixture=one_camera_description)
def test_one_camera_by_its_topic(one_camera, ros: Graph):
    masks = ros.collect(Image, "/robot/segmentation/mask")
    publisher = camera(ros, "/driver/colour")
    assert publish_until(ros, publisher, frame(), lambda: masks)
    assert one_camera.names() == ["segment"], "RViz is not asked for"
    yield  # and launch shuts down
    assert [event.returncode for event in one_camera.exited] == [0]


@pytest.fixture
def two_cameras(tmp_path) -> Launched:
    parameters = tmp_path / "my.yaml"
    parameters.write_text(
        "/**:\n  ros__parameters:\n    mask_size: camera\n    model: replaced by the argument\n"
    )
    return Launched(
        "segment.launch.py",
        cameras="[front/image_raw, rear/image_raw]",
        params_file=str(parameters),
        model=str(write_tiny_model(tmp_path / "model.onnx")),
    )


@launch_pytest.fixture
def two_cameras_description(two_cameras):
    return two_cameras.description


@pytest.mark.launch(fixture=two_cameras_description)
def test_arguments_go_before_the_parameter_file_and_leave_the_rest_of_it(ros: Graph):
    large = image_message(np.zeros((48, 64, 3), np.uint8))
    for name in ("front", "rear"):
        masks = ros.collect(Image, f"{name}/segmentation/mask")
        publisher = camera(ros, f"{name}/image_raw")
        assert publish_until(ros, publisher, large, lambda masks=masks: masks)
        assert (masks[0].width, masks[0].height) == (64, 48)


@pytest.fixture
def failing(tmp_path) -> Launched:
    model = str(write_trouble_model(tmp_path / "model.onnx"))
    return Launched("segment.launch.py", model=model, backend="onnxruntime")


@launch_pytest.fixture
def failing_description(failing):
    return failing.description


@pytest.mark.launch(fixture=failing_description)
def test_node_that_failed_is_started_again(failing, ros: Graph):
    masks = ros.collect(Image, "segmentation/mask")
    publisher = camera(ros)
    assert publish_until(ros, publisher, frame(FAILURE), lambda: failing.exited)
    assert failing.exited[0].returncode == 1
    assert publish_until(ros, publisher, frame(), lambda: masks)
    assert failing.names() == ["segment", "segment"]


@pytest.fixture
def demo(tmp_path) -> Launched:
    model = str(write_tiny_model(tmp_path / "model.onnx"))
    return Launched("demo.launch.py", rviz="false", model=model)


@launch_pytest.fixture
def demo_description(demo):
    return demo.description


@pytest.mark.launch(fixture=demo_description)
def test_demo_shows_the_overlay_of_its_own_camera(demo, ros: Graph):
    overlays = ros.collect(Image, "/demo/segmentation/overlay")
    assert ros.spin_until(lambda: overlays)
    assert demo.names() == ["camera", "segment"]
    yield
    assert [event.returncode for event in demo.exited] == [0, 0]
