"""Files that a user was given run no code, fill no memory, and are refused in one line."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_model import write_tiny_model

pytest.importorskip("yaml")

from bisenetv2_ros.files import safe_yaml as yaml_file
from bisenetv2_ros.files.safe_yaml import YamlError, parse_yaml, read_yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [path for name in ("bisenetv2_ros", "training") for path in (ROOT / name).rglob("*.py")]

#: Calls that run code out of a file, and how they are called where that is switched off.
DANGEROUS = {
    "pickle": "never",
    "marshal": "never",
    "shelve": "never",
    "joblib": "never",
    "eval": "never",
    "exec": "never",
    "os.system": "never",
    "np.load": "never",
    "torch.load": "weights_only=True",
    "torch.hub": "never",
    "torch.jit.load": "never",
    "yaml.load": "_PlainLoader",
    "yaml.full_load": "never",
    "yaml.safe_load": "never",  # takes aliases, see yaml_file
    "yaml.unsafe_load": "never",
    "scipy.io.loadmat": "never",  # its files can hold no code, but arrays of objects
}


def dangerous_calls(source: str) -> list[str]:
    """The calls in a source text that DANGEROUS speaks of and that are not made as it says."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, call = ast.unparse(node.func), ast.unparse(node)
        for danger, allowed in DANGEROUS.items():
            if (name == danger or name.startswith(f"{danger}.")) and allowed not in call:
                found.append(call)
        if "shell=True" in call or "allow_pickle=True" in call or "weights_only=False" in call:
            found.append(call)
    return found


def test_the_scan_finds_what_it_looks_for():
    for bad in (
        "pickle.load(f)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "yaml.load(t, yaml.Loader)",
        "eval(text)",
        "subprocess.run(words, shell=True)",
        "np.load(p, allow_pickle=True)",
    ):
        assert dangerous_calls(bad), bad
    assert not dangerous_calls("torch.load(p, weights_only=True); network.eval()")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_loads_code_from_files(path):
    assert dangerous_calls(path.read_text(encoding="utf-8")) == []


def laughs() -> str:
    """A few hundred bytes that stand for ten thousand million names."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    return "\n".join([*lines, "classes: [{name: *a9, colour: [1, 2, 3]}]", ""])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (laughs(), "an alias"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("a: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("\x00", "not YAML"),
        (b"\xff\xfe\xff", "not YAML"),
    ],
    ids=["laughs", "depth", "object", "nul", "bytes"],
)
def test_yaml_that_is_no_plain_data(text, words):
    with pytest.raises(YamlError, match=words):
        parse_yaml(text)


def test_yaml_without_end(monkeypatch):
    monkeypatch.setattr(yaml_file, "MAX_BYTES", 1000)
    with pytest.raises(YamlError, match="more than 1000 bytes"):
        read_yaml(Path("/dev/zero"))


def run(words: list[str], *, file_bytes: int = 0, memory: int = 0) -> tuple[int, str]:
    """Run a verb with a disk of `file_bytes` left, or so much memory; (exit code, last line)."""

    def limit() -> None:
        if file_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    # No .pyc: Python leaves one that did not fit, and no later process can import it.
    command = [sys.executable, "-B", "-m", "bisenetv2_ros.cli.main", *words]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def test_hostile_class_lists_are_one_line(tmp_path):
    (tmp_path / "classes.yaml").write_text(laughs())
    words = ["check-data", "--dataset", "folder", "--data", str(tmp_path)]
    code, line = run(words, memory=4 << 30)
    assert code == 2
    assert f"{tmp_path}/classes.yaml: not YAML: an alias" in line


def test_hostile_run_headers_are_refused(tmp_path):
    pytest.importorskip("torch")
    from bisenetv2_ros.training.checkpoint import CheckpointError, read_run_header

    for text in ("[" * 200_000, "\x00", "[]", "{"):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"recipe\.json: "):
            read_run_header(tmp_path)


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    cv2.imwrite(str(folder / "a.png"), noise)
    return folder


@pytest.mark.parametrize(
    ("kind", "file"),
    [("colour", "/colour/a.png"), ("fractions", ""), ("jsonl", ""), ("video", "/video.mp4")],
)
def test_a_full_disk_is_named_by_predict(tmp_path, pictures, kind, file):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "out"
    words = ["predict", str(pictures), "-o", str(out), "--model", str(model), "--save", kind]
    code, line = run(words, file_bytes=40)
    assert code == 1
    assert f"{out}{file}'" in line and ("too large" in line or "video" in line), line


def test_a_full_disk_is_named_by_benchmark(tmp_path):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    out = tmp_path / "out.json"
    words = ["benchmark", str(model), "--backend", "onnxruntime", "--frames", "2"]
    code, line = run([*words, "--json", str(out)], file_bytes=40)
    assert (code, line) == (1, f"bisenetv2 benchmark: error: File too large: '{out}'")


@pytest.mark.parametrize(("output", "expected"), [("/proc/out", 1), ("/dev/null/out", 2)])
def test_a_place_that_cannot_be_written_is_named(pictures, tmp_path, output, expected):
    model = write_tiny_model(tmp_path / "tiny.onnx")
    code, line = run(["predict", str(pictures), "-o", output, "--model", str(model)])
    assert code == expected
    assert output in line
