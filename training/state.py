"""Everything that the next step depends on, once: what a checkpoint saves and restores."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from bisenetv2_ros.training.checkpoint import Checkpoint
from bisenetv2_ros.training.distributed import Place
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.schedule import Schedule


class TrainingError(RuntimeError):
    """A run cannot continue; the message says where it stands and what to do."""


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

    The decay starts small, (1 + t) / (10 + t), to forget the random start quickly. Batch-norm
    statistics are averaged with the same decay, because the newest ones do not fit the averaged
    weights.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {k: v.detach().clone() for k, v in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move towards the network's weights after optimizer step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        now = network.state_dict()
        averaged = [key for key, value in now.items() if value.dtype.is_floating_point]
        counters = [key for key, value in now.items() if not value.dtype.is_floating_point]
        # In one call: hundreds of small ones would keep a GPU waiting.
        torch._foreach_lerp_(
            [self.weights[key] for key in averaged], [now[key] for key in averaged], 1 - decay
        )
        torch._foreach_copy_(
            [self.weights[key] for key in counters], [now[key] for key in counters]
        )


class TrainingState:
    """Network, moving average, optimizer, loss scale, and the progress of the run.

    Only the first process, the one that saves, keeps the moving average.
    """

    def __init__(self, recipe: Recipe, network: BiSeNetV2, place: Place) -> None:
        self._recipe, self._device = recipe, place.device
        self.schedule = Schedule(recipe)
        self.network = network
        self.average = MovingAverage(network, recipe.ema) if recipe.ema and place.is_first else None
        self.optimizer = torch.optim.SGD(
            parameter_groups(network, recipe.weight_decay),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
        )
        self.scaler = torch.amp.GradScaler(place.device.type, enabled=recipe.precision == "float16")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the recipe's precision on this device."""
        if self._recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=getattr(torch, self._recipe.precision))

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, step: int) -> None:
        """Apply the gradients of optimizer step `step`, counted from 0, and drop them."""
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.network, step)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights to evaluate: the moving average, if the recipe has one."""
        return self.average.weights if self.average else self.network.state_dict()

    def capture(self) -> Checkpoint:
        """Return everything that the next step depends on.

        Raises:
            TrainingError: if a weight is not finite; such a state is not worth keeping.
        """
        done = self.schedule.done
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
            state={"scaler": self.scaler.state_dict(), **self.schedule.capture()},
        )

    def restore(self, found: Checkpoint) -> None:
        """Restore a captured state."""
        self.network.load_state_dict(found.model)
        if self.average:
            for key, value in found.ema.items():
                self.average.weights[key].copy_(value)
        for name, parameter in self.network.named_parameters():
            if name in found.momentum:
                buffer = torch.empty_like(parameter).copy_(found.momentum[name])
                self.optimizer.state[parameter]["momentum_buffer"] = buffer
        self.scaler.load_state_dict(found.state.get("scaler", {}))
        self.schedule = Schedule(self._recipe, found.step, found.state)
