# SPDX-License-Identifier: Apache-2.0
"""Loading one version of a `HotModel`, and the pauses after it did not load."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from tf_model_pool import version_directory
from tf_model_pool.errors import HotModelError
from tf_model_pool.hot_types import AskedFor, Model, Options
from tf_model_pool.version_directory import Fingerprint
from tf_model_pool.warmup import WARMUP_FILE, read_requests

log = logging.getLogger("tf_model_pool.hot_model")


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """The last of the failed loads of a version.

    Attributes:
        count: how many there were in a row.
        message: type and text of the error.
        files: those that were tried; with others the pauses begin anew.
        pause: seconds to the next try.
        retry_at: its moment, by the manager's clock.
    """

    count: int
    message: str
    files: Fingerprint
    pause: float
    retry_at: float


def next_failure(
    options: Options,
    before: Failure | None,
    files: Fingerprint,
    error: BaseException,
    now: float,
) -> Failure:
    """What follows `before` if the same version does not load again. Pauses double."""
    pause = options.poll_seconds
    if before is not None and before.files == files:
        pause = min(2 * before.pause, max(pause, options.retry_max_seconds))
    count = 1 if before is None else before.count + 1
    return Failure(count, f"{type(error).__name__}: {error}", files, pause, now + pause)


def load_version(
    options: Options,
    directory: Path,
    files: Fingerprint,
    expected: Callable[[], AskedFor],
    stopped: Callable[[], bool],
) -> Model:
    """Loads a version, prepares it for what is `expected` then, and warms it up until `stopped`.

    `files` are those that were there before. Raises what the loader or a request of the warm-up
    raises, and `HotModelError` if files are others now; no model is left then.
    """
    model = options.loader(str(directory))
    try:
        prepare(options, model, expected())
        _warm_up(options, model, directory, stopped)
        changed = files ^ version_directory.fingerprint(directory)
        if changed:
            raise HotModelError(f"{min(changed)[0]} changed while the version was loaded")
    except BaseException:
        model.close()
        raise
    return model


def asked_for(options: Options, model: Model) -> AskedFor:
    """What a version was asked for; nothing if it does not say."""
    try:
        tell = getattr(model, "asked_for", None)
        asked = () if tell is None else tell()
        return [(name, None if outputs is None else tuple(outputs)) for name, outputs in asked]
    except Exception:
        log.exception("%s: a version does not say what it was asked for", options.name)
        return []


def prepare(options: Options, model: Model, expected: AskedFor) -> None:
    """Prepares a version, if it can be. One that is not serves as well, and its requests wait."""
    try:
        make = getattr(model, "prepare", None)
        if make is not None and expected:
            make(expected)
    except Exception:
        log.exception("%s: a version was not prepared for %s", options.name, expected)


def _warm_up(options: Options, model: Model, directory: Path, stopped: Callable[[], bool]) -> None:
    warmup = options.warmup
    if warmup is None:
        return
    if callable(warmup):
        warmup(model)
        return
    if isinstance(warmup, str):
        _replay(options, model, directory / WARMUP_FILE, stopped)
        return
    for inputs in warmup:
        if stopped():
            return
        model(inputs)


def _replay(options: Options, model: Model, path: Path, stopped: Callable[[], bool]) -> None:
    """The recorded requests in a file, if it is there."""
    skipped = 0
    for request in read_requests(path) if path.is_file() else ():
        if stopped():
            return
        if request is None:
            skipped += 1
        else:
            model.signatures[request.signature](request.arguments(model))
    if skipped:
        log.info(
            "%s: %d records of %s are of a kind that is not replayed", options.name, skipped, path
        )
