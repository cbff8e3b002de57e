"""Reading plans: plain values in, checked objects out, all faults at once."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from secateur import audits, knobs, steps, zoo
from secateur.audit import Audit, Needs
from secateur.card import Shelf, resolve
from secateur.data import ROLES
from secateur.errors import PlanError, UsageError, nearest
from secateur.knobs import Seed
from secateur.lab.plan import (
    FIRST_REFERENCE_SEED,
    TOP_KEYS,
    DataPlan,
    ModelPlan,
    Plan,
    PlannedStep,
    Settings,
    Table,
)
from secateur.lab.request import read_request
from secateur.mapped import Memory
from secateur.zoo.poison import read_poison

# the data sets and networks that plans call by name; an address names one from outside
DATASETS: dict[str, Callable[..., Any]] = {
    "digits": zoo.digits,
    "cifar10": zoo.cifar10,
    "cifar100": zoo.cifar100,
    "fashion-mnist": zoo.fashion_mnist,
    "svhn": zoo.svhn,
    "tiny-imagenet": zoo.tiny_imagenet,
    "imagenet": zoo.imagenet,
    "images": zoo.images,
}
MODELS: dict[str, Callable[..., Any]] = {
    "small-cnn": zoo.small_cnn,
    "mlp": zoo.mlp,
    "resnet20s": zoo.resnet20s,
    "resnet44s": zoo.resnet44s,
    "resnet56s": zoo.resnet56s,
    "resnet18": zoo.resnet18,
    "resnet50": zoo.resnet50,
    "vgg16-bn": zoo.vgg16_bn,
    "vit-tiny": zoo.vit_tiny,
    "transformers": zoo.transformers,
}
# what the data tells a network that takes it, where the plan does not
TOLD = ("classes", "channels", "size", "mean", "std")
# what a plan is judged by when it does not say: the audits that need no further training
DEFAULT_AUDITS = ({"use": "accuracy"}, {"use": "mia-efficacy"})


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
    faults.found += [f'unknown key "{key}", {nearest(key, TOP_KEYS)}' for key in table if key not in TOP_KEYS]
    settings, data, model = Settings(), None, None
    with faults.collecting():
        settings = knobs.build(Settings, {key: table[key] for key in plain if key in table}, where="plan")
    with faults.collecting("plan"):
        settings.run()
        _check_seed(settings.seed, "plan")
    with faults.collecting():
        data = _data(_table_at(table, "data"))
    with faults.collecting():
        model = _model(_table_at(table, "model"))
    entries = _tables_at(table, "step", faults)
    planned = []
    for i, entry in enumerate(entries):
        with faults.collecting():
            planned.append(read_step(entry, f"step {i + 1}"))
    if not table.get("step"):
        faults.found.append(
            '"step" is missing: a plan is a list of [[step]] tables, the first of them usually use = "train"'
        )
    judges = []
    for i, entry in enumerate(_tables_at(table, "audit", faults) or DEFAULT_AUDITS):
        with faults.collecting():
            judges.append(_audit(entry, f"audit {i + 1}"))
    reference = None
    asked = any(audit.needs.references for audit in judges)
    if "reference" in table or (asked and len(planned) == len(entries)):
        with faults.collecting():
            reference = _reference(table, planned)
    faults.raise_if_any(source)
    assert data is not None
    assert model is not None
    return Plan(
        settings=settings,
        data=data,
        model=model,
        steps=tuple(planned),
        audits=tuple(judges),
        reference=reference if asked else None,
        table=table,
    )


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
    faults = _Faults()
    label, seed, found = label_of(entry), None, None
    if isinstance(entry, dict):
        seed = entry.get("seed")
        if not isinstance(entry.get("as", ""), str) or not label or "." in label or label in TOP_KEYS:
            faults.found.append(
                f"{where}: as should be a name without dots, and none of {', '.join(TOP_KEYS)}, got {label!r}"
            )
        if isinstance(seed, bool) or not isinstance(seed, (int, type(None))) or (seed or 0) < 0:
            faults.found.append(f"{where}: seed should be a whole number from 0 on, got {seed!r}")
        else:
            with faults.collecting():
                _check_seed(seed or 0, where)
        entry = {key: value for key, value in entry.items() if key not in ("as", "seed")}
    with faults.collecting():
        found, use = _used(entry, steps.shelf, where)
        reads = getattr(found, "reads", None)
        if not callable(found) or not isinstance(reads, frozenset) or not reads <= set(ROLES):
            raise PlanError([
                f'{where}: expected "{use}" to be a step, callable and with `reads`, a frozenset of '
                f"{', '.join(ROLES)}, got reads = {reads!r}"
            ])
    faults.raise_if_any(where)
    return PlannedStep(label=label, use=use, step=found, seed=seed)


def label_of(entry: Any) -> str:
    """What axes call a ``[[step]]``: its ``as``, else the last word of its ``use``; "" without either."""
    if not isinstance(entry, dict):
        return ""
    return str(entry.get("as", re.split("[:.]", str(entry.get("use", "")))[-1]))


def _check_seed(seed: int, where: str) -> None:
    if seed >= FIRST_REFERENCE_SEED:
        raise PlanError([
            f"{where}: seed should be below {FIRST_REFERENCE_SEED}, got {seed}: those from there on belong "
            "to the reference models"
        ])


def _audit(entry: Any, where: str) -> Audit:
    audit, use = _used(entry, audits.shelf, where)
    if not callable(audit) or not isinstance(getattr(audit, "needs", None), Needs):
        raise PlanError([
            f'{where}: expected "{use}" to be an audit, callable and with `needs`, a secateur.Needs'
        ])
    checked: Audit = audit
    return checked


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
    if not getattr(getattr(cls, "__dataclass_params__", None), "frozen", False):
        raise PlanError([
            f'{where}: expected "{use}" to be a frozen dataclass, whose fields are its knobs: write '
            "@dataclass(frozen=True, kw_only=True) above it"
        ])
    _check_signature(cls, use, where)
    own = {key: value for key, value in entry.items() if key != "use"}
    return knobs.build(cls, own, where=f'{where} ("{use}")'), use


def _function(table: Table, known: Mapping[str, Callable[..., Any]], where: str) -> Callable[..., Any]:
    use = table.get("use")
    if not isinstance(use, str):
        raise PlanError([
            f'{where}: "use" should name one, got {use!r}: {", ".join(known)}, or an address '
            '"package.module:name"'
        ])
    if ":" not in use:
        if use not in known:
            raise PlanError([
                f'{where}: none is called "{use}", {nearest(use, known)}; or name one of yours as '
                '"package.module:name"'
            ])
        return known[use]
    try:
        found = resolve(use)
    except UsageError as error:
        raise PlanError([f"{where}: {error}"]) from error
    if not callable(found):
        raise PlanError([f'{where}: expected "{use}" to be callable, got {type(found).__name__}'])
    _check_signature(found, use, where)
    checked: Callable[..., Any] = found
    return checked


def _check_signature(found: Any, use: str, where: str) -> None:
    try:
        knobs.names(found)
    except (TypeError, ValueError, NameError) as error:
        raise PlanError([
            f'{where}: cannot read the parameters of "{use}" ({error}): name a function or a class whose '
            "annotations its own module can resolve"
        ]) from error


def _knobs(
    own: Table, call: Callable[..., Any], ours: Collection[str], where: str, told: Collection[str] = ()
) -> Table:
    """The knobs of a function beside the plan's own keys, all faults at once."""
    options = list(dict.fromkeys([*knobs.names(call), *ours]))
    faults = _Faults([
        f'{where}: unknown key "{key}", {nearest(key, options)}' for key in own if key not in options
    ])
    checked: Table = {}
    with faults.collecting():
        given = {key: own[key] for key in own if key in options}
        checked = knobs.parse(call, given, where=where, told=told)
    faults.raise_if_any(where)
    return checked


