"""The page about a run or an evaluation: legible, and honest where there is nothing to show."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

import itertools

from bisenetv2_ros import __version__
from bisenetv2_ros.labels import CAMVID, LabelSet
from bisenetv2_ros.metrics import confusion_matrix, scores
from bisenetv2_ros.training import report
from bisenetv2_ros.training.datasets import Sample
from bisenetv2_ros.training.gallery import GAP, PANEL_WIDTH, Gallery, panel
from bisenetv2_ros.training.report import write_report

TWO = LabelSet("two", ("free", "taken <b>"), ((0, 200, 0), (200, 0, 0)), 255)


def gallery(labels: LabelSet = TWO, errors: tuple[int, ...] = (0, 8, 2)) -> Gallery:
    """Frames of 16 by 8 pixels, so many of which are predicted wrongly."""
    shown = Gallery(labels)
    for number, wrong in enumerate(errors):
        label = np.repeat(np.array([[0, 1, 255, 255]], np.uint8), 4, 1).repeat(8, 0)
        mask = label.copy()
        mask.reshape(-1)[:wrong] = 1
        shown(Sample(np.zeros((8, 16, 3), np.uint8), label, f"frame{number}"), mask)
    return shown


def matrix_of(shown: Gallery) -> np.ndarray:
    classes = len(shown.labels)
    return sum(confusion_matrix(e.label, e.mask, classes) for e in shown.first)


def test_worst_frames_come_first_with_a_legend(tmp_path: Path):
    shown = gallery()
    text = write_report(tmp_path, "run", matrix_of(shown), shown, {}).read_text()
    assert text.index("Worst frames") < text.index("Best frames")
    assert re.findall(r"<figcaption>(frame\d)", text)[:3] == ["frame1", "frame2", "frame0"]
    assert "rgb(0, 200, 0)" in text and "taken &lt;b&gt;" in text
    assert "rgb(0, 0, 0)" in text and "no label (truth), no class (prediction)" in text


def test_images_link_to_their_full_size_and_the_page_is_dated(tmp_path: Path):
    shown = gallery()
    text = write_report(tmp_path, "run", matrix_of(shown), shown, {}).read_text()
    images = re.findall(r'<img src="([^"]+)"', text)
    assert re.findall(r'<a href="([^"]+)"><img', text) == images and len(images) == 8
    assert all((tmp_path / name).is_file() for name in images)
    assert f"{datetime.date.today():%Y-%m-%d}" in text and __version__ in text


def test_truth_and_prediction_do_not_touch():
    (example, *_) = gallery().first
    result = panel(example, TWO)
    assert result.shape == (160, 3 * PANEL_WIDTH + 2 * GAP, 3)
    for gap in (PANEL_WIDTH, 2 * PANEL_WIDTH + GAP):
        assert (result[:, gap : gap + GAP] == 255).all()
    assert (result[:, PANEL_WIDTH + GAP] == (0, 200, 0)).all(), "truth, in the class's color"
    assert (result[:, 2 * PANEL_WIDTH + GAP - 1] == 0).all(), "not labelled"


def test_a_split_without_labels_is_said(tmp_path: Path):
    text = write_report(tmp_path, "run", np.zeros((2, 3), np.int64), Gallery(TWO), {}).read_text()
    assert "No pixel of this split has a label" in text and "nan" not in text
    assert "<img" not in text


def test_a_network_that_is_not_finite_is_said(tmp_path: Path):
    shown = gallery(errors=(0,))
    matrix = matrix_of(shown)
    matrix[:, 2], matrix[:, :2] = matrix.sum(axis=1), 0
    text = write_report(tmp_path, "run", matrix, shown, {}).read_text()
    assert "100.00 % of the labeled pixels got no class" in text and "not finite" in text
    absent = write_report(tmp_path, "run", np.diag([5, 0]), shown, {}).read_text()
    assert "Without a labeled pixel in this split: taken" in absent


@pytest.mark.parametrize("scale", [1.0, 1e-3, 500.0])
def test_ticks_of_the_curves(scale: float):
    """Over several decades: numbers that do not overprint; whole steps; a color for each loss."""
    names = ("main", "dice", "booster0", "booster1", "booster2", "booster3")
    records = [
        {"step": k, "lr": 0.1, "loss": 1.0, **{n: scale * (i + 1) / k for i, n in enumerate(names)}}
        for k in range(1, 5)
    ]
    records += [{"step": 2, "val_miou": None}, {"step": 4, "val_miou": 0.5}]
    figure = report._draw_training(records)
    figure.draw_without_rendering()
    loss, _, miou = figure.axes
    boxes = [t.get_window_extent() for t in loss.get_yticklabels(which="both") if t.get_text()]
    low, high = loss.get_window_extent().y0 - 5, loss.get_window_extent().y1 + 5
    seen = sorted((b for b in boxes if low < (b.y0 + b.y1) / 2 < high), key=lambda b: b.y0)
    assert len(seen) >= 2
    assert all(below.y1 <= above.y0 for below, above in itertools.pairwise(seen))
    assert all(float(tick).is_integer() for tick in miou.get_xticks())
    assert len(
        {
            line.get_color() if isinstance(line.get_color(), str) else tuple(line.get_color())
            for line in loss.lines
        }
    ) == len(names)
    assert list(miou.lines[0].get_xdata()) == [4], "a validation without a score is no point"


def test_labels_are_within_the_figure_and_numbers_not_struck_through():
    labels = LabelSet(
        "long",
        tuple(f"a class of a long name {i}" for i in range(30)),
        tuple((i, 0, 0) for i in range(30)),
        255,
    )
    matrix = np.diag(np.arange(1, 31)) + 1
    for figure in (
        report._draw_confusion(matrix, labels),
        report._draw_iou(scores(matrix), labels),
    ):
        for _ in range(2):
            figure.draw_without_rendering()
        (axes,) = figure.axes
        width, height = figure.get_size_inches() * figure.dpi
        texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), axes.xaxis.label]
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
    mean = axes.lines[0].get_window_extent()
    assert all(text.get_window_extent().x0 > mean.x1 for text in axes.texts)


def test_many_classes_are_legible():
    labels = LabelSet(
        "many", tuple(f"class {i}" for i in range(171)), tuple((i, 0, 0) for i in range(171)), 255
    )
    figure = report._draw_confusion(np.eye(171, dtype=np.int64), labels)
    figure.draw_without_rendering()
    names = sorted(
        (text.get_window_extent() for text in figure.axes[0].get_yticklabels()),
        key=lambda box: box.y0,
    )
    assert all(below.y1 <= above.y0 + 1 for below, above in itertools.pairwise(names))
    assert names[0].height >= 8, "pixels"


def test_a_label_set_of_the_package_is_drawn_whole(tmp_path: Path):
    shown = gallery(CAMVID)
    matrix = np.eye(11, 12, dtype=np.int64)
    text = write_report(tmp_path, "run", matrix, shown, {}).read_text()
    assert all(f"</span>{name}</li>" in text for name in CAMVID.names)
