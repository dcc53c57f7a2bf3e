"""The launch files under the real launch system; without it, test_segment_node.py covers the node.

Each test starts a launch file as `ros2 launch` does, and ends it with a shutdown that every process
has to survive with exit code 0.
"""

from __future__ import annotations

import os
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("launch_pytest", reason="needs launch_pytest, from ROS's apt")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

import launch_pytest
import numpy as np
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit, OnProcessStart
from launch.events.process import ProcessExited, ProcessStarted
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import (
    AnyLaunchDescriptionSource,
    get_launch_description_from_python_launch_file,
)
from launch_ros.actions import PushRosNamespace, SetParameter
from patience import HANG
from rcl_interfaces.srv import GetParameters
from rclpy.parameter import parameter_value_to_python
from ros_graph import ENVIRONMENT, Graph, graph, image_message
from running_node import camera, publish_until
from sensor_msgs.msg import Image
from tiny_model import write_tiny_model
from trouble_model import FAILURE, write_trouble_model

LAUNCH = Path(__file__).resolve().parent.parent / "launch"


def include(path: Path | str, **arguments: str) -> IncludeLaunchDescription:
    """A launch file of this package by its name, or any by its path."""
    source = AnyLaunchDescriptionSource(str(LAUNCH / path))
    return IncludeLaunchDescription(source, launch_arguments=arguments.items())


class Launched:
    """What is launched, and the starts and exits of its processes."""

    def __init__(self, *entities: LaunchDescriptionEntity) -> None:
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
                *entities,
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
        said = argument.description.partition(" Valid choices are")[0]  # launch adds that
        assert said.endswith("."), f"{name} {argument.name}"


# Function scope: with a wider one, launch_pytest keeps one launch context for all, and with it
# the arguments of the launch file before.


