"""A run or an evaluation as a page: curves, IoU by class, confusion matrix, worst and best frames.

    DIR/report.html           links the images below, nothing else
    DIR/{training,iou,confusion}.png
    DIR/{worst,best}_N.png    input | truth | prediction

Needs matplotlib (of the `training` extra), imported on use. Knows nothing of networks.
"""

from __future__ import annotations

import datetime
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros import __version__
from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.metrics import Scores, scores
from bisenetv2_ros.training.gallery import Gallery, panel
from bisenetv2_ros.training.run_record import read_metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#202124"
ACCENT = "#1a66b5"
MOST_CELLS_WITH_NUMBERS = 20  # classes up to which the confusion matrix shows percentages
DPI = 110
NOT_LOSSES = {"step", "loss", "lr", "images_per_second"}

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #202124; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; } figure { margin: 1rem 0; } figcaption { color: #5f6368; }
table { border-collapse: collapse; } td { padding: .1rem 1.2rem .1rem 0; vertical-align: top; }
.note { border-left: 4px solid #c5221f; padding: .2rem 1rem; background: #fce8e6; }
.legend { columns: 12rem; list-style: none; padding: 0; }
.legend span { display: inline-block; width: 1.1rem; height: .8rem; margin-right: .5rem;
               border: 1px solid #202124; }
"""

Section = tuple[str, list[tuple[str, str]]]  # heading; file and caption of each image


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
    """Write the page and its images.

    Args:
        folder: created if needed; an earlier report is overwritten.
        title: heading of the page.
        matrix: (C, C + 1) or (C, C) confusion matrix, rows are labels.
        gallery: frames to show, and the classes.
        facts: rows of the table under the heading.
        history: a run's `metrics.jsonl`, for the curves.

    Returns:
        The path of `report.html`.

    Raises:
        ReportError: if matplotlib is not installed.
        OSError: if a file cannot be written.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ReportError("drawing needs matplotlib: `pip install matplotlib`") from error
    folder.mkdir(parents=True, exist_ok=True)
    result, labels = scores(matrix), gallery.labels
    facts = {
        "mean IoU": _percent(result.mean_iou),
        "pixel accuracy": _percent(result.pixel_accuracy),
        **facts,
        "written": f"{datetime.datetime.now():%Y-%m-%d %H:%M} by bisenetv2_ros {__version__}",
    }
    sections: list[Section] = []
    if history is not None and (records := read_metrics(history)):
        _save(_draw_training(records), folder / "training.png")
        sections.append(("Training", [("training.png", "Loss, learning rate and validation")]))
    if not math.isnan(result.mean_iou):
        _save(_draw_iou(result, labels), folder / "iou.png")
        sections.append(("Classes", [("iou.png", "IoU of each class; dashed: their mean")]))
        _save(_draw_confusion(matrix, labels), folder / "confusion.png")
        caption = "Where the pixels of each class went, in percent of the row"
        sections.append(("Confusion", [("confusion.png", caption)]))
    for kind, examples in (("worst", gallery.worst), ("best", gallery.best)):
        shown = []
        for number, example in enumerate(examples, 1):
            write_picture(folder / f"{kind}_{number}.png", panel(example, labels))
            words = f"{example.name}: mean IoU {_percent(example.score)}"
            shown.append((f"{kind}_{number}.png", words))
        if shown:
            sections.append((f"{kind.capitalize()} frames: input, truth, prediction", shown))
    page = folder / "report.html"
    page.write_text(
        _page(title, facts, _notes(matrix, result, labels), labels, sections), encoding="utf-8"
    )
    return page


def _percent(value: float) -> str:
    return "none" if math.isnan(value) else f"{100 * value:.2f} %"


def _notes(matrix: NDArray[np.int64], result: Scores, labels: LabelSet) -> list[str]:
    """Return remarks without which the scores would mislead."""
    notes = []
    total, count = int(matrix.sum()), len(labels)
    if not total:
        notes.append("No pixel of this split has a label, so there is nothing to score.")
    lost = int(matrix[:, count:].sum())
    if lost:
        notes.append(
            f"{_percent(lost / total)} of the labeled pixels got no class: there the network's "
            "output is not finite. Lower the learning rate, or go back to an earlier checkpoint."
        )
    absent = [n for n, pixels in zip(labels.names, matrix.sum(axis=1), strict=True) if not pixels]
    if total and absent:
        shown = ", ".join(absent[:12]) + (f" and {len(absent) - 12} more" if absent[12:] else "")
        notes.append(f"Without a labeled pixel in this split: {shown}.")
    return notes


def _page(
    title: str,
    facts: dict[str, str],
    notes: list[str],
    labels: LabelSet,
    sections: list[Section],
) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>\n"
        for name, value in facts.items()
    )
    body = "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)
    legend = "".join(
        f'<li><span style="background: rgb{colour}"></span>{html.escape(name)}</li>\n'
        for name, colour in [
            *zip(labels.names, labels.palette, strict=True),
            ("no label (truth), no class (prediction)", (0, 0, 0)),
        ]
    )
    for heading, images in sections:
        body += f"<h2>{html.escape(heading)}</h2>\n"
        if "truth" in heading:
            body += f'<ul class="legend">\n{legend}</ul>\n'
        for file, caption in images:
            words = html.escape(caption)
            body += f'<figure><a href="{file}"><img src="{file}" alt="{words}"></a>'
            body += f"<figcaption>{words}</figcaption></figure>\n"
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n"
        f"<h1>{html.escape(title)}</h1>\n<table>\n{rows}</table>\n{body}</html>\n"
    )


