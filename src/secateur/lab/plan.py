"""Plans: a whole experiment as checked objects. ``lab.read`` makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from secateur.audit import Audit
from secateur.errors import UsageError
from secateur.knobs import Seed
from secateur.lab.request import Request
from secateur.mapped import Memory
from secateur.run import Run
from secateur.step import Step
from secateur.zoo.poison import Poison

Table = Mapping[str, Any]

# references are retrained under seeds from here on, which no plan may use: no candidate is its own yardstick
FIRST_REFERENCE_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The keys of a plan that are plain values."""

    seed: Seed = 0
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp64"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    compile: bool = False
    accumulate: Annotated[int, Field(ge=1)] = 1
    recompute: bool = False
    batchnorm: Literal["local", "sync"] = "local"

    def run(self) -> Run:
        """The run that these settings ask for."""
        run = Run(
            seed=self.seed,
            device=self.device,
            precision=self.precision,
            compile=self.compile,
            accumulate=self.accumulate,
            recompute=self.recompute,
            batchnorm=self.batchnorm,
        )
        if run.where.type not in ("cpu", "cuda"):
            raise UsageError(
                f'expected device "auto", "cpu" or "cuda", got "{self.device}": no other is tested'
            )
        return run if self.threads is None else dataclasses.replace(run, threads=self.threads)


@dataclass(frozen=True, kw_only=True)
class DataPlan:
    """Which data, and which of it is forgotten.

    Attributes:
        use: Name or address of a function that gives a ``zoo.Collection``.
        call: That function.
        knobs: What it is called with.
        forget: The request.
        holdout: Share, or rows, that no step sees.
        poison: What is done to some of the training rows before anyone asks to forget them.
        memory: Whether rows are read into memory, or stay where they are until they are drawn.
        workers: Processes that read those that stay; None: as ``Split.of`` says.
        seed: Of the sample that a limit takes, of the holdout, of poison and of random requests; apart from
            the plan's seed, so that all seeds face one request.
    """

    use: str
    call: Callable[..., Any]
    knobs: Table
    forget: Request
    holdout: float | tuple[int, ...] = 0.0
    poison: Poison | None = None
    memory: Memory = "auto"
    workers: int | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Which network, and weights to start from.

    Attributes:
        use: Name or address of a function that gives a new module.
        call: That function.
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
        settings: Seed, device, precision, and the other plain values.
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

    @property
    def unlearn(self) -> int | None:
        """Position of the step where unlearning begins: the first that tells forget from retain.

        Steps before the last one that is shown the whole pool without telling do not count, where another
        follows it: what they unlearned is shown again there.
        """
        telling = [i for i, planned in enumerate(self.steps) if planned.step.reads & {"forget", "retain"}]
        shown = max((i for i, planned in enumerate(self.steps) if planned.step.reads == {"pool"}), default=-1)
        return next((i for i in telling if i > shown), telling[0] if telling else None)

    @property
    def references(self) -> int:
        """How many reference models the audits ask for."""
        return max((audit.needs.references for audit in self.audits), default=0)

    @property
    def paths(self) -> tuple[tuple[PlannedStep, ...], ...]:
        """All that has to be taken: the plan's own steps, then what leads to each reference."""
        if self.reference is None:
            return (self.steps,)
        return self.steps, *(
            (*self.steps[: self.unlearn], self.nth_reference(i)) for i in range(self.references)
        )

    def nth_reference(self, i: int) -> PlannedStep:
        """How to make the reference of this number, from 0."""
        assert self.reference is not None
        label = f"reference {i + 1}/{self.references}"
        return dataclasses.replace(self.reference, seed=FIRST_REFERENCE_SEED + i, label=label)


# every key that may stand at the top of a plan


TOP_KEYS = (
    *(f.name for f in dataclasses.fields(Settings)),
    "data",
    "model",
    "step",
    "audit",
    "reference",
    "grid",
    "tune",
)
