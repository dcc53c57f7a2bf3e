"""The training run, from recipe to last checkpoint: READ THIS FIRST.

One optimiser step depends on the recipe, the weights and the step number alone: which samples, how
they are augmented, which dropout masks, what learning rate. So a run that was killed and resumed
ends bit-identical, on a CPU, to one that was not, and no generator state need be saved.

Started alone it trains on one device; started by torchrun, on one device a process. It knows
nothing of the command line, and nothing of how a network becomes a model file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from bisenetv2_ros.metrics import scores
from bisenetv2_ros.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_newest,
    read_run_header,
    save_checkpoint,
    write_run_header,
)
from bisenetv2_ros.training.datasets import (
    Dataset,
    DatasetError,
    FileDataset,
    Sample,
    load_dataset,
)
from bisenetv2_ros.training.evaluate import Gallery, Mask, evaluate, network_predictor
from bisenetv2_ros.training.loss import segmentation_loss
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.processes import Place, StopRequest, join_processes, leave_processes
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.report import ReportError, write_report
from bisenetv2_ros.training.run_record import RunLog, check_same_run, run_header
from bisenetv2_ros.training.samples import (
    Batch,
    BatchPlan,
    DataLoadingError,
    TrainingStream,
    class_weights,
    make_batches,
)
from bisenetv2_ros.training.starting_weights import (
    STARTING_FRAMES,
    StartingWeightsError,
    start_from,
)

Say = Callable[[str], None]


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says where it stands and what to do."""


def train(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    resume: bool = False,
    start: Path | None = None,
    device: str = "",
    say: Say = tqdm.write,
) -> Path:
    """Train by a recipe and leave checkpoints, logs, a report and the last weights in `run`.

    Args:
        recipe: the run.
        data: folder of the data set.
        run: folder of the run; must be new or empty unless `resume`.
        resume: go on from the newest whole checkpoint, where there is one; else from step 0, and
            from the weights that the run in the folder was started from.
        start: weights to start from, a run or a float32 model file (`starting_weights.py`); where
            there is a checkpoint to resume from, they are in it already.
        device: `cpu`, `cuda`, `cuda:1`; empty picks CUDA where present.
        say: receives each line meant for a person.

    Returns:
        The newest checkpoint folder. After SIGTERM or SIGINT that is the step it was stopped at. A
        host without the first process's disk has none, and is given `run`.

    Raises:
        TrainingError: a loss that is not finite, a GPU out of memory, a full disk, a data worker or
            another process that died, a run folder in use. The checkpoints before it stay.
        DatasetError, CheckpointError, ValueError: what was given does not fit; names file or key.
    """
    place = join_processes(device)
    if not place.is_first:
        say = _say_nothing
    try:
        _train(recipe, data, run, resume, start, place, say)
    except torch.OutOfMemoryError as error:
        raise TrainingError(_out_of_memory(recipe, place, run, error)) from error
    except DataLoadingError as error:
        raise TrainingError(f"data loading failed: {error}; {_how_to_go_on(run)}") from error
    except OSError as error:
        raise TrainingError(
            f"{run}: {error.strerror or error} ({error.filename or 'while writing'}); "
            f"{_how_to_go_on(run)}"
        ) from error
    except RuntimeError as error:
        if place.processes == 1 or isinstance(error, TrainingError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"process {place.rank} of {place.processes} failed, or lost another one: {reason}; "
            f"{_how_to_go_on(run)}"
        ) from error
    leave_processes(place)
    saved = list_checkpoints(run)
    return saved[-1] if saved else run


def _say_nothing(_: str) -> None:
    pass


def _how_to_go_on(run: Path) -> str:
    saved = list_checkpoints(run)
    if not saved:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {saved[-1]}, go on with --resume"


def _out_of_memory(recipe: Recipe, place: Place, run: Path, error: Exception) -> str:
    plan = BatchPlan(recipe, place, 0)
    smaller = [n for n in range(2, plan.micro) if plan.share % n == 0]
    advice = [f"micro_batch={smaller[-1]}"] if smaller else []
    if recipe.precision == "float32":
        advice.append("precision=bfloat16")
    advice.append("more GPUs")
    reason = " ".join(str(error).split()).partition(" GPU ")[0].rstrip(".")
    return (
        f"{place.device} with {plan.micro} frames of {recipe.crop[0]}x{recipe.crop[1]} at once in "
        f"{recipe.precision}: {reason}; start anew with {' or '.join(advice)}; "
        f"{_how_to_go_on(run)}"
    )


