"""Synthetic runs, made through the real classes: numbers like the paper's, with noise of their own."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from secateur.record import Estimate, Finding, Record, StepTrace

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --hide-scrollbars"
)
MEASURES = ("UA", "MIA-Efficacy", "RA", "TA")
KNOBS: dict[str, dict[str, Any]] = {
    "retrain": {
        "epochs": 25,
        "lr": 0.4,
        "batch": 256,
        "mask": "keep",
        "optimizer": {"momentum": 0.9, "decay": 0.0005},
    },
    "fine-tune": {"epochs": 5, "lr": 0.01, "batch": 128, "optimizer": {"momentum": 0.9, "decay": 0.0005}},
    "l1-sparse": {"epochs": 5, "lr": 0.01, "batch": 128, "gamma": 0.0005, "schedule": "linear"},
    "gradient-ascent": {"epochs": 3, "lr": 0.0001, "batch": 128},
}
CARDS = {
    "train": ("Trains with SGD and cross-entropy.", "", "pool"),
    "magnitude": (
        "Prunes the smallest weights at once, over the whole network.",
        "Ma et al., NeurIPS 2021",
        "masks from weights",
    ),
    "retrain": ("Trains anew on the retain rows.", "", "retain"),
    "fine-tune": ("Trains on the retain rows.", "Golatkar et al., CVPR 2020", "retain"),
    "l1-sparse": (
        "Fine-tunes with an l1 penalty that fades.",
        "Jia et al., NeurIPS 2023, arXiv 2304.04934",
        "retain",
    ),
    "gradient-ascent": ("Climbs the loss of the forget rows.", "Thudi et al., EuroS&P 2022", "forget"),
    "accuracy": ("Accuracy on each view.", "Jia et al., NeurIPS 2023", "forget, retain, test"),
    "mia-efficacy": (
        "Share of forget rows that an attacker takes for non-members.",
        "Jia et al., NeurIPS 2023",
        "forget, retain, test",
    ),
    "retrain-gap": (
        "Distance from models retrained without the forget rows.",
        "Jia et al., NeurIPS 2023",
        "retrained references",
    ),
}
# request, sparse?, model -> UA, MIA-Efficacy, RA, TA
TRUTH = {
    ("class 0 (airplane)", False, "before"): (0.001, 0.044, 0.9998, 0.699),
    ("class 0 (airplane)", False, "retrain"): (1.0, 1.0, 0.9999, 0.719),
    ("class 0 (airplane)", False, "fine-tune"): (0.225, 0.750, 0.9987, 0.712),
    ("class 0 (airplane)", False, "l1-sparse"): (0.862, 0.951, 0.994, 0.698),
    ("class 0 (airplane)", False, "gradient-ascent"): (0.899, 0.930, 0.913, 0.640),
    ("class 0 (airplane)", True, "before"): (0.005, 0.106, 0.998, 0.711),
    ("class 0 (airplane)", True, "retrain"): (1.0, 1.0, 0.9995, 0.708),
    ("class 0 (airplane)", True, "fine-tune"): (0.736, 0.830, 0.9987, 0.722),
    ("class 0 (airplane)", True, "l1-sparse"): (0.981, 0.990, 0.993, 0.704),
    ("class 0 (airplane)", True, "gradient-ascent"): (0.981, 0.998, 0.965, 0.676),
    ("10 % of the rows, at random", False, "before"): (0.002, 0.031, 0.9998, 0.699),
    ("10 % of the rows, at random", False, "retrain"): (0.301, 0.482, 0.9999, 0.694),
    ("10 % of the rows, at random", False, "fine-tune"): (0.008, 0.084, 0.999, 0.701),
    ("10 % of the rows, at random", False, "l1-sparse"): (0.105, 0.252, 0.987, 0.688),
    ("10 % of the rows, at random", False, "gradient-ascent"): (0.031, 0.069, 0.981, 0.655),
    ("10 % of the rows, at random", True, "before"): (0.012, 0.058, 0.996, 0.711),
    ("10 % of the rows, at random", True, "retrain"): (0.293, 0.455, 0.9991, 0.706),
    ("10 % of the rows, at random", True, "fine-tune"): (0.061, 0.171, 0.998, 0.709),
    ("10 % of the rows, at random", True, "l1-sparse"): (0.224, 0.371, 0.985, 0.701),
    ("10 % of the rows, at random", True, "gradient-ascent"): (0.102, 0.163, 0.972, 0.662),
}
REQUESTS = ("class 0 (airplane)", "10 % of the rows, at random")
SECONDS = {"retrain": 1210.0, "fine-tune": 51.0, "l1-sparse": 53.5, "gradient-ascent": 2.4}


def estimate(value: float, half: float = 0.0, **changes: Any) -> Estimate:
    told = {
        "low": value - half,
        "high": value + half,
        "level": 0.95,
        "n": 1000,
        "method": "exact",
        "unit": "share",
        "better": "nearer-to-retrain",
    }
    return Estimate(value=value, **(told | changes))


def share(value: float, half: float) -> Estimate:
    return estimate(value, low=max(0.0, value - half), high=min(1.0, value + half))


def digest(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def make(
    method: str = "l1-sparse",
    request: str = REQUESTS[0],
    sparsity: float = 0.9,
    seed: int = 0,
    *,
    knobs: Mapping[str, Any] | None = None,
    audits: Sequence[str] = ("accuracy", "mia-efficacy", "retrain-gap"),
    references: int = 4,
    classes: int = 10,
    **changes: Any,
) -> Record:
    """One run; an empty method is a run without unlearning."""
    rng = np.random.default_rng(int(digest(method, request, sparsity, seed)[:8], 16))
    shared = np.random.default_rng(int(digest(request, sparsity, seed)[:8], 16))
    sparse = sparsity > 0
    random = request.startswith("10 %")

    def near(kind: str, stream: np.random.Generator) -> np.ndarray[Any, Any]:
        values = np.array(TRUTH.get((request, sparse, kind), TRUTH[REQUESTS[0], sparse, kind]))
        return np.clip(
            values
            + stream.normal(0, 1, 4) * np.minimum(0.03, 0.02 * np.sqrt(values * (1 - values)) + 0.0005),
            0,
            1,
        )

    before = near("before", shared)
    retrains = np.array([near("retrain", shared) for _ in range(references)])
    after = near(method, rng) if method else before
    findings = []
    names = {0: ("", after), 1: ("before.", before)} | {
        2 + i: (f"retrain[{i}].", r) for i, r in enumerate(retrains)
    }
    if "accuracy" in audits:
        told = {
            f"{who}{m}": share(v[j], 0.012)
            for who, v in names.values()
            for j, m in enumerate(MEASURES)
            if j != 1
        }
        told |= {
            f"RA[{c}]": share(float(np.clip(after[2] - 0.002 * c, 0, 1)), 0.02)
            for c in range(classes)
            if random or c
        }
        findings.append(Finding(audit="accuracy", estimates=told))
    if "mia-efficacy" in audits:
        told = {f"{who}MIA-Efficacy": share(v[1], 0.015) for who, v in names.values()}
        caveat = (
            "The attacker sees one number, the confidence in the true label: a stronger one may see more."
        )
        findings.append(Finding(audit="mia-efficacy", estimates=told, caveats=(caveat,)))
    if "retrain-gap" in audits and references:
        findings.append(_gap(after, before, retrains))
    steps = _steps(method, sparsity, seed, knobs or KNOBS.get(method, {}), rng)
    forget = {"how": "random", "share": 0.1} if random else {"how": "class", "label": 0}
    said = ["before", "after", *(f"retrain[{i}]" for i in range(references))]
    used = {*audits, *(step.step for step in steps)}
    told_changes: dict[str, Any] = {
        "key": digest("run", method, request, sparsity, seed, knobs),
        "plan": {
            "seed": seed,
            "data": {"use": "cifar10", "limit": 10000, "forget": forget},
            "model": {"use": "resnet20s"},
            "step": [{"use": s.step, **({"as": s.label} if s.label else {}), **s.knobs} for s in steps],
            "audit": [{"use": audit} for audit in audits],
        },
        "request": request,
        "method": method,
        "unlearn": len(steps) - 1 if method else None,
        "steps": steps,
        "findings": tuple(findings),
        "references": tuple(
            {
                "kind": "retrained",
                "seed": 100 + seed * 10 + i,
                "key": digest("reference", request, sparsity, seed, i),
                "seconds": 1190.0 + 9 * i,
            }
            for i in range(references)
        ),
        "split": {
            "rows": {"forget": 1000, "retain": 9000, "test": 10000 if random else 9000},
            "hash": digest("split", request),
            "classes": classes,
        },
        "hashes": {
            name: digest(name, method, request, sparsity, seed) for name in ("weights", "split", *said)
        },
        "files": {"weights": "runs/x/model.safetensors"}
        | {name: f"outputs/{digest(name, seed)}/outputs.safetensors" for name in said},
        "cards": {
            name: {"summary": summary, "paper": paper, "data": data, "version": 1}
            for name, (summary, paper, data) in CARDS.items()
            if name in used
        },
        "run": {"seed": seed, "device": "cuda", "precision": "bf16", "threads": 16, "world_size": 1},
        "versions": {"secateur": "0.1.0", "torch": "2.13.0", "numpy": "2.4.6", "python": "3.11.2"},
        "hardware": {"gpu": "NVIDIA H100 80GB HBM3", "cpu": "16 cores", "memory": "128 GiB"},
        "created": f"2026-07-0{1 + seed % 7}T12:00:00Z",
    }
    return Record(**(told_changes | changes))


def _steps(
    method: str, sparsity: float, seed: int, knobs: Mapping[str, Any], rng: np.random.Generator
) -> tuple[StepTrace, ...]:
    def step(name: str, took: float, zeros: float, **changes: Any) -> StepTrace:
        told: dict[str, Any] = {
            "step": name,
            "knobs": {},
            "version": 1,
            "seed": seed,
            "depth": 0,
            "reads": ("pool",),
            "drawn": {"pool": 250000},
            "seconds": took,
            "peak_bytes": int(2.1 * 2**30),
            "sparsity": zeros,
            "weights_saw": ("pool",),
            "masks_saw": (),
        }
        return StepTrace(**(told | changes))

    masks = ("pool",) if sparsity else ()
    train = {"epochs": 25, "lr": 0.4, "batch": 256}
    steps = [step("train", 241.3 + rng.normal(), 0.0, knobs=train)]
    if sparsity:
        steps.append(
            step(
                "magnitude",
                0.4,
                sparsity,
                label="prune",
                knobs={"sparsity": sparsity, "rewind": "epoch-2"},
                drawn={},
                masks_saw=masks,
                depth=1,
            )
        )
        steps.append(
            step(
                "train", 220.9 + rng.normal(), sparsity, knobs=train | {"start": 2}, masks_saw=masks, depth=2
            )
        )
    if method:
        reads = ("forget",) if method == "gradient-ascent" else ("retain",)
        saw = ("retain",) if method == "retrain" else ("pool", *reads)
        zeros = max(sparsity, 0.31) if method == "l1-sparse" else sparsity
        steps.append(
            step(
                method,
                SECONDS[method] * (1 + 0.03 * rng.normal()),
                zeros,
                label="unlearn",
                knobs=knobs,
                reads=reads,
                drawn={reads[0]: 45000 if reads == ("retain",) else 3000},
                weights_saw=saw,
                masks_saw=masks,
                depth=len(steps),
            )
        )
    return tuple(steps)


def _gap(after: Any, before: Any, retrains: Any) -> Finding:
    n = len(retrains)
    middle = retrains.mean(axis=0)
    std = retrains.std(axis=0, ddof=1) if n > 1 else np.full(4, np.nan)
    half = {1: np.nan, 2: 12.706, 3: 4.303, 4: 3.182}.get(n, 2.776) * std * np.sqrt(1 + 1 / n)
    told = {}
    for prefix, values in (("", after), ("before.", before)):
        for j, measure in enumerate(MEASURES):
            gap = 100 * (values[j] - middle[j])
            told[f"{prefix}gap.{measure}"] = estimate(gap, 100 * half[j], unit="points")
        mean = 100 * float(np.abs(values - middle).mean())
        told[f"{prefix}disparity"] = estimate(mean, 1.0, unit="points", better="lower")
    for j, measure in enumerate(MEASURES):
        told[f"band.{measure}"] = estimate(middle[j], half[j], n=n, method="t prediction")
    outside = [m for j, m in enumerate(MEASURES) if abs(after[j] - middle[j]) > half[j]]
    caveats = [f"{n} of {n} held-out retrains lie inside the bands of the others"]
    if outside:
        caveats.append("the candidate lies outside on " + ", ".join(f"{m} (below)" for m in outside))
    verdict = "inconclusive" if n < 2 else "fail" if outside else "pass"
    return Finding(audit="retrain-gap", estimates=told, verdict=verdict, caveats=tuple(caveats))


@pytest.fixture(scope="session")
def run() -> Callable[..., Record]:
    return make


@pytest.fixture(scope="session")
def grid() -> list[Record]:
    """2 requests x 2 sparsities x 4 methods x 5 seeds."""
    return [make(m, r, s, seed) for r in REQUESTS for s in (0.0, 0.9) for m in KNOBS for seed in range(5)]


@pytest.fixture(scope="session")
def without() -> Callable[[Record], Record]:
    """The record with every estimate's ends gone, and every third value."""

    def blank(record: Record) -> Record:
        nan = float("nan")
        findings = []
        for finding in record.findings:
            told = {
                name: dataclasses.replace(e, low=nan, high=nan, value=nan if i % 3 == 0 else e.value)
                for i, (name, e) in enumerate(finding.estimates.items())
            }
            findings.append(dataclasses.replace(finding, estimates=told))
        return dataclasses.replace(record, findings=tuple(findings))

    return blank


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Debian's chromium, headless, with a profile of its own and no network."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        missing = (
            "chromium and chromedriver are not installed (Debian: apt-get install chromium chromium-driver)"
        )
        if os.environ.get("CI"):
            pytest.fail(f"{missing}, and CI must not skip this test")
        pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()
