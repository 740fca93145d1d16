# SPDX-License-Identifier: Apache-2.0
"""What is compared: configurations of the server, and scenarios of updates under load."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import BenchError, MissingLibraryError
from tf_model_pool.bench.models import Model
from tf_model_pool.bench.records import DRIVER_CONFIG_SCHEMA, REQUEST

WHEELS = ("stock", "patched")
#: How a Python server loads and runs models, and where its requests come from; see
#: python_server. Without the first, the server is the native driver.
PYTHON_WAYS = ("eager", "load", "hot")
PYTHON_CLIENTS = ("socket", "inside")

#: TensorFlow's allocator for requests -> the variables that choose it (read once per process).
ALLOCATORS: Mapping[str, Mapping[str, str]] = {
    "onednn": {},
    "system": {"TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"},
    "cpu_bfc": {"TF_CPU_ALLOCATOR_USE_BFC": "1"},
}

#: The settings that the article's follow-up discussions and jemalloc's TUNING.md arrive at.
JEMALLOC_TUNED = (
    "background_thread:true,oversize_threshold:0,dirty_decay_ms:20000,muzzy_decay_ms:20000"
)


@dataclasses.dataclass(frozen=True)
class Malloc:
    """A malloc to preload: where Debian puts it, and its package."""

    library: str
    package: str
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)


MALLOCS: Mapping[str, Malloc | None] = {
    "glibc": None,
    "jemalloc": Malloc("libjemalloc.so.2", "libjemalloc2"),
    "jemalloc-tuned": Malloc("libjemalloc.so.2", "libjemalloc2", {"MALLOC_CONF": JEMALLOC_TUNED}),
    "tcmalloc": Malloc("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
    "mimalloc": Malloc("libmimalloc.so.2", "libmimalloc2.0"),
}

_LIBRARY_DIRECTORIES = (
    "/usr/lib/{machine}-linux-gnu",
    "/usr/local/lib",
    "/usr/lib64",
    "/usr/lib",
)


@dataclasses.dataclass(frozen=True)
class Server:
    """TensorFlow Serving's levers, with its names and meaning.

    `load_threadpool` > 0 gives loads (restore, init, warm-up) an inter-op pool of that many
    threads: `session_inter_op_thread_pool` = {default, load} and
    `session_run_load_threadpool_index` = 1.
    """

    num_load_threads: int = 0
    num_unload_threads: int = 0
    load_threadpool: int = 0
    intra_op_parallelism_threads: int = 0
    inter_op_parallelism_threads: int = 0
    aspired_version_policy: str = "availability_preserving"
    num_request_iterations_for_warmup: int = 1
    run_in_caller_thread: bool = False

    def driver(self) -> dict[str, Any]:
        """The driver's `server` object."""
        fields = dataclasses.asdict(self)
        threads = fields.pop("load_threadpool")
        pools = [
            {"num_threads": 0, "global_name": ""},
            {"num_threads": threads, "global_name": "tf_model_pool_load"},
        ]
        return {
            **fields,
            "session_inter_op_thread_pool": pools if threads else [],
            "session_run_load_threadpool_index": 1 if threads else None,
        }


@dataclasses.dataclass(frozen=True)
class Configuration:
    """One way to run the server.

    Attributes:
        malloc: a name of `MALLOCS` or a path to a library.
        python: of `PYTHON_WAYS`: the server is a Python process; "" = the native driver.
        client: of `PYTHON_CLIENTS`.
    """

    name: str
    wheel: str = "stock"
    malloc: str = "glibc"
    allocator: str = "onednn"
    warmup: bool = True
    server: Server = Server()
    python: str = ""
    client: str = "socket"
    environment: tuple[tuple[str, str], ...] = ()

    def describe(self) -> dict[str, Any]:
        """For the result file."""
        return {**dataclasses.asdict(self), "environment": dict(self.environment)}

    def child_environment(self, tensorflow: Path) -> dict[str, str]:
        """The driver's whole environment. The caller's TF_* and malloc settings do not reach it.

        Args:
            tensorflow: the wheel's `tensorflow` directory, whose libraries are to be used.
        """
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("TF_", "MALLOC_", "MIMALLOC_", "TCMALLOC_", "LD_", "OMP_"))
        }
        environment["TF_CPP_MIN_LOG_LEVEL"] = "1"
        environment["LD_LIBRARY_PATH"] = str(tensorflow)
        environment.update(ALLOCATORS[self.allocator])
        library, extra = find_malloc(self.malloc)
        if library is not None:
            environment["LD_PRELOAD"] = str(library)
        environment.update(extra)
        environment.update(self.environment)
        return environment


