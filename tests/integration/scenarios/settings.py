# SPDX-License-Identifier: Apache-2.0
"""What each setting does, and what a malformed one does not."""

from __future__ import annotations

import gc
import os
import random
import re
import resource
import threading
from pathlib import Path
from typing import Any

import tensorflow as tf

from support.isolation import weight_violations
from support.measure import resident_bytes, wait_until
from support.models import CATALOGUE, exact_score, request, weights
from support.scenario import Context
from support.serving import (
    EagerModel,
    Scenario,
    pool,
    pool_of,
    pools,
    tf_model_pool,
    totals,
)

#: What TensorFlow's own memory may grow by over two updates.
_NOISE = 24 << 20


class _Settings(Scenario):
    """What the checks of settings have in common."""

    def _exact(self, *versions: int) -> dict[int, EagerModel]:
        directory = self.context.model("exact")
        return {n: EagerModel(directory / str(n)) for n in versions}

    def _assert_answers(self, models: dict[int, EagerModel]) -> None:
        for version, model in models.items():
            right = exact_score(weights(CATALOGUE["exact"][version - 1], version), request(0))
            assert model.score(request(0)).tobytes() == right.tobytes()

    def _warnings(self) -> list[str]:
        return [line for line in self.context.stderr().splitlines() if "TF_MODEL_POOL" in line]


class SlotsExhausted(_Settings):
    """`TF_MODEL_POOL_SLOTS=2` and three versions."""

    SETTINGS = ("TF_MODEL_POOL_SLOTS=2", "TF_CPP_MIN_LOG_LEVEL=0")

    def a_version_beyond_the_slots_loads_outside_of_pools(self) -> None:
        # GIVEN two versions in two slots
        models = self._exact(1, 2)
        before = (totals().fallback_loads, totals().fallback_bytes)
        # WHEN a third is loaded
        models |= self._exact(3)
        # THEN it works, lies in no pool, and is counted
        self._assert_answers(models)
        assert {pool_of(address) for address in models[3].addresses().values()} == {None}
        assert (
            weight_violations({f"exact/{n}": models[n].addresses() for n in (1, 2)}, pool_of) == []
        )
        assert totals().fallback_loads > before[0]
        assert totals().fallback_bytes > before[1]
        assert totals().last_fallback_reason != ""

    def a_fallback_is_logged_in_one_line(self) -> None:
        before = len(self._warnings())
        models = self._exact(1, 2, 3, 4)
        self._assert_answers(models)
        assert len(self._warnings()) - before <= 2

    def a_slot_that_is_free_again_is_used(self) -> None:
        models = self._exact(1, 2, 3)
        del models[1]
        gc.collect()
        models |= self._exact(4)
        assert weight_violations({"exact/4": models[4].addresses()}, pool_of) == []

    def other_models_have_slots_of_their_own(self) -> None:
        models = self._exact(1, 2)
        other = EagerModel(self.context.model("ctr") / "1")
        assert weight_violations({"ctr/1": other.addresses()}, pool_of) == []
        assert len(models) == 2


class LimitExhausted(_Settings):
    """`TF_MODEL_POOL_LIMIT_MB` with room for two versions of the small models."""

    SETTINGS = ("TF_MODEL_POOL_LIMIT_MB=9",)

    def a_version_beyond_the_limit_loads_outside_of_pools(self) -> None:
        before = totals().fallback_loads
        models = self._exact(1, 2, 3, 4)
        self._assert_answers(models)
        assert totals().limit_bytes == 9 << 20
        assert totals().bytes_reserved <= totals().limit_bytes
        assert totals().fallback_loads > before
        assert pool_of(models[1].addresses()["user:0"]) == "exact/1"
        assert pool_of(models[4].addresses()["user:0"]) is None

    def a_model_larger_than_the_limit_loads_outside_of_pools(self) -> None:
        model = EagerModel(self.context.model("big") / "1")
        assert {pool_of(address) for address in model.addresses().values()} == {None}
        assert model.score(request(0)).shape == (512,)
        assert totals().bytes_reserved <= totals().limit_bytes

    def standby_memory_of_others_makes_room_for_a_load(self) -> None:
        # GIVEN standby memory up to the limit
        models = self._exact(1, 2)
        models.clear()
        gc.collect()
        # WHEN another model needs it
        other = self.context.model("ctr")
        loaded = {f"ctr/{n}": EagerModel(other / str(n)) for n in (1, 2)}
        # THEN it is released and the other model has pools
        addresses = {name: model.addresses() for name, model in loaded.items()}
        assert weight_violations(addresses, pool_of) == []
        assert totals().bytes_reserved <= totals().limit_bytes


