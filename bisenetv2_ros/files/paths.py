"""Finds the files of the package, and protects files from being overwritten or left incomplete.

Knows the directory layouts in which the package is installed, not the files themselves. Does not
need ROS: the files are found from the package's own location.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PACKAGE = "bisenetv2_ros"


def share_directory() -> Path:
    """Return the directory that holds `models/`, `config/` and `launch/`.

    In a source tree, and if it is installed by links (`colcon build --symlink-install`, `pip
    install --editable`), this is the tree's root. Otherwise it is `share/bisenetv2_ros` under the
    prefix of the installation, as ament, pip and Debian have it. Raises FileNotFoundError if it
    does not exist.
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
    """Make an OSError of the block name the file; for a full disk it does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check_output(path: Path, *, is_folder: bool = False) -> None:
    """Raise ValueError if a file, or with `is_folder` a folder, cannot be written at `path`.

    Creates nothing. The parents of a folder may be missing, that of a file may not.
    """
    try:
        found = path
        while not found.exists() and found != found.parent:
            found = found.parent
        if found == path:
            if path.is_dir() != is_folder:
                was, wanted = ("file", "folder") if is_folder else ("folder", "file")
                raise ValueError(f"{path}: is a {was}, expected a {wanted}")
            if _is_device(path):
                return
            found = path if is_folder else path.parent
        if not found.is_dir():
            raise ValueError(f"{path}: {found} is a file, expected a folder")
        if is_folder and path.is_symlink() and not path.exists():
            raise ValueError(f"{path}: is a link to {path.readlink()}, which does not exist")
        if not is_folder and found != path.parent:
            raise ValueError(f"{path}: there is no folder {path.parent}")
        if not os.access(found, os.W_OK | os.X_OK):
            raise ValueError(f"{path}: the folder {found} cannot be written to")
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise ValueError(f"{path}: {error.strerror}") from error


def _is_device(path: Path) -> bool:
    """Whether `path` is a device or a pipe, such as /dev/stdout, which must not be replaced."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file())


def check_input(path: Path) -> None:
    """Raise OSError if `path` is a pipe, socket or device, from which reading may never end."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is a pipe or a device, expected a file", str(path))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` to write to; it replaces `path` if the block succeeds.

    Otherwise it is removed and `path` stays unchanged. A device or pipe is written to directly.
    """
    if _is_device(path):
        yield path
        return
    partial = path.with_name(f".partial-{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write JSON values to a file, if there is one. Raises OSError naming it."""
    if path:
        with naming(path), replacing(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def natural_key(path: Path | str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that puts 'frame2' before 'frame10'."""
    parts = re.split(r"(\d+)", str(path))
    natural = [(int(part), "") if part.isdecimal() else (0, part.lower()) for part in parts]
    return natural, str(path)


class UniqueNames:
    """Gives out names; one that is taken gets a number: name, name_2, name_3 and so on."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._numbers: dict[str, int] = {}  # the last one given to a name

    def take(self, stem: str) -> str:
        """Return `stem`, or the first free one of its numbered names."""
        name, number = stem, self._numbers.get(stem, 1)
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._numbers[stem] = number
        self._taken.add(name)
        return name


def files_in(*paths: Path) -> Iterator[Path]:
    """Every file among `paths` and in the folders among them; ignores missing paths."""
    for path in paths:
        if path.is_dir():
            for parent, _, names in os.walk(path):
                yield from (Path(parent) / name for name in names)
        elif path.exists():
            yield path


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if a file among `outputs` is one of `inputs`, by any name or link.

    A folder counts as all files in it. Files that do not exist yet are ignored.
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
    except OSError:  # a broken link
        status = path.lstat()
    return status.st_dev, status.st_ino
