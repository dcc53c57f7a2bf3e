"""Imports public BiSeNetV2 weights as a run of this package.

Supports the three head generations of CoinCheung/BiSeNet and mmsegmentation's layout, recognized by
their keys. Every tensor of the deployed network must be in the file, and every key of the file must
be known. Booster heads are left out, because implementations build them differently and they are
only used in training. Files are read as plain tensors: nothing in them can run.

PaddleSeg's weights are recognized and refused: its strided convolutions pad on one side only, which
no setting of this network does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bisenetv2_ros.labels import CITYSCAPES, LabelSet, label_set_to_dict
from bisenetv2_ros.training.checkpoint import (
    Checkpoint,
    list_checkpoints,
    save_checkpoint,
    write_run_header,
)
from bisenetv2_ros.training.dataset_files import kind_of, known_dataset, spread_colours
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.model_config import ModelConfig
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.tensor_files import ImportWeightsError, Inert, read_tensor_file

SHOWN_KEYS = 5  # of a list in an error

# Keys under which frameworks store the weights, beside optimizer and counters.
AVERAGES = ("ema", "ema_state_dict", "model_ema", "ema_model", "params_ema")
WRAPPERS: tuple[str, ...] = (
    *("state_dict", "model_state_dict", "model", "network", "net", "module", "weights", "params"),
    *AVERAGES,  # if there is nothing else
)
# One key of each layout, to find the prefix of all keys.
MARKS = (
    "detail.S1.0.conv.weight",
    "backbone.detail.detail_branch.0.0.conv.weight",
    "db.convs.0._conv.weight",
)
COUNTED = re.compile(r"(^|\.)total_(ops|params)$")  # left by thop in a measured network

# The label set of a file that names no classes, by their number. Both implementations leave out the
# COCO-Stuff classes that are in no label map.
CLASSES_BY_COUNT = {150: "ade20k", 171: "coco_stuff164k_171"}

# CoinCheung's pixel statistics by number of classes: Cityscapes, COCO-Stuff, ADE20K.
COINCHEUNG_PIXELS = {
    19: ((0.3257, 0.3690, 0.3223), (0.2112, 0.2148, 0.2115)),
    171: ((0.46962251, 0.4464104, 0.40718787), (0.27469736, 0.27012361, 0.28515933)),
    150: ((0.49343230, 0.46819794, 0.43106043), (0.25680755, 0.25506608, 0.27422913)),
}
IMAGENET_PIXELS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

Pair = tuple[str, str]  # module of ours, module of theirs


@dataclass(frozen=True)
class ImportedWeights:
    """A network that computes what the file's implementation computes."""

    layout: str  #: name of the implementation
    config: ModelConfig
    weights: dict[str, Tensor]  #: every tensor of the network, by our names
    left_out: tuple[str, ...]  #: keys of booster heads, and of modules beside the network
    mean: tuple[float, float, float]  #: of the RGB channels over 255
    std: tuple[float, float, float]
    labels: LabelSet


def read_public_weights(path: Path, labels: LabelSet | None = None) -> ImportedWeights:
    """Recognize a file of public weights and map its tensors.

    Args:
        path: `.pth` of CoinCheung/BiSeNet or mmsegmentation, or their tensors as `.safetensors`.
        labels: the classes; None takes those named in the file, or by their number those of
            Cityscapes (19), ADE20K (150) or COCO-Stuff (171).

    Raises:
        ImportWeightsError: if the file or its layout is unknown, or keys or shapes do not fit.
    """
    tensors, meta, beside = _read_tensors(path)
    layout = _recognise(path, tensors)
    with torch.device("meta"):
        expected = BiSeNetV2(layout.config).state_dict()
    names = ((key, key.rpartition(".")) for key in expected)
    sources = {key: f"{layout.modules[module]}.{kind}" for key, (module, _, kind) in names}
    rest = sorted(set(tensors) - set(sources.values()))
    left_out = tuple(key for key in rest if key.startswith(layout.training_only))
    _refuse(path, layout, "unknown", [key for key in rest if key not in left_out])
    left_out += beside
    # torch before 1.0 did not count batches; the count is not used
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    absent = {key for key, source in sources.items() if source not in tensors}
    _refuse(path, layout, "missing", sorted(sources[key] for key in absent - counters))

    weights = {}
    for key, like in expected.items():
        value = tensors.get(sources[key], torch.zeros(like.shape))
        if value.shape != like.shape:
            raise ImportWeightsError(
                f"{path}: {sources[key]} is {tuple(value.shape)}, expected {tuple(like.shape)} in "
                f"{layout.name}"
            )
        if not value.isfinite().all():
            raise ImportWeightsError(f"{path}: {sources[key]} is not finite, expected numbers")
        weights[key] = value.to(like.dtype)
    labels = labels or _labels(path, layout.config.num_classes, meta)
    if len(labels) != layout.config.num_classes:
        raise ImportWeightsError(
            f"{path}: the head has {layout.config.num_classes} classes, expected the {len(labels)} "
            f"of {labels.name}"
        )
    mean, std = layout.pixels
    return ImportedWeights(layout.name, layout.config, weights, left_out, mean, std, labels)


