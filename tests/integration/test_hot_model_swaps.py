# SPDX-License-Identifier: Apache-2.0
"""`HotModel` on real models: swaps under load, damaged versions, warm-up files, pools."""

from __future__ import annotations

import gc
import queue
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_model_pool
from support import models
from support.children import Places
from support.hot_models import PATIENCE
from support.modes import child_environment
from tf_model_pool import HotModel, LoadFailed, TensorFlowError, Unloaded, VersionLoadError
from tf_model_pool.hot_events import HotEvent
from tf_model_pool.warmup import WARMUP_FILE

ROUNDS = 8
THREADS = 4
BATCH = 32


def put(source: Path, base: Path, version: int) -> Path:
    """Deploys a version as `cp -r` does: file by file, at its final place."""
    shutil.copytree(source, base / str(version))
    return base / str(version)


def put_whole(source: Path, base: Path, version: int) -> Path:
    """Deploys a version at once, so that no look finds a part of it."""
    shutil.copytree(source, base / "partial")
    return (base / "partial").rename(base / str(version))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    directory = tmp_path / "exact"
    directory.mkdir()
    return directory


@pytest.fixture(scope="module")
def exact(places: Places) -> list[Path]:
    """Versions 1 to 4 of a model whose answers numpy can compute."""
    return [places.models / "exact" / str(version) for version in (1, 2, 3, 4)]


@pytest.fixture(scope="module")
def answers() -> dict[bytes, int]:
    """What each version answers to request 0, and which version that is."""
    ids = models.request(0, BATCH)
    specs = models.CATALOGUE["exact"]
    return {
        models.exact_score(models.weights(spec, number), ids).tobytes(): number
        for number, spec in enumerate(specs, start=1)
    }


@pytest.fixture
def ids() -> np.ndarray[Any, Any]:
    return models.request(0, BATCH)


def source_of(exact: list[Path], version: int) -> Path:
    return exact[(version - 1) % len(exact)]


def test_every_answer_under_load_is_that_of_one_version_and_memory_goes_back(
    base: Path, exact: list[Path], answers: dict[bytes, int], ids: np.ndarray[Any, Any]
) -> None:
    # GIVEN callers that never rest
    put_whole(exact[0], base, 1)
    ended = threading.Event()
    unloaded: queue.SimpleQueue[int] = queue.SimpleQueue()

    def on_event(event: HotEvent) -> None:
        if isinstance(event, Unloaded):
            unloaded.put(event.version)

    def call(hot: HotModel) -> int:
        calls = 0
        while not ended.is_set():
            before = hot.version
            score = hot(ids=ids, outputs=("score",))["score"]
            after = hot.version
            assert before is not None
            assert after is not None
            # A mixed answer is in no version's book, a late one is in a wrong one's.
            allowed = [(v - 1) % len(exact) + 1 for v in range(before, after + 1)]
            assert answers[score.tobytes()] in allowed
            calls += 1
        return calls

    with (
        HotModel(base, poll_seconds=0.02, on_event=on_event) as hot,
        ThreadPoolExecutor(THREADS) as executor,
    ):
        hot.wait_for(1, PATIENCE)
        calls = [executor.submit(call, hot) for _ in range(THREADS)]
        # WHEN version after version is deployed, and the old one removed
        try:
            for version in range(2, 2 + ROUNDS):
                put_whole(source_of(exact, version), base, version)
                hot.wait_for(version, PATIENCE)
                assert unloaded.get(timeout=PATIENCE) == version - 1
                shutil.rmtree(base / str(version - 1))
        finally:
            ended.set()
        # THEN no call failed, and each was answered by a version that served while it ran
        count = sum(found.result() for found in calls)
        stats = hot.stats()
        assert stats.request_errors == 0
        assert stats.requests == count
        assert (stats.loads, stats.load_failures) == (1 + ROUNDS, 0)
        # AND no more than two versions were ever in memory
        mine = [pool for pool in tf_model_pool.pools() if pool.model_dir == str(base)]
        assert len({pool.slot for pool in mine}) <= 2
        assert [pool.version for pool in mine if pool.state == "live"] == [str(1 + ROUNDS)]
    mine = [pool for pool in tf_model_pool.pools() if pool.model_dir == str(base)]
    assert {pool.bytes_in_use for pool in mine} == {0}


