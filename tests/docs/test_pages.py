"""The code on the pages is run, and their plans are read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file

import secateur as sc
from secateur import knobs, lab
from secateur.lab.plan import TOP_KEYS
from secateur.lab.starter import STARTER
from secateur.zoo import Blend, Patch

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^(<!-- tested: .*? -->\n)?```(\w*)\n(.*?)^```$", re.M | re.S)


def _blocks(page: str, language: str, *, marked: bool = False) -> list[str]:
    found = _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [code for mark, kind, code in found if kind == language and (mark or not marked)]


@pytest.mark.parametrize(
    ("page", "module"),
    [("docs/add-a-method.md", "random_labels"), ("docs/add-an-audit.md", "confidence_auc")],
)
def test_worked_example_keeps_every_promise(page: str, module: str, here: Path) -> None:
    code, check = _blocks(page, "python", marked=True)
    assert code.startswith(f"# {module}.py\n")
    (here / f"{module}.py").write_text(code, encoding="utf-8")
    names: dict[str, object] = {}
    exec(compile(check, page, "exec"), names)
    promises = names["test_promises"]
    assert callable(promises)
    promises()


def test_every_python_block_is_tested() -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT))
        assert _blocks(name, "python") == _blocks(name, "python", marked=True), name


def test_the_method_in_a_plan_and_the_audit_of_its_run(here: Path) -> None:
    (here / "random_labels.py").write_text(_blocks("docs/add-a-method.md", "python")[0], encoding="utf-8")
    (here / "confidence_auc.py").write_text(_blocks("docs/add-an-audit.md", "python")[0], encoding="utf-8")
    base = tomllib.loads(STARTER)
    step = tomllib.loads(_blocks("docs/add-a-method.md", "toml")[0])["step"]
    audit = tomllib.loads(_blocks("docs/add-an-audit.md", "toml")[0])["audit"]
    (plan,) = lab.expand({**base, "step": [base["step"][0], *step], "audit": audit})
    record = lab.run_plan(plan, here / "store")
    assert record.method == "random_labels:RandomLabels"
    assert record.findings[0].audit == "confidence-auc"
    assert {"AUC", "before.AUC"} <= record.findings[0].estimates.keys()
    from confidence_auc import ConfidenceAuc  # type: ignore[import-not-found]

    (again,) = lab.audit_run(here / "store", record.key[:8], [ConfidenceAuc(level=0.99)])
    assert again == record.findings[0]


def test_the_plan_of_start_is_a_plan() -> None:
    whole, trojan, library, grid = (tomllib.loads(block) for block in _blocks("docs/start.md", "toml"))
    (plan,) = lab.expand(whole)
    assert plan.unlearn == 1
    assert plan.reference is not None
    assert len(lab.expand({**whole, **grid})) == 3 * 2 * 2 * 2
    (plan,) = lab.expand({**whole, "data": whole["data"] | trojan["data"]})
    assert lab.expand({**whole, **library})[0].model.knobs["architecture"] == "swin"
    assert str(plan.data.poison).endswith("to class 0, by a patch of 2 x 2, white, at (6, 6)")


def test_a_model_of_transformers_goes_into_a_plan_as_start_says(here: Path) -> None:
    (code,) = _blocks("docs/start.md", "python")
    sizes = {"patch_size": 2, "window_size": 2, "embed_dim": 4, "depths": [1], "num_heads": [1]}
    config = transformers.SwinConfig(num_labels=10, num_channels=1, image_size=8, **sizes)
    trained = transformers.SwinForImageClassification(config)
    trained.save_pretrained(here / "FOLDER")
    exec(compile(code, "start.md", "exec"), {})
    model = {"use": "transformers", "architecture": "swin", "config": sizes, "weights": "net.safetensors"}
    plan = {
        "data": {"use": "digits", "holdout": [1, 2, 3], "forget": {"how": "class", "classes": [3]}},
        "model": model,
        "step": [{"use": "gradient-ascent", "epochs": 1, "lr": 1e-9}],
        "reference": {"use": "retrain", "epochs": 1},
        "audit": [{"use": "accuracy"}],
    }
    record = lab.run_plan(*lab.expand(plan), here / "store")
    weights = load_file(here / "store" / record.files["weights"])
    head = trained.classifier.weight.detach()
    assert (weights["classifier.weight"] - head).abs().max() < 1e-6 < head.abs().max()


def test_start_names_every_key_of_a_plan() -> None:
    told = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    assert [key for key in TOP_KEYS if not re.search(rf"^{key} *=|^\[+{key}\]", told, re.M)] == []
    for how in ("class", "random", "rows"):
        assert f'how = "{how}"' in told


def test_start_names_every_key_of_poison() -> None:
    told = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    for key in ("kind", *knobs.names(Patch), *knobs.names(Blend)):
        assert re.search(rf"^\| .*`{key}`", told, re.M), key


def test_choose_a_method_knows_the_methods() -> None:
    told = (ROOT / "docs/choose-a-method.md").read_text(encoding="utf-8")
    assert [name for name in sc.steps.shelf if f"methods.md#{name}" not in told] == []
