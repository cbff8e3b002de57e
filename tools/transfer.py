"""Does forgetting classes help another task? ``python tools/transfer.py STORE FOLDER --to cifar10``.

Each model of a store, before and after unlearning, learns a downstream set from few labels: a linear probe on
its penultimate features, or fine-tuning of the whole network under a new head. ``transfer-probe.csv`` has a
line for each: accuracy on the downstream test rows with its Wilson interval, the difference from the original
on the same rows with a paired bootstrap interval, seconds of unlearning beside those of the retrain.

``--rank 10`` chooses instead which ten source classes to forget, by downstream holdout rows alone, and prints
them as ``--set`` takes them; ``ranking-mapping.csv`` has all. Why so: docs/decisions/transfer.md.
"""

from __future__ import annotations

import argparse
import csv
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from results import of_plan
from results import parser as parser_of
from rich.progress import track
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

import secateur as sc
from secateur import knobs, stats
from secateur.data import View
from secateur.errors import DataError, SecateurError, UsageError, nearest
from secateur.lab import Store, read_plan
from secateur.lab.execute import Lab
from secateur.lab.read import DATASETS
from secateur.network import copy_model, find_head
from secateur.record import Record
from secateur.report import names
from secateur.stats import Interval
from secateur.table import Table

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
WHO = ("request", "start", "method", "seed", "how", "labels")
SHARES = tuple(f"{name}{end}" for name in ("accuracy", "gain") for end in ("", "_low", "_high"))
COLUMNS = (*WHO, *SHARES, "seconds", "of_retrain")


@dataclass(frozen=True)
class Task:
    """A downstream set.

    Attributes:
        made: The data set, for its augmentation.
        labels: Training rows of each class; None: all that are not held out.
        holdout: Training rows of each class that choices are made by, apart from ``labels`` and from test.
    """

    made: sc.zoo.Collection
    labels: int | None
    holdout: int

    @cached_property
    def train(self) -> Table:
        """The rows that labels and holdout are drawn from."""
        return Table.read(*self.made.train, what="the downstream training data")

    @cached_property
    def test(self) -> Table:
        """The rows that accuracy is told of, and nothing else."""
        return Table.read(*self.made.test, what="the downstream test data")

    @property
    def classes(self) -> int:
        """How many, by the training rows."""
        return 1 + int(self.train.y.max())

    def drawn(self, run: sc.Run) -> tuple[Ints, Ints]:
        """Positions of the rows with labels, and of the holdout. A seed has one order: more add to fewer."""
        few, held, y = [], [], self.train.y.numpy()
        least = self.holdout + (self.labels or 1)
        for c in np.unique(y):
            rows = np.flatnonzero(y == c)
            if len(rows) < least:
                raise DataError(
                    f"expected {least} training rows of the downstream class {c}, some to learn from and "
                    f"some to choose by, got {len(rows)}: the two may not overlap; ask for fewer --labels or "
                    "--holdout"
                )
            rows = rows[torch.randperm(len(rows), generator=run.rng(f"transfer/{c}")).numpy()]
            cut = len(rows) - self.holdout
            few.append(rows[:cut][: self.labels])
            held.append(rows[cut:])
        return np.sort(np.concatenate(few)), np.sort(np.concatenate(held))


@dataclass(frozen=True)
class How:
    """How a model is taken to the task; knobs as in a plan, ``l2`` that of the probe."""

    how: str = "probe"
    l2: float = 1.0
    epochs: int = 20
    lr: float = 0.01
    batch: int = 64

    def correct(self, state: sc.State, task: Task, run: sc.Run, few: Ints, asked: View) -> Bools:
        """Which of the rows asked about [n] are answered rightly after learning from the few."""
        head = head_of(state.model, asked, run)
        if self.how == "fine-tune":
            model = self._tuned(state, head, task, run, few)
            return sc.observe(model, {"asked": asked}, run)["asked"].correct
        views = {"few": View("few", task.train, torch.from_numpy(few)), "asked": asked}
        # under the new head, since a label must be within the logits; the features are those before it
        said = sc.observe(grafted(state.model, head, task.classes, run), views, run, features=head)
        learned = probe(said["few"].features, said["few"].labels, self.l2)
        return np.asarray(learned.predict(wide(said["asked"].features)) == said["asked"].labels)

    def _tuned(self, state: sc.State, head: str, task: Task, run: sc.Run, few: Ints) -> nn.Module:
        # nothing is forgotten here, but a split asks for a row; training on the pool is blind to it
        split = sc.Split.over(
            task.train,
            forget=few[:1],
            holdout=np.setdiff1d(np.arange(len(task.train.y)), few),
            augment=task.made.augment,
        )
        model = grafted(state.model, head, task.classes, run)
        start = sc.State.of(lambda: grafted(state.build(), head, task.classes, run), split, run, model=model)
        masks = {name: mask for name, mask in state.masks.items() if not name.startswith(f"{head}.")}
        train = sc.steps.Train(epochs=self.epochs, lr=self.lr, batch=self.batch, schedule="cosine")
        return sc.apply(train, start.pruned(masks), run).state.model


