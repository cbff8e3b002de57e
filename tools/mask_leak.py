"""Does a pruning mask tell whether the forget data was there? ``python tools/mask_leak.py FOLDER``.

Networks for digits, half trained with the rows to be forgotten and half without, are pruned in one shot. An
attacker who sees masks alone, one flag for each weight, learns from some to tell the rest apart. Beside it
the same attack on the weights, on masks drawn at random, and with labels drawn at random. Requests are a
class, a random tenth of the rows, and, so that both halves have as many rows, one tenth against another.

Twice: networks with initial weights of their own, and with the same ones, where a place in one mask means
what it means in the others. Orders of batches differ always. Writes mask-leak.csv and mask-leak.svg.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from cells import by_cell
from matplotlib.figure import Figure
from rich.progress import Progress
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import secateur as sc
from secateur.together import apply_together

SPARSITIES = (0.5, 0.9, 0.95)
STARTS = {"own": "starts of their own", "same": "the same start"}
AT_ONCE = 40  # networks in one stack
Features = dict[tuple[str, float], np.ndarray]  # pruner and sparsity to [networks, weights]


class Point(NamedTuple):
    """One attack; of labels drawn at random there are several."""

    start: str
    request: str
    pruner: str
    sparsity: float
    what: str
    auc: float
    auc_low: float
    auc_high: float
    networks: int


def points(asked: argparse.Namespace, progress: Progress, start: str) -> Iterator[Point]:
    """Train, prune and attack; networks serve every request that asks for their rows."""
    data = sc.zoo.digits()
    (x, y), rng = data.train, np.random.default_rng(0)
    drawn, tenth = rng.permutation(len(y)), len(y) // 10
    rows = {"class 3": np.flatnonzero(y == 3), "tenth": drawn[:tenth], "other": drawn[tenth : 2 * tenth]}
    # the half with the rows, and the half without
    requests = {
        "class 3": ("all", "class 3"),
        "random 10 %": ("all", "tenth"),
        "10 % or others": ("other", "tenth"),
    }
    halves, i = {"all": [], **rows}, list(STARTS).index(start)
    bar = progress.add_task(f"networks, {STARTS[start]}", total=asked.networks * len(halves))
    made, shuffles = {}, np.random.default_rng([1, i])
    for j, (name, gone) in enumerate(halves.items()):
        # training is on the pool, so what is to be unknown is not in it
        left = np.setdiff1d(np.arange(len(y)), gone)
        split = sc.Split.of(x[left], y[left], forget=[0], test=data.test)
        first = 100_000 * (len(halves) * i + j + 1)  # no seed is used twice
        runs = [sc.Run(seed=first + k, precision="fp32", threads=1) for k in range(asked.networks)]
        made[name], right = networks(asked.epochs, split, runs, start)
        progress.advance(bar, asked.networks)
        progress.print(f"{start} start, less {len(gone)} rows ({name}): test accuracy {right:.1%}")
    for name, (having, lacking) in requests.items():
        for key in made["all"]:
            both = np.concatenate([made[having][key], made[lacking][key]]).astype(np.float64)
            labels = np.repeat([True, False], asked.networks)
            at = (start, name, *key)
            told = rotated(both)
            yield Point(*at, "mask" if key[1] else "weights", *attack(told, labels))
            if key[0] == "magnitude":
                for _ in range(asked.shuffles):
                    yield Point(*at, "shuffled", *attack(told, shuffles.permutation(labels)))


def networks(epochs: int, split: sc.Split, runs: list[sc.Run], start: str) -> tuple[Features, float]:
    """Weights and masks of networks trained on the pool, and their mean test accuracy before pruning."""
    # both halves take as many updates: 6 an epoch
    step = sc.steps.Train(epochs=epochs, batch=256, lr=0.1, momentum=0.9, schedule="cosine")
    build = partial(sc.zoo.mlp, size=8, width=32)
    states = [sc.State.of(build, split, run if start == "own" else replace(run, seed=0)) for run in runs]
    done = []
    for k in range(0, len(runs), AT_ONCE):
        these = slice(k, k + AT_ONCE)
        done += apply_together(step, states[these], runs[these], chunk=AT_ONCE, advance=lambda _: None)
    trained = [one.state for one in done]
    prunable = list(trained[0].prunable("all"))

    def flat(tensors: list[dict[str, torch.Tensor]]) -> np.ndarray:
        return np.stack([torch.cat([one[k].flatten() for k in prunable]).numpy() for one in tensors])

    found = {("none", 0.0): flat([{k: v.detach() for k, v in s.model.named_parameters()} for s in trained])}
    ways = {"magnitude": (sc.steps.Magnitude, trained)}
    if start == "own":  # a mask drawn at random knows no start
        ways["random"] = (sc.steps.Random, states)
    for way, (pruner, before) in ways.items():
        for sparsity in SPARSITIES:
            pruned = [
                sc.apply(pruner(sparsity=sparsity), state, run).state
                for state, run in zip(before, runs, strict=True)
            ]
            found[way, sparsity] = flat([dict(state.masks) for state in pruned])
    right = [sc.observe(s.model, {"test": split["test"]}, runs[0])["test"].correct.mean() for s in trained]
    return found, float(np.mean(right))


def rotated(features: np.ndarray) -> np.ndarray:
    """Features as the attack takes them."""
    centred = features - features.mean(axis=0)
    # one scale for masks and weights, which fixes what the strength of the penalty means
    centred /= np.sqrt((centred**2).sum(axis=1).mean())
    # a rotation, which an l2 penalty does not notice: as many columns as networks
    found: np.ndarray = np.linalg.qr(centred.T, mode="r").T
    return found


def attack(features: np.ndarray, labels: np.ndarray) -> tuple[float, float, float, int]:
    """The area under the curve of a linear attack on networks that it did not learn from, with its interval.

    Folds would use each network twice, and DeLong's interval, which takes scores for independent, would then
    hold 0.5 in some 82 % of shuffles only.
    """
    known, new = train_test_split(np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=0)
    model = LogisticRegression(C=1.0, max_iter=1000).fit(features[known], labels[known])
    scores, truth = model.decision_function(features[new]), labels[new]
    area = sc.stats.roc_auc(scores[truth], scores[~truth])
    return round(area.value, 4), round(area.low, 4), round(area.high, 4), len(labels)


def draw(found: list[Point], path: Path) -> None:
    series = {
        ("magnitude", "mask"): ("mask, magnitude", "o", "#1f5c42"),
        ("none", "weights"): ("weights, dense", "s", "#6b6b6b"),
        ("random", "mask"): ("mask, random", "x", "#7a5195"),
    }
    places, starts = [0.0, *SPARSITIES], list(dict.fromkeys(p.start for p in found))
    requests = list(dict.fromkeys(p.request for p in found))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "secateur", "font.size": 10}):
        figure = Figure(figsize=(10, 6), layout="constrained")
        panels = figure.subplots(len(starts), len(requests), sharex=True, sharey=True, squeeze=False)
        for axes, (start, request) in zip(
            panels.flat, ((s, r) for s in starts for r in requests), strict=True
        ):
            here = [p for p in found if (p.start, p.request) == (start, request)]
            axes.axhline(0.5, color="#999999", linewidth=1, zorder=0)
            shuffled = [p for p in here if p.what == "shuffled"]
            axes.plot(
                [places.index(p.sparsity) + 0.32 for p in shuffled],
                [p.auc for p in shuffled],
                "_",
                color="#999999",
                markersize=9,
                label="magnitude, labels shuffled",
            )
            for i, (key, (label, marker, colour)) in enumerate(series.items()):
                these = [p for p in here if (p.pruner, p.what) == key]
                value, low, high = (np.array([getattr(p, k) for p in these]) for k in Point._fields[5:8])
                axes.errorbar(
                    [places.index(p.sparsity) + (i - 1) * 0.17 * (p.sparsity > 0) for p in these],
                    value,
                    (value - low, high - value),
                    fmt=marker,
                    color=colour,
                    label=label,
                    markersize=5,
                    linewidth=1.2,
                )
            axes.set_title(f"{request}, {STARTS[start]}", fontsize=10)
            axes.set_xticks(range(len(places)), ["dense", *(f"{s:.0%}" for s in SPARSITIES)])
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels[-1]:
            axes.set_xlabel("sparsity")
        for axes in panels[:, 0]:
            axes.set_ylabel("area under the ROC curve")
        figure.legend(
            *panels.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", type=int, default=80, help="in each half")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--shuffles", type=int, default=20, help="of the labels of each magnitude mask")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    about = [asked.networks, asked.epochs, asked.shuffles]
    with Progress() as progress:

        def of_start(start: str) -> Iterator[Point]:
            return points(asked, progress, start)

        made = by_cell(asked.folder / "mask-leak.part", about, [(start,) for start in STARTS], of_start)
        found = [Point(*line) for lines in made for line in lines]
    with (asked.folder / "mask-leak.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Point._fields)
        writer.writerows([f"{v:.4g}" if isinstance(v, float) else v for v in p] for p in found)
    draw(found, asked.folder / "mask-leak.svg")
    null = [p.auc_low <= 0.5 <= p.auc_high for p in found if p.what == "shuffled"]
    print(f"of {len(null)} attacks with shuffled labels the intervals of {np.mean(null):.1%} hold 0.5")


if __name__ == "__main__":
    main()
