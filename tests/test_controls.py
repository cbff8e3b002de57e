"""Controls: the evidence of each is what it says."""

from dataclasses import replace

import numpy as np
import pytest

from secateur import controls
from secateur.testing import toy_evidence

BANK = toy_evidence(references=9, bank=12)
CLASS = toy_evidence(forgotten=1, bank=2)


def digest(outputs):
    return {view: out.logits.tobytes() for view, out in outputs.items()}


def said(references):
    return [digest(reference.outputs) for reference in references]


def renumbered(outputs):
    """Test rows from 0 on, as those of the pool are: their ids are those of another table."""
    test = outputs["test"]
    return {**outputs, "test": replace(test, rows=np.arange(len(test)))}


def logits(outputs):
    """Row id to logits, over forget and retain."""
    return {
        row: line
        for view in ("forget", "retain")
        for row, line in zip(outputs[view].rows.tolist(), outputs[view].logits, strict=True)
    }


class TestOriginal:
    def test_nothing_was_unlearned(self):
        start = controls.as_original(BANK)
        assert digest(start.after) == digest(BANK.before)
        assert said(start.of("unlearned")) == said(BANK.of("original"))
        assert said(start.of("unlearned-shadow")) == said(BANK.of("shadow"))
        for now, then in zip(start.of("unlearned-shadow"), BANK.of("unlearned-shadow"), strict=True):
            assert (now.rows == then.rows).all()
            assert (now.forgot == then.forgot).all()
        for kind in ("retrained", "original", "shadow"):
            assert said(start.of(kind)) == said(BANK.of(kind))

    def test_shadows_are_matched_by_their_rows_in_any_order(self):
        turned = [
            replace(one, rows=one.rows[::-1]) if one.kind == "shadow" else one
            for one in BANK.references[::-1]
        ]
        start = controls.as_original(replace(BANK, references=turned))
        assert said(start.of("unlearned-shadow")) == said(BANK.of("shadow"))[::-1]
        lost = [one for one in BANK.references if one is not BANK.of("shadow")[3]]
        assert len(controls.as_original(replace(BANK, references=lost)).of("unlearned-shadow")) == 11


class TestRetrained:
    def test_one_stands_for_the_candidate_and_is_no_reference(self):
        alone = replace(BANK, references=BANK.retrains)
        questions = list(controls.as_retrained(alone))
        assert len(questions) == 9
        for i, question in enumerate(questions):
            assert digest(question.after) == said(BANK.retrains)[i]
            assert said(question.references) == [*said(BANK.retrains)[:i], *said(BANK.retrains)[i + 1 :]]

    def test_half_stand_for_the_unlearned_models_the_candidate_among_them(self):
        everyone = said(BANK.retrains)
        halves = []
        for i, question in enumerate(controls.as_retrained(BANK)):
            made, left = said(question.of("unlearned")), said(question.retrains)
            assert (len(made), len(left)) == (5, 4)
            assert sorted(map(everyone.index, made + left)) == list(range(9))
            assert digest(question.after) == everyone[i]
            assert everyone[i] in made
            assert said(question.of("original")) == said(BANK.of("original"))
            halves.append(sorted(map(everyone.index, left)))
        assert len({tuple(half) for half in halves}) > 5

    def test_no_more_than_ten_are_asked(self):
        assert len(list(controls.as_retrained(toy_evidence(references=14)))) == 10
        assert list(controls.as_retrained(toy_evidence(references=0))) == []


class TestNeverSeen:
    def test_what_is_said_to_be_unlearned_was_never_seen(self):
        questions = list(controls.as_never_seen(BANK))
        assert len(questions) == 10
        for question in questions:
            shadows, models = BANK.of("shadow"), question.of("unlearned-shadow")
            assert said(models) == said(shadows)
            for model, shadow, before in zip(models, shadows, question.of("shadow"), strict=True):
                assert len(model.forgot) == 15
                assert not np.isin(model.forgot, shadow.rows).any()
                assert set(model.rows) == set(shadow.rows) | set(model.forgot)
                assert (before.rows == model.rows).all()
            assert said(question.retrains) == said(BANK.retrains)

    def test_before_they_say_of_such_rows_what_a_shadow_said_that_was_trained_on_them(self):
        question = next(controls.as_never_seen(BANK))
        donors = [(set(shadow.rows.tolist()), logits(shadow.outputs)) for shadow in BANK.of("shadow")]
        pairs = zip(question.of("unlearned-shadow"), question.of("shadow"), strict=True)
        for model, before in pairs:
            then, now = logits(before.outputs), logits(model.outputs)
            for row in then:
                if row in model.forgot:
                    assert any(row in rows and (then[row] == told[row]).all() for rows, told in donors)
                else:
                    assert (then[row] == now[row]).all()
            for view in ("test", "holdout"):
                assert (before.outputs[view].logits == model.outputs[view].logits).all()

    def test_none_without_a_bank(self):
        assert list(controls.as_never_seen(toy_evidence())) == []
        unmatched = [one for one in BANK.references if one.kind != "shadow"]
        assert list(controls.as_never_seen(replace(BANK, references=unmatched))) == []


def fake(evidence, name):
    return dict(controls.as_fakes(evidence))[name]


