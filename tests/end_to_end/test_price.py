"""The price of not having the oracle, from tuning to the table, against the same sums by hand."""

from __future__ import annotations

import csv
import importlib
import json
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest

from secateur import lab
from secateur.record import plain
from secateur.report.rows import MEASURES

TOOLS = Path(__file__).parents[2] / "tools"
PLAN = """
threads = 1
data = { use = "digits", test = 0.7, holdout = 0.2, noise = 0.05, forget = { how = "class", classes = [3] } }
model = { use = "small-cnn", width = 4 }
[[step]]
use = "train"
epochs = 3
batch = 64
lr = 0.2
[[step]]
use = "fine-tune"
as = "unlearn"
[[audit]]
use = "accuracy"
[[audit]]
use = "mia-efficacy"
[tune]
trials = 2
"fine-tune.lr" = { low = 1e-3, high = 1e-1, log = true }
"l1-sparse.gamma" = { low = 1e-4, high = 1e-2, log = true }
[grid]
seed = [0, 1]
unlearn = [
  { use = "retrain", epochs = 3, batch = 64, lr = 0.2 },
  { use = "fine-tune", as = "fine-tune", epochs = 1, batch = 64 },
  { use = "l1-sparse", as = "l1-sparse", epochs = 1, batch = 64 },
]
"""


