"""Every recipe that ships parses, expands, and stands: data loads, models build, its cost can be told."""

import tomllib
from pathlib import Path

import pytest

from secateur.lab import estimate, expand, load, run_grid

from ..pictures import labels, noise, parquet

ROOT = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(ROOT.rglob("*.toml"))


def test_there_are_recipes():
    assert ROOT / "demo.toml" in RECIPES


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory):
    """A folder of the layout of CIFAR-10: 60 images to train on, 20 to test on."""
    folder = tmp_path_factory.mktemp("cifar10")
    for part, n in (("train", 60), ("test", 20)):
        kinds = labels([f"class {c}" for c in range(10)], [i % 10 for i in range(n)])
        images = [noise(i, (32, 32)) for i in range(n)]
        parquet(folder / f"{part}.parquet", images, image="img", label=kinds)
    return folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(ROOT)))
def test_it_stands(path, tmp_path, tiny_cifar):
    store = tmp_path / "store"
    images = [f"data.path={tiny_cifar}", "data.limit=50", "data.holdout=0.1"]
    plans = expand(load(path, [] if load(path)["data"]["use"] == "digits" else images), source=str(path))
    cells = 1
    for values in tomllib.loads(path.read_text()).get("grid", {}).values():
        cells *= len(values)
    assert len(plans) == cells
    found = estimate(plans, store)
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
