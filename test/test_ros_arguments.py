"""Arguments and environments that ROS refuses: one line that says what to do, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs a ROS 2")
pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")

from patience import HANG
from ros_graph import ENVIRONMENT

SECURED = {"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}


def refused(verb: str, *words: str | bytes, drop: tuple[str, ...] = (), **variables: str) -> str:
    """What the verb says: one line, with an exit code that tells."""
    environment = {**ENVIRONMENT, **variables}
    for name in drop:
        environment.pop(name, None)
    command = [sys.executable, "-m", "bisenetv2_ros.cli.main", verb, *words]
    result = subprocess.run(
        command, env=environment, capture_output=True, timeout=HANG, stdin=subprocess.DEVNULL
    )
    text = (result.stdout + result.stderr).decode(errors="replace")
    assert result.returncode in (1, 2), text
    (line,) = text.splitlines()
    assert "error" in line.lower()
    return line


@pytest.mark.parametrize("verb", ["segment", "camera"])
class TestArguments:
    def test_an_assignment_without_its_flag(self, verb):
        line = refused(verb, "--ros-args", "x:=y")
        assert "unknown ROS arguments 'x:=y': write -p NAME:=VALUE" in line

    def test_an_option_of_another_program(self, verb):
        line = refused(verb, "--ros-args", "--frobnicate", "5")
        assert "unknown ROS arguments '--frobnicate 5': expected -p, -r, --params-file" in line

    @pytest.mark.parametrize("words", [("-p",), ("-r", "a"), ("--log-level", "loud")])
    def test_what_rcl_cannot_parse(self, verb, words):
        line = refused(verb, "--ros-args", *words)
        assert "parse" in line and words[0] in line and ".c:" not in line

    def test_a_parameter_file_that_is_not_there(self, verb):
        assert "/nowhere.yaml" in refused(verb, "--ros-args", "--params-file", "/nowhere.yaml")

    def test_bytes_that_are_not_utf8(self, verb):
        line = refused(verb, "--ros-args", "-p", b"model:=\xff.onnx")
        assert r"argument b'model:=\xff.onnx' is not UTF-8" in line

    def test_security_without_a_keystore(self, verb):
        line = refused(verb, **SECURED, drop=("ROS_SECURITY_KEYSTORE",))
        assert "no ROS_SECURITY_KEYSTORE" in line and "ros2 security create_keystore" in line

    def test_security_with_a_keystore_that_is_not_there(self, verb, tmp_path):
        line = refused(verb, **SECURED, ROS_SECURITY_KEYSTORE=str(tmp_path))
        assert f"ROS_SECURITY_KEYSTORE is '{tmp_path}'" in line and "create_keystore" in line


@pytest.mark.parametrize("null", ["~", "null"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model", "expected a string, such as ''"),
        ("backend", "expected a string, such as 'auto'"),
        ("cameras", "expected a list of strings, such as [image_raw]"),
        ("max_rate", "expected a float from 0.0 to 1000.0, such as 0.0"),
    ],
)
def test_nulls_of_yaml_are_named(tmp_path: Path, null, name, expected):
    path = tmp_path / "my.yaml"
    path.write_text(f"/**:\n  ros__parameters:\n    {name}: {null}\n")
    line = refused("segment", "--ros-args", "--params-file", os.fspath(path))
    assert f"parameter {name}: got {null}, YAML's null, {expected}" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("segment:\n\tros__parameters:\n", "line 2: indented with a tab, expected spaces"),
        ("segment:\n  max_rate: 5.0\n", "at line 2: 'max_rate: 5.0'; expected NODE: {ros__parame"),
        ("segment:\n  ros__parameters:\n    cameras:\n    threads: 1\n", "No value at line"),
        (
            "a: &a\n  ros__parameters:\n    threads: 1\nsegment: *a\n",
            "'segment: *a'; expected NODE",
        ),
        ("/**:\n  ros__parameters:\n    cameras: [a, 5]\n", "at line_num 3: 'cameras: [a, 5]'"),
        ("ros__parameters:\n  threads: 1\n", "no node names"),
        ("- segment\n", "'- segment'; expected NODE: {ros__parameters: {NAME: VALUE}}"),
    ],
)
def test_the_line_of_a_parameter_file_is_shown(tmp_path: Path, text, expected):
    path = tmp_path / "my.yaml"
    path.write_text(text)
    line = refused("segment", "--ros-args", "--params-file", os.fspath(path))
    assert f"parameter file {path}" in line and expected in line


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cameras:=a/image_raw", "expected a list of strings, such as ['a/image_raw']"),
        ("enabled:='true'", "expected true or false, without quotes"),
    ],
)
def test_what_to_write_is_said(given, expected):
    assert expected in refused("segment", "--ros-args", "-p", given)
