# SPDX-License-Identifier: Apache-2.0
"""`HotModel` with its thread, on models that need no TensorFlow.

What the thread decides is tested without it, in `test_hot_choice.py` and `test_hot_manager.py`.
What only threads can do is tested here, and waits for events, not for time.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from support.hot_models import (
    PATIENCE,
    Blocker,
    FakeLoader,
    FakeModel,
    Stepper,
    write_version,
)
from tf_model_pool import HotModel, hot_manager, hot_models
from tf_model_pool.errors import (
    ForkedError,
    HotModelClosedError,
    HotModelError,
    HotModelTimeoutError,
    ModelClosedError,
    ModelPoolError,
    NotServingError,
    VersionLoadError,
    VersionNotFoundError,
)
from tf_model_pool.hot_events import (
    HotEvent,
    LoadStarted,
    Switched,
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "ctr"
    directory.mkdir()
    return directory


@pytest.fixture(autouse=True)
def _a_gate_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hot_manager, "gate", hot_manager.LoadGate())


# The object with its thread.


def _hot(base: Path, **options: Any) -> HotModel:
    return HotModel(base, **{"poll_seconds": 0.01, "loader": FakeLoader(), **options})


def test_ctrl_c_while_it_starts_leaves_no_thread(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GIVEN Ctrl-C while the constructor waits for its thread to begin
    start, begun = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        begun.append(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    # WHEN nobody gets the object that could be closed, and the traceback keeps it
    with pytest.raises(KeyboardInterrupt) as caught:
        _hot(base)
    # THEN
    (thread,) = begun
    assert not thread.is_alive()
    assert caught.tb is not None


def test_a_call_goes_to_the_version_that_serves(base: Path) -> None:
    write_version(base, 3)
    with _hot(base) as hot:
        # The first call waits for the first version.
        answer = hot(ids=[1], outputs=("score",))
        assert answer == {"version": 3, "outputs": ("score",), "inputs": {"ids": [1]}}
        assert hot({"self": 1}, hot=2)["inputs"] == {"self": 1, "hot": 2}
        assert hot.version == 3
        assert list(hot.signatures) == ["rank"]
        assert "rank" in hot.signatures
        assert hot.signatures["rank"](ids=1) == {"ranked": 3}
        with pytest.raises(KeyError, match="nothing"):
            hot.signatures["nothing"](ids=1)
        assert repr(hot) == f"<HotModel '{base}', version 3>"


def test_a_block_stays_on_its_version(base: Path) -> None:
    write_version(base, 1)
    with _hot(base) as hot:
        hot.wait_for(timeout=PATIENCE)
        with hot.use() as model:
            write_version(base, 2)
            assert hot.wait_for(2, PATIENCE) == 2
            assert hot()["version"] == 2
            assert model()["version"] == 1
            assert not model.closed
        use = hot.use()
        with use, pytest.raises(RuntimeError, match="call use\\(\\) again"), use:
            pass


def test_no_call_fails_or_goes_back_while_versions_change(base: Path) -> None:
    # GIVEN callers that never rest
    write_version(base, 1)
    ended = threading.Event()
    wrong: list[Any] = []
    with _hot(base, keep=2) as hot:
        hot.wait_for(timeout=PATIENCE)

        def call() -> None:
            last = 0
            while not ended.is_set():
                try:
                    version = hot()["version"]
                except Exception as error:
                    wrong.append(error)
                    return
                if version < last:
                    wrong.append((last, version))
                last = version

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        # WHEN version after version comes
        for version in range(2, 12):
            write_version(base, version)
            hot.wait_for(version, PATIENCE)
        ended.set()
        for thread in threads:
            thread.join()
        # THEN none was called after it was closed (the fakes see to that), and none came back
        assert wrong == []
        assert hot.stats().request_errors == 0


def test_waiting_says_what_it_waited_for(base: Path) -> None:
    write_version(base, 1)
    with _hot(base) as hot:
        assert hot.wait_for(timeout=PATIENCE) == 1
        with pytest.raises(TimeoutError, match=r"version 7 does not serve .*versions: 1 serving"):
            hot.wait_for(7, timeout=0.01)
        assert issubclass(HotModelTimeoutError, ModelPoolError)


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda base: base.rmdir(), "cannot list"),
        (lambda base: None, "holds no directory with a number as its name"),
        (lambda base: (base / "1").mkdir(), r"no complete SavedModel among versions \[1\]"),
        (lambda base: write_version(base, 13), "version 13 failed to load 1 times: ValueError: no"),
    ],
)
def test_a_call_that_no_version_answers_says_why(base: Path, prepare: Any, why: str) -> None:
    prepare(base)
    stepper = Stepper(base)
    stepper.loader.errors[13] = ValueError("no")
    stepper.settle()
    with pytest.raises(NotServingError, match=why):
        stepper.manager.acquire()


@pytest.mark.parametrize("error", [RuntimeError("the handler's own"), SystemExit(3)])
def test_events_come_in_order_on_one_thread_and_may_raise(
    base: Path, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    seen: list[tuple[HotEvent, str]] = []

    def on_event(event: HotEvent) -> None:
        seen.append((event, threading.current_thread().name))
        raise error

    write_version(base, 1)
    with _hot(base, on_event=on_event, name="m") as hot:
        hot.wait_for(timeout=PATIENCE)
    kinds = [type(event).__name__ for event, _ in seen]
    assert kinds == ["LoadStarted", "Loaded", "Switched", "Switched", "Unloaded"]
    assert {thread for _, thread in seen} == {"tf_hot_model"}
    assert {event.model for event, _ in seen} == {"m"}
    assert caplog.text.count("on_event raised on") == len(seen)


def test_handlers_may_not_wait_for_their_own_thread(base: Path) -> None:
    refused: list[HotModelError] = []
    box: list[HotModel] = []
    made = threading.Event()

    def on_event(event: HotEvent) -> None:
        assert made.wait(PATIENCE)
        for what in (lambda: box[0].wait_for(9), lambda: box[0].reload(9), lambda: box[0]()):
            if isinstance(event, LoadStarted):
                try:
                    what()
                except HotModelError as error:
                    refused.append(error)

    write_version(base, 1)
    with _hot(base, on_event=on_event) as hot:
        box.append(hot)
        made.set()
        hot.wait_for(timeout=PATIENCE)
    assert len(refused) == 3
    assert "call it from another thread" in str(refused[0])
    box.clear()


# Rolling back and pinning.


def test_reload_rolls_back_and_stays_until_it_is_told_otherwise(base: Path) -> None:
    for version in (1, 2):
        write_version(base, version)
    loader = FakeLoader()
    with _hot(base, loader=loader) as hot:
        assert hot.wait_for(timeout=PATIENCE) == 2
        hot.reload(1, timeout=PATIENCE)
        assert hot.version == 1
        assert hot.stats().pinned == 1
        # WHEN a newer one comes, it is not even loaded
        write_version(base, 3)
        with pytest.raises(TimeoutError):
            hot.wait_for(2, timeout=0.2)
        assert loader.trace == ["load 2", "load 1", "close 2"]
        # UNTIL the pin is taken away
        hot.reload(None)
        assert hot.wait_for(3, PATIENCE) == 3
        assert hot.stats().pinned is None


def test_reload_of_a_version_that_is_loaded_loads_nothing(base: Path) -> None:
    for version in (1, 2):
        write_version(base, version)
    loader = FakeLoader()
    with _hot(base, loader=loader, keep=2) as hot:
        while len(loader.loaded()) < 2:
            hot.wait_for(timeout=PATIENCE)
        hot.reload(1, timeout=PATIENCE)
        hot.reload(2, timeout=PATIENCE)
        hot.reload(2, timeout=PATIENCE)
        assert loader.trace == ["load 2", "load 1"]
        # UNLESS its files were replaced
        hot.reload(2, again=True, timeout=PATIENCE)
        assert loader.trace[:3] == ["load 2", "load 1", "load 2"]
        assert hot()["version"] == 2
        assert loader.models[2].calls == [{}]
    assert all(model.closed for model in loader.models)


@pytest.mark.parametrize("policy", ["availability", "resource"])
def test_a_reload_that_fails_says_so_and_changes_nothing(base: Path, policy: Any) -> None:
    for version in (1, 2, 3):
        write_version(base, version)
    loader = FakeLoader()
    loader.errors[1] = ValueError("corrupt")
    with _hot(base, loader=loader, policy=policy) as hot:
        hot.reload(2, timeout=PATIENCE)
        with pytest.raises(VersionLoadError, match="version 1 does not load: corrupt") as raised:
            hot.reload(1, timeout=PATIENCE)
        assert raised.value.__cause__ is loader.errors[1]
        with pytest.raises(VersionNotFoundError, match=r"no version 8; there are \[1, 2, 3\]"):
            hot.reload(8, timeout=PATIENCE)
        assert hot()["version"] == 2
        assert hot.stats().pinned == 2


def test_a_later_reload_takes_the_place_of_one_that_still_waits(base: Path) -> None:
    # GIVEN a reload that cannot begin, because a call holds the old version
    for version in (1, 2):
        write_version(base, version)
    with _hot(base, policy="resource") as hot:
        hot.wait_for(timeout=PATIENCE)
        with hot.use():
            with pytest.raises(HotModelTimeoutError, match="the order stands"):
                hot.reload(1, timeout=0.01)
            failed: list[BaseException] = []

            def reload() -> None:
                try:
                    hot.reload(1)
                except HotModelError as error:
                    failed.append(error)

            thread = threading.Thread(target=reload)
            thread.start()
            while hot._manager._reload is None or hot._manager._reload.version != 1:
                pass
            # WHEN another comes
            hot.reload(None, timeout=PATIENCE)
            while thread.is_alive() and not failed:
                hot.reload(None, timeout=PATIENCE)
            thread.join()
        # THEN the first one says so
        assert "was overtaken by reload(None)" in str(failed[0])
        assert hot()["version"] == 2


# The end.


def test_close_lets_calls_in_flight_finish_and_refuses_later_ones(base: Path) -> None:
    write_version(base, 1)
    loader = FakeLoader()
    hot = _hot(base, loader=loader)
    blocker = Blocker()
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(hot(run=blocker.enter)))
    caller.start()
    blocker.wait_until_entered()
    # WHEN it is closed while a call runs
    with pytest.raises(TimeoutError, match="1 calls or a load have not ended"):
        hot.close(timeout=0.01)
    with pytest.raises(HotModelClosedError, match="is closed"):
        hot()
    assert not loader.models[0].closed
    # THEN the call ends as it would have
    blocker.leave()
    hot.close()
    caller.join()
    assert answers[0]["version"] == 1
    assert loader.trace == ["load 1", "close 1"]
    hot.close()
    assert hot.version is None
    assert issubclass(HotModelClosedError, ModelClosedError)
    for refused in (hot, hot.wait_for, lambda: hot.reload(1), hot.use().__enter__):
        with pytest.raises(HotModelClosedError):
            refused()


def test_close_ends_what_waits_for_a_version(base: Path) -> None:
    hot = _hot(base)
    errors: list[Exception] = []

    def run(what: Any) -> None:
        try:
            what()
        except HotModelClosedError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(what,)) for what in (hot, hot.wait_for)]
    for thread in threads:
        thread.start()
    hot.close()
    for thread in threads:
        thread.join()
    assert len(errors) == 2


def test_close_waits_for_a_load_and_throws_it_away(base: Path) -> None:
    write_version(base, 1)
    loader = FakeLoader()
    blocker = Blocker()
    loader.during = blocker.enter
    hot = _hot(base, loader=loader)
    blocker.wait_until_entered()
    with pytest.raises(TimeoutError):
        hot.close(timeout=0.01)
    blocker.leave()
    hot.close()
    assert loader.trace == ["load 1", "close 1"]
    assert hot_models() == []


def test_a_handler_may_close(base: Path) -> None:
    box: list[HotModel] = []
    made = threading.Event()

    def on_event(event: HotEvent) -> None:
        assert made.wait(PATIENCE)
        if isinstance(event, Switched) and event.version is not None:
            box[0].close()

    write_version(base, 1)
    loader = FakeLoader()
    hot = _hot(base, loader=loader, on_event=on_event)
    box.append(hot)
    made.set()
    hot.close()
    assert all(model.closed for model in loader.models)
    box.clear()


def test_one_that_is_dropped_unloads_and_ends_without_the_garbage_collector(base: Path) -> None:
    write_version(base, 1)
    loader = FakeLoader()
    gc.disable()
    try:
        hot = _hot(base, loader=loader)
        hot.wait_for(timeout=PATIENCE)
        thread, gone = hot._manager._thread, weakref.ref(hot)
        assert thread is not None
        del hot
        assert gone() is None
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert loader.trace == ["load 1", "close 1"]
        model = weakref.ref(loader.models.pop())
        assert model() is None or gc.collect() >= 0
    finally:
        gc.enable()


def test_a_handler_that_refers_to_the_object_does_not_keep_it(base: Path) -> None:
    class Server:
        def __init__(self) -> None:
            self.hot = _hot(base, on_event=self.on_event)

        def on_event(self, event: HotEvent) -> None:
            pass

    write_version(base, 1)
    server = Server()
    server.hot.wait_for(timeout=PATIENCE)
    thread, gone = server.hot._manager._thread, weakref.ref(server.hot)
    assert thread is not None
    del server
    gc.collect()
    thread.join(PATIENCE)
    assert gone() is None
    assert not thread.is_alive()


def test_an_unloaded_model_is_not_referred_to(base: Path) -> None:
    class Forgetful(FakeLoader):
        def __call__(self, path: str) -> FakeModel:
            model = super().__call__(path)
            self.models.clear()
            return model

    write_version(base, 1)
    stepper = Stepper(base, Forgetful())
    stepper.look()
    entry = stepper.manager.acquire()
    # The fake has a cycle of its own: its signature is a bound method.
    model = entry.model
    assert isinstance(model, FakeModel)
    model.signatures = {}
    gone = weakref.ref(model)
    stepper.manager.release(entry, failed=False)
    del model, entry
    gc.disable()
    try:
        write_version(base, 2)
        stepper.look(2)
        assert gone() is None
    finally:
        gc.enable()


def _run_script(text: str, base: Path) -> subprocess.CompletedProcess[str]:
    tests = Path(__file__).resolve().parents[1]
    prologue = f"""
        import os, sys, threading
        sys.path.append({str(tests)!r})
        from pathlib import Path
        from support.hot_models import Blocker, FakeLoader, write_version
        import tf_model_pool
        from tf_model_pool import HotModel, at_exit, hot_manager
        base = Path({str(base)!r})
        write_version(base, 1)
        loader = FakeLoader()
        hot = HotModel(base, poll_seconds=0.01, loader=loader)
    """
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(prologue) + textwrap.dedent(text)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_the_interpreter_ends_with_one_alive(base: Path) -> None:
    done = _run_script(
        """
        import atexit
        atexit.register(lambda: print(loader.trace))
        hot.wait_for()
        # What is registered last runs first; the model is to be unloaded by then.
        atexit.unregister(hot_manager._close_all_at_exit)
        atexit.register(hot_manager._close_all_at_exit)
        """,
        base,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "['load 1', 'close 1']\n", "")


def test_the_interpreter_ends_while_a_call_or_a_load_hangs(base: Path) -> None:
    done = _run_script(
        """
        at_exit.LONGEST_WAIT = 0.1
        blocker = Blocker()
        threading.Thread(target=lambda: hot(run=blocker.enter), daemon=True).start()
        blocker.wait_until_entered()
        stuck = Blocker()
        loader.during = stuck.enter
        write_version(base, 2)
        stuck.wait_until_entered()
        print("ends")
        """,
        base,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")


def test_calls_and_versions_delay_the_end_of_the_interpreter_for_ten_seconds_together(
    base: Path,
) -> None:
    done = _run_script(
        """
        import atexit, importlib, types
        now = [1000.0]
        at_exit.time = types.SimpleNamespace(monotonic=lambda: now[0])
        def wait(_, seconds):
            print(seconds)
            now[0] += seconds
        hot_manager.Manager.join = wait
        native = types.SimpleNamespace(close_all=lambda seconds: wait(None, seconds))
        # As the first load does.
        importlib.import_module("tf_model_pool.load").close_at_exit(native)
        """,
        base,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "10.0\n0.0\n", "")


def test_a_forked_child_says_what_to_do_and_the_parent_serves_on(base: Path) -> None:
    done = _run_script(
        """
        hot.wait_for()
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            assert hot()["version"] == 1
            write_version(base, 2)
            hot.wait_for(2)
            hot.close()
            print("parent", loader.trace)
        else:
            for call in (hot, hot.wait_for, lambda: hot.reload(1)):
                try:
                    call()
                except tf_model_pool.ForkedError as error:
                    text = str(error)
            print(text)
            with HotModel(base, poll_seconds=0.01, loader=FakeLoader()) as mine:
                print("child", mine()["version"])
            hot.close()
            del hot
        """,
        base,
    )
    assert done.stderr == ""
    assert "make the HotModel in each worker (gunicorn: without --preload" in done.stdout
    assert "child 1\n" in done.stdout
    assert "parent ['load 1', 'load 2', 'close 1', 'close 2']\n" in done.stdout
    assert issubclass(tf_model_pool.HotModelForkedError, ForkedError)


def test_it_cannot_be_pickled(base: Path) -> None:
    with _hot(base) as hot, pytest.raises(TypeError, match="one in each process"):
        pickle.dumps(hot)


# asyncio.


def test_the_event_loop_goes_on_while_calls_run_and_wait(base: Path) -> None:
    async def main() -> None:
        # GIVEN no version yet, and more calls than threads
        with _hot(base, async_threads=2) as hot:
            waiting = [asyncio.create_task(hot.call_async(ids=i)) for i in range(5)]
            ranked = asyncio.create_task(hot.signatures["rank"].call_async())
            for _ in range(10):
                await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            # WHEN one comes, which only this loop can bring about
            write_version(base, 1)
            answers = await asyncio.wait_for(asyncio.gather(*waiting), PATIENCE)
            assert [answer["inputs"]["ids"] for answer in answers] == list(range(5))
            assert await ranked == {"ranked": 1}
            # THEN calls run beside the loop
            blocker = Blocker()
            running = asyncio.create_task(hot.call_async({"run": blocker.enter}))
            while not blocker.entered.is_set():
                await asyncio.sleep(0)
            blocker.leave()
            assert (await asyncio.wait_for(running, PATIENCE))["version"] == 1

    asyncio.run(main())


def test_awaited_calls_raise_as_calls_do(base: Path) -> None:
    async def main() -> None:
        with _hot(base, wait_seconds=0.01) as hot:
            error: BaseException | None = None
            try:
                await hot.call_async()
            except NotServingError as raised:
                error = raised
            assert "holds no directory" in str(error)
        with pytest.raises(HotModelClosedError):
            await hot.call_async()
        hot = _hot(base)
        waiting = asyncio.create_task(hot.call_async())
        await asyncio.sleep(0)
        hot.close()
        with pytest.raises(HotModelClosedError):
            await waiting

    asyncio.run(main())


def test_a_call_whose_task_is_cancelled_ends_and_lets_go(base: Path) -> None:
    async def main() -> None:
        write_version(base, 1)
        blocker = Blocker()
        with _hot(base) as hot:
            task = asyncio.create_task(hot.call_async({"run": blocker.enter}))
            while not blocker.entered.is_set():
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert hot.stats().requests_in_flight == 1
            blocker.leave()
        assert hot.stats().requests_in_flight == 0

    asyncio.run(main())


# Arguments, counts.


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"poll_seconds": 0}, ValueError, "poll_seconds=0: must be above 0"),
        ({"poll_seconds": float("nan")}, ValueError, "poll_seconds=nan"),
        ({"policy": "best"}, ValueError, "policy='best': allowed are availability, resource"),
        ({"keep": 0}, ValueError, "keep=0: must be 1 or more"),
        ({"keep": 1.5}, TypeError, "keep=1.5: must be an int"),
        ({"wait_seconds": -1}, ValueError, "wait_seconds=-1: must be 0 or more"),
        ({"retry_max_seconds": float("inf")}, ValueError, "retry_max_seconds=inf"),
        ({"async_threads": 0}, ValueError, "async_threads=0"),
        ({"warmup": "always"}, ValueError, "warmup='always'"),
    ],
)
def test_arguments_outside_their_range_are_named(
    base: Path, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        _hot(base, **options)
    assert hot_models() == []


def test_a_base_path_that_is_one_version_or_a_file_is_refused(base: Path) -> None:
    write_version(base, 1)
    with pytest.raises(ValueError, match="give the directory that holds its versions"):
        _hot(base / "1")
    with pytest.raises(ValueError, match="is a file"):
        _hot(base / "1" / "saved_model.pb")


def test_counts_are_those_of_what_happened(base: Path) -> None:
    write_version(base, 1)
    with _hot(base, name="m") as hot:
        hot()
        with pytest.raises(ZeroDivisionError):
            hot(run=lambda: 1 // 0)
        hot.signatures["rank"]()
        stats = hot.stats()
        assert stats in hot_models()
        assert (stats.name, stats.version, stats.loads, stats.load_failures) == ("m", 1, 1, 0)
        assert (stats.requests, stats.request_errors, stats.requests_in_flight) == (3, 1, 0)
        assert stats.load_seconds == stats.last_load_seconds >= 0
    assert hot_models() == []
    assert hot.stats().unloads == 1
