"""The memory that this process may still allocate."""

from __future__ import annotations

from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can allocate without swapping or being killed by its cgroup.

    The smaller of the machine's `MemAvailable` and what the cgroup's `memory.max` (v2) leaves;
    2**63 - 1 if neither can be read.

    root: of /proc and /sys.
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
