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

from ..pictures import labels, noise, parquet, two_classes

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

rows = np.array([3, 10, 11, 50])
PICTURES = np.arange(4 * 2 * 3 * 5, dtype=np.uint8).reshape(4, 2, 3, 5)

def sampled(*, ids: str = "good"):
    # four rows of more, of which more is known
    known = {"good": rows, "float": rows * 1.0, "short": rows[:3], "mixed": rows[::-1], "twice": rows // 10}
    return Collection(
        train=(PICTURES, [0, 1, 0, 1]), test=(PICTURES, [0, 1, 0, 1]), ids=known[ids],
        columns={"who": np.array(["ann", "bob", "ann", "bob"], dtype=object), "year": [1, 2, 3, 4]},
        mean=(0.1, 0.2), std=(0.3, 0.4),
    )
def square():
    pair = PICTURES[..., :3], [0, 1, 0, 1]
    return Collection(train=pair, test=pair)
def column(*, of: str):
    values = {
        "short": [1, 2], "table": np.ones((40, 2), int), "things": np.array([{}] * 40, dtype=object),
        "mixed": np.array([1, "a"] * 20, dtype=object), "none": np.array(["a", None] * 20, dtype=object),
    }
    return Collection(train=(X, Y), test=(X, Y), columns={"who": values[of]})

class Told(nn.Module):
    def __init__(self, *, classes: int, channels: int, size: int = 0, mean: tuple = (), std: tuple = ()):
        super().__init__()
        self.told = dict(classes=classes, channels=channels, size=size, mean=mean, std=std)
        self.body = nn.LazyLinear(classes)
        self.body(torch.zeros(1, 30 if not size else 18))
    def forward(self, x): return self.body(x.flatten(1))

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
    with pytest.raises(DataError, match=r"in data\.holdout, ids 0\.\.358, got 400: name rows that are there"):
        ground(tiny)
    tiny["data"] |= {"holdout": [3, 7, 3]}
    with pytest.raises(DataError, match=r"each row once in data\.holdout, but row 3 is named 2 times"):
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


# --- what the data tells the network ---


def test_a_network_that_takes_them_is_told_shape_and_constants(outside):
    table = outside("sampled", "Told")
    table["data"]["forget"] = {"how": "rows", "rows": [10]}
    told = {"classes": 2, "channels": 2, "size": 0, "mean": (0.1, 0.2), "std": (0.3, 0.4)}
    assert ground(table).state.model.told == told  # images that are not square have no size
    table["model"] |= {"std": [1.0, 2.0], "classes": 3}
    assert ground(table).state.model.told == told | {"std": (1.0, 2.0), "classes": 3}
    table = outside("square", "Told")
    table["data"]["forget"] = {"how": "rows", "rows": [1]}
    assert ground(table).state.model.told == told | {"size": 3, "mean": (), "std": ()}


def test_a_network_that_needs_what_the_data_cannot_tell(outside):
    with pytest.raises(DataError, match=r"classes = 4, but it raised TypeError: .*channels"):
        ground(outside("arrays", "Told"))


def test_declared_constants_reach_the_first_layer(tiny, tmp_path):
    ten = labels([str(i) for i in range(10)], [0, 1, 2])
    for split in ("train", "test"):
        parquet(tmp_path / f"{split}.parquet", [noise(i, (32, 32)) for i in range(3)], label=ten)
    tiny["data"] = {"use": "svhn", "path": str(tmp_path), "forget": {"how": "rows", "rows": [1]}}
    tiny["model"] = {"use": "resnet20s"}
    first = ground(tiny).state.model.normalize
    assert first.mean.flatten().tolist() == pytest.approx([0.4377, 0.4438, 0.4728])
    assert first.std.flatten().tolist() == pytest.approx([0.1980, 0.2010, 0.1970])


# --- rows that are a sample, and what is known of them ---


@pytest.fixture
def sampled(outside):
    def split(ids="good", holdout=0.0, **forget):
        table = outside("sampled", "Told")
        table["data"] |= {"ids": ids, "holdout": holdout, "forget": forget}
        return ground(table).split

    return split


def test_requests_and_holdout_name_rows_by_their_stable_ids(sampled):
    split = sampled(holdout=[50], how="rows", rows=[11])
    assert {name: view.rows.tolist() for name, view in split.items() if name != "test"} == {
        "forget": [11],
        "retain": [3, 10],
        "holdout": [50],
    }
    (batch,) = split.forget.once()
    assert batch.row.tolist() == [11]
    assert (batch.x[0, 0, 0, 0] * 255).round() == 60  # the third image


def test_rows_that_the_sample_left_out_are_told(sampled):
    with pytest.raises(DataError, match=r"data\.forget, ids 3\.\.50, of which 4 are here, got 12: name rows"):
        sampled(how="rows", rows=[11, 12])
    with pytest.raises(DataError, match=r"data\.holdout, ids 3\.\.50, of which 4 are here, got 51"):
        sampled(holdout=[51], how="rows", rows=[11])
    with pytest.raises(DataError, match=r"each row once in data\.forget, but row 11 is named 2 times"):
        sampled(how="rows", rows=[11, 3, 11])
    with pytest.raises(DataError, match=r"1 are both \(the first: 50\)"):
        sampled(holdout=[50], how="rows", rows=[3, 50])


def test_a_file_names_rows_by_their_stable_ids(sampled, tmp_path):
    (tmp_path / "may.txt").write_text("50\n3\n")
    assert sampled(how="file", path=str(tmp_path / "may.txt")).forget.rows.tolist() == [3, 50]


def test_a_column_may_be_words_as_pandas_holds_them(sampled):
    assert sampled(how="column", column="who", equals="ann").forget.rows.tolist() == [3, 11]
    assert sampled(how="column", column="year", equals=4).forget.rows.tolist() == [50]
    assert sampled(holdout=[11], how="column", column="who", equals="ann").forget.rows.tolist() == [3]


@pytest.mark.parametrize(
    ("ids", "got"),
    [
        ("float", r"torch\.float64 of shape \(4,\): an id names one row for good"),
        ("short", r"torch\.int64 of shape \(3,\)"),
        ("mixed", r"torch\.int64 of shape \(4,\), not ascending"),
        ("twice", r"torch\.int64 of shape \(4,\), not ascending"),
    ],
)
def test_ids_that_identify_nothing(sampled, ids, got):
    with pytest.raises(DataError, match=rf"the ids of the training data as integers \[4\], .* got {got}"):
        sampled(ids, how="rows", rows=[3])


@pytest.mark.parametrize(
    ("of", "says"),
    [
        ("short", r'each of 40 training rows in the column "who" of "outer:column", got shape \(2,\)'),
        ("table", r"got shape \(40, 2\)"),
        ("things", r'words, whole numbers or truth values in the column "who" .*, got dict: a request could'),
        ("mixed", "got int, str: a request could not tell rows by it"),
        ("none", "got NoneType, str"),
    ],
)
def test_columns_that_tell_nothing(outside, of, says):
    table = outside("column")
    table["data"]["of"] = of
    with pytest.raises(DataError, match=says):
        ground(table)


def test_a_limit_keeps_ids(tiny, tmp_path):
    two_classes(tmp_path, n=12)
    tiny["data"] = {"use": "images", "path": str(tmp_path), "limit": 5}
    tiny["data"]["forget"] = {"how": "class", "classes": [1]}
    rows = ground(tiny).split.rows
    kept = np.sort(np.concatenate([rows["forget"], rows["retain"]]))
    assert len(kept) == 5
    assert (rows["forget"] % 2 == 1).all()
    tiny["data"]["forget"] = {"how": "rows", "rows": [int(kept[2])]}
    assert ground(tiny).split.forget.rows.tolist() == [kept[2]]
    # the seed of the data moves the sample, that of the plan does not
    assert ground(tiny | {"seed": 5}).split.hash == ground(tiny).split.hash
    absent = int(np.setdiff1d(np.arange(kept.max()), kept)[0])
    tiny["data"]["forget"]["rows"] = [absent]
    with pytest.raises(DataError, match=rf"of which 5 are here, got {absent}: name rows"):
        ground(tiny)


def test_all_splits_of_a_grid_hold_the_rows_once(tiny, tmp_path):
    two_classes(tmp_path, n=12, subject=["ann", "bob"] * 6)
    tiny["data"] = {"use": "images", "path": str(tmp_path), "label": "label"}
    loaded, seen = Loaded(), set()
    for forget in (
        {"how": "class", "classes": [1]},
        {"how": "random", "count": 3},
        {"how": "column", "column": "subject", "equals": "ann"},
    ):
        for holdout in (0.0, 0.2, [3]):
            plan = read_plan(tiny | {"data": tiny["data"] | {"forget": forget, "holdout": holdout}})
            if forget["how"] == "class" and holdout == [3]:
                continue
            split = loaded.ground(plan, plan.settings.run()).split
            for view in (*split.values(), split.pool):
                seen.add((view.name == "test", view._table.x.data_ptr()))
    assert len(seen) == 2
