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
from bisenetv2_ros.node.parameter_files import full_name, last_given
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


@pytest.mark.parametrize("text", ["", "# segment:\n", "{}"])
def test_a_file_without_parameters_is_named(node_with_file, text):
    problems, (warning,), values = node_with_file(text)
    assert (problems, values) == ([], Parameters())
    assert "shared.yaml: no parameters in it" in warning


@pytest.mark.parametrize("key", ["segment", "/left/segment", "/left/**/segment"])
def test_a_key_of_another_namespace_beside_a_wildcard_is_named(node_with_file, key):
    wild = "/**: {ros__parameters: {use_sim_time: false}}\n"
    text = f"{wild}{key}: {{ros__parameters: {{max_rate: 7.0}}}}\n"
    problems, (warning,), values = node_with_file(text)
    assert (problems, values) == ([], Parameters())
    assert f"/{key.lstrip('/')} does not match /robot/segment" in warning
    own = "/robot/segment: {ros__parameters: {max_rate: 8.0}}\n"  # a file for several robots
    problems, warnings, values = node_with_file(text + own)
    assert (problems, warnings, values.max_rate) == ([], [], 8.0)


OWN = """
/**:
  ros__parameters: {max_rate: 1e3, cameras: [a, 'b: c'], crops: [], threads: 3}
/**/segment:
  ros__parameters: {max_rate: 7.0, model: "5", regions: [r]}
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["-p", "threads:=1", "FILE", "-p", "model:=two"], {"threads": 3, "model": "two"}),
        (["-p", "threads:=1", "FILE", "-p", "max_rate:=2"], {"threads": 3, "max_rate": 2.0}),
        (["-p", "model:=two", "FILE"], {"model": "5", "max_rate": 7.0}),
        (["FILE", "--param", "threads:=0x10"], {"threads": 16}),
        (["FILE", "-p", "segment:threads:=4"], {"threads": 4}),
        (["FILE", "-p", "other:threads:=4"], {"threads": 3}),
        (["FILE", "SECOND"], {"max_rate": 9.0, "model": "6: x", "cameras": ("d",), "threads": 3}),
        (["SECOND", "FILE"], {"max_rate": 7.0, "model": "5", "cameras": ("a", "b: c")}),
        (["SECOND", "FILE", "-r", "__node:=front"], {"max_rate": 1e3, "model": "6: x"}),
        (["FILE", "-p", "use_sim_time:=true", "SECOND"], {"use_sim_time": False}),
    ],
)
def test_what_is_given_last_holds(tmp_path, words, expected):
    """rclpy alone goes by where each key appeared first."""
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2")
    from ros_graph import DOMAIN

    (tmp_path / "FILE").write_text(OWN)
    (tmp_path / "SECOND").write_text(
        """
        /robot/segment: {ros__parameters: {model: 'no'}}
        /**: {ros__parameters: {max_rate: 9.0, model: '6: x', cameras: [d], use_sim_time: false}}
        """
    )
    all_words = ["program", "--ros-args", "-r", "__ns:=/robot", "-p", "first:=1"]
    for word in words:
        file = tmp_path / word
        all_words += ["--params-file", str(file)] if word in ("FILE", "SECOND") else [word]
    context = rclpy.Context()
    rclpy.init(args=all_words, context=context, domain_id=DOMAIN)
    own = last_given("segment", all_words)
    node = rclpy.create_node("segment", context=context, cli_args=own)
    try:
        assert node.get_fully_qualified_name() == full_name("segment", all_words)
        assert parameters.declare(node, all_words) == []
        values = vars(parameters.read(node))
        values["use_sim_time"] = node.get_parameter("use_sim_time").value
        assert {name: values[name] for name in expected} == expected
    finally:
        node.destroy_node()
        context.shutdown()


def test_nodes_take_it_from_their_command_line(tmp_path, monkeypatch):
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2")
    from ros_graph import DOMAIN

    from bisenetv2_ros.node.lifecycle import ReportingNode

    (tmp_path / "own.yaml").write_text("/**/segment: {ros__parameters: {a: 5, b: 5}}")
    words = ["segment", "--ros-args", "-p", "a:=1", "--params-file", str(tmp_path / "own.yaml")]
    words += ["-p", "b:=2"]
    monkeypatch.setattr(sys, "argv", words)
    rclpy.init(args=words, domain_id=DOMAIN)
    try:
        node = ReportingNode("segment")
        assert [node.declare_parameter(name, 0).value for name in ("a", "b")] == [5, 2]
        node.destroy_node()
    finally:
        rclpy.shutdown()


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ([], "/segment"),
        (["__ns:=/a/b", "__node:=x"], "/a/b/x"),
        (["segment:__ns:=/a", "other:__node:=y", "__name:=z", "__node:=late"], "/z"),
        (["segment:__node:=x", "x:__ns:=/robot"], "/robot/x"),
        (["image_raw:=/camera", "__ns:=/"], "/segment"),
    ],
)
def test_full_name_is_the_one_that_rclpy_gives(rules, name):
    words = ["--ros-args", *(word for rule in rules for word in ("-r", rule))]
    assert full_name("segment", words) == name
    rclpy = pytest.importorskip("rclpy", reason="needs a ROS 2")
    from ros_graph import DOMAIN

    context = rclpy.Context()
    rclpy.init(args=words, context=context, domain_id=DOMAIN)
    node = rclpy.create_node("segment", context=context)
    try:
        assert node.get_fully_qualified_name() == name
    finally:
        node.destroy_node()
        context.shutdown()


class WithoutPrivateNames:
    """A node of an rclpy that has renamed what is not public."""

    def __init__(self, node) -> None:
        self._of = node
        self.warnings: list[str] = []

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._of, name)

    def get_logger(self):
        return SimpleNamespace(warning=self.warnings.append)


def test_values_are_taken_and_checked_without_rclpys_private_names(make_node, monkeypatch):
    from rclpy import qos_overriding_options

    from bisenetv2_ros.node import rclpy_private
    from bisenetv2_ros.node.qos import SubscriptionQoS

    override = "qos_overrides./image_raw.subscription.depth:=5"
    node = WithoutPrivateNames(
        make_node("max_rate:=5", "cameras:=[a, b]", "threads:=many", "opacity:=0.3", override)
    )
    assert parameters.declare(node) == [
        "parameter threads: got 'many', expected an integer from 0 to 1024"
    ]
    assert parameters.read(node) == Parameters(max_rate=5.0, cameras=("a", "b"))
    assert SubscriptionQoS(node, "image_raw").profile([]).depth == 5
    rclpy_private.free_state_machine(node)
    monkeypatch.delattr(qos_overriding_options, "_declare_qos_parameters")
    assert SubscriptionQoS(node, "other").profile([]).depth == 1
    for consequence in (
        "unknown names",
        "left behind in /dev/shm",
        "/other takes no qos_overrides",
    ):
        assert any(consequence in line for line in node.warnings)


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
