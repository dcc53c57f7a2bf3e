"""`train --data DIR`: what follows from the frames, the weights and the machine, and is told."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from labelled_set import CLASSES, write_set  # noqa: E402

from bisenetv2_ros.cli import main as cli  # noqa: E402
from bisenetv2_ros.model_file import models_directory  # noqa: E402
from bisenetv2_ros.training import outlook, plan, run_record  # noqa: E402
from bisenetv2_ros.training.checkpoint import list_checkpoints, read_run_header  # noqa: E402
from bisenetv2_ros.training.dataset_layouts import load_dataset  # noqa: E402
from bisenetv2_ros.training.datasets import FileDataset  # noqa: E402
from bisenetv2_ros.training.distributed import Place  # noqa: E402
from bisenetv2_ros.training.recipe import load_recipe  # noqa: E402
from bisenetv2_ros.training.run_record import duration  # noqa: E402
from bisenetv2_ros.training.starting_weights import settings_of  # noqa: E402

CPU = Place(0, 1, torch.device("cpu"))


@pytest.fixture
def my_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_set(tmp_path / "my_set")


def train(*words: str) -> int:
    return cli.main(["--device", "cpu", *words], verb="train")


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((640, 480), (640, 480)),
        ((1920, 1080), (736, 416)),  # the camera's shape, the pixels of 640x480
        ((480, 360), (480, 360)),
        ((320, 240), (480, 360)),  # small things need pixels
        ((96, 72), (192, 144)),  # but no more than twice
        ((2048, 512), (1112, 280)),
    ],
)
def test_the_networks_size_has_the_frames_shape(frame, expected):
    assert plan.network_size(frame) == expected


def test_keys_follow_from_frames_and_device(my_set: Path):
    training = load_dataset("folder", my_set, "train")
    found = plan.adapted(load_recipe("finetune"), training, CPU)
    assert found["model"] == {"num_classes": 3}
    assert (found["input_size"], found["crop"]) == ((192, 144), (144, 112))
    assert (found["train_size"], found["scales"]) == (None, (1.5, 3.0)), "of 96x72"
    cv2.imwrite(str(my_set / "images/03.png"), np.zeros((60, 60, 3), np.uint8))
    cv2.imwrite(str(my_set / "labels/03.png"), np.zeros((60, 60), np.uint8))
    mixed = plan.adapted(load_recipe("finetune"), training, CPU)
    assert (mixed["train_size"], mixed["scales"]) == ((192, 144), (0.75, 1.5)), "of the resized"


def test_the_schedule_follows_from_the_number_of_steps():
    assert plan.schedule(200) == {
        "iterations": 200, "warmup": 10, "validate_every": 20, "checkpoint_every": 20,
    }  # fmt: skip
    assert [plan.wanted_steps(n) for n in (1, 40, 160, 4000)] == [100, 300, 600, 3000]


def test_one_command_trains_on_a_folder(my_set: Path, capsys):
    """Nothing but the folder is told; the steps are few because this is a test."""
    assert train("--data", "my_set", "iterations=2") == 0
    said = capsys.readouterr().out
    assert "no val split: the last fifth of the frames" in said
    assert (
        "data: 8 frames of 96x72 to train on, 2 to validate on; classes ground, wall, sky" in said
    )
    assert re.search(
        r"^2 steps of \d+\.\d\d s \(measured\), \d+\.\d GB of \d+\.\d GB free memory; done in "
        r"about \d+ (s|min), \w{3} \d\d:\d\d$",
        said,
        re.MULTILINE,
    )
    assert "starting from bisenetv2_camvid_640x480_float32; at random: head.2" in said
    assert re.search(r"^step 1/2: loss .*, \d+ s left$", said, re.MULTILINE)
    header = read_run_header(Path("runs/my_set"))
    assert header["labels"]["names"] == ["ground", "wall", "sky"]
    assert header["recipe"]["model"]["head_channels"] == 128, "of the weights"
    assert header["data_folder"] == str(my_set)

    shutil.rmtree(list_checkpoints(Path("runs/my_set"))[-1])
    assert train("--resume", "--output", "runs/my_set") == 0
    assert "resuming runs/my_set at step 1 of 2" in capsys.readouterr().out
    again = read_run_header(Path("runs/my_set"))
    assert again["recipe"] == header["recipe"], "the plan of the first time holds"


def test_time_limits_the_steps_on_a_cpu(my_set: Path, monkeypatch):
    training = load_dataset("folder", my_set, "train")
    said: list[str] = []

    def planned(seconds: float, given: set[str], place: Place = CPU):
        measured = outlook.Outlook(seconds, 10**9, 10**10)
        monkeypatch.setattr(plan, "measure", lambda *_: measured)
        recipe = load_recipe("finetune")
        return plan.plan(recipe, given, training, training, place, None, said.append)

    fast = planned(1.0, set())
    assert (fast.iterations, fast.minutes, fast.validate_every) == (150, plan.CPU_MINUTES, 15)
    assert not any("would suit" in line for line in said)
    slow = planned(10.0, set())
    assert (slow.iterations, slow.minutes) == (150, 20), "more than now fit: it may become faster"
    assert (slow.warmup, slow.validate_every) == (6, 12), "of the 120 that fit"
    assert "steps: about 120, for 20 minutes on this machine; iterations=150 would suit" in said[-2]
    assert " steps of 10.00 s (measured)" in said[-1] and "done in about 20 min" in said[-1]
    assert planned(60.0, set()).minutes == plan.CPU_MINUTES, "however slow it is"
    assert planned(60.0, {"minutes"}).minutes == 0, "as given"
    given = planned(60.0, {"iterations", "crop", "model.num_classes"} - {"model.num_classes"})
    assert given.iterations == load_recipe("finetune").iterations
    assert given.minutes == 0, "who tells the steps waits for them"
    assert given.crop == (640, 480), "as given"


def test_what_does_not_fit_into_memory_is_refused_before_the_first_step(
    my_set: Path, monkeypatch, capsys
):
    monkeypatch.setattr(outlook, "available_memory", lambda: 1)
    assert train("--data", "my_set", "iterations=2") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(
        r"8 frames of 144x112 at once take about \d+\.\d GB on cpu, 0.0 GB are free: expected less",
        error,
    )
    assert not Path("runs").exists()


def test_a_smaller_batch_that_fits_is_named(my_set: Path, monkeypatch):
    recipe = load_recipe("finetune", ["batch_size=8", "crop=[96, 96]", "workers=0"])
    sizes = iter([1000] * 10)
    monkeypatch.setattr(outlook._PeakMemory, "bytes", property(lambda self: next(sizes)))
    monkeypatch.setattr(outlook, "_steps", lambda *_: 1.0)
    monkeypatch.setattr(outlook, "available_memory", lambda: 2500)
    training = load_dataset("folder", my_set, "train")
    with pytest.raises(RuntimeError, match=r"expected less, such as micro_batch=4$"):
        outlook.measure(recipe, training, CPU)  # 4000 bytes for 8, 2000 for 4
    monkeypatch.setattr(outlook, "available_memory", lambda: 4000)
    assert outlook.measure(recipe, training, CPU).seconds == 1.0


def test_nothing_to_train_on_is_told(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train() == 2
    assert "--data or --config is missing" in capsys.readouterr().err


def test_a_range_of_the_frames_is_a_split(my_set: Path):
    first, last = (load_dataset("folder", my_set, f"train:{s}") for s in ("..80%", "80%.."))
    assert isinstance(first, FileDataset) and isinstance(last, FileDataset)
    assert [frame.stem for frame, _ in first.pairs] == [f"{i:02}" for i in range(8)]
    assert [frame.stem for frame, _ in last.pairs] == ["08", "09"]


def test_weights_tell_the_networks_keys():
    """So that nobody finds them out one error a try."""
    file = models_directory() / "bisenetv2_camvid_640x480_float32.onnx"
    found = settings_of(file)
    assert (found["mean"], found["std"]) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = found["model"]
    assert (model["head_channels"], model["head_shuffle"]) == (128, 2)
    assert "num_classes" not in model and "boosters" not in model, "these are the run's own"


# --- records --------------------------------------------------------------------------------------


@pytest.fixture
def finished(my_set: Path) -> Path:
    words = ["iterations=1", "batch_size=2", "model.head_channels=8", "model.width=0.25"]
    small = Path("small.yaml")
    small.write_text(
        "dataset: folder\ninput_size: [64, 64]\ncrop: [64, 64]\niterations: 1\nworkers: 0\n"
        "model: {num_classes: 3}\n"
    )
    run = Path("runs/small")
    assert train("--config", str(small), "--data", "my_set", "--output", str(run), *words) == 0
    return run


def resume(run: Path, *words: str) -> int:
    small = ["batch_size=2", "model.head_channels=8", "model.width=0.25", *words]
    return train(
        "--config", "small.yaml", "--data", "my_set", "--output", str(run), "--resume", *small
    )


def test_classes_in_another_order_are_not_resumed(finished: Path, my_set: Path, capsys):
    renamed = CLASSES.replace("wall", "x").replace("ground", "wall").replace("x", "ground")
    (my_set / "classes.yaml").write_text(renamed)
    assert resume(finished) == 2
    error = capsys.readouterr().err.strip()
    assert "its class 0 was 'ground', the dataset now has 'wall'" in error
    (my_set / "classes.yaml").write_text(CLASSES.replace(", {name: sky}", ""))
    assert resume(finished, "model.num_classes=3") != 0


def test_more_steps_are_another_run(finished: Path, capsys):
    assert resume(finished, "iterations=8") == 2
    error = capsys.readouterr().err.strip()
    assert "cannot resume with iterations = 8, the run was started with 1" in error
    assert f"`bisenetv2 train --from {finished} --output {finished}_longer" in error


def test_other_steps_than_the_plan_s_are_told_too(finished: Path, capsys):
    """Also if they are fewer than the run's warm-up, and with no recipe given."""
    header = read_run_header(finished)
    header["recipe"] |= {"iterations": 100, "warmup": 20}
    (finished / "recipe.json").write_text(json.dumps(header))
    assert train("--resume", "--output", str(finished), "iterations=8") == 2
    error = capsys.readouterr().err.strip()
    assert "cannot resume with iterations = 8, the run was started with 100" in error


