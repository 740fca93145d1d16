# SPDX-License-Identifier: Apache-2.0
"""`bench picture`: the latency of requests around an update, for a page's first screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import ResultError, require

#: In the order of the configurations.
_COLOURS = ("#c0392b", "#1f77b4", "#2e8b57", "#8e5bb5")


def write(
    result: Mapping[str, Any], cells: Sequence[str], labels: Sequence[str], path: Path
) -> None:
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

    known = result["summary"]["cells"]
    found = []
    for cell in cells:
        full = [key for key in known if key == cell or key.rpartition("/")[2] == cell]
        if len(full) != 1 or "around" not in known[full[0]]:
            raise ResultError(f"cell {cell!r} is not one of {', '.join(known)} with a valid run")
        found.append(known[full[0]])

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "tf_model_pool"}
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axis = pyplot.subplots(figsize=(8.5, 3.4), layout="constrained")
    for cell, label, colour in zip(found, labels, _COLOURS, strict=False):
        around = cell["around"]
        axis.step(around["time_s"], around["max"], where="mid", color=colour, lw=1.6, label=label)
        axis.step(around["time_s"], around["p50"], where="mid", color=colour, lw=0.8, alpha=0.6)
    axis.axvline(0, color="#555", lw=1, ls=":")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ms"))
    axis.set_xlabel("seconds since the update began")
    axis.set_title("Slowest request (thick) and median (thin)", loc="left", fontsize=10)
    axis.grid(alpha=0.25)
    axis.legend(loc="upper right", fontsize=9, frameon=False)
    partial = path.with_name(path.name + ".partial")
    figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)
    partial.rename(path)
