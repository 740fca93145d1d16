# SPDX-License-Identifier: Apache-2.0
"""From raw records to numbers: exact percentiles, ratios, and why requests were slow.

Windows of a run, by the intended time of a request:
    update      from an update's begin to its end
    burn_cpu    while the idle-class burner spins (control)
    burn_stream while the idle-class burner streams through memory (control)
    steady      the rest, after measuring began, less `GUARD_S` after each of the above
A percentile of a window needs no histogram: all records are there.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_model_pool.bench.records import CONTROLS, PHASES, Floats, Requests, latencies_ms

#: Name -> quantile.
PERCENTILES: Mapping[str, float] = {
    "p50": 0.50,
    "p80": 0.80,
    "p90": 0.90,
    "p99": 0.99,
    "p99.9": 0.999,
    "max": 1.0,
}
WINDOWS = ("steady", "update", *CONTROLS)
#: What an update leaves to do (a queue to work off) is not yet steady.
GUARD_S = 0.5
#: Updates of a run without which nothing is said of its drift: two in each half.
DRIFT_UPDATES = 4
#: Relative to the sum of magnitudes: float32 sums in another order, on other kernels.
ANSWER_TOLERANCE = 1e-4

Mask = npt.NDArray[np.bool_]
Span = tuple[float, float]


def percentile(sorted_values: Floats, quantile: float) -> float:
    """The smallest value that at least `quantile` of the values do not exceed (nearest rank).

    No interpolation: the answer is a latency that some request had. NaN without values.
    """
    if sorted_values.size == 0:
        return float("nan")
    rank = int(np.ceil(quantile * sorted_values.size - 1e-9))
    return float(sorted_values[max(rank, 1) - 1])


def percentiles(values: Floats) -> dict[str, float | None]:
    """Every percentile of `PERCENTILES`, milliseconds; None without values."""
    if values.size == 0:
        return dict.fromkeys(PERCENTILES)
    ordered = np.sort(values)
    return {name: percentile(ordered, quantile) for name, quantile in PERCENTILES.items()}


def supported(name: str, count: int) -> bool:
    """Whether `count` values say anything of this percentile: one of them at least lies above."""
    return name == "max" or count * (1 - PERCENTILES[name]) >= 1


# ---- windows ------------------------------------------------------------------------------------


def _inside(times: npt.NDArray[Any], spans: Iterable[Span]) -> Mask:
    mask = np.zeros(times.shape, dtype=bool)
    for begin, end in spans:
        mask |= (times >= begin) & (times <= end)
    return mask


def windows(
    requests: Requests, result: Mapping[str, Any], measure_from_ns: float
) -> dict[str, Mask]:
    """Which requests belong to which window; a request due in two at once to none but update."""
    due = requests["intended_ns"]
    measured = due >= measure_from_ns
    updates = [(u["begin_ns"], u["end_ns"]) for u in result["updates"]]
    burns = {
        kind: [(b["begin_ns"], b["end_ns"]) for b in result["burns"] if b["kind"] == kind]
        for kind in CONTROLS
    }
    guard = GUARD_S * 1e9
    everything = [*updates, *(span for spans in burns.values() for span in spans)]
    busy = _inside(due, [(begin, end + guard) for begin, end in everything])
    update = _inside(due, updates)
    tail = _inside(due, [(begin, end + guard) for begin, end in updates])
    found = {"steady": measured & ~busy, "update": measured & update}
    for kind, spans in burns.items():
        found[kind] = measured & _inside(due, spans) & ~tail
    return found


# ---- attribution --------------------------------------------------------------------------------


def _overlap(begin: Floats, end: Floats, span: Span) -> Floats:
    both: Floats = np.minimum(end, span[1]) - np.maximum(begin, span[0])
    return np.maximum(both, 0.0)


def attribute(
    requests: Requests, result: Mapping[str, Any], slow: Mask, usual_ms: float
) -> dict[str, Any]:
    """What slow requests coincided with, and where their time went.

    Each slow request's excess is its latency above `usual_ms`, the steady median. It goes to the
    phase that the request overlapped longest. Its parts, as measured on the request's thread:
    waiting for a free request thread (which others held), waiting on a run queue for a CPU, and
    the rest, which is executing slower or waiting for locks, faults and TensorFlow's own threads.

    Returns:
        `requests`, `excess_ms`, `queued_ms`, `runqueue_ms`, `other_ms`, `minor_faults`,
        `major_faults` in all and `by_phase` (those of `PHASES`, the controls, and "none").
    """
    chosen = requests[slow]
    begin = chosen["intended_ns"].astype(np.float64)
    end = chosen["end_ns"].astype(np.float64)
    labels = [*PHASES, *CONTROLS]
    spans: list[tuple[int, Span]] = [
        (labels.index(p["phase"]), (p["begin_ns"], p["end_ns"])) for p in result["phases"]
    ]
    spans += [(labels.index(b["kind"]), (b["begin_ns"], b["end_ns"])) for b in result["burns"]]
    overlap = np.zeros((len(labels), chosen.size))
    for label, span in spans:
        overlap[label] += _overlap(begin, end, span)
    longest = overlap.argmax(axis=0) if chosen.size else np.zeros(0, dtype=np.int64)
    touched = overlap.max(axis=0) > 0 if chosen.size else np.zeros(0, dtype=bool)

    excess = np.clip(latencies_ms(chosen) - usual_ms, 0, None)
    queued = np.minimum((chosen["start_ns"] - chosen["intended_ns"]) / 1e6, excess)
    waited = np.minimum(chosen["runqueue_ns"] / 1e6, excess - queued)
    other = excess - queued - waited

    def total(mask: Mask) -> dict[str, float]:
        return {
            "requests": int(mask.sum()),
            "excess_ms": float(excess[mask].sum()),
            "queued_ms": float(queued[mask].sum()),
            "runqueue_ms": float(waited[mask].sum()),
            "other_ms": float(other[mask].sum()),
            "minor_faults": int(chosen["minor_faults"][mask].sum()),
            "major_faults": int(chosen["major_faults"][mask].sum()),
            "involuntary_switches": int(chosen["involuntary_switches"][mask].sum()),
        }

    by_phase = {label: total(touched & (longest == number)) for number, label in enumerate(labels)}
    by_phase["none"] = total(~touched)
    return {**total(np.ones(chosen.size, dtype=bool)), "by_phase": by_phase}


# ---- answers ------------------------------------------------------------------------------------


def check_answers(
    requests: Requests, result: Mapping[str, Any], checksums: Sequence[Any] | None
) -> dict[str, int]:
    """How many answers are missing or wrong.

    Request k of a model, in order of intended time, sends its request k modulo their number; a
    right answer has that request's checksum of the version that answered.
    `checksums[model][version]` is a list of [sum, sum of magnitudes], or None if the model's
    answer is random.
    """
    failed = requests["status"] != 0
    wrong = unchecked = 0
    for model in np.unique(requests["model"]):
        of_model = requests[requests["model"] == model]
        number = np.arange(of_model.size)
        for version in np.unique(of_model["version"]):
            mask = (of_model["version"] == version) & (of_model["status"] == 0)
            got = of_model["checksum"][mask]
            try:
                if version < 0:
                    raise IndexError
                expected = [] if checksums is None else checksums[int(model)][int(version)]
            except IndexError:
                wrong += int(mask.sum())
                continue
            if not expected or any(item is None for item in expected):
                unchecked += int(mask.sum())
                continue
            sums = np.array(expected, dtype=np.float64)[number[mask] % len(expected)]
            wrong += int(
                np.count_nonzero(
                    ~(np.abs(got - sums[:, 0]) <= ANSWER_TOLERANCE * sums[:, 1] + 1e-6)
                )
            )
    return {
        "requests": int(requests.size),
        "failed": int(failed.sum()),
        "dropped": int(result["dropped"]),
        "wrong": wrong,
        "unchecked": unchecked,
    }


# ---- one run ------------------------------------------------------------------------------------


def series(requests: Requests, interval_s: float, begin_s: float = 0.0) -> dict[str, Any]:
    """Percentiles per interval of intended time; times are the middles, seconds."""
    due = requests["intended_ns"] / 1e9
    latency = latencies_ms(requests)
    bins = np.floor((due - begin_s) / interval_s).astype(np.int64)
    out: dict[str, Any] = {"interval_s": interval_s, "time_s": [], "count": []}
    for name in PERCENTILES:
        out[name] = []
    for number in np.unique(bins):
        values = np.sort(latency[bins == number])
        out["time_s"].append(round(begin_s + (float(number) + 0.5) * interval_s, 4))
        out["count"].append(int(values.size))
        for name, quantile in PERCENTILES.items():
            out[name].append(round(percentile(values, quantile), 4))
    return out


def around_updates(
    requests: Requests, updates: Sequence[Mapping[str, Any]], before_s: float, after_s: float
) -> Floats:
    """[seconds from the begin of the update, latency in ms] of every request near an update."""
    due = requests["intended_ns"] / 1e9
    latency = latencies_ms(requests)
    points = [np.zeros((0, 2))]
    for update in updates:
        relative = due - update["begin_ns"] / 1e9
        near = (relative >= -before_s) & (relative <= after_s)
        points.append(np.stack([relative[near], latency[near]], axis=1))
    return np.concatenate(points)


def bin_points(points: Floats, bins: int = 48) -> dict[str, list[float]]:
    """Percentiles by time of `around_updates`'s points: `time_s`, `count`, and each percentile."""
    out: dict[str, list[float]] = {"time_s": [], "count": [], **{name: [] for name in PERCENTILES}}
    if points.size == 0:
        return out
    edges = np.linspace(points[:, 0].min(), points[:, 0].max() + 1e-9, bins + 1)
    which = np.clip(np.searchsorted(edges, points[:, 0], side="right") - 1, 0, bins - 1)
    for i in range(bins):
        values = np.sort(points[which == i, 1])
        if values.size == 0:
            continue
        out["time_s"].append(round(float(edges[i] + edges[i + 1]) / 2, 4))
        out["count"].append(int(values.size))
        for name, quantile in PERCENTILES.items():
            out[name].append(round(percentile(values, quantile), 4))
    return out


