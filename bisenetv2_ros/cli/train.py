"""`bisenetv2 train`: a recipe and a data set in, a run folder with checkpoints and a report out."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError

if TYPE_CHECKING:
    from bisenetv2_ros.training.recipe import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from bisenetv2_ros.training.recipe import known_recipes

    recipes = known_recipes()
    width = max(map(len, recipes))
    lines = "\n".join(f"  {name:<{width}}  {first}" for name, first in recipes.items())
    parser.epilog = f"""\
recipes (config/training/NAME.yaml, read one: every key is explained in training/recipe.py):
{lines}

examples:
  bisenetv2 train --config synthetic_cpu                 a first run, no data needed
  bisenetv2 train --config camvid_cpu --data data/camvid
  bisenetv2 train --config cityscapes --data data/cityscapes micro_batch=4
                                                         less memory, nearly the same step
  bisenetv2 train --config cityscapes --data DIR --output runs/sum model.aggregation=sum
                                                         an ablation of the paper
  bisenetv2 train --config camvid_cpu --data DIR --from bisenetv2_camvid_640x480_float32
                                                         fine-tune the package's own weights
  bisenetv2 train --config camvid_cpu --data DIR --resume
                                                         after a stop or a power cut
  torchrun --nproc_per_node 4 -m bisenetv2_ros.cli.main train --config cityscapes --data DIR
                                                         four GPUs, batch_size shared out

Left in the output folder: checkpoints/, recipe.json, metrics.jsonl, report/report.html, and
tensorboard/ (`tensorboard --logdir runs`). Ctrl-C and SIGTERM end after the current step and save.
Then: `bisenetv2 evaluate RUN`, `bisenetv2 export RUN`.
"""
    parser.add_argument("--config", required=True, metavar="NAME|FILE", help="recipe, see below")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="folder of the run (default: runs/NAME)"
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="RUN|MODEL",
        help="start from these weights: a run, or a float32 model file (or the name of one of the "
        "package); where the classes are others the heads start anew in their last layer",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in the output folder",
    )
    parser.add_argument(
        "--device", default="", help="cpu, cuda or cuda:N (default: cuda where present)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="of the recipe, such as batch_size=8"
    )


def run(args: argparse.Namespace) -> int:
    """Train; 0 when the run is complete or was stopped and saved, 1 when it broke off."""
    from bisenetv2_ros.training.recipe import load_recipe

    try:
        recipe = load_recipe(args.config, args.overrides)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.data is None and recipe.dataset != "synthetic":
        raise UserError(f"--data is missing: the folder of the data set {recipe.dataset!r}")
    output = args.output or Path("runs") / recipe.name

    from bisenetv2_ros.system.malloc import keep_freed_tensors
    from bisenetv2_ros.training.loop import train
    from bisenetv2_ros.training.state import TrainingError

    keep_freed_tensors()
    print(describe(recipe), f"output: {output}", sep="\n", flush=True)
    try:
        newest = train(
            recipe,
            args.data or Path(),
            output,
            resume=args.resume,
            start=args.start,
            device=args.device,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    except TrainingError as error:
        print(f"bisenetv2 train: error: {error}", file=sys.stderr)
        return 1
    print(f"newest checkpoint: {newest}")
    return 0


def describe(recipe: Recipe) -> str:
    """Say in two lines what a recipe trains and what the network costs when deployed."""
    from bisenetv2_ros.training.model import count_cost

    width, height = recipe.input_size
    cost = count_cost(recipe.model, width, height)
    return (
        f"recipe {recipe.name}: {recipe.iterations} steps of {recipe.batch_size} frames of "
        f"{recipe.dataset}, crop {recipe.crop[0]}x{recipe.crop[1]}\n"
        f"network: {cost.parameters / 1e6:.2f} M parameters, {cost.multiply_adds / 1e9:.2f} G "
        f"multiply-adds at {width}x{height} (booster heads, which train only, not counted)"
    )
