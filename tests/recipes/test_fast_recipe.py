"""What the estimate of the fast recipe counts: each thing once, and the same as the dry run of a grid."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest

import secateur as sc
from secateur import lab

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
POOL, FORGET, ASKED = 45_000, 4_500, 60_000  # of CIFAR-10 with a tenth held out; a class, and a tenth, alike
RETAIN = POOL - FORGET


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("fast_recipe")


def test_work_is_that_of_the_grid_with_what_runs_share_counted_once(bench, tmp_path):
    found = bench.work()
    assert found.steps["train"] + found.steps["retrain"] == 6
    # two requests, each on dense and on sparse
    assert found.rows == {
        bench.TRAINING: (24 + 22) * POOL + 4 * (24 + 10 + 10) * RETAIN + 4 * 5 * FORGET,
        bench.FISHER: 4 * RETAIN,
        bench.GRADIENT: 4 * POOL,
        bench.PRODUCT: 4 * 31 * 2_000,
        bench.JUDGING: 4 * (1 + 6) * ASKED,
    }
    table = lab.load(bench.RECIPE, ["data.use=fast_recipe:stand_in"])
    told = lab.estimate(lab.expand(table), tmp_path / "store", patience=0)
    assert {one.step: one.times for one in told} == found.steps


def test_minutes_are_operations_by_the_speed_of_the_device(bench):
    asked = argparse.Namespace(peak=(1.0, 0.5), share=[0.5, 0.25])
    rows = {bench.TRAINING: 600.0, bench.JUDGING: 150.0, bench.FISHER: 150.0}
    half, quarter, least = bench.estimates(rows, 1e12, asked)
    assert (half["minutes_bf16"], half["minutes_fp32"], half["minutes"]) == (20, 20, 40)
    assert quarter["minutes"] == 80
    assert least["ratio"] == pytest.approx(20 / 30, abs=1e-3)


def test_a_step_that_is_not_counted_is_refused(bench):
    with pytest.raises(SystemExit, match="add it to `passes`"):
        bench.passes(sc.steps.Fisher(kind="expected"), sc.Split.of(*bench.stand_in().train, forget=[0]))
