"""A run that starts from a model file or another run starts where that one stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_model import tiny_info

pytest.importorskip("torch", reason="torch is not installed")

import torch
from small_network import MEAN, SIZE, STD, small_network, street_frames

from bisenetv2_ros.labels import CAMVID, LabelSet, label_set_to_dict
from bisenetv2_ros.model_file import write_metadata
from bisenetv2_ros.resize import resize_image
from bisenetv2_ros.training.checkpoint import Checkpoint, save_checkpoint, write_run_header
from bisenetv2_ros.training.export import DeployedModel, export_model
from bisenetv2_ros.training.model import BiSeNetV2
from bisenetv2_ros.training.model_config import NETWORKS
from bisenetv2_ros.training.recipe import Recipe
from bisenetv2_ros.training.starting_weights import (
    Start,
    StartingWeightsError,
    settings_of,
    start_from,
)

INFO = dataclasses.replace(tiny_info(SIZE), labels=CAMVID)
IMAGES = torch.from_numpy(np.stack([resize_image(frame, SIZE) for frame in street_frames(4)]))
OTHER_LABELS = LabelSet("two", ("free", "taken"), ((0, 0, 0), (255, 0, 0)), 255)


@pytest.fixture(scope="module")
def deployed() -> DeployedModel:
    """With batch norms that are anything but neutral, so that folding them changes every filter."""
    deployed = small_network()
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in deployed.network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.copy_(torch.rand(module.weight.shape, generator=rng) + 0.5)
                module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=rng))
    return deployed


@pytest.fixture(scope="module")
def file(deployed: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    export_model(deployed, INFO, path, street_frames(2))
    return path


def recipe(deployed: DeployedModel, **changes) -> Recipe:
    fields = {
        "name": "small",
        "dataset": "camvid",
        "input_size": SIZE,
        "crop": SIZE,
        "mean": MEAN,
        "std": STD,
        "model": deployed.network.config,
        "iterations": 2,
        "batch_size": 4,
        **changes,
    }
    return Recipe(**fields)


def start(
    deployed: DeployedModel, source: Path, labels=CAMVID, **changes
) -> tuple[BiSeNetV2, Start]:
    torch.manual_seed(7)
    chosen = recipe(deployed, **changes)
    network = BiSeNetV2(chosen.model)
    return network, start_from(network, chosen, labels, source, IMAGES)


def logits(network: BiSeNetV2, before_last_layer: bool = False) -> torch.Tensor:
    """Of IMAGES; or what the head's last layer makes them of."""
    network.head[1].register_forward_hook(lambda _, __, output: seen.append(output))
    seen: list[torch.Tensor] = []
    x = (IMAGES.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        result = network(x.permute(0, 3, 1, 2))
    if before_last_layer:
        return seen[0]
    return result[0] if isinstance(result, list) else result


def test_network_computes_what_the_file_does(deployed: DeployedModel, file: Path):
    network, started = start(deployed, file)
    expected = logits(deployed.network.eval())
    assert expected.std() > 0.01
    assert (logits(network.eval()) - expected).abs().max() < 1e-4 * expected.abs().max()
    assert started.anew == ()
    assert len(started.sha256) == 64


def test_batch_norms_have_the_statistics_of_the_frames(deployed: DeployedModel, file: Path):
    """So that the first training step, which normalises by the batch, sees the same network."""
    network, _ = start(deployed, file)
    evaluated = logits(network.eval())
    network.train().semantic.context.norm.eval()  # is not folded and keeps the statistics it had
    trained = logits(network)
    assert (trained - evaluated).abs().max() < 1e-3 * evaluated.abs().max()


def test_filters_have_the_length_of_their_initialisation(deployed: DeployedModel, file: Path):
    network, _ = start(deployed, file)
    torch.manual_seed(7)
    fresh = BiSeNetV2(deployed.network.config)
    for name in ("detail.0.0.0.weight", "semantic.s4.0.body.1.0.weight", "head.0.0.weight"):
        wanted = fresh.state_dict()[name].flatten(1).norm(dim=1)
        torch.testing.assert_close(network.state_dict()[name].flatten(1).norm(dim=1), wanted)


def test_other_classes_start_anew_and_all_else_stays(deployed: DeployedModel, file: Path):
    model = dataclasses.replace(deployed.network.config, num_classes=2)
    network, started = start(deployed, file, OTHER_LABELS, model=model)
    assert started.anew == ("head.2.weight", "head.2.bias")
    same, _ = start(deployed, file)
    features = [logits(n.eval(), before_last_layer=True) for n in (same, network)]
    assert features[0].std() > 0.1
    torch.testing.assert_close(features[1], features[0], rtol=1e-3, atol=1e-3)


def test_boosters_are_not_in_a_file(deployed: DeployedModel, file: Path):
    model = dataclasses.replace(deployed.network.config, boosters=("s3",), booster_channels=8)
    _, started = start(deployed, file, model=model)
    assert started.anew
    assert all(key.startswith("boosters.s3.") for key in started.anew)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"head_channels": 16}, r"head\.0\.0\.weight is \(32, 32, 3, 3\), expected \(16, 32, 3, 3"),
        ({"depth": 2}, r"semantic\.s3\.2\.body\.0\.0\.weight is absent, expected"),
        ({"branches": "semantic"}, r"has no place in the recipe's network"),
        ({"relu_after_depthwise": False}, r"the file's class on .* expected 99.9%"),
    ],
)
def test_another_network_is_refused(deployed: DeployedModel, file: Path, change, words):
    model = dataclasses.replace(deployed.network.config, **change)
    with pytest.raises(StartingWeightsError, match=words) as caught:
        start(deployed, file, model=model)
    assert str(file) in str(caught.value)


