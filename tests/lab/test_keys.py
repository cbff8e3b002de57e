"""Keys: they move with all that a result depends on, and with nothing else."""

import functools
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from secateur import steps
from secateur.lab.grid import set_at
from secateur.lab.keys import Link, identity, sources, step_key
from secateur.lab.prepare import Loaded
from secateur.lab.read import read_plan

from ..pictures import two_classes

LOADED = Loaded()  # the digits, read once


def ground(table):
    plan = read_plan(table)
    return plan, LOADED.ground(plan, plan.settings.run())


def keys(table, masks="dense"):
    """The key of each step of a plan, as they would be without new masks."""
    plan, on = ground(table)
    link, found = replace(on.link, masks=masks), []
    for planned in plan.steps:
        seed = on.run.seed if planned.seed is None else planned.seed
        link = replace(link, key=step_key(on.root, link, planned, on.split, seed), depth=link.depth + 1)
        found.append(link.key)
    return found


@pytest.fixture
def three(tiny):
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.5})
    return tiny


@pytest.mark.parametrize(
    ("name", "value", "moved"),
    [
        ("seed", 1, [True, True, True]),
        ("threads", 2, [True, True, True]),
        ("precision", "fp64", [True, True, True]),
        ("model.width", 3, [True, True, True]),
        ("data.noise", 0.1, [True, True, True]),
        ("data.holdout", 0.1, [True, True, True]),
        ("train.lr", 0.2, [True, True, True]),
        ("train.keep", [0], [True, True, True]),
        ("train.seed", 9, [True, True, True]),
        ("prune.sparsity", 0.6, [False, True, True]),
        ("unlearn.epochs", 2, [False, False, True]),
        ("unlearn.seed", 9, [False, False, True]),
        ("unlearn.use", "l1-sparse", [False, False, True]),
        # neither training nor magnitude pruning can tell which rows are to be forgotten
        ("data.forget.classes", [4], [False, False, True]),
        ("data.forget", {"how": "random", "count": 5}, [False, False, True]),
        ("unlearn.as", "other", [False, False, False]),
        ("train.seed", 0, [False, False, False]),
        ("train.clip", None, [False, False, False]),
        ("train.lr", 1e-1, [False, False, False]),
        ("model.classes", 10, [False, False, False]),
        ("model.channels", 1, [False, False, False]),
        ("data.seed", 3, [False, False, False]),  # nothing here is drawn with it
        ("audit", [{"use": "mia-efficacy"}], [False, False, False]),
    ],
)
def test_what_moves_which_keys(three, name, value, moved):
    before = keys(three)
    set_at(three, name, value)
    assert [a != b for a, b in zip(before, keys(three), strict=True)] == moved


@pytest.mark.parametrize(
    ("cls", "moved"), [(steps.Train, [True, True, True]), (steps.FineTune, [False, False, True])]
)
def test_a_raised_card_moves_the_key(three, monkeypatch, cls, moved):
    before = keys(three)
    monkeypatch.setattr(cls, "card", replace(cls.card, version=cls.card.version + 1))
    assert [a != b for a, b in zip(before, keys(three), strict=True)] == moved


def test_each_role_counts_by_itself(tiny):
    """A step that reads only the forget rows moves with them; so does one that reads only the rest."""
    for use in ("gradient-ascent", "fine-tune", "retrain"):
        tiny["step"][1] = {"use": use, "as": "unlearn", "epochs": 1}
        other = tiny | {"data": tiny["data"] | {"forget": {"how": "rows", "rows": [1, 2]}}}
        again = tiny | {"data": tiny["data"] | {"forget": {"how": "rows", "rows": [2, 1]}}}
        assert keys(tiny)[1] != keys(other)[1]
        assert keys(other)[1] == keys(again)[1]


def test_a_step_that_starts_anew_is_keyed_by_what_it_uses(tiny):
    tiny["step"][1] = {"use": "retrain", "as": "unlearn", "epochs": 1}
    before = keys(tiny)
    set_at(tiny, "train.lr", 0.3)
    after = keys(tiny)
    assert before[0] != after[0]
    assert before[1] == after[1]
    # the masks and the place in the plan are used
    assert keys(tiny, masks="others")[1] != after[1]
    tiny["step"].insert(0, {"use": "train", "as": "first", "epochs": 1})
    assert keys(tiny)[2] != after[1]


def test_the_seed_of_a_plan_is_that_of_its_steps(tiny):
    tiny["step"][1] = {"use": "retrain", "as": "unlearn", "epochs": 1}
    first, other = keys(tiny), keys(tiny | {"seed": 1})
    assert first[1] != other[1]
    tiny["step"][1]["seed"] = 0
    assert keys(tiny | {"seed": 1})[1] == first[1]


def test_what_came_before_is_in_the_key(three):
    plan, on = ground(three)
    kept = [step_key(on.root, Link(key=key), plan.steps[2], on.split, 0) for key in ("a", "b")]
    assert kept[0] != kept[1]


def test_the_place_of_images_is_in_no_key_but_what_is_done_to_them_is(tiny, tmp_path):
    def placed(folder, **knobs):
        data = {
            "use": "images",
            "path": str(folder),
            "crop": 1,
            "forget": {"how": "rows", "rows": [1]},
            **knobs,
        }
        return keys(tiny | {"data": data})

    one, other = two_classes(tmp_path / "one"), two_classes(tmp_path / "other")
    assert placed(one) == placed(other)
    assert placed(one, crop=0) == placed(other, crop=0)
    moved = {
        "without augmentation": placed(one, crop=0),
        "other augmentation": placed(one, flip=True),
        "a sample": placed(one, limit=4),
        "another sample": placed(one, limit=4, seed=1),
        "other images": placed(two_classes(tmp_path / "more", n=7)),
    }
    for what, found in moved.items():
        assert not set(found) & set(placed(one)), what
    assert len({tuple(found) for found in moved.values()}) == len(moved)


