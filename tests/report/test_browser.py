"""The pages in a real browser."""

from __future__ import annotations

import base64
import re

import numpy as np
import pytest

from secateur.audit import judge
from secateur.report import write_audit, write_page

from .chromium import show
from .test_audit_page import ASKED, case

pytestmark = pytest.mark.browser

HEADINGS = (
    "Request",
    "Results",
    "Verdicts and caveats",
    "Cost",
    "Controls",
    "Provenance",
    "Splits",
    "Runs",
    "Environment",
    "Methods",
    "Glossary",
)


@pytest.fixture(scope="module")
def pages(grid, run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    long = "a_request_without_any_space_" * 6
    return {
        "grid": write_page(grid, folder / "grid.html"),
        "one": write_page([run()], folder / "one.html"),
        "long": write_page([run("fine-tune", request=long, knobs={"note": long})], folder / "long.html"),
    }


def background(browser):
    told = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return [int(part) for part in re.findall(r"\d+", told)[:3]]


@pytest.mark.parametrize("name", ["grid", "one", "long"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_and_nothing_is_fetched(browser, pages, name, width):
    show(browser, pages[name], width=width)
    for opened in (False, True):
        browser.execute_script(
            f"document.querySelectorAll('details').forEach(d => d.open = {str(opened).lower()})"
        )
        inner, outer = browser.execute_script(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        assert outer == width
        assert inner <= width
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grid", "one", "audit"])
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_axe_finds_nothing(browser, pages, audit, name, width, scheme):
    """The rules of axe-core: landmarks, headings, contrast, what a keyboard can reach."""
    from axe_core_python.selenium import Axe

    show(browser, {**pages, "audit": audit}[name], width=width, scheme=scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(browser)["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []


def test_light_is_light_and_dark_is_dark(browser, pages):
    show(browser, pages["grid"])
    assert min(background(browser)) > 230
    show(browser, pages["grid"], scheme="dark")
    assert max(background(browser)) < 50
    colour = "return getComputedStyle(document.querySelector('figure svg text')).fill"
    assert min(int(part) for part in re.findall(r"\d+", browser.execute_script(colour))[:3]) > 120


def test_text_stands_out_in_both_schemes(browser, pages):
    for scheme in ("light", "dark"):
        show(browser, pages["grid"], scheme=scheme)
        for selector in (
            "p.note",
            ".verdict.fail",
            ".verdict.pass",
            "td",
            ".muted",
            "nav a",
            ".honest",
            ".warn",
        ):
            assert contrast(browser, selector) >= 4.5, (scheme, selector)


def contrast(browser, selector):
    """WCAG's ratio between an element's text and the first opaque ground behind it."""
    script = """
      let at = document.querySelector(arguments[0]); const text = getComputedStyle(at).color;
      const parse = c => c.match(/[\\d.]+/g).map(Number);
      for (; at; at = at.parentElement) {
        const c = parse(getComputedStyle(at).backgroundColor);
        if (c.length < 4 || c[3] === 1) return [parse(text), c];
      }"""
    light = []
    for colour in browser.execute_script(script, selector):
        parts = [v / 255 for v in colour[:3]]
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_details_open_without_javascript(browser, pages):
    show(browser, pages["grid"])
    browser.execute_script("document.querySelector('details').id = 'first'")
    first = browser.find_element("id", "first")
    first.find_element("tag name", "summary").click()
    assert first.get_attribute("open")


def test_all_sections_are_printed(browser, pages, grid):
    show(browser, pages["grid"], scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    hidden = """return [...document.querySelectorAll('section h2, details table, details pre')]
      .filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length"""
    assert browser.execute_script(hidden) == 0
    assert [h.text.split(" what")[0] for h in browser.find_elements("css selector", "section h2")] == list(
        HEADINGS
    )
    assert min(background(browser)) == 255
    told = browser.execute_cdp_cmd(
        "Page.printToPDF",
        {
            "preferCSSPageSize": True,
            "printBackground": True,
            "generateDocumentOutline": True,
            "generateTaggedPDF": True,
        },
    )
    pdf = base64.b64decode(told["data"])
    assert pdf.startswith(b"%PDF")
    assert outline(pdf) >= {*HEADINGS, "RA by class dense"}  # the last stands in a closed <details>
    assert 10 < len(re.findall(rb"/Type\s*/Page\b", pdf)) < 60


def outline(pdf):
    """The headings that the printed file lists."""
    """The headings that the printed file lists, as chromium writes them: plain, or in UTF-16 with a mark."""
    titles = set()
    for found in re.findall(rb"/Title\s*\(((?:[^()\\]|\\.)*)\)", pdf):
        titles.add(found.decode("latin-1").split(" what")[0])
    return titles


@pytest.fixture(scope="module")
def audit(run, tmp_path_factory):
    evidence = case(after=("retain",))
    picture = np.arange(64, dtype=np.uint8).reshape(8, 8)
    pictures = dict.fromkeys(evidence.after["forget"].rows.tolist(), picture)
    path = tmp_path_factory.mktemp("audit") / "audit.html"
    return write_audit(run(), evidence, judge(ASKED, evidence), path, pictures)


@pytest.mark.parametrize("width", [420, 1280])
def test_the_audit_page_fits_and_fetches_nothing(browser, audit, width):
    show(browser, audit, width=width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    shown = (
        "return [...document.images].every(i => i.complete && i.naturalWidth === 8) && document.images.length"
    )
    assert browser.execute_script(shown) == 20
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert browser.get_log("browser") == []


def test_the_verdicts_stand_on_one_screen(browser, audit):
    show(browser, audit)
    bottom = "return document.querySelector('table.verdicts').getBoundingClientRect().bottom"
    assert browser.execute_script(bottom) < 900


def test_the_labels_of_a_figure_do_not_overlap(browser, audit):
    show(browser, audit)
    overlap = """
      const found = [];
      for (const svg of document.querySelectorAll('figure svg')) {
        const texts = [...svg.querySelectorAll('text')];
        const boxes = texts.map(t => [t.textContent.trim(), t.getBoundingClientRect()]);
        const page = svg.getBoundingClientRect();
        for (const [i, [a, p]] of boxes.entries()) {
          if (p.left < page.left - 1 || p.right > page.right + 1) found.push(`${a} sticks out`);
          for (const [b, q] of boxes.slice(i + 1))
            if (p.left + 1 < q.right && q.left + 1 < p.right && p.top + 2 < q.bottom && q.top + 2 < p.bottom)
              found.push(`${a} on ${b}`);
        }
      }
      return found"""
    assert browser.execute_script(overlap) == []


def test_the_audit_page_in_the_dark_and_in_print(browser, audit):
    for scheme in ("light", "dark"):
        show(browser, audit, scheme=scheme)
        for selector in (
            ".ruling .word",
            ".ruling .rests",
            ".cell.holds",
            ".cell.broken",
            "td small",
            ".note",
        ):
            assert contrast(browser, selector) >= 4.5, (scheme, selector)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert min(background(browser)) == 255
    hidden = """return [...document.querySelectorAll('section h2, details table')]
      .filter(e => !e.checkVisibility({contentVisibilityAuto: true})).length"""
    assert browser.execute_script(hidden) == 0
    told = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True, "printBackground": True})
    pdf = base64.b64decode(told["data"])
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) < 20
