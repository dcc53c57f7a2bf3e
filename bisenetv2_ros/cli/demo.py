"""`bisenetv2 demo`: camera and node as two processes over DDS, watched and measured by this third.

The camera waits for each frame to be finished before it sends the next (and never sends faster than
--rate), so that no frame is lost on a slow machine and the scores are over every frame.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError, positive_float, positive_int
from bisenetv2_ros.cli.options import add_bag_options
from bisenetv2_ros.demo import DemoError
from bisenetv2_ros.demo.run import (
    ENDLESS_FRAMES,
    ENDLESS_SECONDS,
    frame_count,
    run_demo,
    set_up_environment,
)
from bisenetv2_ros.model_file import model_path, read_model_file
from bisenetv2_ros.system.signals import interrupt_once

if TYPE_CHECKING:
    pass


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 demo                                        a synthetic street scene
  bisenetv2 demo --source drive.mp4                     your video
  bisenetv2 demo --source drive.mcap --topic /front/image_raw
  bisenetv2 demo --source images/ --labels labels/      with scores against the truth

The output directory gets pictures, video.mp4, summary.json and the logs of both processes.
"""
    parser.add_argument(
        "--source",
        default="synthetic",
        help="folder, glob, image, video, bag, webcam:N, /dev/videoN, rtsp://... or http://... "
        "(default: synthetic)",
    )
    add_bag_options(parser)
    parser.add_argument(
        "--labels",
        default="",
        metavar="DIR",
        help="label masks of the source's pictures, by stem: class index per pixel, to score the "
        "masks by; the number after the last class and 255 do not count",
    )
    parser.add_argument(
        "--frames",
        type=positive_int,
        metavar="N",
        help="frames to show (default: all; of a source without end "
        f"{ENDLESS_FRAMES}, or what is done in {ENDLESS_SECONDS:.0f} s)",
    )
    parser.add_argument(
        "--rate",
        type=positive_float,
        default=15.0,
        metavar="HZ",
        help="most frames per second (default: %(default)s)",
    )
    parser.add_argument("--model", default="", help="model file or name (default: the package's)")
    parser.add_argument(
        "--backend", default="auto", help="inference runtime (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo_output"),
        metavar="DIR",
        help="for the results (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when masks came for the source."""
    try:
        model = read_model_file(model_path(args.model))
        total = frame_count(args)
    except ValueError as error:
        raise UserError(str(error)) from error
    args.output.mkdir(parents=True, exist_ok=True)
    # A signal to this process is for its children too.
    interrupt_once(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    try:
        set_up_environment()
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        return run_demo(args, model, total)
    except DemoError as error:
        print(f"bisenetv2 demo: error: {error}", file=sys.stderr)
        return 1