def test_a_version_has_executors_for_what_the_one_before_was_asked_for_when_it_serves(
    tmp_path: Path, places: Places, ids: np.ndarray[Any, Any]
) -> None:
    # GIVEN requests for parts of the answers, of two signatures
    base = tmp_path / "ctr"
    base.mkdir()
    sources = [places.models / "ctr" / str(version) for version in (1, 2, 3)]
    put_whole(sources[0], base, 1)
    with HotModel(base, poll_seconds=0.02) as hot:

        def call() -> int:
            before = hot.stats().cold_requests
            assert list(hot(ids=ids, outputs=["score"])) == ["score"]
            assert list(hot(ids=ids, outputs=("score", "hidden"))) == ["score", "hidden"]
            assert list(hot.signatures["describe"](outputs=["step"])) == ["step"]
            assert set(hot(ids=ids)) == {"score", "hidden"}
            return hot.stats().cold_requests - before

        # WHEN the first version gets them, each part is new to it
        assert call() == 2
        assert call() == 0
        # THEN later ones have been prepared for them
        put_whole(sources[1], base, 2)
        hot.wait_for(2, PATIENCE)
        assert call() == 0
        put_whole(sources[2], base, 3)
        hot.wait_for(3, PATIENCE)
        assert call() == 0
        assert hot.stats().cold_requests == 2


def _cut_index(version: Path) -> None:
    index = version / "variables" / "variables.index"
    index.write_bytes(index.read_bytes()[:100])


def _remove_data(version: Path) -> None:
    (version / "variables" / "variables.data-00000-of-00001").unlink()


def _break_data(version: Path) -> None:
    data = version / "variables" / "variables.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 0xFF
    data.write_bytes(content)


def _cut_graph(version: Path) -> None:
    graph = version / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:500])


@pytest.mark.parametrize("damage", [_cut_index, _remove_data, _break_data, _cut_graph])
def test_a_damaged_version_leaves_the_old_one_and_is_served_once_it_is_mended(
    damage: Callable[[Path], None],
    base: Path,
    exact: list[Path],
    answers: dict[bytes, int],
    ids: np.ndarray[Any, Any],
    tmp_path: Path,
) -> None:
    failed: list[LoadFailed] = []
    reported = threading.Event()

    def on_event(event: HotEvent) -> None:
        if isinstance(event, LoadFailed):
            failed.append(event)
            reported.set()

    put(exact[0], base, 1)
    with HotModel(base, poll_seconds=0.02, on_event=on_event) as hot:
        hot.wait_for(1, PATIENCE)
        damaged = put(exact[1], tmp_path, 2)
        damage(damaged)
        damaged.rename(base / "2")
        assert reported.wait(PATIENCE)
        assert isinstance(failed[0].error, TensorFlowError)
        assert answers[hot(ids=ids)["score"].tobytes()] == 1
        with pytest.raises(VersionLoadError):
            hot.reload(2, timeout=PATIENCE)
        assert hot.version == 1
        # WHEN the files are copied once more
        shutil.copytree(exact[1], base / "2", dirs_exist_ok=True)
        assert hot.wait_for(2, PATIENCE) == 2
        assert answers[hot(ids=ids)["score"].tobytes()] == 2