def find_malloc(
    name: str, directories: Sequence[str] = _LIBRARY_DIRECTORIES
) -> tuple[Path | None, dict[str, str]]:
    """The library to preload (None = glibc's) and its settings.

    Raises:
        MissingLibraryError: it is not installed; the text has the command that installs it.
        BenchError: no such name.
    """
    if "/" in name:
        path = Path(name)
        if not path.is_file():
            raise MissingLibraryError(f"malloc={name}: there is no such file")
        return path.resolve(), {}
    if name not in MALLOCS:
        raise BenchError(f"malloc={name}; allowed: {', '.join(MALLOCS)}, or a path with a slash")
    malloc = MALLOCS[name]
    if malloc is None:
        return None, {}
    places = [d.format(machine=os.uname().machine) for d in directories]
    for place in places:
        path = Path(place, malloc.library)
        if path.is_file():
            return path, dict(malloc.environment)
    raise MissingLibraryError(
        f"malloc={name}: {malloc.library} is in none of {', '.join(places)}; "
        f"install it: apt-get install {malloc.package} (or give its path: malloc=/path/lib.so)"
    )


_SERVER_FIELDS = {field.name: field for field in dataclasses.fields(Server)}
_CHOICES: Mapping[str, Sequence[str]] = {
    "allocator": tuple(ALLOCATORS),
    "python": PYTHON_WAYS,
    "client": PYTHON_CLIENTS,
}
_KEYS = ("malloc", *_CHOICES, "warmup", "name", *_SERVER_FIELDS)