def head_of(model: nn.Module, view: View, run: sc.Run) -> str:
    head = find_head(model, next(iter(view.on(run.where, run.dtype, run.layout).fresh().once(batch=2))).x)
    if not head:
        raise DataError(
            "expected features before the head, got a model that is its head: nothing can transfer"
        )
    return head


def grafted(model: nn.Module, head: str, classes: int, run: sc.Run) -> nn.Module:
    """A copy under a new head, the same for all models of one seed."""
    model = copy_model(model)
    old = model.get_submodule(head)
    with run.seeded("transfer/head"):
        new = nn.Linear(old.in_features, classes)
    model.set_submodule(head, new.to(old.weight))
    return model.eval()


def probe(features: Any, labels: Ints, l2: float) -> Pipeline:
    """Logistic regression on features of variance 1: the sum of losses in nats plus l2 / 2 |w|^2."""
    found = make_pipeline(StandardScaler(), LogisticRegression(C=1 / l2, max_iter=2000))
    return found.fit(wide(features), labels)


def wide(features: Any) -> NDArray[np.float64]:
    return np.asarray(features, dtype=np.float64)


class Ends(NamedTuple):
    """A run's two models, and what both stand on."""

    record: Record
    before: sc.State
    after: sc.State
    key: str  # of the original
    run: sc.Run


def ends(store: Path, records: Iterable[Record]) -> Iterator[Ends]:
    """The models of each run, from the store: no step is taken."""
    lab = Lab(Store(store))
    for record in records:
        plan = read_plan(dict(record.plan), source=record.key)
        ground = lab.ground(plan)
        lab.check_stored(plan, ground)
        links, _ = lab.walk(plan, ground)
        first = links[-1 if plan.unlearn is None else plan.unlearn]
        yield Ends(record, lab.state(first, ground), lab.state(links[-1], ground), first.key, ground.run)


