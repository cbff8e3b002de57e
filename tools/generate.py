"""Write what can be told from the code: the methods page, and type stubs of the packages that load lazily.

python tools/generate.py           writes them (make docs)
python tools/generate.py --check   writes nothing; fails where one is stale (make check)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import secateur
from secateur import audits, knobs, lab, steps
from secateur.card import Shelf

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python tools/generate.py"
STUB = f"# Written by {COMMAND}: types for names that are loaded lazily. Do not edit.\n\n"
PAGE = f"""# Methods

<!-- Written by {COMMAND} from the cards and the fields of the classes. Do not edit. -->

Every step and every audit on the shelves, as `secateur methods` lists them and `secateur card NAME` tells
them. Which one to take is another page: [choose a method](choose-a-method.md). In a plan a method is named by
its name (`use = "l1-sparse"`), in Python by its class (`sc.steps.L1Sparse(...)`). *Data* says which rows a
step may look at; the driver closes the others. *Version* is that of a method's numbers: it is raised with
every change that moves a result, and results stored under another version are not used again.
"""


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description="Write the methods page and the type stubs.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is stale")
    check = parser.parse_args(arguments).check
    stale = [name for name, text in written().items() if _read(root / name) != text]
    if check and stale:
        are = "is" if len(stale) == 1 else "are"
        print(f"{', '.join(stale)} {are} not what the code says: run {COMMAND}", file=sys.stderr)
        return 1
    for name in stale:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(written()[name], encoding="utf-8")
        print(f"wrote {name}")
    return 0


def written() -> dict[str, str]:
    """Path below the repository to content."""
    face = {name: f"secateur.{home}" for name, home in secateur._HOMES.items()}
    room = {name: f"secateur.lab.{home}" for name, home in lab._HOMES.items()}
    return {
        "docs/methods.md": "".join(_page()),
        "src/secateur/__init__.pyi": _stub(face, secateur._MODULES, tail="\n__version__: str\n"),
        "src/secateur/lab/__init__.pyi": _stub(room),
        "src/secateur/steps/__init__.pyi": _shelf_stub(steps.shelf),
        "src/secateur/audits/__init__.pyi": _shelf_stub(audits.shelf),
    }


def _stub(homes: dict[str, str], modules: Iterable[str] = (), tail: str = "") -> str:
    lines = [f"from secateur import {name} as {name}" for name in sorted(modules)]
    # in the order that ruff sorts imports by: module, then classes before functions
    order = sorted(homes, key=lambda name: (homes[name], not name[0].isupper(), name))
    lines += [f"from {homes[name]} import {name} as {name}" for name in order]
    return STUB + "\n".join(lines) + "\n" + tail


def _shelf_stub(shelf: Shelf) -> str:
    stub = _stub({"Shelf": "secateur.card", **shelf.classes}, tail="\nshelf: Shelf\n")
    return stub.replace(" import Shelf as Shelf", " import Shelf")  # without "as": not given on


def _page() -> Iterator[str]:
    yield PAGE
    yield from _shelf(steps.shelf, "Steps")
    yield from _shelf(audits.shelf, "Audits")


def _shelf(shelf: Shelf, title: str) -> Iterator[str]:
    """A table for each folder of a shelf, and after it each method by itself."""

    def folder(name: str) -> str:
        return shelf[name].__module__.removeprefix(shelf.package).rpartition(".")[0].lstrip(".")

    for place, found in groupby(sorted(shelf, key=lambda name: (folder(name), name)), key=folder):
        names = list(found)
        yield f"\n## {title}" + (f": {place}\n\n" if place else "\n\n")
        rows = [
            [f"[{name}](#{name})", (card := shelf[name].card).summary, card.data, str(card.version)]
            for name in names
        ]
        yield _table(["name", "what it does", "data", "version"], rows)
        for name in names:
            yield from _method(name, shelf[name])


def _method(name: str, cls: type[Any]) -> Iterator[str]:
    module = cls.__module__
    yield f"\n### {name}\n\n{cls.card.summary}\n\n"
    yield f"- Paper: {cls.card.paper}\n"
    yield f"- Data: {cls.card.data}\n"
    yield f"- Version: {cls.card.version}\n"
    yield f"- Class: `{cls.__name__}` in [{module}](../src/{module.replace('.', '/')}.py)\n"
    rows = [[f"`{k.name}`", k.type, _default(k.default), k.help] for k in knobs.describe(cls)]
    if rows:
        yield "\n" + _table(["knob", "type", "default", "meaning"], rows)


def _default(text: str) -> str:
    return {"": "required", "null": "none"}.get(text, text)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    plain = [[cell.replace("|", "\\|").replace("``", "`") for cell in line] for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in plain)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


if __name__ == "__main__":
    sys.exit(main())
