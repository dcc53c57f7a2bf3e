"""Public weights: each layout restated here as plain functions of its keys, then imported.

`Original` computes what the public implementations do straight from a dictionary of tensors, in
their names, so that what an import gives can be compared with it logit by logit.
"""

from __future__ import annotations

import math
import pickle

import pytest

torch = pytest.importorskip("torch")


import torch.nn.functional as F  # noqa: E402

from bisenetv2_ros.cli import main as cli  # noqa: E402
from bisenetv2_ros.labels import CITYSCAPES  # noqa: E402
from bisenetv2_ros.training.checkpoint import load_network  # noqa: E402
from bisenetv2_ros.training.import_weights import (  # noqa: E402
    ImportWeightsError,
    read_public_weights,
)

LAYOUTS = ("conv_out", "conv_out.0", "conv_out.1", "mmseg")  # CoinCheung's three heads, and theirs


class Original:
    """One public network over random tensors; a tensor is made when it is first asked for."""

    def __init__(self, layout: str, classes: int = 19, head: int = 24) -> None:
        self.layout, self.classes, self.head_channels = layout, classes, head
        self.mmseg = layout == "mmseg"
        self.tensors: dict[str, torch.Tensor] = {}
        self.random = torch.Generator().manual_seed(0)
        self.run(torch.zeros(1, 3, 64, 64))

    def tensor(self, key: str, *shape: int) -> torch.Tensor:
        if key not in self.tensors:
            value = torch.randn(shape, generator=self.random)
            if key.endswith("running_var"):
                value = value.abs() + 0.5
            if len(shape) == 4:
                value /= (shape[1] * shape[2] * shape[3]) ** 0.5
            self.tensors[key] = value
        return self.tensors[key]

    def conv(self, x, key, channels, size=3, stride=1, groups=1, bias=False):
        weight = self.tensor(f"{key}.weight", channels, x.shape[1] // groups, size, size)
        offset = self.tensor(f"{key}.bias", channels) if bias else None
        return F.conv2d(x, weight, offset, stride, size // 2, groups=groups)

    def norm(self, x, key):
        kinds = ("running_mean", "running_var", "weight", "bias")
        self.tensors.setdefault(f"{key}.num_batches_tracked", torch.tensor(3))
        return F.batch_norm(x, *(self.tensor(f"{key}.{kind}", x.shape[1]) for kind in kinds))

    def block(self, x, key, channels, size=3, stride=1, groups=1, relu=True, norm=None, conv=None):
        """Convolution and norm under KEY.conv and KEY.bn, or under the names given."""
        x = self.conv(x, conv or f"{key}.conv", channels, size, stride, groups)
        x = self.norm(x, norm or f"{key}.bn")
        return x.relu() if relu else x

    def bare(self, x, key, channels, size=3, stride=1, groups=1, relu=False, first=0):
        """The same under KEY.0 and KEY.1 in CoinCheung's, under KEY.conv and KEY.bn in mmseg's."""
        if self.mmseg:
            return self.block(x, key, channels, size, stride, groups, relu)
        names = {"conv": f"{key}.{first}", "norm": f"{key}.{first + 1}"}
        return self.block(x, key, channels, size, stride, groups, relu, **names)

    def expansion(self, x, key, channels, stride):
        wide, m = 6 * x.shape[1], self.mmseg
        y = self.block(x, f"{key}.conv1", x.shape[1])
        if stride == 2:
            first, second = ("dwconv.0", "dwconv.1") if m else ("dwconv1", "dwconv2")
            y = self.bare(y, f"{key}.{first}", wide, stride=2, groups=x.shape[1])
            y = self.bare(y, f"{key}.{second}", wide, groups=wide, relu=True)
            short = f"{key}.shortcut.0.depthwise_conv" if m else f"{key}.shortcut"
            x = self.bare(x, short, x.shape[1], stride=2, groups=x.shape[1])
            short = f"{key}.shortcut.0.pointwise_conv" if m else f"{key}.shortcut"
            x = self.bare(x, short, channels, size=1, first=2)
        else:
            name = "dwconv.0" if m else "dwconv"
            y = self.bare(y, f"{key}.{name}", wide, groups=x.shape[1], relu=True)
        return (
            self.bare(y, f"{key}.conv2.0" if m else f"{key}.conv2", channels, size=1) + x
        ).relu()

    def enlarge(self, x, factor):
        if self.layout == "conv_out":
            return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)
        if self.mmseg:
            return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
        return F.interpolate(x, scale_factor=factor, mode="nearest")

    def separable(self, x, coincheung, mmseg):
        """Depthwise with norm, then 1x1 without: with a bias in mmsegmentation."""
        if self.mmseg:
            x = self.block(x, f"backbone.bga.{mmseg}.0.depthwise_conv", 128, groups=128, relu=False)
            return self.conv(x, f"backbone.bga.{mmseg}.0.pointwise_conv.conv", 128, 1, bias=True)
        x = self.bare(x, f"bga.{coincheung}", 128, groups=128)
        return self.conv(x, f"bga.{coincheung}.2", 128, 1)

    def run(self, x):
        m = self.mmseg
        detail = x
        for stage, (channels, count) in enumerate(((64, 2), (64, 3), (128, 3))):
            for i in range(count):
                name = f"backbone.detail.detail_branch.{stage}" if m else f"detail.S{stage + 1}"
                detail = self.block(detail, f"{name}.{i}", channels, stride=1 if i else 2)
        stem = "backbone.semantic.stage1" if m else "segment.S1S2"
        first, left, fuse = ("conv_first", "convs", "fuse_last") if m else ("conv", "left", "fuse")
        y = self.block(x, f"{stem}.{first}", 16, stride=2)
        narrow = self.block(y, f"{stem}.{left}.0", 8, size=1)
        narrow = self.block(narrow, f"{stem}.{left}.1", 16, stride=2)
        pooled = F.max_pool2d(y, 3, 2, 1)
        y = self.block(torch.cat([narrow, pooled], 1), f"{stem}.{fuse}", 16)
        for stage, (channels, count) in enumerate(((32, 2), (64, 2), (128, 4))):
            theirs = ("segment.S3", "segment.S4", "segment.S5_4")[stage]
            for i in range(count):
                name = f"backbone.semantic.stage{stage + 2}" if m else theirs
                y = self.expansion(y, f"{name}.{i}", channels, 1 if i else 2)
        context = "backbone.semantic.stage4_CEBlock" if m else "segment.S5_5"
        mean = self.norm(y.mean((2, 3), keepdim=True), f"{context}.{'gap.1' if m else 'bn'}")
        y = y + self.block(mean, f"{context}.conv_gap", 128, size=1)
        semantic = self.block(y, f"{context}.conv_last", 128)

        keep = self.separable(detail, "left1", "detail_dwconv")
        down = self.bare(detail, "backbone.bga.detail_down.0" if m else "bga.left2", 128, stride=2)
        down = F.avg_pool2d(down, 3, 2, 1)
        up = self.bare(semantic, "backbone.bga.semantic_conv.0" if m else "bga.right1", 128)
        gate = self.separable(semantic, "right2", "semantic_dwconv")
        y = keep * self.enlarge(up, 4).sigmoid() + self.enlarge(down * gate.sigmoid(), 4)
        y = self.bare(y, "backbone.bga.conv" if m else "bga.conv", 128, relu=True)

        head = "decode_head.convs.0" if m else "head.conv"
        y = self.block(y, head, self.head_channels)
        last = "decode_head.conv_seg" if m else f"head.{self.layout}"
        if self.layout == "conv_out.0":
            return F.pixel_shuffle(self.conv(y, last, 64 * self.classes, 1, bias=True), 8)
        y = self.conv(y, last, self.classes, 1, bias=True)
        corners = self.layout == "conv_out"
        return F.interpolate(y, scale_factor=8, mode="bilinear", align_corners=corners)

    def save(self, path, **extra):
        """As the implementation does, booster heads included."""
        tensors = {**self.tensors, **extra}
        booster = "auxiliary_head.0.convs.1.conv.weight" if self.mmseg else "aux2.conv.conv.weight"
        tensors[booster] = torch.zeros(1)
        if self.mmseg:
            tensors = {"meta": {"CLASSES": CITYSCAPES.names}, "state_dict": tensors}
        torch.save(tensors, path)
        return path


@pytest.fixture(scope="module", params=LAYOUTS)
def original(request):
    return Original(request.param)


def test_same_input_same_logits(original, tmp_path):
    found = read_public_weights(original.save(tmp_path / "w.pth"))
    assert found.config.head_channels == 24 and found.labels is CITYSCAPES
    assert len(found.left_out) == 1 and found.left_out[0].startswith("aux")
    file, run = str(tmp_path / "w.pth"), str(tmp_path / "run")
    assert cli.main(["import-weights", file, "-o", run, "--size", "96x64"]) == 0
    network = load_network(run).network
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = original.run(x), network.enlarge(network(x))
    assert expected.std() > 0.05
    assert (logits - expected).abs().max() < 1e-4


def test_every_tensor_of_the_file_is_used(original, tmp_path):
    found = read_public_weights(original.save(tmp_path / "w.pth"))
    assert len(found.weights) == len(original.tensors)


def test_normalisation_comes_along(original, tmp_path):
    found = read_public_weights(original.save(tmp_path / "w.pth"))
    expected = (0.485, 0.456, 0.406) if original.mmseg else (0.3257, 0.3690, 0.3223)
    assert found.mean == expected


def test_unknown_and_missing_keys_are_named(original, tmp_path):
    file = original.save(tmp_path / "w.pth", **{"head.attention.weight": torch.zeros(1)})
    with pytest.raises(ImportWeightsError, match=r"1 unknown keys .*: head.attention.weight"):
        read_public_weights(file)
    partial = Original(original.layout)
    gone = [key for key in partial.tensors if "S5_5" in key or "CEBlock" in key]
    for key in gone:
        del partial.tensors[key]
    with pytest.raises(ImportWeightsError, match=rf"missing keys for .*{gone[0].split('.')[0]}"):
        read_public_weights(partial.save(tmp_path / "p.pth"))


def test_other_shapes_are_named(original, tmp_path):
    key = next(
        key for key in original.tensors if key.endswith("fuse.conv.weight") or "fuse_" in key
    )
    file = original.save(tmp_path / "w.pth", **{key: torch.zeros(16, 30, 3, 3)})
    with pytest.raises(ImportWeightsError, match=rf"{key} is \(16, 30, 3, 3\), expected \(16, 32"):
        read_public_weights(file)


def test_counters_of_old_files_may_be_absent(tmp_path):
    old = Original("conv_out.1")
    for key in [key for key in old.tensors if key.endswith("num_batches_tracked")]:
        del old.tensors[key]
    assert read_public_weights(old.save(tmp_path / "w.pth")).weights


def test_parallel_prefix_and_safetensors(tmp_path):
    from safetensors.torch import save_file

    tensors = Original("conv_out.1").tensors
    torch.save({f"module.{key}": value for key, value in tensors.items()}, tmp_path / "w.pth")
    save_file(
        {key: value.contiguous() for key, value in tensors.items()}, tmp_path / "w.safetensors"
    )
    one, two = (read_public_weights(tmp_path / f"w.{kind}") for kind in ("pth", "safetensors"))
    assert all(torch.equal(one.weights[key], two.weights[key]) for key in one.weights)


def test_class_lists(tmp_path):
    stuff = read_public_weights(Original("conv_out.1", classes=171).save(tmp_path / "w.pth"))
    assert stuff.labels.names[11] == "stop sign" and len(stuff.labels) == 171
    assert stuff.mean[0] == 0.46962251
    own = Original("mmseg", classes=2)
    meta = {"dataset_meta": {"classes": ("sky", "ground"), "palette": [[1, 2, 3], [4, 5, 6]]}}
    torch.save({"meta": meta, "state_dict": own.tensors}, tmp_path / "m.pth")
    labels = read_public_weights(tmp_path / "m.pth").labels
    assert labels.names == ("sky", "ground") and labels.palette[1] == (4, 5, 6)
    with pytest.raises(ImportWeightsError, match="2 classes whose names are not known: give --cl"):
        read_public_weights(Original("conv_out", classes=2).save(tmp_path / "w.pth"))
    with pytest.raises(ImportWeightsError, match="has 2 classes, expected the 19 of cityscapes19"):
        read_public_weights(tmp_path / "w.pth", CITYSCAPES)


class _Payload:
    def __reduce__(self):
        return print, ("this must not be printed",)


def test_files_that_are_no_plain_tensors(tmp_path, capsys):
    file = tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps({"head": _Payload()}, protocol=2))
    with pytest.raises(ImportWeightsError, match=r"evil.pth: not a file of plain tensors"):
        read_public_weights(file)
    torch.save({"head": _Payload()}, file)
    with pytest.raises(ImportWeightsError, match=r"evil.pth: not a file of plain tensors"):
        read_public_weights(file)
    assert "must not be" not in capsys.readouterr().out
    torch.save({"epoch": 3}, file)
    with pytest.raises(ImportWeightsError, match="expected tensors by name, but not under epoch"):
        read_public_weights(file)
    torch.save([torch.zeros(1)], file)
    with pytest.raises(ImportWeightsError, match="expected tensors by name, got list"):
        read_public_weights(file)