def _refuse(path: Path, layout: _Layout, what: str, keys: list[str]) -> None:
    if keys:
        raise ImportWeightsError(
            f"{path}: {len(keys)} {what} keys for {layout.name}: {_some(keys)}"
        )


def write_run(imported: ImportedWeights, run: Path, source: str, size: tuple[int, int]) -> Path:
    """Make a run folder of step 0 for `evaluate` and `export`; returns its checkpoint folder.

    Args:
        imported: what `read_public_weights` found.
        run: a folder that holds no run yet.
        source: name of the file, for the record.
        size: (width, height) of the network in pixels, multiples of 8.
    """
    if list_checkpoints(run):
        raise ImportWeightsError(f"{run} holds a run already, choose another folder")
    recipe = Recipe(
        name=run.name,
        dataset=kind_of(imported.labels) or "folder",
        input_size=size,
        crop=size,
        iterations=1,
        mean=imported.mean,
        std=imported.std,
        model=imported.config,
    )
    header = {
        "recipe": recipe.to_dict(),
        "labels": label_set_to_dict(imported.labels),
        "data": {"samples": 0, "fingerprint": "none: imported weights"},
        "revision": f"{source} ({imported.layout})",
    }
    write_run_header(run, header)
    return save_checkpoint(run, Checkpoint(step=0, model=imported.weights))


# --- files ----------------------------------------------------------------------------------------


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """Return the network's tensors by name, facts about the data, and the names of the others."""
    content, strange = read_tensor_file(path)
    if isinstance(content, Inert):
        raise ImportWeightsError(
            f"{path}: a whole pickled object ({_some(strange)}), expected its state_dict: tensors "
            "by name"
        )
    holders: list[dict[str, Any]] = []
    averages: list[str] = []
    while isinstance(content, dict) and not any(isinstance(v, Tensor) for v in content.values()):
        holders.append(content)
        taken = next((key for key in WRAPPERS if isinstance(content.get(key), dict)), None)
        if taken is None:
            break
        averages += [key for key in AVERAGES if key in content and key != taken]
        content = content[taken]
    if not isinstance(content, dict) or not content:
        raise ImportWeightsError(f"{path}: expected tensors by name, got {type(content).__name__}")
    wrong = [str(key) for key, value in content.items() if not isinstance(value, Tensor)]
    if wrong and strange and len(wrong) == len(content):
        raise ImportWeightsError(f"{path}: not a file of plain tensors: it holds {_some(strange)}")
    if wrong:
        raise ImportWeightsError(f"{path}: expected tensors by name, but not under {_some(wrong)}")
    meta: dict[str, Any] = next((h["meta"] for h in holders if isinstance(h.get("meta"), dict)), {})
    tensors = {key: v for key, v in content.items() if not COUNTED.search(key)}
    # wrappers of a network prefix the names with theirs: module., model., _orig_mod., net.module.
    prefixes = [key.removesuffix(mark) for mark in MARKS for key in tensors if key.endswith(mark)]
    prefix = min(prefixes, key=len, default="")
    ours = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    beside = tuple(sorted(k for k in tensors if not k.startswith(prefix)))
    return ours, meta, (*beside, *averages)