# --- plots ----------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    # without pyplot: no display, no global state
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    figure.draw_without_rendering()  # constrained layout measures labels in a pass of its own
    figure.savefig(path, facecolor="white")


def _draw_training(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss of each head, learning rate, and mean IoU of the validations over the steps."""
    from matplotlib import colormaps

    steps = [r for r in records if "loss" in r]
    validations = [r for r in records if r.get("val_miou") is not None]
    figure = _figure(9, 7.5)
    loss, rate, miou = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 2))
    x = [r["step"] for r in steps]
    names = [key for key in steps[0] if key not in NOT_LOSSES] if steps else []
    others = iter(colormaps["tab10"](range(1, 10)))  # without its blue, which is the main head's
    for name in names:
        values = _smooth([r.get(name, math.nan) for r in steps])
        main = name == "main"
        loss.plot(
            x, values, label=name, lw=1.8 if main else 1.1, color=ACCENT if main else next(others)
        )
    loss.set_ylabel("loss, smoothed")
    _log_axis(loss)
    if names:
        loss.legend(fontsize=8, ncols=5)
    rate.plot(x, [r["lr"] for r in steps], color=INK, lw=1)
    rate.set_ylabel("learning rate")
    miou.plot(
        [r["step"] for r in validations],
        [100 * r["val_miou"] for r in validations],
        marker="o", ms=3, color=ACCENT,
    )  # fmt: skip
    if not validations:
        miou.text(0.5, 0.5, "no validation", transform=miou.transAxes, ha="center")
    miou.set_ylabel("validation mIoU, %")
    miou.set_xlabel("step")
    miou.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss, rate, miou):
        _tidy(axes)
    return figure


def _log_axis(axes: Axes) -> None:
    """Set a logarithmic y axis with plain numbers: 1, 2 and 5 of each decade, without overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _smooth(values: list[float], window: int = 25) -> list[float]:
    """Return the mean of the latest `window` values at each position."""
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
    axes.axvline(100 * result.mean_iou, color=INK, ls="--", lw=1)
    for row, value in enumerate(values):  # in a column of their own, which no line crosses
        axes.text(107, row, f"{value:.1f}", va="center", ha="right", fontsize=8)
    axes.set_xlim(0, 108)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("IoU, %")
    axes.margins(y=0.01)
    _tidy(axes)
    axes.grid(axis="y", visible=False)
    return figure


def _draw_confusion(matrix: NDArray[np.int64], labels: LabelSet) -> Figure:
    count = len(labels)
    rows = matrix.sum(axis=1, keepdims=True)
    percent = 100 * matrix[:, :count] / np.maximum(rows, 1)
    numbers = count <= MOST_CELLS_WITH_NUMBERS
    side = 3 + (0.48 if numbers else 0.16) * count  # inches; 0.16 holds a line of the labels
    figure = _figure(side, side * 0.9 if numbers else side)
    axes = figure.subplots()
    axes.imshow(np.where(rows > 0, percent, np.nan), cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(count), labels.names, rotation=90, fontsize=8)
    axes.set_yticks(range(count), labels.names, fontsize=8)
    axes.set_xlabel("prediction")
    axes.set_ylabel("truth")
    if numbers:
        for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
            value = percent[row, column]
            colour = "white" if value > 60 else INK
            axes.text(
                column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour
            )
    return figure


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
