"""The files in models/: whole, described, and as good on labelled frames as they say they are."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.metrics import scores
from bisenetv2_ros.model_file import ModelFile, model_path, read_model_file
from bisenetv2_ros.segmenter import Segmenter

MODELS = sorted((share_directory() / "models").glob("*.onnx"))
CAMVID_ROOT = os.environ.get("BISENETV2_CAMVID", "")
needs_camvid = pytest.mark.skipif(
    not CAMVID_ROOT, reason="BISENETV2_CAMVID names no folder of labelled frames"
)


def mean_iou(model: ModelFile, kind: str, root: str) -> float:
    """mIoU of a model file over the val split of a data set, at the labels' size."""
    layouts = pytest.importorskip("bisenetv2_ros.training.dataset_layouts")
    evaluation = pytest.importorskip("bisenetv2_ros.training.evaluate")
    dataset = layouts.load_dataset(kind, root, "val")
    with Segmenter(model) as segmenter:

        def predict(image: np.ndarray) -> np.ndarray:
            return segmenter(image, size=(image.shape[1], image.shape[0])).mask

        return scores(evaluation.evaluate(predict, dataset)).mean_iou


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_shipped_file_says_what_it_is(path: Path) -> None:
    model = read_model_file(path)
    width, height = model.info.input_size
    assert path.name == f"bisenetv2_camvid_{width}x{height}_{model.info.precision}.onnx"
    assert model.info.labels == CAMVID
    assert "research" in model.info.licence
    seen = bool(model.info.memorized("camvid_val_miou"))
    assert ("camvid_val_miou" in model.info.metrics) is not seen, "val tells nothing if trained on"
    assert "synthetic_val_miou" in model.info.metrics


def test_the_card_names_each_file_by_its_sha256() -> None:
    card = (share_directory() / "models" / "MODEL_CARD.md").read_text(encoding="utf-8")
    for path in MODELS:
        assert f"`{path.name}` | `{hashlib.sha256(path.read_bytes()).hexdigest()}`" in card


def test_the_default_is_shipped_and_int8() -> None:
    assert read_model_file(model_path()).info.precision == "int8"
    assert model_path() in MODELS


def test_the_files_stay_small() -> None:
    assert sum(path.stat().st_size for path in MODELS) < 20_000_000


@needs_camvid
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_score_on_camvid_is_the_stated_one(path: Path) -> None:
    model = read_model_file(path)
    if model.info.memorized("camvid_val_miou"):
        pytest.skip("trained on val too, so that it states no score there")
    # int8 sums round differently on other processors, by less than this
    assert mean_iou(model, "camvid", CAMVID_ROOT) == pytest.approx(
        model.info.metrics["camvid_val_miou"], abs=0.003
    )


def test_int8_costs_at_most_half_a_point() -> None:
    by_precision = {m.info.precision: m.info.metrics for m in map(read_model_file, MODELS)}
    for name in by_precision["float32"]:
        assert by_precision["int8"][name] > by_precision["float32"][name] - 0.005
