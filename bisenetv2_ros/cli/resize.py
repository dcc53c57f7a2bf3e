"""`bisenetv2 resize`: changes the input size of a model file."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import (
    add_conversion_options,
    picture_size,
    refuse_overwriting,
    renamed,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Keeps the weights and changes the input size, in a second and without training or data. The time per
frame is proportional to the number of pixels. Camera images of any size are still accepted and
resized.

Match your camera's aspect ratio; otherwise frames are distorted and accuracy drops. Smaller inputs
are faster but miss thin and distant objects; inputs larger than in training cost more than they
gain. The old scores do not apply: run `bisenetv2 evaluate`.

examples:
  bisenetv2 resize bisenetv2_camvid_640x480_int8 --size 640x352        for cameras of 1280x720
  bisenetv2 segment --ros-args -p model:=bisenetv2_camvid_640x352_int8.onnx
  bisenetv2 benchmark bisenetv2_camvid_640x352_int8.onnx               what a frame takes here
"""
    parser.add_argument(
        "--size",
        type=picture_size,
        required=True,
        metavar="WxH",
        help="width and height in pixels, multiples of 32",
    )
    add_conversion_options(
        parser, "model file", "the model's name with the new size, in the current folder"
    )


def run(args: argparse.Namespace) -> int:
    """Write the file and print its cost relative to the original."""
    from bisenetv2_ros.convert.input_size import resize_model
    from bisenetv2_ros.model_file import model_path, read_model_file

    with user_errors(ValueError):
        source = read_model_file(model_path(args.model))
        old, new = ("x".join(map(str, size)) for size in (source.info.input_size, args.size))
        path = args.output or Path(f"{renamed(source.name, old, new)}.onnx")
        refuse_overwriting(path, source.path)
        resize_model(source, args.size, path, dict(args.metric))
    fraction = math.prod(args.size) / math.prod(source.info.input_size)
    print(f"{path}: {new}, {fraction:.0%} of the pixels of {old}")
    return 0
