# SPDX-License-Identifier: Apache-2.0
"""Models to serve: generated shapes, or anyone's SavedModel; and the requests for them.

What takes TensorFlow runs in a child (generate.py). Results are cached, keyed by everything they
depend on, and renamed into place when whole.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tf_model_pool.bench.errors import ModelError

#: Name -> what it resembles.
SHAPES: dict[str, str] = {
    "ctr-large": "few embedding tables of 25-100 MB; 0.6 GB at scale 1, 2.4 GB at scale 4",
    "ctr-mix": "24 large tables and 3,000 small variables; about 1 GB at scale 1",
    "ctr-small": "12 tables of 25 MB and 200 small variables: one model of several in a process",
    "many-small": "10,000 small variables and 80 MB of tables: what the number of variables does",
    "gather": "one table of 2 GiB, 32,768 look-ups all over it per request: what huge pages do",
    "wide": "many features, each with nodes of its own: a large graph, small tables",
    "dense": "wide MLP and a transformer encoder, large request tensors",
    "tf1-ref": "TensorFlow 1 reference variables: restore copies them",
    "frozen": "weights are constants in the graph: nothing is restored",
}

#: Rows per request; a transformer's worth of work per row needs fewer, a look-up alone more.
BATCH = {"dense": 16, "gather": 32768}
DEFAULT_BATCH = 64

RECORDED = Path("assets.extra/tf_serving_warmup_requests")
_GENERATE = Path(__file__).with_name("generate.py")
_GENERATE_EXPECTED_ERROR = 3


@dataclasses.dataclass(frozen=True)
class Shape:
    """A generated model. `scales` has one factor per version (an update to a larger model)."""

    shape: str
    scale: float = 1.0
    seed: int = 1
    scales: tuple[float, ...] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ModelError(f"unknown model {self.shape!r}; known are {', '.join(SHAPES)}")
        if not 0.001 <= self.scale <= 16:
            raise ModelError(f"scale is {self.scale}; allowed are 0.001 to 16")


@dataclasses.dataclass(frozen=True)
class UserModel:
    """A SavedModel of the user's: a directory with saved_model.pb, or one of numbered versions."""

    directory: Path