def _switch(key: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise BenchError(f"{key}={value}; allowed: on, off")
    return value == "on"


def parse_configuration(text: str) -> Configuration:
    """A preset's name, or `WHEEL[:key=value,...]`, e.g. `stock:malloc=jemalloc,allocator=system`.

    Keys are malloc, allocator, warmup=on|off, name, the fields of `Server`, and env.NAME.
    Raises `BenchError` that names the key, its value and what is allowed.
    """
    if text in PRESETS:
        return PRESETS[text]
    wheel, _, rest = text.partition(":")
    if wheel not in WHEELS:
        raise BenchError(
            f"configuration {text!r}: neither a preset ({', '.join(PRESETS)}) nor "
            f"{' or '.join(WHEELS)} with :key=value,..."
        )
    values: dict[str, Any] = {"name": text, "wheel": wheel}
    server: dict[str, Any] = {}
    environment: dict[str, str] = {}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if not separator:
            raise BenchError(f"configuration {text!r}: {item!r} is not key=value")
        if key.startswith("env."):
            environment[key.removeprefix("env.")] = value
        elif key == "warmup":
            values[key] = _switch(key, value)
        elif key in ("malloc", "name"):
            values[key] = value
        elif key in _CHOICES:
            if value not in _CHOICES[key]:
                raise BenchError(f"{key}={value}; allowed: {', '.join(_CHOICES[key])}")
            values[key] = value
        elif key == "run_in_caller_thread":
            server[key] = _switch(key, value)
        elif key == "aspired_version_policy":
            allowed = ("availability_preserving", "resource_preserving")
            if value not in allowed:
                raise BenchError(f"{key}={value}; allowed: {', '.join(allowed)}")
            server[key] = value
        elif key in _SERVER_FIELDS:
            if not value.isdigit():
                raise BenchError(f"{key}={value}; allowed: a whole number, 0 or more")
            server[key] = int(value)
        else:
            raise BenchError(
                f"configuration {text!r}: unknown key {key!r}; allowed: "
                f"{', '.join(_KEYS)}, env.NAME"
            )
    if "python" in values and server:
        raise BenchError(
            f"configuration {text!r}: {', '.join(server)} is the native driver's, and the server "
            "of python= has no such lever"
        )
    if "client" in values and "python" not in values:
        raise BenchError(f"configuration {text!r}: client= goes with python=")
    if values.get("python") in ("load", "hot") and wheel == "stock":
        raise BenchError(
            f"configuration {text!r}: python={values['python']} needs the package of the patched "
            "wheel; for its server without pools: patched:python=load,env.TF_MODEL_POOL=off"
        )
    return Configuration(
        **values, server=Server(**server), environment=tuple(sorted(environment.items()))
    )


_THREADS = Server(num_load_threads=1, num_unload_threads=1)
_LOAD_POOL = dataclasses.replace(_THREADS, load_threadpool=2)


def _presets() -> dict[str, Configuration]:
    found = [
        # The story, in the order in which the article tells it.
        Configuration("stock-cold", warmup=False),
        Configuration("stock"),
        Configuration("stock-threads", server=_THREADS),
        Configuration("stock-load-pool", server=_LOAD_POOL),
        Configuration(
            "stock-one-restore-thread",
            server=dataclasses.replace(_LOAD_POOL, intra_op_parallelism_threads=1),
        ),
        # Requests off the threads that a load's ops run on: tells what sharing those costs.
        Configuration(
            "stock-caller-thread",
            server=dataclasses.replace(_THREADS, run_in_caller_thread=True),
        ),
        Configuration("stock-system", allocator="system"),
        Configuration("stock-cpu-bfc", allocator="cpu_bfc"),
        *(
            Configuration(f"stock-{malloc}", malloc=malloc, allocator="system")
            for malloc in MALLOCS
            if malloc != "glibc"
        ),
        Configuration("patched", "patched"),
        Configuration("patched-threads", "patched", server=_THREADS),
        Configuration("patched-system", "patched", allocator="system"),
        Configuration("patched-cpu-bfc", "patched", allocator="cpu_bfc"),
        *(
            Configuration(f"patched-{malloc}", "patched", malloc=malloc, allocator="system")
            for malloc in ("jemalloc", "jemalloc-tuned")
        ),
        # What the edited wheel costs by itself.
        Configuration("patched-off", "patched", environment=(("TF_MODEL_POOL", "off"),)),
        # Servers in Python.
        Configuration("python-eager", python="eager"),
        Configuration("python-eager-patched", "patched", python="eager"),
        Configuration("python-load", "patched", python="load"),
        Configuration("python-hot", "patched", python="hot"),
        Configuration(
            "python-load-off", "patched", python="load", environment=(("TF_MODEL_POOL", "off"),)
        ),
    ]
    return {configuration.name: configuration for configuration in found}


PRESETS: Mapping[str, Configuration] = _presets()

STORY = (
    "stock-cold",
    "stock",
    "stock-threads",
    "stock-load-pool",
    "stock-one-restore-thread",
    "stock-caller-thread",
    "stock-system",
    "stock-jemalloc",
    "stock-jemalloc-tuned",
    "stock-tcmalloc",
    "stock-mimalloc",
    "patched",
    "patched-system",
)
QUICK = ("stock", "patched")
#: Where two versions are updated at once: who the article compares.
STORY_AT_ONCE = ("stock", "stock-system", "stock-jemalloc", "stock-jemalloc-tuned", "patched")
FULL = (*STORY, "stock-cpu-bfc", "patched-cpu-bfc", "patched-jemalloc-tuned", "patched-off")


# ---- scenarios ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Updates under load.

    Attributes:
        models: how many models are served; they share the request rate.
        updated: how many of them are updated, at the same moment.
        cycles: measured updates in a run, each with its two controls; None = as asked for.
        scales: size of each version relative to the first.
        controls: burners beside each update; otherwise once per run.
    """

    name: str
    purpose: str
    models: int = 1
    updated: int = 1
    cycles: int | None = None
    scales: tuple[float, ...] = (1.0, 1.0)
    controls: bool = True


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("one", "one update of a server that has just started", cycles=1),
        Scenario("repeated", "the same model again and again"),
        Scenario("two-at-once", "two models take a new version at the same moment", 2, 2),
        Scenario("neighbour", "two models, one of them updated", 2, 1),
        Scenario("larger", "the next version is half as large again", scales=(1.0, 1.5)),
        Scenario("drift", "200 updates", cycles=200, controls=False),
    )
}


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds that a run is made of.

    Attributes:
        update: how long an update takes (calibrated); controls last as long.
        gap: quiet time after each update or control, which counts as steady.
        lead: from the start to where measuring begins; the settling updates are in it.
        cycles: updates with their controls.
        settle: updates before measuring begins.
        period: from one update to the next, at least; None = as the rest gives.
    """

    update: float
    gap: float = 1.5
    lead: float = 2.0
    cycles: int = 3
    settle: int = 2
    period: float | None = None

    @property
    def slot(self) -> float:
        """An update or control and the gap after it. An update may take longer elsewhere."""
        return max(1.8 * self.update, self.update + 0.5) + self.gap


@dataclasses.dataclass(frozen=True)
class Timeline:
    """The driver's `timeline`, and what the analysis needs to read the result."""

    entries: list[dict[str, Any]]
    measure_from_s: float
    duration_s: float


def make_timeline(
    scenario: Scenario, names: Sequence[str], timing: Timing, stream_bytes: int, order: int
) -> Timeline:
    """Updates and controls of one run.

    Args:
        names: of the models; the first `scenario.updated` are updated.
        stream_bytes: what one update reads; the streaming burner moves as many.
        order: rotates update, CPU burner and streaming burner, so that none always comes first.
    """
    updated = list(names[: scenario.updated])
    cycles = scenario.cycles or timing.cycles
    entries: list[dict[str, Any]] = []
    at = timing.lead
    for _ in range(timing.settle):
        entries.append({"at_s": at, "action": "update", "models": updated})
        at += timing.slot
    measure_from = at
    at += timing.gap
    update: dict[str, Any] = {"action": "update", "models": updated}
    cpu: dict[str, Any] = {"action": "burn_cpu", "duration_s": timing.update}
    stream = {"action": "burn_stream", "duration_s": timing.update, "bytes": max(1, stream_bytes)}
    actions: list[dict[str, Any]]
    for cycle in range(cycles):
        if scenario.controls or cycle == 0:
            actions = [update, cpu, stream]
            turn = (order + cycle) % 3
            actions = actions[turn:] + actions[:turn]
        else:
            actions = [update]
        begun = at
        for action in actions:
            entries.append({"at_s": at, **action})
            at += timing.slot
        if timing.period is not None:
            at = max(at, begun + timing.period)
    for entry in entries:
        entry["at_s"] = round(entry["at_s"], 3)
    return Timeline(entries, measure_from, round(at + 0.5, 3))


def driver_config(
    configuration: Configuration,
    models: Sequence[Model],
    timeline: Timeline,
    *,
    rate: float,
    seed: int,
    request_threads: int,
    cpus: tuple[list[int] | None, list[int] | None],
    lead_s: float,
    arrival: str = "poisson",
    slow_ms: float | None = None,
    burner: Path | None = None,
) -> dict[str, Any]:
    """The driver's configuration file.

    Args:
        rate: requests per second, of all models together.
        cpus: (generator, server); None = not pinned.
        burner: the native driver, for the Python one.
    """
    python = {
        "way": configuration.python,
        "client": configuration.client,
        "burner": str(burner),
        "record": REQUEST.descr,
    }
    return {
        "schema": DRIVER_CONFIG_SCHEMA,
        "duration_s": timeline.duration_s,
        "seed": seed,
        "models": [
            {
                "name": model.name,
                "versions": [str(path) for path in model.versions],
                "tags": list(model.tags),
                "signature": model.signature,
                "requests": str(model.requests),
                "warmup": str(model.warmup) if configuration.warmup else None,
                "rate": rate / len(models),
            }
            for model in models
        ],
        "load": {
            "arrival": arrival,
            "request_threads": request_threads,
            "generator_cpus": cpus[0],
            "server_cpus": cpus[1],
            "ignore_first_s": lead_s,
        },
        **(
            {"python": python}
            if configuration.python
            else {"server": configuration.server.driver()}
        ),
        "timeline": timeline.entries,
        "slow_ms": slow_ms,
    }
