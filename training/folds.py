"""Cross-validation: each recording is held out of training once, and scored on.

Computes the splits of each fold and reads the scores of finished runs. Does not train.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

from bisenetv2_ros.training.checkpoint import CheckpointError
from bisenetv2_ros.training.run_record import read_metrics


def fold_splits(splits: str, fold: str) -> dict[str, str]:
    """Return recipe keys that hold out the frames whose names begin with `fold`.

    splits: splits of the dataset whose frames are divided into folds, such as `train+val`.
    """
    return {"train_split": f"{splits}:!{fold}*", "val_split": f"{splits}:{fold}*"}


def last_scores(run: Path) -> dict[str, float]:
    """Return the IoU of each class at a run's last validation (NaN if no frame has it) and `mean`.

    Raises:
        CheckpointError: if the run was never validated.
    """
    validations = [r for r in read_metrics(run / "metrics.jsonl") if "val_miou" in r]
    if not validations:
        raise CheckpointError(f"{run}: no validation in its records")
    found = {**validations[-1]["val_iou"], "mean": validations[-1]["val_miou"]}
    return {name: math.nan if value is None else float(value) for name, value in found.items()}


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Return mean and standard error over the folds that have a value; NaN if there are too few."""
    known = [value for value in values if not math.isnan(value)]
    mean = statistics.mean(known) if known else math.nan
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return mean, error


def table(scores: dict[str, dict[str, float]]) -> str:
    """Return a text table of IoU in percent: classes by folds, then mean and standard error."""
    names = list(next(iter(scores.values())))
    width = max(map(len, names))
    head = "".join(f"  {fold:>8}" for fold in scores)
    lines = [f"{'IoU %':<{width}}{head}  {'mean':>6}  error"]
    for name in names:
        values = [of_fold.get(name, math.nan) for of_fold in scores.values()]
        mean, error = mean_and_error(values)
        cells = "".join(f"  {_per_cent(value):>8}" for value in values)
        lines.append(f"{name:<{width}}{cells}  {_per_cent(mean):>6}  {_per_cent(error):>5}")
    return "\n".join(lines)


def _per_cent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.2f}"
