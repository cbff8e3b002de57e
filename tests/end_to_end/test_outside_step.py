"""Code from outside the package, named by its address, found beside the plan or where one stands."""

import json
import sys

import pytest

from secateur.record import Record

STEP = '''
"""A step of one's own."""
from dataclasses import dataclass
from typing import ClassVar
import torch
import secateur as sc

@dataclass(frozen=True, kw_only=True)
class Dampen:
    """Shrink every weight a little.

    Attributes:
        factor: What weights are multiplied by.
    """

    factor: float = 0.5
    card: ClassVar[sc.Card] = sc.Card(summary="Shrinks weights.", paper="none", data="none")
    reads: ClassVar[frozenset[str]] = frozenset({"retain"})

    def __call__(self, state, run, /):
        rows = sum(len(batch.row) for batch in state.retain.once())
        run.note("rows", rows)
        with torch.no_grad():
            for weight in state.model.parameters():
                weight.mul_(self.factor)
        return state

@dataclass(frozen=True, kw_only=True)
class Peeks:
    """Says that it reads nothing, and looks at the forget rows."""

    card: ClassVar[sc.Card] = sc.Card(summary="Peeks.", paper="none", data="none")
    reads: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, state, run, /):
        next(state.forget.once())
        return state

@dataclass(frozen=True, kw_only=True)
class Count:
    """An audit of one's own."""

    card: ClassVar[sc.Card] = sc.Card(summary="Counts rows.", paper="none", data="forget")
    needs: ClassVar[sc.Needs] = sc.Needs(views=frozenset({"forget"}))

    def __call__(self, evidence, /):
        return sc.Finding(audit="count", estimates={}, caveats=(f"{len(evidence.after['forget'])} rows",))
'''

DATA = '''
"""Data and a network of one's own."""
import numpy as np
from torch import nn
from secateur.data import crop_flip
from secateur.zoo import Collection

def stripes(*, rows: int = 80, pad: int = 0):
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    x = rng.integers(0, 60, (rows, 1, 6, 6)).astype(np.uint8)
    x[np.arange(rows), 0, y] += 190
    cut = rows // 4
    augment = crop_flip(pad) if pad else None
    return Collection(train=(x[cut:], y[cut:]), test=(x[:cut], y[:cut]), augment=augment)

class Net(nn.Module):
    def __init__(self, *, classes: int, channels: int, hidden: int = 8):
        super().__init__()
        first, last = nn.Linear(36 * channels, hidden), nn.Linear(hidden, classes)
        self.body = nn.Sequential(nn.Flatten(), first, nn.ReLU(), last)

    def forward(self, x):
        return self.body(x)
'''

PLAN = """\
device = "cpu"
threads = 1
precision = "fp32"
data = { use = "DATA:stripes", pad = 1, forget = { how = "rows", rows = [0, 1, 2] } }
model = { use = "DATA:Net", hidden = 6 }
[[step]]
use = "train"
epochs = 2
batch = 16
[[step]]
use = "STEP:Dampen"
factor = 0.25
[[audit]]
use = "accuracy"
[[audit]]
use = "STEP:Count"
"""


@pytest.fixture
def folder(tmp_path, request, monkeypatch):
    """A plan with its own code beside it, under new module names: this process keeps what it imports."""
    number = abs(hash(request.node.name)) % 10**8
    step, data = f"mystep{number}", f"mydata{number}"
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"{step}.py").write_text(STEP)
    (tmp_path / "work" / f"{data}.py").write_text(DATA)
    (tmp_path / "work" / "plan.toml").write_text(PLAN.replace("STEP", step).replace("DATA", data))
    (tmp_path / "work" / "step").write_text(step)
    yield tmp_path / "work"
    for name in (step, data):
        sys.modules.pop(name, None)


def test_everything_from_outside_in_this_process(cli, folder, monkeypatch, tmp_path):
    # from another folder: the plan's own is looked in
    monkeypatch.chdir(tmp_path)
    told = cli("run", "work/plan.toml", "--json")
    assert told.code == 0, told.err
    record = Record.from_json(told.out)
    step = (folder / "step").read_text()
    assert [trace.step for trace in record.steps] == ["train", f"{step}:Dampen"]
    assert record.steps[1].label == "Dampen"
    assert record.steps[1].knobs == {"factor": 0.25}
    assert dict(record.steps[1].drawn) == {"retain": 57}
    assert dict(record.steps[1].notes) == {"rows": (57.0,)}
    assert (record.method, record.unlearn) == (f"{step}:Dampen", 1)
    assert record.findings[1].caveats == ("3 rows",)
    assert record.cards[f"{step}:Dampen"]["summary"] == "Shrinks weights."
    again = cli("run", "work/plan.toml", "--json")
    assert Record.from_json(again.out) == record
    # an axis calls it by its last word; its knobs are knobs like any other
    told = cli("grid", "work/plan.toml", "--set", "grid.Dampen.factor=[0.1, 0.2]")
    assert told.code == 0
    told = cli("run", "work/plan.toml", "--set", "Dampen.facto=0.1")
    assert told.code == 2
    assert f'step 2 ("{step}:Dampen"): unknown key "facto", did you mean "factor"?' in told.err


def test_its_card_and_its_audit_are_found_where_one_stands(cli, folder, monkeypatch):
    monkeypatch.chdir(folder)
    step = (folder / "step").read_text()
    told = cli("card", f"{step}:Dampen")
    assert told.code == 0
    assert "What weights are multiplied by." in told.out
    record = Record.from_json(cli("run", "plan.toml", "--json").out)
    told = cli("audit", record.key, "--use", f"{step}:Count", "--json")
    assert [finding["audit"] for finding in json.loads(told.out)] == ["count"]


def test_what_it_says_that_it_reads_is_checked(cli, folder, monkeypatch):
    monkeypatch.chdir(folder)
    step = (folder / "step").read_text()
    told = cli("run", "plan.toml", "--set", f'Dampen={{use = "{step}:Peeks"}}')
    assert told.code == 5
    assert f'{step}:Peeks touched "forget", but its `reads` names no role' in told.err


def test_a_changed_file_is_another_step(cli, folder, monkeypatch):
    monkeypatch.chdir(folder)
    step = (folder / "step").read_text()
    first = Record.from_json(cli("run", "plan.toml", "--json").out)
    (folder / f"{step}.py").write_text(STEP.replace("weight.mul_(self.factor)", "weight.mul_(-self.factor)"))
    sys.modules.pop(step)
    other = Record.from_json(cli("run", "plan.toml", "--json").out)
    assert other.key != first.key
    assert other.files["before"] == first.files["before"]
    assert other.hashes["weights"] != first.hashes["weights"]


@pytest.mark.parametrize("where", ["somewhere else", pytest.param("beside the plan", marks=pytest.mark.slow)])
def test_the_console_script_finds_it(command, folder, tmp_path, where):
    place, plan = (folder, "plan.toml") if where == "beside the plan" else (tmp_path, "work/plan.toml")
    process = command("run", plan, "--json", cwd=place)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert Record.from_json(out).method.endswith(":Dampen")
    assert (place / ".secateur").is_dir()
