"""TugOfWar: the product by hand, its verdicts case by case, and how often it fails an exact retrain."""

import numpy as np
import pytest

from secateur.audit import judge
from secateur.audits import TugOfWar
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs


def exact(forget, retain, test, *, rows=(100, 100, 100), gone=False):
    """A model with exactly so many right answers on each view; ``gone``: forget is all of class 2."""
    told = {}
    for i, (name, right) in enumerate({"forget": forget, "retain": retain, "test": test}.items()):
        labels = np.arange(rows[i]) % 2
        if gone and name == "forget":
            labels = np.full(rows[i], 2)
        logits = np.zeros((rows[i], 3))
        logits[np.arange(rows[i]), labels] = np.where(np.arange(rows[i]) < right, 2.0, -2.0)
        told[name] = Outputs(logits, labels, 1000 * i + np.arange(rows[i]))
    return told


def tug(candidate, before, retrains, **knobs):
    rows = 1000 + np.arange(len(candidate["retain"]))
    references = [Reference("retrained", outputs, rows) for outputs in retrains]
    return TugOfWar(**knobs)(Evidence(before, candidate, references))


RETRAINS = [
    exact(f, r, t) for f, r, t in ((78, 99, 80), (80, 98, 82), (82, 98, 78), (79, 97, 81), (81, 98, 79))
]
ORIGINAL = exact(100, 100, 82)


class TestNumbers:
    def test_the_product_of_known_gaps(self):
        same = [exact(80, 98, 80)] * 5
        found = tug(exact(85, 97, 82), ORIGINAL, same).estimates
        assert found["ToW"].value == pytest.approx(0.921690)
        assert found["before.ToW"].value == pytest.approx(0.8 * 0.98 * 0.98)
        assert (found["ToW"].low, found["ToW"].high) == pytest.approx((0.921690, 0.921690))
        assert found["retrain[0].ToW"].value == pytest.approx(1)

    def test_each_retrain_against_the_mean_of_the_others(self):
        found = tug(exact(80, 98, 80), ORIGINAL, RETRAINS).estimates
        others = np.array([[80, 98, 82], [82, 98, 78], [79, 97, 81], [81, 98, 79]]).mean(0) / 100
        by_hand = np.prod(1 - abs(np.array([0.78, 0.99, 0.80]) - others))
        assert found["retrain[0].ToW"].value == pytest.approx(by_hand)
        values = [found[f"retrain[{i}].ToW"].value for i in range(5)]
        roots = np.sqrt(1 - np.array(values))
        high = roots.mean() + 2.7764 * np.sqrt(1.2) * roots.std(ddof=1)
        band = found["band.ToW"]
        assert (band.low, band.high) == pytest.approx((1 - high**2 - 0.01, 1.0), abs=1e-4)
        assert found["ToW"].low < found["ToW"].value < found["ToW"].high <= 1

    def test_a_forgotten_class_is_left_out_of_test(self):
        said = exact(0, 98, 80, gone=True)
        test, labels = said["test"], np.arange(100) % 3  # the answers are to 0 and 1 in turn
        said["test"] = Outputs(test.logits, labels, test.rows)
        other = {
            **said,
            "test": Outputs(test.logits + 9 * np.eye(3)[2] * (labels == 2)[:, None], labels, test.rows),
        }
        finding = tug(other, said, [said] * 5)
        assert finding.estimates["ToW"].value == pytest.approx(1)
        assert finding.caveats[-1].startswith("class 2 counts as forgotten")


class TestVerdicts:
    @pytest.mark.parametrize(
        ("candidate", "verdict"),
        [
            (exact(80, 98, 80), "pass"),  # nearer to the mean than any retrain
            (RETRAINS[2], "pass"),
            (ORIGINAL, "fail"),
            (exact(60, 98, 80), "fail"),  # over-unlearned
            (exact(80, 60, 80), "fail"),
            (exact(80, 98, 60), "fail"),
        ],
    )
    def test_table(self, candidate, verdict):
        assert tug(candidate, ORIGINAL, RETRAINS).verdict == verdict

    def test_the_driver_agrees(self, world):
        (finding,) = judge([TugOfWar()], world(rows=(300, 300, 300)))
        assert finding.verdict == "pass"

    def test_an_original_like_a_retrain_leaves_no_power(self):
        references = [Reference("retrained", said, 1000 + np.arange(100)) for said in RETRAINS]
        (finding,) = judge([TugOfWar()], Evidence(exact(79, 98, 80), exact(80, 98, 80), references))
        assert finding.verdict == "inconclusive"
        assert "no power" in finding.caveats[0]

    def test_an_original_apart_on_retain_alone_gives_no_pass(self):
        finding = tug(exact(80, 98, 80), exact(80, 60, 80), RETRAINS)
        assert finding.verdict == "inconclusive"

    @pytest.mark.parametrize("count", [0, 1, 2, 4])
    def test_too_few_retrains_decide_nothing(self, count):
        finding = tug(exact(80, 98, 80), ORIGINAL, RETRAINS[:count])
        assert finding.verdict == "inconclusive"
        assert ("ToW" in finding.estimates) == (count > 0)
        assert ("band.ToW" in finding.estimates) == (count > 1)
        assert any("5" in caveat for caveat in finding.caveats)


def test_one_row_in_each_view():
    said = [exact(right, 1, 1, rows=(1, 1, 1)) for right in (0, 1, 0, 0, 1, 0)]
    finding = tug(said[0], said[1], said[1:])
    assert 0 <= finding.estimates["ToW"].value <= 1
    assert finding.verdict == "inconclusive"


@pytest.mark.slow
def test_an_exact_retrain_fails_no_more_often_than_stated(world):
    verdicts = [TugOfWar()(world(seed, rows=(300, 300, 300))).verdict for seed in range(1, 301)]
    assert verdicts.count("fail") / len(verdicts) <= 0.05 + 0.025
    assert verdicts.count("pass") / len(verdicts) >= 0.8