class Off(_Settings):
    """`TF_MODEL_POOL=off` gives the released TensorFlow's behaviour."""

    SETTINGS = ("TF_MODEL_POOL=off",)

    def no_pools_exist(self) -> None:
        models = self._exact(1, 2)
        self._assert_answers(models)
        assert tf_model_pool.is_active() is False
        assert pools() == []
        assert tf_model_pool.trim() == 0
        assert totals().bytes_reserved == 0
        for model in models.values():
            assert {pool_of(address) for address in model.addresses().values()} == {None}

    def nothing_is_logged(self) -> None:
        assert self._warnings() == []


class ReleaseAtOnce(_Settings):
    """`TF_MODEL_POOL_RETAIN=release`."""

    SETTINGS = ("TF_MODEL_POOL_RETAIN=release",)

    def a_version_that_is_gone_gives_its_memory_back(self) -> None:
        models = self._exact(1, 2)
        before = totals().bytes_reserved
        own = pool("exact/1").bytes_reserved
        del models[1]
        gc.collect()
        wait_until("memory to be given back", lambda: totals().bytes_reserved == before - own)
        assert pool("exact/2").bytes_in_use > 0
        self._assert_answers(models)

    def the_next_version_has_a_pool_again(self) -> None:
        models = self._exact(1)
        models.clear()
        gc.collect()
        wait_until("memory to be given back", lambda: totals().bytes_reserved == 0)
        models = self._exact(2)
        assert weight_violations({"exact/2": models[2].addresses()}, pool_of) == []
        self._assert_answers(models)

    def resident_memory_falls_back_to_one_version(self) -> None:
        # GIVEN what TensorFlow keeps when a model has come and gone, and a version that is live
        directory = self.context.model("big")
        models = {1: EagerModel(directory / "1")}
        size = pool("big/1").bytes_in_use
        models[1].score(request(0))
        del models[1]
        gc.collect()
        wait_until("memory to be given back", lambda: totals().bytes_reserved == 0)
        base = resident_bytes()
        models[2] = EagerModel(directory / "2")
        before = totals()
        # WHEN it is updated
        models[3] = EagerModel(directory / "3")
        del models[2]
        gc.collect()
        wait_until(
            "memory to be given back",
            lambda: totals().trimmed_bytes - before.trimmed_bytes >= size,
        )
        # THEN what lies in memory is one version, and the next one had its pool
        assert resident_bytes() - base <= 1.05 * size + _NOISE
        assert totals().fallback_loads == 0
        assert models[3].score(request(0)).shape == (512,)


class Prepared(_Settings):
    """`TF_MODEL_POOL_PREPARE=on`."""

    SETTINGS = ("TF_MODEL_POOL_PREPARE=on",)

    def the_first_update_finds_its_memory(self) -> None:
        # GIVEN a server with one version, and time
        directory = self.context.model("big")
        models = {1: EagerModel(directory / "1")}
        size = pool("big/1").bytes_in_use
        wait_until(
            "memory for the next version",
            lambda: any(
                entry.state == "standby"
                and entry.model_dir == str(directory)
                and entry.bytes_reserved >= size
                for entry in tf_model_pool.pools()
            ),
        )
        # WHEN it is updated
        before = totals()
        models[2] = EagerModel(directory / "2")
        # THEN nothing is mapped for that
        assert totals().num_mappings == before.num_mappings
        assert totals().bytes_reserved == before.bytes_reserved
        assert pool("big/2").slot == "B"
        assert weight_violations({"big/2": models[2].addresses()}, pool_of) == []
        assert totals().prepared_bytes > 0
        assert models[2].score(request(0)).shape == (512,)


class ReleaseAfterSeconds(_Settings):
    """`TF_MODEL_POOL_RETAIN=<seconds>`."""

    SETTINGS = ("TF_MODEL_POOL_RETAIN=1",)

    def standby_memory_is_given_back_after_a_while(self) -> None:
        models = self._exact(1, 2)
        own = pool("exact/1").bytes_reserved
        before = totals()
        del models[1]
        gc.collect()
        wait_until(
            "memory to be given back",
            lambda: totals().trimmed_bytes - before.trimmed_bytes == own,
        )
        assert totals().bytes_reserved == before.bytes_reserved - own
        self._assert_answers(models)


