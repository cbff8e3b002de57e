"""Iam: the score by a slow loop and at its ends, its verdicts, and how often it fails an exact retrain."""

import math

import numpy as np
import pytest
from scipy.stats import gumbel_r

from secateur.audit import judge
from secateur.audits import Iam
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs


def says(*p):
    """A model that gives the true class, 0, the probabilities p on forget rows."""
    p = np.array(p)
    logits = np.stack([np.log(p), np.log(1 - p)], axis=1)
    one = Outputs(np.array([[3.0, 0.0]]), np.array([0]), np.array([900]))
    two = Outputs(np.array([[1.0, 0.0]]), np.array([0]), np.array([950]))
    return {
        "forget": Outputs(logits, np.zeros(len(p), int), np.arange(len(p))),
        "retain": one,
        "test": two,
    }


def complete(candidate, before, retrains):
    references = [Reference("retrained", said, np.array([900])) for said in retrains]
    return Iam()(Evidence(before, candidate, references))


def slow(candidate, before, retrains):
    """As published: interpolated models, a Gumbel distribution by moments at each stage, a weighted mean."""

    def signal(said):
        return -np.log(0.01 - np.log(said["forget"].confidence + 1e-5))

    asked, fit, bank = signal(candidate), signal(before), np.array([signal(said) for said in retrains])
    stages, total = np.linspace(0, 1, 100), 0.0
    for k in range(99):
        models = bank + (fit - bank) * stages[k]
        scale = math.sqrt(6) * models.std() / math.pi
        chance = gumbel_r.cdf(asked, models.mean(axis=0) - np.euler_gamma * scale, scale)
        total = total + stages[k + 1] * chance
    return 1 - total / stages[1:].sum()


class TestNumbers:
    def test_against_the_slow_way(self, world):
        evidence = world(seed=5, rows=(12, 20, 15))
        finding = Iam()(evidence)
        out = [reference.outputs for reference in evidence.retrains]
        wanted = slow(evidence.after, evidence.before, out)
        assert finding.rows["forget/completeness"] == pytest.approx(wanted.tolist())
        found = finding.estimates
        assert found["completeness"].value == pytest.approx(wanted.mean())
        assert found["spread"].value == pytest.approx(wanted.std())
        half = 2.2010 * wanted.std(ddof=1) / math.sqrt(12)
        assert found["completeness"].high == pytest.approx(wanted.mean() + half, rel=1e-4)
        other = slow(out[1], evidence.before, [out[0], *out[2:]])
        assert found["retrain[1].completeness"].value == pytest.approx(other.mean())

    def test_the_way_from_the_original_to_far_beyond_the_retrains(self):
        out = [says(p, p + 0.01, p - 0.01) for p in (0.48, 0.5, 0.52)]
        before = says(0.99, 0.99, 0.99)
        means = [
            complete(says(p, p, p), before, out).estimates["completeness"].value
            for p in (0.999, 0.99, 0.9, 0.7, 0.5, 0.1)
        ]
        assert means == sorted(means)
        assert means[0] < 0.01
        assert means[1] < 0.25
        assert means[-1] > 0.99

    def test_where_unlearning_can_change_nothing_a_row_is_half_way(self):
        one = says(0.8)
        found = complete(one, one, [one] * 2)
        assert found.rows["forget/completeness"] == pytest.approx([1 - math.exp(-math.exp(-np.euler_gamma))])


class TestVerdicts:
    def test_an_exact_retrain_passes_and_the_original_fails(self, world):
        evidence = world()
        (finding,) = judge([Iam()], evidence)
        assert finding.verdict == "pass"
        (finding,) = judge([Iam()], world(after=evidence.before))
        assert finding.verdict == "fail"
        assert "completeness (below)" in finding.caveats[0]

    def test_over_unlearning_fails(self, world, say):
        finding = Iam()(world(after=say(7, forget=-2.0)))
        assert finding.verdict == "fail"
        assert "completeness (above)" in finding.caveats[0]

    def test_rows_half_kept_and_half_over_unlearned_cannot_hide_in_a_mean(self, world, say):
        kept, gone = say(7, forget=4.0)["forget"], say(8, forget=-0.5)["forget"]
        first = np.arange(60)[:, None] < 30
        mixed = Outputs(np.where(first, kept.logits, gone.logits), kept.labels, kept.rows)
        finding = Iam()(world(after={**say(7), "forget": mixed}))
        assert finding.verdict == "fail"
        assert "spread (above)" in finding.caveats[0]

    def test_an_original_like_a_retrain_leaves_no_power(self, world, say):
        (finding,) = judge([Iam()], world(before=say(50)))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    @pytest.mark.parametrize("retrains", [0, 1, 2, 4])
    def test_too_few_retrains_decide_nothing(self, world, retrains):
        finding = Iam()(world(retrains=retrains))
        assert finding.verdict == "inconclusive"
        assert finding.caveats
        assert ("completeness" in finding.estimates) == (retrains > 0)
        assert ("band.completeness" in finding.estimates) == (retrains > 1)


@pytest.mark.parametrize("rows", [1, 3])
def test_few_rows_all_tied(rows):
    said = says(*[0.5] * rows)
    finding = complete(said, says(*[0.9] * rows), [said] * 5)
    assert all(0 <= value <= 1 for value in finding.rows["forget/completeness"])
    assert finding.verdict == "pass"
    assert finding.estimates["spread"].value == pytest.approx(0)


@pytest.mark.slow
def test_an_exact_retrain_fails_no_more_often_than_stated(world):
    verdicts = [Iam()(world(seed)).verdict for seed in range(1, 301)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.025
    assert verdicts.count("pass") / len(verdicts) >= 0.8
