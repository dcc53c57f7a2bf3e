"""Checkpoints of a run: one folder each, written completely or not at all.

    RUN/recipe.json               every choice, versions, data fingerprint
    RUN/checkpoints/step_00001000/
        model.safetensors         weights as trained
        ema.safetensors           their moving average, if the recipe keeps one
        momentum.safetensors      momentum of each parameter
        state.json                step, loss scale

Nothing is pickled: tensors are safetensors, the rest is JSON. Knows nothing of data or of how a
step is computed.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bisenetv2_ros.labels import LabelSet, label_set_from_dict
from bisenetv2_ros.model_file import ModelInfo
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe, recipe_from_dict

PARTIAL = ".partial-"


class CheckpointError(ValueError):
    """A checkpoint cannot be read; the message names the file and what is wrong with it."""


@dataclass
class Checkpoint:
    """The whole state of a run after `step` optimizer steps."""

    step: int
    model: dict[str, Tensor]  #: weights and batch-norm statistics by name
    ema: dict[str, Tensor] = field(default_factory=dict)  #: moving average of `model`, or empty
    momentum: dict[str, Tensor] = field(default_factory=dict)  #: of SGD, by parameter name
    state: dict[str, Any] = field(default_factory=dict)  #: the rest, as JSON values


@dataclass(frozen=True)
class TrainedNetwork:
    """A network with its last weights in evaluation mode, and facts about its run."""

    network: BiSeNetV2
    recipe: Recipe
    labels: LabelSet
    step: int
    revision: str
    data_folder: Path | None = None  #: of the run's dataset, if recorded

    def model_info(self, licence: str, **changes: Any) -> ModelInfo:
        """Return the metadata of its float32 model file, with `changes` to the fields."""
        fields: dict[str, Any] = {
            "labels": self.labels,
            "dataset": Path(self.recipe.dataset).stem,  # may be the path of a YAML file
            "input_size": self.recipe.input_size,
            "precision": "float32",
            "metrics": {},
            "source_revision": self.revision,
            "licence": licence,
            "trained_on": self.recipe.train_split,
        }
        return ModelInfo(**{**fields, **changes})


def save_checkpoint(run: Path, checkpoint: Checkpoint, keep: int = 2) -> Path:
    """Write a checkpoint under `run/checkpoints`, then drop all but the newest `keep`.

    The folder gets its name only when every byte is on the disk, so a power cut, SIGKILL or full
    disk leaves the previous checkpoint as the newest.

    Raises:
        OSError: the disk is full or cannot be written; older checkpoints are untouched.
    """
    parent = run / "checkpoints"
    parent.mkdir(parents=True, exist_ok=True)
    final = parent / f"step_{checkpoint.step:08d}"
    partial = parent / f"{PARTIAL}{final.name}"
    sweep(run)
    partial.mkdir()
    try:
        for name in ("model", "ema", "momentum"):
            tensors = getattr(checkpoint, name)
            if tensors:
                path = partial / f"{name}.safetensors"
                contiguous = {key: value.cpu().contiguous() for key, value in tensors.items()}
                try:
                    save_file(contiguous, path)
                except SafetensorError as error:  # also for a full disk
                    raise OSError(errno.EIO, str(error), str(path)) from error
        state = {"step": checkpoint.step, **checkpoint.state}
        (partial / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
        for path in (*partial.iterdir(), partial):
            _sync(path)
        _drop(final)
        partial.replace(final)
        _sync(parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_checkpoints(run)[:-keep]:
        _drop(old)
    return final


def _drop(folder: Path) -> None:
    """Delete a checkpoint. Renames it first, so that a kill leaves no incomplete checkpoint."""
    dropped = folder.with_name(f"{PARTIAL}dropped-{folder.name}")
    if folder.exists():
        folder.replace(dropped)
        shutil.rmtree(dropped, ignore_errors=True)


def sweep(run: Path) -> None:
    """Remove incomplete checkpoints of a killed process. Only for the process that saves."""
    for folder in (run / "checkpoints").glob(f"{PARTIAL}*"):
        shutil.rmtree(folder, ignore_errors=True)


def list_checkpoints(run: Path) -> list[Path]:
    """List the complete checkpoint folders of a run, oldest first."""
    return sorted((run / "checkpoints").glob("step_*"))


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint folder. Raises CheckpointError naming the missing or damaged file."""
    state = read_state(folder)
    tensors = {
        name: _load_tensors(folder / f"{name}.safetensors")
        for name in ("model", "ema", "momentum")
        if name == "model" or (folder / f"{name}.safetensors").is_file()
    }
    return Checkpoint(step=state.pop("step"), state=state, **tensors)


