"""`bisenetv2 export`: writes the model file of a trained network."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli.options import (
    DatasetFolder,
    OutputFile,
    add_frames_options,
    add_metric_option,
    add_size_option,
    refuse_overwriting,
    sample_frames,
)

if TYPE_CHECKING:
    from bisenetv2_ros.training.checkpoint import TrainedNetwork
    from bisenetv2_ros.training.datasets import Sample

ADJUSTING_FRAMES = 150  # of the dataset: less than a minute on two cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
The file is complete: it takes camera pixels, returns a label mask, and states class names and
colors. It is written only if ONNX Runtime and OpenVINO reproduce the network's masks. For int8,
export float32 and pass the file to `bisenetv2 quantize`.

examples:
  bisenetv2 export runs/camvid_cpu --frames data/camvid/val/images
  bisenetv2 export runs/camvid_cpu --adjust-logits data/camvid
                                       half a point of mean IoU more, from rare classes
  bisenetv2 export runs/cityscapes --size 1024x512 --precision float16 -o street.onnx
"""
    parser.add_argument(
        "checkpoint", type=Path, help="folder of a run, of its checkpoints, or of one"
    )
    add_size_option(parser, "the recipe's input_size")
    parser.add_argument(
        "--precision",
        choices=("float32", "float16"),
        default="float32",
        help="precision of the network; input and argmax stay float32 (default: %(default)s)",
    )
    parser.add_argument(
        "--adjust-logits",
        action=DatasetFolder,
        help="add an offset to each class's logits that maximizes the mean IoU on "
        f"{ADJUSTING_FRAMES} training frames of the run's dataset, which is in DIR",
    )
    parser.add_argument(
        "-o",
        "--output",
        action=OutputFile,
        help="file to write (default: bisenetv2_DATASET_WxH_PRECISION.onnx in the current folder)",
    )
    add_frames_options(parser, "compare masks on", 8)
    parser.add_argument(
        "--licence",
        default="not stated",
        help="licence of weights and training data, stored in the file",
    )
    add_metric_option(parser)


def run(args: argparse.Namespace) -> int:
    """Export, compare, and print how well the runtimes agree."""
    from bisenetv2_ros.backends import BackendUnavailable
    from bisenetv2_ros.training.checkpoint import load_network
    from bisenetv2_ros.training.export import DeployedModel, ExportError, export_model
    from bisenetv2_ros.training.logit_adjustment import adjust_logits

    try:
        trained = load_network(args.checkpoint)
        recipe = trained.recipe
        width, height = args.size or recipe.input_size
        info = trained.model_info(
            args.licence,
            input_size=(width, height),
            precision=args.precision,
            metrics=dict(args.metric),
        )
        name = f"bisenetv2_{info.dataset}_{width}x{height}_{args.precision}.onnx"
        path = args.output or Path(name)
        trained_files = (f for f in args.checkpoint.rglob("*") if f.suffix != ".onnx")
        refuse_overwriting(path, Path(args.frames), *trained_files)
        deployed = DeployedModel(trained.network, recipe.mean, recipe.std)
        if args.adjust_logits:
            samples = _training_samples(trained, args)
            ignored = trained.labels.ignore_index
            adjustment = adjust_logits(deployed, samples, info.input_size, ignored)
            shifts = zip(trained.labels.names, adjustment.shifts, strict=True)
            print(
                f"logits adjusted: mean IoU {adjustment.before:.4f} -> {adjustment.after:.4f} on "
                f"frames of training; {', '.join(f'{name} {shift:+.2f}' for name, shift in shifts)}"
            )
        frames = sample_frames(args.frames, args.frame_count, "--frames")
        agreement = export_model(deployed, info, path, frames)
    except (ValueError, ExportError, BackendUnavailable) as error:
        raise UserError(str(error)) from error
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}") from error
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, from step {trained.step}")
    for backend, fraction in agreement.items():
        print(f"{backend}: {fraction:.3%} of the pixels have the network's class")
    return 0


def _training_samples(trained: TrainedNetwork, args: argparse.Namespace) -> Iterator[Sample]:
    """Yield frames of the training split, and the run's fraction of synthetic scenes."""
    from bisenetv2_ros.training.dataset_layouts import load_dataset_of
    from bisenetv2_ros.training.datasets import Part
    from bisenetv2_ros.training.samples import TrainingStream

    recipe = trained.recipe
    dataset = load_dataset_of(
        trained.labels, args.checkpoint, recipe.dataset, args.adjust_logits, recipe.train_split
    )
    part = Part(dataset, ADJUSTING_FRAMES)
    yield from (part[i] for i in range(len(part)))
    if recipe.synthetic:
        fraction = min(recipe.synthetic, 0.5)
        scenes = TrainingStream(dataset, recipe).scenes
        yield from (scenes[i] for i in range(round(len(part) * fraction / (1 - fraction))))
