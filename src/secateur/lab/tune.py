"""Choosing knobs: trials on a surrogate request, or on the real one by oracle. See docs/tune.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from secateur.errors import StepError, UsageError
from secateur.evidence import Evidence, Reference
from secateur.lab.cells import Cell, filled, read_cells
from secateur.lab.execute import Lab
from secateur.lab.keys import Link
from secateur.lab.mend import mending
from secateur.lab.plan import Plan, Table
from secateur.lab.prepare import Ground
from secateur.lab.propose import Proposals, quiet
from secateur.lab.read import read_plan
from secateur.lab.search import Search
from secateur.lab.store import Store
from secateur.lab.surrogate import surrogate
from secateur.lab.tuned import Trial, Tuned
from secateur.outputs import Outputs
from secateur.record import Finding, StepTrace
from secateur.run import Progress

METRICS = ("UA", "MIA-Efficacy", "RA", "TA")
WORST = 100.0  # points: what a trial that could not be finished is told to have scored


@mending
def tune_plan(
    table: Table, store: Path, progress: Progress | None = None, *, source: str = "the plan"
) -> list[Tuned]:
    """Choose the knobs that ``[tune]`` names, for each cell of a plan by itself.

    With ``by = "surrogate"`` no model is retrained without the real forget rows, and none is asked about
    them: rows of the same kind and number, drawn from those that the request retains, are forgotten in their
    place, from the same original. What was finished is found in the store, so a search cut short goes on.

    Args:
        table: The plan as plain values, with ``[tune]``; its axes are kept apart, except "seed".
        store: The folder of results; made where it is missing.
        progress: Where to show how far it has come.
        source: The plan's name, for messages.

    Returns:
        One entry for each cell, in the grid's order.

    Raises:
        SecateurError: As ``lab.expand`` and the steps raise; a trial that fails is noted, and the rest goes
            on.
    """
    lab = Lab(Store(store), progress)
    search, cells = read_cells(table, source=source)
    stands = [_Stand.of(cell, search, lab) for cell in cells]
    lab.store.ready()
    with lab.progress.bar("trials", search.trials * sum(bool(cell.ranges) for cell in cells)) as advance:
        return [stand.tune(lab, advance) for stand in stands]


def rehearse(table: Table, store: Path, *, source: str = "the plan") -> list[Plan]:
    """Plans like those that the trials will run, to tell the cost beforehand: scores are not known yet.

    Args:
        table: As for ``tune_plan``.
        store: The folder of results; may be missing.
        source: The plan's name, for messages.

    Returns:
        The plans, for ``lab.estimate``.

    Raises:
        SecateurError: As ``tune_plan`` raises before it trains.
    """
    lab = Lab(Store(store))
    search, cells = read_cells(table, source=source)
    plans = []
    for stand in [_Stand.of(cell, search, lab) for cell in cells if cell.ranges]:
        proposals = _proposals(stand.cell, search)
        for _ in range(search.trials):
            try:
                plans.append(read_plan(filled(stand.plan.table, proposals.ask())))
            except UsageError:  # knobs that do not go together: a trial without cost
                continue
            finally:
                proposals.tell(WORST, _harm({}, search))
    return plans


@dataclass(frozen=True, kw_only=True)
class _Stand:
    """A cell, and what its trials stand on: the surrogate's plan, or by oracle its own."""

    cell: Cell
    search: Search
    plan: Plan
    ground: Ground

    @classmethod
    def of(cls, cell: Cell, search: Search, lab: Lab) -> _Stand:
        with quiet():  # without Optuna, say so before anything is trained
            pass
        ground = lab.ground(cell.plan)
        if not cell.ranges or search.by == "oracle":
            return cls(cell=cell, search=search, plan=cell.plan, ground=ground)
        data = dict(cell.plan.table["data"])
        data["forget"] = surrogate(cell.plan.data.forget, ground.split, search.seed)
        plan = read_plan({**cell.plan.table, "data": data})
        other = lab.ground(plan)
        # rows named in the request may be some that a holdout share would take: then it took others, and
        # must take the same here, or there would be two originals
        if not np.array_equal(other.split.pool.rows, ground.split.pool.rows):
            plan = read_plan({
                **plan.table,
                "data": {**data, "holdout": ground.split["holdout"].rows.tolist()},
            })
            other = lab.ground(plan)
        return cls(cell=cell, search=search, plan=plan, ground=other)

    def tune(self, lab: Lab, advance: Callable[[int], None]) -> Tuned:
        """Make the original, the retrains and the trials, or find them in the store."""
        plan, cell, begun = self.plan, self.cell, len(lab.taken)
        at = plan.unlearn or 0
        tuned = Tuned(
            table=cell.table,
            request=str(cell.plan.data.forget),
            methods=tuple(p.use for p in plan.steps[at:]) if plan.unlearn is not None else (),
            search=self.search,
            seeds=cell.seeds,
            cost={},
        )
        if not cell.ranges:
            return tuned
        links, traces = lab.walk(replace(plan, steps=plan.steps[:at]), self.ground)
        before = links[-1]
        retrained = [lab.retrained(plan, i, before, self.ground) for i in range(plan.references)]
        original, *said = (self._asked(link, lab) for link in (before, *(link for link, _ in retrained)))
        evidence = Evidence(
            before=original,
            after=original,
            references=[Reference.retrained(outputs, self.ground.split) for outputs in said],
        )
        proposals, trials = _proposals(cell, self.search), []
        spent: dict[str, float] = {}
        for number in range(1, self.search.trials + 1):
            trial = self._try(number, proposals.ask(), lab, evidence, spent)
            proposals.tell(WORST if trial.fault else trial.score, _harm(trial.gaps, self.search))
            trials.append(trial)
            advance(1)
        tuned = replace(
            tuned,
            surrogate=None if plan is cell.plan else plan.table["data"]["forget"],
            rows=len(self.ground.split.forget),
            references=plan.references,
            original=_score(_judge(plan, evidence)),
            trials=tuple(trials),
            cost={
                "original": _seconds(traces),
                "retrains": _seconds([trace for _, trace in retrained]),
                "trials": sum(spent.values()),
            },
            taken=tuple(lab.taken[begun:]),
        )
        return tuned if tuned.best is None else replace(tuned, table=filled(cell.table, tuned.best.knobs))

    def _asked(self, link: Link, lab: Lab) -> dict[str, Outputs]:
        """What a model says; without the oracle, holdout rows stand for the test rows."""
        said = dict(lab.outputs(link, self.ground)[1])
        held = said.pop("holdout", None)
        return said if self.search.by == "oracle" or held is None else {**said, "test": held}

    def _try(
        self, number: int, knobs: dict[str, Any], lab: Lab, evidence: Evidence, spent: dict[str, float]
    ) -> Trial:
        try:
            plan = read_plan(filled(self.plan.table, knobs))
            links, traces = lab.walk(plan, self.ground)
            after = self._asked(links[-1], lab)
            finding = _judge(plan, replace(evidence, after=after))
        except (StepError, UsageError) as error:  # a loss that became infinite, knobs that do not go together
            return Trial(number=number, knobs=knobs, gaps={}, fault=str(error))
        ours = traces[self.plan.unlearn :]
        spent |= {
            link.key: trace.seconds for link, trace in zip(links[1:][self.plan.unlearn :], ours, strict=True)
        }
        gaps = {name: finding.estimates[f"gap.{name}"].value for name in METRICS}
        return Trial(
            number=number,
            knobs=knobs,
            score=_score(finding),
            gaps=gaps,
            seconds=_seconds(ours),
            lost=tuple(name for name, most in self.search.allowed_loss.items() if gaps[name] < -most),
        )


def _proposals(cell: Cell, search: Search) -> Proposals:
    return Proposals(cell.ranges, search.seed, bounded=bool(search.allowed_loss))


def _harm(gaps: Mapping[str, float], search: Search) -> list[float]:
    """Points lost beyond what is allowed; without gaps the trial failed, and lost all."""
    return [-gaps.get(name, -WORST) - most for name, most in search.allowed_loss.items()]


def _judge(plan: Plan, evidence: Evidence) -> Finding:
    """By the one audit of a trial's plan, retrain-gap, and without its controls: there is no verdict here."""
    (audit,) = plan.audits
    return audit(evidence)


def _score(finding: Finding) -> float:
    return finding.estimates["disparity"].value


def _seconds(traces: list[StepTrace]) -> float:
    return sum(trace.seconds for trace in traces)
