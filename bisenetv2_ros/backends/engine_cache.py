"""Built engines on disk: verified before use, rebuilt if in doubt, pruned if unused.

An engine is executable code for one GPU and one version of its library. Each is stored beside a
JSON sidecar with the key that it was built for and the hash of its bytes, and is returned only if
directory, sidecar and bytes are all as expected. Anything else, such as a truncated file or one of
another version, is logged and rebuilt. If nothing can be written, the new engine is used from
memory. If several processes want the same engine, one builds it.

    NAME.engine   the parts, one after the other
    NAME.json     {"key": ..., "parts": [[name, bytes], ...], "sha256": of NAME.engine};
                  its modification time is when the entry was last used
    NAME.lock     locked by the process that reads or builds

NAME is a hash of the key. The module does not interpret the bytes. The hash detects accidents; to
keep others out, the directory must belong to this user with mode 0700.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bisenetv2_ros import model_file
from bisenetv2_ros.backends.base import Report

MAX_ENGINE_BYTES = 2**31  #: larger files are not read; BiSeNetV2's largest engine is a tenth of it
_MAX_SIDECAR_BYTES = 2**16
MOST_ENTRIES = 24  #: the least recently used ones beyond it are removed; a model takes three
_POLL = 0.05  # seconds between attempts to take a lock that another process holds

Key = Mapping[str, Any]  #: JSON values that identify what an engine was built for
Parts = dict[str, bytes]  #: engines by name, in order

_log = logging.getLogger(__name__)


class _Unusable(Exception):
    """An entry or directory is unusable; the message completes a sentence that begins with its
    path."""


def cache_directory() -> Path:
    """The directory of engines in the package's cache. Raises RuntimeError without a home."""
    return model_file.cache_directory() / "engines"


def entry_name(key: Key) -> str:
    """The file name, without suffix, of an entry: 32 hexadecimal digits."""
    return hashlib.sha256(_canonical(key).encode()).hexdigest()[:32]


def obtain(key: Key, build: Callable[[], Parts], report: Report) -> tuple[Parts, Path | None]:
    """Return the parts cached for `key`, or build and cache them.

    Waits while another process builds the same, calling `report` at least every 0.1 s. Also returns
    the file that holds the parts, or None if they could not be written, which is logged, or are
    empty. Raises only what `build` and `report` raise.
    """
    name = entry_name(key)
    with contextlib.ExitStack() as stack:
        try:
            path = cache_directory()
            directory = stack.enter_context(_open_directory(path))
        except (_Unusable, OSError, RuntimeError) as error:
            _log.warning("engine cache: %s: the engine is kept in memory only", error)
            return build(), None
        file = path / f"{name}.engine"
        try:
            stack.enter_context(_locked(path / f"{name}.lock", report))
            obstacle = ""
        except (OSError, NotImplementedError) as error:  # read-only, or it has no locks
            obstacle = _reason(error)
        try:
            parts = _read(directory, name, key)
            with contextlib.suppress(OSError):  # read-only
                os.utime(f"{name}.json", dir_fd=directory)
            return parts, file
        except FileNotFoundError:
            pass
        except (_Unusable, OSError) as error:
            _log.warning("engine cache: %s is not used: %s; it is built anew", file, error)
        parts = build()
        if not any(parts.values()):
            return parts, None
        if not obstacle:
            try:
                _write(directory, name, key, parts)
                _prune(directory)
                return parts, file
            except OSError as error:
                obstacle = _reason(error)
        _log.warning(
            "engine cache: cannot write %s: %s: the engine is kept in memory only", file, obstacle
        )
        return parts, None


def discard(key: Key) -> None:
    """Remove the entry for `key` if possible, because its engine does not work."""
    name = entry_name(key)
    with (
        contextlib.suppress(_Unusable, OSError, RuntimeError),
        _open_directory(cache_directory()) as directory,
    ):
        os.unlink(f"{name}.json", dir_fd=directory)


