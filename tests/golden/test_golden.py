"""Numbers do not move by accident: plans at toy size, in double precision on one thread."""

from __future__ import annotations

import copy

import pytest
import torch

from . import golden

NOTED = golden.written()


@pytest.mark.slow
@pytest.mark.parametrize("plan", golden.PLANS, ids=lambda plan: plan.stem)
def test_the_numbers_are_those_written_down(plan, tmp_path):
    if torch.__version__ != NOTED["torch"]:
        pytest.skip(f"written down with torch {NOTED['torch']}, this is {torch.__version__}")
    assert golden.moved(NOTED["plans"][plan.name], golden.numbers(plan, tmp_path)) == {}, (
        "a number has moved: if it should, raise the version of its card, tell of it in CHANGELOG.md under "
        "Numbers as `name` version N, and run python tests/golden/golden.py"
    )


def test_every_step_and_audit_that_a_plan_can_ask_has_golden_numbers():
    from secateur import audits, steps

    cards = {card for runs in NOTED["plans"].values() for run in runs.values() for card in run["cards"]}
    of_a_bank = {name for name in audits.shelf if audits.shelf[name]().needs.tier == 2}
    convex = {"newton"}  # asks for a frozen body; tests/oracles hold it to a closed form
    assert cards == {*steps.shelf, *audits.shelf} - of_a_bank - convex


def test_the_changelog_tells_of_every_version_that_was_raised():
    raised = {
        f"`{name}` version {version}"
        for runs in NOTED["plans"].values()
        for run in runs.values()
        for name, version in run["cards"].items()
        if version > 1
    }
    assert raised
    assert not [words for words in raised if words not in golden.CHANGELOG.read_text()]


@pytest.fixture
def runs():
    return copy.deepcopy(NOTED["plans"]["l1.toml"])


class TestWritingDown:
    def change(self, runs):
        after = copy.deepcopy(runs)
        run = next(iter(after.values()))
        run["values"]["accuracy.UA.value"] += 1e-3
        return after, run["cards"]

    def test_what_has_not_moved_needs_no_word(self, runs):
        after = copy.deepcopy(runs)
        for run in after.values():
            run["values"]["accuracy.UA.value"] += 1e-8
        assert golden.unexplained(runs, after, "") == []

    def test_a_count_is_compared_exactly(self, runs):
        after = copy.deepcopy(runs)
        next(iter(after.values()))["counts"]["accuracy.UA.n"] += 1
        assert len(golden.unexplained(runs, after, "")) == 1

    def test_a_number_that_moves_asks_for_a_higher_version(self, runs):
        after, _ = self.change(runs)
        (fault,) = golden.unexplained(runs, after, "`l1-sparse` version 2")
        assert "raise the version" in fault

    def test_a_higher_version_asks_for_a_word_in_the_changelog(self, runs):
        after, cards = self.change(runs)
        cards["l1-sparse"] = 2
        (fault,) = golden.unexplained(runs, after, "")
        assert "says nothing of `l1-sparse` version 2" in fault
        assert golden.unexplained(runs, after, "- `l1-sparse` version 2: gamma fades one update later.") == []
