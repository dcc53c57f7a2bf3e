"""Results of an earlier run in an output folder: refused, removed, or resumed.

Knows which files are results, not how they are made.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from bisenetv2_ros.files.images import is_own_picture
from bisenetv2_ros.files.paths import files_in, naming, refuse_overwriting, replacing

#: Kinds that are a folder of images, and the output in each.
IMAGE_FOLDERS = {"masks": "mask", "colour": "color_mask", "overlay": "overlay"}
TABLE, LINES = "fractions.csv", "fractions.jsonl"

Existing = Literal["refuse", "overwrite", "resume"]


def prepare(
    directory: Path,
    kinds: Collection[str],
    videos: Collection[Path],
    inputs: Collection[Path],
    existing: Existing,
) -> None:
    """Make room for new results.

    Args:
        kinds: of result_files.KINDS.
        videos: to be written; they are replaced when complete.
        inputs: files that are read.
        existing: whether results of an earlier run are refused, removed or kept.

    Raises ValueError if an input would be overwritten, if there are earlier results and `existing`
    is 'refuse', or if there are images that no earlier run made.
    """
    places = [directory / name for name in (*IMAGE_FOLDERS, TABLE, LINES)]
    kind_of = {TABLE: "fractions", LINES: "jsonl"}
    written = [place for place in places if kind_of.get(place.name, place.name) in kinds]
    refuse_overwriting([*written, *videos], inputs)
    if existing == "resume":
        return
    earlier: dict[str, list[Path]] = {}
    for place in places:
        files = list(_results(place, place in written))
        if files:
            earlier[place.name] = files
    if existing == "refuse":
        earlier |= {video.name: [video] for video in videos if video.exists()}
    if not earlier:
        return
    if existing == "refuse":
        found = ", ".join(
            f"{name}/ ({len(files)} files)" if name in IMAGE_FOLDERS else name
            for name, files in earlier.items()
        )
        raise ValueError(
            f"{directory} holds results of an earlier run: {found}; expected an empty folder, "
            "--overwrite to replace them, or --resume to go on"
        )
    refuse_overwriting(places, inputs)
    for files in earlier.values():
        for file in files:
            with naming(file):
                file.unlink()


def _results(place: Path, is_written: bool) -> Iterator[Path]:
    """The files that an earlier run wrote to a place. Raises ValueError for other files."""
    for file in files_in(place):
        is_image = place.name in IMAGE_FOLDERS and not file.name.startswith(".partial-")
        if not is_image or (file.suffix == ".png" and is_own_picture(file)):
            yield file
        elif is_written:
            raise ValueError(f"{file} is no result of an earlier run: choose another folder")


def finished(directory: Path, kinds: Collection[str], columns: list[str]) -> set[str]:
    """The names with results of all `kinds`; truncates tables to those rows.

    columns: expected in the table. Raises ValueError if a kind cannot be resumed or a table has
    other columns.
    """
    lasting = {*IMAGE_FOLDERS, "fractions", "jsonl"}
    for kind in sorted(set(kinds) - lasting):
        raise ValueError(f"--resume: expected --save of {', '.join(sorted(lasting))}, got {kind}")
    done: list[set[str]] = []
    for folder in (directory / kind for kind in IMAGE_FOLDERS if kind in kinds):
        images = (file for file in files_in(folder) if file.suffix == ".png")
        done.append({str(image.relative_to(folder).with_suffix("")) for image in images})
    rows = _read_table(directory / TABLE, columns) if "fractions" in kinds else None
    lines = _read_lines(directory / LINES) if "jsonl" in kinds else None
    names = set.intersection(*done, *(set(table) for table in (rows, lines) if table is not None))
    if rows:
        _keep(directory / TABLE, [rows[name] for name in rows if name in names], columns)
    if lines:
        _keep(directory / LINES, [lines[name] for name in lines if name in names])
    return names


def _read_table(path: Path, columns: list[str]) -> dict[str, list[str]]:
    """Complete rows by name; an incomplete last one is left out."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [columns]
    if header != columns:
        raise ValueError(f"{path}: columns {', '.join(header)}, expected {', '.join(columns)}")
    whole = path.read_bytes().endswith(b"\n")
    return {row[0]: row for row in (rows if whole else rows[:-1]) if len(row) == len(columns)}


def _read_lines(path: Path) -> dict[str, str]:
    lines: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines[json.loads(line)["frame"]] = line
            except (ValueError, KeyError, TypeError):
                continue  # incomplete
    return lines


def _keep(path: Path, rows: list[list[str]] | list[str], columns: list[str] | None = None) -> None:
    with (
        naming(path),
        replacing(path) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        if columns is None:
            file.writelines(f"{line}\n" for line in rows)
        else:
            csv.writer(file).writerows([columns, *rows])