def test_rolling_back_to_a_version_that_is_kept(
    base: Path, exact: list[Path], answers: dict[bytes, int], ids: np.ndarray[Any, Any]
) -> None:
    for version in (1, 2):
        put(exact[version - 1], base, version)
    with HotModel(base, poll_seconds=0.02, keep=2) as hot:
        hot.wait_for(2, PATIENCE)
        hot.reload(1, timeout=PATIENCE)
        assert answers[hot(ids=ids)["score"].tobytes()] == 1
        assert hot.signatures["describe"]()["step"] == 1
        with hot.use() as model:
            hot.reload(None)
            hot.wait_for(2, PATIENCE)
            assert answers[model(ids=ids)["score"].tobytes()] == 1
        assert sorted(hot.signatures) == ["describe", "serving_default"]


def test_resource_serves_the_next_version_after_the_old_one_is_gone(
    base: Path, exact: list[Path], answers: dict[bytes, int], ids: np.ndarray[Any, Any]
) -> None:
    events: list[HotEvent] = []
    put(exact[0], base, 1)
    with HotModel(base, poll_seconds=0.02, policy="resource", on_event=events.append) as hot:
        hot.wait_for(1, PATIENCE)
        put(exact[1], base, 2)
        hot.wait_for(2, PATIENCE)
        assert answers[hot(ids=ids)["score"].tobytes()] == 2
    order = [(type(event).__name__, getattr(event, "version", None)) for event in events]
    assert order.index(("Unloaded", 1)) < order.index(("LoadStarted", 2))


def test_recorded_requests_are_replayed_before_a_version_serves(
    base: Path, exact: list[Path], ids: np.ndarray[Any, Any]
) -> None:
    import tensorflow as tf

    # GIVEN the file as TensorFlow's own writer and Serving's own protos make it
    logs = []
    prediction_log_pb2 = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2",
        reason="tensorflow-serving-api is not installed; the bytes are tested without it",
    )
    for signature in ("", "describe"):
        log = prediction_log_pb2.PredictionLog()
        request = log.predict_log.request
        request.model_spec.name = "exact"
        request.model_spec.signature_name = signature
        if not signature:
            request.inputs["ids"].CopyFrom(tf.make_tensor_proto(ids))
        logs.append(log.SerializeToString())
    version = put(exact[0], base, 1)
    (version / WARMUP_FILE).parent.mkdir()
    with tf.io.TFRecordWriter(str(version / WARMUP_FILE)) as writer:
        for each in logs:
            writer.write(each)
    called: list[Any] = []

    class Recorder:
        """A loaded model that notes what it is called with."""

        def __init__(self, path: str) -> None:
            self.model = tf_model_pool.load(path)
            self.close = self.model.close
            self.signatures = {
                name: lambda inputs, run=run: called.append((run.name, inputs, run(inputs)))
                for name, run in self.model.signatures.items()
            }

        def __call__(self, inputs: Any = None, /, *, outputs: Any = None, **named: Any) -> Any:
            return self.model(inputs, outputs=outputs, **named)

    with HotModel(base, poll_seconds=0.02, loader=Recorder) as hot:
        hot.wait_for(1, PATIENCE)
        scores = hot(ids=ids)["score"]
    (first, second) = called
    assert (first[0], second[0], second[1]) == ("serving_default", "describe", {})
    np.testing.assert_array_equal(first[1]["ids"], ids)
    np.testing.assert_array_equal(first[2]["score"], scores)


def test_a_recorded_request_that_does_not_fit_keeps_the_version_out(
    base: Path, exact: list[Path]
) -> None:
    import tensorflow as tf

    for number in (1, 2):
        put(exact[number - 1], base, number)
    path = base / "2" / WARMUP_FILE
    path.parent.mkdir()

    def field(number: int, content: bytes) -> bytes:
        assert len(content) < 128
        return bytes([number << 3 | 2, len(content)]) + content

    tensor = tf.make_tensor_proto([1]).SerializeToString()
    log = field(6, field(1, field(2, field(1, b"other") + field(2, tensor))))
    path.write_bytes(struct.pack("<Q", len(log)) + b"crc1" + log + b"crc2")
    # The version is tried again and again: its state changes, what was reported does not.
    failures: list[LoadFailed] = []

    def note(event: HotEvent) -> None:
        if isinstance(event, LoadFailed):
            failures.append(event)

    with HotModel(base, poll_seconds=0.02, on_event=note) as hot:
        assert hot.wait_for(timeout=PATIENCE) == 1
        assert failures[0].version == 2
        assert "other" in str(failures[0].error)


