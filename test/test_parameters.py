"""The table of parameters: complete, checked, described, and in agreement with what is shipped."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from bisenetv2_ros.node import parameters
from bisenetv2_ros.node.parameters import FIELDS, Parameters, markdown, problem, unknown

ROOT = Path(__file__).resolve().parent.parent


def test_defaults_pass_their_own_checks():
    for field in FIELDS.values():
        assert problem(field, field.default) is None


def test_descriptions_are_sentences_and_times_and_rates_name_their_unit():
    for name, field in FIELDS.items():
        assert field.metadata["description"].endswith("."), name
        if isinstance(field.default, float) and field.metadata["limits"] != (0.0, 1.0):
            assert "[" in field.metadata["description"], f"{name} has no unit"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("overlay_opacity", 1.5, "a float from 0.0 to 1.0"),
        ("overlay_opacity", math.nan, "a float from 0.0 to 1.0"),
        ("overlay_opacity", 2, "a float from 0.0 to 1.0"),
        ("overlay_opacity", True, "a float from 0.0 to 1.0"),
        ("threads", -1, "an integer from 0 to 1024"),
        ("threads", True, "an integer from 0 to 1024"),
        ("enabled", "yes", "true or false"),
        ("model", 3, "a string"),
        ("mask_size", "huge", "network or camera"),
        ("cameras", "image_raw", "a list of strings"),
        ("cameras", [1, 2], "a list of strings"),
    ],
)
def test_wrong_values_are_named_with_what_was_expected(name, value, expected):
    assert problem(FIELDS[name], value) == f"parameter {name}: got {value!r}, expected {expected}"


def test_unknown_names_come_with_the_nearest_known_one():
    assert unknown(["overlay_opacty"], FIELDS) == [
        "parameter overlay_opacty: unknown, did you mean overlay_opacity?"
    ]
    (line,) = unknown(["zzz"], FIELDS)
    assert line.startswith("parameter zzz: unknown, known: model, backend,")


def test_markdown_table_has_one_row_a_parameter_and_needs_no_ros():
    blocked = "import sys; sys.modules['rclpy'] = sys.modules['rcl_interfaces'] = None; "
    run = "import runpy; runpy.run_module('bisenetv2_ros.node.parameters', run_name='__main__')"
    result = subprocess.run(
        [sys.executable, "-c", blocked + run], capture_output=True, text=True, check=True
    )
    assert result.stdout == markdown() + "\n"
    rows = markdown().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(FIELDS)
    assert all(row.count(" | ") == 4 for row in rows), "a cell holds a column separator"


def test_parameter_file_holds_every_parameter_with_its_default():
    text = (ROOT / "config" / "segment.yaml").read_text()
    document = yaml.safe_load(text)
    (values,) = (node["ros__parameters"] for node in document.values())
    defaults = {
        name: list(field.default) if isinstance(field.default, tuple) else field.default
        for name, field in FIELDS.items()
    }
    assert values == defaults
    assert [type(value) for value in values.values()] == [type(v) for v in defaults.values()]
    prose = " ".join(text.replace("#", " ").split())
    for name, field in FIELDS.items():
        assert field.metadata["description"] in prose, f"{name} is commented otherwise"


@pytest.fixture
def make_node():
    """Makes nodes with parameter overrides, in a domain of their own."""
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2")
    from ros_graph import DOMAIN

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=DOMAIN)
    nodes = []

    def make(*words: str):
        arguments = ["--ros-args"] + [part for word in words for part in ("-p", word)]
        nodes.append(rclpy.create_node("parameters", context=context, cli_args=arguments))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_declared_node_describes_and_reads_back(make_node):
    node = make_node("overlay_opacity:=0.25", "cameras:=[a/image, b/image]", "use_sim_time:=true")
    assert parameters.declare(node) == []
    values = parameters.read(node)
    assert values == Parameters(overlay_opacity=0.25, cameras=("a/image", "b/image"))
    for name, field in FIELDS.items():
        descriptor = node.describe_parameter(name)
        assert descriptor.description == field.metadata["description"]
        assert descriptor.read_only is not field.metadata["dynamic"]
    opacity = node.describe_parameter("overlay_opacity").floating_point_range[0]
    assert (opacity.from_value, opacity.to_value) == (0.0, 1.0)
    assert node.describe_parameter("mask_size").additional_constraints == "network or camera"


def test_wrong_overrides_are_all_reported_and_the_defaults_stand(make_node):
    node = make_node(
        "overlay_opacity:=2.0", "threads:=many", "cameras:=[]", "opacity:=0.3", "mask_size:=big"
    )
    problems = parameters.declare(node)
    assert {line.split(":")[0] for line in problems} == {
        "parameter overlay_opacity",
        "parameter threads",
        "parameter cameras",
        "parameter opacity",
        "parameter mask_size",
    }, problems
    assert all("\n" not in line for line in problems)
    assert parameters.read(node) == Parameters()


def test_an_integer_is_taken_for_a_float(make_node):
    node = make_node("max_rate:=5", "overlay_opacity:=1")
    assert parameters.declare(node) == []
    values = parameters.read(node)
    assert (values.max_rate, values.overlay_opacity) == (5.0, 1.0)
    assert isinstance(values.max_rate, float)


FILE = """
/**:
  ros__parameters: {{robot_name: r2d2, overlay_opacty: 0.5, camera: {{gain: 3}}}}
/robot/{name}:
  ros__parameters: {{max_rate: 7.0}}
left:
  camera_driver:
    ros__parameters: {{fps: 30}}
"""


@pytest.fixture
def node_with_file(tmp_path):
    """Makes /robot/segment with a parameter file; (its problems, its warnings, its values)."""
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2")
    from ros_graph import DOMAIN

    path = tmp_path / "shared.yaml"

    def make(text: str):
        path.write_text(text)
        words = ["--ros-args", "--params-file", str(path), "-r", "__ns:=/robot"]
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=DOMAIN)
        node = rclpy.create_node("segment", context=context, cli_args=words)
        warnings: list[str] = []
        node.get_logger = lambda: SimpleNamespace(warning=warnings.append)
        try:
            return parameters.declare(node, words), warnings, parameters.read(node)
        finally:
            node.destroy_node()
            context.shutdown()

    return make


def test_what_a_shared_file_has_for_other_nodes_is_a_warning(node_with_file):
    problems, warnings, values = node_with_file(FILE.format(name="segment"))
    assert (problems, values.max_rate) == ([], 7.0)
    assert [line.split(":")[0] for line in warnings] == [
        "parameter robot_name",
        "parameter overlay_opacty",
        "parameter camera.gain",
    ]
    assert "did you mean overlay_opacity?; another node's?" in warnings[1]


@pytest.mark.parametrize("key", ["/robot/segment", "/**/segment", "robot: {segment"])
def test_an_unknown_name_under_the_node_s_own_is_an_error(node_with_file, key):
    end = "}" if "{" in key else ""
    text = f"{key}: {{ros__parameters: {{robot_name: r2d2}}}}{end}"
    problems, warnings, _ = node_with_file(text)
    assert len(problems) == 1 and problems[0].startswith("parameter robot_name: unknown")
    assert warnings == []


@pytest.mark.parametrize("key", ["/segment", "/robot/segmentation", "/left/segment", "segment"])
def test_a_file_with_nothing_for_the_node_is_named(node_with_file, key):
    problems, (warning,), values = node_with_file(f"{key}: {{ros__parameters: {{max_rate: 7.0}}}}")
    assert (problems, values) == ([], Parameters())
    assert "shared.yaml: nothing in it is for /robot/segment, found /" in warning


def test_a_parameter_for_all_nodes_of_a_launch_does_not_end_this_one(make_node):
    """SetParameter gives it to each as `-p`; a misspelt one of ours stays an error."""
    assert parameters.declare(make_node("robot_name:=r2d2")) == []
    (problem,) = parameters.declare(make_node("max_rat:=7.0"))
    assert problem == "parameter max_rat: unknown, did you mean max_rate?"


def test_an_empty_list_is_no_regions_but_not_no_cameras(make_node):
    """ROS has no type for `[]`, and gives the value None."""
    node = make_node("regions:=[]", "crops:=[]")
    assert parameters.declare(node) == []
    assert parameters.read(node) == Parameters()
    node = make_node("cameras:=[]")
    assert parameters.declare(node) == [
        "parameter cameras: got an empty list, expected at least one string"
    ]


def test_changes_out_of_range_or_read_only_are_refused_with_a_reason(make_node):
    from rclpy.parameter import Parameter

    node = make_node()
    parameters.declare(node)
    for name, value in [
        ("overlay_opacity", 1.01),
        ("overlay_opacity", math.nan),
        ("overlay_opacity", math.inf),
        ("max_rate", -1.0),
        ("enabled", 1),
        ("model", "other.onnx"),
    ]:
        (result,) = node.set_parameters([Parameter(name, value=value)])
        assert not result.successful and result.reason, f"{name} = {value} was taken"
    assert parameters.read(node) == Parameters()
    (result,) = node.set_parameters([Parameter("overlay_opacity", value=0.75)])
    assert result.successful and parameters.read(node).overlay_opacity == 0.75
