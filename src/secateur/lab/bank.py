"""The bank: models that audits compare with, siblings of a plan; trained together where they are small."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from secateur import knobs, stats
from secateur.audit import Audit
from secateur.errors import UsageError
from secateur.evidence import Kind, Reference
from secateur.lab.execute import Lab
from secateur.lab.freeze import META
from secateur.lab.keys import Link, start, step_key
from secateur.lab.plan import FIRST_REFERENCE_SEED, Plan, PlannedStep
from secateur.lab.prepare import Ground
from secateur.lab.store import digest
from secateur.maths.ensemble import balanced_halves
from secateur.record import StepTrace
from secateur.together import apply_together, best_chunk, obstacle, plainly, speedup

CHUNK = "chunk.json"
# seeds that no plan may use: retrained models have those from FIRST_REFERENCE_SEED on
FIRST_SEED: dict[Kind, int] = {
    "retrained": FIRST_REFERENCE_SEED,
    "original": 2 * FIRST_REFERENCE_SEED,
    "shadow": 3 * FIRST_REFERENCE_SEED,
}
FEW = 4  # are trained one by one
AT_ONCE = 64  # models between two writes to the store
LEAST = 16  # models of a kind, below which no audit of a bank decides anything


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How many models of each kind a set of audits asks for."""

    retrained: int = 0
    unlearned: int = 0
    shadows: int = 0
    requests: bool = False

    @classmethod
    def by(cls, audits: Iterable[Audit]) -> Wanted:
        """The most that any of them asks for."""
        needs = [audit.needs for audit in audits]
        return cls(
            retrained=max((need.references for need in needs), default=0),
            unlearned=max((need.unlearned for need in needs), default=0),
            shadows=max((need.shadows for need in needs), default=0),
            requests=any(need.requests for need in needs),
        )

    def at_most(self, models: int) -> Wanted:
        """No more than so many of each kind; shadows come in pairs."""
        return replace(
            self,
            retrained=min(self.retrained, models),
            unlearned=min(self.unlearned, models),
            shadows=min(self.shadows, models) // 2 * 2,
        )

    @property
    def most(self) -> int:
        """Models of the kind of which most are asked for."""
        return max(self.retrained, self.unlearned, self.shadows)


@dataclass(frozen=True, kw_only=True)
class Afford:
    """What a bank costs, and what it buys.

    Attributes:
        wanted: The models.
        seconds: What making those that are missing takes here, by the run's own times.
        ceiling: The largest epsilon, in nats, that so many unlearned and retrained models show; 0 without.
        detectable: The smallest area above 0.5 that so many shadows show, were each of them one row; else 1.
    """

    wanted: Wanted
    seconds: float
    ceiling: float
    detectable: float


@dataclass(frozen=True)
class _Member:
    ground: Ground
    link: Link
    seed: int
    forgot: tuple[int, ...] = ()


