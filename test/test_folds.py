"""`bisenetv2 crossvalidate`: recordings left out in turn."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from labelled_set import write_set

from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.training.checkpoint import read_run_header
from bisenetv2_ros.training.dataset_layouts import load_dataset
from bisenetv2_ros.training.folds import fold_splits, last_scores, mean_and_error, table

SMALL = """\
dataset: folder
input_size: [64, 64]
crop: [64, 64]
iterations: 1
batch_size: 2
workers: 0
model: {num_classes: 3, width: 0.25, head_channels: 8, booster_channels: 8}
"""


def crossvalidate(*words: str) -> int:
    common = ("--config", "small.yaml", "--data", "my_set", "--output", "runs", "--device", "cpu")
    return cli.main([*common, "--splits", "train", *words], verb="crossvalidate")


def test_each_fold_is_left_out_and_a_second_time_only_read(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    data = write_set(Path("my_set"))
    for kind in ("images", "labels"):
        for path in (data / kind).iterdir():
            path.rename(path.with_name(f"{'day' if path.stem < '07' else 'night'}{path.name}"))
    Path("small.yaml").write_text(SMALL)
    assert crossvalidate("--folds", "day,night", "seed=3") == 0
    said = capsys.readouterr().out
    recipe = read_run_header(Path("runs/night"))["recipe"]
    assert (recipe["train_split"], recipe["val_split"]) == ("train:!night*", "train:night*")
    assert recipe["seed"] == 3
    parts = [load_dataset("folder", data, recipe[key]) for key in ("train_split", "val_split")]
    assert [len(part) for part in parts] == [7, 3]
    scores = {fold: last_scores(Path("runs") / fold) for fold in ("day", "night")}
    assert said.endswith(f"{table(scores)}\n") and set(scores["day"]) == {
        "ground", "wall", "sky", "mean",
    }  # fmt: skip

    shutil.rmtree("runs/night")
    before = Path("runs/day/metrics.jsonl").read_text()
    assert crossvalidate("--folds", "day,night", "seed=3") == 0
    again = capsys.readouterr().out
    assert "runs/day is complete: 1 steps" in again and again.endswith(f"{table(scores)}\n")
    assert Path("runs/day/metrics.jsonl").read_text() == before


@pytest.mark.parametrize("folds", ["day", "day,day", ""])
def test_one_fold_is_none(tmp_path: Path, monkeypatch, capsys, folds):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_set").mkdir()
    assert crossvalidate("--folds", folds) == 2
    assert "expected two or more names" in capsys.readouterr().err


def test_mean_and_error_by_hand():
    assert fold_splits("train+val", "a") == {
        "train_split": "train+val:!a*", "val_split": "train+val:a*",
    }  # fmt: skip
    assert mean_and_error([0.5, 0.7, 0.6]) == pytest.approx((0.6, 0.1 / math.sqrt(3)))
    mean, error = mean_and_error([math.nan, 0.5])
    assert mean == 0.5 and math.isnan(error)
    lines = table({"a": {"car": 0.5, "mean": 0.25}, "b": {"car": math.nan, "mean": 0.75}})
    assert [line.split() for line in lines.splitlines()] == [
        ["IoU", "%", "a", "b", "mean", "error"],
        ["car", "50.00", "-", "50.00", "-"],
        ["mean", "25.00", "75.00", "50.00", "25.00"],
    ]


def test_scores_are_those_of_the_last_validation(tmp_path: Path):
    records = [
        {"step": 1, "val_miou": 0.1, "val_iou": {"car": 0.1}},
        {"step": 2, "val_miou": 0.2, "val_iou": {"car": None}},
        {"step": 2, "loss": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    found = last_scores(tmp_path)
    assert found["mean"] == 0.2 and math.isnan(found["car"])
