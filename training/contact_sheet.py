"""A contact sheet: frames with their labels overlaid, as an image or a page."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from bisenetv2_ros.files.images import write_picture
from bisenetv2_ros.files.paths import naming, replacing
from bisenetv2_ros.labels import LabelSet
from bisenetv2_ros.training.datasets import Sample
from bisenetv2_ros.visualization import draw_legend, overlay

WIDTH, COLUMNS, CAPTION = 320, 4, 22  # of a cell in pixels, cells in a row, height of a name
OPACITY = 0.5
INK, PAPER = (40, 40, 40), (255, 255, 255)

Pixels = NDArray[np.uint8]
Split = tuple[str, LabelSet, Sequence[Sample], NDArray[np.float64]]  # name, .., .., class fractions


def write_sheet(path: Path, splits: Sequence[Split]) -> None:
    """Write the sheet, as `.html` with embedded images, or as `.png` or `.jpg`.

    Raises OSError if it cannot be written.
    """
    if path.suffix.lower() in (".html", ".htm"):
        with naming(path), replacing(path) as partial:
            partial.write_text(_page(splits), encoding="utf-8")
        return
    write_picture(path, np.concatenate([_sheet(*split) for split in splits]))


def _cell(sample: Sample, labels: LabelSet) -> Pixels:
    """Draw a frame with its label over it, WIDTH wide."""
    height = max(1, round(WIDTH * sample.image.shape[0] / sample.image.shape[1]))
    mixed = overlay(sample.image, sample.label, labels, OPACITY)
    return np.asarray(cv2.resize(mixed, (WIDTH, height), interpolation=cv2.INTER_AREA))


def _sheet(
    name: str, labels: LabelSet, samples: Sequence[Sample], fractions: NDArray[np.float64]
) -> Pixels:
    cells = [_captioned(_cell(sample, labels), sample.name) for sample in samples]
    title = f"{name}: {len(samples)} frames, labels over them; black is ignored"
    parts = [_text(title, WIDTH * COLUMNS, 2 * CAPTION)]
    for start in range(0, len(cells), COLUMNS):
        row = cells[start : start + COLUMNS]
        height = max(cell.shape[0] for cell in row)
        canvas = np.full((height, WIDTH * COLUMNS, 3), PAPER, np.uint8)
        for column, cell in enumerate(row):
            canvas[: cell.shape[0], column * WIDTH : (column + 1) * WIDTH] = cell
        parts.append(canvas)
    parts.append(np.asarray(draw_legend(labels, fractions, WIDTH * COLUMNS)))
    return np.concatenate(parts)


def _captioned(cell: Pixels, name: str) -> Pixels:
    name = name if len(name) <= 40 else f"...{name[-37:]}"
    return np.concatenate([cell, _text(name, WIDTH, CAPTION)])


def _text(text: str, width: int, height: int) -> Pixels:
    canvas = np.full((height, width, 3), PAPER, np.uint8)
    place = (6, height - 7)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK, 1, cv2.LINE_AA)
    return canvas


def _page(splits: Sequence[Split]) -> str:
    sections = []
    for name, labels, samples, fractions in splits:
        figures = "\n".join(
            f'<figure><img alt="" src="{_data(_cell(sample, labels))}">'
            f"<figcaption>{html.escape(sample.name)}</figcaption></figure>"
            for sample in samples
        )
        legend = "\n".join(
            f'<li><i style="background:rgb{colour}"></i>{html.escape(entry)} {fraction:.1%}</li>'
            for entry, colour, fraction in zip(labels.names, labels.palette, fractions, strict=True)
        )
        sections.append(
            f"<h2>{html.escape(name)}</h2>\n<ul>{legend}<li><i style='background:#000'></i>ignored"
            f"</li></ul>\n<div>{figures}</div>"
        )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        "<title>Contact sheet</title>\n"
        "<style>body{font-family:sans-serif;margin:1em}figure{display:inline-block;margin:4px}"
        f"img{{width:{WIDTH}px}}figcaption{{font-size:12px;overflow-wrap:anywhere;"
        f"width:{WIDTH}px}}ul{{list-style:none;padding:0}}li{{display:inline-block;"
        "margin-right:1em}i{display:inline-block;width:1em;height:1em;margin-right:.3em}</style>\n"
        f"</head><body><h1>Frames with their labels</h1>\n{''.join(sections)}</body></html>\n"
    )


def _data(image: Pixels) -> str:
    done, data = cv2.imencode(".jpg", image[..., ::-1])
    assert done, "OpenCV encodes every uint8 image as JPEG"
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"
