"""The predictor of the paper against the plain machine of scikit-learn."""

import numpy as np
import pytest
from sklearn.svm import SVC

from secateur import stats
from secateur.errors import DataError, UsageError
from secateur.stats.predictor import _called_members


class TestMiaEfficacy:
    def test_first_is_the_published_code(self):
        rng = np.random.default_rng(0)
        retain, test, forget = rng.beta(8, 1, 300), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        classifier = SVC(C=3, gamma="auto", kernel="rbf")
        classifier.fit(
            np.concatenate([retain[:120], test]).reshape(-1, 1), np.concatenate([np.ones(120), np.zeros(120)])
        )
        published = 1 - classifier.predict(forget.reshape(-1, 1)).mean()
        assert 0.1 < published < 0.9
        assert stats.mia_efficacy(retain, test, forget, members="first") == pytest.approx(
            published, abs=1e-12
        )

    def test_sampled_draws_members_from_its_own_generator(self):
        rng = np.random.default_rng(1)
        retain, test, forget = rng.beta(8, 1, 300), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        rows = np.sort(np.random.default_rng(7).choice(300, 120, replace=False))
        expected = stats.mia_efficacy(retain[rows], test, forget, members="first")
        assert stats.mia_efficacy(retain, test, forget, seed=7) == expected

    def test_a_smaller_retain_sets_the_size_of_both(self):
        rng = np.random.default_rng(2)
        retain, test, forget = rng.beta(8, 1, 50), rng.beta(2, 1, 120), rng.beta(4, 1, 90)
        first = stats.mia_efficacy(retain, test, forget, members="first")
        assert first == stats.mia_efficacy(retain, test[:50], forget, members="first")
        rows = np.sort(np.random.default_rng(3).choice(120, 50, replace=False))
        sampled = stats.mia_efficacy(retain, test, forget, seed=3)
        assert sampled == stats.mia_efficacy(retain, test[rows], forget, members="first")

    def test_order_of_forget_does_not_matter_and_the_seed_does(self):
        rng = np.random.default_rng(4)
        retain, test, forget = rng.beta(3, 1, 400), rng.beta(2, 1, 40), rng.beta(2.5, 1, 201)
        shares = {stats.mia_efficacy(retain, test, rng.permutation(forget), seed=5) for _ in range(5)}
        assert len(shares) == 1
        assert len({stats.mia_efficacy(retain, test, forget, seed=seed) for seed in range(5)}) > 1

    def test_told_apart_and_not(self):
        members, others = np.linspace(0.9, 1, 50), np.linspace(0, 0.5, 50)
        assert stats.mia_efficacy(members, others, others) == 1.0
        assert stats.mia_efficacy(members, others, members) == 0.0

    def test_leaves_the_global_generator_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        stats.mia_efficacy(np.linspace(0.9, 1, 9), [0.1, 0.2], [0.3])
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    def test_refuses_what_is_no_probability_or_no_choice(self):
        with pytest.raises(DataError, match="probabilities of the true label for test"):
            stats.mia_efficacy([0.9], [-2.3], [0.5])
        with pytest.raises(DataError, match="forget"):
            stats.mia_efficacy([0.9], [0.3], [])
        with pytest.raises(UsageError, match="members"):
            stats.mia_efficacy([0.9], [0.3], [0.5], members="all")


def predictor(members, others):
    """The published predictor: dense rows, members first."""
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    x = np.concatenate([members, others]).reshape(-1, 1)
    return machine.fit(x, np.concatenate([np.ones(len(members)), np.zeros(len(others))]))


class TestPredictor:
    @pytest.mark.parametrize("seed", range(6))
    def test_answers_are_those_of_the_plain_machine(self, seed):
        # as a model that knows its rows by heart gives them: most next to 1, some equal to it in double
        rng = np.random.default_rng(seed)
        margins = rng.normal(12, 6, 500), rng.normal(8, 8, 400)
        members, others = (1 / (1 + np.exp(-m)) for m in margins)
        asked = np.concatenate([members, others, rng.uniform(size=200), [0.0, 1.0, 1.0]])
        ours = _called_members(members, others, asked)
        assert np.array_equal(ours, predictor(members, others).predict(asked[:, None]) == 1)
        assert 0 < ours.mean() < 1

    @pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
    def test_a_constant_model_is_a_case_too(self, value):
        same = np.full(9, value)
        expected = predictor(same, same).predict(same[:, None]) == 1
        assert np.array_equal(_called_members(same, same, same), expected)


class TestMiaPrivacy:
    @pytest.mark.parametrize(("sizes", "scored"), [((300, 120), 60), ((50, 121), 25), ((41, 41), 21)])
    def test_is_the_mean_recall_on_the_other_halves(self, sizes, scored):
        rng = np.random.default_rng(0)
        retain, test = rng.beta(8, 1, sizes[0]), rng.beta(2, 1, sizes[1])
        found, count = stats.mia_privacy(retain, test, seed=3), min(sizes)
        rng = np.random.default_rng(3)
        members = retain[rng.permutation(len(retain))[:count]]
        others = test[rng.permutation(len(test))[:count]]
        half = count - scored
        machine = predictor(members[:half], others[:half])
        recalls = (
            machine.predict(members[half:].reshape(-1, 1)).mean(),
            1 - machine.predict(others[half:].reshape(-1, 1)).mean(),
        )
        assert found.value == pytest.approx(np.mean(recalls), abs=1e-12)
        assert 0.5 < found.value < 1
        both = [(round(recall * scored), scored) for recall in recalls]
        assert (found.low, found.high) == pytest.approx(
            (stats.mean_share(both).low, stats.mean_share(both).high), abs=1e-12
        )
        assert found.n == 2 * scored

    def test_told_apart_and_not(self):
        apart = stats.mia_privacy(np.linspace(0.9, 1, 200), np.linspace(0, 0.5, 200))
        assert (apart.value, apart.high) == (1.0, 1.0)
        assert 0.97 < apart.low < 1
        rng = np.random.default_rng(1)
        alike = [stats.mia_privacy(rng.beta(5, 1, 200), rng.beta(5, 1, 200), seed=seed) for seed in range(40)]
        assert np.mean([one.value for one in alike]) == pytest.approx(0.5, abs=0.02)
        assert sum(one.low <= 0.5 <= one.high for one in alike) >= 35

    def test_the_halves_are_seeded(self):
        rng = np.random.default_rng(2)
        retain, test = rng.beta(3, 1, 200), rng.beta(2, 1, 100)
        values = [stats.mia_privacy(retain, test, seed=seed).value for seed in (0, 1, 2, 0)]
        assert values[0] == values[3]
        assert len(set(values)) > 1

    def test_refuses_what_has_no_halves_or_is_no_probability(self):
        with pytest.raises(DataError, match="at least two retain and two test rows, got 1 and 3"):
            stats.mia_privacy([0.9], [0.1, 0.2, 0.3])
        with pytest.raises(DataError, match="probabilities of the true label for test"):
            stats.mia_privacy([0.9, 0.8], [2.0, 0.1])
        with pytest.raises(UsageError, match="level"):
            stats.mia_privacy([0.9, 0.8], [0.3, 0.1], level=95)
        assert stats.mia_privacy([0.9, 0.8], [0.3, 0.1]).n == 2
