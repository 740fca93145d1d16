# SPDX-License-Identifier: Apache-2.0
"""A result file as tables and sentences. Numbers come from the result; none is made here."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from tf_model_pool.bench.analysis import PERCENTILES, supported
from tf_model_pool.bench.result import Group, Result, Spread, Summary, median
from tf_model_pool.columns import columns

#: Header and rows.
Table = tuple[list[str], list[list[str]]]

#: Of all CPU time; above it, a page says that the machine was busy (4 % makes a run invalid).
BUSY_SHARE = 0.01

WINDOW_NAMES = {
    "steady": "steady",
    "update": "update",
    "burn_cpu": "control: CPU burner",
    "burn_stream": "control: streaming burner",
}
PHASE_NAMES = {
    "warm_up": "warm-up",
    "burn_cpu": "control: CPU",
    "burn_stream": "control: streaming",
    "none": "in none of these",
}


def number(value: float | int | None, digits: int = 3) -> str:
    """With `digits` significant digits, never in scientific notation; "-" for None."""
    if value is None or value != value:
        return "-"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    if value == 0:
        return "0"
    places = max(0, digits - 1 - _magnitude(abs(value)))
    return f"{value:.{places}f}"


def _magnitude(value: float) -> int:
    power = 0
    while value >= 10:
        value /= 10
        power += 1
    while value < 1:
        value *= 10
        power -= 1
    return power


def with_spread(value: Spread | None) -> str:
    """Median and, over several rounds, the range."""
    if value is None:
        return "-"
    if value.rounds == 1 or value.lowest == value.highest:
        return number(value.median)
    return f"{number(value.median)} [{number(value.lowest)} - {number(value.highest)}]"


def size(value: float | None) -> str:
    """Bytes as MB or GB (powers of ten)."""
    if value is None:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


# ---- what is shown ------------------------------------------------------------------------------


def shown_lines(counts: Sequence[int]) -> list[str]:
    """Percentiles worth a line: those that an interval's requests can tell apart from the max."""
    usual = int(statistics.median(counts)) if counts else 0
    return [name for name in PERCENTILES if supported(name, usual)]


def overview(group: Group) -> Table:
    """The main table."""
    header = [
        "configuration",
        "update p99.9",
        "steady p99.9",
        "update/control p99.9",
        "update/steady p99.9",
        "update p99",
        "update p50",
        "update max",
        "steady p50",
        "update takes, s",
        "minor faults per update",
        "peak RSS",
        "rounds",
    ]
    rows = []
    for cell in group.cells:
        s = cell.summary
        if s is None:
            rows.append([cell.name, *["-"] * (len(header) - 2), "0"])
            continue
        update, steady = s.windows["update"].percentiles, s.windows["steady"].percentiles
        rows.append(
            [
                cell.name,
                _value(s, "update", "p99.9"),
                _value(s, "steady", "p99.9"),
                with_spread(s.ratios["control"]["p99.9"]),
                with_spread(s.ratios["steady"]["p99.9"]),
                _value(s, "update", "p99"),
                number(median(update["p50"])),
                number(median(update["max"])),
                number(median(steady["p50"])),
                number(median(s.per_update.seconds)),
                number(median(s.per_update.minor_faults)),
                size(median(s.rss_peak)),
                str(s.rounds),
            ]
        )
    return header, rows


def _value(summary: Summary, window: str, name: str) -> str:
    """A percentile; marked if a round's window had too few requests for it."""
    mark = "" if summary.supports(window, name) else "*"
    return number(median(summary.windows[window].percentiles[name])) + mark


def percentile_table(summary: Summary) -> Table:
    """Every window and percentile of one cell, with spread over rounds."""
    rows = []
    for name, found in summary.windows.items():
        if name == "control":
            continue
        label = WINDOW_NAMES.get(name, name.replace("_", " "))
        values = (with_spread(found.percentiles[p]) for p in PERCENTILES)
        rows.append([f"{label}, ms", number(found.count), *values])
    for kind, ratios in summary.ratios.items():
        rows.append([f"update / {kind}", "", *(with_spread(ratios[p]) for p in PERCENTILES)])
    return ["", "requests", *PERCENTILES], rows


def counts_table(group: Group) -> Table:
    """What an update costs in things that can be counted."""
    counted = any(cell.calls is not None for cell in group.cells)
    header = [
        "configuration",
        "updates",
        "seconds",
        "minor faults",
        "major faults",
        "minor faults, first update",
        "new pool mappings",
        "bytes in pool",
        "RSS peak",
        "RSS after",
        *(["mapping calls"] if counted else []),
    ]
    rows = []
    for cell, s in group.alive:
        u, first = s.per_update, s.first_update
        row = [
            cell.name,
            str(s.updates),
            with_spread(u.seconds),
            with_spread(u.minor_faults),
            with_spread(u.major_faults),
            with_spread(first.minor_faults if first else None),
            with_spread(u.pool_mappings_delta),
            size(median(u.pool_bytes)),
            size(median(u.rss_peak)),
            size(median(u.rss_after)),
        ]
        if counted:
            calls = cell.calls or {}
            row.append(", ".join(f"{k} {v:.0f}" for k, v in calls.items() if v) or "-")
        rows.append(row)
    return header, rows


