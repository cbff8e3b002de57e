"""Masks found with and without the forget rows: a plan has both, and the tools tell them apart."""

from __future__ import annotations

import csv
import importlib
from pathlib import Path

import pytest
import torch

from secateur import lab


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "tools")
    return importlib.import_module


def test_what_masks_have_in_common(tool):
    its = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([[True, False]])}
    theirs = {"a": torch.tensor([True, False, True, False]), "b": torch.tensor([[True, False]])}
    overlap = tool("overlap").overlap
    # of three weights two; drawn at random, half of each layer
    assert overlap(its, theirs) == (round(2 / 3, 4), 0.5)
    assert overlap(its, its) == (1.0, 0.5)


def test_a_mask_without_the_forget_rows_has_not_seen_them(tool, text, tmp_path):
    plan = text.replace('[[step]]\nuse = "train"', '[[step]]\nas = "way"\nuse = "train"')
    found = '{ use = "%s", epochs = 1, batch = 64 }, { use = "magnitude", sparsity = 0.5 }, '
    again = '{ use = "train", epochs = 1, batch = 64 }'
    ways = ", ".join(f"[{found % first}{again}]" for first in ("train", "retrain"))
    ways += f", [{again}]"  # and a dense one, which has no mask
    (tmp_path / "plan.toml").write_text(f"{plan}\n[grid]\nway = [{ways}]\n")
    plans = lab.expand(lab.load(tmp_path / "plan.toml"))
    assert [planned.unlearn for planned in plans] == [3, 3, 1]
    records = lab.run_grid(plans, tmp_path / "store").records
    traces = [record.steps[record.unlearn - 1] for record in records]
    assert [trace.masks_saw for trace in traces] == [("pool",), ("retain",), ()]
    assert [trace.weights_saw for trace in traces] == [("pool",), ("pool", "retain"), ("pool",)]
    assert [record.unlearning.step for record in records] == ["fine-tune"] * 3

    curves, overlap = tool("curves"), tool("overlap")
    assert [curves.way_of(r) for r in records] == ["magnitude", "magnitude without the forget rows", "dense"]
    overlap.main(tmp_path / "store", tmp_path, list(records))
    with (tmp_path / "overlap.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["request"], line["one"]) == ("class 3", "magnitude")
    assert float(line["by_chance"]) < float(line["common"]) < 1
