"""Every recipe that ships parses, expands and stands at full size, and runs at a small one."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from secateur import lab, zoo
from secateur.allocator import keep_freed_memory
from secateur.card import name_of
from secateur.lab import estimate, expand, load, run_grid

from ..pictures import real
from .shrink import CLASSES, ROWS, TRAIN, WORK, diagonal, known, searched, shrunk

ROOT = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(ROOT.rglob("*.toml"))


def of(path):
    return str(path.relative_to(ROOT))


def test_there_are_recipes():
    assert ROOT / "demo.toml" in RECIPES


def recipes():
    """Those of images build large networks."""
    for path in RECIPES:
        small = load(path)["data"]["use"] == "digits"
        yield pytest.param(path, id=of(path), marks=[] if small else [pytest.mark.slow])


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
        one += [] if use == "digits" else [f"data.path={folder_of(use)}"]
        plans += expand(shrunk(load(path, one), ROWS), source=str(path))
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


# --- run, at a small size ---


def test_what_is_shrunk_is_there():
    """A rule for a knob that nothing has any more would quietly leave a recipe as large as it is."""
    assert {*ROWS, *WORK} <= known()


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One for all recipes: what they share is trained once, as their heads say."""
    keep_freed_memory()  # as the command line does
    return tmp_path_factory.mktemp("store")


def small(path):
    return shrunk(load(path), ROWS | WORK)


def placed(table, folder_of):
    """A cell, its data where the made images are."""
    use = table["grid"].get("data.use", [table["data"]["use"]])[0]
    return table if use == "digits" else {**table, "data": {**table["data"], "path": str(folder_of(use))}}


def classes_of(plan):
    """[n], the classes of the training rows before any poison, by what they were made from."""
    if plan.data.use != "digits":
        return np.arange(TRAIN) % CLASSES
    return zoo.digits(**plan.data.knobs).train[1]


def check_rows(plan, rows):
    """Who stands where, reckoned from the plan without asking the split."""
    y, data = classes_of(plan), plan.table["data"]
    told, forget, held = data["forget"], set(rows["forget"]), set(rows.get("holdout", ()))
    assert sorted([*forget, *rows["retain"], *held]) == list(range(len(y)))
    free = set(range(len(y))) - held
    holdout = data.get("holdout", 0.0)
    assert held == set(holdout) if isinstance(holdout, list) else len(held) == round(holdout * len(y))
    if told["how"] == "class":
        assert forget == {i for i in free if y[i] in told["classes"]}
    elif told["how"] == "random":
        assert len(forget) == told.get("count", round(told.get("share", 0) * len(free)))
    elif told["column"] == "poisoned":
        poison = data["poison"]
        assert len(forget) == round(poison["share"] * len(free))
        assert all(y[i] != poison["target"] for i in forget)
    else:
        assert told["column"] == "mislabelled"
        assert forget == set(np.flatnonzero(y != zoo.digits(**{**plan.data.knobs, "noise": 0.0}).train[1]))
    assert forget


def check_steps(plan, record):
    """The original is the one that the plan trains and prunes, and what unlearns it is the plan's."""
    assert [trace.step for trace in record.steps] == [planned.use for planned in plan.steps]
    size = dict(record.split["rows"])
    size |= {"pool": size["forget"] + size["retain"]}
    for trace, planned in zip(record.steps, plan.steps, strict=True):
        if planned.use in ("train", "retrain"):
            (role,) = planned.step.reads
            passes = planned.step.epochs - getattr(planned.step, "start", 0)
            assert trace.drawn == {role: passes * size[role]}
    original = record.steps[: record.unlearn]
    assert "pool" in original[-1].weights_saw
    # at sparsity 0, a control, nothing is pruned
    prunes = [
        ".prune." in type(planned.step).__module__ and getattr(planned.step, "sparsity", 1) > 0
        for planned in plan.steps[: record.unlearn]
    ]
    assert (original[-1].sparsity > 0.1) == any(prunes)


def check(plans, ended, store):
    """No run failed, and each is what its plan says."""
    assert ended.failures == ()
    assert len(ended.records) == len(plans)
    for plan, record in zip(plans, ended.records, strict=True):
        assert [f.audit for f in record.findings] == [name_of(type(audit)) for audit in plan.audits]
        assert all(finding.estimates for finding in record.findings)
        assert len(record.references) == plan.references
        check_rows(plan, json.loads((store / record.split["file"]).read_text())["rows"])
        check_steps(plan, record)


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=of)
def test_it_runs(path, store, folder_of):
    """On a few images of noise: every method, network and data set of every axis once."""
    plans = [p for one in diagonal(small(path)) for p in expand(placed(one, folder_of), source=str(path))]
    asked = {planned.use for plan in expand(load(path)) for planned in plan.steps}
    assert {planned.use for plan in plans for planned in plan.steps} == asked
    check(plans, run_grid(plans, store), store)


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in RECIPES if "tune" in load(path)], ids=of)
def test_it_tunes(path, store, folder_of, tmp_path):
    """Each method that ``[tune]`` names has its trials, and what is written runs."""
    table = placed(searched(small(path)), folder_of)
    found = lab.tune_plan(table, store)
    ranges = {name for name in table["tune"] if "." in name}
    assert {name for one in found for trial in one.trials for name in trial.knobs} == ranges
    for one in found:
        assert len(one.trials) == (0 if one.methods == ("retrain",) else 1)
        assert [trial.fault for trial in one.trials if trial.fault] == []
        assert all(math.isfinite(trial.score) for trial in one.trials)
        if one.trials:
            assert one.surrogate["how"] == table["data"]["forget"]["how"]
            assert one.surrogate != table["data"]["forget"]
            assert one.references == table["tune"].get("references", 2)
            for name, value in one.best.knobs.items():
                assert table["tune"][name]["low"] <= value <= table["tune"][name]["high"]
    (made,) = lab.tuned_plans(found)
    (tmp_path / "best.toml").write_text(lab.to_toml(made))
    plans = expand(load(tmp_path / "best.toml"))
    assert len(plans) == len(found) * len(found[0].seeds or [0])
    last = plans[len(found) - 1 : len(found)]  # of the first seed
    check(last, run_grid(last, store), store)


# --- rows named by hand ---

HELD = [path for path in RECIPES if isinstance(load(path)["data"].get("holdout"), list)]


@pytest.mark.parametrize("path", HELD, ids=of)
def test_rows_held_out_by_name_are_rows_of_the_set(path):
    data = load(path)["data"]
    assert data["use"] == "cifar10"
    held = np.array(data["holdout"])
    assert len(held) == 1_000 == data["limit"] - 10_000
    assert (np.diff(held) > 0).all()
    assert held[0] >= 0
    assert held[-1] < 50_000


@pytest.mark.slow
def test_rows_held_out_by_name_are_those_that_the_main_table_never_sees():
    """The sample of 11,000 without them is that of 10,000: so both studies stand on the same originals."""
    path = str(real("cifar10"))
    more, ours = (
        set(zoo.cifar10(path=path, limit=n, memory="mapped").ids.tolist()) for n in (11_000, 10_000)
    )
    assert len(HELD) == 2
    for recipe in HELD:
        assert more - set(load(recipe)["data"]["holdout"]) == ours
