"""The training run, from recipe to last checkpoint: READ THIS FIRST.

One optimiser step depends on the recipe, the weights and the step number alone: which samples, how
they are augmented, which dropout masks, what learning rate. So a run that was killed and resumed
ends bit-identical, on a CPU, to one that was not, and no generator state need be saved.

Started alone it trains on one device; started by torchrun, on one device a process. It knows
nothing of the command line, and nothing of how a network becomes a model file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from bisenetv2_ros import __version__
from bisenetv2_ros.metrics import scores
from bisenetv2_ros.training.checkpoint import (
    Checkpoint,
    label_set_to_dict,
    list_checkpoints,
    load_newest,
    save_checkpoint,
    write_run_header,
)
from bisenetv2_ros.training.datasets import Dataset, FileDataset, Sample, SceneDataset, load_dataset
from bisenetv2_ros.training.evaluate import evaluate_network
from bisenetv2_ros.training.loss import segmentation_loss
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.transforms import Augmentation

SCENES = 512  # distinct street scenes mixed into training
LOADER_TIMEOUT = 300  # seconds without a batch after which a data worker counts as dead


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says where it stands and what to do."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of the run, and the device it computes on."""

    rank: int
    processes: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0


# --- what a step is made of -----------------------------------------------------------------------


class TrainingStream(TorchDataset[tuple[Tensor, Tensor]]):
    """The endless stream of augmented samples: sample k is a pure function of (recipe, k)."""

    def __init__(self, dataset: Dataset, recipe: Recipe) -> None:
        self.dataset = dataset
        self.recipe = recipe
        self.augment = Augmentation(
            crop=recipe.crop,
            scales=recipe.scales,
            scale_range=recipe.scale_range,
            flip=recipe.flip,
            jitter=recipe.jitter,
            fill=tuple(round(255 * m) for m in recipe.mean),  # type: ignore[arg-type]
            ignore_index=dataset.labels.ignore_index,
        )

    def __getitem__(self, k: int) -> tuple[Tensor, Tensor]:
        """-> image (h, w, 3) uint8, label (h, w) uint8, both of the crop's size."""
        rng = np.random.default_rng((self.recipe.seed, 1, k))
        if rng.random() < self.recipe.synthetic:
            sample = render_scene(int(rng.integers(SCENES)), self.recipe.input_size)
        else:
            epoch, slot = divmod(k, len(self.dataset))
            order = np.random.default_rng((self.recipe.seed, 2, epoch))
            sample = self.dataset[int(order.permutation(len(self.dataset))[slot])]
            if self.recipe.train_size:
                sample = resize_sample(sample, self.recipe.train_size)
        image, label = self.augment(sample.image, sample.label, rng)
        return torch.from_numpy(image), torch.from_numpy(label)


@functools.lru_cache(maxsize=SCENES)  # rendering takes longer than all else a sample needs
def render_scene(index: int, size: tuple[int, int]) -> Sample:
    """One of the street scenes that are mixed into training; other seeds than `val` and `test`."""
    return SceneDataset(SCENES, 100_000, size)[index]


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample at (width, height): the frame by area or bilinear, the label by nearest pixel."""
    shrinks = size[0] < sample.image.shape[1]
    image = cv2.resize(
        sample.image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    label = cv2.resize(sample.label, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return Sample(image, label, sample.name)


def make_batches(
    stream: TrainingStream, recipe: Recipe, place: Place, first_step: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """This process's share of every micro batch from `first_step` on, in order."""
    share = recipe.batch_size // place.processes
    micro = recipe.micro_batch or share
    plan = [
        list(range(start + offset, start + min(offset + micro, share)))
        for step in range(first_step, recipe.iterations)
        for start in [step * recipe.batch_size + place.rank * share]
        for offset in range(0, share, micro)
    ]
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        stream,
        batch_sampler=plan,
        num_workers=recipe.workers,
        worker_init_fn=_start_worker,
        pin_memory=place.device.type == "cuda",
        timeout=LOADER_TIMEOUT if recipe.workers else 0,
        prefetch_factor=4 if recipe.workers else None,
    )
    return iter(loader)


