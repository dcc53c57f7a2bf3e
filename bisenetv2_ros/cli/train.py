"""`bisenetv2 train`: trains by a recipe; writes a run folder with checkpoints and a report."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.options import DatasetFolder, OutputFolder, add_training_options

if TYPE_CHECKING:
    from bisenetv2_ros.training.recipe import Recipe


OWN_DATA = "finetune"  # the recipe for a user's own folder
FEWEST_TO_SPLIT = 5  # frames
OWN_START = "bisenetv2_camvid_640x480_float32"  # its starting weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from bisenetv2_ros.training.recipe_folder import known_recipes

    recipes = known_recipes()
    width = max(map(len, recipes))
    lines = "\n".join(f"  {name:<{width}}  {first}" for name, first in recipes.items())
    parser.epilog = f"""\
recipes (config/training/NAME.yaml; training/recipe.py explains every key):
{lines}

examples:
  bisenetv2 train --data my_set                          your own labeled frames (finetune)
  bisenetv2 train --config synthetic_cpu                 a first run, no data needed
  bisenetv2 train --config camvid_cpu --data data/camvid
  bisenetv2 train --config cityscapes --data data/cityscapes micro_batch=4
                                                         less memory, nearly the same step
  bisenetv2 train --config cityscapes --data DIR --output runs/sum model.aggregation=sum
                                                         an ablation of the paper
  bisenetv2 train --config camvid_cpu --data DIR --from bisenetv2_camvid_640x480_float32
                                                         fine-tune the package's own weights
  bisenetv2 train --resume --output runs/my_set          after a stop or a power cut
  torchrun --nproc_per_node 4 -m bisenetv2_ros.cli.main train --config cityscapes --data DIR
                                                         four GPUs, which share batch_size

Writes checkpoints/, recipe.json, metrics.jsonl, report/report.html and tensorboard/ into the output
folder (`tensorboard --logdir runs` shows curves). Ctrl-C and SIGTERM finish the current step, save
and exit. Next: `bisenetv2 deploy RUN -o my_model`.
"""
    parser.add_argument(
        "--config", metavar="NAME|FILE", help=f"recipe, see below (default: {OWN_DATA})"
    )
    parser.add_argument("--data", action=DatasetFolder, help="folder of the dataset")
    parser.add_argument(
        "--output",
        action=OutputFolder,
        help="folder of the run (default: runs/NAME with the name of the recipe, or of the data "
        f"folder for {OWN_DATA})",
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="RUN|MODEL",
        help="starting weights: a run, or the file or name of a float32 model. mean, std and "
        "model.* are taken from it. If its classes differ, the last layer of each head starts at "
        f"random (default: random weights; for {OWN_DATA} {OWN_START})",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint in the output folder",
    )
    add_training_options(parser, "batch_size=8")


def run(args: argparse.Namespace) -> int:
    """Train; 0 if the run is complete or was stopped and saved, 1 if it failed."""
    from bisenetv2_ros.system.malloc import keep_freed_tensors
    from bisenetv2_ros.training.loop import train
    from bisenetv2_ros.training.samples import DataLoadingError
    from bisenetv2_ros.training.state import TrainingError

    keep_freed_tensors()
    try:
        recipe, data, output, start = _prepare(args)
        newest = train(recipe, data, output, resume=args.resume, start=start, device=args.device)
    except ValueError as error:
        raise UserError(str(error)) from error
    except (TrainingError, DataLoadingError) as error:
        print(f"bisenetv2 train: error: {error}", file=sys.stderr)
        return 1
    print(f"newest checkpoint: {newest}")
    return 0


def _prepare(args: argparse.Namespace) -> tuple[Recipe, Path, Path, Path | None]:
    """Print the plan; return the recipe to run, folders of data and run, and starting weights."""
    from tqdm import tqdm

    from bisenetv2_ros.files.paths import check_output
    from bisenetv2_ros.training.checkpoint import list_checkpoints, read_run_header
    from bisenetv2_ros.training.dataset_layouts import load_splits, same_files
    from bisenetv2_ros.training.distributed import find_place
    from bisenetv2_ros.training.plan import hold_out, plan
    from bisenetv2_ros.training.recipe import load_recipe, override, recipe_from_dict
    from bisenetv2_ros.training.resume import is_complete

    data, output, start = args.data, args.output, args.start
    if args.resume and args.config is None and data is None:
        if output is None:
            raise UserError("--output is missing: the folder of the run to resume")
        if not (output / "recipe.json").is_file():
            raise UserError(f"{output}: no run to resume, expected a folder with recipe.json")
    elif args.config is None and data is None:
        raise UserError("--data or --config is missing: a folder of labeled frames, or a recipe")
    recipe = load_recipe(args.config or OWN_DATA, args.overrides)
    given = {text.partition("=")[0] for text in args.overrides}
    if recipe.adapt and data and "name" not in given:
        recipe = dataclasses.replace(recipe, name=data.resolve().name)
    output = output or Path("runs") / recipe.name
    check_output(output, is_folder=True)
    done = 0
    if args.resume and (saved := list_checkpoints(output)):
        done = int(saved[-1].name.partition("_")[2])
    if args.resume and recipe.adapt and (output / "recipe.json").is_file():
        header = read_run_header(output)  # the plan of the first start applies
        recipe = recipe_from_dict(override(header["recipe"], args.overrides), f"{output}")
        data = data or (Path(header["data_folder"]) if "data_folder" in header else None)
    elif recipe.adapt and not start:
        start = Path(OWN_START)
    if data is None and recipe.dataset != "synthetic":
        raise UserError(f"--data is missing: the folder of the dataset {recipe.dataset!r}")
    data = data or Path()

    place = find_place(args.device)
    say: Callable[[str], None] = tqdm.write if place.is_first else lambda _: None
    training, validation = load_splits(recipe, data)
    if (
        recipe.adapt
        and not done
        and not given & {"train_split", "val_split"}
        and len(training) >= FEWEST_TO_SPLIT
        and same_files(training, validation)
    ):
        recipe = hold_out(recipe)
        training, validation = load_splits(recipe, data)
        say("no val split: the last fifth of the frames, in the order of names, is held out for it")
    if not is_complete(output, recipe) and (args.resume or not list_checkpoints(output)):
        recipe = plan(recipe, given, training, validation, place, start, say, done)
    say(f"{describe(recipe)}\noutput: {output}")
    return recipe, data, output, start


def describe(recipe: Recipe) -> str:
    """Describe in two lines what a recipe trains and what the network costs when deployed."""
    from bisenetv2_ros.training.model import count_cost

    width, height = recipe.input_size
    cost = count_cost(recipe.model, width, height)
    return (
        f"recipe {recipe.name}: {recipe.iterations} steps of {recipe.batch_size} frames of "
        f"{recipe.dataset}, crop {recipe.crop[0]}x{recipe.crop[1]}\n"
        f"network: {cost.parameters / 1e6:.2f} M parameters, {cost.multiply_adds / 1e9:.2f} G "
        f"multiply-adds at {width}x{height} (booster heads, which train only, not counted)"
    )
