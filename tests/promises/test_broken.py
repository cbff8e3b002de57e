"""A step written to break each promise, one at a time: every one is caught, by name."""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import nn

from secateur import errors
from secateur.card import Card
from secateur.data import Role
from secateur.errors import BrokenPromise, ClosedView, NotFinite, UsageError
from secateur.knobs import Epochs, Lr
from secateur.optimize import Sgd, cross_entropy, optimize
from secateur.run import Run
from secateur.state import State
from secateur.step import apply
from secateur.testing import Broken, Problem, check_step, toy_problem

CARD = Card(summary="Fine-tunes on retain.", paper="none: a test", data="retain")


@dataclass(frozen=True, kw_only=True)
class Honest:
    """Fine-tunes on retain for an epoch, and keeps every promise."""

    card: ClassVar[Card] = CARD
    reads: ClassVar[frozenset[Role]] = frozenset({"retain"})

    epochs: Epochs = 1
    lr: Lr = 0.01

    def __call__(self, state: State, run: Run, /) -> State:
        loader = state.retain.loader(epochs=self.epochs, batch=16, rng=run.rng("order"))
        state = optimize(state, loader, cross_entropy, optimizer=Sgd(lr=self.lr), run=run)
        return self.after(state, run)

    def after(self, state: State, run: Run) -> State:
        return state


def test_the_honest_one_passes():
    check_step(Honest())
    check_step(Honest(), problem=toy_problem(seed=3, classes=2))


def broken(step: Any, promise: str, **kwargs: Any) -> str:
    with pytest.raises(Broken) as caught:
        check_step(step, **kwargs)
    assert caught.value.promise == promise
    assert f'"{promise}"' in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------- what apply itself refuses


@dataclass(frozen=True, kw_only=True)
class RegrowsPruned(Honest):
    @torch.no_grad()
    def after(self, state, run):
        for p in state.model.parameters():
            p.add_(1e-3)
        return state


@dataclass(frozen=True, kw_only=True)
class LeavesMinusZero(Honest):
    @torch.no_grad()
    def after(self, state, run):
        weights = dict(state.model.named_parameters())
        for key, mask in state.masks.items():
            weights[key].mul_(torch.where(mask, 1.0, -1.0))
        return state


