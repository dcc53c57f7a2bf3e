"""Files from the wild through `predict`: nothing lost, nothing mixed up, nothing destroyed."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from patience import HANG
from tiny_model import tiny_info, write_tiny_model

from bisenetv2_ros.cli.main import main
from bisenetv2_ros.files.video import VideoFile
from bisenetv2_ros.sources.frame_source import open_source

SIZE = (24, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return write_tiny_model(folder / "bisenetv2_tiny_96x64_float32.onnx", tiny_info((96, 64)))


@pytest.fixture
def predict(model):
    """Run the verb; its exit code, also of wrong usage."""

    def run(*words: object) -> int:
        try:
            return main(["predict", "--model", str(model), *map(str, words)])
        except SystemExit as exit_:
            return int(exit_.code or 0)

    return run


def picture(path: Path, level: int = 0) -> Path:
    """A picture whose mask tells its level: the tiny model's class is level // 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done, data = cv2.imencode(path.suffix, np.full((*SIZE[::-1], 3), level, np.uint8))
    assert done
    path.write_bytes(data.tobytes())
    return path


def video(path: Path, frames: int = 5) -> Path:
    file = VideoFile(path, 10)
    for level in range(frames):
        file.write(np.full((48, 64, 3), 16 * level + 8, np.uint8))
    file.close()
    return path


def level_of(mask: Path) -> int:
    return int(np.median(cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)))


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "fractions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def one_line(capsys) -> str:
    """The error, said in one line."""
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1, lines
    return lines[0]


# --- what is read is not written to ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["same", "symbolic link", "hard link", "folder link"])
def test_a_source_is_never_overwritten(tmp_path, predict, capsys, how):
    source = video(tmp_path / "video.mp4")
    before = source.read_bytes()
    out, words = tmp_path, ["--save", "video", "--overwrite"]
    if how in ("symbolic link", "hard link"):
        out = tmp_path / "out"
        out.mkdir()
        if how == "hard link":
            (out / "video.mp4").hardlink_to(source)
        else:
            (out / "video.mp4").symlink_to(source)
    elif how == "folder link":
        out = tmp_path / "link"
        out.symlink_to(tmp_path)
    assert predict(source, "-o", out, *words) == 2
    assert "would be overwritten" in one_line(capsys)
    assert source.read_bytes() == before


@pytest.mark.parametrize("kind", ["overlay", "masks"])
@pytest.mark.parametrize("words", [(), ("--overwrite",), ("--resume",)])
def test_a_folder_of_sources_is_never_written_to(tmp_path, predict, capsys, kind, words):
    source = picture(tmp_path / kind / "a.png")
    before = source.read_bytes()
    assert predict(tmp_path / kind, "-o", tmp_path, "--save", kind, *words) == 2
    assert "would be overwritten" in one_line(capsys)
    assert source.read_bytes() == before and files(tmp_path) == [f"{kind}/a.png"]


def test_view_does_not_write_to_its_source(tmp_path, model, capsys):
    source = video(tmp_path / "drive.mp4")
    before = source.read_bytes()
    for save in (source, video(tmp_path / "other.mp4")):
        assert main(["view", str(source), "--model", str(model), "--save", str(save)]) == 2
        assert f"{save}" in one_line(capsys)
    assert source.read_bytes() == before == (tmp_path / "other.mp4").read_bytes()


def test_relabel_does_not_write_to_its_classes(tmp_path, model, capsys):
    classes = tmp_path / "classes.yaml"
    text = "name: two\nclasses:\n- {name: a, of: [road], colour: [1, 2, 3]}\n"
    classes.write_text(text + "- {name: b, of: rest, colour: [4, 5, 6]}\n")
    before = classes.read_bytes()
    assert main(["relabel", str(model), "--classes", str(classes), "-o", str(classes)]) == 2
    assert "would be overwritten" in one_line(capsys)
    assert classes.read_bytes() == before