@pytest.fixture(scope="module")
def published():
    """Tensors of CoinCheung's last generation."""
    return Original("conv_out.1").tensors


WRAPPED = {
    "state_dict": lambda t: {"state_dict": t, "epoch": 3},
    "model": lambda t: {"model": t, "optimizer": {"state": {}}, "epoch": 3},
    "model_state_dict": lambda t: {"model_state_dict": t, "loss": 0.3},
    "net": lambda t: {"net": t},
    "twice": lambda t: {"model": {"state_dict": t}},
    "module.": lambda t: {f"module.{key}": value for key, value in t.items()},
    "_orig_mod.": lambda t: {f"_orig_mod.{key}": value for key, value in t.items()},
    "both": lambda t: {"model": {f"module._orig_mod.{key}": v for key, v in t.items()}},
    "lightning": lambda t: {
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "callbacks": {},
        "state_dict": {f"net.{key}": value for key, value in t.items()},
    },
    "averages": lambda t: {"ema_state_dict": t, "step": 3},
    "timm": lambda t: {"model_ema": {f"module.{key}": value for key, value in t.items()}},
    "yolo": lambda t: {"ema": {"module": t, "updates": 3}},
    "thop": lambda t: {
        **t, "total_ops": torch.zeros(1), "total_params": torch.zeros(1),
        "detail.S1.0.conv.total_ops": torch.zeros(1), "detail.S1.total_params": torch.zeros(1),
    },
}  # fmt: skip


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_of_frameworks_are_looked_through(published, tmp_path, wrapper):
    torch.save(WRAPPED[wrapper](published), tmp_path / "w.pth")
    found = read_public_weights(tmp_path / "w.pth")
    key = "detail.S1.0.conv.weight"
    assert torch.equal(found.weights["detail.0.0.0.weight"], published[key])
    assert found.left_out == ()


