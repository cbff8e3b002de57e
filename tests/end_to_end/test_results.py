"""The table of a study: no cell is missing without a word, and intervals stay where the measure can be."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

from secateur import lab

AXES = """
[grid]
seed = [0, 1, 2]
unlearn = [
  { use = "retrain", epochs = 3, batch = 64, lr = 0.2 },
  { use = "fine-tune", epochs = 1, batch = 64 },
  { use = "gradient-ascent", epochs = 1, lr = 1e12 },
]
"""
JUDGED = ("grid.seed=[0]", "audit=[{use='retrain-gap',references=5}]", "reference={use='retrain',epochs=1}")


def test_a_table_has_every_cell_and_intervals_that_can_be(text, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    results = importlib.import_module("results")
    (tmp_path / "plan.toml").write_text(text + AXES)
    for sets in ((), JUDGED):
        ended = lab.run_grid(lab.expand(lab.load(tmp_path / "plan.toml", sets)), tmp_path / "store")
        assert len(ended.failures) == (1 if sets else 3)  # the rate at which nothing stays finite
    asked = ["results.py", str(tmp_path / "store"), str(tmp_path), "--plan", str(tmp_path / "plan.toml")]
    asked += ["--no-page", "--starts"]
    monkeypatch.setattr(sys, "argv", [*asked, *(f"--judged={one}" for one in JUDGED)])
    results.main(results.arguments())
    with (tmp_path / "table.csv").open() as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert list(lines) == ["original", "retrain", "fine-tune", "gradient-ascent"]
    assert {line["start"] for line in lines.values()} == {"dense", ""}
    lost = lines["gradient-ascent"]
    assert (lost["seeds"], lost["verdicts"], lost["ua"]) == ("0", "no result in 3 runs", "")
    assert lines["fine-tune"]["seeds"] == "3"
    # with references there is a verdict; without, as in the three runs themselves, there is none
    assert "inconclusive" not in lines["fine-tune"]["verdicts"]
    for line in lines.values():
        for name in ("ua", "ra", "ta", "rte_minutes"):
            if line[f"{name}_std"]:
                low, mean, high = (float(line[f"{name}{end}"]) for end in ("_low", "", "_high"))
                assert 0 <= low <= mean <= high
                assert high <= 100 or name == "rte_minutes"
    # a cell with some of its seeds has its line, and no other that says it has none
    monkeypatch.setattr(sys, "argv", [*asked, "--set=grid.seed=[0,1,2,3]"])
    results.main(results.arguments())
    with (tmp_path / "table.csv").open() as file:
        told = [(line["method"], line["seeds"], line["verdicts"]) for line in csv.DictReader(file)]
    assert [method for method, _, _ in told] == list(lines)
    assert told[-1] == ("gradient-ascent", "0", "no result in 4 runs")
    assert told[2][1] == "3"
    runs = results.of_plan(tmp_path / "store", tmp_path / "plan.toml", [])
    seconds = [[step.seconds for step in run.steps] for run in runs if run.method == "retrain"]
    for i, column in enumerate(("before_minutes", "rte_minutes_median")):  # trained, then unlearned
        assert lines["retrain"][column] == f"{sorted(each[i] for each in seconds)[1] / 60:.2f}"
    spread = [float(lines["fine-tune"][f"ua_{end}"]) for end in ("std", "low", "high")]
    reach = 4.3027 * spread[0] / 3**0.5  # Student's, two degrees of freedom
    mean = float(lines["fine-tune"]["ua"])
    assert abs(spread[1] - max(0.0, mean - reach)) < 0.02
    assert abs(spread[2] - min(100.0, mean + reach)) < 0.02
