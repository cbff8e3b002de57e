"""The ground of a plan: loaded and checked before anything is trained."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.errors import DataError
from secateur.lab.freeze import pack_weights
from secateur.lab.prepare import Loaded
from secateur.lab.read import read_plan
from secateur.zoo import small_cnn

OUTSIDE = """
import functools, numpy as np, torch
from torch import nn
from secateur.zoo import Collection

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 6)).astype(np.float32), np.arange(40) % 4

def arrays(): return Collection(train=(X, Y), test=(X, Y))
def tensors():
    pair = torch.tensor(X), torch.tensor(Y)
    return Collection(train=pair, test=pair)
def dataset():
    items = [(x, int(y)) for x, y in zip(X, Y)]
    return Collection(train=items, test=items)
def mapping(): return Collection(train=({"a": X}, Y), test=({"a": X}, Y))
def no_test(): return Collection(train=(X, Y), test=None)
def empty(): return Collection(train=(X[:0], Y[:0]), test=(X, Y))
def triple(): return Collection(train=(X, Y, Y), test=(X, Y))
def pair(): return (X, Y), (X, Y)
def broken(*, path: str = "here"): raise OSError(f"no data in {path}")

class Net(nn.Module):
    def __init__(self, *, classes: int, hidden: int = 3):
        super().__init__()
        self.body = nn.Linear(6, classes)
        self.told = classes, hidden
    def forward(self, x):
        return self.body(x["a"] if isinstance(x, dict) else x)

