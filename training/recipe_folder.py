"""The package's recipes and their purposes, without importing anything for training."""

from __future__ import annotations

from pathlib import Path

from bisenetv2_ros.files.paths import share_directory


def recipe_folder() -> Path:
    """Return the folder of the package's recipes."""
    return share_directory() / "config" / "training"


def known_recipes() -> dict[str, str]:
    """Return the first comment line of each recipe in `config/training/`, by name."""
    return {
        path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ").strip()
        for path in sorted(recipe_folder().glob("*.yaml"))
    }