def lines(found: Iterable[Ends], task: Task, how: How, records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """A line for each original and each unlearned model."""
    told = {
        r.key: f"{name} {detail}".strip()
        for r, (name, detail) in zip(records, names.methods(records), strict=True)
    }
    originals: dict[str, Bools] = {}
    asked = View("test", task.test, torch.arange(len(task.test.y)))
    for record, before, after, key, run in found:
        few, _ = task.drawn(run)
        who = {
            "start": f"{record.sparsity:.0%} sparse" if record.sparsity > 0.005 else "dense",
            "seed": run.seed,
            "how": how.how,
            "labels": len(few),
        }
        if key not in originals:
            originals[key] = how.correct(before, task, run, few, asked)
            seconds = sum(step.seconds for step in record.steps[: record.unlearn])
            none = {"request": "", "method": "original", "seconds": seconds}
            yield who | none | accuracy(originals[key]) | {"original": key}
        if record.unlearn is not None:
            seconds = sum(step.seconds for step in record.steps[record.unlearn :])
            right = how.correct(after, task, run, few, asked)
            mine = {"request": record.request, "method": told[record.key], "seconds": seconds}
            yield who | mine | accuracy(right, originals[key]) | {"original": key}


def accuracy(right: Bools, before: Bools | None = None) -> dict[str, float]:
    """The share of rows [n] answered rightly, and what it is above that of the original on the same rows."""
    found = {"accuracy": stats.share_interval(int(right.sum()), len(right))}
    if before is not None:
        differences = right.astype(float) - before
        found["gain"] = stats.bootstrap(np.mean, differences, rng=np.random.default_rng(0))
    return {k: v for name, interval in found.items() for k, v in columns(name, interval).items()}


def columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def with_time(told: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Beside each unlearned model its seconds as a share of those of the retrain of the same original."""
    retrain = {
        (t["original"], t["request"]): t["seconds"] for t in told if t["method"].split()[0] == "retrain"
    }
    for line in told:
        whole = retrain.get((line["original"], line["request"]))
        yield {**line, "of_retrain": line["seconds"] / whole if whole else ""}


def mapping(found: Iterable[Ends], task: Task) -> NDArray[np.float64]:
    """[classes], the probability that the originals give each source class, the mean over holdout rows.

    Label mapping (Zhang et al., NeurIPS 2023, arXiv 2310.08782), its counts softened to break ties: a class
    that no downstream row resembles has least to give.
    """
    shares = {}
    for _, before, _, key, run in found:
        if key not in shares:
            _, held = task.drawn(run)
            # no label of the task is looked at
            unnamed = Table(task.train.x, torch.zeros_like(task.train.y), task.train.ids)
            view = View("holdout", unnamed, torch.from_numpy(held))
            said = sc.observe(before.model, {"holdout": view}, run)["holdout"]
            shares[key] = np.exp(said.log_probs).mean(axis=0)
    return np.mean(list(shares.values()), axis=0)


def influence(absent: Sequence[frozenset[int]], scores: Sequence[float], classes: int) -> NDArray[np.float64]:
    """[classes], the mean score of models that saw a class less that of models that did not.

    Jain et al., A Data-Based Perspective on Transfer Learning, CVPR 2023, arXiv 2207.05739: below 0 it harms.
    NaN for a class that all models saw, or none.
    """
    gone = np.array([[c in one for c in range(classes)] for one in absent])
    mean = [
        np.divide(np.asarray(scores) @ side, n := side.sum(axis=0), out=np.full(classes, np.nan), where=n > 0)
        for side in (~gone, gone)
    ]
    return mean[0] - mean[1]


def influences(found: Iterable[Ends], task: Task, how: How) -> NDArray[np.float64]:
    """The same of the retrains in a store, by their accuracy on the holdout rows."""
    absent, scores, classes = [], [], 0
    for record, _, after, _, run in found:
        if record.method != "retrain":
            continue
        few, held = task.drawn(run)
        view = View("holdout", task.train, torch.from_numpy(held))
        scores.append(float(how.correct(after, task, run, few, view).mean()))
        absent.append(frozenset(record.plan["data"]["forget"].get("classes", ())))
        classes = max(classes, record.split["classes"])
    ranked = influence(absent, scores, classes) if scores else np.zeros(0)
    if not np.isfinite(ranked).any():
        raise DataError(
            f"expected retrains some with and some without a class, got {len(scores)} that no class tells "
            "apart: influence is a difference between the two; run a grid over data.forget, or take --by "
            "mapping"
        )
    return ranked


def read_task(use: str, given: Iterable[str], labels: int | None, holdout: int) -> Task:
    if use not in DATASETS:
        raise UsageError(f'no data set is called "{use}", {nearest(use, DATASETS)}')
    pairs = [text.partition("=") for text in given]
    values = {key.strip(): value(text.strip()) for key, _, text in pairs}
    made = DATASETS[use](**knobs.parse(DATASETS[use], values, where="--of"))
    if made.test is None:
        raise DataError(
            f'expected test rows in "{use}", got none: accuracy is told of them; give --of test=0.2'
        )
    return Task(made, labels, holdout)


def value(text: str) -> Any:
    """As TOML writes it; quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def write(path: Path, told: Iterable[Mapping[str, Any]], names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in t.items()} for t in told)


def main(asked: argparse.Namespace) -> None:
    records = of_plan(asked.store, asked.plan, asked.set)
    task = read_task(asked.to, asked.of, asked.labels, asked.holdout)
    how = How(asked.how, asked.l2, asked.epochs, asked.lr, asked.batch)
    found = ends(asked.store, track(records, "models"))
    if asked.rank:
        ranked = mapping(found, task) if asked.by == "mapping" else influences(found, task, how)
        told = [{"class": int(c), asked.by: float(ranked[c])} for c in np.argsort(ranked, kind="stable")]
        write(asked.folder / f"ranking-{asked.by}.csv", told, ("class", asked.by))
        print(f"--set data.forget.classes=[{','.join(map(str, sorted(first(ranked, asked.rank))))}]")
        return
    told = list(with_time(list(lines(found, task, how, records))))
    write(asked.folder / f"transfer-{asked.how}.csv", told, COLUMNS)
    for line in told:
        share, low, high = (line[name] for name in ("accuracy", "accuracy_low", "accuracy_high"))
        print(f"{line['method']:30} seed {line['seed']}: {share:.2%} [{low:.2%}, {high:.2%}]")


def first(ranked: NDArray[np.float64], count: int) -> list[int]:
    """The classes that a ranking [classes] would have forgotten first; what it does not know, it keeps."""
    known = int(np.isfinite(ranked).sum())
    if not 0 < count <= min(known, len(ranked) - 1):
        raise UsageError(
            f"expected --rank to leave a class and to ask for at most {known} that are ranked, got {count}: "
            "nothing else can be chosen; ask for fewer"
        )
    return np.argsort(ranked, kind="stable")[:count].tolist()  # NaN last


def parser() -> argparse.ArgumentParser:
    made = parser_of(str(__doc__).splitlines()[0])
    made.add_argument("--to", required=True, help="the downstream set, as data.use names it")
    made.add_argument("--of", action="append", default=[], help="a knob of it: path=FOLDER, size=224")
    made.add_argument("--labels", type=int, help="training rows of each downstream class; default: all")
    made.add_argument("--holdout", type=int, default=20, help="rows of each class to choose by")
    made.add_argument("--how", choices=("probe", "fine-tune"), default="probe")
    made.add_argument("--l2", type=float, default=How.l2, help="penalty of the probe")
    made.add_argument("--epochs", type=int, default=How.epochs, help="of fine-tuning")
    made.add_argument("--lr", type=float, default=How.lr, help="of fine-tuning")
    made.add_argument("--batch", type=int, default=How.batch, help="of fine-tuning")
    made.add_argument("--rank", type=int, default=0, help="choose so many source classes to forget")
    made.add_argument("--by", choices=("mapping", "influence"), default="mapping")
    return made


if __name__ == "__main__":
    try:
        main(parser().parse_args())
    except SecateurError as error:
        raise SystemExit(str(error)) from None