def _train(
    recipe: Recipe,
    data: Path,
    run: Path,
    resume: bool,
    start: Path | None,
    place: Place,
    say: Say,
) -> None:
    _check_fit(recipe, place)
    if list_checkpoints(run) and not resume:
        raise TrainingError(f"{run} holds a run already: add --resume, or choose another folder")
    training = load_dataset(recipe.dataset, data, recipe.train_split)
    validation = load_dataset(recipe.dataset, data, recipe.val_split)
    _check_classes(recipe, training)
    if _same_files(training, validation):
        say(
            f"training and validation are the same {len(training)} frames: the scores say nothing "
            "of any others"
        )

    # the network, and what is kept beside it
    torch.manual_seed(recipe.seed)
    network = BiSeNetV2(recipe.model)
    header = run_header(recipe, training, place)
    shared = f", {place.processes} processes" if place.processes > 1 else ""
    say(f"device: {header['device']}{shared}")
    found, again = _find(run, header, say) if resume and place.is_first else (None, None)
    found, again = place.from_first((found, again))
    if start and not found:
        header["start"] = _start(network, recipe, training, start, say)
    elif again and not found:
        header["start"] = _start_again(network, recipe, training, again, run, say)
    network.to(place.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(recipe, network, place)
    first_step = 0
    if found:
        first_step = state.restore(found)
        say(f"resuming {run} at step {first_step} of {recipe.iterations}")
    elif place.is_first:
        write_run_header(run, header)

    left_out = Damaged(recipe)
    weights = class_weights(training, recipe.class_weights, left_out.note)
    left_out.tell("class_weights", say)
    weights = weights.to(place.device) if weights is not None else None
    stepped = _parallel(network, recipe, place, say)
    batches = make_batches(training, recipe, place, first_step)
    ignore_index = training.labels.ignore_index
    done = saved = first_step
    damaged = 0
    with (
        StopRequest(place.processes) as stop,
        contextlib.closing(batches),
        contextlib.ExitStack() as stack,
    ):
        log = stack.enter_context(RunLog(run, first_step, recipe, say)) if place.is_first else None
        for step in range(first_step, recipe.iterations):
            rate = recipe.learning_rate_at(step)
            state.set_rate(rate)
            means, skipped = backward(
                recipe, place, stepped, state, batches, weights, step, ignore_index
            )
            damaged += skipped
            state.step(step)  # first, so that a GPU has it to do while the losses are looked at
            losses = place.mean(means)
            if not all(math.isfinite(value) for value in losses.values()):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
                raise TrainingError(
                    f"loss is not finite at step {step} ({shown}; learning rate {rate:.3g}); "
                    f"lower learning_rate or lengthen warmup; {_how_to_go_on(run)}"
                )
            stopping = place.any(bool(stop.asked))
            done = step + 1
            last = done == recipe.iterations
            if log:
                log.step(done, losses, rate)
                if last or _due(done, recipe.checkpoint_every):
                    save_checkpoint(run, state.capture(done))
                    saved = done
                if not stopping and (last or _due(done, recipe.validate_every)):
                    validate(recipe, state, validation, stop, log, done, run if last else None)
            if stopping:
                break
        if log and saved < done:  # stopped
            save_checkpoint(run, state.capture(done))
    if damaged:
        say(f"{damaged} damaged samples were passed over; `bisenetv2 check-data` names them")
    if done < recipe.iterations:
        say(f"stopped by {stop.asked or 'another process'} after step {done}; go on with --resume")
    elif done == first_step:
        say(f"{run} is complete: {done} steps")


def _start(
    network: BiSeNetV2, recipe: Recipe, training: Dataset, source: Path, say: Say
) -> dict[str, Any]:
    """Put starting weights into the network; returns where they are from, for the record."""
    stream = TrainingStream(training, recipe)
    images = torch.stack([stream[k][0] for k in range(STARTING_FRAMES)])
    start = start_from(network, recipe, training.labels, source, images)
    anew = dict.fromkeys(".".join(key.split(".")[:2]) for key in start.anew)
    say(f"starting from {source}; at random: {', '.join(anew) or 'nothing'}")
    return dataclasses.asdict(start)


def _same_files(training: Dataset, validation: Dataset) -> bool:
    if not (isinstance(training, FileDataset) and isinstance(validation, FileDataset)):
        return False
    return training.pairs == validation.pairs


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


def _find(
    run: Path, header: dict[str, Any], say: Say
) -> tuple[Checkpoint | None, dict[str, Any] | None]:
    """What there is to resume: the newest checkpoint; what the run was started from, as recorded.

    CheckpointError where the folder holds another run.
    """
    found = load_newest(run, say)
    if not found:
        say(f"{run} has no checkpoint to resume from: starting at step 0")
        if not (run / "recipe.json").is_file():
            return None, None
    check_same_run(run, header)
    return found, read_run_header(run).get("start")


def _start_again(
    network: BiSeNetV2,
    recipe: Recipe,
    training: Dataset,
    before: dict[str, Any],
    run: Path,
    say: Say,
) -> dict[str, Any]:
    """As `_start`, of a run that was ended before its first checkpoint.

    CheckpointError where what it was started from is gone, or another file by now.
    """
    source = Path(before["source"])
    advice = "give --from again, or choose another output folder"
    try:
        start = _start(network, recipe, training, source, say)
    except (StartingWeightsError, CheckpointError) as error:
        raise CheckpointError(
            f"{run}: it was started from {source}, which does not do now ({error}); {advice}"
        ) from error
    if start["sha256"] != before["sha256"]:
        raise CheckpointError(
            f"{run}: it was started from {source} with sha256 {before['sha256'][:12]}, that file "
            f"has {start['sha256'][:12]} now; {advice}"
        )
    return start


def _check_fit(recipe: Recipe, place: Place) -> None:
    share, rest = divmod(recipe.batch_size, place.processes)
    if rest:
        raise TrainingError(
            f"batch_size is {recipe.batch_size}, expected a multiple of {place.processes} processes"
        )
    micro = recipe.micro_batch or share
    if share % micro:
        raise TrainingError(
            f"micro_batch is {micro}, expected a divisor of the {share} frames a process has"
        )
    synchronised = place.processes > 1 and place.device.type == "cuda"
    if micro == 1 and recipe.model.branches != "detail" and not synchronised:
        raise TrainingError(
            "one frame at once on a device, expected 2 or more: the context embedding normalises "
            "one value a frame over the batch"
        )
    if recipe.precision == "float16" and place.device.type != "cuda":
        raise TrainingError(
            f"precision is float16 on {place.device}, expected bfloat16 or float32 without CUDA"
        )
    if (
        recipe.precision == "bfloat16"
        and place.device.type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise TrainingError(
            f"precision is bfloat16 on {torch.cuda.get_device_name(place.device)}, which only "
            "emulates it, expected float16 or float32"
        )


def _check_classes(recipe: Recipe, training: Dataset) -> None:
    if recipe.model.num_classes != len(training.labels):
        raise TrainingError(
            f"model.num_classes is {recipe.model.num_classes}, expected {len(training.labels)} "
            f"for {training.labels.name}"
        )
    if recipe.synthetic and training.labels.name != "camvid11":
        raise TrainingError(
            f"synthetic is {recipe.synthetic}, expected 0 for {training.labels.name}: the rendered "
            "scenes have CamVid's classes"
        )


def _parallel(network: nn.Module, recipe: Recipe, place: Place, say: Say) -> nn.Module:
    """The network as one of the run's processes steps it."""
    if place.processes > 1:
        if place.device.type == "cuda":
            network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        else:
            say("batch norm sees each process's own frames: torch synchronises it on CUDA alone")
    if recipe.compile:
        network.compile()
    if place.processes > 1:
        on_gpu = place.device.type == "cuda"
        network = nn.parallel.DistributedDataParallel(
            network,
            device_ids=[place.device] if on_gpu else None,
            broadcast_buffers=not on_gpu,  # statistics that are synchronised are equal already
        )
    return network


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


# --- one step -------------------------------------------------------------------------------------


def backward(
    recipe: Recipe,
    place: Place,
    network: nn.Module,
    state: TrainingState,
    batches: Iterator[Batch],
    weights: Tensor | None,
    step: int,
    ignore_index: int = 255,
) -> tuple[dict[str, Tensor], int]:
    """Gradients of one batch, in micro batches -> losses by head, damaged samples passed over.

    The gradients are means over the micro batches and processes, each of which has taken its own
    mean over its pixels. The losses, scalars on the device, are means over this process's micro
    batches.
    """
    torch.manual_seed(hash((recipe.seed, 3, step, place.rank)) & 0x7FFF_FFFF)  # dropout
    network.train()
    parts = BatchPlan(recipe, place, step).parts
    summed: dict[str, Tensor] = {}
    damaged = 0
    for part in range(parts):
        image, label, skipped = next(batches)
        damaged += int(skipped.sum())
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
                ignore_index=ignore_index,
                weights=weights,
                hard_threshold=recipe.ohem_threshold if recipe.loss == "ohem" else None,
                hard_minimum=recipe.ohem_minimum,
                dice_weight=recipe.dice_weight,
                booster_weight=recipe.booster_weight,
                booster_stride=recipe.booster_stride,
                align_corners=recipe.model.align_corners,
            )
            loss = torch.stack(list(losses.values())).sum() / parts
            state.scaler.scale(loss).backward()
        for name, value in losses.items():
            summed[name] = summed.get(name, torch.zeros_like(value)) + value.detach() / parts
    return summed, damaged


def normalise(image: Tensor, recipe: Recipe) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32 in channels-last memory."""
    mean, std = _constant(recipe.mean, image.device), _constant(recipe.std, image.device)
    # the permutation of a channels-last picture is a channels-last tensor: no copy
    return ((image.float() / 255 - mean) / std).permute(0, 3, 1, 2)


@functools.lru_cache
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Copied to the device once: each such copy waits for all that a GPU has still to do."""
    return torch.tensor(values, device=device)


def autocast(recipe: Recipe, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The recipe's arithmetic on this device."""
    if recipe.precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, recipe.precision))


