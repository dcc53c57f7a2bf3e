"""Evaluation: the numbers of cityscapesScripts, the paper's protocol, and the verb."""

from __future__ import annotations

import json
import threading

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from patience import HANG  # noqa: E402

from bisenetv2_ros.cli import main as cli  # noqa: E402
from bisenetv2_ros.labels import (  # noqa: E402
    CAMVID,
    label_set_to_dict,
)
from bisenetv2_ros.metrics import confusion_matrix, scores  # noqa: E402
from bisenetv2_ros.resize import resize_mask  # noqa: E402
from bisenetv2_ros.training import evaluate as training_evaluate  # noqa: E402
from bisenetv2_ros.training.checkpoint import Checkpoint, save_checkpoint, write_run_header  # noqa: E402
from bisenetv2_ros.training.dataset_files import known_dataset  # noqa: E402
from bisenetv2_ros.training.dataset_layouts import load_dataset  # noqa: E402
from bisenetv2_ros.training.datasets import DatasetError, Sample  # noqa: E402
from bisenetv2_ros.training.evaluate import (  # noqa: E402
    CityscapesSubmission,
    averaging_predictor,
    enlarged_argmax,
    evaluate,
    network_predictor,
)
from bisenetv2_ros.training.gallery import Gallery, panel  # noqa: E402
from bisenetv2_ros.training.model import BiSeNetV2  # noqa: E402
from bisenetv2_ros.training.recipe import load_recipe  # noqa: E402

SIZE = (64, 48)  # of the frames, width and height


@pytest.fixture
def cityscapes(tmp_path):
    """Three frames with every label id in blobs of a few pixels."""
    rng = np.random.default_rng(0)
    for i in range(3):
        stem = f"frankfurt_000000_{i:06d}"
        for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
            (tmp_path / kind / "val" / "frankfurt").mkdir(parents=True, exist_ok=True)
            file = tmp_path / kind / "val" / "frankfurt" / f"{stem}_{ending}.png"
            if kind == "leftImg8bit":
                pixels = rng.integers(0, 256, (*SIZE[::-1], 3), np.uint8)
            else:
                classes = [
                    value for values in known_dataset("cityscapes").values() for value in values
                ]
                blobs = rng.choice([0, 1, 4, 18, 29, *classes[:-1]], (12, 16))
                pixels = cv2.resize(blobs.astype(np.uint8), SIZE, interpolation=0)
            cv2.imwrite(str(file), pixels)
    return tmp_path


def test_scores_are_those_of_cityscapes_scripts(cityscapes, tmp_path):
    """The same predictions, through the files that the server takes: equal to the last digit."""
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    dataset = load_dataset("cityscapes", cityscapes, "val")
    rng = np.random.default_rng(1)

    def predict(image: np.ndarray) -> np.ndarray:
        # half the size, mostly right, with classes that no label has and pixels of no class
        sample = next(dataset[i] for i in range(3) if np.array_equal(dataset[i].image, image))
        mask = sample.label[::2, ::2].copy()
        wrong = rng.random(mask.shape) < 0.3
        mask[wrong] = rng.choice([*range(19), 255], wrong.sum())
        return mask

    result = scores(evaluate(predict, dataset, CityscapesSubmission(tmp_path / "out")))

    args = official.args
    args.evalInstLevelScore = args.JSONOutput = False
    args.quiet = True
    truths = [str(label) for _, label in dataset.pairs]
    args.predictionPath, args.predictionWalk = str(tmp_path / "out"), None
    predictions = [official.getPrediction(args, truth) for truth in truths]
    theirs = official.evaluateImgLists(predictions, truths, args)
    for name, iou in zip(dataset.labels.names, result.iou, strict=True):
        expected = theirs["classScores"][name]
        assert iou == expected or (np.isnan(iou) and np.isnan(expected)), name
    # theirs sums in another order
    assert result.mean_iou == pytest.approx(theirs["averageScoreClasses"], rel=1e-15)
    assert np.isfinite(result.iou).sum() == 19 and 0.2 < result.mean_iou < 0.8
    assert result.iou[18] == 0, "bicycle is in no label but predicted"


class OneWaitsForTheOther:
    """The first sample is not read before the second is asked for, which is damaged."""

    labels = CAMVID

    def __init__(self) -> None:
        self.second = threading.Event()

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        if index == 1:
            self.second.set()
            raise DatasetError("damaged")
        assert self.second.wait(HANG), "frames are not read ahead"
        return Sample(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), f"frame{index}")


