"""The attack on masks, where its answer is known, and the whole tool at its smallest."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def mask_leak(monkeypatch):
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("mask_leak")


def masks(networks, weights=300):
    labels = np.repeat([True, False], networks // 2)
    return np.random.default_rng(0).random((networks, weights)) < 0.1, labels


def test_masks_that_know_nothing_cannot_be_told_apart(mask_leak):
    bits, labels = masks(120)
    _, low, high, networks = mask_leak.attack(mask_leak.rotated(bits.astype(float)), labels)
    assert low < 0.5 < high
    assert networks == 120


def test_a_few_places_that_tell_are_found(mask_leak):
    bits, labels = masks(120)
    bits[:, :10] = np.where(labels[:, None], bits[:, :10], ~bits[:, :10])
    area, low, _, _ = mask_leak.attack(mask_leak.rotated(bits.astype(float)), labels)
    assert area > 0.95
    assert low > 0.8


def test_the_rotation_keeps_all_distances_up_to_the_scale(mask_leak):
    bits, _ = masks(8)
    left, right = mask_leak.rotated(bits.astype(float)), bits.astype(float)
    apart = [((x[:, None] - x[None]) ** 2).sum(-1) for x in (left, right)]
    scale = apart[1].sum() / apart[0].sum()
    np.testing.assert_allclose(apart[0] * scale, apart[1], atol=1e-9)
    assert (left**2).sum(axis=1).mean() == pytest.approx(1)


def test_the_tool_writes_a_table_and_a_figure(mask_leak, monkeypatch, tmp_path):
    monkeypatch.setattr(mask_leak, "SPARSITIES", (0.5,))
    options = ["--networks", "4", "--epochs", "1", "--shuffles", "1"]
    monkeypatch.setattr(sys, "argv", ["mask_leak.py", str(tmp_path), *options])
    mask_leak.main()
    with (tmp_path / "mask-leak.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = {(row["start"], row["pruner"], row["what"]) for row in rows}
    both = {("none", "weights"), ("magnitude", "mask"), ("magnitude", "shuffled")}
    assert told == {(s, *one) for s in ("own", "same") for one in both} | {("own", "random", "mask")}
    assert all(0 <= float(r["auc_low"]) <= float(r["auc"]) <= float(r["auc_high"]) <= 1 for r in rows)
    assert {row["networks"] for row in rows} == {"8"}
    assert (tmp_path / "mask-leak.svg").read_text().startswith("<?xml")
