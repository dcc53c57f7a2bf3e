"""Makes a folder for the robot from a run: one model in three precisions, scored, with a card.

    DIR/NAME_float32.onnx, NAME_float16.onnx, NAME_int8.onnx
    DIR/MODEL_CARD.md

int8 is calibrated on the run's own training frames; all files are scored on its validation split.
Knows nothing of the command line.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bisenetv2_ros.convert.int8 import QuantizationError, quantize_model
from bisenetv2_ros.files.images import raise_error
from bisenetv2_ros.metrics import Scores, scores
from bisenetv2_ros.model_file import ModelInfo, read_model_file, write_model_file
from bisenetv2_ros.segmenter import Segmenter
from bisenetv2_ros.training.checkpoint import TrainedNetwork, load_network, read_run_header, run_of
from bisenetv2_ros.training.dataset_layouts import load_dataset_of
from bisenetv2_ros.training.datasets import Dataset, DatasetError, Part, read_some
from bisenetv2_ros.training.evaluate import Mask, evaluate
from bisenetv2_ros.training.export import DeployedModel, export_model
from bisenetv2_ros.training.run_record import Say

CALIBRATION_FRAMES = 48
COMPARED_FRAMES = 4  # on which an exported file must reproduce the network's masks
SCORED_FRAMES = 500  # of the validation split, at most
KEPT_MASKS = 100  # of them, to compare the files with float32
TIMED_FRAMES = 20


@dataclass(frozen=True)
class Deployed:
    """A model file and its measurements."""

    path: Path
    result: Scores  #: on the validation split
    agreement: float  #: fraction of the pixels with the float32 file's class, 0..1
    milliseconds: float  #: median time of resize and network for one frame
    runs_on: str  #: backend and device of that time


def deploy(
    run: Path, folder: Path, data: Path | None = None, licence: str = "not stated", say: Say = print
) -> list[Deployed]:
    """Export a run in every precision, score each file and write the model card.

    Args:
        run: folder of a run or of one checkpoint.
        folder: new or empty; its name is the model's.
        data: folder of the dataset; None takes that of the run.
        licence: license of weights and training data, stored in the files.
        say: receives a message for each step.

    Returns:
        The files; int8 is missing if its masks differ too much from float32's.

    Raises:
        ValueError: if the folder is in use.
        CheckpointError, DatasetError, ExportError: if run or data cannot be used.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: in use, expected a new folder")
    trained = load_network(run)
    recipe, labels = trained.recipe, trained.labels
    data = data or trained.data_folder
    if data is None or not data.is_dir():
        where = f"was in {data}, which is gone" if data else "is not recorded"
        raise DatasetError(f"{run}: its dataset {where}: expected --data DIR")
    training, validation = (
        load_dataset_of(labels, run, recipe.dataset, data, split)
        for split in (recipe.train_split, recipe.val_split)
    )
    info = trained.model_info(licence)
    network = DeployedModel(trained.network, recipe.mean, recipe.std)
    compared = _frames(validation, COMPARED_FRAMES)
    folder.mkdir(parents=True, exist_ok=True)
    frames = _frames(training, CALIBRATION_FRAMES)
    paths = write_precisions(network, info, folder, compared, frames, say)
    deployed = _score(paths, validation, recipe.damaged == "skip", say)
    score = f"{recipe.dataset} {recipe.val_split} mIoU"
    if split := info.memorized(score):
        say(f"trained on {split} too: the scores measure memory, and the files do not carry them")
    else:
        for file in deployed:
            _write_scores(file, score)
    start = read_run_header(run_of(run)).get("start") or {}
    memory = ", which it was trained on: these scores measure memory" if split else ""
    facts = {
        "data": f"{labels.name} ({recipe.dataset}) in `{data}`",
        "trained on": f"{len(training)} frames (`{recipe.train_split}`)",
        "scored on": f"{len(validation)} frames (`{recipe.val_split}`){memory}",
        "steps": f"{trained.step} of {recipe.batch_size} frames, recipe `{recipe.name}`",
        "started from": start.get("source", "random weights"),
        "code": trained.revision,
        "licence": licence,
    }
    card = _card(folder, trained, deployed, facts)
    (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    return deployed


def write_precisions(
    network: DeployedModel,
    info: ModelInfo,
    folder: Path,
    compared: list[np.ndarray],
    calibration: list[np.ndarray],
    say: Say,
) -> dict[str, Path]:
    """Write `FOLDER/NAME_PRECISION.onnx` in float32, float16 and int8; NAME is the folder's.

    Args:
        network: the network with its normalization.
        info: metadata of the files, except for the precision.
        folder: an existing folder.
        compared: frames, (H, W, 3) uint8 RGB, on which a file must reproduce the network's masks.
        calibration: frames to measure the ranges of int8 on.
        say: receives a message for each step.

    Returns:
        The files by precision. int8 is missing, with a message, if its masks differ too much from
        float32's.

    Raises:
        ExportError: if a runtime does not reproduce the network's masks.
    """
    paths = {p: folder / f"{folder.name}_{p}.onnx" for p in ("float32", "float16", "int8")}
    for precision in ("float32", "float16"):
        say(f"exporting {precision}")
        chosen = dataclasses.replace(info, precision=precision)
        export_model(network, chosen, paths[precision], compared)
    say(f"calibrating int8 on {len(calibration)} frames")
    try:
        quantize_model(paths["float32"], paths["int8"], calibration)
    except QuantizationError as error:
        say(f"no int8: {error}")
        del paths["int8"]
    return paths


def table(deployed: list[Deployed]) -> list[str]:
    """Return the lines of a Markdown table of the files, for terminal and card."""
    header = ("file", "MB", "mIoU %", "as float32 %", "ms", "on")
    rows = [
        (
            file.path.name,
            f"{file.path.stat().st_size / 1e6:.1f}",
            f"{100 * file.result.mean_iou:.2f}",
            f"{100 * file.agreement:.2f}",
            f"{file.milliseconds:.1f}",
            file.runs_on,
        )
        for file in deployed
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, tuple("-" * width for width in widths), *rows]
    return [
        f"| {' | '.join(cell.ljust(w) for cell, w in zip(line, widths, strict=True))} |"
        for line in lines
    ]


def _frames(dataset: Dataset, count: int) -> list[np.ndarray]:
    return [sample.image for sample in read_some(dataset, count)]


def _score(
    paths: dict[str, Path], validation: Dataset, skip_damaged: bool, say: Say
) -> list[Deployed]:
    part = Part(validation, SCORED_FRAMES)
    expected: list[Mask] = []  # the float32 file's masks of the first frames
    timed = _frames(part, TIMED_FRAMES)
    deployed = []

    def leave_out(error: DatasetError) -> None:
        say(f"left out: {error}")

    for precision, path in paths.items():
        say(f"scoring {precision} on {len(part)} frames of the validation split")
        with Segmenter(path) as segmenter:
            masks: list[Mask] = []
            predict = functools.partial(_predict, segmenter, masks)
            matrix = evaluate(predict, part, on_damaged=leave_out if skip_damaged else raise_error)
            seconds = [segmenter(frame).inference_seconds for frame in timed]
            runs_on = f"{segmenter.backend.name}, {segmenter.backend.device}"
        expected = expected or masks
        equal = [(mask == first).mean() for mask, first in zip(masks, expected, strict=True)]
        milliseconds = 1000 * statistics.median(seconds)
        agreement = float(np.mean(equal))
        deployed.append(Deployed(path, scores(matrix), agreement, milliseconds, runs_on))
    return deployed


def _predict(segmenter: Segmenter, masks: list[Mask], image: Mask) -> Mask:
    """Segment a frame at its own size; collects the first masks."""
    mask = segmenter(image, size=(image.shape[1], image.shape[0])).mask
    if len(masks) < KEPT_MASKS:
        masks.append(mask)
    return mask


def _write_scores(file: Deployed, name: str) -> None:
    """Write a file's own score into its metadata."""
    if not np.isfinite(file.result.mean_iou):
        return
    info = read_model_file(file.path).info
    metrics = {name: round(float(file.result.mean_iou), 4)}
    write_model_file(onnx.load(file.path), dataclasses.replace(info, metrics=metrics), file.path)


def _card(
    folder: Path, trained: TrainedNetwork, deployed: list[Deployed], facts: dict[str, str]
) -> str:
    labels = trained.labels
    width, height = trained.recipe.input_size
    best = deployed[-1]
    iou = "\n".join(
        f"| {name} | {'-' if np.isnan(value) else f'{100 * value:.1f}'} |"
        for name, value in zip(labels.names, best.result.iou, strict=True)
    )
    history = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""\
# {folder.name}

BiSeNetV2 for {len(labels)} classes ({", ".join(labels.names)}), input {width}x{height}. Made by
`bisenetv2 deploy` on {datetime.date.today()}.

```sh
ros2 launch bisenetv2_ros segment.launch.py model:={folder.resolve()}
```

The node takes the file that suits its backend.

## Files

mIoU is the mean intersection over union on the validation split; "as float32" the fraction of
pixels with the float32 file's class; ms the median time of a frame on the machine that made this.

{chr(10).join(table(deployed))}

## Classes ({best.path.name})

| class | IoU % |
|---|---|
{iou}

## Training

| | |
|---|---|
{history}

The scores hold for frames like those of the validation split: other places, seasons, light and
cameras score lower. Nothing here says that the model is fit for a safety function.
"""
