"""Studies that tools make cell by cell: stopped ones go on, and with nothing that was made otherwise."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
CELLS = [("a", 1), ("a", 2), ("b", 1)]


@pytest.fixture
def by_cell(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("cells").by_cell


@pytest.fixture
def made():
    return []


@pytest.fixture
def make(made):
    def lines(name, number):
        made.append((name, number))
        return [(name, number / 3), (name, None)]

    return lines


WHOLE = [[[name, number / 3], [name, None]] for name, number in CELLS]


def stopped(by_cell, part, make, about=0):
    """After its second cell, and in the middle of a line."""
    rest = by_cell(part, about, CELLS, make)
    found = [next(rest), next(rest)]
    rest.close()
    with part.open("a") as file:
        file.write('{"about": [0, "')
    return found


def test_what_was_stopped_goes_on_behind_its_last_whole_cell(by_cell, make, made, tmp_path):
    part = tmp_path / "some.part"
    assert stopped(by_cell, part, make) == WHOLE[:2]
    assert list(by_cell(part, 0, CELLS, make)) == WHOLE  # to the last bit
    assert made == CELLS
    assert not part.exists()


def test_a_study_that_was_finished_is_made_again(by_cell, make, made, tmp_path):
    for _ in range(2):
        assert list(by_cell(tmp_path / "some.part", 0, CELLS, make)) == WHOLE
    assert made == 2 * CELLS


def test_under_other_options_all_cells_are_made(by_cell, make, made, tmp_path):
    part = tmp_path / "some.part"
    stopped(by_cell, part, make)
    assert list(by_cell(part, 1, CELLS, make)) == WHOLE
    assert made == [*CELLS[:2], *CELLS]


@pytest.mark.parametrize("name", ["theory", "mask_leak"])
def test_a_study_that_was_stopped_writes_what_one_in_one_go_writes(monkeypatch, tmp_path, name):
    monkeypatch.syspath_prepend(TOOLS)
    tool = importlib.import_module(name)
    monkeypatch.setattr(tool, "SPARSITIES", (0.0, 0.5) if name == "theory" else (0.5,))
    small = {
        "theory": ["--seeds", "2", "--epochs", "1"],
        "mask_leak": ["--networks", "4", "--epochs", "1", "--shuffles", "1"],
    }
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def call(folder):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", str(folder), *small[name]])
        tool.main()

    call(whole)
    points, begun = tool.points, []

    def broken(*given):
        if begun:
            raise KeyboardInterrupt
        begun.append(given)
        return points(*given)

    monkeypatch.setattr(tool, "points", broken)
    with pytest.raises(KeyboardInterrupt):
        call(parts)
    monkeypatch.setattr(tool, "points", points)
    assert [path.suffix for path in parts.iterdir()] == [".part"]
    call(parts)
    told = [path.name for path in sorted(parts.iterdir())]
    assert [Path(file).suffix for file in told] == [".csv", ".svg"]
    for file in told:
        assert (parts / file).read_bytes() == (whole / file).read_bytes()