def drift_table(group: Group) -> Table:
    """How memory and faults move over the updates of a run, for the cells that have enough."""
    header = [
        "configuration",
        "updates",
        "RSS, first half",
        "RSS, last half",
        "change",
        "faults, first half",
        "faults, last half",
    ]
    rows = [
        [
            cell.name,
            str(d.updates),
            size(d.rss_first_half),
            size(d.rss_last_half),
            f"{d.rss_share:+.1%}",
            number(d.faults_first_half),
            number(d.faults_last_half),
        ]
        for cell, s in group.alive
        if (d := s.drift)
    ]
    return header, rows


def attribution_table(summary: Summary) -> Table:
    """Slow requests during updates by phase."""
    header = [
        "phase",
        "slow requests",
        "time lost, ms",
        "share",
        "queued behind others",
        "waiting for a CPU",
        "slower execution",
        "minor faults",
        "major faults",
    ]
    rows = []
    total = summary.lost.excess_ms
    parts = [(PHASE_NAMES.get(k, k), v) for k, v in summary.lost_by_phase.items() if v.requests]
    for name, part in [*parts, ("all", summary.lost)]:
        lost = part.excess_ms

        def share(value: float, of: float = lost) -> str:
            return f"{value / of:.0%}" if of else "-"

        rows.append(
            [
                name,
                number(part.requests),
                number(lost),
                share(lost, total),
                share(part.queued_ms),
                share(part.runqueue_ms),
                share(part.other_ms),
                number(part.minor_faults),
                number(part.major_faults),
            ]
        )
    return header, rows


def times(factor: float) -> str:
    """A ratio in words: "5.40 times shorter", "1.30 times longer", "as long"."""
    if 0.95 < factor < 1.05:
        return "as long"
    return f"{number(1 / factor)} times shorter" if factor < 1 else f"{number(factor)} times longer"


def verdict(group: Group) -> list[str]:
    """Plain sentences: who was how slow, and ours against the best other."""
    out = []
    for p in ("p99.9", "p99"):
        row = group.compared.get(p, {})
        if "update_ms" not in row:
            continue
        ms, ratio = row["update_ms"], row.get("update/control")
        sentence = (
            f"During updates {p} was {number(ms.ours_value)} ms with pools ({ms.ours}) and "
            f"{number(ms.other_value)} ms with the best of the others ({ms.other})"
        )
        if ms.other_value:
            sentence += f": {times(ms.ours_value / ms.other_value)}"
        if ratio:
            sentence += (
                f". Against the controls of the same run it was {number(ratio.ours_value)} times "
                f"({ratio.ours}) and {number(ratio.other_value)} times ({ratio.other})"
            )
        out.append(sentence + ".")
    few = [cell.name for cell, s in group.alive if s.rounds < 3]
    if few:
        out.append(
            f"Fewer than three valid rounds for {', '.join(few)}: differences of this size may be "
            "chance. More rounds (--rounds) say more."
        )
    return out


# ---- text ---------------------------------------------------------------------------------------


def warnings(result: Result) -> list[str]:
    """What a reader of any number should know first."""
    out = []
    if not result.finished:
        out.append("The benchmark was interrupted: this is what had finished.")
    if result.refused:
        reasons = "; ".join(
            f"{run.cell} round {run.round + 1} ({', '.join(run.reasons)})" for run in result.refused
        )
        out.append(
            f"{len(result.refused)} of {result.run_count} runs were not valid and do not count: "
            f"{reasons}."
        )
    busy = max((r.foreign_share for c in result.cells.values() for r in c.runs), default=0.0)
    if busy > BUSY_SHARE:
        out.append(
            f"The machine was busy: other processes used up to {busy:.1%} of its CPU time in runs "
            "that count."
        )
    for cell in result.cells.values():
        a = cell.summary.answers if cell.summary else None
        if a and (a.wrong or a.failed or a.dropped):
            out.append(
                f"{cell.key}: {a.wrong} wrong answers, {a.failed} failed and {a.dropped} dropped "
                f"of {a.requests} requests."
            )
    return out


def text(result: Result) -> str:
    """The summary for a terminal."""
    out = []
    for group in result.groups:
        header, rows = overview(group)
        short = [
            h.replace("update/", "u/").replace("minor faults per update", "faults") for h in header
        ]
        out += [f"== {group.key}: latency in ms, medians over rounds ==", *columns([short, *rows])]
        out += verdict(group)
        out.append("")
    if any("*" in value for g in result.groups for row in overview(g)[1] for value in row):
        out.append(
            "* too few requests in a round's window for this percentile: it is near the maximum"
        )
    return "\n".join([*out, *warnings(result)])
