"""Start a camera that needs no hardware, the node `segment` for it, and RViz.

ros2 launch bisenetv2_ros demo.launch.py
ros2 launch bisenetv2_ros demo.launch.py source:=drive.mp4

`make demo` runs the same without RViz and prints measurements.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.actions import Node


def generate_launch_description() -> LaunchDescription:
    arguments = {
        "source": ("synthetic", "Folder, glob, image, video, webcam:N, or synthetic."),
        "rate": ("15", "Frames per second."),
        "namespace": ("demo", "Namespace of all nodes."),
        "model": ("", "Model file (.onnx), or name of a shipped model; empty: the default model."),
        "backend": ("auto", "auto, tensorrt, openvino or onnxruntime."),
        "rviz": ("true", "true: start RViz, which shows image, overlay and color mask."),
    }
    segment = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(
            PathJoinSubstitution([ThisLaunchFileDir(), "segment.launch.py"])
        ),
        launch_arguments={
            name: LaunchConfiguration(name) for name in ("namespace", "model", "backend", "rviz")
        }.items(),
    )
    camera = Node(
        package="bisenetv2_ros",
        executable="camera",
        namespace=LaunchConfiguration("namespace"),
        arguments=[LaunchConfiguration("source"), "--rate", LaunchConfiguration("rate"), "--loop"],
        output="screen",
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=description)
                for name, (default, description) in arguments.items()
            ),
            segment,
            camera,
        ]
    )
