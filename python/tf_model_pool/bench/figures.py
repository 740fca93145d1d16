# SPDX-License-Identifier: Apache-2.0
"""The figures of a report: plotly for the page, matplotlib for pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import require
from tf_model_pool.bench.records import CONTROLS, PHASES
from tf_model_pool.bench.tables import PHASE_NAMES, groups, shown_lines, typical_run

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


# ---- figures ------------------------------------------------------------------------------------


def _shades(run: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """(kind, begin, end) in seconds to shade in a plot of one run."""
    found = run["analysis"]
    if len(found["updates"]) > _MOST_SHADED:
        spans = [("restore", u["begin_ns"], u["end_ns"]) for u in found["updates"]]
    else:
        spans = [(p["phase"], p["begin_ns"], p["end_ns"]) for p in found["phases"]]
    spans += [(b["kind"], b["begin_ns"], b["end_ns"]) for b in found["burns"]]
    return [(kind, begin / 1e9, end / 1e9) for kind, begin, end in spans]


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


def _plot_names(cells: Sequence[str]) -> list[str]:
    return [cell.rpartition("/")[2] for cell in cells]


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


def time_figure(result: Mapping[str, Any], group: str) -> Any:
    """Percentiles over time of a typical round, one panel per configuration, same axes."""
    subplots = require("plotly.subplots")
    cells = [c for c in groups(result)[group] if typical_run(result, c)]
    figure = subplots.make_subplots(
        rows=len(cells),
        cols=1,
        shared_xaxes=True,
        shared_yaxes="all",
        subplot_titles=_plot_names(cells),
        vertical_spacing=42 / (230 * len(cells)),
    )
    shown: set[str] = set()
    shapes: list[dict[str, Any]] = []
    shaded: set[str] = set()
    highest = 1.0
    for row, cell in enumerate(cells, start=1):
        run = typical_run(result, cell)
        assert run is not None
        series = run["analysis"]["series"]
        for name in shown_lines(series["count"]):
            highest = max([highest, *series[name]])
            figure.add_scatter(
                x=series["time_s"],
                y=series[name],
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                mode="lines",
                line={"color": LINES[name], "width": 1.5, "shape": "hvh"},
                hovertemplate=f"{name} %{{y:.1f}} ms at %{{x:.1f}} s<extra></extra>",
                row=row,
                col=1,
            )
            shown.add(name)
        for kind, begin, end in _shades(run):
            shapes.append(_shade(row, begin, end, SHADES[kind], 0.22))
            shaded.add(kind)
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
    figure.update_xaxes(title_text="seconds since the run began", row=len(cells), col=1)
    figure.update_layout(
        height=150 + 230 * len(cells),
        font=_FONT,
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 100, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "container"},
        legend2={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "yref": "container"},
        hovermode="closest",
        updatemenus=_scale_buttons(len(cells)),
        shapes=shapes,
    )
    top = 1 + 62 / (230.0 * len(cells))
    figure.update_layout(
        legend={"y": top, "yref": "paper"},
        legend2={"y": 1 + 30 / (230.0 * len(cells)), "yref": "paper"},
    )
    return figure


def around_figure(result: Mapping[str, Any], group: str) -> Any:
    """All updates of all rounds laid over each other, panels side by side, same axes."""
    subplots = require("plotly.subplots")
    cells = [c for c in groups(result)[group] if typical_run(result, c)]
    columns = len(cells) if len(cells) <= 3 else 2 if len(cells) == 4 else 3
    rows = -(-len(cells) // columns)
    figure = subplots.make_subplots(
        rows=rows,
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        subplot_titles=_plot_names(cells),
        horizontal_spacing=0.03,
        vertical_spacing=60 / (330 * rows),
    )
    shown: set[str] = set()
    shapes: list[dict[str, Any]] = []
    highest = 1.0
    for i, cell in enumerate(cells):
        row, column = i // columns + 1, i % columns + 1
        runs = [r for r in result["runs"] if r["cell"] == cell and r["valid"]]
        around = result["summary"]["cells"][cell].get("around") or {"count": []}
        for name in shown_lines(around["count"]):
            values = around[name]
            highest = max([highest, *values])
            figure.add_scatter(
                x=around["time_s"],
                y=values,
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                line={"color": LINES[name], "width": 1.8, "shape": "hvh"},
                hovertemplate=f"{name} %{{y:.1f}} ms, %{{x:.2f}} s after the begin<extra></extra>",
                row=row,
                col=column,
            )
            shown.add(name)
        seconds = [
            u["seconds"] for r in runs for u in r["analysis"]["updates"] if not u["settling"]
        ]
        if seconds:
            shapes.append(_shade(i + 1, 0, statistics.median(seconds), SHADES["restore"], 0.13))
    figure.update_yaxes(type="log", **_log_ticks(highest))
    figure.update_yaxes(title_text="ms", col=1)
    figure.update_xaxes(title_text="seconds since the update began", row=rows)
    figure.update_layout(
        height=120 + 330 * rows,
        font=_FONT,
        template="plotly_white",
        margin={"l": 70, "r": 20, "t": 90, "b": 50},
        legend={"orientation": "h", "x": 0, "y": 1 + 45 / (330.0 * rows), "yanchor": "bottom"},
        updatemenus=_scale_buttons(len(cells)),
        shapes=shapes,
    )
    return figure


def attribution_figure(result: Mapping[str, Any], group: str) -> Any:
    """Time that slow requests lost per update, by phase, one bar per configuration."""
    go = require("plotly.graph_objects")
    cells = [c for c in groups(result)[group] if result["summary"]["cells"][c]["rounds"]]
    figure = go.Figure()
    for phase in (*PHASES, "none"):
        lost = []
        for cell in cells:
            s = result["summary"]["cells"][cell]
            part = s["slow"]["update"]["by_phase"][phase]["excess_ms"]
            lost.append(part / max(s["updates"], 1))
        if any(lost):
            figure.add_bar(
                y=_plot_names(cells),
                x=lost,
                orientation="h",
                name=PHASE_NAMES.get(phase, phase),
                marker_color=SHADES.get(phase, "#cccccc"),
                hovertemplate="%{x:.1f} ms<extra>" + PHASE_NAMES.get(phase, phase) + "</extra>",
            )
    figure.update_layout(
        barmode="stack",
        height=130 + 42 * len(cells),
        font=_FONT,
        template="plotly_white",
        margin={"l": 170, "r": 20, "t": 30, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        xaxis={"title": {"text": "ms lost by slow requests, per update"}},
        yaxis={"autorange": "reversed"},
    )
    return figure


def rss_figure(result: Mapping[str, Any], group: str) -> Any:
    """Memory over time of a typical round."""
    go = require("plotly.graph_objects")
    figure = go.Figure()
    for cell in groups(result)[group]:
        run = typical_run(result, cell)
        if run is None:
            continue
        rss = run["analysis"]["rss"]
        figure.add_scatter(
            x=rss["time_s"],
            y=[v / 1e6 for v in rss["bytes"]],
            name=cell.rpartition("/")[2],
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


# ---- pictures -----------------------------------------------------------------------------------


def pictures(result: Mapping[str, Any], directory: Path) -> list[Path]:
    """PNGs of the main figures, for documents. Returns their paths."""
    matplotlib = require("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    written = []

    def save(figure: Any, name: str) -> None:
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=110, bbox_inches="tight")
        pyplot.close(figure)
        written.append(path)

    for group in groups(result):
        cells = [c for c in groups(result)[group] if typical_run(result, c)]
        if not cells:
            continue
        stem = group.replace("/", "-")
        figure, axes = pyplot.subplots(
            len(cells),
            1,
            figsize=(11, 1.2 + 2.3 * len(cells)),
            sharex=True,
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        names: set[str] = set()
        kinds: set[str] = set()
        for axis, cell in zip(axes[:, 0], cells, strict=True):
            run = typical_run(result, cell)
            assert run is not None
            series = run["analysis"]["series"]
            for kind, begin, end in _shades(run):
                axis.axvspan(begin, end, color=SHADES[kind], alpha=0.22, lw=0)
                kinds.add(kind)
            for name in shown_lines(series["count"]):
                axis.step(series["time_s"], series[name], where="mid", color=LINES[name], lw=1.2)
                names.add(name)
            axis.set_title(cell.rpartition("/")[2], loc="left", fontsize=10)
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter(plain)
            axis.set_ylabel("ms")
            axis.grid(alpha=0.3)
        axes[-1, 0].set_xlabel("seconds since the run began")
        handles: list[Any] = [Line2D([], [], color=LINES[n], label=n) for n in LINES if n in names]
        handles += [
            Patch(color=SHADES[k], alpha=0.4, label=PHASE_NAMES.get(k, k))
            for k in SHADES
            if k in kinds
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=7, fontsize=9)
        save(figure, f"{stem}-percentiles")

        figure, axis = pyplot.subplots(figsize=(9, 1.5 + 0.45 * len(cells)), layout="constrained")
        colours = {"steady": "#2c7fb8", "control": "#f28e2b"}
        for offset, kind in ((-0.18, "steady"), (0.18, "control")):
            found = [result["summary"]["cells"][c]["ratios"][kind]["p99.9"] for c in cells]
            rows = [(i, v) for i, v in enumerate(found) if v]
            middle = [v["median"] for _, v in rows]
            axis.barh(
                [i + offset for i, _ in rows],
                middle,
                0.34,
                color=colours[kind],
                label=f"update / {kind}",
                xerr=[
                    [v["median"] - v["min"] for _, v in rows],
                    [v["max"] - v["median"] for _, v in rows],
                ],
                error_kw={"lw": 1, "capsize": 3},
            )
        axis.axvline(1, color="#555", lw=1)
        axis.set_yticks(range(len(cells)), _plot_names(cells))
        axis.invert_yaxis()
        axis.set_xlabel("p99.9 during updates, times that of steady or of the worse control")
        figure.legend(loc="outside upper left", ncols=2, fontsize=9)
        save(figure, f"{stem}-ratios")

        figure, axis = pyplot.subplots(figsize=(11, 3.6), layout="constrained")
        for cell in cells:
            run = typical_run(result, cell)
            assert run is not None
            rss = run["analysis"]["rss"]
            axis.plot(rss["time_s"], [v / 1e6 for v in rss["bytes"]], label=cell.rpartition("/")[2])
        axis.set_xlabel("seconds since the run began")
        axis.set_ylabel("RSS, MB")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
        save(figure, f"{stem}-rss")
    return written