class Bank:
    """The references of one plan.

    Args:
        lab: Where they are made and kept.
        plan: The plan of a run that the store holds.

    Raises:
        UsageError: The plan does not unlearn.
        StoreError: The store does not hold its steps.
    """

    def __init__(self, lab: Lab, plan: Plan) -> None:
        if plan.unlearn is None:
            raise UsageError(
                "expected a plan that unlearns, got one whose steps all read the pool: there is nothing to "
                "compare with; add an unlearning step"
            )
        self.lab, self.plan, self.ground = lab, plan, lab.ground(plan)
        lab.check_stored(plan, self.ground)
        self.links, self.traces = lab.walk(plan, self.ground)
        self.before = self.links[plan.unlearn]
        self._first, self._then = plan.steps[: plan.unlearn], plan.steps[plan.unlearn :]

    def make(self, wanted: Wanted) -> list[Reference]:
        """Make the models, or find them in the store, and ask them about the rows of the plan.

        Args:
            wanted: How many of each kind.

        Returns:
            The references.

        Raises:
            UsageError: More originals are wanted, and the plan does not say how to train one.
        """
        if (wanted.unlearned or wanted.shadows) and not any(step.use == "train" for step in self._first):
            raise UsageError(
                "expected a plan that trains its original, got one that loads weights: how they were made is "
                "not known, so no further originals can be; ask for audits of --tier 1"
            )
        split, found = self.ground.split, list[Reference]()
        found += self._asked("retrained", self._retrained(wanted.retrained), split.retain.rows)
        if wanted.unlearned:
            originals = self._walked(self._first, self._originals(wanted.unlearned))
            found += self._asked("original", originals, split.pool.rows)
            found += self._asked("unlearned", self._walked(self._then, originals), split.pool.rows)
        if wanted.shadows:
            shadows = self._walked(self._first, self._shadows(wanted.shadows))
            found += self._asked("shadow", shadows)
            if wanted.requests:
                found += self._asked("unlearned-shadow", self._walked(self._then, shadows))
        return found

    def afford(self, wanted: Wanted, budget: float | None = None) -> Afford:
        """What models cost; with a budget, as many as it buys.

        Args:
            wanted: How many of each kind, at most.
            budget: Seconds.

        Returns:
            The plan.

        Raises:
            UsageError: The budget does not buy sixteen of each kind.
        """
        one = self._seconds_of_one
        counts = list(range(LEAST, wanted.most + 1, 2)) or [wanted.most]
        if budget is not None:
            bought = [count for count in counts if self._seconds(wanted.at_most(count), one) <= budget]
            if not bought:
                need = self._seconds(wanted.at_most(counts[0]), one)
                raise UsageError(
                    f"expected a budget of at least {need:,.0f} s, for {counts[0]} models of each kind, got "
                    f"{budget:,.0f} s: fewer show nothing; raise --budget, or ask for --tier 1"
                )
            counts = bought
        wanted = wanted.at_most(counts[-1])
        models = min(wanted.unlearned, wanted.retrained)
        ceiling = stats.epsilon_ceiling(models, threshold="bonferroni") if models else 0.0
        spread = ((2 * wanted.shadows + 1) / 12) ** 0.5 / wanted.shadows if wanted.shadows else 1.0
        return Afford(
            wanted=wanted,
            seconds=self._seconds(wanted, one),
            ceiling=max(0.0, ceiling),
            detectable=min(1.0, 0.5 + 1.96 * spread),
        )

    def _retrained(self, count: int) -> list[_Member]:
        if not count:
            return []
        assert self.plan.reference is not None
        first = FIRST_SEED["retrained"]
        members = [_Member(self.ground, self.before, first + i) for i in range(count)]
        return self._walked([self.plan.reference], members)

    def _originals(self, count: int) -> list[_Member]:
        members = []
        for seed in range(FIRST_SEED["original"], FIRST_SEED["original"] + count):
            run = replace(self.ground.run, seed=seed)
            ground = replace(
                self.ground, run=run, link=start(self.ground.root, seed), state=self.ground.state.fresh(run)
            )
            members.append(_Member(ground, ground.link, seed))
        return members

    def _shadows(self, count: int) -> list[_Member]:
        """Each on a random half of the pool, with a request of its own.

        Only some rows are ever asked to be forgotten: the plan's forget rows, and as many retained ones. Each
        shadow forgets a random half of those that it has, so every one of them is unlearned by a quarter of
        the shadows and unknown to a half.

        Args:
            count: How many, an even number.

        Returns:
            The shadows, before their first step.
        """
        split, run = self.ground.split, self.ground.run
        pool = split.pool.rows
        halves = balanced_halves(count, len(pool), run.rng("bank halves")).numpy()
        rng = np.random.default_rng([run.seed, count])
        others = rng.choice(split.retain.rows, min(len(split.forget), len(split.retain)), replace=False)
        asked = np.union1d(split.forget.rows, others)
        members = []
        for i, keep in enumerate(halves):
            rows = pool[keep]
            known = np.intersect1d(asked, rows)
            gone = np.sort(rng.choice(known, max(1, len(known) // 2), replace=False))
            seed = FIRST_SEED["shadow"] + i
            ground = self.lab.within(self.plan, seed, rows, gone)
            members.append(_Member(ground, ground.link, seed, tuple(gone.tolist())))
        return members

    def _walked(self, steps: Sequence[PlannedStep], members: Sequence[_Member]) -> list[_Member]:
        for planned in steps:
            members = self._taken(planned, members)
        return list(members)

    def _taken(self, planned: PlannedStep, members: Sequence[_Member]) -> list[_Member]:
        """One step of each member: found in the store, trained together, or one by one."""
        store, seeded = self.lab.store, [replace(planned, seed=member.seed) for member in members]
        alone = [
            step_key(m.ground.root, m.link, step, m.ground.split, m.seed)
            for m, step in zip(members, seeded, strict=True)
        ]
        chunk = self._chunk(planned, members, alone)
        stacked = [digest({"alone": key, "together": chunk}) for key in alone]

        def absent(these: Iterable[int]) -> list[int]:
            return [i for i in these if not any(store.has("steps", key) for key in (alone[i], stacked[i]))]

        missing = absent(range(len(members)))
        label = f"{len(members)} x {planned.label}"
        with self.lab.progress.bar(label, len(missing)) as advance:
            for these in (missing[i : i + AT_ONCE] for i in range(0, len(missing), AT_ONCE)) if chunk else ():
                with store.alone_with("steps", [stacked[i] for i in these], f"takes {label}"):
                    if still := absent(these):
                        self._train(planned, [members[i] for i in still], [stacked[i] for i in still], chunk)
                advance(len(these))
            done = []
            for i, member in enumerate(members):
                if store.has("steps", alone[i]) or not chunk:
                    link, _ = self.lab.take(seeded[i], member.link, member.ground)
                    advance(1 if i in missing else 0)
                else:
                    meta = json.loads(store.read("steps", stacked[i], META))
                    link = Link(key=stacked[i], masks=meta["masks"], depth=meta["depth"])
                done.append(replace(member, link=link))
        return done

    def _train(
        self, planned: PlannedStep, members: Sequence[_Member], keys: Sequence[str], chunk: int
    ) -> None:
        states = [self.lab.state(member.link, member.ground) for member in members]
        runs = [replace(member.ground.run, seed=member.seed) for member in members]
        done = apply_together(planned.step, states, runs, chunk=chunk, advance=lambda _: None)
        for key, applied, run in zip(keys, done, runs, strict=True):
            self.lab.keep(key, applied, run)
        self.lab.taken += [planned.use] * len(members)

    def _chunk(self, planned: PlannedStep, members: Sequence[_Member], alone: Sequence[str]) -> int:
        """Models in one stack: timed once, written down, and used again; 0: one by one."""
        if plainly(planned.step) is None or len(members) < FEW:
            return 0
        key = digest({
            "root": self.ground.root,
            "step": [planned.use, knobs.values(planned.step)],
            "pruned": any(member.link.masks != "dense" for member in members),
        })
        with self.lab.store.making("banks", key, "times the same training") as missing:
            if missing:
                few = [self.lab.state(m.link, m.ground) for m in members[:AT_ONCE]]
                why = obstacle(planned.step, few, self.ground.run)
                chunk = 0 if why else best_chunk(planned.step, few, self.ground.run)
                faster = speedup(planned.step, few, self.ground.run, chunk) if chunk > 1 else 1.0
                chunk = chunk if faster > 1 else 0
                told = {"chunk": chunk, "obstacle": why, "speedup": round(faster, 2)}
                self.lab.store.put("banks", key, {CHUNK: json.dumps(told).encode()})
        return int(json.loads(self.lab.store.read("banks", key, CHUNK))["chunk"])

    def _asked(self, kind: Kind, members: Sequence[_Member], rows: Any = None) -> list[Reference]:
        found = []
        for member in members:
            _, said = self.lab.outputs(member.link, member.ground, self.ground.split)
            seen = member.ground.split.pool.rows if rows is None else rows
            gone = member.forgot if kind == "unlearned-shadow" else ()
            found.append(Reference(kind, said, seen, np.array(gone, dtype=np.int64)))
        return found

    @cached_property
    def _seconds_of_one(self) -> dict[str, float]:
        """Seconds of one model of each kind, by what the run's own steps took; timed once."""
        assert self.plan.unlearn is not None
        faster = self._speedups()

        def of(traces: Sequence[StepTrace]) -> float:
            return sum(trace.seconds / faster.get(trace.label, 1.0) for trace in traces)

        first, then = of(self.traces[: self.plan.unlearn]), of(self.traces[self.plan.unlearn :])
        return {"retrained": first, "unlearned": first + then, "shadows": (first + then) / 2}

    def _speedups(self) -> dict[str, float]:
        found = {}
        for planned in self._first:
            if plainly(planned.step) is not None and planned is self.plan.steps[0]:
                members = self._originals(FEW * FEW)
                if chunk := self._chunk(planned, members, []):
                    states = [self.lab.state(m.link, m.ground) for m in members]
                    found[planned.label] = speedup(planned.step, states, self.ground.run, chunk)
        return found

    def _seconds(self, wanted: Wanted, one: dict[str, float]) -> float:
        counts = {"retrained": wanted.retrained, "unlearned": wanted.unlearned, "shadows": wanted.shadows}
        return sum(count * one[kind] for kind, count in counts.items())
