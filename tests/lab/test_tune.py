"""Tuning: what is found, what is not looked at, what is not done twice."""

import math
import sys

import numpy as np
import pytest

from secateur.errors import UsageError
from secateur.lab import Store, estimate, expand, rehearse, run_plan, tune_plan, tuned_plans
from secateur.lab.execute import Lab
from secateur.lab.keys import step_key
from secateur.lab.plan import FIRST_REFERENCE_SEED
from secateur.lab.prepare import Loaded
from secateur.lab.propose import Proposals, quiet
from secateur.lab.search import Between, OneOf
from secateur.outputs import load_outputs


@pytest.fixture
def tiny(tiny):
    """With a holdout: trials are scored by it."""
    tiny["data"]["holdout"] = 0.1
    return tiny


@pytest.fixture
def plan(tiny):
    """Two learning rates, one of which does nothing."""
    tiny["tune"] = {"trials": 3, "unlearn.lr": [1e-7, 0.3]}
    return tiny


@pytest.fixture
def learned(plan):
    """The same of a net that has learned its rows by heart, so that there is something to forget."""
    plan["model"]["width"] = 4
    plan["step"][0] |= {"epochs": 12, "lr": 0.2, "nesterov": True, "schedule": "one-cycle"}
    plan["step"][1] |= {"epochs": 3}
    return plan


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def only(found):
    (one,) = found
    return one


def settings(tuned):
    return [dict(trial.knobs) for trial in tuned.trials]


# --- what is found ---


@pytest.mark.parametrize("by", ["surrogate", "oracle"])
def test_the_better_of_two_learning_rates_is_found(learned, store, by):
    learned["tune"]["by"] = by
    tuned = only(tune_plan(learned, store))
    assert {knobs["unlearn.lr"] for knobs in settings(tuned)} == {1e-7, 0.3}
    assert tuned.best.knobs == {"unlearn.lr": 0.3}
    scores = {trial.knobs["unlearn.lr"]: trial.score for trial in tuned.trials}
    assert scores[0.3] < scores[1e-7] - 5
    # what hardly moves weights is about as far from the retrains as the original is
    assert scores[1e-7] == pytest.approx(tuned.original, abs=3)
    assert tuned.table["step"][1] == {
        "use": "fine-tune",
        "as": "unlearn",
        "epochs": 3,
        "batch": 64,
        "lr": 0.3,
    }
    assert tuned.table["data"] == learned["data"]
    assert "tune" not in tuned.table
    assert (tuned.surrogate is None) == (by == "oracle")


def test_a_score_is_the_mean_size_of_its_parts(plan, store):
    trial = only(tune_plan(plan, store)).trials[0]
    assert list(trial.gaps) == ["UA", "MIA-Efficacy", "RA", "TA"]
    assert trial.score == pytest.approx(np.mean(np.abs(list(trial.gaps.values()))))


def test_by_oracle_the_score_is_what_the_run_is_judged_by(plan, store):
    plan["tune"] |= {"by": "oracle", "references": 2}
    tuned = only(tune_plan(plan, store))
    table = tuned.table | {"audit": [{"use": "retrain-gap", "references": 2}]}
    (finding,) = run_plan(only(expand(table)), store).findings
    assert finding.estimates["disparity"].value == tuned.best.score


def test_a_setting_that_loses_more_than_allowed_is_not_chosen(learned, store):
    """The ruined model has the better score here: it forgot all, and what it should know with it."""
    learned["tune"] |= {"trials": 4, "unlearn.lr": [1e-7, 1.0]}
    free = only(tune_plan(learned, store))
    ruined = [trial for trial in free.trials if trial.gaps["RA"] < -5]
    assert {trial.knobs["unlearn.lr"] for trial in ruined} == {1.0}
    assert free.best in ruined
    learned["tune"]["allowed_loss"] = {"RA": 5.0, "TA": 100.0}
    bounded = only(tune_plan(learned, store))
    assert bounded.best.knobs == {"unlearn.lr": 1e-7}
    assert bounded.table["step"][1]["lr"] == 1e-7
    assert bounded.ranked[0] == bounded.best
    for trial in bounded.trials:
        assert trial.lost == (("RA",) if trial.gaps["RA"] < -5 else ())
    learned["tune"] |= {"unlearn.lr": [1.0]}
    none = only(tune_plan(learned, store))
    assert (none.best, none.failed, none.table) == (None, True, {k: learned[k] for k in none.table})
    assert tuned_plans([none]) == []


# --- what is not looked at ---


