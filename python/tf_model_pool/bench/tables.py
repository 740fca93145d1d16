# SPDX-License-Identifier: Apache-2.0
"""A result file as tables and sentences. Numbers come from the result; none is made here."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tf_model_pool.bench.analysis import PERCENTILES, supported

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


def with_spread(value: Mapping[str, Any] | None) -> str:
    """Median and, over several rounds, the range."""
    if value is None:
        return "-"
    if value["rounds"] == 1 or value["min"] == value["max"]:
        return number(value["median"])
    return f"{number(value['median'])} [{number(value['min'])} - {number(value['max'])}]"


def size(value: float | None) -> str:
    """Bytes as MB or GB (powers of ten)."""
    if value is None:
        return "-"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def _median(value: Mapping[str, Any] | None) -> float | None:
    return None if value is None else float(value["median"])


# ---- what is shown ------------------------------------------------------------------------------


def groups(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """`model/scenario` -> its cells, in the order of the run."""
    found: dict[str, list[str]] = {}
    for key in result["summary"]["cells"]:
        found.setdefault(key.rpartition("/")[0], []).append(key)
    return found


def typical_run(result: Mapping[str, Any], cell: str) -> Mapping[str, Any] | None:
    """The valid run whose update p99 is the median of its rounds; None without one."""
    runs = [r for r in result["runs"] if r["cell"] == cell and r["valid"]]
    if not runs:
        return None
    runs.sort(key=lambda r: float(r["analysis"]["windows"]["update"]["p99"] or 0))
    found: Mapping[str, Any] = runs[(len(runs) - 1) // 2]
    return found


def shown_lines(counts: Sequence[int]) -> list[str]:
    """Percentiles worth a line: those that an interval's requests can tell apart from the max."""
    usual = int(statistics.median(counts)) if counts else 0
    return [name for name in PERCENTILES if supported(name, usual)]


def overview(result: Mapping[str, Any], group: str) -> tuple[list[str], list[list[str]]]:
    """The main table: header and rows."""
    header = [
        "configuration",
        "rounds",
        "update takes, s",
        "steady p50",
        "steady p99.9",
        "update p50",
        "update p99",
        "update p99.9",
        "update max",
        "update/steady p99.9",
        "update/control p99.9",
        "minor faults per update",
        "peak RSS",
    ]
    rows = []
    for cell in groups(result)[group]:
        s = result["summary"]["cells"][cell]
        name = cell.rpartition("/")[2]
        if not s["rounds"]:
            rows.append([name, "0", *["-"] * (len(header) - 2)])
            continue
        w = s["windows"]
        rows.append(
            [
                name,
                str(s["rounds"]),
                number(_median(s["per_update"]["seconds"])),
                number(_median(w["steady"]["p50"])),
                _value(s, "steady", "p99.9"),
                number(_median(w["update"]["p50"])),
                _value(s, "update", "p99"),
                _value(s, "update", "p99.9"),
                number(_median(w["update"]["max"])),
                with_spread(s["ratios"]["steady"]["p99.9"]),
                with_spread(s["ratios"]["control"]["p99.9"]),
                number(_median(s["per_update"]["minor_faults"])),
                size(_median(s["rss_peak"])),
            ]
        )
    return header, rows


def _value(summary: Mapping[str, Any], window: str, name: str) -> str:
    """A percentile; marked where a round's window had too few requests for it."""
    found = summary["windows"][window]
    mark = "" if supported(name, found["count"] // max(summary["rounds"], 1)) else "*"
    return number(_median(found[name])) + mark


def percentile_table(result: Mapping[str, Any], cell: str) -> tuple[list[str], list[list[str]]]:
    """Every window and percentile of one cell, with spread over rounds."""
    s = result["summary"]["cells"][cell]
    header = ["", "requests", *PERCENTILES]
    rows = []
    for name, found in s["windows"].items():
        if name == "control":
            continue
        label = WINDOW_NAMES.get(name, name.replace("_", " "))
        rows.append(
            [f"{label}, ms", number(found["count"]), *(with_spread(found[p]) for p in PERCENTILES)]
        )
    for kind in ("steady", "control"):
        rows.append(
            [f"update / {kind}", "", *(with_spread(s["ratios"][kind][p]) for p in PERCENTILES)]
        )
    return header, rows


def counts_table(result: Mapping[str, Any], group: str) -> tuple[list[str], list[list[str]]]:
    """What an update costs in things that can be counted."""
    calls = result.get("calls") or {}
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
        *(["mapping calls"] if calls else []),
    ]
    rows = []
    for cell in groups(result)[group]:
        s = result["summary"]["cells"][cell]
        if not s["rounds"]:
            continue
        u, first = s["per_update"], s["first_update"] or {}
        row = [
            cell.rpartition("/")[2],
            str(s["updates"]),
            with_spread(u["seconds"]),
            with_spread(u["minor_faults"]),
            with_spread(u["major_faults"]),
            with_spread(first.get("minor_faults")),
            with_spread(u["pool_mappings_delta"]),
            size(_median(u["pool_bytes"])),
            size(_median(u["rss_peak"])),
            size(_median(u["rss_after"])),
        ]
        if calls:
            found = calls.get(cell, {})
            row.append(", ".join(f"{k} {v:.0f}" for k, v in found.items() if v) or "-")
        rows.append(row)
    return header, rows