@pytest.fixture
def one_camera(tmp_path) -> Launched:
    return Launched(
        include(
            "segment.launch.py",
            image_topic="/driver/colour",
            namespace="robot",
            model=str(write_tiny_model(tmp_path / "model.onnx")),
            backend="onnxruntime",
            log_level="debug",
        )
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
        include(
            "segment.launch.py",
            cameras="[front/image_raw, rear/image_raw]",
            params_file=str(parameters),
            model=str(write_tiny_model(tmp_path / "model.onnx")),
        )
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
    return Launched(
        include("segment.launch.py", model=model, backend="onnxruntime", respawn="true")
    )


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
    return Launched(include("demo.launch.py", rviz="false", model=model))


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


# How the launch file is included, and what the nodes' parameters are then.

#: To be answered at once, the nodes wait for a lifecycle manager.
GIVEN = {
    "model": "some.onnx",
    "cameras": "[front/image_raw, rear/image_raw]",
    "image_transport": "compressed",
    "autostart": "false",
}
EXPECTED: dict[str, Any] = {
    "model": "some.onnx",
    "cameras": ["front/image_raw", "rear/image_raw"],
    "image_transport": "compressed",
}
Scenario = tuple[list[LaunchDescriptionEntity], dict[str, dict[str, Any]]]


def write(path: Path, text: str) -> str:
    path.write_text(textwrap.dedent(text))
    return str(path)


def after_a_global_parameter(_: Path) -> Scenario:
    entities = [SetParameter("use_sim_time", True), include("segment.launch.py", **GIVEN)]
    return entities, {"/segment": EXPECTED | {"use_sim_time": True}}


def with_a_file_of_two_wildcards(folder: Path) -> Scenario:
    file = write(
        folder / "my.yaml",
        """
        /**:
          ros__parameters: {max_rate: 7.0, model: replaced.onnx}
        /**/segment:
          ros__parameters: {model: replaced.onnx, image_transport: raw, mask_size: camera}
        """,
    )
    expected = EXPECTED | {"max_rate": 7.0, "mask_size": "camera"}
    return [include("segment.launch.py", params_file=file, **GIVEN)], {"/segment": expected}


def with_a_file_that_ends_in_a_wildcard(folder: Path) -> Scenario:
    file = write(
        folder / "my.yaml",
        """
        /segment:
          ros__parameters: {model: replaced.onnx, max_rate: 7.0}
        /**:
          ros__parameters: {model: replaced.onnx, image_transport: raw, max_rate: 8.0}
        """,
    )
    expected = EXPECTED | {"max_rate": 8.0}
    return [include("segment.launch.py", params_file=file, **GIVEN)], {"/segment": expected}


def under_a_pushed_namespace(folder: Path) -> Scenario:
    file = write(
        folder / "my.yaml", "/robot/left/segment: {ros__parameters: {model: no.onnx, threads: 3}}"
    )
    group = GroupAction(
        [
            PushRosNamespace("robot"),
            SetParameter("model", "not_this.onnx"),
            include("segment.launch.py", namespace="left", params_file=file, **GIVEN),
        ]
    )
    return [group], {"/robot/left/segment": EXPECTED | {"threads": 3}}


def twice_in_groups(_: Path) -> Scenario:
    """Arguments leak out of an include that is in no group of its own."""
    entities = [
        GroupAction([include("segment.launch.py", namespace="a", **GIVEN)]),
        GroupAction([include("segment.launch.py", namespace="b", autostart="false")]),
    ]
    default = {"model": "", "cameras": ["image_raw"], "image_transport": "auto"}
    return entities, {"/a/segment": EXPECTED, "/b/segment": default}


def from_xml(folder: Path) -> Scenario:
    file = write(
        folder / "robot.launch.xml",
        f"""
        <launch>
          <set_parameter name="use_sim_time" value="true"/>
          <include file="{LAUNCH}/segment.launch.py">
            {"".join(f'<arg name="{name}" value="{value}"/>' for name, value in GIVEN.items())}
          </include>
          <node pkg="bisenetv2_ros" exec="segment" name="second">
            <param name="autostart" value="false"/>
            <param name="model" value="another.onnx"/>
          </node>
        </launch>
        """,
    )
    nodes = {"/segment": EXPECTED, "/second": {"model": "another.onnx"}}
    return [include(file)], {
        name: expected | {"use_sim_time": True} for name, expected in nodes.items()
    }


def from_yaml(folder: Path) -> Scenario:
    arguments = "".join(
        f"\n              - {{name: {name}, value: '{value}'}}" for name, value in GIVEN.items()
    )
    file = write(
        folder / "robot.launch.yaml",
        f"""
        launch:
        - set_parameter: {{name: use_sim_time, value: 'true'}}
        - include:
            file: {LAUNCH}/segment.launch.py
            arg:{arguments}
        """,
    )
    return [include(file)], {"/segment": EXPECTED | {"use_sim_time": True}}


@pytest.fixture(
    params=[
        after_a_global_parameter,
        with_a_file_of_two_wildcards,
        with_a_file_that_ends_in_a_wildcard,
        under_a_pushed_namespace,
        twice_in_groups,
        from_xml,
        from_yaml,
    ],
    ids=lambda make: make.__name__,
)
def scenario(request, tmp_path) -> Scenario:
    make: Callable[[Path], Scenario] = request.param
    return make(tmp_path)


@launch_pytest.fixture
def scenario_description(scenario):
    return Launched(*scenario[0]).description


@pytest.mark.launch(fixture=scenario_description)
def test_arguments_hold_however_the_file_is_included(scenario, ros: Graph):
    for node, expected in scenario[1].items():
        answer = ros.call(GetParameters, f"{node}/get_parameters", names=list(expected))
        values = [parameter_value_to_python(value) for value in answer.values]
        assert dict(zip(expected, map(plain, values), strict=True)) == expected, node


def plain(value: Any) -> Any:
    return value if isinstance(value, str) or not hasattr(value, "__iter__") else list(value)


# What cannot work is said before anything starts.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"cameras": "front/image_raw"},
            "argument cameras: got 'front/image_raw', expected a list",
        ),
        ({"cameras": "[1, 2]"}, "argument cameras: got '[1, 2]', expected a list"),
        (
            {"params_file": "/no/such.yaml"},
            "argument params_file: there is no file '/no/such.yaml'",
        ),
        ({"rviz": "true"}, "argument rviz: rviz2 is not installed"),
        ({"image_transport": "theora"}, '"image_transport" provided value "theora" is not valid'),
        ({"rviz": "perhaps"}, '"rviz" provided value "perhaps" is not valid'),
    ],
)
def test_what_cannot_work_starts_nothing(arguments, said, monkeypatch):
    prefixes = os.environ["AMENT_PREFIX_PATH"].split(os.pathsep)
    without = [prefix for prefix in prefixes if not Path(prefix, "share", "rviz2").is_dir()]
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(without))
    words = [f"{name}:={value}" for name, value in arguments.items()]
    done = subprocess.run(
        ["ros2", "launch", LAUNCH / "segment.launch.py", *words],
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 1
    assert said in done.stdout + done.stderr
    assert "process started" not in done.stdout + done.stderr


@pytest.fixture
def rviz(tmp_path, monkeypatch) -> Path:
    """An rviz2, and the plugin for compressed images, that only write down their arguments."""
    for package in ("rviz2", "compressed_image_transport"):
        index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
    program = tmp_path / "lib" / "rviz2" / "rviz2"
    program.parent.mkdir(parents=True)
    program.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/words\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path / "words"


@pytest.fixture
def with_rviz(rviz) -> Launched:
    return Launched(
        include("segment.launch.py", rviz="true", namespace="robot", use_sim_time="true", **GIVEN)
    )


@launch_pytest.fixture
def with_rviz_description(with_rviz):
    return with_rviz.description


@pytest.mark.launch(fixture=with_rviz_description)
def test_rviz_shows_the_first_of_several_cameras_as_it_is_sent(with_rviz, rviz, ros: Graph):
    assert ros.spin_until(rviz.exists)
    words = rviz.read_text().splitlines()
    assert words[words.index("-d") + 1].endswith("config/segment_compressed.rviz")
    assert {
        "/image_raw/compressed:=front/image_raw/compressed",
        "/segmentation/overlay:=front/segmentation/overlay",
        "/segmentation/color_mask:=front/segmentation/color_mask",
        "__ns:=/robot",
    } <= set(words)
    parameters = Path(words[words.index("--params-file") + 1]).read_text()
    assert "use_sim_time: true" in parameters
