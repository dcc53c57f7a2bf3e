"""`bisenetv2 demo`: measures a camera and a node that run as two processes over DDS.

The node drops what it cannot keep up with, as on a robot, and the demo counts it. Scores are
computed afterwards, without ROS, over every frame that the camera sent.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bisenetv2_ros.cli import positive_float, positive_int, user_errors
from bisenetv2_ros.cli.options import (
    SOURCES,
    OutputFolder,
    add_bag_options,
    add_model_options,
    set_up_private_graph,
)
from bisenetv2_ros.demo import DemoError
from bisenetv2_ros.demo.run import ENDLESS_FRAMES, ENDLESS_SECONDS, frame_count, run_demo
from bisenetv2_ros.model_file import model_path, read_model_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 demo                                        a synthetic street scene
  bisenetv2 demo --source drive.mp4                     your video
  bisenetv2 demo --source drive.mcap --topic /front/image_raw
  bisenetv2 demo --source images/ --labels labels/      with scores

The output directory gets images, video.mp4, summary.json and the logs of both processes.
"""
    parser.add_argument("--source", default="synthetic", help=f"{SOURCES} (the default)")
    add_bag_options(parser)
    parser.add_argument(
        "--labels",
        default="",
        metavar="DIR",
        help="label masks with the names of the images, to score against: class index per pixel; "
        "255 and the index after the last class are ignored",
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="number of frames (default: all; for a source without an end, "
        f"{ENDLESS_FRAMES}, or as many as come within {ENDLESS_SECONDS:.0f} s)",
    )
    parser.add_argument(
        "--rate",
        type=positive_float,
        default=15.0,
        metavar="HZ",
        help="frames per second (default: %(default)s)",
    )
    add_model_options(parser)
    parser.add_argument(
        "--output",
        action=OutputFolder,
        default=Path("demo_output"),
        metavar="DIR",
        help="output directory (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when masks came for the source."""
    with user_errors(ValueError):
        model = read_model_file(model_path(args.model))
        total = frame_count(args)
    args.output.mkdir(parents=True, exist_ok=True)
    set_up_private_graph("demo")
    try:
        return run_demo(args, model, total)
    except DemoError as error:
        print(f"bisenetv2 demo: error: {error}", file=sys.stderr)
        return 1
