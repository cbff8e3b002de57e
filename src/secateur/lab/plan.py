"""Plans: a whole experiment as data. Plain values in, checked objects out, all faults at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from secateur import audits, knobs, steps, zoo
from secateur.audit import Audit
from secateur.card import Shelf, resolve
from secateur.errors import PlanError, UsageError, nearest
from secateur.knobs import Seed
from secateur.lab.request import Request, read_request
from secateur.run import Run
from secateur.step import Step

Table = Mapping[str, Any]

# the data sets and networks that plans call by name; an address names one from outside
DATASETS = {"digits": zoo.digits}
MODELS = {"small-cnn": zoo.small_cnn}
# what a plan is judged by when it does not say: the audits that need no further training
DEFAULT_AUDITS = ({"use": "accuracy"}, {"use": "mia-efficacy"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of a plan that are plain values."""

    seed: Seed = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None

    def run(self) -> Run:
        """The run that these settings ask for."""
        chosen = {} if self.threads is None else {"threads": self.threads}
        return Run(seed=self.seed, device=self.device, precision=self.precision, **chosen)


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Which data, and which of it is forgotten.

    Attributes:
        use: Name or address of a function that gives a ``zoo.Collection``.
        knobs: What it is called with.
        forget: The request.
        words: The request, told to a person.
        holdout: Share, or rows, that no step sees.
        seed: Of the holdout and of random requests; apart from the plan's seed, so that all seeds face one request.
    """

    use: str
    call: Callable[..., Any]
    knobs: Table
    forget: Request
    holdout: float | tuple[int, ...] = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Which network, and weights to start from.

    Attributes:
        use: Name or address of a function that gives a new module.
        knobs: What it is called with.
        weights: A safetensors file of a model trained elsewhere.
    """

    use: str
    call: Callable[..., Any]
    knobs: Table
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step at its place: what axes and reports call it, and a seed of its own where it has one."""

    label: str
    use: str
    step: Step
    seed: int | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A whole experiment, checked.

    Attributes:
        settings: Seed, device, precision, threads.
        data: Which data, and which of it is forgotten.
        model: Which network.
        steps: In order.
        audits: What judges the result.
        reference: How to make the models that audits compare with; None where no audit asks for one.
        table: The plan as plain values, as it was read.
    """

    settings: Settings
    data: DataPlan
    model: ModelPlan
    steps: tuple[PlannedStep, ...]
    audits: tuple[Audit, ...]
    reference: PlannedStep | None
    table: Table

    _KEYS: ClassVar = ("data", "model", "step", "audit", "reference", "grid")

    @property
    def unlearn(self) -> int | None:
        """Position of the first step that tells forget from retain: there unlearning begins."""
        positions = (i for i, planned in enumerate(self.steps) if planned.step.reads & {"forget", "retain"})
        return next(positions, None)

    @property
    def references(self) -> int:
        """How many reference models the audits ask for."""
        return max((audit.needs.references for audit in self.audits), default=0)


@dataclass
class _Faults:
    """Collects the faults of a plan, so that all of them can be told at once."""

    found: list[str] = field(default_factory=list)

    @contextmanager
    def collecting(self, where: str = "") -> Iterator[None]:
        try:
            yield
        except PlanError as error:
            self.found += error.faults
        except UsageError as error:
            self.found.append(f"{where}: {error}")

    def raise_if_any(self, source: str) -> None:
        if self.found:
            raise PlanError(list(dict.fromkeys(self.found)), source=source)


def read_plan(table: Table, *, source: str = "the plan") -> Plan:
    """A plan from plain values (without axes: see ``lab.expand``).

    Args:
        table: What TOML gave.
        source: The plan's name, for messages.

    Returns:
        The checked plan; nothing has been loaded or computed.

    Raises:
        PlanError: With every fault that can be seen without the data.
    """
    faults = _Faults()
    plain = [f.name for f in dataclasses.fields(Settings)]
    options = [*plain, *Plan._KEYS]
    faults.found += [f'unknown key "{key}", {nearest(key, options)}' for key in table if key not in options]
    settings, data, model = Settings(), None, None
    with faults.collecting():
        settings = knobs.build(Settings, {key: table[key] for key in plain if key in table}, where="plan")
    with faults.collecting("plan"):
        settings.run()
    with faults.collecting("data"):
        data = _data(_table_at(table, "data"))
    with faults.collecting("model"):
        model = _model(_table_at(table, "model"))
    planned = []
    for i, entry in enumerate(_tables_at(table, "step", faults)):
        with faults.collecting(f"step {i + 1}"):
            planned.append(read_step(entry, f"step {i + 1}"))
    if not table.get("step"):
        faults.found.append('"step" is missing: a plan is a list of [[step]] tables, the first of them usually use = "train"')
    judges = []
    for i, entry in enumerate(_tables_at(table, "audit", faults) or DEFAULT_AUDITS):
        with faults.collecting(f"audit {i + 1}"):
            judges.append(_used(entry, audits.shelf, f"audit {i + 1}")[0])
    reference = None
    if any(audit.needs.references for audit in judges):
        with faults.collecting("reference"):
            reference = _reference(table, planned)
    faults.raise_if_any(source)
    assert data is not None and model is not None
    return Plan(settings=settings, data=data, model=model, steps=tuple(planned), audits=tuple(judges), reference=reference, table=table)


