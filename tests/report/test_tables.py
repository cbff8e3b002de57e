from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from secateur.report import print_table, rows_as_json, summarise
from secateur.report.tables import NOISE_FLOOR, panels

MEASURES = ("UA", "MIA-Efficacy", "RA", "TA")


def printed(rows, width=100):
    console = Console(file=io.StringIO(), width=width)
    print_table(rows, console)
    return console.file.getvalue()


def test_mean_and_spread_are_those_of_numpy(grid):
    rows = [row for row in summarise(grid) if row.kind == "method"]
    assert len(rows) == 2 * 2 * 3
    for row in rows:
        runs = [
            r for r in grid if (r.request, r.sparsity, r.method) == (row.request, row.sparsity, row.method)
        ]
        assert row.count == len(runs) == 5
        for name in (*MEASURES, "disparity", "gap.UA"):
            values = [run.estimate(name).value for run in runs]
            assert row.values[name].mean == pytest.approx(np.mean(values))
            assert row.values[name].std == pytest.approx(np.std(values, ddof=1))
        took = [run.unlearning.seconds for run in runs]
        assert row.values["RTE"].mean == pytest.approx(np.mean(took))
        assert row.values["RTE"].std == pytest.approx(np.std(took, ddof=1))


def test_one_run_has_an_interval_and_no_spread(run):
    row = summarise([run("fine-tune")])[-1]
    estimate = run("fine-tune").estimate("UA")
    spread = row.values["UA"]
    assert (spread.std, spread.n, spread.low, spread.high) == (None, 1, estimate.low, estimate.high)
    assert spread.plus_minus == ""
    assert spread.interval.startswith("[")


def test_order_is_request_sparsity_original_retrain_then_methods_as_they_came(grid):
    mixed = [grid[i] for i in np.random.default_rng(0).permutation(len(grid))]
    rows = summarise(grid)
    assert [(row.request[:2], row.start, row.method) for row in rows[:7]] == [
        ("cl", "dense", "original"),
        ("cl", "dense", "retrain"),
        ("cl", "dense", "fine-tune"),
        ("cl", "dense", "l1-sparse"),
        ("cl", "dense", "gradient-ascent"),
        ("cl", "90 % sparse", "original"),
        ("cl", "90 % sparse", "retrain"),
    ]
    for panel in panels(summarise(mixed)):
        assert [row.kind for row in panel.rows] == ["original", "retrain", "method", "method", "method"]
    assert [panel.start for panel in panels(summarise(mixed))] == ["dense", "90 % sparse"] * 2


def test_the_original_counts_each_training_once(grid):
    row = summarise(grid)[0]
    values = [r.estimate("before.UA").value for r in grid[:5]]
    assert row.kind == "original"
    assert row.count == 5
    assert row.values["UA"].mean == pytest.approx(np.mean(values))
    assert row.values["UA"].std == pytest.approx(np.std(values, ddof=1))
    assert row.values["disparity"].n == 5
    assert "RTE" not in row.values


def test_train_accuracy_of_the_original_weighs_forget_and_retain(run):
    record = run("fine-tune")
    expected = (
        1000 * (1 - record.estimate("before.UA").value) + 9000 * record.estimate("before.RA").value
    ) / 10000
    panel = panels(summarise([record]))[0]
    assert panel.train.mean == pytest.approx(expected)
    assert f"train accuracy of the original: {expected * 100:.1f} %" in printed(panel.rows)
    without_counts = dataclasses.replace(record, split={"hash": "x"})
    assert panels(summarise([without_counts]))[0].train is None


def test_rows_of_one_method_show_the_knobs_that_differ(run):
    knobs = {"epochs": 5, "lr": 0.01, "gamma": 0.0005, "optimizer": {"momentum": 0.9}}
    other = knobs | {"gamma": 0.002, "optimizer": {"momentum": 0.0}}
    records = [run(seed=seed, knobs=k) for k in (knobs, other) for seed in range(3)] + [run("fine-tune")]
    labels = [row.label for row in summarise(records) if row.kind == "method"]
    assert labels == [
        "l1-sparse (gamma=0.0005, optimizer.momentum=0.9)",
        "l1-sparse (gamma=0.002, optimizer.momentum=0)",
        "fine-tune",
    ]


def test_starts_of_one_sparsity_show_what_differs(run):
    first = run("fine-tune", seed=0)
    steps = list(first.steps)
    steps[1] = dataclasses.replace(steps[1], step="synflow", knobs={"rounds": 100})
    other = dataclasses.replace(first, key="other", steps=tuple(steps))
    longer = dataclasses.replace(first.steps[0], knobs={"epochs": 50, "lr": 0.4, "batch": 256})
    third = dataclasses.replace(first, key="third", steps=(longer, *first.steps[1:]))
    assert [panel.start for panel in panels(summarise([first, other, third]))] == [
        "90 % sparse (train.epochs=25, magnitude)",
        "90 % sparse (train.epochs=25, synflow)",
        "90 % sparse (train.epochs=50, magnitude)",
    ]


