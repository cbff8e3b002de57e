"""Figures of the audit of one run: ROC curves, risk by row, and the bands of the retrains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from secateur import stats
from secateur.evidence import Evidence
from secateur.record import Finding
from secateur.report.measures import Measure, ends, measures, number
from secateur.report.risk import Risk, sides
from secateur.report.spread import fixed, plural
from secateur.report.svg import ACCENT, BAND, HAIR, INK, MUTED, PAPER, clean, drawing, svg

Numbers = NDArray[np.float64]
_WIDTH = 10.0  # inches
_LEAST, _FEW = 1e-3, 8  # least rate that is drawn; so many retrains are drawn one by one
_RATES = np.logspace(-3, 0, 241)
_MARKS: dict[str, dict[str, Any]] = {  # as on the page of runs: shape and filling, not colour alone
    "original": {"marker": "o", "markerfacecolor": PAPER, "markeredgecolor": MUTED, "markersize": 7.5},
    "candidate": {"marker": "o", "markerfacecolor": ACCENT, "markeredgecolor": PAPER, "markersize": 8},
    "retrain": {"marker": "D", "markerfacecolor": INK, "markeredgecolor": PAPER, "markersize": 4.2},
}
_STRIP, _HEAD, _FOOT = 0.56, 0.06, 0.06  # inches


def roc(evidence: Evidence, name: str) -> str:
    """ROC curves on logarithmic axes: forget rows against test rows of their classes, by high and by low phi.

    Args:
        evidence: What the models said.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where there are no forget or no test rows.
    """
    found = {prefix: sides(model) for prefix, model in evidence.models()}
    scores = {prefix: pair for prefix, pair in found.items() if pair}
    if "" not in scores:
        return ""
    with drawing():
        figure = Figure(figsize=(_WIDTH, 4.7), facecolor="none")
        panels = (
            ("Still known? By a high phi", 1),
            ("Unlearned too much? By a low phi", -1),
        )
        for at, (title, way) in enumerate(panels):
            ax = figure.add_axes((0.07 + at * 0.5, 0.125, 0.405, 0.725))
            _curves(ax, scores, way)
            _unresolved(ax, 10 / len(scores[""][1]))
            ax.set_xlabel("share of test rows taken for forget rows")
            ax.set_ylabel("share of forget rows found")
            ax.set_title(title, loc="left", fontsize=10, weight="bold", color=INK, pad=8)
        figure.legend(
            handles=_legend(len(scores) - 2), loc="upper left", bbox_to_anchor=(0.06, 1.0), ncols=5,
            frameon=False, fontsize=9, handlelength=2.2, columnspacing=2.4, borderaxespad=0,
        )  # fmt: skip
        areas = {prefix: stats.roc_auc(*pair).value for prefix, pair in scores.items()}
        told = [f"area of the candidate {areas['']:.3f}", f"of the original {areas['before.']:.3f}"]
        retrains = [area for prefix, area in areas.items() if prefix.startswith("retrain")]
        if retrains:
            told.append(f"of {plural(len(retrains), 'retrain')} {min(retrains):.3f} to {max(retrains):.3f}")
        return svg(figure, name, "ROC of forget rows against test rows of their classes", ", ".join(told))


def histogram(risk: Risk, name: str) -> str:
    """How the number of each forget row is spread over them.

    Args:
        risk: The number.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where no number is finite.
    """
    values = risk.values[np.isfinite(risk.values)]
    if not len(values):
        return ""
    both = np.concatenate([values, risk.null])
    low, high = float(both.min()), float(both.max())
    if risk.name == "forget/exposure":
        low, high = 0.0, 1.0
    elif risk.name == "forget/epsilon":
        low = 0.0
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 31)
    with drawing():
        figure = Figure(figsize=(_WIDTH, 2.4), facecolor="none")
        ax = figure.add_axes((0.06, 0.2, 0.93, 0.78))
        counts, _ = np.histogram(values, edges)
        ax.bar(edges[:-1], counts, np.diff(edges), align="edge", color=ACCENT, edgecolor=PAPER, linewidth=0.8)
        if len(risk.null):
            usual = np.histogram(risk.null, edges)[0] * (len(values) / len(risk.null))
            ax.stairs(usual, edges, color=INK, linewidth=1.3)
            handles = [Patch(facecolor=ACCENT, linewidth=0), Line2D([], [], color=INK, linewidth=1.3)]
            labels = ["candidate", "a retrain, against the others"]
            ax.legend(handles, labels, loc="upper right", frameon=False)
        ax.set_xlabel(risk.axis)
        ax.set_ylabel("forget rows")
        ax.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        _bare(ax)
        ax.grid(axis="y", color=HAIR, linewidth=0.6, alpha=0.7)
        quartiles = ", ".join(fixed(float(q), 3) for q in np.quantile(values, [0.25, 0.5, 0.75, 1]))
        told = f"{plural(len(values), 'forget row')}; quartiles and largest: {quartiles}"
        return svg(figure, name, f"{risk.column} of each forget row", told)


def bands(finding: Finding, name: str) -> str:
    """Each banded measure of an audit on a line of its own: the band, the retrains, candidate and original.

    Args:
        finding: Of the audit.
        name: Makes the figure's ids its own.

    Returns:
        An ``<svg>`` element; empty where there is no band.
    """
    shown = [measure for measure in measures(finding) if measure.drawn]
    if not shown:
        return ""
    with drawing():
        total = _HEAD + _FOOT + _STRIP * len(shown)
        figure = Figure(figsize=(_WIDTH, total), facecolor="none")
        for line, measure in enumerate(shown):
            y = total - _HEAD - _STRIP * (line + 1)
            middle = (y + 0.36) / total
            ax = figure.add_axes((0.19, (y + 0.2) / total, 0.47, 0.32 / total))
            _strip(ax, measure)
            figure.text(0.0, middle, _short(measure.name), va="center", weight="bold")
            assert measure.candidate is not None
            figure.text(0.685, middle, number(measure.candidate), va="center", weight="bold")
            figure.text(0.775, middle, f"{measure.side} {ends(measure.band)}", va="center", color=MUTED)
        told = "; ".join(
            f"{m.name}: candidate {number(m.candidate)}, {m.side} the band {ends(m.band)} around "
            f"{number(m.band)}, original {number(m.original)}"
            for m in shown
        )
        return svg(figure, name, f"Bands of {finding.audit}", told)


def _curves(ax: Axes, scores: Mapping[str, tuple[Numbers, Numbers]], way: int) -> None:
    curves = {
        prefix: np.maximum(_rates(way * forget, way * test), _LEAST)
        for prefix, (forget, test) in scores.items()
    }
    ax.plot([_LEAST, 1], [_LEAST, 1], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
    retrains = np.array([curve for prefix, curve in curves.items() if prefix.startswith("retrain")])
    if len(retrains) > _FEW:
        low, high = np.quantile(retrains, [0.025, 0.975], axis=0)
        ax.fill_between(_RATES, low, high, color=BAND, linewidth=0, zorder=2, step="post")
        ax.step(_RATES, np.median(retrains, axis=0), color=INK, linewidth=0.9, where="post", zorder=3)
    for curve in retrains if len(retrains) <= _FEW else ():
        ax.step(_RATES, curve, color=INK, linewidth=0.7, alpha=0.65, where="post", zorder=3)
    ax.step(_RATES, curves["before."], color=MUTED, linewidth=1.6, linestyle="--", where="post", zorder=4)
    ax.step(_RATES, curves[""], color=ACCENT, linewidth=2.2, where="post", zorder=5)
    ax.xaxis.set_label_coords(0.5, -0.095)
    ax.yaxis.set_label_coords(-0.13, 0.5)
    for scale, limit in ((ax.set_xscale, ax.set_xlim), (ax.set_yscale, ax.set_ylim)):
        scale("log")
        limit(_LEAST, 1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(base=10, numticks=5))
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g} %"))
        axis.set_minor_formatter(NullFormatter())
    _bare(ax)
    ax.grid(color=HAIR, linewidth=0.6, alpha=0.7)


def _rates(positive: Numbers, negative: Numbers) -> Numbers:
    """True-positive rates of the largest threshold sets that keep each false-positive rate."""
    falling, count = np.sort(negative)[::-1], len(negative)
    allowed = np.floor(_RATES * count + 1e-9).astype(np.int64)
    first = np.append(falling, -np.inf)[allowed]  # the first negative that is too many
    above = len(positive) - np.searchsorted(np.sort(positive), first, side="right")
    rates: Numbers = np.where(allowed == count, 1.0, above / len(positive))
    return rates


def _unresolved(ax: Axes, least: float) -> None:
    """Where fewer than ten rows would set the threshold."""
    if least <= _LEAST * 1.05:
        return
    edge = min(least, 1.0)
    ax.axvspan(_LEAST, edge, color=HAIR, alpha=0.35, linewidth=0, zorder=0)
    if edge > 3 * _LEAST:
        ax.annotate(
            "unresolved", (_LEAST, 1), xytext=(5, -5), textcoords="offset points", va="top", color=MUTED,
            fontsize=8, zorder=6,
        )  # fmt: skip


def _legend(retrains: int) -> list[Any]:
    handles: list[Any] = [
        Line2D([], [], color=ACCENT, linewidth=2.2, label="candidate"),
        Line2D([], [], color=MUTED, linewidth=1.6, linestyle="--", label="original"),
    ]
    if retrains > _FEW:
        handles += [
            Line2D([], [], color=INK, linewidth=0.9, label="middle retrain"),
            Patch(facecolor=BAND, linewidth=0, label="95 % of the retrains"),
        ]
    elif retrains > 0:
        handles.append(Line2D([], [], color=INK, linewidth=0.7, alpha=0.65, label="each retrain"))
    chance = Line2D([], [], color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)), label="chance")
    return [*handles, chance]


def _strip(ax: Axes, measure: Measure) -> None:
    assert measure.band is not None
    assert measure.candidate is not None
    scale = 100 if measure.band.unit == "share" else 1
    low, middle, high = (scale * v for v in (measure.band.low, measure.band.value, measure.band.high))
    others = [scale * e.value for e in measure.retrains if math.isfinite(e.value)]
    points = {"candidate": scale * measure.candidate.value}
    if measure.original and math.isfinite(measure.original.value):
        points["original"] = scale * measure.original.value
    every = [low, high, middle, *others, *points.values()]
    room = 0.06 * (max(every) - min(every)) or max(abs(middle) * 0.01, 1e-6)
    ax.set_xlim(min(every) - room, max(every) + room)
    ax.set_ylim(-1, 1)
    ax.axhline(0, color=HAIR, linewidth=0.8, zorder=0)
    ax.axvspan(low, high, 0.18, 0.82, color=BAND, linewidth=0, zorder=1)
    ax.plot([middle, middle], [-0.64, 0.64], color=INK, linewidth=0.9, zorder=2)
    for kind, values in (
        ("retrain", others),
        *((who, [points[who]]) for who in ("original", "candidate") if who in points),
    ):
        ax.plot(
            values, [0.0] * len(values), linestyle="none", markeredgewidth=1.2 if kind != "retrain" else 0.4,
            zorder={"retrain": 3, "original": 4, "candidate": 5}[kind], clip_on=False,
            alpha=0.55 if kind == "retrain" else 1, **_MARKS[kind],
        )  # fmt: skip
    ax.set_yticks([])
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.10g}".replace("-", "−")))
    ax.tick_params(axis="x", length=2, pad=2, labelsize=7.5)
    for side in ("top", "left", "right", "bottom"):
        ax.spines[side].set_visible(False)


def _bare(ax: Axes) -> None:
    ax.set_axisbelow(True)
    ax.tick_params(which="both", length=3, color=HAIR)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def _short(text: str, width: int = 26) -> str:
    text = clean(text)
    return text if len(text) <= width else text[: width - 1] + "…"
