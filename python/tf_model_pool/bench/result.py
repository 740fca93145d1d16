# SPDX-License-Identifier: Apache-2.0
"""A result file of the benchmark, parsed once into records that its readers share.

`run` writes the file and `analysis` makes its numbers; the page, the pictures, the tables and the
gate read them here. Times are milliseconds if a name does not say otherwise, memory is bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tf_model_pool.bench.analysis import PERCENTILES, supported
from tf_model_pool.bench.errors import ResultError
from tf_model_pool.bench.records import check_schema, read_json

RESULT_SCHEMA = "tf_model_pool.bench/1"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Spread:
    """A number over the rounds that have it."""

    median: float
    lowest: float
    highest: float
    rounds: int

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Spread:
        return cls(float(value["median"]), value["min"], value["max"], int(value["rounds"]))


#: Name of a percentile -> its value; None if no round has one.
Percentiles = Mapping[str, Spread | None]


def median(value: Spread | None) -> float | None:
    """The median; None for None."""
    return None if value is None else value.median


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """Latency in a part of the runs, such as their updates."""

    count: int
    percentiles: Percentiles


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """Slow requests, and where the time went that they took above the steady median."""

    requests: int
    excess_ms: float
    queued_ms: float
    runqueue_ms: float
    other_ms: float
    minor_faults: int
    major_faults: int


@dataclasses.dataclass(frozen=True, slots=True)
class Counts:
    """What an update costs, counted."""

    seconds: Spread | None
    minor_faults: Spread | None
    major_faults: Spread | None
    pool_mappings_delta: Spread | None
    pool_bytes: Spread | None
    rss_peak: Spread | None
    rss_after: Spread | None


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """How many requests were sent, and how many of them not answered rightly."""

    requests: int
    failed: int
    dropped: int
    wrong: int
    unchecked: int


@dataclasses.dataclass(frozen=True, slots=True)
class Drift:
    """How memory and faults move from the first to the last half of a run's updates."""

    updates: int
    rss_first_half: float
    rss_last_half: float
    rss_share: float
    faults_first_half: float
    faults_last_half: float


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """Percentiles by time."""

    time_s: Sequence[float]
    count: Sequence[int]
    lines: Mapping[str, Sequence[float]]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Series:
        return cls(value["time_s"], value["count"], {name: value[name] for name in PERCENTILES})