def attribution_table(result: Mapping[str, Any], cell: str) -> tuple[list[str], list[list[str]]]:
    """Slow requests during updates by phase."""
    slow = result["summary"]["cells"][cell]["slow"]["update"]
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
    total = slow["excess_ms"]
    parts = [(PHASE_NAMES.get(k, k), v) for k, v in slow["by_phase"].items() if v["requests"]]
    for name, part in [*parts, ("all", slow)]:
        lost = part["excess_ms"]

        def share(value: float, of: float = lost) -> str:
            return f"{value / of:.0%}" if of else "-"

        rows.append(
            [
                name,
                number(part["requests"]),
                number(lost),
                share(lost, total),
                share(part["queued_ms"]),
                share(part["runqueue_ms"]),
                share(part["other_ms"]),
                number(part["minor_faults"]),
                number(part["major_faults"]),
            ]
        )
    return header, rows


def verdict(result: Mapping[str, Any], group: str) -> list[str]:
    """Plain sentences: who was how slow, and what is ours against the best other."""
    out = []
    compared = result["summary"]["compared"].get(group, {})
    for p in ("p99", "p99.9"):
        row = compared.get(p, {})
        if "update_ms" not in row:
            continue
        ms, ratio = row["update_ms"], row.get("update/control")
        sentence = (
            f"During updates {p} was {number(ms['ours_value'])} ms with pools ({ms['ours']}) and "
            f"{number(ms['best_other_value'])} ms with the best of the others "
            f"({ms['best_other']}): {number(ms['ours/best_other'])} times as long."
        )
        if ratio:
            sentence += (
                f" Against the controls of the same run it was {number(ratio['ours_value'])} times "
                f"({ratio['ours']}) and {number(ratio['best_other_value'])} times "
                f"({ratio['best_other']})."
            )
        out.append(sentence)
    few = [
        cell.rpartition("/")[2]
        for cell in groups(result)[group]
        if 0 < result["summary"]["cells"][cell]["rounds"] < 3
    ]
    if few:
        out.append(
            f"Fewer than three valid rounds for {', '.join(few)}: differences of this size may be "
            "chance. More rounds (--rounds) say more."
        )
    return out


# ---- text ---------------------------------------------------------------------------------------


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned for a terminal."""
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        first = str(row[0]).ljust(widths[0])
        return "  ".join(
            [first, *(str(v).rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))]
        )

    return "\n".join([line(header), "  ".join("-" * w for w in widths), *map(line, rows)])


def text(result: Mapping[str, Any]) -> str:
    """The summary for a terminal."""
    out = []
    for group in groups(result):
        header, rows = overview(result, group)
        short = [
            h.replace("update/", "u/").replace("minor faults per update", "faults") for h in header
        ]
        out += [f"== {group}: latency in ms, medians over rounds ==", text_table(short, rows)]
        out += verdict(result, group)
        out.append("")
    if any("*" in value for g in groups(result) for row in overview(result, g)[1] for value in row):
        out.append(
            "* too few requests in a round's window for this percentile: it is near the maximum"
        )
    invalid = [r for r in result["runs"] if not r["valid"]]
    if invalid:
        out.append(f"{len(invalid)} of {len(result['runs'])} runs were not valid and do not count:")
        out += [f"  {r['cell']} round {r['round'] + 1}: {'; '.join(r['reasons'])}" for r in invalid]
    if not result["finished"]:
        out.append("The benchmark was interrupted: this is what had finished.")
    return "\n".join(out)
