"""Klom: closed forms, a null near 0 at any K, and its verdicts."""

import numpy as np
import pytest

from secateur.audit import judge
from secateur.audits import Klom
from secateur.audits.klom import _histogram, _normal
from secateur.evidence import Evidence, Reference

from .banks import bank, outputs

SIZES = {"forget": 20, "retain": 10, "test": 10}


def gaussian(models, *, move=0.0, scale=1.0, seed=0):
    """Retrained say N(0, 1) of every row, unlearned N(move, scale^2); the originals are far away."""
    rng = np.random.default_rng(seed)
    made = {"retrained": (0.0, 1.0), "unlearned": (move, scale), "original": (9.0, 1.0)}
    rows = {"retrained": np.arange(20, 30), "unlearned": np.arange(30), "original": np.arange(30)}
    references = [
        Reference(kind, outputs(rng.normal(mean, wide, 40), SIZES), rows[kind])
        for kind, (mean, wide) in made.items()
        for _ in range(models)
    ]
    return Evidence(references[-1].outputs, references[models].outputs, references)


class TestNumbers:
    @pytest.mark.parametrize(
        ("move", "scale", "divergence"),
        [(0, 1, 0), (1, 1, 0.5), (-2, 1, 2), (0, 2, 1.5 - np.log(2)), (1, 0.5, np.log(2) + 0.625 - 0.5)],
    )
    def test_the_divergence_of_two_normal_distributions(self, move, scale, divergence):
        finding = Klom()(gaussian(300, move=move, scale=scale))
        for view in SIZES:
            assert finding.estimates[f"KLoM.{view}"].value == pytest.approx(divergence, abs=0.02, rel=0.2)
        assert np.mean(finding.rows["forget/klom"]) == pytest.approx(finding.estimates["KLoM.forget"].value)

    @pytest.mark.parametrize("density", ["normal", "histogram"])
    @pytest.mark.parametrize("models", [16, 64])
    def test_nothing_is_left_where_nothing_differs_however_large_the_bias(self, density, models):
        found = [Klom(density=density)(gaussian(models, seed=seed)).estimates for seed in range(3)]
        bias = np.mean([one["null.KLoM.forget"].value for one in found])
        left = np.mean([one["KLoM.forget"].value for one in found])
        assert bias > (0.05 if density == "normal" else 1.5)
        assert abs(left) < bias / 4

    def test_histograms_are_those_of_numpy(self):
        rng = np.random.default_rng(0)
        ours, theirs = rng.normal(0.5, 2, (50, 3)), rng.normal(size=(40, 3))
        for row, divergence in enumerate(_histogram(ours, theirs)):
            one, other = ours[:, row], theirs[:, row]
            ends = np.histogram_bin_edges(np.concatenate([one, other]), bins=20)
            p, q = (np.maximum(np.histogram(x, bins=ends)[0] / len(x), 1e-5) for x in (one, other))
            assert divergence == pytest.approx((p * np.log(p / q)).sum())

    def test_models_that_all_say_the_same_have_a_finite_divergence(self):
        same, other = np.ones((8, 2)), np.random.default_rng(0).normal(size=(8, 2))
        for density in (_normal, _histogram):
            assert density(same, same) == pytest.approx(0)
            assert np.isfinite(density(same, other)).all()
            assert (density(same, other) > 1).all()


class TestVerdicts:
    @pytest.mark.parametrize("density", ["normal", "histogram"])
    def test_exact_unlearning_passes_and_every_control_holds(self, density):
        (finding,) = judge([Klom(density=density)], bank(4, models=48, sizes=(20, 20, 20), kinds="fixed"))
        assert finding.verdict == "pass"
        assert {control.name for control in finding.controls if not control.held} == set()
        assert len(finding.controls) == 8

    @pytest.mark.parametrize(
        ("knobs", "where"),
        [
            ({"left": 1.0}, "forget"),
            ({"left": 0.3}, "forget"),
            ({"left": -0.3}, "forget"),
            ({"left": 0.3, "both": True}, "forget"),
            ({"damage": 0.7}, "retain"),
        ],
    )
    def test_what_is_left_taken_too_much_or_damaged_fails(self, knobs, where):
        finding = Klom()(bank(5, kinds="fixed", **knobs))
        assert finding.verdict == "fail"
        assert f"above the band of the null on {where}" in finding.caveats[0]

    def test_no_power_where_the_originals_know_nothing(self):
        finding = Klom()(bank(6, kinds="fixed", shift=0.0, damage=1.0))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    @pytest.mark.parametrize("models", [0, 1, 3, 4, 15])
    def test_too_few_models_decide_nothing(self, models):
        finding = Klom()(bank(7, models=models, kinds="fixed", left=1.0))
        assert finding.verdict == "inconclusive"
        assert any("64 unlearned and as many retrained" in caveat for caveat in finding.caveats)
        assert bool(finding.estimates) == (models > 3)


@pytest.mark.slow
@pytest.mark.parametrize("density", ["normal", "histogram"])
def test_an_exact_method_fails_no_more_often_than_stated(density):
    audit, verdicts = Klom(density=density), []
    for seed in range(150):
        verdicts += [audit(bank(seed, models=32, sizes=(20, 20, 20), kinds="fixed")).verdict]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.02
    assert verdicts.count("pass") / len(verdicts) >= 0.9