@dataclasses.dataclass(frozen=True, slots=True)
class Shaded:
    """A phase of an update, or a control, in seconds since the run began."""

    kind: str
    begin_s: float
    end_s: float

    @classmethod
    def parse(cls, kind: str, value: Mapping[str, Any]) -> Shaded:
        return cls(kind, value["begin_ns"] / 1e9, value["end_ns"] / 1e9)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One valid run: a configuration in one round."""

    update_p99: float
    update_seconds: Sequence[float]
    updates: Sequence[Shaded]
    phases: Sequence[Shaded]
    controls: Sequence[Shaded]
    series: Series
    rss_time_s: Sequence[float]
    rss: Sequence[int]
    foreign_share: float

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Run:
        found = value["analysis"]
        return cls(
            update_p99=float(found["windows"]["update"]["p99"] or 0),
            update_seconds=[u["seconds"] for u in found["updates"] if not u["settling"]],
            updates=[Shaded.parse("restore", u) for u in found["updates"]],
            phases=[Shaded.parse(p["phase"], p) for p in found["phases"]],
            controls=[Shaded.parse(b["kind"], b) for b in found["burns"]],
            series=Series.parse(found["series"]),
            rss_time_s=found["rss"]["time_s"],
            rss=found["rss"]["bytes"],
            foreign_share=float(value["disturbance"]["foreign_share"]),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Refused:
    """A run that does not count, and why.

    Attributes:
        failed: the server, an update or an answer did, so that no quiet machine excuses it.
    """

    cell: str
    round: int
    failed: bool
    reasons: Sequence[str]

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Refused:
        # Results of 0.1.0 do not say it; of a server that ended there is nothing to analyse.
        failed = value.get("failed", value["analysis"] is None)
        return cls(value["cell"], value["round"], failed, value["reasons"])


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The valid rounds of a cell together.

    Attributes:
        answers: also of runs that are not valid, as `errors` and `pools_active`.
        windows: "steady", "update", "control" (both burners), each burner, and a neighbour's.
        ratios: "steady" and "control": the update's percentile as a multiple of theirs.
        lost: of slow requests during updates; `lost_by_phase` the same by phase.
        updates: how many were measured.
        around: latency by time since the update began; None if the raw records are gone.
    """

    rounds: int
    windows: Mapping[str, Window]
    ratios: Mapping[str, Percentiles]
    updates: int
    per_update: Counts
    first_update: Counts | None
    lost: Lost
    lost_by_phase: Mapping[str, Lost]
    slow_threshold_ms: Spread | None
    answers: Answers
    errors: Sequence[str]
    rss_peak: Spread | None
    drift: Drift | None
    pools_active: bool
    around: Series | None

    def requests_per_round(self, window: str) -> int:
        """How many requests a window has in a round, on average."""
        return self.windows[window].count // max(self.rounds, 1)

    def supports(self, window: str, name: str) -> bool:
        """Whether a round's window has enough requests to tell a percentile from its maximum."""
        return supported(name, self.requests_per_round(window))

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Summary:
        slow = value["slow"]["update"]
        return cls(
            rounds=value["rounds"],
            windows={
                name: Window(found["count"], _percentiles(found))
                for name, found in value["windows"].items()
            },
            ratios={kind: _percentiles(found) for kind, found in value["ratios"].items()},
            updates=value["updates"],
            per_update=_counts(value["per_update"]),
            first_update=_optional(_counts, value["first_update"]),
            lost=_fields(Lost, slow),
            lost_by_phase={name: _fields(Lost, part) for name, part in slow["by_phase"].items()},
            slow_threshold_ms=_optional(Spread.parse, value["slow_threshold_ms"]),
            answers=_fields(Answers, value["answers"]),
            errors=value["errors"],
            rss_peak=_optional(Spread.parse, value["rss_peak"]),
            drift=_optional(lambda found: _fields(Drift, found), value["drift"]),
            pools_active=bool(value["pools_active"]),
            around=_optional(Series.parse, value.get("around")),
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Configuration:
    """What a server ran as."""

    name: str
    wheel: str
    allocator: str
    malloc: str
    malloc_library: str | None
    warmup: bool
    server: Mapping[str, Any]
    python: str
    client: str
    environment: Mapping[str, str]
    effective_environment: Mapping[str, str]

    @property
    def patched(self) -> bool:
        """Whether the wheel is ours; `pooled` also asks for its pools."""
        return self.wheel == "patched"

    @property
    def pooled(self) -> bool:
        """Whether it has pools."""
        return self.patched and self.environment.get("TF_MODEL_POOL") != "off"


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """A configuration with a model and a scenario, over all rounds.

    Attributes:
        key: `model/scenario/configuration`; unique in a result.
        summary: None if no run of it was valid.
        calls: mapping system calls per update by name; None if they were not counted.
    """

    key: str
    scenario: str
    configuration: Configuration
    summary: Summary | None
    runs: Sequence[Run]
    calls: Mapping[str, float] | None

    @property
    def name(self) -> str:
        """The configuration's."""
        return self.configuration.name

    @property
    def typical_run(self) -> Run | None:
        """The valid run whose update p99 is the median of its rounds; None without one."""
        runs = sorted(self.runs, key=lambda run: run.update_p99)
        return runs[(len(runs) - 1) // 2] if runs else None


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The best cell with pools, and the best without."""

    ours: str
    ours_value: float
    other: str
    other_value: float

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Comparison:
        return cls(
            value["ours"], value["ours_value"], value["best_other"], value["best_other_value"]
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """The cells that were measured with the same requests: one model and scenario.

    Attributes:
        key: `model/scenario`.
        models: facts about the models that were served; empty if no run began.
        rate: requests per second; None before it was found.
        compared: percentile -> "update_ms" and "update/control" -> ours beside the others.
    """

    key: str
    cells: Sequence[Cell]
    models: Sequence[Mapping[str, Any]]
    rate: float | None
    compared: Mapping[str, Mapping[str, Comparison]]

    @property
    def alive(self) -> list[tuple[Cell, Summary]]:
        """The cells that have a valid run, with its summary."""
        return [(cell, cell.summary) for cell in self.cells if cell.summary is not None]


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """A result file.

    Attributes:
        machine, wheels, settings, calibration: as in the file; they are printed as they are.
    """

    created: str
    finished: bool
    machine: Mapping[str, Any]
    wheels: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any]
    calibration: Mapping[str, Mapping[str, Any]]
    configurations: Mapping[str, Configuration]
    groups: Sequence[Group]
    refused: Sequence[Refused]
    run_count: int

    @property
    def cells(self) -> dict[str, Cell]:
        """All cells by key."""
        return {cell.key: cell for group in self.groups for cell in group.cells}

    @classmethod
    def parse(cls, value: Mapping[str, Any], source: object = "the result") -> Result:
        """From the object that `run.Orchestrator` writes.

        Raises:
            ResultError: a field is missing or not of its kind; the text begins with `source`.
        """
        try:
            return cls._parse(value)
        except KeyError as error:
            raise ResultError(f"{source}: field {error.args[0]!r} is missing") from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ResultError(f"{source}: a field is not of its kind: {error}") from error

    @classmethod
    def _parse(cls, value: Mapping[str, Any]) -> Result:
        configurations = {
            # Results of 0.1.0 have no servers in Python, and do not say so.
            name: _fields(Configuration, {"name": name, "python": "", "client": "", **found})
            for name, found in value["configurations"].items()
        }
        valid: dict[str, list[Run]] = {}
        for run in value["runs"]:
            if run["valid"]:
                valid.setdefault(run["cell"], []).append(Run.parse(run))

        cells: dict[str, list[Cell]] = {}
        for key, summary in value["summary"].get("cells", {}).items():
            group, _, name = key.rpartition("/")
            cell = Cell(
                key=key,
                scenario=group.rpartition("/")[2],
                configuration=configurations[name],
                summary=Summary.parse(summary) if summary["rounds"] else None,
                runs=valid.get(key, []),
                calls=value.get("calls", {}).get(key),
            )
            cells.setdefault(group, []).append(cell)

        calibration = value["calibration"]
        compared = value["summary"].get("compared", {})
        return cls(
            created=str(value["created"]),
            finished=bool(value["finished"]),
            machine=value["machine"],
            wheels=value["wheels"],
            settings=value["settings"],
            calibration=calibration,
            configurations=configurations,
            groups=[
                Group(
                    key=key,
                    cells=found,
                    models=value["models"].get(key, []),
                    rate=calibration.get(key, {}).get("rate"),
                    compared={
                        percentile: {kind: Comparison.parse(each) for kind, each in row.items()}
                        for percentile, row in compared.get(key, {}).items()
                    },
                )
                for key, found in cells.items()
            ],
            refused=[Refused.parse(run) for run in value["runs"] if not run["valid"]],
            run_count=len(value["runs"]),
        )


def read_value(path: Path) -> dict[str, Any]:
    """What a result file holds, or that of a directory; only its schema is checked.

    Raises:
        ResultError: the file cannot be read, is of another schema, or no run had ended.
    """
    file = path / "result.json" if path.is_dir() else path
    value = read_json(file, "result")
    check_schema(value, RESULT_SCHEMA, file)
    if "runs" in value and "summary" not in value:
        raise ResultError(f"{file}: no run had ended when it was written")
    return value


def read(path: Path) -> Result:
    """Reads a result file, or that of a directory. Raises `ResultError`."""
    return Result.parse(read_value(path), path)


def _optional(parse: Callable[[Any], T], value: Any) -> T | None:
    return None if value is None else parse(value)


def _fields(record: type[T], value: Mapping[str, Any]) -> T:
    """A record whose fields are called as those of the file are."""
    names = [field.name for field in dataclasses.fields(record)]  # type: ignore[arg-type]
    return record(**{name: value[name] for name in names})


def _percentiles(value: Mapping[str, Any]) -> Percentiles:
    return {name: _optional(Spread.parse, value[name]) for name in PERCENTILES}


def _counts(value: Mapping[str, Any]) -> Counts:
    return Counts(
        **{f.name: _optional(Spread.parse, value[f.name]) for f in dataclasses.fields(Counts)}
    )
