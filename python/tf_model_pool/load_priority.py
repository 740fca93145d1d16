# SPDX-License-Identifier: Apache-2.0
"""Loading from Python so that requests come first."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from tf_model_pool import api
from tf_model_pool.errors import LoadPriorityError

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: How much nicer than its caller: a tenth of its CPU time if both want the same CPU.
_NICER = 10


def run_at_load_priority(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Calls `function` on a thread of its own that gives way to requests, and waits for it.

        model = tf_model_pool.run_at_load_priority(tf.saved_model.load, path)

    What the call does on its thread, and on threads that it starts, runs at a nice value 10 above
    the calling thread's, at most 19, unless `TF_MODEL_POOL_LOAD_PRIORITY` is "normal". Needs no
    privileges.
    TensorFlow's own threads, which all models share, keep their priority; start them before (by
    any operation), or they inherit this one.

    Returns what `function` returns and raises what it raises. Raises `NotActiveError` or
    `SettingError` if there are no pools.
    """
    lower = _lowering(_priority())
    outcome: list[_R] = []
    failure: list[BaseException] = []

    def work() -> None:
        lower()
        try:
            outcome.append(function(*args, **kwargs))
        except BaseException as error:  # the caller's to handle, on its own thread
            failure.append(error)

    thread = threading.Thread(target=work, name="tf_model_load")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Runs a block on the calling thread so that it gives way to requests.

        with tf_model_pool.loading():
            model = tf.saved_model.load(path)

    As `run_at_load_priority`, for work that must stay on its thread. The thread's priority
    is raised again at the end, which takes CAP_SYS_NICE or a resource limit RLIMIT_NICE of at
    least 20 minus the thread's nice value: raises `LoadPriorityError` if the process has
    neither, before the block begins. With priority "normal", and on a thread whose nice value is
    19, does nothing.
    """
    priority = _priority()
    if priority == "normal":
        yield
        return
    if not _can_raise_again():
        raise LoadPriorityError(
            "this process may lower its threads' priority but not raise it again (no CAP_SYS_NICE,"
            " and RLIMIT_NICE is too low): call tf_model_pool.run_at_load_priority(function, ...),"
            " which needs neither"
        )
    thread = threading.get_native_id()
    nice = os.getpriority(os.PRIO_PROCESS, thread)
    _lowering(priority)()
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, thread, nice)


def _priority() -> str:
    return api.settings()["TF_MODEL_POOL_LOAD_PRIORITY"]


def _lowering(priority: str) -> Callable[[], None]:
    """What lowers the thread that calls it."""
    if priority == "normal":
        return lambda: None
    # Here, because the process may be nice already.
    nice = min(19, os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) + _NICER)
    return lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


@functools.cache
def _can_raise_again() -> bool:
    """Tried on a thread that nothing else depends on."""
    found: list[bool] = []

    def attempt() -> None:
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread)
        try:
            os.setpriority(os.PRIO_PROCESS, thread, min(19, nice + 1))
            os.setpriority(os.PRIO_PROCESS, thread, nice)
        except PermissionError:
            found.append(False)
        else:
            found.append(True)

    thread = threading.Thread(target=attempt, name="tf_model_load")
    thread.start()
    thread.join()
    return found == [True]
