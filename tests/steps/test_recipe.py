from __future__ import annotations

import pytest

from secateur.errors import UsageError
from secateur.steps._recipe import Recipe


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", [1, 1, 1, 1]),
        ("step", [1, 1, 0.1, 0.01]),
        ("cosine", [1, 0.853553, 0.5, 0.146447]),
        ("one-cycle", [0.04, 0.990393, 0.691342, 0.222215]),
    ],
)
def test_each_schedule_by_hand(schedule, factors):
    sgd = Recipe(schedule=schedule, lr=0.3, momentum=0.8, nesterov=True, decay=0.1).sgd(ascend=True)
    assert [sgd.schedule(p) for p in (0, 0.25, 0.5, 0.75)] == pytest.approx(factors, abs=1e-6)
    assert (sgd.lr, sgd.momentum, sgd.nesterov, sgd.decay, sgd.ascend) == (0.3, 0.8, True, 0.1, True)


def test_a_warm_up_rises_from_zero_over_the_share():
    sgd = Recipe(schedule="constant", warm_up=0.5).sgd()
    assert [sgd.schedule(p) for p in (0, 0.25, 0.5, 0.75)] == [0, 0.5, 1, 1]


def test_a_later_start_follows_the_rest_of_the_schedule():
    sgd = Recipe(epochs=8, schedule="step").sgd(start=2)
    # epochs 2 to 7: the drops come with epochs 4 and 6
    assert [sgd.schedule(epoch / 6) for epoch in range(6)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(UsageError, match="momentum is 0"):
        Recipe(nesterov=True, momentum=0.0)
    Recipe(epochs="3", nesterov=True)  # what is wrong by itself is told by apply, with all the rest