def test_settings_are_told_apart(run):
    first = run("fine-tune")
    other, third = (
        dataclasses.replace(first, key=str(change), plan=dict(first.plan) | change)
        for change in ({"model": {"use": "vgg16"}}, {"precision": "fp64"})
    )
    rows = summarise([first, other])
    assert {row.setting for row in rows} == {"cifar10 · resnet20s", "cifar10 · vgg16"}
    assert summarise([first, third])[-1].setting == "cifar10 · resnet20s (precision=fp64)"
    assert "cifar10 · vgg16 · class 0" in printed(rows)


def test_a_new_version_of_the_numbers_is_another_row(run):
    first = run("fine-tune", seed=0)
    newer = dataclasses.replace(first.steps[-1], version=2)
    second = dataclasses.replace(first, key="x", steps=(*first.steps[:-1], newer))
    details = [row.detail for row in summarise([first, second]) if row.kind == "method"]
    assert details == ["version of its numbers=1", "version of its numbers=2"]


def test_a_run_that_stands_there_twice_counts_once(run):
    assert summarise([run("fine-tune")] * 2)[-1].count == 1


def test_steps_after_unlearning_belong_to_it(run):
    record = run("gradient-ascent")
    more = dataclasses.replace(record.steps[-1], step="fine-tune", seconds=10.0, sparsity=0.8)
    row = summarise([dataclasses.replace(record, steps=(*record.steps, more))])[-1]
    assert row.method == "gradient-ascent + fine-tune"
    assert row.values["RTE"].mean == pytest.approx(record.unlearning.seconds + 10)
    assert row.values["zeros"].mean == 0.8


def test_verdicts_are_counted(grid, run):
    row = next(row for row in summarise(grid) if row.kind == "retrain")
    assert row.verdicts["retrain-gap"].keys() <= {"pass", "fail", "inconclusive"}
    assert sum(row.verdicts["retrain-gap"].values()) == 5
    assert row.verdict == ", ".join(f"{n} {v}" for v, n in row.verdicts["retrain-gap"].items())
    record = run("fine-tune")
    second = dataclasses.replace(record.findings[0], audit="rmia", verdict="pass")
    both = dataclasses.replace(record, findings=(*record.findings, second))
    assert summarise([both])[-1].verdict == "retrain-gap: 1 fail; rmia: 1 pass"


def test_references_stand_in_where_nothing_retrained(run, grid):
    row = summarise([run("fine-tune", seed=s) for s in range(2)])[1]
    assert (row.kind, row.count, row.records) == ("reference", 8, ())
    values = [run("fine-tune", seed=s).estimate(f"retrain[{i}].UA").value for s in range(2) for i in range(4)]
    assert row.values["UA"].mean == pytest.approx(np.mean(values))
    assert all(row.kind != "reference" for row in summarise(grid))


def test_other_audits_keep_their_names(run):
    record = run("fine-tune")
    told = {"AUC": record.estimate("UA"), "before.AUC": record.estimate("TA")}
    more = [dataclasses.replace(record.findings[0], audit="rmia", estimates=told)] * 2
    rows = summarise([dataclasses.replace(record, findings=(*record.findings, *more))])
    assert rows[-1].values["rmia/AUC"].mean == record.estimate("UA").value
    assert "rmia 2/AUC" in rows[-1].values
    assert rows[0].values["rmia/AUC"].mean == record.estimate("TA").value


def test_printed_table_fits_100_columns(grid):
    text = printed(summarise(grid))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    assert "class 0 (airplane) · 90 % sparse" in text
    row = next(row for row in summarise(grid) if row.method == "fine-tune")
    spread = row.values["UA"]
    assert NOISE_FLOOR.split(",")[0] in " ".join(text.split())
    assert f"{spread.mean * 100:.1f} ±{spread.std * 100:.1f}" in text


def test_a_narrow_terminal_stacks_the_spread_and_keeps_the_names(grid):
    text = printed(summarise(grid), 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    spread = next(row for row in summarise(grid) if row.method == "gradient-ascent").values["RA"]
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "gradient-ascent" in line)
    assert f"{spread.mean * 100:.1f}" in lines[at]
    assert f"±{spread.std * 100:.1f}" in lines[at + 1]


def test_markup_in_a_label_is_text(run):
    text = printed(summarise([run("fine-tune", request="[red]x[/red]")]))
    assert "[red]x[/red]" in text


def test_json_is_for_programs(grid, run, without):
    rows = json.loads(rows_as_json(summarise(grid)))
    assert rows[0]["method"] == "original"
    assert 0 <= rows[2]["values"]["UA"]["mean"] <= 1
    assert rows[2]["seeds"] == [0, 1, 2, 3, 4]
    assert rows[2]["runs"] == [record.key for record in grid[5:10]]
    assert json.loads(rows_as_json(summarise([without(run())])))[-1]["values"]["UA"]["mean"] is None


