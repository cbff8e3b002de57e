"""The bank: who saw what, what is shared, what is trained again, what a budget buys."""

import json
import shutil
import tomllib

import numpy as np
import pytest

from secateur import audits
from secateur.errors import StoreError, UsageError
from secateur.lab import run_plan
from secateur.lab.bank import Bank, Wanted
from secateur.lab.execute import Lab
from secateur.lab.read import read_plan
from secateur.lab.review import kept_findings
from secateur.lab.store import Store
from secateur.lab.tiers import audit_tier, audits_up_to
from secateur.record import plain

from ..plans import TINY

FOUR = Wanted(retrained=4, unlearned=4, shadows=4, requests=True)


def planned(**changes):
    tiny = tomllib.loads(TINY)
    table = tiny | {"audit": [{"use": "epsilon"}]} | changes
    table["data"] = tiny["data"] | {"forget": {"how": "random", "share": 0.1}}
    return read_plan(table)


def finished(**changes):
    """The same plan as it is run: a bank is made for a finished run."""
    return planned(**changes, audit=[{"use": "accuracy"}])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bank of four of each kind: the store, the bank, its references."""
    store = tmp_path_factory.mktemp("bank")
    run_plan(finished(), store)
    bank = Bank(Lab(Store(store)), planned())
    return store, bank, bank.make(FOUR)


@pytest.fixture
def bank(made, tmp_path):
    """Another bank, of this plan or a changed one, on a copy of that store."""
    shutil.copytree(made[0], tmp_path, dirs_exist_ok=True)

    def make(**changes):
        run_plan(finished(**changes), tmp_path)
        return Bank(Lab(Store(tmp_path)), planned(**changes))

    return make


def kinds(references):
    found = {}
    for reference in references:
        found.setdefault(reference.kind, []).append(reference)
    return found


class TestWhoSawWhat:
    def test_every_row_is_in_exactly_half_of_the_shadows(self, made):
        _, bank, references = made
        shadows = kinds(references)["shadow"]
        pool = bank.ground.split.pool.rows
        counts = sum(np.isin(pool, shadow.rows).astype(int) for shadow in shadows)
        assert (counts == 2).all()
        assert len({len(shadow.rows) for shadow in shadows}) <= 2

    def test_requests_are_of_the_shadow_s_own_rows_and_differ(self, made):
        found, size = kinds(made[2]), len(made[1].ground.split.forget)
        for shadow, after in zip(found["shadow"], found["unlearned-shadow"], strict=True):
            assert np.array_equal(shadow.rows, after.rows)
            assert 0.3 * size < len(after.forgot) < 0.7 * size  # half of the half of twice as many
            assert not len(np.setdiff1d(after.forgot, after.rows))
            assert not len(shadow.forgot)
        assert len({one.forgot.tobytes() for one in found["unlearned-shadow"]}) == 4

    def test_retrained_models_saw_no_forget_row_and_originals_saw_all(self, made):
        found, split = kinds(made[2]), made[1].ground.split
        assert [len(found[kind]) for kind in ("retrained", "original", "unlearned")] == [4, 4, 4]
        for one in found["retrained"]:
            assert np.array_equal(one.rows, split.retain.rows)
        for one in (*found["original"], *found["unlearned"]):
            assert np.array_equal(one.rows, split.pool.rows)

    def test_all_were_asked_about_the_rows_of_the_run(self, made):
        _, bank, references = made
        for one in references:
            assert {view: out.rows.tobytes() for view, out in one.outputs.items()} == {
                view: rows.tobytes() for view, rows in bank.ground.split.rows.items()
            }

    def test_no_two_models_are_alike(self, made):
        references = made[2]
        assert len({one.outputs["forget"].logits.tobytes() for one in references}) == len(references) == 20


class TestSharing:
    def test_a_second_bank_trains_nothing_and_gets_the_same_bits(self, made, bank):
        first = made[2]
        again = bank()
        second = again.make(FOUR)
        assert again.lab.taken == []
        for one, other in zip(first, second, strict=True):
            assert one.kind == other.kind
            assert all(np.array_equal(one.outputs[v].logits, other.outputs[v].logits) for v in one.outputs)

    def test_a_larger_bank_takes_over_the_models_of_a_smaller(self, bank):
        more = bank()
        more.make(Wanted(unlearned=6))
        assert sorted(more.lab.taken) == ["fine-tune"] * 2 + ["train"] * 2

    def test_another_method_shares_the_originals(self, bank, tiny):
        other = bank(step=[tiny["step"][0], {"use": "l1-sparse", "as": "unlearn", "epochs": 1, "batch": 64}])
        other.lab.taken.clear()
        other.make(Wanted(unlearned=4))
        assert other.lab.taken == ["l1-sparse"] * 4

    def test_any_change_of_the_training_misses(self, bank, tiny):
        other = bank(step=[tiny["step"][0] | {"lr": 0.11}, tiny["step"][1]])
        other.lab.taken.clear()
        other.make(Wanted(unlearned=4))
        assert sorted(other.lab.taken) == ["fine-tune"] * 4 + ["train"] * 4

    def test_the_chunk_is_timed_once_and_written_down(self, bank, tmp_path):
        again = bank()
        kept = {path: path.read_text() for path in (tmp_path / "banks").glob("*/chunk.json")}
        assert kept
        for told in map(json.loads, kept.values()):
            assert told["obstacle"] == ""
            assert told["chunk"] in {0, 1, 2, 4}
        again.make(Wanted(unlearned=6))
        assert kept == {path: path.read_text() for path in (tmp_path / "banks").glob("*/chunk.json")}


class TestWhatItTakes:
    def test_a_budget_buys_what_fits(self, bank):
        made, wanted = bank(), Wanted(retrained=64, unlearned=64)
        whole = made.afford(wanted)
        assert whole.wanted == wanted
        half = made.afford(wanted, whole.seconds / 2)
        assert 16 <= half.wanted.unlearned <= 32
        assert half.seconds <= whole.seconds / 2
        assert half.ceiling < whole.ceiling
        with pytest.raises(UsageError, match=r"budget of at least .* for 16 models"):
            made.afford(wanted, whole.seconds / 100)

    def test_nothing_is_trained_to_tell_the_price(self, bank):
        made = bank()
        made.afford(FOUR)
        assert made.lab.taken == []

    def test_a_plan_that_does_not_unlearn_is_refused(self, tiny, tmp_path):
        alone = finished(step=tiny["step"][:1])
        run_plan(alone, tmp_path)
        with pytest.raises(UsageError, match="a plan that unlearns"):
            Bank(Lab(Store(tmp_path)), alone)

    def test_a_run_that_is_not_in_the_store_is_not_trained_again_in_silence(self, tmp_path):
        with pytest.raises(StoreError, match='expected the step "train" of this run in the store'):
            Bank(Lab(Store(tmp_path)), planned())
        assert not list(tmp_path.glob("steps/*"))


class TestAuditing:
    def test_findings_are_kept_beside_the_run_which_stays_as_it_was(self, tmp_path):
        record = run_plan(finished(), tmp_path)
        runs = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
        told = []
        found = audit_tier(tmp_path, record.key[:8], [audits.Epsilon(models=4)], tell=told.append)
        assert [one.audit for one in found] == ["epsilon"]
        assert found[0].verdict == "inconclusive"  # four models show nothing
        assert told[0].wanted == Wanted(retrained=4, unlearned=4)
        assert plain(kept_findings(tmp_path, record.key)) == plain(found)
        assert runs == {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}

    def test_tiers_go_by_what_audits_ask_for(self):
        views = frozenset({"forget", "retain", "test"})
        by_tier = [{type(a).__name__ for a in audits_up_to(tier, views)} for tier in (0, 1, 2)]
        assert by_tier[0] < by_tier[1] < by_tier[2]
        assert "Accuracy" in by_tier[0]
        assert "RetrainGap" in by_tier[1] - by_tier[0]
        assert {"Epsilon", "Klom", "ULira"} == by_tier[2] - by_tier[1]
        assert "OracleFree" not in by_tier[2]  # the run has no holdout

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--budget", "5m"], "--budget limits the training of references"),
            (["--tier", "1", "--budget", "5"], 'a number and a unit, such as "20m"'),
            (["--tier", "1", "--budget", "-5s"], 'a number and a unit, such as "20m"'),
            (["--tier", "1", "--use", "epsilon"], "say --tier 2"),
            (["--tier", "2", "--use", "epsilon", "--budget", "0.001s"], "budget of at least"),
            (["--tier", "3"], "--tier"),
        ],
    )
    def test_what_cannot_be_meant_is_told(self, tmp_path, cli, words, told):
        record = run_plan(finished(), tmp_path)
        ran = cli("audit", record.key, "--store", tmp_path, *words)
        assert ran.code == 2
        assert told in ran.err.replace("\n", " ")

    def test_the_command_says_what_it_costs_and_gives_one_verdict(self, tmp_path, cli):
        record = run_plan(finished(), tmp_path)
        ran = cli("audit", record.key, "--store", tmp_path, "--tier", "1", "--use", "retrain-gap")
        assert ran.code == 0, ran.err
        assert "5 retrained, 0 unlearned and 0 shadow models" in ran.err
        assert "verdict: " in ran.out
