"""Loads the starting weights of a run, from an earlier run or a deployed model file.

This is fine-tuning: the network keeps what it has learned, and the layers that output the classes
start at random if the classes differ. A model file has no batch norm, because it is folded into the
convolutions; here each convolution gets one back, with the statistics of a few training frames, so
that the network still computes what the file computes. Knows nothing of how a run continues.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.model_file import ModelFile, ModelFileError, model_path, read_model_file
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.training.checkpoint import load_network
from bisenetv2_ros.training.export import DeployedModel, compare
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.model_config import ModelConfig
from bisenetv2_ros.training.recipe import Recipe

STARTING_FRAMES = 16  # for the statistics of restored batch norms
REQUIRED_AGREEMENT = 0.999  # fraction of pixels on which the network must give the file's class

_COUNTER = ".num_batches_tracked"  # not used in computations
# Keys of `model.*` that may differ without changing the features of the main head.
_FREE_MODEL_KEYS = ("num_classes", "boosters", "booster_channels", "dropout", "head_shuffle")
# Settings that a run chooses itself, whatever weights it starts from.
_OWN_KEYS = ("num_classes", "boosters", "booster_channels", "dropout")
_NAMES_CLASSES = re.compile(r"(head|boosters\.\w+)\.2\.\w+")  # last layer of a head


class StartingWeightsError(ValueError):
    """Weights do not fit the recipe's network; the message names file and tensor."""


@dataclass(frozen=True)
class Start:
    """The origin of a run's weights."""

    source: str  #: file or folder as given
    sha256: str  #: of a model file; '' for a run
    anew: tuple[str, ...]  #: names of tensors that keep their random start


def start_from(
    network: BiSeNetV2, recipe: Recipe, labels: LabelSet, source: Path, images: Tensor
) -> Start:
    """Put the weights of `source` into a network that was just initialized.

    Args:
        network: of the recipe, on the CPU.
        recipe: of the run to come.
        labels: its classes; if the source has others, the last layer of each head starts at random.
        source: a run, one of its checkpoints, or a float32 model file (path or name).
        images: (N, H, W, 3) uint8 RGB training frames, 2 or more, for the batch norms of a file.

    Raises:
        StartingWeightsError, CheckpointError, ModelFileError: if it cannot be read or does not fit.
    """
    if source.is_dir():
        trained = load_network(source)
        _check_computation(trained.recipe, recipe, source)
        weights = {key: value.clone() for key, value in trained.network.state_dict().items()}
        _refine_head(weights, trained.recipe.model, recipe.model)
        anew = _copy(network, weights, trained.labels.names == labels.names, source)
        return Start(str(source), "", anew)
    file = _float32_file(source)
    weights = read_folded_weights(file.path)
    config = _config_of_file(weights, file.info.labels, recipe.model)
    # first with the file's own last layer, to check the result
    whole = network if config == recipe.model else BiSeNetV2(config)
    folded = [pair for pair in _norms(whole) if f"{pair[1]}.bias" in weights]
    for norm, conv in folded:  # a batch norm that only adds the bias
        bias = weights.pop(f"{conv}.bias")
        weights[f"{norm}.bias"] = bias
        weights[f"{norm}.weight"] = weights[f"{norm}.running_var"] = torch.ones_like(bias)
        weights[f"{norm}.running_mean"] = torch.zeros_like(bias)
    lengths = {conv: _lengths(whole.get_submodule(conv)) for _, conv in folded}
    anew = _copy(whole, weights, True, file.path)
    deployed = DeployedModel(whole, recipe.mean, recipe.std).eval()
    _unfold(deployed, folded, lengths, images)
    _check_agreement(deployed, file, images)
    if whole is not network:
        weights = dict(whole.state_dict())
        _refine_head(weights, config, recipe.model)
        anew = _copy(network, weights, file.info.labels.names == labels.names, file.path)
    return Start(str(source), file.sha256, anew)


