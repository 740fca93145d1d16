# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the tests of `HotModel`: models without TensorFlow, directories, a clock."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tf_model_pool.hot_events import HotEvent
from tf_model_pool.hot_manager import Manager
from tf_model_pool.hot_types import Options

#: For waits that end at once unless something is broken.
PATIENCE = 60.0


class FakeModel:
    """Answers with its version, and knows what was done to it."""

    def __init__(self, path: str, trace: list[str] | None = None) -> None:
        self.version = int(Path(path).name)
        self.closed = False
        self.calls: list[dict[str, Any]] = []
        self.trace = [] if trace is None else trace
        self.signatures: Mapping[str, Any] = {"rank": self._rank}
        self.trace.append(f"load {self.version}")

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Any = None,
        **named: Any,
    ) -> Any:
        if self.closed:
            raise AssertionError(f"version {self.version} was called after it was closed")
        given = {**(inputs or {}), **named}
        if "run" in given:
            given["run"]()
        self.calls.append(given)
        return {"version": self.version, "outputs": outputs, "inputs": given}

    def _rank(self, inputs: Any = None, /, *, outputs: Any = None, **named: Any) -> Any:
        return {"ranked": self(inputs, outputs=outputs, **named)["version"]}

    def close(self) -> None:
        self.closed = True
        self.trace.append(f"close {self.version}")


class PreparedModel(FakeModel):
    """One that can be prepared; each call, and each request of its warm-up, makes executors."""

    def __init__(self, path: str, trace: list[str] | None = None) -> None:
        super().__init__(path, trace)
        self.asked: list[Any] = []
        self.prepared: list[list[Any]] = []
        self.cold_requests = 0

    def __call__(self, inputs: Any = None, /, *, outputs: Any = None, **named: Any) -> Any:
        self.cold_requests += 1
        return super().__call__(inputs, outputs=outputs, **named)

    def asked_for(self) -> list[Any]:
        return self.asked

    def prepare(self, asked_for: list[Any]) -> None:
        self.trace.append(f"prepare {self.version}")
        self.prepared.append(asked_for)


class FakeLoader:
    """Makes `FakeModel`s; raises what `errors` says of a version."""

    def __init__(self, kind: type[FakeModel] = FakeModel) -> None:
        self.kind = kind
        self.trace: list[str] = []
        self.models: list[FakeModel] = []
        self.errors: dict[int, BaseException] = {}
        self.during: Callable[[], object] = lambda: None

    def __call__(self, path: str) -> FakeModel:
        version = int(Path(path).name)
        self.during()
        if version in self.errors:
            self.trace.append(f"fail {version}")
            raise self.errors[version]
        self.models.append(self.kind(path, self.trace))
        return self.models[-1]

    def loaded(self) -> list[int]:
        """Versions that are loaded and not closed."""
        return [model.version for model in self.models if not model.closed]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def write_version(base: Path, version: int | str, content: str = "model") -> Path:
    """A directory that looks like a SavedModel; a second call changes its files."""
    directory = base / str(version)
    (directory / "variables").mkdir(parents=True, exist_ok=True)
    (directory / "saved_model.pb").write_text(content)
    return directory


def remove_version(base: Path, version: int) -> None:
    shutil.rmtree(base / str(version))


class Stepper:
    """A manager without a thread, on a clock that stands: `look()` is one poll later."""

    def __init__(self, base: Path, loader: FakeLoader | None = None, **options: Any) -> None:
        self.loader = FakeLoader() if loader is None else loader
        self.clock = FakeClock()
        self.events: list[HotEvent] = []
        defaults = Options(
            name=base.name,
            base=base,
            poll_seconds=1.0,
            policy="availability",
            keep=1,
            wait_seconds=0.0,
            retry_max_seconds=8.0,
            loader=self.loader,
            warmup="file",
        )
        self.manager = Manager(
            dataclasses.replace(defaults, **options), self.events.append, self.clock
        )

    def settle(self) -> None:
        """Steps, without letting time pass, until nothing is left to do at once."""
        while self.manager.step() == 0:
            pass

    def look(self, times: int = 1) -> None:
        """Lets the time of a poll pass, and steps, `times` times."""
        for _ in range(times):
            self.clock.now += self.manager.options.poll_seconds
            self.settle()

    @property
    def serving(self) -> int | None:
        return self.manager.version

    def kinds(self) -> list[str]:
        return [type(event).__name__ for event in self.events]


class Blocker:
    """Something to be held up in: `enter` returns when `leave` was called elsewhere."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def enter(self) -> None:
        self.entered.set()
        assert self.let_go.wait(PATIENCE)

    def wait_until_entered(self) -> None:
        assert self.entered.wait(PATIENCE)

    def leave(self) -> None:
        self.let_go.set()
