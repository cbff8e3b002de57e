"""RetrainGap: its numbers by hand, its verdicts case by case, and how often it fails an exact retrain."""

import math

import numpy as np
import pytest

from secateur import stats
from secateur.audit import judge
from secateur.audits import RetrainGap
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs
from secateur.record import Finding

METRICS = ("UA", "MIA-Efficacy", "RA", "TA")
STEPS = {"UA": 1 / 60, "MIA-Efficacy": 1 / 60, "RA": 1 / 120, "TA": 1 / 90}


def metrics(outputs, seed=0):
    views = [outputs[view].confidence for view in ("retain", "test", "forget")]
    return {
        "UA": 1 - outputs["forget"].correct.mean(),
        "MIA-Efficacy": stats.mia_efficacy(*views, seed=seed),
        "RA": outputs["retain"].correct.mean(),
        "TA": outputs["test"].correct.mean(),
    }


def exact(forget, retain, test, *, rows=(50, 100, 100)):
    """A model with exactly so many right answers on each view; class 1 is kept alive in retain."""
    told = {}
    for i, (name, right) in enumerate({"forget": forget, "retain": retain, "test": test}.items()):
        logits = np.zeros((rows[i], 2))
        labels = np.arange(rows[i]) % 2
        sign = np.where(np.arange(rows[i]) < right, 1.0, -1.0)
        logits[np.arange(rows[i]), labels] = 2 * sign
        told[name] = Outputs(logits, labels, 1000 * i + np.arange(rows[i]))
    return told


def gap_of(candidate, before, retrains, **knobs):
    references = [Reference("retrained", outputs, 1000 + np.arange(100)) for outputs in retrains]
    (finding,) = judge([RetrainGap(**knobs)], Evidence(before, candidate, references))
    return finding


class TestNumbers:
    def test_gaps_bands_and_disparity_by_hand(self, world):
        evidence = world(seed=3)
        estimates = judge([RetrainGap(seed=4, level=0.9)], evidence)[0].estimates
        retrains = [metrics(reference.outputs, 4) for reference in evidence.retrains]
        for prefix, outputs in (("", evidence.after), ("before.", evidence.before)):
            own, gaps = metrics(outputs, 4), []
            for name in METRICS:
                values = np.array([one[name] for one in retrains])
                half = 3.4954 * math.sqrt(1.2) * values.std(ddof=1) + STEPS[name]  # t(4) at 1 - .1 / 8
                low, high = max(0, values.mean() - half), min(1, values.mean() + half)
                band, gap = estimates[f"band.{name}"], estimates[f"{prefix}gap.{name}"]
                assert (band.value, band.low, band.high) == pytest.approx(
                    (values.mean(), low, high), abs=1e-4
                )
                assert gap.value == pytest.approx(100 * (own[name] - values.mean()))
                assert (gap.low, gap.high) == pytest.approx(
                    (100 * (own[name] - high), 100 * (own[name] - low)), abs=1e-2
                )
                assert (gap.unit, band.unit, gap.better, gap.n) == ("points", "share", "nearer-to-retrain", 5)
                assert gap.level == pytest.approx(0.975)
                gaps.append(abs(gap.value))
            disparity = estimates[f"{prefix}disparity"]
            assert disparity.value == pytest.approx(np.mean(gaps))
            assert 0 <= disparity.low <= disparity.value <= disparity.high
            assert (disparity.level, disparity.unit, disparity.better) == (0.9, "points", "lower")

    def test_one_row_on_either_side_of_retrains_that_agree(self):
        same = [exact(20, 100, 60) for _ in range(5)]
        estimates = gap_of(exact(20, 99, 60), exact(50, 100, 60), same).estimates
        assert (estimates["band.RA"].low, estimates["band.RA"].high) == pytest.approx((0.99, 1.0))
        assert (estimates["band.UA"].low, estimates["band.UA"].high) == pytest.approx((0.58, 0.62))
        assert "one step wider" in estimates["band.RA"].method

    def test_a_forgotten_class_is_left_out_and_told(self, world):
        finding = RetrainGap()(world(gone=2))
        assert "class 2" in finding.caveats[-1]