def test_nothing_labelled_is_no_nan_in_the_records(my_set: Path, capsys):
    for split, value in (("train", 0), ("val", 255)):
        for kind in ("images", "labels"):
            shutil.copytree(my_set / kind, my_set / split / kind)
        if value:
            for path in (my_set / split / "labels").iterdir():
                cv2.imwrite(str(path), np.full((72, 96), value, np.uint8))
    for kind in ("images", "labels"):
        shutil.rmtree(my_set / kind)
    assert train("--data", "my_set", "iterations=1", "batch_size=2") == 0
    text = Path("runs/my_set/metrics.jsonl").read_text()
    assert "NaN" not in text
    records = [json.loads(line) for line in text.splitlines()]
    assert [r["val_miou"] for r in records if "val_miou" in r] == [None]
    assert "no pixel of the split has a label" in capsys.readouterr().out
    assert Path("runs/my_set/report/report.html").is_file()


def test_progress_is_told_by_time(tmp_path: Path, monkeypatch):
    """Without a terminal: at the first step, then every so often, with the time left."""
    now = [0.0]
    monkeypatch.setattr(run_record.time, "monotonic", lambda: now[0])
    said: list[str] = []
    recipe = load_recipe("finetune", ["iterations=100"])
    with run_record.RunLog(tmp_path, 0, recipe, said.append) as log:
        for step in range(1, 8):
            now[0] += 6.0
            log.step(step, {"main": 1.0}, 0.1, 100 - step)
    assert [line.split(":")[0] for line in said] == ["step 1/100", "step 4/100", "step 7/100"]
    assert said[-1].endswith(f"{duration(93 * 6.0)} left") and duration(558) == "9 min"
    assert [duration(s) for s in (0.4, 89, 5400, 3660 * 9)] == [
        "0 s",
        "89 s",
        "1 h 30 min",
        "9 h 09 min",
    ]


