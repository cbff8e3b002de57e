"""ULira: its scores against loops, closed-form areas, a null at 0.5, and its verdicts."""

from dataclasses import replace
from math import atan, exp, log, pi, sqrt

import numpy as np
import pytest
from scipy.special import ndtr

from secateur.audit import judge
from secateur.audits import ULira
from secateur.audits.u_lira import SHRINK, _ratios
from secateur.evidence import Evidence, Reference

from .banks import bank, outputs


def masks(rng, models, rows):
    """Forgotten and never seen, each a random part of the rows of each model."""
    drawn = rng.random((models, rows))
    return drawn < 0.2, drawn > 0.5


def gaussian(*, models=256, rows=60, move=0.0, scale=1.0, seed=0):
    """Of rows never seen models say N(level, 1), of unlearned ones N(level + move, scale^2)."""
    rng, sizes = np.random.default_rng(seed), {"forget": rows // 2, "retain": rows // 2, "test": 3}
    level, references = 3 * rng.normal(size=rows), []
    for _ in range(models):
        gone, unseen = masks(rng, 1, rows)
        ids, gone, unseen = np.arange(rows), gone[0], unseen[0]
        said = level + np.where(gone, move + scale * rng.normal(size=rows), rng.normal(size=rows))
        said += 3.0 * ~(gone | unseen)
        knew = np.where(unseen, said, level + 3.0 + rng.normal(size=rows))
        for kind, phi, forgot in (("shadow", knew, []), ("unlearned-shadow", said, ids[gone])):
            told = outputs(np.append(phi, np.zeros(3)), sizes)
            references.append(Reference(kind, told, ids[~unseen], np.array(forgot, dtype=int)))
    return Evidence(references[0].outputs, references[1].outputs, references)


def fitted(values, pooled):
    """Mean and variance of one more score, from those of some models."""
    mean = sum(values) / len(values)
    squares = sum((value - mean) ** 2 for value in values)
    return mean, (squares + SHRINK * pooled) / (len(values) - 1 + SHRINK) * (1 + 1 / len(values))


def pooled(phi, side, fit):
    columns = [[phi[k, i] for k in fit if side[k, i]] for i in range(phi.shape[1])]
    columns = [column for column in columns if len(column) > 1]
    squares = sum(sum((x - np.mean(column)) ** 2 for x in column) for column in columns)
    return squares / sum(len(column) - 1 for column in columns)


def density(x, mean, variance):
    return exp(-((x - mean) ** 2) / variance / 2) / sqrt(2 * pi * variance)


class TestNumbers:
    def test_scores_and_weights_are_those_of_loops(self):
        rng = np.random.default_rng(1)
        phi, (member, other) = rng.normal(size=(14, 25)), masks(rng, 14, 25)
        half = rng.permutation(14) < 7
        scores, weights = _ratios(phi, member, other, half)
        seen = 0
        for k in range(14):
            fit = [j for j in range(14) if half[j] != half[k]]
            rest = [j for j in range(14) if half[j] == half[k]]
            for i in range(25):
                sides = [[phi[j, i] for j in fit if side[j, i]] for side in (member, other)]
                positives = sum(member[j, i] for j in rest)
                negatives = sum(other[j, i] for j in rest)
                if not (all(sides) and positives and negatives and (member[k, i] or other[k, i])):
                    assert weights[k, i] == 0
                    continue
                ratio = [
                    log(density(phi[k, i], *fitted(values, pooled(phi, side, fit))))
                    for values, side in zip(sides, (member, other), strict=True)
                ]
                assert scores[k, i] == pytest.approx(ratio[0] - ratio[1])
                assert weights[k, i] == pytest.approx(1 if member[k, i] else positives / negatives)
                seen += 1
        assert seen > 50

    def test_no_model_is_scored_by_what_it_says_itself(self):
        rng = np.random.default_rng(2)
        phi, (member, other) = rng.normal(size=(10, 20)), masks(rng, 10, 20)
        half = np.arange(10) < 5
        scores, _ = _ratios(phi, member, other, half)
        changed = np.where(half[:, None], phi, 7 - phi)  # moves the scores of both halves
        alone = np.where(np.arange(10)[:, None] == 3, phi + 5, phi)
        assert (_ratios(changed, member, other, half)[0][:5] != scores[:5]).any()
        assert (
            np.delete(_ratios(alone, member, other, half)[0][:5], 3, axis=0) == scores[[0, 1, 2, 4]]
        ).all()

    @pytest.mark.parametrize(
        ("move", "scale", "area"),
        [
            (1, 1, ndtr(1 / sqrt(2))),
            (-1, 1, ndtr(1 / sqrt(2))),
            (2, 1, ndtr(sqrt(2))),
            (0, 2, 2 * atan(2) / pi),
        ],
    )
    def test_areas_of_two_normal_distributions(self, move, scale, area):
        found = ULira()(gaussian(move=move, scale=scale)).estimates
        assert found["AUC"].value == pytest.approx(area, abs=0.015)
        assert found["AUC"].low < area < found["AUC"].high
        assert found["shift"].value == pytest.approx(move, abs=0.05)
        assert found["before.AUC"].value == pytest.approx(ndtr(3 / sqrt(2)), abs=0.01)

    def test_the_rate_at_one_percent_and_where_nothing_resolves_it(self):
        rate = ULira()(gaussian(move=1)).estimates["TPR@1%FPR"]
        assert rate.value == pytest.approx(0.0924, abs=0.03)  # N(1, 1) against N(0, 1)
        few = ULira()(gaussian(models=16, rows=40)).estimates["TPR@1%FPR"]
        assert np.isnan([few.value, few.low, few.high]).all()
        assert few.method == "unresolved"

    def test_a_null_lies_at_one_half(self):
        found = [ULira()(gaussian(models=32, seed=seed)).estimates for seed in range(20)]
        for name in ("AUC", "shuffled.AUC"):
            values = [one[name].value for one in found]
            assert np.mean(values) == pytest.approx(0.5, abs=0.017)  # never the 0.55 to 0.62 of public code
            assert sum(one[name].low <= 0.5 <= one[name].high for one in found) >= 18

    def test_the_level_of_rows_asked_for_often_is_not_mistaken_for_membership(self):
        rng, models, rows = np.random.default_rng(3), 64, 60
        often = np.arange(rows) < 20  # hard rows, of which phi is low and spread wide, are unlearned often
        drawn = rng.random((models, rows))
        member, other = drawn < np.where(often, 0.4, 0.05), drawn > 0.5
        phi = np.where(often, -3 + 3 * rng.normal(size=(models, rows)), 3 + rng.normal(size=(models, rows)))
        area = ULira()._attack(phi, member, other, np.arange(models) % 2 < 1)["AUC"]
        assert area.low < 0.5 < area.high
        assert area.value == pytest.approx(0.5, abs=0.03)


class TestVerdicts:
    def test_exact_unlearning_passes_and_every_control_holds(self):
        (finding,) = judge([ULira()], bank(4, models=56, kinds="random"))
        assert finding.verdict == "pass"
        assert {control.name for control in finding.controls if not control.held} == set()
        assert [
            control.said.get("pass", 0) >= 8 for control in finding.controls if control.must == "pass"
        ] == [True]
        assert len(finding.controls) == 8

    @pytest.mark.parametrize(
        ("left", "how"), [(1.0, "still known"), (0.4, "still known"), (-0.4, "unlearned too much")]
    )
    def test_what_is_left_or_taken_too_much_fails_and_the_side_is_named(self, left, how):
        finding = ULira()(bank(5, kinds="random", left=left))
        assert finding.verdict == "fail"
        assert finding.estimates["AUC"].low > 0.5
        assert how in finding.caveats[0]

    def test_no_power_where_nothing_was_known_before(self):
        finding = ULira()(bank(6, kinds="random", shift=0.0))
        assert finding.verdict == "inconclusive"
        assert any("rows before unlearning" in caveat for caveat in finding.caveats)

    def test_a_model_that_knows_nothing_any_more_has_not_passed(self):
        finding = ULira()(bank(7, kinds="random", damage=3.0))
        assert finding.verdict == "inconclusive"
        assert any("retained rows after it" in caveat for caveat in finding.caveats)

    def test_an_area_below_one_half_is_the_models_disagreeing_and_fails(self):
        evidence = bank(11, models=40, kinds="random")
        half = np.random.default_rng(0).permutation(40) < 20  # as the audit deals them
        known, over = (bank(11, models=40, kinds="random", left=left).references for left in (0.6, -0.6))
        turned = [(known if half[at // 2] else over)[at] for at in range(80)]
        finding = ULira()(replace(evidence, references=turned))
        assert finding.verdict == "fail"
        assert finding.estimates["AUC"].high < 0.5
        assert "the other reverses" in finding.caveats[0]

    def test_an_interval_that_reaches_beyond_the_margin_is_no_pass(self):
        evidence = bank(8, models=20, kinds="random")
        assert ULira(margin=0.6)(evidence).verdict == "pass"
        finding = ULira(margin=0.505)(evidence)
        assert finding.verdict == "inconclusive"
        assert "beyond the margin, 0.505" in finding.caveats[0]

    @pytest.mark.parametrize("models", [0, 3, 4, 15])
    def test_too_few_models_decide_nothing(self, models):
        finding = ULira()(bank(9, models=models, kinds="random", left=1.0))
        assert finding.verdict == "inconclusive"
        assert any(f"{models} are here" in caveat for caveat in finding.caveats)

    def test_shadows_are_found_by_their_rows_in_any_order_and_others_left_out(self):
        evidence = bank(10, models=20, kinds="random")
        turned = [
            replace(one, rows=one.rows[::-1]) if one.kind == "shadow" else one for one in evidence.references
        ]
        assert ULira()(replace(evidence, references=turned)) == ULira()(evidence)
        less = [one for one in evidence.references if one is not evidence.of("shadow")[0]]
        assert ULira()(replace(evidence, references=less)).estimates["AUC"].n == 19


@pytest.mark.slow
def test_an_exact_method_fails_no_more_often_than_stated():
    verdicts = [ULira()(bank(seed, models=64, kinds="random")).verdict for seed in range(100)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.02
    assert verdicts.count("pass") / len(verdicts) >= 0.8