def _start_worker(_: int) -> None:
    cv2.setNumThreads(0)  # the workers are the parallelism
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run decides when to stop


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Convolution weights with decay; batch norm and biases without (paper, section 5.1)."""
    decay = [p for p in network.parameters() if p.ndim == 4]
    plain = [p for p in network.parameters() if p.ndim != 4]
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def class_weights(dataset: Dataset, kind: str) -> Tensor | None:
    """Loss weight of each class over a data set (see `Recipe.class_weights`), (C,) float32."""
    if kind == "none":
        return None
    counts = np.zeros(len(dataset.labels), np.float64)
    for index in range(0, len(dataset), max(1, len(dataset) // 400)):
        label = dataset[index].label
        counts += np.bincount(label.ravel(), minlength=256)[: len(counts)]
    weights = 1 / np.log(1.02 + counts / max(counts.sum(), 1))
    return torch.from_numpy((weights / weights.mean()).astype(np.float32))


class MovingAverage:
    """Exponential moving average of weights; statistics and counters are copied as they are.

    The decay starts small, (1 + t) / (10 + t), so that the random start is soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for key, value in network.state_dict().items():
            if value.dtype.is_floating_point:
                self.weights[key].lerp_(value, 1 - decay)
            else:
                self.weights[key].copy_(value)


# --- the run --------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    device: str = "",
    say: Callable[[str], None] = print,
) -> Path:
    """Train by a recipe and leave checkpoints, logs and the last weights in `run`.

    Args:
        recipe: the run.
        data: folder of the data set.
        run: folder of the run; must be new or empty unless `resume`.
        resume: go on from the newest whole checkpoint, where there is one.
        device: `cpu`, `cuda`, `cuda:1`; empty picks CUDA where present.
        say: receives each line meant for a person.

    Returns:
        The newest checkpoint folder. After SIGTERM or SIGINT that is the step it was stopped at.

    Raises:
        TrainingError: a non-finite loss (the checkpoints before it stay), a worker that died, a
            run folder in use.
        DatasetError, OSError: naming the file.
    """
    place = join_processes(device)
    if recipe.batch_size % place.processes:
        raise TrainingError(
            f"batch_size is {recipe.batch_size}, expected a multiple of {place.processes} processes"
        )
    if list_checkpoints(run) and not resume:
        raise TrainingError(f"{run} holds a run already: add --resume, or choose another folder")
    training = load_dataset(recipe.dataset, data, recipe.train_split)
    validation = load_dataset(recipe.dataset, data, recipe.val_split)
    if recipe.model.num_classes != len(training.labels):
        raise TrainingError(
            f"model.num_classes is {recipe.model.num_classes}, expected {len(training.labels)} "
            f"for {training.labels.name}"
        )

    # the network, and what is kept beside it
    torch.manual_seed(recipe.seed)
    network = BiSeNetV2(recipe.model).to(place.device, memory_format=torch.channels_last)
    average = MovingAverage(network, recipe.ema) if recipe.ema and place.is_first else None
    optimizer = torch.optim.SGD(
        parameter_groups(network, recipe.weight_decay),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
    )
    scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "float16")
    weights = class_weights(training, recipe.class_weights)
    weights = weights.to(place.device) if weights is not None else None

    first_step = 0
    found = load_newest(run, say) if resume else None
    if found:
        first_step = found.step
        restore(found, network, average, optimizer, scaler)
        say(f"resuming {run} at step {first_step} of {recipe.iterations}")
    elif place.is_first:
        write_run_header(run, run_header(recipe, training, place))

    stepped: nn.Module = network
    if place.processes > 1:
        if place.device.type == "cuda":
            stepped = nn.SyncBatchNorm.convert_sync_batchnorm(stepped)
        stepped = nn.parallel.DistributedDataParallel(
            stepped, device_ids=[place.device.index] if place.device.type == "cuda" else None
        )
    if recipe.compile:
        stepped = torch.compile(stepped)  # type: ignore[assignment]

    log = RunLog(run, first_step, recipe, enabled=place.is_first)
    batches = make_batches(TrainingStream(training, recipe), recipe, place, first_step)
    stop = StopRequest()
    done = first_step

    def checkpoint() -> Path:
        return save_checkpoint(run, capture(done, network, average, optimizer, scaler))

    with stop, log:
        for step in range(first_step, recipe.iterations):
            rate = recipe.learning_rate_at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = train_step(recipe, place, stepped, optimizer, scaler, batches, weights, step)
            total = sum(losses.values())
            if not math.isfinite(total):
                raise TrainingError(
                    f"loss is not finite at step {step}: {losses}; lower learning_rate (now "
                    f"{rate:.3g}) or resume from {run}/checkpoints"
                )
            if average:
                average.update(network, step)
            done = step + 1
            log.step(done, losses, total, rate)

            last = done == recipe.iterations
            if place.is_first and (last or _due(done, recipe.validate_every)):
                evaluated = BiSeNetV2(recipe.model)
                evaluated.load_state_dict(average.weights if average else network.state_dict())
                matrix = evaluate_network(evaluated.to(place.device), recipe, validation)
                log.validation(done, scores(matrix), validation)
            if place.is_first and (last or stop.asked or _due(done, recipe.checkpoint_every)):
                checkpoint()
            if stop.asked:
                say(f"stopped by {stop.asked} after step {done}; go on with --resume")
                break
    leave_processes(place)
    newest = list_checkpoints(run)
    return newest[-1] if newest else run