def test_frames_are_read_ahead_and_scored_in_order():
    told = []
    matrix = evaluate(
        lambda image: image[..., 0],
        OneWaitsForTheOther(),
        lambda sample, _: told.append(sample.name),
        lambda error: told.append(str(error)),
    )
    assert told == ["frame0", "damaged", "frame2"]
    assert matrix.sum() == matrix[0, 0] == 8


def test_submission_holds_label_ids(tmp_path):
    mask = np.array([[0, 18, 255]], np.uint8)
    CityscapesSubmission(tmp_path)(Sample(mask, mask, "ulm_000000_000019_leftImg8bit"), mask)
    written = cv2.imread(str(tmp_path / "ulm_000000_000019_leftImg8bit.png"), -1)
    assert written.tolist() == [[7, 33, 0]]


def test_masks_are_scored_at_the_labels_size(cityscapes):
    dataset = load_dataset("cityscapes", cityscapes, "val")
    shown = []

    def predict(image: np.ndarray) -> np.ndarray:
        return np.array([[0, 1]], np.uint8)

    evaluate(predict, dataset, lambda sample, mask: shown.append(mask))
    assert all(mask.shape == SIZE[::-1] for mask in shown)
    assert (shown[0][:, :32] == 0).all() and (shown[0][:, 32:] == 1).all()


# --- networks -------------------------------------------------------------------------------------

RECIPE = [
    "input_size=[64, 48]",
    "model.head_channels=8",
    "model.booster_channels=8",
    "model.width=0.25",
]


@pytest.fixture(scope="module")
def network():
    """A network whose predictions are not all the same, for want of training."""
    torch.manual_seed(1)
    recipe = load_recipe("camvid_cpu", RECIPE)
    network = BiSeNetV2(recipe.model).train()
    with torch.no_grad():
        for _ in range(20):  # batch norm has to have seen something
            network(torch.randn(4, 3, 64, 64))
        logits = network.eval()(
            torch.from_numpy(picture(size=(64, 64))).permute(2, 0, 1)[None] / 255
        )
        finer = recipe.model.head_shuffle**2
        # so that no class wins everywhere
        network.head[2].bias -= logits.mean((0, 2, 3)).repeat_interleave(finer)
    return network, recipe


def picture(seed: int = 0, size: tuple[int, int] = (96, 72)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), size)


def test_averaging_over_nothing_is_the_plain_prediction(network):
    plain, averaged = network_predictor(*network), averaging_predictor(*network)
    masks = [predict(picture()) for predict in (plain, averaged)]
    assert masks[0].shape == (72, 96) and len(np.unique(masks[0])) > 1
    assert (masks[0] == masks[1]).mean() > 0.999  # a pixel may be a tie but for the last bit


def test_flip_averages_with_the_mirrored_frame(network):
    image = picture(size=(64, 48))
    predict = averaging_predictor(*network, flip=True)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert not np.array_equal(predict(image), predict(image)[:, ::-1])
    assert np.array_equal(predict(mirrored), predict(image)[:, ::-1])
    plain = averaging_predictor(*network)
    assert not np.array_equal(plain(mirrored), plain(image)[:, ::-1])


def test_scales_and_full_size(network):
    image = picture(size=(104, 80))
    assert averaging_predictor(*network, full_size=True)(image).shape == (80, 104)
    one, other = (averaging_predictor(*network, scales=s)(image) for s in ((1.0,), (1.0, 2.0)))
    assert one.shape == other.shape == (80, 104) and not np.array_equal(one, other)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("size", [(37, 50), (8, 6), (96, 128), (5, 300)])
def test_scores_are_enlarged_and_not_the_mask(size, align_corners, monkeypatch):
    """As F.interpolate and argmax do at once, and band by band."""
    logits = torch.randn(1, 7, 12, 16, generator=torch.Generator().manual_seed(2))
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=align_corners).argmax(1)
    for band in (1, 3000, 1 << 26):
        monkeypatch.setattr(training_evaluate, "BAND", band)
        mask = enlarged_argmax(logits, size, align_corners)
        assert mask.shape == size and mask.dtype == np.uint8
        assert (mask == expected[0].numpy()).mean() > 0.999  # a tie but for the last bit
    logits[0, 2, 3, 4] = float("nan")
    assert (enlarged_argmax(logits, size, align_corners) == 255).any()


