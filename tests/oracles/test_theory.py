"""The measure of the theory, where its answer is known: after one update nothing is left to second order."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import secateur as sc

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def theory(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("theory")


def found(theory, monkeypatch, rows, epochs=1):
    monkeypatch.setattr(theory, "SPARSITIES", (0.0, 0.5))
    rng = np.random.default_rng(0)
    x, y = rng.random((rows, 1, 8, 8)), np.arange(rows) % 10
    split = sc.Split.of(x, y, forget=np.arange(6), test=(x, y))
    run = sc.Run(precision="fp64", threads=1)
    build = partial(sc.zoo.mlp, size=8, width=8)
    return list(theory.points("noise", split, build, run, "some", epochs))


def test_one_update_is_taken_back_exactly(theory, monkeypatch):
    for point in found(theory, monkeypatch, rows=theory.BATCH):
        assert point.updates == 1
        assert point.error < 1e-14 < 1e-6 < point.nothing


def test_over_more_updates_an_error_is_left_and_the_wider_bound_holds(theory, monkeypatch):
    for point in found(theory, monkeypatch, rows=3 * theory.BATCH, epochs=2):
        assert point.updates == 6
        assert 1e-8 < point.error < point.nothing
        assert point.error < point.wider


def test_sigma_is_the_largest_singular_value_of_the_dense_hessian(theory):
    run = sc.Run(precision="fp64", threads=1)
    x, y = np.random.default_rng(1).random((20, 1, 8, 8)), np.arange(20) % 10
    split = sc.Split.of(x, y, forget=[0], test=(x, y))
    state = sc.State.of(lambda: sc.zoo.mlp(size=8, width=2, depth=1), split, run)
    names = [name for name, _ in state.model.named_parameters()]
    sizes = [p.numel() for p in state.model.parameters()]
    shapes = [p.shape for p in state.model.parameters()]
    batch = next(iter(state.pool.once()))

    def loss(flat):
        parts = {n: part.view(s) for n, part, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return torch.nn.functional.cross_entropy(
            torch.func.functional_call(state.model, parts, batch.x), batch.y
        )

    point = torch.cat([p.detach().flatten() for p in state.model.parameters()])
    dense = torch.autograd.functional.hessian(loss, point)
    assert theory.curvature(state, run) == pytest.approx(float(torch.linalg.matrix_norm(dense, 2)), rel=1e-2)