def train_step(
    recipe: Recipe,
    place: Place,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    batches: Iterator[tuple[Tensor, Tensor]],
    weights: Tensor | None,
    step: int,
) -> dict[str, float]:
    """One optimiser step over one batch, in micro batches; returns the losses by head."""
    torch.manual_seed(hash((recipe.seed, 3, step, place.rank)) & 0x7FFF_FFFF)  # dropout
    network.train()
    share = recipe.batch_size // place.processes
    micro = recipe.micro_batch or share
    parts = math.ceil(share / micro)
    summed: dict[str, Tensor] = {}
    for part in range(parts):
        image, label = next_batch(batches, step)
        x = normalise(image.to(place.device, non_blocking=True), recipe)
        target = label.to(place.device, non_blocking=True).long()
        with contextlib.ExitStack() as stack:
            if part + 1 < parts and isinstance(network, nn.parallel.DistributedDataParallel):
                stack.enter_context(network.no_sync())  # gradients meet on the last part
            with autocast(recipe, place.device):
                outputs = network(x)
            losses = segmentation_loss(
                outputs,
                target,
                weights=weights,
                hard_threshold=recipe.ohem_threshold if recipe.loss == "ohem" else None,
                hard_minimum=recipe.ohem_minimum,
                booster_weight=recipe.booster_weight,
                booster_stride=recipe.booster_stride,
            )
            share_of_batch = image.shape[0] / share
            loss = torch.stack(list(losses.values())).sum() * share_of_batch
            scaler.scale(loss).backward()
        for name, value in losses.items():
            value = value.detach() * share_of_batch
            summed[name] = summed[name] + value if name in summed else value
    result = {name: float(value) for name, value in summed.items()}
    if all(math.isfinite(value) for value in result.values()):
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return result


def normalise(image: Tensor, recipe: Recipe) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 in channels-last memory."""
    mean = torch.tensor(recipe.mean, device=image.device)
    std = torch.tensor(recipe.std, device=image.device)
    # the permutation of a channels-last picture is a channels-last tensor: no copy
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The recipe's arithmetic on this device."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.precision))


def next_batch(batches: Iterator[tuple[Tensor, Tensor]], step: int) -> tuple[Tensor, Tensor]:
    """The next micro batch, or a TrainingError that says how the loader died."""
    try:
        return next(batches)
    except RuntimeError as error:  # DataLoader's word for a worker that was killed or hangs
        raise TrainingError(f"data loading failed at step {step}: {error}") from error


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


# --- state ----------------------------------------------------------------------------------------


def capture(
    step: int,
    network: BiSeNetV2,
    average: MovingAverage | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Checkpoint:
    """Everything that the next step depends on."""
    momentum = {
        name: optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
        if optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
    }
    return Checkpoint(
        step=step,
        model=dict(network.state_dict()),
        ema=average.weights if average else {},
        momentum=momentum,
        state={"scaler": scaler.state_dict()},
    )


def restore(
    found: Checkpoint,
    network: BiSeNetV2,
    average: MovingAverage | None,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """The inverse of `capture`."""
    network.load_state_dict(found.model)
    if average:
        for key, value in (found.ema or found.model).items():
            average.weights[key].copy_(value)
    for name, parameter in network.named_parameters():
        if name in found.momentum:
            buffer = torch.empty_like(parameter).copy_(found.momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    scaler.load_state_dict(found.state.get("scaler", {}))


def run_header(recipe: Recipe, dataset: Dataset, place: Place) -> dict[str, Any]:
    """What a reader of the run needs to know in years to come."""
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
        if place.device.type == "cuda"
        else f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "processes": place.processes,
    }


def fingerprint(dataset: Dataset) -> str:
    """sha256 over names and sizes of the files, so that a changed data set is noticed."""
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
    """Commit of the source tree, `-dirty` where it was changed, or the package version."""
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return f"v{__version__}"


# --- processes and signals ------------------------------------------------------------------------


def join_processes(device: str) -> Place:
    """This process's place: alone, or as torchrun's environment says."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if not device:
        device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError(f"device {device!r}: this machine's torch sees no CUDA; expected 'cpu'")
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        torch.backends.cudnn.benchmark = True
    if processes > 1:
        torch.distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    return Place(rank, processes, chosen)