class TestVerdicts:
    def test_an_exact_retrain_passes_and_says_how_far_that_goes(self, world):
        finding = RetrainGap()(world())
        assert finding.verdict == "pass"
        assert "within the stated power" in finding.caveats[0]
        assert "honest operator" in finding.caveats[1]

    def test_a_model_that_forgot_nothing_fails_and_the_side_is_named(self, world, say):
        evidence = world()
        finding = RetrainGap()(world(after=evidence.before))
        assert finding.verdict == "fail"
        assert "UA (below)" in finding.caveats[0]
        ruined = RetrainGap()(world(after=say(7, forget=0, retain=0, test=0)))
        assert ruined.verdict == "fail"
        assert "RA (below)" in ruined.caveats[0]

    def test_an_original_like_a_retrain_leaves_no_power(self, world, say):
        finding = RetrainGap()(world(before=say(50)))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]
        assert "inside all four" in finding.caveats[1]
        ruined = RetrainGap()(world(before=say(50), after=say(7, forget=0, retain=0, test=0)))
        assert ruined.verdict == "inconclusive"
        assert "lies outside on" in ruined.caveats[1]

    def test_an_original_apart_on_retain_or_test_alone_gives_no_pass(self, world, say):
        weak = say(50, retain=1.2)
        finding = RetrainGap()(world(before=weak))
        assert finding.verdict == "inconclusive"
        assert "no power on the forget rows" in finding.caveats[0]
        assert RetrainGap()(world(before=weak, after=weak)).verdict == "fail"

    @pytest.mark.parametrize("retrains", [0, 1, 2, 3, 4])
    def test_too_few_retrains_decide_nothing(self, world, retrains):
        finding = RetrainGap()(world(retrains=retrains))
        assert isinstance(finding, Finding)
        assert finding.verdict == "inconclusive"
        if retrains == 0:
            assert finding.estimates == {}
            assert "no retrained reference" in finding.caveats[0]
        else:
            assert f"{retrains} of the 5 retrains" in finding.caveats[0]
            assert any(f"5 retrains were asked for, {retrains} are here" in c for c in finding.caveats)
            assert math.isfinite(finding.estimates["disparity"].value)
            ends = [finding.estimates[n].low for n in ("gap.UA", "band.RA", "disparity", "before.disparity")]
            assert [math.isnan(end) for end in ends] == [retrains == 1] * 4
            assert ("held-out.inside" in finding.estimates) == (retrains > 2)

    def test_more_retrains_than_asked_are_all_used(self, world):
        finding = RetrainGap(references=2)(world(retrains=6))
        assert finding.estimates["band.UA"].n == 6
        assert finding.verdict == "pass"

    @pytest.mark.parametrize(
        ("forget", "retain", "verdict"),
        [
            (20, 100, "pass"),
            (21, 99, "pass"),
            (19, 99, "pass"),
            (20, 98, "fail"),
            (22, 100, "fail"),
            (18, 100, "fail"),
        ],
    )
    def test_a_row_off_retrains_that_agree_passes_and_two_do_not(self, forget, retain, verdict):
        same = [exact(20, 100, 60) for _ in range(5)]
        candidate = exact(forget, retain, 60)
        finding = gap_of(candidate, exact(50, 100, 60), same)
        assert finding.verdict == verdict
        bands = {name: finding.estimates[f"band.{name}"] for name in METRICS}
        inside = [bands[name].low <= value <= bands[name].high for name, value in metrics(candidate).items()]
        around = [
            finding.estimates[f"gap.{n}"].low <= 0 <= finding.estimates[f"gap.{n}"].high for n in METRICS
        ]
        assert inside == around  # a gap's interval holds zero where the metric lies in its band
        assert all(inside) == (verdict == "pass")
        assert any("only 1 of 5 retrains differ" in caveat for caveat in finding.caveats)

    def test_held_out_retrains_are_counted(self, world):
        evidence = world(retrains=6)
        finding = RetrainGap()(evidence)
        assert finding.estimates["held-out.inside"].value == 1.0
        assert any("6 of 6 held-out retrains" in caveat for caveat in finding.caveats)
        assert not any("differ" in caveat for caveat in finding.caveats)

    def test_a_retrain_of_another_kind_is_seen_as_held_out(self, world, say):
        good = world(retrains=9)
        odd = Reference("retrained", say(77, forget=3.0, retain=0.5), np.arange(1000, 1100))
        finding = RetrainGap()(Evidence(good.before, good.after, [*good.references, odd]))
        assert finding.estimates["held-out.inside"].value == pytest.approx(0.9)

    def test_more_copies_of_the_rest_of_the_references_change_nothing(self, world):
        evidence = world()
        shadows = [
            Reference("shadow", reference.outputs, reference.rows) for reference in evidence.references
        ]
        assert RetrainGap()(
            Evidence(evidence.before, evidence.after, [*shadows, *evidence.references])
        ) == RetrainGap()(evidence)


@pytest.mark.slow
@pytest.mark.parametrize("retain", [3.0, 6.0])  # at 6 the retrains are all right on retain, or all but a row
def test_an_exact_retrain_fails_no_more_often_than_stated(world, retain):
    verdicts = [
        RetrainGap()(world(seed, retain=retain, rows=(60, 120, 60))).verdict for seed in range(1, 401)
    ]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.02
    assert verdicts.count("pass") / len(verdicts) >= 0.8
