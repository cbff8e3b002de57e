"""The lazy face keeps its types: the stubs are fresh, and mypy reads them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import secateur as sc
from torch import nn

def unlearn(split: sc.Split, trained: nn.Module) -> sc.State:
    run = sc.Run(seed=0)
    state = sc.State.of(lambda: sc.zoo.small_cnn(width=8), split, run, model=trained)
    applied = sc.apply(sc.steps.L1Sparse(gamma=5e-4), state, run)
    outputs: dict[str, sc.Outputs] = dict(sc.observe(applied.state.model, split, run))
    findings: list[sc.Finding] = sc.judge([sc.audits.Accuracy()], sc.Evidence(before=outputs, after=outputs))
    print(sc.__version__, findings[0].verdict, sc.lab.Plan, sc.steps.shelf["train"])
    return applied.state
"""
WRONG = """
sc.steps.L1Sparse(gamma="x")
sc.steps.L1Spares()
sc.audits.Accuracy(level=0.95).needs.view
sc.apply(sc.steps.Train(), run=sc.Run())
sc.nothing
sc.lab.run_plan("plan.toml")
"""


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "tools" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_and_stubs_are_fresh(generate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--check"]) == 0, capsys.readouterr().err


def test_stale_is_told_in_one_sentence(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate.main([], tmp_path) == 0
    assert generate.main(["--check"], tmp_path) == 0
    page = tmp_path / "docs" / "methods.md"
    fresh = page.read_text(encoding="utf-8")
    page.write_text(fresh + "an edit by hand\n", encoding="utf-8")
    capsys.readouterr()
    assert generate.main(["--check"], tmp_path) == 1
    told = capsys.readouterr().err
    assert told == "docs/methods.md is not what the code says: run python tools/generate.py\n"
    assert page.read_text(encoding="utf-8") != fresh, "--check writes nothing"


def test_stubs_name_what_the_packages_give() -> None:
    import secateur
    from secateur import audits, lab, steps

    for package, public in (
        (secateur, [*secateur.__all__, "__version__"]),
        (steps, dir(steps)),
        (audits, dir(audits)),
        (lab, dir(lab)),
    ):
        assert package.__file__ is not None
        stub = Path(package.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
        told = [line.rpartition(" as ")[2] for line in stub.splitlines() if " as " in line]
        told += re.findall(r"^(\w+): ", stub, re.M)
        assert sorted(told) == sorted(public)


@pytest.mark.slow
def test_mypy_reads_the_stubs(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "right.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text("import secateur as sc\n" + WRONG, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "right.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    faults = [line for line in done.stdout.splitlines() if "error:" in line]
    assert [line for line in faults if not line.startswith("wrong.py")] == [], done.stdout + done.stderr
    flagged = {int(line.split(":")[1]) for line in faults}
    assert flagged == set(range(3, 3 + len(WRONG.strip().splitlines()))), done.stdout
