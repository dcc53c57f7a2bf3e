"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can allocate without swapping or being killed by its cgroup.

    The lesser of the machine's `MemAvailable` and of what the cgroup's `memory.max` leaves (v2).
    Where neither can be read, 2**63 - 1.

    root: where /proc and /sys lie.
    """
    free = 2**63 - 1
    for line in _text(root / "proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            free = 1024 * int(value.split()[0])
    group = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            group /= line[3:].strip("/")
    limit = _text(group / "memory.max").strip() or _text(root / "sys/fs/cgroup/memory.max").strip()
    if limit.isdigit():
        used = int(_text(group / "memory.current") or 0)
        pages = dict(line.split() for line in _text(group / "memory.stat").splitlines())
        free = min(free, int(limit) - used + int(pages.get("inactive_file", 0)))
    return free


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
