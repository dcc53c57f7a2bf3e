"""Whole runs of a tiny network: killed, stopped, starved or shared out, they end as they should."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from long_run import long_or_short  # noqa: E402
from patience import HANG  # noqa: E402

from bisenetv2_ros.cli import main as cli  # noqa: E402
from bisenetv2_ros.training import dataset_layouts, loop, plan, run_record, state  # noqa: E402
from bisenetv2_ros.training import distributed as processes  # noqa: E402
from bisenetv2_ros.training.checkpoint import (  # noqa: E402
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_network,
    read_run_header,
    write_run_header,
)
from bisenetv2_ros.training.datasets import Sample  # noqa: E402
from bisenetv2_ros.training.outlook import Outlook  # noqa: E402
from bisenetv2_ros.training.recipe import Recipe, recipe_from_dict  # noqa: E402
from bisenetv2_ros.training.run_record import read_metrics  # noqa: E402

STEPS = 10
RECIPE = {
    "name": "tiny",
    "dataset": "camvid",
    "input_size": [64, 64],
    "crop": [64, 64],
    "scale_range": True,
    "jitter": 0.3,
    "model": {"num_classes": 11, "width": 0.25, "head_channels": 8, "booster_channels": 8},
    "iterations": STEPS,
    "batch_size": 4,
    "warmup": 3,
    "class_weights": "log",
    "ema": 0.9,
    "checkpoint_every": 3,
    "workers": 0,
}


def recipe(**changes) -> Recipe:
    return recipe_from_dict({**RECIPE, **changes})


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums are added up in another order by another number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven frames of noise with blobs for labels: an odd number, so that batches cross epochs."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for split, count in (("train", 7), ("val", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for i in range(count):
            label = cv2.resize(rng.integers(0, 12, (3, 4), np.uint8), (96, 72), interpolation=0)
            image = rng.integers(0, 60, (72, 96, 3), np.uint8) + 15 * label[..., None]
            cv2.imwrite(str(root / split / "images" / f"{i}.png"), image)
            cv2.imwrite(str(root / split / "labels" / f"{i}.png"), label)
    return root


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def uninterrupted(request, data, tmp_path_factory):
    """A run that nothing happened to, with data loaded in the process itself."""
    run = tmp_path_factory.mktemp("whole") / "run"
    torch.set_num_threads(1)
    loop.train(recipe(precision=request.param), data, run, say=lambda _: None)
    return request.param, run


def command(data: Path, run: Path, *words: str, **changes) -> list[str]:
    file = run.with_suffix(".yaml")
    file.write_text(json.dumps({**RECIPE, **changes}))  # JSON is YAML
    options = ["--config", str(file), "--data", str(data), "--output", str(run), "--device", "cpu"]
    return [sys.executable, "-m", "bisenetv2_ros.cli.main", "train", *options, *words]


def start(words: list[str], **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + HANG
    while time.monotonic() < deadline:
        done = [record["step"] for record in read_metrics(run / "metrics.jsonl")]
        if done and max(done) >= step:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    pytest.fail(f"no step {step} in {HANG} s")


def assert_same_end(one: Path, two: Path) -> None:
    """Weights, moving average and momentum of two runs are equal to the last bit."""
    ends = [load_checkpoint(list_checkpoints(run)[-1]) for run in (one, two)]
    assert ends[0].step == ends[1].step == STEPS
    for kind in ("model", "ema", "momentum"):
        tensors = [getattr(end, kind) for end in ends]
        assert tensors[0].keys() == tensors[1].keys() and tensors[0]
        for name, tensor in tensors[0].items():
            assert torch.equal(tensor, tensors[1][name]), f"{kind}: {name}"
    curves = [
        [(r["step"], r["loss"]) for r in read_metrics(run / "metrics.jsonl") if "loss" in r]
        for run in (one, two)
    ]
    assert curves[0] == curves[1], "each step is there once, with the same loss"


# --- killed, stopped ------------------------------------------------------------------------------


@pytest.mark.long_run
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kill", range(long_or_short(10, 1)))  # for each of two precisions
def test_sigkill_and_resume_is_bit_identical(uninterrupted, data, tmp_path, kill):
    """Killed at a random moment, resumed, with data from a worker process: the same end."""
    precision, whole = uninterrupted
    run = tmp_path / "run"
    process = start(command(data, run, precision=precision, workers=1))
    # from step 4 on: the checkpoint of step 3 is written after that step is noted
    wait_for_step(run, random.randint(4, STEPS - 2), process)
    time.sleep(random.uniform(0, 0.1))
    process.kill()
    process.communicate()
    assert list_checkpoints(run)
    said = []
    loop.train(recipe(precision=precision, workers=1), data, run, resume=True, say=said.append)
    assert any("resuming" in line for line in said)
    assert_same_end(whole, run)


def test_sigterm_saves_and_exits_zero(data, tmp_path):
    run = tmp_path / "run"
    process = start(command(data, run, iterations=10_000, checkpoint_every=0))
    wait_for_step(run, 2, process)
    process.terminate()
    printed, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    assert "stopped by SIGTERM after step" in printed
    (newest,) = list_checkpoints(run)
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl")]
    assert load_checkpoint(newest).step == max(steps) >= 2


def test_stopped_and_resumed_is_bit_identical(uninterrupted, data, tmp_path):
    """Workers that load data do not die of a SIGTERM that all processes of the run are sent."""
    precision, whole = uninterrupted
    run = tmp_path / "run"

    def stop_at_once(line: str) -> None:
        if line.startswith("step 1/"):
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    changes = {"precision": precision, "workers": 1}
    newest = loop.train(recipe(**changes), data, run, say=stop_at_once)
    assert newest.name in ("step_00000001", "step_00000002")
    loop.train(recipe(**changes), data, run, resume=True, say=lambda _: None)
    assert_same_end(whole, run)


def test_stopped_while_it_validates(data, tmp_path, monkeypatch):
    def stop_then_read(self, index):
        if index == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return Sample(np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8), "x")

    real = dataset_layouts.load_dataset

    def load(kind, root, split):
        dataset = real(kind, root, split)
        if split == "val":
            dataset.__class__ = type("Stopping", (type(dataset),), {"__getitem__": stop_then_read})
        return dataset

    monkeypatch.setattr(dataset_layouts, "load_dataset", load)
    newest = loop.train(recipe(validate_every=2), data, tmp_path / "run", say=lambda _: None)
    assert newest.name in ("step_00000002", "step_00000003")
    assert not [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "val_miou" in r]


# --- what a run leaves ----------------------------------------------------------------------------


def test_what_a_run_leaves(uninterrupted):
    precision, run = uninterrupted
    header = json.loads((run / "recipe.json").read_text())
    assert recipe_from_dict(header["recipe"]) == recipe(precision=precision)
    assert header["data"]["samples"] == 7 and len(header["data"]["fingerprint"]) == 64
    assert header["versions"]["torch"] == torch.__version__
    records = read_metrics(run / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == list(range(1, STEPS + 1))
    assert records[0]["lr"] == pytest.approx(0.05 / 3)
    assert 0 <= records[-1]["val_miou"] <= 1 and set(records[-1]["val_iou"]) >= {"road", "car"}
    assert load_network(run).step == STEPS
    assert list((run / "tensorboard").iterdir())


def test_the_revision_is_not_that_of_a_repository_around_an_installed_package(
    tmp_path, monkeypatch
):
    file = tmp_path / "site-packages" / "run_record.py"
    file.parent.mkdir()
    file.touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    monkeypatch.setattr(run_record, "__file__", str(file))
    assert run_record.source_revision() == f"v{run_record.__version__}"
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "y"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert head.stdout.startswith(run_record.source_revision())


def test_report_links_every_picture(uninterrupted):
    pytest.importorskip("matplotlib")
    page = (uninterrupted[1] / "report" / "report.html").read_text()
    pictures = {path.name for path in (uninterrupted[1] / "report").glob("*.png")}
    assert {"training.png", "iou.png", "confusion.png", "best_1.png", "worst_1.png"} <= pictures
    assert all(f'src="{name}"' in page for name in pictures)


def test_a_complete_run_stays_as_it_is(uninterrupted, data, tmp_path):
    precision, whole = uninterrupted
    run = shutil.copytree(whole, tmp_path / "run")
    said = []
    loop.train(recipe(precision=precision), data, run, resume=True, say=said.append)
    assert said[0].startswith("device: ") and said[0].endswith(" 1 threads")
    assert f"{run} is complete: {STEPS} steps" in said
    assert_same_end(whole, run)


def test_runs_are_not_mixed_up(uninterrupted, data, tmp_path):
    precision, whole = uninterrupted
    with pytest.raises(state.TrainingError, match="holds a run already: add --resume"):
        loop.train(recipe(precision=precision), data, whole)
    other = recipe(precision=precision, learning_rate=0.01)
    with pytest.raises(
        CheckpointError, match=r"learning_rate = 0\.01, the run was started with 0\.05"
    ):
        loop.train(other, data, whole, resume=True)
    grown = shutil.copytree(data, tmp_path / "grown")
    shutil.copy(grown / "train/images/0.png", grown / "train/images/7.png")
    with pytest.raises(CheckpointError, match="its dataset had 7 samples"):
        loop.train(recipe(precision=precision), grown, whole, resume=True)


def test_a_run_starts_from_another(uninterrupted, data, tmp_path):
    """Steps of almost no length leave the weights where the first run left them."""
    precision, whole = uninterrupted
    changes = {"iterations": 2, "learning_rate": 1e-9, "ema": 0, "warmup": 0}
    run = tmp_path / "run"
    start_words = ["--from", str(whole), "--output", str(run), "--data", str(data)]
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps({**RECIPE, "precision": precision}))
    overrides = [f"{key}={value}" for key, value in changes.items()]
    words = [*overrides[:2], "--config", str(file), *start_words, *overrides[2:]]
    assert cli.main(["train", *words]) == 0
    before = load_network(whole).network.state_dict()
    after = load_network(run).network.state_dict()
    assert load_checkpoint(list_checkpoints(run)[-1]).step == 2
    for key, value in before.items():
        if key.endswith("weight"):
            torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6)
    assert read_run_header(run)["start"] == {"source": str(whole), "sha256": "", "anew": []}


def test_resumed_before_its_first_checkpoint_a_run_starts_from_the_same(data, tmp_path):
    """Killed early, all that is left is recipe.json."""
    changes = {"iterations": 1, "warmup": 0, "ema": 0, "validate_every": 0}
    source, whole, run = (tmp_path / name for name in ("source", "whole", "run"))
    loop.train(recipe(**changes, seed=1), data, whole, say=lambda _: None)
    shutil.copytree(whole, source)
    changes["learning_rate"] = 1e-9
    loop.train(recipe(**changes), data, run, start=source, say=lambda _: None)
    header = read_run_header(run)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"power = 0\.5, the run was started with 0\.9"):
        loop.train(recipe(**changes, power=0.5), data, run, resume=True, say=lambda _: None)

    said = []
    loop.train(recipe(**changes), data, run, resume=True, say=said.append)
    assert f"{run} has no checkpoint to resume from: starting at step 0" in said
    assert f"starting from {source}; at random: nothing" in said
    assert read_run_header(run)["start"] == header["start"]
    (one, other) = (load_network(r).network.head[2].weight for r in (run, whole))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)

    shutil.rmtree(run / "checkpoints")
    write_run_header(run, {**header, "start": {**header["start"], "sha256": "0123" * 16}})
    with pytest.raises(CheckpointError, match=r"with sha256 012301230123, .* give --from again"):
        loop.train(recipe(**changes), data, run, resume=True, say=lambda _: None)
    shutil.rmtree(source)
    with pytest.raises(CheckpointError, match=r"started from .* cannot be used now .* give --from"):
        loop.train(recipe(**changes), data, run, resume=True, say=lambda _: None)
    loop.train(recipe(**changes), data, run, resume=True, start=whole, say=lambda _: None)
    assert read_run_header(run)["start"]["source"] == str(whole)


def test_moving_average_by_hand():
    network = torch.nn.BatchNorm1d(1)
    average = state.MovingAverage(network, 0.5)
    network.weight.data.fill_(3.0)  # was 1
    network.running_mean.fill_(1.0)  # was 0
    network.num_batches_tracked.fill_(7)
    average.update(network, step=0)  # decay (1 + 0) / (10 + 0)
    assert float(average.weights["weight"]) == pytest.approx(0.1 * 1 + 0.9 * 3)
    assert float(average.weights["running_mean"]) == pytest.approx(0.9)
    assert int(average.weights["num_batches_tracked"]) == 7
    average.update(network, step=1000)  # the recipe's decay
    assert float(average.weights["weight"]) == pytest.approx(0.5 * 2.8 + 0.5 * 3)


def test_weight_decay_is_for_convolutions_alone():
    from bisenetv2_ros.training.model import BiSeNetV2

    network = BiSeNetV2(recipe().model)
    decayed, plain = state.parameter_groups(network, 5e-4)
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert {id(p) for p in decayed["params"]} == {id(m.weight) for m in convolutions}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (5e-4, 0)
    assert len(decayed["params"]) + len(plain["params"]) == len(list(network.parameters()))


@pytest.fixture
def folder(data, tmp_path):
    """The same frames as somebody's own data set, whose unlabelled pixels are 11."""
    root = shutil.copytree(data, tmp_path / "folder")
    classes = [{"name": f"class {i}", "colour": [i, 0, 0]} for i in range(11)]
    (root / "classes.yaml").write_text(json.dumps({"ignore_index": 11, "classes": classes}))
    return root