def settings_of(source: Path) -> dict[str, Any]:
    """Return the recipe keys that follow from the starting weights: mean, std and `model`.

    For a run, all settings of its network; for a model file, those that its graph shows.

    Raises:
        StartingWeightsError, CheckpointError, ModelFileError: if it cannot be read.
    """
    if source.is_dir():
        recipe = load_network(source).recipe
        model = {k: v for k, v in recipe.to_dict()["model"].items() if k not in _OWN_KEYS}
        return {"mean": recipe.mean, "std": recipe.std, "model": model}
    file = _float32_file(source)
    weights = read_folded_weights(file.path)
    if "head.0.0.weight" not in weights or "head.2.bias" not in weights:
        raise StartingWeightsError(f"{file.path}: no head of a network of this package in it")
    shuffle = math.isqrt(len(weights["head.2.bias"]) // len(file.info.labels)) or 1
    model = {"head_channels": len(weights["head.0.0.weight"]), "head_shuffle": shuffle}
    return {**_pixels_of(file.path), "model": {**model, **_choices_of(file.path)}}


def _float32_file(source: Path) -> ModelFile:
    try:
        file = read_model_file(model_path(source))
    except ModelFileError as error:
        raise StartingWeightsError(f"{error}; or give a run folder") from error
    if file.info.precision != "float32":
        raise StartingWeightsError(
            f"{file.path}: its weights are {file.info.precision}, expected the float32 file"
        )
    return file


def _pixels_of(path: Path) -> dict[str, tuple[float, ...]]:
    """Return mean and std of a model file's normalization, or {} if it has another form."""
    constants: dict[str, np.ndarray] = {}
    found: dict[str, np.ndarray] = {}
    for node in onnx.load(path).graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in ("Sub", "Mul") and node.input[1] in constants:
            found.setdefault(node.op_type, constants[node.input[1]].astype(float).ravel())
        elif node.op_type == "Conv":
            break
    if {kind: len(values) for kind, values in found.items()} != {"Sub": 3, "Mul": 3}:
        return {}
    mean, std = found["Sub"] / 255, 1 / (255 * found["Mul"])
    return {"mean": tuple(mean.round(6).tolist()), "std": tuple(std.round(6).tolist())}


def _choices_of(path: Path) -> dict[str, bool]:
    """Return the network's settings that the graph shows and the tensors do not."""
    graph = onnx.load(path).graph
    followers: dict[str, set[str]] = {}
    for node in graph.node:
        for name in node.input:
            followers.setdefault(name, set()).add(node.op_type)
    found = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        relu = "Relu" in followers.get(node.output[0], ())
        place = node.name.rpartition("/")[0]
        if place.endswith("semantic/s3/s3.0/body/body.2/body.2.0"):
            found["relu_after_depthwise"] = relu
        elif place.endswith(("semantic/context/last/last.0", "semantic/context/last")):
            found["context_norm"] = relu
        elif place.endswith("aggregation/last/last.0"):
            found["aggregation_relu"] = relu
        elif place.endswith("aggregation/detail_keep/detail_keep.1"):
            found["aggregation_bias"] = len(node.input) == 3
    return found


def read_folded_weights(path: Path) -> dict[str, Tensor]:
    """Read filters and biases of a model file, by their names in `BiSeNetV2`.

    The exporter leaves the module's path in a node's name: `/network/head/head.0/head.0.0/Conv`.
    """
    graph = onnx.load(path).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kinds = {
        "Conv": ("weight", "bias"),
        "BatchNormalization": ("weight", "bias", "running_mean", "running_var"),
    }
    weights = {}
    for node in graph.node:
        if node.op_type not in kinds or not node.name.startswith("/network/"):
            continue
        module: list[str] = []
        for part in node.name.split("/")[2:-1]:
            if module and part.startswith(module[-1] + "."):
                module.pop()  # a child of nn.Sequential carries its parent's name
            module.append(part)
        for kind, name in zip(kinds[node.op_type], node.input[1:], strict=False):
            if name not in tensors:
                raise StartingWeightsError(f"{path}: {node.name} has no {kind} in the file")
            array = np.array(numpy_helper.to_array(tensors[name]))
            weights[f"{'.'.join(module)}.{kind}"] = torch.from_numpy(array)
    if not weights:
        raise StartingWeightsError(f"{path}: no layer of a network of this package in it")
    return weights


def _config_of_file(
    weights: dict[str, Tensor], labels: LabelSet, config: ModelConfig
) -> ModelConfig:
    """Return the recipe's network with the last layer of the file."""
    rows = len(weights.get("head.2.bias", ()))
    shuffle = math.isqrt(rows // len(labels)) or 1
    if (len(labels), shuffle) == (config.num_classes, config.head_shuffle):
        return config
    changed = {"num_classes": len(labels), "head_shuffle": shuffle, "boosters": ()}
    return dataclasses.replace(config, **changed)  # type: ignore[arg-type]


def _refine_head(weights: dict[str, Tensor], before: ModelConfig, now: ModelConfig) -> None:
    """Repeat the last layer if `now` has finer logits; each of them starts as the coarse one."""
    repeats, rest = divmod(now.head_shuffle, before.head_shuffle)
    if rest or repeats == 1:
        return  # `_copy` reports it if it does not fit
    for key in ("head.2.weight", "head.2.bias"):
        rows, *others = weights[key].shape
        size = before.head_shuffle
        cells = weights[key].view(rows // size**2, size, size, *others)
        cells = cells.repeat_interleave(repeats, 1).repeat_interleave(repeats, 2)
        weights[key] = cells.reshape(rows * repeats**2, *others)


def _check_computation(trained: Recipe, recipe: Recipe, source: Path) -> None:
    """Raise StartingWeightsError if the recipe's network would compute something else."""

    def fixed(r: Recipe) -> dict[str, Any]:
        model = dataclasses.asdict(r.model).items()
        kept = {f"model.{key}": value for key, value in model if key not in _FREE_MODEL_KEYS}
        return {"mean": r.mean, "std": r.std, **kept}

    now = fixed(recipe)
    for key, value in fixed(trained).items():
        if value != now[key]:
            raise StartingWeightsError(
                f"{source}: its network was trained with {key} = {value}, the recipe has "
                f"{now[key]}, expected the same"
            )


def _norms(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of each batch norm that an export folds, and of its convolution."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            kinds = [type(child) for child in module]
            if kinds[:2] == [nn.Conv2d, nn.BatchNorm2d]:
                yield f"{name}.1", f"{name}.0"


def _lengths(conv: nn.Module) -> Tensor:
    """Euclidean length of each filter, (out channels,)."""
    assert isinstance(conv, nn.Conv2d)
    return conv.weight.detach().flatten(1).norm(dim=1)


def _copy(
    network: BiSeNetV2, weights: dict[str, Tensor], same_classes: bool, source: Path
) -> tuple[str, ...]:
    """Copy the weights; returns the names of those that stay random: boosters, other classes."""
    state = {k: v for k, v in network.state_dict().items() if not k.endswith(_COUNTER)}
    weights = {k: v for k, v in weights.items() if not k.endswith(_COUNTER)}
    for key in weights:
        if key not in state and not key.startswith("boosters."):
            raise StartingWeightsError(
                f"{source}: {key} has no place in the recipe's network; start from a network of "
                "the same model.* keys"
            )
    anew = []
    for key, tensor in state.items():
        received = weights.get(key)
        others = _NAMES_CLASSES.fullmatch(key) and not same_classes
        if others or (received is None and key.startswith("boosters.")):
            anew.append(key)
        elif received is None or received.shape != tensor.shape:
            shape = "absent" if received is None else tuple(received.shape)
            raise StartingWeightsError(
                f"{source}: {key} is {shape}, expected {tuple(tensor.shape)} for the recipe's "
                "network; start from a network of the same model.* keys"
            )
        else:
            tensor.copy_(received)
    return tuple(anew)


@torch.no_grad()
def _unfold(
    deployed: DeployedModel,
    folded: list[tuple[str, str]],
    lengths: dict[str, Tensor],
    images: Tensor,
) -> None:
    """Give batch norms that only add a bias the statistics of images, without changing the result.

    Each filter is scaled to the length that it was initialized with. Before a batch norm the length
    does not affect the result, but it determines how far a step of SGD rotates the filter.
    """
    network = deployed.network
    hooks = []
    for norm_name, conv_name in folded:
        conv, norm = network.get_submodule(conv_name), network.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
        present = _lengths(conv)
        stretch = torch.where(present > 0, lengths[conv_name] / present, 1.0)
        conv.weight.mul_(stretch.view(-1, 1, 1, 1))

        def give_back(
            norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], stretch: Tensor = stretch
        ) -> None:
            variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
            norm.running_mean, norm.running_var = mean, variance
            norm.weight.copy_((variance + norm.eps).sqrt() / stretch)
            norm.bias.add_(mean / stretch)

        hooks.append(norm.register_forward_pre_hook(give_back))
    deployed(images)
    for hook in hooks:
        hook.remove()


def _check_agreement(deployed: DeployedModel, file: ModelFile, images: Tensor) -> None:
    """Raise StartingWeightsError if the network does not compute what the file computes."""
    frames = [resize_image(image.numpy(), file.info.input_size) for image in images[:2]]
    equal = min(compare(deployed, file, frames).values())
    if equal < REQUIRED_AGREEMENT:
        raise StartingWeightsError(
            f"{file.path}: the recipe's network gives the file's class on {equal:.1%} of the "
            f"pixels, expected {REQUIRED_AGREEMENT:.1%}: model.*, mean and std of the recipe must "
            "be those that the file was trained with"
        )
