"""Finds the files that come with the package, and names those that cannot be written.

Knows the layouts in which the package can lie on disk and nothing of the files themselves. Needs
no ROS: the package's own place tells where its files are, whatever has been sourced.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = "bisenetv2_ros"


def share_directory() -> Path:
    """Return the directory that holds `models/`, `config/` and `launch/`.

    In a source tree, and where one was installed by links (`colcon build --symlink-install`,
    `pip install --editable`), that is the tree's root. Elsewhere it is `share/bisenetv2_ros` under
    the prefix that the package is installed in; ament, pip and Debian put it there alike.
    Raises FileNotFoundError if the installation has no such directory.
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


def files_in(*paths: Path) -> Iterator[Path]:
    """Every file among `paths` and in the folders among them; none of a path that is not there."""
    for path in paths:
        if path.is_dir():
            for parent, _, names in os.walk(path):
                yield from (Path(parent) / name for name in names)
        elif path.exists():
            yield path


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """ValueError if a file among `outputs` is one of `inputs`, by whatever name or link.

    Of a folder among either, all files in it count. Those that are not there yet are nobody's.
    """
    written = {_identity(path): path for path in files_in(*outputs)}
    if not written:
        return
    for path in files_in(*inputs):
        output = written.get(_identity(path))
        if output is not None:
            also = "" if output == path else f" (as {path})"
            raise ValueError(f"{output} is read{also} and would be overwritten: choose another")


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:  # a link to nowhere
        status = path.lstat()
    return status.st_dev, status.st_ino
