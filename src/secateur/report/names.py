"""What runs share and what tells them apart, in words; and who is who among the models they speak of."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from secateur.record import Estimate, Finding, Record, StepTrace
from secateur.report.spread import percent

_CONTROL = re.compile(r"retrain\[(\d+)\]\.([^\[\]]+)")

_ELSEWHERE = {
    "data",
    "model",
    "step",
    "audit",
    "grid",
    "seed",
}  # told as data, model, start, method and seeds


class Retrain(NamedTuple):
    """A retrained model: its key in the store, its seed, the seconds of retraining, its estimates."""

    key: str
    seed: int | None
    seconds: float | None
    told: Mapping[str, Estimate]


def settings(runs: Sequence[Record]) -> list[str]:
    """Data and model of each run; what was asked to be forgotten is no part of it."""
    things = []
    for run in runs:
        data, model = mapping(run.plan.get("data")), mapping(run.plan.get("model"))
        base = " · ".join(str(part["use"]) for part in (data, model) if part.get("use"))
        rest = {key: given for key, given in run.plan.items() if key not in _ELSEWHERE}
        data = {key: given for key, given in data.items() if key != "forget"}
        things.append(("", base, flat(data, "data.") | flat(model, "model.") | flat(rest)))
    return [_joined(base, detail) or "unnamed data" for base, detail in _told_apart(things)]


def requests(runs: Sequence[Record], places: Sequence[str]) -> list[str]:
    """What was asked to be forgotten: in its own words, and what tells it from others in the same words."""
    asked = [flat(mapping(mapping(run.plan.get("data")).get("forget"))) for run in runs]
    keys = [
        (place, run.request, json.dumps(one, sort_keys=True, default=str))
        for place, run, one in zip(places, runs, asked, strict=True)
    ]
    hashes: dict[tuple[str, str, str], set[str]] = {}
    for key, run in zip(keys, runs, strict=True):
        hashes.setdefault(key, set()).add(str(run.split.get("hash", "")))
    things = []
    for key, run, one in zip(keys, runs, asked, strict=True):
        # a file of rows can have changed between two runs: then only the split tells
        split = {"split": str(run.split.get("hash", ""))[:8]} if len(hashes[key]) > 1 else {}
        things.append((key[0], run.request, one | split))
    return [_joined(base, detail) for base, detail in _told_apart(things)]


def starts(runs: Sequence[Record], places: Sequence[str]) -> list[str]:
    """What unlearning started from: its sparsity, and what tells it from others as sparse."""
    things = []
    for run, place in zip(runs, places, strict=True):
        sparsity = round(run.sparsity, 3)
        base = "dense" if sparsity == 0 else f"{percent(sparsity)} sparse"
        things.append((f"{place}\n{run.request}", base, _steps(run.steps[: run.unlearn])))
    return [_joined(base, detail) for base, detail in _told_apart(things)]


def methods(runs: Sequence[Record]) -> list[tuple[str, str]]:
    """Method and the knobs in which runs of this method differ."""
    things = []
    for run in runs:
        later = run.steps[run.unlearn + 1 :] if run.unlearn is not None else ()
        base = " + ".join([run.method or "no unlearning", *(step.step for step in later)])
        own = run.unlearning
        knobs = flat(own.knobs) | {"version of its numbers": own.version} if own else {}
        things.append(("", base, knobs | _steps(later)))
    return _told_apart(things)


def audits(run: Record) -> Iterator[tuple[str, Finding]]:
    """The findings by audit; a second one of the same audit is numbered."""
    seen: Counter[str] = Counter()
    for finding in run.findings:
        seen[finding.audit] += 1
        yield finding.audit + (f" {seen[finding.audit]}" if seen[finding.audit] > 1 else ""), finding


def retrains(runs: Sequence[Record]) -> list[Retrain]:
    """The retrained models that these runs were compared with; one that served several stands there once."""
    found: dict[str, Retrain] = {}
    for run in runs:
        told: dict[int, dict[str, Estimate]] = {}
        for name, estimate in ((n, e) for finding in run.findings for n, e in finding.estimates.items()):
            if match := _CONTROL.fullmatch(name):
                told.setdefault(int(match[1]), {}).setdefault(match[2], estimate)
        known = [reference for reference in run.references if reference.get("kind") == "retrained"]
        for i, each in sorted(told.items()):
            about = known[i] if i < len(known) else {}
            key, seed, took = str(about.get("key") or ""), about.get("seed"), about.get("seconds")
            retrain = Retrain(
                key,
                seed if isinstance(seed, int) else None,
                took if isinstance(took, (int, float)) else None,
                each,
            )
            found.setdefault(key or f"{run.key} {i}", retrain)
    return list(found.values())


def seed(run: Record) -> int:
    """The seed that tells this run from its siblings."""
    found = run.run.get("seed", run.plan.get("seed", 0))
    return found if isinstance(found, int) else 0


def counts(run: Record) -> dict[str, int]:
    """Rows by role."""
    found = run.split.get("rows")
    return {role: n for role, n in found.items() if isinstance(n, int)} if isinstance(found, Mapping) else {}


def training(run: Record) -> str:
    """One name for all runs that started from the same trained model and the same rows."""
    return json.dumps(
        [[step.seed for step in run.steps[: run.unlearn]], seed(run), run.split.get("hash")], default=str
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested knobs as one level, with dots.

    >>> flat({"lr": 0.1, "optimizer": {"momentum": 0.9}})
    {'lr': 0.1, 'optimizer.momentum': 0.9}

    Returns:
        Dotted name to value.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return found


def value(given: Any) -> str:
    """A knob's value as text.

    >>> value(0.0005), value("keep"), value(True), value(None), value([0, 2])
    ('0.0005', 'keep', 'true', 'none', '[0, 2]')

    Returns:
        Text.
    """
    if isinstance(given, float):
        return f"{given:g}"
    if given is None:
        return "none"
    return given if isinstance(given, str) else json.dumps(given, default=str)


def _steps(steps: Sequence[StepTrace]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for step in steps:
        seen[step.step] += 1
        name = step.step + (f" {seen[step.step]}" if seen[step.step] > 1 else "")
        found |= {name: "", **flat(step.knobs, f"{name}."), f"{name}.version of its numbers": step.version}
    return found


def _told_apart(things: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[tuple[str, str]]:
    """Base and detail for each (place, base, entries): where entries of one place and base differ."""
    kept: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    marks = [json.dumps(entries, sort_keys=True, default=str) for _, _, entries in things]
    for (place, base, entries), mark in zip(things, marks, strict=True):
        kept.setdefault((place, base), {})[mark] = entries
    told: dict[tuple[str, str, str], str] = {}
    for (place, base), variants in kept.items():
        used: set[str] = set()
        every = dict.fromkeys(key for entries in variants.values() for key in entries)
        differ = [
            key for key in every if len({value(entries.get(key, ...)) for entries in variants.values()}) > 1
        ]
        for mark, entries in variants.items():
            shown = [key for key in differ if key in entries and key.rpartition(".")[0] not in differ]
            text = ", ".join(key if entries[key] == "" else f"{key}={value(entries[key])}" for key in shown)
            while text in used:  # they differ in order only
                text = f"{text} again".strip()
            used.add(text)
            told[place, base, mark] = text
    return [(base, told[place, base, mark]) for (place, base, _), mark in zip(things, marks, strict=True)]


def _joined(base: str, detail: str) -> str:
    return f"{base} ({detail})" if detail else base


def mapping(value: Any) -> Mapping[str, Any]:
    """A table of a plan; empty where the plan has something else there, or nothing."""
    return value if isinstance(value, Mapping) else {}
