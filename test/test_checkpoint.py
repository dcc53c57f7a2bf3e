"""Checkpoints: whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from patience import HANG  # noqa: E402

from bisenetv2_ros.labels import (  # noqa: E402
    CAMVID,
    label_set_to_dict,
)
from bisenetv2_ros.training.checkpoint import (  # noqa: E402
    Checkpoint,
    CheckpointError,
    list_checkpoints,
    load_checkpoint,
    load_network,
    load_newest,
    save_checkpoint,
    write_run_header,
)
from bisenetv2_ros.training.model import BiSeNetV2  # noqa: E402
from bisenetv2_ros.training.recipe import load_recipe  # noqa: E402


def checkpoint(step: int, value: float | None = None) -> Checkpoint:
    tensor = torch.full((3, 2), float(step if value is None else value))
    return Checkpoint(
        step=step,
        model={"w": tensor},
        ema={"w": tensor + 0.5},
        momentum={"w": -tensor},
        state={"scaler": {"scale": 2.0}},
    )


def names(run) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_is_saved_is_loaded(tmp_path):
    folder = save_checkpoint(tmp_path, checkpoint(7))
    found = load_checkpoint(folder)
    assert found.step == 7 and found.state == {"scaler": {"scale": 2.0}}
    assert torch.equal(found.model["w"], torch.full((3, 2), 7.0))
    assert torch.equal(found.ema["w"], torch.full((3, 2), 7.5))
    assert torch.equal(found.momentum["w"], torch.full((3, 2), -7.0))


def test_channels_last_tensors_survive(tmp_path):
    tensor = torch.rand(4, 3, 5, 5).to(memory_format=torch.channels_last)
    folder = save_checkpoint(tmp_path, Checkpoint(step=1, model={"w": tensor}))
    assert torch.equal(load_checkpoint(folder).model["w"], tensor)


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert names(tmp_path) == ["step_00000003", "step_00000010"]
    assert load_newest(tmp_path).step == 10
    save_checkpoint(tmp_path, checkpoint(10, value=4.0))
    assert float(load_newest(tmp_path).model["w"][0, 0]) == 4.0, "written over"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b""),
        ("momentum.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
        ("state.json", b"{"),
        ("state.json", b"{}"),
        ("state.json", b"[1]"),
    ],
)
def test_a_damaged_newest_is_named_and_passed_over(tmp_path, file, content):
    for step in (1, 2):
        newest = save_checkpoint(tmp_path, checkpoint(step))
    if content is None:
        (newest / file).unlink()
    else:
        (newest / file).write_bytes(content)
    said = []
    assert load_newest(tmp_path, said.append).step == 1
    assert len(said) == 1 and str(newest / file) in said[0]


def test_a_truncated_newest_is_passed_over(tmp_path):
    for step in (1, 2):
        newest = save_checkpoint(tmp_path, checkpoint(step))
    os.truncate(newest / "model.safetensors", 70)
    assert load_newest(tmp_path, lambda _: None).step == 1


def test_nothing_to_load(tmp_path):
    assert load_newest(tmp_path) is None


WRITER = """
import sys, torch
from pathlib import Path
from bisenetv2_ros.training.checkpoint import Checkpoint, save_checkpoint
torch.set_num_threads(1)
print("ready", flush=True)
step = 0
while True:
    step += 1
    weights = {f"w{i}": torch.full((200, 100), float(step)) for i in range(40)}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(step=step, model=weights, momentum=weights))