def test_the_oracle_is_not_asked(plan, store):
    """No retrain of the real request in the store, and no model's word about its rows as rows to forget."""
    plan["audit"] = [{"use": "retrain-gap", "references": 2}]
    tuned = only(tune_plan(plan, store))
    real = only(expand(plan))
    ground = Loaded().ground(real, real.settings.run())
    forget = set(ground.split.forget.rows.tolist())
    said = [load_outputs(path) for path in store.glob("outputs/*/outputs.safetensors")]
    tried = {trial.knobs["unlearn.lr"] for trial in tuned.trials}
    assert len(said) == len(tried) + 1 + 2  # the original, the retrains
    for outputs in said:
        asked = set(outputs["forget"].rows.tolist())
        assert not asked & forget
        assert len(asked) == tuned.rows
        assert forget < set(outputs["retain"].rows.tolist())  # they stay in, as any other row
    # one step of each kind would be there under the real request's key, were it made
    lab = Lab(Store(store))
    link, _ = lab.take(real.steps[0], ground.link, ground)
    assert lab.taken == []  # the original is the same
    for i in range(2):
        seed = FIRST_REFERENCE_SEED + i
        assert not lab.store.has("steps", step_key(ground.root, link, real.reference, ground.split, seed))
    assert not lab.store.has("steps", step_key(ground.root, link, real.steps[1], ground.split, 0))
    assert tuned.references == 2
    assert tuned.taken.count("retrain") == 2


def test_trials_are_scored_by_holdout_rows_and_by_oracle_by_test_rows(learned, store):
    learned["tune"] |= {"trials": 1, "unlearn.lr": [0.3]}
    for by, view in (("surrogate", "holdout"), ("oracle", "test")):
        learned["tune"]["by"] = by
        at = store / by
        tuned = only(tune_plan(learned, at))
        said = [load_outputs(path) for path in at.glob("outputs/*/outputs.safetensors")]
        gone = {int(label) for label in said[0]["forget"].labels}
        right = [100 * one[view].without(list(gone)).correct.mean() for one in said]
        differences = [a - b for a in right for b in right]
        assert len(said) == 3  # the original, the retrain, the trial
        assert any(tuned.trials[0].gaps["TA"] == pytest.approx(gap, abs=1e-9) for gap in differences)
        other = [
            100 * one["test" if by == "surrogate" else "holdout"].without(list(gone)).correct.mean()
            for one in said
        ]
        assert not any(
            tuned.trials[0].gaps["TA"] == pytest.approx(a - b, abs=1e-9) for a in other for b in other
        )


# --- what is not done twice ---


def test_a_search_goes_on_where_it_was_cut_short(plan, store, tmp_path):
    plan["tune"] |= {"trials": 3, "unlearn.lr": {"low": 0.01, "high": 0.3, "log": True}}
    plan["tune"]["unlearn.epochs"] = {"low": 1, "high": 2}
    first = only(tune_plan(plan, store))
    assert first.taken == ("train", "retrain", *["fine-tune"] * 3)
    again = only(tune_plan(plan, store))
    assert again.taken == ()
    assert again.trials == first.trials
    plan["tune"]["trials"] = 5
    longer = only(tune_plan(plan, store))
    assert longer.taken == ("fine-tune",) * 2
    assert settings(longer)[:3] == settings(first)
    # in another store: the same seed proposes the same, and another seed something else
    elsewhere = only(tune_plan(plan, tmp_path / "other"))
    assert settings(elsewhere) == settings(longer)
    assert [trial.score for trial in elsewhere.trials] == [trial.score for trial in longer.trials]
    plan["tune"] |= {"seed": 1, "trials": 1}
    assert settings(only(tune_plan(plan, store)))[0] != settings(first)[0]


def test_the_real_run_and_the_oracle_share_the_original(plan, store):
    tuned = only(tune_plan(plan, store))
    lab = Lab(Store(store))
    lab.run(only(expand(tuned.table)))
    assert lab.taken == ["fine-tune"]
    plan["tune"]["by"] = "oracle"
    assert "train" not in only(tune_plan(plan, store)).taken


def test_rows_that_a_holdout_would_have_taken_make_no_second_original(plan, store):
    """A request that names rows of the holdout share moves the holdout: the surrogate must keep it."""
    plan["data"] |= {"holdout": 0.2, "forget": {"how": "random", "count": 5}}
    first = only(expand(plan))
    held = Loaded().ground(first, first.settings.run()).split["holdout"].rows
    plan["data"]["forget"] = {"how": "rows", "rows": held[:20].tolist()}
    tuned = only(tune_plan(plan, store))
    assert tuned.taken.count("train") == 1
    lab = Lab(Store(store))
    lab.run(only(expand(tuned.table)))
    assert "train" not in lab.taken