def read_step(entry: Any, where: str) -> PlannedStep:
    """One ``[[step]]``: ``use``, optionally ``as`` and ``seed``, and the step's own knobs.

    Args:
        entry: The table.
        where: The place in the plan.

    Returns:
        The step at its place.

    Raises:
        PlanError: Anything in it is wrong.
    """
    own = {key: value for key, value in entry.items() if key not in ("as", "seed")} if isinstance(entry, dict) else entry
    step, use = _used(own, steps.shelf, where)
    label, seed = entry.get("as", use.rpartition(":")[2]), entry.get("seed")
    if not isinstance(label, str) or not label or "." in label:
        raise PlanError([f"{where}: as should be a name without dots, got {label!r}"])
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
        raise PlanError([f"{where}: seed should be a whole number from 0 on, got {seed!r}"])
    return PlannedStep(label=label, use=use, step=step, seed=seed)


def _used(entry: Any, shelf: Shelf, where: str) -> tuple[Any, str]:
    if not isinstance(entry, dict):
        raise PlanError([f'{where} should be a table with "use", got {entry!r}'])
    use = entry.get("use")
    if not isinstance(use, str):
        raise PlanError([f'{where}: "use" should name what to do, got {use!r}: one of {", ".join(shelf)}'])
    try:
        cls = shelf.find(use)
    except UsageError as error:
        raise PlanError([f"{where}: {error}"]) from error
    own = {key: value for key, value in entry.items() if key != "use"}
    return knobs.build(cls, own, where=f'{where} ("{use}")'), use


def _function(table: Table, known: Mapping[str, Callable[..., Any]], where: str) -> tuple[str, Callable[..., Any]]:
    use = table.get("use")
    if not isinstance(use, str):
        raise PlanError([f'{where}: "use" should name one, got {use!r}: {", ".join(known)}, or an address "package.module:name"'])
    if ":" in use:
        found = resolve(use)
        if not callable(found):
            raise PlanError([f'{where}: expected "{use}" to be callable, got {type(found).__name__}'])
        return use, found
    if use not in known:
        raise PlanError([f'{where}: none is called "{use}", {nearest(use, known)}; or name one of yours as "package.module:name"'])
    return use, known[use]


def _data(table: Table) -> DataPlan:
    use, call = _function(table, DATASETS, "data")
    ours = {"forget", "holdout", "seed"}
    faults = _Faults()
    fields: dict[str, Any] = {}
    with faults.collecting("data"):
        own = {key: value for key, value in table.items() if key not in ours | {"use"}}
        _known(own, call, [*ours, "use"], "data")
        fields["knobs"] = knobs.parse(call, own, where="data")
    with faults.collecting("data"):
        given = {key: table[key] for key in ("holdout", "seed") if key in table}
        fields |= knobs.parse(_Held, given, where="data")
    with faults.collecting("data"):
        if "forget" not in table:
            raise PlanError(['data: "forget" is missing: say which rows, such as forget = { how = "class", classes = [3] }'])
        fields["forget"] = read_request(table["forget"], "data.forget")
    faults.raise_if_any("data")
    return DataPlan(use=use, call=call, **fields)


@dataclass(frozen=True, kw_only=True)
class _Held:
    holdout: Annotated[float, Field(ge=0, lt=1)] | tuple[Annotated[int, Field(ge=0)], ...] = 0.0
    seed: Seed = 0


def _model(table: Table) -> ModelPlan:
    use, call = _function(table, MODELS, "model")
    own = {key: value for key, value in table.items() if key not in ("use", "weights")}
    weights = table.get("weights")
    faults = _Faults()
    if weights is not None and not isinstance(weights, str):
        faults.found.append(f"model.weights should be the path of a safetensors file, got {weights!r}")
    with faults.collecting("model"):
        _known(own, call, ["use", "weights"], "model")
        own = knobs.parse(call, own, where="model")
    faults.raise_if_any("model")
    return ModelPlan(use=use, call=call, knobs=own, weights=weights)


def _known(own: Table, call: Callable[..., Any], ours: list[str], where: str) -> None:
    options = [*knobs.names(call), *ours]
    if odd := [f'{where}: unknown key "{key}", {nearest(key, options)}' for key in own if key not in options]:
        raise PlanError(odd)


def _reference(table: Table, planned: list[PlannedStep]) -> PlannedStep:
    """The [reference] table; else a retrain that copies the last training step's recipe."""
    if "reference" in table:
        return read_step(_table_at(table, "reference"), "reference")
    trained = [p for p in planned if p.use == "train"]
    if not trained:
        raise PlanError(['"reference" is missing: an audit asks for retrained models, and there is no train step to copy the recipe from; add [reference] with use = "retrain"'])
    shared = knobs.names(steps.shelf["retrain"])
    recipe = {key: value for key, value in knobs.values(trained[-1].step).items() if key in shared}
    return read_step({"use": "retrain", **recipe}, "reference")


def _table_at(table: Table, key: str) -> dict[str, Any]:
    value = table.get(key)
    if not isinstance(value, dict):
        got = f"got {value!r}" if key in table else "and it is missing"
        raise PlanError([f'"{key}" should be a table such as {key} = {{ use = "..." }}, {got}'])
    return value


def _tables_at(table: Table, key: str, faults: _Faults) -> list[Any]:
    value = table.get(key, [])
    if not isinstance(value, list):
        faults.found.append(f'"{key}" should be a list of [[{key}]] tables, got {type(value).__name__}: write [[{key}]] with two brackets')
        return []
    return value
