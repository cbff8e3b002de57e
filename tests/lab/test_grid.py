"""Grids: axes name keys and labels, and ``--set`` changes what no axis overrules."""

import copy
from dataclasses import replace

import pytest

from secateur import steps
from secateur.errors import PlanError, UsageError
from secateur.lab import run_grid
from secateur.lab.grid import expand, load, runs_of, set_at


@pytest.fixture
def three(tiny):
    """Train, prune, unlearn."""
    tiny["step"].insert(1, {"use": "magnitude", "as": "prune", "sparsity": 0.9})
    return tiny


def uses(plan):
    return [p.use for p in plan.steps]


def test_a_plan_without_axes_is_a_grid_of_one(tiny):
    (plan,) = expand(tiny)
    assert uses(plan) == ["train", "fine-tune"]


def test_the_last_axis_moves_fastest(three):
    three["grid"] = {"seed": [0, 1], "prune.sparsity": [0.5, 0.6, 0.7]}
    got = [(p.settings.seed, p.steps[1].step.sparsity) for p in expand(three)]
    assert got == [(0, 0.5), (0, 0.6), (0, 0.7), (1, 0.5), (1, 0.6), (1, 0.7)]
    assert all("grid" not in p.table for p in expand(three))


def test_a_table_takes_the_place_and_the_name_of_a_step(three):
    three["grid"] = {"unlearn": [{"use": "retrain", "epochs": 2}, {"use": "l1-sparse", "as": "other"}]}
    first, second = expand(three)
    assert first.steps[2].step == steps.Retrain(epochs=2)
    assert (first.steps[2].label, second.steps[2].label) == ("unlearn", "other")
    # nothing of the step that stood there is left
    assert second.steps[2].step == steps.L1Sparse()


def test_a_list_takes_it_too_and_an_empty_list_leaves_it_out(three):
    pair = [{"use": "magnitude", "sparsity": 0.5}, {"use": "train", "epochs": 1}]
    three["grid"] = {"prune": [[], pair, [{"use": "magnitude", "sparsity": 0.2}]]}
    none, both, one = expand(three)
    assert uses(none) == ["train", "fine-tune"]
    assert uses(both) == ["train", "magnitude", "train", "fine-tune"]
    assert uses(one) == ["train", "magnitude", "fine-tune"]
    assert [p.label for p in both.steps] == ["train", "magnitude", "train", "unlearn"]
    assert one.steps[1].label == "prune"


def test_axes_may_go_on_where_others_replaced(three):
    three["grid"] = {"unlearn": [{"use": "retrain"}, {"use": "fine-tune"}], "unlearn.epochs": [1, 2]}
    assert [(uses(p)[2], p.steps[2].step.epochs) for p in expand(three)] == [
        ("retrain", 1), ("retrain", 2), ("fine-tune", 1), ("fine-tune", 2),
    ]  # fmt: skip


def test_an_axis_that_a_later_one_replaces_is_refused(three):
    three["grid"] = {"unlearn.epochs": [1, 2], "unlearn": [{"use": "retrain"}]}
    with pytest.raises(
        PlanError, match=r'axis "unlearn\.epochs" would have no effect.* "unlearn" replaces it'
    ):
        expand(three)


def test_keys_of_the_plan_are_axes_too(three):
    requests = [{"how": "class", "classes": [1]}, {"how": "random", "share": 0.1}]
    three["grid"] = {"data.forget": requests, "model.width": [1, 3], "threads": [2]}
    got = expand(three)
    assert [str(p.data.forget) for p in got] == ["class 1", "class 1", "random 10 %", "random 10 %"]
    assert [p.model.knobs["width"] for p in got] == [1, 3, 1, 3]
    assert {p.settings.run().threads for p in got} == {2}


def test_cells_share_nothing(three):
    three["grid"] = {"seed": [0, 1], "unlearn": [{"use": "retrain"}], "unlearn.epochs": [1, 2]}
    before = copy.deepcopy(three)
    plans = expand(three)
    plans[0].table["data"]["forget"]["classes"].append(4)
    plans[0].table["step"][2]["lr"] = "spoilt"
    assert three == before
    assert [p.table["step"][2] for p in plans[1:]] == [
        {"as": "unlearn", "use": "retrain", "epochs": e} for e in (2, 1, 2)
    ]


