"""Recipes: the schedule by hand, what a file and an override may say, the paper's values."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from bisenetv2_ros.training.recipe import (
    Recipe,
    RecipeError,
    load_recipe,
    recipe_from_dict,
)
from bisenetv2_ros.training.recipe_folder import known_recipes

MINIMUM = {
    "name": "t",
    "dataset": "camvid",
    "input_size": [64, 64],
    "crop": [64, 64],
    "iterations": 10,
}


def recipe(**changes) -> Recipe:
    return recipe_from_dict({**MINIMUM, **changes})


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_poly_schedule_by_hand():
    poly = recipe(learning_rate=0.05, iterations=150_000)
    assert poly.learning_rate_at(0) == 0.05
    assert poly.learning_rate_at(75_000) == pytest.approx(0.05 * 0.5358867)  # 0.5 ** 0.9
    assert poly.learning_rate_at(149_999) == pytest.approx(0.05 * (1 / 150_000) ** 0.9)
    assert poly.learning_rate_at(135_000) == pytest.approx(0.05 * 0.1258925)  # 0.1 ** 0.9


def test_warm_up_multiplies_the_poly_schedule():
    warm = recipe(learning_rate=1.0, iterations=100, warmup=4, power=1.0)
    rates = [warm.learning_rate_at(step) for step in range(5)]
    assert rates == pytest.approx([0.25, 0.5 * 0.99, 0.75 * 0.98, 0.97, 0.96])


# What the paper states (section 5.1), by data set.
PAPER = {
    "cityscapes": (150_000, 5e-4, (1024, 512), 19),
    "camvid": (10_000, 5e-4, (960, 720), 11),
    "coco_stuff": (20_000, 1e-4, (640, 640), 182),
}


@pytest.mark.parametrize("name", PAPER)
def test_recipes_of_the_paper(name):
    iterations, weight_decay, crop, classes = PAPER[name]
    found = load_recipe(name)
    assert (found.iterations, found.weight_decay, found.crop) == (iterations, weight_decay, crop)
    assert found.model.num_classes == classes
    assert (found.learning_rate, found.power, found.momentum) == (5e-2, 0.9, 0.9)
    assert (found.batch_size, found.micro_batch, found.warmup) == (16, 0, 0)
    assert found.flip and not found.scale_range and found.jitter == 0 and found.synthetic == 0
    assert (found.loss, found.class_weights, found.ema) == ("cross_entropy", "none", 0)
    assert (found.booster_weight, found.booster_stride) == (1, 1)
    assert found.model == dataclasses.replace(type(found.model)(), num_classes=classes)
    # Cityscapes' 2048x1024 crops are halved after the scaling
    factor = 0.5 if name == "cityscapes" else 1
    assert found.scales == tuple(factor * s for s in (0.75, 1, 1.25, 1.5, 1.75, 2))


@pytest.mark.parametrize("name", PAPER)
def test_improved_twins_cost_nothing_in_inference(name):
    plain, improved = load_recipe(name), load_recipe(f"{name}_improved")
    assert improved.model == plain.model and improved.input_size == plain.input_size
    assert improved.dataset == plain.dataset and improved.val_split == plain.val_split
    assert improved.batch_size == 32 and improved.iterations > plain.iterations
    assert improved.scales[0] < plain.scales[0] and improved.scale_range
    assert improved.warmup and improved.jitter and improved.ema and improved.loss == "ohem"


def test_every_recipe_loads_and_names_itself():
    recipes = known_recipes()
    assert set(PAPER) < set(recipes)
    for name, first_line in recipes.items():
        assert load_recipe(name).name == name
        assert first_line and not first_line.startswith("base")


def test_overrides():
    found = load_recipe(
        "camvid",
        ["learning_rate=1e-2", "model.aggregation=sum", "crop=[64, 32]", "flip=false", "ema=0"],
    )
    assert (found.learning_rate, found.crop, found.flip, found.ema) == (0.01, (64, 32), False, 0.0)
    assert found.model.aggregation == "sum"
    assert found.model.num_classes == 11, "the other keys of the model stay"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lerning_rate=1", "unknown key 'lerning_rate', did you mean 'learning_rate'?"),
        ("model.head_chanels=1", "unknown key 'head_chanels', did you mean 'head_channels'?"),
        ("batch_size", "expected key=value"),
        ("batch_size=many", 'batch_size is "many", expected int'),
        ("batch_size=1.5", "batch_size is 1.5, expected int"),
        ("flip=1", "flip is 1, expected bool"),
        ("learning_rate=nan", "learning_rate is nan, expected"),
        ("loss=dice", "loss is 'dice', expected one of ['cross_entropy', 'ohem']"),
        ("crop=[64]", "expected 2 values"),
        ("crop=[60,64]", "crop is 60x64, expected positive multiples of 8"),
        ("micro_batch=3", "micro_batch is 3, expected a divisor of batch_size (16)"),
        ("scales=[2, 1]", "expected rising positive factors"),
        ("name.x=1", "name has no keys below it"),
        ("model.boosters=[s9]", "boosters names ['s9']"),
    ],
)
def test_faulty_overrides_are_named(override, message):
    with pytest.raises(RecipeError) as error:
        load_recipe("camvid", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_base_states_only_what_differs(tmp_path, monkeypatch):
    file = write(tmp_path / "mine.yaml", "base: camvid\nbatch_size: 4\nmodel: {depth: 2}\n")
    found = load_recipe(file)
    assert (found.name, found.batch_size, found.model.depth) == ("mine", 4, 2)
    assert (found.iterations, found.model.num_classes) == (10_000, 11)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="more than"):
        load_recipe(write(tmp_path / "loop.yaml", "base: loop.yaml\n"))


def test_scientific_notation_in_files(tmp_path):
    """YAML 1.1 reads 5e-2 as a string."""
    file = write(tmp_path / "a.yaml", "base: camvid\nlearning_rate: 5e-3\niterations: 2e3\n")
    assert (load_recipe(file).learning_rate, load_recipe(file).iterations) == (0.005, 2000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("- 1\n", "expected keys and values, received list"),
        ("dataset: camvid\n", "missing key 'input_size'"),
        ("base: nothing\n", "no recipe 'nothing': expected a file or one of camvid, "),
        ("base: camvid\nmodel: 5\n", "model is 5, expected ModelConfig"),
    ],
)
def test_faulty_files_are_named(tmp_path, text, message):
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path / "bad.yaml", text))
    assert message in str(error.value)


def test_a_fault_of_the_file_is_not_laid_on_the_overrides(tmp_path):
    file = write(tmp_path / "bad.yaml", "base: camvid\nbatch_size: 0\n")
    with pytest.raises(RecipeError, match=r"bad.yaml: batch_size is 0, expected 1"):
        load_recipe(file, ["jitter=0.1"])
    with pytest.raises(RecipeError, match=r"camvid batch_size=0: batch_size is 0"):
        load_recipe("camvid", ["batch_size=0"])


def test_every_fault_is_named_in_one_line(tmp_path):
    """So that a recipe is not mended one key a try."""
    text = "base: camvid\nbatch_size: 0\nflip: 1\nmodel: {depth: 2.5, head_shuffle: 3, widht: 2}\n"
    with pytest.raises(RecipeError) as error:
        load_recipe(write(tmp_path / "bad.yaml", text))
    assert str(error.value) == (
        f"{tmp_path / 'bad.yaml'}: flip is 1, expected bool; model.depth is 2.5, expected int; "
        "model.head_shuffle is 3, expected one of [1, 2, 4, 8]; unknown key 'widht', did you mean "
        "'width'?; batch_size is 0, expected 1..100000"
    )


def test_a_recipe_is_checked_however_it_is_made():
    with pytest.raises(ValueError, match=r"^jitter is 2, expected 0\.\.1$"):
        dataclasses.replace(recipe(), jitter=2)
    with pytest.raises(ValueError, match=r"^warmup is 11, expected 0\.\.10"):
        Recipe(**MINIMUM, warmup=11)


def test_a_warm_up_fits_the_steps_that_are_given():
    assert load_recipe("camvid_cpu", ["iterations=60"]).warmup == 1, "100 of 4000"
    assert load_recipe("camvid_cpu", ["iterations=1000"]).warmup == 100, "it fits"
    with pytest.raises(RecipeError, match=r"warmup is 70, expected 0\.\.60"):
        load_recipe("camvid_cpu", ["iterations=60", "warmup=70"])


def test_recipes_of_earlier_runs_load():
    """As a recipe.json of July has it: no key of later, whole numbers where floats are meant."""
    earlier = {
        **MINIMUM,
        "train_size": None,
        "scales": [1, 2.0],
        "ema": 0,
        "model": {"num_classes": 11},
    }
    found = recipe_from_dict(earlier)
    assert (found.ema, found.scales, found.class_mix, found.damaged) == (0, (1, 2), 0, "fail")


def test_files_cannot_make_objects(tmp_path):
    with pytest.raises(RecipeError, match="not YAML"):
        load_recipe(write(tmp_path / "evil.yaml", "a: !!python/object/apply:os.getcwd []\n"))


def test_recipe_survives_json():
    import json

    found = load_recipe("cityscapes_improved")
    assert recipe_from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_recipes_need_no_torch():
    code = "import sys, bisenetv2_ros.training.recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_network_by_name():
    paper = load_recipe("cityscapes", ["model=paper"]).model
    assert (paper.expand_with, paper.head_channels, paper.num_classes) == ("conv", 512, 19)
    changed = load_recipe("cityscapes", ["model={network: paper, num_classes: 11}"]).model
    assert (changed.expand_with, changed.num_classes) == ("conv", 11)
    with pytest.raises(RecipeError, match=r"model.network is 'papre', .* did you mean 'paper'"):
        load_recipe("cityscapes", ["model=papre"])
