"""The pages name what there is, their links lead somewhere, and nothing leads out of the project."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from secateur import audits, errors, steps
from secateur.cli import app

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("docs", "src", "examples", "recipes", "benchmarks", "tests", "tools", ".ci")
TEXT = {".md", ".py", ".pyi", ".toml", ".txt", ".css", ".j2", ".yaml", ".yml", ".sh", ""}
COMMANDS = {
    f"{name} {below}".strip(): command
    for name, top in typer.main.get_command(app).commands.items()  # type: ignore[attr-defined]
    for below, command in getattr(top, "commands", {"": top}).items()
}


def _text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def _files() -> Iterator[Path]:
    here = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    for path in sorted(here + below):
        made = any(part == "__pycache__" or part.endswith(".egg-info") for part in path.parts)
        dotted = path.name.startswith(".") and not path.suffix  # .git, .gitignore, .coverage
        if path.is_file() and path.suffix in TEXT and not made and not dotted:
            yield path


def _pages() -> list[Path]:
    return [path for path in _files() if path.suffix == ".md"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_told(name: str) -> None:
    told = _text("docs/start.md")
    line = re.search(rf"^\| `secateur {name}\b.*$", told, re.M)
    assert line, f"docs/start.md has no row for secateur {name}"
    assert f"`secateur {name}" in _text("README.md")
    options = [option for param in COMMANDS[name].params for option in param.opts if option.startswith("-")]
    same = "--store --set --dry-run --json --report" if "the same" in line[0] else ""
    assert [option for option in options if f"`{option}`" not in line[0] and option not in same] == []


def test_no_other_command_or_option_is_told() -> None:
    told = _text("docs/start.md", "README.md", "docs/add-a-method.md", "docs/add-an-audit.md")
    told += _text("docs/choose-a-method.md", "CONTRIBUTING.md")
    named = set(re.findall(r"(?:`|^|-m )secateur ([a-z]+)", told, re.M))
    first = {name.partition(" ")[0] for name in COMMANDS}
    assert named <= first, named - first
    ours = {option for command in COMMANDS.values() for param in command.params for option in param.opts}
    said = set(re.findall(r"`(--[a-z-]+)", told)) - {"--help"}
    assert said <= ours, said - ours


@pytest.mark.parametrize("name", [*steps.shelf, *audits.shelf])
def test_every_method_is_told(name: str) -> None:
    assert f"\n### {name}\n" in _text("docs/methods.md")
    assert f"`{name}`" in _text("docs/choose-a-method.md") or f"[{name}]" in _text("docs/choose-a-method.md")


def test_exit_codes_are_told() -> None:
    found = [cls for cls in vars(errors).values() if isinstance(cls, type) and cls.__name__ in dir(errors)]
    codes = {cls.exit_code for cls in found if issubclass(cls, errors.SecateurError)}
    for page in ("README.md", "docs/start.md"):
        rows = set(re.findall(r"^\| (\d+) \|", _text(page), re.M))
        assert rows == {str(code) for code in codes | {0, 1, 130}}, page


def test_links_lead_somewhere() -> None:
    broken = []
    for page in _pages():
        told = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for target in re.findall(r"\]\(([^)\s]+)\)", told):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            at = (page.parent / path).resolve() if path else page
            if not at.exists() or (anchor and anchor not in _anchors(at)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert broken == []


def _anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_pages_that_code_and_messages_name_exist() -> None:
    sources = [path for path in _files() if path.suffix == ".py"]
    named = {(path, page) for path in sources for page in re.findall(r"\bdocs/[\w/-]+\.md", _read(path))}
    missing = [f"{path.relative_to(ROOT)}: {page}" for path, page in named if not (ROOT / page).exists()]
    assert missing == []


def test_nothing_leads_out_of_the_project() -> None:
    outside = re.compile("|".join(["\\.\\./" + "shared", "/" + "work/", "/" + "root/", "/" + "home/"]))
    found = {str(path.relative_to(ROOT)) for path in _files() if outside.search(_read(path))}
    assert found == set()


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