def test_cells_share_no_list_of_steps(three):
    pair = [{"use": "magnitude", "as": "cut"}, {"use": "train", "as": "more"}]
    three["grid"] = {"prune": [pair], "cut.sparsity": [0.1, 0.2]}
    assert [p.table["step"][1]["sparsity"] for p in expand(three)] == [0.1, 0.2]
    assert pair[0] == {"use": "magnitude", "as": "cut"}


def test_the_faults_of_all_cells_each_once(three):
    three["grid"] = {"seed": [0, -1], "prune.sparsity": [0.5, 1.0, 2.0], "unlearn.epochs": [1, "2"]}
    with pytest.raises(PlanError) as caught:
        expand(three, source="my.toml")
    assert sorted(caught.value.faults) == [
        "plan: seed should be greater than or equal to 0, got -1",
        'step 2 ("magnitude"): sparsity should be less than 1, got 1.0',
        'step 2 ("magnitude"): sparsity should be less than 1, got 2.0',
        "step 3 (\"fine-tune\"): epochs should be a valid integer, got '2'",
    ]
    assert str(caught.value).startswith("my.toml has 4 faults:\n")


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ({"seed": []}, r'axis "seed" should be a list of values, not empty, got \[\]'),
        ({"seed": 3}, 'axis "seed" should be a list of values, not empty, got 3'),
        ([1], r"\[grid\] should be a table of axes, got \[1\]"),
        ({"prun.sparsity": [0.1]}, 'names no key of the plan and no step of it, did you mean "prune"'),
        ({"sed": [0]}, 'did you mean "seed"'),
        ({"prune": [3]}, 'should be a table with "use", or a list of such tables, got 3'),
        ({"prune": [[{"use": "train"}, "x"]]}, 'should be a table with "use"'),
        ({"threads.x": [1]}, 'goes through "threads", which is no table'),
        ({"seed.x": [1]}, r"seed should be a valid integer, got \{'x': 1\}"),
        ({"prune.sparsity.x": [1]}, 'goes through "sparsity", which is no table'),
        ({"step.0.epochs": [1]}, r'goes through "step", which is no table: name a \[\[step\]\] by its label'),
        ({"": [1]}, "names no key of the plan"),
        ({"prune.": [1]}, '"prune." should be a table with "use"'),
        ({"prune..x": [1]}, 'unknown key "", one of'),
    ],
)
def test_axes_that_lead_nowhere(three, grid, says):
    three["grid"] = grid
    with pytest.raises(PlanError, match=says):
        expand(three)


def test_audits_of_a_bank_are_asked_of_finished_runs(tiny):
    asked = [{"use": "accuracy"}, {"use": "epsilon"}, {"use": "u-lira"}]
    with pytest.raises(PlanError) as told:
        expand(tiny | {"audit": asked})
    assert [fault[:18] for fault in told.value.faults] == ['audit 2: "epsilon"', 'audit 3: "u-lira" ']
    assert all("secateur audit RUN --tier 2" in fault for fault in told.value.faults)


def test_a_name_that_two_steps_have_is_refused(three):
    three["step"].append({"use": "train", "epochs": 1})
    three["grid"] = {"train.epochs": [1]}
    with pytest.raises(PlanError, match=r'"train\.epochs" could mean 2 steps: tell them apart with as = '):
        expand(three)


def test_an_outside_step_is_called_by_its_last_word(tiny):
    tiny["step"][1] = {"use": "some.module:Nested.Dampen", "power": 1}
    set_at(tiny, "Dampen.power", 2)
    assert tiny["step"][1]["power"] == 2


# --- files and --set ---


@pytest.fixture
def file(tmp_path, text):
    def write(more: str = "") -> object:
        (tmp_path / "plan.toml").write_text(text + more)
        return tmp_path / "plan.toml"

    return write


def test_set_changes_any_key(file):
    sets = [
        "seed=3",
        "device=cpu",
        "unlearn.lr = 1e-3",
        'unlearn.use="retrain"',
        "data.forget.classes=[1, 2]",
    ]
    sets += ["data.forget = {how = 'random', share = 0.1}", "model.weights=../my file.safetensors"]
    table = load(file(), sets)
    assert (table["seed"], table["device"]) == (3, "cpu")
    assert table["step"][1] == {"use": "retrain", "as": "unlearn", "epochs": 1, "batch": 64, "lr": 1e-3}
    assert table["data"]["forget"] == {"how": "random", "share": 0.1}
    assert table["model"]["weights"] == "../my file.safetensors"


