"""A run on a GPU, as far as a machine without one can tell: what is refused, what is waited for."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from bisenetv2_ros.cli.main import main  # noqa: E402
from bisenetv2_ros.training import loop, state  # noqa: E402
from bisenetv2_ros.training.checks import check_fit  # noqa: E402
from bisenetv2_ros.training.distributed import Place  # noqa: E402
from bisenetv2_ros.training.model import BiSeNetV2  # noqa: E402
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
    kept = state.TrainingState(chosen, network, place)
    frames = torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
    part = frames, frames[..., 0], torch.zeros(2, dtype=torch.int64)
    loop.backward(chosen, place, network, kept, iter([part] * 2), None, 0)
    kept.step(0)
    with Waits() as waits:
        loop.backward(chosen, place, network, kept, iter([part] * 2), None, 1)
        kept.step(1)
    assert not waits.found


def test_the_moving_average_is_few_calls_to_the_device():
    network = BiSeNetV2(recipe().model).to("meta")
    average = state.MovingAverage(network, 0.9)
    with Calls() as calls:
        average.update(network, 0)
    assert len(calls.found) == 2


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({"batch_size": 8}, "micro_batch=4 or precision=bfloat16 or more GPUs"),
        ({"batch_size": 8, "micro_batch": 4}, "micro_batch=2 or precision=bfloat16 or more GPUs"),
        ({"batch_size": 2, "precision": "bfloat16"}, "more GPUs"),
    ],
)
def test_out_of_memory_says_what_needs_less(tmp_path, monkeypatch, capsys, changes, advice):
    def too_large(*_, **__):
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 608.00 MiB. GPU 0 has a total capacity of 11 GiB"
        )

    monkeypatch.setattr(loop, "segmentation_loss", too_large)
    file = tmp_path / "recipe.yaml"
    file.write_text(json.dumps({**RECIPE, "dataset": "synthetic", "workers": 0, **changes}))
    words = ["train", "--config", str(file), "--output", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "frames of 64x64 at once" in error
    assert error.endswith(f"out of memory. Tried to allocate 608.00 MiB; start anew with {advice}")


def on_gpus(count: int) -> Place:
    return Place(0, count, torch.device("cuda"))


def test_one_frame_a_gpu_is_enough_where_they_share_their_statistics():
    check_fit(recipe(batch_size=4), on_gpus(4))
    with pytest.raises(state.TrainingError, match="one frame at once"):
        check_fit(recipe(batch_size=1), on_gpus(1))


def test_a_gpu_without_bfloat16_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(state.TrainingError, match=r"bfloat16 on Tesla T4, .* float16 or float32"):
        check_fit(recipe(precision="bfloat16"), on_gpus(1))
