"""Published against ours, drawn: a row for each method, a column for each measure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from secateur.report.compare import TIME, Both, Group, number
from secateur.report.figures import grid, name_column, name_rows
from secateur.report.svg import ACCENT, INK, MUTED, PAPER, drawing, svg

_TOP = 0.72  # inches


def figure(groups: Sequence[Group], name: str) -> str:
    """Each measure of each row, ours and theirs, joined by a line.

    Args:
        groups: Those of one request.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where there is nothing to compare.
    """
    measures = [
        m for m in dict.fromkeys(m for g in groups for m in g.measures) if m not in ("disparity", TIME)
    ]
    shown = [(group.panel, [line.row for line in group.lines]) for group in groups]
    if not shown or not measures:
        return ""
    with drawing():
        drawn, axes, middle = grid(shown, columns=len(measures), top=_TOP)
        for column, measure in enumerate(measures):
            name_column(axes[0][column], measure)
            values = [line.values[measure] for g in groups for line in g.lines if measure in line.values]
            limits = _limits(values)
            for place, (group, (_, rows)) in enumerate(zip(groups, shown, strict=True)):
                ax = axes[place][column]
                for i, line in enumerate(group.lines):
                    if measure in line.values:
                        _mark(ax, i, line.values[measure])
                ax.set_xlim(*limits)
                ax.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
                name_rows(ax, rows if column == 0 else [], len(rows), last=place == len(shown) - 1)
        drawn.text(middle, 0.08 / drawn.get_figheight(), "percent", ha="center", color=MUTED)
        told = "; ".join(_told(group, measures) for group in groups)
        return svg(drawn, name, f"Published and ours: {groups[0].panel.request}", told)


def _mark(ax: Axes, place: int, both: Both) -> None:
    """Shape and filling tell the two apart, not colour alone: a full circle, an open square."""
    if math.isfinite(both.ours):
        ax.plot([both.ours, both.theirs], [place, place], color=MUTED, linewidth=0.8, linestyle=":", zorder=1)
    if math.isfinite(both.their_std):
        _bar(ax, place + 0.16, both.theirs, both.their_std, INK)
    if math.isfinite(both.std):
        _bar(ax, place - 0.16, both.ours, both.std, ACCENT)
    ax.plot(
        [both.theirs], [place], linestyle="none", marker="s", markersize=6.5, markerfacecolor=PAPER,
        markeredgecolor=INK, markeredgewidth=1.3, zorder=3, clip_on=False,
    )  # fmt: skip
    ax.plot(
        [both.ours], [place], linestyle="none", marker="o", markersize=5.5, markerfacecolor=ACCENT,
        markeredgecolor=PAPER, markeredgewidth=0.8, zorder=4, clip_on=False,
    )  # fmt: skip


def _bar(ax: Axes, place: float, middle: float, reach: float, colour: str) -> None:
    ends = [max(middle - reach, 0.0), min(middle + reach, 100.0)]
    ax.plot(ends, [place, place], color=colour, linewidth=1.1, solid_capstyle="butt", zorder=2)


def _limits(values: Sequence[Both]) -> tuple[float, float]:
    ends = [
        min(max(middle + sign * (std if math.isfinite(std) else 0.0), 0.0), 100.0)
        for both in values
        for middle, std in ((both.ours, both.std), (both.theirs, both.their_std))
        for sign in (-1, 1)
        if math.isfinite(middle)
    ]
    room = max(0.06 * (max(ends) - min(ends)), 0.5)
    return min(ends) - room, max(ends) + room


def _told(group: Group, measures: Sequence[str]) -> str:
    told = []
    for line in group.lines:
        each = [
            f"{m} {number(line.values[m].ours)}, published {number(line.values[m].theirs)}"
            for m in measures
            if m in line.values
        ]
        told.append(f"{line.row.label}: {', '.join(each)}")
    return f"{group.panel.start}: " + "; ".join(told)