def test_the_loss_is_told_of_labels_and_network(folder, tmp_path, monkeypatch):
    seen = []
    real = loop.segmentation_loss
    monkeypatch.setattr(loop, "segmentation_loss", lambda *a, **o: seen.append(o) or real(*a, **o))
    changes = {"iterations": 1, "warmup": 0, "dataset": "folder"}
    chosen = recipe(**changes, model={**RECIPE["model"], "align_corners": True})
    loop.train(chosen, folder, tmp_path / "run", say=lambda _: None)
    assert [(o["ignore_index"], o["align_corners"]) for o in seen] == [(11, True)]


# --- faults ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path, monkeypatch, capsys):
    calls = []
    real = loop.segmentation_loss

    def broken_at_the_fifth(*args, **options):
        losses = real(*args, **options)
        calls.append(1)
        return {**losses, "main": losses["main"] * math.nan} if len(calls) == 5 else losses

    monkeypatch.setattr(loop, "segmentation_loss", broken_at_the_fifth)
    monkeypatch.setattr(plan, "measure", lambda *_: Outlook(1.0, 0, 1))  # its steps do not count
    run = tmp_path / "run"
    assert cli.main(command(data, run)[4:], verb="train") == 1
    error = capsys.readouterr().err
    assert "loss is not finite at step 4 (main nan, booster0 " in error
    assert "the last good checkpoint is" in error and "step_00000003" in error
    (kept,) = list_checkpoints(run)
    assert all(w.isfinite().all() for w in load_checkpoint(kept).model.values())


