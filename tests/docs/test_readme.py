"""The README's code does what the README says."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from safetensors.torch import save_file

from secateur import lab

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

MINE = """
from sklearn.datasets import load_digits
from torch import nn

from secateur.zoo import Collection


def scans() -> Collection:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    return Collection(train=(x[:300], y[:300]), test=(x[300:600], y[300:600]))


def net(*, classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes))
"""


def _block(language: str) -> str:
    _, _, rest = README.partition(f"```{language}\n")
    return rest.partition("```")[0]


def test_library_example(capsys: pytest.CaptureFixture[str]) -> None:
    code = _block("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 25
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    said = capsys.readouterr().out
    for audit in ("accuracy\n", "mia-efficacy\n", "retrain-gap: "):
        assert audit in said
    assert "retrain[4].UA" in said


def test_your_own_model_and_data_in_a_plan(here: Path) -> None:
    (here / "mine.py").write_text(MINE, encoding="utf-8")
    from mine import net  # type: ignore[import-not-found]

    save_file(net(classes=10).state_dict(), here / "net.safetensors")
    table = tomllib.loads(_block("toml")) | {"threads": 1}
    (plan,) = lab.expand(table)
    record = lab.run_plan(plan, here / "store")
    assert record.split["rows"] == {"forget": 4, "retain": 296, "test": 300}
    assert [finding.audit for finding in record.findings] == ["retrain-gap"]
    assert (here / "store" / record.files["weights"]).is_file()
