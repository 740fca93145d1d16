# SPDX-License-Identifier: Apache-2.0
"""Loading, unloading and swapping: slots, standby memory, sizes, threads."""

from __future__ import annotations

import functools
import gc
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from support.isolation import POOL_ALLOCATOR_PREFIX, weight_violations
from support.measure import PAGE_BYTES, mappings, minor_faults, resident_bytes, wait_until
from support.models import CATALOGUE, exact_score, request, weights
from support.serving import (
    EagerModel,
    Scenario,
    address_of,
    pool,
    pool_of,
    pools,
    tf_model_pool,
    totals,
    v1,
)

THREADS = 4


def _mapped(*names: str) -> list[tuple[str, int, int, int]]:
    """What each slot of the named models has mapped: unchanged when memory is reused."""
    return sorted(
        (stats.slot, stats.num_regions, stats.num_mappings, stats.bytes_reserved)
        for stats in pools()
        if not names or Path(stats.model_dir).name in names
    )


def _in_threads(jobs: list[Callable[[], None]]) -> None:
    """Runs the jobs at once; raises the first exception of any."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], None]) -> None:
        try:
            barrier.wait()
            job()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


class _Requests:
    """Threads that ask the served exact model and check every answer."""

    def __init__(self, directory: Path, version: int) -> None:
        self._directory = directory
        self._right = {
            n: exact_score(weights(spec, n), request(0)).tobytes()
            for n, spec in enumerate(CATALOGUE["exact"], start=1)
        }
        self._serving = (version, EagerModel(directory / str(version)))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(THREADS)]
        self._counts = threading.Lock()
        self.served = 0
        self.errors: list[str] = []

    def __enter__(self) -> _Requests:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        del self._serving

    def _ask(self) -> None:
        ids = tf.constant(request(0))
        while not self._stop.is_set():
            version, model = self._serving
            try:
                wrong = model.score(ids).tobytes() != self._right[version]
                message = f"wrong answer of version {version}" if wrong else ""
            except Exception as error:
                message = f"version {version}: {error!r}"
            del model
            with self._counts:
                self.served += 1
                if message:
                    self.errors.append(message)

    def wait_for_more(self) -> None:
        """Returns when every thread may have been served once more."""
        target = self.served + 2 * THREADS
        wait_until("requests to be served", lambda: self.served >= target or bool(self.errors))

    def swap(self, version: int) -> None:
        """Loads `version`, serves it, and drops the one before."""
        self._serving = (version, EagerModel(self._directory / str(version)))
        wait_until("the old version to go", lambda: gc.collect() >= 0 and self._only(version))

    def _only(self, version: int) -> bool:
        alive = {stats.name for stats in pools() if stats.bytes_in_use}
        return alive == {f"exact/{version}"}


class Swap(Scenario):
    """One version after the other."""

    def unloading_one_version_leaves_the_other_untouched(self) -> None:
        # GIVEN two versions
        directory = self.context.model("ctr")
        first, second = EagerModel(directory / "1"), EagerModel(directory / "2")
        answer = second.score(request(0)).tobytes()
        before = pool("ctr/2")
        # WHEN the first goes
        del first
        gc.collect()
        # THEN its pool is empty and keeps its memory
        stats = pool("ctr/1")
        assert (stats.bytes_in_use, stats.num_tensors, stats.state) == (0, 0, "standby")
        assert stats.bytes_reserved > 0
        # AND the second is where it was
        after = pool("ctr/2")
        assert (after.bytes_in_use, after.num_tensors, after.state, after.bytes_reserved) == (
            before.bytes_in_use,
            before.num_tensors,
            "live",
            before.bytes_reserved,
        )
        assert second.score(request(0)).tobytes() == answer

    def a_third_version_takes_the_standby_slot_and_maps_nothing(self) -> None:
        # GIVEN two versions, of which the first is gone
        directory = self.context.model("ctr")
        first, second = EagerModel(directory / "1"), EagerModel(directory / "2")
        slot = pool("ctr/1").slot
        mapped = _mapped()
        del first
        gc.collect()
        ranges = [mapping for mapping in mappings() if "w" in mapping.permissions]
        # WHEN the third is loaded
        third = EagerModel(directory / "3")
        # THEN it has the first one's slot and memory
        assert pool("ctr/3").slot == slot
        assert pools("ctr/1") == []
        assert _mapped() == mapped
        for name, address in third.addresses().items():
            assert any(mapping.holds(address) for mapping in ranges), f"{name} lies in new memory"
        assert (
            weight_violations({"ctr/2": second.addresses(), "ctr/3": third.addresses()}, pool_of)
            == []
        )

    def versions_take_two_slots_in_turn(self) -> None:
        directory = self.context.model("ctr")
        serving = EagerModel(directory / "1")
        slots = [pool("ctr/1").slot]
        for number in (2, 3, 4, 1, 2):
            following = EagerModel(directory / str(number))
            slots.append(pool(f"ctr/{number}").slot)
            serving = following
            del following
            gc.collect()
        assert serving is not None
        assert slots == ["A", "B"] * 3

    def a_much_larger_next_version_leaves_the_standby_range_to_others(self) -> None:
        directory = self.context.model("growing")
        first = EagerModel(directory / "1")
        slot = pool("growing/1").slot
        del first
        gc.collect()
        third = EagerModel(directory / "3")
        stats = pool("growing/3")
        assert stats.fallback_bytes == 0
        assert stats.slot != slot
        assert weight_violations({"growing/3": third.addresses()}, pool_of) == []

    def a_smaller_next_version_reuses_the_standby_slot(self) -> None:
        directory = self.context.model("shrinking")
        first = EagerModel(directory / "1")
        slot = pool("shrinking/1").slot
        del first
        gc.collect()
        mapped = _mapped("shrinking")
        third = EagerModel(directory / "3")
        assert pool("shrinking/3").slot == slot
        assert _mapped("shrinking") == mapped
        assert weight_violations({"shrinking/3": third.addresses()}, pool_of) == []
        assert pool("shrinking/3").peak_bytes_in_use < mapped[0][3]

    def a_tensor_kept_after_its_model_keeps_its_pool(self) -> None:
        # GIVEN a tensor that outlives its model
        directory = self.context.model("ctr")
        model = EagerModel(directory / "1")
        kept = model.loaded.user.read_value()
        value = kept.numpy()
        slot = pool("ctr/1").slot
        del model
        gc.collect()
        # THEN the pool is not standby and not given to the next version
        stats = pool("ctr/1")
        assert stats.state == "live"
        assert 0 < stats.bytes_in_use <= 2 * value.nbytes
        following = EagerModel(directory / "2")
        assert pool("ctr/2").slot != slot
        tf_model_pool.trim()
        assert np.array_equal(kept.numpy(), value)
        # WHEN it goes, THEN the pool drains and serves again
        del kept
        gc.collect()
        assert (pool("ctr/1").state, pool("ctr/1").bytes_in_use) == ("standby", 0)
        third = EagerModel(directory / "3")
        assert pool("ctr/3").slot == slot
        del following, third

    def eager_swaps_under_requests_give_right_answers_and_flat_memory(self) -> None:
        directory = self.context.model("exact")
        with _Requests(directory, 1) as requests:
            mapped, resident = [], []
            for swap in range(12):
                requests.wait_for_more()
                requests.swap((swap + 1) % 4 + 1)
                mapped.append(_mapped("exact"))
                resident.append(resident_bytes())
            requests.wait_for_more()
        assert requests.errors == []
        assert mapped[2:] == [mapped[1]] * len(mapped[2:])
        # Half of one version's weights: reloading into new memory would add ten times one.
        weight_bytes = sum(w.nbytes for w in weights(CATALOGUE["exact"][0], 1).values())
        assert resident[-1] - resident[1] < 10 * weight_bytes // 2


class Many(Scenario):
    """More than two at once."""

    def three_versions_alive_have_three_slots(self) -> None:
        directory = self.context.model("ctr")
        models = {f"ctr/{n}": EagerModel(directory / str(n)) for n in (1, 2, 3)}
        addresses = {name: model.addresses() for name, model in models.items()}
        assert weight_violations(addresses, pool_of) == []
        assert {pool(name).slot for name in models} == {"A", "B", "C"}

    def two_versions_updated_at_once_take_two_slots(self) -> None:
        # GIVEN two models, of which each serves a version
        names = ("left", "right")
        directories = {name: self.context.model("ctr", copy_to=name) for name in names}
        old = {name: EagerModel(path / "1") for name, path in directories.items()}
        # WHEN both are updated at once
        new: dict[str, EagerModel] = {}

        def load(name: str) -> None:
            new[name] = EagerModel(directories[name] / "2")

        _in_threads([functools.partial(load, name) for name in names])
        # THEN all four lie apart
        addresses = {f"{name}/1": old[name].addresses() for name in names}
        addresses |= {f"{name}/2": new[name].addresses() for name in names}
        assert weight_violations(addresses, pool_of) == []

    def two_versions_of_one_model_loaded_at_once_lie_apart(self) -> None:
        directory = self.context.model("ctr")
        old = EagerModel(directory / "1")
        new: dict[int, EagerModel] = {}

        def load(number: int) -> None:
            new[number] = EagerModel(directory / str(number))

        _in_threads([functools.partial(load, number) for number in (2, 3)])
        addresses = {"ctr/1": old.addresses()}
        addresses |= {f"ctr/{number}": model.addresses() for number, model in new.items()}
        assert weight_violations(addresses, pool_of) == []

    def the_same_version_loaded_twice_has_two_pools(self) -> None:
        directory = self.context.model("ctr")
        first = EagerModel(directory / "1")
        once = pool("ctr/1").bytes_in_use
        second = EagerModel(directory / "1")
        both = [stats for stats in pools() if stats.name == "ctr/1" and stats.state == "live"]
        assert len({stats.slot for stats in both}) == 2
        assert {(stats.bytes_in_use, stats.fallback_bytes) for stats in both} == {(once, 0)}
        violations = weight_violations(
            {"ctr/1": {**first.addresses()}}, pool_of
        ) + weight_violations({"ctr/1": {**second.addresses()}}, pool_of)
        assert violations == []
        assert not set(first.addresses().values()) & set(second.addresses().values())
        # WHEN one of them goes, the other one stays
        answer = second.score(request(0)).tobytes()
        del first
        gc.collect()
        live = [stats for stats in pools() if stats.name == "ctr/1" and stats.state == "live"]
        assert [stats.bytes_in_use for stats in live] == [once]
        assert second.score(request(0)).tobytes() == answer

    def models_of_one_name_in_two_directories_lie_apart(self) -> None:
        one = self.context.model("ctr", copy_to="one/ctr")
        two = self.context.model("ctr", copy_to="two/ctr")
        models = {path: EagerModel(path / "1") for path in (one, two)}
        found = pools("ctr/1")
        assert {Path(stats.model_dir) for stats in found} == {one, two}
        assert len({stats.id for stats in found}) == 2
        ranges = sorted(
            (min(model.addresses().values()), max(model.addresses().values()))
            for model in models.values()
        )
        assert ranges[0][1] < ranges[1][0]

    def concurrent_loads_from_several_threads_lie_apart(self) -> None:
        names = [f"model_{index}" for index in range(THREADS)]
        directories = {name: self.context.model("ctr", copy_to=name) for name in names}
        models: dict[str, EagerModel] = {}

        def load(name: str) -> None:
            for number in (1, 2, 3):
                models[f"{name}/{number}"] = EagerModel(directories[name] / str(number))

        _in_threads([functools.partial(load, name) for name in names])
        addresses = {name: model.addresses() for name, model in models.items()}
        assert len(addresses) == 3 * THREADS
        assert weight_violations(addresses, pool_of) == []

    def concurrent_loads_of_one_version_lie_in_its_pools(self) -> None:
        directory = self.context.model("ctr")
        models: list[EagerModel] = []
        _in_threads([lambda: models.append(EagerModel(directory / "1"))] * THREADS)
        for model in models:
            assert weight_violations({"ctr/1": model.addresses()}, pool_of) == []
        values = [address for model in models for address in model.addresses().values()]
        assert len(set(values)) == len(values)

    def one_restore_node_run_at_once_for_two_versions_keeps_them_apart(self) -> None:
        # TF1 code feeds the checkpoint's name to one RestoreV2 node: the node does not tell
        # versions apart.
        directory = self.context.model("big")
        prefixes = {n: str(directory / str(n) / "variables" / "variables") for n in (1, 2)}
        with tf.Graph().as_default(), v1.Session() as session:
            prefix = v1.placeholder(tf.string, [])
            restored = tf.raw_ops.RestoreV2(
                prefix=prefix,
                tensor_names=[f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("user", "item")],
                shape_and_slices=["", ""],
                dtypes=[tf.float32] * 2,
            )
            session.run(restored[0].op, {prefix: prefixes[1]})
            traces: list[tuple[int, Any]] = []

            def restore(number: int) -> None:
                for _ in range(3):
                    metadata = v1.RunMetadata()
                    session.run(
                        restored,
                        {prefix: prefixes[number]},
                        options=v1.RunOptions(trace_level=v1.RunOptions.SOFTWARE_TRACE),
                        run_metadata=metadata,
                    )
                    traces.append((number, metadata))

            _in_threads([functools.partial(restore, n) for n in (1, 2, 1, 2)])
        allocators: dict[int, set[str]] = {1: set(), 2: set()}
        for number, metadata in traces:
            for device in metadata.step_stats.dev_stats:
                for node in device.node_stats:
                    if node.node_name == restored[0].op.name:
                        allocators[number] |= {
                            output.tensor_description.allocation_description.allocator_name
                            for output in node.output
                        }
        assert allocators == {n: {f"{POOL_ALLOCATOR_PREFIX}:big/{n}"} for n in (1, 2)}

    def trim_while_models_are_alive_gives_back_standby_memory_only(self) -> None:
        # GIVEN a version alive and one gone
        directory = self.context.model("ctr")
        first, second = EagerModel(directory / "1"), EagerModel(directory / "2")
        addresses = second.addresses()
        answer = second.score(request(0)).tobytes()
        del first
        gc.collect()
        trimmed = tf_model_pool.totals().trimmed_bytes
        standby = sum(stats.bytes_reserved for stats in pools() if stats.state == "standby")
        live = pool("ctr/2").bytes_reserved
        # WHEN memory is trimmed
        given_back = tf_model_pool.trim()
        # THEN what was standby is gone, some of it in the background, and what is alive is not
        assert 0 < given_back <= standby
        assert tf_model_pool.totals().trimmed_bytes - trimmed >= standby
        assert [
            p.bytes_reserved for p in pools() if p.state == "standby" and p.bytes_reserved
        ] == []
        assert pool("ctr/2").bytes_reserved == live
        assert second.score(request(0)).tobytes() == answer
        assert tf_model_pool.trim() == 0
        # AND the next version loads as ever
        third = EagerModel(directory / "3")
        versions = {"ctr/2": addresses, "ctr/3": third.addresses()}
        assert weight_violations(versions, pool_of) == []

    def trim_during_loads_and_requests_harms_nothing(self) -> None:
        directory = self.context.model("exact")
        stop = threading.Event()

        def trim() -> None:
            while not stop.is_set():
                tf_model_pool.trim()

        trimmer = threading.Thread(target=trim)
        with _Requests(directory, 1) as requests:
            trimmer.start()
            for version in (2, 3, 4, 1):
                requests.swap(version)
                requests.wait_for_more()
            stop.set()
            trimmer.join()
        assert requests.errors == []

    def memory_of_a_model_that_is_gone_serves_other_models(self) -> None:
        # GIVEN a process that loads one model after another
        counts = []
        for index in range(6):
            directory = self.context.model("ctr", copy_to=f"job_{index}")
            model = EagerModel(directory / "1")
            assert weight_violations({f"job_{index}/1": model.addresses()}, pool_of) == []
            del model
            gc.collect()
            counts.append((totals().num_pools, totals().bytes_reserved))
        # THEN it does not keep memory for each of them
        assert counts[1:] == [counts[0]] * 5

    def a_checkpoint_that_is_not_a_saved_model_has_a_pool_by_its_stem(self) -> None:
        directory = self.context.directory / "train"
        saved = tf.train.Checkpoint(
            table=tf.Variable(tf.random.stateless_normal([4096, 8], [1, 2]))
        )
        path = saved.write(str(directory / "ckpt-5"))
        fresh = tf.train.Checkpoint(table=tf.Variable(tf.zeros([4096, 8])))
        fresh.read(path).assert_consumed()
        assert pool_of(address_of(fresh.table.read_value())) == "train/ckpt-5"
        stats = pool("train/ckpt-5")
        assert (Path(stats.model_dir), stats.version) == (directory, "ckpt-5")
        assert np.array_equal(fresh.table.numpy(), saved.table.numpy())

    def a_tensor_that_a_restore_names_twice_lies_in_the_pool_twice(self) -> None:
        # GIVEN an op whose outputs are larger than the checkpoint's files
        table = tf.Variable(tf.random.stateless_normal([4096, 8], [1, 2]))
        prefix = tf.train.Checkpoint(table=table).write(str(self.context.directory / "ckpt-6"))
        restored = tf.raw_ops.RestoreV2(
            prefix=prefix,
            tensor_names=["table/.ATTRIBUTES/VARIABLE_VALUE"] * 2,
            shape_and_slices=["", ""],
            dtypes=[tf.float32] * 2,
        )
        name = f"{self.context.directory.name}/ckpt-6"
        assert [pool_of(address_of(tensor)) for tensor in restored] == [name] * 2

    def a_saved_model_without_a_version_directory_has_a_pool_by_its_name(self) -> None:
        directory = self.context.model("ctr") / "1"
        plain = directory.rename(self.context.directory / "plain")
        model = EagerModel(plain)
        assert weight_violations({"plain": model.addresses()}, pool_of) == []
        assert (Path(pool("plain").model_dir), pool("plain").version) == (plain, "")


class Big(Scenario):
    """A table that TensorFlow restores on its own threads.

    Prefaulting and huge pages would hide page faults from getrusage.
    """

    SETTINGS = ("TF_MODEL_POOL_HUGE_PAGES=off", "TF_MODEL_POOL_PREFAULT=off")

    def tables_restored_on_other_threads_lie_in_their_pool(self) -> None:
        directory = self.context.model("big")
        models = {f"big/{n}": EagerModel(directory / str(n)) for n in (1, 2)}
        addresses = {name: model.addresses() for name, model in models.items()}
        assert weight_violations(addresses, pool_of) == []
        assert [pool(name).fallback_bytes for name in models] == [0, 0]

    def a_third_version_faults_no_weights_in_and_does_not_grow_the_process(self) -> None:
        # GIVEN two versions in fresh memory: their weights are faulted in
        tf_model_pool.trim()
        directory = self.context.model("big")
        faults = minor_faults()
        first = EagerModel(directory / "1")
        pages = first.weight_bytes() // PAGE_BYTES
        second = EagerModel(directory / "2")
        assert minor_faults() - faults >= pages
        del first
        gc.collect()
        faults, resident, lines = minor_faults(), resident_bytes(), len(mappings())
        mapped = _mapped()
        # WHEN a third takes the place of the first
        third = EagerModel(directory / "3")
        # THEN the weights' pages and mappings are the old ones
        assert minor_faults() - faults < pages // 2
        assert resident_bytes() - resident < third.weight_bytes() // 2
        assert _mapped() == mapped
        assert len(mappings()) - lines < 16
        assert second is not None
