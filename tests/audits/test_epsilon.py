"""Epsilon: its bounds by hand, what it finds and what it does not, and how often it fails an exact method."""

from dataclasses import replace

import numpy as np
import pytest

from secateur import stats
from secateur.audit import judge
from secateur.audits import Epsilon
from secateur.audits.epsilon import _whole

from .banks import bank


def phi(evidence, kind):
    said = [reference.outputs["forget"] for reference in evidence.of(kind)]
    return np.array([stats.logit_confidence(out.logits, out.labels) for out in said])


def bound(ours, theirs, alpha):
    return stats.epsilon_lower_bound(ours, theirs, alpha=alpha, threshold="bonferroni").value


class TestNumbers:
    def test_both_questions_by_hand(self):
        evidence = bank(1, models=24, kinds="fixed", left=0.5)
        finding = Epsilon(level=0.9)(evidence)
        retrained, unlearned = phi(evidence, "retrained"), phi(evidence, "unlearned")
        others = [np.delete(retrained, k, axis=0).mean(axis=0) for k in range(24)]
        apart = [
            [np.abs(one - retrained.mean(axis=0)).mean() for one in unlearned],
            [np.abs(one - rest).mean() for one, rest in zip(retrained, others, strict=True)],
        ]
        whole = [bound(unlearned.mean(axis=1), retrained.mean(axis=1), 0.1 / 4), bound(*apart, 0.1 / 4)]
        assert finding.estimates["epsilon"].value == pytest.approx(max(whole))
        rows = [bound(unlearned[:, i], retrained[:, i], 0.1 / 2 / 30) for i in range(30)]
        assert finding.estimates["epsilon.rows.max"].value == pytest.approx(max(rows))
        assert finding.rows["forget/epsilon"] == pytest.approx([
            bound(unlearned[:, i], retrained[:, i], 0.1) for i in range(30)
        ])
        for name in ("epsilon", "epsilon.rows.max"):
            estimate = finding.estimates[name]
            assert (estimate.level, estimate.high) == (pytest.approx(0.95), np.inf)
            assert (estimate.unit, estimate.better) == ("nats", "lower")

    def test_models_without_overlap_reach_the_ceiling_and_no_more(self):
        finding = Epsilon()(bank(2, models=32, kinds="fixed", shift=60.0, left=1.0))
        most = stats.epsilon_ceiling(32, alpha=0.05 / 4, threshold="bonferroni")
        for name in ("epsilon", "before.epsilon", "epsilon.ceiling"):
            assert finding.estimates[name].value == pytest.approx(most)
        assert any(f"above {most:.2f} nats" in caveat for caveat in finding.caveats)

    def test_the_order_of_the_models_moves_nothing_but_the_null(self):
        evidence = bank(3, models=20, kinds="fixed", left=0.3)
        turned = Epsilon()(replace(evidence, references=evidence.references[::-1])).estimates
        for name, estimate in Epsilon()(evidence).estimates.items():
            if name != "null.epsilon":
                assert turned[name].value == pytest.approx(estimate.value)


class TestVerdicts:
    def test_exact_unlearning_passes_and_every_control_holds(self):
        (finding,) = judge([Epsilon()], bank(4, models=48, sizes=(12, 20, 20), kinds="fixed"))
        assert finding.verdict == "pass"
        assert finding.estimates["null.epsilon"].value == 0
        assert {control.name for control in finding.controls if not control.held} == set()
        assert len(finding.controls) == 8

    @pytest.mark.parametrize("left", [1.0, 0.5, -0.5])
    def test_what_is_left_or_taken_too_much_fails(self, left):
        assert Epsilon()(bank(5, kinds="fixed", left=left)).verdict == "fail"

    def test_rows_that_err_to_both_sides_are_found_by_their_distance_alone(self):
        evidence = bank(6, kinds="fixed", left=0.5, both=True)
        finding = Epsilon()(evidence)
        means = [phi(evidence, kind).mean(axis=1) for kind in ("unlearned", "retrained")]
        assert bound(*means, 0.05 / 4) == 0
        assert finding.estimates["epsilon"].value > 1
        assert finding.verdict == "fail"

    def test_no_power_where_the_originals_know_nothing(self):
        finding = Epsilon()(bank(7, kinds="fixed", shift=0.0))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    @pytest.mark.parametrize("models", [0, 1, 3, 4, 15])
    def test_too_few_models_decide_nothing(self, models):
        finding = Epsilon()(bank(8, models=models, kinds="fixed", left=1.0))
        assert finding.verdict == "inconclusive"
        assert any("64 unlearned and as many retrained" in caveat for caveat in finding.caveats)
        assert bool(finding.estimates) == (models > 3)

    def test_copies_are_told(self):
        evidence = bank(9, models=20, kinds="fixed")
        copies = [*evidence.references, *evidence.of("retrained")]
        caveats = Epsilon()(replace(evidence, references=copies)).caveats
        assert any("only 20 of 40 retrained models differ" in caveat for caveat in caveats)


def test_a_summary_shows_nothing_where_nothing_differs():
    rng, shown = np.random.default_rng(0), 0
    for _ in range(200):  # many rows, with a level and an offset of each model: the hardest for the distance
        level = rng.normal(size=200)
        one, other = (level + rng.normal(size=(24, 200)) + 0.2 * rng.normal(size=(24, 1)) for _ in "ab")
        shown += _whole(one, other, 0.05).low > 0
    assert shown / 200 <= 0.05


@pytest.mark.slow
def test_an_exact_method_fails_no_more_often_than_stated():
    verdicts = [
        Epsilon()(bank(seed, models=32, sizes=(20, 4, 4), kinds="fixed")).verdict for seed in range(200)
    ]
    assert verdicts.count("fail") / len(verdicts) <= 0.05
    assert verdicts.count("pass") / len(verdicts) >= 0.95
