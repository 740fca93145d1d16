# SPDX-License-Identifier: Apache-2.0
"""The main figures as PNG files, for documents, with matplotlib."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import require
from tf_model_pool.bench.figures import LINES, SHADES, shades
from tf_model_pool.bench.result import Group, Result
from tf_model_pool.bench.tables import PHASE_NAMES, shown_lines
from tf_model_pool.files import replacing

_RATIO_COLOURS = {"steady": "#2c7fb8", "control": "#f28e2b"}


def write(result: Result, directory: Path) -> list[Path]:
    """`<model>-<scenario>-{percentiles,ratios,rss}.png` for each group. Returns their paths."""
    require("matplotlib").use("Agg")
    from matplotlib import pyplot

    drawings: dict[str, Callable[[Group], Any]] = {
        "percentiles": _percentiles,
        "ratios": _ratios,
        "rss": _rss,
    }
    written = []
    for group in result.groups:
        if not group.alive:
            continue
        for name, draw in drawings.items():
            figure = draw(group)
            path = directory / f"{group.key.replace('/', '-')}-{name}.png"
            with replacing(path) as partial:
                figure.savefig(partial, format="png", dpi=110, bbox_inches="tight")
            pyplot.close(figure)
            written.append(path)
    return written


def _percentiles(group: Group) -> Any:
    """Percentiles over time of a typical round, one panel per configuration."""
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    plotted = [(cell.name, run) for cell, _ in group.alive if (run := cell.typical_run)]
    figure, axes = pyplot.subplots(
        len(plotted),
        1,
        figsize=(11, 1.2 + 2.3 * len(plotted)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    lines: set[str] = set()
    kinds: set[str] = set()
    for axis, (title, run) in zip(axes[:, 0], plotted, strict=True):
        for span in shades(run):
            axis.axvspan(span.begin_s, span.end_s, color=SHADES[span.kind], alpha=0.22, lw=0)
            kinds.add(span.kind)
        for name in shown_lines(run.series.count):
            values = run.series.lines[name]
            axis.step(run.series.time_s, values, where="mid", color=LINES[name], lw=1.2)
            lines.add(name)
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_ylabel("ms")
        axis.grid(alpha=0.3)
    axes[-1, 0].set_xlabel("seconds since the run began")
    figure.legend(handles=_legend(lines, kinds), loc="outside upper center", ncols=7, fontsize=9)
    return figure


def _legend(lines: set[str], kinds: set[str]) -> Sequence[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        *(Line2D([], [], color=colour, label=n) for n, colour in LINES.items() if n in lines),
        *(
            Patch(color=colour, alpha=0.4, label=PHASE_NAMES.get(k, k))
            for k, colour in SHADES.items()
            if k in kinds
        ),
    ]


def _ratios(group: Group) -> Any:
    """p99.9 during updates against steady and control, with the range over rounds."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 1.5 + 0.45 * len(group.alive)), layout="constrained")
    for offset, (kind, colour) in zip((-0.18, 0.18), _RATIO_COLOURS.items(), strict=True):
        found = [s.ratios[kind]["p99.9"] for _, s in group.alive]
        rows = [(i, ratio) for i, ratio in enumerate(found) if ratio is not None]
        axis.barh(
            [i + offset for i, _ in rows],
            [ratio.median for _, ratio in rows],
            0.34,
            color=colour,
            label=f"update / {kind}",
            xerr=[
                [ratio.median - ratio.lowest for _, ratio in rows],
                [ratio.highest - ratio.median for _, ratio in rows],
            ],
            error_kw={"lw": 1, "capsize": 3},
        )
    axis.axvline(1, color="#555", lw=1)
    axis.set_yticks(range(len(group.alive)), [cell.name for cell, _ in group.alive])
    axis.invert_yaxis()
    axis.set_xlabel("p99.9 during updates, times that of steady or of the worse control")
    figure.legend(loc="outside upper left", ncols=2, fontsize=9)
    return figure


def _rss(group: Group) -> Any:
    """Memory over time of a typical round."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(11, 3.6), layout="constrained")
    for cell, _ in group.alive:
        run = cell.typical_run
        if run is not None:
            axis.plot(run.rss_time_s, [v / 1e6 for v in run.rss], label=cell.name)
    axis.set_xlabel("seconds since the run began")
    axis.set_ylabel("RSS, MB")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    return figure
