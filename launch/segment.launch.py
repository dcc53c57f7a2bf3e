"""Start the node `segment` for one camera topic or several, optionally with RViz.

ros2 launch bisenetv2_ros segment.launch.py image_topic:=/camera/image_raw rviz:=true

`--show-args` explains every argument. An empty argument is not set: the value of the parameter file
applies, or else the node's default (config/segment.yaml lists and explains them).
"""

import os
import posixpath

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, TextSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from bisenetv2_ros.node.fastdds import profile_variables
from bisenetv2_ros.node.parameters import FIELDS

SWITCH = ["true", "false", "True", "False"]  # Python launch files pass the capitalized form


def parameter_argument(name: str, description: str) -> DeclareLaunchArgument:
    """Declare an argument that sets the parameter of the same name unless it is empty."""
    field = FIELDS.get(name)
    choices = SWITCH if field is None or isinstance(field.default, bool) else []
    choices = [*choices, *(field.metadata["choices"] if field else ())]
    return DeclareLaunchArgument(
        name,
        default_value="",
        description=description,
        choices=["", *choices] if choices else None,
    )


PARAMETER_ARGUMENTS = [
    parameter_argument(
        "cameras",
        "Image topics of several cameras, instead of image_topic, for example "
        "'[front/image_raw, rear/image_raw]', whose results appear under front/segmentation/ "
        "and rear/segmentation/.",
    ),
    parameter_argument(
        "image_transport",
        "auto (whatever the camera publishes), raw, compressed, zstd or ffmpeg.",
    ),
    parameter_argument("model", "Model file (.onnx), or name of a shipped model."),
    parameter_argument("backend", "auto, tensorrt, openvino or onnxruntime."),
    parameter_argument(
        "autostart",
        "true: configure and activate at start-up; false: wait for a lifecycle manager.",
    ),
    parameter_argument("use_sim_time", "true: use the time of /clock."),
]

ARGUMENTS = [
    DeclareLaunchArgument(
        "image_topic",
        default_value="image_raw",
        description="Image topic of a single camera; results appear under segmentation/.",
    ),
    *PARAMETER_ARGUMENTS,
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of the node and of relative topic names.",
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="Parameter file; config/segment.yaml of this package lists and explains all "
        "parameters. Other arguments override it.",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="debug, info, warn, error or fatal.",
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        choices=SWITCH,
        description="true: start RViz, which shows image, overlay and color mask of image_topic "
        "or of the first of cameras.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=SWITCH,
        description="true: restart the node two seconds after it fails, even if its configuration "
        "is wrong.",
    ),
]


def nodes(context: LaunchContext) -> list[Node]:
    """Create the node and RViz.

    Raises RuntimeError naming the argument if one is invalid, before any process starts.
    """

    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    given = {
        declared.name: parameter_value(declared.name, argument(declared.name))
        for declared in PARAMETER_ARGUMENTS
        if argument(declared.name)
    }
    cameras = yaml.safe_load(argument("cameras")) or []
    params_file = argument("params_file")
    if params_file and not os.path.isfile(params_file):  # noqa: PTH113, as launch does it
        raise RuntimeError(f"argument params_file: there is no file '{params_file}'")
    segment = Node(
        package="bisenetv2_ros",
        executable="segment",
        # With a name, launch passes the arguments under the node's full name. Without one, it
        # passes them under /**, and a parameter file could override them.
        name="segment",
        namespace=argument("namespace"),
        parameters=[part for part in (params_file, given) if part],
        remappings=[("image_raw", argument("image_topic"))],
        ros_arguments=["--log-level", argument("log_level")],
        respawn=argument("respawn").lower() == "true",
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
    )
    if argument("rviz").lower() == "false":
        return [segment]
    compressed = argument("image_transport") == "compressed" and is_installed(
        "compressed_image_transport"
    )
    topic, outputs = argument("image_topic"), "segmentation"
    if cameras:
        topic, outputs = cameras[0], posixpath.join(posixpath.dirname(cameras[0]), "segmentation")
    return [
        segment,
        Node(
            package=rviz_package(),
            executable="rviz2",
            namespace=argument("namespace"),
            arguments=["-d", config("segment_compressed.rviz" if compressed else "segment.rviz")],
            parameters=[{"use_sim_time": given["use_sim_time"]}]
            if "use_sim_time" in given
            else None,
            remappings=[  # the RViz configuration has absolute names
                ("/image_raw", topic),
                ("/image_raw/compressed", f"{topic}/compressed"),
                ("/segmentation/overlay", f"{outputs}/overlay"),
                ("/segmentation/color_mask", f"{outputs}/color_mask"),
            ],
            output="screen",
        ),
    ]


def parameter_value(name: str, text: str) -> ParameterValue:
    """Return the value given for the argument `name`, with the type of the parameter."""
    default = FIELDS[name].default if name in FIELDS else False  # use_sim_time is rclpy's
    typed = TextSubstitution(text=text)  # launch would guess the type of a plain string
    if not isinstance(default, tuple):
        return ParameterValue(typed, value_type=type(default))
    items = yaml.safe_load(text)
    if not items or not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise RuntimeError(f"argument {name}: got '{text}', expected a list such as '[{text}]'")
    return ParameterValue(typed, value_type=list[str])


def rviz_package() -> str:
    """Return the name of RViz's package. Raises RuntimeError if it is not installed."""
    if is_installed("rviz2"):
        return "rviz2"
    distro = os.environ.get("ROS_DISTRO", "<distro>")
    raise RuntimeError(
        f"argument rviz: rviz2 is not installed; run `sudo apt install ros-{distro}-rviz2`, or "
        "choose rviz:=false"
    )


def is_installed(package: str) -> bool:
    try:
        get_package_prefix(package)
    except PackageNotFoundError:
        return False
    return True


def config(name: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare("bisenetv2_ros"), "config", name])


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            *ARGUMENTS,
            # Applies to every process of this launch, including camera drivers.
            *(SetEnvironmentVariable(*variable) for variable in profile_variables().items()),
            OpaqueFunction(function=nodes),
        ]
    )
