"""Every ROS parameter of the node `segment`, declared once.

The dataclass `Parameters` is the table: name, type, default, unit, range, and whether the
parameter may change while the node runs. `ros2 param describe`, the test of config/segment.yaml and
docs/parameters.md (`python -m bisenetv2_ros.node.parameters`) use it.

Dynamic parameters are validated by their descriptors (rclpy refuses a value outside the range and
says why) and take effect when the node next calls `read`, once a frame: no callback runs on a
change, so none can raise. This module does not know what the parameters do.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.node.parameter_files import given_to

if TYPE_CHECKING:
    from rclpy.node import Node

QOS_PREFIX = "qos_overrides."  # declared by rclpy for each topic that allows overrides


def _parameter(
    default: Any,
    description: str,
    *,
    limits: tuple[float, float] | None = None,
    choices: tuple[str, ...] = (),
    dynamic: bool = False,
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={
            "description": description,
            "limits": limits,
            "choices": choices,
            "dynamic": dynamic,
        },
    )


def _switch(outputs: str) -> Any:
    who = "they have" if " and " in outputs else "it has"
    return _parameter(True, f"Publish {outputs} while {who} subscribers.", dynamic=True)


@dataclass(frozen=True)
class Parameters:
    """One consistent set of values. Field names are the ROS parameter names."""

    model: str = _parameter(
        "",
        "Model file (.onnx), name of a shipped model, or folder made by `bisenetv2 deploy`, from "
        "which the backend takes the file that suits it. Empty: the package's default model.",
    )
    backend: str = _parameter(
        "auto",
        "Inference runtime: auto, tensorrt, openvino or onnxruntime. auto takes the first "
        "that is installed and has its device, in that order.",
    )
    device: str = _parameter(
        "",
        "Device as the backend names it, e.g. CPU, GPU.0 or cuda:1. Empty: the backend's default. "
        "tensorrt: 'cuda,block' yields the waiting thread's core while the GPU works, 'cuda,spin' "
        "answers some microseconds earlier.",
    )
    threads: int = _parameter(
        0,
        "CPU threads for inference. 0: one for each core that the process may use.",
        limits=(0, 1024),
    )
    cameras: tuple[str, ...] = _parameter(
        ("image_raw",),
        "Image topics, one per camera. The outputs of a topic a/b/image_raw are "
        "a/b/segmentation/mask and so on.",
    )
    outputs: str = _parameter(
        "beside",
        "Place of a camera's outputs: beside its topic, or below it, as in "
        "a/b/image_raw/segmentation/mask, for several cameras in one namespace.",
        choices=("beside", "below"),
    )
    image_transport: str = _parameter(
        "auto",
        "Transport of the images: auto follows each camera's topic and type in the graph; raw "
        "subscribes to sensor_msgs/Image on the topic, compressed and zstd to "
        "sensor_msgs/CompressedImage and ffmpeg (H.264, H.265) to FFMPEGPacket, on the topic "
        "and the transport's name.",
        choices=("auto", "raw", "compressed", "zstd", "ffmpeg"),
    )
    mask_size: str = _parameter(
        "camera",
        "Size of mask, color_mask and confidence. camera: the size of the (cropped) image. "
        "network: the network's input size, which is fewer bytes but not the camera's aspect "
        "ratio. The fractions are computed from this mask.",
        choices=("network", "camera"),
    )
    crops: tuple[str, ...] = _parameter(
        ("",),
        "Part of a camera's image to use, each 'CAMERA: LEFT TOP RIGHT BOTTOM' as fractions of "
        "its width and height. All outputs cover only that part.",
    )
    rotations: tuple[str, ...] = _parameter(
        ("",),
        "Cameras not mounted upright, each 'CAMERA: DEGREES' with the 90, 180 or 270 degrees "
        "clockwise that turn the image upright for the network. Outputs keep the camera's "
        "orientation.",
    )
    encodings: tuple[str, ...] = _parameter(
        ("",),
        "Encoding of a camera's images, each 'CAMERA: ENCODING', such as 'image_raw: "
        "bayer_rggb8', which overrides the one in its messages.",
    )
    regions: tuple[str, ...] = _parameter(
        ("",),
        "Regions of interest, each 'NAME: X Y, X Y, X Y' with the corners of a polygon as "
        "fractions of the (cropped) image's width and height, or 'NAME @ CAMERA: ...' for one "
        "of several cameras.",
    )
    region_limits: tuple[str, ...] = _parameter(
        ("",),
        "Limits on regions, each 'REGION: CLASS < SHARE WARN': the region's diagnostics are WARN "
        "while the fraction of CLASS in it is below SHARE (0 to 1). Use > for above, and ERROR "
        "for that level. Cameras with limits are segmented even without subscribers.",
    )
    camera_poses: tuple[str, ...] = _parameter(
        ("",),
        "Poses of cameras, for ground_points, each 'CAMERA: HEIGHT PITCH ROLL': meters above the "
        "ground, degrees down from the horizon, degrees by which the right side of the upright "
        "image is lower.",
    )
    ground_frame: str = _parameter(
        "",
        "tf2 frame whose plane z = 0 is the ground, such as base_footprint, for the cameras "
        "without camera_poses. Needs tf2_ros. Empty: none.",
    )
    depth_topics: tuple[str, ...] = _parameter(
        ("",),
        "Depth images registered to a camera's images (16UC1 in millimeters, 32FC1 in meters), "
        "each 'CAMERA: TOPIC'. ground_points then places every pixel at its measured depth and "
        "needs no pose.",
    )
    ground_classes: tuple[str, ...] = _parameter(
        ("",),
        "Classes that lie flat on the ground. ground_points has all of their pixels, but of other "
        "classes only the pixels where an object meets the ground. Empty: the model's classes "
        "named road, pavement, sidewalk, terrain and the like.",
    )
    ground_range: float = _parameter(
        30.0,
        "Maximum distance of ground_points, along the ground (with depth_topics: ahead) [m].",
        limits=(0.1, 1000.0),
    )
    autostart: bool = _parameter(
        True,
        "true: configure and activate at start-up; a failure ends the process. false: wait for "
        "lifecycle transitions.",
    )
    enabled: bool = _parameter(
        True,
        "false: no frames are segmented, and the cameras are not subscribed to. Also set by the"
        " service ~/enable.",
        dynamic=True,
    )
    max_rate: float = _parameter(
        0.0,
        "Maximum frames segmented per second and camera [Hz]. 0: unlimited.",
        limits=(0.0, 1000.0),
        dynamic=True,
    )
    overlay_opacity: float = _parameter(
        0.5,
        "Opacity of the class colors in overlay, 0 (camera image) to 1 (colors).",
        limits=(0.0, 1.0),
        dynamic=True,
    )
    jpeg_quality: int = _parameter(
        95,
        "JPEG quality of overlay/compressed and color_mask/compressed, 1 (smallest) to 100 "
        "(best). mask/compressed and confidence/compressed are lossless PNG.",
        limits=(1, 100),
        dynamic=True,
    )
    publish_mask: bool = _switch("mask and mask/compressed")
    publish_color_mask: bool = _switch("color_mask and color_mask/compressed")
    publish_overlay: bool = _switch("overlay and overlay/compressed")
    publish_confidence: bool = _switch("confidence and confidence/compressed")
    publish_class_fractions: bool = _switch("class_fractions")
    publish_camera_info: bool = _switch("camera_info")
    publish_ground_points: bool = _switch("ground_points")
    latency_budget: float = _parameter(
        0.2,
        "Diagnostics warn if the 99th percentile of the latency, from camera stamp to publishing, "
        "exceeds this [s]. 0: never.",
        limits=(0.0, 3600.0),
        dynamic=True,
    )
    stale_periods: float = _parameter(
        3.0,
        "Diagnostics report STALE if a camera has been silent for this many of its frame periods "
        "[1], but not before 0.25 s.",
        limits=(1.0, 10000.0),
        dynamic=True,
    )
    watchdog_timeout: float = _parameter(
        5.0,
        "Diagnostics report ERROR if a frame has been in inference for longer than this [s].",
        limits=(0.1, 3600.0),
        dynamic=True,
    )


Field = dataclasses.Field[Any]
FIELDS: dict[str, Field] = {field.name: field for field in dataclasses.fields(Parameters)}


def problem(field: Field, value: Any) -> str | None:
    """One line if `value` is invalid for the parameter `field`; otherwise None.

    ROS reads an empty list as None, which is valid if the default is [''].
    """
    expected, got = _expected(field), repr(value)
    if value in ("~", "null"):  # ROS reads YAML's null as a string
        valid = False
        expected, got = f"{expected}, such as {_literal(field.default)}", f"{value}, YAML's null"
    elif value is None and isinstance(field.default, tuple):
        valid = field.default == ("",)
        expected, got = "at least one string", "an empty list"
    elif isinstance(field.default, tuple):
        valid = isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value)
    elif isinstance(field.default, bool) or not isinstance(value, bool):
        kinds = (float, int) if isinstance(field.default, float) else type(field.default)
        valid = isinstance(value, kinds)
    else:
        valid = False  # True is an int to Python, not to ROS
    if valid and field.metadata["choices"]:
        valid = value in field.metadata["choices"]
    if valid and field.metadata["limits"] is not None:
        low, high = field.metadata["limits"]
        valid = math.isfinite(value) and low <= value <= high
    return None if valid else f"parameter {field.name}: got {got}, expected {expected}"


def _hint(field: Field, value: Any) -> str:
    """Return what to write instead of a value that only has the wrong form."""
    if not isinstance(value, str) or value in ("~", "null"):
        return ""
    if isinstance(field.default, tuple):
        return f", such as [{value!r}]"
    is_bool = isinstance(field.default, bool) and value.lower() in ("true", "false")
    return ", without quotes" if is_bool else ""


def unknown(names: Iterable[str], declared: Iterable[str]) -> list[str]:
    """One line for each of `names` that is not `declared`, naming the nearest one that is."""
    declared = list(declared)
    lines = []
    for name in names:
        if name not in declared:
            near = _nearest(name, declared)
            hint = f", did you mean {near}?" if near else f", known: {', '.join(declared)}"
            lines.append(f"parameter {name}: unknown{hint}")
    return lines


def _nearest(name: str, names: Iterable[str]) -> str:
    """The one of `names` that is most like `name`; '' if none is."""
    return next(iter(difflib.get_close_matches(name, list(names), n=1)), "")


def declare(node: Node, words: Sequence[str] = ()) -> list[str]:
    """Declare every parameter on `node`, which was given the command line `words`.

    Returns one line for each invalid value on the command line or in a parameter file. It is
    replaced by the default, so that the node can report it; the caller must not start work unless
    the list is empty. Parameters that may be meant for other nodes are logged as warnings.
    """
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    from bisenetv2_ros.node.rclpy_private import given_values

    overrides = given_values(node, FIELDS)
    given = given_to(node.get_fully_qualified_name(), words)
    problems = []
    warnings = list(given.without)
    for name in overrides:
        # rclpy declares some itself before this (use_sim_time), and QoS ones later.
        if name in FIELDS or node.has_parameter(name) or name.startswith(QOS_PREFIX):
            continue
        if name in given.own or (name not in given.shared and _nearest(name, FIELDS)):
            problems += unknown([name], FIELDS)
        else:  # under a wildcard, or `-p` as SetParameter of a launch file gives it to all nodes
            warnings += [f"{line}; another node's?" for line in unknown([name], FIELDS)]
    for line in warnings:
        node.get_logger().warning(line)
    for name, field in FIELDS.items():
        descriptor = ParameterDescriptor(
            description=field.metadata["description"],
            read_only=not field.metadata["dynamic"],
        )
        if field.metadata["choices"]:
            descriptor.additional_constraints = _expected(field)
        if field.metadata["limits"] is not None:
            low, high = field.metadata["limits"]
            if isinstance(field.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=low, to_value=high)
                ]
            else:
                descriptor.integer_range = [IntegerRange(from_value=low, to_value=high)]
        value = overrides.get(name)
        wrong = problem(field, value) if name in overrides else None
        if wrong:
            problems.append(wrong + _hint(field, value))
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        if wrong is None and isinstance(default, float) and value is not None:
            default = float(value)  # YAML's 5 is an integer, and means 5.0
        ignored = wrong is not None or value is None or isinstance(default, float)
        node.declare_parameter(name, default, descriptor, ignore_override=ignored)
    return problems


def unused_qos_overrides(node: Node) -> list[str]:
    """One line for each QoS override that none of the topics made so far has taken."""
    from bisenetv2_ros.node.rclpy_private import given_values

    return unknown(
        [name for name in given_values(node, ()) if name.startswith(QOS_PREFIX)],
        node.get_parameters_by_prefix(""),
    )


def read(node: Node) -> Parameters:
    """The values of this moment. Cheap enough for once a frame, safe from any thread."""
    values: dict[str, Any] = {name: node.get_parameter(name).value for name in FIELDS}
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Parameters(**values | lists)


def markdown() -> str:
    """Return the table of all parameters for docs/parameters.md."""
    lines = ["| parameter | default | values | dynamic | meaning |", "|---|---|---|---|---|"]
    for name, field in FIELDS.items():
        lines.append(
            f"| `{name}` | `{_literal(field.default)}` | {_expected(field)} "
            f"| {'yes' if field.metadata['dynamic'] else 'no'} "
            f"| {field.metadata['description']} |"
        )
    return "\n".join(lines)


def _literal(value: Any) -> str:
    """`value` as YAML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(item or repr(item) for item in value)}]"
    return repr(value)


def _expected(field: Field) -> str:
    if field.metadata["choices"]:
        return " or ".join(field.metadata["choices"])
    if isinstance(field.default, tuple):
        return "a list of strings"
    kind = {bool: "true or false", int: "an integer", float: "a float", str: "a string"}
    text = kind[type(field.default)]
    if field.metadata["limits"] is not None:
        low, high = field.metadata["limits"]
        text += f" from {low} to {high}"
    return text


if __name__ == "__main__":
    print(markdown())