# --- state ----------------------------------------------------------------------------------------


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Convolution weights with decay; batch norm and biases without (paper, section 5.1)."""
    decay = [p for p in network.parameters() if p.ndim == 4]
    plain = [p for p in network.parameters() if p.ndim != 4]
    return [
        {"params": decay, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


class MovingAverage:
    """Exponential moving average of weights and batch-norm statistics; counters are copied.

    The decay starts small, (1 + t) / (10 + t), so that the random start is soon forgotten. The
    statistics are averaged with the same weights: they belong to the averaged weights, and the
    newest alone would not.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights after optimiser step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = network.state_dict()
        averaged = [key for key, value in now.items() if value.dtype.is_floating_point]
        counters = [key for key, value in now.items() if not value.dtype.is_floating_point]
        # All at once: a GPU waits while hundreds of small calls are made one by one.
        torch._foreach_lerp_(
            [self.weights[key] for key in averaged], [now[key] for key in averaged], 1 - decay
        )
        torch._foreach_copy_(
            [self.weights[key] for key in counters], [now[key] for key in counters]
        )


class TrainingState:
    """All that a step changes: network, optimiser, loss scale, moving average.

    The moving average is kept by the first process, the one that saves.
    """

    def __init__(self, recipe: Recipe, network: BiSeNetV2, place: Place) -> None:
        self.network = network
        self.average = MovingAverage(network, recipe.ema) if recipe.ema and place.is_first else None
        self.optimizer = torch.optim.SGD(
            parameter_groups(network, recipe.weight_decay),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
        )
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "float16")

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, step: int) -> None:
        """Apply the gradients of optimiser step `step`, counted from 0, and drop them."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.network, step)

    def weights(self) -> dict[str, Tensor]:
        """The weights to evaluate: averaged where the recipe asks for it."""
        return self.average.weights if self.average else self.network.state_dict()

    def capture(self, done: int) -> Checkpoint:
        """Everything that the next step depends on, after `done` steps.

        TrainingError where a weight is not finite: such a state is not worth keeping.
        """
        for name, value in self.network.state_dict().items():
            if not value.isfinite().all():
                raise TrainingError(
                    f"{name} is not finite after step {done}; lower learning_rate, or resume from "
                    "the last checkpoint"
                )
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.network.named_parameters()
            if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        return Checkpoint(
            step=done,
            model=dict(self.network.state_dict()),
            ema=self.average.weights if self.average else {},
            momentum=momentum,
            state={"scaler": self.scaler.state_dict()},
        )

    def restore(self, found: Checkpoint) -> int:
        """Become what was captured; returns the number of steps done."""
        self.network.load_state_dict(found.model)
        if self.average:
            for key, value in found.ema.items():
                self.average.weights[key].copy_(value)
        for name, parameter in self.network.named_parameters():
            if name in found.momentum:
                buffer = torch.empty_like(parameter).copy_(found.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.scaler.load_state_dict(found.state.get("scaler", {}))
        return found.step


# --- validation -----------------------------------------------------------------------------------


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
