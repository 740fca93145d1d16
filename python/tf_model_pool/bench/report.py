# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML page that needs nothing else, pictures, and a text summary."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench import pictures
from tf_model_pool.bench.errors import require
from tf_model_pool.bench.figures import around_figure, attribution_figure, rss_figure, time_figure
from tf_model_pool.bench.result import Cell, Group, Result, Summary, median
from tf_model_pool.bench.tables import (
    Table,
    attribution_table,
    counts_table,
    drift_table,
    number,
    overview,
    percentile_table,
    size,
    text,
    verdict,
    warnings,
)
from tf_model_pool.files import write_text

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { margin-top: 2.6rem; border-bottom: 1px solid #ccc; }
h3 { margin: 1.8rem 0 .3rem; }
.sub, .note { color: #555; font-size: .92rem; }
.scroll { overflow-x: auto; }
.scroll > .plot { min-width: 720px; }
table { border-collapse: collapse; font-size: .88rem; margin: .6rem 0; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e3e3e3; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; }
th { vertical-align: bottom; background: #f5f7f9; font-weight: 600; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
th:first-child { background: #f5f7f9; }
td.ours { font-weight: 600; }
.verdict { background: #eef5fb; padding: .6rem 1rem; border-left: 4px solid #2c7fb8; }
.warn { background: #fff6e5; border-left: 4px solid #f28e2b; padding: .6rem 1rem; }
details { margin: .8rem 0; }
summary { cursor: pointer; font-weight: 600; }
dt { font-weight: 600; }
dd { margin: 0 0 .5rem 1.2rem; }
@media (max-width: 600px) {
  body { font-size: 15px; }
  th, td { padding: .3rem .4rem; }
  td:first-child { white-space: normal; max-width: 7.5rem; overflow-wrap: anywhere; }
}
"""

_HOW_TO_READ = """
<dl>
<dt>Latency</dt><dd>From the moment at which a request was due to its answer, in milliseconds.
Requests are sent on a schedule that does not wait for the server (open loop), so a stall shows in
every request that was due in it. p99.9 = 20 means that 1 request in 1,000 took longer than 20
ms.</dd>
<dt>Update</dt><dd>From the begin of loading the next version to the end of unloading the old
one.</dd>
<dt>Steady</dt><dd>The same server in the same run with nothing else going on.</dd>
<dt>Controls</dt><dd>The same load, no update, but another process of the idle scheduling class
that keeps a core busy for as long as an update takes: one only computes, one also streams as many
bytes through memory as an update reads. On a machine with few cores this alone makes requests
slower; no way of loading that uses a core can do better.</dd>
<dt>update / steady</dt><dd>How many times longer than usual a request takes during an update. 1 =
the update cannot be noticed.</dd>
<dt>update / control</dt><dd>The same against the worse of the two controls: what allocators,
locks, page faults and mapping calls cost, without the mere use of a core. 1 = nothing is left to
gain but CPU time.</dd>
<dt>a [b - c]</dt><dd>Median, lowest and highest over rounds. Where the ranges of two
configurations overlap, do not believe their difference.</dd>
<dt>*</dt><dd>Too few requests in that window for this percentile; it is about the maximum.</dd>
<dt>Configurations</dt><dd>"stock" is TensorFlow as released, "patched" the wheel with model
pools; the rest of the name is what differs from the default (malloc, TensorFlow's allocator,
TensorFlow Serving's levers). The table at the end has every setting.</dd>
</dl>
"""


def _table(table: Table, ours: Sequence[str] = ()) -> str:
    header, rows = table
    head = "".join(f"<th>{html.escape(h)}</th>" for h in header)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=ours' if row[0] in ours else ''}>{html.escape(str(v))}</td>" for v in row
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _figure(figure: Any, name: str) -> str:
    # The toolbar would cover the legend; dragging zooms and a double click goes back without it.
    plot = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"responsive": True, "displayModeBar": False},
    )
    return f'<div class="scroll"><div class="plot">{plot}</div></div>'


def _settings_table(result: Result) -> str:
    rows = []
    for c in result.configurations.values():
        server = {k: v for k, v in c.server.items() if v}
        environment = {k: v for k, v in c.effective_environment.items() if k[:3] != "LD_"}
        rows.append(
            [
                c.name,
                c.wheel,
                c.allocator,
                c.malloc_library or c.malloc,
                "on" if c.warmup else "off",
                ", ".join(f"{k}={v}" for k, v in server.items()) or "-",
                " ".join(f"{k}={v}" for k, v in environment.items()),
            ]
        )
    header = ["configuration", "wheel", "allocator", "malloc", "warm-up", "server", "environment"]
    return _table((header, rows))


def _machine(result: Result) -> str:
    rows = [[k.replace("_", " "), json.dumps(v)] for k, v in result.machine.items()]
    for name, wheel in result.wheels.items():
        record = str(wheel.get("record_sha256", ""))[:16]
        rows.append(
            [
                f"wheel: {name}",
                f"{wheel.get('distribution')} {wheel.get('version')}, "
                f"Python {wheel.get('python')}, RECORD sha256 {record}...",
            ]
        )
    rows += [
        [
            f"calibration {key}",
            f"{value['rate']:g} requests/s, an update takes {value['update_seconds']:.2f} s",
        ]
        for key, value in result.calibration.items()
    ]
    for key in (
        "rounds",
        "cpu_target",
        "page_cache",
        "arrival",
        "request_threads",
        "seed",
        "generator_cpus",
        "server_cpus",
    ):
        rows.append([key.replace("_", " "), json.dumps(result.settings.get(key))])
    return _table((["", ""], rows))


def _thresholds(result: Result, group: Group) -> str:
    if result.settings.get("slow_ms") is not None:
        return f"{number(result.settings['slow_ms'])} ms (--slow-ms)"
    found = [m for _, s in group.alive if (m := median(s.slow_threshold_ms)) is not None]
    span = " to ".join(dict.fromkeys([number(min(found)), number(max(found))]))
    return f"twice the median p99 of the controls, {span} ms"


def _facts(group: Group) -> str:
    first = group.models[0]
    return (
        f'<p class="sub">{len(group.models)} model{"s" if len(group.models) > 1 else ""} of '
        f"{size(max(first['bytes']))}, {number(first.get('nodes'))} graph nodes, "
        f"{number(group.rate)} requests/s.</p>"
    )


def _by_phase(cell: Cell, summary: Summary) -> str:
    return (
        f"<details><summary>{html.escape(cell.name)}: by phase</summary>"
        f"{_table(attribution_table(summary))}"
        '<p class="note">Queued: all request threads were busy with earlier requests. '
        "Waiting for a CPU: the request's thread was ready and others ran. Slower execution: "
        "the rest, that is locks, page faults, caches, and TensorFlow's own threads.</p>"
        "</details>"
    )


def _every_percentile(cell: Cell, summary: Summary) -> str:
    return (
        f"<details><summary>{html.escape(cell.name)}</summary>"
        f"{_table(percentile_table(summary))}</details>"
    )


def _group_section(result: Result, group: Group, index: int) -> str:
    model, _, scenario = group.key.rpartition("/")
    ours = [name for name, c in result.configurations.items() if c.patched]
    sentences = verdict(group)
    out = [
        f"<h2>Model {html.escape(model)}, scenario {html.escape(scenario)}</h2>",
        _facts(group) if group.models else "",
        f'<div class="verdict">{"<br>".join(map(html.escape, sentences))}</div>'
        if sentences
        else "",
        "<h3>Latency in ms</h3>",
        _table(overview(group), ours),
    ]
    if not group.alive:
        return "".join([*out, '<p class="warn">No valid run.</p>'])
    drifting = drift_table(group)
    out += [
        "<h3>Around an update</h3><p class='note'>All measured updates of all rounds, laid over "
        "each other. The shaded part is an update (median length).</p>",
        _figure(around_figure(group), f"around{index}"),
        "<h3>Percentiles over time</h3><p class='note'>One round of each configuration: the one "
        "whose p99 during updates is the median. Colours in the background are the phases of an "
        "update; grey are the controls. All panels have the same axes.</p>",
        _figure(time_figure(group), f"time{index}"),
        "<h3>Why were requests slow?</h3><p class='note'>Slow are requests that took more than "
        f"{_thresholds(result, group)}. The time that each lost against the steady "
        "median goes to the phase that it overlapped longest.</p>",
        _figure(attribution_figure(group), f"why{index}"),
        *(_by_phase(*each) for each in group.alive),
        "<h3>What an update costs, counted</h3>",
        _table(counts_table(group), ours),
        "<h3>Memory</h3>",
        _figure(rss_figure(group), f"rss{index}"),
        f"<h3>Drift over the updates of a run</h3>{_table(drifting, ours)}" if drifting[1] else "",
        "<h3>Every percentile</h3>",
        *(_every_percentile(*each) for each in group.alive),
    ]
    return "\n".join(out)


def page(result: Result) -> str:
    """The report as one HTML file that needs nothing else."""
    library = require("plotly.offline").get_plotlyjs()
    m = result.machine
    cpus = len(m.get("usable_cpus") or []) or m.get("cpu_count")
    parts = [
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>Model updates under load</title><style>{_STYLE}</style>",
        f"<script>{library}</script></head><body>",
        "<h1>Model updates under load</h1>",
        f'<p class="sub">{html.escape(result.created[:16].replace("T", " "))} UTC, '
        f"{html.escape(str(m.get('cpu_model')))}, {cpus} CPUs, "
        f"Linux {html.escape(str(m.get('kernel')))}. "
        "How long requests take while a server replaces a model by its next version.</p>",
        *(f'<p class="warn">{html.escape(w)}</p>' for w in warnings(result)),
        f"<details><summary>How to read this page</summary>{_HOW_TO_READ}</details>",
        *(_group_section(result, group, i) for i, group in enumerate(result.groups)),
        "<h2>Settings and machine</h2>",
        _settings_table(result),
        _machine(result),
        "<p class=note>result.json beside this page has all of it, the seeds and every run; the "
        "raw records are in runs/.</p></body></html>",
    ]
    return "\n".join(parts)


def write(result: Result, directory: Path, *, png: bool = True) -> list[Path]:
    """report.html, summary.txt and the pictures in `directory`. Returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in (("report.html", page(result)), ("summary.txt", text(result) + "\n")):
        write_text(directory / name, content)
        written.append(directory / name)
    return written + (pictures.write(result, directory) if png else [])