# --- what goes wrong ---


def test_a_trial_that_fails_is_noted_and_the_rest_goes_on(plan, store):
    plan["tune"]["unlearn.lr"] = [1e12, 0.1]
    tuned = only(tune_plan(plan, store))
    lost = [trial for trial in tuned.trials if trial.fault]
    assert {trial.knobs["unlearn.lr"] for trial in lost} == {1e12}
    assert all(math.isnan(trial.score) and not trial.gaps for trial in lost)
    assert tuned.best.knobs == {"unlearn.lr": 0.1}
    assert [trial.fault for trial in tuned.ranked][-len(lost) :] == [trial.fault for trial in lost]


def test_without_optuna_it_says_what_to_install(plan, store, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)  # as Python itself notes a module that is not there
    with pytest.raises(UsageError, match=r'not installed: run pip install "secateur\[tune\]"'):
        tune_plan(plan, store)
    assert not store.exists()


# --- grids ---


def test_each_cell_is_tuned_by_the_ranges_that_name_its_knobs(plan, store):
    plan["grid"] = {
        "seed": [5, 6],
        "unlearn": [
            {"use": "retrain", "epochs": 2},
            {"use": "fine-tune", "batch": 64, "epochs": 1},
            {"use": "gradient-ascent", "as": "ascent", "epochs": 1},
        ],
    }
    plan["tune"] = {"trials": 2, "unlearn.lr": [0.1, 0.2], "ascent.lr": [1e-4, 1e-3]}
    retrain, fine, ascent = found = tune_plan(plan, store)
    assert (retrain.trials, retrain.best, retrain.failed) == ((), None, False)
    assert [set().union(*settings(one)) for one in (fine, ascent)] == [{"unlearn.lr"}, {"ascent.lr"}]
    assert {one.table["seed"] for one in found} == {5}
    written = only(tuned_plans(found))
    assert written["grid"]["seed"] == [5, 6]
    plans = expand(written)
    assert [[p.settings.seed, p.steps[1].use] for p in plans] == [
        [seed, use] for seed in (5, 6) for use in ("retrain", "fine-tune", "gradient-ascent")
    ]
    assert plans[2].steps[1].step.lr == plans[5].steps[1].step.lr == ascent.best.knobs["ascent.lr"]


def test_cells_of_several_requests_are_plans_of_their_own(plan, store):
    requests = [{"how": "class", "classes": [1]}, {"how": "random", "count": 9}]
    plan["grid"] = {"data.forget": requests}
    plan["tune"]["trials"] = 1
    found = tune_plan(plan, store)
    assert [one.request for one in found] == ["class 1", "9 random rows"]
    assert [table["data"]["forget"] for table in tuned_plans(found)] == requests
    assert sum(one.taken.count("train") for one in found) == 1


# --- proposals and cost ---


def test_proposals_are_of_four_digits_whole_where_they_should_be_and_quiet(capsys):
    ranges = {
        "a.lr": Between(low=0.001, high=0.1, log=True),
        "a.epochs": Between(low=2, high=5),
        "a.mode": OneOf(values=("x", [1, 2])),
    }
    with quiet() as optuna:
        pass
    before = optuna.logging.get_verbosity()
    proposals = Proposals(ranges, seed=3)
    for _ in range(15):
        asked = proposals.ask()
        assert 0.001 <= asked["a.lr"] <= 0.1
        assert asked["a.lr"] == float(f"{asked['a.lr']:.4g}")
        assert isinstance(asked["a.epochs"], int)
        assert 2 <= asked["a.epochs"] <= 5
        assert asked["a.mode"] in ("x", [1, 2])
        proposals.tell(asked["a.lr"])
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


def test_a_bounded_search_keeps_away_from_harm():
    """The best score lies where harm is done, above 0.3; unbounded, proposals go there."""
    near = {}
    for bounded in (False, True):
        proposals = Proposals({"a.lr": Between(low=0.0, high=1.0)}, seed=0, bounded=bounded)
        asked = []
        for _ in range(60):
            x = proposals.ask()["a.lr"]
            proposals.tell(1 - x, [x - 0.3])
            asked.append(x)
        near[bounded] = sum(0.2 <= x <= 0.3 for x in asked[10:])
    assert near[True] > 10  # of 50; a blind draw would give 5
    assert near[False] < 5


def test_the_cost_is_told_beforehand(plan, store):
    plan["audit"] = [{"use": "retrain-gap", "references": 3}]
    found = {one.step: one.times for one in estimate(rehearse(plan, store), store)}
    assert found == {"train": 1, "fine-tune": 2, "retrain": 3}
    assert not store.exists()
