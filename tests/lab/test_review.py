"""Judging again: from what is stored, equal to what was found, without torch."""

import shutil
import subprocess
import sys

import pytest

from secateur import audits
from secateur.errors import DataError, StoreError
from secateur.lab import audit_run, expand, run_grid
from secateur.lab.review import all_runs, find_run


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A store with three runs."""
    import tomllib

    from ..plans import TINY

    table = tomllib.loads(TINY)
    table["audit"] = [
        {"use": "accuracy", "level": 0.9},
        {"use": "mia-efficacy"},
        {"use": "retrain-gap", "references": 2},
    ]
    table["grid"] = {"unlearn": [{"use": u, "epochs": 1} for u in ("fine-tune", "retrain", "l1-sparse")]}
    folder = tmp_path_factory.mktemp("review")
    return folder, run_grid(expand(table), folder).records


ASKED = (audits.Accuracy(level=0.9), audits.MiaEfficacy(), audits.RetrainGap(references=2))


def test_judging_again_finds_the_same(ended):
    store, records = ended
    for record in records:
        assert tuple(audit_run(store, record.key, ASKED)) == record.findings


def test_other_audits_need_no_model(ended):
    store, records = ended
    (finding,) = audit_run(store, records[0].key[:10], [audits.Accuracy(level=0.5)])
    was = records[0].findings[0].estimates["UA"]
    assert finding.estimates["UA"].value == was.value
    assert finding.estimates["UA"].level == 0.5


def test_the_record_stays_as_it_is(ended):
    store, records = ended
    before = {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}
    audit_run(store, records[0].key, ASKED)
    assert before == {p: p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_a_run_is_found_by_enough_of_its_key(ended):
    store, records = ended
    for record in records:
        assert find_run(store, record.key) == find_run(store, record.key[:12]) == record
    assert sorted(r.key for r in all_runs(store)) == sorted(r.key for r in records)


def test_other_keys_are_refused_with_the_nearest(ended, tmp_path):
    store, records = ended
    key = records[0].key
    with pytest.raises(DataError, match=f'did you mean "{key[:12]}"'):
        find_run(store, "x" + key[1:12])
    for odd in ("", "nothing like it"):
        with pytest.raises(DataError, match=f'expected the key of one run in "{store}", got "{odd}": '):
            find_run(store, odd)
    with pytest.raises(DataError, match="there are no runs yet: run a plan first"):
        find_run(tmp_path, key)
    with pytest.raises(DataError, match=r"expected runs in .*, found none"):
        all_runs(tmp_path)


def test_a_beginning_that_several_have_is_refused(ended, tmp_path):
    store, records = ended
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    key = records[0].key
    (copied / "runs" / (key[:5] + "0" * 59)).mkdir()
    with pytest.raises(DataError, match="2 runs begin so: give more of the key"):
        find_run(copied, key[:5])


@pytest.mark.parametrize("name", ["record.json", "sums.json"])
@pytest.mark.parametrize("how", ["flipped", "gone"])
def test_damaged_records_are_found_and_named(ended, tmp_path, name, how):
    store, records = ended
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    path = copied / "runs" / records[1].key / name
    data = bytearray(path.read_bytes())
    data[data.index(b"request" if name == "record.json" else b"record.json") + 18] ^= 1
    path.unlink()
    if how == "flipped":
        path.write_bytes(data)
    for ask in (lambda: all_runs(copied), lambda: find_run(copied, records[1].key)):
        with pytest.raises(StoreError) as caught:
            ask()
        assert str(path.parent) in str(caught.value)


def test_damaged_evidence_is_found_and_named(ended, tmp_path):
    store, records = ended
    copied = tmp_path / "store"
    shutil.copytree(store, copied)
    path = copied / records[0].files["retrain[1]"]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="is not what was written") as caught:
        audit_run(copied, records[0].key, ASKED)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "KEY", "--json"],
        ["report", "-o", "page.html"],
        ["report", "KEY", "--json", "-o", "page.html"],
        ["card", "accuracy"],
    ],
)
def test_no_torch_is_needed(ended, tmp_path, words):
    """Asserted in a process of its own, after the command is done."""
    store, records = ended
    code = (
        "import sys\nfrom secateur.cli import main\n"
        "try: main()\nexcept SystemExit as ended: assert ended.code == 0, ended.code\n"
        "loaded = {'torch', 'torchvision', 'secateur.step', 'secateur.run'} & set(sys.modules)\n"
        "assert not loaded, loaded\nprint('fine', file=sys.stderr)"
    )
    words = [records[0].key if word == "KEY" else word for word in words]
    where = ["--store", str(store)] if words[0] != "card" else []
    told = subprocess.run(
        [sys.executable, "-c", code, *words, *where],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert told.stderr.strip().endswith("fine"), told.stderr
    assert (tmp_path / "page.html").exists() == (words[0] == "report")
