"""MIA-Privacy against scikit-learn directly, on made-up models with known answers."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.svm import SVC

from secateur.audit import judge
from secateur.audits import MiaPrivacy
from secateur.errors import DataError, UsageError
from secateur.evidence import Evidence
from secateur.outputs import Outputs


def directly(outputs, classes, seed):
    """The mean of the two recalls, a line at a time, on the test rows of the given classes."""
    rng, halves = np.random.default_rng(seed), {}
    kept = {view: np.flatnonzero(np.isin(outputs[view].labels, classes)) for view in ("retain", "test")}
    count = min(len(kept["retain"]), len(kept["test"]))
    for view, rows in kept.items():
        out = outputs[view]
        probabilities = softmax(out.logits.astype(float), axis=1)[np.arange(len(out)), out.labels]
        drawn = probabilities[rows][rng.permutation(len(rows))][:count]
        halves[view] = drawn[: count // 2].reshape(-1, 1), drawn[count // 2 :].reshape(-1, 1)
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    taught = np.concatenate([halves["retain"][0], halves["test"][0]])
    machine.fit(taught, np.repeat([1, 0], len(taught) // 2))
    return (machine.predict(halves["retain"][1]).mean() + 1 - machine.predict(halves["test"][1]).mean()) / 2


@pytest.mark.parametrize(("gone", "classes"), [(None, [0, 1, 2]), (2, [0, 1])])
def test_it_is_the_predictor_on_the_other_halves_for_every_model(world, gone, classes):
    evidence = world(retrains=2, gone=gone)
    (finding,) = judge([MiaPrivacy(seed=5)], evidence)
    expected = {f"{prefix}MIA-Privacy": directly(said, classes, 5) for prefix, said in evidence.models()}
    assert {name: e.value for name, e in finding.estimates.items()} == pytest.approx(expected)
    assert len(expected) == 4
    assert any("class 2" in caveat for caveat in finding.caveats) == (gone == 2)


def test_rows_that_are_known_by_heart_are_exposed_and_others_are_not(say):
    rows = (60, 400, 400)
    plain = say(1, retain=0.5, test=0.5, rows=rows)
    sure = say(0, retain=40.0, test=-40.0, rows=rows)
    found = MiaPrivacy()(Evidence(before=sure, after=plain)).estimates
    assert found["before.MIA-Privacy"].value == 1.0
    assert found["before.MIA-Privacy"].low > 0.97
    assert found["MIA-Privacy"].low < 0.5 < found["MIA-Privacy"].high


def test_every_number_says_how_it_was_made(world):
    one = MiaPrivacy(level=0.9, seed=4)(world()).estimates["MIA-Privacy"]
    assert (one.n, one.unit, one.better, one.level) == (90, "share", "lower", 0.9)
    for word in ("Wilson", "square-and-add", "seed 4", "held fixed"):
        assert word in one.method
    assert one.low < one.value < one.high


def test_caveats_say_how_to_read_it_and_there_is_no_verdict(world):
    finding = MiaPrivacy()(world(retrains=0))
    assert "0.5 is chance, lower is better" in finding.caveats[0]
    assert finding.verdict is None


def test_forget_rows_are_not_needed_and_the_others_are(world):
    evidence = world(retrains=0)
    asked = {view: evidence.after[view] for view in ("retain", "test")}
    without = judge([MiaPrivacy()], Evidence(before=asked, after=asked))[0]
    assert without.estimates["MIA-Privacy"] == MiaPrivacy()(evidence).estimates["MIA-Privacy"]
    for view in asked:
        less = {name: out for name, out in evidence.after.items() if name != view}
        with pytest.raises(DataError, match=f"MiaPrivacy needs rows of {view}"):
            judge([MiaPrivacy()], Evidence(before=less, after=less))


def test_the_same_rows_for_every_model_and_others_for_another_seed(world):
    evidence = world(retrains=0)
    twin = Evidence(before=evidence.after, after=evidence.after)
    first, second, third = (MiaPrivacy(seed=seed)(twin).estimates for seed in (0, 1, 0))
    assert first["MIA-Privacy"] == first["before.MIA-Privacy"] == third["MIA-Privacy"]
    assert first["MIA-Privacy"].value != second["MIA-Privacy"].value


def test_what_is_kept_is_of_these_outputs(world):
    evidence, other = world(0, retrains=0), world(1, retrains=0)
    mixed = evidence.after | {"test": other.after["test"]}
    first = MiaPrivacy()(evidence).estimates["MIA-Privacy"]
    fresh = {view: Outputs(out.logits, out.labels, out.rows) for view, out in mixed.items()}
    expected = MiaPrivacy()(Evidence(before=fresh, after=fresh)).estimates["MIA-Privacy"]
    assert MiaPrivacy()(Evidence(before=mixed, after=mixed)).estimates["MIA-Privacy"] == expected != first
    assert MiaPrivacy(level=0.5)(evidence).estimates["MIA-Privacy"].level == 0.5


def test_test_rows_of_forgotten_classes_alone_are_refused(say):
    said = say(0, gone=1)
    alone = {"retain": said["retain"], "test": said["test"].without([0, 2])}
    with pytest.raises(DataError, match="test rows of a retained class"):
        judge([MiaPrivacy()], Evidence(before=alone, after=alone))


def test_a_wrong_knob_is_refused(world):
    with pytest.raises(UsageError, match="seed"):
        judge([MiaPrivacy(seed=-1)], world())
