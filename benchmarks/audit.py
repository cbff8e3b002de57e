"""What an audit costs, next to the plain way of computing the same number.

- mia-efficacy: the published code's ``SVC(C=3, gamma="auto", kernel="rbf")`` on dense columns, ``fit`` on
  retain and test, ``predict`` on forget. Without a store the confidences are drawn, at the paper's size; of a
  store every set is taken as it is. "points" is our share less the plain one's, in points of 100; the goal
  is half a point at most.
- bank: 64 networks (mlp, two hidden layers) on digits, trained in stacks against one after the other. What
  stacks spare is work around the arithmetic, so the wider the layers the less.
- tier-0: 5 seconds of one processor against all audits that need no further model, on outputs as large as
  those of CIFAR-10 (made up: no audit takes longer for what they say); forward passes apart.

Both sides take turns in one process, on one thread; a ratio is the median over rounds. Where other work runs
on the machine, ``cpu_ratio`` is the one to read.

    python benchmarks/audit.py [--json] [--only mia-efficacy] [--store FOLDER [--set PREFIX]] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.svm import SVC

import secateur as sc
from secateur import stats
from secateur.evidence import Evidence
from secateur.lab.tiers import audits_up_to
from secateur.outputs import Outputs, load_outputs
from secateur.together import apply_together, best_chunk

ROWS, ASKED, SETS = 10_000, 4_500, 10
FASTER, POINTS = 30.0, 0.5
MODELS, WIDTHS, FASTER_BANK, SECONDS, CLASSES = 64, (64, 256), 3.0, 5.0, 10
Found = dict[str, Any]
Sides = tuple[np.ndarray, np.ndarray, np.ndarray]  # retain, test and forget: probabilities of the true label


class Cost(NamedTuple):
    """What one call found and took."""

    value: float
    seconds: float
    cpu_seconds: float


def timed(call: Callable[[], float]) -> Cost:
    began, used = time.perf_counter(), time.process_time()
    value = call()
    return Cost(value, time.perf_counter() - began, time.process_time() - used)


def turns(plain: Callable[[], float], ours: Callable[[], float], rounds: int) -> list[tuple[Cost, Cost]]:
    """What both sides cost, round by round; who begins changes."""
    found = []
    for i in range(rounds):
        first, second = (plain, ours) if i % 2 else (ours, plain)
        pair = timed(first), timed(second)
        found.append(pair if i % 2 else pair[::-1])
    return found


def compared(pairs: list[tuple[Cost, Cost]]) -> Found:
    """How many times as fast, by the clock and by the processor, and both values."""
    plain, ours = (
        statistics.median(side.cpu_seconds for side in sides) for sides in zip(*pairs, strict=True)
    )
    (theirs, mine), *_ = pairs
    return {
        "ratio": round(statistics.median(a.seconds / b.seconds for a, b in pairs), 1),
        "cpu_ratio": round(statistics.median(a.cpu_seconds / b.cpu_seconds for a, b in pairs), 1),
        "cpu_seconds": round(ours, 4),
        "cpu_seconds_of_other": round(plain, 3),
        "value": round(mine.value, 5),
        "value_of_other": round(theirs.value, 5),
        "points": round(100 * (mine.value - theirs.value), 3) + 0.0,  # no minus zero
        "rounds": len(pairs),
    }


def plain_efficacy(sides: Sides) -> float:
    """The published code's call: members first, as many of both kinds, dense columns."""
    retain, test, forget = sides
    count = min(len(retain), len(test))
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    machine.fit(
        np.concatenate([retain[:count], test[:count]]).reshape(-1, 1), np.repeat([1.0, 0.0], [count, count])
    )
    return float(1 - machine.predict(forget.reshape(-1, 1)).mean())


def our_efficacy(sides: Sides) -> float:
    return stats.mia_efficacy(*sides, members="first")


def mia_efficacy(asked: argparse.Namespace) -> Iterator[Found]:
    few = tuple(side[:200] for side in next(drawn())[1])
    turns(lambda: plain_efficacy(few), lambda: our_efficacy(few), 2)  # warms up
    apart, slowest = [], []
    for name, sides in stored(asked) if asked.store else drawn():
        pairs = turns(lambda at=sides: plain_efficacy(at), lambda at=sides: our_efficacy(at), asked.rounds)
        cost = compared(pairs)
        apart.append(abs(cost["points"]))
        slowest.append(cost["cpu_ratio"])
        sizes = dict(zip(("retain", "test", "forget"), map(len, sides), strict=True))
        yield {"benchmark": f"mia-efficacy, {name}", "goal": FASTER, **cost, **sizes}
    told = {"sets": len(apart), "least_cpu_ratio": min(slowest)}
    # at least one: the plain value lies within half a point of ours
    closeness = round(POINTS / max(max(apart), 0.001), 2)
    yield {
        "benchmark": "mia-efficacy, closeness",
        "ratio": closeness,
        "goal": 1.0,
        "points": max(apart),
        **told,
    }


def drawn() -> Iterator[tuple[str, Sides]]:
    """Confidences as a network gives them that knows its rows by heart, and one that does not."""
    rng = np.random.default_rng(0)
    kinds = {"by heart": ((7, 2), (4, 5), (4.5, 4)), "not by heart": ((3, 2), (1.5, 3), (2, 3))}
    for name, margins in kinds.items():
        retain, test, forget = (
            1 / (1 + np.exp(-rng.normal(*margin, size)))
            for margin, size in zip(margins, (ROWS, ROWS, ASKED), strict=True)
        )
        yield name, (retain, test, forget)


