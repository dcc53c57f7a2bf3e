"""`bisenetv2 check-data`: reads a whole dataset and reports everything that is wrong with it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import user_errors
from bisenetv2_ros.cli.options import DatasetFolder, OutputFile, refuse_overwriting

if TYPE_CHECKING:
    from bisenetv2_ros.training.data_check import SplitFacts

SHEET_FRAMES = 24  # of each split


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
`bisenetv2 datasets` lists the known datasets, `bisenetv2 datasets NAME` shows the expected layout
of one, and how to describe your own.

Reports the following faults, and exits with 1 if there are any:
  frames       frames without a label, labels without a frame, unreadable files, labels of another
               size than their frame, values and colors without a class, EXIF that rotates a frame
               but not its label, frames of 16 bits or with transparency
  one split    a class without a pixel in train, only the values 0 and 255, values of another
               numbering (train ids), labels paired with the wrong frame or with two frames, a sky
               that is redder than blue
  two splits   the same frame in train and in another split, also if reencoded, splits that are
               neighbors in one recording, by name or by content, red and blue swapped

Look at the contact sheet too: no program detects a label that is simply wrong.

examples:
  bisenetv2 check-data --dataset camvid --data data/camvid
  bisenetv2 check-data --dataset folder --data my_set --sheet my_set.html
"""
    parser.add_argument("--dataset", required=True, help="name of a dataset, or its YAML file")
    parser.add_argument(
        "--data", action=DatasetFolder, default=Path(), help="folder of the dataset"
    )
    parser.add_argument(
        "--split", action="append", help="split to check, may be repeated (default: train and val)"
    )
    parser.add_argument(
        "--sheet",
        action=OutputFile,
        suffixes=(".html", ".png", ".jpg"),
        help="write a contact sheet of frames under their labels: .html, .png or .jpg",
    )


def run(args: argparse.Namespace) -> int:
    """Read every sample; 0 if nothing is wrong."""
    from tqdm import tqdm

    from bisenetv2_ros.training.contact_sheet import write_sheet
    from bisenetv2_ros.training.data_check import SplitFacts, find_faults
    from bisenetv2_ros.training.dataset_layouts import load_dataset, same_files
    from bisenetv2_ros.training.datasets import DatasetError
    from bisenetv2_ros.training.split_check import compare, judge

    if args.sheet:
        refuse_overwriting(args.sheet, args.data)
    splits = args.split or ["train", "val"]
    with user_errors(DatasetError):
        datasets = {split: load_dataset(args.dataset, args.data, split) for split in splits}
    faults = 0

    def report(fault: str | None) -> None:
        nonlocal faults
        if fault:
            faults += 1
            tqdm.write(fault)

    seen: dict[str, SplitFacts] = {}
    for split, dataset in datasets.items():
        facts = SplitFacts(split, dataset.labels)
        found = find_faults(dataset, facts, SHEET_FRAMES if args.sheet else 0)
        for fault in tqdm(found, split, len(dataset), unit="frame", disable=None):
            report(fault)
        training = split.partition(":")[0].split("+")[0] == "train"
        for fault in judge(dataset, facts, training):
            report(fault)
        first = next(iter(seen), "")
        if first and same_files(datasets[first], dataset):
            print(f"{split}: the same frames as {first}, so scores say nothing about other frames")
        elif first:
            for fault in compare(seen[first], facts):
                report(fault)
        seen[split] = facts
        sizes = ", ".join(f"{w}x{h} ({n})" for (w, h), n in facts.sizes.most_common(4))
        more = f" and {len(facts.sizes) - 4} more sizes" if len(facts.sizes) > 4 else ""
        print(f"{split}: {len(dataset)} frames read\n{split}: sizes {sizes or 'none'}{more}")
        if absent := facts.absent():
            print(f"{split}: no pixel of {', '.join(absent)}")
        for note in facts.notes:
            print(f"{split}: look at {note}")
    print(_table(list(seen.values())))
    if args.sheet:
        sheet = [(f.name, f.labels, f.samples, f.fractions()) for f in seen.values() if f.samples]
        write_sheet(args.sheet, sheet)
        print(f"contact sheet: {args.sheet}")
    print(f"{faults} faults" if faults else "no faults")
    return 1 if faults else 0


def _table(splits: list[SplitFacts]) -> str:
    """Return a table of the fraction of each class in the labeled pixels of each split."""
    from bisenetv2_ros.benchmark.tables import aligned

    names = splits[0].labels.names
    columns = [("pixels %", *names, "labeled")]
    for facts in splits:
        labeled = facts.pixels[: len(names)].sum() / max(1, facts.pixels.sum())
        fractions = (f"{100 * fraction:.3f}" for fraction in (*facts.fractions(), labeled))
        columns.append((facts.name, *fractions))
    return "\n".join(aligned(list(zip(*columns, strict=True)), 1))
