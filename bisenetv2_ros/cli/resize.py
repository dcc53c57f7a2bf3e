"""`bisenetv2 resize`: changes the input size of a model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import (
    OutputFile,
    add_metric_option,
    picture_size,
    refuse_overwriting,
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
    parser.add_argument("model", help="model file, or name of a shipped model")
    parser.add_argument(
        "--size",
        type=picture_size,
        required=True,
        metavar="WxH",
        help="width and height in pixels, multiples of 32",
    )
    parser.add_argument(
        "-o",
        "--output",
        action=OutputFile,
        help="file to write (default: the model's name with the new size, in the current folder)",
    )
    add_metric_option(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file and print its cost relative to the original."""
    from bisenetv2_ros.convert.input_size import resize_model
    from bisenetv2_ros.model_file import model_path, read_model_file

    with user_errors(ValueError):
        source = read_model_file(model_path(args.model))
        path = args.output or Path(_renamed(source.name, source.info.input_size, args.size))
        refuse_overwriting(path, source.path)
        model = resize_model(source, args.size, path, dict(args.metric))
    (width, height), (old_width, old_height) = model.info.input_size, source.info.input_size
    share = width * height / (old_width * old_height)
    print(f"{path}: {width}x{height}, {share:.0%} of the pixels of {old_width}x{old_height}")
    return 0


def _renamed(name: str, before: tuple[int, int], now: tuple[int, int]) -> str:
    old, new = ("x".join(map(str, size)) for size in (before, now))
    return f"{name.replace(old, new) if old in name else f'{name}_{new}'}.onnx"