# --- code from outside ---

OUTSIDE = '''
import functools
from dataclasses import dataclass
import secateur as sc
from secateur.zoo import Collection, digits, small_cnn

@dataclass(frozen=True, kw_only=True)
class Nothing:
    strength: float = 1.0
    card = sc.Card(summary="Nothing.", paper="none", data="none")
    reads = frozenset()
    def __call__(self, state, run, /): return state

def net(*, classes: int, width: int = 2): return small_cnn(classes=classes, width=width)

def shift(x, rng, by): return x + by

class Shift:
    """No repr of its own: the default one shows an address in memory."""
    def __init__(self, by): self.by = by
    def __call__(self, x, rng): return x + self.by

def plain(*, test: float = 0.8, unused: int = 0):
    return digits(test=test)
def moved(*, by: float = 0.5):
    made = digits(test=0.8)
    return Collection(train=made.train, test=made.test, augment=functools.partial(shift, by=by))
def hidden(*, by: float = 0.5):
    made = digits(test=0.8)
    return Collection(train=made.train, test=made.test, augment=Shift(by))
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    file = tmp_path / "keyed.py"
    file.write_text(OUTSIDE)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "keyed", raising=False)
    monkeypatch.setitem(globals(), "LOADED", Loaded())
    return file


def test_the_source_of_outside_code_is_in_the_key(tiny, outside):
    tiny["step"][1] = {"use": "keyed:Nothing", "as": "unlearn"}
    tables = {
        "a step": (tiny, [False, True]),
        "a model": (tiny | {"model": {"use": "keyed:net"}}, [True, True]),
        "data with augmentation": (
            tiny | {"data": {"use": "keyed:moved", "forget": tiny["data"]["forget"]}},
            [True, True],
        ),
        # the rows themselves are in the key, so it does not matter who gave them
        "data": (tiny | {"data": {"use": "keyed:plain", "forget": tiny["data"]["forget"]}}, [False, True]),
    }
    before = {name: keys(table) for name, (table, _) in tables.items()}
    outside.write_text(OUTSIDE + "# another line\n")
    for name, (table, moved) in tables.items():
        assert [a != b for a, b in zip(before[name], keys(table), strict=True)] == moved, name


def test_the_modules_behind_outside_code_are_in_the_key(tiny, outside, monkeypatch):
    helper = outside.with_name("keyed_helper.py")
    helper.write_text("def factor(): return 1.0\n")
    monkeypatch.delitem(sys.modules, "keyed_helper", raising=False)
    outside.write_text("from keyed_helper import factor\n" + OUTSIDE)
    tiny["model"] = {"use": "keyed:net"}
    before = keys(tiny)
    assert set(sources("keyed")) == {"keyed", "keyed_helper"}
    helper.write_text("def factor(): return 0.0\n")
    assert [a != b for a, b in zip(before, keys(tiny), strict=True)] == [True, True]


def test_settings_that_a_repr_hides_are_in_an_identity(outside):
    import keyed

    assert identity(keyed.Shift(1)) == identity(keyed.Shift(1))
    assert identity(keyed.Shift(1)) != identity(keyed.Shift(2))

    def closing(by):
        return lambda x, rng: x + by

    assert identity(closing(1)) != identity(closing(2))


@pytest.mark.parametrize("use", ["moved", "hidden"])
def test_knobs_of_an_augmentation_are_in_the_key(tiny, outside, use):
    tiny["data"] = {"use": f"keyed:{use}", "forget": tiny["data"]["forget"]}
    weak, strong = keys(tiny), keys(tiny | {"data": tiny["data"] | {"by": 0.7}})
    assert weak[0] != strong[0]
    tiny["data"]["use"] = "keyed:plain"
    assert keys(tiny)[0] == keys(tiny | {"data": tiny["data"] | {"unused": 1}})[0]


def test_keys_are_the_same_in_every_process(tiny, outside):
    tiny["data"] = {"use": "keyed:hidden", "forget": tiny["data"]["forget"]}
    tiny["model"] = {"use": "keyed:net"}
    tiny["step"][1] = {"use": "keyed:Nothing", "as": "unlearn"}
    code = (
        "import json, sys; from dataclasses import replace\n"
        "from secateur.lab.keys import step_key; from secateur.lab.read import read_plan\n"
        "from secateur.lab.prepare import Loaded\n"
        "plan = read_plan(json.load(sys.stdin)); on = Loaded().ground(plan, plan.settings.run())\n"
        "link = on.link\n"
        "for planned in plan.steps:\n"
        "    link = replace(link, key=step_key(on.root, link, planned, on.split, 0), depth=link.depth + 1)\n"
        "    print(link.key)"
    )
    env = {**os.environ, "PYTHONPATH": str(outside.parent), "PYTHONHASHSEED": "7"}
    told = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(tiny),
        text=True,
        capture_output=True,
        env=env,
        check=True,
    )
    assert told.stdout.split() == keys(tiny)


def test_identities():
    def function(): ...

    assert identity(None) != identity(function)
    assert identity(function) == identity(function)
    assert identity(functools.partial(function, 1)) != identity(functools.partial(function, 2))
    assert identity(functools.partial(function, a=1)) != identity(functools.partial(function, b=1))
    assert identity(torch.nn.ReLU()) == identity(torch.nn.ReLU())
    assert identity(torch.nn.LeakyReLU(0.1)) != identity(torch.nn.LeakyReLU(0.2))
    assert identity(object()) == identity(object())  # no address in memory
    assert identity(len) == ["builtins:len", {}, {}]
    assert json.loads(json.dumps(identity(functools.partial(torch.relu, inplace=True))))
