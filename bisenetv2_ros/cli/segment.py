"""`bisenetv2 segment`, which is also `ros2 run bisenetv2_ros segment`: the ROS node."""

from __future__ import annotations

import argparse
import os

from bisenetv2_ros.fastdds import profile_variables


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The node has no options of its own."""
    parser.usage = "%(prog)s [--ros-args -p PARAMETER:=VALUE -r TOPIC:=OTHER_TOPIC ...]"
    parser.epilog = (
        "Parameters are listed with their defaults in config/segment.yaml, and explained by "
        "`ros2 param describe`."
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until a signal ends it."""
    os.environ.update(profile_variables())
    from bisenetv2_ros.segment_node import main

    return main(args.ros_args)