def test_the_price_is_the_difference_of_two_disparities(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    price = importlib.import_module("price")
    store, by_hand, asked = tmp_path / "store", {}, [str(tmp_path / "store"), str(tmp_path / "out")]
    for side in price.SIDES:
        table = tomllib.loads(PLAN)
        table["grid"]["seed"] = [0]
        if side == "hand":
            del table["tune"], table["grid"]["unlearn"][2]
        else:
            table["tune"]["by"] = side
            (table,) = lab.tuned_plans(lab.tune_plan(table, store))
        path = tmp_path / f"{side}.toml"
        path.write_text(lab.to_toml(table))
        sets = ["grid.seed=[0,1]"]  # knobs chosen on one seed, judged on two
        ended = lab.run_grid(lab.expand(lab.load(path, sets)), store)
        assert not ended.failures
        asked += [f"--{side}", str(path)]
        four = {
            (record.method, record.plan["seed"]): [record.estimate(name).value for name in MEASURES]
            for record in ended.records
        }
        middle = [sum(pair) / 2 for pair in zip(four["retrain", 0], four["retrain", 1], strict=True)]
        for place, values in four.items():
            by_hand[side, *place] = 25 * sum(abs(a - b) for a, b in zip(values, middle, strict=True))
    price.main(price.parser().parse_args([*asked, "--set", *sets]))
    lines = read(tmp_path / "out" / "price.csv")
    assert [line["method"] for line in lines] == ["fine-tune", "l1-sparse"]
    for line in lines:
        method = line["method"]
        for side in price.SIDES:
            each = [by_hand[side, method, s] for s in (0, 1) if (side, method, s) in by_hand]
            assert bool(line[side]) == bool(each)
            if each:
                assert float(line[side]) == pytest.approx(sum(each) / 2, rel=1e-3)
        gap = [by_hand["surrogate", method, s] - by_hand["oracle", method, s] for s in (0, 1)]
        assert float(line["price"]) == pytest.approx(sum(gap) / 2, rel=1e-2, abs=1e-3)
        assert ("gamma" in line["knobs_oracle"]) == (method == "l1-sparse")
    assert [line["hand"] == "" for line in lines] == [False, True]  # by hand l1-sparse was not run
    assert "<svg" in (tmp_path / "out" / "price.svg").read_text()
    every = read(tmp_path / "out" / "tuned.csv")
    assert [(line["chosen_by"], line["method"]) for line in every] == [
        ("", "original"),
        ("", "retrain"),
        ("hand", "fine-tune"),
        ("surrogate", "fine-tune"),
        ("surrogate", "l1-sparse"),
        ("oracle", "fine-tune"),
        ("oracle", "l1-sparse"),
    ]
    assert float(every[4]["disparity_average"]) == pytest.approx(float(lines[1]["surrogate"]), abs=5e-3)
    alone = [str(tmp_path / "store"), str(tmp_path / "one"), *asked[2:], "--set", "grid.seed=[1]"]
    price.main(price.parser().parse_args([*alone, "--table", "verdicts.csv", "--no-price"]))
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["verdicts.csv"]
    assert {line["seeds"] for line in read(tmp_path / "one" / "verdicts.csv")} == {"1"}


def test_searches_for_each_seed_are_one_line(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    price = importlib.import_module("price")
    table = tomllib.loads(PLAN)
    del table["tune"], table["grid"]
    table["audit"].append({"use": "retrain-gap", "references": 2})
    table["reference"] = {"use": "retrain", "epochs": 3, "batch": 64, "lr": 0.2}
    asked, found = [str(tmp_path / "store"), str(tmp_path / "out")], {}
    for side, rates in (("surrogate", (0.01, 0.02)), ("oracle", (0.03, 0.03))):
        asked.append(f"--{side}")
        for seed, rate in enumerate(rates):
            path = tmp_path / f"{side}-{seed}.toml"
            step = {**table["step"][1], "lr": rate}
            path.write_text(lab.to_toml({**table, "seed": seed, "step": [table["step"][0], step]}))
            (plan,) = lab.expand(lab.load(path))
            found[side, seed] = lab.run_plan(plan, tmp_path / "store").estimate("disparity").value
            asked.append(str(path))
    price.main(price.parser().parse_args(asked))
    (line,) = read(tmp_path / "out" / "price.csv")
    assert line["seeds"] == "2"
    assert (line["knobs_surrogate"], line["knobs_oracle"]) == ("lr = 0.01; lr = 0.02", "lr = 0.03")
    gaps = [found["surrogate", seed] - found["oracle", seed] for seed in (0, 1)]
    assert float(line["price"]) == pytest.approx(sum(gaps) / 2, rel=1e-3)
    assert float(line["price_low"]) < float(line["price"]) < float(line["price_high"])
    # two choices under one seed cannot both be the price
    with pytest.raises(SystemExit, match="expected one choice of knobs for a seed, got two of fine-tune"):
        price.main(price.parser().parse_args([*asked, str(tmp_path / "surrogate-0.toml")]))


def read(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_trials_of_one_setting_meet(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    trials = importlib.import_module("trials")
    scores, asked = {}, []
    for side in trials.SIDES:
        table = tomllib.loads(PLAN)
        table["tune"]["by"] = side
        table["grid"]["seed"] = [0]
        tuned = lab.tune_plan(table, tmp_path / "store")
        (tmp_path / side).write_text(json.dumps(plain([asdict(one) for one in tuned])))
        asked.append(str(tmp_path / side))
        scores[side] = [trial.score for one in tuned for trial in one.trials]
    trials.main(trials.parser().parse_args([*asked, str(tmp_path / "out")]))
    lines = read(tmp_path / "out" / "trials.csv")
    assert [line["method"] for line in lines] == 2 * ["fine-tune"] + 2 * ["l1-sparse"]
    assert [line["knobs"][:2] for line in lines] == ["lr", "lr", "ga", "ga"]
    assert {line["start"] for line in lines} == {"dense"}
    for side, values in scores.items():
        assert [float(line[side]) for line in lines] == pytest.approx(values, rel=1e-3)
    assert "<svg" in (tmp_path / "out" / "trials.svg").read_text()
    for allowed in (0.0, 100.0):
        trials.main(trials.parser().parse_args([*asked, str(tmp_path / "out"), f"--allowed-loss={allowed}"]))
        table["tune"] |= {"by": "surrogate", "allowed_loss": {"RA": allowed, "TA": allowed}}
        for one, line in zip(
            lab.tune_plan(table, tmp_path / "store")[1:],
            read(tmp_path / "out" / "allowed-loss.csv"),
            strict=True,
        ):
            said = [
                f"{name.partition('.')[2]} = {v:g}"
                for name, v in (one.best.knobs if one.best else {}).items()
            ]
            assert line["knobs_bounded"] == ", ".join(said)
            assert line["knobs_free"]
