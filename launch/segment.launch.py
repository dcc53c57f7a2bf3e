"""Start the node `segment` on one camera topic or several, with RViz if asked.

ros2 launch bisenetv2_ros segment.launch.py image_topic:=/camera/image_raw rviz:=true

`--show-args` explains every argument. What an argument leaves empty is as the parameter file says.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

from bisenetv2_ros.node.fastdds import profile_variables


def config(name: str) -> PathJoinSubstitution:
    return PathJoinSubstitution([FindPackageShare("bisenetv2_ros"), "config", name])


#: Arguments that set the parameter of the same name, with the type that it has.
PARAMETER_TYPES = {
    "cameras": list[str],
    "image_transport": str,
    "model": str,
    "backend": str,
    "autostart": bool,
    "use_sim_time": bool,
}

ARGUMENTS = [
    DeclareLaunchArgument(
        "image_topic",
        default_value="image_raw",
        description="Image topic of the one camera; results appear under segmentation/.",
    ),
    DeclareLaunchArgument(
        "cameras",
        default_value="",
        description="Image topics of several cameras, instead of image_topic, for example "
        "'[front/image_raw, rear/image_raw]'; results appear beside each, here under "
        "front/segmentation/ and rear/segmentation/.",
    ),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        description="raw, or compressed for the JPEG or PNG topic <topic>/compressed.",
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the node and relative topics."
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value=config("segment.yaml"),
        description="Parameter file; the default one lists and explains every parameter.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description="Model file (.onnx), folder of `bisenetv2 deploy`, or name of a shipped model.",
    ),
    DeclareLaunchArgument(
        "backend", default_value="", description="auto, tensorrt, openvino or onnxruntime."
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="", description="true: take the time from /clock."
    ),
    DeclareLaunchArgument(
        "log_level", default_value="info", description="debug, info, warn, error or fatal."
    ),
    DeclareLaunchArgument(
        "rviz",
        default_value="false",
        description="true: show camera, overlay and colour mask of image_topic; of one of several "
        "cameras after a change of the displays' topics.",
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="",
        description="true: configure and activate at once; false: leave that to a lifecycle "
        "manager.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="true",
        description="true: start the node again two seconds after it has failed.",
    ),
]


def segment_node(context: LaunchContext) -> list[Node]:
    """Make the node, with a parameter for each argument that was given a value."""
    given = {
        name: ParameterValue(LaunchConfiguration(name), value_type=kind)
        for name, kind in PARAMETER_TYPES.items()
        if LaunchConfiguration(name).perform(context)
    }
    return [
        Node(
            package="bisenetv2_ros",
            executable="segment",
            namespace=LaunchConfiguration("namespace"),
            parameters=[LaunchConfiguration("params_file"), given],
            remappings=[("image_raw", LaunchConfiguration("image_topic"))],
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=LaunchConfiguration("respawn"),
            respawn_delay=2.0,
            output="screen",
            emulate_tty=True,
        )
    ]


def generate_launch_description() -> LaunchDescription:
    namespace, image_topic = LaunchConfiguration("namespace"), LaunchConfiguration("image_topic")
    return LaunchDescription(
        [
            *ARGUMENTS,
            # For every process of this launch, a camera driver beside the node too.
            *(SetEnvironmentVariable(*variable) for variable in profile_variables().items()),
            OpaqueFunction(function=segment_node),
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=namespace,
                arguments=["-d", config("segment.rviz")],
                remappings=[  # the file has absolute names
                    ("/image_raw", image_topic),
                    ("/segmentation/overlay", "segmentation/overlay"),
                    ("/segmentation/color_mask", "segmentation/color_mask"),
                ],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )
