from __future__ import annotations

import dataclasses
import math
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest

from secateur.errors import DataError, StoreError
from secateur.record import Record, machine
from secateur.report import facts, names, render_page, write_page
from secateur.report.plans import plan_text

SECTIONS = (
    "asked",
    "results",
    "why",
    "cost",
    "controls",
    "provenance",
    "splits",
    "runs",
    "environment",
    "cards",
    "glossary",
)
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects ids, links and text, and checks that elements are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in {"href", "src", "xlink:href", "srcset", "action", "data"}:
                self.links.append(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def html(grid):
    return render_page(grid)


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_the_page_is_one_well_formed_file_that_loads_nothing(html):
    page = Page(html)
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert all(link.startswith("#") or link == "data:," for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#") and len(link) > 1} <= {*page.ids} | set(
        re.findall(r'id="([^"]+)"', html)
    )
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert "default-src 'none'" in html


def test_eighty_runs_stay_small_and_the_bytes_repeat(grid, html):
    assert len(html.encode()) < 2_000_000
    assert render_page(grid) == html


def test_the_page_tells_what_was_asked_and_what_came_of_it(grid, html):
    text = words(html).replace("\xa0", " ")
    for phrase in (
        "class 0 (airplane)",
        "10 % of the rows, at random",
        "cifar10 · resnet20s",
        "80 runs",
        "5 seeds",
        "train → magnitude → train",
        "noise floor",
        "train accuracy of the original",
        "Honest operator assumed",
        "From dense to 90 % sparse",
        "A mask can leak",
        "NVIDIA H100",
        "2.13.0",
        "Jia et al., NeurIPS 2023",
        "Before unlearning, not in RTE: train",
        grid[0].split["hash"],
        grid[7].key,
        grid[7].hashes["weights"],
    ):
        assert phrase in text, phrase


def test_a_single_run_is_told_with_intervals(run):
    record = run("l1-sparse")
    text = words(render_page([record]))
    ua = record.estimate("UA")
    assert f"[{ua.low * 100:.1f}, {ua.high * 100:.1f}]" in text
    assert "1,000 of 10,000 training rows (10 %)" in text.replace("\xa0", " ")
    assert "The verdict of retrain-gap is: fail." in text
    assert "retrained references" in text
    assert "Outside the band of the retrains: UA" in text


def test_what_users_wrote_is_escaped(run):
    evil = "<script>alert(1)</script>\"'&"
    record = run("fine-tune", request=evil)
    caveat = dataclasses.replace(record.findings[0], caveats=(evil,))
    plan = dict(record.plan) | {"data": {"use": evil}}
    hostile = dataclasses.replace(
        record,
        method=evil,
        plan=plan,
        findings=(caveat, *record.findings[1:]),
        hardware={evil: evil},
        cards={evil: {"summary": evil}},
        split=dict(record.split) | {"hash": evil},
    )
    html = render_page([hostile])
    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 8
    assert Page(html).text.count(evil) > 8


def test_a_leak_is_said_and_its_absence_is_not_alarming(run):
    record = run("retrain")
    assert "no reference" not in words(render_page([record]))
    assert "So this retrain keeps something of them" in words(render_page([record]))
    clean = tuple(dataclasses.replace(step, masks_saw=("retain",)) for step in record.steps)
    text = words(render_page([dataclasses.replace(record, steps=clean)]))
    assert "The mask was chosen without them." in text
    assert "can leak" not in text
    false = tuple(dataclasses.replace(step, weights_saw=("pool",)) for step in record.steps)
    assert "Called retrain, but" in words(render_page([dataclasses.replace(record, steps=false)]))
    free = tuple(dataclasses.replace(step, masks_saw=()) for step in record.steps)
    assert "without looking at rows" in words(render_page([dataclasses.replace(record, steps=free)]))


def test_caveats_stand_once(grid, run, html):
    assert html.count("a stronger one may see more") == 1
    assert "the candidate lies outside" not in html
    alike = [
        dataclasses.replace(r, findings=(dataclasses.replace(r.findings[0], caveats=(f"seed {i} of 2.",)),))
        for i, r in enumerate([run("fine-tune", seed=0), run("fine-tune", seed=1)])
    ]
    text = words(render_page(alike))
    assert "seed 0 of 2. (and alike, with other numbers)" in text
    assert "seed 1 of 2" not in text
    own = [
        dataclasses.replace(
            r, findings=(dataclasses.replace(r.findings[0], caveats=caveats), *r.findings[1:])
        )
        for r, caveats in (
            (run("fine-tune"), ("of the place", "of the row")),
            (run("l1-sparse"), ("of the place",)),
            (run("l1-sparse", sparsity=0.0), ()),
        )
    ]
    html = render_page(own)
    assert html.count("<p>of the place</p>") == 1
    assert html.count("of the row") == 1


def place(record, **ends):
    """The record with its gaps moved: measure to (value, low, high), in points."""
    told = dict(record.findings[-1].estimates)
    for name, (value, low, high) in ends.items():
        name = name.replace("_", "-")
        told[f"gap.{name}"] = dataclasses.replace(told[f"gap.{name}"], value=value, low=low, high=high)
    return dataclasses.replace(
        record, findings=(*record.findings[:-1], dataclasses.replace(record.findings[-1], estimates=told))
    )


IN, OUT, NAN = (0.1, -1.0, 1.0), (-3.0, -4.0, -2.0), (0.1, math.nan, math.nan)
INSIDE = "Inside the band of the retrains by every measure"


def test_where_a_run_stands_is_told_by_the_finding_that_judged_it(run):
    alone = run("fine-tune", audits=("retrain-gap",))
    text = words(render_page([place(alone, UA=OUT, MIA_Efficacy=IN, RA=(3.0, 2.0, 4.0), TA=IN)]))
    assert "Outside the band of the retrains: UA (below), RA (above)." in text
    assert INSIDE not in text
    within = place(run("fine-tune"), UA=IN, MIA_Efficacy=IN, RA=IN, TA=IN)
    assert f"{INSIDE}." in words(render_page([within]))
    assert "the candidate lies outside" not in words(render_page([within]))
    both = [dataclasses.replace(within, key="a"), place(within, UA=OUT)]
    assert "Outside the band of the retrains: UA (below in 1 of 2)." in words(render_page(both))


def test_inside_is_said_of_four_bands_or_not_at_all(run):
    half = place(run("fine-tune"), UA=IN, MIA_Efficacy=IN, RA=IN, TA=NAN)
    text = words(render_page([half]))
    assert INSIDE not in text
    assert "the candidate lies outside on" in text  # nothing else says where it stands
    whole = dataclasses.replace(place(half, TA=IN), key="whole")
    assert f"{INSIDE} (1 of 2 runs)." in words(render_page([half, whole]))


def test_a_page_of_one_audit_still_fills_the_usual_cells(run):
    record, alone = run("fine-tune"), run("fine-tune", audits=("retrain-gap",))
    text = words(render_page([alone]))
    for name in ("UA", "TA", "before.UA"):
        assert f"{record.estimate(name).value * 100:.1f}" in text
    assert "Afterwards the model gets" in text
    assert "train accuracy of the original" in text
    table = words(render_page([alone])).partition("Percent, with")[2].partition("How far from")[0]
    assert table.count("–") == 1  # seconds: the original was not unlearned


def test_provenance_and_cost_are_those_of_the_model_that_came_out(run):
    record = run("retrain", sparsity=0.0)
    after = dataclasses.replace(
        record.steps[-1],
        step="train",
        reads=("pool",),
        drawn={"pool": 5000, "retain": 7},
        peak_bytes=5 * 2**30,
        weights_saw=("pool", "retain"),
        masks_saw=("pool",),
    )
    text = words(render_page([dataclasses.replace(record, steps=(*record.steps, after))]))
    assert "These weights never saw" not in text
    assert "Called retrain, but these weights have seen the forget rows" in text
    assert "A mask can leak" in text
    assert "Mind the masks" in text
    assert "retain, pool" in text
    assert "retain 45,007 · pool 5,000" in text
    assert "5.0 GiB" in text


def test_a_peak_of_the_whole_process_is_no_cost_of_a_step(run):
    gpu, cpu = run("fine-tune"), run("l1-sparse")
    cpu = dataclasses.replace(cpu, run={**cpu.run, "device": "cpu"})
    assert "Peak memory" in words(render_page([gpu]))
    assert "Peak memory" not in words(render_page([cpu]))
    big = dataclasses.replace(cpu.steps[-1], peak_bytes=77 * 2**30)
    text = words(render_page([gpu, dataclasses.replace(cpu, steps=(*cpu.steps[:-1], big))]))
    assert "2.1 GiB" in text
    assert "77.0 GiB" not in text


def test_hashes_bind_the_evidence_or_the_page_does_not_say_so(run):
    record = run("fine-tune")
    text = words(render_page([record]))
    for name in ("before", "after", "retrain[3]"):
        assert f"{name} {record.hashes[name]} of {record.files[name]}" in text
    assert text.count(record.hashes["after"]) == 1
    assert f"weights {record.hashes['weights']} · split" in text
    assert "The hashes below bind the numbers to files" in text
    old = dataclasses.replace(record, hashes={"weights": "ab", "split": "cd"}, key="old")
    text = words(render_page([record, old]))
    assert "bind the numbers to files; they" not in text
    assert "hold no hashes of their evidence" in text


def test_steps_from_another_machine_forbid_comparing_times(run):
    record = run("fine-tune")
    here = {"hardware": machine(record.hardware), "created": "2026-07-01"}
    there = {"hardware": "cpus 2, cpu AMD EPYC", "created": "2026-06-01"}
    same = dataclasses.replace(
        record, steps=tuple(dataclasses.replace(step, made=here) for step in record.steps)
    )
    assert "do not compare their times" not in words(render_page([record]))
    assert "do not compare their times" not in words(render_page([same]))
    mixed = (dataclasses.replace(same.steps[0], made=there), *same.steps[1:])
    text = words(render_page([dataclasses.replace(same, steps=mixed)]))
    assert "or steps of them, were made on different hardware: do not compare their times" in text
    assert "Steps of 1 run were taken on other hardware: cpus 2, cpu AMD EPYC." in text


def test_sparsity_that_went_is_said(run):
    def kept(before, after, **changes):
        return run("fine-tune", measures={"sparsity.before": before, "sparsity.after": after}, **changes)

    assert "points of sparsity" not in words(render_page([kept(0.9, 0.86), kept(0.0, 0.9, seed=1)]))
    assert "Lost 89.9 points of sparsity while unlearning." in words(render_page([kept(0.9, 0.001)]))
    several = [kept(0.9, 0.9), kept(0.9, 0.8, seed=1), kept(0.9, 0.7, seed=2)]
    assert "Lost 10 to 20 points of sparsity while unlearning (2 of 3 runs)." in words(render_page(several))


def test_the_summary_does_not_praise_a_method_that_did_nothing(run):
    record = run("fine-tune")
    before, after = record.estimate("before.disparity"), record.estimate("disparity")
    idle = [
        dataclasses.replace(
            run("fine-tune", seed=seed),
            findings=(
                *record.findings[:2],
                dataclasses.replace(
                    record.findings[2], estimates=record.findings[2].estimates | {"disparity": value}
                ),
            ),
        )
        for seed, value in enumerate((before, before))
    ]
    assert before.value > after.value
    assert "No method came clearly nearer to Retrain than its original." in words(render_page(idle))
    busy = words(render_page([run("fine-tune", seed=seed) for seed in range(2)]))
    assert "Nearest to Retrain on average is fine-tune on the 90 % sparse model" in busy.replace("\xa0", " ")


def test_repeated_seeds_are_said(run):
    twice = [run("fine-tune"), dataclasses.replace(run("fine-tune"), key="again")]
    assert "repeat the seeds" in words(render_page(twice))


def test_other_audits_have_tables(run):
    record = run("fine-tune")
    more = dataclasses.replace(record.findings[0], audit="rmia", estimates={"TPR": record.estimate("TA")})
    text = words(render_page([dataclasses.replace(record, findings=(*record.findings, more))]))
    assert "rmia 90 % sparse MethodTPR" in text


@pytest.mark.parametrize(
    "changes",
    [
        {"audits": ()},
        {"audits": ("accuracy",), "references": 0},
        {"references": 1},
        {"method": "", "references": 0},
        {"method": ""},
        {"classes": 0},
        {"plan": {}},
        {
            "cards": {},
            "versions": {},
            "hardware": {},
            "hashes": {},
            "run": {},
            "split": {},
            "key": "",
            "created": "",
        },
        {"steps": (), "unlearn": None, "method": ""},
        {"references": 3, "sparsity": 0.0},
    ],
)
def test_what_is_missing_does_no_harm(run, without, changes):
    changes = dict(changes)
    made = {
        key: changes.pop(key)
        for key in ("method", "audits", "references", "classes", "sparsity")
        if key in changes
    }
    record = dataclasses.replace(run(**made), **changes)
    for records in ([record], [without(record)], [record, without(run("fine-tune", seed=1)), run("retrain")]):
        Page(render_page(records))
        assert Page(render_page([Record.from_json(r.to_json()) for r in records]))


def test_no_records_are_refused():
    with pytest.raises(DataError, match="at least one record"):
        render_page([])


def test_writing_replaces_the_file_and_leaves_nothing_behind(run, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    assert write_page([run()], str(path)) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert os.listdir(tmp_path) == ["page.html"]
    write_page([run(request="lone \ud800 surrogate")], path)
    assert "lone ? surrogate" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "missing/page.html", "file/page.html", "nul\0.html"])
def test_a_path_that_cannot_be_written_is_explained(run, tmp_path, name):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"expected to write the report to .* folder that exists"):
        write_page([run()], tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_the_plan_is_toml_that_reads_back(run):
    plan = {
        "seed": 0,
        "data": {"use": "cifar10", "forget": {"how": "rows", "rows": [1, 2]}, "limit": None},
        "step": [
            {"use": "train", "epochs": 2, "lr": 1e-05, "on": True},
            {"use": "my.mod:Step", "note": 'a "b"\n\t\x7f é'},
        ],
        "grid": {"prune.sparsity": [0.0, 0.9], "unlearn": [{"use": "retrain"}]},
        "empty": {},
        "audit": [],
    }
    back = tomllib.loads(plan_text(plan))
    expected = plan | {"data": {"use": "cifar10", "forget": {"how": "rows", "rows": [1, 2]}}}
    assert back == expected
    assert tomllib.loads(plan_text(run().plan)) == run().plan


def test_rendering_never_imports_torch(tmp_path):
    fixtures = Path(__file__).with_name("conftest.py")
    code = f"""
import sys, importlib.util
spec = importlib.util.spec_from_file_location("made", {str(fixtures)!r})
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)
import secateur.report
secateur.report.write_page([made.make()], {str(tmp_path / "page.html")!r})
print(sorted(m for m in sys.modules if m.partition(".")[0] in ("torch", "sklearn")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_methods_tell_every_knob_with_all_its_values(grid):
    told = facts.knobs(grid)
    for run in grid:
        for step in run.steps:
            assert set(names.flat(step.knobs)) <= {name for name, _ in told[step.step]}
    some = dataclasses.replace(grid[0].steps[0], step="x", knobs={"lr": 0.1, "clip": None, "deep": {"b": 2}})
    other = dataclasses.replace(some, knobs=some.knobs | {"lr": 0.2})
    runs = [dataclasses.replace(grid[0], steps=(s, *grid[0].steps[1:])) for s in (some, other, some)]
    assert facts.knobs(runs)["x"] == [("lr", "0.1 | 0.2"), ("clip", "none"), ("deep.b", "2")]
    carded = [dataclasses.replace(run, cards={"x": {"summary": "it"}}) for run in runs]
    assert "lr&nbsp;=&nbsp;0.1 | 0.2" in render_page(carded)