@dataclass(frozen=True, kw_only=True)
class ReturnsNan(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[4].weight[state.model[4].weight != 0] = torch.nan
        return state


@dataclass(frozen=True, kw_only=True)
class ReturnsInfiniteBuffer(Honest):
    def after(self, state, run):
        state.model[1].running_var[0] = torch.inf
        return state


@dataclass(frozen=True, kw_only=True)
class ReadsForget(Honest):
    def after(self, state, run):
        next(iter(state.forget.once()))
        return state


@dataclass(frozen=True, kw_only=True)
class ReadsPool(Honest):
    def after(self, state, run):
        assert len(state.pool)
        return state


@dataclass(frozen=True, kw_only=True)
class ReadsRetain(Honest):
    reads: ClassVar[frozenset[Role]] = frozenset({"forget", "pool"})


@dataclass(frozen=True, kw_only=True)
class ReturnsTheModel(Honest):
    def after(self, state, run):
        return state.model


@dataclass(frozen=True, kw_only=True)
class ReturnsNothing(Honest):
    def after(self, state, run):
        return None


@dataclass(frozen=True, kw_only=True)
class AddsLayer(Honest):
    def after(self, state, run):
        state.model.append(nn.Linear(3, 3))
        return state


@dataclass(frozen=True, kw_only=True)
class WidensHead(Honest):
    def after(self, state, run):
        state.model[4] = nn.Linear(36, 5)
        return state


@dataclass(frozen=True, kw_only=True)
class ReturnsAnotherPrecision(Honest):
    def after(self, state, run):
        state.model.to(torch.float64 if run.dtype == torch.float32 else torch.float32)
        return state


@dataclass(frozen=True, kw_only=True)
class ReturnsABuildThatDoesNotFit(Honest):
    def after(self, state, run):
        return replace(state, build=lambda: nn.Linear(36, 3))


@dataclass(frozen=True, kw_only=True)
class MasksOfWrongType(Honest):
    def after(self, state, run):
        return replace(state, masks={"4.weight": torch.ones(3, 36)})


@dataclass(frozen=True, kw_only=True)
class MasksOfWrongShape(Honest):
    def after(self, state, run):
        return replace(state, masks={"4.weight": torch.ones(36, 3, dtype=torch.bool)})


@dataclass(frozen=True, kw_only=True)
class MasksOfNothing(Honest):
    def after(self, state, run):
        return replace(state, masks={"5.weight": torch.ones(3, 36, dtype=torch.bool)})


@dataclass(frozen=True, kw_only=True)
class MasksAsArrays(Honest):
    def after(self, state, run):
        return replace(state, masks={"4.weight": np.ones((3, 36), dtype=bool)})


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        (RegrowsPruned(), BrokenPromise, "pruned weights to be +0.0"),
        (LeavesMinusZero(), BrokenPromise, "pruned weights to be +0.0"),
        (ReturnsNan(), NotFinite, "4.weight holds NaN"),
        (ReturnsInfiniteBuffer(), NotFinite, "1.running_var holds NaN or infinity"),
        (ReadsForget(), ClosedView, 'touched "forget"'),
        (ReadsPool(), ClosedView, 'touched "pool"'),
        (ReadsRetain(), ClosedView, 'touched "retain", but its `reads` names forget, pool'),
        (ReturnsTheModel(), BrokenPromise, "return a State, got Sequential"),
        (ReturnsNothing(), BrokenPromise, "return a State, got NoneType"),
        (AddsLayer(), BrokenPromise, "keep the architecture, but 5.bias changed"),
        (WidensHead(), BrokenPromise, "keep the architecture, but 4.bias changed"),
        (ReturnsAnotherPrecision(), BrokenPromise, "keep the architecture"),
        (ReturnsABuildThatDoesNotFit(), BrokenPromise, "hand back a `build` that fits"),
        (MasksOfWrongType(), BrokenPromise, '"4.weight" is not'),
        (MasksOfWrongShape(), BrokenPromise, '"4.weight" is not'),
        (MasksOfNothing(), BrokenPromise, '"5.weight" is not'),
        (MasksAsArrays(), BrokenPromise, '"4.weight" is not'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Honest) else "",
)
def test_apply_refuses(step, error, words):
    problem = toy_problem()
    for refused in (lambda: apply(step, problem.state(sparsity=0.5), problem.run), lambda: check_step(step)):
        with pytest.raises(error) as caught:
            refused()
        assert type(caught.value) is error
        assert type(step).__name__ in str(caught.value)
        assert words in str(caught.value)


@dataclass(kw_only=True)
class Mutable:
    """A knob that moves."""

    card: ClassVar[Card] = CARD
    reads: ClassVar[frozenset[Role]] = frozenset()
    epochs: Epochs = 1

    def __call__(self, state, run, /):
        return state


class NoDataclass:
    card = CARD
    reads: frozenset[Role] = frozenset()

    def __call__(self, state, run, /):
        return state


@dataclass(frozen=True, kw_only=True)
class ReadsTest(Honest):
    reads: ClassVar[Any] = frozenset({"test"})


@dataclass(frozen=True, kw_only=True)
class ReadsAList(Honest):
    reads: ClassVar[Any] = ["retain"]


@dataclass(frozen=True, kw_only=True)
class NoCard(Honest):
    card: ClassVar[Any] = None


