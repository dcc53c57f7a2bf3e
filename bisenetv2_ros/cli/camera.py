"""`bisenetv2 camera`, also `ros2 run bisenetv2_ros camera`: publishes a source like a camera."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from bisenetv2_ros.cli import UserError, positive_float, positive_int
from bisenetv2_ros.cli.options import SOURCES, add_bag_options, picture_size, set_up_ros
from bisenetv2_ros.system.signals import end_at_once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 camera                                      a synthetic street scene with its labels
  bisenetv2 camera drive.mp4 --loop
  bisenetv2 camera images/ --labels labels/ --rate 30
  bisenetv2 camera webcam:0 --ros-args -r __ns:=/front
  bisenetv2 camera drive.mcap --topic /front/image_raw --topic /rear/image_raw/compressed

Topics: image_raw, image_raw/compressed, camera_info, and label (mono8, class index) if labels are
known. If a bag has several cameras, each has these under its recorded name. Images that cannot be
read are reported and skipped; the exit code is then 1. Ends after the last frame.
"""
    parser.add_argument(
        "source",
        nargs="?",
        default="synthetic",
        help=f"{SOURCES} (the default)",
    )
    parser.add_argument(
        "--recursive", action="store_true", help="include the subfolders of a folder"
    )
    add_bag_options(parser)
    parser.add_argument(
        "--labels", default="", metavar="DIR", help="label masks with the names of the images"
    )
    parser.add_argument(
        "--rate",
        type=positive_float,
        metavar="HZ",
        help="frames per second of each camera (default: the source's, or 15 if it has none)",
    )
    parser.add_argument(
        "--size", type=picture_size, metavar="WxH", help="resize frames (default: as they are)"
    )
    parser.add_argument(
        "--loop",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="start over after the last frame",
    )
    parser.add_argument("--frames", type=positive_int, metavar="N", help="end after N frames")
    parser.add_argument(
        "--encoding",
        choices=("rgb8", "bgr8"),
        default="rgb8",
        help="encoding of image_raw (default: %(default)s)",
    )
    parser.add_argument(
        "--frame-id",
        default="",
        help="frame_id of every header (default: a bag's own, or camera)",
    )
    parser.add_argument(
        "--seed",
        type=_int_from_zero,
        default=1,
        help="seed of the synthetic street (default: %(default)s)",
    )
    parser.add_argument(
        "--reliability",
        choices=("reliable", "best_effort"),
        default="reliable",
        help="QoS reliability offered (default: %(default)s, which matches all subscribers)",
    )
    parser.add_argument(
        "--wait-for-subscribers",
        type=_int_from_zero,
        default=0,
        metavar="N",
        help="wait until the images have N subscribers, so that they miss no frame",
    )


def run(args: argparse.Namespace) -> int:
    """Publish until the source ends or a signal comes; return 1 if an image was lost, else 0."""
    if args.size and 0 in args.size:
        raise UserError(f"--size: got {args.size[0]}x{args.size[1]}, expected at least 1x1")
    end_at_once(signal.SIGINT, signal.SIGTERM)
    set_up_ros("camera")
    from bisenetv2_ros.files.images import ImageFileError
    from bisenetv2_ros.node.camera_node import CameraOptions, publish_source
    from bisenetv2_ros.sources.frame import SourceError
    from bisenetv2_ros.sources.frame_source import open_source

    skipped: list[ImageFileError] = []

    def say(text: str) -> None:
        print(f"bisenetv2 camera: {text}", file=sys.stderr)

    def skip(error: ImageFileError) -> None:
        skipped.append(error)
        say(f"skipped: {error}")

    options = CameraOptions(
        rate=args.rate,
        frames=args.frames,
        encoding=args.encoding,
        frame_id=args.frame_id,
        reliable=args.reliability == "reliable",
        wait_for_subscribers=args.wait_for_subscribers,
    )
    start = time.monotonic()
    try:
        source = open_source(
            args.source,
            labels=args.labels,
            topics=args.topic,
            encodings=args.image_encoding,
            recursive=args.recursive,
            loop=args.loop,
            rate=args.rate,
            size=args.size,
            seed=args.seed,
            on_damaged=skip,
        )
        lost = source.say_passed_over(say)
        sent = publish_source(source, options, args.ros_args)
    except (SourceError, RuntimeError) as error:  # RuntimeError: ROS refuses names or arguments
        raise UserError(" ".join(str(error).split())) from error
    also = f", {len(skipped)} skipped" if skipped else ""
    print(f"camera: {sent} frames sent{also} in {time.monotonic() - start:.1f} s")
    return int(lost or bool(skipped))


def _int_from_zero(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 0")
    return value
