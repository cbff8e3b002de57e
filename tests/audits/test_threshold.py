"""Threshold: closed forms, slow loops, its verdicts case by case, and how often it fails an exact retrain."""

import math

import numpy as np
import pytest
from scipy.stats import norm

from secateur.audit import judge
from secateur.audits import Threshold
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs

SCORES = ("loss", "phi", "correct", "entropy", "modified-entropy")


def flat(forget=4, retain=4, test=4, *, logits=(0.0, 0.0)):
    """A model that says the same of every row, of class 0."""
    sizes = {"forget": forget, "retain": retain, "test": test}
    return {
        view: Outputs(np.tile(logits, (n, 1)), np.zeros(n, int), 100 * i + np.arange(n))
        for i, (view, n) in enumerate(sizes.items())
    }


def slow(forget, test):
    """The five areas, row by row and pair by pair."""

    def scores(said):
        rows = []
        for logits, y in zip(said.logits.astype(float), said.labels, strict=True):
            p = [math.exp(z) / sum(math.exp(o) for o in logits) for z in logits]
            others = [c for c in range(len(p)) if c != y]
            rows.append((
                math.log(p[y]),
                math.log(p[y]) - math.log(sum(p[c] for c in others)),
                float(all(p[y] > p[c] for c in others)),
                sum(q * math.log(q) for q in p),
                (1 - p[y]) * math.log(p[y]) + sum(p[c] * math.log(1 - p[c]) for c in others),
            ))
        return rows

    alike = [row for row, y in zip(scores(test), test.labels, strict=True) if y in forget.labels]
    pairs = [(a, b) for a in scores(forget) for b in alike]
    return {
        name: np.mean([(a[i] > b[i]) + (a[i] == b[i]) / 2 for a, b in pairs]) for i, name in enumerate(SCORES)
    }


class TestNumbers:
    @pytest.mark.parametrize("gone", [None, 2])
    def test_areas_against_the_slow_way(self, world, gone):
        evidence = world(seed=2, rows=(12, 20, 15), retrains=1, gone=gone)
        found = Threshold()(evidence).estimates
        for prefix, said in evidence.models():
            for name, area in slow(said["forget"], said["test"]).items():
                assert found[f"{prefix}{name}.AUC"].value == pytest.approx(area, abs=1e-12)
        assert found["phi.AUC"].n == 12 + (15 if gone is None else 5)  # rows of the forgotten class stay

    def test_two_normal_distributions(self):
        n = 4000
        at = norm.ppf((np.arange(n) + 0.5) / n)
        views = {
            view: Outputs(np.stack([at + up, 0 * at], 1), np.zeros(n, int), n * i + np.arange(n))
            for i, (view, up) in enumerate({"forget": 1.0, "retain": 1.0, "test": 0.0}.items())
        }
        found = Threshold()(Evidence(views, views)).estimates
        for name in ("phi.AUC", "loss.AUC", "retain.AUC"):
            assert found[name].value == pytest.approx(0.7602, abs=1e-3)
        assert found["phi.TPR@1%FPR"].value == pytest.approx(0.0924, abs=2e-3)
        assert found["phi.TNR@1%FNR"].value == pytest.approx(0.0924, abs=2e-3)  # symmetric
        assert "phi.TPR@0.1%FPR" not in found
        chance = found["phi.shuffled.AUC"]
        assert chance.low <= 0.5 <= chance.high
        assert all(math.isfinite(estimate.value) for estimate in found.values())


class TestVerdicts:
    def test_an_exact_retrain_passes_and_the_original_fails(self, world):
        evidence = world()
        (finding,) = judge([Threshold()], evidence)
        assert finding.verdict == "pass"
        (finding,) = judge([Threshold()], world(after=evidence.before))
        assert finding.verdict == "fail"
        assert "phi.AUC (above)" in finding.caveats[0]

    def test_over_unlearning_fails(self, world, say):
        finding = Threshold()(world(after=say(7, forget=-2.0)))
        assert finding.verdict == "fail"
        assert "phi.AUC (below)" in finding.caveats[0]

    def test_an_original_like_a_retrain_leaves_no_power(self, world, say):
        (finding,) = judge([Threshold()], world(before=say(50)))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    def test_kept_rows_that_nobody_can_tell_leave_none_either(self, world, say):
        finding = Threshold()(world(after=say(8, retain=0.5)))
        assert finding.verdict == "inconclusive"
        assert "even on rows that were kept" in finding.caveats[0]

    @pytest.mark.parametrize("retrains", [0, 1, 4])
    def test_too_few_retrains_decide_nothing_and_tell_what_was_seen(self, world, retrains):
        (finding,) = judge([Threshold()], world(retrains=retrains))
        assert finding.verdict == "inconclusive"
        assert any("phi.AUC is 0." in caveat for caveat in finding.caveats)
        assert ("band.phi.AUC" in finding.estimates) == (retrains > 0)
        assert {f"before.{name}.AUC" for name in SCORES} <= finding.estimates.keys()


class TestEdges:
    @pytest.mark.parametrize("rows", [1, 4])
    def test_all_tied(self, rows):
        said = flat(rows, rows, rows)
        references = [Reference("retrained", said, 100 + np.arange(rows))] * 5
        (finding,) = judge([Threshold()], Evidence(said, said, references))
        assert {finding.estimates[f"{name}.AUC"].value for name in SCORES} == {0.5}
        assert finding.verdict == "inconclusive"

    def test_logits_beyond_a_softmax(self):
        said = flat(logits=(3e38, -3e38))
        found = Threshold()(Evidence(said, said)).estimates
        assert all(math.isfinite(estimate.value) for estimate in found.values())


@pytest.mark.slow
def test_an_exact_retrain_fails_no_more_often_than_stated(world):
    verdicts = [Threshold()(world(seed)).verdict for seed in range(1, 301)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.025
    assert verdicts.count("pass") / len(verdicts) >= 0.8
