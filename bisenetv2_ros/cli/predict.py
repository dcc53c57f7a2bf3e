"""`bisenetv2 predict`: writes masks, images, video, tables and bags from files, without ROS."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bisenetv2_ros.cli.offline import segment_source
from bisenetv2_ros.cli.options import OutputFolder, add_excerpt_options, add_source_options
from bisenetv2_ros.offline.result_files import BAG_TOPICS, KINDS, ResultFiles

if TYPE_CHECKING:
    from bisenetv2_ros.offline.result_folder import Existing
    from bisenetv2_ros.regions import Region
    from bisenetv2_ros.segmenter import Segmenter
    from bisenetv2_ros.sources.frame import FrameSource


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
examples:
  bisenetv2 predict street.jpg -o out
  bisenetv2 predict drive/ other/*.png -o out --save masks,fractions --recursive
  bisenetv2 predict drive.mp4 -o out --save video --start 10s --end 70s
  bisenetv2 predict rtsp://camera/stream -o out --save fractions --every 5s
  bisenetv2 predict drive.mcap --topic /front/image_raw --topic /rear/image_raw/compressed \\
      -o out --save bag,jsonl

sources:
  images     JPEG, PNG, WebP, BMP, TIFF, PNM, of one frame; rotated by their EXIF orientation
  videos     what OpenCV reads: MP4, MOV, AVI, MKV, WebM, MPEG, FLV, GIF and others
  bags       ROS 2 (MCAP, SQLite) and ROS 1
  live       webcam:N, /dev/videoN, rtsp://..., http://..., synthetic

outputs by the names for --save, in the output directory:
  masks      masks/NAME.png    class index per pixel
  colour     colour/NAME.png   the same in the classes' colors
  overlay    overlay/NAME.png  colors over the frame
  video      video.mp4         frame, color mask and overlay side by side, with a legend
  fractions  fractions.csv     fraction of each class, a line per frame
  jsonl      fractions.jsonl   the same, a JSON object per frame; also of regions
  bag        bag/              the source bag and its segmentation topics, times and stamps kept

NAME is an image's path below the common folder of all images. Files that cannot be read are
reported and skipped; the exit code is then 1. Ctrl-C keeps finished results, --resume continues.
"""
    add_source_options(parser, several=True)
    add_excerpt_options(parser)
    parser.add_argument(
        "-o", "--output", action=OutputFolder, required=True, metavar="DIR", help="output directory"
    )
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument(
        "--overwrite", action="store_true", help="remove the results of an earlier run first"
    )
    earlier.add_argument(
        "--resume",
        action="store_true",
        help="keep the results of an earlier run, and skip the frames it has finished",
    )
    parser.add_argument(
        "--save",
        type=functools.partial(_names, KINDS),
        default=("masks", "overlay"),
        metavar="KIND,...",
        help=f"outputs, any of {','.join(KINDS)} (default: masks,overlay)",
    )
    parser.add_argument(
        "--mask-size",
        choices=("camera", "network"),
        default="camera",
        help="size of masks and colors: the frame's or the network's (default: %(default)s)",
    )
    parser.add_argument(
        "--bag-topics",
        type=functools.partial(_names, BAG_TOPICS),
        default=BAG_TOPICS[:2],
        metavar="NAME,...",
        help=f"topics for --save bag, any of {','.join(BAG_TOPICS)} "
        f"(default: {','.join(BAG_TOPICS[:2])})",
    )
    parser.add_argument(
        "--opacity",
        type=_opacity,
        default=0.5,
        help="opacity of the colors in overlays, 0 to 1 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Segment the source into files; 0 if every frame could be read."""
    existing: Existing = "refuse"
    if args.overwrite or args.resume:
        existing = "overwrite" if args.overwrite else "resume"

    def open_files(
        segmenter: Segmenter, source: FrameSource, regions: Sequence[Region]
    ) -> ResultFiles:
        return ResultFiles(
            args.output,
            segmenter,
            args.save,
            source,
            opacity=args.opacity,
            mask_size=args.mask_size,
            bag_topics=args.bag_topics,
            regions=regions,
            existing=existing,
        )

    return segment_source("predict", args, open_files, args.output)


def _names(known: tuple[str, ...], text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"got '{name}', expected any of {','.join(known)}")
    return names


def _opacity(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 to 1")
    return value