"""


def test_sigkill_while_writing_leaves_a_whole_one(tmp_path):
    """Killed at moments spread over many writes, the newest that is there reads whole."""
    seen = []
    for attempt in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout.readline() == "ready\n"
        deadline = time.monotonic() + HANG
        while not list_checkpoints(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.03 + 0.037 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        said = []
        found = load_newest(tmp_path, said.append)
        assert not said, "not even the newest needs passing over"
        assert all(
            (w == found.step).all() for w in (*found.model.values(), *found.momentum.values())
        )
        seen.append(found.step)
    save_checkpoint(tmp_path, checkpoint(10**6))
    assert not [name for name in names(tmp_path) if name.startswith(".partial")], "swept"


def test_a_kill_while_deleting_leaves_no_checkpoint_without_its_files(tmp_path, monkeypatch):
    """Of one that is written anew, or is older than those that are kept."""

    def killed(folder, **_):
        (folder / "state.json").unlink(missing_ok=True)

    for step in (1, 2):
        save_checkpoint(tmp_path, checkpoint(step))
    monkeypatch.setattr(shutil, "rmtree", killed)
    for step in (2, 3):
        save_checkpoint(tmp_path, checkpoint(step))
    assert [load_checkpoint(folder).step for folder in list_checkpoints(tmp_path)] == [2, 3]


def test_a_reader_does_not_disturb_a_writer(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    partial = tmp_path / "checkpoints" / ".partial-step_00000002"
    partial.mkdir()
    load_newest(tmp_path)
    assert partial.is_dir(), "it may belong to a run that is saving right now"


def test_failed_write_leaves_the_older_ones(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, checkpoint(1))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bisenetv2_ros.training.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["step_00000001"]


# --- networks -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    """A run of a tiny network whose moving average is told from its weights by its bias."""
    small = ["model.head_channels=8", "model.booster_channels=8", "model.width=0.25"]
    recipe = load_recipe("camvid_cpu", [*small, "model.head_shuffle=1"])
    network = BiSeNetV2(recipe.model)
    weights = {k: v.clone() for k, v in network.state_dict().items()}
    weights["head.2.bias"][:] = 1
    average = {k: v.clone() for k, v in weights.items()}
    average["head.2.bias"][:] = 2
    header = {"recipe": recipe.to_dict(), "labels": label_set_to_dict(CAMVID), "data": {}}
    write_run_header(tmp_path, {**header, "revision": "abc"})
    save_checkpoint(tmp_path, Checkpoint(step=5, model=weights, ema=average))
    save_checkpoint(tmp_path, Checkpoint(step=6, model=weights))
    return tmp_path


def test_network_of_a_run_and_of_a_checkpoint(run):
    trained = load_network(run)
    assert (trained.step, trained.labels, trained.revision) == (6, CAMVID, "abc")
    assert not trained.network.training
    assert trained.network.head[2].bias.tolist() == [1.0] * 11
    assert load_network(run / "checkpoints").step == 6
    (run / "report").mkdir()
    with pytest.raises(CheckpointError, match="report: expected a run folder"):
        load_network(run / "report")
    older = load_network(run / "checkpoints" / "step_00000005")
    assert older.step == 5
    assert older.network.head[2].bias.tolist() == [2.0] * 11, "the moving average comes first"


def test_networks_that_cannot_be_loaded_are_named(run, tmp_path_factory):
    gone = run / "checkpoints" / "step_00000004"
    with pytest.raises(CheckpointError, match="step_00000004: there is none"):
        load_network(gone)
    gone.mkdir()
    with pytest.raises(CheckpointError, match=r"step_00000004/state\.json: cannot be read"):
        load_network(gone)
    gone.rmdir()
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(CheckpointError, match="expected a run folder"):
        load_network(empty)
    with pytest.raises(CheckpointError, match="expected a run folder"):
        load_network(empty / "nothing")
    header = json.loads((run / "recipe.json").read_text())
    header["recipe"]["model"]["head_channels"] = 16
    write_run_header(run, header)
    with pytest.raises(CheckpointError, match=r"weights do not fit .* size mismatch") as error:
        load_network(run)
    assert "\n" not in str(error.value)
    del header["labels"]
    write_run_header(run, header)
    with pytest.raises(CheckpointError, match="no 'labels' in it"):
        load_network(run)