def stored(asked: argparse.Namespace) -> Iterator[tuple[str, Sides]]:
    """Sets of a store, in the order of their rows; classes without retain rows are left out of test."""
    folders = sorted(file.parent for file in asked.store.glob("outputs/*/outputs.safetensors"))
    if asked.set:
        folders = [folder for prefix in asked.set for folder in folders if folder.name.startswith(prefix)]
    else:
        folders = folders[:: max(1, len(folders) // SETS)][:SETS]
    if not folders:
        raise SystemExit(f'expected outputs in "{asked.store}", or some that start so, got none')
    for folder in folders:
        said = load_outputs(folder / "outputs.safetensors")
        gone = np.setdiff1d(said["test"].labels, said["retain"].labels)
        views = said["retain"], said["test"].without(gone), said["forget"]
        retain, test, forget = (view.confidence[np.argsort(view.rows)] for view in views)
        yield folder.name[:8], (retain, test, forget)


def bank(asked: argparse.Namespace) -> Iterator[Found]:
    """So many networks on digits, trained at once against one after the other, as steps are taken."""
    x, y = sc.zoo.digits(test=0.5).train
    split = sc.Split.of((x / 255).astype(np.float32), y, forget=np.arange(90))
    runs = [sc.Run(seed=seed, device="cpu", precision="fp32", threads=1) for seed in range(MODELS)]
    step = sc.steps.Train(epochs=5, batch=64, lr=0.1, schedule="one-cycle")

    def loss(done: list[sc.Applied]) -> float:
        return float(np.mean([one.trace.notes["loss"][-1] for one in done]))

    for width in WIDTHS:
        build = partial(sc.zoo.mlp, classes=CLASSES, channels=1, size=8, width=width)
        states = [sc.State.of(build, split, run) for run in runs]
        chunk = best_chunk(step, states, runs[0])

        def alone(states: list[sc.State] = states) -> float:
            return loss([sc.apply(step, state, run) for state, run in zip(states, runs, strict=True)])

        def together(states: list[sc.State] = states, chunk: int = chunk) -> float:
            return loss(apply_together(step, states, runs, chunk=chunk, advance=lambda _: None))

        cost = compared(turns(alone, together, asked.rounds))
        told = {"goal": FASTER_BANK if width == WIDTHS[0] else None, "chunk": chunk}
        yield {"benchmark": f"bank, {MODELS} x mlp, width {width}", **cost, **told}


def tier_0(asked: argparse.Namespace) -> Iterator[Found]:
    """Every audit that needs no further model, on outputs of the size of CIFAR-10."""
    rng = np.random.default_rng(0)
    sizes = {"forget": ASKED, "retain": 45_000 - ASKED, "test": ROWS}
    labels = {view: rng.integers(0, CLASSES, rows) for view, rows in sizes.items()}

    def said(sure: dict[str, float]) -> dict[str, Outputs]:
        found, first = {}, 0
        for view, rows in sizes.items():
            logits = rng.normal(size=(rows, CLASSES)).astype(np.float32)
            logits[np.arange(rows), labels[view]] += sure[view]
            found[view] = Outputs(logits, labels[view], first + np.arange(rows))
            first += rows
        return found

    evidence = Evidence(
        said({"forget": 6, "retain": 6, "test": 3}), said({"forget": 3, "retain": 6, "test": 3})
    )
    audits = audits_up_to(0, frozenset(sizes))

    def judged() -> float:
        return float(len(sc.judge(audits, evidence)))

    cost = timed(judged)
    told = {"seconds": round(cost.seconds, 2), "cpu_seconds": round(cost.cpu_seconds, 2)}
    ratio = round(SECONDS / cost.cpu_seconds, 2)
    yield {"benchmark": f"tier 0, {len(audits)} audits", "ratio": ratio, "goal": 1.0, **told}


MEASURES: dict[str, Callable[[argparse.Namespace], Iterator[Found]]] = {
    "mia-efficacy": mia_efficacy,
    "bank": bank,
    "tier-0": tier_0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--only", choices=MEASURES, action="append", help="may be repeated; default: all")
    parser.add_argument("--store", type=Path, help="a store, for real outputs; default: drawn confidences")
    parser.add_argument(
        "--set",
        action="append",
        help=f"outputs of the store whose name starts so; may be repeated; default: {SETS} evenly spaced",
    )
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    if not asked.json:
        print(f"{'benchmark':<32}{'ours, s':>9}{'other, s':>9}{'cpu':>8}{'ratio':>8}{'goal':>6}{'points':>8}")
    for only in asked.only or MEASURES:
        for found in MEASURES[only](asked):
            if asked.json:
                print(json.dumps(found), flush=True)
                continue
            of = ("cpu_seconds", "cpu_seconds_of_other", "cpu_ratio")
            ours, other, cpu = (found.get(name, "") for name in of)
            goal = found["goal"] or ""
            line = f"{found['benchmark']:<32}{ours:>9}{other:>9}{cpu:>8}{found['ratio']:>8}{goal:>6}"
            print(f"{line}{found.get('points', ''):>8}", flush=True)


if __name__ == "__main__":
    main()