def test_weights_that_are_not_finite_are_not_saved(data, tmp_path, monkeypatch):
    real = state.TrainingState.step

    def explode(self, step):
        real(self, step)
        next(self.network.parameters()).data[0] = math.inf

    monkeypatch.setattr(state.TrainingState, "step", explode)
    with pytest.raises(state.TrainingError, match="is not finite"):
        loop.train(recipe(checkpoint_every=1), data, tmp_path / "run", say=lambda _: None)
    assert not list_checkpoints(tmp_path / "run")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_frame_ends_the_run_by_name(data, tmp_path, workers, capsys):
    damaged = shutil.copytree(data, tmp_path / "data")
    os.truncate(damaged / "train/images/3.png", 100)
    words = command(damaged, tmp_path / "run", workers=workers, class_weights="none")[4:]
    assert cli.main(words, verb="train") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"bisenetv2 train: error: {damaged}/train/images/3.png: ends after 100")


def test_a_label_out_of_range_ends_the_run_by_name(data, tmp_path, capsys):
    faulty = shutil.copytree(data, tmp_path / "data")
    label = np.zeros((72, 96), np.uint8)
    label[40, 50] = 77
    cv2.imwrite(str(faulty / "train/labels/3.png"), label)
    words = command(faulty, tmp_path / "run", class_weights="none")[4:]
    assert cli.main(words, verb="train") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{faulty}/train/labels/3.png: label value 77, expected 0..10 or 255" in error


