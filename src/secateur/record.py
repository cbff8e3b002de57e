"""What a run leaves behind: estimates, findings, step traces and their record. JSON in and out."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from secateur.errors import DataError, UsageError
from secateur.stats import Interval

SCHEMA = 2
READS = (1, 2)  # 1: findings had no controls and no numbers by row

Better = Literal["lower", "higher", "nearer-to-retrain"]
Verdict = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True, kw_only=True)
class Estimate(Interval):
    """An interval with its unit and its direction, which is written here and nowhere else.

    Attributes:
        unit: "share" (in [0, 1]), "points" (percentage points: a difference of shares, times 100), "nats",
            "seconds" ...
        better: Which way is better; "nearer-to-retrain" where no direction is.
    """

    unit: str
    better: Better

    def __post_init__(self) -> None:
        if self.better not in get_args(Better):
            raise UsageError(f"expected better to be one of {get_args(Better)}, got {self.better!r}")

    @classmethod
    def of(cls, interval: Interval, *, unit: str, better: Better) -> Estimate:
        """An interval, with what its number means."""
        return cls(
            **{f.name: getattr(interval, f.name) for f in dataclasses.fields(Interval)},
            unit=unit,
            better=better,
        )

    def __str__(self) -> str:
        scale = 100 if self.unit == "share" else 1
        sign = {"share": " %", "1": ""}.get(self.unit, f" {self.unit}")
        text = f"{self.value * scale:.2f}{sign}"
        if math.isfinite(self.low) and math.isfinite(self.high):
            text += f" [{self.low * scale:.2f}, {self.high * scale:.2f}]"
        return text


@dataclass(frozen=True, kw_only=True)
class Control:
    """What an audit says of candidates whose answer is known.

    Attributes:
        name: "original", "held-out retrains", or the name of a fake.
        must: "fail", "pass", or "not pass".
        said: Verdict to how many candidates got it.
        held: Whether the audit says what it must: of held-out retrains, of four in five.
    """

    name: str
    must: Literal["fail", "pass", "not pass"]
    said: Mapping[str, int]
    held: bool

    def __str__(self) -> str:
        counts = ", ".join(f"{n} {verdict}" if n > 1 else verdict for verdict, n in self.said.items() if n)
        return f"{self.name}: {counts or 'not asked'}, and must {self.must}" + ("" if self.held else " (!)")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What an audit found.

    Attributes:
        audit: The audit's name.
        estimates: Name to estimate: "UA" for the candidate, "before.UA" and "retrain[0].UA" for the controls,
            "RA[3]" for class 3.
        verdict: "pass", "fail", "inconclusive", or None for an audit that only describes.
        caveats: Sentences that a reader of the numbers must know.
        controls: What ``judge`` had the audit say of candidates whose answer is known.
        rows: Name to one number for each row of a view, [n] in the order of row ids: "forget/exposure".
    """

    audit: str
    estimates: Mapping[str, Estimate]
    verdict: Verdict | None = None
    caveats: tuple[str, ...] = ()
    controls: tuple[Control, ...] = ()
    rows: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in (None, *get_args(Verdict)):
            raise UsageError(
                f"expected a verdict of {get_args(Verdict)} or None from {self.audit}, got {self.verdict!r}"
            )

    def __str__(self) -> str:
        lines = [self.audit + (f": {self.verdict}" if self.verdict else "")]
        shown = {name: e for name, e in self.estimates.items() if "[" not in name.removeprefix("retrain[")}
        width = max((len(name) for name in shown), default=0)
        lines += [f"  {name:<{width}}  {estimate}" for name, estimate in shown.items()]
        lines += [f"  note: {caveat}" for caveat in self.caveats]
        lines += [f"  control: {control}" for control in self.controls]
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class StepTrace:
    """What the driver saw of one step.

    Attributes:
        step: The step's name or address.
        label: What the plan calls it.
        knobs: Its fields.
        version: The version of its card.
        seed: The seed of its random streams.
        depth: How many steps had been taken before it.
        reads: The roles that it may look at.
        drawn: Role to rows drawn, counted each time.
        seconds: Wall clock, device synchronised.
        peak_bytes: Peak memory: of the device on a GPU, else of the process.
        sparsity: Share of zeros among parameters with more than one dimension, after the step.
        weights_saw: Roles that have shaped the weights.
        masks_saw: Roles that have shaped the masks.
        notes: Name to the numbers that the step noted, in order.
        made: "hardware", as ``machine`` says it, and "created" of the process that took the step: a store
            outlives its machine. Empty where nobody wrote it.
    """

    step: str
    label: str = ""
    knobs: Mapping[str, Any]
    version: int
    seed: int
    depth: int
    reads: tuple[str, ...]
    drawn: Mapping[str, int]
    seconds: float
    peak_bytes: int
    sparsity: float
    weights_saw: tuple[str, ...]
    masks_saw: tuple[str, ...]
    notes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run leaves behind.

    Attributes:
        key: The run's key in its store.
        plan: The plan of this one run, as data.
        request: What was asked to be forgotten, in words.
        method: The name of the unlearning step ("" where the plan has none).
        unlearn: Position in ``steps`` of the step where unlearning began; None where nothing was unlearned.
        steps: One trace each, in order.
        findings: One for each audit.
        references: For each reference model: kind, seed, key, hardware, and the seconds of the retrain alone.
        measures: Scalars taken where models were at hand.
        split: "rows" (role or view to number of rows), "memory" (role or view to "in-memory" or "mapped"; not
            in older records), "hash" and "classes" (how many).
        hashes: SHA-256 of "weights", of the "split", and of each file of evidence by its name in ``files``.
        files: "weights" and the evidence ("before", "after", "retrain[0]" ...) to path below the store.
        cards: Step or audit name to its card as data.
        run: Seed, device, precision, threads, world size.
        versions: Package to version.
        hardware: Machine in words.
        created: UTC, ISO 8601.
        schema: Version of this layout.
    """

    key: str
    plan: Mapping[str, Any]
    request: str
    method: str
    unlearn: int | None
    steps: tuple[StepTrace, ...]
    findings: tuple[Finding, ...]
    references: tuple[Mapping[str, Any], ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)
    split: Mapping[str, Any]
    hashes: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    cards: Mapping[str, Mapping[str, Any]]
    run: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    created: str
    schema: int = SCHEMA

    def to_json(self) -> str:
        """The record as JSON text; NaN travels as null."""
        return json.dumps(plain(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Record:
        """Read a record.

        Args:
            text: What ``to_json`` gave.

        Returns:
            The record, equal to the one that was written (NaN where null stood for a number of a trace, a
            finding or the measures).

        Raises:
            DataError: No JSON, no record, or a schema that this version does not know.
        """
        try:
            data = json.loads(text)
            if data["schema"] not in READS:
                raise DataError(
                    f"expected a record of schema {' or '.join(map(str, READS))}, got {data['schema']}: read "
                    "it with the version of secateur that wrote it"
                )
            data["schema"] = SCHEMA
            data["steps"] = tuple(read_trace(step) for step in data["steps"])
            data["findings"] = tuple(read_finding(finding) for finding in data["findings"])
            data["references"] = tuple(data["references"])
            data["measures"] = {name: _number(value) for name, value in data["measures"].items()}
            return cls(**data)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"expected a record as JSON, got something else ({error!r}): run the plan again"
            ) from error

    @property
    def unlearning(self) -> StepTrace | None:
        """The trace of the step that unlearned, where there is one."""
        return None if self.unlearn is None else self.steps[self.unlearn]

    @property
    def sparsity(self) -> float:
        """Sparsity of the model that unlearning started from (of the last, if nothing was unlearned)."""
        before = self.steps[: self.unlearn] if self.unlearn is not None else self.steps
        return before[-1].sparsity if before else 0.0

    def estimate(self, name: str) -> Estimate | None:
        """The first estimate of this name in any finding."""
        return next((f.estimates[name] for f in self.findings if name in f.estimates), None)


def machine(hardware: Mapping[str, Any]) -> str:
    """A record's hardware in words, as the traces of its steps name theirs.

    >>> machine({"cpus": 2, "cpu": "AMD EPYC", "gpu": None})
    'cpus 2, cpu AMD EPYC'

    Returns:
        Text.
    """
    return ", ".join(f"{name} {value}" for name, value in hardware.items() if value is not None)


def plain(value: Any) -> Any:
    """A record, or a part of one, as JSON-like values; NaN and infinity become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def read_finding(data: dict[str, Any]) -> Finding:
    """A finding from the JSON-like values that ``plain`` gave.

    Args:
        data: Those values.

    Returns:
        The finding.

    Raises:
        DataError: No such verdict is known.
    """
    estimates = {
        name: Estimate(**{**e, **{key: _number(e[key]) for key in ("value", "low", "high")}})
        for name, e in data["estimates"].items()
    }
    if data["verdict"] not in (None, *get_args(Verdict)):
        raise DataError(
            f"expected a verdict of {get_args(Verdict)} or null, got {data['verdict']!r}: run the audit again"
        )
    kept = {
        "estimates": estimates,
        "caveats": tuple(data["caveats"]),
        "controls": tuple(Control(**control) for control in data.get("controls", ())),
        "rows": {name: tuple(map(_number, values)) for name, values in data.get("rows", {}).items()},
    }
    return Finding(**{**data, **kept})


def read_trace(data: dict[str, Any]) -> StepTrace:
    """A step trace from the JSON-like values that ``plain`` gave."""
    lists = {key: tuple(data[key]) for key in ("reads", "weights_saw", "masks_saw")}
    notes = {name: tuple(_number(v) for v in series) for name, series in data["notes"].items()}
    numbers = {key: _number(data[key]) for key in ("seconds", "sparsity")}
    return StepTrace(**{**data, **lists, **numbers, "notes": notes})
