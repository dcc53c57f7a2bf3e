"""`bisenetv2 import-weights`: imports public weights of other implementations as a run."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import OutputFolder, add_size_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Recognized by their keys: CoinCheung/BiSeNet (its three head generations) and mmsegmentation. The
network is configured to compute the same logits as theirs; normalization and classes are imported
too. If keys are missing or unknown, they are listed and nothing is written.

examples:
  bisenetv2 import-weights model_final_v2_city.pth -o runs/coincheung
  bisenetv2 evaluate runs/coincheung --data data/cityscapes
  bisenetv2 export runs/coincheung --size 1024x512 --licence 'weights MIT, data non-commercial'
"""
    parser.add_argument("file", type=Path, help=".pth file, or its tensors as .safetensors")
    parser.add_argument(
        "-o",
        "--output",
        action=OutputFolder,
        required=True,
        metavar="RUN",
        help="folder of the run to make",
    )
    add_size_option(parser, "2048x1024", default=(2048, 1024))
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="classes.yaml as in the dataset `folder` (default: from the file, or by their number)",
    )


def run(args: argparse.Namespace) -> int:
    """Import, and print what was imported."""
    from bisenetv2_ros.training.dataset_layouts import read_classes
    from bisenetv2_ros.training.import_weights import read_public_weights, write_run

    with user_errors(ValueError):
        labels = read_classes(args.classes) if args.classes else None
        found = read_public_weights(args.file, labels)
        folder = write_run(found, args.output, args.file.name, args.size)
    print(f"{args.file}: {found.layout}, {len(found.labels)} classes of {found.labels.name}")
    print(f"{len(found.weights)} tensors imported")
    if found.left_out:
        heads = ", ".join(sorted({key.partition(".")[0] for key in found.left_out}))
        print(f"{len(found.left_out)} left out, of booster heads or beside the network: {heads}")
    print(f"run: {args.output} ({folder.name})")
    return 0
