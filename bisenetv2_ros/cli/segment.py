"""`bisenetv2 segment`, also `ros2 run bisenetv2_ros segment`: runs the ROS node."""

from __future__ import annotations

import argparse
import signal

from bisenetv2_ros.cli.options import set_up_ros
from bisenetv2_ros.system.signals import end_at_once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the usage; the node has no options of its own."""
    parser.usage = "%(prog)s [--ros-args -p PARAMETER:=VALUE -r TOPIC:=OTHER_TOPIC ...]"
    parser.epilog = (
        "config/segment.yaml lists all parameters with their defaults; `ros2 param describe` "
        "explains them."
    )


def run(args: argparse.Namespace) -> int:
    """Run the node until a signal ends it."""
    end_at_once(signal.SIGINT, signal.SIGTERM)
    set_up_ros("segment")
    from bisenetv2_ros.node.segment_node import main

    return main(args.ros_args)
