"""The records of a run: its origin and its progress.

    RUN/recipe.json     the resolved recipe, classes, data fingerprint, versions, device
    RUN/metrics.jsonl   a line per step (losses, rate, speed) and per validation
    RUN/tensorboard/    the same as curves, and panels of input | truth | prediction

Knows nothing of how a step is computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from bisenetv2_ros import __version__
from bisenetv2_ros.labels import label_set_to_dict
from bisenetv2_ros.metrics import Scores
from bisenetv2_ros.training.checkpoint import CheckpointError, read_run_header
from bisenetv2_ros.training.datasets import Dataset, FileDataset
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.gallery import Gallery, panel
from bisenetv2_ros.training.recipe import Recipe, recipe_from_dict

QUIET = 15.0  # seconds between lines of progress without a terminal

Say = Callable[[str], None]

# May differ between a run and its continuation without changing the result.
FREE_KEYS = ("name", "workers", "validate_every", "checkpoint_every")


def run_header(recipe: Recipe, dataset: Dataset, place: Place) -> dict[str, Any]:
    """Collect what identifies and reproduces the run, as JSON values."""
    on_gpu = place.device.type == "cuda"
    return {
        "recipe": recipe.to_dict(),
        "labels": label_set_to_dict(dataset.labels),
        "data": {"samples": len(dataset), "fingerprint": fingerprint(dataset)},
        "revision": source_revision(),
        "versions": {
            "bisenetv2_ros": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "opencv": cv2.__version__,
        },
        "device": torch.cuda.get_device_name(place.device)
        if on_gpu
        else f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "processes": place.processes,
    }


def check_same_run(run: Path, header: dict[str, Any]) -> None:
    """Check that `header` continues the run in a folder.

    Raises:
        CheckpointError: naming what differs, and for more steps what to do instead.
    """
    earlier = read_run_header(run)
    before = recipe_from_dict(earlier["recipe"], str(run / "recipe.json")).to_dict()
    now = header["recipe"]
    for key in ("iterations", *now):  # more steps change the warm-up too
        value = now[key]
        if key in FREE_KEYS or before[key] == value:
            continue
        message = (
            f"{run}: cannot resume with {key} = {value}, the run was started with {before[key]}"
        )
        if key in ("iterations", "minutes"):
            message += (
                "; its learning rate follows that number: to train longer, start another run from "
                f"this one, `bisenetv2 train --from {run} --output {run}_longer ... {key}={value}`"
            )
        raise CheckpointError(message)
    names, known = (tuple(h["labels"]["names"]) for h in (header, earlier))
    if names != known:
        pairs = enumerate(itertools.zip_longest(names, known, fillvalue="none"))
        place, (new, old) = next(entry for entry in pairs if entry[1][0] != entry[1][1])
        raise CheckpointError(
            f"{run}: cannot resume, its class {place} was {old!r}, the dataset now has {new!r}: "
            "restore the order of the classes, or choose another folder"
        )
    if earlier["data"] != header["data"]:
        raise CheckpointError(
            f"{run}: cannot resume, its dataset had {earlier['data']['samples']} samples with "
            f"fingerprint {earlier['data']['fingerprint'][:12]}, this one has "
            f"{header['data']['samples']} with {header['data']['fingerprint'][:12]}"
        )


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of names and sizes of the files, to notice a changed dataset."""
    digest = hashlib.sha256(dataset.labels.name.encode())
    if isinstance(dataset, FileDataset):
        for pair in dataset.pairs:
            for path in pair:
                size = path.stat().st_size if path.is_file() else -1
                digest.update(f"{path.name} {size}\n".encode())
    else:
        digest.update(str(len(dataset)).encode())
    return digest.hexdigest()


def source_revision() -> str:
    """Return the commit of the source tree, with `-dirty` if it was changed.

    Returns the package version if there is no source tree, also if the package is installed inside
    another repository.
    """
    file = Path(__file__).resolve()

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=file.parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


class RunLog:
    """Progress bar, `metrics.jsonl`, and TensorBoard events if tensorboard is installed.

    Resuming drops the records of steps after `first_step`, because those steps are repeated.
    """

    def __init__(self, run: Path, first_step: int, recipe: Recipe, say: Say) -> None:
        self.recipe = recipe
        self.say = say
        self.metrics = run / "metrics.jsonl"
        self.first_step = first_step
        self.last_time = self.reported = self.began = time.monotonic()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> RunLog:
        kept = [r for r in read_metrics(self.metrics) if r["step"] <= self.first_step]
        self.metrics.write_text("".join(json.dumps(r) + "\n" for r in kept), encoding="utf-8")
        self._file = self._open.enter_context(self.metrics.open("a", encoding="utf-8"))
        self._bar: tqdm[Any] = self._open.enter_context(
            tqdm(
                total=self.recipe.iterations,
                initial=self.first_step,
                unit="step",
                disable=None,  # without a terminal
                dynamic_ncols=True,
            )
        )
        self._board: Any = None
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            folder = self.metrics.parent / "tensorboard"
            self._board = SummaryWriter(str(folder), purge_step=self.first_step + 1)
            self._open.callback(self._board.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def step(self, step: int, losses: dict[str, float], rate: float, left: int) -> None:
        """Record optimizer step `step`, counted from 1, with `left` steps still to come."""
        now = time.monotonic()
        speed = self.recipe.batch_size / (now - self.last_time)
        self.last_time = now
        total = sum(losses.values())
        self._write({"step": step, "loss": total, "lr": rate, "images_per_second": speed, **losses})
        line = f"loss {total:.3f}, lr {rate:.4f}, {speed:.1f} images/s"
        self._bar.set_postfix_str(line, refresh=False)
        self._bar.total = step + left
        self._bar.update()
        if self._board and step % 10 == 0:
            for name, value in losses.items():
                self._board.add_scalar(f"loss/{name}", value, step)
            self._board.add_scalar("learning_rate", rate, step)
            self._board.add_scalar("images_per_second", speed, step)
        if self._bar.disable and (step == self.first_step + 1 or now - self.reported >= QUIET):
            each = (now - self.began) / (step - self.first_step)
            self.say(f"step {step}/{step + left}: {line}, {duration(each * left)} left")
            self.reported = now

    def validation(self, step: int, result: Scores, gallery: Gallery) -> None:
        """Record a validation: mean IoU, the IoU of each class, and images of the first frames."""
        names = gallery.labels.names
        classes = {
            name: None if math.isnan(value) else round(float(value), 5)
            for name, value in zip(names, result.iou, strict=True)
        }
        mean = None if math.isnan(result.mean_iou) else result.mean_iou
        self._write({"step": step, "val_miou": mean, "val_iou": classes})
        if self._board and mean is not None:
            self._board.add_scalar("validation/mean_iou", result.mean_iou, step)
            for example in gallery.first:
                image = panel(example, gallery.labels)
                name = f"validation/{example.name}"
                self._board.add_image(name, image, step, dataformats="HWC")
        if mean is None:
            self.say(f"step {step}: no validation mIoU, no pixel of the split has a label")
        else:
            self.say(f"step {step}: validation mIoU {mean:.4f}")
        self.last_time = time.monotonic()

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record, allow_nan=False) + "\n")
        self._file.flush()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the records of a `metrics.jsonl`; skips a last line cut by a full disk."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def duration(seconds: float) -> str:
    """Format a duration: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min"
