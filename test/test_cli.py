"""The command-line program: its table of verbs, its manners, its errors."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from patience import HANG

import bisenetv2_ros
from bisenetv2_ros.cli import UserError
from bisenetv2_ros.cli import main as cli
from bisenetv2_ros.cli.options import calibration_frames, sample_frames
from bisenetv2_ros.cli.verbs import Verb
from bisenetv2_ros.files.paths import check_output, replacing
from bisenetv2_ros.labels import CAMVID
from bisenetv2_ros.sources.frame_source import DEFAULT_SCENE_SIZE
from bisenetv2_ros.street.scene import StreetScene

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = [sys.executable, "-m", "bisenetv2_ros.cli.main"]
HEAVY = ("numpy", "cv2", "onnx", "onnxruntime", "openvino", "torch", "rclpy")


def bisenetv2(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words], capture_output=True, text=True, timeout=HANG, check=False
    )


@pytest.fixture
def verb(monkeypatch):
    """Make `bisenetv2 probe` run the function given, without a file for it."""

    def install(run, *, is_ros_node: bool = False) -> None:
        def add_arguments(parser) -> None:
            parser.add_argument("--size", type=int, default=1)

        monkeypatch.setitem(cli.VERBS, "probe", Verb("probe", "a verb of the test", is_ros_node))
        module = SimpleNamespace(add_arguments=add_arguments, run=run)
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)

    return install


def test_help_is_quick_and_names_every_verb():
    result = bisenetv2("--help")
    assert result.returncode == 0
    words = ["-X", "importtime", *PROGRAM[1:], "--help"]
    imported = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True)
    modules = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert "argparse" in modules
    assert not modules & {"numpy", "cv2", "rclpy", "torch", "onnxruntime", "yaml", "pydantic"}
    for name, verb in cli.VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.help)}$", result.stdout, re.MULTILINE)
    _, _, examples_text = result.stdout.partition("examples:")
    examples = re.findall(r"^  bisenetv2 (\S+)", examples_text, re.MULTILINE)
    assert examples and set(examples) <= set(cli.VERBS), "an example names a verb there is not"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from bisenetv2_ros.cli.main import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('loaded:', [m for m in {HEAVY} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "loaded: []" in result.stdout


def test_help_needs_none_of_the_optional_modules():
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({[*cli.OPTIONAL_MODULES]}))\n"  # their import raises
        "from bisenetv2_ros.cli.main import VERBS, main\n"
        "for verb in VERBS:\n"
        "    try: main([verb, '--help'])\n"
        "    except SystemExit as end: assert not end.code, verb\n"
        "    else: raise AssertionError(verb)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", cli.VERBS)
def test_every_verb_explains_itself(name):
    result = bisenetv2(name, "--help")
    if result.returncode != 0:
        missing = re.search(r"the Python module '(\w+)' is not installed", result.stderr)
        assert missing, result.stderr
        pytest.skip(f"{missing[1]} is not installed")
    assert result.stdout.startswith(f"usage: bisenetv2 {name}")
    assert cli.VERBS[name].help.split()[0] in result.stdout


def test_version_is_the_one_of_the_package():
    declared = re.search(r"<version>(.+)</version>", (ROOT / "package.xml").read_text())
    assert declared and declared[1] == bisenetv2_ros.__version__
    assert bisenetv2("--version").stdout == f"bisenetv2 {declared[1]}\n"


def test_unknown_verb_names_the_nearest():
    result = bisenetv2("segmnet")
    assert result.returncode == 2
    assert result.stderr == (
        "bisenetv2: error: unknown verb 'segmnet': did you mean 'segment'? "
        "(see `bisenetv2 --help`)\n"
    )


def test_no_verb_shows_the_help_and_fails():
    result = bisenetv2()
    assert result.returncode == 2
    assert "verbs (" in result.stdout


def test_verb_from_the_command_line_or_from_the_executable(verb):
    seen = []
    verb(lambda args: seen.append(args.size) or 7)
    assert cli.main(["probe", "--size", "3"]) == 7
    assert cli.main(["--size", "4"], verb="probe") == 7
    assert seen == [3, 4]


def test_abbreviated_options_are_refused_in_one_line(verb, capsys):
    verb(lambda args: 0)
    with pytest.raises(SystemExit) as exit_:
        cli.main(["probe", "--siz", "3"])
    assert exit_.value.code == 2
    assert capsys.readouterr().err == (
        "bisenetv2 probe: error: unrecognized arguments: --siz 3 (see `bisenetv2 probe --help`)\n"
    )


def test_user_error_is_one_line_and_code_2(verb, capsys):
    def run(args):
        raise UserError("size 0 given, expected at least 1")

    verb(run)
    assert cli.main(["probe"]) == 2
    error = capsys.readouterr().err
    assert error == "bisenetv2 probe: error: size 0 given, expected at least 1\n"


def test_file_error_names_the_file(verb, capsys, tmp_path):
    verb(lambda args: (tmp_path / "missing").read_text())
    assert cli.main(["probe"]) == 1
    error = capsys.readouterr().err
    assert error == f"bisenetv2 probe: error: No such file or directory: '{tmp_path / 'missing'}'\n"


def test_other_errors_keep_their_traceback(verb):
    def run(args):
        raise ValueError("a bug")

    verb(run)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["probe"])


@pytest.mark.parametrize(("module", "advice"), cli.OPTIONAL_MODULES.items())
def test_missing_optional_module_says_what_to_do(verb, capsys, module, advice):
    def run(args):
        raise ModuleNotFoundError(f"No module named '{module}.sub'", name=f"{module}.sub")

    verb(run)
    assert cli.main(["probe"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"bisenetv2 probe: error: the Python module '{module}' is not installed: {advice}\n"
    )


def test_other_missing_module_is_not_explained_away(verb):
    def run(args):
        raise ModuleNotFoundError("No module named 'bisenetv2_ros.nowhere'", name="bisenetv2_ros.x")

    verb(run)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["probe"])


def test_ros_arguments_are_split_off_for_nodes(verb):
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    seen = []
    verb(lambda args: seen.append((args.size, args.ros_args)) or 0, is_ros_node=True)
    words = ["--ros-args", "-r", "__ns:=/front", "-p", "size:=5", "--", "--size", "3"]
    assert cli.main(["probe", *words]) == 0
    assert seen == [(3, words)], "ROS finds its own among them"


def test_a_node_without_ros_arguments_needs_no_ros_to_be_parsed(verb, monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    seen = []
    verb(lambda args: seen.append((args.size, args.ros_args)) or 0, is_ros_node=True)
    assert cli.main(["probe", "--size", "3"]) == 0
    assert seen == [(3, [])]


def test_ros_arguments_are_refused_elsewhere(verb):
    verb(lambda args: 0)
    with pytest.raises(SystemExit):
        cli.main(["probe", "--ros-args", "-p", "size:=5"])


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--size", "4", "--ros-args"], 4),
        (["--ros-args", "-p", "x:=1", "--", "--size", "2", "--ros-args", "-p", "size:=3"], 2),
    ],
)
def test_split_ros_args(verb, words, size):
    pytest.importorskip("rclpy", reason="needs a ROS 2")
    seen = []
    verb(lambda args: seen.append(args.size) or 0, is_ros_node=True)
    assert cli.main(["probe", *words]) == 0
    assert seen == [size]


def test_interrupt_ends_without_a_traceback():
    code = (
        "import sys, time\nfrom types import SimpleNamespace\n"
        "from bisenetv2_ros.cli import main as cli\n"
        "def run(args):\n    print('ready', flush=True)\n    time.sleep(600)\n"
        "from bisenetv2_ros.cli.verbs import Verb; cli.VERBS['probe'] = Verb('probe', 'help')\n"
        "sys.modules['probe'] = SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "sys.exit(cli.main(['probe']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=HANG)
    assert (process.returncode, errors) == (130, "")


def test_reader_that_leaves_early_is_no_error():
    code = (
        "import sys\nfrom types import SimpleNamespace\nfrom bisenetv2_ros.cli import main as cli\n"
        "def run(args):\n    for i in range(100000): print(i)\n"
        "from bisenetv2_ros.cli.verbs import Verb; cli.VERBS['probe'] = Verb('probe', 'help')\n"
        "sys.modules['probe'] = SimpleNamespace(add_arguments=lambda parser: None, run=run)\n"
        "sys.exit(cli.main(['probe']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.stderr and process.stderr.read() == ""
    assert process.wait(timeout=HANG) == 141


# --- options of the verbs that write model files --------------------------------------------------


@pytest.mark.parametrize(("count", "taken"), [(3, [0, 1, 3]), (4, [0, 1, 2, 3]), (9, range(5))])
def test_sample_frames_are_spread_over_the_source(tmp_path, count, taken):
    for value in range(5):
        cv2.imwrite(str(tmp_path / f"{value}.png"), np.full((8, 8, 3), value, np.uint8))
    frames = sample_frames(str(tmp_path), count, "--frames")
    assert [frame[0, 0, 0] for frame in frames] == list(taken)


def test_of_a_source_without_an_end_no_other_frame_is_rendered(monkeypatch):
    scene = StreetScene(1, DEFAULT_SCENE_SIZE)
    expected = [scene.render(float(second))[0] for second in range(3)]
    rendered = []
    render = StreetScene.render

    def count(scene, moment):
        rendered.append(moment)
        return render(scene, moment)

    monkeypatch.setattr(StreetScene, "render", count)
    np.testing.assert_array_equal(sample_frames("synthetic", 3, "--frames"), expected)
    assert rendered == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("kind", ["index", "colors"])
def test_label_masks_are_no_frames_to_calibrate_on(tmp_path, capsys, kind):
    for seed in range(3):
        image, label = StreetScene(seed, (96, 64)).render(0)
        mask = label if kind == "index" else CAMVID.colour_table()[label][..., ::-1]
        for folder, pixels in (("images", image), ("labels", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{seed}.png"), pixels)
    assert len(calibration_frames(str(tmp_path / "images"), 3, "--data")) == 3
    dark = tmp_path / "dark"  # a gray camera at night: few values, and noise
    dark.mkdir()
    noise = np.random.default_rng(1).integers(0, 9, (64, 96), np.uint8)
    cv2.imwrite(str(dark / "a.png"), noise)
    cv2.imwrite(str(dark / "b.png"), noise * 0)  # the lens is covered
    assert len(calibration_frames(str(dark), 3, "--data")) == 2
    words = ["quantize", "bisenetv2_camvid_640x480_float32", "-o", str(tmp_path / "m.onnx")]
    assert cli.main([*words, "--data", str(tmp_path / "labels")]) == 2
    error = capsys.readouterr().err
    assert (
        f"--data: {tmp_path / 'labels'}: 3 images of a few flat colors each, as label masks"
        in error
    )
    assert cli.main([*words, "--data", str(tmp_path / "none")]) == 2
    assert f"--data: source '{tmp_path / 'none'}': no such file" in capsys.readouterr().err
    assert not (tmp_path / "m.onnx").exists()


def test_the_metric_in_the_help_is_one_that_benchmark_reads(capsys):
    with pytest.raises(SystemExit):
        cli.main(["export", "--help"])
    assert "camvid_val_miou=" in capsys.readouterr().out


OUTPUTS = {"--output", "--json", "--plot", "--report", "--submission", "--sheet", "--save"}


def paths_of(options: set[str]) -> list[tuple[str, str, str]]:
    """(verb, option, metavar) of every option of these names that is a path."""
    actions = []
    for name, entry in cli.VERBS.items():
        parser = argparse.ArgumentParser()
        importlib.import_module(entry.module).add_arguments(parser)
        actions += [(name, action) for action in parser._actions]
    return [
        (name, option, action.metavar)
        for name, action in actions
        for option in sorted(options & set(action.option_strings))
        if isinstance(action.metavar, str) and "KIND" not in action.metavar
    ]


@pytest.mark.parametrize(("name", "option", "metavar"), paths_of(OUTPUTS))
def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    name, option, metavar, tmp_path, capsys, monkeypatch
):
    file, folder, locked = tmp_path / "file.png", tmp_path / "folder.png", tmp_path / "locked"
    file.touch()
    folder.mkdir()
    locked.mkdir()
    nowhere = tmp_path / "link.png"
    nowhere.symlink_to("missing.png")
    is_folder = metavar in ("DIR", "RUN")
    suffix = Path(metavar).suffix or ".png"
    writable = os.access

    def access(path, mode, **options):  # root may write everywhere
        return Path(path) != locked and writable(path, mode, **options)

    monkeypatch.setattr(os, "access", access)
    wrong = {
        str(file / f"x{suffix}"): f"{file} is a file, expected a folder",
        str(file / "x" / f"y{suffix}"): f"{file} is a file, expected a folder",
        str(locked / f"x{suffix}"): f"the folder {locked} cannot be written to",
        "n" * 300 + suffix: "File name too long",
        "": "got ''",
    }
    if is_folder:
        wrong[str(file)] = "is a file, expected a folder"
        wrong[str(nowhere)] = "is a link to missing.png, which does not exist"
    else:
        wrong[str(folder)] = "is a folder, expected a file"
        wrong[str(tmp_path / "none" / f"x{suffix}")] = f"there is no folder {tmp_path / 'none'}"
    before = sorted(tmp_path.rglob("*"))
    for path, message in wrong.items():
        assert cli.main([name, option, path]) == 2
        error = capsys.readouterr().err
        assert f"{option}: " in error and path in error and message in error
        assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "option"),
    [(n, o) for n, o, _ in paths_of({"--data", "--images", "--adjust-logits"}) if n != "quantize"],
)
def test_a_folder_of_data_that_is_not_there_is_named_with_its_option(
    name, option, tmp_path, capsys
):
    (tmp_path / "file").touch()
    for path, was in (("none", "no such folder"), ("file", "is a file")):
        assert cli.main([name, option, str(tmp_path / path)]) == 2
        error = capsys.readouterr().err
        assert f"error: {option}: {tmp_path / path}: {was}, expected that of the data" in error


def test_a_device_is_written_to_and_never_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    check_output(pipe)
    with replacing(pipe) as path:
        path.write_text("scores")
    assert pipe.is_fifo() and os.read(reader, 10) == b"scores"
    os.close(reader)
    with replacing(Path("/dev/stdout")) as path:
        assert path == Path("/dev/stdout")
