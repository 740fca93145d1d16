# SPDX-License-Identifier: Apache-2.0
"""The report: one HTML page that needs nothing else, pictures, and a text summary."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import require
from tf_model_pool.bench.figures import (
    around_figure,
    attribution_figure,
    pictures,
    rss_figure,
    time_figure,
)
from tf_model_pool.bench.tables import (
    attribution_table,
    counts_table,
    groups,
    number,
    overview,
    percentile_table,
    size,
    text,
    verdict,
)

_STYLE = """
:root { color-scheme: light; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 1180px;
margin: 2rem auto; padding: 0 1rem; color: #1b1f24; background: #fff; } h1 { font-size: 1.7rem;
margin-bottom: .2rem } h2 { margin-top: 2.6rem; border-bottom: 1px solid #ccc } h3 { margin:
1.8rem 0 .3rem } .sub, .note { color: #555; font-size: .92rem } .scroll { overflow-x: auto } table
{ border-collapse: collapse; font-size: .88rem; margin: .6rem 0 } th, td { padding: .3rem .6rem;
text-align: right; border-bottom: 1px solid #e3e3e3; } td { white-space: nowrap;
font-variant-numeric: tabular-nums } th { vertical-align: bottom; background: #f5f7f9;
font-weight: 600 } th:first-child, td:first-child { text-align: left } .verdict { background:
#eef5fb; padding: .6rem 1rem; border-left: 4px solid #2c7fb8 } .warn { background: #fff6e5;
border-left: 4px solid #f28e2b; padding: .6rem 1rem } details { margin: .8rem 0 } summary {
cursor: pointer; font-weight: 600 } td.ours { font-weight: 600 } pre { background: #f5f7f9;
padding: .8rem; overflow-x: auto } dt { font-weight: 600 } dd { margin: 0 0 .5rem 1.2rem }
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


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], ours: Sequence[str] = ()) -> str:
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


def _ours(result: Mapping[str, Any]) -> list[str]:
    return [n for n, c in result["configurations"].items() if c["wheel"] == "patched"]


def _figure(figure: Any, name: str) -> str:
    found: str = figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        config={"responsive": True, "displaylogo": False},
    )
    return found


def _settings_table(result: Mapping[str, Any]) -> str:
    rows = []
    for name, c in result["configurations"].items():
        server = {k: v for k, v in c["server"].items() if v not in (0, False, 1)}
        rows.append(
            [
                name,
                c["wheel"],
                c["allocator"],
                c["malloc_library"] or c["malloc"],
                "on" if c["warmup"] else "off",
                ", ".join(f"{k}={v}" for k, v in c["server"].items() if k in server or v == 1)
                or "-",
                " ".join(
                    f"{k}={v}" for k, v in c["effective_environment"].items() if k[:3] != "LD_"
                ),
            ]
        )
    header = ["configuration", "wheel", "allocator", "malloc", "warm-up", "server", "environment"]
    return _table(header, rows)


def _machine(result: Mapping[str, Any]) -> str:
    rows = [[k.replace("_", " "), json.dumps(v)] for k, v in result["machine"].items()]
    for name, wheel in result["wheels"].items():
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
        for key, value in result["calibration"].items()
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
        rows.append([key.replace("_", " "), json.dumps(result["settings"].get(key))])
    return _table(["", ""], rows)


def _thresholds(result: Mapping[str, Any], cells: Sequence[str]) -> str:
    if result["settings"].get("slow_ms") is not None:
        return f"{number(result['settings']['slow_ms'])} ms (--slow-ms)"
    found = [result["summary"]["cells"][c]["slow_threshold_ms"]["median"] for c in cells]
    span = " to ".join(dict.fromkeys([number(min(found)), number(max(found))]))
    return f"twice the median p99 of the controls, {span} ms"


