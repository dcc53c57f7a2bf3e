"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError, positive_int

if TYPE_CHECKING:
    import numpy as np


def metric(text: str) -> tuple[str, float]:
    """NAME=VALUE, for argparse's `type`."""
    name, _, value = text.rpartition("=")
    try:
        return name.strip(), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"got '{text}', expected NAME=NUMBER") from None


def picture_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT in pixels, for argparse's `type`."""
    try:
        width, height = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got '{text}', expected WIDTHxHEIGHT") from None
    return width, height


def add_metric_option(parser: argparse.ArgumentParser) -> None:
    """Declare --metric."""
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        type=metric,
        metavar="NAME=VALUE",
        help="score to carry in the file, such as 'camvid_val_miou=0.68' (any number of times)",
    )


def refuse_overwriting(path: Path, source: Path) -> None:
    """UserError where `path`, that of a new file, is the file that it is made of."""
    if path.exists() and path.samefile(source):
        raise UserError(f"{path} would be overwritten: name another file with -o")


def sample_frames(spec: str, count: int) -> list[np.ndarray]:
    """At most `count` frames, (H, W, 3) uint8 RGB, spread evenly over a source of frames.

    spec: as of `frame_source.open_source`; from a source without an end, one frame a second.
    UserError where there is no such source or no frame in it.
    """
    from itertools import islice

    from bisenetv2_ros.sources.frame_source import open_source

    try:
        source = open_source(spec)
        if source.count:
            wanted = {i * source.count // count for i in range(count)}  # fewer where frames are few
        else:
            wanted = {i * max(1, round(source.fps)) for i in range(count)}
        passing = enumerate(islice(source, max(wanted) + 1))
        frames = [frame.image for index, frame in passing if index in wanted]
    except ValueError as error:
        raise UserError(str(error)) from error
    if not frames:
        raise UserError(f"{spec}: no frames in it, expected up to {count}")
    return frames


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Declare the source, its topics, the regions, and what segments."""
    parser.add_argument(
        "source", help="picture, folder, 'glob', video, ROS 2 bag, webcam:N or synthetic"
    )
    parser.add_argument(
        "--topic",
        action="append",
        default=[],
        help="image topic of a bag, raw or compressed, any number of times (default: the only one)",
    )
    parser.add_argument(
        "--region",
        action="append",
        default=[],
        metavar="'NAME: X Y, ...'",
        help="region of interest as in the node's parameter regions, any number of times: drawn, "
        "and its class fractions counted",
    )
    parser.add_argument("--model", default="", help="model file or name (default: the package's)")
    parser.add_argument(
        "--backend", default="auto", help="inference runtime (default: %(default)s)"
    )
    parser.add_argument("--device", default="", help="device as the backend names it")
    parser.add_argument(
        "--frames", type=positive_int, metavar="N", help="stop after N (default: the whole source)"
    )


def set_up_ros(verb: str) -> None:
    """Prepare the environment for rclpy.init(), see `node.environment`; UserError if it refuses."""
    from bisenetv2_ros.node import environment

    try:
        environment.set_up(verb)
    except ValueError as error:
        raise UserError(str(error)) from error
