"""A training run as one frozen value: what a recipe file says and the command line overrides.

Knows names, types and ranges; knows nothing of torch, files of data, or how a run is carried out.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.files.safe_yaml import YamlError, parse_yaml, read_yaml
from bisenetv2_ros.training.model_config import ModelConfig

MAX_BASES = 8


class RecipeError(ValueError):
    """A recipe or an override that does not fit; the message names the key and what is expected."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice of a training run. Section numbers are the paper's (arXiv 2004.02147).

    Attributes:
        name: of the recipe; names the run's folder too.
        dataset: `camvid`, `camvid32`, `cityscapes`, `coco_stuff10k`, `coco_stuff164k`,
            `synthetic` or `folder` (see `datasets.py`).
        train_split, val_split: splits of the data set.
        train_size: (width, height) in pixels to which frames are resized before augmentation, or
            None to leave them. For frames much larger than the crop; `scales` are relative to it.
        input_size: (width, height) of the network at validation and export, multiples of 8.
        crop: (width, height) of the training crop in pixels, multiples of 8.
        scales: factors of the random resize: a list is drawn from, as in 5.1; with `scale_range`
            the factor is uniform (in its logarithm) between the first and the last. They are of the
            frame as it is (or of `train_size`), so the range has to hold `input_size` over that.
        scale_range: see `scales`.
        flip: mirror with probability 1/2 (5.1).
        jitter: strength of brightness, contrast and saturation changes, 0..1; 0 = off.
        gamma: the exponent of the intensities is drawn log-uniformly from exp(±gamma), 0..1.
        blur, shadow: probabilities of a Gaussian blur of up to 1.5 pixels and of a shadow.
        noise: greatest standard deviation of Gaussian noise, in levels of 0..255.
        class_mix: probability that the pixels of half of the classes of another sample are pasted
            over a sample (ClassMix, arXiv 2007.07936).
        synthetic: share of the training samples that are rendered street scenes instead, 0..1, of
            the frames' size; for data sets with CamVid's 11 classes.
        scenes: how many such scenes there are to draw from, 1..10000. Each data worker renders one
            when it first needs it, and keeps it in memory (0.7 MB at 480x360).
        damaged: what a frame or label that cannot be read does to the run: `fail` ends it, `skip`
            counts it and takes the next one; `class_weights` and validation leave it out.
        mean, std: of the RGB channels over 255, carried into the deployed model. The default is
            ImageNet's, which serves natural images in general.
        model: the network.
        learning_rate, power: poly schedule lr * (1 - step / iterations) ** power (5.1).
        warmup: steps over which the rate rises linearly to the poly schedule; 0 as in the paper.
        momentum, weight_decay: SGD; decay on convolution weights only (5.1).
        iterations: optimiser steps.
        batch_size: frames a step, over all processes and accumulation.
        micro_batch: frames at once on one device; 0 = batch_size over the processes. A smaller
            divisor of that means gradient accumulation: memory for time. Batch norm then sees the
            micro batch, and each micro batch has a loss of its own, of which the mean is taken, as
            over processes. That is not quite the whole batch's: `ohem` ranks and `dice_weight`
            counts within it, and a frame with few labelled pixels weighs more.
        loss: `cross_entropy` (3.2) or `ohem`, cross entropy over the hard pixels (the last row of
            the paper's ablation).
        ohem_threshold: a pixel is hard when its true class has less than this probability.
        ohem_minimum: at least this share of the pixels counts as hard.
        dice_weight: weight of the main head's Dice loss beside that one; 0 as in the paper. It
            counts every class alike, and so helps thin and rare ones.
        class_weights: `none` as in the paper, or `log`: 1 / ln(1.02 + share of the class) (ENet,
            arXiv 1606.02147, section 5.2), of mean 1.
        booster_weight: weight of each booster head's loss (4.4: 1).
        booster_stride: booster losses are taken on every so-many-th label pixel; 1 as in the
            paper's figure, 4 costs a sixteenth and sees boosters at the finest booster's scale.
        ema: decay of the exponential moving average of the weights that is evaluated and exported;
            0 = off.
        precision: `float32`, or autocast to `bfloat16` or `float16` (the latter scales the loss;
            CUDA only).
        compile: torch.compile the network.
        seed: of everything random.
        validate_every, checkpoint_every: steps; 0 = at the end only.
        workers: processes that load data; results do not depend on it.
    """

    name: str
    dataset: str
    train_split: str = "train"
    val_split: str = "val"
    train_size: tuple[int, int] | None = None
    input_size: tuple[int, int]
    crop: tuple[int, int]
    scales: tuple[float, ...] = (0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
    scale_range: bool = False
    flip: bool = True
    jitter: float = 0.0
    gamma: float = 0.0
    blur: float = 0.0
    shadow: float = 0.0
    noise: float = 0.0
    class_mix: float = 0.0
    synthetic: float = 0.0
    scenes: int = 512
    damaged: Literal["fail", "skip"] = "fail"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    model: ModelConfig = field(default_factory=ModelConfig)
    learning_rate: float = 5e-2
    power: float = 0.9
    warmup: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    iterations: int
    batch_size: int = 16
    micro_batch: int = 0
    loss: Literal["cross_entropy", "ohem"] = "cross_entropy"
    ohem_threshold: float = 0.7
    ohem_minimum: float = 1 / 16
    dice_weight: float = 0.0
    class_weights: Literal["none", "log"] = "none"
    booster_weight: float = 1.0
    booster_stride: int = 1
    ema: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    compile: bool = False
    seed: int = 0
    validate_every: int = 0
    checkpoint_every: int = 0
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("input_size", "crop"):
            width, height = getattr(self, name)
            if width <= 0 or height <= 0 or width % 8 or height % 8:
                raise RecipeError(f"{name} is {width}x{height}, expected positive multiples of 8")
        for name, low, high in (
            ("iterations", 1, 10**8),
            ("batch_size", 1, 10**5),
            ("micro_batch", 0, self.batch_size),
            ("learning_rate", 1e-9, 100),
            ("power", 0, 10),
            ("momentum", 0, 0.9999),
            ("weight_decay", 0, 1),
            ("warmup", 0, self.iterations),
            ("jitter", 0, 1),
            ("gamma", 0, 1),
            ("blur", 0, 1),
            ("shadow", 0, 1),
            ("noise", 0, 50),
            ("class_mix", 0, 1),
            ("synthetic", 0, 1),
            ("scenes", 1, 10_000),
            ("ema", 0, 0.999999),
            ("dice_weight", 0, 100),
            ("booster_weight", 0, 100),
            ("booster_stride", 1, 32),
            ("ohem_threshold", 0, 1),
            ("ohem_minimum", 0, 1),
            ("workers", 0, 256),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RecipeError(f"{name} is {value}, expected {low}..{high}")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise RecipeError(
                f"micro_batch is {self.micro_batch}, expected a divisor of batch_size "
                f"({self.batch_size})"
            )
        if not self.scales or min(self.scales) <= 0 or list(self.scales) != sorted(self.scales):
            raise RecipeError(f"scales is {self.scales}, expected rising positive factors")
        if min(self.std) <= 0:
            raise RecipeError(f"std is {self.std}, expected positive values")
        if self.train_size and min(self.train_size) <= 0:
            raise RecipeError(f"train_size is {self.train_size}, expected positive pixels")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of optimiser step `step`, counted from 0 (paper, section 5.1).

        The poly curve starts at step 0 whatever the warm-up; the warm-up multiplies it by
        (step + 1) / warmup.
        """
        rate = self.learning_rate * (1 - step / self.iterations) ** self.power
        return rate * min(1.0, (step + 1) / self.warmup) if self.warmup else rate

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; `recipe_from_dict` reads it back."""
        return dataclasses.asdict(self)


def recipe_from_dict(values: dict[str, Any], where: str = "recipe") -> Recipe:
    """Build a recipe from plain values; RecipeError names an unknown key and the nearest known."""
    return _build(Recipe, values, where)


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by the name of one in `config/training/` or by path, then apply overrides.

    A file may say `base: NAME` and then states only what differs from that recipe.

    Args:
        name_or_path: `camvid` or `my/recipe.yaml`.
        overrides: `key=value`, dotted for the model (`model.head_channels=128`); values are YAML.

    Raises:
        RecipeError: naming the file and key, what was received and what is expected.
    """
    path = _recipe_path(name_or_path)
    values = _read_values(path)
    values.setdefault("name", path.stem)
    if not overrides:
        return recipe_from_dict(values, str(path))
    recipe_from_dict(values, str(path))  # so that a fault of the file is not laid on the overrides
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise RecipeError(f"override {override!r}: expected key=value")
        *parents, leaf = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise RecipeError(f"override {override!r}: {parent} has no keys below it")
        try:
            target[leaf] = parse_yaml(text)
        except YamlError as error:
            raise RecipeError(f"override {override!r}: {error}") from error
    return recipe_from_dict(values, f"{path.stem} {' '.join(overrides)}")


def known_recipes() -> dict[str, str]:
    """Names of the recipes in `config/training/`, each with the first line of its comment."""
    return {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()
        for path in sorted(_recipe_folder().glob("*.yaml"))
    }


def _recipe_folder() -> Path:
    return share_directory() / "config" / "training"


def _recipe_path(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if not path.suffix and not path.is_file():
        path = _recipe_folder() / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(known_recipes())
        raise RecipeError(f"no recipe {name_or_path!r}: expected a file or one of {known}")
    return path


def _read_values(path: Path, depth: int = 0) -> dict[str, Any]:
    """The keys of a recipe file over those of its `base`, models merged key by key."""
    try:
        values = read_yaml(path)
    except YamlError as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path}: expected keys and values, received {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if depth == MAX_BASES:
        raise RecipeError(f"{path}: more than {MAX_BASES} recipes based on one another")
    below = _read_values(_recipe_path(str(base)), depth + 1)
    if isinstance(values.get("model"), dict):
        values["model"] = {**below.get("model", {}), **values["model"]}
    return {**below, **values}


def _build(cls: Any, values: dict[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f", did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"{where}: unknown key {key!r}{hint}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RecipeError(f"{where}: missing key {missing[0]!r}")
    made = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**made)
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error


def _convert(value: Any, hint: Any, where: str) -> Any:
    """Check a plain value against a type hint; lists become tuples, `5e-2` and 1 become floats."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, dict):
            return _build(hint, value, where)
    elif origin is Literal:
        if value in arguments:
            return value
        raise RecipeError(f"{where} is {value!r}, expected one of {list(arguments)}")
    elif origin is tuple:
        if isinstance(value, (list, tuple)):
            variadic = len(arguments) == 2 and arguments[1] is Ellipsis
            if variadic or len(arguments) == len(value):
                kinds = [arguments[0]] * len(value) if variadic else arguments
                return tuple(_convert(v, k, where) for v, k in zip(value, kinds, strict=True))
            raise RecipeError(f"{where} is {value!r}, expected {len(arguments)} values")
    elif origin is not None:  # X | None
        if value is None:
            return None
        return _convert(value, arguments[0], where)
    elif hint in (int, float) and (number := _number(value)) is not None:
        if hint is float or number.is_integer():
            return hint(number)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise RecipeError(f"{where} is {json.dumps(value, default=str)}, expected {name}")


def _number(value: Any) -> float | None:
    """As a number, or None. YAML 1.1 takes `5e-2` for a string: it wants a dot and a sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None