def brittle(*, hidden: int = 3): return Net(classes=4, hidden=1 // (hidden - 3))
def number(): return 3
"""


@pytest.fixture
def outside(tmp_path, monkeypatch, tiny):
    """A plan over code from outside: ``outside("arrays", "Net")``."""
    (tmp_path / "outer.py").write_text(OUTSIDE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "outer", raising=False)

    def plan(data="arrays", model="Net", **knobs):
        tiny["data"] = {"use": f"outer:{data}", "forget": {"how": "rows", "rows": [0, 5]}}
        tiny["model"] = {"use": f"outer:{model}", **knobs}
        return tiny

    return plan


def ground(table):
    plan = read_plan(table)
    return Loaded().ground(plan, plan.settings.run())


def test_the_model_is_told_classes_and_channels(tiny):
    made = ground(tiny)
    assert made.state.model[-1].out_features == 10
    assert made.state.model[1].in_channels == 1
    assert {name: len(view) for name, view in made.split.items()} == {
        "forget": 37,
        "retain": 322,
        "test": 1438,
    }


def test_the_plan_has_the_last_word(tiny):
    tiny["model"]["classes"] = 12
    assert ground(tiny).state.model[-1].out_features == 12


@pytest.mark.parametrize("data", ["arrays", "tensors", "dataset", "mapping"])
def test_data_may_come_in_many_forms(outside, data):
    made = ground(outside(data, hidden=5))
    assert made.state.model.told == (4, 5)
    assert made.split.forget.rows.tolist() == [0, 5]
    assert made.split.pool.fingerprint == ground(outside(data)).split.pool.fingerprint


@pytest.mark.parametrize(
    ("data", "model", "knobs", "says"),
    [
        ("no_test", "Net", {}, 'the audit "accuracy" needs rows of test, and the data has none'),
        ("empty", "Net", {}, 'expected training rows from "outer:empty", got none'),
        (
            "triple",
            "Net",
            {},
            r"`train` of \"outer:triple\" as \(x, y\) or a map-style data set, got a tuple of 3",
        ),
        ("pair", "Net", {}, r"to give a secateur.zoo.Collection, got tuple: return Collection\(train="),
        (
            "broken",
            "Net",
            {},
            r"\"outer:broken\" with no knobs, but it raised OSError: no data in here \(.*outer.py, line 21\)",
        ),
        ("arrays", "number", {}, "return a torch.nn.Module, got int"),
        (
            "arrays",
            "brittle",
            {"hidden": 3},
            "with hidden = 3, but it raised ZeroDivisionError: .*outer.py, line",
        ),
        (
            "arrays",
            "Net",
            {"classes": 2},
            r"expected labels in 0\.\.1, one for each logit of the model, got label 3",
        ),
    ],
)
def test_what_is_not_what_it_claims_is_told_in_words(outside, data, model, knobs, says):
    with pytest.raises(DataError, match=says):
        ground(outside(data, model, **knobs))


def test_a_model_that_cannot_be_built_as_asked(tiny):
    tiny["model"]["width"] = -1
    with pytest.raises(
        DataError, match=r"\"small-cnn\" with .*width = -1, but it raised RuntimeError: .*negative"
    ):
        ground(tiny)


def test_data_that_cannot_be_made_as_asked(tiny):
    tiny["data"]["noise"] = 2.0
    with pytest.raises(DataError, match=r'"digits" with noise = 2\.0, test = 0\.8, but it raised ValueError'):
        ground(tiny)


def test_all_forget_sets_share_one_pool_and_one_holdout(tiny):
    tiny["data"]["holdout"] = 0.1
    requests = [
        {"how": "class", "classes": [3]},
        {"how": "class", "classes": [0, 8]},
        {"how": "random", "share": 0.2},
        {"how": "random", "count": 5},
    ]
    grounds = [ground(tiny | {"data": tiny["data"] | {"forget": request}}) for request in requests]
    assert len({made.split.pool.fingerprint for made in grounds}) == 1
    assert len({tuple(made.split["holdout"].rows) for made in grounds}) == 1
    assert len({made.split.forget.fingerprint for made in grounds}) == 4
    assert len({made.root for made in grounds}) == 1
    for made in grounds:
        assert not np.intersect1d(made.split["holdout"].rows, made.split.pool.rows).size
        assert len(made.split["holdout"]) == round(0.1 * 359)


def test_holdout_rows_may_be_named(tiny):
    tiny["data"] |= {"holdout": [3, 7], "forget": {"how": "rows", "rows": [5]}}
    assert ground(tiny).split["holdout"].rows.tolist() == [3, 7]
    tiny["data"]["forget"]["rows"] = [5, 7]
    with pytest.raises(DataError, match=r"1 are both \(the first: 7\)"):
        ground(tiny)
    tiny["data"] |= {"holdout": [400]}
    with pytest.raises(DataError, match=r"positions in 0\.\.358 in `holdout`"):
        ground(tiny)


def test_the_seed_of_a_plan_does_not_move_its_rows(tiny):
    tiny["data"] |= {"forget": {"how": "random", "share": 0.1}, "holdout": 0.1}
    first, other = ground(tiny), ground(tiny | {"seed": 5})
    assert first.split.hash == other.split.hash
    assert first.root == other.root
    assert first.link != other.link
    assert ground(tiny | {"data": tiny["data"] | {"seed": 5}}).split.hash != first.split.hash


def test_weights_from_elsewhere_are_what_the_chain_starts_from(tiny, tmp_path):
    torch_weights = small_cnn(width=2).eval()
    path = tmp_path / "m.safetensors"
    path.write_bytes(pack_weights(torch_weights, {}))
    made = ground(tiny | {"model": tiny["model"] | {"weights": str(path)}})
    want = torch_weights.state_dict()
    assert all(torch.equal(value, want[name]) for name, value in made.state.model.state_dict().items())
    assert made.state.weights_saw == {"pool"}
    assert made.root != ground(tiny).root
    moved = Path(tmp_path / "renamed.safetensors")
    path.rename(moved)
    # the bytes count, not where they lie
    assert ground(tiny | {"model": tiny["model"] | {"weights": str(moved)}}).root == made.root


def test_one_load_serves_all_plans(outside, tmp_path):
    table = outside("arrays")
    loaded = Loaded()
    plan = read_plan(table)
    first = loaded.ground(plan, plan.settings.run())
    again = loaded.ground(plan, plan.settings.run())
    assert first.split is again.split
