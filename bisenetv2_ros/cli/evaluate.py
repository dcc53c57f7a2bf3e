"""`bisenetv2 evaluate`: scores a run, a checkpoint or a model file on a labeled dataset."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bisenetv2_ros.cli import UserError, user_errors
from bisenetv2_ros.cli.options import DatasetFolder, OutputFile, OutputFolder
from bisenetv2_ros.files.paths import refuse_overwriting, write_json

if TYPE_CHECKING:
    import numpy as np

    from bisenetv2_ros.labels import LabelSet
    from bisenetv2_ros.metrics import Scores
    from bisenetv2_ros.training.datasets import DatasetError, Sample
    from bisenetv2_ros.training.evaluate import Mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = """\
Scores are at the labels' full resolution: the frame is resized to the network's size, and the
network's scores are enlarged to the label's size before the argmax (as in published protocols, and
in the node; if a runtime does not return scores, its mask is enlarged). Pixels of the whole split
are counted in one confusion matrix, as cityscapesScripts does. `bisenetv2 datasets` lists the
datasets.

examples:
  bisenetv2 evaluate runs/camvid_cpu --data data/camvid
  bisenetv2 evaluate models/bisenetv2_camvid_640x480_int8.onnx --dataset camvid --data data/camvid
  bisenetv2 evaluate runs/cityscapes --data DIR --full-size --flip --scales 0.75,1,1.25
  bisenetv2 evaluate my_model.onnx --data DIR --crop '0 0.25 1 1'      without the upper quarter
  bisenetv2 evaluate runs/cityscapes --data DIR --split test --submission out
