#!/usr/bin/env python3
"""Draws who imports whom into docs/architecture.md, from the sources themselves.

    python scripts/architecture.py          write the picture into the page

Boxes are modules, or several that belong together; BOXES puts every module in one. An arrow that
follows from others (a to b to c, and a to c) is left out. A circle of boxes is an error. Imports
are taken from the text, those inside of functions too: nothing is run.
"""

from __future__ import annotations

import ast
import fnmatch
import graphlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "bisenetv2_ros"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN = "<!-- imports: written by `python scripts/architecture.py` -->"
END = "<!-- end of imports -->"

#: Box to the modules in it, by name or pattern.
BOXES: dict[str, tuple[str, ...]] = {
    "command line": ("cli.*",),
    "demo": ("demo.*",),
    "camera node": ("camera_node",),
    "segment node": ("segment_node", "camera_topics"),
    "parameters": ("parameters",),
    "latest frame": ("latest_frame",),
    "messages": ("messages",),
    "benchmark": ("benchmark*", "graph_*", "floor"),
    "training": ("training.*",),
    "predict": ("predict",),
    "rerun log": ("rerun_log",),
    "frame source": ("frame", "frame_source", "bag", "image_file", "street_scene", "street_parts"),
    "image conversion": ("image_conversion",),
    "view": ("view",),
    "regions": ("regions",),
    "diagnostics": ("diagnostics",),
    "pictures": ("pictures",),
    "segmenter": ("segmenter",),
    "backends": ("backends.*",),
    "model file": ("model_file", "class_map", "model_size"),
    "labels": ("labels",),
    "helpers": ("allocator", "fastdds", "metrics", "paths", "signals", "topic_names", "yaml_file"),
}


def modules() -> dict[str, Path]:
    """Every module of the package by its name below the package's."""
    found = {}
    for directory, prefix in ((ROOT / PACKAGE, ""), (ROOT / "training", "training.")):
        for path in sorted(directory.rglob("*.py")):
            parts = path.relative_to(directory).with_suffix("").parts
            if "training" in parts and not prefix:  # a link to ../training in development trees
                continue
            found[prefix + ".".join(parts)] = path
    del found["__init__"]
    return found


def box_of(module: str) -> str:
    """The box of a module; KeyError for one that is in none."""
    for box, names in BOXES.items():
        for name in names:
            if fnmatch.fnmatchcase(module, name):
                return box
    raise KeyError(f"{module} is in none of BOXES in scripts/architecture.py")


def imported(path: Path, known: dict[str, Path]) -> set[str]:
    """The package's modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    below = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(PACKAGE)}
    return {module for name in below for module in (name, f"{name}.__init__") if module in known}


def arrows() -> dict[str, set[str]]:
    """For each box, those that it imports from."""
    known = modules()
    found: dict[str, set[str]] = {box: set() for box in BOXES}
    for module, path in known.items():
        found[box_of(module)] |= {box_of(name) for name in imported(path, known)}
    return {box: targets - {box} for box, targets in found.items()}


def drawn(found: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows without those that follow from others. graphlib.CycleError for a circle."""
    order = list(graphlib.TopologicalSorter(found).static_order())
    reached: dict[str, set[str]] = {}
    for box in order:  # what it imports from comes before it
        reached[box] = found[box].union(*(reached[other] for other in found[box]))
    return [
        (box, other)
        for box in BOXES
        for other in BOXES
        if other in found[box]
        and not any(other in reached[between] for between in found[box] - {other})
    ]


def picture() -> str:
    """The drawing, as Mermaid."""
    keys = {box: box.replace(" ", "_") for box in BOXES}
    lines = ["```mermaid", "flowchart TD"]
    lines += [f"  {keys[box]}[{box}]" for box in BOXES]
    lines += [f"  {keys[box]} --> {keys[other]}" for box, other in drawn(arrows())]
    return "\n".join([*lines, "```"])


def page(text: str) -> str:
    """The page with the picture of now."""
    between = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not between.search(text):
        raise ValueError(f"{PAGE} has no place for the picture: '{BEGIN}' and '{END}'")
    return between.sub(lambda _: f"{BEGIN}\n{picture()}\n{END}", text)


if __name__ == "__main__":
    try:
        PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    except (KeyError, ValueError) as error:  # CycleError is a ValueError
        sys.exit(f"architecture: {error}")