# --- earlier runs ---------------------------------------------------------------------------------


def test_results_of_an_earlier_run_do_not_mix(tmp_path, predict, capsys):
    source, out = video(tmp_path / "a.mp4"), tmp_path / "out"
    words = (source, "-o", out, "--save", "masks,fractions,jsonl")
    assert predict(*words) == 0
    capsys.readouterr()
    assert predict(*words, "--frames", 2) == 2
    said = one_line(capsys)
    assert "masks/ (5 files)" in said and "--overwrite" in said and "--resume" in said
    assert len(rows(out)) == len(list((out / "masks").iterdir())) == 5
    assert predict(*words, "--frames", 2, "--overwrite") == 0
    assert len(rows(out)) == len(list((out / "masks").iterdir())) == 2
    assert len((out / "fractions.jsonl").read_text().splitlines()) == 2


def test_overwrite_removes_only_what_a_run_made(tmp_path, predict, capsys):
    source, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    truth = picture(out / "masks" / "truth.png", 70)
    before = truth.read_bytes()
    assert predict(source, "-o", out, "--save", "masks", "--overwrite") == 2
    assert "truth.png is no result of an earlier run" in one_line(capsys)
    assert truth.read_bytes() == before and files(out) == ["masks/truth.png"]


def test_resume_does_what_is_missing(tmp_path, predict, capsys):
    source, out = video(tmp_path / "a.mp4", 6), tmp_path / "out"
    words = (source, "-o", out, "--save", "masks,fractions,jsonl", "--resume")
    assert predict(*words, "--frames", 4) == 0
    with (out / "fractions.jsonl").open("a") as file:
        file.write('{"frame": "cut o')  # by a power cut
    (out / "masks" / "a_000001.png").unlink()
    kept = (out / "masks" / "a_000002.png").stat().st_mtime_ns
    capsys.readouterr()
    assert predict(*words) == 0
    error = capsys.readouterr().err
    assert "3 frames segmented" in error and "3 frames were done already" in error
    names = [f"a_{number:06d}" for number in range(6)]
    assert sorted(row["frame"] for row in rows(out)) == names
    lines = [json.loads(line) for line in (out / "fractions.jsonl").read_text().splitlines()]
    assert sorted(line["frame"] for line in lines) == names
    assert [level_of(out / "masks" / f"{name}.png") for name in names] == list(range(6))
    assert (out / "masks" / "a_000002.png").stat().st_mtime_ns == kept
    assert predict(source, "-o", out, "--save", "video", "--resume") == 2
    assert "--resume: expected --save of" in one_line(capsys)


def test_a_killed_run_keeps_its_lines(tmp_path, model):
    out = tmp_path / "out"
    words = ["synthetic", "-o", out, "--model", model, "--save", "masks,fractions,jsonl"]
    process = subprocess.Popen(
        [sys.executable, "-m", "bisenetv2_ros.cli.main", "predict", *map(str, words)],
        stderr=subprocess.DEVNULL,
    )
    give_up = time.monotonic() + HANG
    while len(list(out.glob("masks/[!.]*"))) < 20 and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    masks = sorted(path.stem for path in out.glob("masks/[!.]*"))
    written = [row["frame"] for row in rows(out)]
    assert len(written) >= 19 and written == masks[: len(written)]
    assert len(masks) - len(written) <= 1
    assert all(cv2.imread(str(path)) is not None for path in out.glob("masks/[!.]*"))


