"""`bisenetv2 gpu-check` reports what fails, what hangs and what dies, and writes that down."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from patience import HANG

from bisenetv2_ros.cli.main import main

pytest.importorskip("onnxruntime")
pytest.importorskip("cuda.bindings")

from gpu import what_is_missing

from bisenetv2_ros.benchmark import gpu_check
from bisenetv2_ros.benchmark.gpu_check import Checks, run_all


def put_parts(monkeypatch: pytest.MonkeyPatch, **code: str) -> list[str]:
    """Parts that run Python code, each with a limit of 20 s."""
    monkeypatch.setattr(gpu_check, "_command", lambda name: [sys.executable, "-c", code[name]])
    monkeypatch.setattr(gpu_check, "PARTS", dict.fromkeys(code, (lambda check: None, 20.0)))
    return list(code)


def test_a_check_that_fails_does_not_end_the_others(capsys: pytest.CaptureFixture[str]):
    check = Checks()
    assert check("first", lambda: "fine")

    def fails() -> str:
        raise RuntimeError("two\nlines")

    assert not check("second", fails)
    assert check("third", lambda: None)
    assert check.failed == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "FAIL", "PASS"]
    assert lines[1].startswith("FAIL  second: RuntimeError: two lines [")


def test_all_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    parts = put_parts(monkeypatch, driver="print('PASS  a: b [0.1 s]')", more="print('PASS  c: d')")
    assert run_all(tmp_path / "report.txt", parts)
    report = (tmp_path / "report.txt").read_text()
    assert report.startswith("bisenetv2 gpu-check\n{") and '"cuda-bindings"' in report
    assert "PASS  a: b [0.1 s]\nPASS  c: d\n2 passed, 0 failed" in report


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("print('FAIL  a: b'); exit(1)", "FAIL  a: b"),
        (
            "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
            "FAIL  part bad: ended with -11",
        ),
        ("1 / 0", "FAIL  part bad: ended with 1"),
    ],
)
def test_a_part_that_ends_badly_fails_and_the_next_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, line: str
):
    parts = put_parts(monkeypatch, bad=code, more="print('PASS  c: d')")
    assert not run_all(tmp_path / "report.txt", parts)
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert line in lines and "PASS  c: d" in lines
    assert lines[-1].startswith("1 passed, 1 failed")


def test_a_part_that_hangs_is_ended_and_what_is_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    parts = put_parts(monkeypatch, bad="import time; time.sleep(1000)", more="print('PASS  c: d')")
    started = time.monotonic()
    assert not run_all(tmp_path / "report.txt", parts, seconds=6)
    assert time.monotonic() - started < HANG
    lines = (tmp_path / "report.txt").read_text().splitlines()
    assert "FAIL  part bad: not done within 6 s" in lines
    assert "FAIL  part more: not run, no time was left of 6 s" in lines


@pytest.mark.skipif(not what_is_missing(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    report = tmp_path / "report.txt"
    assert main(["gpu-check", "-o", str(report)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  GPU: BackendUnavailable: tensorrt: no ")
    assert lines[-1] == f"0 passed, 1 failed; report: {report}"
    assert lines[0] in report.read_text()


def test_a_part_that_there_is_not(capsys: pytest.CaptureFixture[str]):
    assert main(["gpu-check", "--part", "fan"]) == 2
    assert "part 'fan' is unknown, expected one of driver, " in capsys.readouterr().err
