"""Accuracy against counting by hand."""

import numpy as np
import pytest

from secateur import stats
from secateur.audit import judge
from secateur.audits import Accuracy


def by_hand(outputs, view, classes):
    """(right, rows) of the given classes, one row at a time."""
    out = outputs[view]
    rows = [
        (row.argmax(), label) for row, label in zip(out.logits, out.labels, strict=True) if label in classes
    ]
    return sum(said == label for said, label in rows), len(rows)


def test_shares_and_intervals_are_those_of_counting(world):
    evidence = world(retrains=2)
    (finding,) = judge([Accuracy()], evidence)
    for prefix, outputs in evidence.models():
        for name, view in (("UA", "forget"), ("RA", "retain"), ("TA", "test")):
            right, rows = by_hand(outputs, view, range(3))
            count = rows - right if name == "UA" else right
            estimate = finding.estimates[prefix + name]
            assert estimate.value == pytest.approx(count / rows)
            assert (estimate.low, estimate.high) == stats.wilson(count, rows)
            assert (estimate.n, estimate.unit, estimate.level) == (rows, "share", 0.95)
    assert (finding.audit, finding.verdict, finding.caveats) == ("accuracy", None, ())


def test_directions(world):
    estimates = Accuracy()(world(retrains=1)).estimates
    told = {name.rpartition(".")[2].partition("[")[0]: e.better for name, e in estimates.items()}
    assert told == dict.fromkeys(("UA", "RA", "TA"), "nearer-to-retrain")


def test_classes_are_counted_for_candidate_and_original_alone(world):
    evidence = world(retrains=1)
    estimates = Accuracy(level=0.8)(evidence).estimates
    names = {
        f"{prefix}{name}[{c}]" for prefix in ("", "before.") for name in ("UA", "RA", "TA") for c in range(3)
    }
    assert {name for name in estimates if "[" in name.removeprefix("retrain[")} == names
    right, rows = by_hand(evidence.before, "retain", [1])
    one = estimates["before.RA[1]"]
    assert (one.value, one.n, one.low, one.high) == (right / rows, rows, *stats.wilson(right, rows, 0.8))


def test_a_forgotten_class_is_left_out_of_test_and_told(world):
    evidence = world(retrains=1, gone=2)
    (finding,) = judge([Accuracy()], evidence)
    right, rows = by_hand(evidence.after, "test", [0, 1])
    assert rows == 60
    assert (finding.estimates["TA"].value, finding.estimates["TA"].n) == (right / rows, rows)
    assert "TA[2]" not in finding.estimates
    assert "UA[2]" in finding.estimates
    assert "UA[0]" not in finding.estimates
    assert "class 2 counts as forgotten" in finding.caveats[0]


def test_a_model_without_an_opinion_is_right_on_the_first_class_alone(world, say):
    mute = {name: type(out)(np.zeros_like(out.logits), out.labels, out.rows) for name, out in say(0).items()}
    estimates = Accuracy()(world(after=mute)).estimates
    assert [estimates[f"RA[{c}]"].value for c in range(3)] == [1.0, 0.0, 0.0]
    assert estimates["UA"].value == pytest.approx(2 / 3)
