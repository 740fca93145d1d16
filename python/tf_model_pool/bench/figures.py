# SPDX-License-Identifier: Apache-2.0
"""The figures of the page, with plotly."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_model_pool.bench.errors import require
from tf_model_pool.bench.records import CONTROLS, PHASES
from tf_model_pool.bench.result import Cell, Group, Run, Series, Shaded
from tf_model_pool.bench.tables import PHASE_NAMES, shown_lines

LINES = {
    "p50": "#2c7fb8",
    "p80": "#41b6c4",
    "p90": "#7fcdbb",
    "p99": "#f28e2b",
    "p99.9": "#d62728",
    "max": "#7b2d8b",
}
SHADES = {
    "import": "#9467bd",
    "restore": "#2ca02c",
    "init": "#bcbd22",
    "warm_up": "#ff7f0e",
    "switch": "#d62728",
    "drain": "#e377c2",
    "unload": "#1f77b4",
    "burn_cpu": "#7f7f7f",
    "burn_stream": "#4d4d4d",
}
#: Above this many updates in a run, only whole updates are shaded.
_MOST_SHADED = 20


def shades(run: Run) -> Sequence[Shaded]:
    """The phases and controls to shade in a plot of one run."""
    phases = run.updates if len(run.updates) > _MOST_SHADED else run.phases
    return [*phases, *run.controls]


def _shade(panel: int, begin: float, end: float, colour: str, opacity: float) -> dict[str, Any]:
    """A plotly shape over the whole height of a panel (`add_vrect` is slow for many)."""
    axis = "" if panel == 1 else str(panel)
    return {
        "type": "rect",
        "xref": f"x{axis}",
        "yref": f"y{axis} domain",
        "x0": begin,
        "x1": end,
        "y0": 0,
        "y1": 1,
        "fillcolor": colour,
        "opacity": opacity,
        "line": {"width": 0},
        "layer": "below",
    }


_FONT = {"family": "system-ui, sans-serif", "size": 13}


def _log_ticks(highest: float) -> dict[str, Any]:
    """1, 2, 5, 10, ... as they are: plotly's own labels of minor log ticks are bare digits."""
    values = [m * 10**e for e in range(-1, 6) for m in (1, 2, 5)]
    return {"tickvals": [v for v in values if v <= highest * 2], "tickformat": "~g"}


def _scale_buttons(rows: int) -> list[dict[str, Any]]:
    axes = ["yaxis" if i == 0 else f"yaxis{i + 1}" for i in range(rows)]
    return [
        {
            "type": "buttons",
            "direction": "right",
            "x": 1,
            "xanchor": "right",
            "y": 1,
            "yanchor": "bottom",
            "pad": {"b": 28},
            "showactive": True,
            "buttons": [
                {
                    "label": label,
                    "method": "relayout",
                    "args": [{f"{axis}.type": kind for axis in axes}],
                }
                for label, kind in (("log", "log"), ("linear", "linear"))
            ],
        }
    ]


def _plotted(group: Group) -> list[tuple[Cell, Run]]:
    """The cells with a valid run, and their typical one."""
    return [(cell, run) for cell in group.cells if (run := cell.typical_run) is not None]


def _add_lines(figure: Any, series: Series, place: Mapping[str, int], shown: set[str]) -> float:
    """A line for each percentile; each is in the legend once. Returns the highest value."""
    highest = 1.0
    for name in shown_lines(series.count):
        values = series.lines[name]
        highest = max([highest, *values])
        figure.add_scatter(
            x=series.time_s,
            y=values,
            name=name,
            legendgroup=name,
            showlegend=name not in shown,
            mode="lines",
            line={"color": LINES[name], "width": 1.6, "shape": "hvh"},
            hovertemplate=f"{name} %{{y:.1f}} ms at %{{x:.2f}} s<extra></extra>",
            **place,
        )
        shown.add(name)
    return highest