def test_a_run_that_its_minutes_ended_is_complete(my_set: Path, capsys):
    """With fewer steps than the recipe has, at the end of the rate; it is not gone on with."""
    words = ("iterations=5000", "minutes=0.02", "batch_size=2", "crop=[32, 32]", "workers=0")
    assert train("--data", "my_set", *words) == 0
    said = capsys.readouterr().out
    assert "steps: about" in said and "0.02 minutes were enough for" in said
    run = Path("runs/my_set")
    (newest,) = list_checkpoints(run)[-1:]
    state = json.loads((newest / "state.json").read_text())
    assert state["progress"] == 1 and 0 < state["step"] < 5000
    steps = [r for r in run_record.read_metrics(run / "metrics.jsonl") if "lr" in r]
    assert len(steps) == state["step"]
    assert (run / "report/report.html").is_file()
    assert train("--resume", "--output", str(run)) == 0
    said = capsys.readouterr().out
    assert f"is complete: {state['step']} steps" in said
    assert "(measured)" not in said, "nothing is measured for no steps"
    assert train("--resume", "--output", str(run), "minutes=9") == 2
    assert "cannot resume with minutes = 9" in capsys.readouterr().err


def test_what_is_no_run_is_not_resumed(my_set: Path, capsys):
    assert train("--resume") == 2
    assert "--output is missing: the folder of the run to resume" in capsys.readouterr().err
    assert train("--resume", "--output", "my_set") == 2
    assert "my_set: no run to resume, expected a folder with recipe.json" in capsys.readouterr().err
