# SPDX-License-Identifier: Apache-2.0
"""`bench picture`: the latency of requests around an update, for a page's first screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tf_model_pool.bench.errors import ResultError, require
from tf_model_pool.bench.result import Result
from tf_model_pool.files import replacing

#: In the order of the configurations.
_COLOURS = ("#c0392b", "#1f77b4", "#2e8b57", "#8e5bb5")


def write(result: Result, cells: Sequence[str], labels: Sequence[str], path: Path) -> None:
    """Draws p50 and the slowest request by time around an update, as SVG.

    Args:
        result: of the orchestrator.
        cells: names of cells, or of configurations if the result has one model and scenario.
        labels: what the picture calls them.
        path: is replaced when the new picture is whole.

    Raises:
        ResultError: the result has no such cell, or no valid run of it.
    """
    require("matplotlib")
    import matplotlib

    found = []
    for name in cells:
        named = [cell for cell in result.cells.values() if name in (cell.key, cell.name)]
        summary = named[0].summary if len(named) == 1 else None
        if summary is None or summary.around is None:
            raise ResultError(
                f"cell {name!r} is not one of {', '.join(result.cells)} with a valid run"
            )
        found.append(summary.around)

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "tf_model_pool"}
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axis = pyplot.subplots(figsize=(8.5, 3.4), layout="constrained")
    for around, label, colour in zip(found, labels, _COLOURS, strict=False):
        slowest, usual = around.lines["max"], around.lines["p50"]
        axis.step(around.time_s, slowest, where="mid", color=colour, lw=1.6, label=label)
        axis.step(around.time_s, usual, where="mid", color=colour, lw=0.8, alpha=0.6)
    axis.axvline(0, color="#555", lw=1, ls=":")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axis.set_xlabel("seconds since the update began")
    axis.set_title("Slowest request (thick) and median (thin)", loc="left", fontsize=10)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper right", fontsize=9, frameon=False)
    with replacing(path) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
