"""Transfer: the probe against scikit-learn by hand, noise for features, rows that must not be looked at."""

from __future__ import annotations

import csv
import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import nn

import secateur as sc
from secateur.data import View
from secateur.errors import DataError, SecateurError
from secateur.lab import expand, run_grid

TOOLS = Path(__file__).parents[2] / "tools"
RUN = sc.Run(device="cpu", precision="fp32", threads=1)


@pytest.fixture
def transfer(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("transfer")


@pytest.fixture
def task(transfer):
    return transfer.Task(sc.zoo.digits(), labels=5, holdout=20)


def state_of(build):
    x, y = load_digits(return_X_y=True)
    split = sc.Split.of(x.reshape(-1, 1, 8, 8) / 16, y, forget=[0])
    return sc.State.of(build, split, RUN)


def asked(task):
    return View("test", task.test, torch.arange(len(task.test.y)))


def cnn(classes=10):
    return sc.zoo.small_cnn(classes=classes, width=4)


class Noise(nn.Module):
    """Features that change wildly with every pixel, and tell nothing of the class."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(torch.sin(1e5 * self.mix(x.flatten(1))))


def test_the_probe_is_logistic_regression_on_the_penultimate_features(transfer, task):
    state, (few, _) = state_of(cnn), task.drawn(RUN)
    right = transfer.How(l2=0.3).correct(state, task, RUN, few, asked(task))
    body = state.model[:-1].eval()  # all but the head
    with torch.no_grad():
        x, test = (body(part.x.float() / 255).double().numpy() for part in (task.train, task.test))
    x = x[few]
    mean, std = x.mean(axis=0), x.std(axis=0)
    std[std == 0] = 1
    fit = LogisticRegression(C=1 / 0.3, max_iter=2000).fit((x - mean) / std, task.train.y.numpy()[few])
    by_hand = fit.predict((test - mean) / std) == task.test.y.numpy()
    assert (right == by_hand).mean() > 0.99  # a row between two classes may round to either
    assert 0.3 < right.mean() < 1


def test_features_that_are_noise_give_chance(transfer, task):
    task = replace(task, labels=50)
    right = transfer.How().correct(state_of(Noise), task, RUN, task.drawn(RUN)[0], asked(task))
    told = transfer.accuracy(right)
    assert told["accuracy_low"] < 0.1 < told["accuracy_high"]


@pytest.mark.parametrize("how", ["probe", "fine-tune"])
def test_the_task_may_have_more_classes_than_the_source(transfer, task, how):
    state, (few, _) = state_of(cnn), task.drawn(RUN)
    narrow = replace(state, model=transfer.grafted(state.model, "12", 3, RUN), build=lambda: cnn(3))
    before = {name: value.clone() for name, value in narrow.model.state_dict().items()}
    right = transfer.How(how, epochs=30, lr=0.1).correct(narrow, task, RUN, few, asked(task))
    assert right.mean() > 0.2  # chance is 0.1
    assert all(torch.equal(value, before[name]) for name, value in narrow.model.state_dict().items())


def test_fine_tuning_keeps_the_zeros_of_a_pruned_model(transfer, task):
    state = sc.apply(sc.steps.Magnitude(sparsity=0.5), state_of(cnn), RUN).state
    tuned = transfer.How("fine-tune", epochs=1)._tuned(state, "12", task, RUN, task.drawn(RUN)[0])
    weights = dict(tuned.named_parameters())
    masks = {name: mask for name, mask in state.masks.items() if not name.startswith("12.")}
    assert masks
    assert all(not weights[name][~mask].any() for name, mask in masks.items())


def test_labels_and_holdout_do_not_meet_and_more_labels_add_to_fewer(task):
    few, held = task.drawn(RUN)
    assert np.bincount(task.train.y.numpy()[few]).tolist() == [5] * 10
    assert np.bincount(task.train.y.numpy()[held]).tolist() == [20] * 10
    more, same = replace(task, labels=9).drawn(RUN)
    assert set(few) < set(more)
    assert set(held) == set(same)
    every, _ = replace(task, labels=None).drawn(RUN)
    assert set(every) | set(held) == set(range(len(task.train.y)))
    assert not set(every) & set(held)
    assert set(few) != set(task.drawn(replace(RUN, seed=1))[0])


def test_a_class_with_too_few_rows_is_refused(task):
    with pytest.raises(DataError, match="expected 520 training rows of the downstream class 0"):
        replace(task, labels=500).drawn(RUN)


def test_a_class_that_harms_has_a_negative_influence(transfer):
    rng = np.random.default_rng(0)
    absent = [frozenset(rng.permutation(6)[:3].tolist()) for _ in range(40)]
    scores = [0.5 + 0.1 * (2 in gone) - 0.1 * (4 in gone) for gone in absent]
    ranked = transfer.influence(absent, scores, 7)
    assert np.nanargmin(ranked) == 2
    assert np.nanargmax(ranked) == 4
    assert np.isnan(ranked[6])  # all models saw it
    assert transfer.first(ranked, 1) == [2]
    with pytest.raises(SecateurError, match="at most 6"):
        transfer.first(ranked, 7)


PLAN = {
    "device": "cpu",
    "threads": 1,
    "precision": "fp32",
    "data": {"use": "digits", "test": 0.5, "forget": {"how": "class", "classes": [3]}},
    "model": {"use": "small-cnn", "width": 4},
    "step": [
        {"use": "train", "epochs": 2, "batch": 64, "lr": 0.1},
        {"use": "retrain", "as": "unlearn", "epochs": 2, "batch": 64, "lr": 0.1},
    ],
    "audit": [{"use": "accuracy"}],
    "grid": {
        "unlearn": [
            {"use": "retrain", "epochs": 2, "batch": 64, "lr": 0.1},
            {"use": "fine-tune", "epochs": 1},
        ],
        "data.forget": [{"how": "class", "classes": [c]} for c in (3, 7)],
    },
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = tmp_path_factory.mktemp("transfer")
    assert not run_grid(expand(PLAN), store).failures
    return store


def called(transfer, store, folder, *options):
    words = [str(store), str(folder), "--to", "digits", "--labels", "5", *options]
    transfer.main(transfer.parser().parse_args(words))


def read(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def test_a_store_is_told_line_by_line(transfer, store, tmp_path, capsys):
    called(transfer, store, tmp_path)
    lines = read(tmp_path / "transfer-probe.csv")
    # two requests share an original
    assert [line["method"] for line in lines].count("original") == 1
    assert len(lines) == 5
    for line in lines:
        assert float(line["accuracy_low"]) < float(line["accuracy"]) < float(line["accuracy_high"])
        assert int(line["labels"]) == 50
        assert float(line["seconds"]) > 0
        if line["method"] == "original":
            assert not line["gain"]
            assert not line["of_retrain"]
        else:
            assert float(line["gain_low"]) <= float(line["gain"]) <= float(line["gain_high"])
            assert (float(line["of_retrain"]) == 1) == (line["method"] == "retrain")
    assert capsys.readouterr().out.count(" seed 0: ") == 5


@pytest.mark.parametrize("by", ["mapping", "influence"])
def test_the_ranking_looks_at_no_test_row(transfer, store, tmp_path, capsys, monkeypatch, by):
    def refuse(self):
        raise AssertionError("the ranking looked at test rows")

    monkeypatch.setattr(transfer.Task, "test", property(refuse))
    called(transfer, store, tmp_path, "--rank", "1", "--by", by)
    lines = read(tmp_path / f"ranking-{by}.csv")
    assert sorted(int(line["class"]) for line in lines) == list(range(10))
    assert f"--set data.forget.classes=[{lines[0]['class']}]" in capsys.readouterr().out
    if by == "influence":  # the other classes are in all models
        assert {line["class"] for line in lines[:2]} == {"3", "7"}
        assert {line["influence"] for line in lines[2:]} == {"nan"}


def test_mapping_is_the_mean_probability_over_the_holdout(transfer, store, task):
    first = next(transfer.ends(store, transfer.of_plan(store, None, [])))
    _, held = task.drawn(first.run)
    with torch.no_grad():
        logits = first.before.model(task.train.x[torch.from_numpy(held)].float() / 255)
    ranked = transfer.mapping([first, first], task)
    np.testing.assert_allclose(ranked, logits.softmax(dim=1).mean(dim=0).numpy(), rtol=1e-5)


def test_a_set_without_test_rows_or_name_is_refused(transfer):
    with pytest.raises(SecateurError, match='did you mean "cifar10"'):
        transfer.read_task("cifar1O", [], None, 0)
    with pytest.raises(SecateurError, match='unknown key "sie"'):
        transfer.read_task("images", ["path=x", "sie=8"], None, 0)