def read_state(folder: Path) -> dict[str, Any]:
    """Read a checkpoint folder's JSON values, including `step`. Raises CheckpointError."""
    state = _read_json(folder / "state.json")
    if not isinstance(state.get("step"), int):
        raise CheckpointError(f"{folder / 'state.json'}: no step in it")
    return state


def load_newest(run: Path, warn: Callable[[str], None] = print) -> Checkpoint | None:
    """Load the newest intact checkpoint of a run; logs damaged ones and skips them."""
    for folder in reversed(list_checkpoints(run)):
        try:
            return load_checkpoint(folder)
        except CheckpointError as error:
            warn(f"skipping a damaged checkpoint: {error}")
    return None


def write_run_header(run: Path, header: dict[str, Any]) -> None:
    """Write `run/recipe.json`: the resolved recipe, label set, versions, data fingerprint."""
    run.mkdir(parents=True, exist_ok=True)
    partial = run / f"{PARTIAL}recipe.json"
    partial.write_text(json.dumps(header, indent=1), encoding="utf-8")
    _sync(partial)
    partial.replace(run / "recipe.json")


def read_run_header(run: Path) -> dict[str, Any]:
    """Read `run/recipe.json`. Raises CheckpointError if it is missing or damaged."""
    header = _read_json(run / "recipe.json")
    for key in ("recipe", "labels", "data"):
        if not isinstance(header.get(key), dict):
            raise CheckpointError(f"{run / 'recipe.json'}: no {key!r} in it")
    return header


def run_of(path: Path) -> Path:
    """Return the run folder of a path: a run, its folder `checkpoints`, or one of these.

    Raises CheckpointError, naming the path and what was expected there.
    """
    full = path.absolute()
    runs = [path]
    runs += [folder.parent for folder in (full, full.parent) if folder.name == "checkpoints"]
    for run in runs if path.exists() else ():
        if (run / "recipe.json").is_file():
            return run
    absent = "" if path.exists() else "there is none, "
    raise CheckpointError(
        f"{path}: {absent}expected a run folder with recipe.json, or a checkpoint"
    )


def load_network(path: str | Path) -> TrainedNetwork:
    """Load the trained network of a run, or of one of its checkpoints, on the CPU.

    path: see `run_of`; a run and its folder `checkpoints` name the newest checkpoint.

    Uses the moving average if there is one. Booster heads are loaded too, but not used in
    evaluation mode.

    Raises:
        CheckpointError: naming the path, and what was expected there.
    """
    path = Path(path)
    run = run_of(path)
    header = read_run_header(run)
    is_one = path.absolute().parent == run.absolute() / "checkpoints"
    checkpoint = load_checkpoint(path) if is_one else load_newest(run)
    if checkpoint is None:
        raise CheckpointError(f"{run}: no checkpoint in {run / 'checkpoints'}")
    recipe = recipe_from_dict(header["recipe"], str(run / "recipe.json"))
    labels = label_set_from_dict(header["labels"])
    network = BiSeNetV2(recipe.model)
    weights = checkpoint.ema or checkpoint.model
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        lines = " ".join(str(error).split())
        raise CheckpointError(f"{run}: weights do not fit the recipe's model: {lines}") from error
    return TrainedNetwork(
        network.eval(),
        recipe,
        labels,
        checkpoint.step,
        str(header.get("revision", "unknown")),
        Path(header["data_folder"]) if header.get("data_folder") else None,
    )


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected keys and values")
    return content


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
