# SPDX-License-Identifier: Apache-2.0
"""`bench gate`: fails on what does not depend on the machine's mood; times only when asked to."""

from __future__ import annotations

import dataclasses

from tf_model_pool.bench.analysis import DRIFT_UPDATES
from tf_model_pool.bench.config import SCENARIOS
from tf_model_pool.bench.errors import ResultError
from tf_model_pool.bench.result import Cell, Configuration, Group, Result, Summary, median


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is allowed.

    Attributes:
        faults_factor: minor faults per update of our configurations, relative to the baseline's
            same cell, or, if it has none, to the stock wheel's in the same result.
        faults_slack: on top of that. The heap that a load uses for graphs grows and shrinks by a
            few MB, in some updates and not in others; weights that are faulted in again are more.
        max_faults: the same as a number; None = not checked.
        mappings: new mappings of the pools in any update, once they have settled; one more for each
            further model that is updated at the same moment, and one if versions differ in size.
        calls_factor: mapping system calls per update against the baseline, if counted.
        rss_drift: growth of RSS over the updates of a run, as a share.
        max_ratio: of update p99.9 / steady p99.9; None = times never fail.
        rounds: valid rounds that a ratio needs.
    """

    faults_factor: float = 1.10
    faults_slack: float = 1000
    max_faults: float | None = None
    mappings: float = 0.0
    calls_factor: float = 1.25
    rss_drift: float = 0.05
    max_ratio: float | None = None
    rounds: int = 3


@dataclasses.dataclass(frozen=True)
class Finding:
    """One check of one cell. A finding that is not `fails` is for the reader."""

    cell: str
    what: str
    text: str
    fails: bool


def _kind(configuration: Configuration) -> tuple[object, ...]:
    """What configurations whose faults are compared have in common."""
    client = configuration.client if configuration.python else None
    return (
        configuration.malloc,
        configuration.allocator,
        configuration.warmup,
        configuration.server,
        bool(configuration.python),
        client,
    )


def _stock_faults(cell: Cell, group: Group) -> tuple[str, float] | None:
    """Of the configuration of the same kind on the stock wheel."""
    for other, summary in group.alive:
        same = _kind(other.configuration) == _kind(cell.configuration)
        faults = median(summary.per_update.minor_faults)
        if not other.configuration.patched and same and faults is not None:
            return other.key, faults
    return None


def _earlier_faults(earlier: Cell | None) -> tuple[str, float] | None:
    if earlier is None or earlier.summary is None:
        return None
    faults = median(earlier.summary.per_update.minor_faults)
    return None if faults is None else ("the baseline", faults)


def _mappings(cell: Cell, summary: Summary, limits: Limits) -> tuple[str, bool]:
    """What a cell with pools says of new mappings, and whether they are too many."""
    mappings, size = summary.per_update.pool_mappings_delta, summary.per_update.pool_bytes
    if mappings is None:
        return "the driver did not count new pool mappings", True
    if summary.first_update is None:
        return "not judged: the first update was measured, which maps (--settle-updates)", False
    # The standby memory is one range: of models updated at once, the first to load has it.
    bound = limits.mappings + SCENARIOS[cell.scenario].updated - 1
    if size is not None and size.lowest < size.highest:
        # A version that is larger than what serves has to map more, each time: standby memory is
        # cut to the largest version alive.
        bound += 1
    text = f"up to {mappings.highest:g} new pool mappings in an update (limit {bound:g})"
    return text, mappings.highest > bound


def _check_cell(cell: Cell, group: Group, earlier: Cell | None, limits: Limits) -> list[Finding]:
    out: list[Finding] = []

    def add(what: str, text: str, fails: bool) -> None:
        out.append(Finding(cell.key, what, text, fails))

    summary = cell.summary
    if summary is None:
        add("rounds", "no valid run", True)
        return out
    ours = cell.configuration.pooled

    answers = summary.answers
    # Requests find no version while the new one loads; that is what was asked for.
    gap = cell.configuration.server["aspired_version_policy"] == "resource_preserving"
    lost = answers.dropped + (0 if gap else answers.failed)
    add("answers", f"{answers.wrong} wrong of {answers.requests}", answers.wrong > 0)
    add("lost", f"{lost} lost (failed {answers.failed}, dropped {answers.dropped})", lost > 0)
    if answers.unchecked:
        add("unchecked", f"{answers.unchecked} answers have no expected value", False)
    if summary.errors:
        add("errors", "; ".join(summary.errors[:3]), True)
    if ours:
        active = summary.pools_active
        add("pools", "active" if active else "not active in the driver", not active)

    faults = median(summary.per_update.minor_faults)
    # What the stock wheel does is reported; it varies, and is not ours to mend.
    reference = _earlier_faults(earlier) or (_stock_faults(cell, group) if ours else None)
    if faults is not None and reference is not None:
        bound = reference[1] * limits.faults_factor + limits.faults_slack
        add(
            "faults",
            f"{faults:.0f} minor faults per update; {reference[0]} has {reference[1]:.0f} "
            f"(limit {bound:.0f})",
            ours and faults > bound,
        )
    elif faults is not None:
        add("faults", f"{faults:.0f} minor faults per update; nothing to compare with", False)
    if faults is not None and limits.max_faults is not None and ours:
        add("faults", f"{faults:.0f} (limit {limits.max_faults:.0f})", faults > limits.max_faults)

    if ours:
        add("mappings", *_mappings(cell, summary, limits))

    if cell.calls is not None:
        total = sum(cell.calls.values())
        if earlier is None or earlier.calls is None:
            add("calls", f"{total:.0f} mapping calls per update; nothing to compare with", False)
        else:
            bound = sum(earlier.calls.values()) * limits.calls_factor + 20
            text = f"{total:.0f} mapping calls per update (limit {bound:.0f})"
            add("calls", text, ours and total > bound)
    elif earlier is not None and earlier.calls is not None:
        add("calls", "not counted, and in the baseline they are (--count-calls)", False)

    drift = summary.drift
    if drift is None:
        # The scenario of one update has no more, and was asked for.
        text = f"RSS not judged: no run has {DRIFT_UPDATES} measured updates (--cycles)"
        add("drift", text, ours and cell.scenario != "one")
    else:
        share = drift.rss_share
        text = f"RSS {share:+.1%} over {drift.updates} updates (limit {limits.rss_drift:.0%})"
        # What other allocators do is reported; it is not ours to mend.
        add("drift", text, ours and share > limits.rss_drift)

    ratio = summary.ratios["steady"]["p99.9"]
    if ratio is not None:
        text = f"update/steady p99.9 = {ratio.median:.2f} in {ratio.rounds} rounds"
        short = [name for name in ("update", "steady") if not summary.supports(name, "p99.9")]
        if short:
            text += f"; near the maximum: {summary.requests_per_round(short[0])} requests a round "
            text += f"in {short[0]}"
        if limits.max_ratio is None or not ours:
            add("time", text, False)
        elif ratio.rounds < limits.rounds:
            text += f": {limits.rounds} valid rounds are needed to judge (--rounds)"
            add("time", text, True)
        elif short:
            add("time", f"{text}, and 1,000 are needed to judge (--cycles, --rate)", True)
        else:
            text += f" (limit {limits.max_ratio:.2f})"
            add("time", text, ratio.median > limits.max_ratio)
    return out


def _check_runs(result: Result) -> list[Finding]:
    """That all of it ran. A run that failed is not made good by another that did not."""
    out = []
    if not result.finished:
        out.append(Finding("result", "finished", "interrupted: not all runs had ended", True))
    for run in result.refused:
        what = "failed" if run.failed else "invalid"
        fails = run.failed and result.configurations[run.cell.rpartition("/")[2]].patched
        text = f"round {run.round + 1}: {'; '.join(run.reasons)}"
        out.append(Finding(run.cell, what, text, fails))
    return out


def _check_coverage(result: Result, baseline: Result) -> list[Finding]:
    """That what the baseline was content with is still measured."""
    measured, before = result.cells, baseline.cells
    out = [
        Finding(key, "missing", "in the baseline, and not in the result", True)
        for key, cell in before.items()
        if cell.configuration.pooled and key not in measured
    ]
    if not measured.keys() & before.keys():
        text = f"has none of the result's cells; it has {', '.join(before) or 'no cell'}"
        out.append(Finding("result", "baseline", text, True))
    return out


def check(result: Result, baseline: Result | None, limits: Limits) -> list[Finding]:
    """Every check of every cell. Raises `ResultError` if there is nothing to check."""
    if not result.groups:
        raise ResultError("the result has no cells: no run had ended when it was written")
    out = _check_runs(result)
    before = {}
    if baseline is not None:
        out += _check_coverage(result, baseline)
        before = baseline.cells
    for group in result.groups:
        for cell in group.cells:
            out += _check_cell(cell, group, before.get(cell.key), limits)
    return out


def text(findings: list[Finding]) -> str:
    """One line per finding, failures last."""
    lines = [
        # The last words of a driver have several lines.
        f"{'FAIL' if f.fails else 'ok  '}  {f.cell:45} {f.what:10} {' '.join(f.text.split())}"
        for f in sorted(findings, key=lambda f: f.fails)
    ]
    failed = sum(f.fails for f in findings)
    return "\n".join([*lines, f"{failed} failed" if failed else "passed"])
