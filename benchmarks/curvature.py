"""What curvature costs: a diagonal Fisher and an influence step, each against what it is to stand up to.

ResNet-20s, 4,500 images of CIFAR-10, fp32, two threads. Each way has a process of its own, and they take
turns; a ratio of times is the median over rounds of the other way's seconds to ours, so more is better. Where
a way can be cut, each round is a part of the rows; all rounds together are all rows.

- Fisher, sampled and expected: against the published scheme, which takes batches of 32 and, for each class,
  the square of the batch's mean gradient towards it, weighted by the mean probability of the class. Ours
  squares the gradient of each row by itself, towards one class drawn for each row or towards all.
- correlation: Spearman's, over all weights, of the sampled with the expected Fisher on the same rows.
- layers: ours against ``torch.func`` (vmap over rows), which finds the same numbers, on a ninth of the rows.
- influence: three epochs of training on the same rows against one influence step, whose conjugate gradients
  see a tenth of the rows and stop at a relative residual of 0.1.
- in gradients: what the Fishers and a product with each matrix take, over the gradient of the mean loss on
  the same rows; estimates of plans (``gradients`` of a step) go by these.
- memory: 2 GiB against the most that the process ever held, torch itself included.

    python benchmarks/curvature.py [--json] [--data FOLDER] [--weights FILE] [--only fisher]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

import secateur as sc
from secateur.allocator import keep_freed_memory
from secateur.maths.curvature import Curvature, diagonal_fisher, mean_gradient

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES, SHARE, EPOCHS, TOLERANCE, MOST = 10, 0.1, 3, 0.1, 2 * 2**30
PUBLISHED, SAMPLED, EXPECTED, EMPIRICAL = "published scheme", "sampled", "expected", "empirical"
ONE, ALL = "torch.func, one class", "torch.func, all classes"
INFLUENCE, TUNED = "influence", "three epochs"
GRADIENT, GGN, HESSIAN = "mean gradient", "product with the GGN", "product with the Hessian"
Found = dict[str, Any]
Turns = dict[str, list[Found]]
Rows = tuple[np.ndarray, np.ndarray]
Arrays = Mapping[str, np.ndarray]


class Task(NamedTuple):
    """What a way works on; the first rows are those to forget."""

    state: sc.State
    x: np.ndarray  # [n, 3, 32, 32], bytes
    asked: argparse.Namespace
    run: sc.Run


def build() -> nn.Module:
    return sc.zoo.resnet20s(classes=CLASSES, mean=MEAN, std=STD)


def published(task: Task) -> Found:
    model = task.state.model
    parameters = list(model.parameters())
    sums = [torch.zeros_like(p) for p in parameters]
    batches = torch.from_numpy(task.x).float().div_(255).split(32)
    for x in batches:
        logits = model(x)
        chances = logits.detach().softmax(1).mean(0)
        for c in range(CLASSES):
            model.zero_grad()
            functional.cross_entropy(logits, torch.full((len(x),), c)).backward(retain_graph=True)
            for total, p in zip(sums, parameters, strict=True):
                total += chances[c] * p.grad.square()
    return {"diagonal": flat([total / len(batches) for total in sums])}


def fisher(kind: Any) -> Callable[[Task], Found]:
    def work(task: Task) -> Found:
        rows, rng = task.state.pool.once(), task.run.rng("classes")
        found = diagonal_fisher(task.state.model, rows, kind=kind, rng=rng)
        return {"diagonal": flat(found.values())}

    return work


def by_torch_func(every: bool) -> Callable[[Task], Found]:
    """Gradients of each row towards its own class, or towards all of them."""

    def work(task: Task) -> Found:
        model = task.state.model
        weights = {name: p.detach() for name, p in model.named_parameters()}

        def squares(row: Tensor, y: Tensor) -> dict[str, Tensor]:
            logits, pull = vjp(lambda w: functional_call(model, w, (row[None],))[0], weights)
            p, classes = logits.softmax(0), torch.eye(CLASSES)
            signals = p.sqrt()[:, None] * (p - classes) if every else p - classes.index_select(0, y[None])
            return {name: g.square().sum(0) for name, g in vmap(lambda s: pull(s)[0])(signals).items()}

        sums = {name: torch.zeros_like(w) for name, w in weights.items()}
        for batch in task.state.pool.once(batch=16 if every else 64):  # the fastest of those tried
            for name, value in vmap(squares)(batch.x, batch.y).items():
                sums[name] += value.sum(0)
        return {"diagonal": flat(sums.values()) / len(task.x)}

    return work


def gradient(task: Task) -> Found:
    mean_gradient(task.state.model, task.state.pool.once())
    return {}


def product(kind: Any) -> Callable[[Task], Found]:
    def work(task: Task) -> Found:
        ones = {name: torch.ones_like(p) for name, p in task.state.model.named_parameters()}
        Curvature(task.state.model, task.state.pool.once, kind=kind)(ones)
        return {}

    return work


def step(of: Callable[[Task], sc.Step]) -> Callable[[Task], Found]:
    def work(task: Task) -> Found:
        trace = sc.apply(of(task), task.state, task.run).trace
        return {name: values[-1] for name, values in trace.notes.items()}

    return work


def tuned(task: Task) -> sc.Step:
    # not fine-tune, which would leave the forget rows out
    return sc.steps.Train(epochs=EPOCHS, batch=128, lr=0.01, schedule="constant")


def influence(task: Task) -> sc.Step:
    rows, asked = max(1, round(SHARE * len(task.x))), task.asked
    return sc.steps.Influence(
        rows=rows, damping=asked.damping, tolerance=TOLERANCE, products=1_000, rank=asked.rank
    )


WAYS: dict[str, Callable[[Task], Found]] = {
    PUBLISHED: published,
    **{kind: fisher(kind) for kind in (SAMPLED, EXPECTED, EMPIRICAL)},
    ONE: by_torch_func(every=False),
    ALL: by_torch_func(every=True),
    INFLUENCE: step(influence),
    TUNED: step(tuned),
    GRADIENT: gradient,
    GGN: product("ggn"),
    HESSIAN: product("hessian"),
}


def flat(values: Iterable[Tensor]) -> np.ndarray:
    return torch.cat([value.flatten() for value in values]).numpy()


def state_of(x: np.ndarray, y: np.ndarray, weights: Arrays | None, run: sc.Run) -> sc.State:
    split = sc.Split.of(x, y, forget=np.arange(max(1, round(SHARE * len(x)))))
    if weights is None:
        return sc.State.of(build, split, run)
    model = build()
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return sc.State.of(build, split, run, model=model)


def plain_run(asked: argparse.Namespace) -> sc.Run:
    return sc.Run(device="cpu", precision="fp32", threads=asked.threads)


def work(line: Connection, way: str, asked: argparse.Namespace) -> None:
    """One way, in a process of its own: works whenever it is handed rows and weights, and tells the cost."""
    run = plain_run(asked)
    if way != PUBLISHED:
        keep_freed_memory()  # as the command line does
    while handed := line.recv():
        x, y, weights = handed
        task = Task(state_of(x, y, weights, run), x, asked, run)
        with run.steady():
            began, used = time.perf_counter(), time.process_time()
            found = WAYS[way](task)
            cost = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        line.send({**found, **cost, "bytes": peak})


class Ways:
    """All ways, each in its process."""

    def __init__(self, asked: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.lines: dict[str, Connection] = {}
        for way in WAYS:
            self.lines[way], other = context.Pipe()
            context.Process(target=work, args=(other, way, asked), daemon=True).start()
            other.close()  # or the end of a process would go unnoticed

    def turns(self, ways: tuple[str, ...], rounds: list[Rows], weights: Arrays) -> Turns:
        """What each way finds, round by round, in turns."""
        found: Turns = {way: [] for way in ways}
        few = part(rounds[0], slice(64))
        for i, rows in enumerate([few, *rounds]):
            for way in ways[:: -1 if i % 2 else 1]:
                self.lines[way].send((*rows, weights))
                got = self.lines[way].recv()
                if i:  # the first warms up
                    found[way].append(got)
        return found

    def end(self) -> None:
        """Let every process come to its end."""
        for line in self.lines.values():
            with contextlib.suppress(OSError):  # one that has failed takes no word
                line.send(None)


def part(rows: Rows, at: slice) -> Rows:
    return rows[0][at], rows[1][at]


def cut(rows: Rows, rounds: int) -> list[Rows]:
    return [part(rows, slice(i, None, rounds)) for i in range(rounds)]


def faster(theirs: list[Found], ours: list[Found]) -> Found:
    """How many times as fast, by the clock and by the processor."""
    pairs = list(zip(theirs, ours, strict=True))
    return {
        "ratio": round(statistics.median(a["seconds"] / b["seconds"] for a, b in pairs), 3),
        "cpu_ratio": round(statistics.median(a["cpu_seconds"] / b["cpu_seconds"] for a, b in pairs), 3),
        "seconds": round(sum(b["seconds"] for _, b in pairs), 2),
        "seconds_of_other": round(sum(a["seconds"] for a, _ in pairs), 2),
        "rounds": len(pairs),
    }


class Bench(NamedTuple):
    """What the measures share."""

    ways: Ways
    rows: Rows
    networks: dict[str, Arrays]
    asked: argparse.Namespace

    def about(self, network: str) -> Found:
        """What the network is: how much of the rows it knows."""
        right = accuracy(self.networks[network], self.rows, plain_run(self.asked))
        return {"network": network, "accuracy": round(right, 4)}


def fisher_costs(bench: Bench) -> Iterator[Found]:
    rounds = cut(bench.rows, bench.asked.rounds)
    for i, (network, weights) in enumerate(bench.networks.items()):
        # time does not depend on the weights
        ways = (SAMPLED, EXPECTED) if i else (PUBLISHED, SAMPLED, EXPECTED)
        found = bench.ways.turns(ways, rounds, weights)
        if not i:
            for kind, goal in ((SAMPLED, 4.0), (EXPECTED, 0.5)):
                yield {"benchmark": f"Fisher, {kind}", "goal": goal, **faster(found[PUBLISHED], found[kind])}
        diagonals = [np.mean([one["diagonal"] for one in found[kind]], 0) for kind in (SAMPLED, EXPECTED)]
        alike = round(float(spearmanr(*diagonals).statistic), 4)
        told = {"ratio": alike, "goal": 0.9, **bench.about(network)}
        yield {"benchmark": f"correlation, {network}", **told}
        if not i:
            yield from (memory(kind, found) for kind in (SAMPLED, EXPECTED))


def formulations(bench: Bench) -> Iterator[Found]:
    few = part(bench.rows, slice(max(1, len(bench.rows[1]) // 9)))
    rounds = cut(few, bench.asked.rounds)
    found = bench.ways.turns((ONE, EMPIRICAL, ALL, EXPECTED), rounds, next(iter(bench.networks.values())))
    for theirs, ours, told in ((ONE, EMPIRICAL, "one class"), (ALL, EXPECTED, "all classes")):
        a, b = found[theirs][0]["diagonal"], found[ours][0]["diagonal"]
        apart = {"apart": float(np.linalg.norm(a - b) / np.linalg.norm(b)), "rows": len(few[1])}
        peaks = {"bytes": found[ours][-1]["bytes"], "bytes_of_other": found[theirs][-1]["bytes"]}
        cost = faster(found[theirs], found[ours])
        yield {"benchmark": f"layers, {told}", "goal": None, **cost, **apart, **peaks}


def influence_costs(bench: Bench) -> Iterator[Found]:
    for network, weights in bench.networks.items():
        found = bench.ways.turns((TUNED, INFLUENCE), [bench.rows] * bench.asked.rounds, weights)
        cost, last = faster(found[TUNED], found[INFLUENCE]), found[INFLUENCE][-1]
        reached = {of: last[of] for of in ("residual", "iterations")}
        reached |= {"damping": bench.asked.damping, "rank": bench.asked.rank}
        yield {"benchmark": f"influence, {network}", "goal": 1.0, **cost, **reached, **bench.about(network)}
    yield memory(INFLUENCE, found)


def in_gradients(bench: Bench) -> Iterator[Found]:
    ways = (GRADIENT, SAMPLED, EXPECTED, GGN, HESSIAN)
    rounds = cut(part(bench.rows, slice(max(1, len(bench.rows[1]) // 4))), bench.asked.rounds)
    found = bench.ways.turns(ways, rounds, next(iter(bench.networks.values())))
    for way in ways[1:]:
        yield {"benchmark": f"gradients, {way}", "goal": None, **faster(found[way], found[GRADIENT])}


MEASURES = {
    "fisher": fisher_costs,
    "layers": formulations,
    "influence": influence_costs,
    "gradients": in_gradients,
}


def memory(way: str, found: Turns) -> Found:
    peak = found[way][-1]["bytes"]
    return {"benchmark": f"memory, {way}", "ratio": round(MOST / peak, 3), "goal": 1.0, "bytes": peak}


def measure(asked: argparse.Namespace) -> Iterator[Found]:
    ways = Ways(asked)  # before there is any data: on Linux a process starts with the peak of its parent
    run, rows = plain_run(asked), images(asked)
    networks = {f"after {asked.epochs} epochs": trained(rows, asked, run)} if asked.epochs else {}
    networks |= {name(file): loaded(file) for file in asked.weights}
    about = {"rows": len(rows[1]), "data": "CIFAR-10" if asked.data else "random", **run.describe()}
    try:
        for only in asked.only or MEASURES:
            for row in MEASURES[only](Bench(ways, rows, networks, asked)):
                yield row | {key: value for key, value in about.items() if key not in row}
    finally:
        ways.end()


def name(file: Path) -> str:
    """A store calls every file the same, and its folder by a long key."""
    return file.parent.name[:8] if file.stem == "state" else file.stem


def images(asked: argparse.Namespace) -> Rows:
    if asked.data:
        x, y = sc.zoo.cifar10(path=str(asked.data), limit=asked.rows).train
        return np.asarray(x), np.asarray(y)
    x = np.random.default_rng(0).integers(0, 256, (asked.rows, 3, 32, 32), dtype=np.uint8)
    return x, np.arange(asked.rows) % CLASSES


def trained(rows: Rows, asked: argparse.Namespace, run: sc.Run) -> Arrays:
    step = sc.steps.Train(epochs=asked.epochs, batch=128, lr=0.1, schedule="one-cycle")
    model = sc.apply(step, state_of(*rows, None, run), run).state.model
    return {name: value.numpy() for name, value in model.state_dict().items()}


def loaded(file: Path) -> Arrays:
    """A network of a file by itself, or of a store's entry, which also holds masks and marks."""
    found = safetensors.numpy.load_file(file)
    inside = {
        name.removeprefix("model/"): value for name, value in found.items() if name.startswith("model/")
    }
    return inside or found