def _data(table: Table) -> DataPlan:
    ours = ("forget", "holdout", "memory", "poison", "seed", "use", "workers")
    faults = _Faults()
    fields: dict[str, Any] = {}
    with faults.collecting():
        call = fields["call"] = _function(table, DATASETS, "data")
        # a function may ask how rows are to be held, and with how many processes
        both = {"memory", "workers"} & set(knobs.names(call))
        own = {key: value for key, value in table.items() if key not in ours or key in both}
        fields["knobs"] = _knobs(own, call, ours, "data")
    with faults.collecting():
        given = {key: table[key] for key in ("holdout", "memory", "seed", "workers") if key in table}
        fields |= knobs.parse(_Held, given, where="data")
        if "knobs" in fields and "seed" in knobs.names(fields["call"]):
            fields["knobs"] |= {"seed": fields.get("seed", 0)}
    with faults.collecting():
        if "forget" not in table:
            raise PlanError([
                'data: "forget" is missing: say which rows, such as forget = { how = "class", classes = [3] }'
            ])
        fields["forget"] = read_request(table["forget"], "data.forget")
    if "poison" in table:
        with faults.collecting():
            fields["poison"] = read_poison(table["poison"], "data.poison")
    faults.raise_if_any("data")
    return DataPlan(use=table["use"], **fields)


@dataclass(frozen=True, kw_only=True)
class _Held:
    holdout: Annotated[float, Field(ge=0, lt=1)] | tuple[Annotated[int, Field(ge=0)], ...] = 0.0
    memory: Memory = "auto"
    workers: Annotated[int, Field(ge=0, le=1024)] | None = None
    seed: Seed = 0


def _model(table: Table) -> ModelPlan:
    ours = ("use", "weights")
    weights = table.get("weights")
    faults = _Faults()
    fields: dict[str, Any] = {}
    if weights is not None and not isinstance(weights, str):
        faults.found.append(f"model: weights should be the path of a safetensors file, got {weights!r}")
    with faults.collecting():
        call = fields["call"] = _function(table, MODELS, "model")
        own = {key: value for key, value in table.items() if key not in ours}
        accepted = knobs.names(call)
        fields["knobs"] = _knobs(own, call, ours, "model", told=[key for key in TOLD if key in accepted])
    faults.raise_if_any("model")
    return ModelPlan(use=table["use"], weights=weights, **fields)


def _reference(table: Table, planned: list[PlannedStep]) -> PlannedStep:
    """The [reference] table; else a retrain that copies the last training step's recipe."""
    if "reference" in table:
        entry = _table_at(table, "reference")
        if "seed" in entry:
            raise PlanError([
                'reference: "seed" would have no effect: references are retrained under seeds of their own, '
                f"from {FIRST_REFERENCE_SEED} on"
            ])
        reference = read_step(entry, "reference")
        if not reference.step.card.anew or not reference.step.reads <= {"retain"}:
            raise PlanError([
                f'reference: expected a step that starts anew and reads retain alone, got "{reference.use}": '
                "a model that has seen the forget rows is no yardstick for forgetting them"
            ])
        return reference
    trained = [p for p in planned if p.use == "train"]
    if not trained:
        raise PlanError([
            '"reference" is missing: an audit asks for retrained models, and there is no train step to copy '
            'the recipe from; add [reference] with use = "retrain"'
        ])
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
        faults.found.append(
            f'"{key}" should be a list of [[{key}]] tables, got {type(value).__name__}: write [[{key}]] with '
            "two brackets"
        )
        return []
    return value
