from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from secateur.errors import DataError, NotFinite
from secateur.observe import measure, observe
from secateur.run import Run
from secateur.split import Split
from secateur.testing import toy_problem

PROBLEM = toy_problem()
RUN = PROBLEM.run


def test_every_view_is_asked_in_evaluation_mode_row_by_row():
    model = PROBLEM.state().model.train()
    seen = observe(model, PROBLEM.split, RUN)
    assert list(seen) == ["forget", "retain", "holdout", "test"]
    model.eval()
    for name, out in seen.items():
        view = PROBLEM.split[name]
        assert out.rows.tolist() == view.rows.tolist()
        assert out.labels.tolist() == view.labels.tolist()
        with torch.no_grad():
            expected = model(next(iter(view.once())).x)
        assert np.array_equal(out.logits, expected.numpy())
        assert out.features is None


def test_a_further_view_is_asked_about_as_any_other():
    x, y = np.ones((5, 1, 6, 6), np.float32), np.arange(5) % 3
    split = Split.of(x, y, forget=[0], views={"trigger": (2 * x, 0 * y)})
    model = PROBLEM.state().model
    seen = observe(model, split, RUN)["trigger"]
    assert seen.labels.tolist() == [0] * 5
    with torch.no_grad():
        assert np.allclose(seen.logits, model(torch.full((5, 1, 6, 6), 2.0)), atol=1e-6)


def test_a_model_is_left_as_it_was():
    model = PROBLEM.state().model
    model[1].train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    handles = len(model[4]._forward_pre_hooks)
    threads = torch.get_num_threads()
    observe(model, PROBLEM.split, replace(RUN, threads=threads + 1), features="4")
    assert [m.training for m in model] == [False, True, False, False, False]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert len(model[4]._forward_pre_hooks) == handles
    assert all(p.grad is None for p in model.parameters())
    assert torch.get_num_threads() == threads


def test_features_are_the_input_of_the_submodule():
    model = PROBLEM.state().model
    out = observe(model, {"test": PROBLEM.split["test"]}, RUN, features="4")["test"]
    assert out.features.shape == (12, 36)
    with torch.no_grad():
        logits = model[4](torch.from_numpy(out.features.copy())).numpy()
    assert np.allclose(logits, out.logits, atol=1e-6)


class NeverCalled(nn.Linear):
    def __init__(self):
        super().__init__(2, 3)
        self.spare = nn.Linear(2, 3)


def rows(n=2100, classes=3):
    x = np.random.default_rng(0).normal(size=(n, 2)).astype(np.float32)
    return Split.of(x, np.arange(n) % classes, forget=[0])


def test_batches_do_not_show():
    model = nn.Linear(2, 3)
    out = observe(model, rows(), RUN)["retain"]
    with torch.no_grad():
        whole = model(
            torch.from_numpy(np.random.default_rng(0).normal(size=(2100, 2)).astype(np.float32))[1:]
        )
    assert np.allclose(out.logits, whole.numpy(), atol=1e-6)
    assert out.rows.tolist() == list(range(1, 2100))


def test_bf16_runs_are_judged_in_fp32():
    model, seen = nn.Linear(2, 3), []
    model.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        out = observe(model, rows(9), Run(device="cpu", precision="bf16", threads=1))
    assert set(seen) == {(torch.float32, torch.float32)}
    assert out["retain"].logits.dtype == np.float32


def test_fp64_runs_are_judged_in_fp64():
    model, seen = nn.Linear(2, 3).double(), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    observe(model, rows(9), Run(device="cpu", precision="fp64", threads=1))
    assert set(seen) == {torch.float64}


@pytest.mark.parametrize(
    ("model", "features", "error", "words"),
    [
        (nn.Linear(3, 3), None, DataError, "it raised RuntimeError"),
        (nn.Linear(2, 3).double(), None, DataError, "it raised RuntimeError"),
        (nn.Sequential(nn.Linear(2, 3), nn.Flatten(0)), None, DataError, "logits"),
        (nn.Linear(2, 2), None, DataError, "labels in 0..1"),
        (
            nn.Sequential(nn.Linear(2, 3)),
            "1",
            DataError,
            'features="1" to name a submodule, got none of these: 0',
        ),
        (NeverCalled(), "spare", DataError, 'expected the model to call "spare"'),
    ],
)
def test_what_cannot_be_judged(model, features, error, words):
    with pytest.raises(error, match=words):
        observe(model, rows(9), RUN, features=features)


def test_nan_is_refused_and_counted():
    model = nn.Linear(2, 3)
    with torch.no_grad():
        model.weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match='8 of 8 rows of "retain"'):
        observe(model, {"retain": rows(9).retain}, RUN)


def test_an_empty_view_is_refused():
    empty = rows(9).retain.fresh()
    empty._at = empty._at[:0]
    with pytest.raises(DataError, match='ask the model about in "retain", got an empty view'):
        observe(nn.Linear(2, 3), {"retain": empty}, RUN)


def test_measure():
    before, after = nn.Linear(2, 2), nn.Linear(2, 2)
    with torch.no_grad():
        before.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        after.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        before.bias.copy_(torch.tensor([1.0, 0.0]))
        after.bias.copy_(torch.tensor([1.0, 6.0]))
    assert measure(before, after) == {"sparsity.before": 0.25, "sparsity.after": 0.75, "distance": 7.0}


def test_chance_in_evaluation_mode_repeats_and_moves_nothing():
    class Noisy(nn.Module):
        def forward(self, x):
            return torch.randn(len(x), 3)

    before = torch.get_rng_state()
    first, second = (observe(Noisy(), PROBLEM.split, RUN)["test"].logits for _ in range(2))
    assert (first == second).all()
    assert torch.equal(before, torch.get_rng_state())


def test_the_callers_rounding_of_products_is_put_aside():
    met = []

    class Asking(nn.Module):
        def forward(self, x):
            met.append(torch.get_float32_matmul_precision())
            return torch.zeros(len(x), 3)

    torch.set_float32_matmul_precision("medium")
    try:
        observe(Asking(), PROBLEM.split, RUN)
        assert set(met) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