def test_nan_and_missing_audits_do_no_harm(run, without):
    bare = run("fine-tune", audits=(), seed=1)
    rows = summarise([without(run("fine-tune")), bare])
    assert rows[-1].values["UA"].n == 0
    assert rows[-1].values["TA"].n == 1
    assert "(n=1)" in printed(rows)
    alone = summarise([bare])
    assert [row.kind for row in alone] == ["method"]
    assert "–" in printed(alone)
    assert printed(summarise([])) == ""


def test_a_run_without_unlearning_is_an_original(run):
    rows = summarise([run("", references=0)])
    assert [row.kind for row in rows] == ["original"]
    assert rows[0].values["UA"].n == 1
    together = summarise([run(""), run("fine-tune")])
    assert [row.kind for row in together] == ["original", "reference", "method"]


def test_a_table_waits_neither_for_torch_nor_for_matplotlib():
    code = (
        "import sys, secateur.report as r; r.print_table(r.summarise([])); "
        "print([m for m in ('torch', 'matplotlib', 'jinja2', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_outside_counts_runs_and_sides(run):
    records = [run("fine-tune", seed=seed) for seed in range(3)]
    row = summarise(records)[-1]
    for name in MEASURES:
        bands = [(r.estimate(name).value, r.estimate(f"band.{name}")) for r in records]
        expected = {
            side: n
            for side, n in (
                ("below", sum(value < band.low for value, band in bands)),
                ("above", sum(value > band.high for value, band in bands)),
            )
            if n
        }
        assert row.outside.get(name, {}) == expected
    assert row.outside["UA"] == {"below": 3}


def test_without_references_the_runs_of_retrain_are_the_yardstick(run):
    audits = ("accuracy", "mia-efficacy")
    runs = [run(m, seed=s, audits=audits) for m in ("retrain", "fine-tune") for s in range(3)]

    def measured(method, prefix=""):
        here = [one for one in runs if one.method == method]
        return np.array([[one.estimate(f"{prefix}{name}").value for name in MEASURES] for one in here])

    rows = {row.label: row for row in summarise(runs)}
    yardstick = measured("retrain")
    for label, values in (
        ("fine-tune", measured("fine-tune")),
        ("original", measured("fine-tune", "before.")),
    ):
        gaps = 100 * np.abs(values - yardstick.mean(axis=0)).mean(axis=1)
        assert rows[label].values["disparity"].each == pytest.approx(gaps)
        signed = 100 * (values - yardstick.mean(axis=0))[:, MEASURES.index("RA")]
        assert rows[label].values["gap.RA"].each == pytest.approx(signed)
    # each retrain against the others: against a mean that holds itself it would look too near
    floor = [
        100 * np.abs(yardstick[i] - np.delete(yardstick, i, axis=0).mean(axis=0)).mean() for i in range(3)
    ]
    assert rows["retrain"].values["disparity"].each == pytest.approx(floor)


def test_no_disparity_without_one_clear_yardstick(run):
    audits = ("accuracy", "mia-efficacy")
    one = [run("fine-tune", audits=audits)]
    two = [run("retrain", audits=audits, knobs={"mask": mask}) for mask in ("keep", "dense")]
    half = [run("retrain", audits=("accuracy",))]
    for runs in (one, one + two, one + half):
        assert not any("disparity" in row.values for row in summarise(runs))
    # a single retrain has no other to be held against
    rows = {row.label: row for row in summarise([*one, two[0]])}
    assert "disparity" in rows["fine-tune"].values
    assert "disparity" not in rows["retrain"].values


def test_other_requests_in_the_same_words_are_other_rows(run):
    """The mean over two requests is the number of neither."""

    def asked(forget, split, **changes):
        one = run("fine-tune", **changes)
        data = {**one.plan["data"], "forget": forget}
        return replace(
            one,
            key=f"{one.key}{forget}{split}",
            request="rows of rows.txt",
            plan={**one.plan, "data": data},
            split={**one.split, "hash": split},
        )

    here, there = {"how": "file", "path": "a/rows.txt"}, {"how": "file", "path": "b/rows.txt"}
    rows = summarise([asked(here, "1" * 64, seed=seed) for seed in (0, 1)] + [asked(there, "2" * 64)])
    found = {row.request: row.count for row in rows if row.kind == "method"}
    assert found == {"rows of rows.txt (path=a/rows.txt)": 2, "rows of rows.txt (path=b/rows.txt)": 1}
    # the same file, changed between two runs
    rows = summarise([asked(here, "1" * 64), asked(here, "2" * 64, seed=1)])
    assert {row.request for row in rows} == {f"rows of rows.txt (split={c * 8})" for c in "12"}
