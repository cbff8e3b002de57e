"""RetainExposure: numbers by hand, and what it says of models that expose retained rows more, or less."""

import math

import numpy as np
import pytest

from secateur import stats
from secateur.audit import judge
from secateur.audits import RetainExposure
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs


def phi(said):
    return np.array([
        z[y] - np.logaddexp.reduce(np.delete(z, y))
        for z, y in zip(said.logits.astype(float), said.labels, strict=True)
    ])


class TestNumbers:
    def test_area_and_shift_by_hand(self, world):
        evidence = world(seed=6, rows=(10, 20, 15))
        finding = RetainExposure()(evidence)
        usual = np.mean([phi(one.outputs["retain"]) for one in evidence.retrains], axis=0)
        for prefix, said in evidence.models():
            area = stats.roc_auc(phi(said["retain"]), phi(said["test"])).value
            assert finding.estimates[f"{prefix}AUC"].value == pytest.approx(area)
            if not prefix.startswith("retrain"):
                shift = phi(said["retain"]) - usual
                found = finding.estimates[f"{prefix}shift"]
                half = 2.0930 * shift.std(ddof=1) / math.sqrt(20)
                assert (found.value, found.high) == pytest.approx(
                    (shift.mean(), shift.mean() + half), abs=1e-4
                )
                assert found.unit == "nats"
        assert finding.rows["retain/exposure"] == pytest.approx(
            (phi(evidence.after["retain"]) - usual).tolist()
        )
        assert all(math.isfinite(estimate.value) for estimate in finding.estimates.values())

    def test_a_forgotten_class_is_left_out_and_told(self, world):
        finding = RetainExposure()(world(gone=2))
        assert finding.estimates["AUC"].n == 120 + 60
        assert "class 2" in finding.caveats[-1]


class TestWords:
    @pytest.mark.parametrize(("retain", "said"), [(3.0, None), (6.0, "more exposed"), (0.5, "less exposed")])
    def test_outside_the_band_is_told_and_never_judged(self, world, say, retain, said):
        (finding,) = judge([RetainExposure()], world(after=say(9, retain=retain)))
        assert finding.verdict is None
        assert finding.controls == ()
        assert any("exposed than after a retrain" in caveat for caveat in finding.caveats) == bool(said)
        if said:
            assert said in finding.caveats[0]

    def test_the_original_is_no_control_that_must_fail(self, world):
        evidence = world()
        finding = RetainExposure()(world(after=evidence.before))
        assert not any("exposed than" in caveat for caveat in finding.caveats)

    @pytest.mark.parametrize("retrains", [0, 1, 4])
    def test_few_retrains_make_no_claim(self, world, say, retrains):
        finding = RetainExposure()(world(retrains=retrains, after=say(9, retain=6.0)))
        assert not any("exposed than after" in caveat for caveat in finding.caveats)
        assert any(f"5 retrains were asked for, {retrains} are here" in caveat for caveat in finding.caveats)
        assert ("shift" in finding.estimates) == ("retain/exposure" in finding.rows) == (retrains > 0)


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_all_tied(rows):
    said = {
        view: Outputs(np.zeros((rows, 2)), np.zeros(rows, int), 100 * i + np.arange(rows))
        for i, view in enumerate(("retain", "test"))
    }
    references = [Reference("retrained", said, np.arange(rows))] * 5
    (finding,) = judge([RetainExposure()], Evidence(said, said, references))
    assert finding.estimates["AUC"].value == 0.5
    assert finding.estimates["shift"].value == 0


@pytest.mark.slow
def test_an_exact_retrain_is_said_to_expose_no_more_often_than_stated(world):
    findings = [RetainExposure()(world(seed)) for seed in range(1, 301)]
    told = [any("exposed than" in caveat for caveat in finding.caveats) for finding in findings]
    assert np.mean(told) <= 0.05 + 0.025
