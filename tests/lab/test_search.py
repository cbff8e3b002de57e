"""[tune]: what it may say, and what is told where it says something else."""

import tomllib
from pathlib import Path

import pytest

from secateur.errors import DataError, PlanError
from secateur.lab import expand, load, to_toml, tune_plan
from secateur.lab.cells import read_cells
from secateur.lab.search import Between, OneOf, Search
from secateur.lab.tuned import Trial, Tuned, tuned_plans

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.toml"))
LR = {"unlearn.lr": [0.1, 0.2]}


def faults(table):
    with pytest.raises(PlanError) as caught:
        read_cells(table)
    return list(caught.value.faults)


@pytest.fixture
def tiny(tiny):
    """With a holdout: trials are scored by it."""
    tiny["data"]["holdout"] = 0.1
    return tiny


def test_a_table_is_read(tiny):
    tiny["tune"] = {"trials": 3, "unlearn.lr": {"low": 1e-3, "high": 0.1, "log": True}}
    tiny["tune"]["unlearn.epochs"] = [3, 5]
    search, (cell,) = read_cells(tiny)
    assert search == Search(trials=3, seed=0, by="surrogate", references=None)
    assert cell.ranges == {
        "unlearn.lr": Between(low=0.001, high=0.1, log=True),
        "unlearn.epochs": OneOf(values=(3, 5)),
    }
    assert cell.table == {key: value for key, value in tiny.items() if key != "tune"}


@pytest.mark.parametrize(
    ("audit", "references", "asked"),
    [
        ([{"use": "accuracy"}], None, 1),
        ([{"use": "accuracy"}, {"use": "retrain-gap", "references": 7, "members": "first"}], None, 7),
        ([{"use": "retrain-gap", "references": 7, "members": "first"}], 2, 2),
    ],
)
def test_as_many_retrains_as_the_plan_asks_for(tiny, audit, references, asked):
    tiny |= {"audit": audit, "tune": LR | ({"references": references} if references else {})}
    _, (cell,) = read_cells(tiny)
    (judge,) = cell.plan.audits
    assert judge.references == cell.plan.references == asked
    assert judge.members == audit[-1].get("members", "sampled")
    assert cell.table["audit"] == audit


@pytest.mark.parametrize(
    ("tune", "says"),
    [
        (None, '"tune" should be a table of knobs to try'),
        ({}, "tune: no knob is named, so there is nothing to choose: add a range"),
        (LR | {"trails": 3}, 'tune: unknown key "trails", did you mean "trials"?; a knob of a step'),
        (LR | {"trials": 0}, "tune: trials should be greater than or equal to 1, got 0"),
        (LR | {"by": "magic"}, "tune: by should be 'surrogate' or 'oracle', got 'magic'"),
        (LR | {"unlearn": {"lr": [1.0]}}, 'write its knobs as one quoted key, such as "unlearn.lr" ='),
        (LR | {"allowed_loss": {"UA": 1.0}}, "tune: allowed_loss.UA should be 'RA' or 'TA', got 'UA'"),
        (LR | {"allowed_loss": {"RA": -1.0}}, "allowed_loss.RA should be greater than or equal to 0, got -1"),
        (LR | {"allowed_loss.RA": 1.0}, 'tune: "allowed_loss.RA" names no step: write allowed_loss = { RA ='),
        (LR | {"allowed_loss": 2.0}, "tune: allowed_loss should be a table, { NAME = VALUE }, got 2.0"),
        ({"unlearn.gama": [1.0]}, 'tune: "unlearn.gama": the step "fine-tune" has no knob "gama", '),
        ({"unlern.lr": [1.0]}, 'tune: "unlern.lr" names no step of the plan, did you mean "unlearn"?'),
        ({"train.lr": [0.1]}, 'tune: "train.lr" names a step before unlearning begins: another original'),
        ({"unlearn.use": ["retrain"]}, 'the step "fine-tune" has no knob "use"'),
        ({"unlearn.lr": 0.1}, 'tune: "unlearn.lr" should be a list of values or a table'),
        ({"unlearn.lr": []}, 'tune: "unlearn.lr" should be a list of values or a table'),
        ({"unlearn.lr": {"low": 0.1}}, 'tune: "unlearn.lr": "high" is missing'),
        ({"unlearn.lr": {"low": 0.1, "high": 1.0, "step": 1}}, 'tune: "unlearn.lr": unknown key "step"'),
        ({"unlearn.lr": {"low": 0.1, "high": 0.1}}, "low should be below high, got low = 0.1 and high = 0.1"),
        ({"unlearn.lr": {"low": -1.0, "high": 1.0, "log": True}}, "above 0 where log = true, got -1.0"),
        ({"unlearn.lr": {"low": -1.0, "high": 1.0}}, '"unlearn.lr": lr should be greater than 0, got -1.0'),
        ({"unlearn.lr": [0.1, "x"]}, "tune: \"unlearn.lr\": lr should be a valid number, got 'x'"),
        ({"unlearn.epochs": {"low": 1.0, "high": 2.0}}, '"unlearn.epochs": epochs should be a valid'),
    ],
)  # fmt: skip
def test_bad_tables_are_told_in_one_sentence_each(tiny, tune, says):
    tiny["tune"] = tune
    told = faults(tiny)
    assert any(fault.startswith(says) or says in fault for fault in told), told
    assert len(told) <= 2


