# SPDX-License-Identifier: Apache-2.0
"""`python -m tf_model_pool demo`: two versions of a model at once, and where their memory lies.

Makes a small ranking model in a temporary directory, loads and unloads versions of it as a
server does, and checks after each step what the pools report. It is the shortest proof that
an installation works; the measurements are made by `bench`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib
import os
import resource
import tempfile
import weakref
from pathlib import Path
from typing import Any

from tf_model_pool import api, stats
from tf_model_pool.errors import ModelPoolError, NotActiveError

_PREFIX = "tf_model_pool_demo_"
_MODEL = "ctr"
_USERS = 65536
_ITEMS = 32768
_WIDTH = 32
_REQUEST = 4096


@dataclasses.dataclass(slots=True)
class Checks:
    """Prints a line per check and counts the failed ones."""

    failed: int = 0

    def that(self, what: str, holds: bool, seen: str = "") -> None:
        self.failed += not holds
        print(f"  {'PASS' if holds else 'FAIL'}  {what}" + (f" ({seen})" if seen else ""))


def save_version(directory: Path, version: int) -> None:
    """Saves `<directory>/<version>` as a SavedModel; each version has weights of its own."""
    tf: Any = importlib.import_module("tensorflow")

    def weights(shape: list[int], salt: int) -> Any:
        return tf.random.stateless_normal(shape, seed=[version, salt], stddev=0.1)

    module = tf.Module()
    module.users = tf.Variable(weights([_USERS, _WIDTH], 1), name="users")
    module.items = tf.Variable(weights([_ITEMS, _WIDTH], 2), name="items")
    module.kernel = tf.Variable(weights([_WIDTH, _WIDTH], 3), name="kernel")
    module.bias = tf.Variable(weights([_WIDTH], 4), name="bias")
    module.version = tf.Variable(version, dtype=tf.int64, trainable=False, name="version")

    def score(user: Any, item: Any) -> Any:
        hidden = tf.nn.relu(tf.gather(module.users, user) @ module.kernel + module.bias)
        return tf.sigmoid(tf.reduce_sum(hidden * tf.gather(module.items, item), axis=1))

    ids = tf.TensorSpec([None], tf.int32)
    module.score = tf.function(score, input_signature=[ids, ids])
    tf.saved_model.save(module, str(directory / str(version)))


def variables(model: Any) -> dict[str, Any]:
    """The variables of a loaded model by name."""
    return {name: getattr(model, name) for name in ("users", "items", "kernel", "bias", "version")}


def unload(holder: list[Any]) -> bool:
    """Drops the only reference to a model; True where its variables are gone after it."""
    watched = [weakref.ref(variable) for variable in variables(holder[0]).values()]
    holder.clear()
    gc.collect()  # function graphs and models may refer to each other
    return all(reference() is None for reference in watched)


def run_demo(directory: Path) -> int:
    """Runs all steps below `directory` and prints them. Returns the number of failed checks."""
    tf: Any = importlib.import_module("tensorflow")
    base = directory / _MODEL
    checks = Checks()

    print(f"Saving versions 1, 2 and 3 of the model {_MODEL} in {base}")
    for number in (1, 2, 3):
        try:
            save_version(base, number)
        except (OSError, tf.errors.OpError) as error:
            raise ModelPoolError(f"cannot save {base / str(number)}: {error}") from error
    weights = 4 * (_USERS * _WIDTH + _ITEMS * _WIDTH + _WIDTH * _WIDTH + _WIDTH) + 8
    print(f"  {stats.format_bytes(weights)} of weights each")

    print("\nLoading versions 1 and 2 at once")
    one = [tf.saved_model.load(str(base / "1"))]
    new_pool_faults = _minor_faults()
    two = [tf.saved_model.load(str(base / "2"))]
    new_pool_faults = _minor_faults() - new_pool_faults
    print(f"  {'VERSION':<8} {'VARIABLE':<9} {'BYTES':>10}  {'ADDRESS':<16} POOL")
    for version, model in (("1", one), ("2", two)):
        elsewhere = _show_variables(version, model[0])
        checks.that(
            f"every variable of version {version} lies in pool {_MODEL}/{version}, in no other",
            not elsewhere,
            ", ".join(elsewhere),
        )
    _show_pools()
    before = {pool.name: pool for pool in _own_pools(base)}
    first, second = before.get(f"{_MODEL}/1"), before.get(f"{_MODEL}/2")
    checks.that(
        "each version has a live pool in a slot of its own",
        len(before) == 2
        and first is not None
        and second is not None
        and first.slot != second.slot
        and first.state == second.state == "live",
        ", ".join(f"{pool.name}: {pool.slot}, {pool.state}" for pool in before.values()),
    )
    if first is None or second is None:
        print("\nThe other steps need both pools.")
        return checks.failed

    print("\nA request to each version")
    request = {
        "user": tf.random.stateless_uniform([_REQUEST], [0, 1], maxval=_USERS, dtype=tf.int32),
        "item": tf.random.stateless_uniform([_REQUEST], [0, 2], maxval=_ITEMS, dtype=tf.int32),
    }
    answers = [model.score(**request) for model in (one[0], two[0])]
    for name, tensor in (
        *request.items(),
        ("output of 1", answers[0]),
        ("output of 2", answers[1]),
    ):
        pool = api.pool_of(tensor)
        checks.that(f"{name} lies in no pool", pool is None, pool or "")
    kept = answers[1].numpy()

    retain = api.settings()["TF_MODEL_POOL_RETAIN"]
    keeps = retain not in ("release", "0")
    print("\nUnloading version 1")
    checks.that("its variables are gone", unload(one))
    after = _pool(base, first.slot)
    checks.that(
        f"pool {first.slot} is empty and on standby{', with its memory' if keeps else ''}",
        after is not None
        and after.bytes_in_use == 0
        and after.state == "standby"
        and (after.bytes_reserved == first.bytes_reserved or not keeps),
        "no such pool"
        if after is None
        else f"{stats.format_bytes(after.bytes_in_use)} in use, "
        f"{stats.format_bytes(after.bytes_reserved)} reserved, {after.state}",
    )
    other = _pool(base, second.slot)
    checks.that(
        f"pool {second.slot} is untouched",
        other is not None
        and (other.bytes_in_use, other.num_tensors) == (second.bytes_in_use, second.num_tensors),
    )

    print("\nLoading version 3 while version 2 serves")
    mappings, faults = api.totals().num_mappings, _minor_faults()
    three = [tf.saved_model.load(str(base / "3"))]
    faults = _minor_faults() - faults
    third = _pool(base, first.slot)
    checks.that(
        f"version 3 took slot {first.slot}",
        third is not None and third.name == f"{_MODEL}/3" and third.state == "live",
        "no such pool" if third is None else f"{third.name}, {third.state}",
    )
    pools_seen = {api.pool_of(variable) for variable in variables(three[0]).values()}
    checks.that(
        f"every variable of version 3 lies in pool {_MODEL}/3", pools_seen == {f"{_MODEL}/3"}
    )
    if keeps:
        checks.that(
            "no new mapping was made for it",
            api.totals().num_mappings == mappings,
            f"{mappings} before, {api.totals().num_mappings} after",
        )
    else:
        print(f"  TF_MODEL_POOL_RETAIN={retain} gave the memory back, so it was mapped anew.")
    pages = weights // resource.getpagesize()
    print(
        f"  The load took {faults} minor page faults for {pages} pages of weights; the load of "
        f"version 2, into a new pool, took {new_pool_faults}."
    )
    checks.that(
        "version 2 gives the same answer as before",
        bool((two[0].score(**request).numpy() == kept).all()),
    )
    _show_pools()
    return checks.failed


def _show_variables(version: str, model: Any) -> list[str]:
    """Prints where each variable lies; returns those that lie outside the version's pool."""
    elsewhere = []
    for name, variable in variables(model).items():
        pool = api.pool_of(variable)
        address = api.address_of(variable)
        print(
            f"  {version:<8} {name:<9} {stats.format_bytes(_bytes(variable)):>10}  "
            f"{'?' if address is None else hex(address):<16} {pool or '(none)'}"
        )
        if pool != f"{_MODEL}/{version}":
            elsewhere.append(f"{name} in {pool or 'no pool'}")
    return elsewhere


