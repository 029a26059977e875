"""Plots of the report as SVG that takes the page's colours, light or dark."""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from stf_jax.evaluation.ranked_lists import DistanceHistogram

# Stand-ins that become the page's text colour and its series' colours (see report.css).
_INK = "#010203"
_SERIES = ("#010210", "#010211", "#010212", "#010213", "#010214", "#010215")
_STYLES = ("-", "--", "-.", ":")
_MARKED = 30  # points at most that are marked one by one


def _figure(width: float = 5.6, height: float = 3.3) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.grid(alpha=0.25, color=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure, name: str) -> str:
    """The figure as an <svg> element whose ids hold `name`; the same figure, the same text."""
    for axes in figure.axes:
        axes.tick_params(colors=_INK)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(_INK)
        for spine in axes.spines.values():
            spine.set_color(_INK)
        legend = axes.get_legend()
        if legend is not None:
            legend.get_frame().set_visible(False)
            for text in legend.get_texts():
                text.set_color(_INK)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{name}-", svg)
    svg = svg.replace(_INK, "currentColor")
    for number, colour in enumerate(_SERIES):
        svg = svg.replace(colour, f"var(--series-{number})")
    # Labels are text in the page's own font; a screen reader gets the caption and the table.
    svg = re.sub(r"(font-family:|font: [0-9.]+px) *'[^;\"]*", r"\1 system-ui, sans-serif", svg)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _curve(axes: Axes, number: int, label: str, points: Sequence[tuple[float, float]]) -> None:
    """Draws curve `number` through `points`, if there are any."""
    if points:
        axes.plot(
            *zip(*points, strict=True),
            color=_SERIES[number % len(_SERIES)],
            linestyle=_STYLES[number % len(_STYLES)],
            marker="o" if len(points) <= _MARKED else "",
            markersize=3,
            label=label.replace("$", r"\$"),
        )


def cmc_svg(curves: Mapping[str, Sequence[float | None]]) -> str | None:
    """CMC curves to rank 20, label -> [k] in [0, 1], rank-1 first; None where none is defined."""
    figure, axes = _figure()
    for number, (label, curve) in enumerate(curves.items()):
        values = [value for value in curve[:20] if value is not None]
        _curve(axes, number, label, [(k, 100 * value) for k, value in enumerate(values, 1)])
    if not axes.lines:
        return None
    axes.set_xlabel("rank")
    axes.set_ylabel("queries matched (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(top=100.5)
    axes.legend(loc="lower right")
    return _svg(figure, "cmc")


def open_set_svg(
    curves: Mapping[str, Sequence[Sequence[float]]], name: str, axes_names: tuple[str, str]
) -> str | None:
    """Curves, label -> [false rate, true rate] pairs in [0, 1]; None where there is none.

    False rates are logarithmic, so that points at a false rate of 0 are left out.
    """
    figure, axes = _figure()
    for number, (label, curve) in enumerate(curves.items()):
        points = [(100 * false, 100 * true) for false, true in curve if false > 0]
        _curve(axes, number, label, points)
    if not axes.lines:
        return None
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    axes.set_ylim(-2, 101)
    axes.legend(loc="best")
    return _svg(figure, name)


def training_svgs(metrics: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Curves of a run's metrics.jsonl over steps, caption -> SVG; those that have any point."""
    entries = list(metrics)
    names = sorted({name for entry in entries for name in entry} - {"step", "time", "epoch"})
    scores = [n for n in names if n.endswith(("/mAP", "/rank-1"))]
    losses = [n for n in ("loss", "cross_entropy", "triplet", "stages") if n in names]
    rates = [n for n in names if n.startswith("lr/")]
    wanted = (
        ("Loss", losses, "loss", False),
        ("Accuracy on the training batches", ["accuracy"], "accuracy (%)", True),
        ("Scores as training went", scores, "score (%)", True),
        ("Learning rates", rates, "learning rate", False),
    )
    found = {}
    for place, (caption, keys, axis, percent) in enumerate(wanted):
        figure, axes = _figure(4.4, 2.7)
        for number, key in enumerate(keys):
            points = [(e["step"], e[key]) for e in entries if _is_number(e.get(key))]
            _curve(axes, number, key, points)
        if not axes.lines:
            continue
        axes.set_xlabel("step")
        axes.set_ylabel(axis)
        if percent:
            axes.yaxis.set_major_formatter(PercentFormatter(1, symbol=""))
        if len(axes.lines) > 1:
            axes.legend(loc="best", fontsize=8)
        found[caption] = _svg(figure, f"training-{place}")
    return found


def histogram_svg(histogram: DistanceHistogram) -> str:
    """Shares of matches and of non-matches by distance, each summing to 1."""
    figure, axes = _figure()
    kinds = (("matches", histogram.matches), ("non-matches", histogram.others))
    for number, (label, counts) in enumerate(kinds):
        shares = 100 * counts / max(1, counts.sum())
        axes.stairs(
            shares,
            histogram.edges,
            fill=True,
            alpha=0.25,
            color=_SERIES[number],
            hatch=("//", "..")[number],
        )
        axes.stairs(
            shares,
            histogram.edges,
            color=_SERIES[number],
            linestyle=_STYLES[number],
            label=f"{label} ({int(counts.sum()):,} pairs)",
            linewidth=1.5,
        )
    axes.set_xlabel("distance")
    axes.set_ylabel("share of the pairs (%)")
    axes.legend(loc="best")
    return _svg(figure, "distances")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and bool(np.isfinite(value))
