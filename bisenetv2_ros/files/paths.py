"""Finds the files that come with the package, and names those that cannot be written.

Knows the layouts in which the package can lie on disk and nothing of the files themselves. Needs
no ROS: the package's own place tells where its files are, whatever has been sourced.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "bisenetv2_ros"


def share_directory() -> Path:
    """Return the directory that holds `models/`, `config/` and `launch/`.

    In a source tree, and where one was installed by links (`colcon build --symlink-install`,
    `pip install --editable`), that is the tree's root. Elsewhere it is `share/bisenetv2_ros` under
    the prefix that the package is installed in; ament, pip and Debian put it there alike.
    Raises FileNotFoundError where the installation has no such directory.
    """
    package = Path(__file__).resolve().parents[1]
    if (package.parent / "package.xml").is_file():
        return package.parent
    for prefix in package.parents:
        share = prefix / "share" / PACKAGE
        if share.is_dir():
            return share
    raise FileNotFoundError(
        f"no 'share/{PACKAGE}' in a directory above {package}: the package is installed without "
        "its models and configuration; install it again"
    )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make an OSError of the block name the file: that of a write to a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place when the block ends well.

    Else it is removed, and what was at `path` stays.
    """
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