def test_damaged_frames_are_skipped_on_demand(data, tmp_path):
    damaged = shutil.copytree(data, tmp_path / "data")
    os.truncate(damaged / "train/images/3.png", 100)
    said = []
    loop.train(
        recipe(damaged="skip", class_weights="none"), damaged, tmp_path / "run", say=said.append
    )
    # 40 samples are 5 whole epochs of 7 and 5 of the next
    counted = [line for line in said if "damaged samples were skipped" in line]
    assert len(counted) == 1 and counted[0].split()[0] in ("5", "6")


def test_damaged_frames_are_left_out_of_validation_and_class_weights(data, tmp_path):
    damaged = shutil.copytree(data, tmp_path / "data")
    for name in ("train/images/3.png", "val/labels/1.png"):
        os.truncate(damaged / name, 100)
    chosen = {"damaged": "skip", "iterations": 1, "warmup": 0}
    said, run = [], tmp_path / "run"
    loop.train(recipe(**chosen), damaged, run, say=said.append)
    assert "class_weights: 1 damaged samples were left out" in said
    assert "validation: 1 damaged samples were left out" in said
    assert 0 <= read_metrics(run / "metrics.jsonl")[-1]["val_miou"] <= 1
    os.truncate(damaged / "val/labels/0.png", 100)
    with pytest.raises(ValueError, match="every validation sample is damaged"):
        loop.train(recipe(**chosen), damaged, tmp_path / "other", say=lambda _: None)


