"""How far unlearning ends from retraining, beside the bound of the theory: ``python tools/theory.py FOLDER``.

Jia et al., NeurIPS 2023, section 3, after Thudi et al., Unrolling SGD, EuroS&P 2022: one step of gradient
ascent, which takes back what the forget rows did to plain SGD, ends at a distance of
O(lr^2 t ||m (w_t - w_0)|| sigma(m)) from retraining in the same order of batches: t updates, m the pruning
mask, sigma(m) the largest singular value of the Hessian among unmasked weights.

Digits, two hidden layers, double precision; with --data three convolutions on images of CIFAR-10, without
batch norm: the theory's SGD adds up rows, which must not look at one another. Writes theory-digits.csv or
theory-cifar10.csv, a line for each network, and a figure of the same name; stopped, it goes on behind the
last seed that was finished.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from cells import by_cell
from matplotlib.figure import Figure
from pydantic import Field
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.card import Card
from secateur.maths.curvature import Curvature, mean_gradient, top_eigenvalue
from secateur.optimize import Sgd, optimize

SPARSITIES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99)
LR, BATCH = 0.05, 64
Weights = dict[str, Tensor]


class Point(NamedTuple):
    """One network. Distances are l2 norms over unmasked weights."""

    data: str
    request: str
    epochs: int
    seed: int
    sparsity: float
    updates: int
    train_accuracy: float
    test_accuracy: float
    nothing: float  # from the original to retraining
    error: (
        float  # from the unlearned to retraining; the ascent takes gradients at the start, as the theory does
    )
    error_late: float  # the same with gradients at the end, as gradient ascent does
    travelled: float
    sigma_start: float
    sigma_end: float
    bound: float

    @property
    def wider(self) -> float:
        """The bound with lr in place of lr^2: what expanding both paths to second order gives."""
        return self.bound / LR


@dataclass(frozen=True, kw_only=True)
class InOrder:
    """Plain SGD over the pool in one order of batches, the forget rows left out of them or not.

    Attributes:
        without: Leave them out; batches keep the size that their sum of gradients is divided by.
    """

    card: ClassVar[Card] = Card(summary="SGD in a given order.", paper="Thudi et al. 2022", data="pool")
    reads: ClassVar[frozenset[str]] = frozenset({"pool", "forget"})
    epochs: Annotated[int, Field(ge=1)]
    without: bool

    def __call__(self, state: sc.State, run: sc.Run, /) -> sc.State:
        """Train."""
        gone = torch.as_tensor(state.forget.rows) if self.without else torch.zeros(0, dtype=torch.long)

        def loss(model: nn.Module, batch: Any, _: float) -> Tensor:
            stays = ~torch.isin(batch.row, gone)
            return cross_entropy(model(batch.x[stays]), batch.y[stays], reduction="sum") / len(batch.y)

        loader = state.pool.loader(epochs=self.epochs, batch=BATCH, rng=run.rng("order"))
        return optimize(state, loader, loss, optimizer=Sgd(lr=LR, momentum=0.0, decay=0.0), run=run)


def points(name: str, split: sc.Split, build: Any, run: sc.Run, request: str, epochs: int) -> Iterator[Point]:
    """All sparsities of one seed."""
    train = sc.steps.Train(
        epochs=epochs, batch=BATCH, lr=LR, momentum=0.0, decay=0.0, schedule="constant", keep=(0,)
    )
    dense = sc.apply(train, sc.State.of(build, split, run), run).state
    for sparsity in SPARSITIES:
        # over the network, the widest layer of the convolutions would lose all of its weights
        per = "layer" if name == "CIFAR-10" else "network"
        prune = sc.steps.Magnitude(sparsity=sparsity or 1e-9, per=per, rewind="epoch-0")
        start = sc.apply(prune, dense, run).state
        end, again = (sc.apply(InOrder(epochs=epochs, without=w), start, run).state for w in (False, True))
        with run.steady():
            w0, wt, wr = (weights(one.model) for one in (start, end, again))
            # what one draw of each forget row in each epoch added to the weights
            steps = -(-len(split.pool) // BATCH)
            amount = LR * epochs * len(split.forget) * steps / len(split.pool)
            back, late = (
                {k: amount * g for k, g in mean_gradient(one.model, start.forget.once(), names=w0).items()}
                for one in (start, end)
            )
            sigma = [curvature(one, run) for one in (start, end)]
        accuracy = sc.observe(end.model, split, run)
        travelled, t = distance(wt, w0, end.masks), epochs * steps
        yield Point(
            name,
            request,
            epochs,
            run.seed,
            sparsity,
            t,
            float(np.concatenate([accuracy[view].correct for view in ("forget", "retain")]).mean()),
            float(accuracy["test"].correct.mean()),
            distance(wt, wr, end.masks),
            distance({k: wt[k] + back[k] for k in wt}, wr, end.masks),
            distance({k: wt[k] + late[k] for k in wt}, wr, end.masks),
            travelled,
            *sigma,
            LR**2 * t * travelled * max(sigma),
        )


def weights(model: nn.Module) -> Weights:
    return {name: p.detach() for name, p in model.named_parameters()}


def distance(left: Weights, right: Weights, masks: Mapping[str, Tensor]) -> float:
    kept = {name: masks.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in left.items()}
    return float(sum(((w - right[k])[kept[k]].double() ** 2).sum() for k, w in left.items()) ** 0.5)


def curvature(state: sc.State, run: sc.Run) -> float:
    """sigma(m): the largest singular value of the Hessian of the pool's mean loss among unmasked weights."""
    matrix = Curvature(state.model, lambda: state.pool.once(batch=500), kind="hessian")
    found = top_eigenvalue(
        matrix, weights(state.model), masks=state.masks, rng=run.rng("start"), iterations=40, tolerance=0.01
    )
    return abs(found.value)


