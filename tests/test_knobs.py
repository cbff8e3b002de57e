"""Knobs: strict, told in words, all faults at once."""

import math
from dataclasses import dataclass, field, make_dataclass
from typing import Literal

import pytest

from secateur import audits, knobs
from secateur.errors import PlanError, UsageError


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: knobs.Lr = 0.1


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A toy.

    Attributes:
        epochs: How long, in the words
            of this class.
        keep: Epochs to keep.
    """

    epochs: knobs.Epochs
    lr: knobs.Lr = 0.01
    clip: knobs.Clip = None
    mode: Literal["one", "two"] = "one"
    keep: tuple[int, ...] = ()
    flag: bool = False
    name: str = ""
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self):
        if self.name == "both" and self.flag:
            raise UsageError('name = "both" needs flag = false')


class TestBuild:
    def test_plain_values_become_fields(self):
        toy = knobs.build(
            Toy, {"epochs": 3, "lr": 1, "clip": 2.5, "keep": [0, 2], "inner": {"lr": 0.5}}, where="step 1"
        )
        assert toy == Toy(epochs=3, lr=1.0, clip=2.5, keep=(0, 2), inner=Inner(lr=0.5))

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("epochs", "3"),
            ("epochs", 3.0),
            ("epochs", True),
            ("epochs", 0),
            ("epochs", None),
            ("lr", "0.1"),
            ("lr", True),
            ("lr", 0),
            ("lr", math.nan),
            ("lr", math.inf),
            ("clip", -1),
            ("mode", "three"),
            ("flag", 1),
            ("name", 5),
            ("keep", 3),
            ("keep", ["a"]),
            ("keep", {1, 2}),
        ],
    )
    def test_nothing_is_coerced(self, key, value):
        with pytest.raises(PlanError, match=f"step 1: {key} ") as told:
            knobs.build(Toy, {"epochs": 3} | {key: value}, where="step 1")
        assert len(told.value.faults) == 1

    def test_all_faults_at_once_in_order(self):
        with pytest.raises(PlanError) as told:
            knobs.build(Toy, {"flag": 0, "ler": 1, "mode": "x", "lr": -1}, where="step 1")
        assert [fault.split()[2] for fault in told.value.faults] == [
            "unknown",
            '"epochs"',
            "lr",
            "mode",
            "flag",
        ]
        assert 'did you mean "lr"' in told.value.faults[0]

    def test_a_class_may_refuse_a_combination(self):
        with pytest.raises(PlanError, match=r"step 1: .*needs flag"):
            knobs.build(Toy, {"epochs": 1, "name": "both", "flag": True}, where="step 1")


class TestCheck:
    def test_a_sound_instance_has_no_faults(self):
        assert knobs.check(Toy(epochs=1, lr=1, clip=0.5)) == []

    def test_an_instance_built_with_anything_is_found_out(self):
        faults = knobs.check(Toy(epochs=0, lr=math.inf, mode="three"))
        assert [fault.split()[0] for fault in faults] == ["epochs", "lr", "mode"]
        assert "got 0" in faults[0]


class TestDescribe:
    def test_type_bounds_default_and_help(self):
        told = {knob.name: knob for knob in knobs.describe(Toy)}
        assert list(told) == ["epochs", "lr", "clip", "mode", "keep", "flag", "name", "inner"]
        assert told["epochs"] == knobs.Knob("epochs", "int ≥ 1", "", "How long, in the words of this class.")
        assert told["lr"] == knobs.Knob("lr", "float > 0", "0.01", "learning rate, per update")
        assert told["clip"].type == "float > 0 or none"
        assert told["clip"].default == "null"
        assert told["mode"].type == '"one" | "two"'
        assert told["keep"][1:] == ("list of int", "[]", "Epochs to keep.")
        assert "Inner(lr=0.1)" in told["inner"].default

    def test_docstrings_without_indentation_are_read_too(self):
        """Python 3.13 strips it."""

        class Flat:
            __doc__ = "A toy.\n\nAttributes:\n    lr: My own\n        words.\n    batch: Rows.\n"

        flat = dataclass(
            type("Flat", (), {"__doc__": Flat.__doc__, "__annotations__": {"lr": knobs.Lr, "batch": int}})
        )
        assert [knob.help for knob in knobs.describe(flat)] == ["My own words.", "Rows."]

    @pytest.mark.parametrize("name", list(audits.shelf))
    def test_every_knob_of_every_audit_is_told(self, name):
        assert all(knob.help for knob in knobs.describe(audits.shelf[name]))


def test_values_are_plain_and_build_again():
    toy = Toy(epochs=2, keep=(1, 2), inner=Inner(lr=0.25))
    plain = knobs.values(toy)
    assert plain["keep"] == [1, 2]
    assert plain["inner"] == {"lr": 0.25}
    assert knobs.build(Toy, plain, where="step 1") == toy


@pytest.mark.parametrize(
    ("knob", "good", "bad"),
    [
        (knobs.Sparsity, [0.0, 0.99], [1.0, -0.1]),
        (knobs.Level, [0.5], [0.0, 1.0]),
        (knobs.Momentum, [0.0, 0.9], [1.0]),
        (knobs.Gamma, [0.0, 1e-4], [-1e-4, math.inf]),
        (knobs.Decay, [0.0], [-1.0]),
        (knobs.Seed, [0], [-1]),
        (knobs.References, [1], [0]),
        (knobs.Members, ["first", "sampled"], ["all"]),
    ],
)
def test_bounds_of_the_shared_knobs(knob, good, bad):
    One = make_dataclass("One", [("x", knob)])
    assert [knobs.check(One(x)) for x in good] == [[] for _ in good]
    assert all(knobs.check(One(x)) for x in bad)
