"""Divergence: known answers, its verdicts case by case, and how often it fails an exact retrain."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from secateur.audit import judge
from secateur.audits import Divergence
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs

VIEWS = ("forget", "retain", "test")


def sure(answer, rows=3):
    """A model that is certain of one class everywhere."""
    logits = np.full((rows, 2), -400.0)
    logits[:, answer] = 400.0
    return {
        view: Outputs(logits, np.zeros(rows, int), 100 * i + np.arange(rows)) for i, view in enumerate(VIEWS)
    }


def apart(a, b):
    """Divergence row by row, from scipy's distance."""
    pairs = zip(np.exp(a.log_probs), np.exp(b.log_probs), strict=True)
    return np.array([jensenshannon(p, q) ** 2 for p, q in pairs])


class TestNumbers:
    def test_against_scipy_row_by_row(self, world):
        evidence = world(seed=3, rows=(10, 12, 11))
        finding = Divergence()(evidence)
        said = [reference.outputs for reference in evidence.retrains]
        for view in VIEWS:
            for prefix, own in (("", evidence.after), ("before.", evidence.before)):
                each = [apart(own[view], one[view]).mean() for one in said]
                found = finding.estimates[f"{prefix}JS.{view}"]
                half = 2.7764 * np.std(each, ddof=1) / math.sqrt(5)
                assert found.value == pytest.approx(np.mean(each))
                assert found.high - found.value == pytest.approx(half, rel=1e-4)
                assert (found.n, found.unit, found.better) == (5, "nats", "lower")
            null = [
                np.mean([apart(said[i][view], said[j][view]).mean() for j in range(5) if j != i])
                for i in range(5)
            ]
            for i, value in enumerate(null):
                assert finding.estimates[f"retrain[{i}].JS.{view}"].value == pytest.approx(value)
            logs = np.log(null)
            half = 3.9608 * math.sqrt(1.2) * logs.std(ddof=1) * 4 / 3  # t(4) at 1 - .05 / 6
            band = finding.estimates[f"band.JS.{view}"]
            assert band.high == pytest.approx(min(math.exp(logs.mean() + half), math.log(2)), rel=1e-4)
            assert (band.low, band.value) == (0, pytest.approx(math.exp(logs.mean())))
        rows = np.mean([apart(evidence.after["forget"], one["forget"]) for one in said], axis=0)
        assert finding.rows["forget/divergence"] == pytest.approx(rows.tolist())

    def test_models_that_share_no_class_are_ln_2_apart(self):
        evidence = Evidence(sure(0), sure(0), [Reference("retrained", sure(1), 100 + np.arange(3))] * 2)
        finding = Divergence()(evidence)
        assert {finding.estimates[f"JS.{view}"].value for view in VIEWS} == {math.log(2)}
        assert finding.rows["forget/divergence"] == pytest.approx([math.log(2)] * 3)
        assert finding.estimates["retrain[0].JS.forget"].value == 0

    def test_rows_come_in_the_order_of_their_ids(self, world):
        evidence = world(rows=(10, 12, 11), retrains=2)
        told = Divergence()(evidence).rows["forget/divergence"]

        def turned(said):
            out = said["forget"]
            return {**said, "forget": Outputs(out.logits[::-1], out.labels[::-1], out.rows[::-1])}

        references = [Reference("retrained", turned(r.outputs), r.rows) for r in evidence.references]
        other = Divergence()(Evidence(turned(evidence.before), turned(evidence.after), references))
        assert other.rows["forget/divergence"] == pytest.approx(told)


class TestVerdicts:
    def test_an_exact_retrain_passes_and_the_original_fails(self, world):
        evidence = world(retrains=6)
        (finding,) = judge([Divergence()], evidence)
        assert finding.verdict == "pass"
        (finding,) = judge([Divergence()], world(retrains=6, after=evidence.before))
        assert finding.verdict == "fail"
        assert "JS.forget (above)" in finding.caveats[0]

    def test_over_unlearning_and_ruin_fail(self, world, say):
        assert Divergence()(world(after=say(7, forget=-2.0))).verdict == "fail"
        assert Divergence()(world(after=say(7, retain=0.0))).verdict == "fail"

    def test_nearer_than_retrains_are_is_no_fault(self, world):
        evidence = world()
        (finding,) = judge([Divergence()], world(after=evidence.retrains[0].outputs))
        assert finding.verdict == "pass"

    def test_an_original_like_a_retrain_leaves_no_power(self, world, say):
        (finding,) = judge([Divergence()], world(before=say(50)))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    def test_a_masked_head_is_seen_on_test_rows(self, world, say):
        evidence = world(gone=2)
        masked = {
            view: Outputs(out.logits - [0, 0, 1000], out.labels, out.rows)
            for view, out in evidence.retrains[0].outputs.items()
        }
        finding = Divergence()(world(gone=2, after=masked))
        assert finding.verdict == "fail"
        assert "JS.test (above)" in finding.caveats[0]

    @pytest.mark.parametrize("retrains", [0, 1, 2, 4])
    def test_too_few_retrains_decide_nothing(self, world, retrains):
        finding = Divergence()(world(retrains=retrains))
        assert finding.verdict == "inconclusive"
        assert finding.caveats
        assert ("JS.test" in finding.estimates) == (retrains > 0)
        assert ("retrain[0].JS.test" in finding.estimates) == (retrains > 1)
        assert ("band.JS.test" in finding.estimates) == (retrains > 2)


def test_one_row_and_copies_of_one_model():
    references = [Reference("retrained", sure(0, 1), np.array([100]))] * 5
    finding = Divergence()(Evidence(sure(1, 1), sure(0, 1), references))
    assert finding.verdict == "pass"
    assert finding.estimates["JS.forget"].value == 0
    assert finding.estimates["before.JS.forget"].value == pytest.approx(math.log(2))


@pytest.mark.slow
def test_an_exact_retrain_fails_no_more_often_than_stated(world):
    verdicts = [Divergence()(world(seed)).verdict for seed in range(1, 301)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.025
    assert verdicts.count("pass") / len(verdicts) >= 0.6
