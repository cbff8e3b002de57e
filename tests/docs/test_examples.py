"""Every example runs, and says what it is there to show."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_every_example_is_tested() -> None:
    told = Path(__file__).read_text(encoding="utf-8")
    assert EXAMPLES
    assert [path.name for path in EXAMPLES if f'"{path.name}"' not in told] == []


def test_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "by_hand.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "l1-sparse: " in said
    assert "90% zeros" in said
    # the original knows every 3, no retrain has seen one, and the unlearned model is between the two
    assert _percent(said, "before.UA") < 5
    assert _percent(said, "retrain[4].UA") > 95
    assert 5 < _percent(said, "UA") < 95
    assert "retrain-gap: fail" in said
    assert "of 5 held-out retrains lie inside" in said


def test_your_model(tmp_path: Path) -> None:
    # a process of its own, in a folder of its own, as a reader would run it
    path = str(ROOT / "examples" / "your_model.py")
    done = subprocess.run([sys.executable, path], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert _percent(said, "UA") > _percent(said, "before.UA") + 20
    assert "retrain-gap: inconclusive" in said
    assert "loads into Net" in said
    assert list(tmp_path.iterdir()) == []


def _percent(said: str, name: str) -> float:
    found = re.search(rf"^  {re.escape(name)} +([\d.]+) %", said, re.M)
    assert found, said
    return float(found[1])
