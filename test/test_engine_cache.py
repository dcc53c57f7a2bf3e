"""Kept engines: found again, never trusted when anything is odd, never in the way."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from patience import HANG

from bisenetv2_ros.backends import Cancelled, engine_cache
from bisenetv2_ros.backends.engine_cache import (
    Parts,
    cache_directory,
    discard,
    entry_name,
    obtain,
)

KEY = {"model_sha256": "ab" * 32, "gpu": "A", "version": "1.2", "batch": [1, 1, 1]}
ENGINES = {"mask": b"engine" * 1000, "mask+confidence": b"another" * 500}
PREPARE = "from bisenetv2_ros.backends.engine_cache import obtain\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bisenetv2_ros" / "engines"


class Builder:
    """Counts how often it had to build."""

    def __init__(self, engines: Parts = ENGINES) -> None:
        self.engines = engines
        self.builds = 0

    def __call__(self) -> Parts:
        self.builds += 1
        return self.engines


def silent(line: str) -> None:
    pass


def get(key: dict = KEY, report: Callable[[str], None] = silent) -> tuple[int, Path | None]:
    """How often the engines had to be built (0 or 1), and where they are kept."""
    builder = Builder()
    engines, file = obtain(key, builder, report)
    assert engines == ENGINES and list(engines) == list(ENGINES)
    return builder.builds, file


def files(cache: Path) -> list[str]:
    """Names of what is kept; the files that processes lock stay beside it."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def test_built_once_and_kept_privately(cache: Path):
    assert get() == (1, cache / f"{entry_name(KEY)}.engine")
    assert get() == (0, cache / f"{entry_name(KEY)}.engine")
    assert files(cache) == [f"{entry_name(KEY)}.engine", f"{entry_name(KEY)}.json"]
    assert cache.stat().st_mode & 0o777 == 0o700
    assert all((cache / name).stat().st_mode & 0o777 == 0o600 for name in files(cache))


def test_a_private_directory_whatever_the_umask(cache: Path):
    before = os.umask(0)
    try:
        get()
    finally:
        os.umask(before)
    assert cache.stat().st_mode & 0o777 == 0o700
    assert all((cache / name).stat().st_mode & 0o777 == 0o600 for name in files(cache))


@pytest.mark.parametrize(
    "change", [{"model_sha256": "cd" * 32}, {"gpu": "B"}, {"version": "1.3"}, {"batch": [1, 2, 4]}]
)
def test_another_model_gpu_version_or_batch_is_another_entry(change: dict):
    get()
    assert get({**KEY, **change})[0] == 1
    assert get()[0] == 0


def cut(engine: Path, sidecar: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:-1])


def empty(engine: Path, sidecar: Path) -> None:
    engine.write_bytes(b"")


def flip(engine: Path, sidecar: Path) -> None:
    data = bytearray(engine.read_bytes())
    data[77] ^= 1
    engine.write_bytes(data)


def lose_engine(engine: Path, sidecar: Path) -> None:
    engine.unlink()


def cut_sidecar(engine: Path, sidecar: Path) -> None:
    sidecar.write_text(sidecar.read_text()[:-9])


def odd_sidecar(engine: Path, sidecar: Path) -> None:
    sidecar.write_text('{"key": {}, "parts": [["mask", Infinity]], "sha256": ""}')


def deep_sidecar(engine: Path, sidecar: Path) -> None:
    sidecar.write_text("[" * 60_000)


def huge_sidecar(engine: Path, sidecar: Path) -> None:
    sidecar.write_bytes(b" " * 2**17)


def from_another_gpu(engine: Path, sidecar: Path) -> None:
    content = json.loads(sidecar.read_text())
    content["key"]["gpu"] = "B"
    sidecar.write_text(json.dumps(content))


def from_another_version(engine: Path, sidecar: Path) -> None:
    content = json.loads(sidecar.read_text())
    content["key"]["version"] = "0.9"
    sidecar.write_text(json.dumps(content))


def negative_size(engine: Path, sidecar: Path) -> None:
    content = json.loads(sidecar.read_text())
    content["parts"] = [["mask", -1], ["mask+confidence", engine.stat().st_size + 1]]
    sidecar.write_text(json.dumps(content))


def writable_for_all(engine: Path, sidecar: Path) -> None:
    engine.chmod(0o666)


def a_link(engine: Path, sidecar: Path) -> None:
    engine.rename(engine.with_suffix(".elsewhere"))
    engine.symlink_to(engine.with_suffix(".elsewhere"))


def a_pipe(engine: Path, sidecar: Path) -> None:
    engine.unlink()
    os.mkfifo(engine, 0o600)


