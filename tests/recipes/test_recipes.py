"""Every recipe that ships parses, expands, and stands: data loads, models build, its cost can be told."""

import math
from functools import cache
from pathlib import Path

import pytest

from secateur.lab import estimate, expand, load, run_grid

from ..pictures import labels, noise, parquet

ROOT = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(ROOT.rglob("*.toml"))


def test_there_are_recipes():
    assert ROOT / "demo.toml" in RECIPES


# image and label column, classes, side, and what the split to test on is called
LAYOUTS = {
    "cifar10": ("img", "label", 10, 32, "test"),
    "cifar100": ("img", "fine_label", 100, 32, "test"),
    "svhn": ("image", "label", 10, 32, "test"),
    "tiny-imagenet": ("image", "label", 200, 64, "valid"),
    "imagenet": ("image", "label", 1000, 64, "validation"),
}


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """Data set to a folder of its layout, made once: 60 images to train on, 20 to test on, in ten classes."""

    @cache
    def made(name):
        image, label, classes, side, test = LAYOUTS[name]
        folder = tmp_path_factory.mktemp(name)
        for part, n in (("train", 60), (test, 20)):
            kinds = labels([f"class {c}" for c in range(classes)], [i % 10 for i in range(n)])
            images = [noise(i, (side, side)) for i in range(n)]
            parquet(folder / f"{part}.parquet", images, image=image, **{label: kinds})
        return folder

    return made


def shrunk(table):
    """The recipe for a set a thousandth as large: rows that are asked for by count shrink with it."""
    if "data.forget.count" in table.get("grid", {}):
        counts = table["grid"]["data.forget.count"]
        table["grid"]["data.forget.count"] = [max(i, n // 1000) for i, n in enumerate(counts, start=1)]
        table["data"]["forget"]["count"] = 1
    forget = table["data"]["forget"]
    if len(forget.get("classes", ())) > 1:  # the small sets have ten classes
        forget["classes"] = [0, 1]
    return table


def recipes():
    """Those of images build large networks."""
    for path in RECIPES:
        small = load(path)["data"]["use"] == "digits"
        yield pytest.param(path, id=str(path.relative_to(ROOT)), marks=[] if small else [pytest.mark.slow])


@pytest.mark.parametrize("path", list(recipes()))
def test_it_stands(path, tmp_path, folder_of):
    """Every cell of one seed is read and keyed; each network is built for each request, and timed."""
    store = tmp_path / "store"
    whole = load(path)
    axes = whole.get("grid", {})
    seeds, sets = axes.get("seed", [0]), axes.get("data.use", [whole["data"]["use"]])
    assert all(type(seed) is int for seed in seeds)
    assert len(set(seeds)) == len(seeds)
    plans = []
    for use in sets:
        one = [f"grid.seed=[{seeds[-1]}]"] if "seed" in axes else []
        one += [f'grid.data.use=["{use}"]'] if len(sets) > 1 else []
        if use != "digits":
            one += [f"data.path={folder_of(use)}", "data.limit=50", "data.holdout=0.1"]
        plans += expand(shrunk(load(path, one)), source=str(path))
    assert len(plans) * len(seeds) == math.prod(map(len, axes.values()))
    found = estimate(plans, store, patience=0)
    assert found
    assert all(one.stored == 0 < one.times for one in found)
    assert not store.exists()


def test_the_demo_runs(tmp_path):
    small = ["grid.seed=[0]", "data.test=0.8", "model.width=2", "train.epochs=3"]
    table = load(ROOT / "demo.toml", small)
    table["grid"]["data.forget"] = table["grid"]["data.forget"][:1]
    for entry in table["grid"]["unlearn"]:
        entry["epochs"] = 1
    for entries in table["grid"]["prune"]:
        for entry in entries:
            if entry["use"] == "train":
                entry |= {"epochs": 3}
    plans = expand(table)
    assert len(plans) == 2 * 4
    ended = run_grid(plans, tmp_path)
    assert not ended.failures
    assert len({record.key for record in ended.records}) == len(plans)
    # one training serves them all; what is pruned is trained on once; five references for each
    # sparsity, beside the retrains that are candidates
    methods = dict.fromkeys(("fine-tune", "gradient-ascent", "l1-sparse"), 2)
    assert {use: ended.taken.count(use) for use in set(ended.taken)} == {
        **methods,
        "train": 2,
        "magnitude": 1,
        "retrain": 2 * 5 + 2,
    }
    for record in ended.records:
        assert [finding.audit for finding in record.findings] == ["accuracy", "mia-efficacy", "retrain-gap"]
        assert len(record.references) == 5
        sparse = len(record.steps) == 4
        assert (record.sparsity > 0.85) == sparse
