"""Every recipe that ships parses, expands, stands and runs: at full size its cost is told, at a small one it is run."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from secateur import lab, zoo
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


# --- run, at a small size ---


def test_what_is_shrunk_is_there():
    """A rule for a knob that nothing has any more would quietly leave a recipe as large as it is."""
    assert {*ROWS, *WORK} <= known()


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """One for all recipes: what they share is trained once, as their heads say."""
    return tmp_path_factory.mktemp("store")


def small(path, folder_of):
    """A recipe's cells, few and small, as plans."""
    plans = []
    for table in diagonal(shrunk(load(path), ROWS | WORK)):
        use = table["grid"].get("data.use", [table["data"]["use"]])[0]
        path = {} if use == "digits" else {"path": str(folder_of(use))}
        plans += expand({**table, "data": {**table["data"], **path}}, source=str(path))
    return plans


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
    size = record.split["rows"]
    size["pool"] = size["forget"] + size["retain"]
    for trace, planned in zip(record.steps, plan.steps, strict=True):
        if planned.use in ("train", "retrain"):
            (role,) = planned.step.reads
            passes = planned.step.epochs - getattr(planned.step, "start", 0)
            assert trace.drawn == {role: passes * size[role]}
    original = record.steps[: record.unlearn]
    assert "pool" in original[-1].weights_saw
    pruned = any(name_of(type(p.step)) in PRUNES for p in plan.steps[: record.unlearn])
    assert pruned == (original[-1].sparsity > 0.1)


PRUNES = {"magnitude", "iterative", "synflow", "snip", "grasp", "random"}


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
    """On a few dozen images of noise, every value of every axis once."""
    plans = small(path, folder_of)
    asked = {planned.use for plan in expand(load(path)) for planned in plan.steps}
    assert {planned.use for plan in plans for planned in plan.steps} == asked
    check(plans, run_grid(plans, store), store)
