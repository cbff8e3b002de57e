"""MIA-Efficacy against a straight-line transcription of the published predictor."""

import math

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.svm import SVC

from secateur import stats
from secateur.audit import judge
from secateur.audits import MiaEfficacy
from secateur.errors import UsageError
from secateur.evidence import Evidence
from secateur.outputs import Outputs


def published(outputs, classes):
    """The authors' predictor, a line at a time, on the rows of the given classes."""
    conf = {}
    for view, out in outputs.items():
        probabilities = softmax(out.logits.astype(float), axis=1)
        rows = range(len(out)) if view == "forget" else [i for i, y in enumerate(out.labels) if y in classes]
        conf[view] = np.array([probabilities[i, out.labels[i]] for i in rows])
    size = len(conf["test"])
    x = np.concatenate([conf["retain"][:size], conf["test"]]).reshape(-1, 1)
    y = np.concatenate([np.ones(size), np.zeros(size)])
    classifier = SVC(C=3, gamma="auto", kernel="rbf")
    classifier.fit(x, y)
    return 1 - classifier.predict(conf["forget"].reshape(-1, 1)).mean()


@pytest.mark.parametrize(("gone", "classes"), [(None, [0, 1, 2]), (2, [0, 1])])
def test_first_is_the_published_number_for_every_model(world, gone, classes):
    evidence = world(retrains=2, gone=gone)
    (finding,) = judge([MiaEfficacy(members="first")], evidence)
    expected = {f"{prefix}MIA-Efficacy": published(outputs, classes) for prefix, outputs in evidence.models()}
    assert {name: e.value for name, e in finding.estimates.items()} == pytest.approx(expected)
    assert expected["before.MIA-Efficacy"] < expected["retrain[0].MIA-Efficacy"]
    assert any("class 2" in caveat for caveat in finding.caveats) == (gone == 2)


def test_interval_is_wilson_s_over_the_forget_rows_and_says_so(world):
    evidence = world()
    finding = MiaEfficacy(level=0.9)(evidence)
    one = finding.estimates["MIA-Efficacy"]
    assert (one.low, one.high) == stats.wilson(round(one.value * 60), 60, 0.9)
    assert (one.n, one.unit, one.better) == (60, "share", "nearer-to-retrain")
    assert "held fixed" in one.method
    assert "forget rows" in one.method


def test_caveats_say_how_to_read_it(world):
    assert "no privacy measure" in MiaEfficacy()(world()).caveats[0]
    assert not any("no retrained" in caveat for caveat in MiaEfficacy()(world()).caveats)
    assert any("no retrained" in caveat for caveat in MiaEfficacy()(world(retrains=0)).caveats)
    assert MiaEfficacy()(world()).verdict is None


def test_the_seed_draws_the_members_and_the_same_seed_the_same(world):
    evidence = world(rows=(200, 400, 30))
    values = [MiaEfficacy(seed=seed)(evidence).estimates["MIA-Efficacy"].value for seed in (0, 1, 2, 0)]
    assert values[0] == values[3]
    assert len(set(values)) > 1


def test_order_of_the_forget_rows_does_not_matter(world):
    evidence = world(retrains=0)
    order = np.random.default_rng(0).permutation(60)
    turned = [
        outputs | {"forget": Outputs(*(part[order] for part in (o.logits, o.labels, o.rows)))}
        for outputs in (evidence.before, evidence.after)
        for o in [outputs["forget"]]
    ]
    assert MiaEfficacy()(Evidence(*turned)).estimates == MiaEfficacy()(evidence).estimates


def test_a_wrong_knob_is_refused(world):
    with pytest.raises(UsageError, match="members"):
        judge([MiaEfficacy(members="all")], world())
    with pytest.raises(UsageError, match="seed"):
        judge([MiaEfficacy(seed=-1)], world())


def test_all_numbers_are_finite(world):
    estimates = MiaEfficacy()(world()).estimates.values()
    assert all(math.isfinite(x) for e in estimates for x in (e.value, e.low, e.high))
