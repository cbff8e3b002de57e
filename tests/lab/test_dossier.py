"""The dossier of a run: evidence, findings and pictures, from wherever they are kept."""

import dataclasses
import tomllib

import numpy as np
import pytest

from secateur import audits, zoo
from secateur.lab import expand, run_grid
from secateur.lab.dossier import gather, merged
from secateur.lab.tiers import audit_tier
from secateur.record import Estimate, Finding

from ..plans import TINY


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A store with one run on images, and its key."""
    table = tomllib.loads(TINY)
    folder = tmp_path_factory.mktemp("dossier")
    (record,) = run_grid(expand(table), folder).records
    return folder, record.key


def test_a_run_without_retrains_has_its_findings_and_no_risk_by_row(ended):
    store, key = ended
    found = gather(store, key[:10])
    assert found.record.key == key
    assert [finding.audit for finding in found.findings] == ["accuracy"]
    assert not found.evidence.retrains
    assert found.pictures == {}


def test_what_a_tier_made_is_found_again_with_the_pictures(ended, tmp_path):
    store, key = ended
    made = audit_tier(store, key, [audits.Rmia(references=3), audits.RetrainGap(references=2)])
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    found = gather(store, key)
    assert len(found.evidence.retrains) == 3
    assert {f.audit: f for f in found.findings}["rmia"] == made[0]
    assert before == {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert len(found.pictures) == 20
    rows = set(found.evidence.after["forget"].rows.tolist())
    images, _ = zoo.digits(test=0.8).train
    for row, picture in found.pictures.items():
        assert row in rows
        assert np.array_equal(picture, images[row, 0])


def test_without_the_data_the_rest_is_there(ended, monkeypatch):
    store, key = ended

    def gone(*args, **knobs):
        from secateur.errors import DataError

        raise DataError("expected data, got none: fetch it")

    monkeypatch.setattr("secateur.lab.execute.Lab.ground", gone)
    told = []
    found = gather(store, key, tell=told.append)
    assert found.pictures == {}
    assert "accuracy" in [finding.audit for finding in found.findings]
    assert told == ["the page does without the run's data: expected data, got none: fetch it"]


def finding(models, verdict=None):
    ends = {"low": 0.0, "high": 1.0, "level": 0.95, "method": "any", "unit": "1"}
    name = "band.AUC" if models else "AUC"
    made = {name: Estimate(value=0.5, n=models, better="nearer-to-retrain", **ends)}
    return Finding(audit="a", estimates=made, verdict=verdict)


def test_of_two_findings_that_which_rests_on_more_models_stays():
    few, many, none = finding(5, "pass"), finding(10, "fail"), finding(0)
    empty = dataclasses.replace(none, estimates={})
    assert merged([few], [many]) == merged([many], [few]) == [many]
    assert merged([few], [none], [empty]) == [few]
    again = dataclasses.replace(few, verdict="inconclusive")
    assert merged([few], [again]) == [again]
