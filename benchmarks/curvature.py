"""What curvature costs: a diagonal Fisher and an influence step, each against what it is to stand up to.

ResNet-20s, 4,500 images of CIFAR-10, fp32, two threads. Each way has a process of its own, and they take
turns; a ratio of times is the median over rounds of the other way's seconds to ours, so more is better.

- Fisher, sampled and expected: against the published scheme, which takes batches of 32 and, for each class,
  the square of the batch's mean gradient towards it, weighted by the mean probability of the class. Ours
  squares the gradient of each row by itself, towards one class drawn for each row or towards all.
- layers: ours against ``torch.func`` (vmap over rows), which finds the same numbers; on a ninth of the rows.
- correlation: Spearman's, over all weights, of the sampled with the expected Fisher on the same rows.
- influence: three epochs of training on the same rows against one influence step, whose conjugate gradients
  see a tenth of the rows and stop at a relative residual of 0.1.
- memory: 2 GiB against the most that the process ever held, torch itself included.

    python benchmarks/curvature.py [--json] [--data FOLDER] [--weights FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

import secateur as sc
from secateur.allocator import keep_freed_memory
from secateur.maths.curvature import diagonal_fisher

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES, SHARE, EPOCHS, TOLERANCE, MOST = 10, 0.1, 3, 0.1, 2 * 2**30
PUBLISHED, SAMPLED, EXPECTED, EMPIRICAL = "published scheme", "sampled", "expected", "empirical"
ONE, ALL = "torch.func, one class", "torch.func, all classes"
INFLUENCE, TUNED = "influence", "three epochs"
Found = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class Task(NamedTuple):
    """What a way works on; the first rows are those to forget."""

    model: nn.Module
    x: np.ndarray  # [n, 3, 32, 32], bytes
    y: np.ndarray  # [n]
    run: sc.Run
    asked: argparse.Namespace

    @property
    def state(self) -> sc.State:
        split = sc.Split.of(self.x, self.y, forget=np.arange(max(1, round(SHARE * len(self.x)))))
        return sc.State.of(build, split, self.run, model=self.model)


def build() -> nn.Module:
    return sc.zoo.resnet20s(classes=CLASSES, mean=MEAN, std=STD)


def published(task: Task) -> Found:
    parameters = list(task.model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    batches = torch.from_numpy(task.x).float().div_(255).split(32)
    for x in batches:
        logits = task.model(x)
        chances = logits.detach().softmax(1).mean(0)
        for c in range(CLASSES):
            task.model.zero_grad()
            functional.cross_entropy(logits, torch.full((len(x),), c)).backward(retain_graph=True)
            for total, p in zip(sums, parameters, strict=True):
                total += chances[c] * p.grad.square()
    return {"diagonal": flat([total / len(batches) for total in sums])}


def fisher(kind: Any) -> Callable[[Task], Found]:
    def work(task: Task) -> Found:
        # as the step for Fisher forgetting does it
        found = diagonal_fisher(task.model, task.state.pool.once(), kind=kind, rng=task.run.rng("classes"))
        return {"diagonal": flat(found.values())}

    return work


def by_torch_func(every: bool) -> Callable[[Task], Found]:
    """Gradients of each row towards its own class, or towards all of them."""

    def work(task: Task) -> Found:
        weights = {name: p.detach() for name, p in task.model.named_parameters()}

        def squares(row: Tensor, y: Tensor) -> dict[str, Tensor]:
            logits, pull = vjp(lambda w: functional_call(task.model, w, (row[None],))[0], weights)
            p, classes = logits.softmax(0), torch.eye(CLASSES)
            signals = p.sqrt()[:, None] * (p - classes) if every else p - classes.index_select(0, y[None])
            return {name: g.square().sum(0) for name, g in vmap(lambda s: pull(s)[0])(signals).items()}

        sums = {name: torch.zeros_like(w) for name, w in weights.items()}
        for batch in task.state.pool.once(batch=task.asked.together):
            for name, value in vmap(squares)(batch.x, batch.y).items():
                sums[name] += value.sum(0)
        return {"diagonal": flat(sums.values()) / len(task.y)}

    return work


def step(of: Callable[[Task], sc.Step]) -> Callable[[Task], Found]:
    def work(task: Task) -> Found:
        trace = sc.apply(of(task), task.state, task.run).trace
        return {name: values[-1] for name, values in trace.notes.items()}

    return work


def tuned(task: Task) -> sc.Step:
    return sc.steps.Train(epochs=EPOCHS, batch=128, lr=0.01, schedule="constant")


def influence(task: Task) -> sc.Step:
    rows = max(1, round(SHARE * len(task.y)))
    damping = task.asked.damping
    return sc.steps.Influence(rows=rows, damping=damping, tolerance=TOLERANCE, products=1_000)


WAYS: dict[str, Callable[[Task], Found]] = {
    PUBLISHED: published,
    **{kind: fisher(kind) for kind in (SAMPLED, EXPECTED, EMPIRICAL)},
    ONE: by_torch_func(every=False),
    ALL: by_torch_func(every=True),
    INFLUENCE: step(influence),
    TUNED: step(tuned),
}


def flat(values: Any) -> np.ndarray:
    return torch.cat([value.flatten() for value in values]).numpy()


def work(line: Connection, way: str, asked: argparse.Namespace) -> None:
    """One way, in a process of its own: works whenever it is handed rows and weights, and tells the cost."""
    run = sc.Run(device="cpu", precision="fp32", threads=asked.threads)
    if way != PUBLISHED:
        keep_freed_memory()  # as the command line does
    while handed := line.recv():
        x, y, weights = handed
        task = Task(with_weights(weights), x, y, run, asked)
        with run.steady():
            began, used = time.perf_counter(), time.process_time()
            found = WAYS[way](task)
            cost = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        line.send({**found, **cost, "bytes": peak})


def with_weights(weights: Arrays) -> nn.Module:
    model = build().eval()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


class Ways:
    """All ways, each in its process."""

    def __init__(self, asked: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.lines: dict[str, Connection] = {}
        for way in WAYS:
            self.lines[way], other = context.Pipe()
            context.Process(target=work, args=(other, way, asked), daemon=True).start()

    def find(self, way: str, x: np.ndarray, y: np.ndarray, weights: Arrays) -> Found:
        self.lines[way].send((x, y, weights))
        found: Found = self.lines[way].recv()
        return found

    def turns(
        self, ways: tuple[str, ...], rounds: int, x: np.ndarray, y: np.ndarray, weights: Arrays
    ) -> dict[str, list[Found]]:
        """What each way finds, round by round, in turns."""
        for way in ways:
            self.find(way, x[:64], y[:64], weights)  # warms up
        found: dict[str, list[Found]] = {way: [] for way in ways}
        for round_ in range(rounds):
            for way in ways[:: -1 if round_ % 2 else 1]:
                found[way].append(self.find(way, x, y, weights))
        return found


def faster(theirs: list[Found], ours: list[Found]) -> dict[str, float]:
    """The ratio of seconds, and what it is made of."""

    def ratio(of: str) -> float:
        return round(statistics.median(a[of] / b[of] for a, b in zip(theirs, ours, strict=True)), 3)

    return {
        "ratio": ratio("seconds"),
        "cpu_ratio": ratio("cpu_seconds"),
        "seconds": round(statistics.median(found["seconds"] for found in ours), 2),
        "other_seconds": round(statistics.median(found["seconds"] for found in theirs), 2),
    }


def measure(asked: argparse.Namespace) -> Iterator[dict[str, object]]:
    ways = Ways(asked)  # before there is any data: on Linux a process inherits the peak of its parent
    x, y = images(asked)
    run = sc.Run(device="cpu", precision="fp32", threads=asked.threads)
    networks = {f"trained {asked.epochs} epochs": trained(x, y, asked, run)}
    networks |= {name(file): safe(file) for file in asked.weights}
    about = {"rows": len(y), "data": "CIFAR-10" if asked.data else "random", **run.describe()}
    once, weights = about | {"rounds": asked.rounds}, next(iter(networks.values()))

    found = ways.turns((PUBLISHED, SAMPLED, EXPECTED), asked.rounds, x, y, weights)
    for kind, goal in ((SAMPLED, 4.0), (EXPECTED, 0.5)):
        yield {"benchmark": f"Fisher, {kind}", "goal": goal, **faster(found[PUBLISHED], found[kind]), **once}
    few = max(1, len(y) // 9)
    less = ways.turns((ONE, EMPIRICAL, ALL, EXPECTED), asked.rounds, x[:few], y[:few], weights)
    for theirs, ours, told in ((ONE, EMPIRICAL, "one class"), (ALL, EXPECTED, "all classes")):
        a, b = less[theirs][0]["diagonal"], less[ours][0]["diagonal"]
        apart = float(np.linalg.norm(a - b) / np.linalg.norm(b))
        cost = faster(less[theirs], less[ours])
        yield {"benchmark": f"layers, {told}", "goal": None, **cost, **once, "rows": few, "apart": apart}
    for network, weights in networks.items():
        is_ = {"network": network, "accuracy": accuracy(weights, x, y, run), **about}
        a, b = (ways.find(kind, x, y, weights)["diagonal"] for kind in (SAMPLED, EXPECTED))
        alike = {"ratio": round(float(spearmanr(a, b).statistic), 4), "goal": 0.9}
        yield {"benchmark": f"correlation, {network}", **alike, "exactly_0": float((b == 0).mean()), **is_}
        both = ways.turns((TUNED, INFLUENCE), asked.rounds, x, y, weights)
        last = both[INFLUENCE][-1]
        reached = {of: last[of] for of in ("residual", "iterations")} | {"damping": asked.damping}
        cost = faster(both[TUNED], both[INFLUENCE])
        yield {"benchmark": f"influence, {network}", "goal": 1.0, **cost, **reached, **is_, **once}
    for way in (SAMPLED, EXPECTED, INFLUENCE):
        peak = ways.find(way, x[:64], y[:64], weights)["bytes"]
        yield {
            "benchmark": f"memory, {way}", "ratio": round(MOST / peak, 3), "goal": 1.0, "bytes": peak, **about
        }


def images(asked: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    if asked.data:
        return sc.zoo.cifar10(path=str(asked.data), limit=asked.rows).train
    x = np.random.default_rng(0).integers(0, 256, (asked.rows, 3, 32, 32), dtype=np.uint8)
    return x, np.arange(asked.rows) % CLASSES