def smuggled() -> Honest:
    step = Honest()
    object.__setattr__(step, "lr", -1.0)
    return step


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Mutable(), "frozen dataclass"),
        (NoDataclass(), "frozen dataclass"),
        (ReadsTest(), "frozenset of pool, forget, retain"),
        (ReadsAList(), "frozenset of pool, forget, retain"),
        (NoCard(), "carries a `card`"),
        (Honest(epochs="3"), "epochs should be a valid integer, got '3'"),
        (Honest(epochs=True), "epochs should be a valid integer, got True"),
        (Honest(lr=float("nan")), "lr should be"),
        (smuggled(), "lr should be greater than 0, got -1.0"),
        (Honest, "write Honest(...)"),
        (lambda state, run: state, "expected a step"),
    ],
    # no addresses in the names: parallel workers must agree on them
    ids=[
        "mutable",
        "no dataclass",
        "reads test",
        "reads a list",
        "no card",
        "text",
        "bool",
        "nan",
        "smuggled",
        "class",
        "function",
    ],
)
def test_apply_refuses_what_is_no_step(step, words):
    problem = toy_problem()
    with pytest.raises(UsageError) as caught:
        apply(step, problem.state(trained=False), problem.run)
    assert words in str(caught.value)


# ---------------------------------------------------------------------- what apply makes good, or cannot hurt


@dataclass(frozen=True, kw_only=True)
class LeavesAMess(Honest):
    def after(self, state, run):
        state.model.train()
        for p in state.model.parameters():
            p.requires_grad_(not p.requires_grad)
            p.grad = torch.ones_like(p)
        return replace(state, depth=99, retain=state.forget, pool=state.retain)


@dataclass(frozen=True, kw_only=True)
class KeepsMarks(Honest):
    def after(self, state, run):
        assert state.marks
        return state