def digits(seed: int, request: str) -> tuple[sc.Split, Any, sc.Run]:
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).reshape(-1, 1, 8, 8), y.astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(x))
    x, y, test = x[order[:1000]], y[order[:1000]], (x[order[1000:]], y[order[1000:]])
    build = partial(sc.zoo.mlp, classes=10, size=8, width=64)
    return (
        sc.Split.of(x, y, forget=asked(y, request, seed), test=test),
        build,
        sc.Run(seed=seed, precision="fp64", threads=1),
    )


def cifar(folder: Path, rows: int, seed: int, request: str) -> tuple[sc.Split, Any, sc.Run]:
    found = sc.zoo.cifar10(path=str(folder), limit=rows, seed=seed)
    (x, y), test = found.train, found.test
    y = np.asarray(y)

    def build() -> nn.Module:
        model = sc.zoo.small_cnn(
            channels=3, width=16, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)
        )
        for path, module in list(model.named_modules()):
            if isinstance(module, nn.BatchNorm2d):
                model.set_submodule(path, nn.Identity())
        return model

    return (
        sc.Split.of(np.asarray(x), y, forget=asked(y, request, seed), test=test),
        build,
        sc.Run(seed=seed, precision="fp32", threads=1),
    )


def asked(y: np.ndarray, request: str, seed: int) -> np.ndarray:
    if request == "class 3":
        return np.flatnonzero(y == 3)
    return np.sort(np.random.default_rng([seed, 1]).permutation(len(y))[: len(y) // 10])


def draw(found: list[Point], path: Path) -> None:
    cells = list(dict.fromkeys((p.data, p.request, p.epochs) for p in found))
    lines = {
        "nothing": ("original to retraining", "s", "#6b6b6b"),
        "error_late": ("ascent at the end", "v", "#b5651d"),
        "error": ("ascent at the start (the theory's)", "o", "#1f5c42"),
        "bound": ("the bound, its constant 1", "x", "#7a5195"),
        "wider": ("the bound, its constant 1 / lr", "+", "#7a5195"),
    }
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 10}):
        figure = Figure(figsize=(9, 2.9 * -(-len(cells) // 2)), layout="constrained")
        panels = figure.subplots(-(-len(cells) // 2), 2, sharex=True, squeeze=False)
        for axes, cell in zip(panels.flat, cells, strict=False):
            here = [p for p in found if (p.data, p.request, p.epochs) == cell]
            for field, (label, marker, colour) in lines.items():
                values = np.array([[getattr(p, field) for p in here if p.sparsity == s] for s in SPARSITIES])
                at = range(len(SPARSITIES))
                axes.plot(
                    at,
                    values.mean(axis=1),
                    "--" if field == "wider" else "-",
                    marker=marker,
                    color=colour,
                    label=label,
                    markersize=4,
                )
                axes.fill_between(
                    at, values.min(axis=1), values.max(axis=1), color=colour, alpha=0.15, linewidth=0
                )
            axes.set_yscale("log")
            axes.set_xticks(range(len(SPARSITIES)), [f"{s:.0%}" for s in SPARSITIES])
            axes.set_title(f"{cell[0]}, {cell[1]}, {cell[2]} epoch{'s' * (cell[2] > 1)}", fontsize=10)
            axes.grid(axis="y", color="#e5e5e5", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel("sparsity")
        for axes in panels[:, 0]:
            axes.set_ylabel("distance of weights")
        figure.legend(
            *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet; default: digits")
    parser.add_argument("--rows", type=int, default=2000, help="of CIFAR-10; digits have 1,000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 20])
    asked_for = parser.parse_args()
    asked_for.folder.mkdir(parents=True, exist_ok=True)
    cells = [
        (r, e, s)
        for r in ("class 3", "random 10 %")
        for e in asked_for.epochs
        for s in range(asked_for.seeds)
    ]
    folder, rows = asked_for.data, asked_for.rows

    def networks(request: str, epochs: int, seed: int) -> Iterator[Point]:
        split, build, run = cifar(folder, rows, seed, request) if folder else digits(seed, request)
        return points("CIFAR-10" if folder else "digits", split, build, run, request, epochs)

    name = "theory-cifar10" if folder else "theory-digits"
    made = by_cell(asked_for.folder / f"{name}.part", [str(folder), rows], cells, networks)
    found = [Point(*line) for lines in track(made, "networks", total=len(cells)) for line in lines]
    with (asked_for.folder / f"{name}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in p] for p in found)
    draw(found, asked_for.folder / f"{name}.svg")


if __name__ == "__main__":
    main()
