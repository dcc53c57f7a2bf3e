"""`bisenetv2 crossvalidate`: scores a recipe on recordings held out of training."""

from __future__ import annotations

import argparse

from bisenetv2_ros.cli import UserError, user_errors
from bisenetv2_ros.cli.options import DatasetFolder, OutputFolder, add_training_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
For each fold, trains by the recipe on all frames except those whose names begin with the fold's
name, then scores on these. Use whole recordings as folds, not random frames: neighboring frames of
a recording are so similar that scores on them are far too high. Prints the IoU of each class in
each fold, the mean over the folds, and its standard error.

To continue after a stop, give the same command again: complete folds are not trained again, and the
stopped one is resumed.

examples:
  bisenetv2 crossvalidate --config camvid_cpu --data data/camvid --folds 0001TP,0006R0,0016E5 \\
      --output runs/folds iterations=1000
"""
    parser.add_argument("--config", required=True, metavar="NAME|FILE", help="recipe")
    parser.add_argument("--data", action=DatasetFolder, required=True, help="folder of the dataset")
    parser.add_argument(
        "--folds",
        required=True,
        metavar="NAME,NAME,...",
        help="for each recording, how the names of its frames begin",
    )
    parser.add_argument(
        "--splits",
        default="train+val",
        help="splits whose frames are divided into folds (default: %(default)s)",
    )
    parser.add_argument(
        "--output", action=OutputFolder, required=True, help="folder of the runs, one per fold"
    )
    parser.add_argument(
        "--from", dest="start", metavar="RUN|MODEL", help="starting weights, as in `train`"
    )
    add_training_options(parser, "iterations=1000")


def run(args: argparse.Namespace) -> int:
    """Train and score fold by fold; 1 if a run fails or is stopped."""
    from bisenetv2_ros.cli.main import main
    from bisenetv2_ros.training.checkpoint import list_checkpoints, read_run_header
    from bisenetv2_ros.training.folds import fold_splits, last_scores, table
    from bisenetv2_ros.training.recipe import recipe_from_dict
    from bisenetv2_ros.training.resume import is_complete

    folds = [name for name in args.folds.split(",") if name]
    if len(folds) < 2 or len(set(folds)) < len(folds):
        raise UserError(f"--folds {args.folds}: expected two or more names, each once")
    scores = {}
    for fold in folds:
        folder = args.output / fold
        words = ["--config", args.config, "--data", str(args.data), "--output", str(folder)]
        words += ["--device", args.device, *(["--from", args.start] if args.start else [])]
        words += ["--resume"] if list_checkpoints(folder) else []
        splits = fold_splits(args.splits, fold)
        words += [*args.overrides, *(f"{key}={split}" for key, split in splits.items())]
        print(f"fold {fold}:")
        if status := main(words, verb="train"):
            return status
        with user_errors(ValueError):
            recipe = recipe_from_dict(read_run_header(folder)["recipe"], str(folder))
            if not is_complete(folder, recipe):
                print("give the same command again to continue")
                return 1
            scores[fold] = last_scores(folder)
    print(table(scores))
    return 0
