"""The page of one audited run: all that audits said stands on it, escaped, and nothing else is needed."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest

from secateur import audits, stats
from secateur.audit import judge, overall
from secateur.errors import StoreError
from secateur.evidence import Evidence, Reference
from secateur.outputs import Outputs
from secateur.record import Control, Finding
from secateur.report import audit_figures, render_audit, write_audit
from secateur.report.measures import measures, standing
from secateur.report.risk import MOST, most_exposed, risk
from secateur.report.trials import fakes, trials, widths

SECTIONS = ("verdict", "roc", "rows", "bands", "controls", "power", "caveats", "numbers", "run")
SIZES = {"forget": 40, "retain": 120, "test": 80}
VOID = {"meta", "link", "br", "hr", "img", "input"}


def said(rng, *, knows, sizes=SIZES, start=0):
    """Outputs of one model of three classes: surer of the rows that it knows."""
    told, at = {}, start
    for view, count in sizes.items():
        labels, rows = np.arange(count) % 3, np.arange(at, at + count)
        logits = rng.normal(size=(count, 3))
        logits[np.arange(count), labels] += 5.0 if view in knows else 1.0
        told[view], at = Outputs(logits, labels, rows[::-1].copy()), at + count
    return told


def case(*, after=("forget", "retain"), retrains=6, sizes=SIZES):
    """Evidence: the original knows forget and retain, a candidate what ``after`` names, retrains retain."""
    rng = np.random.default_rng(7)
    before, candidate = (
        said(rng, knows=("forget", "retain"), sizes=sizes),
        said(rng, knows=after, sizes=sizes),
    )
    others = [said(rng, knows=("retain",), sizes=sizes) for _ in range(retrains)]
    references = [Reference.retrained(one, one["retain"]) for one in others]
    return Evidence(before=before, after=candidate, references=references)


ASKED = (audits.Accuracy(), audits.RetrainGap(), audits.Threshold(), audits.Rmia(), audits.Divergence())


@pytest.fixture(scope="module")
def failed():
    evidence = case()
    return evidence, judge(ASKED, evidence)


@pytest.fixture(scope="module")
def doubted():
    """All pass, and would also pass answers copied from test rows: these models have no rows of their own."""
    evidence = case(after=("retain",))
    return evidence, judge(ASKED, evidence)


@pytest.fixture(scope="module")
def passed(doubted):
    evidence, findings = doubted
    kept = [tuple(c for c in finding.controls if "test-like" not in c.name) for finding in findings]
    return evidence, [dataclasses.replace(f, controls=c) for f, c in zip(findings, kept, strict=True)]


@pytest.fixture(scope="module")
def pictures(failed):
    rng = np.random.default_rng(0)
    ids = failed[0].after["forget"].rows.tolist()
    grey, colour = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((8, 8), (300, 200, 3)))
    return {row: grey if row % 2 else colour for row in ids}


class Page(HTMLParser):
    """Text, ids and links; elements are closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.ids, self.links, self.tags, self.text = [], [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data


def words(html):
    return " ".join(Page(html).text.split()).replace("\xa0", " ")


def test_one_well_formed_file_that_loads_nothing(run, failed, pictures):
    html = render_audit(run(), *failed, pictures)
    page = Page(html)
    assert set(SECTIONS) <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= {*page.ids}
    assert all(link.startswith(("#", "data:")) for link in page.links)
    assert "script" not in page.tags
    assert not re.search(r"url\((?!#)|@import|https?://", html)
    assert "default-src 'none'" in html
    assert html == render_audit(run(), *failed, pictures)
    assert len(html) < 1_000_000


@pytest.mark.parametrize(
    ("which", "verdict"), [("failed", "fail"), ("passed", "pass"), ("doubted", "inconclusive")]
)
def test_everything_that_audits_said_stands_on_it(run, request, which, verdict):
    evidence, findings = request.getfixturevalue(which)
    html = render_audit(run(), evidence, findings)
    text = words(html)
    assert overall(findings)[0] == verdict
    assert f"{verdict.capitalize()} " in text
    assert f"Why: {overall(findings)[1]}." in text
    assert "Honest operator assumed" in text
    for finding in findings:
        assert finding.audit in text
        assert all(caveat in text for caveat in finding.caveats)
        for control in finding.controls:
            assert control.name in text
        for name in {
            re.sub(r"^(before\.|retrain\[\d+\]\.)?(gap\.|band\.)?", "", n) for n in finding.estimates
        }:
            assert f">{name}</th>" in html
        for estimate in finding.estimates.values():
            if math.isfinite(estimate.value):
                scale, digits = (
                    (100, 1) if estimate.unit == "share" else (1, 1 if estimate.unit == "points" else 3)
                )
                assert f"{round(estimate.value * scale, digits) + 0.0:,.{digits}f}".replace("-", "−") in text
    assert text.count("✓ holds") == sum(c.held and bool(c.said) for f in findings for c in f.controls) + 1


def test_what_others_wrote_is_escaped(run, failed):
    evil = "<script>alert(1)</script>\"'&"
    evidence, findings = failed
    odd = [
        dataclasses.replace(
            finding,
            audit=f"{evil}{i}",
            caveats=(evil,),
            estimates={f"{n}{evil}": e for n, e in finding.estimates.items()},
            controls=tuple(dataclasses.replace(c, name=f"{c.name}{evil}") for c in finding.controls),
        )
        for i, finding in enumerate(findings)
    ]
    record = dataclasses.replace(
        run(request=evil), method=evil, hashes={"weights": evil}, versions={evil: evil}, key=evil
    )
    html = render_audit(record, evidence, odd)
    assert "<script" not in html
    Page(html)
    assert words(html).count("alert(1)") > 20
    for svg in re.findall(r"<svg.*?</svg>", html, re.DOTALL):
        ET.fromstring(svg)


def test_the_controls_are_told_by_mark_and_word(failed):
    kinds = [
        Control(name="original", must="fail", said={"pass": 1}, held=False),
        Control(name="held-out retrains", must="pass", said={"fail": 1, "pass": 9}, held=True),
        Control(name="fake", must="not pass", said={"pass": 1}, held=False),
        Control(name="other fake", must="not pass", said={}, held=True),
    ]
    one = Finding(audit="a", estimates={}, verdict="pass", controls=tuple(kinds))
    few = Control(name="held-out retrains", must="pass", said={"inconclusive": 5}, held=True)
    two = Finding(audit="b", estimates={}, verdict="fail", controls=(few,))
    told = {trial.name: [tuple(cell) for cell in trial.cells] for trial in trials([one, two])}
    assert told["original"] == [("✕", "broken", "pass"), ("–", "not asked", "")]
    assert told["held-out retrains"] == [
        ("✓", "holds", "9 of 10 pass, 1 fail"),
        ("○", "open", "0 of 5 pass, 5 inconclusive"),
    ]
    assert told["fake"][0] == ("✕", "broken", "pass")
    assert told["other fake"][0] == ("–", "not asked", "")


def fake(audit, verdict, **held):
    """A finding with fakes: name to whether it is caught."""
    made = [Control(name=n, must="not pass", said={"fail": 1}, held=ok) for n, ok in held.items()]
    return Finding(audit=audit, estimates={}, verdict=verdict, controls=tuple(made))


def test_which_fakes_no_passing_audit_catches():
    told = fakes([fake("a", "pass", x=True, y=False, z=False), fake("b", "fail", x=True, y=True, z=False)])
    assert "No audit that passes the candidate catches y and z" in told[0]
    assert told[1] == "No audit at all catches z."
    both = fakes([fake("a", "pass", x=True, y=False), fake("b", "pass", x=False, y=True)])
    assert both == ["Every fake that was tried is caught by at least one audit that passes the candidate."]
    assert "No audit passes the candidate" in fakes([fake("a", "fail", x=True)])[0]
    assert "No fakes were tried" in fakes([])[0]


def test_the_most_exposed_rows_come_first_with_their_pictures(run, failed, pictures):
    evidence, findings = failed
    html = render_audit(run(), evidence, findings, pictures)
    (rmia,) = (finding for finding in findings if finding.audit == "rmia")
    exposure = np.array(rmia.rows["forget/exposure"])
    ids = np.sort(evidence.after["forget"].rows)
    shown = [int(row) for row in re.findall(r'<th scope="row" class="num">(\d+)</th>', html)]
    assert shown == most_exposed(evidence, findings)
    assert len(shown) == MOST
    assert sorted(exposure[np.searchsorted(ids, shown)]) == sorted(np.sort(exposure)[-MOST:])
    assert html.count('<img src="data:image/png;base64,iVBOR') == MOST
    assert "<img" not in render_audit(run(), evidence, findings)
    said_of = evidence.after["forget"]
    confidence = said_of.confidence[said_of.rows == shown[0]][0]
    assert f"{100 * confidence:.1f} %" in html


def test_which_number_tells_a_row_from_another(failed):
    evidence, findings = failed
    found = risk(evidence, findings)
    assert (found.audit, found.name) == ("rmia", "forget/exposure")
    bounds = Finding(audit="epsilon", estimates={}, rows={"forget/epsilon": (0.0,) * 39 + (1.5,)})
    assert risk(evidence, [*findings, bounds]).name == "forget/epsilon"
    nothing = dataclasses.replace(bounds, rows={"forget/epsilon": (0.0,) * 40})
    assert risk(evidence, [*findings, nothing]).name == "forget/exposure"
    short = dataclasses.replace(bounds, rows={"forget/epsilon": (1.0,) * 3})
    assert risk(evidence, [*findings, short]).name == "forget/exposure"
    shift = risk(evidence, [])
    mean = np.mean([one.outputs["forget"].phi_by_row for one in evidence.retrains], axis=0)
    assert shift.values.tolist() == (evidence.after["forget"].phi_by_row - mean).tolist()
    assert len(shift.null) == 6 * 40
    assert risk(case(retrains=0), []) is None


def test_the_curves_are_the_rates_of_the_audit():
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(1, 1, 300), np.round(rng.normal(0, 1, 1000), 1)
    rates = audit_figures._rates(positive, negative)
    for at in np.flatnonzero(audit_figures._RATES >= 0.01)[::20]:
        fpr = min(float(audit_figures._RATES[at]), 1 - 1e-12)
        assert rates[at] == stats.tpr_at_fpr(positive, negative, fpr).value or at == len(rates) - 1
    assert rates[-1] == 1.0


def test_a_measure_is_read_from_its_parts(failed):
    (gap,) = (finding for finding in failed[1] if finding.audit == "retrain-gap")
    found = {measure.name: measure for measure in measures(gap)}
    ua = found["UA"]
    accuracy = failed[1][0].estimates
    assert ua.candidate.value == pytest.approx(accuracy["UA"].value)
    assert ua.original.value == pytest.approx(accuracy["before.UA"].value)
    assert ua.side == "below"
    assert standing(gap).side == "below"
    assert standing(Finding(audit="a", estimates={})) is None
    assert {width.measure for width in widths([gap])} == {"UA", "MIA-Efficacy", "RA", "TA"}


def test_figures_are_well_formed_and_bring_no_colours(failed):
    evidence, findings = failed
    drawn = [audit_figures.roc(evidence, "a"), audit_figures.histogram(risk(evidence, []), "b")]
    drawn += [audit_figures.bands(finding, "c") for finding in findings]
    drawn.append(audit_figures.roc(case(retrains=12), "d"))
    for svg in filter(None, drawn):
        root = ET.fromstring(svg)
        assert root.get("role") == "img"
        assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"url\(#[^)]*\)|href=\"#[^\"]*\"", "", svg)) == []
    assert sum(map(bool, drawn)) == 7  # accuracy has no bands
    assert "95 % of the retrains" in drawn[-1]
    assert "each retrain" in drawn[0]


