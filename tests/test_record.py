"""Records: out as JSON and in again, unchanged; anything else is refused."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.errors import DataError, UsageError
from secateur.record import SCHEMA, Estimate, Finding, Record, StepTrace, machine
from secateur.stats import Interval

NAMES = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = FINITE | st.just(math.nan)  # the one NaN that comes back is math.nan, so == holds by identity
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | FINITE | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
PLAN = st.dictionaries(NAMES, DATA, max_size=3)
ESTIMATES = st.builds(
    Estimate,
    value=NUMBERS,
    low=NUMBERS,
    high=NUMBERS,
    level=FINITE,
    n=st.integers(0, 10**6),
    method=NAMES,
    unit=NAMES,
    better=st.sampled_from(["lower", "higher", "nearer-to-retrain"]),
)
FINDINGS = st.builds(
    Finding,
    audit=NAMES,
    estimates=st.dictionaries(NAMES, ESTIMATES, max_size=3),
    verdict=st.sampled_from(["pass", "fail", "inconclusive", None]),
    caveats=st.lists(NAMES, max_size=2).map(tuple),
)
ROLES = st.lists(st.sampled_from(["pool", "forget", "retain"]), unique=True).map(tuple)
TRACES = st.builds(
    StepTrace,
    step=NAMES,
    label=NAMES,
    knobs=PLAN,
    version=st.integers(1, 9),
    seed=st.integers(0, 2**40),
    depth=st.integers(0, 9),
    reads=ROLES,
    drawn=st.dictionaries(NAMES, st.integers(0, 10**9), max_size=2),
    seconds=NUMBERS,
    peak_bytes=st.integers(0, 2**50),
    sparsity=NUMBERS,
    weights_saw=ROLES,
    masks_saw=ROLES,
    notes=st.dictionaries(NAMES, st.lists(NUMBERS, max_size=3).map(tuple), max_size=2),
    made=st.dictionaries(NAMES, NAMES, max_size=2),
)
RECORDS = st.builds(
    Record,
    key=NAMES,
    plan=PLAN,
    request=NAMES,
    method=NAMES,
    unlearn=st.none() | st.integers(0, 3),
    steps=st.lists(TRACES, max_size=2).map(tuple),
    findings=st.lists(FINDINGS, max_size=2).map(tuple),
    references=st.lists(PLAN, max_size=2).map(tuple),
    measures=st.dictionaries(NAMES, NUMBERS, max_size=2),
    split=PLAN,
    hashes=st.dictionaries(NAMES, NAMES, max_size=2),
    files=st.dictionaries(NAMES, NAMES, max_size=2),
    cards=st.dictionaries(NAMES, PLAN, max_size=2),
    run=PLAN,
    versions=st.dictionaries(NAMES, NAMES, max_size=2),
    hardware=PLAN,
    created=NAMES,
    schema=st.just(SCHEMA),
)


def estimate(value=0.25, low=0.1, high=0.4, unit="share"):
    return Estimate(
        value=value,
        low=low,
        high=high,
        level=0.95,
        n=40,
        method="Wilson",
        unit=unit,
        better="nearer-to-retrain",
    )


def trace(**changes):
    fields = {
        "step": "train",
        "knobs": {"lr": 0.1},
        "version": 1,
        "seed": 0,
        "depth": 0,
        "reads": ("pool",),
        "drawn": {"pool": 100},
        "seconds": 1.5,
        "peak_bytes": 10,
        "sparsity": 0.0,
        "weights_saw": ("pool",),
        "masks_saw": (),
    }
    return StepTrace(**{**fields, **changes})


def record(**changes):
    fields = {
        "key": "k",
        "plan": {"seed": 0},
        "request": "forget class 3",
        "method": "fine-tune",
        "unlearn": 1,
        "steps": (trace(sparsity=0.5), trace(step="fine-tune", depth=1)),
        "findings": (Finding(audit="accuracy", estimates={"UA": estimate()}),),
        "split": {"forget": 8},
        "hashes": {"weights": "ab"},
        "cards": {"train": {"version": 1}},
        "run": {"seed": 0},
        "versions": {"torch": "2"},
        "hardware": {"cpu": "x"},
        "created": "2026-01-02T03:04:05Z",
    }
    return Record(**{**fields, **changes})


class TestJson:
    @given(RECORDS)
    def test_round_trip(self, one):
        text = one.to_json()
        back = Record.from_json(text)
        assert back == one
        assert back.to_json() == text

    def test_nan_and_infinity_travel_as_null(self):
        one = record(
            findings=(Finding(audit="a", estimates={"UA": estimate(low=math.nan, high=math.inf)}),),
            measures={"distance": math.nan},
            steps=(trace(seconds=math.nan, notes={"loss": (1.0, math.nan)}),),
        )
        data = json.loads(one.to_json(), parse_constant=pytest.fail)
        assert data["findings"][0]["estimates"]["UA"]["low"] is None
        assert data["findings"][0]["estimates"]["UA"]["high"] is None
        assert data["measures"]["distance"] is None
        back = Record.from_json(one.to_json())
        assert math.isnan(back.findings[0].estimates["UA"].low)
        assert math.isnan(back.measures["distance"])
        assert math.isnan(back.steps[0].seconds)
        assert math.isnan(back.steps[0].notes["loss"][1])

    def test_numpy_scalars_travel_as_numbers(self):
        one = record(
            measures={"a": np.float32(0.5), "b": np.int64(3), "c": np.float64("nan")},
            split={"retain": np.int64(7)},
        )
        back = Record.from_json(one.to_json())
        assert back.measures["a"] == 0.5
        assert back.measures["b"] == 3
        assert math.isnan(back.measures["c"])
        assert back.split == {"retain": 7}

    def test_a_trace_from_before_machines_were_named_is_still_read(self):
        data = json.loads(record().to_json())
        for step in data["steps"]:
            del step["made"]
        assert Record.from_json(json.dumps(data)) == record()

    @pytest.mark.parametrize("schema", [0, SCHEMA + 1, None, "1"])
    def test_another_schema_is_refused(self, schema):
        data = json.loads(record().to_json()) | {"schema": schema}
        with pytest.raises(DataError, match="schema"):
            Record.from_json(json.dumps(data))

    @pytest.mark.parametrize(
        "text", ["", "{", "[]", "3", "null", "{}", '"record"', "# Record", '{"schema": 1}']
    )
    def test_what_is_no_record_is_refused(self, text):
        with pytest.raises(DataError, match="expected a record as JSON"):
            Record.from_json(text)

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data.pop("plan"),
            lambda data: data.update(surprise=1),
            lambda data: data["steps"][0].pop("seed"),
            lambda data: data["steps"][0].update(surprise=1),
            lambda data: data["findings"][0].update(surprise=1),
            lambda data: data["findings"][0]["estimates"]["UA"].pop("low"),
            lambda data: data["findings"][0].update(verdict="perhaps"),
            lambda data: data.update(findings=3),
        ],
    )
    def test_a_spoiled_record_is_refused(self, spoil):
        data = json.loads(record().to_json())
        spoil(data)
        with pytest.raises(DataError, match="expected a"):
            Record.from_json(json.dumps(data))


class TestReading:
    def test_sparsity_and_unlearning_look_at_the_right_step(self):
        assert record().sparsity == 0.5
        assert record().unlearning.step == "fine-tune"
        assert record(unlearn=0).sparsity == 0.0
        assert record(unlearn=None).unlearning is None
        assert record(unlearn=None, steps=(trace(), trace(sparsity=0.9))).sparsity == 0.9

    def test_the_first_estimate_of_a_name_is_found(self):
        findings = (
            Finding(audit="a", estimates={"RA": estimate(0.5)}),
            Finding(audit="b", estimates={"UA": estimate(0.1)}),
            Finding(audit="c", estimates={"UA": estimate(0.2)}),
        )
        assert record(findings=findings).estimate("UA").value == 0.1
        assert record(findings=findings).estimate("none") is None


class TestText:
    def test_a_machine_reads_alike_before_and_after_json(self):
        hardware = {"system": "Linux x86_64", "cpus": 2, "cpu": "AMD EPYC", "gpu": None}
        assert machine(hardware) == "system Linux x86_64, cpus 2, cpu AMD EPYC"
        assert machine(Record.from_json(record(hardware=hardware).to_json()).hardware) == machine(hardware)

    def test_estimates_print_in_their_unit(self):
        assert str(estimate()) == "25.00 % [10.00, 40.00]"
        assert str(estimate(-3.5, -5, 1, unit="points")) == "-3.50 points [-5.00, 1.00]"
        assert str(estimate(2, math.nan, math.nan, unit="1")) == "2.00"

    def test_of_keeps_the_interval(self):
        interval = Interval(value=0.25, low=0.1, high=0.4, level=0.95, n=40, method="Wilson")
        assert Estimate.of(interval, unit="share", better="nearer-to-retrain") == estimate()

    def test_a_finding_prints_controls_and_hides_classes(self):
        names = ("UA", "before.UA", "retrain[0].UA", "UA[3]", "before.UA[3]")
        text = str(
            Finding(
                audit="accuracy",
                estimates={n: estimate() for n in names},
                verdict="fail",
                caveats=("beware",),
            )
        )
        lines = text.splitlines()
        assert lines[0] == "accuracy: fail"
        assert [line.split()[0] for line in lines[1:4]] == ["UA", "before.UA", "retrain[0].UA"]
        assert lines[4:] == ["  note: beware"]


def test_words_outside_the_vocabulary_are_refused():
    with pytest.raises(UsageError, match="better to be one of"):
        Estimate(value=0.5, low=0.4, high=0.6, level=0.95, n=3, method="none", unit="share", better="bigger")
    with pytest.raises(UsageError, match="expected a verdict of"):
        Finding(audit="mine", estimates={}, verdict="maybe")
    with pytest.raises(UsageError, match="expected a verdict of"):
        Finding(audit="mine", estimates={}, verdict=["pass"])
