"""Attack success, against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from secateur import Evidence, Reference, judge
from secateur.audits import AttackSuccess
from secateur.errors import DataError
from secateur.outputs import Outputs

LABELS = np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 2])  # two of ten have the target class 0 already
ROWS = np.arange(10) + 100


def said(clean, turned, *, labels=LABELS, target=0, rows=ROWS, order=None):
    """What a model says, as classes, of ten test rows and of the same with a trigger."""
    order = np.arange(10) if order is None else order
    return {
        "test": Outputs(np.eye(3)[clean], labels, ROWS),
        "trigger": Outputs(np.eye(3)[turned][order], np.full(10, target), rows[order]),
    }


RIGHT = LABELS
ALL_TURNED = np.zeros(10, dtype=int)
ONE_TURNED = np.array([0, 1, 0, 1, 1, 2, 2, 2, 2, 2])  # and of the target's own rows one is missed


def found(before, after, *retrains):
    references = [Reference("retrained", one, np.arange(5)) for one in retrains]
    return judge([AttackSuccess()], Evidence(before=before, after=after, references=references))[0]


def test_by_hand():
    retrain = np.where(LABELS == 0, 0, 1)
    finding = found(said(RIGHT, ALL_TURNED), said(RIGHT, ONE_TURNED), said(retrain, retrain))
    values = {name: (estimate.value, estimate.n) for name, estimate in finding.estimates.items()}
    assert values == {
        "ASR": (1 / 8, 8),
        "ASR.published": (2 / 10, 10),  # one row turned, and one that was right all along
        "SA": (1.0, 10),
        "before.ASR": (1.0, 8),
        "before.ASR.published": (1.0, 10),
        "before.SA": (1.0, 10),
        "retrain[0].ASR": (0.0, 8),
        "retrain[0].ASR.published": (2 / 10, 10),  # the floor of the published count
        "retrain[0].SA": (5 / 10, 10),
    }
    assert {name: e.better for name, e in finding.estimates.items() if "." not in name} == {
        "ASR": "lower",
        "SA": "higher",
    }
    assert all(estimate.unit == "share" for estimate in finding.estimates.values())
    assert finding.verdict is None


def test_the_interval_is_wilsons():
    estimate = found(said(RIGHT, ALL_TURNED), said(RIGHT, ONE_TURNED)).estimates["ASR"]
    z, n, p = 1.959963984540054, 8, 1 / 8
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    want = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
    assert [estimate.low, estimate.high] == pytest.approx(want, rel=1e-12)


def test_true_classes_go_by_row_id():
    mixed = np.random.default_rng(0).permutation(10)
    one = found(said(RIGHT, ALL_TURNED), said(RIGHT, ONE_TURNED))
    other = found(said(RIGHT, ALL_TURNED, order=mixed), said(RIGHT, ONE_TURNED, order=mixed))
    assert one == other


def test_another_target():
    finding = found(said(RIGHT, RIGHT, target=2), said(RIGHT, np.full(10, 2), target=2))
    assert finding.estimates["ASR"].value == 1.0
    assert finding.estimates["ASR"].n == 5
    assert finding.estimates["before.ASR"].value == 0.0
    assert finding.estimates["before.ASR.published"].value == 5 / 10


def asked(**knobs):
    return found(*[said(RIGHT, ALL_TURNED, **knobs)] * 2)


def test_faults_are_told():
    with pytest.raises(DataError, match=r"each trigger row to be a test row .* got row 110, which is not in"):
        asked(rows=ROWS + 1)
    with pytest.raises(DataError, match="of another class than the target 0, got none"):
        asked(labels=np.zeros(10, dtype=int))
    with pytest.raises(DataError, match="one target class as the label of all trigger rows, got 2"):
        asked(target=[0] * 9 + [1])
    alone = {"test": said(RIGHT, RIGHT)["test"]}
    with pytest.raises(DataError, match="needs rows of trigger"):
        found(alone, alone)