@contextlib.contextmanager
def _open_directory(path: Path) -> Iterator[int]:
    """Open the directory, created if missing, that only this user can have written to.

    Yields a descriptor; files are named relative to it, so that the directory cannot be swapped.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(directory)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid() or mode & 0o077:
            raise _Unusable(
                f"{path} belongs to user {status.st_uid} with mode {mode:04o}, expected user "
                f"{os.geteuid()} and 0700 (engines are code: remove it, or `chmod 700` it if you "
                "trust what is in it)"
            )
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def _locked(path: Path, report: Report) -> Iterator[None]:
    lock = FileLock(str(path))
    while True:
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            report("waiting for another process that builds this engine")
            time.sleep(_POLL)
    try:
        yield
    finally:
        lock.release()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _prune(directory: int) -> None:
    """Remove the least recently used entries beyond MOST_ENTRIES."""
    used = {
        name: os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
        for name in os.listdir(directory)
        if name.endswith(".json")
    }
    for name in sorted(used, key=used.__getitem__, reverse=True)[MOST_ENTRIES:]:
        entry = name.removesuffix(".json")
        _log.info("engine cache: %s is removed, unused for longest", entry)
        for suffix in (".json", ".engine", ".lock"):  # sidecar first: without it there is no entry
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry + suffix, dir_fd=directory)


def _read(directory: int, name: str, key: Key) -> Parts:
    """Read the parts of an entry. Raises FileNotFoundError if it is missing, _Unusable if
    damaged."""
    try:
        sidecar = json.loads(_read_file(directory, f"{name}.json", _MAX_SIDECAR_BYTES))
        kept_key, kept_hash = sidecar["key"], sidecar["sha256"]
        sizes = {str(part): int(size) for part, size in sidecar["parts"]}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise _Unusable(f"its sidecar is damaged ({error!r})") from None
    expected_key = json.loads(_canonical(key))
    if kept_key != expected_key:
        raise _Unusable(f"it was built for {kept_key}, expected {expected_key}")
    try:
        data = _read_file(directory, f"{name}.engine", MAX_ENGINE_BYTES)
    except FileNotFoundError:
        raise _Unusable("the engine is missing beside its sidecar") from None
    if len(data) != sum(sizes.values()) or min(sizes.values(), default=0) < 0:
        raise _Unusable(f"it has {len(data)} bytes, expected {sum(sizes.values())}")
    if hashlib.sha256(data).hexdigest() != kept_hash:
        raise _Unusable("its bytes are not those that were written (SHA-256 differs)")
    parts, begin = {}, 0
    for part, size in sizes.items():
        parts[part] = data[begin : begin + size]
        begin += size
    return parts


def _read_file(directory: int, name: str, limit: int) -> bytes:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # never waits on a pipe
    descriptor = os.open(name, flags, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o022:
            raise _Unusable(
                f"{name} belongs to user {status.st_uid} with mode {mode:04o}, expected a file of "
                f"user {os.geteuid()} that nobody else may write"
            )
        if status.st_size > limit:
            raise _Unusable(f"{name} has {status.st_size} bytes, at most {limit} are read")
        return file.read()


def _write(directory: int, name: str, key: Key, parts: Parts) -> None:
    """Write an entry, the engine first: without a sidecar it does not count."""
    data = b"".join(parts.values())
    sidecar = {
        "key": key,
        "parts": [[part, len(content)] for part, content in parts.items()],
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    _replace(directory, f"{name}.engine", data)
    _replace(directory, f"{name}.json", json.dumps(sidecar, indent=1).encode())
    os.fsync(directory)


def _replace(directory: int, name: str, data: bytes) -> None:
    """Write a file atomically; the lock makes the temporary file's name ours."""
    partial = f"{name}.partial"
    with contextlib.suppress(FileNotFoundError):  # left by a process that was killed
        os.unlink(partial, dir_fd=directory)
    descriptor = os.open(
        partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.replace(partial, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial, dir_fd=directory)
        raise


def _canonical(key: Key) -> str:
    return json.dumps(key, sort_keys=True, allow_nan=False)
