"""Two processes that compute one thing, and the same in one: what tests of ``secateur.ranks`` share."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

import secateur as sc

WORLD = 2


def rows(n=95, seed=0):
    """Images of three classes, of a number that no batch divides."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, 1, 6, 6)) + y[:, None, None, None], y


def plain():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))


def normed():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(64, 3))


def unused():
    """A network with a part that no loss reaches."""
    net = plain()
    net.register_module("spare", nn.Linear(2, 2))
    net.forward = lambda x: nn.Sequential.forward(net[:4], x)
    return net


def run():
    return sc.Run(seed=3, device="cpu", precision="fp64", threads=1)


def start(build=plain):
    x, y = rows()
    return sc.State.of(build, sc.Split.of(x, y, forget=np.arange(20)), run())


def trained(build=plain):
    return sc.apply(sc.steps.Train(epochs=2, batch=32, lr=0.1), start(build), run()).state


L1 = {"epochs": 25, "batch": 38, "lr": 0.02, "gamma": 1e-3}  # 75 rows: two updates an epoch
TAKEN = {
    "train": (start, sc.steps.Train(epochs=17, batch=32, lr=0.1)),
    "clipped": (start, sc.steps.Train(epochs=3, batch=32, lr=0.1, clip=0.05)),
    "sharpness": (start, sc.steps.Retrain(epochs=3, batch=30, lr=0.1, sam=0.5, smoothing=0.1)),
    "l1-sparse": (trained, sc.steps.L1Sparse(**L1)),
    "l1-sparse, proximal": (trained, sc.steps.L1Sparse(**L1, penalty="proximal")),
    "gradient-ascent": (trained, sc.steps.GradientAscent(epochs=25, batch=10, lr=1e-3)),
    "fisher": (trained, sc.steps.Fisher(noise=1e-6)),
    "fisher, sampled": (trained, sc.steps.Fisher(noise=1e-6, kind="sampled")),
    "influence": (trained, sc.steps.Influence(damping=0.1, tolerance=1e-12)),
    "influence, some rows": (trained, sc.steps.Influence(damping=0.1, rows=33, rank=9, tolerance=1e-11)),
    "influence, woodfisher": (trained, sc.steps.Influence(damping=0.1, solver="woodfisher")),
    "magnitude": (trained, sc.steps.Magnitude(sparsity=0.5)),
    "snip": (start, sc.steps.Snip(sparsity=0.5, samples=50)),
    "prune-and-tune": (trained, sc.steps.PruneAndTune(sparsity=0.6, epochs=3, batch=32)),
}


def take(name):
    """Weights after a step, its trace's notes, and the rows it drew."""
    begin, step = TAKEN[name]
    state, trace = sc.apply(step, begin(), run())
    weights = {key: value.clone() for key, value in state.model.state_dict().items()}
    return weights, {key: list(map(float, values)) for key, values in trace.notes.items()}, dict(trace.drawn)


def both(work, tmp_path, *given):
    """What ``work(*given)`` gives in each of two processes that compute together."""
    path = Path(tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(
            Path(__file__).parents[1]
        )  # they look for this module where this process does
        multiprocessing.spawn(_one, (str(path), work, given), nprocs=WORLD)
    return [torch.load(path / f"rank{i}.pt", weights_only=True) for i in range(WORLD)]


def _one(rank, path, work, given):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/meet", rank=rank, world_size=WORLD)
    assert dist.get_world_size() == WORLD
    torch.save(work(*given), Path(path) / f"rank{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