def test_modules_beside_the_network_are_left_out_and_named(published, tmp_path):
    tensors = {f"model.{key}": value for key, value in published.items()}
    tensors["criterion.weight"] = torch.ones(19)
    torch.save({"state_dict": tensors}, tmp_path / "w.ckpt")
    assert read_public_weights(tmp_path / "w.ckpt").left_out == ("criterion.weight",)


def test_a_moving_average_beside_the_weights_is_named(published, tmp_path, capsys):
    torch.save({"model": published, "ema": {"module": published}}, tmp_path / "w.pth")
    assert read_public_weights(tmp_path / "w.pth").left_out == ("ema",)


def test_weights_that_are_not_finite_are_refused(published, tmp_path):
    broken = {**published, "head.conv.conv.weight": published["head.conv.conv.weight"] * math.nan}
    torch.save(broken, tmp_path / "w.pth")
    with pytest.raises(ImportWeightsError, match=r"head\.conv\.conv\.weight is not finite"):
        read_public_weights(tmp_path / "w.pth")


class HistoryBuffer:
    """As mmengine's, an object of a class that is not installed, beside the weights."""

    def __init__(self) -> None:
        self.history = [1.0, 2.0]


def test_a_checkpoint_of_mmengine(tmp_path, capsys):
    content = {
        "meta": {"epoch": 2, "dataset_meta": {"classes": CITYSCAPES.names}},
        "state_dict": Original("mmseg").tensors,
        "message_hub": {"log_scalars": {"train/lr": HistoryBuffer()}, "payload": _Payload()},
        "optimizer": {"param_groups": [{"lr": 0.1}]},
    }
    torch.save(content, tmp_path / "iter_160000.pth")
    found = read_public_weights(tmp_path / "iter_160000.pth")
    assert found.layout == "mmsegmentation" and found.labels is CITYSCAPES
    assert "must not be printed" not in capsys.readouterr().out