@pytest.mark.parametrize("kind", ["masks", "overlay", "fractions", "jsonl"])
def test_a_full_disk_is_named_at_the_frame(tmp_path, model, kind):
    """A limit on the size of files stands for the disk."""
    coarse = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"{number}.png"), coarse)
    out = tmp_path / "out"
    code = f"""
import resource, signal, sys
from bisenetv2_ros.cli.main import main
from bisenetv2_ros.offline import run
segment = run._segment_all
def limited(*args):
    resource.setrlimit(resource.RLIMIT_FSIZE, ({60 if kind in ("masks", "overlay") else 4000},) * 2)
    return segment(*args)
run._segment_all = limited
sys.exit(main(["predict", {str(tmp_path)!r}, "-o", {str(out)!r}, "--model", {str(model)!r},
               "--save", {kind!r}]))
"""
    # No .pyc: Python leaves one that did not fit, and no later process can import it.
    command = [sys.executable, "-B", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert "File too large" in error and "(results of " in error and str(out) in error
    assert "Traceback" not in done.stderr
    written = int(done.stderr.split(" frames segmented")[0].split()[-1])
    assert written < 40
    if kind == "fractions":
        assert written == len((out / "fractions.csv").read_text().splitlines()) - 1 - (
            not (out / "fractions.csv").read_text().endswith("\n")
        )


# --- names ----------------------------------------------------------------------------------------


def test_words_after_two_dashes_are_files(tmp_path, predict, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "-dash.png", 40)
    assert predict("-o", "o", "--save", "masks", "--", "-dash.png") == 0
    assert level_of(tmp_path / "o" / "masks" / "-dash.png") == 2


@pytest.mark.parametrize("verb", ["predict", "view", "extract", "demo"])
def test_an_empty_source_is_an_error(tmp_path, model, capsys, verb):
    words = {
        "predict": ["", "-o", "out"],
        "view": ["", "--save", "a.rrd"],
        "extract": ["", "-o", "out", "--every", "1"],
        "demo": ["--source", "", "--output", "out"],
    }[verb]
    if verb == "view":
        pytest.importorskip("rerun")
    assert main([verb, "--model", str(model), *words]) == 2
    assert "source '': is empty (an unset variable?)" in one_line(capsys)
    assert not Path("out").exists()


def test_several_sources(tmp_path, predict):
    levels = {"a/x.png": 20, "b/x.png": 60, "c.png": 100}
    for name, level in levels.items():
        picture(tmp_path / "in" / name, level)
    words = [tmp_path / "in" / name for name in ("a", "b/x.png", "*.png")]
    assert predict(*words, "-o", tmp_path / "out", "--save", "masks,fractions,jsonl") == 0
    for name, level in levels.items():
        assert level_of(tmp_path / "out" / "masks" / name) == level // 16
    sources = {row["frame"]: row["source"] for row in rows(tmp_path / "out")}
    assert sources == {name[:-4]: str(tmp_path / "in" / name) for name in levels}
    lines = (tmp_path / "out" / "fractions.jsonl").read_text().splitlines()
    assert {r["frame"]: r["source"] for r in map(json.loads, lines)} == sources


@pytest.mark.parametrize(
    "names",
    [
        *itertools.permutations(["a.png", "a.jpg", "a_2.png"]),
        ("a.png", "a.jpg", "a_2.png", "a_2.jpg", "a_2_2.png", "a_3.png", "a.bmp"),
    ],
)
def test_results_can_be_told_apart(tmp_path, predict, names):
    levels = {name: 24 + 16 * number for number, name in enumerate(names)}
    for name, level in levels.items():
        picture(tmp_path / "in" / name, level)
    assert predict(tmp_path / "in", "-o", tmp_path / "out", "--save", "masks,fractions") == 0
    of = {Path(row["source"]).name: row["frame"] for row in rows(tmp_path / "out")}
    assert of.keys() == levels.keys() and len(set(of.values())) == len(names)
    for name, frame in of.items():
        assert level_of(tmp_path / "out" / "masks" / f"{frame}.png") == levels[name] // 16
    for name in names:  # nobody else has the name of a file
        owners = {source for source, frame in of.items() if frame == Path(name).stem}
        assert {Path(source).stem for source in owners} <= {Path(name).stem}


def test_videos_of_one_name_are_told_apart(tmp_path, predict):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        video(folder / "drive.mp4", 2)
    words = (first / "drive.mp4", second / "drive.mp4", "-o", tmp_path / "out")
    assert predict(*words, "--save", "masks,fractions") == 0
    frames = {row["frame"]: row["source"] for row in rows(tmp_path / "out")}
    assert len(frames) == 4 and len(list((tmp_path / "out" / "masks").iterdir())) == 4
    assert sorted(frames.values()) == sorted([str(first / "drive.mp4")] * 2
                                             + [str(second / "drive.mp4")] * 2)  # fmt: skip


def test_a_name_that_is_not_utf8(tmp_path, predict):
    name = os.fsdecode(b"M\xfcnchen.png")
    picture(tmp_path / name, 40)
    out = tmp_path / os.fsdecode(b"\xf6ut")
    words = ("--save", "masks,colour,overlay,video,fractions,jsonl")
    assert predict(tmp_path, "-o", out, *words) == 0
    assert level_of_bytes(out / "masks" / name) == 2
    (row,) = rows(out)
    assert "nchen.png" in row["source"] and (out / "video.mp4").stat().st_size > 0


def level_of_bytes(path: Path) -> int:
    """As `level_of`; OpenCV does not take such names."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    return int(np.median(cv2.imdecode(data, cv2.IMREAD_UNCHANGED)))


def test_what_was_passed_over_is_named(tmp_path, predict, capsys):
    picture(tmp_path / "in" / "a.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db"):  # of macOS and Windows
        (tmp_path / "in" / name).write_bytes(b"\0\5\x16\7")
    assert predict(tmp_path / "in", "-o", tmp_path / "1") == 0
    assert "that are no images" not in capsys.readouterr().err
    (tmp_path / "in" / "notes.txt").write_text("of mine")
    assert predict(tmp_path / "in", "-o", tmp_path / "2") == 0
    assert "skipped 1 files that are no images: notes.txt" in capsys.readouterr().err
    (tmp_path / "in" / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "in" / "c.AVIF").write_bytes(b"")
    assert predict(tmp_path / "in", "-o", tmp_path / "3") == 1
    assert "error: 2 images of an unsupported format: b.heic, c.AVIF" in one_line(capsys)


@pytest.mark.parametrize("spec", ["in", "in/*"])
def test_a_pipe_is_named_and_not_waited_for(tmp_path, predict, capsys, spec):
    picture(tmp_path / "in" / "a.png")
    for name in ("b.png", "control"):
        os.mkfifo(tmp_path / "in" / name)
    assert predict(tmp_path / spec, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"skipped {tmp_path / 'in' / 'b.png'}: is a pipe or a device, expected a file" in error
    assert "skipped 1 files that are no images: control" in error
    assert "error: 1 of 2 frames skipped" in error


def test_a_file_beside_a_pipe_is_known_by_its_content(tmp_path, predict, capsys):
    picture(tmp_path / "a.png").rename(tmp_path / "a")
    os.mkfifo(tmp_path / "control")
    assert predict(tmp_path, "-o", tmp_path / "out") == 0
    assert "skipped 1 files that are no images: control" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a.png", "a.mp4", "a.mcap", "a"])
@pytest.mark.parametrize("spec", ["in", "in/{}"])
def test_a_pipe_alone_is_refused(tmp_path, predict, capsys, name, spec):
    (tmp_path / "in").mkdir()
    os.mkfifo(tmp_path / "in" / name)
    assert predict(tmp_path / spec.format(name), "-o", tmp_path / "out") == 2
    assert "is a pipe or a device, expected a file" in capsys.readouterr().err


def test_labels_that_are_a_pipe_are_not_waited_for(tmp_path):
    for number in range(2):
        picture(tmp_path / "in" / f"{number}.png")
    (tmp_path / "labels").mkdir()
    os.mkfifo(tmp_path / "labels" / "0.png")
    errors: list[Exception] = []
    source = open_source(
        str(tmp_path / "in"), labels=str(tmp_path / "labels"), on_damaged=errors.append
    )
    assert [frame.name for frame in source] == ["1.png"]
    assert str(errors[0]).startswith(f"{tmp_path / 'labels' / '0.png'}: is a pipe or a device")


@pytest.mark.parametrize("spec", ["in", "in/*.png"])
def test_a_link_to_nowhere_is_a_picture_that_cannot_be_read(tmp_path, predict, capsys, spec):
    picture(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").symlink_to(tmp_path / "gone.png")
    assert predict(tmp_path / spec, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert f"skipped {tmp_path / 'in' / 'b.png'}: No such file or directory" in error
    assert "error: 1 of 2 frames skipped" in error


def test_folders_below_are_looked_into_if_asked_for(tmp_path, predict, capsys):
    for name in ("front/1.png", "front/2.png", "rear/1.png", ".hidden/1.png"):
        picture(tmp_path / "in" / name)
    assert predict(tmp_path / "in", "-o", tmp_path / "out", "--save", "masks") == 2
    assert "it has the folders .hidden, front, rear (--recursive)" in one_line(capsys)
    words = (tmp_path / "in", "-o", tmp_path / "out", "--save", "masks", "--recursive")
    assert predict(*words) == 0
    assert files(tmp_path / "out" / "masks") == ["front/1.png", "front/2.png", "rear/1.png"]
    assert predict(*words, "--overwrite") == 0  # also of results in folders


def test_an_excerpt_of_pictures(tmp_path, predict, capsys):
    for number in range(10):
        picture(tmp_path / "in" / f"{number}.png")
    words = (tmp_path / "in", "--save", "fractions", "--start", 2, "--end", 9, "--every", 3)
    assert predict(*words, "-o", tmp_path / "out") == 0
    assert [row["frame"] for row in rows(tmp_path / "out")] == ["2", "5", "8"]
    assert predict(tmp_path / "in", "-o", tmp_path / "none", "--start", "1h") == 2
    assert "got '1h', expected frames as in 30, or seconds as in 2s" in one_line(capsys)
    assert predict(tmp_path / "in", "-o", tmp_path / "none", "--start", "99s") == 1
    assert "no frame between --start and --end" in one_line(capsys)


def test_a_damaged_video_fails_and_keeps_what_it_gave(tmp_path, predict, capsys):
    path = tmp_path / "a.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for level in range(30):
        writer.write(np.full((48, 64, 3), 8 * level, np.uint8))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert predict(path, "-o", tmp_path / "out", "--save", "fractions,video") == 1
    error = capsys.readouterr().err
    assert " frames read of the 30 that the file claims" in error
    assert "error: the source is damaged and frames are lost" in error
    assert 1 < len(rows(tmp_path / "out")) < 30 and (tmp_path / "out" / "video.mp4").exists()


def test_a_panorama_fits_into_a_video(tmp_path, predict):
    done, data = cv2.imencode(".png", np.zeros((3, 9000, 3), np.uint8))
    (tmp_path / "a.png").write_bytes(data.tobytes())
    assert done and predict(tmp_path / "a.png", "-o", tmp_path / "out", "--save", "video") == 0


def test_help_lists_the_formats(capsys, predict):
    assert predict("--help") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("JPEG", "WebP", "MKV", "rtsp://", "/dev/videoN", "ROS 1"))


def test_the_demo_does_not_write_to_its_source(tmp_path, model, capsys):
    source = picture(tmp_path / "frame_0000.png", 40)
    before = source.read_bytes()
    words = ["--source", str(tmp_path), "--output", str(tmp_path), "--model", str(model)]
    assert main(["demo", *words]) == 2
    assert f"{source} is read and would be overwritten" in one_line(capsys)
    assert source.read_bytes() == before and files(tmp_path) == ["frame_0000.png"]
