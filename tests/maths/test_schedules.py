from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from secateur.maths.schedules import constant, cosine, one_cycle, resumed, step, warmed_up

PROGRESS = st.floats(0, 1)


def test_values_by_hand():
    assert [constant(p) for p in (0.0, 0.7)] == [1.0, 1.0]
    assert [step()(p) for p in (0.0, 0.49, 0.5, 0.74, 0.75, 0.99)] == pytest.approx([
        1,
        1,
        0.1,
        0.1,
        0.01,
        0.01,
    ])
    assert [step([0.2], 0.5)(p) for p in (0.1, 0.2)] == [1.0, 0.5]
    assert [cosine(p) for p in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([1, 0.75, 0.5, 0])
    assert [one_cycle(0.5, 0.2)(p) for p in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([
        0.2,
        0.6,
        1,
        0.5,
        0,
    ])
    assert [warmed_up(cosine, 0.5)(p) for p in (0.0, 0.25, 0.5)] == pytest.approx([
        0,
        0.5 * cosine(0.25),
        0.5,
    ])
    assert warmed_up(cosine, 0.0)(0.0) == 1.0


@given(PROGRESS)
def test_all_stay_between_zero_and_one(progress):
    for schedule in (
        constant,
        step(),
        cosine,
        one_cycle(),
        warmed_up(step(), 0.1),
        resumed(one_cycle(), 0.3),
    ):
        assert 0 <= schedule(progress) <= 1


@st.composite
def updates_of_a_resumed_run(draw):
    epochs, updates = draw(st.integers(2, 300)), draw(st.integers(1, 50))
    start = draw(st.integers(0, epochs - 1))
    return epochs, updates, start, draw(st.integers(0, (epochs - start) * updates - 1))


@given(updates_of_a_resumed_run())
@example((12, 1, 1, 5))  # 1 / 12 + 11 / 12 * 5 / 11 is less than 0.5 in floating point
@example((24, 2, 1, 34))
def test_a_resumed_schedule_drops_at_the_very_update_of_the_whole_one(run):
    epochs, updates, start, done = run
    exact = Fraction(start * updates + done, epochs * updates)
    drops = sum(exact >= milestone for milestone in (Fraction(1, 2), Fraction(3, 4)))
    now = resumed(step(), start / epochs)(done / ((epochs - start) * updates))
    assert now == 0.1**drops


@given(PROGRESS, st.floats(0, 0.99))
def test_resuming_goes_on_from_where_it_stopped(progress, at):
    assert resumed(cosine, at)(progress) == pytest.approx(cosine(at + (1 - at) * progress))
    assert resumed(cosine, 0.0)(progress) == cosine(progress)
