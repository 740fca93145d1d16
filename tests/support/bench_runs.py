# SPDX-License-Identifier: Apache-2.0
"""Runs of the orchestrator over a made-up driver, made-up wheels and made-up models."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tf_model_pool
from tf_model_pool.bench import machine, models, run
from tf_model_pool.bench.config import Timing, parse_configuration
from tf_model_pool.bench.wheels import Wheel

#: `bench(directory, configurations, scenario, environment, **options)` -> the orchestrator, run.
Bench = Callable[..., run.Orchestrator]


def write_driver(directory: Path) -> Path:
    """The made-up driver as a program."""
    path = directory / "fake_driver"
    source = Path(tf_model_pool.__file__).resolve().parents[1]
    tests = Path(__file__).resolve().parents[1]
    path.write_text(
        f'#!/bin/sh\nPYTHONPATH="{source}:{tests}" exec "{sys.executable}" -W ignore '
        '-m support.fake_driver "$@"\n'
    )
    path.chmod(0o755)
    return path


def made_up_model(name: str, directory: Path) -> models.Model:
    """A model whose every right answer has the checksum 1."""
    version = directory / name
    version.mkdir(parents=True, exist_ok=True)
    (version / "weights").write_bytes(b"w")
    return models.Model(
        name=name,
        versions=(version, version),
        requests=version / "requests",
        warmup=version / "warmup",
        signature="serving_default",
        tags=("serve",),
        checksums=[[[1.0, 1.0]], [[1.0, 1.0]]],
        bytes=(10**8, 10**8),
        details={"nodes": 1000},
    )


@contextlib.contextmanager
def environment(changes: dict[str, str]) -> Iterator[None]:
    """os.environ with `changes`, put back afterwards."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_bench(
    directory: Path,
    configurations: tuple[str, ...] = ("stock", "patched"),
    scenario: str = "repeated",
    changes: dict[str, str] | None = None,
    **options: Any,
) -> run.Orchestrator:
    """Runs the orchestrator on made-up models with the made-up driver."""
    wheels = {
        name: Wheel(
            name,
            Path(sys.executable),
            directory / name,
            "2.21.0",
            name == "patched",
            {"version": "2.21.0"},
        )
        for name in ("stock", "patched")
    }
    settings: dict[str, Any] = {
        "rounds": 2,
        "timing": Timing(update=1.0, cycles=4),
        "limits": machine.Limits(steal=1.0, foreign=1.0),
        **options,
    }
    cells = [run.Cell("made-up", scenario, parse_configuration(c)) for c in configurations]

    def prepare(name: str, *_: object, **__: object) -> models.Model:
        return made_up_model(name, directory / "models")

    with (
        pytest.MonkeyPatch.context() as patch,
        environment({"FAKE_PATCHED_DIRECTORY": str(directory / "patched"), **(changes or {})}),
    ):
        patch.setattr(models, "prepare", prepare)
        orchestrator = run.Orchestrator(
            run.Options(
                tuple(cells),
                {"made-up": models.Shape("ctr-mix")},
                models.RequestOptions(),
                **settings,
            ),
            wheels,
            write_driver(directory),
            directory / "out",
            directory / "cache",
            run.Progress(quiet=True),
        )
        orchestrator.run()
    return orchestrator
