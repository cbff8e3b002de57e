"""A page as a file: a template filled in, and HTML written at once or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from secateur.errors import StoreError
from secateur.report.spread import plural


def fill(template: str, view: Mapping[str, Any]) -> str:
    """A template with what it shows; labels and plans are other people's text: escaped, always.

    Args:
        template: Name of a file among the templates.
        view: What it may name.

    Returns:
        HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plural"] = plural
    environment.filters["unbroken"] = lambda text: text.replace(" %", "\u00a0%")
    return environment.get_template(template).render(view)


def put(text: str, path: Path) -> Path:
    """Write a page, at once or not at all.

    Args:
        text: HTML.
        path: Where to.

    Returns:
        The path.

    Raises:
        StoreError: The file cannot be written.
    """
    part = path.with_name(f".{path.name or 'page'}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        part.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            part.unlink(missing_ok=True)
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f'expected to write the report to "{path}", but cannot ({reason}): '
            "name a file in a folder that exists and that you may write to"
        ) from error
    return path