def time_figure(group: Group) -> Any:
    """Percentiles over time of a typical round, one panel per configuration, same axes."""
    subplots = require("plotly.subplots")
    plotted = _plotted(group)
    rows = len(plotted)
    figure = subplots.make_subplots(
        rows=rows,
        cols=1,
        shared_xaxes=True,
        shared_yaxes="all",
        subplot_titles=[cell.name for cell, _ in plotted],
        vertical_spacing=42 / (230 * rows),
    )
    shown: set[str] = set()
    shapes: list[dict[str, Any]] = []
    shaded: set[str] = set()
    highest = 1.0
    for row, (_, run) in enumerate(plotted, start=1):
        highest = max(highest, _add_lines(figure, run.series, {"row": row, "col": 1}, shown))
        for span in shades(run):
            shapes.append(_shade(row, span.begin_s, span.end_s, SHADES[span.kind], 0.22))
            shaded.add(span.kind)
        figure.update_yaxes(title_text="ms", row=row, col=1)
    for kind in [k for k in (*PHASES, *CONTROLS) if k in shaded]:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            name=PHASE_NAMES.get(kind, kind),
            legend="legend2",
            marker={"color": SHADES[kind], "opacity": 0.45, "size": 13, "symbol": "square"},
        )
    figure.update_yaxes(type="log", rangemode="tozero", **_log_ticks(highest))
    figure.update_xaxes(title_text="seconds since the run began", row=rows, col=1)
    figure.update_annotations(x=0, xanchor="left")  # in sight where a narrow page cuts the rest off
    above = {"orientation": "h", "x": 0, "yanchor": "bottom", "yref": "paper"}
    figure.update_layout(
        height=150 + 230 * rows,
        font=_FONT,
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 100, "b": 50},
        legend={**above, "y": 1 + 62 / (230.0 * rows)},
        legend2={**above, "y": 1 + 30 / (230.0 * rows)},
        hovermode="closest",
        updatemenus=_scale_buttons(rows),
        shapes=shapes,
    )
    return figure


def around_figure(group: Group) -> Any:
    """All updates of all rounds laid over each other, panels side by side, same axes."""
    subplots = require("plotly.subplots")
    alive = group.alive
    columns = len(alive) if len(alive) <= 3 else 2 if len(alive) == 4 else 3
    rows = -(-len(alive) // columns)
    figure = subplots.make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=[cell.name for cell, _ in alive],
        horizontal_spacing=0.03,
        vertical_spacing=60 / (330 * rows),
    )
    shown: set[str] = set()
    shapes: list[dict[str, Any]] = []
    highest = 1.0
    for i, (cell, summary) in enumerate(alive):
        if summary.around is not None:
            place = {"row": i // columns + 1, "col": i % columns + 1}
            highest = max(highest, _add_lines(figure, summary.around, place, shown))
        seconds = [each for run in cell.runs for each in run.update_seconds]
        if seconds:
            shapes.append(_shade(i + 1, 0, statistics.median(seconds), SHADES["restore"], 0.13))
    figure.update_yaxes(type="log", **_log_ticks(highest))
    figure.update_yaxes(title_text="ms", col=1)
    # Once: side by side they run into each other on a narrow page.
    figure.update_xaxes(title_text="seconds since the update began", row=rows, col=1)
    figure.update_layout(
        height=120 + 330 * rows,
        font=_FONT,
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1 + 45 / (330.0 * rows), "yanchor": "bottom"},
        updatemenus=_scale_buttons(len(alive)),
        shapes=shapes,
    )
    return figure


def attribution_figure(group: Group) -> Any:
    """Time that slow requests lost per update, by phase, one bar per configuration."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    for phase in (*PHASES, "none"):
        lost = [s.lost_by_phase[phase].excess_ms / max(s.updates, 1) for _, s in group.alive]
        if any(lost):
            name = PHASE_NAMES.get(phase, phase)
            figure.add_bar(
                y=[cell.name for cell, _ in group.alive],
                x=lost,
                orientation="h",
                name=name,
                marker_color=SHADES.get(phase, "#cccccc"),
                hovertemplate=f"%{{x:.1f}} ms<extra>{name}</extra>",
            )
    figure.update_layout(
        barmode="stack",
        height=130 + 42 * len(group.alive),
        font=_FONT,
        template="plotly_white",
        margin={"l": 170, "r": 20, "t": 30, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": {"text": "ms lost by slow requests, per update"}},
        yaxis={"autorange": "reversed"},
    )
    return figure


def rss_figure(group: Group) -> Any:
    """Memory over time of a typical round."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    for cell, run in _plotted(group):
        figure.add_scatter(
            x=run.rss_time_s,
            y=[v / 1e6 for v in run.rss],
            name=cell.name,
            hovertemplate="%{y:,.0f} MB at %{x:.1f} s",
        )
    figure.update_layout(
        height=380,
        font=_FONT,
        template="plotly_white",
        margin={"l": 80, "r": 20, "t": 40, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom"},
        xaxis={"title": {"text": "seconds since the run began"}},
        yaxis={"title": {"text": "RSS, MB"}, "rangemode": "tozero"},
    )
    return figure
