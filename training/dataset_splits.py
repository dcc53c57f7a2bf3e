"""Finds the frames of a split and their labels in a dataset's folder, by its YAML file."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from bisenetv2_ros.training.dataset_files import DatasetFile, Layout
from bisenetv2_ros.training.datasets import DatasetError, FileDataset
from bisenetv2_ros.training.label_values import make_decoder
from bisenetv2_ros.training.path_patterns import Pattern


def open_dataset(content: DatasetFile, root: Path, split: str) -> FileDataset:
    """Open one split by the first layout that has frames and labels.

    Raises:
        DatasetError: if the folder is missing, or no layout has frames of the split.
    """
    if not root.is_dir():
        raise DatasetError(f"{root}: no such folder")
    best: FileDataset | None = None
    problems = []
    for layout in content.layouts:
        try:
            found = _open_layout(content, layout, root, split)
        except DatasetError as error:
            problems.append(str(error))
            continue
        if any(label.is_file() for _, label in found.pairs):
            return found
        best = best or found
    if best is None:
        raise DatasetError("; ".join(dict.fromkeys(problems)) or f"{root}: no layouts")
    return best  # frames without a label are reported when they are read


def _open_layout(content: DatasetFile, layout: Layout, root: Path, split: str) -> FileDataset:
    splits = layout.splits if layout.splits is not None else content.splits
    known = {"split": splits.get(split, split)}
    frames, labels = Pattern(layout.frames).given(known), Pattern(layout.labels).given(known)
    if layout.names_in:
        found = _listed(
            root / layout.names_in.replace("{split}", known["split"]), layout, frames, root
        )
    else:
        found = list(frames.find(root))
        total = len(found)
        if layout.only and split not in layout.only:
            raise DatasetError(f"split {split!r}, expected one of {', '.join(layout.only)}")
        for name, patterns in layout.only.get(split, {}).items():
            found = [(path, values) for path, values in found if _belongs(values[name], patterns)]
        if total and not found:
            raise DatasetError(
                f"{root}: {total} frames as {frames.text}, none of which `only:` takes for {split}"
            )
    if not found:
        folder = root / frames.folder
        what = "no frames" if folder.is_dir() else "no such folder"
        raise DatasetError(
            f"{folder}: {what}, expected {frames.text}"
            + (f" (splits: {', '.join(splits)})" if splits and split not in splits else "")
        )
    fitting = [(frame, _labels_of(frame, root, labels.fill(values))) for frame, values in found]
    # labels in the folder of their frames match the frames' pattern too
    named = {label for _, every in fitting for label in every}
    fitting = [(frame, every) for frame, every in fitting if frame not in named]
    pairs = [(frame, every[0]) for frame, every in fitting]
    if not pairs:
        raise DatasetError(f"{root}: no frames: {layout.labels} names the frames themselves")
    used: dict[Path, Path] = {}
    for frame, label in pairs:
        if used.setdefault(label, frame) != frame:
            raise DatasetError(
                f"{label}: the label of two frames, {used[label]} and {frame}, expected `labels:` "
                f"to tell them apart by the placeholders of {layout.frames}, got {layout.labels}"
            )
    for frame, every in fitting:
        if len(every) > 1:
            raise DatasetError(
                f"{frame}: {len(every)} labels fit {layout.labels}, {every[0]} and {every[1]}, "
                "expected one"
            )
    encoding = layout.encoding or content.encoding or "values"
    whole = not (layout.names_in or layout.only)
    return FileDataset(
        content.labels,
        pairs,
        make_decoder(content, encoding, root / layout.panoptic if layout.panoptic else None),
        (lambda: [path for path, _ in labels.find(root)]) if whole else None,
        content.values() if encoding == "values" and not layout.panoptic else None,
        content.absent,
    )


def _labels_of(frame: Path, root: Path, text: str) -> list[Path]:
    """List the labels that fit a pattern, or the pattern itself if there are none."""
    if "*" not in text:
        return [root / text]
    found = [path for path, _ in Pattern(text).find(root) if path != frame]
    return found or [root / text]


def _listed(
    path: Path, layout: Layout, frames: Pattern, root: Path
) -> list[tuple[Path, dict[str, str]]]:
    """Read the list of a split's frames."""
    if not path.is_file():
        raise DatasetError(f"{path}: missing, expected the list of the frames of the split")
    entry = Pattern(layout.entry)
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        values = entry.match(line.split()[0])
        if values is None:
            raise DatasetError(f"{path}: {line.split()[0]!r}, expected {layout.entry}")
        found.append((root / frames.fill(values), values))
    return found


def _belongs(value: str, patterns: Iterable[str]) -> bool:
    """Return whether a value matches one of the patterns of `Layout.only`."""

    def fits(pattern: str) -> bool:
        first, dots, last = pattern.partition("..")
        return first <= value <= last if dots else fnmatchcase(value, pattern)

    return any(fits(p.removeprefix("!")) != p.startswith("!") for p in patterns)