def test_one_that_is_dropped_gives_its_memory_back_without_the_garbage_collector(
    base: Path, exact: list[Path], ids: np.ndarray[Any, Any]
) -> None:
    put(exact[0], base, 1)
    gc.disable()
    try:
        hot = HotModel(base, poll_seconds=0.02)
        scores = hot(ids=ids)["score"]
        thread = hot._manager._thread
        assert thread is not None
        del hot
        thread.join(PATIENCE)
        mine = [pool for pool in tf_model_pool.pools() if pool.model_dir == str(base)]
        assert {pool.bytes_in_use for pool in mine} == {0}
        # Answers are the caller's.
        assert scores.shape == (BATCH,)
    finally:
        gc.enable()


@pytest.fixture
def run_script(base: Path) -> Callable[[str], str]:
    def run(text: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", text, str(base)],
            env=child_environment("onednn"),
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_the_interpreter_ends_while_models_serve_and_load(
    base: Path, exact: list[Path], places: Places, run_script: Callable[[str], str]
) -> None:
    put(exact[0], base, 1)
    put(places.models / "big" / "1", base.with_name("big"), 1)
    printed = run_script(
        """
import sys, threading
from pathlib import Path
import numpy as np
import tf_model_pool
base = Path(sys.argv[1])
hot = tf_model_pool.HotModel(base)
ids = np.zeros([4, 8], np.int32)
hot(ids=ids)
started = threading.Event()
def call():
    while True:
        hot(ids=ids)
for _ in range(4):
    threading.Thread(target=call, daemon=True).start()
def on_event(event):
    if isinstance(event, tf_model_pool.LoadStarted):
        started.set()
big = tf_model_pool.HotModel(base.with_name("big"), on_event=on_event)
started.wait()
print("ends", flush=True)
"""
    )
    assert printed == "ends\n"


def test_a_child_of_a_server_says_what_to_do(
    base: Path, exact: list[Path], run_script: Callable[[str], str]
) -> None:
    put(exact[0], base, 1)
    printed = run_script(
        """
import os, sys
import numpy as np
import tf_model_pool
hot = tf_model_pool.HotModel(sys.argv[1])
ids = np.zeros([4, 8], np.int32)
hot(ids=ids)
child = os.fork()
if not child:
    mine = tf_model_pool.HotModel(sys.argv[1], wait_seconds=0.5)
    for call in (hot, mine):
        try:
            call(ids=ids)
        except tf_model_pool.ModelPoolError as error:
            print(type(error).__name__, error, flush=True)
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
print("parent", hot(ids=ids)["score"].shape, flush=True)
"""
    )
    assert "HotModelForkedError" in printed
    assert "make the HotModel in each worker" in printed
    assert "NotServingError" in printed
    assert "fork first and load in the process that serves" in printed
    assert "parent (4,)" in printed


def test_an_unreadable_version_is_like_a_damaged_one(base: Path, exact: list[Path]) -> None:
    put(exact[0], base, 1)
    with HotModel(base, poll_seconds=0.02) as hot:
        hot.wait_for(1, PATIENCE)
        # A link whose target is gone, as an unmounted store leaves them.
        (base / "2").symlink_to(base / "gone")
        (base / "3").mkdir()
        (base / "3" / "saved_model.pb").symlink_to(base / "gone")
        put_whole(exact[1], base, 4)
        assert hot.wait_for(4, PATIENCE) == 4
        assert hot.stats().load_failures == 0