@pytest.mark.parametrize(
    "evidence",
    [
        case(retrains=0),
        case(retrains=1),
        case(sizes={"forget": 1, "retain": 30, "test": 20}),
        case(retrains=2, sizes={"forget": 5, "retain": 30, "test": 1}),
    ],
    ids=["no-retrains", "one-retrain", "one-forget-row", "one-test-row"],
)
def test_little_is_told_as_little(run, evidence):
    findings = judge([audits.Accuracy(), audits.RetrainGap(), audits.Rmia()], evidence)
    text = words(render_audit(run(), evidence, findings))
    if not evidence.retrains:
        assert "No number tells one row from another here" in text
        assert "There are no bands" in text
        assert "No controls were run" in text
        assert "Inconclusive" in text
    if len(evidence.after["forget"]) == 1:
        assert "The one forget row" in text


def test_nothing_judged_and_no_test_rows(run, failed):
    evidence = failed[0]
    text = words(render_audit(run(), evidence, []))
    assert "Why: nothing was judged." in text
    assert "No audit gave a verdict." in text
    bare = {view: evidence.after[view] for view in ("forget", "retain")}
    lone = Evidence(before=bare, after=bare)
    text = words(render_audit(run("", references=0), lone, []))
    assert "No curve can be drawn" in text
    assert "nothing was unlearned" in text


def test_written_at_once_or_not_at_all(run, failed, tmp_path):
    path = write_audit(run(), *failed, tmp_path / "page.html")
    assert path.read_text() == render_audit(run(), *failed)
    assert [p.name for p in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(StoreError, match="cannot"):
        write_audit(run(), *failed, tmp_path / "missing" / "page.html")


def test_no_torch_is_needed():
    code = (
        "import sys, numpy as np\n"
        "from secateur.evidence import Evidence\nfrom secateur.outputs import Outputs\n"
        "from secateur.report import audit_page\n"
        "assert not {'torch', 'secateur.lab', 'secateur.audits'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
