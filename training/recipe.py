"""A training run as one frozen value: the recipe file with the command line's overrides.

Meaning, type and range are beside each key. Knows nothing of torch, data files, or how a run is
carried out.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

from bisenetv2_ros.files.safe_yaml import YamlError, parse_yaml
from bisenetv2_ros.training.model_config import NETWORKS, ModelConfig
from bisenetv2_ros.training.recipe_folder import known_recipes, recipe_folder
from bisenetv2_ros.training.settings import (
    Bool,
    Float,
    Int,
    SettingsError,
    build,
    read_inherited,
    settings,
    within,
)


class RecipeError(ValueError):
    """A recipe or an override that does not fit; the message names the key and what is expected."""


Fraction = Annotated[Float, within(0, 1)]
Size = tuple[Int, Int]


@settings
class Recipe:
    """All settings of a training run. Section numbers are the paper's (arXiv 2004.02147).

    Sizes are (width, height) in pixels.
    """

    name: str
    """Name of the recipe; the default name of the run's folder too."""

    adapt: Bool = False
    """`bisenetv2 train` sets sizes, network, batch and schedule by the dataset, the starting
    weights and the machine (see `plan.py`); keys given on the command line stay."""

    dataset: str
    """Name of the dataset's layout, such as `folder` or `cityscapes` (see `datasets.py`)."""

    train_split: str = "train"
    """Split to train on."""

    val_split: str = "val"
    """Split to validate on."""

    train_size: Size | None = None
    """Size to which frames are resized before augmentation, or null to leave them. For frames much
    larger than the crop; `scales` are relative to it."""

    input_size: Size
    """Size of the network's input at validation and export, multiples of 8."""

    crop: Size
    """Size of the training crop, multiples of 8."""

    scales: tuple[Float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    """Factors of the random resize, relative to the frame (or to `train_size`), so the range has to
    hold `input_size` over that. One of the list is drawn, as in 5.1; see `scale_range`."""

    scale_range: Bool = False
    """Draw the factor log-uniformly between the first and the last of `scales`."""

    flip: Bool = True
    """Mirror with probability 1/2 (5.1)."""

    jitter: Fraction = 0.0
    """Strength of brightness, contrast and saturation changes."""

    gamma: Fraction = 0.0
    """The exponent of the intensities is drawn log-uniformly from exp(±gamma)."""

    blur: Fraction = 0.0
    """Probability of a Gaussian blur of up to 1.5 pixels."""

    shadow: Fraction = 0.0
    """Probability of a shadow."""

    noise: Annotated[Float, within(0, 50)] = 0.0
    """Greatest standard deviation of Gaussian noise, in levels of 0..255."""

    class_mix: Fraction = 0.0
    """Probability that the pixels of half of the classes of another sample are pasted over a sample
    (ClassMix, arXiv 2007.07936)."""

    synthetic: Fraction = 0.0
    """Fraction of the training samples that are rendered street scenes instead, of the frames'
    size; for datasets with CamVid's 11 classes."""

    scenes: Annotated[Int, within(1, 10_000)] = 512
    """Number of such scenes. Each data worker renders one when it first needs it, and keeps it in
    memory (0.7 MB at 480x360)."""

    damaged: Literal["fail", "skip"] = "fail"
    """What to do about a frame or label that cannot be read: `fail` ends the run, `skip` counts it
    and takes the next one; `class_weights` and validation leave it out."""

    mean: tuple[Float, Float, Float] = (0.485, 0.456, 0.406)
    """Mean of the RGB channels over 255, carried into the deployed model. The default is
    ImageNet's, which serves natural images in general."""

    std: tuple[Float, Float, Float] = (0.229, 0.224, 0.225)
    """Standard deviation of the same."""

    model: ModelConfig = ModelConfig()
    """The network: its keys; `network: NAME` starts from one of `model_config.NETWORKS`."""

    learning_rate: Annotated[Float, within(1e-9, 100)] = 5e-2
    """Base of the schedule lr * (1 - step / iterations) ** power (5.1)."""

    power: Annotated[Float, within(0, 10)] = 0.9
    """Exponent of that schedule."""

    warmup: Annotated[Int, within(0, 10**8)] = 0
    """Steps over which the rate rises linearly to the schedule; 0 as in the paper."""

    momentum: Annotated[Float, within(0, 0.9999)] = 0.9
    """Momentum of SGD."""

    weight_decay: Fraction = 5e-4
    """Weight decay, on convolution weights only (5.1)."""

    iterations: Annotated[Int, within(1, 10**8)]
    """Number of optimizer steps; with `minutes`, the maximum."""

    minutes: Annotated[Float, within(0, 10**6)] = 0.0
    """Time limit in minutes, including validations, or 0 for none. If the machine is too slow for
    `iterations` in that time, the learning rate decays faster, to reach its end when the time is
    up. The number of steps then depends on the machine."""

    batch_size: Annotated[Int, within(1, 10**5)] = 16
    """Frames a step, over all processes and accumulation."""

    micro_batch: Annotated[Int, within(0, 10**5)] = 0
    """Frames at once on one device; 0 = batch_size over the processes. A smaller divisor of that
    accumulates gradients: memory for time. Batch norm then sees the micro batch, and each micro
    batch has a loss of its own, whose mean is taken, as over processes. That is not quite the whole
    batch's: `ohem` ranks and `dice_weight` counts within it, and a frame with few labeled pixels
    weighs more."""

    loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    """`cross_entropy` (3.2) or `ohem`, cross entropy over the hard pixels (the last row of the
    paper's ablation)."""

    ohem_threshold: Fraction = 0.7
    """A pixel is hard if its true class has less than this probability."""

    ohem_minimum: Fraction = 1 / 16
    """At least this fraction of the pixels counts as hard."""

    dice_weight: Annotated[Float, within(0, 100)] = 0.0
    """Weight of the main head's Dice loss beside that one; 0 as in the paper. It counts every class
    alike, and so helps thin and rare ones."""

    class_weights: Literal["none", "log"] = "none"
    """`none` as in the paper, or `log`: 1 / ln(1.02 + fraction of the class) (ENet, arXiv
    1606.02147, section 5.2), of mean 1."""

    booster_weight: Annotated[Float, within(0, 100)] = 1.0
    """Weight of each booster head's loss (4.4: 1)."""

    booster_stride: Annotated[Int, within(1, 32)] = 1
    """Booster losses are taken on every so-many-th label pixel; 1 as in the paper's figure, 4 costs
    a sixteenth and sees boosters at the finest booster's scale."""

    ema: Annotated[Float, within(0, 0.999999)] = 0.0
    """Decay of the exponential moving average of the weights that is evaluated and exported; 0 =
    off."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """`float32`, or autocast to `bfloat16` or `float16` (the latter scales the loss; CUDA only)."""

    compile: Bool = False
    """Compile the network for a GPU; on a CPU, compiling takes minutes and gains nothing."""

    seed: Annotated[Int, within(-(2**63), 2**64)] = 0
    """Seed of everything random."""

    validate_every: Annotated[Int, within(0, 10**8)] = 0
    """Steps between validations; 0 = at the end only."""

    checkpoint_every: Annotated[Int, within(0, 10**8)] = 0
    """Steps between checkpoints; 0 = at the end only."""

    workers: Annotated[Int, within(0, 256)] = 2
    """Processes that load data; results do not depend on it."""

    def __post_init__(self) -> None:
        for name in ("input_size", "crop"):
            width, height = getattr(self, name)
            if width <= 0 or height <= 0 or width % 8 or height % 8:
                raise ValueError(f"{name} is {width}x{height}, expected positive multiples of 8")
        if self.warmup > self.iterations:
            raise ValueError(f"warmup is {self.warmup}, expected 0..{self.iterations} (iterations)")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch is {self.micro_batch}, expected a divisor of batch_size "
                f"({self.batch_size})"
            )
        if not self.scales or min(self.scales) <= 0 or list(self.scales) != sorted(self.scales):
            raise ValueError(f"scales is {self.scales}, expected rising positive factors")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}, expected positive values")
        if self.train_size and min(self.train_size) <= 0:
            raise ValueError(f"train_size is {self.train_size}, expected positive pixels")

    def learning_rate_at(self, step: int, progress: float | None = None) -> float:
        """Return the learning rate of optimizer step `step`, counted from 0 (paper, section 5.1).

        The poly curve starts at step 0 whatever the warm-up; the warm-up multiplies it by
        (step + 1) / warmup.

        Args:
            step: steps before it.
            progress: fraction of the run done before it; None for step / iterations.
        """
        before = step / self.iterations if progress is None else progress
        rate = self.learning_rate * (1 - before) ** self.power
        return rate * min(1.0, (step + 1) / self.warmup) if self.warmup else rate

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for JSON; `recipe_from_dict` reads them."""
        return dataclasses.asdict(self)


def recipe_from_dict(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from plain values; RecipeError names each key that does not fit."""
    try:
        return build(Recipe, _with_named_network(values))
    except SettingsError as error:
        raise RecipeError(f"{where}: {error}") from error


def _with_named_network(values: dict[str, Any]) -> dict[str, Any]:
    """Replace `model: NAME`, or `network: NAME` within `model`, by what it stands for."""
    model = values.get("model")
    if isinstance(model, str):
        model = {"network": model}
    if not isinstance(model, dict) or "network" not in model:
        return values
    name = model["network"]
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise SettingsError(f"model.network is {name!r}, expected one of {list(NETWORKS)}{hint}")
    own = {key: value for key, value in model.items() if key != "network"}
    return {**values, "model": {**NETWORKS[name], **own}}


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by the name of one in `config/training/` or by path, then apply overrides.

    A file may say `base: NAME` and then states only what differs from that recipe.

    Args:
        name_or_path: `camvid` or `my/recipe.yaml`.
        overrides: `key=value`, with dots for the model (`model.head_channels=128`), YAML values.

    Raises:
        RecipeError: naming the file and key, what was received and what is expected.
    """
    path = _recipe_path(name_or_path)
    try:
        values = read_inherited(path, lambda base, _: _recipe_path(base), merged="model")
    except SettingsError as error:
        raise RecipeError(str(error)) from error
    values.setdefault("name", path.stem)
    recipe = recipe_from_dict(values, str(path))  # a fault of the file is not the overrides' fault
    if not overrides:
        return recipe
    return recipe_from_dict(override(values, overrides), f"{path.stem} {' '.join(overrides)}")


def override(values: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Put overrides `key=value` (see `load_recipe`) into a copy of a recipe's plain values.

    A warm-up that is longer than the steps given takes the same fraction of them as before.

    Raises:
        RecipeError: if one is not of this form.
    """
    before, values = values, copy.deepcopy(values)
    for given in overrides:
        key, equals, text = given.partition("=")
        if not equals:
            raise RecipeError(f"override {given!r}: expected key=value")
        *parents, leaf = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise RecipeError(f"override {given!r}: {parent} has no keys below it")
        try:
            target[leaf] = parse_yaml(text)
        except YamlError as error:
            raise RecipeError(f"override {given!r}: {error}") from error
    warmup: Any = values.get("warmup")
    steps: Any = values.get("iterations")
    whole: Any = before.get("iterations")
    numbers = isinstance(warmup, int) and isinstance(steps, int) and isinstance(whole, int)
    if numbers and warmup == before.get("warmup") and warmup > steps >= 0:
        values["warmup"] = warmup * steps // whole
    return values


def _recipe_path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if not path.suffix and not path.is_file():
        path = recipe_folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(known_recipes())
        raise RecipeError(f"no recipe {name_or_path!r}: expected a file or one of {known}")
    return path