def _updates(result: Mapping[str, Any], measure_from_ns: float) -> list[dict[str, Any]]:
    return [
        {
            **update,
            "settling": update["begin_ns"] < measure_from_ns,
            "seconds": (update["end_ns"] - update["begin_ns"]) / 1e9,
        }
        for update in result["updates"]
    ]


def _phase_seconds(result: Mapping[str, Any], measure_from_ns: float) -> dict[str, float]:
    """Median duration of each phase, over the measured updates."""
    found: dict[str, list[float]] = {}
    for phase in result["phases"]:
        if phase["begin_ns"] >= measure_from_ns:
            found.setdefault(phase["phase"], []).append((phase["end_ns"] - phase["begin_ns"]) / 1e9)
    return {name: statistics.median(found[name]) for name in PHASES if name in found}


def drift(updates: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """How memory and faults move over many updates; None for fewer than `DRIFT_UPDATES`.

    `rss_share` is the change of RSS after an update from the first to the last, along a line
    through the medians of both halves (Theil-Sen would be no better for a step), as a share.
    """
    after = [float(u["rss_after"]) for u in updates if u.get("rss_after")]
    if len(after) < DRIFT_UPDATES:
        return None
    half = len(after) // 2
    first, last = statistics.median(after[:half]), statistics.median(after[-half:])
    faults = [float(u["minor_faults"]) for u in updates]
    return {
        "updates": len(after),
        "rss_first_half": first,
        "rss_last_half": last,
        "rss_share": (last - first) / first,
        "rss_bytes_per_update": (last - first) / (len(after) - half),
        "faults_first_half": statistics.median(faults[:half]),
        "faults_last_half": statistics.median(faults[-half:]),
    }


def slow_requests(
    requests: Requests, result: Mapping[str, Any], *, measure_from_s: float, threshold_ms: float
) -> dict[str, Any]:
    """The requests over a threshold: where they fell (`slow`), and the slowest as events."""
    answered = requests[requests["status"] == 0]
    latency = latencies_ms(answered)
    masks = windows(answered, result, measure_from_s * 1e9)
    usual = percentile(np.sort(latency[masks["steady"]]), 0.5) if masks["steady"].any() else 0.0
    slow = (answered["intended_ns"] >= measure_from_s * 1e9) & (latency > threshold_ms)
    slowest = np.flatnonzero(slow)
    slowest = slowest[np.argsort(-latency[slowest])][:200]
    return {
        "slow_threshold_ms": threshold_ms,
        "slow": {name: attribute(answered, result, slow & masks[name], usual) for name in WINDOWS},
        "slow_events": [
            {
                "due_s": round(float(answered["intended_ns"][i]) / 1e9, 4),
                "latency_ms": round(float(latency[i]), 3),
                "queued_ms": round(
                    float(answered["start_ns"][i] - answered["intended_ns"][i]) / 1e6, 3
                ),
                "runqueue_ms": round(float(answered["runqueue_ns"][i]) / 1e6, 3),
                "minor_faults": int(answered["minor_faults"][i]),
                "major_faults": int(answered["major_faults"][i]),
            }
            for i in slowest
        ],
    }


def analyse_run(
    requests: Requests,
    result: Mapping[str, Any],
    *,
    measure_from_s: float,
    checksums: Sequence[Any] | None,
    updated_models: int = 1,
    slow_ms: float | None = None,
    interval_s: float | None = None,
) -> dict[str, Any]:
    """Everything that the report shows of one run.

    Args:
        slow_ms: from when on a request counts as slow; None = twice the p99 of the controls
            (of steady without controls).
        updated_models: models of lower index are updated; the others are neighbours.
    """
    measure_from_ns = measure_from_s * 1e9
    answered = requests[requests["status"] == 0]
    latency = latencies_ms(answered)
    masks = windows(answered, result, measure_from_ns)
    found: dict[str, Any] = {}
    for name in WINDOWS:
        values = latency[masks[name]]
        found[name] = {"count": int(values.size), **percentiles(values)}
    if answered.size and int(answered["model"].max()) >= updated_models:
        neighbour = answered["model"] >= updated_models
        for name in ("steady", "update"):
            values = latency[masks[name] & neighbour]
            found[f"neighbour_{name}"] = {"count": int(values.size), **percentiles(values)}

    controls = latency[masks["burn_cpu"] | masks["burn_stream"]]
    found["control"] = {"count": int(controls.size), **percentiles(controls)}
    reference = found["control"]["p99"] or found["steady"]["p99"]
    threshold = slow_ms if slow_ms is not None else 2 * (reference or 0.0)

    rate = answered.size / max(float(answered["intended_ns"].max(initial=1)) / 1e9, 1e-3)
    interval = interval_s or max(0.25, round(60 / max(rate, 1), 2))
    updates = _updates(result, measure_from_ns)
    rss = [s["rss_bytes"] for s in result["samples"]]
    return {
        "windows": found,
        "ratios": run_ratios(found),
        **slow_requests(requests, result, measure_from_s=measure_from_s, threshold_ms=threshold),
        "answers": check_answers(requests, result, checksums),
        "errors": [str(error) for error in result["errors"]][:20],
        "updates": updates,
        "phase_seconds": _phase_seconds(result, measure_from_ns),
        "phases": [
            {k: p[k] for k in ("phase", "begin_ns", "end_ns")} | {"model": p.get("model")}
            for p in result["phases"]
        ],
        "burns": [dict(burn) for burn in result["burns"]],
        "series": series(answered, interval),
        "drift": drift([u for u in updates if not u["settling"]]),
        "rss": {
            "time_s": [_sample_time(s, i) for i, s in enumerate(result["samples"])],
            "bytes": rss,
            "peak": max(rss, default=None),
            "final": rss[-1] if rss else None,
        },
        "rate": rate,
        "pools_active": result["pools_active"],
    }


def _sample_time(sample: Mapping[str, Any], number: int) -> float:
    return float(sample["at_ns"]) / 1e9 if "at_ns" in sample else number * 0.1


# ---- runs together ------------------------------------------------------------------------------


def _ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def run_ratios(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """update/steady and update/control per percentile, within one run.

    The control of a percentile is the worse of the two burners: a loader does what both do.
    """
    out: dict[str, dict[str, float | None]] = {"steady": {}, "control": {}}
    for name in PERCENTILES:
        update = found["update"][name]
        worst = max((found[c][name] for c in CONTROLS if found[c][name] is not None), default=None)
        out["steady"][name] = _ratio(update, found["steady"][name])
        out["control"][name] = _ratio(update, worst)
    return out


def spread(values: Iterable[float | None]) -> dict[str, float | int] | None:
    """Median, minimum and maximum over rounds; None without values."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return {
        "median": statistics.median(known),
        "min": min(known),
        "max": max(known),
        "rounds": len(known),
    }


def _sum_attribution(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if isinstance(value, Mapping):
                total[key] = _sum_attribution([*filter(None, [total.get(key)]), value])
            else:
                total[key] = total.get(key, 0) + value
    return total


def summarise(
    runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """One configuration and scenario over its valid rounds.

    Args:
        runs: `analysis` objects of runs.
        others: of runs that are not valid: their answers and errors count all the same, and
            whether they had pools.
    """
    if not runs:
        return {"rounds": 0}
    names = [name for name in runs[0]["windows"] if all(name in run["windows"] for run in runs)]
    measured = [u for run in runs for u in run["updates"] if not u["settling"]]
    # The first of each run: the later ones of these are already like the measured ones.
    settling = [u for run in runs for u in run["updates"][:1] if u["settling"]]

    def counts(updates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        fields = ("minor_faults", "major_faults", "pool_mappings_delta", "pool_bytes", "seconds")
        out = {f: spread(u.get(f) for u in updates) for f in fields}
        out["rss_peak"] = spread(u.get("rss_peak") for u in updates)
        out["rss_after"] = spread(u.get("rss_after") for u in updates)
        return out

    everything = [*runs, *others]
    answers = _sum_attribution([run["answers"] for run in everything])
    return {
        "rounds": len(runs),
        "windows": {
            name: {
                "count": sum(run["windows"][name]["count"] for run in runs),
                **{p: spread(run["windows"][name][p] for run in runs) for p in PERCENTILES},
            }
            for name in names
        },
        "ratios": {
            kind: {p: spread(run["ratios"][kind][p] for run in runs) for p in PERCENTILES}
            for kind in ("steady", "control")
        },
        "per_update": counts(measured),
        "first_update": counts(settling) if settling else None,
        "updates": len(measured),
        "slow": {name: _sum_attribution([run["slow"][name] for run in runs]) for name in WINDOWS},
        "slow_threshold_ms": spread(run["slow_threshold_ms"] for run in runs),
        "answers": answers,
        "errors": sorted({error for run in everything for error in run["errors"]}),
        "phase_seconds": {
            phase: statistics.median(
                run["phase_seconds"][phase] for run in runs if phase in run["phase_seconds"]
            )
            for phase in PHASES
            if any(phase in run["phase_seconds"] for run in runs)
        },
        "rss_peak": spread(run["rss"]["peak"] for run in runs),
        "rss_final": spread(run["rss"]["final"] for run in runs),
        "drift": max(
            (run["drift"] for run in runs if run["drift"]),
            key=lambda d: float(d["rss_share"]),
            default=None,
        ),
        "pools_active": all(run["pools_active"] for run in everything),
    }


def compare(
    cells: Mapping[str, Mapping[str, Any]], ours: Sequence[str], others: Sequence[str]
) -> dict[str, Any]:
    """Ours / best other, per percentile of the update window and of update/control.

    Args:
        cells: configuration -> `summarise`'s result, of one scenario.
    """

    def best(names: Sequence[str], value: Any) -> tuple[str, float] | None:
        known = [(name, value(cells[name])) for name in names if cells[name]["rounds"]]
        known = [(name, found) for name, found in known if found is not None]
        return min(known, key=lambda item: item[1], default=None)

    out: dict[str, Any] = {}
    for p in PERCENTILES:
        row: dict[str, Any] = {}
        for kind, value in (
            ("update_ms", lambda c, p=p: (c["windows"]["update"][p] or {}).get("median")),
            ("update/steady", lambda c, p=p: (c["ratios"]["steady"][p] or {}).get("median")),
            ("update/control", lambda c, p=p: (c["ratios"]["control"][p] or {}).get("median")),
        ):
            mine, other = best(ours, value), best(others, value)
            if mine and other:
                row[kind] = {
                    "ours": mine[0],
                    "ours_value": mine[1],
                    "best_other": other[0],
                    "best_other_value": other[1],
                    "ours/best_other": _ratio(mine[1], other[1]),
                }
        out[p] = row
    return out
