# SPDX-License-Identifier: Apache-2.0
"""Which version a `HotModel` loads, tries again, serves and lets go, on a clock that stands."""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path

import pytest

from support.hot_models import (
    Stepper,
    remove_version,
    write_version,
)
from tf_model_pool import hot_manager, version_directory
from tf_model_pool.errors import (
    NotServingError,
)
from tf_model_pool.hot_events import (
    Loaded,
    LoadFailed,
    LoadStarted,
    StorageFailed,
    StorageRecovered,
    Switched,
    Unloaded,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "ctr"
    directory.mkdir()
    return directory


@pytest.fixture(autouse=True)
def _a_gate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_manager, "gate", hot_manager.LoadGate())


# Which version is loaded, and when.


def test_the_newest_version_is_loaded_first_and_alone(base: Path) -> None:
    for version in ("2", "10", "9"):
        write_version(base, version)
    stepper = Stepper(base)
    stepper.look(3)
    assert stepper.serving == 10
    assert stepper.loader.trace == ["load 10"]


def test_names_that_are_no_numbers_are_no_versions(base: Path) -> None:
    for name in ("7", "0003", "tmp.8", "-9", "10a", "٣"):
        write_version(base, name)
    (base / "11").write_text("a file")
    stepper = Stepper(base)
    stepper.look()
    assert [status.version for status in stepper.manager.versions()] == [7, 3]


