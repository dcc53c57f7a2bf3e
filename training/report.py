"""A run or an evaluation as a page: curves, IoU by class, confusion matrix, best and worst frames.

    DIR/report.html           links the pictures below, nothing else
    DIR/{training,iou,confusion}.png
    DIR/{best,worst}_N.png    input | truth | prediction

Needs matplotlib (of the `training` extra), imported on use. Knows nothing of networks.
"""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.metrics import Scores, scores
from bisenetv2_ros.training.gallery import Gallery, panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#202124"
ACCENT = "#1a66b5"
MOST_CELLS_WITH_NUMBERS = 20  # classes up to which the confusion matrix shows percentages

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #202124; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #5f6368; }
table { border-collapse: collapse; } td { padding: .1rem 1.2rem .1rem 0; }
"""


class ReportError(RuntimeError):
    """A report that cannot be drawn; the message says what to install."""


def write_report(
    folder: Path,
    title: str,
    matrix: NDArray[np.int64],
    gallery: Gallery,
    facts: dict[str, str],
    history: Path | None = None,
) -> Path:
    """Write the page and its pictures.

    Args:
        folder: made if need be; files of an earlier report are overwritten.
        title: heading of the page.
        matrix: (C, C + 1) or (C, C) confusion matrix, rows are labels.
        gallery: frames to show, and the classes.
        facts: lines of the table under the heading.
        history: a run's `metrics.jsonl`, for the curves.

    Returns:
        The path of `report.html`.

    Raises:
        ReportError: matplotlib is not installed.
        OSError: a file cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ReportError("drawing needs matplotlib: `pip install matplotlib`") from error
    folder.mkdir(parents=True, exist_ok=True)
    result = scores(matrix)
    facts = {
        "mean IoU": f"{100 * result.mean_iou:.2f} %",
        "pixel accuracy": f"{100 * result.pixel_accuracy:.2f} %",
        **facts,
    }
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    if history is not None:
        _save(_draw_training(history), folder / "training.png")
        sections.append(("Training", [("training.png", "Loss, learning rate and validation")]))
    _save(_draw_iou(result, gallery.labels), folder / "iou.png")
    sections.append(("Classes", [("iou.png", "IoU of each class; dashed: their mean")]))
    _save(_draw_confusion(matrix, gallery.labels), folder / "confusion.png")
    caption = "Where the pixels of each class went, in percent of the row"
    sections.append(("Confusion", [("confusion.png", caption)]))
    for kind, examples in (("best", gallery.best), ("worst", gallery.worst)):
        shown = []
        for number, example in enumerate(examples, 1):
            write_picture(folder / f"{kind}_{number}.png", panel(example, gallery.labels))
            words = f"{example.name}: mean IoU {100 * example.score:.1f} %"
            shown.append((f"{kind}_{number}.png", words))
        sections.append((f"{kind.capitalize()} frames: input, truth, prediction", shown))
    page = folder / "report.html"
    page.write_text(_page(title, facts, sections), encoding="utf-8")
    return page


def _page(
    title: str, facts: dict[str, str], sections: list[tuple[str, list[tuple[str, str]]]]
) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>\n"
        for name, value in facts.items()
    )
    body = ""
    for heading, pictures in sections:
        body += f"<h2>{html.escape(heading)}</h2>\n"
        for file, caption in pictures:
            words = html.escape(caption)
            body += f'<figure><img src="{file}" alt="{words}"><figcaption>{words}</figcaption>'
            body += "</figure>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<table>\n{rows}</table>\n{body}</html>\n"
    )


def _figure(width: float, height: float) -> Figure:
    # without pyplot: no display, no global state
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=110, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, facecolor="white")


def _draw_training(history: Path) -> Figure:
    """Loss of each head, learning rate, and mean IoU of the validations over the steps."""
    records = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
    steps = [r for r in records if "loss" in r]
    validations = [r for r in records if "val_miou" in r]
    figure = _figure(9, 7.5)
    loss, rate, miou = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 2))
    x = [r["step"] for r in steps]
    known = {"step", "loss", "lr", "images_per_second"}
    for name in [key for key in steps[0] if key not in known] if steps else []:
        values = _smooth([r[name] for r in steps])
        main = name == "main"
        loss.plot(x, values, label=name, lw=1.8 if main else 0.9, color=ACCENT if main else None)
    loss.set_ylabel("loss, smoothed")
    loss.set_yscale("log")
    loss.yaxis.set_major_formatter("{x:g}")
    loss.yaxis.set_minor_formatter("{x:g}")
    loss.legend(fontsize=8, ncols=5)
    rate.plot(x, [r["lr"] for r in steps], color=INK, lw=1)
    rate.set_ylabel("learning rate")
    miou.plot(
        [r["step"] for r in validations],
        [100 * r["val_miou"] for r in validations],
        marker="o", ms=3, color=ACCENT,
    )  # fmt: skip
    miou.set_ylabel("validation mIoU, %")
    miou.set_xlabel("step")
    for axes in (loss, rate, miou):
        _tidy(axes)
    return figure


def _smooth(values: list[float], window: int = 25) -> list[float]:
    """Mean of the latest `window` values at each place."""
    total = np.cumsum([0.0, *values])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return ((total[ends] - total[starts]) / (ends - starts)).tolist()


def _draw_iou(result: Scores, labels: LabelSet) -> Figure:
    order = [c for c in np.argsort(result.iou) if not math.isnan(result.iou[c])]
    figure = _figure(9, 1.2 + 0.26 * len(order))
    axes = figure.subplots()
    values = [100 * result.iou[c] for c in order]
    colours = [tuple(v / 255 for v in labels.palette[c]) for c in order]
    axes.barh([labels.names[c] for c in order], values, color=colours, edgecolor=INK, lw=0.5)
    for row, value in enumerate(values):
        axes.text(value + 0.7, row, f"{value:.1f}", va="center", fontsize=8)
    axes.axvline(100 * result.mean_iou, color=INK, ls="--", lw=1)
    axes.set_xlim(0, 108)
    axes.set_xlabel("IoU, %")
    axes.margins(y=0.01)
    _tidy(axes)
    axes.grid(axis="y", visible=False)
    return figure


def _draw_confusion(matrix: NDArray[np.int64], labels: LabelSet) -> Figure:
    count = len(labels)
    rows = matrix.sum(axis=1, keepdims=True)
    share = 100 * matrix[:, :count] / np.maximum(rows, 1)
    side = min(16.0, 3 + 0.48 * count)
    figure = _figure(side, side * 0.9)
    axes = figure.subplots()
    axes.imshow(np.where(rows > 0, share, np.nan), cmap="Blues", vmin=0, vmax=100)
    small = 7 if count <= MOST_CELLS_WITH_NUMBERS else 3.5
    axes.set_xticks(range(count), labels.names, rotation=90, fontsize=small + 1)
    axes.set_yticks(range(count), labels.names, fontsize=small + 1)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if count <= MOST_CELLS_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(share >= 0.5), strict=True):
            value = share[row, column]
            colour = "white" if value > 60 else INK
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", fontsize=small, color=colour
            )
    return figure


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
