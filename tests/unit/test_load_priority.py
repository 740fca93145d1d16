# SPDX-License-Identifier: Apache-2.0
"""`run_at_load_priority` and `loading`, on what the kernel says of the threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tf_model_pool
from tf_model_pool import api, load_priority

How = tuple[int, int]
OWN_NICE = os.getpriority(os.PRIO_PROCESS, 0)
NORMAL: How = (os.SCHED_OTHER, OWN_NICE)
NICEST = 19
LOWERED: How = (os.SCHED_OTHER, min(NICEST, OWN_NICE + 10))
PRIORITIES = [("auto", LOWERED), ("normal", NORMAL)]


def _how() -> How:
    thread = threading.get_native_id()
    return os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The value of TF_MODEL_POOL_LOAD_PRIORITY."""
    value = str(request.param)
    monkeypatch.setattr(api, "settings", lambda: {"TF_MODEL_POOL_LOAD_PRIORITY": value})
    return value


@pytest.fixture
def can_raise() -> None:
    """Skips what the kernel would refuse to this process."""
    load_priority._can_raise_again.cache_clear()
    if not load_priority._can_raise_again():
        pytest.skip("needs CAP_SYS_NICE; what happens without it has a test of its own")


@pytest.mark.parametrize(("setting", "expected"), PRIORITIES, indirect=["setting"])
def test_the_function_runs_at_the_priority_and_the_caller_does_not(
    setting: str, expected: How
) -> None:
    assert tf_model_pool.run_at_load_priority(_how) == expected
    assert _how() == NORMAL


@pytest.mark.parametrize("setting", ["auto"], indirect=True)
def test_threads_that_the_function_starts_give_way_too(setting: str) -> None:
    seen: list[How] = []

    def start() -> None:
        thread = threading.Thread(target=lambda: seen.append(_how()))
        thread.start()
        thread.join()

    tf_model_pool.run_at_load_priority(start)
    assert seen == [LOWERED]


@pytest.mark.parametrize("setting", ["auto", "normal"], indirect=True)
def test_arguments_results_and_errors_pass_through(setting: str) -> None:
    assert tf_model_pool.run_at_load_priority(divmod, 7, 2) == (3, 1)
    assert tf_model_pool.run_at_load_priority(sorted, [1, 3, 2], reverse=True) == [3, 2, 1]
    with pytest.raises(ZeroDivisionError):
        tf_model_pool.run_at_load_priority(divmod, 7, 0)


@pytest.mark.parametrize(("setting", "expected"), PRIORITIES, indirect=["setting"])
def test_a_block_runs_at_the_priority_and_what_follows_does_not(
    setting: str, expected: How, can_raise: None
) -> None:
    with tf_model_pool.loading():
        assert _how() == expected
    assert _how() == NORMAL
    with pytest.raises(ZeroDivisionError), tf_model_pool.loading():
        divmod(7, 0)
    assert _how() == NORMAL


def _run_at(nice: int, program: str) -> list[str]:
    """The lines that a process prints which is as nice as that from its beginning."""
    begin = (
        "import os, resource, threading\n"
        "import tf_model_pool\n"
        "from tf_model_pool import api\n"
        "api.settings = lambda: {'TF_MODEL_POOL_LOAD_PRIORITY': 'auto'}\n"
        "nice = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
    )
    source = Path(tf_model_pool.__file__).parent.parent
    done = subprocess.run(
        ["nice", "-n", str(nice - OWN_NICE), sys.executable, "-c", begin + program],
        env={**os.environ, "PYTHONPATH": str(source), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


#: To be nicer needs no privileges, to be less nice does.
NICE_FROM_HERE = sorted({nice for nice in (5, 12, NICEST) if nice >= OWN_NICE})


@pytest.mark.parametrize("nice", NICE_FROM_HERE)
def test_a_process_that_is_nice_already_loads_nicer_still(nice: int) -> None:
    found = _run_at(nice, "print(tf_model_pool.run_at_load_priority(nice), nice())\n")
    assert found == [f"{min(NICEST, nice + 10)} {nice}"]


@pytest.mark.parametrize("nice", sorted({OWN_NICE, *NICE_FROM_HERE} - {NICEST}))
def test_without_privileges_a_block_is_refused_and_a_function_runs(nice: int) -> None:
    # GIVEN a process that can lower a thread's priority for good, WHEN it loads in both ways
    lines = _run_at(
        nice,
        "resource.setrlimit(resource.RLIMIT_NICE, (0, 0))\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([])\n"
        "    os.setresuid(65534, 65534, 65534)\n"
        "print(tf_model_pool.run_at_load_priority(nice), nice())\n"
        "try:\n"
        "    with tf_model_pool.loading():\n"
        "        print('inside')\n"
        "except tf_model_pool.LoadPriorityError as error:\n"
        "    print(error)\n"
        "print(nice())\n",
    )
    # THEN the one says what to use, and leaves the thread as it is
    assert lines[0] == f"{min(NICEST, nice + 10)} {nice}"
    assert "CAP_SYS_NICE" in lines[1]
    assert "run_at_load_priority" in lines[1]
    assert lines[2:] == [str(nice)]


def test_a_block_on_a_thread_that_cannot_be_nicer_needs_no_privileges() -> None:
    lines = _run_at(
        NICEST,
        "resource.setrlimit(resource.RLIMIT_NICE, (0, 0))\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([])\n"
        "    os.setresuid(65534, 65534, 65534)\n"
        "with tf_model_pool.loading():\n"
        "    print('inside', nice())\n",
    )
    assert lines == [f"inside {NICEST}"]


def test_without_pools_both_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> dict[str, str]:
        raise tf_model_pool.NotActiveError("no TensorFlow")

    monkeypatch.setattr(api, "settings", refuse)
    with pytest.raises(tf_model_pool.NotActiveError):
        tf_model_pool.run_at_load_priority(len, [])
    with pytest.raises(tf_model_pool.NotActiveError):
        tf_model_pool.loading().__enter__()
