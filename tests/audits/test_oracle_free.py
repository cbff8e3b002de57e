"""The score by hand, on made-up models that are right on as many rows as they are told to be."""

import numpy as np
import pytest

from secateur.audit import judge
from secateur.audits import OracleFree
from secateur.errors import DataError
from secateur.evidence import Evidence
from secateur.outputs import Outputs

ROWS = {"forget": 40, "retain": 200, "holdout": 50}


def said(gone=None, **right):
    """A model that is right on the first so many rows of each view; ``gone``: the class of forget rows."""
    views = {}
    for i, (view, n) in enumerate(ROWS.items()):
        labels = np.arange(n) % 3
        if gone is not None:
            labels = np.full(n, gone) if view == "forget" else labels
            labels[(labels == gone) & (view == "retain")] = (gone + 1) % 3
        answer = np.where(np.arange(n) < right[view], labels, (labels + 1) % 3)
        views[view] = Outputs(np.eye(3)[answer] * 5, labels, 1000 * i + np.arange(n))
    return views


def score(before, after):
    (finding,) = judge([OracleFree()], Evidence(before=before, after=after))
    return finding.estimates


def test_rows_of_classes_that_stay():
    found = score(said(forget=40, retain=200, holdout=35), said(forget=34, retain=190, holdout=30))
    # 85 % on forget against the original's 70 % on holdout
    wanted = {"forget-distance": 15.0, "retain-loss": 5.0, "holdout-loss": 10.0, "score": 10.0}
    wanted |= {f"before.{name}": 0.0 for name in wanted}
    wanted |= {"before.forget-distance": 30.0, "before.score": 10.0}
    assert {name: e.value for name, e in found.items()} == pytest.approx(wanted)
    for name in ("forget-distance", "retain-loss", "holdout-loss", "score"):
        assert (found[name].unit, found[name].better) == ("points", "lower")
        assert 0 <= found[name].low < found[name].value < found[name].high


def test_too_much_forgotten_counts_as_much_and_gains_do_not_count():
    found = score(said(forget=40, retain=190, holdout=35), said(forget=22, retain=200, holdout=45))
    assert found["forget-distance"].value == pytest.approx(15.0)
    assert found["retain-loss"].value == found["holdout-loss"].value == 0.0
    assert found["score"].value == pytest.approx(5.0)


def test_a_forgotten_class_is_to_be_wrong_and_is_left_out_of_holdout():
    before, after = (
        said(gone=0, forget=40, retain=200, holdout=50),
        said(gone=0, forget=10, retain=200, holdout=25),
    )
    found = score(before, after)
    kept = np.arange(50) % 3 != 0
    lost = 100 * (1 - (kept & (np.arange(50) < 25)).sum() / kept.sum())
    assert found["forget-distance"].value == pytest.approx(25.0)
    assert found["holdout-loss"].value == pytest.approx(lost)


def test_a_model_that_changed_nothing_is_told_so():
    one = said(forget=40, retain=200, holdout=35)
    found = score(one, one)
    assert found["forget-distance"].value == pytest.approx(30.0)
    assert found["score"].value == pytest.approx(10.0)
    assert found["retain-loss"].low == 0.0


def test_it_asks_for_holdout_and_for_nothing_that_is_reported():
    assert OracleFree.needs.views == {"forget", "retain", "holdout"}
    assert OracleFree.needs.references == 0
    one = {view: out for view, out in said(forget=1, retain=1, holdout=1).items() if view != "holdout"}
    with pytest.raises(DataError, match="OracleFree needs rows of holdout"):
        judge([OracleFree()], Evidence(before=one, after=one))


def test_intervals_cover():
    """At 95 %, by drawing the models again and again."""
    rng, inside, truth = np.random.default_rng(0), 0, (abs(0.8 - 0.7) + 0.05 + 0.1) / 3 * 100
    for _ in range(400):
        before = said(forget=40, retain=200, holdout=rng.binomial(50, 0.7))
        after = said(
            forget=rng.binomial(40, 0.8), retain=rng.binomial(200, 0.95), holdout=rng.binomial(50, 0.6)
        )
        found = score(before, after)["score"]
        inside += found.low <= truth <= found.high
    assert inside >= 0.95 * 400