def half_a_file(path, tensors):
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


NO_WEIGHTS = {
    "a web page": lambda p, t: p.write_bytes(b"\n<!DOCTYPE html><title>Sign in</title>"),
    "a Git LFS pointer": lambda p, t: p.write_bytes(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    ),
    "the file is empty": lambda p, t: p.write_bytes(b""),
    "JSON text": lambda p, t: p.write_bytes(b'{"message": "Not Found"}'),
    "a gzip archive": lambda p, t: p.write_bytes(b"\x1f\x8b\x08" + bytes(90)),
    "cut off or damaged": half_a_file,
    "a whole pickled object .*linear.Linear": lambda p, t: torch.save(torch.nn.Linear(1, 1), p),
    "a TorchScript program": lambda p, t: torch.jit.trace(
        torch.nn.Linear(1, 1), torch.zeros(1, 1)
    ).save(p),
}


@pytest.mark.parametrize("what", NO_WEIGHTS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_weights_is_called_by_its_name(published, tmp_path, what):
    NO_WEIGHTS[what](tmp_path / "w.pth", published)
    with pytest.raises(ImportWeightsError, match=rf"w\.pth: .*{what}") as error:
        read_public_weights(tmp_path / "w.pth")
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value), "never the advice to load unsafely"


def test_a_tensor_beyond_its_storage_is_refused(published, tmp_path):
    import zipfile

    torch.save({"detail.S1.0.conv.weight": torch.zeros(4, 4)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in entries if name.endswith("/data/0"))
    entries[name] = entries[name][:8]
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as archive:
        for entry, data in entries.items():
            archive.writestr(entry, data)
    with pytest.raises(ImportWeightsError, match="2 values, expected 16"):
        read_public_weights(tmp_path / "w.pth")


def test_classes_of_ade20k_and_coco_by_their_number(tmp_path):
    file = Original("conv_out.1", classes=150).save(tmp_path / "w.pth")
    labels = read_public_weights(file).labels
    assert (labels.names[0], labels.names[12], len(labels)) == ("wall", "person", 150)
    assert cli.main(["import-weights", str(file), "-o", str(tmp_path / "run")]) == 0
    trained = load_network(tmp_path / "run")
    assert trained.recipe.dataset == "ade20k" and trained.recipe.mean[0] == 0.49343230


def test_data_of_other_classes_is_told_by_name(tmp_path):
    from bisenetv2_ros.training.dataset_files import known_dataset
    from bisenetv2_ros.training.dataset_layouts import load_dataset_of
    from bisenetv2_ros.training.datasets import DatasetError

    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"")
    (tmp_path / "classes.yaml").write_text("classes: [sky, house]\n")
    labels = known_dataset("coco_stuff164k_171").labels
    with pytest.raises(DatasetError, match=r"171 classes .*; coco_stuff164k_171 has these classes"):
        load_dataset_of(labels, "run", "folder", tmp_path, "train")
    (tmp_path / "other.yaml").write_text("classes: [sky, building]\n")
    from bisenetv2_ros.training.dataset_layouts import read_classes

    other = read_classes(tmp_path / "other.yaml")
    with pytest.raises(DatasetError, match="class 1 is 'building' and 'house'"):
        load_dataset_of(other, "run", "folder", tmp_path, "train")


def test_other_layouts_are_refused(tmp_path):
    torch.save({"db.convs.0._conv.weight": torch.zeros(1)}, tmp_path / "p.pth")
    with pytest.raises(ImportWeightsError, match="PaddleSeg's BiSeNetV2 pads"):
        read_public_weights(tmp_path / "p.pth")
    torch.save({"layer1.weight": torch.zeros(1)}, tmp_path / "r.pth")
    with pytest.raises(ImportWeightsError, match=r"neither .* nor .*; keys are layer1.weight"):
        read_public_weights(tmp_path / "r.pth")


def test_verb_names_what_does_not_fit(tmp_path, capsys):
    assert cli.main(["import-weights", str(tmp_path / "no.pth"), "-o", str(tmp_path / "r")]) == 2
    assert "no.pth: not a file of plain tensors: " in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