def test_set_changes_axes(file):
    table = load(file("[grid]\nseed = [0, 1]\n"), ["grid.seed=[5]", "grid.unlearn.lr=[0.1, 0.2]"])
    assert table["grid"] == {"seed": [5], "unlearn.lr": [0.1, 0.2]}
    assert len(expand(table)) == 2
    assert "grid" not in load(file())
    assert load(file("[grid]\nseed = [0, 1]\n"), ["grid={}"])["grid"] == {}


@pytest.mark.parametrize("key", ["unlearn.lr", "unlearn", "seed", "data.forget", "data.forget.classes"])
def test_set_of_what_an_axis_replaces_is_refused(file, key):
    axes = '[grid]\nseed = [0]\nunlearn = [{ use = "retrain" }]\n'
    axes += '"data.forget" = [{ how = "random", count = 3 }]\n'
    axis = "unlearn" if key.startswith("unlearn") else "seed" if key == "seed" else "data.forget"
    with pytest.raises(UsageError, match=rf'the axis "{axis}" replaces it .* use --set grid\.{axis}='):
        load(file(axes), [f"{key}=1"])


def test_set_of_what_an_axis_refines_has_its_effect(file):
    path = file('[grid]\n"data.forget" = [{ how = "random", count = 3 }]\n"unlearn.lr" = [0.5]\n')
    (plan,) = expand(load(path, ['unlearn={use = "retrain", epochs = 2}', "data.test=0.5"]))
    assert plan.steps[1].step == steps.Retrain(epochs=2, lr=0.5)
    assert plan.data.knobs == {"test": 0.5}


@pytest.mark.parametrize("text_", ["seed", "=3", " = 3", ""])
def test_a_set_without_key_or_value_is_refused(file, text_):
    with pytest.raises(UsageError, match="expected --set key=value, got"):
        load(file(), [text_])


def test_set_keeps_grid_a_table(file, tmp_path, text):
    (tmp_path / "odd.toml").write_text("grid = 3\n" + text)
    with pytest.raises(PlanError, match=r"\[grid\] should be a table of axes, got 3"):
        load(tmp_path / "odd.toml", ["grid.seed=[1]"])


def test_all_faults_of_all_sets_at_once(file):
    with pytest.raises(PlanError) as caught:
        load(file(), ["prun.sparsity=0.5", "seed=1", "trian.lr=1"])
    assert [fault.partition(" names")[0] for fault in caught.value.faults] == [
        '--set "prun.sparsity"',
        '--set "trian.lr"',
    ]
    assert "plan.toml has 2 faults" in str(caught.value)


def test_files_that_are_no_plans(tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path):
        with pytest.raises(UsageError, match=r"cannot read the plan .* name a TOML file"):
            load(path)
    (tmp_path / "latin.toml").write_bytes('data = "café"'.encode("latin-1"))
    with pytest.raises(UsageError, match="cannot read the plan"):
        load(tmp_path / "latin.toml")
    (tmp_path / "odd.toml").write_text("[data\n")
    with pytest.raises(PlanError, match=r"odd\.toml has 1 fault:\n  - it is not TOML: .*line 1"):
        load(tmp_path / "odd.toml")


def test_plans_are_read_as_utf_8(tmp_path, monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")
    (tmp_path / "plan.toml").write_text('name = "é"', encoding="utf-8")
    assert load(tmp_path / "plan.toml") == {"name": "é"}


def test_the_runs_of_a_grid_are_found_in_a_store_of_many(tiny, tmp_path):
    def grid(train=None, **axes):
        table = copy.deepcopy(tiny) | {"grid": axes}
        table["step"][0] |= train or {}
        return expand(table)

    seeds, ways = grid(seed=[0, 1]), grid(unlearn=[{"use": "retrain", "epochs": 1}])
    first, others = run_grid(seeds, tmp_path).records, run_grid(ways, tmp_path).records
    records = [*first, *others]
    assert runs_of(seeds, records) == list(first)
    assert runs_of(ways, records) == list(others)
    assert runs_of(grid(seed=[1, 7]), records) == [first[1]]
    assert runs_of(grid({"as": "another name", "momentum": 0.9}, seed=[0]), records) == [first[0]]
    assert runs_of(grid({"lr": 0.123}, seed=[0]), records) == []
    again = replace(first[0], created="later")
    assert runs_of(seeds, [*records, again]) == [again, first[1]]
