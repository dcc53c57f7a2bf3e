"""`bisenetv2 view`: shows frames, masks and class fractions in Rerun, without ROS."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.offline import segment_source
from bisenetv2_ros.cli.options import OutputFile, add_excerpt_options, add_source_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 view drive.mp4
  bisenetv2 view drive.mcap --topic /front/image_raw --save drive.rrd    and then: rerun drive.rrd

Needs the library rerun-sdk: pip install 'rerun-sdk>=0.24'. An image or message that cannot be read
is reported and skipped; the exit code is then 1. Ctrl-C keeps finished results.
"""
    add_source_options(parser, several=True)
    add_excerpt_options(parser)
    parser.add_argument(
        "--save",
        action=OutputFile,
        metavar="FILE.rrd",
        help="write a file for Rerun instead of opening a window",
    )


def run(args: argparse.Namespace) -> int:
    """Segment the source for Rerun; 0 if every frame could be read."""
    has_screen = sys.platform != "linux" or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if args.save is None and not has_screen:
        raise UserError("no screen to open a window on (DISPLAY is not set): give --save FILE.rrd")
    if args.save is not None and args.save.is_file() and args.save.suffix != ".rrd":
        raise UserError(
            f"--save {args.save}: is there and no recording of Rerun, expected FILE.rrd"
        )

    from bisenetv2_ros.offline.rerun_log import RerunLog

    return segment_source(
        "view",
        args,
        lambda segmenter, source, regions: RerunLog(segmenter, source, args.save, regions),
        args.save or Path("Rerun"),
        [args.save] if args.save else [],
    )
