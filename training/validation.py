"""Scores on the validation split during a run."""

from __future__ import annotations

from pathlib import Path

from bisenetv2_ros.metrics import scores
from bisenetv2_ros.training.datasets import Dataset, DatasetError, Sample
from bisenetv2_ros.training.distributed import StopRequest
from bisenetv2_ros.training.evaluate import Mask, evaluate, network_predictor
from bisenetv2_ros.training.gallery import Gallery
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.report import ReportError, write_report
from bisenetv2_ros.training.run_record import RunLog, Say
from bisenetv2_ros.training.state import TrainingState


class Damaged:
    """Handles damaged samples outside of the training stream as `Recipe.damaged` says."""

    def __init__(self, recipe: Recipe) -> None:
        self.skip = recipe.damaged == "skip"
        self.count = 0

    def note(self, error: DatasetError) -> None:
        """Count one, or raise the error unless the recipe says to skip them."""
        if not self.skip:
            raise error
        self.count += 1

    def report(self, where: str, say: Say) -> None:
        """Log how many were left out, if any."""
        if self.count:
            say(f"{where}: {self.count} damaged samples were left out")


class _Interrupted(Exception):
    """A stop was requested during a validation."""


def validate(
    recipe: Recipe,
    state: TrainingState,
    dataset: Dataset,
    stop: StopRequest,
    log: RunLog,
    done: int,
    run: Path | None,
) -> None:
    """Score the weights on the validation split and record the result.

    Returns early, without a record, if a stop is requested.

    Args:
        recipe, state: the run.
        dataset: the validation split.
        stop: whether a stop was requested.
        log: receives the scores.
        done: optimizer steps done.
        run: folder to write the report to, or None for no report.

    Raises:
        DatasetError: if a sample is damaged (unless the recipe says to skip those), or all are.
    """
    gallery = Gallery(dataset.labels)

    def on_sample(sample: Sample, mask: Mask) -> None:
        if stop.asked:
            raise _Interrupted
        gallery(sample, mask)

    damaged = Damaged(recipe)
    evaluated = BiSeNetV2(recipe.model)
    evaluated.load_state_dict(state.weights())
    evaluated.to(next(state.network.parameters()).device)
    try:
        matrix = evaluate(network_predictor(evaluated, recipe), dataset, on_sample, damaged.note)
    except _Interrupted:
        return
    damaged.report("validation", log.say)
    if damaged.count == len(dataset):
        raise DatasetError(f"{dataset.labels.name}: every validation sample is damaged")
    log.validation(done, scores(matrix), gallery)
    if run is None:
        return
    facts = {
        "run": str(run),
        "data": f"{recipe.dataset}, {recipe.val_split} split, {len(dataset)} frames",
        "network input": "{}x{}".format(*recipe.input_size),
        "steps": f"{done}, {recipe.batch_size} frames each",
    }
    try:
        page = write_report(
            run / "report", recipe.name, matrix, gallery, facts, history=run / "metrics.jsonl"
        )
        log.say(f"report: {page}")
    except ReportError as error:
        log.say(f"no report: {error}")
