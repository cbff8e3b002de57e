from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from secateur.report import figures
from secateur.report.tables import panels, summarise


def chapter(records):
    return panels(summarise(records))


@pytest.mark.parametrize("draw", [figures.gaps, figures.cost])
def test_the_same_bytes_each_time_and_no_colours_of_their_own(grid, draw):
    found = chapter(grid)[:2]
    svg = draw(found, "a")
    assert svg == draw(found, "a")
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r"url\(#[^)]*\)|href=\"#[^\"]*\"", "", svg)) == []
    assert "var(--ink)" in svg
    assert "DejaVu" not in svg
    assert "http" not in svg
    assert "<style" not in svg


@pytest.mark.parametrize("draw", [figures.gaps, figures.cost])
def test_a_figure_is_well_formed_and_says_what_it_shows(grid, draw):
    svg = draw(chapter(grid)[:2], "fig")
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    title, desc = root.find("title"), root.find("desc")
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert "class 0 (airplane)" in title.text
    assert "l1-sparse" in desc.text
    texts = {"".join(text.itertext()) for text in root.iter("text")}
    assert {"dense", "90 % sparse", "l1-sparse", "retrain"} <= texts


def test_ids_do_not_clash_on_one_page(grid):
    found = chapter(grid)[:2]
    ids = [re.findall(r' id="([^"]+)"', figures.gaps(found, name)) for name in ("a", "b")]
    assert not set(ids[0]) & set(ids[1])
    assert len(ids[0]) == len(set(ids[0]))


def test_a_long_and_hostile_label_stays_text(run):
    label = "<script>alert('$x$')</script> & \x00\ud800 字 " + "long " * 30
    svg = figures.gaps(chapter([dataclasses.replace(run("fine-tune"), method=label)]), 'x"y')
    assert "<script>" not in svg
    assert ET.fromstring(svg).find("title").get("id") == 'x"y-title'
    assert "…" in svg


def test_nothing_to_draw_is_no_figure(run):
    assert figures.gaps(chapter([run("fine-tune", audits=("accuracy",))]), "a") == ""
    assert figures.cost(chapter([run("", references=0)]), "a") == ""
    assert figures.cost(chapter([run("fine-tune", references=0)]), "a") == ""


def test_nan_is_left_out(run, without):
    records = [without(run("fine-tune", seed=s)) for s in range(2)] + [run("l1-sparse", references=1)]
    assert ET.fromstring(figures.gaps(chapter(records), "a")).tag == "svg"


def test_the_scale_of_time_is_logarithmic_only_where_the_range_asks_for_it(run):
    wide = figures.cost(chapter([run("retrain"), run("gradient-ascent")]), "a")
    narrow = figures.cost(chapter([run("l1-sparse", references=0), run("fine-tune", references=0)]), "a")
    assert "logarithmic" in wide
    assert "logarithmic" not in narrow


def test_a_time_of_zero_does_not_break_the_scale(run):
    record = run("fine-tune")
    instant = dataclasses.replace(record.steps[-1], seconds=0.0)
    none = dataclasses.replace(record, key="x", steps=(*record.steps[:-1], instant))
    assert figures.cost(chapter([none, run("fine-tune", seed=1), run("retrain")]), "a")
    assert figures.cost(chapter([dataclasses.replace(none, findings=())]), "a") == ""


def test_the_band_is_shaded_where_there_is_one(run):
    several, one = (figures.gaps(chapter([run("fine-tune", references=n)]), "a") for n in (4, 1))
    assert "var(--band)" in several
    assert "var(--band)" not in one


def test_a_user_s_own_style_changes_nothing(grid):
    found = chapter(grid)[:1]
    plain = figures.gaps(found, "a")
    with mpl.rc_context({"axes.grid": True, "font.size": 30, "lines.linewidth": 9, "svg.fonttype": "path"}):
        assert figures.gaps(found, "a") == plain
        assert mpl.rcParams["font.size"] == 30