class AddressSpaceLimited(_Settings):
    """A process that may not map much (`ulimit -v`): loads that work without pools work."""

    def versions_load_and_answer(self) -> None:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        before = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + (1 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
        try:
            models = self._exact(1, 2)
            self._assert_answers(models)
            addresses = {f"exact/{n}": model.addresses() for n, model in models.items()}
            # A pool of its own or, counted, none.
            in_pools = weight_violations(addresses, pool_of) == []
            assert in_pools != (totals().fallback_bytes > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)


class Stress(_Settings):
    """Loads, unloads, kept tensors, trims and requests at once, short of slots and memory."""

    SETTINGS = (
        "TF_MODEL_POOL_SLOTS=2",
        "TF_MODEL_POOL_LIMIT_MB=24",
        "TF_MODEL_POOL_RETAIN=release",
    )

    def random_lifecycles_in_threads_answer_right_and_drain(self) -> None:
        names = ("left", "right")
        directories = [self.context.model("exact", copy_to=name) for name in names]
        errors: list[str] = []

        def live(seed: int) -> None:
            rng = random.Random(seed)
            alive: list[tuple[int, EagerModel]] = []
            kept: list[tuple[int, Any]] = []
            try:
                for _ in range(30):
                    action = rng.randrange(6)
                    if action <= 1 or not alive:
                        version = rng.randrange(4) + 1
                        model = EagerModel(rng.choice(directories) / str(version))
                        alive.append((version, model))
                        del model
                    elif action == 2 or len(alive) > 3:
                        alive.pop(rng.randrange(len(alive)))
                        gc.collect()
                    elif action == 3:
                        version, model = rng.choice(alive)
                        kept.append((version, model.loaded.kernel.read_value()))
                        del model
                    elif action == 4:
                        tf_model_pool.trim()
                    else:
                        self._assert_answers(dict([rng.choice(alive)]))
                    if len(kept) > 4:
                        version, tensor = kept.pop(0)
                        assert tensor.numpy().tobytes() == self._kernels[version].tobytes()
                        del tensor
                self._assert_answers(dict(alive))
            except Exception as error:
                errors.append(f"seed {seed}: {error!r}")

        threads = [threading.Thread(target=live, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert totals().fallback_loads > 0

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        specs = enumerate(CATALOGUE["exact"], start=1)
        self._kernels = {n: weights(spec, n)["kernel"] for n, spec in specs}


class HugePagesOff(_Settings):
    """`TF_MODEL_POOL_HUGE_PAGES=off`."""

    SETTINGS = ("TF_MODEL_POOL_HUGE_PAGES=off",)

    def models_load_and_answer(self) -> None:
        models = self._exact(1, 2)
        self._assert_answers(models)
        addresses = {f"exact/{n}": model.addresses() for n, model in models.items()}
        assert weight_violations(addresses, pool_of) == []
        assert tf_model_pool.settings()["TF_MODEL_POOL_HUGE_PAGES"] == "off"

    def pool_memory_has_no_huge_pages(self) -> None:
        model = EagerModel(self.context.model("big") / "1")
        assert _huge_bytes(model.addresses()["user:0"]) == 0


class HugePagesOn(_Settings):
    """`TF_MODEL_POOL_HUGE_PAGES=on`: advice that a kernel may decline."""

    SETTINGS = ("TF_MODEL_POOL_HUGE_PAGES=on",)

    def models_load_and_answer(self) -> None:
        models = self._exact(1, 2)
        self._assert_answers(models)
        assert tf_model_pool.settings()["TF_MODEL_POOL_HUGE_PAGES"] == "on"

    def pool_memory_is_advised_to_be_huge(self) -> None:
        model = EagerModel(self.context.model("big") / "1")
        assert "hg" in _flags(model.addresses()["user:0"])


class PrefaultOff(_Settings):
    """`TF_MODEL_POOL_PREFAULT=off`."""

    SETTINGS = ("TF_MODEL_POOL_PREFAULT=off",)

    def models_load_and_answer(self) -> None:
        models = self._exact(1, 2)
        self._assert_answers(models)
        addresses = {f"exact/{n}": model.addresses() for n, model in models.items()}
        assert weight_violations(addresses, pool_of) == []
        assert tf_model_pool.settings()["TF_MODEL_POOL_PREFAULT"] == "off"


class _Malformed(_Settings):
    """A malformed setting: one error, no pools, and TensorFlow works.

    One setting runs with every allocator; reading the others does not depend on it, so they take
    turns.
    """

    def tensorflow_works_without_pools(self) -> None:
        models = self._exact(1, 2)
        self._assert_answers(models)
        assert tf_model_pool.is_active() is False
        for model in models.values():
            assert model.score(request(1)).shape == (512,)

    def the_error_names_variable_value_and_what_is_allowed(self) -> None:
        table = tf.Variable(tf.zeros([8]))
        path = tf.train.Checkpoint(table=table).write(str(self.context.directory / "ckpt"))
        tf.train.Checkpoint(table=table).read(path)
        variable, value = self._malformed()
        lines = [line for line in self._warnings() if variable in line]
        assert len(lines) == 1, lines
        # TensorFlow wrote the time before the severity until it logged through Abseil.
        assert re.match(r"(\S+ \S+: )?E", lines[0]), lines
        assert value in lines[0]
        for allowed in self._allowed(variable):
            assert allowed in lines[0], f"{allowed!r} is not in {lines[0]!r}"

    def the_interface_says_the_same(self) -> None:
        variable, value = self._malformed()
        message = ""
        try:
            tf_model_pool.pools()
        except tf_model_pool.SettingError as error:
            message = str(error)
        assert variable in message
        assert value in message

    def _after_check(self) -> None:
        return

    def _malformed(self) -> tuple[str, str]:
        (found,) = [item for item in os.environ.items() if item[0].startswith("TF_MODEL_POOL")]
        return found

    def _allowed(self, variable: str) -> tuple[str, ...]:
        return {
            "TF_MODEL_POOL": ("on", "off"),
            "TF_MODEL_POOL_SLOTS": ("1",),
            "TF_MODEL_POOL_LIMIT_MB": ("1",),
            "TF_MODEL_POOL_RETAIN": ("standby", "release", "second"),
            "TF_MODEL_POOL_HUGE_PAGES": ("on", "off"),
            "TF_MODEL_POOL_PREFAULT": ("on", "off"),
            "TF_MODEL_POOL_LOAD_PRIORITY": ("auto", "normal"),
            "TF_MODEL_POOL_PREPARE": ("on", "off"),
        }[variable]


class MalformedSwitch(_Malformed):
    SETTINGS = ("TF_MODEL_POOL=maybe",)


class MalformedSlots(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_SLOTS=two",)
    MODES = ("system",)


class MalformedSlotsZero(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_SLOTS=0",)
    MODES = ("cpu_bfc",)


class MalformedLimit(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_LIMIT_MB=12GB",)
    MODES = ("onednn",)


class MalformedLimitNegative(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_LIMIT_MB=-5",)
    MODES = ("system",)


class MalformedRetain(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_RETAIN=forever",)
    MODES = ("cpu_bfc",)


class MalformedHugePages(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_HUGE_PAGES=yes",)
    MODES = ("onednn",)


class MalformedPrefault(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_PREFAULT=1",)
    MODES = ("system",)


def _smaps_field(address: int, field: str) -> str:
    """The value of a field of the mapping that holds `address`, from /proc/self/smaps."""
    inside = False
    with Path("/proc/self/smaps").open(encoding="ascii", errors="replace") as smaps:
        for line in smaps:
            head = line.split()[0]
            if not head.endswith(":"):
                start, end = (int(part, 16) for part in head.split("-"))
                inside = start <= address < end
            elif inside and head == f"{field}:":
                return line.partition(":")[2].strip()
    raise ValueError(f"no {field} for {address:#x}")


def _huge_bytes(address: int) -> int:
    return int(_smaps_field(address, "AnonHugePages").split()[0]) * 1024


def _flags(address: int) -> list[str]:
    return _smaps_field(address, "VmFlags").split()


class MalformedPrepare(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_PREPARE=yes",)
    MODES = ("cpu_bfc",)


class MalformedLoadPriority(_Malformed):
    SETTINGS = ("TF_MODEL_POOL_LOAD_PRIORITY=10",)
    MODES = ("onednn",)
