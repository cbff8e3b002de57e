from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from secateur.errors import UsageError
from secateur.maths.curvature import diagonal_fisher, ggn_product, hessian_product, sample_gradients
from secateur.step import apply
from secateur.steps.unlearn.influence import Influence
from secateur.testing import toy_problem

PROBLEM = toy_problem(precision="fp64")
RUN = PROBLEM.run


def rows(view):
    parts = list(view.fresh().once())
    return torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])


def free(model):
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def kept(start):
    """Which coordinates are not masked, [m] of bool."""
    weights = free(start.model).items()
    return torch.cat([
        start.masks.get(name, torch.ones_like(p, dtype=torch.bool)).flatten() for name, p in weights
    ])


def flat(named):
    return torch.cat([value.detach().flatten() for value in named.values()])


def direction(start):
    """v, by one plain loss."""
    weights = free(start.model)
    (x_f, y_f), (x_r, y_r) = rows(start.forget), rows(start.retain)
    n = len(y_f) + len(y_r)
    loss = functional.cross_entropy(start.model(x_f), y_f, reduction="sum") / n
    rest = functional.cross_entropy(start.model(x_r), y_r, reduction="sum")
    loss = loss - rest * len(y_f) / (n * len(y_r))
    return flat(dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True)))


def dense(start, kind, chunk):
    """The matrix over the unmasked coordinates, column by column."""
    weights = free(start.model)
    product = {"ggn": ggn_product, "hessian": hessian_product}[kind]
    columns = []
    for i in range(sum(p.numel() for p in weights.values())):
        unit, vectors, at = torch.zeros(len(kept(start)), dtype=torch.float64), {}, 0
        unit[i] = 1.0
        for name, p in weights.items():
            vectors[name] = unit[at : at + p.numel()].view(p.shape)
            at += p.numel()
        columns.append(flat(product(start.model, [chunk], vectors)))
    return torch.stack(columns, 1)[kept(start)][:, kept(start)]


def moved(step, start):
    state = apply(step, start, RUN).state
    return flat(free(state.model)) - flat(free(start.model))


@pytest.mark.parametrize("rank", [0, 16])
@pytest.mark.parametrize("sparsity", [0.0, 0.5])
@pytest.mark.parametrize(("kind", "damping"), [("ggn", 0.05), ("hessian", 5.0)])
def test_the_step_is_the_dense_solution(sparsity, kind, damping, rank):
    start = PROBLEM.state(sparsity=sparsity)
    step = Influence(curvature=kind, damping=damping, tolerance=1e-12, products=1000, rank=rank)
    delta = moved(step, start)
    assert not delta[~kept(start)].any()
    matrix = dense(start, kind, rows(start.retain))
    matrix += damping * torch.eye(len(matrix), dtype=torch.float64)
    want = torch.linalg.solve(matrix, direction(start)[kept(start)])
    assert torch.allclose(delta[kept(start)], want, rtol=1e-8, atol=1e-10 * float(want.abs().max()))


def test_the_diagonal_and_the_rank_one_sum():
    start = PROBLEM.state(sparsity=0.5)
    v, free_of_masks = direction(start), kept(start)
    f = flat(diagonal_fisher(start.model, start.retain.fresh().once()))
    delta = moved(Influence(solver="diagonal", damping=0.1), start)
    assert torch.allclose(delta[free_of_masks], (v / (f + 0.1))[free_of_masks], rtol=1e-10)
    g = torch.cat([
        torch.cat([value.flatten(1) for value in found.values()], 1)
        for found in sample_gradients(start.model, start.retain.fresh().once())
    ])[:, free_of_masks]
    matrix = g.T @ g / len(g) + 0.1 * torch.eye(g.shape[1], dtype=torch.float64)
    delta = moved(Influence(solver="woodfisher", damping=0.1), start)
    assert torch.allclose(delta[free_of_masks], torch.linalg.solve(matrix, v[free_of_masks]), rtol=1e-8)


def test_the_trace_tells_how_far_the_solver_came():
    start = PROBLEM.state()
    state, trace = apply(Influence(products=3, tolerance=1e-9, scale=-2.0), start, RUN)
    delta = (flat(free(state.model)) - flat(free(start.model))) / -2
    matrix = dense(start, "ggn", rows(start.retain))
    v = direction(start)
    residual = float((matrix @ delta + 0.01 * delta - v).norm() / v.norm())
    assert trace.notes["iterations"] == (3.0,)
    assert trace.notes["residual"] == pytest.approx((residual,), rel=1e-6)
    assert trace.notes["step norm"] == pytest.approx((2 * float(delta.norm()),), rel=1e-9)


def test_fewer_rows_make_another_matrix_and_the_same_direction():
    start = PROBLEM.state()
    step = Influence(rows=10, solver="diagonal", damping=0.1)
    state, trace = apply(step, start, RUN)
    assert trace.drawn == {"forget": 12, "retain": 48 + 10}
    some = start.retain.fresh().sample(10, RUN.at(start.depth).rng("rows"))
    f = flat(diagonal_fisher(start.model, some.once()))
    delta = flat(free(state.model)) - flat(free(start.model))
    assert torch.allclose(delta, direction(start) / (f + 0.1), rtol=1e-10)


def test_negative_curvature_is_refused_and_the_original_untouched():
    start = PROBLEM.state(trained=False)
    before = flat(free(start.model)).clone()
    eigenvalues = torch.linalg.eigvalsh(dense(start, "hessian", rows(start.retain)))
    assert float(eigenvalues[0]) < -1e-3
    with pytest.raises(UsageError, match="negative curvature"):
        apply(Influence(curvature="hessian", damping=0.0), start, RUN)
    assert torch.equal(flat(free(start.model)), before)


def test_a_singular_matrix_without_damping_is_refused():
    start = PROBLEM.state()  # 60 rows, more weights: there are directions that no row feels
    for solver in ("cg", "woodfisher"):
        with pytest.raises(UsageError, match="raise damping above 0"):
            apply(Influence(damping=0.0, solver=solver, tolerance=1e-12, products=1000), start, RUN)


def test_it_raises_the_loss_of_forget_over_that_of_retain_by_what_the_slopes_say():
    start = PROBLEM.state()
    state = apply(Influence(damping=0.1, scale=1e-2), start, RUN).state

    def loss(model, view):
        x, y = rows(view)
        with torch.no_grad():
            return float(functional.cross_entropy(model(x), y))

    forget, retain = (
        loss(state.model, view) - loss(start.model, view) for view in (start.forget, start.retain)
    )
    delta = flat(free(state.model)) - flat(free(start.model))
    said = float(direction(start).dot(delta)) * 60 / 12  # v is |forget| / N of the difference of the slopes
    assert said > 0
    assert forget - retain == pytest.approx(said, rel=0.01)
