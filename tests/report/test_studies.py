"""The page of all studies: made from what is committed, one file, for every reader."""

from __future__ import annotations

import csv
import importlib
import re
from pathlib import Path

import pytest

from .chromium import show

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "results" / "small"
PAGE = FOLDER / "report.html"


@pytest.fixture
def study(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    return importlib.import_module("study")


def test_it_says_what_is_committed(study, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(study, "put", lambda text, path: made.append((text, path)))
    study.main(FOLDER)
    ((text, path),) = made
    assert path == PAGE
    fresh = text == PAGE.read_text(encoding="utf-8")  # nobody wants to read the two side by side
    assert fresh, "the page is not that of its files: python tools/study.py docs/results/small"
    assert len(text.encode()) < 5e6


def test_the_main_tables_are_those_of_their_files(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    made = importlib.import_module("beside").tables(FOLDER)
    assert made in (FOLDER / "main" / "README.md").read_text(encoding="utf-8"), (
        "the tables are not those of their files: python tools/beside.py docs/results/small"
    )
    assert made.count("no result in 5 runs") == 1


def test_the_page_of_the_main_table_has_the_comparison_that_its_section_promises():
    page = (FOLDER / "main" / "report.html").read_text(encoding="utf-8")
    (compared,) = re.findall(r'<section id="published".*?</section>', page, flags=re.DOTALL)
    with (FOLDER / "main" / "paper.csv").open(encoding="utf-8", newline="") as file:
        cells = [line for line in csv.DictReader(file) if line["measure"] == "UA" and line["published_mean"]]
    assert len(cells) > 15
    assert not [line for line in cells if f"{float(line['published_mean']):.1f}" not in compared]


def test_knobs_of_a_study_are_those_that_its_commands_ran(study):
    text = (FOLDER / "sparsity-masks" / "README.md").read_text(encoding="utf-8")
    (((recipe, sets),)) = study.commands(text).items()
    bare, ran = study.knobs(recipe)["magnitude"], study.knobs(recipe, sets)["magnitude"]
    assert "sparsity = 0 or 0.5 or 0.75" in bare
    assert "sparsity = 0 or 0.75" in ran


def test_it_has_every_study_with_its_figures_and_numbers():
    text = PAGE.read_text(encoding="utf-8")
    for folder in sorted(path.parent for path in FOLDER.glob("*/README.md")):
        assert f'<section id="{folder.name}">' in text
        section = text.split(f'<section id="{folder.name}">')[1].split("</section>")[0]
        drawn = [path for path in folder.glob("*.svg") if path.name in (folder / "README.md").read_text()]
        assert section.count("<svg") == len(drawn) > 0
        for table in folder.glob("*.csv"):
            assert f"<summary>{table.name} " in section


def test_a_link_between_sections_stays_on_the_page_and_others_lead_to_files(study):
    folder = FOLDER / "main"
    assert study.moved("../l1/README.md", folder, FOLDER) == "#l1"
    assert study.moved("https://arxiv.org", folder, FOLDER) == "https://arxiv.org"
    there = study.moved("../../../methods/fisher.md", folder, FOLDER)
    assert (FOLDER / there).resolve() == ROOT / "docs" / "methods" / "fisher.md"


def test_ids_of_two_figures_never_meet(study):
    drawn = [
        study.figure(path, "a < b", f"f{i}") for i, path in enumerate(sorted(FOLDER.glob("*/*.svg"))[:2])
    ]
    ids = [set(study.re.findall(r' id="([^"]+)"', text)) for text in drawn]
    assert all(ids)
    assert not ids[0] & ids[1]
    for text, own in zip(drawn, ids, strict=True):
        assert set(study.re.findall(r"url\(#([^)]+)\)", text)) <= own
        assert 'aria-label="a &lt; b"' in text


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
@pytest.mark.parametrize("page", sorted(FOLDER.glob("**/report.html")), ids=lambda page: page.parent.name)
def test_nothing_sticks_out_and_nothing_is_fetched(browser, page, width, scheme):
    show(browser, page, width=width, scheme=scheme)
    for opened in ("false", "true"):
        browser.execute_script(f"document.querySelectorAll('details').forEach(d => d.open = {opened})")
        assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_axe_finds_nothing(browser, width, scheme):
    """With all tables open, three lines of each: the others are like them, and a rule looks at every cell."""
    from axe_core_python.selenium import Axe

    show(browser, PAGE, width=width, scheme=scheme)
    browser.set_script_timeout(250)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(browser, {"exclude": [["tbody tr:nth-child(n+4)"]]})["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
