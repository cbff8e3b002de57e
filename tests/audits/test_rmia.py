"""Rmia: the score by a slow loop, its verdicts case by case, and how often it fails an exact retrain."""

import math

import numpy as np
import pytest

from secateur.audit import judge
from secateur.audits import Rmia
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs


def halves(test):
    """The two halves of the test rows: every other one, by class and row id."""
    order = sorted(range(len(test)), key=lambda i: (test.labels[i], test.rows[i]))
    return order[::2], order[1::2]


def slow(model, out, *, ratio=1.0, a=0.3):
    """The scores of forget rows and, by position, of test rows: pair by pair."""

    def gain(view, i):
        p_out = np.mean([said[view].confidence[i] for said in out])
        return model[view].confidence[i] / (((1 + a) * p_out + 1 - a) / 2)

    def score(view, i, population):
        return np.mean([gain(view, i) >= ratio * gain("test", z) for z in population])

    one, two = halves(model["test"])
    forget = [(score("forget", i, one) + score("forget", i, two)) / 2 for i in range(len(model["forget"]))]
    return forget, {i: score("test", i, two if i in one else one) for i in (*one, *two)}


class TestNumbers:
    @pytest.mark.parametrize("gone", [None, 2])
    @pytest.mark.parametrize("knobs", [{}, {"ratio": 1.3, "a": 0.6}])
    def test_against_the_slow_way(self, world, gone, knobs):
        evidence = world(seed=4, rows=(12, 20, 15), retrains=3, gone=gone)
        finding = Rmia(**knobs)(evidence)
        out = [reference.outputs for reference in evidence.retrains]
        models = {"": (evidence.after, out), "before.": (evidence.before, out)}
        models |= {f"retrain[{i}].": (out[i], out[:i] + out[i + 1 :]) for i in range(3)}
        for prefix, (model, others) in models.items():
            forget, test = slow(model, others, **knobs)
            alike = [s for i, s in test.items() if model["test"].labels[i] in model["forget"].labels]
            area = np.mean([(x > y) + (x == y) / 2 for x in forget for y in alike])
            assert finding.estimates[f"{prefix}AUC"].value == pytest.approx(area, abs=1e-12)
            if not prefix:
                assert finding.rows["forget/exposure"] == pytest.approx(forget)
                assert finding.estimates["AUC"].n == 12 + len(alike)

    def test_rates_that_no_rows_can_resolve_are_left_out_and_told(self, world):
        finding = Rmia()(world())
        assert all(math.isfinite(estimate.value) for estimate in finding.estimates.values())
        assert any("TPR@1%FPR" in caveat and "left out" in caveat for caveat in finding.caveats)
        rich = Rmia()(world(rows=(60, 120, 1200), retrains=2))
        assert {"TPR@1%FPR", "before.TPR@1%FPR", "retrain[1].TPR@1%FPR"} <= rich.estimates.keys()


class TestVerdicts:
    def test_an_exact_retrain_passes_and_the_original_fails(self, world):
        evidence = world()
        (finding,) = judge([Rmia()], evidence)
        assert finding.verdict == "pass"
        assert min(finding.rows["forget/exposure"]) >= 0
        (finding,) = judge([Rmia()], world(after=evidence.before))
        assert finding.verdict == "fail"
        assert "AUC (above)" in finding.caveats[0]
        assert np.mean(finding.rows["forget/exposure"]) > 0.6

    def test_over_unlearning_fails(self, world, say):
        finding = Rmia()(world(after=say(7, forget=-2.0)))
        assert finding.verdict == "fail"
        assert "AUC (below)" in finding.caveats[0]

    def test_an_original_like_a_retrain_leaves_no_power(self, world, say):
        (finding,) = judge([Rmia()], world(before=say(50)))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    @pytest.mark.parametrize("retrains", [0, 1, 2, 4])
    def test_too_few_retrains_decide_nothing(self, world, retrains):
        finding = Rmia()(world(retrains=retrains))
        assert finding.verdict == "inconclusive"
        assert finding.caveats
        assert ("AUC" in finding.estimates) == ("forget/exposure" in finding.rows) == (retrains > 0)
        assert ("retrain[0].AUC" in finding.estimates) == ("band.AUC" in finding.estimates) == (retrains > 1)


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_all_tied(rows):
    said = {
        view: Outputs(np.zeros((rows, 2)), np.zeros(rows, int), 100 * i + np.arange(rows))
        for i, view in enumerate(("forget", "retain", "test"))
    }
    references = [Reference("retrained", said, 100 + np.arange(rows))] * 5
    finding = Rmia()(Evidence(said, said, references))
    assert finding.estimates["AUC"].value == 0.5
    assert finding.verdict == "inconclusive"
    assert finding.rows["forget/exposure"] == (1.0,) * rows  # as much as every population row


@pytest.mark.slow
def test_an_exact_retrain_fails_no_more_often_than_stated(world):
    verdicts = [Rmia()(world(seed)).verdict for seed in range(1, 301)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.025
    assert verdicts.count("pass") / len(verdicts) >= 0.8