def test_an_edge_at_an_angle_is_scored_without_steps():
    """A network that sees a straight edge exactly scores it so, at four times its size."""
    y, x = np.mgrid[0:24, 0:32].astype(np.float32)
    side = torch.from_numpy(x - 0.37 * y - 11)
    fine_y, fine_x = np.mgrid[0:96, 0:128].astype(np.float32)
    truth = ((fine_x - 1.5) / 4 - 0.37 * (fine_y - 1.5) / 4 - 11) > 0
    mask = enlarged_argmax(torch.stack([-side, side])[None], (96, 128))
    steps = resize_mask((side > 0).numpy().astype(np.uint8), (128, 96))
    inner = np.s_[8:-8, 8:-8]
    assert (mask == truth)[inner].mean() > 0.999 > (steps == truth)[inner].mean() + 0.005


def test_a_model_file_is_scored_like_its_network(run, network, tmp_path):
    """The same frames at the labels' size, once by torch and once by a runtime."""
    file = tmp_path / "model.onnx"
    words = ("--frame-count", "2", "-o", str(file))
    assert cli.main(["export", str(run / "run"), *words]) == 0
    by_file, by_run = tmp_path / "a.json", tmp_path / "b.json"
    data = ("--data", run / "data")
    assert evaluate_verb(file, "--dataset", "camvid", *data, "--json", by_file) == 0
    assert evaluate_verb(run / "run", *data, "--json", by_run) == 0
    one, two = (np.array(json.loads(f.read_text())["confusion_matrix"]) for f in (by_file, by_run))
    assert np.abs(one - two).sum() <= 0.002 * one.sum()


def test_a_run_that_skips_damaged_frames_is_scored_without_them(run, network, capsys):
    (run / "data/val/labels/1.png").write_bytes(b"")
    assert evaluate_verb(run / "run", "--data", run / "data") == 2
    assert "1.png: the file is empty" in capsys.readouterr().err
    header = json.loads((run / "run/recipe.json").read_text())
    header["recipe"]["damaged"] = "skip"
    (run / "run/recipe.json").write_text(json.dumps(header))
    assert evaluate_verb(run / "run", "--data", run / "data") == 0
    printed = capsys.readouterr()
    assert "left out" in printed.err and "1.png" in printed.err
    assert "3 frames, 1 of them damaged and left out" in printed.out
    for path in (run / "data/val/labels").iterdir():
        path.write_bytes(b"")
    assert evaluate_verb(run / "run", "--data", run / "data") == 2
    assert "every one of 3 samples is damaged" in capsys.readouterr().err


def test_gallery_keeps_first_best_and_worst():
    gallery = Gallery(CAMVID, count=2)
    label = np.zeros((4, 5), np.uint8)
    for i, right in enumerate((3, 0, 5, 1, 4)):
        mask = np.ones_like(label)
        mask[:, :right] = 0
        gallery(Sample(np.zeros((4, 5, 3), np.uint8), label, f"f{i}"), mask)
    gallery(Sample(np.zeros((4, 5, 3), np.uint8), np.full_like(label, 255), "unlabelled"), label)
    assert [e.name for e in gallery.first] == ["f0", "f1"]
    assert [e.name for e in gallery.best] == ["f2", "f4"]
    assert [e.name for e in gallery.worst] == ["f1", "f3"]
    assert gallery.best[0].score == 1.0
    assert gallery.best[1].score == pytest.approx((4 / 5 + 0) / 2)  # sky, and building not there
    assert panel(gallery.best[0], CAMVID).shape == (256, 976, 3)


# --- the verb -------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, network):
    trained, recipe = network
    header = {"recipe": recipe.to_dict(), "labels": label_set_to_dict(CAMVID), "data": {}}
    write_run_header(tmp_path / "run", header)
    save_checkpoint(tmp_path / "run", Checkpoint(step=7, model=dict(trained.state_dict())))
    for kind in ("images", "labels"):
        (tmp_path / "data" / "val" / kind).mkdir(parents=True)
    for i in range(3):
        label = np.random.default_rng(i).integers(0, 12, (72, 96), np.uint8)
        cv2.imwrite(str(tmp_path / "data/val/images" / f"{i}.png"), picture(i))
        cv2.imwrite(str(tmp_path / "data/val/labels" / f"{i}.png"), label)
    return tmp_path


def evaluate_verb(*words: object) -> int:
    return cli.main(["evaluate", *map(str, words)])


def test_verb_prints_and_writes_the_scores(run, network, capsys):
    file = run / "scores.json"
    assert evaluate_verb(run / "run", "--data", run / "data", "--json", file) == 0
    printed = capsys.readouterr().out
    written = json.loads(file.read_text())
    dataset = load_dataset("camvid", run / "data", "val")
    matrix = evaluate(network_predictor(*network), dataset)
    result = scores(matrix)
    assert written["mean_iou"] == result.mean_iou
    assert written["pixel_accuracy"] == result.pixel_accuracy
    assert written["confusion_matrix"] == matrix.tolist()
    assert written["iou"]["road"] == result.iou[3]
    assert f"mean IoU {100 * result.mean_iou:.2f}" in " ".join(printed.split())
    assert "step 7" in printed and "network at 64x48" in printed
    assert all(name in printed for name in CAMVID.names)


