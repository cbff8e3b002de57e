"""Runs: a plan's steps through the store, its references, its evidence, its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur import __version__, knobs
from secateur.audit import judge
from secateur.card import name_of
from secateur.errors import SecateurError, StoreError
from secateur.evidence import Evidence, Reference
from secateur.lab.checkpoints import EVERY, Keeper
from secateur.lab.duplicates import duplicates
from secateur.lab.environment import hardware, versions
from secateur.lab.freeze import META, STATE, freeze, pack_weights, thaw
from secateur.lab.keys import Link, identity, step_key
from secateur.lab.mend import mending
from secateur.lab.plan import Plan, PlannedStep
from secateur.lab.prepare import Ground, Loaded
from secateur.lab.store import Store, digest
from secateur.observe import measure, observe
from secateur.outputs import Outputs, load_outputs, pack_outputs
from secateur.record import Record, StepTrace, machine, read_trace
from secateur.run import Progress, Run, Silent
from secateur.split import Split
from secateur.state import State
from secateur.step import Applied, apply

OUTPUTS, WEIGHTS, RECORD, ROWS = "outputs.safetensors", "model.safetensors", "record.json", "rows.json"


class Lab:
    """Runs plans through one store; a step that the store holds is read instead of taken.

    Args:
        store: Where results are kept.
        progress: Where to show how far a step has come.
        checkpoint: Seconds between checkpoints of a training that lasts longer.

    Attributes:
        taken: Names of the steps that were really taken, in order.
    """

    def __init__(self, store: Store, progress: Progress | None = None, checkpoint: float = EVERY) -> None:
        self.store = store
        self.checkpoint = checkpoint
        self.progress = progress or Silent()
        self.taken: list[str] = []
        self._loaded = Loaded(self.progress)
        self._ground: tuple[object, Ground] | None = None
        self._failed: dict[str, SecateurError] = {}
        self._states: dict[str, State] = {}
        self._said: dict[str, dict[str, Outputs]] = {}
        self._duplicates: dict[str, dict[str, float]] = {}

    @mending
    def run(self, plan: Plan) -> Record:
        """Run one plan, or read its record where it has been run.

        Args:
            plan: The plan.

        Returns:
            Its record, which now stands in the store with the weights beside it.

        Raises:
            SecateurError: As data, steps, audits and store raise; what was finished by then is in the store.
        """
        ground = self.ground(plan)
        self.store.ready()
        links, traces = self.walk(plan, ground)
        before = links[-1] if plan.unlearn is None else links[plan.unlearn]
        retrained = [self.retrained(plan, i, before, ground) for i in range(plan.references)]
        key = digest({
            "steps": links[-1].key,
            "before": before.key,
            "split": ground.split.hash,
            "audits": [
                [name_of(type(audit)), identity(type(audit)), knobs.values(audit), audit.card.version]
                for audit in plan.audits
            ],
            "references": [link.key for link, _ in retrained],
        })
        self._keep_split(ground.split)
        asked = [before, links[-1], *(link for link, _ in retrained)]
        evidence = all(self.store.has("outputs", _outputs_key(link, ground.split)) for link in asked)
        if not evidence or not self.store.has("runs", key):  # what lost its evidence could not be audited
            for link in asked:
                self.outputs(link, ground)
            judging = self.store.making("runs", key, "judges the same run")
            with judging as missing, self.store.first() as first:
                if missing and first:
                    self._judge(key, plan, ground, links, traces, before, retrained)
        self.store.read("runs", key, WEIGHTS)  # verifies them: the record says where they lie
        return Record.from_json(self.store.read("runs", key, RECORD).decode())

    def ground(self, plan: Plan) -> Ground:
        """What a plan stands on, with this lab's data; that of the last plan is kept for its next steps."""
        mark = (plan.settings, plan.data, plan.model, plan.audits)
        if self._ground is None or self._ground[0] != mark:
            self._ground = mark, self._loaded.ground(plan, plan.settings.run())
        return self._ground[1]

    def within(self, plan: Plan, seed: int, keep: NDArray[np.int64], forget: NDArray[np.int64]) -> Ground:
        """What a plan stands on under another seed, where only some rows of its pool are there: their ids."""
        return self._loaded.within(plan, replace(plan.settings.run(), seed=seed), keep, forget)

    def check_stored(self, plan: Plan, ground: Ground) -> None:
        """Refuse to go on from a run whose steps would have to be taken again, under other bits.

        Args:
            plan: The run's plan.
            ground: What it stands on.

        Raises:
            StoreError: A step is not in the store.
        """
        link = ground.link
        for planned in plan.steps:
            seed = ground.run.seed if planned.seed is None else planned.seed
            if not self.store.has("steps", step_key(ground.root, link, planned, ground.split, seed)):
                raise StoreError(
                    f'expected the step "{planned.label}" of this run in the store, and it is not there by '
                    "the data, hardware and versions of today: run its plan again here, then audit that run"
                )
            link, _ = self.take(planned, link, ground)

    def walk(self, plan: Plan, ground: Ground) -> tuple[list[Link], list[StepTrace]]:
        """Take the steps of a plan.

        Args:
            plan: The plan.
            ground: What it stands on.

        Returns:
            The links, from the start on, and one trace for each step.
        """
        links, traces = [ground.link], []
        for planned in plan.steps:
            link, trace = self.take(planned, links[-1], ground)
            links.append(link)
            traces.append(trace)
        return links, traces

    def retrained(self, plan: Plan, i: int, before: Link, ground: Ground) -> tuple[Link, StepTrace]:
        """Make a reference, or find it in the store.

        Args:
            plan: Its ``reference`` is the step to take.
            i: Number of the reference: its seed is ``FIRST_REFERENCE_SEED + i``.
            before: Where unlearning began.
            ground: What the plan stands on.

        Returns:
            The link, and the trace of the step.
        """
        return self.take(plan.nth_reference(i), before, ground)

    def take(self, planned: PlannedStep, link: Link, ground: Ground) -> tuple[Link, StepTrace]:
        """Take a step, or find it in the store.

        Args:
            planned: The step.
            link: What it follows.
            ground: What the chain stands on.

        Returns:
            The link behind the step, and its trace.
        """
        seed = ground.run.seed if planned.seed is None else planned.seed
        key = step_key(ground.root, link, planned, ground.split, seed)
        with self.store.making("steps", key, f'takes the step "{planned.label}"') as missing:
            if missing:
                self._take(key, planned, self.state(link, ground), replace(ground.run, seed=seed))
        meta = json.loads(self.store.read("steps", key, META))
        after = Link(key=key, masks=meta["masks"], depth=meta["depth"])
        return after, replace(read_trace(meta["trace"]), label=planned.label)

    def _take(self, key: str, planned: PlannedStep, state: State, run: Run) -> None:
        keeper = Keeper(self.store, key, self.checkpoint)
        run = replace(run, progress=_Named(self.progress, planned.label), checkpoints=keeper)
        try:
            done = self._apply(key, planned, state, run)
        finally:
            keeper.closed()
        self.keep(key, done, run)
        self.taken.append(planned.use)
        keeper.finished()

    def _apply(self, key: str, planned: PlannedStep, state: State, run: Run) -> Applied:
        """Take a step; one that has failed is not tried again for every plan that it is part of."""
        if key in self._failed:
            raise self._failed[key]
        try:
            return apply(planned.step, state, run)
        except StoreError:  # of a checkpoint: the step has not failed
            raise
        except SecateurError as error:
            error.add_note(f'in the step "{planned.label}"')
            self._failed[key] = error
            raise

    def state(self, link: Link, ground: Ground) -> State:
        """The state behind a link, over this plan's views."""
        if link.key == ground.link.key:
            return ground.state
        if link.key not in self._states:
            meta = json.loads(self.store.read("steps", link.key, META))
            self._keep(
                link.key, thaw(ground.state, self.store.read("steps", link.key, STATE), meta, ground.run)
            )
        start = ground.state
        # build too: the state may have come from a plan over other views of the same data
        return replace(
            self._states[link.key],
            build=start.build,
            pool=start.pool,
            forget=start.forget,
            retain=start.retain,
        )

    def _keep_split(self, split: Split) -> None:
        """Who stands where, by row id, once for all runs of a split; verified where it is there already."""
        if not self.store.has("splits", split.hash):
            rows = {name: ids.tolist() for name, ids in split.rows.items()}
            told = json.dumps({"hash": split.hash, "classes": split.classes, "rows": rows})
            self.store.put("splits", split.hash, {ROWS: told.encode()})
        self.store.read("splits", split.hash, ROWS)

    def _twice(self, split: Split) -> dict[str, float]:
        if split.hash not in self._duplicates:
            self._duplicates[split.hash] = duplicates(split)
        return self._duplicates[split.hash]

    def keep(self, key: str, done: Applied, run: Run) -> None:
        """Put what a step gave into the store."""
        made = {"created": _now(), "hardware": machine(hardware(run))}
        self.store.put("steps", key, freeze(done.state, replace(done.trace, made=made)))
        self._keep(key, done.state)

    def _keep(self, key: str, state: State) -> None:
        self._states[key] = state
        _forget_oldest(self._states, 4)

    def outputs(
        self, link: Link, ground: Ground, split: Split | None = None
    ) -> tuple[str, dict[str, Outputs]]:
        """What a link's model said, and the key that it is stored under.

        Args:
            link: Whose model.
            ground: What its chain stands on.
            split: The rows to ask about; None: those of the ground.

        Returns:
            The key, and view name to outputs.
        """
        split = split or ground.split
        key = _outputs_key(link, split)
        if key not in self._said:
            with self.store.making("outputs", key, "asks the same model about the same rows") as missing:
                if missing:
                    said = observe(self.state(link, ground).model, split, ground.run)
                    self.store.put("outputs", key, {OUTPUTS: pack_outputs(said)})
            self.store.read("outputs", key, OUTPUTS)  # verifies it
            self._said[key] = load_outputs(self.store.path("outputs", key) / OUTPUTS)
            _forget_oldest(self._said, 64)
        return key, self._said[key]

    def _judge(
        self,
        key: str,
        plan: Plan,
        ground: Ground,
        links: list[Link],
        traces: list[StepTrace],
        before: Link,
        retrained: list[tuple[Link, StepTrace]],
    ) -> None:
        split, old, new = ground.split, self.state(before, ground), self.state(links[-1], ground)
        said = {"before": self.outputs(before, ground), "after": self.outputs(links[-1], ground)}
        said |= {f"retrain[{i}]": self.outputs(link, ground) for i, (link, _) in enumerate(retrained)}
        evidence = Evidence(
            before=said["before"][1],
            after=said["after"][1],
            references=[Reference.retrained(said[f"retrain[{i}]"][1], split) for i in range(len(retrained))],
            measures=measure(old.model, new.model) | self._twice(split),
        )
        findings = judge(plan.audits, evidence)
        about = {"run": key, "request": str(plan.data.forget), "secateur": __version__}
        weights = pack_weights(new.model, about)
        used = (
            [p.step for p in plan.steps]
            + ([plan.reference.step] if plan.reference else [])
            + list(plan.audits)
        )
        record = Record(
            key=key,
            plan=plan.table,
            request=str(plan.data.forget),
            method="" if plan.unlearn is None else plan.steps[plan.unlearn].use,
            unlearn=plan.unlearn,
            steps=tuple(traces),
            findings=tuple(findings),
            references=tuple(
                {
                    "kind": "retrained",
                    "seed": trace.seed,
                    "key": link.key,
                    "seconds": trace.seconds,
                    "hardware": trace.made["hardware"],
                }
                for link, trace in retrained
            ),
            measures=evidence.measures,
            split={
                "rows": {name: len(view) for name, view in split.items()},
                "memory": {name: view.memory for name, view in split.items()},
                "hash": split.hash,
                "classes": split.classes,
                "file": f"splits/{split.hash}/{ROWS}",
            },
            hashes={"weights": digest(weights), "split": split.hash}
            | {name: self.store.sum("outputs", at, OUTPUTS) for name, (at, _) in said.items()},
            files={"weights": f"runs/{key}/{WEIGHTS}"}
            | {name: f"outputs/{at}/{OUTPUTS}" for name, (at, _) in said.items()},
            cards={name_of(type(one)): asdict(one.card) for one in used},
            run={"seed": ground.run.seed, **ground.run.describe()},
            versions=versions(new.model),
            hardware=hardware(ground.run),
            created=_now(),
        )
        kept = {RECORD: record.to_json().encode(), WEIGHTS: weights}
        self.store.put("runs", key, kept, uses=[("steps", link.key) for link in links[1:]])


def _outputs_key(link: Link, split: Split) -> str:
    return digest({"state": link.key, "split": split.hash})


@dataclass(frozen=True)
class _Named:
    """Progress under a step's own name."""

    inner: Progress
    label: str

    def bar(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        return self.inner.bar(self.label, total)


def _forget_oldest(kept: dict[str, Any], most: int) -> None:
    while len(kept) > most:
        del kept[next(iter(kept))]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