"""
    parser.add_argument(
        "model",
        help="folder of a run, of a checkpoint or of `deploy`, a model file (.onnx), or its name",
    )
    parser.add_argument(
        "--dataset",
        default="",
        help="name of a dataset, or its YAML file (default: what the model was trained on)",
    )
    parser.add_argument(
        "--data", action=DatasetFolder, help="folder of the dataset (default: the run's)"
    )
    parser.add_argument(
        "--split", help="split to score (default: the run's validation split, or val)"
    )
    parser.add_argument(
        "--crop",
        type=_crop,
        metavar="'L T R B'",
        help="score only this part of each frame: left, top, right, bottom as fractions, as in the "
        "node's parameter crops",
    )
    parser.add_argument("--json", action=OutputFile, help="write all scores to FILE")
    parser.add_argument("--report", action=OutputFolder, help="write plots and report.html to DIR")
    parser.add_argument(
        "--submission", action=OutputFolder, help="write Cityscapes' label-id PNGs to DIR"
    )
    checkpoints = parser.add_argument_group("checkpoints only")
    checkpoints.add_argument(
        "--full-size", action="store_true", help="run the network at the frame's own size"
    )
    checkpoints.add_argument(
        "--flip", action="store_true", help="average the scores with those of the mirrored frame"
    )
    checkpoints.add_argument(
        "--scales",
        type=_scales,
        default=(1.0,),
        metavar="S,...",
        help="average the scores over the frame resized by these factors",
    )
    parser.add_argument(
        "--backend", default="auto", help="inference runtime of a model file (default: %(default)s)"
    )
    parser.add_argument("--device", default="", help="cpu, cuda, or as the backend names it")


def run(args: argparse.Namespace) -> int:
    """Evaluate and print a table."""
    from tqdm import tqdm

    from bisenetv2_ros.backends.base import BackendUnavailable
    from bisenetv2_ros.camera_view import View
    from bisenetv2_ros.files.images import raise_error
    from bisenetv2_ros.metrics import scores
    from bisenetv2_ros.training.dataset_layouts import load_dataset_of
    from bisenetv2_ros.training.datasets import DatasetError
    from bisenetv2_ros.training.evaluate import CityscapesSubmission, CroppedDataset, evaluate
    from bisenetv2_ros.training.gallery import Gallery
    from bisenetv2_ros.training.report import ReportError, write_report

    with user_errors(ValueError, BackendUnavailable):
        predict, labels, trained_on, facts, skips = _open_model(args)
        kind = args.dataset or trained_on
        dataset = load_dataset_of(labels, args.model, kind, args.data or Path(), args.split)
        refuse_overwriting(_outputs(args), [Path(args.model), *([args.data] if args.data else [])])
        if args.submission and dataset.labels.name != "cityscapes19":
            raise UserError(f"--submission is for cityscapes, not for {kind}")
        if args.crop and args.submission:
            raise UserError("--submission is of whole frames, got --crop with it")
        if args.crop:
            dataset = CroppedDataset(dataset, View(crop=args.crop))
        gallery = Gallery(dataset.labels)
        damaged: list[str] = []  # left out, if the run's recipe says so
        watchers: list[Callable[[Sample, Mask], None]] = [gallery]
        if args.submission:
            watchers.append(CityscapesSubmission(args.submission))
        with tqdm(total=len(dataset), unit="frame", disable=None) as bar:

            def on_sample(sample: Sample, mask: Mask) -> None:
                for watcher in watchers:
                    watcher(sample, mask)
                bar.update()

            def on_damaged(error: DatasetError) -> None:
                damaged.append(str(error))
                tqdm.write(f"bisenetv2 evaluate: left out {error}", file=sys.stderr)
                bar.update()

            matrix = evaluate(predict, dataset, on_sample, on_damaged if skips else raise_error)
            if len(damaged) == len(dataset):
                raise DatasetError(f"every one of {len(dataset)} samples is damaged")

    result = scores(matrix)
    facts["data"] = f"{kind}, {args.split} split, {len(dataset)} frames"
    if damaged:
        facts["data"] += f", {len(damaged)} of them damaged and left out"
    if args.crop:
        facts["data"] += ", cropped to {:g} {:g} {:g} {:g}".format(*args.crop)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(table(result, matrix, labels))
    content = _as_json(result, matrix, labels, {**facts, "dataset": kind, "split": args.split})
    write_json(args.json, content)
    if args.report:
        with user_errors(ReportError):
            print(write_report(args.report, Path(args.model).stem, matrix, gallery, facts))
    return 0


def _open_model(
    args: argparse.Namespace,
) -> tuple[Callable[[Mask], Mask], LabelSet, str, dict[str, str], bool]:
    """Return predictor, classes, its dataset, facts, and whether its run skips damaged samples.

    Sets `args.data` and `args.split` to those of the run if they are not given.
    """
    averages = args.flip or args.scales != (1.0,) or args.full_size
    if _is_model(args.model):
        args.split = args.split or "val"
        if averages:
            raise UserError(
                "--flip, --scales and --full-size need a checkpoint: a model file gives masks of "
                "one size, not probabilities"
            )
        from bisenetv2_ros.segmenter import Segmenter

        segmenter = Segmenter(args.model, backend=args.backend, device=args.device)
        info = segmenter.model.info
        facts = {
            "model": args.model,
            "runs on": f"{segmenter.backend.name}, {segmenter.backend.device}",
            "protocol": "network at {}x{}".format(*info.input_size),
        }

        def predict_frame(image: Mask) -> Mask:
            return segmenter(image, size=(image.shape[1], image.shape[0])).mask

        return predict_frame, info.labels, info.dataset, facts, False

    from bisenetv2_ros.training.checkpoint import load_network
    from bisenetv2_ros.training.distributed import join_processes
    from bisenetv2_ros.training.evaluate import averaging_predictor, network_predictor

    trained = load_network(args.model)
    device = join_processes(args.device).device
    network = trained.network.to(device)
    size = "its own size" if args.full_size else "{}x{}".format(*trained.recipe.input_size)
    protocol = f"network at {size}"
    if args.scales != (1.0,):
        protocol += f", scales {', '.join(f'{scale:g}' for scale in args.scales)}"
    if args.flip:
        protocol += ", flip"
    facts = {
        "model": f"{args.model}, step {trained.step}",
        "runs on": str(device),
        "protocol": protocol,
    }
    predict = network_predictor(network, trained.recipe)
    if averages:
        options = {"flip": args.flip, "scales": args.scales, "full_size": args.full_size}
        predict = averaging_predictor(network, trained.recipe, **options)
    args.split = args.split or trained.recipe.val_split
    if not args.data and trained.data_folder and not args.dataset:
        args.data = trained.data_folder
    skips = trained.recipe.damaged == "skip"
    return predict, trained.labels, trained.recipe.dataset, facts, skips


def _outputs(args: argparse.Namespace) -> Iterator[Path]:
    """Yield the file of `--json` and the files in the output folders."""
    if args.json:
        yield args.json
    for folder in filter(None, (args.report, args.submission)):
        yield from (path for path in folder.glob("*") if path.is_file())


def _is_model(name: str) -> bool:
    """Return whether this is a model file or a folder of some, not a run or checkpoint."""
    from bisenetv2_ros.model_file import ModelFileError, model_files

    if name.endswith(".onnx"):
        return True
    if any((Path(name) / file).is_file() for file in ("recipe.json", "model.safetensors")):
        return False
    try:
        return bool(model_files(name))
    except ModelFileError:
        return False


def table(result: Scores, matrix: np.ndarray, labels: LabelSet) -> str:
    """Return lines with IoU and fraction of the labeled pixels by class, then the means."""
    from bisenetv2_ros.benchmark.tables import aligned

    total = max(1, int(matrix.sum()))
    rows = [("class", "IoU %", "pixels %")]
    for name, iou, pixels in zip(labels.names, result.iou, matrix.sum(axis=1), strict=True):
        shown = "-" if math.isnan(iou) else f"{100 * iou:.2f}"
        rows.append((name, shown, f"{100 * pixels / total:.2f}"))
    rows.append(("mean IoU", f"{100 * result.mean_iou:.2f}", ""))
    rows.append(("pixel accuracy", f"{100 * result.pixel_accuracy:.2f}", ""))
    return "\n".join(aligned(rows, 1))


def _as_json(
    result: Scores, matrix: np.ndarray, labels: LabelSet, facts: dict[str, str]
) -> dict[str, Any]:
    from bisenetv2_ros.benchmark.tables import number_or_none

    return {
        **facts,
        "mean_iou": number_or_none(result.mean_iou),
        "pixel_accuracy": number_or_none(result.pixel_accuracy),
        "iou": {n: number_or_none(float(v)) for n, v in zip(labels.names, result.iou, strict=True)},
        "confusion_matrix": matrix.tolist(),
    }


def _crop(text: str) -> tuple[float, float, float, float]:
    from bisenetv2_ros.camera_view import parse_crop

    try:
        return parse_crop(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(word) for word in text.split(","))
    except ValueError:
        scales = ()
    if not scales or not all(0.1 <= scale <= 4 for scale in scales):
        raise argparse.ArgumentTypeError(f"{text!r}: expected factors 0.1 to 4 such as 0.75,1,1.25")
    return scales