class TestFakes:
    def test_the_masked_head_needs_a_forgotten_class(self):
        names = [name for name, _ in controls.as_fakes(BANK)]
        assert "masked head" not in names
        assert [name for name, _ in controls.as_fakes(CLASS)] == list(controls._FAKES)

    @pytest.mark.parametrize("name", controls._FAKES)
    def test_the_candidate_and_all_unlearned_models_are_fakes_and_nobody_else(self, name):
        question, start = fake(CLASS, name), controls.as_original(CLASS)
        assert digest(question.before) == digest(CLASS.before)
        for now, then in zip(question.references, start.references, strict=True):
            assert now.kind == then.kind
            assert (digest(now.outputs) != digest(then.outputs)) == (
                now.kind in ("unlearned", "unlearned-shadow")
            )
        assert digest(question.after) != digest(CLASS.before)

    @pytest.mark.parametrize("name", ["test-like answers on forget", "random labels on forget"])
    def test_a_shadow_s_fakes_are_about_its_own_request(self, name):
        question = fake(BANK, name)
        changed = logits(question.after), logits(BANK.before)
        assert {row for row in changed[0] if (changed[0][row] != changed[1][row]).any()} <= set(range(30))
        for now, then in zip(question.of("unlearned-shadow"), BANK.of("shadow"), strict=True):
            ours, theirs = logits(now.outputs), logits(then.outputs)
            moved = {row for row in ours if (ours[row] != theirs[row]).any()}
            assert moved
            assert moved <= set(now.forgot.tolist())

    def test_a_test_row_with_the_id_of_a_forgotten_row_is_left_alone(self):
        alike = replace(
            BANK,
            before=renumbered(BANK.before),
            after=renumbered(BANK.after),
            references=[replace(one, outputs=renumbered(one.outputs)) for one in BANK.references],
        )
        shadows = alike.of("shadow")
        for question in (fake(alike, "random labels on forget"), next(controls.as_never_seen(alike))):
            for kind in ("unlearned-shadow", "shadow"):
                for now, then in zip(question.of(kind), shadows, strict=True):
                    assert (now.outputs["test"].logits == then.outputs["test"].logits).all()

    def test_test_like_answers_are_answers_to_test_rows_of_the_class(self):
        question = fake(BANK, "test-like answers on forget")
        forget, test = question.after["forget"], BANK.before["test"]
        for line, label in zip(forget.logits, forget.labels, strict=True):
            assert any((line == other).all() for other in test.logits[test.labels == label])

    def test_of_a_class_that_test_lacks_the_label_takes_the_place_of_the_test_row_s(self):
        test = CLASS.before["test"]
        lacks = replace(
            CLASS,
            before={**CLASS.before, "test": test.without([1])},
            after={**CLASS.after, "test": CLASS.after["test"].without([1])},
            references=(),
        )
        rest = lacks.before["test"]
        question = fake(lacks, "test-like answers on forget")
        for line in question.after["forget"].logits:
            swapped = [
                other[np.where(np.arange(3) == 1, label, np.where(np.arange(3) == label, 1, np.arange(3)))]
                for other, label in zip(rest.logits, rest.labels, strict=True)
            ]
            assert any((line == other).all() for other in swapped)

    def test_the_others_are_what_their_names_say(self):
        retain = CLASS.before["retain"].logits
        for out in fake(CLASS, "constant output").after.values():
            assert out.logits == pytest.approx(np.tile(retain.mean(axis=0), (len(out), 1)), abs=1e-6)
        for name, factor in (("logits x 0.01", 0.01), ("logits x 100", 100)):
            for view, out in fake(CLASS, name).after.items():
                assert out.logits == pytest.approx(factor * CLASS.before[view].logits)
        for view, out in fake(CLASS, "masked head").after.items():
            assert (out.logits.argmax(axis=1) != 1).all()
            assert (out.logits[:, [0, 2]] == CLASS.before[view].logits[:, [0, 2]]).all()
        guessed, asked = fake(CLASS, "random labels on forget").after, CLASS.before
        assert (np.sort(guessed["forget"].logits) == np.sort(asked["forget"].logits)).all()
        assert 0 < guessed["forget"].correct.mean() < 0.7
        assert 0.1 < fake(CLASS, "random answers").after["retain"].correct.mean() < 0.6

    def test_views_that_nobody_was_asked_about_leave_a_fake_out(self):
        only = replace(
            BANK,
            before={"forget": BANK.before["forget"]},
            after={"forget": BANK.after["forget"]},
            references=(),
        )
        names = {name for name, _ in controls.as_fakes(only)}
        assert names == {"random answers", "logits x 0.01", "logits x 100", "random labels on forget"}

    def test_the_order_of_the_rows_changes_no_fake(self):
        def turned(outputs):
            return {
                view: type(out)(out.logits[::-1], out.labels[::-1], out.rows[::-1])
                for view, out in outputs.items()
            }

        other = replace(CLASS, before=turned(CLASS.before), after=turned(CLASS.after), references=())
        pairs = zip(controls.as_fakes(replace(CLASS, references=())), controls.as_fakes(other), strict=True)
        for (_, one), (_, two) in pairs:
            for view, out in one.after.items():
                assert (out.logits == two.after[view].logits[::-1]).all()