@pytest.mark.parametrize("name", ["train/labels/3.png", "val/labels/0.png"])
def test_every_label_is_looked_at_before_the_first_step(data, tmp_path, monkeypatch, name):
    """A label that would be read hours later ends the run at once, or is counted at once."""
    damaged = shutil.copytree(data, tmp_path / "data")
    os.truncate(damaged / name, 100)
    monkeypatch.setattr(loop, "make_batches", lambda *_: pytest.fail("the run has begun"))
    with pytest.raises(ValueError, match=rf"{name}: "):
        loop.train(recipe(class_weights="none"), damaged, tmp_path / "run", say=lambda _: None)
    assert not list((tmp_path / "run").glob("checkpoints/*"))
    monkeypatch.undo()
    said = []
    chosen = {"damaged": "skip", "iterations": 1, "warmup": 0, "class_weights": "none"}
    loop.train(recipe(**chosen), damaged, tmp_path / "run", say=said.append)
    assert "labels: 1 damaged samples were left out" in said


def test_validation_on_the_training_frames_is_told(folder, tmp_path):
    shutil.rmtree(folder / "val")
    (folder / "train").rename(tmp_path / "frames")
    for kind in ("images", "labels"):
        (tmp_path / "frames" / kind).rename(folder / kind)
    said = []
    changes = {"iterations": 1, "warmup": 0, "dataset": "folder"}
    loop.train(recipe(**changes), folder, tmp_path / "run", say=said.append)
    assert len([line for line in said if "are the same 7 frames" in line]) == 1


def test_a_dead_data_worker_is_named(data, tmp_path):
    def kill_workers(line: str) -> None:
        if line.startswith("step 1/"):
            for child in multiprocessing.active_children():
                child.kill()

    changes = {"workers": 1, "iterations": 500}
    with pytest.raises(state.TrainingError, match="data loading failed: a data worker was lost"):
        loop.train(recipe(**changes), data, tmp_path / "run", say=kill_workers)


def test_a_data_worker_that_dies_at_another_moment_is_named_too(data, tmp_path, monkeypatch):
    """torch raises it from a signal handler, so in the middle of anything."""

    def killed(*_: object) -> None:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr(loop, "save_checkpoint", killed)
    with pytest.raises(state.TrainingError, match=r"a data worker was lost: .*pid 7"):
        loop.train(recipe(), data, tmp_path / "run", say=lambda _: None)


def test_a_full_disk_keeps_the_last_good_checkpoint(uninterrupted, data, tmp_path):
    precision, whole = uninterrupted
    run = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(list_checkpoints(run)[-1])  # so that there are steps left to do
    (kept,) = list_checkpoints(run)
    before = (kept / "model.safetensors").read_bytes()

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, len(before) // 2))

    # No .pyc: Python leaves one that did not fit, and no later process can import it.
    words = command(data, run, "--resume", precision=precision)
    process = start(words, preexec_fn=no_room, env={"PYTHONDONTWRITEBYTECODE": "1"})
    errors = process.communicate(timeout=HANG)[1]
    assert process.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert "File too large" in last and f"the last good checkpoint is {kept}" in last
    assert list_checkpoints(run) == [kept]
    assert (kept / "model.safetensors").read_bytes() == before
    assert sorted(p.name for p in kept.parent.iterdir()) == [kept.name], "nothing half written"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"num_classes": 19}}, "model.num_classes is 19, expected 11 for camvid11"),
        ({"precision": "float16"}, "precision is float16 on cpu"),
        ({"micro_batch": 1}, "one frame at once"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(data, tmp_path, changes, message):
    with pytest.raises(state.TrainingError, match=message):
        loop.train(recipe(**changes), data, tmp_path / "run", device="cpu")


def test_unknown_devices_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="device 'gpu': expected cpu, cuda"):
        loop.train(recipe(), data, tmp_path / "run", device="gpu")


# --- several processes ----------------------------------------------------------------------------


