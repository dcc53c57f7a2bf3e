"""The shared memory that images go through: its size, what is said of it, what is left of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import HANG
from tiny_model import write_tiny_model

from bisenetv2_ros.files.paths import share_directory
from bisenetv2_ros.node import environment, fastdds

PROGRAM = [sys.executable, "-m", "bisenetv2_ros.cli.main"]
MIB = 1 << 20

#: Runs a command as a container as it comes: loopback only, 64 MB of shared memory, no home to
#: write to. Prints what is left in the shared memory.
CONTAINER = """
set -e
ip link set lo up
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs -o ro tmpfs "$HOME"
"$@" || code=$?
echo "left: $(ls /dev/shm | grep -v lttng | tr '\\n' ' ')"
exit ${code:-0}
"""


def memory_of(free: int, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(f_bavail=free, f_blocks=size, f_frsize=1)
    monkeypatch.setattr(fastdds.os, "statvfs", lambda path: found)


@pytest.mark.parametrize(
    ("free", "profile", "words"),
    [
        (12 << 30, "fastdds_shm.xml", ""),
        (256 * MIB, "fastdds_shm.xml", ""),
        (255 * MIB, "fastdds_shm_small.xml", "enough for images up to about 1280x720"),
        (64 * MIB, "fastdds_shm_small.xml", "enough for images up to about 1280x720"),
        (8 * MIB, "fastdds_shm_small.xml", "8 MB free of 67, expected 17 or more"),
    ],
)
def test_the_profile_follows_what_is_free(free, profile, words, monkeypatch):
    memory_of(free, max(free, 64 * MIB), monkeypatch)
    ours = str(share_directory() / "config" / "fastdds_shm.xml")
    for before in ({}, {fastdds.VARIABLE: ours}):  # of a parent with more memory
        (chosen,) = fastdds.profile_variables(before).values()
        assert Path(chosen).name == profile and Path(chosen).is_file()
        problem = fastdds.shared_memory_problem(before)
        assert words in problem and bool(problem) == bool(words)
        assert not problem or ("--shm-size" in problem and "--ipc=host" in problem)
    assert fastdds.shared_memory_problem({fastdds.VARIABLE: "/mine.xml"}) == ""


def test_the_profiles_differ_in_the_size_alone():
    config = share_directory() / "config"
    large, small = (
        (config / name).read_text().partition("<profiles")[2].splitlines()
        for name in fastdds.PROFILES.values()
    )
    different = [pair for pair in zip(large, small, strict=True) if pair[0] != pair[1]]
    sizes = [[int(line.split(">")[1].split("<")[0]) for line in pair] for pair in different]
    assert sizes == [[fastdds.LARGE, fastdds.SMALL]]


@pytest.mark.parametrize("domain", ["233", "300"])
def test_a_domain_without_ports_is_refused_before_anything_is_made(domain):
    result = subprocess.run(
        [*PROGRAM, "segment"],
        env={**os.environ, "ROS_DOMAIN_ID": domain},
        capture_output=True,
        text=True,
        timeout=3 * HANG,
    )
    assert result.returncode == 2
    assert result.stderr.strip().endswith(f"error: ROS_DOMAIN_ID is {domain}, expected 0..232")


def test_logs_go_elsewhere_without_a_home(tmp_path, monkeypatch, capsys):
    for name in ("ROS_LOG_DIR", "ROS_HOME", "HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    environment.set_up("segment")
    assert os.environ["ROS_LOG_DIR"]
    assert "segment: warning: no place for logs below HOME" in capsys.readouterr().err
    monkeypatch.delenv("ROS_LOG_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    environment.set_up("segment")
    assert "ROS_LOG_DIR" not in os.environ


@pytest.fixture
def container(tmp_path):
    """Runs a command in one: (exit code, stdout, stderr)."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("needs unshare and ip")
    home = tmp_path / "home"
    home.mkdir()

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-c", CONTAINER, "sh"]
        return subprocess.run(
            [*command, *words],
            env={**os.environ, "HOME": str(home), "TMPDIR": str(tmp_path)},  # for the logs
            capture_output=True,
            text=True,
            timeout=3 * HANG,
        )

    if run("true").returncode:
        pytest.skip("this kernel or container allows no namespaces")
    return run


def test_demo_in_a_container_as_it_comes(container, tmp_path):
    pytest.importorskip("rclpy")
    pytest.importorskip("bisenetv2_ros.msg", reason="needs the package's built messages")
    pytest.importorskip("onnxruntime")
    model = write_tiny_model(tmp_path / "model.onnx")
    demo = [*PROGRAM, "demo", "--frames", "40", "--model", str(model), "--backend", "onnxruntime"]

    def scores(output: Path) -> dict:
        return json.loads((output / "summary.json").read_text())["scores"]

    inside = container(*demo, "--output", str(tmp_path / "inside"))
    assert inside.returncode == 0, inside.stdout + inside.stderr
    assert "enough for images up to about 1280x720" in inside.stderr
    assert inside.stdout.splitlines()[-1].split() == ["left:"]
    outside = subprocess.run([*demo, "--output", str(tmp_path / "outside")], capture_output=True)
    assert outside.returncode == 0
    assert scores(tmp_path / "inside") == scores(tmp_path / "outside")