def test_the_next_version_is_loaded_beside_the_old_and_the_old_unloaded_after(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.loader.trace == ["load 1", "load 2", "close 1"]
    assert stepper.events == [
        LoadStarted("ctr", 1),
        Loaded("ctr", 1, 0.0),
        Switched("ctr", 1, None),
        LoadStarted("ctr", 2),
        Loaded("ctr", 2, 0.0),
        Switched("ctr", 2, 1),
        Unloaded("ctr", 1, 0.0),
    ]


def test_the_newest_n_versions_stay_loaded(base: Path) -> None:
    for version in (1, 2, 3):
        write_version(base, version)
    stepper = Stepper(base, keep=2)
    stepper.look(3)
    assert stepper.loader.trace == ["load 3", "load 2"]
    write_version(base, 4)
    stepper.look(3)
    assert stepper.serving == 4
    assert stepper.loader.loaded() == [3, 4]
    assert [(s.version, s.state) for s in stepper.manager.versions()] == [
        (4, "serving"),
        (3, "loaded"),
        (2, "found"),
        (1, "found"),
    ]


# Directories that another process is writing.


def test_a_version_is_loaded_when_its_files_have_rested_for_a_poll(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    # GIVEN a version that is written in pieces
    directory = base / "2"
    (directory / "variables").mkdir(parents=True)
    stepper.look(3)
    (directory / "saved_model.pb").write_text("graph")
    for size in (10, 20, 30):
        (directory / "variables" / "data").write_text("x" * size)
        stepper.look()
    # THEN it is not touched while pieces come
    assert stepper.loader.trace == ["load 1"]
    # AND wake-ups in between are no second look
    stepper.settle()
    stepper.settle()
    assert stepper.serving == 1
    stepper.look()
    assert stepper.serving == 2
    assert "LoadFailed" not in stepper.kinds()


def test_a_version_that_is_being_written_comes_before_older_ones(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    write_version(base, 3)
    write_version(base, 2)
    for number in range(3):
        write_version(base, 3, "x" * number)
        stepper.look()
    assert stepper.loader.trace == ["load 1"]
    stepper.look()
    assert stepper.loader.trace == ["load 1", "load 3", "close 1"]


def test_an_upload_that_stopped_before_saved_model_pb_holds_nothing_up(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    (base / "3" / "variables").mkdir(parents=True)
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 2


def test_while_nothing_serves_a_version_is_tried_at_once(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.settle()
    assert stepper.serving == 1


def test_a_version_in_several_pieces_at_the_start_is_served_when_it_is_whole(base: Path) -> None:
    # GIVEN nothing that serves, and half a version
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.loader.errors[1] = OSError("variables.index is missing")
    stepper.settle()
    assert stepper.serving is None
    # WHEN the rest comes
    del stepper.loader.errors[1]
    (base / "1" / "variables" / "variables.index").write_text("index")
    stepper.look()
    assert stepper.serving == 1


# Versions that do not load.


def test_a_loader_that_would_end_the_program_has_failed(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    write_version(base, 2)
    stepper.loader.errors[2] = SystemExit(3)
    stepper.look(2)
    assert stepper.serving == 1
    assert stepper.manager.versions()[0].error == "SystemExit: 3"


def test_a_version_that_changes_while_it_is_loaded_does_not_serve(base: Path) -> None:
    # GIVEN a copy that goes on during the first load, when nothing serves yet
    directory = write_version(base, 1)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("a")
    stepper = Stepper(base)
    stepper.loader.during = lambda: vocabulary.write_text(vocabulary.read_text() + "b")
    stepper.settle()
    # THEN what was loaded is thrown away
    assert stepper.serving is None
    assert stepper.loader.trace == ["load 1", "close 1"]
    assert stepper.manager.versions()[0].error == (
        f"HotModelError: {vocabulary} changed while the version was loaded"
    )
    # AND the whole version serves
    stepper.loader.during = lambda: None
    stepper.look(2)
    assert stepper.serving == 1


def test_a_link_to_nowhere_in_a_version_is_a_file_at_rest(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    directory = write_version(base, 2)
    (directory / "README.md").symlink_to("../shared/README.md")
    (directory / "loop").symlink_to("loop")
    (directory / "here").symlink_to(".")
    stepper.look(2)
    assert stepper.serving == 2


def test_a_version_that_cannot_be_looked_at_is_tried_and_reported(base: Path) -> None:
    # GIVEN versions of which the newest is a link to itself
    write_version(base, 1)
    (base / "9").symlink_to("9")
    stepper = Stepper(base)
    stepper.loader.errors[9] = OSError(40, "Too many levels of symbolic links")
    stepper.look(2)
    # THEN an older one serves, and everybody can see why
    assert stepper.serving == 1
    assert stepper.manager.stats().storage_failures == 0
    assert [(s.version, s.state) for s in stepper.manager.versions()] == [
        (9, "failed"),
        (1, "serving"),
    ]
    assert [e.version for e in stepper.events if isinstance(e, LoadFailed)][:1] == [9]


def test_a_version_that_does_not_load_leaves_the_old_one_and_is_reported(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    error = stepper.loader.errors[2] = MemoryError("3 GiB")
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 1
    assert stepper.loader.loaded() == [1]
    assert stepper.events[-1] == LoadFailed("ctr", 2, error, failures=1, retry_seconds=1.0)
    assert "ctr: version 2 did not load (1 in a row), next try in 1 s: MemoryError: 3 GiB" in (
        caplog.text
    )
    stats = stepper.manager.stats()
    assert (stats.loads, stats.load_failures) == (1, 1)
    status = stepper.manager.versions()[0]
    assert (status.state, status.failures, status.error) == ("failed", 1, "MemoryError: 3 GiB")


def test_pauses_between_tries_grow_to_their_limit(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    stepper.loader.errors[2] = ValueError("corrupt")
    write_version(base, 2)
    tries = []
    for number in range(60):
        before = len(stepper.loader.trace)
        stepper.look()
        if len(stepper.loader.trace) > before:
            tries.append(number)
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    assert pauses[:6] == [1, 2, 4, 8, 8, 8]
    # AND one that loads in the end is as good as any
    stepper.loader.errors.clear()
    stepper.look(8)
    assert stepper.serving == 2
    assert stepper.manager.versions()[0].failures == 0


def test_a_version_whose_files_change_is_tried_when_they_rest(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    stepper.loader.errors[2] = ValueError("corrupt")
    write_version(base, 2)
    stepper.look(20)
    del stepper.loader.errors[2]
    stepper.look()  # in the middle of a long pause
    assert stepper.serving == 1
    write_version(base, 2, "whole")
    stepper.look(2)
    assert stepper.serving == 2


def test_older_versions_are_tried_while_nothing_serves(base: Path) -> None:
    for version in (1, 2, 3):
        write_version(base, version)
    stepper = Stepper(base)
    stepper.loader.errors = {3: ValueError("corrupt"), 2: ValueError("corrupt too")}
    stepper.look()
    assert stepper.loader.trace == ["fail 3", "fail 2", "load 1"]
    assert stepper.serving == 1


def test_a_newer_version_than_one_that_does_not_load_is_served(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    stepper.loader.errors[2] = ValueError("corrupt")
    write_version(base, 2)
    stepper.look(5)
    write_version(base, 3)
    stepper.look(2)
    assert stepper.serving == 3
    stepper.look(50)
    assert stepper.loader.loaded() == [3]


# What goes away.


def test_a_version_that_goes_away_is_unloaded_when_another_serves(base: Path) -> None:
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base)
    stepper.look()
    remove_version(base, 2)
    stepper.look()
    assert stepper.loader.trace == ["load 2"]
    stepper.look(2)
    assert stepper.loader.trace == ["load 2", "load 1", "close 2"]
    assert stepper.serving == 1


def test_a_version_that_one_look_does_not_see_stays(base: Path) -> None:
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base)
    stepper.look()
    (base / "2").rename(base / "away")
    stepper.look()
    (base / "away").rename(base / "2")
    stepper.look(3)
    assert stepper.loader.trace == ["load 2"]


def test_the_last_version_stays_when_every_directory_goes(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    remove_version(base, 1)
    stepper.look(5)
    assert stepper.serving == 1
    write_version(base, 2)
    stepper.look(2)
    assert stepper.loader.trace == ["load 1", "load 2", "close 1"]


def test_everything_serves_on_without_the_base_directory(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base, keep=2)
    stepper.look(2)
    away = base.with_name("away")
    base.rename(away)
    stepper.look(5)
    assert stepper.serving == 2
    assert stepper.loader.loaded() == [2, 1]
    away.rename(base)
    stepper.look(5)
    assert stepper.loader.trace == ["load 2", "load 1"]
    # One event for the outage, whatever its length, and the looks are counted.
    assert [e for e in stepper.events if isinstance(e, StorageFailed)] == [
        StorageFailed("ctr", stepper.events[-2].error)  # type: ignore[attr-defined]
    ]
    assert stepper.events[-1] == StorageRecovered("ctr")
    assert stepper.manager.stats().storage_failures == 5
    assert caplog.text.count("cannot list") == 1
    assert f"ctr: cannot list {base}, what is loaded serves on: " in caplog.text


def test_a_base_directory_that_is_not_there_yet_promises_nothing(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base.rmdir()
    Stepper(base).look()
    assert f"ctr: cannot list {base}, and nothing is loaded: " in caplog.text


def test_a_hiccup_of_the_storage_is_no_disappearance(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base)
    stepper.look()
    remove_version(base, 2)
    stepper.look()  # the first look without it

    def fail(base: Path) -> dict[int, Path]:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(version_directory, "list_versions", fail)
        stepper.look(5)
    assert stepper.serving == 2
    write_version(base, 2)
    stepper.look(3)
    assert stepper.loader.trace == ["load 2"]


def test_the_wall_clock_is_not_asked(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> float:
        raise AssertionError("time.time() was called")

    monkeypatch.setattr(time, "time", fail)
    write_version(base, 1)
    stepper = Stepper(base)
    stepper.look()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.serving == 2


# Policy "resource".


def test_resource_unloads_before_it_loads(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, policy="resource")
    stepper.look()
    write_version(base, 2)
    stepper.look(2)
    assert stepper.loader.trace == ["load 1", "close 1", "load 2"]
    assert [e for e in stepper.events if isinstance(e, Switched)] == [
        Switched("ctr", 1, None),
        Switched("ctr", None, 1),
        Switched("ctr", 2, None),
    ]


def test_resource_waits_for_calls_in_flight(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, policy="resource")
    stepper.look()
    entry = stepper.manager.acquire()
    write_version(base, 2)
    stepper.look(5)
    assert stepper.loader.trace == ["load 1"]
    with pytest.raises(NotServingError):
        stepper.manager.acquire()
    stepper.manager.release(entry, failed=False)
    stepper.settle()
    assert stepper.loader.trace == ["load 1", "close 1", "load 2"]


def test_resource_with_two_versions_always_has_one_that_serves(base: Path) -> None:
    for version in (1, 2):
        write_version(base, version)
    stepper = Stepper(base, policy="resource", keep=2)
    stepper.look(3)
    write_version(base, 3)
    stepper.look(2)
    assert stepper.loader.trace == ["load 2", "load 1", "close 1", "load 3"]
    assert Switched("ctr", None, 2) not in stepper.events


def test_resource_goes_back_to_the_old_version_and_does_not_try_again_on_its_own(
    base: Path,
) -> None:
    write_version(base, 1)
    stepper = Stepper(base, policy="resource")
    stepper.look()
    stepper.loader.errors[2] = ValueError("corrupt")
    write_version(base, 2)
    stepper.look(50)
    assert stepper.loader.trace == ["load 1", "close 1", "fail 2", "load 1"]
    (failed,) = [e for e in stepper.events if isinstance(e, LoadFailed)]
    assert failed.retry_seconds is None
    # WHEN the files change, it is tried once more
    del stepper.loader.errors[2]
    write_version(base, 2, "whole")
    stepper.look(2)
    assert stepper.serving == 2


def test_resource_tries_again_while_nothing_serves(base: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, policy="resource")
    stepper.loader.errors[1] = MemoryError()
    stepper.look(3)
    del stepper.loader.errors[1]
    stepper.look(8)
    assert stepper.serving == 1


def test_resource_lets_others_load_while_it_waits_for_calls(base: Path, tmp_path: Path) -> None:
    write_version(base, 1)
    stepper = Stepper(base, policy="resource")
    stepper.look()
    entry = stepper.manager.acquire()
    write_version(base, 2)
    stepper.look(2)
    # WHEN another model has something to load meanwhile
    write_version(tmp_path / "other", 1)
    other = Stepper(tmp_path / "other")
    other.look()
    assert other.serving == 1
    # AND the first can go on
    stepper.manager.release(entry, failed=False)
    stepper.settle()
    assert stepper.serving == 2
