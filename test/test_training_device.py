"""A run on a GPU, as far as a machine without one can tell: what is refused, what is waited for."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from bisenetv2_ros.training import loop  # noqa: E402
from bisenetv2_ros.training.model import BiSeNetV2  # noqa: E402
from bisenetv2_ros.training.processes import Place  # noqa: E402
from bisenetv2_ros.training.recipe import Recipe, recipe_from_dict  # noqa: E402

RECIPE = {
    "name": "tiny",
    "dataset": "camvid",
    "input_size": [64, 64],
    "crop": [64, 64],
    "model": {"num_classes": 11, "width": 0.25, "head_channels": 8, "booster_channels": 8},
    "iterations": 4,
    "batch_size": 4,
    "ema": 0.9,
}


def recipe(**changes) -> Recipe:
    return recipe_from_dict({**RECIPE, **changes})


class Waits(TorchFunctionMode):
    """Notes the copies to a device that return when all else there is done."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        copied = func is torch.Tensor.to and args[0].device != result.device
        if (copied and not kwargs.get("non_blocking")) or (
            func is torch.tensor and result.device.type != "cpu"
        ):
            self.found.append(f"{func.__name__} {args[1:]}")
        return result


class Calls(TorchDispatchMode):
    """Notes the operations that change tensors in place, each a call to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.is_mutable:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_waits_for_no_copy_to_the_device():
    """On `meta`, which computes nothing: reading a value, or one left on the CPU, is an error."""
    place, chosen = Place(0, 1, torch.device("meta")), recipe(micro_batch=2, dice_weight=0.5)
    network = BiSeNetV2(chosen.model).to(place.device)
    state = loop.TrainingState(chosen, network, place)
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    part = frames, frames[..., 0], torch.zeros(2, dtype=torch.int64)
    loop.backward(chosen, place, network, state, iter([part] * 2), None, 0)
    state.step(0)
    with Waits() as waits:
        loop.backward(chosen, place, network, state, iter([part] * 2), None, 1)
        state.step(1)
    assert not waits.found


def test_the_moving_average_is_few_calls_to_the_device():
    network = BiSeNetV2(recipe().model).to("meta")
    average = loop.MovingAverage(network, 0.9)
    with Calls() as calls:
        average.update(network, 0)
    assert len(calls.found) == 2
