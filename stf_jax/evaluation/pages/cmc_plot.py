"""Pictures of scores, drawn without a display."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from stf_jax.evaluation.arguments import ArgumentError

# Okabe and Ito's colours, safe for colour blindness; the line style helps in grey.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")
_MAX_RANK = 20


def plot_cmc(curves: Mapping[str, ArrayLike], path: Path, *, title: str = "") -> None:
    """Draw CMC curves (label -> [k] in [0, 1], rank-1 first) into one picture file.

    They go to rank 20 or end early; an undefined one (NaN) is named in the legend only. The format
    follows the suffix of `path`: .png, .pdf, .svg.

    Raises:
        ArgumentError: (a ValueError) no curve, or one that is empty or not one-dimensional.
    """
    if not curves:
        raise ArgumentError("curves: none; expected at least one")
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    low = 1.0
    for number, (label, curve) in enumerate(curves.items()):
        values = np.asarray(curve, np.float64)[:_MAX_RANK]
        if values.ndim != 1 or not len(values):
            raise ArgumentError(f"curves: {label!r} has shape {np.shape(curve)}; expected [k]")
        if np.isfinite(values[0]):
            low = min(low, values[0])
            label = f"{label} (rank-1 {100 * values[0]:.1f} %)"
        else:
            label = f"{label} (no valid query)"
        axes.plot(
            np.arange(1, len(values) + 1),
            100 * values,
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_STYLES[number % len(_STYLES)],
            marker="o",
            markersize=3,
            label=label.replace("$", r"\$"),
        )
    axes.set_xlim(0.5, _MAX_RANK + 0.5)
    axes.set_ylim(max(0.0, 100 * low - 5), 101)
    axes.set_xticks([1, *range(5, _MAX_RANK + 1, 5)])
    axes.set_xlabel("rank")
    axes.set_ylabel("queries matched within the rank (%)")
    axes.set_title(title.replace("$", r"\$"))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