def _group_section(result: Mapping[str, Any], group: str, index: int) -> str:
    cells = groups(result)[group]
    model, _, scenario = group.rpartition("/")
    alive = [c for c in cells if result["summary"]["cells"][c]["rounds"]]
    ours = _ours(result)
    out = [f"<h2>Model {html.escape(model)}, scenario {html.escape(scenario)}</h2>"]
    facts = result["models"].get(group, [])
    if facts:
        first = facts[0]
        rate = result["calibration"].get(group, {}).get("rate")
        out.append(
            f'<p class="sub">{len(facts)} model{"s" if len(facts) > 1 else ""} of '
            f"{size(max(first['bytes']))}, {number(first.get('nodes'))} graph nodes, "
            f"{number(rate)} requests/s.</p>"
        )
    sentences = verdict(result, group)
    if sentences:
        out.append(f'<div class="verdict">{"<br>".join(map(html.escape, sentences))}</div>')
    out.append("<h3>Latency in ms</h3>")
    out.append(_table(*overview(result, group), ours))
    if not alive:
        return "".join([*out, '<p class="warn">No valid run.</p>'])
    out.append(
        "<h3>Around an update</h3><p class='note'>All measured updates of all rounds, laid over "
        "each other. The shaded part is an update (median length).</p>"
    )
    out.append(_figure(around_figure(result, group), f"around{index}"))
    out.append(
        "<h3>Percentiles over time</h3><p class='note'>One round of each configuration: the one "
        "whose p99 during updates is the median. Colours in the background are the phases of an "
        "update; grey are the controls. All panels have the same axes.</p>"
    )
    out.append(_figure(time_figure(result, group), f"time{index}"))
    out.append(
        f"<h3>Why were requests slow?</h3><p class='note'>Slow are requests that took more than "
        f"{_thresholds(result, alive)}. The time that each lost against the steady "
        "median goes to the phase that it overlapped longest.</p>"
    )
    out.append(_figure(attribution_figure(result, group), f"why{index}"))
    for cell in alive:
        table = _table(*attribution_table(result, cell))
        out.append(
            f"<details><summary>{html.escape(cell.rpartition('/')[2])}: by phase</summary>{table}"
            '<p class="note">Queued: all request threads were busy with earlier requests. '
            "Waiting for a CPU: the request's thread was ready and others ran. Slower execution: "
            "the rest, that is locks, page faults, caches, and TensorFlow's own threads.</p>"
            "</details>"
        )
    out.append("<h3>What an update costs, counted</h3>")
    out.append(_table(*counts_table(result, group), ours))
    out.append("<h3>Memory</h3>")
    out.append(_figure(rss_figure(result, group), f"rss{index}"))
    drifting = [
        [
            c.rpartition("/")[2],
            str(d["updates"]),
            size(d["rss_first_half"]),
            size(d["rss_last_half"]),
            f"{d['rss_share']:+.1%}",
            number(d["faults_first_half"]),
            number(d["faults_last_half"]),
        ]
        for c in alive
        if (d := result["summary"]["cells"][c]["drift"])
    ]
    if drifting:
        out.append("<h3>Drift over the updates of a run</h3>")
        header = [
            "configuration",
            "updates",
            "RSS, first half",
            "RSS, last half",
            "change",
            "faults, first half",
            "faults, last half",
        ]
        out.append(_table(header, drifting, ours))
    out.append("<h3>Every percentile</h3>")
    for cell in alive:
        out.append(
            f"<details><summary>{html.escape(cell.rpartition('/')[2])}</summary>"
            f"{_table(*percentile_table(result, cell))}</details>"
        )
    return "\n".join(out)


def page(result: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs nothing else."""
    library = require("plotly.offline").get_plotlyjs()
    invalid = [r for r in result["runs"] if not r["valid"]]
    m = result["machine"]
    warnings = []
    if not result["finished"]:
        warnings.append("The benchmark was interrupted; this is what had finished.")
    if invalid:
        warnings.append(
            f"{len(invalid)} of {len(result['runs'])} runs were not valid and do not count: "
            + "; ".join(
                f"{r['cell']} round {r['round'] + 1} ({', '.join(r['reasons'])})" for r in invalid
            )
        )
    wrong = {
        cell: s["answers"]
        for cell, s in result["summary"]["cells"].items()
        if s["rounds"]
        and (s["answers"]["wrong"] or s["answers"]["failed"] or s["answers"]["dropped"])
    }
    warnings += [
        f"{cell}: {a['wrong']} wrong answers, {a['failed']} failed and {a['dropped']} dropped of "
        f"{a['requests']} requests."
        for cell, a in wrong.items()
    ]
    cpus = len(m.get("usable_cpus") or []) or m.get("cpu_count")
    parts = [
        "<!DOCTYPE html><html lang=en><head><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        f"<title>Model updates under load</title><style>{_STYLE}</style>",
        f"<script>{library}</script></head><body>",
        "<h1>Model updates under load</h1>",
        f'<p class="sub">{html.escape(str(result["created"])[:16].replace("T", " "))} UTC, '
        f"{html.escape(str(m.get('cpu_model')))}, {cpus} CPUs, "
        f"Linux {html.escape(str(m.get('kernel')))}. "
        "How long requests take while a server replaces a model by its next version.</p>",
        *(f'<p class="warn">{html.escape(w)}</p>' for w in warnings),
        f"<details><summary>How to read this page</summary>{_HOW_TO_READ}</details>",
        *(_group_section(result, group, i) for i, group in enumerate(groups(result))),
        "<h2>Settings and machine</h2>",
        _settings_table(result),
        _machine(result),
        "<p class=note>result.json beside this page has all of it, the seeds and every run; the "
        "raw records are in runs/.</p></body></html>",
    ]
    return "\n".join(parts)


def write(result: Mapping[str, Any], directory: Path, *, png: bool = True) -> list[Path]:
    """report.html, summary.txt and the pictures in `directory`. Returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, content in (("report.html", page(result)), ("summary.txt", text(result) + "\n")):
        path = directory / name
        partial = directory / f".{name}.partial"
        partial.write_text(content, encoding="utf-8")
        partial.rename(path)
        written.append(path)
    return written + (pictures(result, directory) if png else [])