def ranks(
    data: Path, *runs: Path, words: tuple[str, ...] = (), **changes
) -> list[subprocess.Popen]:
    """Two processes of one run, as torchrun starts them, but each to be handled on its own.

    With two folders, as on two hosts that share no disk.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    commands = [command(data, run, *words, **changes) for run in (runs[0], runs[-1])]
    places = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [start(words, env=place) for words, place in zip(commands, places, strict=True)]


def test_two_processes_under_torchrun_end_like_one(data, tmp_path):
    """Against one process that accumulates two halves: batch norm sees the same frames.

    Running statistics differ: the first process keeps those of its own half.
    """
    changes = {"model": {**RECIPE["model"], "dropout": 0.0}, "iterations": 4, "checkpoint_every": 0}
    run = tmp_path / "two"
    words = command(data, run, **changes)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = start([sys.executable, *torchrun, *words[1:]])
    printed, errors = process.communicate(timeout=HANG)
    assert process.returncode == 0, errors
    assert "torch synchronizes batch norm only on CUDA" in printed
    single = loop.train(
        recipe(micro_batch=2, **changes), data, tmp_path / "one", say=lambda _: None
    )
    ends = [load_checkpoint(single), load_checkpoint(list_checkpoints(run)[-1])]
    for name, value in ends[0].model.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(value, ends[1].model[name], rtol=1e-3, atol=1e-4), name
    losses = [read_metrics(r / "metrics.jsonl")[0]["loss"] for r in (tmp_path / "one", run)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4), "of both halves, not of the first"


def test_a_host_without_the_first_ones_disk_resumes_with_it(data, tmp_path):
    """Stopped and resumed on two hosts, the run ends where one that was not stopped ends."""
    first, second, whole = tmp_path / "first", tmp_path / "second", tmp_path / "whole"
    changes = {"iterations": 6, "checkpoint_every": 3, "validate_every": 0}
    for process in ranks(data, whole, **changes):
        assert process.communicate(timeout=HANG)[1] is not None and process.returncode == 0
    shutil.copytree(whole, first)
    shutil.rmtree(first / "checkpoints" / "step_00000006")  # as a stop after step 3 leaves it
    for process in ranks(data, first, second, words=("--resume",), **changes):
        errors = process.communicate(timeout=HANG)[1]
        assert process.returncode == 0, errors
    assert not list_checkpoints(second)
    ends = [load_checkpoint(list_checkpoints(run)[-1]) for run in (whole, first)]
    for name, value in ends[0].model.items():
        assert torch.equal(value, ends[1].model[name]), name


def test_all_processes_stop_when_one_is_asked_to(data, tmp_path):
    run = tmp_path / "run"
    first, second = ranks(data, run, iterations=10_000, checkpoint_every=0)
    wait_for_step(run, 2, first)
    second.terminate()
    for process in (first, second):
        errors = process.communicate(timeout=HANG)[1]
        assert process.returncode == 0, errors
    (newest,) = list_checkpoints(run)
    steps = [record["step"] for record in read_metrics(run / "metrics.jsonl")]
    assert load_checkpoint(newest).step == max(steps)


def test_a_signal_that_torchrun_passes_on_is_not_a_second_one(monkeypatch):
    with processes.StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with processes.StopRequest(2) as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert stop.asked == "SIGINT"
        monkeypatch.setattr(processes, "ONE_REQUEST", 0.0)  # long after
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_lost_process_ends_the_run_by_name(data, tmp_path):
    run = tmp_path / "run"
    first, second = ranks(data, run, iterations=10_000, checkpoint_every=2)
    wait_for_step(run, 3, first)
    second.kill()
    second.communicate()
    errors = first.communicate(timeout=HANG)[1]
    assert first.returncode == 1, errors
    assert "process 0 of 2 failed, or lost another one" in errors
    assert "continue with --resume" in errors


# --- benchmark ------------------------------------------------------------------------------------


def test_benchmark_of_training_steps(tmp_path, capsys):
    file = tmp_path / "tiny.yaml"
    file.write_text(json.dumps({**RECIPE, "micro_batch": 2, "booster_stride": 4}))
    words = ["benchmark", "--training", "--config", str(file), "--rounds", "2", "--device", "cpu"]
    assert cli.main([*words, "--threads", "1", "--json", str(tmp_path / "b.json")]) == 0
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["batch_size"], found["crop"], found["rounds"]) == (4, [64, 64], 2)
    quotient = found["images_per_second"] / found["plain_images_per_second"]
    assert found["ratio"] == pytest.approx(quotient)
    assert f"ratio  {found['ratio']:.2f}" in capsys.readouterr().out
