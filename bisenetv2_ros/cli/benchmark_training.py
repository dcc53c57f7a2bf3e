"""`bisenetv2 benchmark --training`: a training step and its baseline."""

from __future__ import annotations

import argparse

from bisenetv2_ros.cli import positive_int, user_errors
from bisenetv2_ros.files.paths import write_json


def add_options(training: argparse._ArgumentGroup) -> None:
    """Declare the options."""
    training.add_argument(
        "--training", action="store_true", help="measure a training step (needs torch)"
    )
    training.add_argument("--config", default="camvid_cpu", help="recipe (default: %(default)s)")
    training.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="change a key of the recipe, such as batch_size=4 (may be repeated)",
    )
    training.add_argument(
        "--rounds", type=positive_int, default=5, metavar="N", help="timed steps (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for."""
    from bisenetv2_ros.benchmark import training_step as benchmark
    from bisenetv2_ros.benchmark.worker import WorkerLost

    with user_errors(ValueError, WorkerLost):
        facts = benchmark.run(args)
    width, height = facts["crop"]
    print(
        f"{facts['recipe']}, batch {facts['batch_size']} of {width}x{height}, "
        f"{facts['precision']}, {facts['device']}, {facts['rounds']} rounds"
    )
    print(f"ours   {facts['images_per_second']:.2f} images/s")
    print(f"plain  {facts['plain_images_per_second']:.2f} images/s (float32, channels first)")
    print(f"ratio  {facts['ratio']:.2f}")
    write_json(args.json, facts)
    return 0
