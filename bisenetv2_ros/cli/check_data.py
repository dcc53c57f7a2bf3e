"""`bisenetv2 check-data`: read a whole data set once and name everything that is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path

from bisenetv2_ros.cli import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
`bisenetv2 datasets` lists the data sets known, `bisenetv2 datasets NAME` says what is expected in
the folder of one, and how to describe one of your own.

Named are: frames without a label, labels without a frame, files that cannot be read whole, labels
of another size than their frame, values that are no class. The exit code is 1 if there are any.
Classes without a pixel are named too, and are no fault.

examples:
  bisenetv2 check-data --dataset camvid --data data/camvid
  bisenetv2 check-data --dataset folder --data my_set --split train
"""
    parser.add_argument("--dataset", required=True, help="name of a data set, or its YAML file")
    parser.add_argument("--data", type=Path, default=Path(), metavar="DIR", help="its folder")
    parser.add_argument("--split", action="append", help="may be repeated (default: train and val)")


def run(args: argparse.Namespace) -> int:
    """Read every sample; 0 when nothing is wrong."""
    import numpy as np
    from tqdm import tqdm

    from bisenetv2_ros.training.dataset_layouts import load_dataset
    from bisenetv2_ros.training.datasets import DatasetError, find_faults

    splits = args.split or ["train", "val"]
    try:
        datasets = {split: load_dataset(args.dataset, args.data, split) for split in splits}
    except DatasetError as error:
        raise UserError(str(error)) from error
    faults = 0
    for split, dataset in datasets.items():
        pixels = np.zeros(256, np.int64)
        found = find_faults(dataset, pixels)
        for fault in tqdm(found, split, len(dataset), unit="frame", disable=None):
            if fault:
                faults += 1
                tqdm.write(fault)
        print(f"{split}: {len(dataset)} frames read")
        absent = [
            name for name, count in zip(dataset.labels.names, pixels, strict=False) if not count
        ]
        if absent:
            print(f"{split}: no pixel of {', '.join(absent)}")
    print(f"{faults} faults" if faults else "no faults")
    return 1 if faults else 0