@dataclasses.dataclass(frozen=True)
class RequestOptions:
    """How requests are made.

    Attributes:
        count: how many different ones; the driver repeats them.
        batch: size of an unknown first dimension; None = the shape's own.
        max_index: exclusive maximum of integer inputs; None = the generated model's, else 2.
        unknown_dimension: size of other unknown dimensions.
        recorded: use assets.extra/tf_serving_warmup_requests of the first version.
    """

    count: int = 64
    seed: int = 1
    signature: str = "serving_default"
    tags: tuple[str, ...] = ("serve",)
    batch: int | None = None
    max_index: int | None = None
    unknown_dimension: int = 16
    recorded: bool = False


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that is ready to serve.

    Attributes:
        checksums: per version and request [sum of outputs, sum of magnitudes], or None if the
            model's answers are random.
        bytes: size of each version's files.
    """

    name: str
    versions: tuple[Path, ...]
    requests: Path
    warmup: Path
    signature: str
    tags: tuple[str, ...]
    checksums: list[list[list[float] | None]]
    bytes: tuple[int, ...]
    details: dict[str, Any]


def directory_bytes(directory: Path) -> int:
    """Bytes of all files under `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def key(parts: object) -> str:
    """A short digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


def _run_child(python: Path, job: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(prefix="tf_model_pool_bench_") as scratch:
        file = Path(scratch, "job.json")
        file.write_text(json.dumps(job, default=str), encoding="utf-8")
        # The pools are not what is measured here, and a generator must not depend on them.
        environment = os.environ | {"TF_MODEL_POOL": "off", "TF_CPP_MIN_LOG_LEVEL": "2"}
        child = subprocess.run(
            [str(python), "-I", str(_GENERATE), str(file)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    if child.returncode == _GENERATE_EXPECTED_ERROR:
        lines = [line for line in child.stderr.splitlines() if line.startswith("bench-error: ")]
        raise ModelError(lines[-1].removeprefix("bench-error: "))
    if child.returncode != 0:
        tail = "\n".join(child.stderr.splitlines()[-15:])
        raise ModelError(f"{job['action']} with {python} failed ({child.returncode}):\n{tail}")


def _cached(cache: Path, name: str, make: Any) -> Path:
    """`cache/name`, made by `make(directory)` under another name if it is not there."""
    final = cache / name
    if final.is_dir():
        return final
    cache.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=cache))
    try:
        make(partial)
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # another run made it meanwhile
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def generate(shape: Shape, python: Path, tensorflow_version: str, cache: Path) -> Path:
    """The directory with the shape's versions 1, 2, ..., made if it is not cached."""
    digest = key([dataclasses.asdict(shape), tensorflow_version, _GENERATE.read_text()])
    job = {"action": "shape", **dataclasses.asdict(shape)}
    return _cached(
        cache,
        f"{shape.shape}-{shape.scale:g}-{digest}",
        lambda directory: _run_child(python, {**job, "output": str(directory)}),
    )


def _link_tree(source: Path, target: Path) -> None:
    """Hard links where they are possible: a second version need not take its bytes on disk."""

    def link(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)

    shutil.copytree(source, target, copy_function=link)


def user_versions(directory: Path, cache: Path) -> list[Path]:
    """The versions to serve: numbered subdirectories, or one SavedModel twice.

    Raises:
        ModelError: nothing there can be served.
    """
    directory = directory.resolve()
    if not directory.is_dir():
        raise ModelError(f"--model {directory} is not a directory")

    def is_model(path: Path) -> bool:
        return any((path / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt"))

    versions = [path for path in directory.iterdir() if path.name.isdigit() and is_model(path)]
    versions.sort(key=lambda path: int(path.name))
    if not versions and not is_model(directory):
        raise ModelError(
            f"--model {directory} holds neither saved_model.pb nor numbered versions with one"
        )
    if len(versions) >= 2:
        return versions
    only = versions[0] if versions else directory
    stamp = [(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(only.rglob("*"))]

    def make(target: Path) -> None:
        for number in ("1", "2"):
            _link_tree(only, target / number)

    root = _cached(cache, f"{only.parent.name}-{key([str(only), stamp])}", make)
    return [root / "1", root / "2"]


def _serving_api() -> str | None:
    """Where this interpreter's tensorflow_serving lies; TensorFlow's may not have it."""
    spec = importlib.util.find_spec("tensorflow_serving")
    places = list(spec.submodule_search_locations or []) if spec else []
    return str(Path(places[0]).parent) if places else None


def prepare(
    name: str,
    what: Shape | UserModel,
    options: RequestOptions,
    *,
    python: Path,
    tensorflow_version: str,
    cache: Path,
) -> Model:
    """Makes (or finds) a model and its requests.

    Args:
        name: what the driver and the report call it.
        python: interpreter of an environment with TensorFlow.

    Raises:
        ModelError: with the reason, in one line if the model or the requests are at fault.
    """
    ranges: dict[str, int] = {}
    if isinstance(what, Shape):
        root = generate(what, python, tensorflow_version, cache)
        versions = [root / str(i) for i in range(1, len(what.scales) + 1)]
        ranges = json.loads((root / "inputs.json").read_text(encoding="utf-8"))["ranges"]
        details: dict[str, Any] = {"kind": "generated", **dataclasses.asdict(what)}
        batch = options.batch or BATCH.get(what.shape, DEFAULT_BATCH)
    else:
        versions = user_versions(what.directory, cache)
        details = {"kind": "user", "directory": str(what.directory.resolve())}
        batch = options.batch or 1
    if options.recorded and not (versions[0] / RECORDED).is_file():
        raise ModelError(f"{versions[0]} has no recorded requests ({RECORDED})")
    job = {
        **dataclasses.asdict(options),
        "action": "requests",
        "versions": [str(path) for path in versions],
        "batch": batch,
        "ranges": ranges,
        "recorded": str(versions[0] / RECORDED) if options.recorded else None,
    }
    parts = ("saved_model.pb", "saved_model.pbtxt", "variables/variables.index", str(RECORDED))
    stamps = [
        (path.stat().st_size, path.stat().st_mtime_ns)
        for version in versions
        for path in (version / part for part in parts)
        if path.is_file()
    ]
    made = _cached(
        cache,
        f"requests-{key([job, stamps, tensorflow_version, _GENERATE.read_text()])}",
        lambda directory: _run_child(
            python, {**job, "serving_api": _serving_api(), "output": str(directory)}
        ),
    )
    answers = json.loads((made / "answers.json").read_text(encoding="utf-8"))
    details |= {k: answers[k] for k in ("signature_inputs", "outputs", "nodes")}
    details |= {"requests": dataclasses.asdict(options) | {"batch": batch}}
    return Model(
        name=name,
        versions=tuple(versions),
        requests=made / "requests.tfrecord",
        warmup=made / "warmup.tfrecord",
        signature=options.signature,
        tags=options.tags,
        checksums=answers["checksums"],
        bytes=tuple(directory_bytes(path) for path in versions),
        details=details,
    )


def warm_page_cache(directories: Sequence[Path]) -> None:
    """Reads every file, so that no load of a run reads from disk."""
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                with path.open("rb", buffering=0) as file:
                    while file.read(1 << 22):
                        pass


def drop_page_cache(directories: Sequence[Path]) -> None:
    """Asks the kernel to forget the files; needs no privileges."""
    for directory in directories:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