def _labels(path: Path, count: int, meta: dict[str, Any]) -> LabelSet:
    said = meta.get("dataset_meta") or {}
    names = said.get("classes") or meta.get("CLASSES")
    palette = said.get("palette") or meta.get("PALETTE")
    if names and tuple(names) != CITYSCAPES.names:
        colours = spread_colours(count)
        if palette:
            colours = tuple((int(r), int(g), int(b)) for r, g, b in palette)
        return LabelSet(path.stem, tuple(map(str, names)), colours)
    if count == len(CITYSCAPES):
        return CITYSCAPES
    if count in CLASSES_BY_COUNT:
        return known_dataset(CLASSES_BY_COUNT[count]).labels
    raise ImportWeightsError(f"{path}: {count} classes whose names are not known: give --classes")


# --- layouts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    name: str
    config: ModelConfig
    modules: dict[str, str]  # ours to theirs
    training_only: str  # prefix of the keys that have no place here
    pixels: tuple[tuple[float, float, float], tuple[float, float, float]]  # mean, deviation


def _recognise(path: Path, tensors: dict[str, Tensor]) -> _Layout:
    def rows(key: str) -> int:
        if key not in tensors or tensors[key].ndim != 4:
            raise ImportWeightsError(f"{path}: expected the weights of a convolution under {key}")
        return tensors[key].shape[0]

    if "detail.S1.0.conv.weight" in tensors:
        nearest = {"aggregation_upsample": "nearest"}
        eras: tuple[tuple[str, str, dict[str, Any]], ...] = (
            ("head.conv_out", "05/2020 to 09/2020", {"align_corners": True}),
            ("head.conv_out.0", "09/2020 to 07/2021", {**nearest, "head_shuffle": 8}),
            ("head.conv_out.1", "since 07/2021", nearest),
        )
        for classifier, era, choices in eras:
            if f"{classifier}.weight" not in tensors:
                continue
            classes = rows(f"{classifier}.weight") // choices.get("head_shuffle", 1) ** 2
            return _Layout(
                f"CoinCheung/BiSeNet {era}",
                ModelConfig(
                    num_classes=classes,
                    head_channels=rows("head.conv.conv.weight"),
                    aggregation_bias=False,
                    boosters=(),
                    **choices,
                ),
                dict(_coincheung(classifier)),
                "aux",
                COINCHEUNG_PIXELS.get(classes, COINCHEUNG_PIXELS[19]),
            )
    if "backbone.detail.detail_branch.0.0.conv.weight" in tensors:
        return _Layout(
            "mmsegmentation",
            ModelConfig(
                num_classes=rows("decode_head.conv_seg.weight"),
                head_channels=rows("decode_head.convs.0.conv.weight"),
                aggregation_bias="backbone.bga.detail_dwconv.0.pointwise_conv.conv.bias" in tensors,
                boosters=(),
            ),
            dict(_mmseg()),
            "auxiliary_head.",
            IMAGENET_PIXELS,
        )
    if any(key.startswith(("db.convs.", "sb.stem.")) for key in tensors):
        raise ImportWeightsError(
            f"{path}: PaddleSeg's BiSeNetV2 pads strided convolutions on one side only, which this "
            "network cannot do; its masks would be shifted"
        )
    raise ImportWeightsError(
        f"{path}: neither CoinCheung/BiSeNet nor mmsegmentation; keys are {_some(sorted(tensors))}"
    )


def block(ours: str, theirs: str) -> Iterator[Pair]:
    """Yield a convolution and its batch norm."""
    yield f"{ours}.0", f"{theirs}.conv"
    yield f"{ours}.1", f"{theirs}.bn"


