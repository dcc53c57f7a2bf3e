"""What an earlier run left in an output folder: refused, removed, or completed.

Knows which files results are; nothing of how they are made.
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

    kinds: of result_files.KINDS. videos: those that will be written, and replaced when whole.
    inputs: what is read. existing: what to do about results of an earlier run. Raises ValueError if
    a file that is read would be overwritten, if there are earlier results and `existing` is
    'refuse', or if there are images that no earlier run made.
    """
    places = [directory / name for name in (*IMAGE_FOLDERS, TABLE, LINES)]
    written = [place for place in places if _is_written(place, kinds)]
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


def _is_written(place: Path, kinds: Collection[str]) -> bool:
    """Whether a run of these kinds writes there."""
    return {TABLE: "fractions", LINES: "jsonl"}.get(place.name, place.name) in kinds


def _results(place: Path, is_written: bool) -> Iterator[Path]:
    """The files that an earlier run wrote to a place; ValueError for others in the way."""
    for file in files_in(place):
        is_image = place.name in IMAGE_FOLDERS and not file.name.startswith(".partial-")
        if not is_image or (file.suffix == ".png" and is_own_picture(file)):
            yield file
        elif is_written:
            raise ValueError(f"{file} is no result of an earlier run: choose another folder")


def finished(directory: Path, kinds: Collection[str], columns: list[str]) -> set[str]:
    """The names that all of `kinds` have results of, tables cut down to those lines.

    columns: expected in the table. Raises ValueError for a kind that cannot be continued, or a
    table with other columns.
    """
    lasting = {*IMAGE_FOLDERS, "fractions", "jsonl"}
    for kind in sorted(set(kinds) - lasting):
        raise ValueError(f"--resume: expected --save of {', '.join(sorted(lasting))}, got {kind}")
    done: list[set[str]] = []
    for kind in IMAGE_FOLDERS.keys() & set(kinds):
        folder = directory / kind
        done.append(
            {
                str(file.relative_to(folder).with_suffix(""))
                for file in files_in(folder)
                if file.suffix == ".png"
            }
        )
    rows = _read_table(directory / TABLE, columns) if "fractions" in kinds else {}
    lines = _read_lines(directory / LINES) if "jsonl" in kinds else {}
    if "fractions" in kinds:
        done.append(set(rows))
    if "jsonl" in kinds:
        done.append(set(lines))
    names = set.intersection(*done)
    if rows:
        _keep(directory / TABLE, [rows[name] for name in rows if name in names], columns)
    if lines:
        _keep(directory / LINES, [lines[name] for name in lines if name in names])
    return names


def _read_table(path: Path, columns: list[str]) -> dict[str, list[str]]:
    """Whole rows by name; one that was cut off is left out."""
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
                continue  # cut off
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
