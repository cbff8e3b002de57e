"""Inline SVG by matplotlib: text stays text, bytes repeat, and the page's CSS gives the colours."""

from __future__ import annotations

import contextlib
import html
import io
import re
import warnings
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# drawn with colours that nobody would choose, then named: light, dark and paper each bring their own
INK, MUTED, HAIR, BAND, ACCENT, PAPER = "#010101", "#010102", "#010103", "#010104", "#010105", "#010106"
_VARIABLES = {INK: "ink", MUTED: "muted", HAIR: "hair", BAND: "band", ACCENT: "accent", PAPER: "paper"}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "secateur",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a label is somebody's text
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": HAIR,
    "axes.facecolor": "none",
    "xtick.color": HAIR,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in the page's style, whatever the user's own matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def clean(text: str) -> str:
    """Without what XML and fonts cannot take: control characters and lone surrogates."""
    return "".join(c if c.isprintable() else " " for c in text)


def svg(figure: Figure, name: str, title: str, told: str) -> str:
    """The figure as an element of the page.

    Args:
        figure: Drawn within ``drawing``.
        name: Makes its ids its own.
        title: What it shows, in a few words.
        told: What it shows, for those who cannot see it.

    Returns:
        An ``<svg>`` element.
    """
    buffer = io.StringIO()
    with warnings.catch_warnings(), mpl.rc_context({"svg.hashsalt": f"secateur {name}"}):
        # the reader's font draws the text, not ours
        warnings.filterwarnings("ignore", message="Glyph|Matplotlib currently does not support")
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    width, height = (round(inches * 72, 1) for inches in figure.get_size_inches())
    body = buffer.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' transform="rotate\(-0 [^"]*"', "", body).replace("xlink:href", "href")
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', body))
    kept = {one or other for one, other in used}
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in kept else "", body)
    body = re.sub(r"(font-family: |font: [^;\"']*)'[^;\"]*", r"\1var(--sans)", body)
    body = re.sub(r"\n\s*", "\n", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    name = html.escape(name)
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{html.escape(clean(title))}</title>'
        f'<desc id="{name}-desc">{html.escape(clean(told))}</desc>{body.strip()}'
    )