def _coincheung(classifier: str) -> Iterator[Pair]:
    def bare(ours: str, theirs: str, first: int = 0) -> Iterator[Pair]:
        yield f"{ours}.0", f"{theirs}.{first}"
        yield f"{ours}.1", f"{theirs}.{first + 1}"

    for stage, count in enumerate((2, 3, 3)):
        for i in range(count):
            yield from block(f"detail.{stage}.{i}", f"detail.S{stage + 1}.{i}")
    for part in ("conv", "left.0", "left.1", "fuse"):
        yield from block(f"semantic.stem.{part}", f"segment.S1S2.{part}")
    for ours, theirs, count in (("s3", "S3", 2), ("s4", "S4", 2), ("s5", "S5_4", 4)):
        for i in range(count):
            layer, source = f"semantic.{ours}.{i}", f"segment.{theirs}.{i}"
            depthwise = ("dwconv1", "dwconv2") if i == 0 else ("dwconv",)
            yield from block(f"{layer}.body.0", f"{source}.conv1")
            for place, name in enumerate((*depthwise, "conv2"), 1):
                yield from bare(f"{layer}.body.{place}", f"{source}.{name}")
            if i == 0:
                yield from bare(f"{layer}.shortcut.0", f"{source}.shortcut")
                yield from bare(f"{layer}.shortcut.1", f"{source}.shortcut", first=2)
    yield "semantic.context.norm", "segment.S5_5.bn"
    yield from block("semantic.context.project", "segment.S5_5.conv_gap")
    yield from block("semantic.context.last", "segment.S5_5.conv_last")
    yield from bare("aggregation.detail_keep.0", "bga.left1")
    yield "aggregation.detail_keep.1", "bga.left1.2"
    yield from bare("aggregation.detail_down.0", "bga.left2")
    yield from bare("aggregation.semantic_up", "bga.right1")
    yield from bare("aggregation.semantic_keep.0", "bga.right2")
    yield "aggregation.semantic_keep.1", "bga.right2.2"
    yield from bare("aggregation.last", "bga.conv")
    yield from block("head.0", "head.conv")
    yield "head.2", classifier


def _mmseg() -> Iterator[Pair]:
    for stage, count in enumerate((2, 3, 3)):
        for i in range(count):
            name = f"backbone.detail.detail_branch.{stage}.{i}"
            yield from block(f"detail.{stage}.{i}", name)
    stem = "backbone.semantic.stage1"
    for ours, theirs in (
        ("conv", "conv_first"),
        ("left.0", "convs.0"),
        ("left.1", "convs.1"),
        ("fuse", "fuse_last"),
    ):
        yield from block(f"semantic.stem.{ours}", f"{stem}.{theirs}")
    for ours, number, count in (("s3", 2, 2), ("s4", 3, 2), ("s5", 4, 4)):
        for i in range(count):
            layer, source = f"semantic.{ours}.{i}", f"backbone.semantic.stage{number}.{i}"
            depthwise = ("dwconv.0", "dwconv.1") if i == 0 else ("dwconv.0",)
            for place, name in enumerate(("conv1", *depthwise, "conv2.0")):
                yield from block(f"{layer}.body.{place}", f"{source}.{name}")
            if i == 0:
                yield from block(f"{layer}.shortcut.0", f"{source}.shortcut.0.depthwise_conv")
                yield from block(f"{layer}.shortcut.1", f"{source}.shortcut.0.pointwise_conv")
    context = "backbone.semantic.stage4_CEBlock"
    yield "semantic.context.norm", f"{context}.gap.1"
    yield from block("semantic.context.project", f"{context}.conv_gap")
    yield from block("semantic.context.last", f"{context}.conv_last")
    for ours, theirs in (("detail_keep", "detail_dwconv"), ("semantic_keep", "semantic_dwconv")):
        source = f"backbone.bga.{theirs}.0"
        yield from block(f"aggregation.{ours}.0", f"{source}.depthwise_conv")
        yield f"aggregation.{ours}.1", f"{source}.pointwise_conv.conv"
    yield from block("aggregation.detail_down.0", "backbone.bga.detail_down.0")
    yield from block("aggregation.semantic_up", "backbone.bga.semantic_conv.0")
    yield from block("aggregation.last", "backbone.bga.conv")
    yield from block("head.0", "decode_head.convs.0")
    yield "head.2", "decode_head.conv_seg"


def _some(keys: list[str]) -> str:
    more = len(keys) - SHOWN_KEYS
    return ", ".join(keys[:SHOWN_KEYS]) + (f" and {more} more" if more > 0 else "")