DAMAGES = {
    cut: r"has 9499 bytes, expected 9500",
    empty: r"has 0 bytes",
    flip: r"SHA-256 differs",
    lose_engine: r"engine is missing",
    cut_sidecar: r"sidecar is damaged",
    odd_sidecar: r"sidecar is damaged",
    deep_sidecar: r"sidecar is damaged",
    huge_sidecar: r"131072 bytes, at most 65536",
    from_another_gpu: r"built for .*'gpu': 'B'.*expected .*'gpu': 'A'",
    from_another_version: r"built for .*'0\.9'.*expected .*'1\.2'",
    negative_size: r"expected",
    writable_for_all: r"mode 0666, expected a file of user",
    a_link: r"is not used",
    a_pipe: r"expected a file of user",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_odd_is_logged_and_rebuilt_once(
    damage: Callable, cache: Path, caplog: pytest.LogCaptureFixture
):
    get()
    damage(cache / f"{entry_name(KEY)}.engine", cache / f"{entry_name(KEY)}.json")
    assert get()[0] == 1
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert re.search(DAMAGES[damage], record.getMessage()), record.getMessage()
    assert f"{entry_name(KEY)}.engine" in record.getMessage()
    assert get()[0] == 0, "rebuilt once"


def test_what_was_discarded_is_rebuilt():
    get()
    discard(KEY)
    assert get()[0] == 1
    discard({**KEY, "gpu": "never seen"})


@pytest.mark.parametrize("mode", [0o770, 0o701, 0o755])
def test_a_directory_open_to_others_is_not_used(
    mode: int, cache: Path, caplog: pytest.LogCaptureFixture
):
    get()
    cache.chmod(mode)
    for _ in range(2):
        assert get() == (1, None)
    assert f"mode 0{mode:o}, expected user {os.geteuid()} and 0700" in caplog.text


def test_a_directory_of_another_user_is_not_used(cache: Path, caplog: pytest.LogCaptureFixture):
    get()
    try:
        os.chown(cache, 12345, -1)
    except PermissionError:
        pytest.skip("only root can give a directory away")
    assert get() == (1, None)
    assert "belongs to user 12345" in caplog.text


def test_a_file_in_place_of_the_directory(cache: Path, caplog: pytest.LogCaptureFixture):
    cache.parent.mkdir(parents=True)
    cache.write_text("")
    assert get() == (1, None)
    assert "in memory only" in caplog.text


def test_no_home(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert get() == (1, None)
    assert "in memory only" in caplog.text


def test_below_the_home_directory_by_default(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/robot")
    assert cache_directory() == Path("/home/robot/.cache/bisenetv2_ros/engines")


def test_what_holds_no_bytes_is_not_kept(cache: Path):
    empty: Parts = {"kernels": b""}
    assert obtain(KEY, lambda: empty, silent) == (empty, None)
    assert files(cache) == []
    assert obtain(KEY, lambda: {"a": b"", "b": b"1"}, silent)[1] is not None


def test_what_is_unused_for_longest_is_removed(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engine_cache, "MOST_ENTRIES", 3)
    keys = [{"n": n} for n in range(5)]
    for age, key in enumerate(keys[:3]):
        get(key)
        used = time.time() - 1000 + age
        os.utime(cache / f"{entry_name(key)}.json", (used, used))
    assert get(keys[0])[0] == 0, "and is thereby the one used last"
    get(keys[3])
    get(keys[4])
    kept = sorted(entry_name(keys[n]) for n in (0, 3, 4))
    assert files(cache) == [f"{name}.{suffix}" for name in kept for suffix in ("engine", "json")]
    assert len(list(cache.glob("*.lock"))) == 3
    assert get(keys[1])[0] == 1, "built again"


def test_a_build_that_fails_leaves_nothing(cache: Path):
    def fail() -> Parts:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        obtain(KEY, fail, silent)
    assert files(cache) == []
    assert get()[0] == 1


# --- real file systems ---------------------------------------------------------------------------


def on_a_mount(options: str, script: str, tmp_path: Path) -> str:
    """Run Python code in a mount namespace whose cache is a tmpfs; what it prints and logs."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare (util-linux)")
    mount = tmp_path / "mount"
    mount.mkdir()
    code = tmp_path / "code.py"
    code.write_text(textwrap.dedent(script))
    command = f"mount -t tmpfs -o {options} tmpfs {mount} && exec {sys.executable} {code}"
    environment = {**os.environ, "XDG_CACHE_HOME": str(mount)}
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command],
        capture_output=True,
        text=True,
        env=environment,
    )
    if "unshare failed" in result.stderr or "mount:" in result.stderr:
        pytest.skip(f"no mount namespaces here: {result.stderr.strip()}")
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_a_full_disk(tmp_path: Path):
    output = on_a_mount(
        "size=64k",
        PREPARE
        + """
        import os
        small, large = {"a": bytes(100)}, {"a": bytes(10**6)}
        assert obtain({"n": 1}, lambda: small, print)[1] is not None
        for _ in range(2):
            assert obtain({"n": 2}, lambda: large, print) == (large, None)
        def never(): raise AssertionError
        assert obtain({"n": 1}, never, print)[0] == small, "the old one is intact"
        from bisenetv2_ros.backends.engine_cache import cache_directory
        print(sum(not name.endswith(".lock") for name in os.listdir(cache_directory())), "files")
        """.replace("\n        ", "\n"),
        tmp_path,
    )
    assert output.count("No space left on device: the engine is kept in memory only") == 2
    assert "2 files" in output, output


def test_a_read_only_cache_is_read_and_not_written(tmp_path: Path):
    output = on_a_mount(
        "size=1m",
        PREPARE
        + """
        import os, subprocess
        kept, new = {"a": b"kept"}, {"a": b"new"}
        obtain({"n": 1}, lambda: kept, print)
        subprocess.run(["mount", "-o", "remount,ro", os.environ["XDG_CACHE_HOME"]], check=True)
        def never(): raise AssertionError
        assert obtain({"n": 1}, never, print)[0] == kept
        assert obtain({"n": 2}, lambda: new, print) == (new, None)
        """.replace("\n        ", "\n"),
        tmp_path,
    )
    assert output.count("Read-only file system: the engine is kept in memory only") == 1


# --- several processes ---------------------------------------------------------------------------

SLOW = (
    PREPARE
    + """
import sys, time
def build():
    print("building", flush=True)
    time.sleep(float(sys.argv[1]))
    return {"mask": b"x" * int(sys.argv[2])}
engines, file = obtain({"n": 1}, build, lambda line: None)
print(len(engines["mask"]), file is not None, flush=True)
"""
)


def slow_process(seconds: float, size: int = 1000) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, str(seconds), str(size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds(cache: Path):
    processes = [slow_process(0.5) for _ in range(3)]
    outputs = [process.communicate(timeout=HANG)[0] for process in processes]
    assert sorted(output.count("building") for output in outputs) == [0, 0, 1]
    assert all("1000 True" in output for output in outputs)
    assert [name.partition(".")[2] for name in files(cache)] == ["engine", "json"]


def test_a_killed_builder_is_taken_over(cache: Path):
    first = slow_process(10 * HANG)
    assert first.stdout and first.stdout.readline() == "building\n"
    second = slow_process(0)
    time.sleep(0.3)
    assert second.poll() is None, "waits for the first"
    first.kill()
    first.wait()
    first.stdout.close()
    assert second.communicate(timeout=HANG)[0].split() == ["building", "1000", "True"]


def test_waiting_is_reported_and_can_be_cancelled(cache: Path):
    holder = slow_process(10 * HANG)
    assert holder.stdout and holder.stdout.readline() == "building\n"
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        obtain({"n": 1}, Builder(), report)
    assert holder.poll() is None, "waited for the other process to end"
    assert set(lines) == {"waiting for another process that builds this engine"}
    holder.kill()
    holder.communicate()


def killed_at(step: int, cache: Path) -> bool:
    """Build and keep, but be killed before the given call to the system; False if there is none."""
    code = (
        f"""
import os, signal
calls = 0
def fragile(call):
    def wrapped(*arguments, **options):
        global calls
        calls += 1
        if calls == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped
from bisenetv2_ros.backends import engine_cache
for name in ("open", "fdopen", "fsync", "replace", "unlink"):
    setattr(os, name, fragile(getattr(os, name)))
"""
        + SLOW
    )
    process = subprocess.run([sys.executable, "-c", code, "0", "1000"], capture_output=True)
    return process.returncode == -signal.SIGKILL


def test_killed_at_any_moment(cache: Path):
    """The next process has what it asked for, whatever the killed one left."""
    left = set()
    step = 1
    while killed_at(step, cache):
        left.add(" ".join(sorted(path.name.partition(".")[2] for path in cache.iterdir())))
        engines, file = obtain({"n": 1}, lambda: {"mask": b"x" * 1000}, silent)
        assert engines == {"mask": b"x" * 1000} and file is not None
        assert [name.partition(".")[2] for name in files(cache)] == ["engine", "json"]
        shutil.rmtree(cache)
        step += 1
    assert {"engine.partial lock", "engine lock", "engine json.partial lock"} <= left
    assert "engine json lock" in left