def accuracy(weights: Arrays, rows: Rows, run: sc.Run) -> float:
    state = state_of(*rows, weights, run)
    with run.steady():
        said = sc.observe(state.model, {"pool": state.pool}, run)["pool"]
    return float((said.logits.argmax(1) == said.labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10 as parquet; default: random images")
    parser.add_argument(
        "--weights", type=Path, action="append", default=[], help="also look at this network; may be repeated"
    )
    parser.add_argument("--rows", type=int, default=4_500)
    parser.add_argument(
        "--epochs", type=int, default=2, help="to train a network for; 0: none, only --weights"
    )
    parser.add_argument("--damping", type=float, default=0.01, help="of the influence step")
    parser.add_argument("--rank", type=int, default=450, help="of its preconditioner; 0: none")
    parser.add_argument("--only", choices=MEASURES, action="append", help="may be given twice; default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    if not asked.epochs and not asked.weights:
        parser.error("without epochs there is no network: give --weights")
    if not asked.json:
        print(
            "the images are " + ("of CIFAR-10" if asked.data else "random: times are right, networks are not")
        )
        print(f"{'benchmark':<32}{'ours, s':>9}{'other, s':>9}{'ratio':>8}{'goal':>6}")
    for found in measure(asked):
        if asked.json:
            print(json.dumps(found), flush=True)
            continue
        ours, other, goal = (found.get(of) or "" for of in ("seconds", "seconds_of_other", "goal"))
        print(f"{found['benchmark']:<32}{ours:>9}{other:>9}{found['ratio']:>8}{goal:>6}", flush=True)


if __name__ == "__main__":
    main()
