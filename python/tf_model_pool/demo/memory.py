# SPDX-License-Identifier: Apache-2.0
"""First part of the demonstration: two versions at once, a third in the place of the first."""

from __future__ import annotations

import gc
import importlib
import resource
import weakref
from pathlib import Path
from typing import Any

from tf_model_pool import api, stats
from tf_model_pool.demo import model
from tf_model_pool.demo.checks import Checks

MODEL = "ctr"
VERSIONS = (1, 2, 3)
SIZE = model.Size(users=65536, items=32768)
_REQUEST = 4096


def run(directory: Path, checks: Checks) -> None:
    """Runs the steps below `directory` and prints them.

    Raises:
        ModelPoolError: the SavedModels cannot be written.
    """
    _Steps(directory / MODEL, checks).run()


def variables(loaded: Any) -> dict[str, Any]:
    """The variables of a loaded model by name."""
    return {name: getattr(loaded, name) for name in ("users", "items", "kernel", "bias", "version")}


def unload(holder: list[Any]) -> bool:
    """Drops the only reference to a model; True if its variables are gone after it."""
    watched = [weakref.ref(variable) for variable in variables(holder[0]).values()]
    holder.clear()
    gc.collect()  # function graphs and models may refer to each other
    return all(reference() is None for reference in watched)


class _Steps:
    """One run. A model that is loaded is in a list of its own, so that it can be dropped."""

    def __init__(self, base: Path, checks: Checks) -> None:
        self._tf: Any = importlib.import_module("tensorflow")
        self._base = base
        self._checks = checks
        self._keeps = api.settings()["TF_MODEL_POOL_RETAIN"] not in ("release", "0")

    def run(self) -> None:
        print(f"Saving versions {', '.join(map(str, VERSIONS))} of the model {MODEL}")
        for version in VERSIONS:
            model.save_version(self._base, version, SIZE)
        print(f"  {stats.format_bytes(model.weight_bytes(SIZE))} of weights each")

        print("\nLoading versions 1 and 2 at once")
        one = self._load(1)
        faults = _minor_faults()
        two = self._load(2)
        new_pool_faults = _minor_faults() - faults
        found = self._two_versions_have_two_pools(one, two)
        if found is None:
            print("\nThe other steps need both pools.")
            return
        first, second = found
        request, kept = self._a_request_lies_in_no_pool(one, two)
        self._an_unloaded_version_leaves_its_memory(one, first, second)
        three = self._the_next_version_takes_it(first.slot, new_pool_faults)
        self._checks.that(
            "version 2 gives the same answer as before",
            bool((_score(two, request).numpy() == kept).all()),
        )
        _show_pools()
        three.clear()  # not before: a model that is dropped loses some variables without gc

    def _load(self, version: int) -> list[Any]:
        return [self._tf.saved_model.load(str(self._base / str(version)))]

    def _two_versions_have_two_pools(
        self, one: list[Any], two: list[Any]
    ) -> tuple[api.PoolStats, api.PoolStats] | None:
        print(f"  {'VERSION':<8} {'VARIABLE':<9} {'BYTES':>10}  {'ADDRESS':<16} POOL")
        for version, loaded in (("1", one), ("2", two)):
            elsewhere = _show_variables(version, loaded[0])
            self._checks.that(
                f"every variable of version {version} lies in pool {MODEL}/{version}, in no other",
                not elsewhere,
                ", ".join(elsewhere),
            )
        _show_pools()
        before = {pool.name: pool for pool in self._pools()}
        first, second = before.get(f"{MODEL}/1"), before.get(f"{MODEL}/2")
        self._checks.that(
            "each version has a live pool in a slot of its own",
            len(before) == 2
            and first is not None
            and second is not None
            and first.slot != second.slot
            and first.state == second.state == "live",
            ", ".join(f"{pool.name}: {pool.slot}, {pool.state}" for pool in before.values()),
        )
        return None if first is None or second is None else (first, second)

    def _a_request_lies_in_no_pool(self, one: list[Any], two: list[Any]) -> tuple[Any, Any]:
        """Returns the request, and what version 2 answered."""
        print("\nA request to each version")
        tf = self._tf

        def ids(rows: int, salt: int) -> Any:
            return tf.random.stateless_uniform([_REQUEST], [0, salt], maxval=rows, dtype=tf.int32)

        request = {"user": ids(SIZE.users, 1), "item": ids(SIZE.items, 2)}
        answers = [_score(each, request) for each in (one, two)]
        for name, tensor in (
            *request.items(),
            ("output of 1", answers[0]),
            ("output of 2", answers[1]),
        ):
            pool = api.pool_of(tensor)
            self._checks.that(f"{name} lies in no pool", pool is None, pool or "")
        return request, answers[1].numpy()

    def _an_unloaded_version_leaves_its_memory(
        self, one: list[Any], first: api.PoolStats, second: api.PoolStats
    ) -> None:
        print("\nUnloading version 1")
        self._checks.that("its variables are gone", unload(one))
        after = self._pool(first.slot)
        self._checks.that(
            f"pool {first.slot} is empty and on standby"
            f"{', with its memory' if self._keeps else ''}",
            after is not None
            and after.bytes_in_use == 0
            and after.state == "standby"
            and (after.bytes_reserved == first.bytes_reserved or not self._keeps),
            "no such pool"
            if after is None
            else f"{stats.format_bytes(after.bytes_in_use)} in use, "
            f"{stats.format_bytes(after.bytes_reserved)} reserved, {after.state}",
        )
        other = self._pool(second.slot)
        self._checks.that(
            f"pool {second.slot} is untouched",
            other is not None
            and (other.bytes_in_use, other.num_tensors)
            == (second.bytes_in_use, second.num_tensors),
        )

    def _the_next_version_takes_it(self, slot: str, new_pool_faults: int) -> list[Any]:
        print("\nLoading version 3 while version 2 serves")
        mappings, faults = api.totals().num_mappings, _minor_faults()
        three = self._load(3)
        faults = _minor_faults() - faults
        third = self._pool(slot)
        self._checks.that(
            f"version 3 took slot {slot}",
            third is not None and third.name == f"{MODEL}/3" and third.state == "live",
            "no such pool" if third is None else f"{third.name}, {third.state}",
        )
        seen = {api.pool_of(variable) for variable in variables(three[0]).values()}
        self._checks.that(
            f"every variable of version 3 lies in pool {MODEL}/3", seen == {f"{MODEL}/3"}
        )
        if self._keeps:
            now = api.totals().num_mappings
            self._checks.that(
                "no new mapping was made for it", now == mappings, f"{mappings} before, {now} after"
            )
        else:
            print("  TF_MODEL_POOL_RETAIN gave the memory back, so it was mapped anew.")
        pages = model.weight_bytes(SIZE) // resource.getpagesize()
        print(
            f"  The load took {faults} minor page faults for {pages} pages of weights; the load of "
            f"version 2, into a new pool, took {new_pool_faults} (few as well with huge pages)."
        )
        return three

    def _pools(self) -> list[api.PoolStats]:
        return [pool for pool in api.pools() if Path(pool.model_dir) == self._base]

    def _pool(self, slot: str) -> api.PoolStats | None:
        return next((pool for pool in self._pools() if pool.slot == slot), None)


def _score(holder: list[Any], request: dict[str, Any]) -> Any:
    return holder[0].score(**request)["score"]


def _show_variables(version: str, loaded: Any) -> list[str]:
    """Prints where each variable lies; returns those that lie outside the version's pool."""
    elsewhere = []
    for name, variable in variables(loaded).items():
        pool = api.pool_of(variable)
        address = api.address_of(variable)
        size = int(variable.shape.num_elements() * variable.dtype.size)
        print(
            f"  {version:<8} {name:<9} {stats.format_bytes(size):>10}  "
            f"{'?' if address is None else hex(address):<16} {pool or '(none)'}"
        )
        if pool != f"{MODEL}/{version}":
            elsewhere.append(f"{name} in {pool or 'no pool'}")
    return elsewhere


def _minor_faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _show_pools() -> None:
    for line in stats.render(stats.collect()).splitlines():
        print(f"  {line}".rstrip())