def _own_pools(base: Path) -> list[api.PoolStats]:
    return [pool for pool in api.pools() if Path(pool.model_dir) == base]


def _pool(base: Path, slot: str) -> api.PoolStats | None:
    return next((pool for pool in _own_pools(base) if pool.slot == slot), None)


def _bytes(variable: Any) -> int:
    return int(variable.shape.num_elements() * variable.dtype.size)


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _show_pools() -> None:
    for line in stats.render(stats.collect()).splitlines():
        print(f"  {line}".rstrip())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `demo`."""
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="keep the SavedModels below DIR (default: a temporary directory, removed at the end)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the demonstration. Returns 0 where every check passed, else 1.

    Raises:
        NotActiveError: pools are not active, for the reason in the text.
        ModelPoolError: the SavedModels cannot be written.
    """
    if args.directory is not None:
        _prepare_directory(args.directory)
    # TensorFlow's informational lines hide the output; its warnings and errors stay.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    reason = api.inactive_reason()
    if reason is not None:
        raise NotActiveError(api.PREFIX + reason)
    if args.directory is not None:
        failed = run_demo(args.directory.resolve())
    else:
        with contextlib.ExitStack() as stack:
            try:
                temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix=_PREFIX))
            except OSError as error:
                raise ModelPoolError(
                    f"no temporary directory: {error.strerror}; name one with --directory"
                ) from error
            failed = run_demo(Path(temporary).resolve())
    print("\nFAIL: see the lines above." if failed else "\nPASS: each version has its own memory.")
    return 1 if failed else 0


def _prepare_directory(directory: Path) -> None:
    """Makes it where it is missing, and sees that files can be made in it."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{_PREFIX}", dir=directory):
            pass
    except FileExistsError as error:
        raise ModelPoolError(f"--directory {directory}: it is no directory") from error
    except OSError as error:
        raise ModelPoolError(f"--directory {directory}: {error.strerror}") from error
