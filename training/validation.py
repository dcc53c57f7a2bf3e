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
    """Samples that cannot be read, outside of the training stream: an error, or counted."""

    def __init__(self, recipe: Recipe) -> None:
        self.skip = recipe.damaged == "skip"
        self.count = 0

    def note(self, error: DatasetError) -> None:
        """Count one, or raise the error where the recipe does not say to skip them."""
        if not self.skip:
            raise error
        self.count += 1

    def tell(self, where: str, say: Say) -> None:
        """Say how many were left out, if any were."""
        if self.count:
            say(f"{where}: {self.count} damaged samples were left out")


class _Interrupted(Exception):
    """Asked to stop in the middle of a validation."""


def validate(
    recipe: Recipe,
    state: TrainingState,
    dataset: Dataset,
    stop: StopRequest,
    log: RunLog,
    done: int,
    run: Path | None,
) -> None:
    """Score the weights on the validation split, and with a `run` folder write its report there.

    Gives up silently when asked to stop.
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
    damaged.tell("validation", log.say)
    if damaged.count == len(dataset):
        raise DatasetError(f"{dataset.labels.name}: every validation sample is damaged")
    log.validation(done, scores(matrix), gallery)
    if run is None:
        return
    facts = {
        "run": str(run),
        "data": f"{recipe.dataset}, {recipe.val_split} split, {len(dataset)} frames",
        "network input": "{}x{}".format(*recipe.input_size),
        "steps": f"{done} of {recipe.batch_size} frames",
    }
    try:
        page = write_report(
            run / "report", recipe.name, matrix, gallery, facts, history=run / "metrics.jsonl"
        )
        log.say(f"report: {page}")
    except ReportError as error:
        log.say(f"no report: {error}")
