"""Figures: what a page draws, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from secateur.report.rows import MEASURES, Row
from secateur.report.spread import Spread, seconds
from secateur.report.svg import ACCENT, BAND, HAIR, INK, MUTED, PAPER, clean, drawing, svg
from secateur.report.tables import Panel

_MARKS: dict[str, dict[str, Any]] = {  # shape and filling tell them apart, not colour alone
    "original": {"marker": "o", "markerfacecolor": PAPER, "markeredgecolor": MUTED, "color": MUTED},
    "retrain": {"marker": "D", "markerfacecolor": INK, "markeredgecolor": PAPER, "color": INK},
    "method": {"marker": "o", "markerfacecolor": ACCENT, "markeredgecolor": PAPER, "color": ACCENT},
}
_MARKS["reference"] = _MARKS["retrain"]
_WIDTH, _RIGHT, _TOP, _BOTTOM = 10.0, 0.3, 0.72, 0.52  # inches
_PITCH, _HEAD, _LABEL = 0.27, 0.42, 34


def gaps(panels: Sequence[Panel], name: str) -> str:
    """How far each method is from Retrain: a row of charts for each start, a column for each measure.

    Args:
        panels: The panels of one request.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where nothing was compared with Retrain.
    """
    shown = [
        (panel, [row for row in panel.rows if any(f"gap.{m}" in row.values for m in MEASURES)])
        for panel in panels
    ]
    shown = [(panel, rows) for panel, rows in shown if rows]
    if not shown:
        return ""
    with drawing():
        figure, axes, middle = grid(shown, columns=len(MEASURES), top=_TOP)
        for column, measure in enumerate(MEASURES):
            name_column(axes[0][column], measure)
            limits = _limits([
                row.values[f"gap.{measure}"]
                for _, rows in shown
                for row in rows
                if f"gap.{measure}" in row.values
            ])
            for line, (panel, rows) in enumerate(shown):
                ax = axes[line][column]
                band = _band(panel, measure)
                if band:
                    ax.axvspan(
                        max(band[0], limits[0]), min(band[1], limits[1]), color=BAND, linewidth=0, zorder=0
                    )
                ax.axvline(0, color=INK, linewidth=0.9, zorder=1)
                for place, row in enumerate(rows):
                    _mark(ax, place, row, row.values.get(f"gap.{measure}"))
                ax.set_xlim(*limits)
                ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
                name_rows(ax, rows if column == 0 else [], len(rows), last=line == len(shown) - 1)
        figure.text(
            middle,
            0.08 / figure.get_figheight(),
            "points above or below the mean of the retrains",
            ha="center",
            color=MUTED,
        )
        told = "; ".join(_gap_words(panel, rows) for panel, rows in shown)
        return svg(figure, name, f"Gaps to Retrain: {panels[0].request}", told)


def cost(panels: Sequence[Panel], name: str) -> str:
    """What unlearning cost: seconds for each method, one chart for each start.

    Args:
        panels: The panels of one request.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where there are no two times to compare.
    """
    shown = [(panel, [row for row in panel.rows if _time(row) > 0]) for panel in panels]
    shown = [(panel, rows) for panel, rows in shown if rows]
    if sum(len(rows) for _, rows in shown) < 2:
        return ""
    times = [t for _, rows in shown for row in rows for t in row.values["RTE"].each if t > 0]
    log = max(times) / min(times) > 20
    with drawing():
        figure, axes, middle = grid(shown, columns=1, top=0.42)
        for line, ((_, rows), (ax,)) in enumerate(zip(shown, axes, strict=True)):
            if log:
                ax.set_xscale("log")
                ax.xaxis.set_major_locator(LogLocator(base=10))
                ax.xaxis.set_minor_locator(LogLocator(base=10, subs=(3,)))
                ax.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
                ax.set_xlim(min(times) / 1.6, max(times) * 2.6)
            else:
                ax.set_xlim(0, max(times) * 1.15)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
            for place, row in enumerate(rows):
                _mark(ax, place, row, row.values["RTE"])
                end = max(row.values["RTE"].each)
                ax.annotate(
                    f"{seconds(_time(row))} s",
                    (end, place),
                    xytext=(9, 0),
                    textcoords="offset points",
                    va="center",
                    color=MUTED,
                )
            name_rows(ax, rows, len(rows), last=line == len(shown) - 1)
        label = "seconds of unlearning" + (" (logarithmic scale)" if log else "")
        figure.text(middle, 0.08 / figure.get_figheight(), label, ha="center", color=MUTED)
        told = "; ".join(
            f"{panel.start}: " + ", ".join(f"{row.label} {seconds(_time(row))} s" for row in rows)
            for panel, rows in shown
        )
        return svg(figure, name, f"Run time of unlearning: {panels[0].request}", told)


def grid(
    shown: Sequence[tuple[Panel, list[Row]]], *, columns: int, top: float
) -> tuple[Figure, list[list[Axes]], float]:
    """Axes placed by inches, so that no font moves them.

    Args:
        shown: One line of axes for each panel: a row each.
        columns: How many.
        top: Inches above them.

    Returns:
        The figure; for each panel its axes; where their middle is, as a share of the width.
    """
    longest = max(len(_short(row.label, _LABEL)) for _, rows in shown for row in rows)
    left, gap = 0.35 + 0.076 * longest, 0.28
    total = top + _BOTTOM + sum(len(rows) * _PITCH for _, rows in shown) + _HEAD * (len(shown) - 1)
    figure = Figure(figsize=(_WIDTH, total), facecolor="none")
    width = (_WIDTH - left - _RIGHT - gap * (columns - 1)) / columns
    axes, y = [], total - top
    for panel, rows in shown:
        height = len(rows) * _PITCH
        y -= height
        places = [
            ((left + c * (width + gap)) / _WIDTH, y / total, width / _WIDTH, height / total)
            for c in range(columns)
        ]
        axes.append([figure.add_axes(place) for place in places])
        figure.text(0.0, (y + height + 0.1) / total, _short(panel.start, 110), weight="bold", color=MUTED)
        y -= _HEAD
    return figure, axes, (left + _WIDTH - _RIGHT) / 2 / _WIDTH


def name_column(ax: Axes, text: str) -> None:
    """Name a column of panels, above the first of them."""
    ax.annotate(
        text,
        (0.5, 1),
        xytext=(0, 26),
        textcoords="offset points",
        xycoords="axes fraction",
        ha="center",
        weight="bold",
    )


def name_rows(ax: Axes, rows: Sequence[Row], count: int, *, last: bool) -> None:
    """Style axes with a line for each row: names at the left, where there are any, numbers below the last."""
    ax.set_ylim(count - 0.5, -0.5)
    ax.set_yticks(range(count), [_short(row.label, _LABEL) for row in rows] or [""] * count)
    ax.tick_params(axis="y", length=0, pad=8)
    ax.tick_params(axis="x", which="both", length=3, labelbottom=last)
    ax.grid(axis="x", color=HAIR, linewidth=0.6, alpha=0.7)
    ax.set_axisbelow(True)
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)


def _mark(ax: Axes, place: int, row: Row, spread: Spread | None) -> None:
    if not spread or not spread.n:
        return
    mark, scale = _MARKS[row.kind], spread.scale
    middle = spread.mean * scale
    if spread.std is not None:
        reach = spread.std * scale
        low = middle - reach
        if ax.get_xscale() == "log":
            low = max(low, min(spread.each) * scale)
        ax.plot(
            [low, middle + reach],
            [place, place],
            color=mark["color"],
            linewidth=1.6,
            solid_capstyle="round",
            zorder=3,
        )
        ax.plot(
            [v * scale for v in spread.each], [place] * spread.n, linestyle="none", marker="o", markersize=3,
            markeredgewidth=0, markerfacecolor=mark["color"], alpha=0.4, zorder=2, clip_on=False,
        )  # fmt: skip
    size = 5.5 if row.kind == "retrain" else 6.5
    ax.plot(
        [middle],
        [place],
        **mark,
        markersize=size,
        markeredgewidth=1.2,
        linestyle="none",
        zorder=4,
        clip_on=False,
    )


def _limits(spreads: Sequence[Spread]) -> tuple[float, float]:
    values = [0.0] + [v * s.scale for s in spreads for v in s.each]
    values += [(s.mean + sign * s.std) * s.scale for s in spreads if s.std is not None for sign in (-1, 1)]
    room = max(0.08 * (max(values) - min(values)), 0.25)
    return min(values) - room, max(values) + room


def _band(panel: Panel, measure: str) -> tuple[float, float] | None:
    """Where one more retrain would fall, relative to their mean; the methods share references."""
    found = sorted(panel.rows, key=lambda row: row.kind != "method")
    for band in (row.values[f"band.{measure}"] for row in found if f"band.{measure}" in row.values):
        if math.isfinite(band.low) and math.isfinite(band.high):
            return (band.low - band.mean) * band.scale, (band.high - band.mean) * band.scale
    return None


def _gap_words(panel: Panel, rows: Sequence[Row]) -> str:
    told = []
    for row in rows:
        found = [f"{m} {row.values[f'gap.{m}']}" for m in MEASURES if f"gap.{m}" in row.values]
        told.append(f"{row.label}: {', '.join(found)}")
    return f"{panel.start}: " + "; ".join(told)


def _time(row: Row) -> float:
    return row.values["RTE"].mean if "RTE" in row.values else 0.0


def _short(text: str, width: int) -> str:
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"
