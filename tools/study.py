"""One page of all studies in a folder: ``python tools/study.py docs/results/small``.

Each folder in it with a ``README.md`` is a section: its words, its figures inline, its CSV files as tables,
and from the recipes that its commands run (with their ``--set``), or that lie in it, a list of every knob of
every step and audit. ``report.html`` beside them is one file, fetches nothing, and follows light, dark, paper
and a narrow screen.
"""

from __future__ import annotations

import argparse
import csv
import html
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markdown_it.token import Token

from secateur import report
from secateur.card import name_of
from secateur.lab import expand, load
from secateur.report.sheet import put

ROOT = Path(__file__).resolve().parents[1]
TEMPLATES = [Path(__file__).parent, Path(report.__file__).parent / "templates"]
ORDER = (
    "main",
    "tuned",
    "sparsity",
    "sparsity-ways",
    "sparsity-masks",
    "l1",
    "theory",
    "mask-leak",
    "trojan",
    "transfer",
)
_RECIPE = re.compile(r"recipes/[\w/-]+\.toml")


class Study(NamedTuple):
    """A section.

    Attributes:
        name: Of its folder, and its anchor.
        title: The first heading of its words.
        words: The rest, as HTML.
        tables: Name of a CSV file, its columns and its lines.
        recipes: Name of a recipe, its text, and step or audit to knobs with all their values.
    """

    name: str
    title: str
    words: str
    tables: list[tuple[str, list[str], list[list[str]]]]
    recipes: list[tuple[str, str, dict[str, str]]]


def main(folder: Path) -> Path:
    names = {path.parent.name for path in folder.glob("*/README.md")}
    if not names:
        raise SystemExit(
            f"expected folders with a README.md in {folder}, got none: name the folder of the studies"
        )
    ordered = [name for name in ORDER if name in names] + sorted(names - set(ORDER))
    words = folder / "README.md"
    title, lead = told(words, folder) if words.exists() else (folder.name, "")
    return put(page(title, lead, [study(folder / name, folder) for name in ordered]), folder / "report.html")


def page(title: str, lead: str, studies: list[Study]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view = {"kind": "secateur", "styles": ["page.css", "study.css"], "title": title, "lead": lead}
    return environment.get_template("study.html.j2").render(view | {"studies": studies})


def study(folder: Path, whole: Path) -> Study:
    title, words = told(folder / "README.md", whole)
    ran = commands((folder / "README.md").read_text(encoding="utf-8"))
    ran |= {path: [[]] for path in sorted(folder.glob("*.toml"))}
    return Study(
        folder.name,
        title,
        words,
        [(path.name, *table(path)) for path in sorted(folder.glob("*.csv"))],
        [(path.name, path.read_text(encoding="utf-8"), knobs(path, sets)) for path, sets in ran.items()],
    )


def commands(text: str) -> dict[Path, list[list[str]]]:
    """The recipes that are run, and what each command sets in them but for where the data is."""
    found: dict[Path, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith(("secateur grid ", "secateur run ")) and (named := _RECIPE.search(line)):
            words = shlex.split(line, comments=True)
            sets = [after for word, after in pairwise(words) if word == "--set"]
            found.setdefault(ROOT / named[0], []).append([s for s in sets if not s.startswith("data.path=")])
    return found


def told(path: Path, whole: Path) -> tuple[str, str]:
    """The title of a Markdown file, and the rest as HTML: figures inline, links as seen from the page."""
    tokens = MarkdownIt("commonmark").enable("table").parse(path.read_text(encoding="utf-8"))
    title = next(t.content for t in tokens if t.type == "inline")
    rest = tokens[3:] if tokens[0].type == "heading_open" else tokens
    name = path.parent.name
    return plain(title), "".join(_rendered(rest, path.parent, whole, name))


def _rendered(tokens: list[Token], folder: Path, whole: Path, name: str) -> Iterator[str]:
    """HTML, a block at a time: a paragraph that is one picture becomes a figure, a table can be scrolled."""
    marks, count = MarkdownIt("commonmark").enable("table"), 0
    start = 0
    while start < len(tokens):
        stop, depth = start, 0
        while True:
            depth += tokens[stop].nesting
            stop += 1
            if depth == 0:
                break
        block = tokens[start:stop]
        start = stop
        for token in block:
            for child in token.children or []:
                if child.type == "link_open":
                    child.attrs["href"] = moved(str(child.attrs["href"]), folder, whole)
        pictures = [c for t in block for c in t.children or [] if c.type == "image"]
        if pictures and block[0].type == "paragraph_open":
            for picture in pictures:
                count += 1
                yield figure(folder / str(picture.attrs["src"]), picture.content, f"{name}-{count}")
            continue
        if block[0].type == "heading_open":
            block[0].tag = block[-1].tag = f"h{int(block[0].tag[1]) + 1}"
        made = marks.renderer.render(block, marks.options, {})
        if block[0].type == "table_open":
            first = next(t.content for t in block if t.type == "inline")
            label = html.escape(plain(f"{name}: {first}"), quote=True)
            made = f'<div class="scroll" role="region" tabindex="0" aria-label="{label} {start}">{made}</div>'
        yield made.replace("<pre>", '<pre tabindex="0">')


def plain(text: str) -> str:
    return re.sub(r"[`*]", "", text)


def moved(href: str, folder: Path, whole: Path) -> str:
    """A link of a section as seen from the page: to another section, where it leads to its words."""
    if urlsplit(href).scheme or href.startswith("#"):
        return href
    path, _, anchor = href.partition("#")
    target = (folder / path).resolve()
    if target.name == "README.md" and target.parent.parent == whole.resolve():
        return f"#{target.parent.name}"
    return os.path.relpath(target, whole.resolve()) + (f"#{anchor}" if anchor else "")


def figure(path: Path, alt: str, name: str) -> str:
    """A drawing inline, its ids made its own."""
    text = path.read_text(encoding="utf-8")
    body = text[text.index("<svg") :]
    size = re.search(r'viewBox="([^"]*)"', body)
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body.partition(">")[2], flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    used = {one or other for one, other in re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body)}
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    alt = html.escape(alt, quote=True)
    return (
        f'<figure class="drawing"><div class="scroll" role="region" tabindex="0" aria-label="Figure: {alt}">'
        f'<svg viewBox="{size[1] if size else ""}" role="img" aria-label="{alt}">{body}</div>'
        f"<figcaption>{alt}</figcaption></figure>"
    )


def table(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(encoding="utf-8", newline="") as file:
        columns, *lines = csv.reader(file)
    return columns, lines


def knobs(recipe: Path, sets: Iterable[list[str]] = ([],)) -> dict[str, str]:
    """Step or audit to its knobs, defaults too, with every value that the recipe's runs give them."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for plan in (plan for changed in sets for plan in expand(load(recipe, changed))):
        used: list[tuple[str, Any]] = [(planned.use, planned.step) for planned in plan.steps]
        if plan.reference:
            used.append((f"reference: {plan.reference.use}", plan.reference.step))
        for name, one in [*used, *((name_of(type(audit)), audit) for audit in plan.audits)]:
            of = found.setdefault(name, {})
            for knob, value in asdict(one).items():
                of.setdefault(knob, {})[shown(value)] = None
    return {
        name: ", ".join(f"{knob} = {' or '.join(values)}" for knob, values in of.items()) or "no knobs"
        for name, of in found.items()
    }


def shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("folder", type=Path)
    print(main(parser.parse_args().folder))
