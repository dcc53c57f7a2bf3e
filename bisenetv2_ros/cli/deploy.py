"""`bisenetv2 deploy`: makes a folder of model files for the node from a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import DatasetFolder, OutputFolder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Writes NAME_float32.onnx, NAME_float16.onnx, NAME_int8.onnx (calibrated on the run's own training
frames) and MODEL_CARD.md into the folder NAME, each file scored on the run's validation split and
timed here.

examples:
  bisenetv2 deploy runs/my_set -o my_model
  ros2 launch bisenetv2_ros segment.launch.py model:=$PWD/my_model
                                       the node takes the file that suits its backend
"""
    parser.add_argument("run", type=Path, help="folder of a run, of its checkpoints, or of one")
    parser.add_argument("-o", "--output", action=OutputFolder, required=True, help="folder to make")
    parser.add_argument(
        "--data", action=DatasetFolder, help="folder of the dataset (default: the run's)"
    )
    parser.add_argument(
        "--licence",
        default="not stated",
        help="licence of weights and training data, stored in the files",
    )


def run(args: argparse.Namespace) -> int:
    """Deploy; 0 if all three files were written, 1 if int8 is missing."""
    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.training.deploy import deploy, table
    from bisenetv2_ros.training.export import ExportError

    with user_errors(ValueError, ExportError, BackendUnavailable):
        deployed = deploy(args.run, args.output, args.data, args.licence)
    print("", *table(deployed), "", sep="\n")
    print(f"card: {args.output / 'MODEL_CARD.md'}")
    print(f"run it: ros2 launch bisenetv2_ros segment.launch.py model:={args.output.resolve()}")
    return 0 if any(file.path.stem.endswith("_int8") for file in deployed) else 1
