"""Many rows are merged before the predictor learns them: next to the plain machine, which learns them all."""

import functools

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

from secateur import stats
from secateur.stats import predictor
from secateur.stats.predictor import _called_members

HALF_A_POINT = 0.005


def plain(members, others, asked):
    """The published predictor: dense rows, members first."""
    rows, labels = np.concatenate([members, others])[:, None], np.repeat([1, 0], [len(members), len(others)])
    return SVC(C=3, gamma="auto", kernel="rbf").fit(rows, labels).predict(np.asarray(asked)[:, None]) == 1


def rows_learned(monkeypatch):
    """How many rows each machine learns from here on."""
    learned, fit = [], SVC.fit

    def counting(self, x, y, sample_weight):
        learned.append(x.shape[0])
        return fit(self, x, y, sample_weight)

    monkeypatch.setattr(SVC, "fit", counting)
    return learned


def dense(rng):
    """A network that knows its rows by heart: retain, test and forget, most of them next to 1."""
    margins = rng.normal(7, 2, 1500), rng.normal(4, 5, 1500), rng.normal(4.5, 4, 1500)
    return [1 / (1 + np.exp(-margin)) for margin in margins]


def sparse(rng):
    """One that does not."""
    margins = rng.normal(3, 2, 1500), rng.normal(1.5, 3, 1500), rng.normal(2, 3, 1500)
    return [1 / (1 + np.exp(-margin)) for margin in margins]


@functools.cache
def digits(epochs):
    """What a network that was trained on noisy digits says of them, and of others: retain, test, forget."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(epochs)
    copies = rng.integers(len(x), size=4500)
    x, y = x[copies] / 16 + rng.normal(0, 0.5, (4500, x.shape[1])), y[copies]
    network = MLPClassifier((64,), max_iter=epochs, tol=0, n_iter_no_change=epochs + 1, random_state=0)
    for _ in range(epochs):
        network.partial_fit(x[:1500], y[:1500], classes=range(10))
    return np.split(network.predict_proba(x)[np.arange(4500), y], 3)


class TestManyRows:
    @pytest.mark.parametrize("sides", [dense, sparse, lambda _: digits(15), lambda _: digits(60)])
    def test_the_share_is_that_of_the_plain_machine_within_half_a_point(self, sides):
        retain, test, forget = sides(np.random.default_rng(0))
        share = stats.mia_efficacy(retain, test, forget, members="first")
        assert share == pytest.approx(1 - plain(retain, test, forget).mean(), abs=HALF_A_POINT)
        assert 0.02 < share < 0.98

    @pytest.mark.parametrize("sides", [sparse, lambda _: digits(15)])
    def test_privacy_too(self, sides):
        members, others, _ = sides(np.random.default_rng(1))
        retain, test = np.tile(members, 2), np.tile(others, 2)  # of which half is taught
        rng = np.random.default_rng(0)
        drawn = [side[rng.permutation(3000)] for side in (retain, test)]
        asked = [plain(drawn[0][:1500], drawn[1][:1500], side[1500:]).mean() for side in drawn]
        found = stats.mia_privacy(retain, test, seed=0)
        assert found.value == pytest.approx((asked[0] + 1 - asked[1]) / 2, abs=HALF_A_POINT)
        assert found.n == 3000


class TestWhatIsMerged:
    def test_equal_rows_are_no_other_machine(self):
        # means of cells: merging loses nothing but the float32 in which libsvm keeps its kernel
        rng = np.random.default_rng(0)
        members, others = ((rng.beta(a, 1, 1200) * 1024).astype(int) / 1024 for a in (3, 1.5))
        asked = np.linspace(0, 1, 4001)
        assert (_called_members(members, others, asked) != plain(members, others, asked)).mean() < 1e-3

    def test_no_more_rows_are_learned_than_there_are_cells(self, monkeypatch):
        rng, learned = np.random.default_rng(0), rows_learned(monkeypatch)
        _called_members(rng.uniform(size=10_000), rng.uniform(size=10_000), np.ones(1))
        assert learned == [2048]

    @pytest.mark.parametrize("sizes", [(1024, 1024), (1, 2047), (2000, 40)])
    def test_few_rows_are_the_plain_machine_bit_by_bit(self, sizes, monkeypatch):
        rng, learned = np.random.default_rng(0), rows_learned(monkeypatch)
        members, others, asked = rng.beta(3, 1, sizes[0]), rng.beta(2, 1, sizes[1]), rng.uniform(size=999)
        found = _called_members(members, others, asked)
        monkeypatch.undo()
        assert np.array_equal(found, plain(members, others, asked))
        assert learned == [sum(sizes)]

    def test_one_row_more_is_merged(self, monkeypatch):
        rng, learned = np.random.default_rng(0), rows_learned(monkeypatch)
        _called_members(rng.beta(3, 1, 1025), rng.beta(2, 1, 1024), np.ones(1))
        assert learned[0] < 1500

    def test_rows_of_a_cell_become_their_mean_and_one_is_a_cell(self):
        rows, counts = predictor._merged(np.array([1.0, 0.25, 0.9999, 0.2504, 1.0, 0.0]))
        assert rows == pytest.approx([0, 0.2502, 0.9999, 1])
        assert counts.tolist() == [1, 2, 1, 2]

    @pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
    def test_sides_that_nothing_tells_apart_are_left_to_the_plain_machine(self, share):
        # a collapsed model, as gradient ascent leaves it: every answer of the machine is rounding
        members = (np.arange(1500) < share * 1500).astype(float)
        others = np.maximum(members, 1e-300)
        assert np.array_equal(_called_members(members, others, members), plain(members, others, members))

    def test_a_collapsed_model_with_a_difference_is_merged(self, monkeypatch):
        learned = rows_learned(monkeypatch)
        members, others = ((np.arange(1500) < share).astype(float) for share in (150, 300))
        assert _called_members(members, others, [0.0, 1.0]).tolist() == [True, False]
        assert learned == [4]

    def test_the_order_of_what_is_learned_does_not_matter(self):
        rng = np.random.default_rng(3)
        retain, test, forget = dense(rng)
        first = stats.mia_efficacy(retain, test, forget, members="first")
        turned = stats.mia_efficacy(
            rng.permutation(retain), rng.permutation(test), rng.permutation(forget), members="first"
        )
        assert turned == pytest.approx(first, abs=1e-3)