def test_only_the_crop_is_seen_and_scored(run, network):
    file = run / "scores.json"
    words = ("--data", run / "data", "--json", file, "--crop", "0.25 0.5 1 1")
    assert evaluate_verb(run / "run", *words) == 0
    predict = network_predictor(*network)
    dataset = load_dataset("camvid", run / "data", "val")
    total = 0
    for sample in map(dataset.__getitem__, range(len(dataset))):
        image, label = sample.image[36:, 24:], sample.label[36:, 24:]  # of 96x72
        mask = resize_mask(predict(image), label.shape[::-1])
        total = total + confusion_matrix(label, mask, len(CAMVID))
    written = json.loads(file.read_text())
    assert written["confusion_matrix"] == total.tolist()
    assert written["data"].endswith("cropped to 0.25 0.5 1 1")


def test_a_result_in_place_of_the_data_is_refused(run, capsys):
    labels = next(path for path in sorted((run / "data").rglob("*")) if path.is_file())
    before = labels.read_bytes()
    for option, path in (("--json", labels), ("--report", labels.parent)):
        assert evaluate_verb(run / "run", "--data", run / "data", option, path) == 2
        assert f"{labels} is read and would be overwritten" in capsys.readouterr().err
    assert labels.read_bytes() == before


def test_verb_writes_a_report(run):
    pytest.importorskip("matplotlib")
    assert evaluate_verb(run / "run", "--data", run / "data", "--report", run / "report") == 0
    page = (run / "report" / "report.html").read_text()
    assert "network at 64x48" in page and "training.png" not in page


def test_model_file_and_checkpoint_agree(run, network, capsys):
    pytest.importorskip("onnxruntime")
    from bisenetv2_ros.model_file import ModelInfo
    from bisenetv2_ros.training.export import DeployedModel, export_model

    trained, recipe = network
    info = ModelInfo(CAMVID, "camvid", recipe.input_size, "float32", {}, "test", "test")
    file = run / "model.onnx"
    export_model(DeployedModel(trained, recipe.mean, recipe.std), info, file, [picture()])
    found = []
    for model in (run / "run", file):
        words = (model, "--data", run / "data", "--json", run / "s.json")
        assert evaluate_verb(*words, "--backend", "onnxruntime") == 0
        found.append(json.loads((run / "s.json").read_text()))
    assert found[0]["mean_iou"] == pytest.approx(found[1]["mean_iou"], abs=1e-3)
    assert evaluate_verb(file, "--data", run / "data", "--flip") == 2
    assert "--full-size need a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing"], "expected a run folder with recipe.json"),
        (["nothing.onnx"], "nothing.onnx"),
        (["run", "--dataset", "synthetic", "--split", "dev"], "split 'dev', expected one of"),
        (["run", "--data", "data", "--submission", "out"], "--submission is for cityscapes"),
        (["run", "--dataset", "folder", "--data", "data"], "classes.yaml: No such file"),
        (["run", "--scales", "0,1"], "expected factors"),
        (["run", "--crop", "0 0.5 1"], "crop '0 0.5 1': expected 'LEFT TOP RIGHT BOTTOM'"),
    ],
)
def test_verb_names_what_does_not_fit(run, monkeypatch, capsys, words, message):
    monkeypatch.chdir(run)
    try:
        code = evaluate_verb(*words)
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1


def test_verb_refuses_other_classes(run, cityscapes, capsys):
    words = (run / "run", "--dataset", "cityscapes", "--data", cityscapes)
    assert evaluate_verb(*words) == 2
    assert "knows the 11 classes of camvid11, expected the 19" in capsys.readouterr().err


def test_a_model_is_named_as_everywhere(run, tmp_path, monkeypatch, capsys):
    """By a folder of files, by a name; a path that is nothing is told as such."""
    words = ("--frame-count", "2", "-o", str(tmp_path / "mine/m_float32.onnx"))
    (tmp_path / "mine").mkdir()
    assert cli.main(["export", str(run / "run"), *words]) == 0
    for name in (tmp_path / "mine", tmp_path / "mine/m"):
        assert evaluate_verb(name, "--dataset", "camvid", "--data", run / "data") == 0
        assert "network at 64x48" in capsys.readouterr().out
    assert evaluate_verb(tmp_path / "nothing/here", "--data", run / "data") == 2
    assert "nothing/here" in capsys.readouterr().err
