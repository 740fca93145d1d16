# SPDX-License-Identifier: Apache-2.0
"""A `HotModel`'s versions in memory: calls in flight, warm-up, several models, without a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from support.hot_models import (
    FakeLoader,
    FakeModel,
    PreparedModel,
    Stepper,
    remove_version,
    write_version,
)
from tf_model_pool import hot_manager
from tf_model_pool.hot_events import (
    Loaded,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "ctr"
    directory.mkdir()
    return directory


@pytest.fixture(autouse=True)
def _a_gate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_manager, "gate", hot_manager.LoadGate())


# Calls in flight.


def test_a_version_is_unloaded_after_its_last_call(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    first, second = stepper.manager.acquire(), stepper.manager.acquire()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 2
    assert [(s.version, s.state) for s in stepper.manager.versions()] == [
        (2, "serving"),
        (1, "unloading"),
    ]
    stepper.manager.release(first, failed=False)
    stepper.settle()
    assert stepper.loader.loaded() == [1, 2]
    stepper.manager.release(second, failed=True)
    stepper.settle()
    assert stepper.loader.loaded() == [2]
    stats = stepper.manager.stats()
    assert (stats.requests, stats.request_errors, stats.requests_in_flight) == (2, 1, 0)


def test_a_version_that_does_not_close_stops_nothing(
    base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: FakeModel) -> None:
        raise RuntimeError("stuck")

    monkeypatch.setattr(FakeModel, "close", fail)
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 2
    assert "ctr: version 1 did not close" in caplog.text


def test_the_counts_tell_the_newest_version_on_disk_and_those_that_do_not_load(base: Path) -> None:
    stepper = Stepper(base)

    def told() -> tuple[int | None, int]:
        stats = stepper.manager.stats()
        return stats.newest_version, stats.failed_versions

    assert told() == (None, 0)
    write_version(base, 1)
    stepper.look()
    assert told() == (1, 0)
    stepper.loader.errors[2] = MemoryError()
    write_version(base, 2)
    stepper.look(2)
    assert (stepper.serving, *told()) == (1, 2, 1)
    # While it is tried again it is still one that does not load.
    during = []
    stepper.loader.during = lambda: during.append(told())
    stepper.look()
    assert during == [(2, 1)]
    # Without saved_model.pb a directory is not tried, and is on disk.
    (base / "3").mkdir()
    del stepper.loader.errors[2]
    stepper.look(2)
    assert (stepper.serving, *told()) == (2, 3, 0)


# Warm-up.


def test_a_version_answers_the_warm_up_before_it_serves(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, warmup=({"ids": 1}, {"ids": 2}))
    stepper.loader.during = lambda: stepper.clock.__setattr__("now", stepper.clock.now + 3)
    stepper.settle()
    assert stepper.loader.models[0].calls == [{"ids": 1}, {"ids": 2}]
    assert Loaded("ctr", 1, 3.0) in stepper.events
    assert stepper.manager.stats().requests == 0


def test_a_callable_warms_up_as_it_likes(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, warmup=lambda model: model.signatures["rank"](ids=5))
    stepper.settle()
    assert stepper.loader.models[0].calls == [{"ids": 5}]


def test_a_version_that_fails_its_warm_up_is_closed_and_does_not_serve(base: Path) -> None:
    def warm_up(model: FakeModel) -> None:
        if model.version == 2:
            raise ValueError("no such input")

    write_version(base, 1)
    stepper = Stepper(base, warmup=warm_up)
    stepper.look()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 1
    assert stepper.loader.trace == ["load 1", "load 2", "close 2"]
    assert stepper.manager.versions()[0].error == "ValueError: no such input"


# What a version is prepared for.

ASKED = [("serving_default", ("score",)), ("rank", None)]


def prepared(stepper: Stepper) -> list[list[list[Any]]]:
    """What each model was prepared for, each time."""
    return [model.prepared for model in stepper.loader.models]  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_a_version_is_prepared_for_what_the_one_before_was_asked_for(
    base: Path, policy: str
) -> None:
    write_version(base, 1)
    stepper = Stepper(base, FakeLoader(PreparedModel), policy=policy, warmup=({"ids": 1},))
    stepper.look()
    stepper.loader.models[0].asked = ASKED  # type: ignore[attr-defined]
    # WHEN
    write_version(base, 2)
    stepper.look(2)
    # THEN it was, before it served, and the first version, which had none before it, was not
    assert stepper.serving == 2
    assert {str(each) for each in prepared(stepper)[1]} == {str(ASKED)}
    assert prepared(stepper)[0] == []
    assert stepper.loader.trace.index("load 2") < stepper.loader.trace.index("prepare 2")


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_what_one_version_was_not_asked_for_is_not_forgotten_and_what_two_were_not_is(
    base: Path, policy: str
) -> None:
    write_version(base, 1)
    stepper = Stepper(base, FakeLoader(PreparedModel), policy=policy)
    stepper.look()
    stepper.loader.models[0].asked = ASKED  # type: ignore[attr-defined]
    for version in (2, 3, 4):
        write_version(base, version)
        stepper.look(2)
    assert stepper.serving == 4
    _, second, third, fourth = prepared(stepper)
    assert second[-1] == third[-1] == ASKED
    assert fourth == []


def test_what_is_asked_for_while_a_version_loads_counts(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, FakeLoader(PreparedModel))
    stepper.look()
    write_version(base, 2)
    first = stepper.loader.models[0]
    stepper.loader.during = lambda: first.__setattr__("asked", ASKED)
    stepper.look(2)
    assert prepared(stepper)[1][0] == ASKED


def test_a_version_that_was_kept_is_prepared_before_it_serves_again(base: Path) -> None:
    # GIVEN versions that were loaded before anything was asked for
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base, FakeLoader(PreparedModel), keep=2)
    stepper.look(3)
    newest, older = stepper.loader.models
    assert (newest.version, older.version) == (2, 1)
    newest.asked = ASKED  # type: ignore[attr-defined]
    # WHEN the newest goes away
    remove_version(base, 2)
    stepper.look(3)
    # THEN
    assert stepper.serving == 1
    assert prepared(stepper)[1] == [ASKED]


@pytest.mark.parametrize("what", ["asked_for", "prepare"])
def test_a_version_that_cannot_be_prepared_serves(
    base: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Any, *arguments: Any) -> Any:
        raise RuntimeError("no executors")

    write_version(base, 1)
    stepper = Stepper(base, FakeLoader(PreparedModel))
    stepper.look()
    stepper.loader.models[0].asked = ASKED  # type: ignore[attr-defined]
    monkeypatch.setattr(PreparedModel, what, fail)
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 2
    assert stepper.manager.stats().load_failures == 0
    assert "no executors" in caplog.text


def test_requests_that_were_not_prepared_for_are_counted_and_those_of_the_warm_up_are_not(
    base: Path,
) -> None:
    write_version(base, 1)
    stepper = Stepper(base, FakeLoader(PreparedModel), warmup=({"ids": 1},))
    stepper.look()
    assert stepper.manager.stats().cold_requests == 0
    stepper.loader.models[0](ids=2)
    assert stepper.manager.stats().cold_requests == 1
    # AND versions that were unloaded count on
    write_version(base, 2)
    stepper.look(2)
    stepper.loader.models[1](ids=2)
    assert stepper.loader.loaded() == [2]
    assert stepper.manager.stats().cold_requests == 2


# Several at once.


def test_loads_of_several_models_come_one_after_the_other(tmp_path: Path) -> None:
    # GIVEN two models that have something to load
    write_version(tmp_path / "a", 1)
    write_version(tmp_path / "b", 1)
    first, second = Stepper(tmp_path / "a"), Stepper(tmp_path / "b")
    # WHEN the second looks while the first loads
    first.loader.during = second.settle
    first.settle()
    # THEN it waits, and is woken when it may
    assert second.loader.trace == []
    assert second.manager._wake.get_nowait() is None
    second.settle()
    assert second.serving == 1


def test_as_many_loads_as_allowed_run_at_once(tmp_path: Path) -> None:
    tf_model_pool.set_max_concurrent_loads(2)
    steppers = []
    for name in ("a", "b", "c"):
        write_version(tmp_path / name, 1)
        steppers.append(Stepper(tmp_path / name))
    first, second, third = steppers
    first.loader.during = second.settle
    second.loader.during = third.settle
    first.settle()
    assert [stepper.serving for stepper in steppers] == [1, 1, None]
    with pytest.raises(ValueError, match="at least 1"):
        tf_model_pool.set_max_concurrent_loads(0)


def test_a_model_that_has_nothing_to_load_any_more_leaves_the_queue(tmp_path: Path) -> None:
    steppers = []
    for name in ("a", "b", "c"):
        write_version(tmp_path / name, 1)
        steppers.append(Stepper(tmp_path / name))
    first, second, third = steppers

    def meanwhile() -> None:
        second.settle()
        third.settle()
        remove_version(tmp_path / "b", 1)
        second.settle()

    first.loader.during = meanwhile
    first.settle()
    third.settle()
    assert third.serving == 1
