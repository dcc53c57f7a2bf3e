"""`bisenetv2 relabel`: groups or renames the classes of a model file."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import add_conversion_options, refuse_overwriting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
FILE.yaml maps the model's classes to new ones, every class once:
  name: driving
  classes:
    - {name: drivable, of: [road], colour: [128, 64, 128]}
    - {name: obstacle, of: [car, pedestrian, bicyclist]}
    - {name: other, of: rest}

The new file contains the mapping, so node and tools see only the new classes. Confidence is that of
the original class. Scores of the old classes do not apply.

example:
  bisenetv2 relabel bisenetv2_camvid_640x480_int8 --classes config/classes/camvid_driving.yaml
  bisenetv2 segment --ros-args -p model:=bisenetv2_camvid_640x480_int8_driving.onnx
"""
    parser.add_argument(
        "--classes", type=Path, required=True, metavar="FILE.yaml", help="the mapping, see below"
    )
    add_conversion_options(parser, "model file", "MODEL_NAME.onnx, with the name in FILE.yaml")


def run(args: argparse.Namespace) -> int:
    """Write the file and print its classes."""
    from bisenetv2_ros.convert.relabel import read_class_map, relabel_model
    from bisenetv2_ros.model_file import model_path, read_model_file

    with user_errors(ValueError):
        source = model_path(args.model)
        before = read_model_file(source).info.labels
        class_map = read_class_map(args.classes, before)
        path = args.output or Path(f"{source.stem}_{class_map.labels.name}.onnx")
        refuse_overwriting(path, source, args.classes)
        relabel_model(source, class_map, path, dict(args.metric))
    print(f"{path}:")
    for number, name in enumerate(class_map.labels.names):
        members = [
            member
            for member, target in zip(before.names, class_map.targets, strict=True)
            if target == number
        ]
        print(f"  {number} {name}: {', '.join(members)}")
    return 0