def test_all_faults_at_once(tiny):
    tiny["threads"] = 0
    tiny["tune"] = {"trials": 0, "sed": 1, "unlearn.lr": {"low": 0.0, "high": -1.0, "log": True}}
    told = faults(tiny)
    assert [fault.split(",")[0][:26] for fault in told] == [
        "tune: trials should be gre",
        'tune: unknown key "sed"',
        'tune: "unlearn.lr": low sh',
        'tune: "unlearn.lr": low sh',
        "plan: threads should be gr",
    ]


def test_every_entry_of_allowed_loss_that_is_wrong_is_told(tiny):
    told = faults(tiny | {"tune": LR | {"allowed_loss": {"UA": 1.0, "RA": -2.0}}})
    assert told == [
        "tune: allowed_loss.UA should be 'RA' or 'TA', got 'UA'",
        "tune: allowed_loss.RA should be greater than or equal to 0, got -2.0",
    ]


def test_faults_of_the_table_hide_none_of_its_knobs(tiny):
    tiny["data"]["holdout"] = 0.0
    told = faults(tiny | {"tune": {"trials": 0, "unlearn.lrr": [0.1]}})
    assert ["trials should be" in told[0], "holdout = 0.1" in told[1], 'no knob "lrr"' in told[2]] == [
        True
    ] * 3
    assert len(told) == 3


def test_without_a_holdout_only_the_oracle_can_tell(tiny):
    tiny["data"]["holdout"] = 0.0
    (told,) = faults(tiny | {"tune": LR})
    assert "holdout = 0.1" in told
    assert len(read_cells(tiny | {"tune": LR | {"by": "oracle"}})[1]) == 1


def test_a_plan_that_unlearns_nothing(tiny):
    del tiny["step"][1]
    tiny["tune"] = LR | {"unlearn.epochs": [1]}
    (told,) = faults(tiny)
    assert told.startswith("tune: no step of the plan unlearns (tells forget from retain)")


def test_a_step_that_starts_anew(tiny):
    tiny["step"][1]["use"] = "retrain"
    tiny["tune"] = LR
    (told,) = faults(tiny)
    assert "names a step that starts anew, as the retrains do" in told


def test_two_steps_of_one_name_and_an_axis_of_the_same(tiny):
    tiny["step"].append(dict(tiny["step"][1]))
    assert "could mean 2 steps" in faults(tiny | {"tune": LR})[0]
    del tiny["step"][2]
    both = tiny | {"tune": LR, "grid": {"unlearn.lr": [0.1]}}
    assert faults(both) == ['tune: "unlearn.lr" is an axis of [grid] too: name it in one of them']


def test_a_range_that_no_cell_can_use_is_told_once(tiny):
    tiny["grid"] = {"unlearn": [{"use": "fine-tune"}, {"use": "l1-sparse"}]}
    tiny["tune"] = LR | {"unlearn.gamma": [1e-3], "unlearn.scale": [1.0]}
    (told,) = faults(tiny)
    assert told.startswith('tune: "unlearn.scale": the step "fine-tune" has no knob "scale"')


def test_without_a_way_to_retrain(tiny):
    tiny["tune"] = LR
    del tiny["step"][0]
    assert any('"reference" is missing' in fault for fault in faults(tiny))


def test_a_surrogate_that_cannot_be_drawn_is_told_before_anything_is_trained(tiny, tmp_path):
    tiny["data"]["forget"] = {"how": "random", "share": 0.7}
    tiny["tune"] = LR
    with pytest.raises(DataError, match=r'expected as many retained rows .* tune by = "oracle"'):
        tune_plan(tiny, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_set_names_ranges_as_it_names_axes(tmp_path, text):
    file = tmp_path / "plan.toml"
    file.write_text(text + '\n[tune]\n"unlearn.lr" = [0.1]\n')
    sets = ["tune.trials=3", "tune.unlearn.lr=[0.2]", "tune.unlearn.epochs={low=1, high=2}"]
    assert load(file, sets)["tune"] == {
        "trials": 3, "unlearn.lr": [0.2], "unlearn.epochs": {"low": 1, "high": 2},
    }  # fmt: skip


def test_expand_gives_the_plan_as_it_is_written(tiny):
    (plan,) = expand(tiny | {"tune": LR})
    assert plan.table == tiny


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_written_as_they_are_read(path):
    table = load(path)
    assert tomllib.loads(to_toml(table)) == table
    if "tune" in table:
        assert any(cell.ranges for cell in read_cells(table)[1])


def test_any_value_of_a_plan_survives_writing():
    told = 'a "quoted" \\ back\nslash \x7f é 😀'
    table = {
        told: told,
        "x": [1e-5, 1e22, -0.0, True, 3],
        "empty": {},
        "none": [],
        "deep": {"a b": [{"c": [told]}]},
    }
    assert tomllib.loads(to_toml(table)) == table


def test_what_failed_is_in_no_written_plan():
    trial = Trial(number=1, knobs={}, gaps={}, fault="infinite")
    lost = Tuned(table={"step": []}, request="", methods=(), search=Search(), trials=(trial,), cost={})
    assert lost.failed
    assert tuned_plans([lost]) == []