def test_another_network_is_refused_where_the_classes_are_others(
    deployed: DeployedModel, file: Path
):
    model = dataclasses.replace(deployed.network.config, num_classes=2, relu_after_depthwise=False)
    with pytest.raises(StartingWeightsError, match="the file's class on"):
        start(deployed, file, OTHER_LABELS, model=model)


@pytest.fixture(scope="module")
def run(deployed: DeployedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a run left it."""
    folder = tmp_path_factory.mktemp("run")
    header = {"recipe": recipe(deployed).to_dict(), "labels": label_set_to_dict(CAMVID), "data": {}}
    write_run_header(folder, header)
    save_checkpoint(folder, Checkpoint(step=1, model=dict(deployed.network.state_dict())))
    return folder


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.relu_after_depthwise", False),
        ("model.aggregation_upsample", "nearest"),
        ("model.align_corners", True),
        ("std", (0.9, 0.9, 0.9)),
    ],
)
def test_another_computation_than_the_run_s_is_refused(
    deployed: DeployedModel, run: Path, key: str, value: object
):
    """It would take the same tensors, and make something else of them."""
    name = key.removeprefix("model.")
    changes = {name: value}
    if name != key:
        changes = {"model": dataclasses.replace(deployed.network.config, **changes)}
    with pytest.raises(StartingWeightsError) as caught:
        start(deployed, run, **changes)
    assert f"{run}: its network was trained with {key} = " in str(caught.value)
    assert f"the recipe has {value}, expected the same" in str(caught.value)


def test_heads_and_dropout_may_differ_from_the_run_s(deployed: DeployedModel, run: Path):
    model = dataclasses.replace(
        deployed.network.config, num_classes=2, boosters=("s3",), booster_channels=8, dropout=0.3
    )
    network, _ = start(deployed, run, OTHER_LABELS, model=model)
    assert torch.equal(network.detail[0][0][0].weight, deployed.network.detail[0][0][0].weight)


@pytest.mark.parametrize("source", ["run", "file"])
@pytest.mark.parametrize("shuffles", [(1, 2), (2, 4)])
def test_a_finer_head_starts_as_the_coarse_one(tmp_path: Path, source: str, shuffles: tuple):
    before, now = shuffles
    deployed = small_network(seed=3, shuffle=before)
    model = dataclasses.replace(deployed.network.config, head_shuffle=now)
    if source == "run":
        header = {"recipe": recipe(deployed).to_dict(), "labels": label_set_to_dict(CAMVID)}
        write_run_header(tmp_path, {**header, "data": {}})
        save_checkpoint(tmp_path, Checkpoint(step=1, model=dict(deployed.network.state_dict())))
        network, _ = start(deployed, tmp_path, model=model)
    else:
        export_model(deployed, INFO, tmp_path / "small.onnx", street_frames(2))
        network, _ = start(deployed, tmp_path / "small.onnx", model=model)
    x = IMAGES.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        coarse, fine = deployed.network(x), network.eval()(x)
    repeated = torch.nn.functional.interpolate(coarse, scale_factor=now / before, mode="nearest")
    if source == "run":
        torch.testing.assert_close(fine, repeated)
    else:  # the batch norms that it got back round a little
        assert (fine.argmax(1) == repeated.argmax(1)).float().mean() > 0.999


def test_a_head_that_is_no_multiple_is_refused(deployed: DeployedModel, tmp_path: Path):
    fine = small_network(shuffle=2)
    header = {"recipe": recipe(fine).to_dict(), "labels": label_set_to_dict(CAMVID), "data": {}}
    write_run_header(tmp_path, header)
    save_checkpoint(tmp_path, Checkpoint(step=1, model=dict(fine.network.state_dict())))
    with pytest.raises(StartingWeightsError, match=r"head\.2\.weight is \(44, .*expected \(11, "):
        start(deployed, tmp_path)


def test_other_pixel_statistics_are_refused(deployed: DeployedModel, file: Path):
    with pytest.raises(StartingWeightsError, match="mean and std of the recipe"):
        start(deployed, file, mean=(0.1, 0.1, 0.1), std=(0.9, 0.9, 0.9))


def test_int8_file_is_refused(deployed: DeployedModel, file: Path, tmp_path: Path):
    int8 = tmp_path / "small_int8.onnx"
    model = onnx.load(file)
    write_metadata(model, dataclasses.replace(INFO, precision="int8"))
    onnx.save(model, int8)
    with pytest.raises(StartingWeightsError, match="int8, expected the float32 file"):
        start(deployed, int8)


def test_missing_file_is_named(deployed: DeployedModel, tmp_path: Path):
    with pytest.raises(StartingWeightsError, match=r"absent\.onnx.*or give a run folder"):
        start(deployed, tmp_path / "absent.onnx")


def test_a_model_file_tells_the_choices_of_its_network(tmp_path):
    for name, choices in NETWORKS.items():
        wanted = {k: v for k, v in choices.items() if isinstance(v, bool)}
        network = small_network()
        network.network = BiSeNetV2(dataclasses.replace(network.network.config, **wanted)).eval()
        path = tmp_path / f"{name}.onnx"
        export_model(network, INFO, path, street_frames(2))
        found = settings_of(path)["model"]
        for key in ("relu_after_depthwise", "context_norm", "aggregation_relu", "aggregation_bias"):
            assert found[key] == getattr(network.network.config, key), (name, key)
