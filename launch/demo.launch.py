"""Start a camera without hardware, the node `segment` on it, and RViz.

ros2 launch bisenetv2_ros demo.launch.py
ros2 launch bisenetv2_ros demo.launch.py source:=drive.mp4

`make demo` does the same without RViz, and measures.
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
        "namespace": ("demo", "Namespace of everything that is started."),
        "model": ("", "Model file (.onnx), or name of a shipped model; empty: the default one."),
        "backend": ("auto", "auto, tensorrt, openvino or onnxruntime."),
        "rviz": ("true", "true: show image, overlay and color mask."),
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