@dataclass(frozen=True, kw_only=True)
class DrawsFromTorch(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(torch.rand(4))
        return state


@dataclass(frozen=True, kw_only=True)
class WritesToMasksAndMarks(Honest):
    def after(self, state, run):
        for mask in state.masks.values():
            mask.fill_(True)
        for mark in state.marks.values():
            mark.weights["4.weight"].zero_()
        return state


@pytest.mark.parametrize(
    "step",
    [LeavesAMess(), KeepsMarks(), DrawsFromTorch(), WritesToMasksAndMarks()],
    ids=lambda s: type(s).__name__,
)
def test_apply_makes_good(step):
    check_step(step)


# ------------------------------------------------------------------------------ what check_step alone can see


class Remembering:
    """A `build` that keeps what it made: the only way in which a step can reach the caller's model."""

    def __init__(self) -> None:
        self.made: list[nn.Module] = []

    def __call__(self) -> nn.Module:
        self.made.append(toy_problem().build())
        return self.made[-1]


@dataclass(frozen=True, kw_only=True)
class WritesTheCallersModel(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.build.made[0][1].running_mean.zero_()
        return state


@dataclass(frozen=True, kw_only=True)
class ThawsTheCallersModel(Honest):
    def after(self, state, run):
        state.build.made[0].requires_grad_(True)
        return state


@dataclass(frozen=True, kw_only=True)
class ReturnsTheCallersModel(Honest):
    def after(self, state, run):
        return replace(state, model=state.build.made[0])


@dataclass(frozen=True, kw_only=True)
class WritesTheCallersRows(Honest):
    def after(self, state, run):
        state.retain._table.x[0].zero_()
        return state


@pytest.mark.parametrize(
    "step",
    [WritesTheCallersModel(), ThawsTheCallersModel(), ReturnsTheCallersModel(), WritesTheCallersRows()],
    ids=lambda s: type(s).__name__,
)
def test_the_callers_state(step):
    problem = replace(toy_problem(), build=Remembering())
    broken(step, "the caller's state untouched", problem=problem)


@dataclass(frozen=True, kw_only=True)
class DrawsFromNumpy(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(float(np.random.random()))  # noqa: NPY002
        return state


@dataclass(frozen=True, kw_only=True)
class DrawsFromPython(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(random.random())
        return state


@pytest.mark.parametrize(("step", "whose"), [(DrawsFromNumpy(), "numpy's"), (DrawsFromPython(), "python's")])
def test_global_streams(step, whose):
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    assert whose in broken(step, "global streams untouched")
    assert before == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002


CALLS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class CountsCalls(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(0.01 * next(CALLS))
        return state


@dataclass(frozen=True, kw_only=True)
class RemembersInItself(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(getattr(self, "_seen", 0.0))
        object.__setattr__(self, "_seen", 0.5)
        return state


@dataclass(frozen=True, kw_only=True)
class SeedsItselfByTheClock(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(float(np.random.default_rng().random()))
        return state


@dataclass(frozen=True, kw_only=True)
class DrawsMoreTheSecondTime(Honest):
    def after(self, state, run):
        for _ in range(next(CALLS) % 2):
            next(iter(state.retain.once()))
        return state


@pytest.mark.parametrize(
    "step",
    [CountsCalls(), RemembersInItself(), SeedsItselfByTheClock(), DrawsMoreTheSecondTime()],
    ids=lambda s: type(s).__name__,
)
def test_same_seed(step):
    broken(step, "same seed, same weights")


@dataclass(frozen=True, kw_only=True)
class PeeksBehindTheView(Honest):
    @torch.no_grad()
    def after(self, state, run):
        state.model[1].weight.add_(state.retain._table.x.mean())
        return state


@dataclass(frozen=True, kw_only=True)
class PeeksAtTheRequest(Honest):
    reads: ClassVar[frozenset[Role]] = frozenset({"pool"})

    @torch.no_grad()
    def __call__(self, state, run, /):
        assert len(state.pool)
        state.model[1].weight.add_(float(state.forget._at.sum()))
        return state


@dataclass(frozen=True, kw_only=True)
class ClaimsTooMuch(Honest):
    reads: ClassVar[frozenset[Role]] = frozenset({"retain", "forget"})


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (PeeksBehindTheView(), "1.weight depends on rows that `reads` does not name"),
        (PeeksAtTheRequest(), "1.weight depends on rows that `reads` does not name"),
        (ClaimsTooMuch(), '`reads` names "forget", and the step never looks at it'),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Honest) else "",
)
def test_reads(step, words):
    assert words in broken(step, "reads only what it says")


@dataclass(frozen=True, kw_only=True)
class LeavesAHook(Honest):
    def after(self, state, run):
        state.model[4].register_forward_hook(lambda module, inputs, output: output + 1)
        return state


@dataclass(frozen=True, kw_only=True)
class SlipsALayerIn(Honest):
    def after(self, state, run):
        state.model[2] = nn.Tanh()
        return state


@pytest.mark.parametrize("step", [LeavesAHook(), SlipsALayerIn()], ids=lambda s: type(s).__name__)
def test_a_checkpoint_is_the_whole(step):
    broken(step, "loads into the architecture")


@dataclass(frozen=True, kw_only=True)
class NotReallyAnew(Honest):
    card: ClassVar[Card] = replace(CARD, anew=True)

    @torch.no_grad()
    def after(self, state, run):
        if state.marks:
            state.model[1].weight.add_(1.0)
        return state


def test_starts_anew():
    broken(NotReallyAnew(), "starts anew")


@dataclass(frozen=True, kw_only=True)
class DeniesItsWeights(Honest):
    def after(self, state, run):
        return replace(state, weights_saw=frozenset())


@dataclass(frozen=True, kw_only=True)
class DeniesItsMasks(Honest):
    def after(self, state, run):
        return replace(state, masks_saw=frozenset())


@dataclass(frozen=True, kw_only=True)
class HidesWhatChoseTheMasks(Honest):
    def after(self, state, run):
        weight = state.model[4].weight
        masks = {**state.masks, "4.weight": weight.abs() > weight.abs().quantile(0.75)}
        return replace(state.pruned(masks), masks_saw=frozenset())


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (DeniesItsWeights(), "depends on the weights that came in"),
        (DeniesItsMasks(), "masks_saw forgot what had shaped them"),
        (HidesWhatChoseTheMasks(), "the masks depend on weights"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Honest) else "",
)
def test_provenance(step, words):
    assert words in broken(step, "provenance")


def test_roles_that_a_step_reads_while_it_changes_masks_are_added_by_apply():
    problem = toy_problem()
    state = apply(HidesWhatChoseTheMasks(), problem.state(), problem.run).state
    assert state.masks_saw == {"retain"}


# ------------------------------------------------------- what apply owns is looked at once more, from outside


def filled(value: float, at: int = 0) -> Any:
    def change(state: State) -> State:
        with torch.no_grad():
            list(state.model.parameters())[at].fill_(value)
        return state

    return change


def settled(act: Any) -> Any:
    def change(state: State) -> State:
        act(state.model)
        return state

    return change


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        (filled(1.0), "masks hold"),
        (filled(-0.0), "masks hold"),
        (filled(float("inf"), at=-1), "finite"),
        (settled(lambda model: model[1].train()), "the model settled"),
        (settled(lambda model: model.requires_grad_(True)), "the model settled"),
        (settled(lambda model: model(torch.ones(1, 1, 6, 6)).sum().backward()), "the model settled"),
        (settled(lambda model: model.double()), "precision kept"),
        (lambda state: replace(state, depth=7), "provenance"),
        (lambda state: replace(state, weights_saw=frozenset()), "provenance"),
        (lambda state: replace(state, marks=toy_problem().state().marks), "marks dropped"),
    ],
)
def test_a_driver_that_breaks_what_it_owns_is_seen(monkeypatch, change, promise):
    def careless(step, state, run):
        applied = apply(step, state, run)
        return applied._replace(state=change(applied.state))

    monkeypatch.setattr("secateur.testing.steps.apply", careless)
    broken(Honest(), promise)


# ----------------------------------------------------------------------------- what a class says of itself


@dataclass(frozen=True, kw_only=True)
class EmptyPaper(Honest):
    card: ClassVar[Card] = replace(CARD, paper=" ")


@dataclass(frozen=True, kw_only=True)
class VersionZero(Honest):
    card: ClassVar[Card] = replace(CARD, version=0)


class Undecorated(Honest):
    pass


@dataclass(frozen=True)
class Positional:
    card: ClassVar[Card] = CARD
    reads: ClassVar[frozenset[Role]] = frozenset()
    epochs: Epochs = 1

    def __call__(self, state, run, /):
        return state


@dataclass(frozen=True, kw_only=True)
class Undocumented(Honest):
    beta: Annotated[float, Field(gt=0)] = 0.5


@dataclass(frozen=True, kw_only=True)
class Untyped(Honest):
    """Takes anything.

    Attributes:
        beta: What is it?
    """

    beta: Any = 0.5


@dataclass(frozen=True, kw_only=True)
class NotJson(Honest):
    """Holds a set.

    Attributes:
        layers: Names of layers.
    """

    layers: frozenset[str] = frozenset({"a"})


@dataclass(frozen=True, kw_only=True)
class NeverEqual(Honest):
    """Changes on the way.

    Attributes:
        tags: Words.
    """

    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", (*self.tags, "x"))


@pytest.mark.parametrize(
    ("step", "promise", "words"),
    [
        (NoCard(), "card complete", "give it a secateur.Card"),
        (EmptyPaper(), "card complete", "paper"),
        (VersionZero(), "card complete", "version"),
        (Mutable(), "frozen knobs", "frozen=True, kw_only=True"),
        (NoDataclass(), "frozen knobs", "kw_only"),
        (Undecorated(), "frozen knobs", "itself"),
        (Positional(), "frozen knobs", "kw_only"),
        (Undocumented(), "every knob documented", "beta"),
        (Untyped(), "knobs are checked", "beta"),
        (NotJson(), "knobs survive JSON", "JSON serializable"),
        (NeverEqual(), "knobs survive JSON", "came back as"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_words(step, promise, words):
    assert words in broken(step, promise)


def test_broken_is_both_an_assertion_and_one_of_ours():
    assert issubclass(Broken, AssertionError)
    assert issubclass(Broken, errors.SecateurError)


def test_a_problem_can_be_handed_in():
    given = toy_problem(seed=1)
    check_step(Honest(), problem=Problem(given.split, given.build, given.run))