def leave_processes(place: Place) -> None:
    """End the process group, if there is one."""
    if place.processes > 1:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


class StopRequest:
    """SIGTERM and SIGINT ask for the end of the current step; a second one is not caught."""

    def __init__(self) -> None:
        self.asked = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        self.asked = signal.Signals(number).name
        signal.signal(number, self._previous[number])


# --- what a person sees ---------------------------------------------------------------------------


class RunLog:
    """Progress bar, `metrics.jsonl`, and TensorBoard events where tensorboard is installed."""

    def __init__(self, run: Path, first_step: int, recipe: Recipe, enabled: bool) -> None:
        self.run = run
        self.recipe = recipe
        self.enabled = enabled
        self.bar: tqdm[Any] | None = None
        self.board: Any = None
        self.file: Any = None
        self.first_step = first_step
        self.last_time = time.monotonic()

    def __enter__(self) -> RunLog:
        if not self.enabled:
            return self
        self.bar = tqdm(
            total=self.recipe.iterations,
            initial=self.first_step,
            unit="step",
            disable=None,
            dynamic_ncols=True,
        )
        self.file = (self.run / "metrics.jsonl").open("a", encoding="utf-8")
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.run / "tensorboard"), purge_step=self.first_step)
        return self

    def __exit__(self, *_: object) -> None:
        for item in (self.bar, self.file, self.board):
            if item is not None:
                item.close()

    def step(self, step: int, losses: dict[str, float], total: float, rate: float) -> None:
        """Note one optimiser step."""
        if self.bar is None:
            return
        now = time.monotonic()
        speed = self.recipe.batch_size / (now - self.last_time)
        self.last_time = now
        self.bar.update()
        self.bar.set_postfix_str(f"loss {total:.3f}, lr {rate:.4f}, {speed:.1f} images/s")
        record = {"step": step, "loss": total, "lr": rate, "images_per_second": speed, **losses}
        self._write(record)
        if self.board and step % 10 == 0:
            for name, value in losses.items():
                self.board.add_scalar(f"loss/{name}", value, step)
            self.board.add_scalar("learning_rate", rate, step)
            self.board.add_scalar("images_per_second", speed, step)
        if not sys.stderr.isatty() and (step % 50 == 0 or step == 1):
            print(
                f"step {step}/{self.recipe.iterations}: loss {total:.3f}, lr {rate:.4f}, "
                f"{speed:.1f} images/s",
                flush=True,
            )

    def validation(self, step: int, result: Any, dataset: Dataset) -> None:
        """Note a validation: mean IoU and the IoU of each class."""
        if self.bar is None:
            return
        classes = {
            name: None if math.isnan(value) else round(float(value), 5)
            for name, value in zip(dataset.labels.names, result.iou, strict=True)
        }
        self._write({"step": step, "val_miou": float(result.mean_iou), "val_iou": classes})
        if self.board:
            self.board.add_scalar("validation/mean_iou", result.mean_iou, step)
        tqdm.write(f"step {step}: validation mIoU {result.mean_iou:.4f}")
        self.last_time = time.monotonic()

    def _write(self, record: dict[str, Any]) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
